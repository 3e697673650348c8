"""When record updates that wait are written: one commit at a time, for the embedded store, or several side by side; writes nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, TypeVar

from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.mongo import write_queue
from execution_service.storage.mongo.gate import Gate
from execution_service.storage.mongo.write_queue import COMMIT, EmbeddedWriteQueue, WriteQueue

PART = "record updates"
COMMITS_AT_ONCE = 4
"""Side by side. What comes while so many are under way goes into the next one, so that commits grow with the load."""


class Update(write_queue.Update, Protocol):
    """One that is waited for."""

    @property
    def order_id(self) -> str:
        """Its record."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether nobody waits for it any more."""
        ...


U = TypeVar("U", bound=Update)

Turn = Callable[[], AbstractAsyncContextManager[None]]
Write = Callable[[Callable[[], Sequence[U]], Turn], Coroutine[Any, Any, None]]
"""Enters the turn, takes a batch then, and ends when each of its updates is settled, however long the store is away."""


class Schedule(Protocol[U]):
    """Has the updates that wait, and writes them by its parts. One of these that ends in the middle leaves what it had taken to whoever
    writes next, or those who wait for it would wait for ever; what was written all the same is to be found out by whoever writes."""

    def put(self, update: U, account_id: str | None, *, is_leaving: bool = False) -> None:
        """As in `WriteQueue.put`."""

    def parts(self, write: Write[U]) -> Sequence[Part]:
        """What is to run for as long as updates come."""


class OneAtATime(Schedule[U]):
    """A server that makes one write sooner than several at once: every commit waits for its turn at the gate, and what hurries goes first.
    The batch is chosen when the turn has come."""

    def __init__(self, clock: Clock, gate: Gate) -> None:
        self._queue: EmbeddedWriteQueue[U] = EmbeddedWriteQueue(clock)
        self._gate = gate
        self._woken, self._hurry = asyncio.Event(), asyncio.Event()
        self._put_back: list[U] = []
        """What a writer that has ended had taken, and not settled."""

    def put(self, update: U, account_id: str | None, *, is_leaving: bool = False) -> None:
        self._queue.put(update, account_id, is_leaving=is_leaving)
        self._woken.set()
        self._hurry.set()

    def parts(self, write: Write[U]) -> Sequence[Part]:
        return (
            Part(PART, partial(self._write_waiting, write)),
            Part(f"{PART} that hurry", partial(self._write_hurrying, write)),
        )

    async def _write_waiting(self, write: Write[U]) -> None:
        while True:
            await self._woken.wait()
            if self._put_back or self._queue:
                await self._write(write, self._take)
            else:
                self._woken.clear()

    def _take(self) -> Sequence[U]:
        self._hurry.set()  # who has less to write than the busiest is another question after this
        if self._put_back:
            batch, self._put_back = self._put_back, []
            return batch
        return self._queue.take_commit()

    async def _write_hurrying(self, write: Write[U]) -> None:
        while True:
            await self._hurry.wait()
            if self._queue.has_hurry:
                await self._write(write, self._queue.take_hurry, hurries=True)
            else:
                self._hurry.clear()

    async def _write(self, write: Write[U], take: Callable[[], Sequence[U]], *, hurries: bool = False) -> None:
        taken: Sequence[U] = ()

        def take_some() -> Sequence[U]:
            nonlocal taken
            taken = take()
            return taken

        try:
            await write(take_some, partial(self._gate.turn, hurries=hurries))
        except BaseException:
            self._put_back += [update for update in taken if not update.is_settled]
            self._woken.set()
            raise


class SideBySide(Schedule[U]):
    """A server that serves many at once: commits wait for nothing but a free place among so many at once, and are as long as what has
    waited meanwhile, accounts by turns. Of one record one update is under way at a time, and they go in their order."""

    def __init__(self, at_once: int = COMMITS_AT_ONCE) -> None:
        self._at_once = at_once
        self._queue: WriteQueue[U] = WriteQueue()
        self._behind: dict[str, deque[tuple[U, str | None, bool]]] = {}
        """By our id of each record that has an update in the queue or under way: those that wait for that one."""
        self._put_back: list[U] = []
        self._woken = asyncio.Event()

    def put(self, update: U, account_id: str | None, *, is_leaving: bool = False) -> None:
        behind = self._behind.get(update.order_id)
        if behind is not None:
            behind.append((update, account_id, is_leaving))
            return
        self._behind[update.order_id] = deque()
        self._queue.put(update, account_id, is_leaving=is_leaving)
        self._woken.set()

    def parts(self, write: Write[U]) -> Sequence[Part]:
        return (Part(PART, partial(self._write_for_ever, write)),)

    async def _write_for_ever(self, write: Write[U]) -> None:
        under_way: set[asyncio.Task[None]] = set()
        self._woken.set()
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                for task in [each for each in under_way if each.done()]:
                    under_way.discard(task)
                    task.result()
                while len(under_way) < self._at_once and (batch := self._take()):
                    task = asyncio.create_task(write(_already(batch), contextlib.nullcontext))
                    # And not within the task: one that is cancelled before its first step runs no line of its own.
                    task.add_done_callback(partial(self._ended, batch))
                    under_way.add(task)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _take(self) -> Sequence[U]:
        if self._put_back:
            batch, self._put_back = self._put_back, []
            return batch
        return self._queue.take(COMMIT)

    def _ended(self, batch: Sequence[U], task: asyncio.Task[None]) -> None:
        self._put_back += [update for update in batch if not update.is_settled]
        self._let_pass(update for update in batch if update.is_settled)
        self._woken.set()

    def _let_pass(self, settled: Iterable[U]) -> None:
        """What has waited for one of these is next."""
        for update in settled:
            behind = self._behind[update.order_id]
            if behind:
                order_steps, account_id, is_leaving = behind.popleft()
                self._queue.put(order_steps, account_id, is_leaving=is_leaving)
            else:
                del self._behind[update.order_id]


def _already(batch: Sequence[U]) -> Callable[[], Sequence[U]]:
    """Takes what has been taken."""
    return lambda: batch
