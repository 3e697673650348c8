"""The kill key at a real Redis server: whatever stands there, and whatever becomes of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from execution_service.core.risk.kill_key import LONGEST_TEXT, means_kill
from execution_service.transport import redis_keys
from execution_service.transport.ports import KeyNotRead
from execution_service.transport.redis_keys import NO_TEXT, RedisKey
from execution_service.transport.redis_streams import connect
from tests.contract.redis_servers import RedisServer, redis_server

NAME = "quantum:kill"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
async def key(server: RedisServer) -> AsyncIterator[RedisKey]:
    found = RedisKey(connect(server.url), NAME)
    yield found
    await found.close()


async def test_a_missing_key_asks_for_no_stop_and_what_the_start_script_sets_does(
    server: RedisServer, key: RedisKey
) -> None:
    assert not means_kill(await key.read())
    server.client.set(NAME, "1")
    assert await key.read() == "1"
    server.client.flushall()
    assert not means_kill(await key.read())


async def test_whatever_stands_there_is_read_as_a_short_text(server: RedisServer, key: RedisKey) -> None:
    server.client.set(NAME, b"\xff\x00" * 2_000_000)
    text = await key.read()
    assert text is not None
    assert means_kill(text)
    assert len(text) <= LONGEST_TEXT * 4
    server.client.delete(NAME)
    server.client.hset(NAME, "kill", "0")
    assert await key.read() == NO_TEXT
    assert means_kill(NO_TEXT)


async def test_a_server_that_freezes_is_not_known_within_its_time_and_its_late_answer_is_nobodys(
    server: RedisServer, key: RedisKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_keys, "READ_SECONDS", 0.3)
    server.client.set(NAME, "1")
    assert await key.read() == "1"
    server.freeze()
    with pytest.raises(KeyNotRead, match="no answer within"):
        await key.read()
    server.thaw()
    server.client.set(NAME, "0")
    async with asyncio.timeout(5):
        assert await key.read() == "0"


async def test_a_server_that_is_gone_or_refuses_is_not_known(server: RedisServer, key: RedisKey) -> None:
    server.client.config_set("requirepass", "secret")
    with pytest.raises(KeyNotRead):
        await key.read()
    server.stop()
    with pytest.raises(KeyNotRead):
        await key.read()
