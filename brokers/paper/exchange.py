"""The paper exchange: the life of an order from acceptance to its end, by chance, time and armed faults. No SQL, no
event loop, no network."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from brokers.base import (
    Balance,
    BrokerPosition,
    Instrument,
    OrderRef,
    OrderType,
    Report,
    Reports,
    ReportStatus,
    Side,
    Ticket,
)
from brokers.errors import BrokerError, BrokerUnavailable, OrderRefused, OutcomeUnknown
from brokers.paper import book as paper_book
from brokers.paper import faults as paper_faults
from brokers.paper import market as paper_market
from brokers.paper.file import BookFile
from brokers.paper.model import (
    LIMITED,
    Action,
    Execution,
    Fault,
    Market,
    Operation,
    PaperFill,
    PaperOrder,
    Planned,
    ScriptedQuote,
    Step,
    micros_of,
    moment_of,
    time_of,
)

STOP_PASSED = "The price is through the stop already"
"""The refusal of a protective stop that would be triggered at once."""


class PaperExchange:
    """One account's view of a book in the SQLite file `path`, which several accounts, threads and processes may share.

    Every call is atomic; events that are due by then happen first. What was answered survives a crash of the process.
    Calls for adapters raise only the errors of `brokers.errors`; those for tests and simulators (`fill_order` and the
    like) raise ValueError for impossible requests.

    `broker_order_id_format` is filled with `number`, `time` (UTC time of acceptance) and `symbol`, `fill_id_format`
    with `number`, `time` (of the execution) and `symbol`. `corrected_fill_id` makes the id of a correction from that of
    the corrected fill; without it, it is an
    ordinary id. With `unique_client_order_ids` false a client order id may repeat (as at venues where it is only a
    tag). `faults` are armed once per book, however often it is opened with them.
    """

    stops_rest = False
    """Whether a stop that the latest execution has not reached waits for one that does. Without any execution there is no
    price to wait for, and it is filled at once."""

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
        """Opens the book, creating it (for its owner only) if there is none. Raises BrokerUnavailable if it cannot be
        opened.

        `file` is the book at `path` if it is already open, shared by the accounts of one process; whoever opened it
        closes it.
        """
        self.path = Path(path)
        self.account_id = account_id
        self.market = market or Market()
        self._broker_order_id_format = broker_order_id_format
        self._fill_id_format = fill_id_format
        self._corrected_fill_id = corrected_fill_id
        self._unique = unique_client_order_ids
        self._clock = clock
        self._holdings: tuple[int, paper_market.Holdings] | None = None
        self._owns_file = file is None
        self._file: BookFile | None = file or BookFile(self.path, busy_timeout_seconds)
        if faults:
            self._arm(faults, named=True)

    def close(self) -> None:
        """Working orders and scheduled steps stay in the book."""
        file, self._file = self._file, None
        if file is not None and self._owns_file:
            file.close()

    # What an adapter calls

    def place(self, ticket: Ticket, now: datetime | None = None) -> Report:
        """Accepts the order, or rejects it for good (a Report with status REJECTED), and returns its state, which is
        final if the fill delay is 0. With an empty `client_order_id` it is somebody else's order, and may repeat.

        Raises OrderRefused for a ticket that no venue could accept, OrderAlreadyExists for a repeated id,
        BrokerUnavailable if it is certainly not in the book, OutcomeUnknown if the commit failed.
        """
        _refuse_nonsense(ticket)
        moment = self._moment(now)
        with self._writing() as db:
            faults = self._faults_in_the_book(db, Operation.PLACE, ticket, moment)
            if self._has_to_wait(db, ticket):
                ticket = replace(ticket, is_protective=True)  # the book's mark of what rests until a price reaches it
            number = self._accept(db, ticket, moment)
            self._plan(db, number, ticket, faults, moment)
            self._apply_due(db, moment)
            return paper_book.order_numbered(db, number).report()

    def cancel(self, ref: OrderRef, now: datetime | None = None) -> None:
        """Cancels what is open. Raises OrderRefused for an unknown or finished order, else as `place`."""
        moment = self._moment(now)
        self.advance(now)
        with self._writing() as db:
            order = self._named(db, ref)
            if order is None:
                raise OrderRefused(f"There is no order {ref.broker_order_id or ref.client_order_id}")
            if order.status is not ReportStatus.WORKING:
                raise OrderRefused(f"Too late to cancel: the order is {order.status}")
            ticket = order.ticket
            faults = self._faults_in_the_book(db, Operation.CANCEL, ticket, moment)
            if Action.IGNORE_CANCEL in faults:
                return
            paper_book.unschedule_order(db, order.number)
            if Action.CANCEL_RACE in faults:
                charged = self._commission(order)
                self._record_fill(db, order, order.open_quantity, self._price(ticket), moment, moment, charged)
                return
            paper_book.touch(db, order.number, moment, ReportStatus.CANCELLED, "Cancelled on request")
            late = faults.get(Action.LATE_FILL_AFTER_CANCEL)
            if late is not None:
                quantity = order.open_quantity if late.quantity is None else late.quantity
                due = moment + micros_of(late.seconds)
                planned = Planned(due, Step.FILL, quantity, self._price(ticket), self._commission(order))
                paper_book.schedule(db, self.account_id, order.number, planned)
                self._apply_due(db, moment)

    def reports(self, since: int | None = None, now: datetime | None = None, *, at_most: int | None = None) -> Reports:
        """The orders changed after the mark `since`; without a mark, those of the current UTC day, the unfinished
        ones, and those changed within 24 hours. In the order of their last change. An order hidden by a fault holds
        the mark back, so that it is reported later. Of more than `at_most`, the first are returned, and the rest is
        to be requested from the mark; armed faults apply to whole answers only. Raises BrokerUnavailable."""
        moment = self._moment(now)
        self.advance(now)
        with self._reading() as db:
            mark = paper_book.mark(db)
            armed = paper_faults.armed_for(db, Operation.REPORTS)
            limit = None if armed else at_most
            if since is not None and 0 <= since <= mark:
                found = paper_book.orders_changed_after(db, self.account_id, since, limit) if since < mark else []
            else:
                found = paper_book.orders_of_the_day(db, self.account_id, moment, limit)
        if armed:
            with self._writing(BrokerUnavailable) as db:
                found, mark = paper_faults.distort(db, self.account_id, found, mark, moment)
        has_more = limit is not None and len(found) == limit
        return Reports([order.report() for order in found], found[-1].change if has_more else mark, has_more)

    def find(self, client_order_id: str, now: datetime | None = None) -> Report | None:
        """The order with this id (the newest, if ids may repeat), however old. Raises BrokerUnavailable."""
        moment = self._moment(now)
        self.advance(now)
        with self._reading() as db:
            found = paper_book.orders_under(db, self.account_id, client_order_id)
            armed = paper_faults.armed_for(db, Operation.FIND)
        if not found:
            return None
        order = max(found, key=lambda order: order.number)
        if armed:
            with self._writing(BrokerUnavailable) as db:
                drawn = self._faults_in_the_book(db, Operation.FIND, order.ticket, moment)
            if Action.HIDE in drawn:
                return None
        return order.report()

    def positions(self, now: datetime | None = None) -> tuple[BrokerPosition, ...]:
        """The sums of the fills that are not busted, without flat ones. Raises BrokerUnavailable."""
        return self._fold(now).positions

    def balances(self, now: datetime | None = None) -> tuple[Balance, ...]:
        """Opening cash plus the effect of the fills that are not busted, per currency. Equity values positions at
        the price of their last fill."""
        return self._fold(now).balances

    def quote(self, symbol: str) -> ScriptedQuote | None:
        """As it was set; None: it never was. Raises BrokerUnavailable."""
        with self._asking() as db:
            return paper_book.quote_of(db, symbol)

    def draw(
        self,
        operation: Operation,
        client_order_id: str = "",
        symbol: str | None = None,
        now: datetime | None = None,
    ) -> tuple[Fault, ...]:
        """The faults that hit this call on its way to the book, for the caller to carry out; they count as used.
        Without `symbol` it is taken from the order in the book. Raises BrokerUnavailable."""
        with self._asking() as db:
            if not paper_faults.armed_for(db, operation):
                return ()
        with self._writing(BrokerUnavailable) as db:
            if symbol is None:
                symbol = paper_book.symbol_under(db, self.account_id, client_order_id)
            moment = self._moment(now)
            return tuple(
                paper_faults.draw(db, self.account_id, operation, client_order_id, symbol, moment, on_the_way=True)
            )

    def advance(self, now: datetime | None = None) -> bool:
        """Carries out everything that is due; True if there was anything. Cheap if not. Raises BrokerUnavailable."""
        moment = self._moment(now)
        with self._asking() as db:
            is_due = paper_book.is_anything_due(db, self.account_id, moment)
        if not is_due:
            return False
        with self._writing(BrokerUnavailable) as db:
            return self._apply_due(db, moment) > 0

    def next_due(self) -> datetime | None:
        """When the next scheduled step is due. None: there is none. Raises BrokerUnavailable."""
        with self._asking() as db:
            due = paper_book.next_due(db, self.account_id)
        return None if due is None else time_of(due)

    # What tests and simulators call

    def orders(self, client_order_id: str | None = None) -> list[PaperOrder]:
        """The true state of this account's orders (all, or those with one client id), oldest first. Faults hide
        nothing, and due steps are not carried out."""
        with self._reading() as db:
            if client_order_id is None:
                found = paper_book.orders(db, self.account_id)
            else:
                found = paper_book.orders_under(db, self.account_id, client_order_id)
        return sorted(found, key=lambda order: order.number)

    def order(self, broker_order_id: str) -> PaperOrder | None:
        """The true state of one order. None: there is none."""
        with self._reading() as db:
            return paper_book.order_with_broker_id(db, self.account_id, broker_order_id)

    def mark(self) -> int:
        """The number of the latest change in the book."""
        with self._asking() as db:
            return paper_book.mark(db)

    def changed_since(self, mark: int) -> list[PaperOrder]:
        """The true state of the orders changed after `mark`, in the order of their last change."""
        with self._reading() as db:
            return paper_book.orders_changed_after(db, self.account_id, mark)

    def set_quote(self, quote: ScriptedQuote) -> None:
        """The market in its symbol, for all accounts of the book, until it is set again."""
        with self._writing() as db:
            paper_book.insert_quote(db, quote)

    def add_fault(self, fault: Fault) -> None:
        """Arms a fault in the book: it hits calls of any process."""
        self._arm((fault,), named=False)

    def armed_faults(self, operation: Operation) -> list[Fault]:
        """Those that can still hit a call, of any account."""
        with self._reading() as db:
            return [armed.fault for armed in paper_faults.armed_for(db, operation)]

    def clear_faults(self) -> None:
        """Disarms all faults of the book."""
        with self._writing() as db:
            paper_faults.disarm_all(db)

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
        `late_commission` omits the commission until `set_commission`. Raises ValueError for more than is open, unless
        with `force`, which also fills finished orders."""
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
        """Sets or changes a fill's commission. Raises ValueError for an unknown fill."""
        with self._writing() as db:
            number = paper_book.number_of_filled_order(db, self.account_id, fill_id)
            paper_book.charge(db, fill_id, commission)
            paper_book.touch(db, number, self._moment(now))

    def bust_fill(self, fill_id: str, now: datetime | None = None) -> None:
        """Busts an execution; the order's status stays. Raises ValueError for an unknown or already busted fill."""
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
        """Busts an execution and replaces it by a new one with its own id. Raises ValueError as `bust_fill` does,
        and for a quantity that would overfill the order."""
        moment = self._moment(now)
        with self._writing() as db:
            order_number = self._bust(db, fill_id, moment)
            order = paper_book.order_numbered(db, order_number)
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
            corrected = paper_book.order_numbered(db, order_number)
            return next(fill for fill in corrected.fills if fill.fill_id == new_id)

    def trade_by_hand(
        self,
        instrument: Instrument,
        quantity: Decimal,
        price: Decimal | None = None,
        *,
        product: str | None = None,
        now: datetime | None = None,
    ) -> PaperOrder:
        """An order of somebody else, without a client id, filled at once: a person at the broker's own screen, or
        the broker's square-off. A negative quantity sells. Without a price, at the symbol's."""
        moment = self._moment(now)
        ticket = Ticket(
            client_order_id="",
            instrument=instrument,
            side=Side.BUY if quantity > 0 else Side.SELL,
            quantity=abs(quantity),
            order_type=OrderType.MARKET,
            product=product,
        )
        _refuse_nonsense(ticket)
        with self._writing() as db:
            order = paper_book.order_numbered(db, self._accept(db, ticket, moment))
            paid = self._price(ticket) if price is None else price
            self._record_fill(db, order, order.ticket.quantity, paid, moment, moment, self._commission(order))
            return paper_book.order_numbered(db, order.number)

    def move_position(
        self,
        instrument: Instrument,
        quantity: Decimal,
        price: Decimal = Decimal(0),
        *,
        product: str | None = None,
        now: datetime | None = None,
    ) -> None:
        """So much arrives (negative: leaves) without an order, an execution or money: an assignment, an expiry, a
        split, a transfer. Raises ValueError for a quantity of 0."""
        if not quantity.is_finite() or not quantity:
            raise ValueError(f"{quantity} cannot move")
        with self._writing() as db:
            paper_book.insert_transfer(db, self.account_id, instrument, quantity, price, product, self._moment(now))

    def executions(self) -> list[Execution]:
        """The fills that are not busted, and transfers, by time."""
        self.advance()
        with self._reading() as db:
            return list(paper_book.executions(db, self.account_id))

    def reject_order(self, ref: OrderRef, reason: str, now: datetime | None = None) -> None:
        """The venue's late rejection of a working order. Raises ValueError for any other."""
        self._finish(ref, ReportStatus.REJECTED, reason, now)

    def cancel_unasked(self, ref: OrderRef, reason: str, now: datetime | None = None) -> None:
        """The venue, or a person at its terminal, cancels a working order. Raises ValueError for any other."""
        self._finish(ref, ReportStatus.CANCELLED, reason, now)

    def expire_day(self, now: datetime | None = None) -> int:
        """The session ends: orders with time in force DAY or none expire. Returns how many."""
        moment = self._moment(now)
        self.advance(now)
        with self._writing() as db:
            numbers = paper_book.numbers_good_for_the_day(db, self.account_id)
            for number in numbers:
                paper_book.unschedule_order(db, number)
                paper_book.touch(db, number, moment, ReportStatus.EXPIRED, "Expired at the end of the day")
            return len(numbers)

    # Transactions

    def _writing(self, at_commit: type[BrokerError] = OutcomeUnknown) -> AbstractContextManager[sqlite3.Connection]:
        return self._open_file().writing(at_commit)

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._open_file().reading()

    def _asking(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._open_file().asking()

    def _open_file(self) -> BookFile:
        if self._file is None:
            raise BrokerUnavailable("The paper exchange's book is closed")
        return self._file

    def _moment(self, now: datetime | None) -> int:
        return moment_of(now or self._clock())

    # Inside a write transaction

    def _accept(self, db: sqlite3.Connection, ticket: Ticket, moment: int) -> int:
        """Returns the order's number."""
        number = paper_book.count(db, "order")
        paper_book.insert_order(
            db,
            self.account_id,
            number,
            ticket.reserved_order_id
            or self._broker_order_id_format.format(
                number=number, time=time_of(moment), symbol=ticket.instrument.symbol
            ),
            ticket,
            moment,
            unique_client_order_id=self._unique and bool(ticket.client_order_id),
        )
        return number

    def _plan(
        self, db: sqlite3.Connection, number: int, ticket: Ticket, faults: dict[Action, Fault], moment: int
    ) -> None:
        decision = paper_market.decide(ticket, self.market, faults, moment)
        refusal = self._refused_protection(db, number, ticket)
        if refusal is not None:
            decision = paper_market.Decision(refusal)
        if decision.rejection is not None:
            paper_book.touch(db, number, moment, ReportStatus.REJECTED, decision.rejection)
        for planned in decision.plan:
            paper_book.schedule(db, self.account_id, number, planned)

    def _has_to_wait(self, db: sqlite3.Connection, ticket: Ticket) -> bool:
        if not self.stops_rest or ticket.is_protective or ticket.stop_price is None:
            return False
        last = paper_book.last_price(db, ticket.instrument)
        return last is not None and not paper_market.is_due_at(ticket, last)

    def _refused_protection(self, db: sqlite3.Connection, number: int, ticket: Ticket) -> str | None:
        """Why a protective order cannot rest: what it is linked to is done, or the price has passed its stop."""
        if ticket.link is not None:
            linked = paper_book.orders_linked(db, self.account_id, ticket.link)
            if any(each.number != number and each.status is ReportStatus.FILLED for each in linked):
                return "What it is linked to is done"
        if not ticket.is_protective or ticket.stop_price is None or self.market.fill_delay_seconds is None:
            return None
        price = self._market_price(db, ticket)
        return STOP_PASSED if price is not None and paper_market.is_due_at(ticket, price) else None

    def _market_price(self, db: sqlite3.Connection, ticket: Ticket) -> Decimal | None:
        """Where the ticket would meet the market: at the quote that somebody has set, else at the latest execution."""
        quote = paper_book.quote_of(db, ticket.instrument.symbol)
        quoted = None if quote is None else quote.bid if ticket.side is Side.SELL else quote.ask
        return paper_book.last_price(db, ticket.instrument) if quoted is None else quoted

    def _take_off_linked(self, db: sqlite3.Connection, order: PaperOrder, quantity: Decimal, moment: int) -> None:
        """What one of several linked orders has filled, the others may not."""
        if order.ticket.link is None:
            return
        for each in paper_book.orders_linked(db, self.account_id, order.ticket.link):
            if each.number == order.number or each.status is not ReportStatus.WORKING:
                continue
            left = each.ticket.quantity - quantity
            if left > each.filled_quantity:
                paper_book.reduce_quantity(db, each.number, left)
                paper_book.touch(db, each.number, moment)
            else:
                paper_book.unschedule_order(db, each.number)
                reason = "What it is linked to has filled"
                paper_book.touch(db, each.number, moment, ReportStatus.CANCELLED, reason)

    def _trigger(self, db: sqlite3.Connection, executed: PaperOrder, price: Decimal, moment: int) -> None:
        """An execution is the market's price: other protective orders that it reaches are due."""
        instrument = executed.ticket.instrument
        if self.market.fill_delay_seconds is None:
            return
        due = moment + micros_of(self.market.fill_delay_seconds)
        for order in paper_book.resting(db, instrument.symbol):
            ticket = order.ticket
            is_same = replace(ticket.instrument, exchange=None, currency=None) == replace(
                instrument, exchange=None, currency=None
            )
            if order.number == executed.number or not is_same or not paper_market.is_due_at(ticket, price):
                continue
            paper_book.unschedule_order(db, order.number)
            paid = price if ticket.order_type is OrderType.STOP else paper_market.price_of(ticket, self.market)
            planned = Planned(due, Step.FILL, order.open_quantity, paid, self._commission(order))
            paper_book.schedule(db, order.account_id, order.number, planned)

    def _apply_due(self, db: sqlite3.Connection, moment: int) -> int:
        rows = paper_book.due_rows(db, self.account_id, moment)
        for row in rows:
            paper_book.unschedule(db, row)
            order = paper_book.order_numbered(db, row.order_number)
            planned = row.planned
            is_triggered = order.ticket.is_protective and order.status is not ReportStatus.CANCELLED
            if planned.step is Step.FILL and is_triggered:
                quantity = min(
                    planned.quantity, order.open_quantity
                )  # it, or what it is linked to, may have filled since
                if not quantity:
                    continue
                self._record_fill(db, order, quantity, planned.price, planned.due, moment, planned.commission)
            elif planned.step is Step.FILL:
                self._record_fill(db, order, planned.quantity, planned.price, planned.due, moment, planned.commission)
            elif planned.step is Step.CANCEL:
                paper_book.touch(db, order.number, moment, ReportStatus.CANCELLED, planned.reason)
            else:
                without = [fill.fill_id for fill in order.fills if fill.commission is None]
                for index, fill_id in enumerate(without):
                    paper_book.charge(db, fill_id, planned.commission if index == 0 else Decimal(0))
                paper_book.touch(db, order.number, moment)
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
        market_volume: Decimal | None = None,
    ) -> str:
        number = paper_book.count(db, "fill")
        fill_id = self._fill_id_format.format(number=number, time=time_of(at), symbol=order.ticket.instrument.symbol)
        if corrects is not None and self._corrected_fill_id is not None:
            fill_id = self._corrected_fill_id(corrects)
        paper_book.insert_fill(
            db,
            number,
            fill_id=fill_id,
            order_number=order.number,
            quantity=quantity,
            price=price,
            at=at,
            commission=commission,
            currency=order.ticket.instrument.currency or self.market.currency,
            corrects=corrects,
            market_volume=market_volume,
        )
        self._take_off_linked(db, order, quantity, moment)
        self._trigger(db, order, price, moment)
        done = order.status is ReportStatus.WORKING and order.filled_quantity + quantity >= order.ticket.quantity
        paper_book.touch(db, order.number, moment, ReportStatus.FILLED if done else None)
        return fill_id

    def _commission(self, order: PaperOrder) -> Decimal:
        return Decimal(0) if order.fills else self.market.commission_per_order

    def _bust(self, db: sqlite3.Connection, fill_id: str, moment: int) -> int:
        number = paper_book.number_of_filled_order(db, self.account_id, fill_id)
        if not paper_book.bust(db, fill_id):
            raise ValueError(f"the fill {fill_id} is busted already")
        paper_book.touch(db, number, moment)
        return number

    def _finish(self, ref: OrderRef, status: ReportStatus, reason: str, now: datetime | None) -> None:
        moment = self._moment(now)
        with self._writing() as db:
            order = self._existing(db, ref)
            if order.status is not ReportStatus.WORKING:
                raise ValueError(f"the order is {order.status}")
            paper_book.unschedule_order(db, order.number)
            paper_book.touch(db, order.number, moment, status, reason)

    def _named(self, db: sqlite3.Connection, ref: OrderRef) -> PaperOrder | None:
        if ref.broker_order_id is not None:
            return paper_book.order_with_broker_id(db, self.account_id, ref.broker_order_id)
        found = paper_book.orders_under(db, self.account_id, ref.client_order_id)
        return found[-1] if found else None

    def _existing(self, db: sqlite3.Connection, ref: OrderRef) -> PaperOrder:
        order = self._named(db, ref)
        if order is None:
            raise ValueError(f"the book has no order {ref}")
        return order

    def _price(self, ticket: Ticket) -> Decimal:
        return paper_market.price_of(ticket, self.market)

    def symbol_price(self, symbol: str) -> Decimal:
        """The price of a symbol if the order names none: 10 to 500, always the same with the same seed."""
        return paper_market.symbol_price(symbol, self.market)

    # Faults

    def _arm(self, faults: Sequence[Fault], *, named: bool) -> None:
        moment = self._moment(None)
        with self._writing() as db:
            paper_faults.arm(db, faults, moment, named=named)

    def _faults_in_the_book(
        self, db: sqlite3.Connection, operation: Operation, ticket: Ticket, moment: int
    ) -> dict[Action, Fault]:
        """The faults that hit a call about this order; they count as used. A book with other kinds of faults
        overrides this."""
        drawn = paper_faults.draw(
            db, self.account_id, operation, ticket.client_order_id, ticket.instrument.symbol, moment
        )
        return {fault.action: fault for fault in drawn}

    # Holdings

    def _fold(self, now: datetime | None) -> paper_market.Holdings:
        """Computed from all fills, and cached until something changes in the book."""
        self.advance(now)
        with self._reading() as db:
            mark = paper_book.mark(db)
            if self._holdings is None or self._holdings[0] != mark:
                self._holdings = (mark, paper_market.add_up(paper_book.executions(db, self.account_id), self.market))
            return self._holdings[1]


def _refuse_nonsense(ticket: Ticket) -> None:
    wrong = []
    if not ticket.quantity.is_finite() or ticket.quantity <= 0:
        wrong.append("a quantity above 0")
    if ticket.order_type in LIMITED and ticket.limit_price is None:
        wrong.append("a limit price")
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and ticket.stop_price is None:
        wrong.append("a stop price")
    if ticket.display_quantity is not None and not 0 < ticket.display_quantity < ticket.quantity:
        wrong.append("a displayed quantity above 0 and below its own")
    if wrong:
        raise OrderRefused(f"A {ticket.order_type} order needs {' and '.join(wrong)}")
