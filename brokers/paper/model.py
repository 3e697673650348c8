"""The types of the paper exchange: faults, the market, orders, fills, scheduled steps, and its unit of time. No
behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase

from brokers.base import Fill, Instrument, OrderType, Report, ReportStatus, Ticket


class Operation(StrEnum):
    """The broker calls that a fault can hit."""

    CONNECT = "connect"
    PLACE = "place"
    CANCEL = "cancel"
    REPORTS = "reports"
    FIND = "find"
    POSITIONS = "positions"
    BALANCES = "balances"
    QUOTES = "quotes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedQuote:
    """The market in one symbol, as a test or a person has set it. The paper exchange itself makes up no prices."""

    symbol: str
    bid: Decimal | None = None
    ask: Decimal | None = None
    last: Decimal | None = None
    close: Decimal | None = None
    """Of the day before."""
    age_seconds: float = 0.0
    """How old it is at any time that it is asked for."""
    last_age_seconds: float | None = None
    """The same of the latest trade; None: the time is not told."""
    is_delayed: bool = False
    refusal: str | None = None
    """Not None: the account is not given it, for this reason."""


class Action(StrEnum):
    """What goes wrong. The first group happens on the way to the book and is carried out by the caller
    (`PaperExchange.draw`); the second happens in the book."""

    REFUSE = "refuse"
    """OrderRefused(`reason`); the book is not touched."""
    UNAVAILABLE = "unavailable"
    """BrokerUnavailable(`reason`); the book is not touched."""
    DROP_BEFORE_ACCEPT = "drop_before_accept"
    """OutcomeUnknown; the book is not touched."""
    ACCEPT_THEN_DROP = "accept_then_drop"
    """OutcomeUnknown; the book did what was asked."""
    NEVER_ANSWER = "never_answer"
    """No answer ever; the book carried out the call if `accepted`."""
    SLOW = "slow"
    """The answer takes `seconds` longer; the book carries out the call before the wait if `accepted`, else after it."""

    HOLD = "hold"
    """place: accepted, and never filled by itself."""
    REJECT = "reject"
    """place: accepted, and immediately rejected with `reason`."""
    OVERFILL = "overfill"
    """place: after the last fill, one more of `quantity`."""
    LATE_COMMISSION = "late_commission"
    """place: the fills come without commission, which follows `seconds` after the last one."""
    IGNORE_CANCEL = "ignore_cancel"
    """cancel: received, and nothing is done."""
    CANCEL_RACE = "cancel_race"
    """cancel: the order is filled instead."""
    LATE_FILL_AFTER_CANCEL = "late_fill_after_cancel"
    """cancel: cancelled, and `seconds` later filled with `quantity` (None: all that was open) nevertheless."""
    HIDE = "hide"
    """reports, find: matching orders are not shown, in `times` answers or until `seconds` after arming."""
    DUPLICATE = "duplicate"
    """reports: each report comes twice."""
    REORDER = "reorder"
    """reports: the newest change comes first."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

LIMITED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
"""Order types with a price that no fill may be worse than."""

ON_THE_WAY = frozenset(
    {
        Action.REFUSE,
        Action.UNAVAILABLE,
        Action.DROP_BEFORE_ACCEPT,
        Action.ACCEPT_THEN_DROP,
        Action.NEVER_ANSWER,
        Action.SLOW,
    }
)

