"""Every event that can happen to an order, one class each. What each changes is decided in transitions.py and
order.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from brokers.base import Combination, ContractTerms, Fill, Instrument
from execution_service.core.exact import ZERO
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.status import LimitBreach, Reason


class Occasion(StrEnum):
    """Why a position changed without an order of this service; docs/operations.md has an example of each."""

    EXPIRY = "expiry"
    ASSIGNMENT = "assignment"
    EXERCISE = "exercise"
    SQUARE_OFF = "square-off"
    TRADE = "trade"
    SPLIT = "split"
    RENAME = "rename"
    MERGE = "merge"
    TRANSFER_IN = "transfer-in"
    TRANSFER_OUT = "transfer-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """How much of one limit was used, the order counted."""

    limit: str
    total: str
    """Whose figure it is, as a person names it: `account:ID`, `strategy:NAME` and so on."""
    limit_value: Decimal
    actual_value: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedPrice:
    """The reference price by which an order was judged."""

    price: Decimal
    """Per unit, as the instrument is quoted."""
    source: str
    """QUOTE (the broker's), EXECUTION (the latest of ours) or MESSAGE (what the order's author saw)."""
    at: datetime
    """As of when it was, by its source."""
    age_seconds: Decimal
    """How old it was then."""

    def __str__(self) -> str:
        return f"{self.source.lower()} {self.price.normalize():f}, {self.age_seconds:.1f} s old"


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskVerdict:
    """What the risk gate said of an order that it let pass. Times and reasons of a refusal stand in `Rejected`."""

    is_exit: bool
    """By projected exposure. Of an order that nothing but built-in limits judged it is not worked out, and False."""
    uses: tuple[LimitUse, ...] | None = None
    """Of each limit that was judged; None: nothing but built-in limits judged it."""
    unjudged: tuple[str, ...] | None = None
    """Limits that are only built in, and lacked a figure."""
    breaches: tuple[LimitBreach, ...] | None = None
    """What it broke and was let through with, by `override_id`."""
    override_id: str | None = None
    allowed_by: str | None = None
    """The person who let it through."""
    allowed_for: str | None = None
    """That person's reason."""
    allowed_until: datetime | None = None
    price: UsedPrice | None = None
    """None: none was known that was young enough, or nothing but built-in limits judged it and the price was the message's own."""


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    at: datetime
    """Wall clock, aware UTC: for people and for the record. Deadlines are never measured by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitStarted(_Event):
    """Stored before the ticket is sent: from here on the broker may have the order."""

    nonce: str
    """Identifies the process that is about to send."""
    reserved_order_id: str | None = None
    risk: RiskVerdict | None = None
    """None: of a record that was written before there was a risk gate."""
    combination: Combination | None = None
    """It leaves as one leg of this order, once every leg has such an event. None: by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingSent(_Event):
    """Sending failed before anything left this process."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(_Event):
    """The broker has the order, under this id. It comes again if the broker replaces the id."""

    broker_order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted(_Event):
    """The order was sent, or may have been, and the broker could not confirm it."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(_Event):
    reason: Reason
    filled_quantity: Decimal = ZERO
    """The quantity that had filled before the rejection, as the broker says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled(_Event):
    fill: Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Busted(_Event):
    """The venue annulled an execution. It is recorded even if the execution itself has not been reported to us."""

    fill_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommissionReported(_Event):
    """A fill's commission became known, or was changed. `currency` None: the broker names none."""

    fill_id: str
    commission: Decimal
    currency: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(_Event):
    """Somebody asked for the order to be cancelled: upstream, a person, or this service (a time-out)."""

    reason: Reason
    requested_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRefused(_Event):
    """The broker refused to cancel. The order is still working."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_Event):
    """The order is cancelled at the broker, after `filled_quantity` had filled."""

    reason: Reason
    filled_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(_Event):
    """The order expired at the venue, after `filled_quantity` had filled."""

    reason: Reason
    filled_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitsOpening(_Event):
    """The order's market is closed, and it is kept until that opens: its age counts from there. Recorded again when the
    calendar names another time."""

    message: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized(_Event):
    """The quantity of an order that named a stop in its place, worked out once, as the order was about to leave; written
    together with its intent, or with its end."""

    quantity: Decimal
    arithmetic: str
    """How, with all figures, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capped(_Event):
    """An exit was reduced to what is left of its entry's position."""

    quantity: Decimal
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentMatched(_Event):
    """An exit that names its instrument (exchange, currency) or product less fully than its entry takes them from
    the entry, whose position it closes; an order that names no side of the position, where the broker keeps these
    apart, is of the side that it means."""

    instrument: Instrument
    product: str | None = None
    """None: as the order names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractResolved(_Event):
    """Recorded before sending: which contract the order means, and under which ledger key its fills are booked. All
    amounts depend on it. Stored as `ContractResolved`."""

    terms: ContractTerms | None = None
    """As the broker reported them. None: the broker reports none, and the order's own multiplier and currency hold."""
    booked_as: str | None = None
    """The instrument's key in the ledger (`core/positions/ledger.py`). None: the key of the instrument as the order
    names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractDeclared(_Event):
    """The contract's facts, added later to a record without them: by a person, or as the broker reported them for
    another order."""

    by: str
    terms: ContractTerms
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(_Event):
    """The order as it will be sent, after rounding to the market's ticks and lots. None: unchanged from the request."""

    message: str
    quantity: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    cash_quantity: Decimal | None = None
    """An amount of money, sent instead of the quantity."""
    display_quantity: Decimal | None = None
    """How much of it the market sees at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(_Event):
    """The broker has accepted the order and holds it until the market opens. Recorded again when the broker names
    another time."""

    message: str
    until: datetime | None = None
    """None: the broker gave no time, or none that could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(_Event):
    """An order that was held for the opening has reached the market: its time-out runs from here."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggered(_Event):
    """A stop that protects a position was triggered: what it became is at the market, and has to fill soon or be replaced."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Event):
    """The broker reports an order for an amount of money as done: what that bought is the order's quantity."""

    filled_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(_Event):
    """A remark in the audit trail. It changes nothing. `alert`: people are notified of it."""

    message: str
    alert: bool = False
    answer: str | None = None
    """The broker's answer to the sending, where that answer was neither a documented acceptance nor a documented
    refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionChanged(_Event):
    """How what the entry has filled is protected by its `stop_loss` and `take_profit`; it changes nothing else."""

    state: ProtectionState
    reason: str = ""
    """For people."""
    quantity: Decimal = ZERO
    """What protective orders that the broker has taken cover."""
    filled_quantity: Decimal = ZERO
    """The entry's, as it was judged by: a later fill opens again what is closed."""
    stop_price: Decimal | None = None
    """Where its trailing stop stands, at the broker or as it is watched; None: the stop does not trail."""
    begins_after: Decimal | None = None
    """The stop is of what has filled since the entry had filled so much, all of which was closed by then. None: of all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredNotPlaced(_Event):
    """A person found that the broker never received the order."""

    by: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredPlaced(_Event):
    """A person found the order at the broker, under this id."""

    by: str
    broker_order_id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredCancelled(_Event):
    """A person found that the order is dead at the broker, with exactly the fills that we hold."""

    by: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAgainOrdered(_Event):
    """A person decided that the order is sent again, under a new client order id."""

    by: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted(_Event):
    """A person reported a change of position that happened without this service. It is the first event of a record
    for which no order was ever sent; the fills after it are that change."""

    command_id: str
    occasion: Occasion
    by: str
    message: str
    """The person's reason."""
    left: str = ""
    came: str = ""
    """What the whole adoption removes and adds, as text for people. Only the first record of an adoption has it."""
    discrepancy_id: str | None = None
    """The discrepancy that it is meant to close."""
    record_count: int = 0
    """How many records the whole adoption has; 0: an older version has not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionUndone(_Event):
    """A person reversed an adoption. The events after this one bust its fills."""

    command_id: str
    by: str
    message: str


Event: TypeAlias = (
    SubmitStarted
    | NothingSent
    | Accepted
    | Doubted
    | Rejected
    | Filled
    | Busted
    | CommissionReported
    | CancelRequested
    | CancelRefused
    | Cancelled
    | Expired
    | AwaitsOpening
    | Sized
    | Capped
    | InstrumentMatched
    | ContractResolved
    | ContractDeclared
    | Fitted
    | Held
    | Released
    | Triggered
    | Completed
    | Noted
    | ProtectionChanged
    | DeclaredNotPlaced
    | DeclaredPlaced
    | DeclaredCancelled
    | SendAgainOrdered
    | Adopted
    | AdoptionUndone
)


_STORED_NAMES: Mapping[type[Event], str] = MappingProxyType({ContractResolved: "ContractTold"})
"""Names in stored records, where these differ from the class's own: records written long ago must stay readable."""


def stored_name(event: type[Event]) -> str:
    """The name of this kind of event in stored records and in the audit trail that `execctl order` prints."""
    return _STORED_NAMES.get(event, event.__name__)
