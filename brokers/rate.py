"""How many calls an account may make, and which go first when there are too many. No broker, no threads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

_LEAST_SLEEP_SECONDS = 0.001
"""A smaller wait might not change a float time."""


_REPEATED_PART = 4
"""At most one in so many of the unreserved calls may be a repetition."""


class CallPriority(IntEnum):
    """Which calls go first when there are too few for all."""

    EXIT = 1
    """Closes or reduces a position: may use everything."""
    CANCEL = 2
    """The first request to cancel an order."""
    ORDINARY = 3
    REPEATED = 4
    """A repeated request: has a share of its own, and never uses what is reserved for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most `calls` in any period of `seconds`. The last `reserve` of them are for exits and first cancels, the
    last `for_exits` of these for exits alone. At most `repeated` are repetitions (None: as many as are unreserved)."""

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
        """How many calls, of any kind, may already have left for one with this priority to leave too."""
        kept = {CallPriority.EXIT: 0, CallPriority.CANCEL: self.for_exits}.get(claim, self.reserve)
        return self.calls - kept


def limit(*, calls: int, seconds: float, reserve_percent: int = 0) -> RateLimit:
    """`reserve_percent` of the calls, rounded up, is for exits and first cancels, half of that, rounded up, for exits
    alone. A quarter of the rest may be repetitions."""
    reserve = min(calls - 1, -(-calls * reserve_percent // 100))
    return RateLimit(
        calls=calls,
        seconds=seconds,
        reserve=reserve,
        for_exits=-(-reserve // 2),
        repeated=max(1, (calls - reserve) // _REPEATED_PART),
    )


def limits(
    *, per_second: int, per_minute: int | None = None, per_day: int | None = None, reserve_percent: int = 0
) -> tuple[RateLimit, ...]:
    """Limits for any second, minute and 24 hours, each as `limit` makes it; None: no such limit."""
    given = ((per_second, 1.0), (per_minute, 60.0), (per_day, 86_400.0))
    return tuple(
        limit(calls=calls, seconds=seconds, reserve_percent=reserve_percent)
        for calls, seconds in given
        if calls is not None
    )


class BudgetSpent(Exception):
    """The call would have to wait longer than the caller allows. It was not counted."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(f"the rate budget is spent; free again in about {wait_seconds:.1f} s")
        self.wait_seconds = wait_seconds


