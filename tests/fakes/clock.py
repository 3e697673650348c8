"""A clock that is moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta

from tests.builders import NOW


class HandClock:
    """A clock that stands still until it is moved; whoever sleeps on it wakes when it is."""

    def __init__(self, start: datetime = NOW) -> None:
        self._wall_offset = start - timedelta(seconds=1000)
        self._steady = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> datetime:
        moment = self._wall_offset + timedelta(seconds=self._steady)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        return self._steady

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._steady + seconds, next(self._count), wake))
        await wake

    def call_later(self, seconds: float, call: Callable[[], object]) -> asyncio.Future[None]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda end: end.cancelled() or call())
        if seconds <= 0:
            ended.set_result(None)
        else:
            heapq.heappush(self._sleepers, (self._steady + seconds, next(self._count), ended))
        return ended

    def next_wake(self) -> float | None:
        """When the first sleeper is to be woken, by the monotonic clock."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def move_to(self, moment: float) -> None:
        self._steady = max(self._steady, moment)
        while (wake := self.next_wake()) is not None and wake <= self._steady:
            heapq.heappop(self._sleepers)[2].set_result(None)

    def move(self, seconds: float) -> None:
        self.move_to(self._steady + seconds)

    def jump_wall(self, seconds: float) -> None:
        """What happens when a person or a time server sets the wall clock: nobody wakes, no time has passed."""
        self._wall_offset += timedelta(seconds=seconds)
