"""A stream of messages, one sink's: in order per order, many orders at once, tried on while the sink is away; what a message says is the sink's."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from execution_service.core.backoff import Backoff
from execution_service.core.orders.order import Order
from execution_service.delivery.cursor import AFTER_FAILURE_SECONDS, SLOW_PACE_SECONDS, Cursors, Failures, Progress
from execution_service.ownership.ownership import Ownership
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp

log = structlog.get_logger(__name__)

AT_ONCE = 512
"""Orders with a message under way."""
PROBES = 8
"""As many while the sink has failed and nothing has succeeded since: more than one, so that no order that fails by itself stands in for all."""
PROBE_SECONDS = 1.0
"""Between two orders that have not failed yet, one of which is tried in a pause too: what failed may have been the others' own trouble."""
ANSWER_SECONDS = 60.0
"""Longer than any sink takes that answers at all: a delivery without an answer is given up then, and made again."""
_PAUSES = Backoff(first_seconds=1.0, longest_seconds=SLOW_PACE_SECONDS)
"""After failures, until there are as many as raise an alert."""
OVERDUE_LOOK_SECONDS = 5.0


class NotDelivered(Exception):
    """The message may or may not have been delivered; the sink is away, or does not take it now."""


@dataclass(frozen=True, slots=True)
class Owed:
    """One message. `number` is its event's; `body` whatever the sink delivers, without the order."""

    number: int
    body: Any


class Sink(Protocol):
    """Somewhere that events of orders go. This and its place in the list of sinks is all that a new one needs."""

    name: str
    """For the log."""
    cursor: str
    """Its delivery cursor's name in the record. Of records that do not have it yet nothing is delivered but what is new."""

    def owed(self, order: Order, progress: Progress, after: int) -> tuple[Sequence[Owed], int]:
        """The messages of the events after `after`, and the number of the last event that they cover: not the order's last where an event
        needs something that is not known yet. Waits for nothing and keeps nothing."""

    async def deliver(self, body: Any) -> None:
        """Returns when the sink surely has it; a repetition is harmless. Raises NotDelivered. Anything else that it raises is this one
        order's trouble."""

    def outage_words(self, waiting: int, attempts: int, reason: str) -> tuple[str, str]:
        """Kind and text of the alert that says that it is away."""


class _Waiting:
    """The messages of one order that are to be delivered."""

    __slots__ = (
        "attempts",
        "began_at",
        "has_failed",
        "is_overdue",
        "is_probe",
        "messages",
        "progress",
        "round",
        "successes",
        "task",
        "until",
    )

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.messages: deque[Owed] = deque()
        self.until = 0
        """The last event that the messages cover."""
        self.attempts = 0
        self.began_at = 0.0
        self.round = 0
        """The sink's, when its delivery began."""
        self.successes: int | None = None
        """The sink's, when it last failed; before that, when its delivery first began."""
        self.has_failed = False
        """While nothing has succeeded since."""
        self.is_probe = self.is_overdue = False
        self.task: asyncio.Task[None] | None = None


