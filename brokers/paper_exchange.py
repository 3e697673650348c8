"""An order book with durable truth of its own in one SQLite file, with seeded luck and faults to order; no event loop, no network, no dialect."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from brokers.base import (
    AssetClass,
    Balance,
    BrokerPosition,
    Fill,
    Instrument,
    OptionRight,
    OrderRef,
    OrderType,
    Report,
    Reports,
    ReportStatus,
    Side,
    Ticket,
    Tif,
)
from brokers.errors import BrokerError, BrokerUnavailable, OrderAlreadyExists, OrderRefused, OutcomeUnknown


class Operation(StrEnum):
    """The broker calls that a fault can hit."""

    CONNECT = "connect"
    PLACE = "place"
    CANCEL = "cancel"
    REPORTS = "reports"
    FIND = "find"
    POSITIONS = "positions"
    BALANCES = "balances"


class Action(StrEnum):
    """What goes wrong. The first group happens on the way to the book and is played by whoever speaks for it (`PaperExchange.draw`);
    the second happens in the book."""

    REFUSE = "refuse"
    """OrderRefused(`reason`); the book is not touched."""
    UNAVAILABLE = "unavailable"
    """BrokerUnavailable(`reason`); the book is not touched."""
    DROP_BEFORE_ACCEPT = "drop_before_accept"
    """OutcomeUnknown; the book is not touched."""
    ACCEPT_THEN_DROP = "accept_then_drop"
    """OutcomeUnknown; the book did what was asked."""
    NEVER_ANSWER = "never_answer"
    """No answer for ever; the book did what was asked if `accepted`."""
    SLOW = "slow"
    """The answer takes `seconds` longer; the book does what was asked before the wait if `accepted`, else after it."""

    HOLD = "hold"
    """place: taken, and never filled by itself."""
    REJECT = "reject"
    """place: taken, and at once rejected with `reason`."""
    OVERFILL = "overfill"
    """place: after the last fill one more of `quantity`."""
    LATE_COMMISSION = "late_commission"
    """place: the fills come without commission, which follows `seconds` after the last one."""
    IGNORE_CANCEL = "ignore_cancel"
    """cancel: heard, and nothing is done."""
    CANCEL_RACE = "cancel_race"
    """cancel: the order is filled instead."""
    LATE_FILL_AFTER_CANCEL = "late_fill_after_cancel"
    """cancel: cancelled, and `seconds` later filled with `quantity` (None: all that was open) all the same."""
    HIDE = "hide"
    """reports, find: the orders matched are not shown, for `times` answers or until `seconds` after arming."""
    DUPLICATE = "duplicate"
    """reports: each report comes twice."""
    REORDER = "reorder"
    """reports: the newest change comes first."""


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
    """One rule of a fault plan: which calls it hits and what then goes wrong.

    It hits the `nth` matching call and the `times` - 1 after it (`times` None: all after it). The patterns are those of a shell (`*`, `?`,
    `[…]`); a call that concerns no single order matches only `*`, save that HIDE tries its patterns on each order.
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
    """The luck of orders and what they cost. It is drawn when an order is accepted and stored with it; by `seed` and client order id, so
    that with a seed neither sequence nor process matters. Rates are probabilities, 0 to 1."""

    fill_delay_seconds: float | None = 0.0
    """None: nothing is filled by itself (see `PaperExchange.fill_order`)."""
    rejection_rate: float = 0.0
    partial_fill_rate: float = 0.0
    """Such an order is filled in two parts, the second after another delay. IOC: the second part is cancelled instead."""
    slippage_bps: Decimal = Decimal(0)
    """Against the order, in 1/100 of a per cent; never beyond a limit."""
    commission_per_order: Decimal = Decimal("1.00")
    """Charged in full with an order's first fill; later fills carry 0."""
    seed: int | None = None
    currency: str = "USD"
    """Of instruments that name none."""
    opening_cash: Decimal = Decimal(1_000_000)
    """In `currency`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFill:
    """One execution in the book; a busted one stays, and counts for nothing."""

    fill_id: str
    quantity: Decimal
    price: Decimal
    time: datetime
    commission: Decimal | None
    commission_currency: str
    busted: bool = False
    corrects: str | None = None
    """The fill that this one replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperOrder:
    """One order as the book truly has it."""

    number: int
    """Rises with every order that the book accepts, whosever it is."""
    account_id: str
    broker_order_id: str
    ticket: Ticket
    status: ReportStatus
    reason: str | None
    placed_at: datetime
    changed_at: datetime
    change: int
    """The mark of its last change."""
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
                )
                for fill in self.fills
                if not fill.busted
            ),
            busted_fill_ids=frozenset(fill.fill_id for fill in self.fills if fill.busted),
            reason=self.reason,
        )


