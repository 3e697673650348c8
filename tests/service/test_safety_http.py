"""The safety service over real HTTP: both layouts, and everything that a server may do instead of a good answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

import pytest

from execution_service.core.risk.safety import LARGEST_ANSWER_BYTES, NotReached, UnclearAnswer, read_status
from execution_service.transport.safety_http import SafetyOverHttp

ARMED = json.dumps({"state": "ARMED", "can_execute": True}).encode()
WRITTEN = {"/api/risk/ess/status": (200, ARMED), "/api/policy": (200, b'{"policies": {}, "count": 0}')}
STUB = {"/ess/status": (200, ARMED), "/policy": (200, b'{"ess": {}, "risk": {}}')}
HANGS = -1
Answers = Mapping[str, tuple[int, bytes]]


class Server:
    """Answers by path; a path that it does not have with 404."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ")[1]
                self.asked.append(path)
                status, body = self.answers.get(path, (404, b""))
                if status == HANGS:
                    await reader.read()
                    break
                more = "Location: /ess/status\r\n" if 300 <= status < 400 else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def asked(answers: Answers, answer_seconds: float = 5.0) -> AsyncIterator[tuple[Server, SafetyOverHttp]]:
    server = Server(answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    client = SafetyOverHttp(server.url + "/", answer_seconds=answer_seconds)
    try:
        yield server, client
    finally:
        await client.close()
        listening.close()


@pytest.mark.parametrize("layout", [WRITTEN, STUB], ids=["written", "stub"])
async def test_both_layouts_are_read(layout: Answers) -> None:
    async with asked(layout) as (_, client):
        assert read_status(await client.status()).state == "ARMED"
        assert await client.policies() is not None


async def test_the_layout_that_answered_is_asked_first_and_another_is_found_again() -> None:
    async with asked(STUB) as (server, client):
        await client.status()
        server.asked.clear()
        await client.status()
        assert server.asked == ["/ess/status"]
        server.answers = WRITTEN
        assert await client.status() == ARMED


async def test_a_service_without_policies_has_none() -> None:
    async with asked({"/ess/status": (200, ARMED)}) as (_, client):
        assert await client.policies() is None


@pytest.mark.parametrize("status", [204, 301, 302, 307, 401, 500, 503])
async def test_any_other_answer_is_unclear_and_no_redirection_is_followed(status: int) -> None:
    async with asked({"/api/risk/ess/status": (status, b""), "/ess/status": (200, ARMED)}) as (server, client):
        with pytest.raises(UnclearAnswer, match=f"HTTP {status}"):
            await client.status()
        assert server.asked == ["/api/risk/ess/status"]


async def test_a_server_without_the_paths_is_unclear() -> None:
    async with asked({}) as (_, client):
        with pytest.raises(UnclearAnswer, match="neither"):
            await client.status()


async def test_an_answer_without_end_is_cut_off() -> None:
    async with asked({"/api/risk/ess/status": (200, b"x" * (LARGEST_ANSWER_BYTES + 1))}) as (_, client):
        with pytest.raises(UnclearAnswer, match="longer"):
            await client.status()


async def test_a_server_that_says_nothing_ends_in_bounded_time() -> None:
    async with asked({"/api/risk/ess/status": (HANGS, b"")}, answer_seconds=0.05) as (_, client):
        with pytest.raises(NotReached, match="no answer within"):
            await client.status()


async def test_a_server_that_is_gone_is_not_reached() -> None:
    async with asked(WRITTEN) as (server, _):
        url = server.url
    client = SafetyOverHttp(url)
    with pytest.raises(NotReached, match="cannot be reached"):
        await client.status()
    await client.close()
