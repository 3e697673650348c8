"""When something is looked at next, and the wait until one is due or something has happened; not what is done then."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp

T = TypeVar("T", bound=Hashable)

CANCELLED_KEPT = 64
"""So many timers that were cancelled may lie about."""


class Timers(Generic[T]):
    """One for each thing at most, the earliest that anybody has asked for."""

    def __init__(self, clock: Clock, wake_up: WakeUp | None = None) -> None:
        """`wake_up`: of whoever waits for these and for others."""
        self._clock = clock
        self._due_at: dict[T, float] = {}
        self._due: list[tuple[float, int, T]] = []
        """A heap; what is not in `_due_at` at that time was cancelled, or has an earlier one."""
        self._number = itertools.count()
        self._wake_up = WakeUp(clock) if wake_up is None else wake_up

    @property
    def wake_up(self) -> WakeUp:
        return self._wake_up

    @property
    def next_at(self) -> float | None:
        """By the monotonic clock; perhaps of one that was cancelled."""
        return self._due[0][0] if self._due else None

    def make(self, what: T, wait_seconds: float) -> None:
        """Unless it has an earlier one."""
        due_at = self._clock.monotonic() + wait_seconds
        before = self._due_at.get(what)
        if before is None or due_at < before:
            self._due_at[what] = due_at
            heapq.heappush(self._due, (due_at, next(self._number), what))
            self._wake_up.tell()
            self._clear_away()

    def clear(self) -> None:
        """Without any."""
        self._due.clear()
        self._due_at.clear()

    def cancel(self, what: T) -> None:
        if self._due_at.pop(what, None) is not None:
            self._clear_away()

    def due(self, now: float) -> Iterator[T]:
        """Each whose time has come; its timer is over with that, and another may be made meanwhile."""
        while self._due and self._due[0][0] <= now:
            due_at, _, what = heapq.heappop(self._due)
            if self._due_at.get(what) == due_at:
                del self._due_at[what]
                yield what

    def _clear_away(self) -> None:
        """Left in the heap until their time, timers that were cancelled would keep every order of the last minutes in memory."""
        cancelled = len(self._due) - len(self._due_at)
        if cancelled > max(CANCELLED_KEPT, len(self._due) // 2):
            self._due = [entry for entry in self._due if self._due_at.get(entry[2]) == entry[0]]
            heapq.heapify(self._due)

    def wake(self) -> None:
        """Something has happened: whoever waits for a timer waits no longer."""
        self._wake_up.tell()

    async def wait(self, timeout_seconds: float | None) -> None:
        """Until something has happened, or so long."""
        await self._wake_up.wait(timeout_seconds)
