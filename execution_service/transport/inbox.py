"""The messages of one subscription that were received and are not stored yet, and whether more are wanted; not how they are pulled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from execution_service.transport.ports import Message


class Inbox(asyncio.Queue[Message]):
    """Filled by whoever pulls the subscription, emptied by whoever stores the messages; both on one event loop.

    While the inbox refuses, its filler pulls nothing and has handed back to the subscription everything that was not acknowledged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._accepts, self._refuses = asyncio.Event(), asyncio.Event()
        self._accepts.set()

    @property
    def is_refusing(self) -> bool:
        return self._refuses.is_set()

    def refuse(self) -> None:
        """Nothing can be stored: no more messages, and all that is not acknowledged is handed back at once."""
        self._accepts.clear()
        self._refuses.set()

    def accept(self) -> None:
        """Messages are wanted again."""
        self._refuses.clear()
        self._accepts.set()

    async def until_refusing(self) -> None:
        await self._refuses.wait()

    async def until_accepting(self) -> None:
        await self._accepts.wait()

    async def next_batch(self, at_most: int) -> list[Message]:
        """At least one message, and as many more as are there already."""
        batch = [await self.get()]
        while len(batch) < at_most and not self.empty():
            batch.append(self.get_nowait())
        return batch

    @contextlib.contextmanager
    def put_back_unless_taken(self, batch: Sequence[Message]) -> Iterator[None]:
        """Whoever ends in the middle of a batch leaves it to who takes next: Pub/Sub, to which it is in our hands, would not bring it again
        soon. To take one twice is harmless."""
        try:
            yield
        except BaseException:
            for message in batch:
                self.put_nowait(message)
            raise

    def discard(self) -> None:
        """Forgets the messages that wait: they were handed back."""
        while not self.empty():
            self.get_nowait()
