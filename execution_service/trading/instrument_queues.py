"""Who waits for whom: the pending orders of each instrument in their sequence, and those that wait for another order; not how they are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from execution_service.core import backoff
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.clock import Clock
from execution_service.trading.isolation import Isolation
from execution_service.trading.tasks import Tasks
from execution_service.trading.timers import Timers

WAITING_SECONDS = 2.0
"""How often an order that waits for another one is looked at all the same."""
SOON_SECONDS = 0.02
LONGEST_REST_SECONDS = 5.0
"""How long a lane rests at once when the account's calls are spent: an exit that may leave all the same can have come to its front."""
LEAST_WAIT_SECONDS = 0.001


class Lane:
    """The pending orders of one instrument, in the order in which they came; only one batch of a lane is on its way at a time."""

    __slots__ = (
        "failures",
        "held_for",
        "held_words",
        "is_busy",
        "is_for_calls",
        "is_hold_told",
        "is_queued",
        "not_before",
        "orders",
        "unresolved",
    )

    def __init__(self) -> None:
        self.orders: deque[LiveOrder] = deque()
        self.failures = 0
        """Sendings in succession that the broker could not take."""
        self.not_before = 0.0
        self.is_busy = False
        self.held_for: set[str] = set()
        """Exits of the lane, by our ids, that may not leave before something is known of them, nor be overtaken meanwhile."""
        self.held_words = ""
        """Why its orders cannot leave now although the connection stands; empty: they may, as far as is known."""
        self.is_for_calls = False
        """That is because the account's calls are spent."""
        self.is_hold_told = False
        """People know that its orders are held for something that the broker lacks."""
        self.is_queued = False
        self.unresolved: set[str] = set()
        """Orders of the lane that were perhaps sent: until they are found, nothing follows them."""

    def let_exits_pass(self) -> None:
        """While the account's calls are spent, an exit that names its entry goes ahead of the lane's other orders: some calls are kept for
        exits alone, and its own entry it waits for wherever it stands."""
        if self.held_words and self.is_for_calls:
            self.orders = deque(sorted(self.orders, key=lambda live: not _names_its_entry(live.order)))

    def next_batch(self, limit: int, is_isolated: Callable[[LiveOrder], bool]) -> list[LiveOrder]:
        """The first orders that may leave together, taken out of the lane; those that are isolated step out of it."""
        batch: list[LiveOrder] = []
        while self.orders and len(batch) < limit:
            live = self.orders[0]
            is_pending = live.order.status is Status.PENDING
            if is_pending and live.is_busy:
                break  # it is being looked at; after that the lane goes on with it
            self.orders.popleft()
            if is_pending and is_isolated(live):
                live.is_set_aside = True
            elif is_pending:
                live.is_busy = True
                batch.append(live)
        return batch


