"""The meaning of Alpaca's error answers for an order that was to be placed: HTTP statuses and a few texts, each with
the reason. No calls.

Sources: Alpaca's OpenAPI document and its SDK; alpaca-py issue 260 (a client order id is refused even after a cancel)
and alpaca-java issue 145 (the same wash trade was once 422 with code 42210000, once 403 with 40310000). The `code` of an
error is therefore not what decides: the status does, and a few texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any


class Meaning(StrEnum):
    REFUSED = "nothing was placed, and the same request will not be"
    EXISTS = "an order under this client order id arrived before"
    NOT_TAKEN = "nothing was placed, and the same request may be later"
    KEYS = "nothing was placed: the keys are not accepted"
    UNKNOWN = "it may have been placed"


TOO_MANY = 429
STATUSES: Mapping[int, tuple[Meaning, str]] = {
    400: (Meaning.REFUSED, "the request is malformed"),
    401: (Meaning.KEYS, "no such keys here"),
    403: (Meaning.REFUSED, "not permitted, or not with this account's money and shares; without a code it is the keys"),
    404: (Meaning.REFUSED, "no such route, asset or order"),
    405: (Meaning.REFUSED, "the route does not take this method"),
    410: (Meaning.REFUSED, "the route is gone for good"),
    413: (Meaning.REFUSED, "longer than it may be, and so not read"),
    422: (Meaning.REFUSED, "the order's fields are refused, one by one or together"),
    TOO_MANY: (Meaning.NOT_TAKEN, "too many calls: counted before they are looked at"),
    408: (Meaning.UNKNOWN, "the request timed out, at whichever point"),
    500: (Meaning.UNKNOWN, "something unexpected, perhaps after the order had gone on"),
    502: (Meaning.UNKNOWN, "whoever is in between lost the answer"),
    503: (Meaning.UNKNOWN, "the service is not available: perhaps only its answer"),
    504: (Meaning.UNKNOWN, "no answer in time from behind the gateway"),
}
"""Any other status is unknown, redirections included: the client follows none, and who sent them is not known."""

_PERHAPS_KEYS = 403
_EXISTS = "client_order_id must be unique"
_LOCKED = "insufficient qty available"
_LOCKED_COINS = "insufficient balance for"
_WASH_TRADE = "wash trade"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer as it came. `fields` is empty if the body is no JSON object, as from somebody in between."""

    status: int
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, text: str) -> Refusal:
        try:
            fields = json.loads(text, parse_float=Decimal)
        except (ValueError, RecursionError):
            fields = None
        return cls(status, text, fields if isinstance(fields, dict) else {})

    @property
    def words(self) -> str:
        """Alpaca's own text, else the first words of the answer."""
        said = self.fields.get("message")
        return said if isinstance(said, str) and said else f"HTTP {self.status}: {' '.join(self.text.split())[:200]}"

    @property
    def meaning(self) -> Meaning:
        """For a call that was to change something."""
        by_status, _ = STATUSES.get(self.status, (Meaning.UNKNOWN, ""))
        if by_status in (Meaning.NOT_TAKEN, Meaning.KEYS):
            return by_status
        if not self.fields:
            # A page of somebody in between proves nothing.
            return Meaning.UNKNOWN
        if self.status == _PERHAPS_KEYS and "code" not in self.fields:
            return Meaning.KEYS
        return Meaning.EXISTS if by_status is Meaning.REFUSED and _EXISTS in self.words else by_status

    @property
    def is_absence(self) -> bool:
        """Alpaca itself says that what was asked for does not exist: other programs' pages of 404 have neither field."""
        return self.status == 404 and ("code" in self.fields or "message" in self.fields)

    @property
    def is_wash_trade(self) -> bool:
        return self.meaning is Meaning.REFUSED and _WASH_TRADE in self.words

    @property
    def locked(self) -> Decimal | None:
        """How many of the shares or coins that the order needs are held by other open orders. None: that is not the reason, or it is not
        told."""
        if not self.is_shortage:
            return None
        of_coins = self._number("balance") - self._number("available")
        held = of_coins if _LOCKED_COINS in self.words else self._number("held_for_orders")
        return held if held > 0 else None

    @property
    def is_shortage(self) -> bool:
        """The account does not have so many shares or coins to give, now."""
        is_told = _LOCKED in self.words or _LOCKED_COINS in self.words
        return self.meaning is Meaning.REFUSED and is_told

    def _number(self, name: str) -> Decimal:
        """0 if it is not told."""
        try:
            number = Decimal(str(self.fields.get(name, "0")))
        except InvalidOperation:
            return Decimal(0)
        return number if number.is_finite() else Decimal(0)

    @property
    def related_orders(self) -> tuple[str, ...]:
        """The open orders that hold the shares, by Alpaca's ids."""
        named = self.fields.get("related_orders")
        return tuple(str(each) for each in named) if isinstance(named, list) else ()
