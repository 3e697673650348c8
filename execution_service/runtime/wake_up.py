"""Waiting for news, or for a time to come, whichever is first; what the news are is not told here."""

from __future__ import annotations

import asyncio

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
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        timer.add_done_callback(self._time_is_up)
        try:
            await self._told.wait()
        finally:
            timer.cancel()

    def _time_is_up(self, timer: asyncio.Future[None]) -> None:
        if not timer.cancelled():
            self._told.set()
