"""What a plan is computed from: each instrument's holding, open orders, price and trading rules; the money; and the planner's settings."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from brokers.base import Instrument
from execution_service.core.exact import ZERO
from execution_service.core.planning.targets import Aggressiveness

ONE = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentFacts:
    """What is known about one instrument for one account and strategy. Quantities are signed; negative is short."""

    instrument: Instrument
    held: Decimal = ZERO
    """By the ledger."""
    working: Decimal = ZERO
    """What our own open orders of the strategy may still add; negative if they sell."""
    blocked: str | None = None
    """Why its figures cannot be relied on (an order in doubt, an open discrepancy, a halt): then it is not traded, the others are."""
    price: Decimal | None = None
    """The reference price; None: none is known that is fresh enough."""
    unit_value: Decimal | None = ONE
    """Money of the account for one point of the price and one unit: multiplier x exchange rate. None: not known."""
    currency: str | None = None
    """Of its price, for people; None: nobody says."""
    lot: Decimal = ONE
    min_quantity: Decimal = ZERO
    max_quantity: Decimal | None = None
    """The largest quantity of one order; more is sent as several."""
    min_notional: Decimal = ZERO
    """The smallest value of an order, in money of the account."""
    unknown: str | None = None
    """Why the account's broker does not trade it at all, for people; None: nothing says so."""
    stance: Aggressiveness | None = None
    """What counts for it at present; None: what the list of targets asks for."""

    @property
    def unit_price(self) -> Decimal | None:
        """Money of the account for one unit at the reference price."""
        return None if self.price is None or self.unit_value is None else self.price * self.unit_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """What an order costs beyond its price: once an order, and as a part of its value."""

    per_order: Decimal = ZERO
    rate: Decimal = ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """How an account's targets are planned. Rates are parts: 0.0025 is a quarter of a per cent."""

    buffer: Decimal = Decimal("0.0025")
    """Part of the equity that weights do not use."""
    band: Decimal = ZERO
    """Changes worth less than this part of the equity are left; closes never are."""
    max_weights: Decimal = ONE
    """The largest sum of the weights' absolute values."""
    max_turnover: Decimal | None = None
    """The largest part of the equity that a plan trades, reductions included; only increases are made smaller by it. None: no limit."""
    slices: int = 1
    """How many orders a leg is cut into, where it has so many lots."""
    guard: Decimal = Decimal("0.005")
    """Part of the price that is kept free for a price that moves before an increase fills."""
    fees: Fees = Fees()
    is_whole: bool = False
    """A change is traded exactly, however small it is, also where it is no close: neither the band nor a lot or the smallest order cuts it. For a way
    back: what the venue has traded in that size it trades back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """In the account's currency. None: not known."""

    equity: Decimal | None = None
    cash: Decimal | None = None
    """What increases may spend: the broker's confirmed cash less what is reserved. None: increases are not bounded by cash."""
