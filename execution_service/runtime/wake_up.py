"""Waiting for news, or for a time to come, whichever is first; what the news are is not told here."""

from __future__ import annotations

import asyncio
from typing import Any

from execution_service.runtime.clock import Clock


class WakeUp:
    """Told by anybody, waited for by one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = asyncio.Event()

    def tell(self) -> None:
        self._told.set()

    async def wait(self, timeout_seconds: float | None = None) -> None:
        """Until there has been news since the last wait, or so long."""
        if self._told.is_set():
            await asyncio.sleep(0)  # others have their turn also where there is always news
        elif timeout_seconds is None:
            await self._told.wait()
        else:
            await self._wait_so_long(timeout_seconds)
        self._told.clear()

    async def _wait_so_long(self, seconds: float) -> None:
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._told.wait()),
            asyncio.ensure_future(self._clock.sleep(seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
