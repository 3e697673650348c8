"""How many calls an account may make, and who goes first when there are too many; no broker and no threads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

_LEAST_SLEEP_SECONDS = 0.001
"""What is left of a window may be too little for a float to add to the time."""


_REPEATED_PART = 4
"""One in so many of the calls that are for everybody may be a repetition."""


class CallPriority(IntEnum):
    """Who goes first when calls are scarce."""

    EXIT = 1
    """What closes or reduces a position has the last call."""
    CANCEL = 2
    """The first request to cancel an order."""
    ORDINARY = 3
    REPEATED = 4
    """What was asked before: a share of its own, and never what is kept for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most `calls` in any stretch of `seconds`, of which the last `reserve` are for exits and first cancels alone, and of these the last
    `for_exits` for exits; at most `repeated` of them are repetitions (None: as many as there are for everybody)."""

    calls: int
    seconds: float
    reserve: int = 0
    for_exits: int = 0
    repeated: int | None = None

    def __post_init__(self) -> None:
        if self.calls < 1 or self.seconds <= 0 or not 0 <= self.for_exits <= self.reserve < self.calls:
            raise ValueError(
                "a rate limit needs calls >= 1, seconds > 0 and 0 <= for_exits <= reserve < calls, "
                f"not {self.calls}, {self.seconds}, {self.for_exits}, {self.reserve}"
            )
        if self.repeated is not None and self.repeated < 1:
            raise ValueError(f"a rate limit needs repeated >= 1, not {self.repeated}")

    def allowed(self, claim: CallPriority) -> int:
        """How many calls may have left, whoever made them, for one with this claim to leave too."""
        kept = {CallPriority.EXIT: 0, CallPriority.CANCEL: self.for_exits}.get(claim, self.reserve)
        return self.calls - kept


def limits(
    *, per_second: int, per_minute: int | None = None, per_day: int | None = None, reserve_percent: int = 0
) -> tuple[RateLimit, ...]:
    """For any second, minute and 24 hours; None: no such limit. `reserve_percent` of each, rounded up, is for exits and first cancels alone,
    half of that, rounded up, for exits; a quarter of the rest may be repetitions."""
    told = ((per_second, 1.0), (per_minute, 60.0), (per_day, 86_400.0))
    return tuple(_limit(calls, seconds, reserve_percent) for calls, seconds in told if calls is not None)


def _limit(calls: int, seconds: float, reserve_percent: int) -> RateLimit:
    reserve = min(calls - 1, -(-calls * reserve_percent // 100))
    return RateLimit(
        calls=calls,
        seconds=seconds,
        reserve=reserve,
        for_exits=-(-reserve // 2),
        repeated=max(1, (calls - reserve) // _REPEATED_PART),
    )


class BudgetSpent(Exception):
    """The call would have to wait longer than its patience lasts; it was not counted."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(f"the rate budget is spent; free again in about {wait_seconds:.1f} s")
        self.wait_seconds = wait_seconds


class _Window:
    """The calls of one limit's stretch of time, the oldest first, and which of them were repetitions."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._calls = deque[float]()
        self._repeated = deque[float]()

    def add(self, moment: float, claim: CallPriority) -> None:
        self._calls.append(moment)
        if claim is CallPriority.REPEATED:
            self._repeated.append(moment)

    def remember(self, moments: Iterable[float], now: float) -> None:
        counted = sorted((*self._calls, *(moment for moment in moments if now - moment < self.limit.seconds)))
        self._calls = deque(counted)

    def free_at(self, claim: CallPriority, now: float) -> float:
        """When a call with this claim may leave; not after `now`: at once."""
        limit = self.limit
        free = self._free_at(self._calls, limit.allowed(claim), now)
        if claim is CallPriority.REPEATED and limit.repeated is not None:
            free = max(free, self._free_at(self._repeated, limit.repeated, now))
        return free

    def _free_at(self, calls: deque[float], allowed: int, now: float) -> float:
        while calls and now - calls[0] >= self.limit.seconds:
            calls.popleft()
        return calls[len(calls) - allowed] + self.limit.seconds if len(calls) >= allowed else now


class RateBudget:
    """The calls of one kind of one account. A call that must wait goes when the oldest call leaves the full window; waiting calls with the
    same claim go in the order in which they came. One event loop at a time; what an earlier process did must be told (`remember`).
    """

    def __init__(
        self,
        limits: Sequence[RateLimit],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._windows = [_Window(limit) for limit in limits]
        self._clock = clock
        self._sleep = sleep
        self._queues = {claim: asyncio.Lock() for claim in CallPriority}
        self._paused_until = float("-inf")

    async def take(
        self,
        claim: CallPriority = CallPriority.ORDINARY,
        *,
        patience_seconds: float = float("inf"),
        queues_seconds: float | None = None,
    ) -> None:
        """Returns when the call may leave, counted from then. Its patience begins when no call with the same claim is before it, and until
        then it waits for ever, or `queues_seconds`. Raises BudgetSpent as soon as it is clear that the patience will not do."""
        queue = self._queues[claim]
        try:
            # A lock's waiters are served first come, first served.
            async with asyncio.timeout(queues_seconds):
                await queue.acquire()
        except TimeoutError as exc:
            raise BudgetSpent(max(self.wait_seconds(claim), _LEAST_SLEEP_SECONDS)) from exc
        try:
            deadline = self._clock() + patience_seconds
            while (wait_seconds := self.wait_seconds(claim)) > 0:
                if self._clock() + wait_seconds > deadline:
                    raise BudgetSpent(wait_seconds)
                await self._sleep(max(wait_seconds, _LEAST_SLEEP_SECONDS))
            now = self._clock()
            for window in self._windows:
                window.add(now, claim)
        finally:
            queue.release()

    def remember(self, ages_seconds: Iterable[float]) -> None:
        """Counts calls that left so long ago, whoever made them."""
        now = self._clock()
        moments = [now - max(0.0, age) for age in ages_seconds]
        for window in self._windows:
            window.remember(moments, now)

    def pause(self, seconds: float) -> None:
        """No call leaves for so long: the broker has said that there were too many."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def wait_seconds(self, claim: CallPriority = CallPriority.ORDINARY) -> float:
        """How long a call would have to wait now, if no other one waited; 0 or less: not at all."""
        now = self._clock()
        return max((self._paused_until, *(window.free_at(claim, now) for window in self._windows))) - now
