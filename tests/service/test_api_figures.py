"""Positions, trades, figures and live events as the API shows them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from execution_service.api import live_feed
from execution_service.api.live_feed import EventStream
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.service.http_calls import ACCOUNT, api_of, http_world

POSITION = {
    *("symbol", "side", "quantity", "entry_price", "current_price", "unrealized_pnl", "unrealized_pnl_pct", "leverage"),
    *("margin_usd", "liquidation_price", "has_tp_sl", "tp_orders", "sl_orders"),
}
TRADE = {
    *("trade_id", "symbol", "side", "status", "quantity", "leverage", "entry_price", "entry_time", "exit_price"),
    *("exit_time", "stop_loss", "take_profit", "pnl_usd", "pnl_percent", "model", "confidence", "metadata"),
}
METRICS = {
    *("orders_placed_total", "orders_filled_total", "orders_failed_total", "success_rate_pct", "avg_order_latency_ms"),
    *("avg_slippage_pct", "rate_limit_tokens_available", "rate_limit_tokens_per_minute"),
}
POSITIONS, TRADES = "/api/execution/positions", "/api/execution/trades"


async def traded(world: World, signal_id: str, filled_at: str, filled: int | None = None, **order: Any) -> None:
    world.send(signal_id, **order)
    await world.run(1)
    world.fill(signal_id, filled, filled_at)
    await world.run(5)


async def test_positions_are_exact_have_no_nulls_and_say_long_or_short(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10", filled=60)
        world.fill("a", 40, "12")
        await world.run(5)
        await traded(world, "b", "20", symbol="MSFT", side="SELL", quantity=10)
        body = (await http.get(POSITIONS)).json()
        long, short = body["positions"]
        assert set(long) == POSITION
        assert [name for each in body["positions"] for name, value in each.items() if value is None] == []
        assert (long["side"], long["quantity"], long["entry_price"], long["current_price"]) == ("LONG", 100, 10.8, 12)
        assert (long["unrealized_pnl"], long["margin_usd"], long["leverage"]) == (120, 1080, 1)
        assert long["unrealized_pnl_pct"] == pytest.approx(11.111, abs=0.001)
        assert (short["side"], short["quantity"], short["unrealized_pnl"]) == ("SHORT", 10, 0)
        assert (body["total_positions"], body["total_margin_usd"], body["total_unrealized_pnl"]) == (2, 1280, 120)


async def test_an_amount_in_another_currency_is_not_shown_as_dollars(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10", currency="EUR")
        body = (await http.get(POSITIONS)).json()
        assert (body["positions"][0]["margin_usd"], body["total_margin_usd"]) == (None, 0)
        (trade,) = (await http.get(TRADES)).json()["trades"]
        assert (trade["pnl_usd"], trade["metadata"]["currency"]) == (None, "EUR")


async def test_a_trade_goes_from_flat_to_flat(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10", stop_loss=9, take_profit=12, metadata={"model": "ensemble", "confidence": 0.8})
        (trade,) = (await http.get(f"{TRADES}?status=open")).json()["trades"]
        assert set(trade) == TRADE
        assert (trade["status"], trade["exit_price"], trade["pnl_percent"]) == ("open", None, None)
        assert (trade["model"], trade["confidence"], trade["stop_loss"]) == ("ensemble", 0.8, 9)
        world.exit("x", "a", quantity=100)
        await world.run(1)
        (trade,) = (await http.get(f"{TRADES}?status=pending_exit")).json()["trades"]
        assert trade["status"] == "pending_exit"
        exit_purpose = world.exit_record("x").identity.purpose
        world.fill("x", 40, "11", purpose=exit_purpose)
        world.fill("x", 60, "13", purpose=exit_purpose)
        await world.run(5)
        body = (await http.get(f"{TRADES}?limit=50&status=closed")).json()
        (trade,) = body["trades"]
        assert (trade["quantity"], trade["entry_price"], trade["exit_price"]) == (100, 10, 12.2)
        assert (trade["pnl_usd"], trade["pnl_percent"], trade["side"]) == (220, 22, "LONG")
        assert (body["total_trades"], body["open_trades"], body["closed_trades"]) == (1, 0, 1)
        one = (await http.get(f"{TRADES}/{trade['trade_id']}")).json()
        assert one == trade
        assert (await http.get(f"{TRADES}/pos_1")).status_code == 404


async def test_the_exit_price_of_a_trade_is_that_of_all_fills_or_none(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10")
        world.exit("x", "a", quantity=100)
        await world.run(1)
        world.fill("x", 40, "11", purpose=Purpose.EXIT)
        await world.run(10)
        world.notifier.hold = (
            asyncio.Event()
        )  # people are still to be told: nothing hurries what the record is given of the ledger
        world.fill("x", 60, "13", purpose=Purpose.EXIT)
        await world.run_until(lambda: world.documents("positions")[0]["status"] == "CLOSED")
        (trade,) = (await http.get(TRADES)).json()["trades"]
        assert (trade["status"], trade["pnl_usd"], trade["exit_price"]) == ("closed", 220, None)
        assert trade["metadata"]["is_complete"] is False
        await world.run(10)
        (trade,) = (await http.get(TRADES)).json()["trades"]
        assert (trade["exit_price"], trade["metadata"]["is_complete"]) == (12.2, True)


async def test_a_fill_that_turns_a_position_counts_for_both_trades(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10")
        await traded(world, "b", "12", side="SELL", quantity=150)
        short, long = (await http.get(TRADES)).json()["trades"]
        assert (long["side"], long["quantity"], long["exit_price"], long["pnl_usd"]) == ("LONG", 100, 12, 200)
        assert (short["side"], short["quantity"], short["entry_price"]) == ("SHORT", 50, 12)
        assert (long["status"], short["status"]) == ("closed", "open")


async def test_trades_come_in_pages(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        for number in range(5):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(1)
        shown: list[str] = []
        path: str | None = f"{TRADES}?limit=2"
        while path is not None:
            response = await http.get(path)
            shown += [trade["symbol"] for trade in response.json()["trades"]]
            assert response.json()["total_trades"] == 5
            path = response.links["next"]["url"] if "next" in response.links else None
        assert shown == ["S4", "S3", "S2", "S1", "S0"]


# --- figures --------------------------------------------------------------------------------------------------------


def value_of(text: str, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def test_figures_follow_what_is_recorded(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("good")
        world.send("bad", quantity=-1)
        await world.run(3)
        text = (await http.get("/metrics")).text
        where = {"account": ACCOUNT, "broker": "MOCK"}
        assert value_of(text, "execution_orders_stored", status="FILLED", **where) == 1
        assert value_of(text, "execution_orders_stored", status="REJECTED", **where) == 1
        assert value_of(text, "execution_order_outcomes_total", outcome="placed", **where) == 1
        assert value_of(text, "execution_order_outcomes_total", outcome="filled", **where) == 1
        assert value_of(text, "execution_step_seconds_count", step="sent_to_filled", broker="MOCK") == 1
        assert value_of(text, "execution_broker_connected", account=ACCOUNT) == 1
        assert value_of(text, "execution_part_running", part="orders in") == 1
        assert value_of(text, "execution_silent_seconds", service="store") == 0
        assert value_of(text, "execution_delivery_lag_events", cursor="ledger") == 0
        assert "sig" not in text.replace("signal", ""), "no order's name is a label"
        body = (await http.get("/api/execution/metrics")).json()
        assert set(body) == METRICS
        assert (body["orders_placed_total"], body["orders_filled_total"], body["orders_failed_total"]) == (1, 1, 1)
        assert body["success_rate_pct"] == 50


async def test_orders_that_work_or_were_cancelled_lower_no_success_rate(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10", stop_loss=9, take_profit=11)
        await world.run(5)
        body = (await http.get("/api/execution/metrics")).json()
        assert (body["orders_placed_total"], body["orders_filled_total"], body["success_rate_pct"]) == (3, 1, 100)
        world.send("b", symbol="MSFT")
        await world.run(1)
        world.cancel(signal_id="b")
        await world.run(5)
        assert world.record("b").status is Status.CANCELLED
        assert (await http.get("/api/execution/metrics")).json()["success_rate_pct"] == 100


async def test_a_scrape_is_answered_while_the_store_is_away(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.store_faults.is_away = True
        await world.run(30)
        api = (await http.get("/health")).json()
        assert (await http.get("/ready")).status_code in (200, 503)
        assert api["status"] in ("OK", "DOWN")


async def test_slippage_is_of_the_price_that_the_sender_saw(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10.1", price=10)
        await traded(world, "b", "9.9", symbol="MSFT", side="SELL", price=10)
        assert (await http.get("/api/execution/metrics")).json()["avg_slippage_pct"] == 1.0


# --- live events ----------------------------------------------------------------------------------------------------


class Listener:
    """Who listens to the feed, by ASGI."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.is_deaf = False
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.is_deaf:
            await asyncio.get_running_loop().create_future()
        if message.get("body"):
            self.pieces.append(message["body"].decode())

    def told(self, event: str) -> list[str]:
        return [piece for piece in self.pieces if f"event: {event}\n" in piece]

    @property
    def last_id(self) -> str:
        return self.pieces[-1].split("id: ")[1].split("\n")[0]


