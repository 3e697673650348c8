"""The systems around us made again, small: their writers write to a real Redis and ours reads; ours writes, and each of their readers finds what it
looks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from brokers.base import Side
from execution_service.app.clock import SystemClock
from execution_service.core.messages.inbound import Unusable
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.intake.events import EventReader, ReadOrder
from execution_service.runtime.connectivity import Connectivity
from execution_service.transport.redis_streams import RedisPublisher, RedisSubscriber, connect
from tests.contract.redis_servers import RedisServer, redis_server
from tests.fakes import BY_HAND, RESTING, world_of
from tests.fakes.pubsub import RecordingEvents
from tests.waits import until

STREAM = "quantum:stream:"
DECISION, INTENT = "ai.decision.made", "trade.intent"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


class Bus:
    """Their event bus: JSON in `payload` beside an envelope that is new each time; a group that begins at the stream's beginning; acknowledged
    whatever the handler does."""

    def __init__(self, server: RedisServer, service: str, *, decodes: bool) -> None:
        self.redis: Any = Redis(port=server.port, decode_responses=decodes, protocol=2)
        self._service = service
        self._decodes = decodes

    def publish(self, event_type: str, body: Mapping[str, Any], **flat: str) -> None:
        fields = {
            "event_type": event_type,
            "payload": json.dumps(body),
            "trace_id": "",
            "correlation_id": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(),
            "source": self._service,
        }
        self.redis.xadd(f"{STREAM}{event_type}", flat | fields, maxlen=10_000, approximate=True)

    def handle(self, event_type: str, handler: Callable[[dict[str, Any]], None]) -> int:
        """How many entries the handler was given: the parsed payload, or where nothing is decoded the outer fields."""
        stream, group = f"{STREAM}{event_type}", f"quantum:group:{self._service}:{event_type}"
        with contextlib.suppress(ResponseError):  # it is there
            self.redis.xgroup_create(stream, group, id="0", mkstream=True)
        found = self.redis.xreadgroup(group, f"{self._service}_1", {stream: ">"}, count=100) or []
        entries = [entry for _, some in found for entry in some]
        for entry_id, fields in entries:
            if self._decodes:
                handler(json.loads(fields.get("payload", "{}")))
            else:
                handler({name.decode(): value.decode() for name, value in fields.items()})
            self.redis.xack(stream, group, entry_id)
        return len(entries)

    def close(self) -> None:
        self.redis.close()


def decided(**changes: Any) -> dict[str, Any]:
    body = {
        "symbol": "BTCUSDT",
        "side": "buy",
        "confidence": 0.82,
        "entry_price": 50_000.0,
        "quantity": 200.0,
        "leverage": 5,
        "stop_loss": 49_000.0,
        "take_profit": 52_000.0,
        "trail_percent": None,
        "model": "ensemble",
        "ensemble_confidence": 0.8,
        "strategy": "trend",
        "meta_strategy": "m1",
        "regime": "trending",
        "position_size_usd": 200.0,
        "timestamp": datetime.now(UTC).isoformat(),
    }
    return body | changes


def by_the_engine(bus: Bus) -> None:
    """(a) of `trade.intent`: all of it in `payload`."""
    bus.publish(INTENT, decided(side="BUY"))


def by_the_router(bus: Bus) -> None:
    """(b): one field `data`, and a naive timestamp."""
    body = {
        "symbol": "BTCUSDT",
        "action": "BUY",
        "confidence": 0.82,
        "position_size_usd": 200.0,
        "leverage": 5,
        "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "source": "ai_strategy_router",
        "stop_loss_pct": 2.0,
        "take_profit_pct": 4.0,
        "entry_price": 50_000.0,
        "stop_loss": None,
        "take_profit": None,
        "quantity": 200.0,
    }
    bus.redis.xadd(f"{STREAM}{INTENT}", {"data": json.dumps(body)})


def by_the_autonomous_trader(bus: Bus) -> None:
    """(c): flat texts, protection in percent, seconds since 1970."""
    fields = {
        "intent_type": "AUTONOMOUS_ENTRY",
        "symbol": "BTCUSDT",
        "action": "BUY",
        "side": "LONG",
        "position_size_usd": "200.0",
        "leverage": "5",
        "take_profit": "4.0",
        "stop_loss": "2.0",
        "confidence": "0.82",
        "regime": "trending",
        "reason": "momentum",
        "reduceOnly": "false",
        "entry_price": "50000.0",
        "timestamp": str(int(datetime.now(UTC).timestamp())),
    }
    bus.redis.xadd(f"{STREAM}{INTENT}", fields)


def by_a_hybrid_writer(bus: Bus) -> None:
    """The envelope, and the payload's fields beside it as texts."""
    body = decided(side="BUY")
    bus.publish(INTENT, body, **{name: str(value) for name, value in body.items() if name != "timestamp"})


