"""An account at a market of the past, in a book that outlives the process: the orders and fills of the paper exchange's book, with prices by the
one matcher of `simulation`.

Durable is what was put in, in its sequence (orders placed and cancelled, moves of the market's clock), and what came of it, in one transaction
each. After a start the market is had again by putting the same in; another process that uses the book is followed in the same way.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

from brokers.base import Balance, Instrument, ReportStatus, Ticket
from brokers.errors import BrokerUnavailable, OrderRefused
from brokers.paper import book as paper_book
from brokers.paper.exchange import PaperExchange
from brokers.paper.file import BookFile
from brokers.paper.market import Holdings, add_up
from brokers.paper.model import Action, Fault, Market, Planned, Step, moment_of
from brokers.simulated.clock import TABLE as clock_table
from brokers.simulated.clock import is_asked, keep
from brokers.simulated.market import HistoricalMarket, MarketEnd, MarketFill, Placed, Turn
from simulation.bars import History
from simulation.history import inputs_of
from simulation.matching.codes import DAY, KINDS, LIMIT, STOP, STOP_LIMIT, TIFS
from simulation.settings import Settings
from simulation.units import Whole

NO_BARS_LEFT = "NO_BARS_LEFT: the bars have ended, and it could never fill"
_PLACE, _CANCEL, _MOVE = "place", "cancel", "move"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS market_made_of (account TEXT PRIMARY KEY, inputs TEXT NOT NULL, digest TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS market_inputs (
        seq INTEGER PRIMARY KEY, account TEXT NOT NULL, what TEXT NOT NULL, order_number INTEGER, lots INTEGER, arrival INTEGER)""",
    """CREATE TABLE IF NOT EXISTS market_cash (
        id INTEGER PRIMARY KEY, account TEXT NOT NULL, symbol TEXT NOT NULL, amount TEXT NOT NULL, at INTEGER NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS market_fills (fill_id TEXT PRIMARY KEY, reason TEXT NOT NULL)",
    clock_table,
)


@dataclass(frozen=True, slots=True)
class Past:
    """What an account's market is made of."""

    history: History
    settings: Settings
    start: datetime | None = None

    def made_of(self) -> dict[str, object]:
        """As in the manifest of a batch run, and where trading begins."""
        return {
            **inputs_of(self.history, self.settings),
            "start": None if self.start is None else self.start.isoformat(),
        }

    def digest(self) -> str:
        """The same for the same bars, settings and conventions, whatever the files are called."""
        made_of = self.made_of() | {"inputs": sorted(self.history.files.values())}
        return sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()


