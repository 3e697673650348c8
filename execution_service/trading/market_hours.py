"""Whether markets are open, as the risk gate asks; who knows it is not known here."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from execution_service.core.risk.gate import Session


class MarketHours(Protocol):
    """Who knows the calendars."""

    async def session(self, calendar: str, now: datetime) -> Session | None:
        """Of that calendar at that moment, after a short bounded wait at most; None: it is not known. Raises nothing."""


class NoHours:
    """Where there are no calendars: nothing is known to be open or closed."""

    async def session(self, calendar: str, now: datetime) -> Session | None:
        return None
