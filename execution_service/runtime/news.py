"""Waiting for news, or for a time to come, whichever is first; what the news are is not told here."""

from __future__ import annotations

import asyncio
from typing import Any

from execution_service.runtime.clock import Clock


class News:
    """Told by anybody, waited for by one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = asyncio.Event()

    def tell(self) -> None:
        self._told.set()

    async def wait(self, timeout_seconds: float | None = None) -> None:
        """Until there has been news since the last wait, or so long."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._told.wait())]
        if timeout_seconds is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(timeout_seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._told.clear()
