"""What was asked for: an order's identity, and its request as it was read from the message; nothing of what became of it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from brokers.base import Instrument, OrderType, Side, Tif


class Purpose(StrEnum):
    ENTRY = "ENTRY"
    EXIT = "EXIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes two messages the same order."""

    signal_id: str
    leg_index: int = 0
    purpose: Purpose = Purpose.ENTRY

    order_id: str = field(init=False, repr=False, compare=False)
    """Our own id: the same identity always has the same."""
    _first_client_order_id: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Asked for at every step of an order, so worked out once.
        object.__setattr__(self, "order_id", "ord_" + self.digest("order").hex()[:24])
        object.__setattr__(self, "_first_client_order_id", self._client_order_id(1))

    def client_order_id(self, attempt: int) -> str:
        """Our tag at the broker: 19 characters, a letter first, lower-case base 32 of SHA-256 (90 bits), so it fits every broker."""
        return self._first_client_order_id if attempt == 1 else self._client_order_id(attempt)

    def _client_order_id(self, attempt: int) -> str:
        return "x" + base64.b32encode(self.digest(str(attempt))).decode().lower()[:18]

    def digest(self, last: str) -> bytes:
        # Length-prefixed, so that no choice of ids can make two identities look alike.
        text = f"{len(self.signal_id)}:{self.signal_id}|{self.leg_index}|{self.purpose}|{last}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """What upstream asked for, normalised from either dialect; every field is valid."""

    account_id: str
    strategy: str
    instrument: Instrument
    side: Side
    quantity: Decimal
    order_type: OrderType
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reference_price: Decimal | None = None
    tif: Tif | None = None
    timeout_seconds: Decimal | None = None
    product: str | None = None
    variety: str | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    direction: str | None = None
    signal_type: str | None = None
    entry_refs: tuple[str, ...] = ()
    """The entry that this exit closes: its signal id, its `signal_store` id, or both."""
    stands_for: tuple[str, ...] = ()
    """Of an adopted position only: the entry in whose place it came (after a split, a rename, an assignment), by all its names."""
    total_legs: int = 1
    request_order_id: str | None = None
    mathematricks_signal_id: str | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """What must be equal for a repeated message to be the same order."""
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
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRequest:
    """What could be read of a message that cannot be executed; None where it could not."""

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
    """SHA-256 of the message's text: equal for a mere repetition."""
