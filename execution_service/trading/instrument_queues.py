"""The orders of each instrument that are to be sent, in their sequence, and the rule who of them leaves next; not how they leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from execution_service.core import backoff
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.orders.waiting import Pause, Waiting, WaitingReason
from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.clock import Clock
from execution_service.trading.isolation import Isolation
from execution_service.trading.timers import Timers

WAITING_SECONDS = 2.0
"""How often an order that waits for another one is looked at all the same."""
SOON_SECONDS = 0.02
LONGEST_REST_SECONDS = 5.0
"""How long a queue rests at once when the account's calls are spent: an exit that may leave all the same can have come to its front."""
LEAST_WAIT_SECONDS = 0.001


class InstrumentQueue:
    """One instrument's orders; only one batch of them is on its way at a time."""

    __slots__ = ("awaiting_positions", "batch", "key", "orders", "pause", "perhaps_sent")

    def __init__(self, key: str) -> None:
        self.key = key
        self.orders: OrderedDict[str, LiveOrder] = OrderedDict()  # whose first is found at once, however many have left
        """Still to be sent, by our id, in the order in which they came; those that are on their way too. Whoever waits for other orders, or
        is isolated, is not among them."""
        self.batch: tuple[LiveOrder, ...] = ()
        """On its way to the broker."""
        self.perhaps_sent: set[str] = set()
        """By our id, those that were perhaps sent: until they are found, nothing follows them."""
        self.awaiting_positions: set[str] = set()
        """Exits, by our id, for which the broker's positions are being looked at: they may not leave before, nor be overtaken."""
        self.pause: Pause | None = None
        """None: the broker has taken the latest order, or none has been tried."""

    def waiting(self, now: float) -> Waiting | None:
        """What the whole queue waits for; None: its first order may leave. `now` by the monotonic clock."""
        if self.perhaps_sent:
            words = "an order of the same instrument was perhaps sent and is being looked for"
            return Waiting(WaitingReason.EARLIER_ORDER, words)
        if self.awaiting_positions:
            return Waiting(WaitingReason.POSITIONS, WaitingReason.POSITIONS.value)
        if self.batch:
            return Waiting(WaitingReason.TURN)
        return None if self.pause is None else self.pause.waiting(now)

    def may_leave(self, now: float) -> bool:
        waiting = self.waiting(now)
        return waiting is None or waiting.is_over

    @property
    def first(self) -> LiveOrder | None:
        return next(iter(self.orders.values()), None)

    @property
    def is_empty(self) -> bool:
        return not (self.orders or self.batch or self.perhaps_sent or self.awaiting_positions)

    def let_exits_pass(self) -> None:
        """While the account's calls are spent, an exit that names its entry goes ahead of the other orders: some calls are kept for exits
        alone, and its own entry it waits for wherever it stands."""
        if self.pause is not None and self.pause.reason is WaitingReason.CALLS:
            self.orders = OrderedDict(sorted(self.orders.items(), key=lambda item: not _names_its_entry(item[1].order)))


