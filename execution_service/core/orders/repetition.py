"""How often a request about one order is repeated: less and less often, sooner again after a change, at most so many
per hour and day. No clock, no calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

HOUR_SECONDS = 3_600.0
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatSchedule:
    """The pauses between repeated requests about one order, and the limits per hour and day that hold whatever
    happens."""

    pauses_seconds: tuple[float, ...]
    """After the first request, the second and so on. The last one holds for all that follow."""
    an_hour: int
    """Requests in any 3,600 s, at most."""
    a_day: int
    """Requests in any 86,400 s, at most."""


CANCELS = RepeatSchedule(pauses_seconds=(2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0), an_hour=12, a_day=30)
"""Repeats of a cancel that was not answered, or refused for the moment: eight in the first hour, later one an hour."""
FINDS = RepeatSchedule(pauses_seconds=(5.0, 30.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0), an_hour=12, a_day=30)
"""Searches for an order in doubt. They are only for orders that the broker's lists do not show; those are read
anyway."""


@dataclass(frozen=True, slots=True)
class RequestHistory:
    """When something was requested, by a monotonic clock. A request that was not sent does not count."""

    moments: tuple[float, ...] = ()
    """Of the last day, the latest last."""
    since_change: int = 0
    """Requests since the last change; they determine the next pause."""
    count: int = 0
    """Requests in all."""

    @property
    def latest(self) -> float | None:
        return self.moments[-1] if self.moments else None

    def with_request(self, now: float) -> RequestHistory:
        kept = tuple(moment for moment in self.moments if now - moment < DAY_SECONDS)
        return RequestHistory((*kept, now), self.since_change + 1, self.count + 1)

    def without_latest(self) -> RequestHistory:
        """Without the latest request, which turned out not to have been sent."""
        return RequestHistory(self.moments[:-1], max(0, self.since_change - 1), self.count - 1)

    def with_pauses_reset(self) -> RequestHistory:
        """Something changed that may alter the answer: the pauses start from the shortest again."""
        return replace(self, since_change=0)

    def wait_seconds(self, rhythm: RepeatSchedule, now: float) -> float:
        """Seconds until the next request is due; 0: now."""
        if not self.moments:
            return 0.0
        pause = rhythm.pauses_seconds[min(max(self.since_change, 1), len(rhythm.pauses_seconds)) - 1]
        due = self.moments[-1] + pause
        for most, seconds in ((rhythm.an_hour, HOUR_SECONDS), (rhythm.a_day, DAY_SECONDS)):
            if len(self.moments) >= most:
                due = max(due, self.moments[-most] + seconds)
        return max(0.0, due - now)