class Bookmarks:
    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    async def bookmark(self, name: str) -> str | None:
        return self._marks.get(name)

    async def set_bookmark(self, name: str, value: str) -> None:
        self._marks[name] = value


async def read_by_us(
    server: RedisServer, event_type: str, *writes: Callable[[Bus], None]
) -> list[ReadOrder | Unusable | None]:
    """What our reader makes of what is written after its group is there."""
    clock = SystemClock()
    subscriber = RedisSubscriber(
        connect(server.url),
        [event_type],
        consumer="execution_here",
        bookmarks=Bookmarks(),
        clock=clock,
        connectivity=Connectivity("Redis", clock),
    )
    running = asyncio.create_task(subscriber.run())
    group = f"quantum:group:execution:{event_type}"
    bus = Bus(server, "ai_engine", decodes=True)
    found: list[ReadOrder | Unusable | None] = []
    try:
        stream = f"{STREAM}{event_type}"
        await until(
            lambda: (
                server.client.exists(stream)
                and any(each["name"] == group for each in server.client.xinfo_groups(stream))
            )
        )
        for write in writes:
            write(bus)
        reader = EventReader(clock, "acct-1")
        for _ in writes:
            async with asyncio.timeout(10):
                message = await subscriber.messages.get()
            found.append(reader.read(message))
            message.ack()
        await until(lambda: server.client.xpending(stream, group)["pending"] == 0)  # type: ignore[call-overload, index]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await subscriber.close()
        bus.close()
    return found


def request_of(read: ReadOrder | Unusable | None) -> OrderRequest:
    assert isinstance(read, ReadOrder), read
    assert isinstance(read.parsed.request, OrderRequest), read.parsed.problems
    return read.parsed.request


@pytest.mark.parametrize("write", [by_the_engine, by_the_router, by_the_autonomous_trader, by_a_hybrid_writer])
async def test_each_form_of_an_intent_is_the_same_order(server: RedisServer, write: Callable[[Bus], None]) -> None:
    (read,) = await read_by_us(server, INTENT, write)
    request = request_of(read)
    assert (request.side, request.quantity) == (Side.BUY, Decimal("0.004")), (
        "dollars by the price, and never by leverage"
    )
    assert (request.stop_loss, request.take_profit) == (49_000, 52_000)


async def test_what_their_disk_buffer_publishes_again_is_the_same_order_and_a_hold_is_none(server: RedisServer) -> None:
    body = decided()

    def again(bus: Bus) -> None:
        bus.publish(DECISION, body)

    def hold(bus: Bus) -> None:
        bus.publish(DECISION, body | {"side": "hold"})

    first, second, none = await read_by_us(server, DECISION, again, again, hold)
    assert isinstance(first, ReadOrder)
    assert isinstance(second, ReadOrder)
    assert first.parsed.identity == second.parsed.identity
    assert none is None


async def test_a_copy_that_the_router_makes_is_no_second_order(server: RedisServer) -> None:
    first, second = await read_by_us(server, INTENT, by_the_engine, by_the_router)
    assert isinstance(first, ReadOrder)
    assert second is None


# --- what their readers find ----------------------------------------------------------------------------------------