_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('order', 0), ('fill', 0), ('change', 0)",
    # `guard` is the client id where the venue refuses a repeated one, else NULL, which UNIQUE lets repeat.
    """CREATE TABLE orders (
        number INTEGER PRIMARY KEY, account TEXT NOT NULL, client_id TEXT NOT NULL, guard TEXT, broker_id TEXT NOT NULL,
        symbol TEXT NOT NULL, asset_class TEXT NOT NULL, exchange TEXT, expiry TEXT, strike TEXT, call_or_put TEXT, currency TEXT,
        multiplier TEXT, underlying TEXT, side TEXT NOT NULL, quantity TEXT NOT NULL, order_type TEXT NOT NULL, limit_price TEXT,
        stop_price TEXT, reference_price TEXT, tif TEXT, product TEXT, variety TEXT, reserved_id TEXT,
        status TEXT NOT NULL, reason TEXT, placed_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, changed INTEGER NOT NULL,
        UNIQUE (account, guard), UNIQUE (account, broker_id))""",
    "CREATE INDEX orders_client ON orders (account, client_id)",
    "CREATE INDEX orders_changed ON orders (account, changed)",
    "CREATE INDEX orders_changed_at ON orders (account, changed_at)",
    "CREATE INDEX orders_working ON orders (account, number) WHERE status = 'WORKING'",
    """CREATE TABLE fills (
        number INTEGER PRIMARY KEY, fill_id TEXT NOT NULL UNIQUE, order_number INTEGER NOT NULL, quantity TEXT NOT NULL,
        price TEXT NOT NULL, at INTEGER NOT NULL, commission TEXT, currency TEXT NOT NULL, busted INTEGER NOT NULL DEFAULT 0,
        corrects TEXT)""",
    "CREATE INDEX fills_order ON fills (order_number)",
    """CREATE TABLE plan (
        id INTEGER PRIMARY KEY, account TEXT NOT NULL, order_number INTEGER NOT NULL, due INTEGER NOT NULL, step TEXT NOT NULL,
        quantity TEXT, price TEXT, commission TEXT, reason TEXT)""",
    "CREATE INDEX plan_due ON plan (account, due)",
    "CREATE INDEX plan_order ON plan (order_number)",
    """CREATE TABLE faults (
        id INTEGER PRIMARY KEY, name TEXT UNIQUE, operation TEXT NOT NULL, action TEXT NOT NULL, client_id TEXT NOT NULL,
        symbol TEXT NOT NULL, account TEXT NOT NULL, nth INTEGER NOT NULL, times INTEGER, reason TEXT NOT NULL, seconds REAL NOT NULL,
        quantity TEXT, accepted INTEGER NOT NULL, until INTEGER, seen INTEGER NOT NULL DEFAULT 0, spent INTEGER NOT NULL DEFAULT 0)""",
)
_INSTRUMENT_COLUMNS = "symbol, asset_class, exchange, expiry, strike, call_or_put, o.currency, multiplier, underlying"
_ORDER_COLUMNS = (
    "number, account, client_id, broker_id, symbol, asset_class, exchange, expiry, strike, call_or_put, currency, multiplier, underlying, "
    "side, quantity, order_type, limit_price, stop_price, reference_price, tif, product, variety, reserved_id, status, reason, "
    "placed_at, changed_at, changed"
)
_FILL_COLUMNS = (
    "f.order_number, f.fill_id, f.quantity, f.price, f.at, f.commission, f.currency, f.busted, f.corrects, f.number"
)
_FAULT_COLUMNS = (
    "id, operation, action, client_id, symbol, account, nth, times, reason, seconds, quantity, accepted, until, seen"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY_MICROSECONDS = 86_400 * 1_000_000
_PAGES_BETWEEN_CHECKPOINTS = 4_000
_LIMITED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_SLIPPAGE_PLACES = 4
_MOST_PLACES = 8
_REJECTIONS = (
    "Insufficient margin",
    "Price outside of the permitted range",
    "Instrument halted",
    "Risk limit exceeded",
)


class _Step(StrEnum):
    FILL = "fill"
    CANCEL = "cancel"
    COMMISSION = "commission"


@dataclass(frozen=True, slots=True)
class _Armed:
    """A fault as the book keeps it."""

    row_id: int
    fault: Fault
    seen: int
    until: int | None


@dataclass(frozen=True, slots=True)
class _Holdings:
    positions: tuple[BrokerPosition, ...]
    balances: tuple[Balance, ...]


class BookFile:
    """The open file of a book: one connection, for one thread at a time."""

    def __init__(self, path: Path, busy_timeout_seconds: float = 5.0) -> None:
        """Makes the book, for its owner only, where there is none. Raises BrokerUnavailable when it cannot be opened."""
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = _open(path, busy_timeout_seconds)

    @contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. Raises BrokerUnavailable once it is closed."""
        with self._lock:
            if self._db is None:
                raise BrokerUnavailable("The paper exchange's book is closed")
            yield self._db

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


class PaperExchange:
    """One account's view of a book in the SQLite file `path`, which several accounts, threads and processes may share.

    Every call is atomic, and what is due by then happens first. What has been answered survives the death of the process.
    Calls meant for adapters raise the errors of `brokers.errors` only; those meant for tests and simulators (`fill_order` and the like)
    raise ValueError for what makes no sense.

    `broker_order_id_format` is filled with `number` and `time` (UTC datetime of acceptance), `fill_id_format` with `number`.
    `corrected_fill_id` makes the id of a correction from that of the fill in whose place it comes; without it that is an id like any other.
    With `unique_client_order_ids` false a client order id may be used again (as at venues where it is only a tag).
    `faults` are armed once per book, however often it is opened with them.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str,
        market: Market | None = None,
        faults: Sequence[Fault] = (),
        broker_order_id_format: str = "mock_{number:09d}",
        fill_id_format: str = "mock_fill_{number:09d}",
        corrected_fill_id: Callable[[str], str] | None = None,
        unique_client_order_ids: bool = True,
        busy_timeout_seconds: float = 5.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        file: BookFile | None = None,
    ) -> None:
        """Opens the book, making it (for its owner only) where there is none. Raises BrokerUnavailable when it cannot be opened.

        `file` is the book at `path` where it is open already, for the accounts of one process to share; who opened it closes it.
        """
        self.path = Path(path)
        self.account_id = account_id
        self.market = market or Market()
        self._broker_order_id_format = broker_order_id_format
        self._fill_id_format = fill_id_format
        self._corrected_fill_id = corrected_fill_id
        self._unique = unique_client_order_ids
        self._clock = clock
        self._holdings: tuple[int, _Holdings] | None = None
        self._owns_file = file is None
        self._file: BookFile | None = file or BookFile(self.path, busy_timeout_seconds)
        if faults:
            self._arm(faults, named=True)

    def close(self) -> None:
        """Working orders and the plan stay in the book."""
        file, self._file = self._file, None
        if file is not None and self._owns_file:
            file.close()

    # What an adapter calls

    def place(self, ticket: Ticket, now: datetime | None = None) -> Report:
        """Accepts the order, or rejects it for good (a Report with status REJECTED), and tells its state, which with a delay of 0 is the last.
        An empty `client_order_id` is an order that is somebody else's: it may be repeated.

        Raises OrderRefused for a ticket that no venue could take, OrderAlreadyExists for a repeated id, BrokerUnavailable when the book
        surely has nothing of it, OutcomeUnknown when the commit failed."""
        _refuse_nonsense(ticket)
        moment = self._moment(now)
        with self._writing() as db:
            faults = {
                fault.action: fault
                for fault in self._draw(db, Operation.PLACE, ticket.client_order_id, ticket.instrument.symbol, moment)
            }
            number = _count(db, "order")
            self._insert(db, number, ticket, moment)
            self._plan(db, number, ticket, faults, moment)
            self._apply_due(db, moment)
            return _load(db, "number = ?", (number,))[0].report()

    def cancel(self, ref: OrderRef, now: datetime | None = None) -> None:
        """Cancels what is open. Raises OrderRefused for an unknown or a finished order, else as `place`."""
        moment = self._moment(now)
        self.advance(now)
        with self._writing() as db:
            order = self._named(db, ref)
            if order is None:
                raise OrderRefused(f"There is no order {ref.broker_order_id or ref.client_order_id}")
            if order.status is not ReportStatus.WORKING:
                raise OrderRefused(f"Too late to cancel: the order is {order.status}")
            ticket = order.ticket
            faults = {
                fault.action: fault
                for fault in self._draw(db, Operation.CANCEL, ticket.client_order_id, ticket.instrument.symbol, moment)
            }
            if Action.IGNORE_CANCEL in faults:
                return
            db.execute("DELETE FROM plan WHERE order_number = ? AND step <> ?", (order.number, _Step.COMMISSION))
            if Action.CANCEL_RACE in faults:
                charged = self._commission(order)
                self._record_fill(db, order, order.open_quantity, self._price(ticket), moment, moment, charged)
                return
            self._touch(db, order.number, moment, ReportStatus.CANCELLED, "Cancelled on request")
            late = faults.get(Action.LATE_FILL_AFTER_CANCEL)
            if late is not None:
                quantity = order.open_quantity if late.quantity is None else late.quantity
                due = moment + _micros(late.seconds)
                self._schedule(
                    db, order.number, due, _Step.FILL, quantity, self._price(ticket), self._commission(order)
                )
                self._apply_due(db, moment)

    def reports(self, since: int | None = None, now: datetime | None = None, *, at_most: int | None = None) -> Reports:
        """The orders changed after the mark `since`; without a mark those of the current UTC day, the unfinished ones and those changed
        within 24 hours. In the sequence of their last change. A hidden order holds the mark back, so that it is told later. Of more than
        `at_most` the first come, and the rest is to be asked for from the mark; faults of the plan hit whole answers only.
        Raises BrokerUnavailable."""
        moment = self._moment(now)
        self.advance(now)
        with self._reading() as db:
            mark: int = db.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()[0]
            armed = _armed(db, Operation.REPORTS)
            limit = None if armed else at_most
            if since is not None and 0 <= since <= mark:
                found = (
                    _load(db, "account = ? AND changed > ?", (self.account_id, since), limit) if since < mark else []
                )
            else:
                found = _load(
                    db,
                    "number IN (SELECT number FROM orders WHERE account = ? AND changed_at >= ?"
                    " UNION SELECT number FROM orders WHERE account = ? AND status = 'WORKING')",
                    (self.account_id, moment - _DAY_MICROSECONDS, self.account_id),
                    limit,
                )
        if armed:
            found, mark = self._distort(found, mark, moment)
        goes_on = limit is not None and len(found) == limit
        return Reports([order.report() for order in found], found[-1].change if goes_on else mark, goes_on)

    def find(self, client_order_id: str, now: datetime | None = None) -> Report | None:
        """The order under this id (the newest, where ids may repeat), whatever its age. Raises BrokerUnavailable."""
        moment = self._moment(now)
        self.advance(now)
        with self._reading() as db:
            found = _load(db, "account = ? AND client_id = ?", (self.account_id, client_order_id))
            armed = _armed(db, Operation.FIND)
        if not found:
            return None
        order = max(found, key=lambda order: order.number)
        if armed:
            with self._writing(BrokerUnavailable) as db:
                drawn = self._draw(db, Operation.FIND, client_order_id, order.ticket.instrument.symbol, moment)
            if any(fault.action is Action.HIDE for fault in drawn):
                return None
        return order.report()

    def positions(self, now: datetime | None = None) -> tuple[BrokerPosition, ...]:
        """What the fills that stand add up to; flat ones are left out. Raises BrokerUnavailable."""
        return self._fold(now).positions

    def balances(self, now: datetime | None = None) -> tuple[Balance, ...]:
        """Opening cash and what the fills that stand moved, per currency; equity counts positions at their last fill's price."""
        return self._fold(now).balances

    def draw(
        self,
        operation: Operation,
        client_order_id: str = "",
        symbol: str | None = None,
        now: datetime | None = None,
    ) -> tuple[Fault, ...]:
        """The faults that hit this call on the way to the book, counted as spent; for the caller to play. Without `symbol` the book's own
        order tells it. Raises BrokerUnavailable."""
        with self._reading() as db:
            if not _armed(db, operation):
                return ()
        with self._writing(BrokerUnavailable) as db:
            if symbol is None:
                row = db.execute(
                    "SELECT symbol FROM orders WHERE account = ? AND client_id = ?", (self.account_id, client_order_id)
                ).fetchone()
                symbol = row[0] if row else ""
            return tuple(
                self._draw(db, operation, client_order_id, symbol, self._moment(now), on_the_way=True),
            )

    def advance(self, now: datetime | None = None) -> bool:
        """Lets everything happen that is due; true if that was anything. Cheap when nothing is. Raises BrokerUnavailable."""
        moment = self._moment(now)
        with self._reading() as db:
            due = db.execute(
                "SELECT 1 FROM plan WHERE account = ? AND due <= ? LIMIT 1", (self.account_id, moment)
            ).fetchone()
        if due is None:
            return False
        with self._writing(BrokerUnavailable) as db:
            return self._apply_due(db, moment) > 0

    def next_due(self) -> datetime | None:
        """When the next planned thing happens; None: nothing is planned. Raises BrokerUnavailable."""
        with self._reading() as db:
            row = db.execute("SELECT MIN(due) FROM plan WHERE account = ?", (self.account_id,)).fetchone()
        return None if row[0] is None else _time(row[0])

    # What tests and simulators call

    def orders(self, client_order_id: str | None = None) -> list[PaperOrder]:
        """The plain truth about this account's orders (all, or those under one client id), oldest first; nothing is hidden or let happen."""
        with self._reading() as db:
            if client_order_id is None:
                found = _load(db, "account = ?", (self.account_id,))
            else:
                found = _load(db, "account = ? AND client_id = ?", (self.account_id, client_order_id))
        return sorted(found, key=lambda order: order.number)

    def order(self, broker_order_id: str) -> PaperOrder | None:
        """The plain truth about one order; None: there is none."""
        with self._reading() as db:
            found = _load(db, "account = ? AND broker_id = ?", (self.account_id, broker_order_id))
        return found[0] if found else None

    def mark(self) -> int:
        """The number of the last change to anything in the book."""
        with self._reading() as db:
            value: int = db.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()[0]
        return value

    def changed_since(self, mark: int) -> list[PaperOrder]:
        """The plain truth about the orders that changed after `mark`, in the sequence of their last change."""
        with self._reading() as db:
            return _load(db, "account = ? AND changed > ?", (self.account_id, mark))

    def add_fault(self, fault: Fault) -> None:
        """Arms it in the book: it hits whichever process makes the call."""
        self._arm((fault,), named=False)

    def armed_faults(self, operation: Operation) -> list[Fault]:
        """Those that can still hit a call, whatever account they are for."""
        with self._reading() as db:
            return [armed.fault for armed in _armed(db, operation)]

    def clear_faults(self) -> None:
        """Disarms all faults of the book."""
        with self._writing() as db:
            db.execute("UPDATE faults SET spent = 1")

    def fill_order(
        self,
        ref: OrderRef,
        quantity: Decimal | None = None,
        price: Decimal | None = None,
        *,
        commission: Decimal | None = None,
        late_commission: bool = False,
        force: bool = False,
        now: datetime | None = None,
    ) -> PaperFill:
        """Fills a working order now (default: all that is open, at the order's own price, with the market's commission).
        `late_commission` leaves it out until `set_commission`. Raises ValueError for more than is open, unless with `force`, which also
        fills finished orders."""
        moment = self._moment(now)
        with self._writing() as db:
            order = self._existing(db, ref)
            wanted = order.open_quantity if quantity is None else quantity
            if wanted <= 0 or (wanted > order.open_quantity and not force):
                raise ValueError(f"{wanted} cannot be filled: the order is {order.status}, {order.open_quantity} open")
            paid = price if price is not None else self._price(order.ticket)
            charged = None if late_commission else self._commission(order) if commission is None else commission
            fill_id = self._record_fill(db, order, wanted, paid, moment, moment, charged)
            return next(fill for fill in self._existing(db, ref).fills if fill.fill_id == fill_id)

    def set_commission(self, fill_id: str, commission: Decimal, now: datetime | None = None) -> None:
        """Tells or changes a fill's commission. Raises ValueError for an unknown fill."""
        with self._writing() as db:
            number = _order_of_fill(db, fill_id, self.account_id)
            db.execute("UPDATE fills SET commission = ? WHERE fill_id = ?", (str(commission), fill_id))
            self._touch(db, number, self._moment(now))

    def bust_fill(self, fill_id: str, now: datetime | None = None) -> None:
        """Annuls an execution; the order's status stays. Raises ValueError for an unknown or already busted fill."""
        with self._writing() as db:
            self._bust(db, fill_id, self._moment(now))

    def correct_fill(
        self,
        fill_id: str,
        *,
        quantity: Decimal | None = None,
        price: Decimal | None = None,
        now: datetime | None = None,
    ) -> PaperFill:
        """Annuls an execution and puts a new one, with an id of its own, in its place. Raises ValueError as `bust_fill` does, and for a
        quantity that would make the order overfilled."""
        moment = self._moment(now)
        with self._writing() as db:
            order_number = self._bust(db, fill_id, moment)
            order = _load(db, "number = ?", (order_number,))[0]
            old = next(fill for fill in order.fills if fill.fill_id == fill_id)
            new_quantity = old.quantity if quantity is None else quantity
            if new_quantity <= 0 or order.filled_quantity + new_quantity > order.ticket.quantity:
                raise ValueError(f"a corrected quantity of {new_quantity} does not fit the order")
            new_id = self._record_fill(
                db,
                order,
                new_quantity,
                old.price if price is None else price,
                moment,
                moment,
                old.commission,
                corrects=fill_id,
            )
            return next(fill for fill in _load(db, "number = ?", (order_number,))[0].fills if fill.fill_id == new_id)

    def reject_order(self, ref: OrderRef, reason: str, now: datetime | None = None) -> None:
        """The venue's late no to a working order. Raises ValueError for any other."""
        self._finish(ref, ReportStatus.REJECTED, reason, now)

    def cancel_unasked(self, ref: OrderRef, reason: str, now: datetime | None = None) -> None:
        """The venue, or a person at its terminal, cancels a working order. Raises ValueError for any other."""
        self._finish(ref, ReportStatus.CANCELLED, reason, now)

    def expire_day(self, now: datetime | None = None) -> int:
        """The session ends: orders that were good for the day (or said nothing) expire. Returns how many."""
        moment = self._moment(now)
        self.advance(now)
        with self._writing() as db:
            rows = db.execute(
                "SELECT number FROM orders WHERE account = ? AND status = 'WORKING' AND coalesce(tif, 'DAY') = 'DAY'",
                (self.account_id,),
            ).fetchall()
            for (number,) in rows:
                db.execute("DELETE FROM plan WHERE order_number = ? AND step <> ?", (number, _Step.COMMISSION))
                self._touch(db, number, moment, ReportStatus.EXPIRED, "Expired at the end of the day")
            return len(rows)

    # Transactions

    @contextmanager
    def _writing(self, at_commit: type[BrokerError] = OutcomeUnknown) -> Iterator[sqlite3.Connection]:
        """One write transaction. What fails before its commit surely did not happen (BrokerUnavailable); a failed commit is `at_commit`."""
        with self._open_book() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
            except sqlite3.Error as exc:
                _roll_back(db)
                raise BrokerUnavailable(f"The paper exchange's book could not be written: {exc}") from exc
            except BaseException:
                _roll_back(db)
                raise
            try:
                db.execute("COMMIT")
            except sqlite3.Error as exc:
                _roll_back(db)
                raise at_commit(f"The paper exchange's book could not be committed: {exc}") from exc

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the book."""
        with self._open_book() as db:
            try:
                db.execute("BEGIN")
                yield db
            except sqlite3.Error as exc:
                raise BrokerUnavailable(f"The paper exchange's book could not be read: {exc}") from exc
            finally:
                _roll_back(db)

    def _open_book(self) -> AbstractContextManager[sqlite3.Connection]:
        if self._file is None:
            raise BrokerUnavailable("The paper exchange's book is closed")
        return self._file.held()

    def _moment(self, now: datetime | None) -> int:
        return ((now or self._clock()) - _EPOCH) // _MICROSECOND

    # Inside a write transaction

    def _insert(self, db: sqlite3.Connection, number: int, ticket: Ticket, moment: int) -> None:
        thing = ticket.instrument
        client_id = ticket.client_order_id
        guard = client_id if client_id and self._unique else None
        broker_id = ticket.reserved_order_id or self._broker_order_id_format.format(number=number, time=_time(moment))
        try:
            db.execute(
                f"INSERT INTO orders (guard, {_ORDER_COLUMNS}) VALUES ({', '.join('?' * 29)})",
                (
                    guard,
                    number,
                    self.account_id,
                    client_id,
                    broker_id,
                    thing.symbol,
                    thing.asset_class,
                    thing.exchange,
                    thing.expiry,
                    _text(thing.strike),
                    thing.right,
                    thing.currency,
                    _text(thing.multiplier),
                    thing.underlying,
                    ticket.side,
                    str(ticket.quantity),
                    ticket.order_type,
                    _text(ticket.limit_price),
                    _text(ticket.stop_price),
                    _text(ticket.reference_price),
                    ticket.tif,
                    ticket.product,
                    ticket.variety,
                    ticket.reserved_order_id,
                    ReportStatus.WORKING,
                    None,
                    moment,
                    moment,
                    _count(db, "change"),
                ),
            )
        except sqlite3.IntegrityError as exc:
            raise OrderAlreadyExists(f"The book already has an order {client_id or broker_id}") from exc

    def _plan(
        self, db: sqlite3.Connection, number: int, ticket: Ticket, faults: dict[Action, Fault], moment: int
    ) -> None:
        """Decides the order's fate and stores it."""
        market = self.market
        luck = random.Random() if market.seed is None else random.Random(f"{market.seed}:{ticket.client_order_id}")
        rejected = luck.random() < market.rejection_rate
        reason = luck.choice(_REJECTIONS)
        partial = luck.random() < market.partial_fill_rate
        first = _first_part(ticket.quantity, luck.random()) if partial else ticket.quantity
        if Action.REJECT in faults:
            rejected, reason = True, faults[Action.REJECT].reason
        if rejected:
            self._touch(db, number, moment, ReportStatus.REJECTED, reason)
            return
        if market.fill_delay_seconds is None or Action.HOLD in faults:
            return
        price = self._price(ticket)
        delay = _micros(market.fill_delay_seconds)
        late = faults.get(Action.LATE_COMMISSION)
        commission = None if late else market.commission_per_order
        due = moment + delay
        self._schedule(db, number, due, _Step.FILL, first, price, commission)
        rest = ticket.quantity - first
        if rest and ticket.tif is Tif.IOC:
            self._schedule(db, number, due, _Step.CANCEL, reason="The rest of an IOC order is cancelled")
        elif rest:
            due += delay
            self._schedule(db, number, due, _Step.FILL, rest, price, None if late else Decimal(0))
        over = faults.get(Action.OVERFILL)
        if over is not None:
            extra = ticket.quantity if over.quantity is None else over.quantity
            self._schedule(db, number, due, _Step.FILL, extra, price, None if late else Decimal(0))
        if late is not None:
            self._schedule(
                db, number, due + _micros(late.seconds), _Step.COMMISSION, commission=market.commission_per_order
            )

    def _schedule(
        self,
        db: sqlite3.Connection,
        number: int,
        due: int,
        step: _Step,
        quantity: Decimal | None = None,
        price: Decimal | None = None,
        commission: Decimal | None = None,
        reason: str | None = None,
    ) -> None:
        db.execute(
            "INSERT INTO plan (account, order_number, due, step, quantity, price, commission, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.account_id, number, due, step, _text(quantity), _text(price), _text(commission), reason),
        )

    def _apply_due(self, db: sqlite3.Connection, moment: int) -> int:
        rows = db.execute(
            "SELECT id, order_number, due, step, quantity, price, commission, reason FROM plan"
            " WHERE account = ? AND due <= ? ORDER BY due, id",
            (self.account_id, moment),
        ).fetchall()
        for row_id, number, due, step, quantity, price, commission, reason in rows:
            db.execute("DELETE FROM plan WHERE id = ?", (row_id,))
            order = _load(db, "number = ?", (number,))[0]
            if step == _Step.FILL:
                self._record_fill(db, order, Decimal(quantity), Decimal(price), due, moment, _decimal(commission))
            elif step == _Step.CANCEL:
                self._touch(db, number, moment, ReportStatus.CANCELLED, reason)
            else:
                without = [fill.fill_id for fill in order.fills if fill.commission is None]
                for index, fill_id in enumerate(without):
                    charged = commission if index == 0 else "0"
                    db.execute("UPDATE fills SET commission = ? WHERE fill_id = ?", (charged, fill_id))
                self._touch(db, number, moment)
        return len(rows)

    def _record_fill(
        self,
        db: sqlite3.Connection,
        order: PaperOrder,
        quantity: Decimal,
        price: Decimal,
        at: int,
        moment: int,
        commission: Decimal | None,
        *,
        corrects: str | None = None,
    ) -> str:
        number = _count(db, "fill")
        fill_id = self._fill_id_format.format(number=number)
        if corrects is not None and self._corrected_fill_id is not None:
            fill_id = self._corrected_fill_id(corrects)
        db.execute(
            "INSERT INTO fills (number, fill_id, order_number, quantity, price, at, commission, currency, corrects)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                fill_id,
                order.number,
                str(quantity),
                str(price),
                at,
                _text(commission),
                order.ticket.instrument.currency or self.market.currency,
                corrects,
            ),
        )
        done = order.status is ReportStatus.WORKING and order.filled_quantity + quantity >= order.ticket.quantity
        self._touch(db, order.number, moment, ReportStatus.FILLED if done else None)
        return fill_id

    def _commission(self, order: PaperOrder) -> Decimal:
        return Decimal(0) if order.fills else self.market.commission_per_order

    def _touch(
        self,
        db: sqlite3.Connection,
        number: int,
        moment: int,
        status: ReportStatus | None = None,
        reason: str | None = None,
    ) -> None:
        db.execute(
            "UPDATE orders SET status = coalesce(?, status), reason = coalesce(?, reason), changed_at = max(changed_at, ?), changed = ?"
            " WHERE number = ?",
            (status, reason, moment, _count(db, "change"), number),
        )

    def _bust(self, db: sqlite3.Connection, fill_id: str, moment: int) -> int:
        number = _order_of_fill(db, fill_id, self.account_id)
        if db.execute("UPDATE fills SET busted = 1 WHERE fill_id = ? AND busted = 0", (fill_id,)).rowcount == 0:
            raise ValueError(f"the fill {fill_id} is busted already")
        self._touch(db, number, moment)
        return number

    def _finish(self, ref: OrderRef, status: ReportStatus, reason: str, now: datetime | None) -> None:
        moment = self._moment(now)
        with self._writing() as db:
            order = self._existing(db, ref)
            if order.status is not ReportStatus.WORKING:
                raise ValueError(f"the order is {order.status}")
            db.execute("DELETE FROM plan WHERE order_number = ? AND step <> ?", (order.number, _Step.COMMISSION))
            self._touch(db, order.number, moment, status, reason)

    def _named(self, db: sqlite3.Connection, ref: OrderRef) -> PaperOrder | None:
        if ref.broker_order_id is not None:
            found = _load(db, "account = ? AND broker_id = ?", (self.account_id, ref.broker_order_id))
        else:
            found = _load(db, "account = ? AND client_id = ?", (self.account_id, ref.client_order_id))
        return found[-1] if found else None

    def _existing(self, db: sqlite3.Connection, ref: OrderRef) -> PaperOrder:
        order = self._named(db, ref)
        if order is None:
            raise ValueError(f"the book has no order {ref}")
        return order

    def _price(self, ticket: Ticket) -> Decimal:
        own = {
            OrderType.MARKET: ticket.reference_price,
            OrderType.STOP: ticket.stop_price,
            OrderType.LIMIT: ticket.limit_price,
            OrderType.STOP_LIMIT: ticket.limit_price,
        }[ticket.order_type]
        price = self.symbol_price(ticket.instrument.symbol) if own is None else own
        if ticket.order_type in _LIMITED or not self.market.slippage_bps:
            return price
        slipped = price + ticket.side.sign * abs(price) * self.market.slippage_bps / 10_000
        places = _places(price)
        rounded = round(slipped, min(max(places, _SLIPPAGE_PLACES), _MOST_PLACES)).normalize()
        return round(rounded, places) if _places(rounded) < places else rounded

    def symbol_price(self, symbol: str) -> Decimal:
        """What a symbol costs where the order names no price: 10 to 500, the same for ever with the same seed."""
        return Decimal(random.Random(f"price:{self.market.seed}:{symbol}").randint(1_000, 50_000)).scaleb(-2)

    # Faults

    def _arm(self, faults: Iterable[Fault], *, named: bool) -> None:
        moment = self._moment(None)
        with self._writing() as db:
            for index, fault in enumerate(faults):
                name = hashlib.sha256(f"{index}:{fault!r}".encode()).hexdigest() if named else None
                timed = fault.action is Action.HIDE and fault.seconds > 0
                db.execute(
                    "INSERT OR IGNORE INTO faults (name, operation, action, client_id, symbol, account, nth, times, reason, seconds,"
                    " quantity, accepted, until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        name,
                        fault.operation,
                        fault.action,
                        fault.client_order_id,
                        fault.symbol,
                        fault.account_id,
                        fault.nth,
                        None if timed else fault.times,
                        fault.reason,
                        fault.seconds,
                        _text(fault.quantity),
                        fault.accepted,
                        moment + _micros(fault.seconds) if timed else None,
                    ),
                )

    def _draw(
        self,
        db: sqlite3.Connection,
        operation: Operation,
        client_order_id: str,
        symbol: str,
        moment: int,
        *,
        on_the_way: bool = False,
    ) -> list[Fault]:
        """The armed faults, of the way or of the book, that hit a call concerning this order; each hit is counted."""
        hits = []
        for armed in _armed(db, operation):
            if (armed.fault.action in ON_THE_WAY) is on_the_way and armed.fault.concerns(client_order_id, symbol):
                hits += self._hit(db, armed, moment)
        return hits

    def _hit(self, db: sqlite3.Connection, armed: _Armed, moment: int) -> list[Fault]:
        fault = armed.fault
        if not fnmatchcase(self.account_id, fault.account_id):
            return []
        if armed.until is not None and moment >= armed.until:
            db.execute("UPDATE faults SET spent = 1 WHERE id = ?", (armed.row_id,))
            return []
        seen = armed.seen + 1
        spent = fault.times is not None and seen >= fault.nth + fault.times - 1
        db.execute("UPDATE faults SET seen = ?, spent = ? WHERE id = ?", (seen, spent, armed.row_id))
        return [fault] if seen >= fault.nth else []

    def _distort(self, found: list[PaperOrder], mark: int, moment: int) -> tuple[list[PaperOrder], int]:
        """What the faults of the book leave of an answer."""
        with self._writing(BrokerUnavailable) as db:
            for armed in _armed(db, Operation.REPORTS):
                fault = armed.fault
                if fault.action is Action.HIDE:
                    hidden = {
                        order.number: order.change
                        for order in found
                        if fault.concerns(order.ticket.client_order_id, order.ticket.instrument.symbol)
                    }
                    if hidden and self._hit(db, armed, moment):
                        found = [order for order in found if order.number not in hidden]
                        mark = min(mark, min(hidden.values()) - 1)
                elif fault.action is Action.DUPLICATE and found and self._hit(db, armed, moment):
                    found = [order for order in found for _ in range(2)]
                elif fault.action is Action.REORDER and found and self._hit(db, armed, moment):
                    found = found[::-1]
        return found, mark

    # Holdings

    def _fold(self, now: datetime | None) -> _Holdings:
        """Derived from all fills, and kept as long as nothing changes in the book."""
        self.advance(now)
        with self._reading() as db:
            mark: int = db.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()[0]
            if self._holdings is None or self._holdings[0] != mark:
                self._holdings = (mark, _add_up(db, self.account_id, self.market))
            return self._holdings[1]


