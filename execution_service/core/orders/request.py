"""An order's identity, and what was requested, as read from the message. What became of it is not here."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from brokers.base import Instrument, OrderType, Side, Tif
from execution_service.core.orders.protective import Protective

INDIAN_PRODUCTS = frozenset({"MIS", "NRML", "CNC"})
"""An order in one of these is in rupees, if nothing else names a currency."""
LEAST_TRAIL_PERCENT, MOST_TRAIL_PERCENT = Decimal("0.1"), Decimal(50)
"""A stop that trails its market more closely, or further behind, is a mistake of its author: 0.02 is a share of one, and not per cent."""

IDENTITIES_REMEMBERED = 4096
LONGEST_REMEMBERED = 128
"""Characters of a signal's id; those of strangers may be of any length."""


class Purpose(StrEnum):
    ENTRY = "ENTRY"
    EXIT = "EXIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Signal, leg and purpose: two messages with the same identity are the same order."""

    signal_id: str
    leg_index: int = 0
    purpose: Purpose = Purpose.ENTRY

    order_id: str = field(init=False, repr=False, compare=False)
    """Our own order id, derived from the identity."""
    _first_client_order_id: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Read at every step of an order, so computed once; and an identity is made anew wherever its record is read.
        ids_of = _ids_of if len(self.signal_id) <= LONGEST_REMEMBERED else _ids_of.__wrapped__
        order_id, first_client_order_id = ids_of(self.signal_id, self.leg_index, self.purpose)
        object.__setattr__(self, "order_id", order_id)
        object.__setattr__(self, "_first_client_order_id", first_client_order_id)

    def client_order_id(self, attempt: int) -> str:
        """Our tag at the broker: 19 characters, a letter first, lower-case base 32 of SHA-256 (90 bits). It fits
        every broker's format."""
        return self._first_client_order_id if attempt == 1 else self._client_order_id(attempt)

    def _client_order_id(self, attempt: int) -> str:
        return _tag_of(self.digest(str(attempt)))

    def digest(self, last: str) -> bytes:
        return _digest(self.signal_id, self.leg_index, self.purpose, last)


@lru_cache(IDENTITIES_REMEMBERED, typed=True)
def _ids_of(signal_id: str, leg_index: int, purpose: Purpose) -> tuple[str, str]:
    """Our order id, and the first tag at the broker."""
    order_id = "ord_" + _digest(signal_id, leg_index, purpose, "order").hex()[:24]
    return order_id, _tag_of(_digest(signal_id, leg_index, purpose, "1"))


def _tag_of(digest: bytes) -> str:
    return "x" + base64.b32encode(digest).decode().lower()[:18]


def _digest(signal_id: str, leg_index: int, purpose: Purpose, last: str) -> bytes:
    # Length-prefixed, so that no choice of ids can give two identities the same text.
    text = f"{len(signal_id)}:{signal_id}|{leg_index}|{purpose}|{last}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionIds:
    """Which decision an order comes of: ids of other systems, that mean nothing here and are kept as they came. None: not named."""

    decision_id: str | None = None
    profile_version_id: str | None = None
    regime_id: str | None = None
    universe_id: str | None = None
    plan_id: str | None = None
    """Of the plan of target positions that released the order."""


NO_DECISION = DecisionIds()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """What upstream requested, normalised from either message dialect. Every field is valid."""

    account_id: str
    strategy: str
    instrument: Instrument
    side: Side
    quantity: Decimal | None
    """None: it is worked out from the equity and the distance to `stop_loss` as the order leaves."""
    order_type: OrderType
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reference_price: Decimal | None = None
    tif: Tif | None = None
    timeout_seconds: Decimal | None = None
    product: str | None = None
    variety: str | None = None
    display_quantity: Decimal | None = None
    """How much of it the market may see at once; None: all of it."""
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trail_percent: Decimal | None = None
    """Its stop follows the market at this distance, in per cent of the best price; None: it does not, or at `trail_amount`."""
    trail_amount: Decimal | None = None
    """The same in units of the price."""
    confidence: Decimal | None = None
    """How sure its signal says it is, from 0 to 1; None: it does not say."""
    direction: str | None = None
    signal_type: str | None = None
    entry_refs: tuple[str, ...] = ()
    """The entry that this exit closes: its signal id, its `signal_store` id, or both."""
    stands_for: tuple[str, ...] = ()
    """For an adopted position only: all the names of the entry whose place it takes (after a split, a rename, an
    assignment)."""
    total_legs: int = 1
    request_order_id: str | None = None
    mathematricks_signal_id: str | None = None
    protective: Protective | None = None
    """Not None: this service made the order by itself, to protect what an entry has filled. No message can ask for that."""
    decision: DecisionIds | None = None
    """None: the message named none."""

    @property
    def content(self) -> tuple[object, ...]:
        """What must be equal for a repeated message to be a mere repetition of the order."""
        limit = self.limit_price if self.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None
        stop = self.stop_price if self.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else None
        return (
            self.account_id,
            self.strategy,
            self.instrument.full_key,
            self.side,
            self.quantity,
            self.order_type,
            limit,
            stop,
            self.entry_refs,
            *(() if self.quantity is not None else (self.stop_loss,)),
            *(() if self.decision is None else (self.decision,)),
            *(() if self.display_quantity is None else ("display_quantity", self.display_quantity)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRequest:
    """The readable fields of a message that cannot be executed. None: missing or unreadable."""

    account_id: str | None = None
    strategy: str | None = None
    symbol: str | None = None
    side: Side | None = None
    quantity: Decimal | None = None
    order_type: OrderType | None = None
    direction: str | None = None
    total_legs: int = 1
    request_order_id: str | None = None
    mathematricks_signal_id: str | None = None
    fingerprint: str = ""
    """SHA-256 of the message's text: equal for an exact repetition."""
