"""When the trader looks at each order next, and the wait until one is due or there is news; not what is done then."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp

KEPT_APPOINTMENTS = 64
"""So many appointments with orders that are over may lie about."""


class Timers:
    """Of the orders of one account: one with each order at most, the earliest that anybody has asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[tuple[float, int, LiveOrder]] = []
        self._missed = 0
        """How many of these are not kept: the order has ended, or has an earlier one."""
        self._number = itertools.count()
        self._wake_up = WakeUp(clock)

    @property
    def next_at(self) -> float | None:
        """By the monotonic clock; perhaps of one that is off."""
        return self._due[0][0] if self._due else None

    def make(self, live: LiveOrder, wait_seconds: float) -> None:
        due_at = self._clock.monotonic() + wait_seconds
        if live.due_at is None or due_at < live.due_at:
            self.cancel(live)
            live.due_at = due_at
            heapq.heappush(self._due, (due_at, next(self._number), live))
            self._wake_up.tell()

    def begin_anew(self) -> None:
        """Without any; whoever had one says so himself (`LiveOrder.begin_anew`)."""
        self._due.clear()
        self._missed = 0

    def cancel(self, live: LiveOrder) -> None:
        """Left in the heap until its time, it would keep every order of the last minutes in memory."""
        if live.due_at is None:
            return
        live.due_at = None
        self._missed += 1
        if self._missed > max(KEPT_APPOINTMENTS, len(self._due) // 2):
            self._due = [entry for entry in self._due if entry[2].due_at == entry[0]]
            heapq.heapify(self._due)
            self._missed = 0

    def due(self, now: float) -> Iterator[LiveOrder]:
        """Each order whose time has come; its appointment is over with that, and another may be made meanwhile."""
        while self._due and self._due[0][0] <= now:
            due_at, _, live = heapq.heappop(self._due)
            if live.due_at != due_at:
                self._missed -= 1
                continue
            live.due_at = None
            yield live

    def wake(self) -> None:
        """There is news: whoever waits for an appointment waits no longer."""
        self._wake_up.tell()

    async def wait(self, timeout_seconds: float | None) -> None:
        """Until there is news, or so long."""
        await self._wake_up.wait(timeout_seconds)
