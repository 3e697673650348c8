"""The messages of one subscription that were received and are not stored yet, and whether more are wanted; not how they are pulled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime

from execution_service.transport.ports import Message


class Inbox(asyncio.Queue[Message]):
    """Filled by whoever pulls the subscription, emptied by whoever stores the messages; both on one event loop.

    While the inbox refuses, its filler pulls nothing and has handed back to the subscription everything that was not acknowledged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._accepts, self._refuses = asyncio.Event(), asyncio.Event()
        self._accepts.set()
        self._in_hand: Sequence[Message] = ()
        self._handed_back: datetime | None = None

    @property
    def oldest(self) -> datetime | None:
        """When the oldest message was published that is not acknowledged: it waits here, is being stored, or was handed back since nothing can be
        stored. None: there is none."""
        waiting: deque[Message] = self._queue  # type: ignore[attr-defined]
        moments = [message.publish_time for message in (*waiting, *self._in_hand)]
        return min((*moments, *(() if self._handed_back is None else (self._handed_back,))), default=None)

    @property
    def is_refusing(self) -> bool:
        return self._refuses.is_set()

    def refuse(self) -> None:
        """Nothing can be stored: no more messages, and all that is not acknowledged is handed back at once."""
        self._handed_back = self.oldest
        self._accepts.clear()
        self._refuses.set()

    def accept(self) -> None:
        """Messages are wanted again."""
        self._handed_back = None
        self._refuses.clear()
        self._accepts.set()

    async def until_refusing(self) -> None:
        await self._refuses.wait()

    async def until_accepting(self) -> None:
        await self._accepts.wait()

    async def next_batch(self, at_most: int) -> list[Message]:
        """At least one message, and as many more as are there already."""
        self._in_hand = ()
        batch = [await self.get()]
        while len(batch) < at_most and not self.empty():
            batch.append(self.get_nowait())
        return batch

    @contextlib.contextmanager
    def put_back_unless_taken(self, batch: Sequence[Message]) -> Iterator[None]:
        """Whoever ends in the middle of a batch leaves it to who takes next: Pub/Sub, to which it is in our hands, would not bring it again
        soon. To take one twice is harmless."""
        self._in_hand = (
            batch  # until the next one is asked for: of a batch that was not stored, the inbox refuses more first
        )
        try:
            yield
        except BaseException:
            self._in_hand = ()
            for message in batch:
                self.put_nowait(message)
            raise

    def discard(self) -> None:
        """Forgets the messages that wait: they were handed back."""
        while not self.empty():
            self.get_nowait()
