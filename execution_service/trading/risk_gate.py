"""The risk gate of one account: gathers what is known, has it judged (core/risk/gate.py), and makes what an order reserves durable before its intent
is written; keeps the account's risk document. What is a breach is decided in core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from weakref import WeakKeyDictionary

import structlog

from brokers.base import Balance, Instrument
from brokers.errors import BrokerError
from execution_service.core.errors import UnreadableRecord
from execution_service.core.exact import ZERO
from execution_service.core.orders.events import Accepted, CancelRequested, Event, Filled, Rejected, SubmitStarted
from execution_service.core.orders.exits import linked_order_id, without_linked
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import product_of
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import AT_WORK, ReasonCode, Status
from execution_service.core.orders.waiting import WaitingReason
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of
from execution_service.core.reconcile.positions import by_product
from execution_service.core.risk.book import RiskBook, admitted, new_book, settled, tripped
from execution_service.core.risk.breaches import EngagingBreach, engaging_breaches
from execution_service.core.risk.counters import (
    Answered,
    CancelSent,
    Executed,
    Happened,
    Measured,
    Trip,
    day_of,
    fold_all,
)
from execution_service.core.risk.exposure import (
    Holding,
    Reservation,
    exit_room,
    exposure,
    in_currency,
    released,
    working_quantity,
)
from execution_service.core.risk.gate import Facts, Reading, Session, judge, refused_although_exit, reservation_of
from execution_service.core.risk.kill import KillLevel, KillState, lets_pass, strictest
from execution_service.core.risk.limits import (
    OF_AMOUNTS,
    OF_HOLDINGS_WORTH,
    OF_RESULTS,
    LimitType,
    RiskLimits,
    Scope,
    SessionRule,
    is_of_the_order_alone,
)
from execution_service.core.risk.markets import calendar_of
from execution_service.core.risk.prices import Rate, ReferencePrice, best_reference, is_fresh, rates_into
from execution_service.core.risk.results import Profit, profit_of, result_of
from execution_service.core.risk.usage import recounted, usages
from execution_service.core.risk.verdict import Breach, Decision, Verdict
from execution_service.core.texts.service import risk_day_ahead, risk_limit_broken, risk_limit_near
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection
from execution_service.trading.holdings import entries_with_unbooked
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.quotes import GOOD_FOR_SECONDS, WAIT_SECONDS, Quotes
from execution_service.trading.reconciliation import Reconciliation
from execution_service.trading.reference_prices import ReferencePrices
from execution_service.trading.risk_rules import RiskRules

log = structlog.get_logger(__name__)

ROUNDS_AT_MOST = 50
"""So often orders are judged anew because somebody else has changed the account's risk document meanwhile."""
LINGER_SECONDS = 0.2
"""What is told of orders that have filled or ended is written together; until then it is reserved too much."""
UNREADABLE_SECONDS = 10.0
"""How often a document that cannot be read is tried again, where no order asks for it."""
BALANCES_SECONDS = 30.0
VALUES_SECONDS = 20.0
"""How often what is held is valued, where a written limit asks for it."""
VALUES_AGAIN_SECONDS = 0.5
"""The same after a start, and twice as long each time as long as prices are missing."""
BALANCE_ANSWER_SECONDS = 5.0
CLOCKS_DIFFER_AT_MOST = timedelta(minutes=1)
"""Of the machines that share a store: a day that is ahead by no more is none that a clock has run into."""
STOOD_ASIDE_SECONDS = 5.0
"""So long after it has stood aside for a quote in vain an order is judged by what is known; later it is another occasion."""
UNREADABLE = "risk_document"
"""What the reason is called by for which new risk of an account waits whose risk document cannot be read."""
_OF_MONEY = (
    LimitType.MAX_LEVERAGE,
    LimitType.CHECK_BUYING_POWER,
    LimitType.MAX_DRAWDOWN_PCT,
    LimitType.MAX_DRAWDOWN,
    LimitType.MAX_DAILY_LOSS,
)
_OF_LOSSES = (*OF_RESULTS, LimitType.MAX_DRAWDOWN_PCT)


class _Question:
    """An order that is to be judged, and the answer."""

    __slots__ = ("error", "order", "verdict")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.verdict: Verdict | None = None
        self.error: BaseException | None = None

    @property
    def is_answered(self) -> bool:
        return self.verdict is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class _Held:
    """What the account holds, of one moment: by the ledger, and as it is judged."""

    entries: Mapping[LedgerKey, LedgerEntry]
    holdings: tuple[Holding, ...]


