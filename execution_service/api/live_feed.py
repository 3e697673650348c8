"""What was recorded of orders just now, for those who listen: one bounded history for all of them, and a number for each listener."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from execution_service.api.answers import as_json
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import stored_name
from execution_service.core.orders.order import Order
from execution_service.core.texts.log import log_line
from execution_service.core.texts.values import plain
from execution_service.recording.live_orders import LiveOrder, LiveOrders

KEPT = 1000
"""So many of the latest are there for who comes again; whoever is further behind is told to read everything anew."""
MOST_LISTENERS = 32
HEARTBEAT_SECONDS = 15.0
SEND_SECONDS = 10.0
"""Who does not take a piece for so long is let go."""
STREAM_SECONDS = 300.0
"""Then a stream ends, and whoever listens comes again by itself, misses nothing, and shows that it still may."""
LONGEST_ID = 100


@dataclass(frozen=True, slots=True)
class Recorded:
    """An order as it was recorded. The events since the version before are told of it."""

    number: int
    order: Order


class LiveFeed:
    """Filled on the event loop by the recording, at the cost of one append; whoever listens works out the rest in its own time.

    An id is this process's mark and a number, so that after a restart nobody takes another's number for ours.
    """

    def __init__(self, live_orders: LiveOrders, mark: str) -> None:
        self.mark = mark
        self.listeners = 0
        self._kept: deque[Recorded] = deque(maxlen=KEPT)
        self._number = 0
        self._waiting: set[asyncio.Event] = set()
        self._is_closed = False
        live_orders.on_recorded.append(self._note)

    def _note(self, live: LiveOrder) -> None:
        self._number += 1
        self._kept.append(Recorded(self._number, live.order))
        for event in self._waiting:
            event.set()

    def open(self) -> None:
        """Streams may begin."""
        self._is_closed = False

    def close(self) -> None:
        """Ends every stream."""
        self._is_closed = True
        for event in self._waiting:
            event.set()

    def place_of(self, event_id: str | None) -> int | None:
        """How far somebody is who names this id as the last that they had: now, for none; None: not to be told, they have to read anew."""
        if event_id is None:
            return self._number
        mark, _, number = event_id.rpartition("-")
        if len(event_id) > LONGEST_ID or mark != self.mark or not (number.isascii() and number.isdecimal()):
            return None
        return int(number) if int(number) <= self._number else None

    async def pieces(self, last_event_id: str | None) -> AsyncGenerator[bytes, None]:
        """What is sent to one listener, until the feed is closed."""
        place = self.place_of(last_event_id)
        if place is None:
            yield self._resync()
            place = self._number
        else:
            yield f"retry: 3000\nid: {self.mark}-{place}\n\n".encode()
        changed = asyncio.Event()
        self._waiting.add(changed)
        seen: dict[str, int] = {}
        try:
            while not self._is_closed:
                if place < self._number - len(self._kept):
                    yield self._resync()
                    place = self._number
                    seen.clear()
                changed.clear()
                if place == self._number:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT_SECONDS):
                            await changed.wait()
                    if not changed.is_set():
                        yield b": still here\n\n"
                    continue
                recorded = self._kept[len(self._kept) - (self._number - place)]
                place = recorded.number
                yield self._piece(recorded, seen)
                await asyncio.sleep(0)  # trading comes between any two of them
        finally:
            self._waiting.discard(changed)

    def _resync(self) -> bytes:
        words = as_json({"reason": "more has happened than is kept, or another process answers: read everything anew"})
        return b"event: resync\nid: " + f"{self.mark}-{self._number}".encode() + b"\ndata: " + words + b"\n\n"

    def _piece(self, recorded: Recorded, seen: dict[str, int]) -> bytes:
        order = recorded.order
        after = seen.get(order.order_id, order.version - 1)
        if len(seen) > KEPT:
            seen.clear()
        seen[order.order_id] = order.version
        told = [
            {
                "number": each.number,
                "at": each.event.at,
                "type": stored_name(type(each.event)),
                "status": each.after.status,
                "words": plain((log_line(each.before, each.event, each.after) or ("",))[0]),
            }
            for each in applied_events(order, min(after, order.version))
        ]
        body = as_json(
            {
                "order_id": order.order_id,
                "signal_id": order.signal_id,
                "account_id": order.request.account_id,
                "strategy": order.request.strategy,
                "symbol": order.symbol,
                "status": order.status,
                "filled_quantity": order.filled_quantity,
                "average_price": order.average_price,
                "version": order.version,
                "events": told,
            }
        )
        return b"event: order\nid: " + f"{self.mark}-{recorded.number}".encode() + b"\ndata: " + body + b"\n\n"


class EventStream(Response):
    """Server-sent events to one listener: each piece has to be taken in bounded time, and the stream ends when the listener goes away."""

    media_type = "text/event-stream"

    def __init__(self, feed: LiveFeed, last_event_id: str | None) -> None:
        self._feed = feed
        self._last_event_id = last_event_id
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._feed.listeners += 1
        gone = asyncio.create_task(_until_gone(receive), name="listener gone")
        telling = asyncio.create_task(self._tell(send), name="listener")
        try:
            await asyncio.wait({gone, telling}, timeout=STREAM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._feed.listeners -= 1
            gone.cancel()
            telling.cancel()
            await asyncio.gather(gone, telling, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._feed.pieces(self._last_event_id)) as pieces:
            async for piece in pieces:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
