"""The fresh look that an exit takes at the broker's positions before it leaves, where a comparison has found another position there than in our
books or these hold nothing that it could close, and what that lets it take; how much that is, is decided in core/exit_bound.py."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from brokers.base import Instrument, Side
from brokers.errors import BrokerError
from execution_service.core.orders.events import Capped, Event, Noted, Rejected
from execution_service.core.orders.exit_bound import ZERO, ExitPositionCheck, Exposure, exit_limit
from execution_service.core.orders.exits import linked_order_id, without_linked
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import product_of
from execution_service.core.orders.report_events import was_noted
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.sanitize import sanitized_position
from execution_service.core.orders.status import AT_WORK, Reason, ReasonCode
from execution_service.core.orders.waiting import Waiting, WaitingReason
from execution_service.core.reconcile.discrepancies import ExitRestriction
from execution_service.core.reconcile.positions import Holding, InstrumentGroup, group_of
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store
from execution_service.trading.connection import Connection
from execution_service.trading.holdings import holdings
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.reconciliation import Reconciliation
from execution_service.trading.report_poller import ReportPoller
from execution_service.trading.tasks import Tasks

LOOKING_SECONDS = 10.0
"""How long an exit waits for the broker's positions; an exit must always be possible."""
AGAIN_SECONDS = (1.0, 2.0, 3.0)
"""Between two looks where the first was not answered, or showed something that was moving; the last again and again."""
MOVING_SECONDS = 2.0
"""How long after a fill a broker's positions may still be without it."""
FRESH_SECONDS = 3.0
"""A look that is older when the exit's turn comes is taken again."""
LOOKS_AT_MOST = 3
"""So many times in succession an exit looks because its look had grown old before its turn, or something had moved; then the latest counts, with
the more careful of both moments' figures."""
FORGOTTEN_SECONDS = 60.0
"""A look of before that counts for nothing any more."""
LOOKING = Waiting(WaitingReason.POSITIONS, WaitingReason.POSITIONS.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """One answer of the broker beside our records of the same moment."""

    difference: Decimal
    """What the broker holds beyond our books."""
    group: InstrumentGroup
    at: float
    """By the monotonic clock."""
    is_moving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is known when the looking has ended."""

    at: float
    difference: Decimal | None
    """None: nothing is known of what the broker holds."""
    measure: _Measure | None = None
    """None: the broker did not tell, and `difference` is of an earlier comparison."""
    trouble: str = ""
    number: int = 1


@dataclass(slots=True)
class _Looking:
    """What looking has shown so far."""

    measures: list[_Measure] = field(default_factory=list)
    """Those around which something moved."""
    sure: _Measure | None = None
    trouble: str = "no answer in time"
    is_over: bool = False

    @property
    def latest(self) -> Decimal | None:
        return self.measures[-1].difference if self.measures else None


class ExitCheck:
    """Bounds the exits of one account by what its broker holds."""

    def __init__(
        self,
        *,
        mode: ExitPositionCheck,
        connection: Connection,
        report_poller: ReportPoller,
        queues: InstrumentQueues,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        tasks: Tasks,
        reconciliation: Reconciliation,
    ) -> None:
        """`reconciliation` knows the difference that binds the exits of an instrument, and asks nobody for it."""
        self._mode = mode
        self._connection = connection
        self._report_poller = report_poller
        self._queues = queues
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._reconciliation = reconciliation
        self._looking: set[str] = set()
        self._looks: dict[str, _Look] = {}
        """By our id, of exits whose turn comes next."""
        self._moved: dict[str, tuple[Instrument, float]] = {}
        """By instrument key: when something was last recorded of an order of it that has filled."""

    def begin_anew(self) -> None:
        """Nobody is looking: whoever was has ended."""
        self._looking.clear()
        self._looks.clear()

    def note_record(self, live: LiveOrder) -> None:
        """Called after each record."""
        request = live.order.request
        if live.order.fills and isinstance(request, OrderRequest) and request.account_id == self._connection.account_id:
            instrument = live.order.accepted_request.instrument
            self._moved[instrument.key] = (instrument, self._clock.monotonic())

    async def bound(self, live: LiveOrder, order: Order, *, must_look: bool) -> tuple[Event, ...] | Waiting:
        """What must be recorded before the exit leaves because of what the broker holds: nothing, a reduction, a remark, or its end; or
        that this is being looked at, and its queue is held meanwhile. `order` is the exit as it would leave. `must_look`: though
        nothing is known to differ, since neither its entry nor what its strategy holds covers it. Raises StoreUnavailable."""
        if self._mode is ExitPositionCheck.OFF:
            return ()
        if order.order_id in self._looking:
            self._queues.hold(live.order)
            return LOOKING
        must_look = must_look or self._mode is ExitPositionCheck.ALWAYS
        binding = await self._reconciliation.binding(order.accepted_request.instrument, self._product(order))
        if binding is None and not must_look:
            return ()
        look = self._looks.pop(order.order_id, None)
        if look is not None and self._clock.monotonic() - look.at > FORGOTTEN_SECONDS:
            look = None
        if look is None or self._must_look_again(look):
            self._begin(live, order, binding, 1 if look is None else look.number + 1)
            return LOOKING
        if look.measure is not None and not look.difference and not must_look:
            return ()  # it differed once, and does no more
        return await self._judged(order, look, binding)

    def _must_look_again(self, look: _Look) -> bool:
        age = self._clock.monotonic() - look.at
        has_moved = look.measure is not None and self._has_moved(look.measure.group, look.measure.at)
        return (age > FRESH_SECONDS or has_moved) and look.number < LOOKS_AT_MOST

    # --- the look -----------------------------------------------------------------------------------------------

    def _begin(self, live: LiveOrder, order: Order, binding: ExitRestriction | None, number: int) -> None:
        self._looking.add(order.order_id)
        self._queues.hold(live.order)
        self._tasks.begin(self._look(live, order, binding, number), f"look-{order.order_id}")

    async def _look(self, live: LiveOrder, order: Order, binding: ExitRestriction | None, number: int) -> None:
        """Never longer than LOOKING_SECONDS, whatever the broker does; then the queue goes on."""
        looking = _Looking()
        asking = self._tasks.begin(self._measure_until_sure(order, binding, looking), f"ask-{order.order_id}")
        waiting = asyncio.ensure_future(self._clock.sleep(LOOKING_SECONDS))
        try:
            await asyncio.wait((asking, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            looking.is_over = True  # a question that is on its way ends by itself, in bounded time
            self._looking.discard(order.order_id)
            try:
                self._keep(order, self._result(order, binding, looking, number))
            finally:
                self._queues.release(live.order)

    def _keep(self, order: Order, look: _Look) -> None:
        self._looks = {key: kept for key, kept in self._looks.items() if look.at - kept.at <= FORGOTTEN_SECONDS}
        self._looks[order.order_id] = look

    def _result(self, order: Order, binding: ExitRestriction | None, looking: _Looking, number: int) -> _Look:
        """The sure figure, or the most careful of those that were moving, or the last that is known."""
        now, measures = self._clock.monotonic(), looking.measures
        if looking.sure is not None:
            return _Look(at=now, difference=looking.sure.difference, measure=looking.sure, number=number)
        if measures:
            sign = order.accepted_request.side.sign
            careful = max(measures, key=lambda measure: measure.difference * sign)
            return _Look(at=now, difference=careful.difference, measure=careful, number=number)
        known = None if binding is None else binding.finding.amount
        return _Look(at=now, difference=known, trouble=looking.trouble, number=number)

    async def _measure_until_sure(self, order: Order, binding: ExitRestriction | None, looking: _Looking) -> None:
        """Until a figure can be taken: nothing of the instrument moved around it, or it is what is known already, or came twice."""
        if not self._connection.capabilities.reports_positions:
            looking.trouble = "this broker tells no positions"
            return
        expected = ZERO if binding is None else binding.finding.amount
        pauses = itertools.chain(AGAIN_SECONDS, itertools.repeat(AGAIN_SECONDS[-1]))
        while not looking.is_over:
            try:
                measured = await self._measure(order)
            except Exception as exc:  # noqa: BLE001  whatever it was, it is not known what the broker holds
                looking.trouble = str(exc) or type(exc).__name__
            else:
                if measured is None:
                    looking.trouble = "the broker shows this one in a way that cannot be read"
                elif not measured.is_moving or measured.difference in (expected, looking.latest):
                    looking.sure = measured
                    return
                else:
                    looking.measures.append(measured)
            await self._clock.sleep(next(pauses))

    async def _measure(self, order: Order) -> _Measure | None:
        """What the broker holds, between two words of it about orders, beside what we hold by our records. None: it cannot be read."""
        began = self._clock.monotonic()
        await self._read_reports()
        positions = await self._connection.ask(self._connection.broker.positions(), LOOKING_SECONDS)
        theirs = [sanitized_position(position) for position in positions]
        await self._read_reports()
        instrument = order.accepted_request.instrument
        symbols = {instrument.symbol, *(position.instrument.symbol for position in theirs)}
        group = group_of(instrument, await self._holdings(symbols), theirs, self._product(order))
        if group.is_unclear:
            return None
        return _Measure(
            difference=group.shown - group.held,
            group=group,
            at=self._clock.monotonic(),
            is_moving=self._has_moved(group, began - MOVING_SECONDS),
        )

    async def _read_reports(self) -> None:
        try:
            await self._report_poller.ask_all()
        except (BrokerError, TimeoutError) as exc:
            self._connection.query_failed(exc)
            raise

    def _has_moved(self, group: InstrumentGroup, since: float) -> bool:
        for key, (_, at) in tuple(self._moved.items()):
            if at < self._clock.monotonic() - LOOKING_SECONDS - MOVING_SECONDS:
                del self._moved[key]
        return any(at >= since and group.is_about(instrument) for instrument, at in self._moved.values())

    # --- what it lets leave -------------------------------------------------------------------------------------

    async def _judged(self, order: Order, look: _Look, binding: ExitRestriction | None) -> tuple[Event, ...]:
        group = await self._group_now(order, look)
        exposure = self._exposure(order, look, group)
        allowed = exit_limit(order.accepted_request.side, exposure)
        wanted = order.ticket().quantity
        noted = self._blind_note(order, look)
        if allowed >= wanted:
            return noted
        now = self._clock.now()
        words = _why(order, exposure, look, binding, group)
        if not allowed:
            return (*noted, Rejected(at=now, reason=Reason(ReasonCode.NOTHING_TO_EXIT, words)))
        return (
            *noted,
            Capped(at=now, quantity=allowed, message=f"reduced from {_plain(wanted)} to {_plain(allowed)}: {words}"),
        )

    async def _group_now(self, order: Order, look: _Look) -> InstrumentGroup:
        """What we hold now of what the look was about."""
        instrument = order.accepted_request.instrument
        theirs = () if look.measure is None else look.measure.group.theirs
        symbols = {instrument.symbol, *(position.instrument.symbol for position in theirs)}
        return group_of(instrument, await self._holdings(symbols), theirs, self._product(order))

    async def _holdings(self, symbols: Iterable[str]) -> list[Holding]:
        connection = self._connection
        products_of = connection.capabilities.products_of
        return await holdings(self._live, self._store, connection.account_id, symbols, products_of)

    def _product(self, order: Order) -> str | None:
        """What the order is traded in, where the broker holds products apart."""
        products = self._connection.capabilities.products_of(order.accepted_request.instrument)
        return product_of(order, products)

    def _exposure(self, order: Order, look: _Look, group: InstrumentGroup) -> Exposure:
        """By our records of this moment, and the difference that the look found. Where something moved since, and it was looked at often
        enough, by whichever of both moments leaves less to take."""
        long, short = _sides(group)
        if look.measure is not None and self._has_moved(group, look.measure.at):
            then_long, then_short = _sides(look.measure.group)
            long, short = min(long, then_long), min(short, then_short)
        own = sum((h.quantity for h in group.ours if h.strategy == order.accepted_request.strategy), ZERO)
        at_work, own_at_work = self._at_work(order, group)
        return Exposure(
            long=long,
            short=short,
            own=own,
            difference=look.difference or ZERO,
            at_work=at_work,
            own_at_work=own_at_work,
        )

    def _at_work(self, order: Order, group: InstrumentGroup) -> tuple[Decimal, Decimal]:
        """What others on the exit's side may still take of what is held: an exit all of it, an entry what it closes of its own strategy's.
        Of all strategies, and of the exit's own."""
        side, strategy = order.accepted_request.side, order.accepted_request.strategy
        every = own = ZERO
        closing: dict[str, Decimal] = {}
        for other in self._others(order, group):
            request, left = other.accepted_request, other.remaining_quantity
            if other.identity.purpose is Purpose.EXIT:
                every += left
                own += left if request.strategy == strategy else ZERO
            else:
                closing[request.strategy] = closing.get(request.strategy, ZERO) + left
        for name, left in closing.items():
            held = sum((h.quantity for h in group.ours if h.strategy == name), ZERO) * -side.sign
            taken = min(left, max(ZERO, held))
            every += taken
            own += taken if name == strategy else ZERO
        return every, own

    def _others(self, order: Order, group: InstrumentGroup) -> Iterable[Order]:
        return without_linked(self._all_others(order, group))

    def _all_others(self, order: Order, group: InstrumentGroup) -> Iterable[Order]:
        linked = linked_order_id(order)
        for live in self._live.by_id.values():
            other = live.order
            if other.status not in AT_WORK or other.order_id in (order.order_id, linked):
                continue
            try:
                request = other.accepted_request
                is_alike = group.is_about(request.instrument, self._product(other))
            except Exception:
                if other.symbol == order.symbol:
                    raise  # it may take of the same: what is left is not known
                continue
            if (
                is_alike
                and request.account_id == self._connection.account_id
                and request.side is order.accepted_request.side
            ):
                yield other

    def _blind_note(self, order: Order, look: _Look) -> tuple[Event, ...]:
        if look.measure is not None:
            return ()
        by = "what our own books hold" if look.difference is None else "the last difference that was found there"
        words = f"the broker did not tell its positions ({look.trouble}): this exit is measured by {by}"
        return () if was_noted(order, words) else (Noted(at=self._clock.now(), message=words, alert=True),)


def _sides(group: InstrumentGroup) -> tuple[Decimal, Decimal]:
    """What the strategies hold long, and what short."""
    by_strategy: dict[str, Decimal] = {}
    for holding in group.ours:
        by_strategy[holding.strategy] = by_strategy.get(holding.strategy, ZERO) + holding.quantity
    long = sum((held for held in by_strategy.values() if held > 0), ZERO)
    return long, -sum((held for held in by_strategy.values() if held < 0), ZERO)


def _why(order: Order, exposure: Exposure, look: _Look, binding: ExitRestriction | None, group: InstrumentGroup) -> str:
    """Why an exit may not take what it was to."""
    product = f" in {group.product}" if group.product else ""
    about = f"{order.accepted_request.instrument.key}{product}"
    ours = _plain(exposure.long - exposure.short)
    if look.difference is None:
        words = [f"our books hold {ours} of {about}, and the broker does not tell what it holds"]
    else:
        shown = "holds" if look.measure is not None else "held, when it last told,"
        words = [f"the broker {shown} {_plain(exposure.shown)} of {about}, our books {ours}"]
    own = exposure.own * -order.accepted_request.side.sign
    if 0 < own < exposure.long + exposure.short:
        words.append(f"of that the strategy itself {_plain(own)}")
    if binding is not None and binding.since is not None:
        words.append(f"they differ since {binding.since:%Y-%m-%d %H:%M} UTC")
    if binding is not None and binding.finding.note:
        words.append(binding.finding.note)
    if exposure.at_work:
        verb = "sell" if order.accepted_request.side is Side.SELL else "buy back"
        words.append(f"other orders at work may still {verb} {_plain(exposure.at_work)}")
    return "; ".join(words)


def _plain(amount: Decimal) -> str:
    return format(amount.normalize(), "f") if amount else "0"