async def test_a_listener_that_comes_again_misses_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        feed = api_of(world).feed
        first, second = Listener(), Listener()
        task = asyncio.create_task(EventStream(feed, None)({}, first.receive, first.send))
        await asyncio.sleep(0)
        world.send("one")
        await world.run(1)
        assert '"status":"FILLED"' in first.told("order")[-1]
        first.gone.set()
        await task
        world.send("two")
        await world.run(1)
        task = asyncio.create_task(EventStream(feed, first.last_id)({}, second.receive, second.send))
        await world.run(1)
        assert ['"two"' in piece for piece in second.told("order")] == [True] * len(second.told("order"))
        assert second.told("order")
        assert second.told("resync") == []
        feed.close()
        await task
        assert feed.listeners == 0


@pytest.mark.parametrize("last", ["another-3", "nonsense", "-", "x" * 500, "{mark}-99999", "{mark}--1", "{mark}-²"])
async def test_who_was_told_by_another_process_or_too_long_ago_reads_everything_anew(tmp_path: Path, last: str) -> None:
    async with world_of(tmp_path) as world:
        feed, listener = api_of(world).feed, Listener()
        stream = EventStream(feed, last.replace("{mark}", feed.mark))
        task = asyncio.create_task(stream({}, listener.receive, listener.send))
        await world.run(1)
        assert len(listener.told("resync")) == 1
        feed.close()
        await task


