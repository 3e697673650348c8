"""Trading hours by the package exchange-calendars, which is loaded when the first order needs it; what it cannot tell is not known."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from execution_service.core.risk.gate import Session
from execution_service.runtime.clock import Clock
from execution_service.runtime.threads import Blocking

log = structlog.get_logger(__name__)

SCHEDULES = "execution_service.calendars.schedules"
"""Loaded by name: it brings pandas, which nobody needs who asks for no hours."""
PATIENCE_SECONDS = 5.0
"""So long an order waits for a calendar that is being read; it takes about a second, once."""
RETRY_SECONDS = 600.0
"""A calendar that could not be read is tried again after this."""
BEFORE, AFTER = timedelta(days=15), timedelta(days=30)
"""How much of a calendar is looked at: longer than any exchange rests."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `begins` until just before `ends` nothing changes."""

    begins: datetime
    ends: datetime
    session: Session

    def covers(self, now: datetime) -> bool:
        return self.begins <= now < self.ends


class ExchangeHours:
    """Asked in passing: what was looked up holds until the market's next opening or close, and is a comparison until then."""

    def __init__(self, *, clock: Clock, blocking: Blocking) -> None:
        """`blocking`: where the package is loaded and read, which takes about a second."""
        self._clock = clock
        self._blocking = blocking
        self._windows: dict[str, Window] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._failed_at: dict[str, float] = {}

    async def session(self, calendar: str, now: datetime) -> Session | None:
        """None: it is not known. Raises nothing."""
        window = self._windows.get(calendar)
        if window is None or not window.covers(now):
            await self._read(calendar, now)
            window = self._windows.get(calendar)
        return window.session if window is not None and window.covers(now) else None

    def close(self) -> None:
        self._blocking.close()

    async def _read(self, calendar: str, now: datetime) -> None:
        failed_at = self._failed_at.get(calendar)
        if failed_at is not None and self._clock.monotonic() - failed_at < RETRY_SECONDS:
            return
        reading = self._reading.get(calendar)
        if reading is None:
            reading = self._reading[calendar] = asyncio.create_task(self._look_up(calendar, now))
            reading.add_done_callback(lambda _: self._reading.pop(calendar, None))
        await asyncio.wait([reading], timeout=PATIENCE_SECONDS)

    async def _look_up(self, calendar: str, now: datetime) -> None:
        try:
            self._windows[calendar] = await self._blocking.run(lambda: window_of(calendar, now))
        except Exception as exc:  # noqa: BLE001  a package that is missing, another version of it, a calendar that ends: none may stop trading
            if calendar not in self._failed_at:
                log.warning(
                    f"The trading hours of {calendar} are not known: {exc}",
                    action="calendar_unknown",
                    calendar=calendar,
                )
            self._failed_at[calendar] = self._clock.monotonic()
            return
        if self._failed_at.pop(calendar, None) is not None:
            log.info(f"The trading hours of {calendar} are known again", action="calendar_known", calendar=calendar)


def window_of(calendar: str, now: datetime) -> Window:
    """What the calendar says of that moment. Raises ImportError where the package is not installed, LookupError where the calendar does not reach as
    far, and whatever the package raises."""
    last_close: datetime | None = None
    schedules = importlib.import_module(SCHEDULES)
    for opens, closes in schedules.open_hours(calendar, (now - BEFORE).date(), (now + AFTER).date()):
        if opens <= now < closes:
            return Window(opens, closes, Session(is_open=True, opened_at=opens))
        if last_close is not None and last_close <= now < opens:
            return Window(last_close, opens, Session(is_open=False, opens_at=opens))
        last_close = closes
    raise LookupError(f"the calendar does not tell of {now:%Y-%m-%d}")
