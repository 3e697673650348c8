"""How often something is asked again: rarer with time, soon again after news, never more than so often an hour and a day; no clock, no calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

HOUR_SECONDS = 3_600.0
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The pauses between two askings about one order, and how many there are at most, news or none."""

    pauses_seconds: tuple[float, ...]
    """After the first asking, the second and so on; the last one holds for all that follow."""
    an_hour: int
    a_day: int


CANCELS = Rhythm(pauses_seconds=(2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0), an_hour=12, a_day=30)
"""A cancel that is not answered, or refused for the moment: eight in the first hour, one an hour later on."""
FINDS = Rhythm(pauses_seconds=(5.0, 30.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0), an_hour=12, a_day=30)
"""Looking for an order in doubt. What the broker lists is heard without that; this is for what it does not list."""


@dataclass(frozen=True, slots=True)
class Asked:
    """When something was asked, by a clock that never jumps. Only what was really sent counts."""

    moments: tuple[float, ...] = ()
    """Of the last day, the latest last."""
    since_news: int = 0
    """How often since there was news: those let the pauses grow."""
    count: int = 0
    """How often in all."""

    @property
    def latest(self) -> float | None:
        return self.moments[-1] if self.moments else None

    def once_more(self, now: float) -> Asked:
        kept = tuple(moment for moment in self.moments if now - moment < DAY_SECONDS)
        return Asked((*kept, now), self.since_news + 1, self.count + 1)

    def taken_back(self) -> Asked:
        """The latest did not leave after all."""
        return Asked(self.moments[:-1], max(0, self.since_news - 1), self.count - 1)

    def after_news(self) -> Asked:
        """Something has changed by which the next asking may fare better: it comes soon, as after the first."""
        return replace(self, since_news=0)

    def wait_seconds(self, rhythm: Rhythm, now: float) -> float:
        """Until the next asking; 0: it may be made now."""
        if not self.moments:
            return 0.0
        pause = rhythm.pauses_seconds[min(max(self.since_news, 1), len(rhythm.pauses_seconds)) - 1]
        due = self.moments[-1] + pause
        for most, seconds in ((rhythm.an_hour, HOUR_SECONDS), (rhythm.a_day, DAY_SECONDS)):
            if len(self.moments) >= most:
                due = max(due, self.moments[-most] + seconds)
        return max(0.0, due - now)