_BOOK_FAULTS = {
    Operation.PLACE: frozenset({Action.HOLD, Action.REJECT, Action.OVERFILL, Action.LATE_COMMISSION}),
    Operation.CANCEL: frozenset({Action.IGNORE_CANCEL, Action.CANCEL_RACE, Action.LATE_FILL_AFTER_CANCEL}),
    Operation.REPORTS: frozenset({Action.HIDE, Action.DUPLICATE, Action.REORDER}),
    Operation.FIND: frozenset({Action.HIDE}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One rule of a fault plan: which calls it hits and what goes wrong.

    It hits the `nth` matching call and the `times` - 1 after it (`times` None: all after it). The patterns are those of
    a shell (`*`, `?`, `[…]`); a call that is not about a single order matches only `*`, except that HIDE applies its
    patterns to each order.
    """

    operation: Operation
    action: Action
    client_order_id: str = "*"
    symbol: str = "*"
    account_id: str = "*"
    nth: int = 1
    times: int | None = 1
    reason: str = "Refused by the fault plan"
    seconds: float = 0.0
    quantity: Decimal | None = None
    accepted: bool = True

    def __post_init__(self) -> None:
        if self.action not in ON_THE_WAY | _BOOK_FAULTS.get(self.operation, frozenset()) or (
            self.action is Action.REFUSE and self.operation not in (Operation.PLACE, Operation.CANCEL)
        ):
            raise ValueError(f"{self.action} is nothing that happens to {self.operation}")
        if self.nth < 1 or (self.times is not None and self.times < 1) or not 0 <= self.seconds < float("inf"):
            raise ValueError("a fault needs nth >= 1, times >= 1 or None, and seconds >= 0")

    def concerns(self, client_order_id: str, symbol: str) -> bool:
        return fnmatchcase(client_order_id, self.client_order_id) and fnmatchcase(symbol, self.symbol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Chances and costs. They are drawn when an order is accepted and stored with it, from `seed` and client order
    id, so that with a seed neither sequence nor process matters. Rates are probabilities, 0 to 1."""

    fill_delay_seconds: float | None = 0.0
    """None: nothing is filled by itself (see `PaperExchange.fill_order`)."""
    rejection_rate: float = 0.0
    partial_fill_rate: float = 0.0
    """The fraction of orders filled in two parts, the second after another delay. For IOC the second part is
    cancelled instead."""
    slippage_bps: Decimal = Decimal(0)
    """Against the order, in 1/100 of a per cent; never beyond a limit."""
    commission_per_order: Decimal = Decimal("1.00")
    """Charged in full with an order's first fill; later fills cost 0."""
    seed: int | None = None
    currency: str = "USD"
    """For instruments that name none."""
    opening_cash: Decimal = Decimal(1_000_000)
    """In `currency`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFill:
    """One execution in the book. A busted one is kept, but does not count."""

    fill_id: str
    quantity: Decimal
    price: Decimal
    time: datetime
    commission: Decimal | None
    commission_currency: str
    busted: bool = False
    corrects: str | None = None
    """The fill that this one replaces."""
    market_volume: Decimal | None = None
    """What all together traded meanwhile; None: this market does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperOrder:
    """The true state of an order in the book."""

    number: int
    """Increases with every order that the book accepts, of any account."""
    account_id: str
    broker_order_id: str
    ticket: Ticket
    status: ReportStatus
    reason: str | None
    placed_at: datetime
    changed_at: datetime
    change: int
    """The number of its last change."""
    fills: tuple[PaperFill, ...] = ()

    @property
    def filled_quantity(self) -> Decimal:
        return sum((fill.quantity for fill in self.fills if not fill.busted), Decimal(0))

    @property
    def open_quantity(self) -> Decimal:
        """What may still be filled; 0 once the order is finished."""
        if self.status is not ReportStatus.WORKING:
            return Decimal(0)
        return max(self.ticket.quantity - self.filled_quantity, Decimal(0))

    def report(self) -> Report:
        return Report(
            instrument=self.ticket.instrument,
            side=self.ticket.side,
            client_order_id=self.ticket.client_order_id,
            broker_order_id=self.broker_order_id,
            status=self.status,
            filled_quantity=self.filled_quantity,
            fills=tuple(
                Fill(
                    fill_id=fill.fill_id,
                    quantity=fill.quantity,
                    price=fill.price,
                    time=fill.time,
                    commission=fill.commission,
                    commission_currency=None if fill.commission is None else fill.commission_currency,
                    market_volume=fill.market_volume,
                )
                for fill in self.fills
                if not fill.busted
            ),
            busted_fill_ids=frozenset(fill.fill_id for fill in self.fills if fill.busted),
            reason=self.reason,
        )


class Step(StrEnum):
    """What a scheduled step does to an order."""

    FILL = "fill"
    CANCEL = "cancel"
    COMMISSION = "commission"


@dataclass(frozen=True, slots=True)
class Planned:
    """A step scheduled for an order; `due` is in microseconds since 1970."""

    due: int
    step: Step
    quantity: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    commission: Decimal | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """A fill that is not busted, or a transfer, as the sums need it."""

    instrument: Instrument
    bought: Decimal
    """Negative: sold."""
    price: Decimal
    commission: Decimal
    currency: str
    product: str | None = None
    is_transfer: bool = False
    """It arrived or left without an execution and without money: an assignment, an expiry, a split, a transfer of
    shares."""


def micros_of(seconds: float) -> int:
    return round(seconds * 1_000_000)


def moment_of(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(moment: int) -> datetime:
    return _EPOCH + moment * _MICROSECOND
