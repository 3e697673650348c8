"""Calls of blocking libraries, in small bounded pools, away from the event loop; knows none of the libraries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