async def test_who_is_too_slow_for_what_is_kept_is_told_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "KEPT", 3)
    async with world_of(tmp_path) as world:
        feed, listener = api_of(world).feed, Listener()
        start = feed.place_of(None)
        for number in range(3):
            world.send(f"sig-{number}")
        await world.run(2)
        stream = EventStream(feed, f"{feed.mark}-{start}")
        task = asyncio.create_task(stream({}, listener.receive, listener.send))
        await world.run(1)
        assert len(listener.told("resync")) == 1
        world.send("later")
        await world.run(1)
        assert any('"later"' in piece for piece in listener.told("order"))
        feed.close()
        await task


async def test_a_listener_that_takes_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "SEND_SECONDS", 0.05)
    async with world_of(tmp_path) as world:
        feed, listener = api_of(world).feed, Listener()
        task = asyncio.create_task(EventStream(feed, None)({}, listener.receive, listener.send))
        await asyncio.sleep(0)
        listener.is_deaf = True
        world.send("one")
        await world.run(1)
        async with asyncio.timeout(5):
            await task
        assert feed.listeners == 0
        await world.run(1)
        assert world.record("one").filled_quantity == Decimal(100), "and trading goes on"


async def test_a_stream_ends_after_a_time_so_that_the_listener_shows_that_it_still_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "STREAM_SECONDS", 0.05)
    async with world_of(tmp_path) as world:
        feed, listener = api_of(world).feed, Listener()
        async with asyncio.timeout(5):
            await EventStream(feed, None)({}, listener.receive, listener.send)
        assert listener.last_id == f"{feed.mark}-{feed.place_of(None)}"