class InstrumentQueues:
    """The queues of one account; exits go ahead of entries of other instruments."""

    def __init__(self, *, timers: Timers[LiveOrder], isolation: Isolation, clock: Clock) -> None:
        self._timers = timers
        self._isolation = isolation
        self._clock = clock
        self._queues: dict[str, InstrumentQueue] = {}
        # As sets that know the sequence in which they were filled.
        self._ready_exits: OrderedDict[InstrumentQueue, None] = OrderedDict()
        self._ready_entries: OrderedDict[InstrumentQueue, None] = OrderedDict()
        self._pauses: Timers[InstrumentQueue] = Timers(clock, timers.wake_up)
        self._waiting: dict[str, tuple[LiveOrder, WaitingReason]] = {}
        """By our id, orders that wait for others: exits whose entry has not ended, and legs whose signal's others have not come."""
        self._under_way: set[str] = set()
        """Our ids of the orders that somebody is at work for: nobody else begins anything for them."""
        self.batches = 0
        """How many are on their way."""

    def of(self, order: Order) -> InstrumentQueue:
        key = _key(order)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = InstrumentQueue(key)
        return queue

    def pending(self) -> list[LiveOrder]:
        """Those whose turn is to come."""
        orders = (live for queue in self._queues.values() for live in queue.orders.values())
        return [live for live in orders if not self.is_under_way(live)]

    def perhaps_sent(self) -> Iterator[str]:
        """Our ids of the orders that were perhaps sent."""
        return (order_id for queue in self._queues.values() for order_id in queue.perhaps_sent)

    def begin_anew(self) -> None:
        """Without any order, pause or hold: who begins anew takes all orders in hand again, and nothing is left waiting for a task that has
        ended."""
        for kept in (self._queues, self._ready_exits, self._ready_entries, self._waiting, self._under_way):
            kept.clear()
        self._pauses.clear()
        self.batches = 0

    # --- an order's place ---------------------------------------------------------------------------------------

    def take(self, live: LiveOrder) -> None:
        """An order that has come in hand; those of its signal that wait may have waited for it."""
        self.place(live)
        for waiting, _ in tuple(self._waiting.values()):
            if waiting.order.signal_id == live.order.signal_id:
                self.bring_back(waiting)
        self._timers.make(live, 0.0)

    def look_again(self, live: LiveOrder) -> None:
        """The order was changed by somebody else's word: it may be to be sent again."""
        self.place(live)
        self._timers.make(live, 0.0)

    def settle(self, live: LiveOrder) -> None:
        """After any step: the order's place is what its record says, its queue goes on if it held that up, and orders that waited for it are
        looked at again. Raises nothing."""
        try:
            self._settle(live)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._isolation.failed(live, exc, doing="looking at who waits for it")

    def _settle(self, live: LiveOrder) -> None:
        order = live.order
        if order.status.is_final:
            self._timers.cancel(live)
            self.cease_waiting(order)
            instrument = order.accepted_request.instrument
            for waiting, _ in tuple(self._waiting.values()):
                is_leg = waiting.order.signal_id == order.signal_id
                if is_leg or waiting.order.accepted_request.instrument.could_be(instrument):
                    self.bring_back(waiting)
        else:
            reason = self.waits_for(order)
            is_to_ask = reason is None or reason is WaitingReason.STOP  # nothing that happens elsewhere ends that
            self._timers.make(live, SOON_SECONDS if is_to_ask else WAITING_SECONDS)
        self.place(live)

    def place(self, live: LiveOrder) -> None:
        """Where an order stands follows from its record, and from whether it waits for others, is isolated or under way: there it is after
        this, behind those that have come meanwhile if it was not there before."""
        order, queue = live.order, self.of(live.order)
        is_under_way, is_isolated = order.order_id in self._under_way, self._isolation.holds(live)
        if order.status is Status.SUBMITTING and not is_isolated:
            if not is_under_way:
                queue.perhaps_sent.add(order.order_id)
                queue.orders.pop(order.order_id, None)
        else:
            queue.perhaps_sent.discard(order.order_id)
            if order.status is not Status.PENDING:
                queue.orders.pop(order.order_id, None)
            elif is_under_way:
                pass  # it keeps its place until it is known what became of it
            elif is_isolated or order.order_id in self._waiting:
                queue.orders.pop(order.order_id, None)
            elif order.order_id not in queue.orders:
                queue.orders[order.order_id] = live
                if _names_its_entry(order):
                    queue.let_exits_pass()
        self.make_ready(queue)
        self._forget_if_empty(queue)

    def _forget_if_empty(self, queue: InstrumentQueue) -> None:
        is_pausing = queue.pause is not None and queue.pause.until > self._clock.monotonic()
        if queue.is_empty and not is_pausing and self._queues.get(queue.key) is queue:
            del self._queues[queue.key]

    # --- under way ----------------------------------------------------------------------------------------------

    def is_under_way(self, live: LiveOrder) -> bool:
        return live.order.order_id in self._under_way

    def begin(self, live: LiveOrder) -> None:
        self._under_way.add(live.order.order_id)

    def end(self, live: LiveOrder) -> None:
        self._under_way.discard(live.order.order_id)
        self.settle(live)

    def begin_batch(self, queue: InstrumentQueue, limit: int) -> tuple[LiveOrder, ...]:
        """The first orders that may leave together, under way from now on; none where the first is being looked at: after that the queue goes
        on with it. Those that are isolated step out, so that the others go on."""
        if not queue.may_leave(self._clock.monotonic()):
            self.make_ready(queue)  # after its pause, where that is what it waits for now
            return ()
        batch: list[LiveOrder] = []
        gone: list[str] = []
        for order_id, live in queue.orders.items():
            if len(batch) == limit:
                break
            if live.order.status is not Status.PENDING or self._isolation.holds(live):
                gone.append(order_id)
            elif order_id in self._under_way:
                break
            else:
                batch.append(live)
        for order_id in gone:
            del queue.orders[order_id]
        self._under_way.update(live.order.order_id for live in batch)
        queue.batch = tuple(batch)
        self.batches += bool(batch)
        return queue.batch

    def end_batch(self, queue: InstrumentQueue, *, is_over: bool = False) -> None:
        """The queue may go on. `is_over`: and nobody is at work for its orders any more; else what became of them is still on its way into
        the records, and `end_all` follows."""
        batch, queue.batch = queue.batch, ()
        self.batches -= 1
        if is_over:
            self.end_all(queue, batch)
        self.make_ready(queue)

    def end_all(self, queue: InstrumentQueue, batch: Iterable[LiveOrder]) -> None:
        """Of a batch that has gone its way whoever is still to be sent has kept its place, and the others leave theirs."""
        for live in batch:
            self._under_way.discard(live.order.order_id)
        queue.let_exits_pass()
        for live in batch:
            self.settle(live)

    # --- waiting for other orders -------------------------------------------------------------------------------

    def waits_for(self, order: Order) -> WaitingReason | None:
        """What becomes of which orders it waits for."""
        waiting = self._waiting.get(order.order_id)
        return None if waiting is None else waiting[1]

    def wait_for_others(self, live: LiveOrder, reason: WaitingReason) -> None:
        self._waiting[live.order.order_id] = live, reason

    def cease_waiting(self, order: Order) -> None:
        """What it waited for is known now, or it is over."""
        self._waiting.pop(order.order_id, None)

    def bring_back(self, live: LiveOrder) -> None:
        """What it waited for may have happened: it is in its queue again, behind those that have come meanwhile."""
        if self._waiting.pop(live.order.order_id, None) is not None:
            self.place(live)

    # --- the turn of a queue ------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        return bool(self._ready_exits or self._ready_entries)

    def next_ready(self) -> InstrumentQueue:
        ready = self._ready_exits or self._ready_entries
        queue, _ = ready.popitem(last=False)
        return queue

    def make_ready(self, queue: InstrumentQueue) -> None:
        """Its turn comes when those before it have had theirs, if one of its orders may leave, or after its pause."""
        first = queue.first
        if first is None or queue in self._ready_exits or queue in self._ready_entries:
            return
        waiting = queue.waiting(self._clock.monotonic())
        if waiting is None or waiting.is_over:
            is_exit = first.order.identity.purpose is Purpose.EXIT
            (self._ready_exits if is_exit else self._ready_entries)[queue] = None
            self._timers.wake()
        elif waiting.seconds is not None:
            self._pauses.make(queue, waiting.seconds)

    # --- what holds a queue up ----------------------------------------------------------------------------------

    def was_perhaps_sent(self, order: Order) -> None:
        """Nothing of its instrument follows it until it is found."""
        self.of(order).perhaps_sent.add(order.order_id)

    def hold(self, order: Order) -> None:
        """The broker's positions are being looked at for it: nothing of its queue leaves until it is released."""
        self.of(order).awaiting_positions.add(order.order_id)

    def release(self, order: Order) -> None:
        queue = self.of(order)
        queue.awaiting_positions.discard(order.order_id)
        self.make_ready(queue)

    def slow_down(self, order: Order, words: str) -> None:
        """The broker could not take it: the queue makes a pause, longer each time."""
        queue = self.of(order)
        failures = 1 if queue.pause is None else queue.pause.failures + 1
        until = self._clock.monotonic() + backoff.DEFAULT_BACKOFF.pause_seconds(failures)
        pause = Pause(reason=WaitingReason.NOT_TAKEN, words=words, until=until, failures=failures)
        queue.pause = pause if queue.pause is None else replace(pause, is_alerted=queue.pause.is_alerted)

    def rest(self, order: Order, reason: WaitingReason, wait_seconds: float, words: str) -> None:
        """The queue goes on when its orders may leave again."""
        queue = self.of(order)
        until = self._clock.monotonic() + max(LEAST_WAIT_SECONDS, min(wait_seconds, LONGEST_REST_SECONDS))
        pause = Pause(reason=reason, words=words, until=until)
        if queue.pause is not None:
            pause = replace(pause, failures=queue.pause.failures, is_alerted=queue.pause.is_alerted)
        queue.pause = pause

    def must_alert_of_rest(self, queue: InstrumentQueue) -> bool:
        """Whether no alert has been raised yet that its orders are held; from now on one has."""
        if queue.pause is None or queue.pause.is_alerted:
            return False
        queue.pause = replace(queue.pause, is_alerted=True)
        return True

    def was_not_alerted(self, queue: InstrumentQueue) -> None:
        """It could not be raised: with the next rest, then."""
        if queue.pause is not None:
            queue.pause = replace(queue.pause, is_alerted=False)

    def goes(self, order: Order) -> None:
        """The broker has taken an order of the queue."""
        self.of(order).pause = None

    def end_pauses(self, now: float) -> None:
        """Those that are over by now."""
        for queue in self._pauses.due(now):
            self.make_ready(queue)
            self._forget_if_empty(queue)

    @property
    def next_at(self) -> float | None:
        """When the next pause is over, by the monotonic clock."""
        return self._pauses.next_at


def _names_its_entry(order: Order) -> bool:
    request = order.request
    return order.identity.purpose is Purpose.EXIT and isinstance(request, OrderRequest) and bool(request.entry_refs)


def _key(order: Order) -> str:
    """The instrument as the message named it: what is found out later of an exit's must not take it to another queue. One queue for all that
    may be one contract, however much of its class an order says."""
    request = order.request
    if not isinstance(request, OrderRequest):
        return ""
    named = request.instrument
    is_bare = named.trading_class is None and named.isin is None
    return named.key if is_bare else replace(named, trading_class=None, isin=None).key
