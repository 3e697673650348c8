"""Redis Streams at a real server: the wire that the systems around us speak, with their writers and readers made again, small."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from execution_service.app.clock import SystemClock
from execution_service.core.messages.events_out import OutEvent
from execution_service.runtime.connectivity import Connectivity
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.transport import redis_streams
from execution_service.transport.ports import Message, PublishFailed
from execution_service.transport.redis_streams import RedisPublisher, RedisSubscriber, UnusableAddress, connect
from tests.contract.redis_servers import RedisServer, redis_server
from tests.waits import until

DECISION, INTENT = "ai.decision.made", "trade.intent"
STREAM, GROUP = f"quantum:stream:{DECISION}", f"quantum:group:execution:{DECISION}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


def write(server: RedisServer, body: dict[str, Any], event_type: str = DECISION) -> str:
    """As their bus writes: one JSON text in `payload`, and a correlation id that is new each time."""
    fields = {
        "event_type": event_type,
        "payload": json.dumps(body),
        "trace_id": "",
        "correlation_id": str(uuid.uuid4()),
        "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "source": "ai_engine",
    }
    return str(server.client.xadd(f"quantum:stream:{event_type}", fields, maxlen=10_000, approximate=True))


class Bookmarks:
    def __init__(self) -> None:
        self.marks: dict[str, str] = {}

    async def bookmark(self, name: str) -> str | None:
        return self.marks.get(name)

    async def set_bookmark(self, name: str, value: str) -> None:
        self.marks[name] = value


class Life:
    """One life of the reader, and what it has brought."""

    def __init__(self, server: RedisServer, bookmarks: Bookmarks, consumer: str, *types: str) -> None:
        clock = SystemClock()
        self.subscriber = RedisSubscriber(
            connect(server.url),
            types or (DECISION,),
            consumer=consumer,
            bookmarks=bookmarks,
            clock=clock,
            connectivity=Connectivity("Redis", clock),
        )
        self.task = asyncio.create_task(self.subscriber.run())
        self.taken: list[Message] = []

    def collect(self) -> list[dict[str, Any]]:
        """All messages until now, as JSON."""
        while not self.subscriber.messages.empty():
            self.taken.append(self.subscriber.messages.get_nowait())
        return [json.loads(message.data) for message in self.taken]

    def acknowledge(self) -> None:
        for message in self.taken:
            message.ack()

    async def brings(self, *numbers: int) -> None:
        await until(lambda: [body["n"] for body in self.collect()] == list(numbers))

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.subscriber.close()


@contextlib.asynccontextmanager
async def life(
    server: RedisServer, bookmarks: Bookmarks | None = None, consumer: str = "execution_one", *types: str
) -> AsyncIterator[Life]:
    living = Life(server, bookmarks or Bookmarks(), consumer, *types)
    try:
        yield living
    finally:
        await living.end()


def has_group(server: RedisServer, stream: str = STREAM) -> bool:
    return bool(server.client.exists(stream) and server.client.xinfo_groups(stream))


def pending(server: RedisServer) -> int:
    return int(server.client.xpending(STREAM, GROUP)["pending"])  # type: ignore[call-overload, index]


async def test_history_from_before_the_first_start_is_not_read(server: RedisServer) -> None:
    for n in range(5):
        write(server, {"n": n})
    async with life(server) as living:
        await until(lambda: has_group(server))
        write(server, {"n": 5})
        await living.brings(5)


async def test_entry_is_acknowledged_only_when_its_message_is(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    async with life(server, bookmarks) as living:
        await until(lambda: has_group(server))
        entry_id = write(server, {"n": 1})
        await living.brings(1)
        assert pending(server) == 1
        living.acknowledge()
        await until(lambda: pending(server) == 0)
        await until(lambda: bookmarks.marks[STREAM] == entry_id)


async def test_what_a_killed_reader_had_in_hand_its_next_life_reads_again(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    async with life(server, bookmarks) as first:
        await until(lambda: has_group(server))
        for n in range(25):
            write(server, {"n": n})
        await first.brings(*range(25))
    write(server, {"n": 25})
    async with life(server, bookmarks) as second:
        await second.brings(*range(26))
        second.acknowledge()
        await until(lambda: pending(server) == 0)


async def test_what_a_dead_replica_had_in_hand_another_claims(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_streams, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(redis_streams, "CLAIM_SECONDS", 0.0)
    monkeypatch.setattr(redis_streams, "BLOCK_MILLISECONDS", 20)
    bookmarks = Bookmarks()
    async with life(server, bookmarks, "execution_dead") as dead:
        await until(lambda: has_group(server))
        write(server, {"n": 1})
        await dead.brings(1)
    async with life(server, bookmarks, "execution_other") as other:
        await other.brings(1)
        other.acknowledge()
        await until(lambda: pending(server) == 0)


async def test_replicas_share_the_entries_of_a_stream(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    async with life(server, bookmarks, "execution_a") as one, life(server, bookmarks, "execution_b") as other:
        await until(lambda: has_group(server))
        for n in range(200):
            write(server, {"n": n})
        await until(lambda: len(one.collect()) + len(other.collect()) == 200)
        assert sorted(body["n"] for body in one.collect() + other.collect()) == list(range(200))


class AbsentStore(Bookmarks):
    is_away = True

    async def bookmark(self, name: str) -> str | None:
        if self.is_away:
            raise StoreUnavailable("no route to the store")
        return await super().bookmark(name)


async def test_stream_is_not_read_before_the_store_says_where_to_begin(server: RedisServer) -> None:
    bookmarks = AbsentStore()
    bookmarks.marks[STREAM] = write(server, {"n": 1})
    write(server, {"n": 2})
    async with life(server, bookmarks) as living:
        await asyncio.sleep(0.2)
        assert not has_group(server)
        bookmarks.is_away = False
        await living.brings(2)


async def test_after_a_flush_nothing_that_came_since_is_missed(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    async with life(server, bookmarks) as living:
        await until(lambda: has_group(server))
        write(server, {"n": 1})
        await living.brings(1)
        living.acknowledge()
        await until(lambda: pending(server) == 0)
        with server.client.pipeline(transaction=True) as both:
            both.flushall()
            both.xadd(STREAM, {"payload": '{"n": 2}'})
            both.execute()
        write(server, {"n": 3})
        await living.brings(1, 2, 3)


async def test_group_that_was_removed_begins_where_we_had_stored_to(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    async with life(server, bookmarks) as living:
        await until(lambda: has_group(server))
        entry_id = write(server, {"n": 1})
        await living.brings(1)
        living.acknowledge()
        await until(lambda: bookmarks.marks[STREAM] == entry_id)
    server.client.xgroup_destroy(STREAM, GROUP)
    write(server, {"n": 2})
    async with life(server, bookmarks) as again:
        await again.brings(2)


async def test_stream_of_a_server_with_a_slow_clock_is_read_from_its_beginning(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    bookmarks.marks[STREAM] = "9999999999999-0"
    server.client.xadd(STREAM, {"payload": '{"n": 1}'})
    async with life(server, bookmarks) as living:
        await living.brings(1)


async def test_reading_goes_on_when_the_server_is_back_and_both_are_said_once(
    server: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Connectivity, "fails", lambda self, why: said.append("away"))
    async with life(server) as living:
        await until(lambda: has_group(server))
        server.stop()
        await until(lambda: "away" in said)
        server.start()
        await until(lambda: has_group(server))
        write(server, {"n": 1})
        await living.brings(1)
        assert not living.task.done()


async def test_server_that_freezes_is_noticed_and_read_again_when_it_thaws(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Connectivity, "fails", lambda self, why: said.append(why))
    monkeypatch.setattr(redis_streams, "BLOCK_MILLISECONDS", 50)
    monkeypatch.setattr(redis_streams, "ANSWER_SECONDS", 0.5)
    async with life(server) as living:
        await until(lambda: has_group(server))
        server.freeze()
        await until(lambda: said)
        server.thaw()
        write(server, {"n": 1})
        await living.brings(1)


async def test_server_that_has_become_a_replica_is_left_for_whoever_has_its_address(server: RedisServer) -> None:
    publisher = RedisPublisher(connect(server.url), Connectivity("Redis", SystemClock()))
    async with life(server) as living:
        await until(lambda: has_group(server))
        server.client.replicaof("127.0.0.1", "1")
        with pytest.raises(PublishFailed):
            await publisher.publish_events([closed()])
        await asyncio.sleep(0.1)
        server.client.replicaof("NO", "ONE")
        write(server, {"n": 1})
        await living.brings(1)
        await publisher.publish_events([closed()])
        assert not living.task.done()
    await publisher.close()


async def test_key_that_is_no_stream_keeps_no_other_from_being_read(server: RedisServer) -> None:
    server.client.set(STREAM, "a text")
    async with life(server, None, "execution_one", DECISION, "signal.execute") as living:
        await until(lambda: has_group(server, "quantum:stream:signal.execute"))
        write(server, {"n": 1}, "signal.execute")
        await living.brings(1)
        assert not living.task.done()


async def test_entry_that_was_cut_off_before_it_was_read_again_is_acknowledged(server: RedisServer) -> None:
    bookmarks = Bookmarks()
    async with life(server, bookmarks) as living:
        await until(lambda: has_group(server))
        write(server, {"n": 1})
        await living.brings(1)
    server.client.xtrim(STREAM, maxlen=0, approximate=False)
    async with life(server, bookmarks) as again:
        await until(lambda: pending(server) == 0)
        assert again.collect() == []


@pytest.mark.parametrize(
    "fields",
    [
        {b"payload": b"\xff\x00"},
        {b"\xfe": b"\xff"},
        {b"payload": b"x" * (3 * 1024 * 1024)},
        {f"f{n}".encode(): b"1" for n in range(5000)},
        {b"payload": b"[" * 100_000},
    ],
    ids=["binary", "binary name", "huge", "many fields", "deep"],
)
async def test_hostile_entry_arrives_as_a_message_of_bounded_size(
    server: RedisServer, fields: dict[bytes, bytes]
) -> None:
    async with life(server) as living:
        await until(lambda: has_group(server))
        server.client.xadd(STREAM, fields)  # type: ignore[arg-type]
        write(server, {"n": 1})
        await until(lambda: living.subscriber.messages.qsize() == 2)
        message = living.subscriber.messages.get_nowait()
        assert len(message.data) <= 1024 * 1024 + 1
        assert message.event_type == DECISION


async def test_no_more_is_read_than_may_be_in_hand(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_streams, "IN_HAND", 20)
    async with life(server) as living:
        await until(lambda: has_group(server))
        for n in range(100):
            write(server, {"n": n})
        await until(lambda: living.subscriber.messages.qsize() >= 20)
        await asyncio.sleep(0.05)
        assert living.subscriber.messages.qsize() <= 30
        for _ in range(100):
            living.collect()
            living.acknowledge()
            await asyncio.sleep(0.005)
        await living.brings(*range(100))


async def test_refusing_inbox_hands_nothing_on_and_loses_nothing(server: RedisServer) -> None:
    async with life(server) as living:
        await until(lambda: has_group(server))
        write(server, {"n": 1})
        await until(lambda: living.subscriber.messages.qsize() == 1)
        living.subscriber.messages.refuse()
        await until(lambda: living.subscriber.messages.empty())
        write(server, {"n": 2})
        living.subscriber.messages.accept()
        await living.brings(1, 2)


# --- out ------------------------------------------------------------------------------------------------------------


def closed(n: int = 1) -> OutEvent:
    body = {"event_type": "trade.closed", "symbol": "BTCUSDT", "side": "LONG", "pnl_usd": 12.5, "is_open": False}
    return OutEvent(
        event_type="trade.closed",
        event_id=f"ord_1-{n}:trade.closed",
        signal_id="sig",
        number=n,
        timestamp="2026-03-01T10:00:00.000",
        body={**body, "timestamp": "2026-03-01T10:00:00.000+00:00", "source": "execution"},
    )


async def test_entry_serves_readers_of_either_kind(server: RedisServer) -> None:
    clock = SystemClock()
    publisher = RedisPublisher(connect(server.url), Connectivity("Redis", clock))
    await publisher.publish_events([closed()])
    ((_, fields),) = server.client.xrange("quantum:stream:trade.closed")
    assert {"event_type", "payload", "trace_id", "correlation_id", "timestamp", "source"} <= set(fields)
    by_handler = json.loads(fields["payload"])
    assert (by_handler["symbol"], by_handler["pnl_usd"]) == ("BTCUSDT", 12.5)
    assert (fields["symbol"], float(fields["pnl_usd"]), fields["is_open"]) == ("BTCUSDT", 12.5, "false")
    assert datetime.fromisoformat(fields["timestamp"]).tzinfo is None
    assert fields["trace_id"] == ""
    await publisher.close()


async def test_many_events_that_wait_together_are_all_there_in_their_order(server: RedisServer) -> None:
    publisher = RedisPublisher(connect(server.url), Connectivity("Redis", SystemClock()))
    await asyncio.gather(*(publisher.publish_events([closed(n)]) for n in range(200)))
    found = [f["correlation_id"] for _, f in server.client.xrange("quantum:stream:trade.closed")]
    assert found == [f"ord_1-{n}:trade.closed" for n in range(200)]
    await publisher.close()


async def test_publishing_fails_while_the_server_is_away_and_for_a_key_that_is_no_stream(server: RedisServer) -> None:
    publisher = RedisPublisher(connect(server.url), Connectivity("Redis", SystemClock()))
    server.client.set("quantum:stream:trade.closed", "a text")
    with pytest.raises(PublishFailed, match="WRONGTYPE"):
        await publisher.publish_events([closed()])
    server.stop()
    with pytest.raises(PublishFailed):
        await publisher.publish_events([closed()])
    server.start()
    await publisher.publish_events([closed()])
    await publisher.close()


def test_address_that_is_none_is_refused() -> None:
    with pytest.raises(UnusableAddress):
        connect("http://127.0.0.1:6379")