class HistoricalExchange(PaperExchange):
    """As the paper exchange, but that nothing fills by chance or by the wall clock: a fill comes when the market moves on (`move_on`).

    Times of fills are the market's, times of the book are real ones. A book belongs to the bars and settings with which it was begun: with others
    it is not opened (BrokerUnavailable), since its fills would not be theirs.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str,
        past: Past,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        file: BookFile | None = None,
    ) -> None:
        """Raises BrokerUnavailable; ValueError where no bar is left after the start."""
        settings = past.settings
        super().__init__(
            path,
            account_id=account_id,
            market=Market(
                fill_delay_seconds=None,
                commission_per_order=Decimal(0),
                currency=settings.currency,
                opening_cash=settings.cash or Decimal(0),
            ),
            broker_order_id_format="sim_{number:09d}",
            fill_id_format="sim_fill_{number:09d}",
            clock=clock,
            file=file,
        )
        self._past = past
        self._digest = past.digest()
        self._ticks, self._lots = Whole(settings.tick), Whole(settings.lot)
        self._symbols = {symbol.upper(): symbol for symbol in past.history.series}
        self._historical: HistoricalMarket | None = HistoricalMarket(past.history, settings, past.start)
        self._seen = 0
        """The latest input that this market has had."""
        with self._writing(BrokerUnavailable) as db:
            for statement in _TABLES:
                db.execute(statement)
            self._claim(db)
            self._keep_clock(db, self._caught_up(db), moved=0)

    def _claim(self, db: sqlite3.Connection) -> None:
        """The book is theirs from the first thing on that is put into the market."""
        has_begun = db.execute("SELECT 1 FROM market_inputs WHERE account = ? LIMIT 1", (self.account_id,)).fetchone()
        if has_begun is not None:
            self._check_claim(db)
            return
        made_of = json.dumps(self._past.made_of(), sort_keys=True, default=str)
        row = (self.account_id, made_of, self._digest)
        db.execute("INSERT OR REPLACE INTO market_made_of (account, inputs, digest) VALUES (?, ?, ?)", row)

    def _check_claim(self, db: sqlite3.Connection) -> None:
        (digest,) = db.execute("SELECT digest FROM market_made_of WHERE account = ?", (self.account_id,)).fetchone()
        if digest != self._digest:
            raise BrokerUnavailable(
                f"The book {self.path} of account {self.account_id} was begun with other bars or settings, and its fills are theirs: "
                "give these back, or take another account id, or move the book away to begin anew"
            )

    # What an adapter calls

    def move_on(self, now: datetime | None = None) -> Turn | None:
        """Moves the market by one opening time, and records what that brings. None: no bar is left. Raises BrokerUnavailable: then it has not
        moved."""
        moment = self._moment(now)
        try:
            with self._writing(BrokerUnavailable) as db:
                return self._moved(db, moment)
        except BaseException:
            # What it has tried is not in the book: it is had again from there.
            self._historical = None
            raise

    @property
    def waits(self) -> bool:
        """Whether an order works that the market ends by going on: one that is not good until cancelled. Raises BrokerUnavailable."""
        with self._reading() as db:
            market = self._caught_up(db)
            passing = market.passing if market.has_bars else ()
            if not passing:
                return False
            return not self._at_work(db).isdisjoint(passing)

    @property
    def is_asked_to_move(self) -> bool:
        """Whether a person wants it to go further, and it can. Raises BrokerUnavailable."""
        with self._reading() as db:
            return is_asked(db, self.account_id)

    def last_price(self, symbol: str) -> Decimal | None:
        """The close of its latest bar that is over; None: there is none. Raises BrokerUnavailable."""
        known = self._symbols.get(symbol.upper())
        return None if known is None else self.historical.last_price(known)

    def usual_volume(self, symbol: str) -> Decimal | None:
        """What all together usually trade in a bar; None: no bar that traded is over. Raises BrokerUnavailable."""
        known = self._symbols.get(symbol.upper())
        return None if known is None else self.historical.usual_volume(known)

    def why(self, fill_id: str) -> str | None:
        """Why a fill has its price, in the words of a batch run's `fill_reason`; None: the market has not made it. Raises BrokerUnavailable."""
        with self._reading() as db:
            row = db.execute("SELECT reason FROM market_fills WHERE fill_id = ?", (fill_id,)).fetchone()
        return None if row is None else str(row[0])

    @property
    def historical(self) -> HistoricalMarket:
        """As it stands in the book. Raises BrokerUnavailable."""
        with self._reading() as db:
            return self._caught_up(db)

    def as_placed(self, ticket: Ticket) -> Placed:
        """As the matcher takes it. Raises OrderRefused, with all that this market has not."""
        settings = self._past.settings
        symbol = self._symbols.get(ticket.instrument.symbol.upper())
        wrong = [] if symbol is not None else [f"there are no bars of {ticket.instrument.symbol}"]
        currency, multiplier = ticket.instrument.currency, ticket.instrument.multiplier
        if currency not in (None, settings.currency):
            wrong.append(f"the bars are in {settings.currency}, not {currency}")
        if multiplier not in (None, settings.multiplier):
            wrong.append(f"a point of the price is worth {settings.multiplier}, not {multiplier}")
        kind = KINDS[ticket.order_type]
        lots = _whole(self._lots, ticket.quantity, "quantity", wrong)
        limit = _whole(self._ticks, ticket.limit_price, "limit price", wrong) if kind in (LIMIT, STOP_LIMIT) else 0
        stop = _whole(self._ticks, ticket.stop_price, "stop price", wrong) if kind in (STOP, STOP_LIMIT) else 0
        if symbol is None or wrong:
            raise OrderRefused("; ".join(wrong), unsupported=True)
        return Placed(
            number=0,
            symbol=symbol,
            side=ticket.side.sign,
            kind=kind,
            limit=limit,
            stop=stop,
            tif=DAY if ticket.tif is None else TIFS[ticket.tif],
            lots=lots,
            arrival=0,
        )

    # Inside a transaction

    def _at_work(self, db: sqlite3.Connection) -> set[int]:
        """The numbers of orders that work by the book."""
        rows = db.execute("SELECT number FROM orders WHERE account = ? AND status = 'WORKING'", (self.account_id,))
        return {number for (number,) in rows}

    def _caught_up(self, db: sqlite3.Connection) -> HistoricalMarket:
        """The market after all that was put in, by whatever process."""
        market, self._historical = self._historical, None  # not kept where it is taken only half way
        if market is None:
            past = self._past
            market = HistoricalMarket(past.history, past.settings, past.start)
            self._seen = 0
        for seq, what, number, lots, arrival in db.execute(
            "SELECT seq, what, order_number, lots, arrival FROM market_inputs WHERE account = ? AND seq > ? ORDER BY seq",
            (self.account_id, self._seen),
        ).fetchall():
            if what == _PLACE:
                self._put_in(db, market, number, lots, arrival)
            elif what == _CANCEL:
                market.cancel(number)
            else:
                market.move_on()
            self._seen = seq
        self._historical = market
        return market

    def _put_in(self, db: sqlite3.Connection, market: HistoricalMarket, number: int, lots: int, arrival: int) -> None:
        ticket = paper_book.order_numbered(db, number).ticket
        linked = None
        if ticket.link is not None:
            others = [o.number for o in paper_book.orders_linked(db, self.account_id, ticket.link) if o.number < number]
            linked = max(others, default=None)
        # What is left of the ticket may be less by now: what was put in counts.
        placed = self.as_placed(replace(ticket, quantity=self._past.settings.lot * lots))
        market.place(replace(placed, number=number, arrival=arrival, linked=linked))

    def _put_down(
        self, db: sqlite3.Connection, what: str, number: int | None = None, lots: int | None = None, arrival: int = 0
    ) -> int:
        self._check_claim(db)  # another process may have opened it with other bars while nothing had happened yet
        done = db.execute(
            "INSERT INTO market_inputs (account, what, order_number, lots, arrival) VALUES (?, ?, ?, ?, ?)",
            (self.account_id, what, number, lots, arrival),
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def _plan(
        self, db: sqlite3.Connection, number: int, ticket: Ticket, faults: dict[Action, Fault], moment: int
    ) -> None:
        """Nothing is planned: the order is put into the market, where it waits for the next bar."""
        market = self._caught_up(db)
        rejection = self._refused_protection(db, number, ticket)
        if Action.REJECT in faults:
            rejection = faults[Action.REJECT].reason
        elif not market.has_bars:
            rejection = NO_BARS_LEFT
        if rejection is not None:
            paper_book.touch(db, number, moment, ReportStatus.REJECTED, rejection)
            return
        if Action.OVERFILL in faults:
            extra = faults[Action.OVERFILL].quantity or ticket.quantity
            price = market.last_price(self._symbols[ticket.instrument.symbol.upper()]) or self._price(ticket)
            planned = Planned(moment, Step.FILL, extra, price, Decimal(0))
            paper_book.schedule(db, self.account_id, number, planned)
        if Action.HOLD not in faults:
            self._put_down(db, _PLACE, number, self.as_placed(ticket).lots, market.arrival)

    def _accept(self, db: sqlite3.Connection, ticket: Ticket, moment: int) -> int:
        """With the value of a point, by which the book adds up amounts."""
        multiplier = self._past.settings.multiplier
        if multiplier != 1 and ticket.instrument.multiplier is None:
            ticket = replace(ticket, instrument=replace(ticket.instrument, multiplier=multiplier))
        self.as_placed(ticket)
        return super()._accept(db, ticket, moment)

    def _moved(self, db: sqlite3.Connection, moment: int) -> Turn | None:
        market = self._caught_up(db)
        if not market.has_bars:
            return None
        at_work = self._at_work(db)
        for number in market.working:
            if number not in at_work:
                # Cancelled, or ended by what it is linked to: the market learns of it before it goes on.
                self._put_down(db, _CANCEL, number)
                market.cancel(number)
        self._seen = self._put_down(db, _MOVE)
        turn = market.move_on()
        self._keep_clock(db, market, moved=1)
        for action in turn.actions:
            instrument = self._instrument_of(db, action.symbol)
            if action.quantity:
                # Before the fills of that opening, which are at its prices.
                at = moment_of(turn.opened_at) - 1
                paper_book.insert_transfer(db, self.account_id, instrument, action.quantity, Decimal(0), None, at)
            if action.cash:
                db.execute(
                    "INSERT INTO market_cash (account, symbol, amount, at) VALUES (?, ?, ?, ?)",
                    (self.account_id, action.symbol, str(action.cash), moment_of(turn.opened_at)),
                )
        if turn.actions:
            paper_book.count(db, "change")
        ends = {end.number: end for end in turn.ends}
        for fill in turn.fills:
            self._book_fill(db, fill, moment)
            if fill.number in ends:
                # At once: the book tells orders in the sequence of their last change, and fills are to be told as they happened.
                self._book_end(db, ends.pop(fill.number), moment)
        for end in ends.values():
            self._book_end(db, end, moment)
        return turn

    def _keep_clock(self, db: sqlite3.Connection, market: HistoricalMarket, *, moved: int) -> None:
        keep(db, self.account_id, market.time, market.next_opening, moved=moved)

    def _book_fill(self, db: sqlite3.Connection, fill: MarketFill, moment: int) -> None:
        order, at = paper_book.order_numbered(db, fill.number), moment_of(fill.time)
        fill_id = self._record_fill(
            db, order, fill.quantity, fill.price, at, moment, fill.commission, market_volume=fill.market_volume
        )
        db.execute("INSERT INTO market_fills (fill_id, reason) VALUES (?, ?)", (fill_id, fill.reason))

    def _book_end(self, db: sqlite3.Connection, end: MarketEnd, moment: int) -> None:
        if paper_book.order_numbered(db, end.number).status is ReportStatus.WORKING:
            paper_book.touch(db, end.number, moment, ReportStatus(end.status), end.reason)

    def _instrument_of(self, db: sqlite3.Connection, symbol: str) -> Instrument:
        """As the latest order has named it."""
        row = db.execute(
            "SELECT number FROM orders WHERE account = ? AND upper(symbol) = ? ORDER BY number DESC LIMIT 1",
            (self.account_id, symbol.upper()),
        ).fetchone()
        return paper_book.order_numbered(db, row[0]).ticket.instrument if row else Instrument(symbol=symbol)

    # Holdings

    def _fold(self, now: datetime | None) -> Holdings:
        """By the book's fills, with what corporate actions paid, and everything at the close of its latest bar."""
        self.advance(now)
        with self._reading() as db:
            mark = paper_book.mark(db)
            market = self._caught_up(db)
            if self._holdings is not None and self._holdings[0] == mark:
                holdings = self._holdings[1]
            else:
                holdings = add_up(paper_book.executions(db, self.account_id), self.market)
                paid = db.execute("SELECT amount FROM market_cash WHERE account = ?", (self.account_id,)).fetchall()
                cash = sum((Decimal(amount) for (amount,) in paid), Decimal(0))
                holdings = replace(holdings, balances=_with_cash(holdings, cash, self.market.currency))
                self._holdings = (mark, holdings)
        return replace(holdings, balances=self._at_market(holdings, market.marks()))

    def _at_market(self, holdings: Holdings, prices: Mapping[str, Decimal]) -> tuple[Balance, ...]:
        value = Decimal(0)
        for position in holdings.positions:
            price = prices.get(self._symbols.get(position.instrument.symbol.upper(), ""))
            if price is not None:
                value += position.quantity * price * self._past.settings.multiplier
        return tuple(
            replace(b, equity=b.cash + value) if b.currency == self.market.currency else b for b in holdings.balances
        )


def _with_cash(holdings: Holdings, cash: Decimal, currency: str) -> tuple[Balance, ...]:
    return tuple(replace(b, cash=b.cash + cash) if b.currency == currency else b for b in holdings.balances)


def _whole(step: Whole, number: Decimal | None, name: str, wrong: list[str]) -> int:
    try:
        whole = step.of_number(number) if number is not None else 0
    except (ValueError, ArithmeticError) as exc:
        wrong.append(f"the {name} {number} {exc}")
        return 0
    if whole <= 0:
        wrong.append(f"the {name} must be at least {step.step}")
    return whole
