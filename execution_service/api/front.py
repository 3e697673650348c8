"""What answers callers in a process of its own, so that trading does not feel them: lists are kept for a second, all else is asked of the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import h11
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from execution_service.api.problems import Problem
from execution_service.api.protection import ADDED_HEADERS

ALL = "/api/execution"
SHARED_PATHS = frozenset(
    {"/health"}
    | {f"{ALL}/{name}" for name in ("orders", "positions", "trades", "attention", "kill", "limits", "accounts")}
    | {
        f"{ALL}/{name}"
        for name in ("discrepancies", "dead-letters", "metrics", "holdings", "pace", "trade-rows", "cash", "quality")
    }
)
"""What many ask for, and may be a second old: one answer serves all who ask the same with the same token. Single orders are always asked for."""
KEPT_SECONDS = 1.0
ANSWERS_KEPT = 32
CONNECT_SECONDS = 3.0
PIECE_BYTES = 64 * 1024
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"}
    | {b"transfer-encoding", b"upgrade", b"expect"}
)
_OURS = frozenset({b"date", b"server"} | {name for name, _ in ADDED_HEADERS})
"""Of an answer: added again on its way out."""

HeaderList: TypeAlias = Sequence[tuple[bytes, bytes]]


class ServiceAway(Exception):
    """The service has not taken the call, or has not answered it whole."""

    def __init__(self, words: str, *, was_taken: bool) -> None:
        """`was_taken`: it may have been carried out."""
        super().__init__(words)
        self.was_taken = was_taken


@dataclass(frozen=True, slots=True)
class Answer:
    """As the service gave it."""

    status: int
    headers: HeaderList
    body: bytes


class Exchange:
    """One call of the service, on a connection of its own: none that is about to be closed is ever used, so nothing need be sent again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._state = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, target: bytes, headers: HeaderList, body: bytes) -> tuple[int, HeaderList]:
        """The head of the answer. Raises ServiceAway."""
        named = [(name, value) for name, value in headers if name not in _HOP_BY_HOP and name != b"content-length"]
        length = [(b"content-length", str(len(body)).encode())] if body or method not in ("GET", "HEAD") else []
        request = h11.Request(method=method, target=target, headers=[*named, *length, (b"connection", b"close")])
        parts = [request, h11.Data(data=body), h11.EndOfMessage()] if body else [request, h11.EndOfMessage()]
        try:
            self._writer.write(b"".join(self._state.send(part) or b"" for part in parts))
            await self._writer.drain()
            while not isinstance(event := await self._event(), h11.Response):
                if not isinstance(event, h11.InformationalResponse):
                    raise ServiceAway("the service has not answered", was_taken=True)
        except (OSError, h11.ProtocolError) as exc:
            raise ServiceAway(str(exc) or type(exc).__name__, was_taken=True) from exc
        left_out = _HOP_BY_HOP | _OURS
        return event.status_code, [(name, value) for name, value in event.headers if name not in left_out]

    async def pieces(self) -> AsyncIterator[bytes]:
        """Of its body, as they come. Raises ServiceAway."""
        try:
            while not isinstance(event := await self._event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    raise ServiceAway("the service has not answered whole", was_taken=True)
                yield bytes(event.data)
        except (OSError, h11.ProtocolError) as exc:
            raise ServiceAway(str(exc) or type(exc).__name__, was_taken=True) from exc

    async def _event(self) -> object:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            self._state.receive_data(await self._reader.read(PIECE_BYTES))
        return event


class Seconds(Protocol):
    def monotonic(self) -> float: ...


class TradingService:
    """Where the service itself listens, for this process alone."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    @contextlib.asynccontextmanager
    async def exchange(self) -> AsyncIterator[Exchange]:
        """Raises ServiceAway: nothing was sent."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError) as exc:
            raise ServiceAway(str(exc) or "it does not answer", was_taken=False) from exc
        try:
            yield Exchange(reader, writer)
        finally:
            writer.transport.abort()


class Front:
    """Knows no order and no token: the service judges every call, a kept answer is given to nobody but who presents the same token for the same
    question."""

    def __init__(self, service: TradingService, clock: Seconds) -> None:
        self._service = service
        self._clock = clock
        self._kept: OrderedDict[tuple[bytes, ...], tuple[float, asyncio.Task[Answer]]] = OrderedDict()
        self._closing = asyncio.Event()

    def open(self) -> None:
        """Streams may begin."""
        self._closing.clear()

    def close(self) -> None:
        """Ends every stream."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "GET" and scope["path"] in SHARED_PATHS:
                await self._give(scope, await self._shared(scope), send)
            else:
                await self._pass_on(scope, receive, send)
        except ServiceAway as exc:
            raise _problem(exc) from exc

    # --- what many ask for --------------------------------------------------------------------------------------

    async def _shared(self, scope: Scope) -> Answer:
        headers = Headers(scope=scope)
        marks = (headers.get(name, "\0") for name in ("host", "authorization", "cookie"))
        key = (scope["raw_path"], scope["query_string"], *(mark.encode("latin-1") for mark in marks))
        made_at, task = self._kept.get(key, (float("-inf"), None))
        now = self._clock.monotonic()
        if task is None or now - made_at >= KEPT_SECONDS or (task.done() and not _is_well(task)):
            task = asyncio.create_task(self._asked(scope))
            self._kept.pop(key, None)
            self._kept[key] = (now, task)
            if len(self._kept) > ANSWERS_KEPT:
                self._kept.popitem(last=False)
        return await asyncio.shield(task)  # others may wait for it

    async def _asked(self, scope: Scope) -> Answer:
        headers = [(name, value) for name, value in scope["headers"] if name != b"if-none-match"]
        async with self._service.exchange() as exchange:
            status, given = await exchange.ask("GET", _target(scope), headers, b"")
            return Answer(status, given, b"".join([piece async for piece in exchange.pieces()]))

    async def _give(self, scope: Scope, answer: Answer, send: Send) -> None:
        headers = dict(answer.headers)
        tag = headers.get(b"etag")
        wanted = Headers(scope=scope).get("if-none-match", "").encode("latin-1").split(b",")
        is_known = tag is not None and tag in [each.strip().removeprefix(b"W/") for each in wanted]
        if is_known and answer.status == 200:
            about_body = (b"content-length", b"content-type")
            unchanged = [(name, value) for name, value in answer.headers if name not in about_body]
            await send({"type": "http.response.start", "status": 304, "headers": unchanged})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
        await send({"type": "http.response.body", "body": answer.body})

    # --- what is the service's alone ----------------------------------------------------------------------------

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b"" if scope["method"] in ("GET", "HEAD", "OPTIONS") else (await receive()).get("body", b"")
        async with self._service.exchange() as exchange:
            status, headers = await exchange.ask(scope["method"], _target(scope), scope["headers"], body)
            await send({"type": "http.response.start", "status": status, "headers": list(headers)})
            telling = asyncio.create_task(_tell(exchange, send))
            gone, closing = asyncio.create_task(_until_gone(receive)), asyncio.create_task(self._closing.wait())
            try:
                await asyncio.wait({telling, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
                if telling.done():
                    telling.result()
            finally:
                for task in (telling, gone, closing):
                    task.cancel()
                await asyncio.gather(telling, gone, closing, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _tell(exchange: Exchange, send: Send) -> None:
    async for piece in exchange.pieces():
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _target(scope: Scope) -> bytes:
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return path + (b"?" + query if query else b"")


def _is_well(task: asyncio.Task[Answer]) -> bool:
    return not task.cancelled() and task.exception() is None and task.result().status == 200


def _problem(exc: ServiceAway) -> Problem:
    words = "the service does not answer"
    if exc.was_taken:
        words += "; the call may have been carried out: repeat it with the same Idempotency-Key"
    return Problem(503, "service-away", words, headers={"Retry-After": "2"})