# One process may open a book for several accounts at once. Closing a plain descriptor of a file drops all the locks that the process
# holds on it, SQLite's included, so no other opening may run beside the creation.
_opening = threading.Lock()


def _open(path: Path, busy_timeout_seconds: float) -> sqlite3.Connection:
    deadline = time.monotonic() + busy_timeout_seconds
    try:
        with _opening:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                if path.stat().st_mode & 0o077:
                    path.chmod(0o600)
            else:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            db = sqlite3.connect(path, timeout=busy_timeout_seconds, isolation_level=None, check_same_thread=False)
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                # SQLite does not wait here by itself while another process switches the same file over.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_CHECKPOINTS}")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        db.execute("COMMIT")
    except (OSError, sqlite3.Error) as exc:
        raise BrokerUnavailable(f"The paper exchange's book {path} cannot be opened: {exc}") from exc
    if version not in (0, _SCHEMA_VERSION):
        db.close()
        raise BrokerUnavailable(f"The paper exchange's book {path} was made by another version of this program")
    return db


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        try:
            db.execute("ROLLBACK")
        except sqlite3.Error:
            # The error that led here is the one to tell; what is left open is undone when the connection or the process ends.
            return


def _count(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("UPDATE counters SET value = value + 1 WHERE name = ? RETURNING value", (name,)).fetchone()
    value: int = row[0]
    return value


def _load(
    db: sqlite3.Connection, where: str, parameters: tuple[object, ...], limit: int | None = None
) -> list[PaperOrder]:
    """The orders that fit, with their fills, in the sequence of their last change; at most `limit`."""
    sequence = "ORDER BY changed" if limit is None else f"ORDER BY changed LIMIT {limit}"
    rows = db.execute(f"SELECT {_ORDER_COLUMNS} FROM orders WHERE {where} {sequence}", parameters).fetchall()
    if not rows:
        return []
    fills: defaultdict[int, list[PaperFill]] = defaultdict(list)
    chosen = f"SELECT number FROM orders WHERE {where} {sequence}"
    for row in db.execute(
        f"SELECT {_FILL_COLUMNS} FROM fills f WHERE f.order_number IN ({chosen}) ORDER BY f.number", parameters
    ):
        fills[row[0]].append(
            PaperFill(
                fill_id=row[1],
                quantity=Decimal(row[2]),
                price=Decimal(row[3]),
                time=_time(row[4]),
                commission=_decimal(row[5]),
                commission_currency=row[6],
                busted=bool(row[7]),
                corrects=row[8],
            )
        )
    return [_order(row, tuple(fills[row[0]])) for row in rows]


def _order(row: tuple[Any, ...], fills: tuple[PaperFill, ...]) -> PaperOrder:
    ticket = Ticket(
        client_order_id=row[2],
        instrument=_instrument(row[4:13]),
        side=Side(row[13]),
        quantity=Decimal(row[14]),
        order_type=OrderType(row[15]),
        limit_price=_decimal(row[16]),
        stop_price=_decimal(row[17]),
        reference_price=_decimal(row[18]),
        tif=None if row[19] is None else Tif(row[19]),
        product=row[20],
        variety=row[21],
        reserved_order_id=row[22],
    )
    return PaperOrder(
        number=row[0],
        account_id=row[1],
        broker_order_id=row[3],
        ticket=ticket,
        status=ReportStatus(row[23]),
        reason=row[24],
        placed_at=_time(row[25]),
        changed_at=_time(row[26]),
        change=row[27],
        fills=fills,
    )


def _instrument(columns: tuple[Any, ...]) -> Instrument:
    symbol, asset_class, exchange, expiry, strike, right, currency, multiplier, underlying = columns
    return Instrument(
        symbol=symbol,
        asset_class=AssetClass(asset_class),
        exchange=exchange,
        expiry=expiry,
        strike=_decimal(strike),
        right=None if right is None else OptionRight(right),
        currency=currency,
        multiplier=_decimal(multiplier),
        underlying=underlying,
    )


def _order_of_fill(db: sqlite3.Connection, fill_id: str, account_id: str) -> int:
    row = db.execute(
        "SELECT o.number FROM fills f JOIN orders o ON o.number = f.order_number WHERE f.fill_id = ? AND o.account = ?",
        (fill_id, account_id),
    ).fetchone()
    if row is None:
        raise ValueError(f"the book has no fill {fill_id}")
    number: int = row[0]
    return number


def _armed(db: sqlite3.Connection, operation: Operation) -> list[_Armed]:
    rows = db.execute(
        f"SELECT {_FAULT_COLUMNS} FROM faults WHERE spent = 0 AND operation = ? ORDER BY id", (operation,)
    ).fetchall()
    return [
        _Armed(
            row[0],
            Fault(
                operation=Operation(row[1]),
                action=Action(row[2]),
                client_order_id=row[3],
                symbol=row[4],
                account_id=row[5],
                nth=row[6],
                times=row[7],
                reason=row[8],
                seconds=row[9],
                quantity=_decimal(row[10]),
                accepted=bool(row[11]),
            ),
            seen=row[13],
            until=row[12],
        )
        for row in rows
    ]


def _refuse_nonsense(ticket: Ticket) -> None:
    wrong = []
    if not ticket.quantity.is_finite() or ticket.quantity <= 0:
        wrong.append("a quantity above 0")
    if ticket.order_type in _LIMITED and ticket.limit_price is None:
        wrong.append("a limit price")
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and ticket.stop_price is None:
        wrong.append("a stop price")
    if wrong:
        raise OrderRefused(f"A {ticket.order_type} order needs {' and '.join(wrong)}")


def _first_part(quantity: Decimal, luck: float) -> Decimal:
    """Between none and all of it, in the quantity's own smallest step; all of it where it has only one."""
    step = Decimal(1).scaleb(-_places(quantity))
    steps = int(quantity / step)
    return quantity if steps < 2 else step * (1 + int(luck * (steps - 1)))


def _add_up(db: sqlite3.Connection, account_id: str, market: Market) -> _Holdings:
    rows = db.execute(
        f"SELECT f.quantity, f.price, f.commission, f.currency, o.side, {_INSTRUMENT_COLUMNS}"
        " FROM fills f JOIN orders o ON o.number = f.order_number WHERE o.account = ? AND f.busted = 0 ORDER BY f.at, f.number",
        (account_id,),
    )
    instruments: dict[tuple[Any, ...], Instrument] = {}
    held: dict[str, tuple[Instrument, Decimal, Decimal, Decimal]] = {}
    cash = defaultdict(Decimal, {market.currency: market.opening_cash})
    for amount, paid, commission, currency, side, *columns in rows:
        described = tuple(columns)
        thing = instruments.get(described) or instruments.setdefault(described, _instrument(described))
        price = Decimal(paid)
        bought = Decimal(amount) if side == Side.BUY else -Decimal(amount)
        _, before, average, _ = held.get(thing.key, (thing, Decimal(0), Decimal(0), Decimal(0)))
        after = before + bought
        if before * bought >= 0:
            average = (before * average + bought * price) / after
        elif after * before < 0:
            average = price
        held[thing.key] = (thing, after, average, price)
        cash[currency] -= bought * price * (thing.multiplier or 1) + Decimal(commission or 0)
    worth: defaultdict[str, Decimal] = defaultdict(Decimal)
    for thing, quantity, _, last in held.values():
        worth[thing.currency or market.currency] += quantity * last * (thing.multiplier or 1)
    return _Holdings(
        positions=tuple(
            BrokerPosition(instrument=thing, quantity=quantity, average_price=_tidy(average))
            for thing, quantity, average, _ in held.values()
            if quantity
        ),
        balances=tuple(
            Balance(currency=currency, cash=amount, equity=amount + worth[currency])
            for currency, amount in sorted(cash.items())
        ),
    )


def _tidy(price: Decimal) -> Decimal:
    return round(price, _MOST_PLACES) if _places(price) > _MOST_PLACES else price


def _places(number: Decimal) -> int:
    """Digits behind the point."""
    exponent = number.as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _time(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND


def _text(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
