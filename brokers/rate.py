"""How many calls an account may make, and who goes first when there are too many; no broker and no threads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

_LEAST_SLEEP_SECONDS = 0.001
"""What is left of a window may be too little for a float to add to the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most `calls` in any stretch of `seconds`, of which the last `reserve` are for urgent calls alone."""

    calls: int
    seconds: float
    reserve: int = 0

    def __post_init__(self) -> None:
        if self.calls < 1 or self.seconds <= 0 or not 0 <= self.reserve < self.calls:
            raise ValueError(
                f"a rate limit needs calls >= 1, seconds > 0 and 0 <= reserve < calls, not {self.calls}, {self.seconds}, {self.reserve}"
            )


def limits(
    *, per_second: int, per_minute: int | None = None, per_day: int | None = None, reserve_percent: int = 0
) -> tuple[RateLimit, ...]:
    """For any second, minute and 24 hours; None: no such limit. `reserve_percent` of each, rounded up, is for urgent calls alone."""
    told = ((per_second, 1.0), (per_minute, 60.0), (per_day, 86_400.0))
    return tuple(
        RateLimit(calls=calls, seconds=seconds, reserve=min(calls - 1, -(-calls * reserve_percent // 100)))
        for calls, seconds in told
        if calls is not None
    )


class BudgetSpent(Exception):
    """The call would have to wait longer than its patience lasts; it was not counted."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(f"the rate budget is spent; free again in about {wait_seconds:.1f} s")
        self.wait_seconds = wait_seconds


class RateBudget:
    """The calls of one kind of one account. A call that must wait goes when the oldest call leaves the full window; waiting calls go in
    the order in which they came, urgent ones before all others. One event loop at a time; what an earlier process did must be told (`remember`).
    """

    def __init__(
        self,
        limits: Sequence[RateLimit],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._windows = [(limit, deque[float]()) for limit in limits]
        self._clock = clock
        self._sleep = sleep
        self._ordinary = asyncio.Lock()
        self._urgent = asyncio.Lock()
        self._paused_until = float("-inf")

    async def take(self, *, urgent: bool = False, patience_seconds: float = float("inf")) -> None:
        """Returns when the call may leave, counted from then. Its patience begins when no call is before it. Raises BudgetSpent as soon as it
        is clear that the patience will not do."""
        # A lock's waiters are served first come, first served.
        async with self._urgent if urgent else self._ordinary:
            deadline = self._clock() + patience_seconds
            while (wait_seconds := self.wait_seconds(urgent=urgent)) > 0:
                if self._clock() + wait_seconds > deadline:
                    raise BudgetSpent(wait_seconds)
                await self._sleep(max(wait_seconds, _LEAST_SLEEP_SECONDS))
            now = self._clock()
            for _, calls in self._windows:
                calls.append(now)

    def remember(self, ages_seconds: Iterable[float]) -> None:
        """Counts calls that left so long ago, whoever made them."""
        now = self._clock()
        moments = [now - max(0.0, age) for age in ages_seconds]
        for limit, calls in self._windows:
            counted = sorted((*calls, *(moment for moment in moments if now - moment < limit.seconds)))
            calls.clear()
            calls.extend(counted)

    def pause(self, seconds: float) -> None:
        """No call leaves for so long: the broker has said that there were too many."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def wait_seconds(self, *, urgent: bool = False) -> float:
        """How long a call would have to wait now, if no other one waited; 0 or less: not at all."""
        now = self._clock()
        wait = self._paused_until - now
        for limit, calls in self._windows:
            while calls and now - calls[0] >= limit.seconds:
                calls.popleft()
            allowed = limit.calls if urgent else limit.calls - limit.reserve
            if len(calls) >= allowed:
                wait = max(wait, calls[len(calls) - allowed] + limit.seconds - now)
        return wait
