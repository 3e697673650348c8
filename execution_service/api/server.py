"""The address at which is listened, and the server in an event loop: its limits against slow and many callers, and its end in
bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from execution_service.runtime.supervision import Part

log = structlog.get_logger(__name__)

CONNECTIONS_AT_MOST = 128
"""More are answered 503 at once."""
BACKLOG = 64
HEADER_SECONDS = 10.0
"""How long a caller may take to send the head of a call."""
KEEP_ALIVE_SECONDS = 15
UNREAD_SECONDS = 20.0
"""After so long without taking anything a caller is cut off, by the kernel."""
ENDING_SECONDS = 1.5
LARGEST_HEAD_BYTES = 16 * 1024


class AddressTaken(Exception):
    """It cannot be listened there; the message says why."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is ours from now on; who calls before the service is ready waits. Port 0: any that is free. Raises AddressTaken."""
    try:
        family = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        found = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise AddressTaken(exc.strerror or str(exc)) from exc
    # Of each connection made to it: asyncio sees to that only where it has made the socket, and an answer in two pieces would wait 40 ms.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AttributeError):  # where the system has it
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))
    found.setblocking(False)
    return found


def address_of(listening: socket.socket) -> str:
    """As in http://127.0.0.1:8002."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Streams(Protocol):
    """Answers without an end."""

    def open(self) -> None:
        """They may begin."""

    def close(self) -> None:
        """Ends every one."""


class HttpServer:
    """One part of the process."""

    def __init__(self, application: ASGIApp, listening: socket.socket, feed: Streams) -> None:
        self._application = application
        self._listening = listening
        self._feed = feed

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return [Part("HTTP API", self.run, is_vital=False)]

    async def run(self) -> None:
        """Until cancelled; then each call under way has a moment to be answered. May be called again."""
        config = uvicorn.Config(
            self._application,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=True,
            backlog=BACKLOG,
            limit_concurrency=CONNECTIONS_AT_MOST,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=LARGEST_HEAD_BYTES,
        )
        config.load()
        self._feed.open()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._listening.dup()])
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._end(server)

    async def _end(self, server: uvicorn.Server) -> None:
        """Not uvicorn's own way, which waits for the callers to close their connections."""
        self._feed.close()
        for each in server.servers:
            each.close()
        for connection in tuple(server.server_state.connections):
            connection.shutdown()
        under_way = tuple(server.server_state.tasks)
        if under_way:
            await asyncio.wait(under_way, timeout=ENDING_SECONDS)
        for task in tuple(server.server_state.tasks):
            task.cancel()
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()


class _Connection(H11Protocol):
    """As uvicorn's, and the head of a call has to come in bounded time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._cut_off)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_waiting = self.conn.their_state is h11.IDLE
        if not is_waiting:
            self._forget_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self._cut_off)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut_off(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()
