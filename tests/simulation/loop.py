"""An event loop with a clock of its own, in which the order of tasks is drawn from a seed: nothing here waits, and no socket or thread is touched."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from datetime import datetime, timedelta
from heapq import heappop, heappush
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


class _Handle(list[Any]):
    """A callback that waits for its turn, or for its time: the callback, its arguments, its context; empty when it was cancelled."""

    __slots__ = ()

    def cancel(self) -> None:
        self.clear()

    def cancelled(self) -> bool:
        return not self


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what is ready, and moves the clock to the next timer when nothing is.

    What asyncio's own parts rely on stays: plain callbacks run in the sequence in which they were made, before and after the same
    other callbacks. Among the *tasks* that are ready at one moment the sequence is drawn, and a task may be passed over for some rounds:
    a program may not rely on either.
    """

    def __init__(self, luck: random.Random, *, shuffles: float = 1.0, passes_over: float = 0.0) -> None:
        """`shuffles` and `passes_over` are probabilities: of a round, that its tasks are shuffled; of a task, that it waits for the next round."""
        super().__init__()
        self._random = luck.random
        self._shuffles = shuffles
        self._passes_over = passes_over
        self._now = 0.0
        self._next_round: list[_Handle] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        """A heap; of equal times the one that was made first is the first."""
        self._steps_at_this_moment = 0
        self.steps = 0
        """Callbacks run so far."""
        self._numbers = itertools.count()

    def time(self) -> float:
        return self._now

    # --- what is to be done ---------------------------------------------------------------------------------------

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        if self._closed:  # type: ignore[attr-defined]
            raise RuntimeError("Event loop is closed")
        handle = _Handle((callback, args, copy_context() if context is None else context))
        self._next_round.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        if self._closed:  # type: ignore[attr-defined]
            raise RuntimeError("Event loop is closed")
        handle = _Handle((callback, args, copy_context() if context is None else context))
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        return SimulatedTask(coro, loop=self, name=name, context=context, number=next(self._numbers))

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """On the spot: there are no threads here."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001  whatever it was belongs to the caller, as with a thread
            done.set_exception(exc)
        return done

    # --- doing it -------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """Rounds, until the loop is stopped."""
        while True:
            self._run_round()
            if self._stopping:  # type: ignore[attr-defined]
                return

    def _run_round(self) -> None:
        timers, ready = self._timers, self._next_round
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while timers and not timers[0][2]:
                heappop(timers)
            if not timers:
                raise NothingLeft("everybody waits, and nothing is to come")
            self._now = max(self._now, timers[0][0])
            self._steps_at_this_moment = 0
        while timers and timers[0][0] <= self._now:
            handle = heappop(timers)[2]
            if handle:
                ready.append(handle)
        count = len(ready)
        self.steps += count
        self._steps_at_this_moment += count
        if self._steps_at_this_moment > MOST_STEPS_AT_ONE_MOMENT:
            self._steps_at_this_moment = 0
            raise Spins(f"more than {MOST_STEPS_AT_ONE_MOMENT} callbacks at {self._now:.3f} s")
        passed_over: Sequence[_Handle] = ()
        self._next_round = []
        if count > 1 and self._shuffles and self._random() < self._shuffles:
            ready = self._shuffled(ready)
        if self._passes_over:
            ready, passed_over = self._without_some(ready)
        for handle in ready:
            if not handle:
                continue
            callback, args, context = handle
            try:
                context.run(callback, *args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:  # noqa: BLE001  as asyncio does
                self.call_exception_handler({"message": f"{callback} failed", "exception": exc})
        if passed_over:
            self._next_round += passed_over

    def _without_some(self, ready: list[_Handle]) -> tuple[list[_Handle], Sequence[_Handle]]:
        """Some of the tasks are passed over: those that have their turn, and those."""
        passed_over = [each for each in ready if each and _is_task(each) and self._random() < self._passes_over]
        if not passed_over:
            return ready, ()
        left_out = set(map(id, passed_over))
        return [each for each in ready if id(each) not in left_out], passed_over

    def _shuffled(self, ready: list[_Handle]) -> list[_Handle]:
        """The tasks among themselves; every other callback keeps its place."""
        tasks = [handle for handle in ready if handle and _is_task(handle)]
        if len(tasks) < 2:
            return ready
        drawn = iter(sorted(tasks, key=lambda _: self._random()))
        return [next(drawn) if handle and _is_task(handle) else handle for handle in ready]

    # --- what an event loop needs of the machine ------------------------------------------------------------------

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else is there to be woken by."""


def _is_task(handle: _Handle) -> bool:
    return type(getattr(handle[0], "__self__", None)) is SimulatedTask


class LoopClock:
    """The service's clock over a loop's time."""

    def __init__(self, loop: SimulatedLoop, start: datetime = NOW) -> None:
        self._loop = loop
        self._start = start
        self._time, self._now = 0.0, start

    def now(self) -> datetime:
        time = self._loop.time()
        if time != self._time:
            moment = self._start + timedelta(seconds=time)
            self._time, self._now = time, moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        return self._now

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
