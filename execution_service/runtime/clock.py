"""The clock as every room is given it; the real one is in app/clock.py, a hand-moved one with the tests."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall clock, aware UTC, whole milliseconds: for records and people."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps: for every deadline."""

    async def sleep(self, seconds: float) -> None: ...
