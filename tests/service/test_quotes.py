"""The broker's quotes as reference prices: what is refused and passes by them, how seldom they are asked for, and that nobody waits for them long."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.errors import BrokerUnavailable, RateLimited
from execution_service.control.limit_uses import limit_uses
from execution_service.control.shown import use_fields
from execution_service.core.orders.events import Rejected, SubmitStarted, UsedPrice
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.risk.limits import LimitType
from execution_service.trading import quotes
from execution_service.trading.trader import TradingRules
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, RESTING, World, world_of

COLLAR = written(price_collar_pct=5)
GUARD = written(max_slippage_pct=1)


def send_limit(world: World, signal_id: str = "sig", limit: str = "10", **changes: Any) -> None:
    world.send(signal_id, **{"order_type": "LIMIT", "price": None, "limit_price": float(limit)} | changes)


def verdict_price(order: Order) -> UsedPrice | None:
    started = next(event for event in order.events if isinstance(event, SubmitStarted))
    assert started.risk is not None
    return started.risk.price


def why(order: Order) -> str:
    (end,) = (event for event in order.events if isinstance(event, Rejected))
    return end.reason.message


def alerts(world: World, title: str) -> int:
    return sum(title in text for _, text in world.notifier.sent)


async def test_the_price_collar_is_measured_from_the_broker_s_quote(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=COLLAR) as world:
        world.quote(bid="10.9", ask="11.1", last="11")
        send_limit(world, "far", "10")
        send_limit(world, "near", "11.5")
        await world.run(3)
        assert world.record("far").status is Status.REJECTED
        assert "the limit is 5" in why(world.record("far"))
        assert "quote 11, 0.0 s old" in why(world.record("far"))
        near = world.record("near")
        assert near.status is Status.SUBMITTED
        used = verdict_price(near)
        assert used is not None
        assert (used.source, used.price, used.age_seconds) == ("QUOTE", Decimal(11), 0)
        lines = [line["event"] for line in world.logs if line.get("action") == "order_placing"]
        assert lines[-1].endswith("let pass by the price of quote 11, 0.0 s old")


async def test_the_use_of_a_limit_names_the_price_that_it_was_reckoned_by(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_gross_exposure=5000)) as world:
        world.quote(bid="10", ask="12", last="11", age_seconds=3)
        world.send(price=10)
        await world.run(3)
        found = await limit_uses(
            world.store_beside(), world.risk_rules.limits, world.risk_rules.zones, world.clock.now()
        )
        (use,) = (each for each in found.usages if each.limit_type is LimitType.MAX_GROSS_EXPOSURE)
        assert use.used == 1100
        assert str(use.price) == "quote 11, 3.0 s old"
        shown = use_fields(use)["price"]
        assert (shown["source"], shown["price"], shown["age_seconds"]) == ("QUOTE", 11, 3)


async def test_an_order_at_the_market_is_stopped_when_the_market_has_gone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=GUARD) as world:
        world.quote(bid="10.2", ask="10.3", last="10.2")
        world.send("gone", price=10)
        world.send("with-us", price=10.15)
        await world.run(3)
        assert world.record("gone").status is Status.REJECTED
        assert world.record("with-us").status is Status.SUBMITTED


async def test_the_value_of_an_order_is_reckoned_by_the_quote_and_not_by_what_its_author_says(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_order_value=1500)) as world:
        world.quote(last="20", bid="19", ask="21")
        world.send(price=10)
        await world.run(3)
        assert world.record().status is Status.REJECTED


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bid": 9, "ask": 11, "last": 10, "age_seconds": 61}, "no fresh reference price"),
        ({"bid": 9, "ask": 11, "last": 10, "age_seconds": -61}, "no fresh reference price"),
        ({"bid": 9, "ask": 11, "last": 10, "is_delayed": True}, "the broker's quote is delayed"),
        ({"bid": 11, "ask": 9, "last": 10}, "a bid of 11 above the ask of 9"),
        ({"bid": 0, "ask": 0, "last": 0}, "the broker's quote has no price"),
        ({"close": 10}, "the broker's quote has no price"),
        ({"refusal": "market data are not subscribed"}, "market data are not subscribed"),
    ],
)
async def test_a_quote_that_cannot_be_used_refuses_new_risk_and_says_why(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=COLLAR) as world:
        world.quote(**fields)
        send_limit(world)
        await world.run(3)
        assert world.record().status is Status.REJECTED
        assert words in why(world.record())


async def test_without_a_quote_our_own_execution_counts_while_it_is_young(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=COLLAR) as world:
        world.send("first", price=10)
        await world.run(2)
        world.fill("first", price="10")
        await world.run(5)
        send_limit(world, "young", "10.2")
        await world.run(2)
        assert world.record("young").status is Status.SUBMITTED
        used = verdict_price(world.record("young"))
        assert used is not None
        assert used.source == "EXECUTION"
        await world.run(60)
        send_limit(world, "old", "10.2")
        await world.run(2)
        assert world.record("old").status is Status.REJECTED


async def test_a_burst_asks_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=COLLAR) as world:
        for symbol in ("AAPL", "MSFT", "IBM"):
            world.quote(symbol, last="10", bid="10", ask="10")
        for number in range(60):
            send_limit(world, f"sig-{number}", symbol=("AAPL", "MSFT", "IBM")[number % 3])
        await world.run(1)
        assert len(world.placed()) == 60
        assert len(world.calls("quotes")) <= 2
        await world.run(2)
        send_limit(world, "later")
        await world.run(1)
        assert world.calls("quotes")[-1] == "AAPL"


async def test_an_instrument_without_a_quote_is_not_asked_about_with_each_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_order_value=10_000)) as world:
        for number in range(20):
            world.send(f"sig-{number}")
            await world.run(2)
        assert len(world.placed()) == 20
        assert len(world.calls("quotes")) == 1


async def test_built_in_limits_alone_ask_for_no_quote(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.quote(last="10", bid="10", ask="10")
        send_limit(world)
        await world.run(3)
        assert world.record().status is Status.SUBMITTED
        assert world.calls("quotes") == []


async def test_an_exit_waits_for_no_quote(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=GUARD) as world:
        world.quote(last="10", bid="10", ask="10")
        world.send("entry")
        await world.run(2)
        world.fill("entry")
        await world.run(5)
        world.broker_faults.holds["quotes"] = asyncio.Event()
        world.exit("out", "entry")
        world.send("by-projection", side="SELL", quantity=100)
        await world.run(0.2)
        first, second = world.record("out", Purpose.EXIT), world.record("by-projection")
        assert Status.SUBMITTED in (first.status, second.status)
        await world.run(0.7)
        world.broker_faults.holds["quotes"].set()


async def test_what_only_reduces_waits_for_no_quote_whatever_it_calls_itself(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=GUARD) as world:
        world.quote(last="10", bid="10", ask="10")
        world.send("entry")
        await world.run(2)
        world.fill("entry")
        await world.run(5)
        world.broker_faults.holds["quotes"] = asyncio.Event()
        world.send("by-projection", side="SELL", quantity=60)
        world.send("more", quantity=10)
        await world.run(0.5)
        assert world.record("by-projection").status is Status.SUBMITTED
        assert world.record("more").status is Status.PENDING
        world.broker_faults.holds["quotes"].set()


async def test_a_call_that_hangs_costs_each_order_a_second_at_most_and_people_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_order_value=10_000)) as world:
        world.broker_faults.holds["quotes"] = asyncio.Event()
        world.send("one")
        await world.run(1.1)
        assert world.record("one").status is Status.SUBMITTED
        world.send("two")
        await world.run(0.1)
        assert world.record("two").status is Status.SUBMITTED
        world.broker_faults.holds["quotes"].set()


async def test_a_broker_that_tells_no_quotes_is_asked_less_and_less_and_said_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=COLLAR) as world:
        world.quote(last="10", bid="10", ask="10")
        world.broker_faults.errors["quotes"] = [BrokerUnavailable("no farm is connected") for _ in range(3)]
        for number in range(20):
            send_limit(world, f"sig-{number}")
            await world.run(4)
        refused = world.record("sig-1")
        assert refused.status is Status.REJECTED
        assert "no farm is connected" in why(refused)
        assert len(world.calls("quotes")) < 20
        assert world.record("sig-19").status is Status.SUBMITTED
        await world.run(70)
        assert alerts(world, "No Quotes From the Broker") == 1
        assert alerts(world, "Quotes Again") == 1


async def test_calls_that_the_budget_cannot_spare_are_no_trouble_for_people(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=COLLAR) as world:
        world.quote(last="10", bid="10", ask="10")
        world.broker_faults.errors["quotes"] = [RateLimited("the rate budget is spent", wait_seconds=1.0)]
        send_limit(world, "one")
        await world.run(2)
        send_limit(world, "two")
        await world.run(2)
        assert "the rate budget is spent" in why(world.record("one"))
        assert world.record("two").status is Status.SUBMITTED
        assert alerts(world, "No Quotes") == 0


async def test_an_order_without_quantity_is_sized_by_the_quote(tmp_path: Path) -> None:
    rules = TradingRules(risk_per_trade=Decimal("0.01"), order_timeout_seconds=0.0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        world.quote(last="50", bid="50", ask="50")
        world.send(quantity=None, price=None, stop_loss=48)
        await world.run(3)
        assert world.record().quantity == 5000


def test_an_order_waits_less_than_an_answer_is_worth() -> None:
    assert quotes.WAIT_SECONDS < quotes.ANSWER_SECONDS
