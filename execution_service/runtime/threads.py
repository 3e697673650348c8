"""Calls of blocking libraries, in small bounded pools, away from the event loop; knows none of the libraries."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Blocking(Protocol):
    """Where a blocking call is made."""

    async def run(self, call: Callable[[], T]) -> T: ...

    def close(self) -> None: ...


class ThreadPool:
    """At most `size` calls at once, the others wait in order."""

    def __init__(self, name: str, size: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=size, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Does not wait: a call that hangs has a time-out of its own."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class InPlace:
    """Makes the call on the spot: for scripts, which have nothing else to do, and for tests that must be repeatable."""

    async def run(self, call: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return call()

    def close(self) -> None:
        """Nothing to end."""


class Gate:
    """One at a time, in order; but whoever hurries goes before the others, and only between two who hurry one of the others."""

    def __init__(self) -> None:
        self._hurrying: deque[asyncio.Future[None]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False
        self._did_hurry = False

    @contextlib.asynccontextmanager
    async def turn(self, *, hurries: bool = False) -> AsyncIterator[None]:
        if self._is_taken:
            await self._stand_in(self._hurrying if hurries else self._waiting)
        self._is_taken, self._did_hurry = True, hurries
        try:
            yield
        finally:
            self._hand_on()

    async def _stand_in(self, queue: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._hand_on()  # it was our turn already
            raise

    def _hand_on(self) -> None:
        first, second = self._hurrying, self._waiting
        if self._did_hurry:
            first, second = second, first
        for queue in (first, second):
            while queue:
                turn = queue.popleft()
                if not turn.cancelled():
                    turn.set_result(None)
                    return
        self._is_taken = False
