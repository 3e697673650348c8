"""A TCP proxy of the tests on loopback that can do to a connection whatever a network does; it knows nothing of what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from enum import StrEnum
from types import TracebackType
from typing import Self


class Mood(StrEnum):
    OPEN = "open"
    CUT_OFF = "cut off"
    """Every connection is broken, and a new one as soon as it is made."""
    SLOW = "slow"
    """Each answer comes `SLOW_SECONDS` late."""
    HALF_OPEN = "half-open"
    """Connections are accepted, and nothing ever comes back."""
    FLAPPING = "flapping"
    """Open and cut off in turn, every `FLAP_SECONDS`."""
    FORGOTTEN = "forgotten"
    """What is connected at this moment hears nothing any more, ever, not even of its end, as when a router forgets; new connections live."""


SLOW_SECONDS = 5.0
FLAP_SECONDS = 0.7


class Proxy:
    """Stands before the port `target` while it is entered; `port` is its own."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.mood = Mood.OPEN
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flaps: asyncio.Task[None] | None = None

    def be(self, mood: Mood) -> None:
        """From now on. Connections made in another mood are broken where they could not have lived in this one."""
        asyncio.run_coroutine_threadsafe(self._be(mood), self._loop).result(10)

    @contextlib.contextmanager
    def being(self, mood: Mood) -> Iterator[None]:
        """In this mood for a while, and open afterwards."""
        self.be(mood)
        try:
            yield
        finally:
            self.be(Mood.OPEN)

    def cut(self) -> None:
        """Every connection ends now; new ones are taken."""

        async def cut() -> None:
            self._break()

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result(10)

    async def _be(self, mood: Mood) -> None:
        if self._flaps is not None:
            self._flaps.cancel()
            self._flaps = None
        before, self.mood = self.mood, mood
        if mood is Mood.FLAPPING:
            self._flaps = self._loop.create_task(self._flap())
        elif mood is Mood.FORGOTTEN:
            self._forgotten |= self._writers
        elif mood is Mood.CUT_OFF or before is Mood.HALF_OPEN:
            self._break()

    async def _flap(self) -> None:
        while True:
            self.mood = Mood.CUT_OFF
            self._break()
            await asyncio.sleep(FLAP_SECONDS)
            self.mood = Mood.OPEN
            await asyncio.sleep(FLAP_SECONDS)

    def _break(self) -> None:
        for writer in self._writers - self._forgotten:
            writer.transport.abort()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mood is Mood.CUT_OFF:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        for source, sink, is_answer in ((reader, far_writer, False), (far_reader, writer, True)):
            pipe = self._loop.create_task(self._pass_on(source, sink, both, is_answer))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, both: set[asyncio.StreamWriter], is_answer: bool
    ) -> None:
        with contextlib.suppress(OSError):  # an end that was broken
            while data := await source.read(65536):
                if is_answer and self.mood is Mood.SLOW:
                    await asyncio.sleep(SLOW_SECONDS)
                if sink in self._forgotten or (is_answer and self.mood is Mood.HALF_OPEN):
                    continue
                sink.write(data)
                await sink.drain()
        if sink in self._forgotten:
            return  # the other end hears nothing of this one's end; it is closed with the proxy
        for writer in both:
            writer.transport.abort()
        self._writers -= both

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        await self._be(Mood.OPEN)
        if self._server is not None:
            self._server.close()
        self._forgotten.clear()
        self._break()
        for pipe in tuple(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