async def publish_a_trade(server: RedisServer, folder: Path) -> None:
    """A long that fills in two parts and is closed in one, and an order that is refused; as the service tells them."""
    told = RecordingEvents()
    async with world_of(folder, market=BY_HAND, rules=RESTING, events_out=told) as world:
        world.send("in", symbol="BTCUSDT", currency="USD", quantity=100)
        await world.run(1)
        world.fill("in", 40, price="10")
        world.fill("in", 60, price="10")
        await world.run(3)
        world.exit("out", "in", symbol="BTCUSDT", currency="USD", quantity=100)
        await world.run(1)
        world.fill("out", price="12", purpose=Purpose.EXIT)
        world.send("bad", quantity=-1)
        await world.run(3)
    publisher = RedisPublisher(connect(server.url), Connectivity("Redis", SystemClock()))
    await publisher.publish_events(told.told)
    await publisher.close()


class RiskSafety:
    """Reads flat or parsed alike: symbol and pnl_usd of a closed trade."""

    def __init__(self) -> None:
        self.results: list[tuple[str, float]] = []
        self.failures: list[tuple[str, str]] = []

    def closed(self, event: dict[str, Any]) -> None:
        self.results.append((event["symbol"], float(event["pnl_usd"])))

    def failed(self, event: dict[str, Any]) -> None:
        self.failures.append((event["symbol"], event["reason"]))


@pytest.mark.parametrize("decodes", [True, False], ids=["parsed payload", "outer fields"])
async def test_their_bus_finds_what_it_looks_for_whether_it_decodes_or_not(
    server: RedisServer, tmp_path: Path, decodes: bool
) -> None:
    await publish_a_trade(server, tmp_path)
    bus = Bus(server, "risk_safety", decodes=decodes)
    safety = RiskSafety()
    assert bus.handle("trade.closed", safety.closed) == 1
    assert bus.handle("trade.closed", safety.closed) == 0, "acknowledged"
    assert bus.handle("order.failed", safety.failed) == 1
    assert safety.results == [("BTCUSDT", 200.0)]
    assert safety.failures[0][0] == "AAPL"
    assert safety.failures[0][1]
    seen: list[dict[str, Any]] = []
    assert bus.handle("trade.opened", seen.append) == 1
    assert {"trade_id", "symbol", "side", "entry_price", "quantity", "leverage", "timestamp"} <= set(seen[0])
    assert seen[0]["side"] == "LONG"
    bus.close()


async def test_readers_of_flat_fields_find_numbers_that_they_can_count_with(
    server: RedisServer, tmp_path: Path
) -> None:
    await publish_a_trade(server, tmp_path)

    def flat(event_type: str) -> list[dict[str, str]]:
        return [fields for _, fields in server.client.xrange(f"{STREAM}{event_type}")]

    (closed,) = flat("trade.closed")
    for of_portfolio, of_calibrator, of_layers in ((closed["realized_pnl"], closed["pnl"], closed["realizedPnl"]),):
        assert float(of_portfolio) == float(of_calibrator) == float(of_layers) == 200.0
    assert float(closed["pnl_percent"]) == float(closed["pnl_pct"]) == 20.0
    required = {"event_type", "timestamp", "symbol", "side", "entry_price", "exit_price", "pnl_percent", "source"}
    assert required <= set(closed)
    assert closed["side"] == "LONG", "the closed side"
    harvested = [
        (r["symbol"], r["side"], r["status"], float(r["qty"]), float(r["price"]))
        for r in flat("execution.result")
        if "qty" in r and float(r["qty"])
    ]
    assert harvested == [
        ("BTCUSDT", "BUY", "PARTIAL", 40.0, 10.0),
        ("BTCUSDT", "BUY", "FILLED", 60.0, 10.0),
        ("BTCUSDT", "SELL", "FILLED", 100.0, 12.0),
    ]
    attributed = [
        (int(r["timestamp"]), float(r["realized_pnl"])) for r in flat("execution.result") if r["side"] == "SELL"
    ]
    assert [profit for _, profit in attributed] == [200.0]
    assert all(moment > 1_700_000_000 for moment, _ in attributed)
    for each in flat("position.updated"):
        assert float(each["quantity"]) >= 0
        assert float(each["current_price"]) > 0
        assert "None" not in each.values()