class _Window:
    """The calls within one limit's period, oldest first, and which of them were repetitions."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._calls = deque[float]()
        self._repeated = deque[float]()

    def add(self, moment: float, claim: CallPriority, cost: int) -> None:
        moments = [moment] * cost
        self._calls.extend(moments)
        if claim is CallPriority.REPEATED:
            self._repeated.extend(moments)

    def left(self, now: float) -> int:
        """How many ordinary calls may leave now."""
        self._forget(now)
        return max(0, self.limit.allowed(CallPriority.ORDINARY) - len(self._calls))

    def remember(self, moments: Iterable[float], now: float) -> None:
        counted = sorted((*self._calls, *(moment for moment in moments if now - moment < self.limit.seconds)))
        self._calls = deque(counted)

    def count_at_least(self, calls: int, now: float) -> None:
        """So many have left by now, whoever made them."""
        self._forget(now)
        self._calls.extend([now] * min(calls - len(self._calls), self.limit.calls))

    def free_at(self, claim: CallPriority, now: float, cost: int) -> float:
        """When a call with this priority may leave; not after `now`: at once. One that costs more than may ever be
        used at once may leave when everything is free."""
        limit = self.limit
        free = self._free_at(self._calls, max(limit.allowed(claim) - cost + 1, 1), now)
        if claim is CallPriority.REPEATED and limit.repeated is not None:
            free = max(free, self._free_at(self._repeated, max(limit.repeated - cost + 1, 1), now))
        return free

    def _forget(self, now: float) -> None:
        while self._calls and now - self._calls[0] >= self.limit.seconds:
            self._calls.popleft()

    def _free_at(self, calls: deque[float], allowed: int, now: float) -> float:
        while calls and now - calls[0] >= self.limit.seconds:
            calls.popleft()
        return calls[len(calls) - allowed] + self.limit.seconds if len(calls) >= allowed else now


class RateBudget:
    """The calls of one kind of one account. A call that must wait leaves when the oldest call leaves the full
    period; waiting calls of equal priority leave first come, first served. For one event loop. Calls of an earlier
    process must be added with `remember`."""

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
        cost: int = 1,
    ) -> None:
        """Returns when the call may leave; it counts from then, `cost` times where a broker weighs calls. It waits at
        most `patience_seconds` once no call of the same priority is ahead of it, and before that at most
        `queues_seconds` (None: without limit). Raises BudgetSpent as soon as the wait would be longer."""
        queue = self._queues[claim]
        try:
            # A lock serves its waiters first come, first served.
            async with asyncio.timeout(queues_seconds):
                await queue.acquire()
        except TimeoutError as exc:
            raise BudgetSpent(max(self.wait_seconds(claim, cost), _LEAST_SLEEP_SECONDS)) from exc
        try:
            deadline = self._clock() + patience_seconds
            while (wait_seconds := self.wait_seconds(claim, cost)) > 0:
                if self._clock() + wait_seconds > deadline:
                    raise BudgetSpent(wait_seconds)
                await self._sleep(max(wait_seconds, _LEAST_SLEEP_SECONDS))
            now = self._clock()
            for window in self._windows:
                window.add(now, claim, cost)
        finally:
            queue.release()

    def remember(self, ages_seconds: Iterable[float]) -> None:
        """Counts calls made so many seconds ago, by any process."""
        now = self._clock()
        moments = [now - max(0.0, age) for age in ages_seconds]
        for window in self._windows:
            window.remember(moments, now)

    def pause(self, seconds: float) -> None:
        """Blocks all calls for so long: the broker reported that there were too many."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def count_at_least(self, calls: int, seconds: float) -> None:
        """The broker has counted so many calls within the limit of this period, those of other processes included."""
        now = self._clock()
        for window in self._windows:
            if window.limit.seconds == seconds:
                window.count_at_least(calls, now)

    def lower(self, calls_by_seconds: Mapping[float, int]) -> None:
        """The broker's own limits, by their period: a limit that is higher is lowered to it."""
        for window in self._windows:
            calls = calls_by_seconds.get(window.limit.seconds)
            if calls is not None and 0 < calls < window.limit.calls:
                window.limit = _lowered(window.limit, calls)

    def wait_seconds(self, claim: CallPriority = CallPriority.ORDINARY, cost: int = 1) -> float:
        """How long a call would have to wait now if no other were waiting; 0 or less: not at all."""
        now = self._clock()
        return max((self._paused_until, *(window.free_at(claim, now, cost) for window in self._windows))) - now

    def share_left(self) -> float:
        """Of what ordinary calls may use, how much is left where it is least, from 1 (all) to 0."""
        now = self._clock()
        if now < self._paused_until:
            return 0.0
        return min(
            (window.left(now) / window.limit.allowed(CallPriority.ORDINARY) for window in self._windows), default=1.0
        )

    def left(self) -> dict[float, int]:
        """By each limit's period in seconds, how many ordinary calls may leave now."""
        now = self._clock()
        if now < self._paused_until:
            return {window.limit.seconds: 0 for window in self._windows}
        return {window.limit.seconds: window.left(now) for window in self._windows}


def _lowered(known: RateLimit, calls: int) -> RateLimit:
    """With the same shares."""
    reserve = min(calls - 1, -(-calls * known.reserve // known.calls))
    return RateLimit(
        calls=calls,
        seconds=known.seconds,
        reserve=reserve,
        for_exits=min(reserve, -(-calls * known.for_exits // known.calls)),
        repeated=None if known.repeated is None else max(1, calls * known.repeated // known.calls),
    )