class Stream:
    """Runs one sink. A failure of an order beside others that get through is the order's own, which is tried again by itself, more and more
    slowly. Else it is the sink's: then hardly anything is sent until a pause is over that all orders share, and little until something
    succeeds."""

    def __init__(
        self,
        sink: Sink,
        *,
        cursors: Cursors,
        clock: Clock,
        failures: Failures,
        ownership: Ownership,
        max_attempts: int,
        alerts: RaisesAlerts,
    ) -> None:
        """`max_attempts`: after so many failures people are told, and it is tried slowly."""
        self._sink = sink
        self._cursors = cursors
        self._clock = clock
        self._failures = failures
        self._ownership = ownership
        self._max_attempts = max_attempts
        self._alerts = alerts
        self._wake_up = WakeUp(clock)
        self._to_look_at: dict[str, Progress] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._ready: deque[_Waiting] = deque()
        self._behind: deque[_Waiting] = deque()
        """Those that have failed while nothing has succeeded: they may be the ones that cannot be delivered, and go last."""
        self._later: list[tuple[float, int, _Waiting | Progress]] = []
        self._count = itertools.count()
        self._under_way: set[_Waiting] = set()
        self._rounds = self._rounds_failed = self._successes = 0
        self._pause_until = self._probed_at = self._overdue_looked_at = float("-inf")

    @property
    def name(self) -> str:
        return self._sink.name

    def __len__(self) -> int:
        """Orders that have messages waiting."""
        return len(self._waiting)

    def wake(self, progress: Progress) -> None:
        """The order has events, or something that its messages wait for has come."""
        if progress.taken[self._sink.cursor] < progress.version and not progress.is_let_go:
            self._to_look_at[progress.order_id] = progress
            self._wake_up.tell()

    def let_go(self) -> None:
        """Nothing more is sent of orders that others deliver for."""
        for waiting in [w for w in self._waiting.values() if w.progress.is_let_go]:
            del self._waiting[waiting.progress.order_id]
            if waiting.task is not None:
                waiting.task.cancel()

    async def run(self) -> None:
        """Until cancelled; what is under way then is delivered again."""
        self._begin_anew()
        try:
            while True:
                await self._look_at_fresh()
                self._begin_what_may()
                await self._wake_up.wait(self._next_look())
                self._take_due()
        finally:
            tasks = [w.task for w in self._under_way if w.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin_anew(self) -> None:
        self._under_way.clear()
        self._later.clear()
        self._ready = deque(waiting for waiting in self._waiting.values() if not waiting.has_failed)
        self._behind = deque(waiting for waiting in self._waiting.values() if waiting.has_failed)
        for progress in self._cursors.in_hand:
            self.wake(progress)

    def _next_look(self) -> float | None:
        now = self._clock.monotonic()
        moments = [each[0] - now for each in self._later[:1]]
        if self._pause_until > now and (self._ready or self._behind):
            moments.append(self._pause_until - now)
            if self._ready and not self._under_way:
                moments.append(self._probed_at + PROBE_SECONDS - now)
        if self._under_way:
            moments.append(OVERDUE_LOOK_SECONDS)
        return max(0.0, min(moments)) if moments else None

    def _take_due(self) -> None:
        now = self._clock.monotonic()
        while self._later and self._later[0][0] <= now:
            what = heapq.heappop(self._later)[2]
            if isinstance(what, Progress):
                self.wake(what)
            elif self._waiting.get(what.progress.order_id) is what:
                self._ready.append(what)
        if now < self._overdue_looked_at + OVERDUE_LOOK_SECONDS:
            return
        self._overdue_looked_at = now
        for waiting in self._under_way:
            if waiting.task is not None and now - waiting.began_at >= ANSWER_SECONDS:
                waiting.is_overdue = True
                waiting.task.cancel()

    # --- taking -------------------------------------------------------------------------------------------------

    async def _look_at_fresh(self) -> None:
        while self._to_look_at:
            order_id = next(iter(self._to_look_at))
            progress = self._to_look_at.pop(order_id)
            if progress.is_let_go or progress.live is None:
                continue
            try:
                self._look_at(progress, progress.live.order)
            except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                await self._failures.report(progress, exc)
                self._again_at(self._clock.monotonic() + SLOW_PACE_SECONDS, progress)

    def _look_at(self, progress: Progress, order: Order) -> None:
        taken = progress.taken[self._sink.cursor]
        if order.version > taken:
            messages, until = self._sink.owed(order, progress, taken)
            if until > taken:
                self._take(progress, messages, until)

    def _take(self, progress: Progress, messages: Iterable[Owed], until: int) -> None:
        waiting = self._waiting.get(progress.order_id)
        if waiting is not None:
            waiting.messages.extend(messages)
            waiting.until = max(waiting.until, until)
            self._cursors.take(progress, self._sink.cursor, until)
        elif messages:
            waiting = self._waiting[progress.order_id] = _Waiting(progress)
            waiting.messages.extend(messages)
            waiting.until = until
            self._ready.append(waiting)
            self._cursors.take(progress, self._sink.cursor, until)
        else:
            self._cursors.advance(progress, self._sink.cursor, until, is_seen=False)

    # --- delivering ---------------------------------------------------------------------------------------------

    def _begin_what_may(self) -> None:
        now = self._clock.monotonic()
        if now < self._pause_until:
            if self._ready and not self._under_way and now >= self._probed_at + PROBE_SECONDS:
                self._probed_at = now
                self._begin(self._ready.popleft(), now, is_probe=True)
            return
        limit = PROBES if self._rounds_failed else AT_ONCE
        while len(self._under_way) < limit and (queue := self._ready or self._behind):
            self._begin(queue.popleft(), now)

    def _begin(self, waiting: _Waiting, now: float, *, is_probe: bool = False) -> None:
        if self._waiting.get(waiting.progress.order_id) is not waiting:
            return  # let go
        if not self._ownership.is_ours(waiting.progress.account_id):
            self._again_at(now + AFTER_FAILURE_SECONDS, waiting)
            return
        waiting.began_at, waiting.is_probe, waiting.is_overdue = now, is_probe, False
        waiting.round = self._rounds
        if waiting.successes is None:
            waiting.successes = self._successes
        self._under_way.add(waiting)
        waiting.task = asyncio.create_task(self._deliver(waiting))

    async def _deliver(self, waiting: _Waiting) -> None:
        progress = waiting.progress
        try:
            while waiting.messages and not progress.is_let_go and self._ownership.is_ours(progress.account_id):
                await self._deliver_one(waiting, waiting.messages[0])
        except NotDelivered as exc:
            await self._failed(waiting, exc)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if waiting.is_overdue:
                await self._failed(waiting, NotDelivered(f"no answer within {ANSWER_SECONDS:g} s"))
            elif task is None or task.cancelling():
                raise
            else:
                await self._failed(waiting, NotDelivered("it was given up, and not by us"))
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._again_at(self._clock.monotonic() + SLOW_PACE_SECONDS, waiting)
            await self._failures.report(progress, exc)
        else:
            if waiting.messages:  # not ours at this moment, or let go
                self._again_at(self._clock.monotonic() + AFTER_FAILURE_SECONDS, waiting)
            elif self._waiting.get(progress.order_id) is waiting:
                del self._waiting[progress.order_id]
        finally:
            self._under_way.discard(waiting)
            waiting.task = None
            self._wake_up.tell()

    async def _deliver_one(self, waiting: _Waiting, owed: Owed) -> None:
        progress, cursor = waiting.progress, self._sink.cursor
        if owed.number > progress.delivered[cursor]:  # else somebody else has, meanwhile
            await self._sink.deliver(owed.body)
            waiting.attempts, waiting.has_failed = 0, False
            waiting.began_at = self._clock.monotonic()
            self._succeeded()
        waiting.messages.popleft()
        number = owed.number if waiting.messages else waiting.until
        self._cursors.advance(progress, cursor, number, is_seen=True)

    def _again_at(self, moment: float, what: _Waiting | Progress) -> None:
        heapq.heappush(self._later, (moment, next(self._count), what))
        self._wake_up.tell()

    def _succeeded(self) -> None:
        self._successes += 1
        if self._rounds_failed:
            log.info(f"The {self._sink.name} go out again", action="delivery_answers", sink=self._sink.name)
        self._rounds_failed, self._pause_until = 0, float("-inf")

    async def _failed(self, waiting: _Waiting, exc: NotDelivered) -> None:
        progress = waiting.progress
        have_others_succeeded = self._successes > (waiting.successes or 0)
        waiting.successes = self._successes
        if have_others_succeeded or waiting.attempts:
            waiting.attempts += 1
            self._say_failed(waiting.attempts, exc, progress.signal_id)
            self._again_at(self._clock.monotonic() + self._pause_after(waiting.attempts), waiting)
            if waiting.attempts == self._max_attempts:
                await self._failures.report(progress, exc)
            return
        waiting.has_failed = True
        self._behind.append(waiting)
        if waiting.is_probe or waiting.round < self._rounds:
            return  # tried in spite of the failure that is counted already, or begun before it
        self._rounds += 1
        failed = self._rounds_failed = self._rounds_failed + 1
        self._pause_until = self._clock.monotonic() + self._pause_after(failed)
        self._say_failed(failed, exc, progress.signal_id)
        if failed == self._max_attempts:
            kind, text = self._sink.outage_words(len(self._waiting), failed, str(exc))
            await self._alerts.raise_alert(kind, text)

    def _pause_after(self, failures: int) -> float:
        return SLOW_PACE_SECONDS if failures >= self._max_attempts else _PAUSES.pause_seconds(failures)

    def _say_failed(self, attempts: int, exc: NotDelivered, signal_id: str) -> None:
        log.warning(
            f"{self._sink.name.capitalize()} not delivered (attempt {attempts}): {exc}",
            action="publish_failed",
            sink=self._sink.name,
            signal_id=signal_id,
        )
