"""An event loop with a clock of its own, in which the order of tasks is drawn from a seed: nothing here waits, and no socket or thread is touched."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tests.builders import NOW

T = TypeVar("T")
OWNER: ContextVar[Any] = ContextVar("owner", default=None)
"""The replica whose work this is; tasks and timers hand it on to what they begin."""
MOST_STEPS_AT_ONE_MOMENT = 50_000


class Spins(AssertionError):
    """Something is busy for ever without waiting for the clock."""


class NothingLeft(AssertionError):
    """Everybody waits, and no timer is set that would wake anybody."""


class SimulatedTask(asyncio.Task[Any]):
    """A task with a number. The number is its hash, so that a set of tasks is walked through in the same order in every process."""

    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self.number = number
        self.owner = OWNER.get()
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what is ready, and moves the clock to the next timer when nothing is.

    What asyncio's own parts rely on stays: plain callbacks run in the sequence in which they were made, before and after the same
    other callbacks. Among the *tasks* that are ready at one moment the sequence is drawn, and a task may be passed over for some rounds:
    a program may not rely on either.
    """

    def __init__(self, luck: random.Random, *, shuffles: float = 1.0, passes_over: float = 0.0) -> None:
        """`shuffles` and `passes_over` are probabilities: of a round, that its tasks are shuffled; of a task, that it waits for the next round."""
        super().__init__()
        self._luck = luck
        self._shuffles = shuffles
        self._passes_over = passes_over
        self._now = 0.0
        self._steps_at_this_moment = 0
        self.steps = 0
        """Callbacks run so far."""
        self._numbers = itertools.count()
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        return self._now

    def _new_task(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **kwargs: Any) -> SimulatedTask:
        return SimulatedTask(work, loop=loop, number=next(self._numbers), **kwargs)

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._drop_first(timers)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise NothingLeft("everybody waits, and nothing is to come")
            self._now = max(self._now, timers[0].when())
            self._steps_at_this_moment = 0
        while timers and timers[0].when() <= self._now:
            handle = self._drop_first(timers)
            if not handle.cancelled():
                ready.append(handle)
        count = len(ready)
        if count > 1 and self._luck.random() < self._shuffles:
            self._shuffle(ready)
            count = len(ready)
        self._steps_at_this_moment += count
        self.steps += count
        if self._steps_at_this_moment > MOST_STEPS_AT_ONE_MOMENT:
            raise Spins(f"more than {MOST_STEPS_AT_ONE_MOMENT} callbacks at {self._now:.3f} s")
        passed_over = []
        for _ in range(count):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            if self._passes_over and _is_task(handle) and self._luck.random() < self._passes_over:
                passed_over.append(handle)
                continue
            handle._run()
        ready.extend(passed_over)

    def _drop_first(self, timers: list[asyncio.TimerHandle]) -> asyncio.TimerHandle:
        handle = heapq.heappop(timers)
        handle._scheduled = False  # type: ignore[attr-defined]
        return handle

    def _shuffle(self, ready: Any) -> None:
        """The tasks among themselves; every other callback keeps its place."""
        handles = list(ready)
        places = [place for place, handle in enumerate(handles) if _is_task(handle)]
        if len(places) < 2:
            return
        tasks = [handles[place] for place in places]
        self._luck.shuffle(tasks)
        for place, handle in zip(places, tasks, strict=True):
            handles[place] = handle
        ready.clear()
        ready.extend(handles)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else is there to be woken by."""


def _is_task(handle: asyncio.Handle) -> bool:
    callback = handle._callback  # type: ignore[attr-defined]
    return isinstance(getattr(callback, "__self__", None), SimulatedTask)


class LoopClock:
    """The service's clock over a loop's time."""

    def __init__(self, loop: SimulatedLoop, start: datetime = NOW) -> None:
        self._loop = loop
        self._start = start

    def now(self) -> datetime:
        moment = self._start + timedelta(seconds=self._loop.time())
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        return 1000.0 + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, call)


def run(loop: SimulatedLoop, work: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end and closes the loop; what is left then is cancelled."""
    try:
        return loop.run_until_complete(work)
    finally:
        try:
            left = sorted((t for t in asyncio.all_tasks(loop) if isinstance(t, SimulatedTask)), key=lambda t: t.number)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            loop.close()