class RiskGate:
    """Lets orders of one account pass, one decision at a time: each is judged with the reservations of all before it."""

    def __init__(
        self,
        *,
        connection: Connection,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        alerts: RaisesAlerts,
        rules: RiskRules,
        reconciliation: Reconciliation,
        queues: InstrumentQueues,
        makes_up_prices: bool,
    ) -> None:
        """`reconciliation` knows where the broker's positions and our books differ. `makes_up_prices`: as in ReferencePrices."""
        self._connection = connection
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._rules = rules
        self._reconciliation = reconciliation
        self._prices = ReferencePrices(makes_up_prices=makes_up_prices)
        self.quotes = Quotes(
            connection=connection, clock=clock, alerts=alerts, reference_prices=self._prices, listener=self
        )
        self._queues = queues
        self._aside_until: dict[str, float] = {}
        """By our id, orders that stand aside for a quote, or have: until when by the monotonic clock."""
        self._holding_sides: asyncio.Task[Mapping[tuple[str, str], Decimal]] | None = None
        """What is held by strategy and instrument, as it is being read for orders that could wait for a quote."""
        self._lock = asyncio.Lock()
        self._asked: list[_Question] = []
        self._book: RiskBook | None = None
        """As it was last read or written; not trusted any more after a write that failed."""
        self._reserved: dict[str, Decimal] = {}
        """By our id, what orders reserve by that."""
        self._counted: list[Happened] = []
        """To be counted with the next write."""
        self._passed: dict[str, Reservation] = {}
        """By our id, what orders that passed may do whose intent is not recorded yet: no other may count on the same room meanwhile."""
        self._left: dict[str, Decimal] = {}
        """By our id, what orders may still fill by what is booked; to be written with the next write."""
        self._noted: WeakKeyDictionary[LiveOrder, int] = WeakKeyDictionary()
        """The last event of each order in hand that was counted, or needed no counting."""
        self._has_asked_balances = False
        self._base_currency: str | None = None
        """As the broker told it last."""
        self._rates: tuple[Rate, ...] = ()
        """Into that, likewise."""
        self._held_instruments: Mapping[str, Instrument] = {}
        """By their keys in the ledger, as they were looked at last."""
        self._ledger: dict[LedgerKey, LedgerEntry] | None = None
        """All entries of the account, flat ones too, where what strategies have made is wanted. None: not read yet."""
        self._booked: set[LedgerKey] = set()
        """Entries that have changed since."""
        self._has_read_results = False
        self._is_result_missing = False
        """A price or rate was missing for one of them."""
        self._awaits_values = False
        """Prices of what is held were asked for, and are not told yet."""
        self._to_value = WakeUp(clock)
        self._equity: Reading | None = None
        self._cash: Reading | None = None
        self._engaged: set[str] = set()
        """The marks of breaches for which a switch was engaged in this life; more often does no harm."""
        self._sessions: dict[str | None, Session | None] = {}
        """By the name of the calendar, as each was when an order of it was looked at last."""
        self._warned: set[str] = set()
        self._to_warn: dict[str, tuple[str, str]] = {}
        """By the id of the alert, its kind and text."""
        self._to_write = WakeUp(clock)

    @property
    def account_id(self) -> str:
        return self._connection.account_id

    @property
    def prices(self) -> ReferencePrices:
        """What is known of prices in this account's instruments."""
        return self._prices

    @property
    def _zone(self) -> tzinfo:
        """Of the trading day."""
        return self._rules.zones.of(self.account_id)

    @property
    def has_written_limits(self) -> bool:
        """Else nothing but what is built in judges the account's orders."""
        return bool(self._rules.limits.tables)

    def begin_anew(self) -> None:
        """Whoever was asking has ended; the document is read again."""
        self._lock = asyncio.Lock()
        self._asked.clear()
        self._passed.clear()
        self._aside_until.clear()
        self._holding_sides = None
        self._ledger, self._has_read_results = None, False
        self._keep(None)

    def known_prices(self, instrument_key: str) -> tuple[ReferencePrice, ...]:
        """As `ReferencePrices.of`."""
        return self._prices.of(instrument_key)

    # --- judging ------------------------------------------------------------------------------------------------

    async def judge(self, order: Order) -> Verdict:
        """Whether the order, as it would leave, may be sent now; with PASS what it reserves is durable, unless nothing but built-in limits binds
        it: these compare no totals. Raises StoreUnavailable."""
        limits = self._rules.limits
        await self._look_at_market(order, limits)
        if self._book is not None and not limits.adds_up(self.account_id) and not self._book.overrides:
            counted, _, _ = self._with_pending(self._book, limits)
            verdict = judge(order, self._facts(order, counted, await self._kill()), limits)
            if verdict.decision is Decision.PASS:
                return self._said(verdict)
        question = _Question(order)
        self._asked.append(question)
        await asyncio.sleep(0)  # the others of its batch come now, and are judged and written with it
        async with self._lock:
            while not question.is_answered:
                await self._answer(self._asked or [question])
        if question.error is not None:
            raise question.error
        assert question.verdict is not None
        return self._said(question.verdict)

    async def _answer(self, questions: list[_Question]) -> None:
        """One write for all. Whoever is cancelled meanwhile leaves the questions of the others to them."""
        self._asked = []
        try:
            for _ in range(ROUNDS_AT_MOST):
                if await self._judge_all(questions):
                    return
            raise StoreUnavailable("others have changed the account's risk document each time that an order was judged")
        except Exception as exc:  # noqa: BLE001  each that asked raises it
            self._keep(None)
            for question in questions:
                question.error = exc

    async def _judge_all(self, questions: Sequence[_Question]) -> bool:
        """False: somebody else has changed the document since it was read."""
        limits = self._rules.limits
        if not self._has_asked_balances and self._connection.is_connected and self._needs_balances(limits):
            await self._read_balances()
        if not self._has_read_results and limits.results_wanted(self.account_id):
            with suppress(UnreadableRecord):
                await self._read_results()
        was_known = self._book is not None
        try:
            book = await self._read()
        except UnreadableRecord as exc:
            await self._judge_without_document(questions, limits, str(exc))
            return True
        # After the document: a switch that is engaged from now on raises its fence, and what is judged here cannot be written.
        kill = await self._kill()
        changed, counted, left = self._with_pending(book, limits)
        must_write = changed is not book
        verdicts: list[Verdict | Exception] = []
        working = self._working(changed, limits)
        held = await self._held(limits)
        for question in questions:
            order = question.order
            beside = _beside(order, working)
            cap = await self._exit_cap(order, held, beside)
            try:
                facts = self._facts(order, changed, kill, holdings=held.holdings, working=beside, exit_cap=cap)
                verdict = judge(order, facts, limits)
            except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                verdicts.append(exc)
                continue
            verdicts.append(verdict)
            if verdict.decision is Decision.PASS and verdict.reservation is not None:
                changed = admitted(changed, order, verdict, limits, self._zone)
                working = (*(w for w in working if w.order_id != order.order_id), verdict.reservation)
                # Where a switch lets nothing but exits pass, two of them must not count on the same position, on whichever replica.
                is_bound = limits.adds_up(self.account_id) or kill.level(_where(order)) is not None
                must_write = must_write or is_bound or verdict.override_id is not None
            elif verdict.trips:
                with_trips = tripped(changed, verdict, limits, self._zone)
                must_write = must_write or with_trips is not changed
                changed = with_trips
        if was_known and any(isinstance(each, Verdict) and each.is_by_document for each in verdicts):
            # A person may have allowed the order meanwhile, or enabled again what is off: nobody is refused by what is only remembered.
            self._keep(None)
            return False
        if must_write and not await self._write(book, changed, counted, left):
            return False
        for question, answer in zip(questions, verdicts, strict=True):
            if isinstance(answer, Exception):
                question.error = answer
                continue
            question.verdict = answer
            if answer.reservation is not None:
                self._passed[question.order.order_id] = answer.reservation
        return True

    async def _judge_without_document(self, questions: Sequence[_Question], limits: RiskLimits, why: str) -> None:
        """Nothing can be reserved or counted: exits pass, by the orders in hand and what is held, and new risk waits until somebody has mended the
        document. People are told by whoever met it."""
        nothing = new_book(self.account_id)
        kill, working, held = await self._kill(), self._working(nothing, limits), await self._held(limits)
        for question in questions:
            beside = _beside(question.order, working)
            cap = await self._exit_cap(question.order, held, beside)
            facts = self._facts(question.order, nothing, kill, holdings=held.holdings, working=beside, exit_cap=cap)
            verdict = judge(question.order, facts, limits)
            if verdict.decision is Decision.PASS and verdict.is_exit and verdict.reservation is not None:
                working = (*working, verdict.reservation)
                self._passed[question.order.order_id] = verdict.reservation
            elif verdict.decision is not Decision.REFUSE:
                words = f"what the account's orders reserve cannot be read, and no new risk passes until it can: {why}"
                wait = Breach(limit_type=UNREADABLE, limit_value="readable", message=words)
                verdict = replace(verdict, decision=Decision.HOLD, waits=(wait,), reservation=None, override=None)
            question.verdict = verdict

    async def refused_although_exit(self, order: Order) -> Verdict | None:
        """The refusal of an order that may not leave even as an exit, for which no protective order is to make way; None: as an exit it may. It
        reserves nothing, and is judged as ever when it leaves. Raises StoreUnavailable."""
        limits = self._rules.limits
        await self._look_at_market(order, limits)
        return refused_although_exit(order, self._facts(order, new_book(self.account_id), await self._kill()), limits)

    async def known_of(self, order: Order) -> tuple[Facts, RiskLimits]:
        """What is known of an order that has no quantity yet, and the limits. The account's money is read anew where the last reading is not of this
        half minute. Raises StoreUnavailable."""
        now, limits = self._clock.now(), self._rules.limits
        await self._look_at_market(order, limits)
        is_recent = self._equity is not None and is_fresh(self._equity.at, now, Decimal(str(BALANCES_SECONDS)))
        if not is_recent and self._connection.is_connected:
            await self._read_balances()
        nothing = new_book(self.account_id)
        working, held = self._working(nothing, limits), await self._held(limits)
        return self._facts(order, nothing, await self._kill(), holdings=held.holdings, working=working), limits

    def not_leaving(self, live: LiveOrder) -> None:
        """An order that passed does not leave: if it has ended meanwhile, what it reserves is released."""
        self._passed.pop(live.order.order_id, None)
        if live.order.status.is_final and live.order.order_id in self._reserved:
            self._tell_left(live.order.order_id, ZERO)

    async def stops(self, order: Order, *, again: bool = False) -> str | None:
        """The one look that is left as the ticket leaves: why a kill switch or the safety service stops the order now, in words; None: neither does.
        An order that was let pass before a switch was engaged is to be judged again. `again`: it may have left before, and is judged by what is held
        now. Raises StoreUnavailable with `again`: it is not known."""
        kill = await self._kill()
        level = kill.level(_where(order))
        unsafe = self._rules.safety.reasons()
        if kill.is_known and level is None and not unsafe:
            return None
        is_exit = _is_exit(order) or (again and level is not KillLevel.HALT and await self._is_exit_now(order, kill))
        if unsafe and not is_exit:
            return "; ".join(unsafe)
        if lets_pass(strictest((level, None if kill.is_known else KillLevel.REDUCE_ONLY)), is_exit=is_exit):
            return None
        if again and not kill.is_known:
            raise StoreUnavailable("the state of the kill switches is not known")
        return "stopped by a kill switch as it left" if kill.is_known else "the state of the kill switches is not known"

    async def _is_exit_now(self, order: Order, kill: KillState) -> bool:
        """Of an order that was sent, or perhaps sent: whether what it may still do only reduces what is held. Raises StoreUnavailable."""
        limits = self._rules.limits
        try:
            async with self._lock:
                book = await self._read()
        except UnreadableRecord:
            book = new_book(self.account_id)
        working = _beside(order, self._working(book, limits))
        held = await self._held(limits)
        cap = await self._exit_cap(order, held, working)
        return judge(
            order, self._facts(order, book, kill, holdings=held.holdings, working=working, exit_cap=cap), limits
        ).is_exit

    # --- what is known ------------------------------------------------------------------------------------------

    def _facts(
        self,
        order: Order | None,
        book: RiskBook,
        kill: KillState,
        *,
        holdings: tuple[Holding, ...] | None = None,
        working: tuple[Reservation, ...] = (),
        exit_cap: Decimal | None = None,
    ) -> Facts:
        """What limits of the order alone need, neither what is held nor what works, where these are not given. Nothing is an exit by that, and so an
        order that passes by it passes."""
        return Facts(
            now=self._clock.now(),
            zone=self._zone,
            account_currency=self._currency,
            order_currency=None if order is None else self._currency_of(order),
            holdings=holdings,
            working=working,
            counters=book.counters,
            kill=kill,
            prices=() if order is None else self._prices.of(_key(order)),
            rates=self._all_rates,
            no_quote=None if order is None else self.quotes.why_none(_key(order)),
            exit_cap=exit_cap,
            equity=self._equity,
            buying_power=self._cash,
            safety=self._rules.safety.reasons(),
            overrides=book.overrides,
            session=None if order is None else self._sessions.get(self._calendar_of(order)),
            confidence=None if order is None else order.accepted_request.confidence,
        )

    async def _look_at_market(self, order: Order, limits: RiskLimits) -> None:
        """What is known of the order's market is as young as it can be within a short time."""
        self._prices.note_message(order)
        request = order.accepted_request
        where = Scope(account_id=request.account_id, strategy=request.strategy, symbol=request.instrument.symbol)
        rule = limits.of(where).bound(LimitType.SESSION)
        if rule is not None and rule.value is not SessionRule.IGNORE:
            self._sessions[self._calendar_of(order)] = await self.session_of(order)

    async def session_of(self, order: Order) -> Session | None:
        """Whether the order's market is open now; None: that is not known. Raises nothing."""
        calendar = self._calendar_of(order)
        return None if calendar is None else await self._rules.hours.session(calendar, self._clock.now())

    # --- quotes -------------------------------------------------------------------------------------------------

    async def waits_for_quote(self, order: Order) -> bool:
        """Whether the order, as it would leave, is to stand aside: the broker is being asked for its quote, and the order is brought back when it has
        answered, after a second at the latest. Others are not held up. What only reduces a position does not wait, since no limit is compared for it.
        Raises StoreUnavailable."""
        request = order.accepted_request
        limits = self._rules.limits.of(_where(order))
        if order.identity.purpose is Purpose.EXIT or not (limits.needs_prices or order.quantity is None):
            return False
        oldest = limits.bound(LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS)
        wanted = {_key(order): request.instrument}
        if self._needs_worth:
            wanted |= {key: each for key, each in self._held_instruments.items() if not self._prices.of(key)}
        good_for = GOOD_FOR_SECONDS if oldest is None else min(GOOD_FOR_SECONDS, oldest.number / 2)
        missing = self.quotes.missing(wanted, good_for)
        if not missing:
            return False
        now, until = self._clock.monotonic(), self._aside_until.get(order.order_id)
        if until is not None and until <= now < until + STOOD_ASIDE_SECONDS:
            return False
        self.quotes.ask_for(missing)
        if until is None or now >= until:
            if await self._may_reduce(order) and await self._is_exit_now(order, await self._kill()):
                return False
            self._aside_until[order.order_id] = self._clock.monotonic() + WAIT_SECONDS
            self._clock.call_later(WAIT_SECONDS, lambda: self._bring_back(order.order_id))
        return bool(self.quotes.missing(wanted, good_for))

    def quotes_answered(self) -> None:
        """Orders that stand aside are looked at again; and results where their prices were asked for, or one was missing."""
        if self._is_result_missing or self._awaits_values:
            self._awaits_values = False
            self._to_value.tell()
        for order_id in tuple(self._aside_until):
            self._bring_back(order_id)

    def _bring_back(self, order_id: str) -> None:
        live = self._live.by_id.get(order_id)
        if live is not None and self._queues.waits_for(live.order) is WaitingReason.RISK:
            self._queues.bring_back(live)
            self._queues.look_again(live)

    async def _may_reduce(self, order: Order) -> bool:
        """Whether its strategy holds something on the other side. All that ask at the same time ask the store once. Raises StoreUnavailable."""
        if self._holding_sides is None:
            self._holding_sides = asyncio.ensure_future(self._read_sides())
        reading = self._holding_sides
        try:
            held = await asyncio.shield(reading)
        finally:
            if reading.done() and self._holding_sides is reading:
                self._holding_sides = None
        request = order.accepted_request
        return held.get((request.strategy, _key(order)), ZERO) * request.side.sign < 0

    async def _read_sides(self) -> Mapping[tuple[str, str], Decimal]:
        entries, _ = await entries_with_unbooked(self._live, self._store, self.account_id, ())
        return {(key.strategy, key.instrument_key): entry.position.quantity for key, entry in entries.items()}

    def _calendar_of(self, order: Order) -> str | None:
        exchange = None if order.terms is None else order.terms.exchange
        return calendar_of(order.accepted_request.instrument, currency=self._currency_of(order), exchange=exchange)

    @property
    def _currency(self) -> str | None:
        """In which the account's amounts are: its base currency where the broker has such a setting, else the broker's own. None: the broker has not
        told the base currency, and somebody has written an amount down, which is meant in that."""
        if self._base_currency is not None:
            return self._base_currency
        is_needed = self._connection.capabilities.has_base_currency and self._writes_amounts(self._rules.limits)
        return None if is_needed else self._brokers_currency

    @property
    def _brokers_currency(self) -> str:
        return self._connection.capabilities.commission_currency

    def _currency_of(self, order: Order) -> str:
        """An order that names no currency, and of whose contract the broker says none, is traded in the broker's own."""
        told = None if order.terms is None else order.terms.currency
        return told or order.accepted_request.instrument.currency or self._brokers_currency

    def _writes_amounts(self, limits: RiskLimits) -> bool:
        return limits.writes(self.account_id, *OF_AMOUNTS)

    def _needs_balances(self, limits: RiskLimits) -> bool:
        """Whether somebody has written a limit down that compares what the broker tells with the account's balances."""
        is_base_wanted = self._connection.capabilities.has_base_currency and self._writes_amounts(limits)
        return is_base_wanted or limits.writes(self.account_id, *_OF_MONEY)

    @property
    def _all_rates(self) -> tuple[Rate, ...]:
        return (*self._rates, *self._rules.limits.rates)

    async def _kill(self) -> KillState:
        return await self._rules.switches.state()

    async def _exit_cap(self, order: Order, held: _Held, working: Sequence[Reservation]) -> Decimal | None:
        """The most that the order may take and be an exit, beside what its strategy holds in all. An exit by name was measured by the broker's
        positions before (exit_check.py); of another order nothing is an exit while they differ from our books. Where the broker holds products
        apart, none takes of another product than its own."""
        request = order.accepted_request
        products = self._connection.capabilities.products_of(request.instrument)
        product = product_of(order, products)
        is_measured = order.identity.purpose is Purpose.EXIT
        if not is_measured and await self._reconciliation.binding(request.instrument, product) is not None:
            return ZERO
        if product is None:
            return None
        key = key_of(order)
        entry = held.entries.get(key)
        mine = () if entry is None else by_product(entry, products)
        in_product = sum((each.quantity for each in mine if each.product in (None, product)), ZERO)
        others = released(working, order.order_id)
        return exit_room(
            in_product, request.side, working_quantity(others, key.strategy, key.instrument_key, request.side)
        )

    def _working(self, book: RiskBook, limits: RiskLimits) -> tuple[Reservation, ...]:
        """What is reserved, by the records of the orders in hand; and those at work that reserve nothing, since they were sent before there was a
        limit that adds up. To be taken before what is held: a fill in between counts twice."""
        found: list[Reservation] = []
        for reservation in book.reservations:
            live = self._live.by_id.get(reservation.order_id)
            left = (
                reservation.quantity
                if live is None
                else ZERO
                if live.order.status.is_final
                else live.order.remaining_quantity
            )
            if left > 0:
                found.append(reservation if left == reservation.quantity else replace(reservation, quantity=left))
        reserved = {each.order_id for each in book.reservations}
        for live in self._live.by_id.values():
            order = live.order
            if (
                order.status in AT_WORK
                and order.order_id not in reserved
                and order.request.account_id == self.account_id
            ):
                found.append(self._unreserved(order, book, limits))
                reserved.add(order.order_id)
        return self._linked_once(
            (*found, *(each for order_id, each in self._passed.items() if order_id not in reserved))
        )

    def _linked_once(self, some: tuple[Reservation, ...]) -> tuple[Reservation, ...]:
        """Of two orders that the broker links one alone: together they fill no more."""
        in_hand = [live.order for each in some if (live := self._live.by_id.get(each.order_id)) is not None]
        kept = {order.order_id: order for order in without_linked(in_hand)}
        left_out = {order.order_id for order in in_hand} - kept.keys()
        if not left_out:
            return some
        return tuple(
            each if each.order_id not in kept else replace(each, quantity=kept[each.order_id].remaining_quantity)
            for each in some
            if each.order_id not in left_out
        )

    def _unreserved(self, order: Order, book: RiskBook, limits: RiskLimits) -> Reservation:
        """What an order at work may still do for which nothing is reserved. Where that cannot be told, no total of which it is part is known."""
        try:
            return reservation_of(order, self._facts(order, book, KillState()), limits)
        except Exception as exc:
            log.exception(
                f"What an order may still do cannot be worked out: {exc}",
                action="reservation_unknown",
                signal_id=order.signal_id,
            )
            request = order.accepted_request
            return Reservation(
                order_id=order.order_id,
                strategy=request.strategy,
                instrument_key=request.instrument.key,
                symbol=request.instrument.symbol,
                side=request.side,
                quantity=order.remaining_quantity,
                unit_value=None,
                is_exit=False,
                at=self._clock.now(),
            )

    async def _held(self, limits: RiskLimits) -> _Held:
        """Raises StoreUnavailable."""
        entries, unclear = await entries_with_unbooked(self._live, self._store, self.account_id, ())
        now, currency, found = self._clock.now(), self._currency, []
        rates_by_age: dict[Decimal | None, Mapping[str, Decimal]] = {}
        for key, entry in entries.items():
            where = Scope(account_id=key.account_id, strategy=key.strategy, symbol=entry.instrument.symbol)
            oldest = limits.of(where).bound(LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS)
            max_age = None if oldest is None else oldest.number
            price = best_reference(self._prices.of(key.instrument_key), now, max_age)
            if max_age not in rates_by_age:
                rates_by_age[max_age] = rates_into(currency, self._all_rates, now, max_age)
            rates = rates_by_age[max_age]
            point = in_currency(entry.money_per_point, entry.currency or self._brokers_currency, currency, rates)
            found.append(
                Holding(
                    strategy=key.strategy,
                    instrument_key=key.instrument_key,
                    symbol=entry.instrument.symbol,
                    quantity=entry.position.quantity,
                    unit_value=None if price is None or point is None else price.price * point,
                )
            )
        unknown = (Holding(strategy="", instrument_key=i.key, symbol=i.symbol, quantity=None) for i in unclear)
        return _Held(entries, (*found, *unknown))

    # --- the document -------------------------------------------------------------------------------------------

    async def _read(self) -> RiskBook:
        if self._book is None:
            book = await self._store.risk_book(self.account_id)
            await self._compare(book)
            self._keep(book)
        assert self._book is not None
        return self._book

    async def _compare(self, book: RiskBook) -> None:
        """Each reservation with its order's record, as after a start or a take-over: of one that is over and booked, the last life died before it
        released it. One whose record cannot be read stays."""
        absent = [r.order_id for r in book.reservations if r.order_id not in self._live.by_id]
        stored = {s.order.order_id: (s.order, s.told) for s in await self._store.load(absent)} if absent else {}
        for reservation in book.reservations:
            live = self._live.by_id.get(reservation.order_id)
            order, told = (
                (live.order, live.told) if live is not None else stored.get(reservation.order_id, (None, None))
            )
            if order is None or told is None or told.ledger < order.version:
                continue
            if order.status.is_final:
                self._left[order.order_id] = ZERO
            elif order.status in AT_WORK and order.remaining_quantity != reservation.quantity:
                self._left[order.order_id] = order.remaining_quantity
        if self._left:
            self._to_write.tell()

    def _keep(self, book: RiskBook | None) -> None:
        self._book = book
        if book is not None:
            self._reserved = {each.order_id: each.quantity for each in book.reservations}
            self._warn_if_day_is_ahead(book)

    def _with_pending(self, book: RiskBook, limits: RiskLimits) -> tuple[RiskBook, int, dict[str, Decimal]]:
        """With what is to be counted and released; how much of the first that is, and what of the second."""
        changed, left = settled(book, self._left), dict(self._left)
        if self._counted:
            keep, now = limits.longest_window_seconds(), self._clock.now()
            counters = fold_all(changed.counters, self._counted, now=now, zone=self._zone, keep_seconds=keep)
            if counters != changed.counters:
                changed = replace(changed, counters=counters)
        return changed, len(self._counted), left

    async def _write(self, seen: RiskBook, changed: RiskBook, counted: int, left: dict[str, Decimal]) -> bool:
        """False: somebody else has changed the document since it was `seen`."""
        written = replace(changed, version=seen.version + 1)
        self._keep(None)  # not trusted before the write is known to have arrived
        if not await self._store.save_risk_book(written):
            return False
        del self._counted[:counted]
        for order_id, amount in left.items():
            if self._left.get(order_id) == amount:
                del self._left[order_id]
        self._keep(written)
        return True

    # --- what happens to orders -----------------------------------------------------------------------------------

    def booked(self, order: Order) -> None:
        """All fills of the order, as it is here, are in the ledger: what it reserves shrinks to what it may still fill."""
        if (order.fills or order.busted_fill_ids) and self._rules.limits.results_wanted(self.account_id):
            self._booked.add(key_of(order))
            self._to_value.tell()
        reserved = self._reserved.get(order.order_id)
        if reserved is None:
            return
        left = ZERO if order.status.is_final else order.remaining_quantity
        if left != reserved:
            self._tell_left(order.order_id, left)

    def _tell_left(self, order_id: str, left: Decimal) -> None:
        self._left[order_id] = left
        self._to_write.tell()

    def take(self, live: LiveOrder) -> None:
        """An order has come in hand, with what happened to it before: what can be told again without harm is."""
        order = live.order
        self._noted[live] = order.version
        for event in order.events:
            if isinstance(event, Filled):
                self._prices.note_fill(order, event)
            if isinstance(event, Filled | Rejected) and (happened := self._happened(order, event)) is not None:
                self._counted.append(happened)
                self._to_write.tell()

    def note_record(self, live: LiveOrder) -> None:
        """Called after each record."""
        order = live.order
        if order.request.account_id != self.account_id or not isinstance(order.request, OrderRequest):
            return
        if order.status is not Status.PENDING:
            self._passed.pop(order.order_id, None)
            self._aside_until.pop(order.order_id, None)
        seen, self._noted[live] = self._noted.get(live, 0), order.version
        for event in order.events[seen:]:
            if isinstance(event, Filled):
                self._prices.note_fill(order, event)
            happened = self._happened(order, event)
            if happened is not None:
                self._counted.append(happened)
                self._to_write.tell()

    def _happened(self, order: Order, event: Event) -> Happened | None:
        """What of it is counted, where a limit asks for it."""
        request, limits = order.accepted_request, self._rules.limits
        strategy, symbol, account = request.strategy, request.instrument.symbol, self.account_id
        match event:
            case Filled() if limits.writes(account, LimitType.REPEATED_EXECUTIONS):
                return Executed(
                    at=event.at,
                    fill_id=event.fill.fill_id,
                    order_id=order.order_id,
                    strategy=strategy,
                    symbol=symbol,
                )
            case CancelRequested() if limits.writes(account, LimitType.MAX_ORDERS_PER_MINUTE):
                return CancelSent(at=event.at, strategy=strategy, symbol=symbol)
            case Rejected() if event.reason.code is ReasonCode.BROKER_REJECTED and order.submitted_at is not None:
                is_rejected = True
            case Accepted() if self._is_run_of_rejections:
                is_rejected = False
            case _:
                return None
        if order.identity.purpose is Purpose.EXIT or _is_exit(order):
            return None
        return Answered(
            at=event.at,
            order_id=order.order_id,
            attempt=order.attempt,
            strategy=strategy,
            symbol=symbol,
            is_rejected=is_rejected,
        )

    @property
    def _is_run_of_rejections(self) -> bool:
        """Else an order that is taken ends none, and need not be counted."""
        is_stored = self._book is None or bool(self._book.counters.runs)
        return is_stored or any(isinstance(each, Answered) and each.is_rejected for each in self._counted)

    # --- warnings -----------------------------------------------------------------------------------------------

    def _said(self, verdict: Verdict) -> Verdict:
        """People are warned of each limit that is nearly used up, once a day, and of each that is broken for good."""
        for trip in verdict.trips:
            self._warn_broken(trip)
        # Of an order that is refused people read anyway.
        for use in verdict.near if verdict.decision is Decision.PASS else ():
            self._warn_near(use.limit, use.total, use.actual_value, use.limit_value, verdict.at)
        return verdict

    def _warn_broken(self, trip: Trip) -> None:
        name, total = self._connection.account_name, str(trip.scope)
        text = risk_limit_broken(account_name=name, limit=trip.limit, total=total, counted=trip.value)
        about = f"{self.account_id}:{trip.limit}:{trip.scope}"
        self._warn(f"risk-off:{about}:{trip.at.isoformat()}", f"risk_limit_broken:{about}", text)

    def _warn_near(self, limit: LimitType, total: Scope, used: Decimal, most: Decimal, at: datetime) -> None:
        # Of what compares the order alone every order is a figure of its own, and people are not told of each.
        whose = "each" if is_of_the_order_alone(limit) else total
        about = f"{self.account_id}:{limit}:{whose}"
        alert_id = f"risk-near:{about}:{day_of(at, self._zone)}"
        if alert_id not in self._warned:
            text = risk_limit_near(
                account_name=self._connection.account_name, limit=limit, total=str(total), used=used, most=most
            )
            self._warn(alert_id, f"risk_limit_near:{about}", text)

    def _warn_if_day_is_ahead(self, book: RiskBook) -> None:
        day, now, zone = book.counters.day, self._clock.now(), self._zone
        if day is not None and book.counters.is_day_ahead(now + CLOCKS_DIFFER_AT_MOST, zone):
            text = risk_day_ahead(
                account_id=self.account_id,
                account_name=self._connection.account_name,
                day=day,
                today=day_of(now, zone),
            )
            self._warn(f"risk-day-ahead:{self.account_id}:{day}", f"risk_day_ahead:{self.account_id}", text)

    def _warn(self, alert_id: str, kind: str, text: str) -> None:
        """Alerts of one kind become one message, so each limit of each total is a kind."""
        if alert_id not in self._warned:
            self._warned.add(alert_id)
            self._to_warn[alert_id] = kind, text
            self._to_write.tell()

    # --- life ---------------------------------------------------------------------------------------------------

    async def keep_book(self) -> None:
        """Until cancelled: writes what is to be counted and released, where no order that is judged does it first, and raises warnings."""
        while True:
            try:
                async with self._lock:
                    await self._bring_up_to_date()
                    broken = await self._broken()
                for each in broken:
                    await self._rules.engages.engage_for_breach(each)
                    self._engaged.add(each.mark)
                while self._to_warn:
                    alert_id, (kind, text) = next(iter(self._to_warn.items()))
                    await self._alerts.raise_alert_once(alert_id, kind, text)
                    self._to_warn.pop(alert_id, None)
            except (StoreUnavailable, UnreadableRecord) as exc:
                self._keep(None)
                log.info(f"The risk document waits: {exc}", action="risk_document_waits", account_id=self.account_id)
                is_unreadable = isinstance(exc, UnreadableRecord)
                await self._clock.sleep(UNREADABLE_SECONDS if is_unreadable else AFTER_FAILURE_SECONDS * 2)
                continue
            await self._to_write.wait(None)
            await self._clock.sleep(LINGER_SECONDS)

    async def _bring_up_to_date(self) -> None:
        for _ in range(ROUNDS_AT_MOST):
            book = await self._read()
            changed, counted, left = self._with_pending(book, self._rules.limits)
            if changed is book:
                del self._counted[:counted]
                self._left.clear()
                return
            if left and changed.uses:
                limits = self._rules.limits
                works = self._working(changed, limits)  # before what is held
                held = await self._held(limits)
                booked = (each for each in book.reservations if each.order_id in left)
                uses = recounted(changed.uses, exposure(held.holdings, works), self._clock.now(), booked)
                changed = replace(changed, uses=uses)
            if await self._write(book, changed, counted, left):
                return

    async def _broken(self) -> Sequence[EngagingBreach]:
        """Limits that are broken and are to engage a switch, each once; what stays broken until it is enabled again is kept before. People are warned
        of losses that come near their limit."""
        book, limits, now = await self._read(), self._rules.limits, self._clock.now()
        if limits.writes(self.account_id, *_OF_LOSSES):
            for usage in usages(limits, book, now, self._zone):
                if usage.limit_type in _OF_LOSSES and usage.is_near:
                    self._warn_near(usage.limit_type, usage.scope, usage.used, usage.value, now)
        if not limits.writes(self.account_id, LimitType.ON_BREACH):
            return ()
        found = [each for each in engaging_breaches(limits, book, now, self._zone) if each.mark not in self._engaged]
        trips = [each.new_trip for each in found if each.new_trip is not None]
        if trips:
            keep = limits.longest_window_seconds()
            counters = fold_all(book.counters, trips, now=now, zone=self._zone, keep_seconds=keep)
            if not await self._write(book, replace(book, counters=counters), 0, {}):
                self._to_write.tell()
                return ()
            for trip in trips:
                self._warn_broken(trip)
        return found

    async def keep_values(self) -> None:
        """Until cancelled: the prices of all that is held stay young, where a written limit adds up what it is worth or what it has made; and what
        strategies and symbols have made is read, also after each booking."""
        pause, ask_at = VALUES_AGAIN_SECONDS, self._clock.monotonic()
        while True:
            if self._connection.is_connected and self._needs_worth:
                try:
                    if self._clock.monotonic() >= ask_at:
                        is_complete = await self._look_at_holdings()
                        pause = self._values_seconds if is_complete else min(pause * 2, self._values_seconds)
                        ask_at = self._clock.monotonic() + pause
                    await self._read_results()
                except (StoreUnavailable, UnreadableRecord) as exc:
                    log.info(f"What is held is not known: {exc}", action="values_wait", account_id=self.account_id)
            await self._to_value.wait(max(VALUES_AGAIN_SECONDS, ask_at - self._clock.monotonic()))
            await self._clock.sleep(LINGER_SECONDS)

    @property
    def _needs_worth(self) -> bool:
        limits = self._rules.limits
        return limits.writes(self.account_id, *OF_HOLDINGS_WORTH) or bool(limits.results_wanted(self.account_id))

    async def _read_results(self) -> None:
        """What each strategy and symbol has made of which somebody has limited the loss. What is not known is not read, and too old after a while.
        Raises StoreUnavailable, UnreadableRecord."""
        scopes = self._rules.limits.results_wanted(self.account_id)
        if not scopes:
            self._ledger = None
            return
        now = self._clock.now()
        changed, self._booked = self._booked, set()
        try:
            if self._ledger is None:
                self._ledger = {entry.key: entry for entry in await self._store.every_ledger(self.account_id)}
            elif changed:
                self._ledger |= await self._store.ledgers(sorted(changed, key=lambda key: key.ledger_id))
            entries, unclear = await entries_with_unbooked(self._live, self._store, self.account_id, ())
        except (StoreUnavailable, UnreadableRecord):
            self._ledger = None
            raise
        self._ledger |= entries
        if unclear or self._store.unreadable_ledgers(self.account_id):
            return
        profits = [self._profit(entry) for entry in self._ledger.values()]
        self._is_result_missing = False
        for scope in scopes:
            made = result_of(scope, profits)
            if made is None:
                self._is_result_missing = True
                continue
            self._counted.append(Measured(at=now, scope=scope, value=made))
            self._to_write.tell()
        self._has_read_results = True

    def _profit(self, entry: LedgerEntry) -> Profit:
        now, currency = self._clock.now(), self._currency
        where = Scope(account_id=self.account_id, strategy=entry.key.strategy, symbol=entry.instrument.symbol)
        oldest = self._rules.limits.of(where).bound(LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS)
        max_age = None if oldest is None else oldest.number
        price = best_reference(self._prices.of(entry.key.instrument_key), now, max_age)
        rates = rates_into(currency, self._all_rates, now, max_age)
        rate = in_currency(Decimal(1), entry.currency or self._brokers_currency, currency, rates)
        return profit_of(entry, None if price is None else price.price, rate)

    @property
    def _values_seconds(self) -> float:
        """A third of the age that a price may have, so that one that fails leaves time for another."""
        everybody = Scope(account_id=self.account_id, strategy="", symbol="")
        oldest = self._rules.limits.of(everybody).bound(LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS)
        return VALUES_SECONDS if oldest is None else min(VALUES_SECONDS, max(1.0, float(oldest.number) / 3))

    async def _look_at_holdings(self) -> bool:
        """False: the broker has not told all prices yet that it was asked for. Raises StoreUnavailable."""
        entries, _ = await entries_with_unbooked(self._live, self._store, self.account_id, ())
        held = {key.instrument_key: entry.instrument for key, entry in entries.items() if entry.position.is_open}
        self._held_instruments = held
        missing = self.quotes.missing(held, Decimal(str(self._values_seconds / 2)))
        self._awaits_values = bool(missing)
        self.quotes.ask_for(missing)
        return not missing

    async def keep_balances(self) -> None:
        """Until cancelled: reads what the broker says of the account's money, where a written limit compares it."""
        while True:
            if self._connection.is_connected and self._needs_balances(self._rules.limits):
                await self._read_balances()
            await self._clock.sleep(BALANCES_SECONDS)

    async def _read_balances(self) -> None:
        """What is not told stays as old as it is, and is not known once it is too old."""
        self._has_asked_balances = True
        asked_at = self._clock.now()
        try:
            asked = self._connection.broker.balances()
            balances = await self._connection.ask(asked, BALANCE_ANSWER_SECONDS)
        except (BrokerError, TimeoutError) as exc:
            log.info(
                f"The broker does not tell balances: {exc}", action="balances_not_told", account_id=self.account_id
            )
            return
        now, currency = self._clock.now(), self._currency_in(balances)
        self._base_currency = currency
        self._rates = tuple(
            Rate(base=each.currency, quoted=currency, rate=each.rate, source=self._connection.broker_name, at=now)
            for each in balances
            if each.rate is not None and currency is not None and each.currency != currency
        )
        for balance in balances:
            if balance.currency == currency:
                self._cash = Reading(value=balance.cash, at=now)
                equity = balance.equity if balance.account_equity is None else balance.account_equity
                if equity is not None:
                    self._note_equity(equity, asked_at)

    def _currency_in(self, balances: Sequence[Balance]) -> str | None:
        """The account's base currency. None: the broker tells rates, and not in which currency it adds up."""
        if not self._connection.capabilities.has_base_currency:
            return self._brokers_currency
        base = next((each.currency for each in balances if each.is_base), None)
        tells_rates = any(each.rate is not None for each in balances)
        return base if base is not None or tells_rates else self._brokers_currency

    def _note_equity(self, equity: Decimal, asked_at: datetime) -> None:
        """As of when it was asked for: what a person says meanwhile is no older than that."""
        self._equity = Reading(value=equity, at=asked_at)
        if self._rules.limits.writes(self.account_id, *_OF_LOSSES):
            self._counted.append(Measured(at=asked_at, scope=Scope(account_id=self.account_id), value=equity))
            self._to_write.tell()


def _beside(order: Order, working: tuple[Reservation, ...]) -> tuple[Reservation, ...]:
    """Without the order that the broker links to this one: what either fills is taken off the other."""
    linked = linked_order_id(order)
    return working if linked is None else released(working, linked)


def _is_exit(order: Order) -> bool:
    """By the verdict of its latest sending."""
    sendings = (event.risk for event in reversed(order.events) if isinstance(event, SubmitStarted))
    verdict = next(sendings, None)
    return verdict is not None and verdict.is_exit


def _key(order: Order) -> str:
    return key_of(order).instrument_key


def _where(order: Order) -> Scope:
    request = order.accepted_request
    return Scope(account_id=request.account_id, strategy=request.strategy, symbol=request.instrument.symbol)
