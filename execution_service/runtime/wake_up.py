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

    @property
    def is_pending(self) -> bool:
        """Whether there has been news since the last wait."""
        return self._told.is_set()

    async def wait(self, timeout_seconds: float | None = None) -> None:
        """Until there has been news since the last wait, or so long. Who is cancelled meanwhile has consumed none."""
        if self._told.is_set():
            await asyncio.sleep(0)  # others have their turn also where there is always news
        elif timeout_seconds is None:
            await self._told.wait()
        else:
            timer = self._clock.call_later(timeout_seconds, self._told.set)
            try:
                await self._told.wait()
            finally:
                timer.cancel()
        self._told.clear()
