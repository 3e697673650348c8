"""The tasks that are under way for one account, begun and ended together; not what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from execution_service.recording.live_orders import LiveOrder
from execution_service.trading.timers import Timers

log = structlog.get_logger(__name__)


class Tasks:
    """Keeps each until it has ended, and says why where one failed."""

    def __init__(self, account_id: str, *, timers: Timers[LiveOrder]) -> None:
        """`timers` are woken after each."""
        self._account_id = account_id
        self._timers = timers
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"{self._account_id}-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait_for(self, name: str) -> None:
        """Until no task is left whose name ends so."""
        while tasks := [task for task in self._tasks if task.get_name().endswith(name)]:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """All of them, those too that they begin while they end, and returns when they have ended."""
        while self._tasks:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # for what is called at their end

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error(f"Step failed: {exc}", action="step_failed", account_id=self._account_id, exc_info=exc)
        self._timers.wake()
