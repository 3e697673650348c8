"""What the simulators' HTTP servers share: one uvicorn each, loopback callers only, answers that fail on purpose. No
particular API."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost"})
LONGEST_BODY_BYTES = 1_000_000
_TRICKLE_SECONDS = 0.02
_CALLS_AT_ONCE = 256
_ENDING_SECONDS = 5.0


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Trickled(Exception):
    """The answer is to come one byte at a time, without end."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One call, completely read. `path` is decoded, `query` is not."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_response(status: int, answer: object, default: Callable[[Any], object] | None = None) -> Response:
    text = json.dumps(answer, ensure_ascii=False, default=default)
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")


class LoopbackServer:
    """A server in a thread of its own, from `begin` to `end`, which cuts every connection. Port 0 takes any free port.

    `answer` is called in a thread for each call, may block (until `stopping` is set), and may raise Dropped or
    Trickled. `refuse(status, words)` builds an error answer in the API's own form. `listen` serves WebSockets, on the
    server's event loop. Raises ValueError for a host other than loopback, OSError for a port in use, OverflowError for
    an impossible one.
    """

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[HttpCall], Response],
        refuse: Callable[[int, str], Response],
        listen: Callable[[WebSocket], Awaitable[None]] | None = None,
    ) -> None:
        if host not in LOOPBACK_NAMES:
            raise ValueError(f"The simulator serves loopback only, not {host!r}")
        self.stopping = threading.Event()
        self._answer = answer
        self._refuse = refuse
        self._listen = listen
        self._calls = ThreadPoolExecutor(_CALLS_AT_ONCE, "simulator-call")
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._begun = threading.Event()
        self._socket = socket.create_server((host, port), backlog=128)
        # Inherited by every connection. asyncio sets it only where it has made the socket itself, and without it the second
        # part of each answer waits some 40 ms for the caller's acknowledgement of the first.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]

    def begin(self, name: str) -> None:
        """Starts serving in a thread of this name."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name=name, daemon=True)
        self._thread.start()
        self._begun.wait()

    def end(self) -> None:
        """Ends every open call and closes the port. Idempotent."""
        self.stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            thread.join()
        self._socket.close()
        self._calls.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        routes: list[BaseRoute] = [Route("/{rest:path}", self._serve, methods=["GET", "POST", "PUT", "DELETE"])]
        if self._listen is not None:
            routes.append(WebSocketRoute("/{rest:path}", self._serve_listener))
        config = uvicorn.Config(
            _with_transport(Starlette(routes=routes)),
            http="h11",
            ws="websockets-sansio",
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            lifespan="off",
            # Request lines contain tokens, and impatient callers are normal here.
            log_config=None,
            log_level=100,
            access_log=False,
            timeout_keep_alive=86400,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._socket])
        self._begun.set()
        await self._ended.wait()
        # Not uvicorn's own shutdown, which waits for the callers to close their connections.
        for each in server.servers:
            each.close()
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()
        if server.server_state.tasks:
            await asyncio.wait(tuple(server.server_state.tasks), timeout=_ENDING_SECONDS)

    async def _serve(self, request: Request) -> Response:
        if int(request.headers.get("content-length") or 0) > LONGEST_BODY_BYTES:
            return self._refuse(413, "Request too large")
        if not _is_ours(request):
            return self._refuse(403, "Loopback only")
        path, query = request.scope["path"], request.scope["query_string"].decode("latin-1")
        call = HttpCall(request.method, path, query, request.headers, await request.body())
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calls, self._answer, call)
        except Dropped:
            request.scope["transport"].abort()
            return Response()
        except Trickled:
            length = {"Content-Length": str(LONGEST_BODY_BYTES)}
            return StreamingResponse(self._trickle(), headers=length, media_type="application/json")

    async def _trickle(self) -> AsyncIterator[bytes]:
        while not self.stopping.is_set():
            yield b" "
            await asyncio.sleep(_TRICKLE_SECONDS)

    async def _serve_listener(self, listener: WebSocket) -> None:
        if self._listen is None or not _is_ours(listener):
            await listener.send_denial_response(self._refuse(403, "Loopback only"))
            return
        await self._listen(listener)


def _is_ours(connection: HTTPConnection) -> bool:
    """Whether it was addressed to loopback: a page in a browser may reach this port under another host name."""
    return urlsplit(f"//{connection.headers.get('host', '')}").hostname in LOOPBACK_NAMES


def _with_transport(app: ASGIApp) -> ASGIApp:
    """Adds uvicorn's `transport` to the scope, which ASGI does not expose: only there can a connection be cut
    without an answer."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        scope["transport"] = send.__self__.transport  # type: ignore[attr-defined]  # a method of uvicorn's own
        await app(scope, receive, send)

    return serve
