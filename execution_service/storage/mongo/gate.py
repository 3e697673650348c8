"""One write at a time at the embedded store, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


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
