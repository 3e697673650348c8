"""How tests wait for what others do in real time: until it is so, never for so long. What runs by a hand-moved clock waits with its world."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_SECONDS = 10.0
"""Enough for anything that takes no time by itself, on a busy machine."""


def wait_until(
    condition: Callable[[], T],
    what: str = "what was waited for",
    *,
    within: float = 20.0,
    pause: float = 0.01,
    share: float = 1.0,
    more: Callable[[], object] = str,
) -> T:
    """The condition's first true answer. Fails, with `more` to read, if there is none in time. `share`: no more of the time goes into asking,
    where that takes something away from those who are watched."""
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        answer = condition()
        took = time.monotonic() - began
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {within:g} s: {what}. {more()}")
        time.sleep(max(pause, min(took * (1 / share - 1), deadline - time.monotonic())))


async def until(holds: Callable[[], object]) -> None:
    """The same on an event loop. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110  what is waited for is another's state
            await asyncio.sleep(0.005)


def wait_until_listening(port: int, process: subprocess.Popen[bytes], name: str, *, within: float) -> None:
    """Until the process takes connections. Raises RuntimeError when it ends before, TimeoutError when it takes too long."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with status {process.returncode} at start")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"{name} does not listen on port {port} after {within:g} s")