class Lanes:
    """The lanes of one account; exits go ahead of entries of other instruments."""

    def __init__(self, *, timers: Timers, isolation: Isolation, clock: Clock, tasks: Tasks) -> None:
        self._timers = timers
        self._isolation = isolation
        self._clock = clock
        self._tasks = tasks
        self._lanes: dict[str, Lane] = {}
        self._ready_exits: deque[Lane] = deque()
        self._ready_entries: deque[Lane] = deque()
        self._waiting: dict[str, LiveOrder] = {}
        """Exits whose entry has not ended, and legs whose signal's others have not come."""

    def of(self, order: Order) -> Lane:
        key = _key(order)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
        return lane

    def pending(self) -> list[LiveOrder]:
        return [live for lane in self._lanes.values() for live in lane.orders]

    def unresolved(self) -> Iterator[str]:
        """Our ids of the orders that were perhaps sent."""
        return (order_id for lane in self._lanes.values() for order_id in lane.unresolved)

    # --- in and out ---------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Without any order, pause or hold: who begins anew takes all orders in hand again, and nothing is left waiting for a task that has
        ended."""
        self._lanes.clear()
        self._ready_exits.clear()
        self._ready_entries.clear()
        self._waiting.clear()

    def take(self, live: LiveOrder) -> None:
        """An order that has come in hand; those of its signal that wait may have waited for it."""
        if live.order.status is Status.PENDING:
            self._enqueue(live)
        elif live.order.status is Status.SUBMITTING:
            self.of(live.order).unresolved.add(live.order.order_id)
        for waiting in [each for each in self._waiting.values() if each.order.signal_id == live.order.signal_id]:
            self.bring_back(waiting)
        self._timers.make(live, 0.0)

    def look_again(self, live: LiveOrder) -> None:
        """The order was changed by somebody else's word: it may be pending again."""
        is_out = live.order.status is Status.PENDING and live not in self.of(live.order).orders
        if is_out and not live.is_set_aside:
            self._enqueue(live)
        self._timers.make(live, 0.0)

    def settle(self, live: LiveOrder) -> None:
        """After any step: the lane goes on if this order held it up, and exits that waited for it are looked at again. Raises nothing."""
        try:
            self._settle(live)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._isolation.failed(live, exc, doing="looking at who waits for it")

    def _settle(self, live: LiveOrder) -> None:
        order = live.order
        lane = self.of(order)
        if order.status is Status.SUBMITTING and not self._isolation.holds(live):
            if not live.is_busy:
                lane.unresolved.add(order.order_id)
        else:
            lane.unresolved.discard(order.order_id)
        if order.status.is_final:
            self._timers.cancel(live)
            self.cease_waiting(order)
            instrument = order.accepted_request.instrument
            for waiting in tuple(self._waiting.values()):
                is_leg = waiting.order.signal_id == order.signal_id
                if is_leg or waiting.order.accepted_request.instrument.could_be(instrument):
                    self.bring_back(waiting)
            if not (lane.orders or lane.is_busy or lane.unresolved or lane.is_queued or lane.held_for):
                self._lanes.pop(_key(order), None)
        else:
            self._timers.make(live, WAITING_SECONDS if self.is_waiting(order) else SOON_SECONDS)
        self.make_ready(lane)

    def put_back(self, lane: Lane, batch: Sequence[LiveOrder]) -> None:
        """A batch has gone its way: whoever of it is still to be sent, and waits for no other order, comes to the front again; one that is
        isolated steps out, so that the others of its instrument go on."""
        for live in reversed(batch):
            live.is_busy = False
            if live.order.status is Status.PENDING and not self.is_waiting(live.order):
                if self._isolation.holds(live):
                    live.is_set_aside = True
                else:
                    lane.orders.appendleft(live)
        lane.let_exits_pass()
        for live in batch:
            self.settle(live)

    def bring_in(self, live: LiveOrder) -> None:
        """Its pause alone is over: it is in its lane again, behind those that have come meanwhile."""
        if live.is_set_aside:
            live.is_set_aside = False
            self._enqueue(live)

    # --- waiting for another order ------------------------------------------------------------------------------

    def is_waiting(self, order: Order) -> bool:
        return order.order_id in self._waiting

    def wait_for_others(self, live: LiveOrder) -> None:
        self._waiting[live.order.order_id] = live

    def cease_waiting(self, order: Order) -> None:
        """What it waited for is known now, or it is over."""
        self._waiting.pop(order.order_id, None)

    def bring_back(self, live: LiveOrder) -> None:
        """What it waited for may have happened: it is in its lane again."""
        if self._waiting.pop(live.order.order_id, None) is not None:
            self._enqueue(live)

    # --- the turn of a lane -------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        return bool(self._ready_exits or self._ready_entries)

    def next_ready(self) -> Lane:
        lane = (self._ready_exits or self._ready_entries).popleft()
        lane.is_queued = False
        return lane

    def make_ready(self, lane: Lane) -> None:
        """Its turn comes when those before it have had theirs, if there is anything to do in it, and after its pause."""
        if lane.is_queued or lane.is_busy or lane.unresolved or lane.held_for or not lane.orders:
            return
        lane.is_queued = True
        pause = lane.not_before - self._clock.monotonic()
        if pause > 0:
            self._tasks.begin(self._queue_later(lane, pause), "pause")
        else:
            self._queue(lane)

    def _enqueue(self, live: LiveOrder) -> None:
        lane = self.of(live.order)
        lane.orders.append(live)
        lane.let_exits_pass()
        self.make_ready(lane)

    async def _queue_later(self, lane: Lane, pause_seconds: float) -> None:
        await self._clock.sleep(pause_seconds)
        self._queue(lane)

    def _queue(self, lane: Lane) -> None:
        if not lane.orders:
            lane.is_queued = False
            return
        is_exit = lane.orders[0].order.identity.purpose is Purpose.EXIT
        (self._ready_exits if is_exit else self._ready_entries).append(lane)
        self._timers.wake()

    # --- held for something that is to be known first ------------------------------------------------------------

    def hold(self, order: Order) -> None:
        """Nothing of its lane leaves until it is released."""
        self.of(order).held_for.add(order.order_id)

    def release(self, order: Order) -> None:
        lane = self.of(order)
        lane.held_for.discard(order.order_id)
        self.make_ready(lane)

    # --- pauses -------------------------------------------------------------------------------------------------

    def slow_down(self, order: Order) -> None:
        """The lane makes a pause, longer each time."""
        lane = self.of(order)
        lane.failures += 1
        lane.not_before = self._clock.monotonic() + backoff.DEFAULT_BACKOFF.pause_seconds(lane.failures)

    def rest(self, order: Order, wait_seconds: float, *, words: str, is_for_calls: bool) -> None:
        """The lane goes on when its orders may leave again."""
        pause = max(LEAST_WAIT_SECONDS, min(wait_seconds, LONGEST_REST_SECONDS))
        lane = self.of(order)
        lane.not_before = self._clock.monotonic() + pause
        lane.held_words, lane.is_for_calls = words, is_for_calls

    def goes(self, order: Order) -> None:
        """The broker has taken an order of the lane."""
        lane = self.of(order)
        lane.failures, lane.is_hold_told, lane.held_words = 0, False, ""


def _names_its_entry(order: Order) -> bool:
    request = order.request
    return order.identity.purpose is Purpose.EXIT and isinstance(request, OrderRequest) and bool(request.entry_refs)


def _key(order: Order) -> str:
    """The instrument as the message named it: what is found out later of an exit's must not take it to another lane. One lane for all that may
    be one contract, however much of its class an order says."""
    request = order.request
    if not isinstance(request, OrderRequest):
        return ""
    named = request.instrument
    is_bare = named.trading_class is None and named.isin is None
    return named.key if is_bare else replace(named, trading_class=None, isin=None).key
