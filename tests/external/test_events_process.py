"""The real service on a real Redis, among small copies of the systems that write there and read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.contract.redis_servers import RedisServer, redis_server
from tests.external.service_process import Service
from tests.waits import wait_until

DECISION = "ai.decision.made"
GROUP = f"quantum:group:execution:{DECISION}"


def decision(symbol: str, **changes: Any) -> dict[str, Any]:
    body = {
        "symbol": symbol,
        "side": "buy",
        "confidence": 0.8,
        "entry_price": 50000.0,
        "position_size_usd": 200.0,
        "quantity": 200.0,
        "leverage": 5,
        "stop_loss": 49000.0,
        "take_profit": 52000.0,
        "trail_percent": None,
        "model": "ensemble",
        "strategy": "trend",
        "timestamp": datetime.now(UTC).isoformat(),
    }
    return body | changes


class Bus:
    """Writes and reads as the systems around us do."""

    def __init__(self, server: RedisServer) -> None:
        self.redis = server.client

    def publish(self, body: dict[str, Any], event_type: str = DECISION) -> None:
        fields = {
            "event_type": event_type,
            "payload": json.dumps(body),
            "trace_id": "",
            "correlation_id": "c",
            "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(),
            "source": "ai_engine",
        }
        self.redis.xadd(f"quantum:stream:{event_type}", fields)

    def payloads(self, event_type: str) -> list[dict[str, Any]]:
        """As a handler of their bus gets them."""
        entries = self.redis.xrange(f"quantum:stream:{event_type}")
        return [json.loads(fields["payload"]) for _, fields in entries]

    def flat(self, event_type: str) -> list[dict[str, str]]:
        """As those read them that take the fields by themselves."""
        return [fields for _, fields in self.redis.xrange(f"quantum:stream:{event_type}")]

    def filled(self, symbol: str) -> int:
        return sum(body["symbol"] == symbol for body in self.payloads("order.filled"))

    @property
    def is_read(self) -> bool:
        stream = f"quantum:stream:{DECISION}"
        return bool(self.redis.exists(stream)) and any(
            group["name"] == GROUP for group in self.redis.xinfo_groups(stream)
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


def service_on(server: RedisServer, folder: Path, **settings: str) -> Service:
    """What it places is what decisions ask for alone: nothing is protected."""
    usual = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port), "EVENTS_ACCOUNT": "Mock_Paper"}
    settings = usual | {"POSITION_MONITOR_INTERVAL_SEC": "0"} | settings
    return Service(folder, **settings)


def test_decision_is_traded_once_and_told_to_both_kinds_of_readers(server: RedisServer, tmp_path: Path) -> None:
    bus = Bus(server)
    bus.publish(decision("OLDUSDT"))
    with service_on(server, tmp_path / "service") as service:
        service.start()
        wait_until(lambda: bus.is_read, "the group is there")
        buy = decision("BTCUSDT")
        for _ in range(3):
            bus.publish(buy)
        bus.publish(decision("BTCUSDT", side="hold"))
        bus.redis.xadd(f"quantum:stream:{DECISION}", {b"\xff": b"\xfe", "payload": "[" * 100_000})
        wait_until(lambda: bus.filled("BTCUSDT"), "the decision is traded", more=service.console)
        sell = decision("BTCUSDT", side="sell", stop_loss=51000.0, take_profit=48000.0)
        bus.publish(sell)
        wait_until(lambda: bus.payloads("trade.closed"), "the trade is closed", more=service.console)
        (closed,), (flat,) = bus.payloads("trade.closed"), bus.flat("trade.closed")
        assert (closed["symbol"], closed["side"], closed["quantity"]) == ("BTCUSDT", "LONG", 0.004)
        assert float(flat["pnl_usd"]) == closed["pnl_usd"] == closed["pnl"]
        results = bus.flat("execution.result")
        assert [(r["status"], float(r["qty"])) for r in results] == [("FILLED", 0.004)] * 2
        assert all(int(r["timestamp"]) > 1_700_000_000 and r["model"] == "ensemble" for r in results)
        assert service.book.placed() == 2
        assert not bus.filled("OLDUSDT")
        with service.database() as db:
            (letter,) = db["execution_dead_letters"].find()
            assert DECISION in letter["reason"]
        wait_until(lambda: bus.redis.xpending(f"quantum:stream:{DECISION}", GROUP)["pending"] == 0, "all acknowledged")
        assert service.stop()[0] == 0


def test_kills_a_flush_and_an_outage_lose_no_decision_and_double_none(server: RedisServer, tmp_path: Path) -> None:
    bus = Bus(server)
    symbols = [f"C{n}USDT" for n in range(60)]
    with service_on(server, tmp_path / "service", MOCK_FILL_DELAY_SECONDS="0.1") as service:
        service.start()
        wait_until(lambda: bus.is_read, "the group is there")
        for part in range(3):
            for symbol in symbols[part * 20 : part * 20 + 20]:
                bus.publish(decision(symbol))
            wait_until(lambda part=part: service.book.placed() > part * 20, "some are placed", pause=0.002)
            service.kill()
            service.start()
        wait_until(
            lambda: {b["symbol"] for b in bus.payloads("order.filled")} == set(symbols), "all are told", within=60
        )
        assert service.book.placed() == 60
        bus.redis.flushall()
        bus.publish(decision("FLUSHEDUSDT"))
        wait_until(lambda: bus.filled("FLUSHEDUSDT"), "decisions are traded after a flush")
        server.stop()
        wait_until(lambda: "Redis does not answer" in service.log(), "it is said that Redis is away")
        with service.pubsub() as pubsub:
            body = {"signal_id": "beside", "account_id": "Mock_Paper", "strategy_name": "s", "symbol": "AAPL"}
            pubsub.publish([body | {"side": "BUY", "quantity": 1, "order_type": "MARKET", "price": 10}])
        wait_until(lambda: service.book.placed() == 62, "trading goes on")
        server.start()
        wait_until(lambda: bus.is_read, "the group is there again", within=60)
        bus.publish(decision("BACKUSDT"))
        wait_until(lambda: bus.filled("BACKUSDT") and bus.filled("AAPL"), "what was owed is told", within=90)
        assert service.log().count("Redis does not answer") == 1
        assert service.log().count("Redis answers again") == 1
        assert service.stop()[0] == 0


def test_events_on_topics_of_their_names(tmp_path: Path) -> None:
    with Service(tmp_path / "service", PUBSUB_EVENTS="true", EVENTS_ACCOUNT="Mock_Paper") as service:
        service.start()
        with service.pubsub() as pubsub:
            body = decision("BTCUSDT")
            pubsub.publish([body, body], topic=DECISION)
            pubsub.publish([{"reason": "drawdown"}], topic="ess.tripped")
            wait_until(lambda: service.book.filled() == 1, "the decision is traded", more=service.console)
        wait_until(lambda: "Event ess.tripped" in service.log(), "the hint is said")
        assert service.book.placed() == 1
        assert service.stop()[0] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TRIGGER_EVENTS": "ai.decision.made,trade.intent"}, "TRIGGER_EVENTS"),
        ({"TRIGGER_EVENTS": "order.filled"}, "TRIGGER_EVENTS"),
        ({"REDIS_URL": "http://127.0.0.1"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://127.0.0.1", "REDIS_HOST": "127.0.0.1"}, "REDIS_URL and REDIS_HOST are both set"),
    ],
)
def test_settings_that_cannot_be_meant_end_the_start(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    status, printed = Service(tmp_path / "service", **settings).run("--check")
    assert status == 2
    assert words in printed
