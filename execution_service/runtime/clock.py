"""The clock as every room is given it; the real one is in app/clock.py, a hand-moved one with the tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> object:
        """It does not go off any more; of no effect on one that has."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall clock, aware UTC, whole milliseconds: for records and people."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps: for every deadline."""

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Calls in the running loop when so long has passed; with 0 or less soon, not now."""
