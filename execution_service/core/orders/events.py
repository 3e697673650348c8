"""Everything that can happen to an order, one class each; what follows from it is in transitions.py and order.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from brokers.base import ContractTerms, Fill, Instrument
from execution_service.core.exact import ZERO
from execution_service.core.orders.status import Reason


class Occasion(StrEnum):
    """What happened to a position past this service; docs/operations.md explains each by an example."""

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


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    at: datetime
    """Wall clock, aware UTC: for people and records. No deadline is measured by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitStarted(_Event):
    """Written before the ticket leaves: from here on the broker may have it."""

    nonce: str
    """The process that is about to send."""
    reserved_order_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingSent(_Event):
    """The sending failed while surely nothing had left."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(_Event):
    broker_order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted(_Event):
    """Sent or perhaps sent, and the broker could not tell us."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(_Event):
    reason: Reason
    filled_quantity: Decimal = ZERO
    """What the one who rejects says was filled before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled(_Event):
    fill: Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Busted(_Event):
    """The venue annulled an execution; kept even when the execution itself has not reached us yet."""

    fill_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommissionReported(_Event):
    fill_id: str
    commission: Decimal
    currency: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(_Event):
    reason: Reason
    requested_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRefused(_Event):
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_Event):
    reason: Reason
    filled_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(_Event):
    reason: Reason
    filled_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Capped(_Event):
    """An exit was reduced to what its entry has left."""

    quantity: Decimal
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentMatched(_Event):
    """An exit left open what its entry says of the instrument (exchange, currency) or of the product: it is the entry's that it closes."""

    instrument: Instrument
    product: str | None = None
    """None: the exit's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTold(_Event):
    """Before it is sent: which contract the order means, and the holding that its fills are booked to. Every amount follows from it."""

    terms: ContractTerms | None = None
    """As the broker told them; None: it tells none, and what the order says holds."""
    booked_as: str | None = None
    """The instrument's key in the ledger (`core/ledger.py`); None: as the order names the instrument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractDeclared(_Event):
    """What the contract is, said afterwards of a record that does not have it: by a person, or as the broker told it of another order."""

    by: str
    terms: ContractTerms
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(_Event):
    """The order as the market takes it and as it will be sent: what is None stays as it was asked for."""

    message: str
    quantity: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    cash_quantity: Decimal | None = None
    """An amount of money, sent in the quantity's place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(_Event):
    """The broker has the order and holds it for the opening of the market, as it said. Comes again where the broker names another time."""

    message: str
    until: datetime | None = None
    """None: the broker has not said until when, or not legibly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(_Event):
    """The market has the order that was held for its opening: from here on its time-out runs."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Event):
    """The broker says that an order for an amount of money is done: what that bought is its quantity."""

    filled_quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(_Event):
    """A remark for the audit trail; changes nothing. `alert` asks that people be told."""

    message: str
    alert: bool = False
    answer: str | None = None
    """What the broker answered the sending with, where that was words alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredNotPlaced(_Event):
    """A person found that the broker never had the order."""

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
    """A person found that the order is dead at the broker, with the fills we hold and no others."""

    by: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAgainOrdered(_Event):
    """A person decided that the order is to be sent once more, under a new client id."""

    by: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted(_Event):
    """A person told what had happened to a position past this service. It is the first event of a record that no order was ever sent for:
    the fills behind it are that movement."""

    command_id: str
    occasion: Occasion
    by: str
    message: str
    """Why, in the person's words."""
    left: str = ""
    came: str = ""
    """What the whole adoption took away and what it brought, in words, with the first of its records; else empty."""
    discrepancy_id: str | None = None
    """The difference that it is to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionUndone(_Event):
    """A person took an adoption back: its fills are annulled by the events behind this one."""

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
    | Capped
    | InstrumentMatched
    | ContractTold
    | ContractDeclared
    | Fitted
    | Held
    | Released
    | Completed
    | Noted
    | DeclaredNotPlaced
    | DeclaredPlaced
    | DeclaredCancelled
    | SendAgainOrdered
    | Adopted
    | AdoptionUndone
)
