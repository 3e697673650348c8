"""The figures that a scrape gives, while things go well, badly, and over restarts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prometheus_client.parser import text_string_to_metric_families

from brokers.rate import CallPriority, RateBudget, RateLimit
from execution_service.api.risk_figures import risk_use
from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.counters import Counters
from execution_service.core.risk.limits import LimitSet, LimitType, RiskLimits, Scope
from execution_service.core.risk.usage import usages
from tests.builders import NOW
from tests.fakes import BY_HAND, RESTING, world_of
from tests.fakes.keys import FakeKey
from tests.fakes.safety import ARMED, FakeSafetyService
from tests.service.http_calls import ACCOUNT, api_of, client_of, http_world
from tests.service.test_kill_switches import kill

WHERE = {"account": ACCOUNT, "broker": "MOCK"}


def value(text: str, name: str, **labels: str) -> float | None:
    """None: there is no such series."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else None


async def scrape(http: Any) -> str:
    response = await http.get("/metrics")
    assert response.status_code == 200
    return str(response.text)


async def test_each_step_of_an_order_is_measured_once(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("good")
        await world.run(5)
        text = await scrape(http)
        counts = {
            step: value(text, "execution_step_seconds_count", step=step, broker="MOCK")
            for step in ("published_to_received", "received_to_durable", "received_to_sent", "sent_to_acknowledged")
        }
        assert set(counts.values()) == {1}
        assert value(text, "execution_step_seconds_count", step="received_to_acknowledged") == 1
        confirmed = value(text, "execution_step_seconds_count", step="recorded_to_confirmed")
        assert confirmed == len(world.publisher.of("good")) > 0


async def test_an_order_refused_at_the_door_is_counted_with_its_code(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("bad", quantity=-1)
        await world.run(3)
        text = await scrape(http)
        assert value(text, "execution_refusals_total", code="INVALID_ORDER", account=ACCOUNT) == 1
        assert value(text, "execution_order_outcomes_total", outcome="rejected", **WHERE) == 1


async def test_accounts_that_somebody_made_up_are_one_series(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        for number in range(20):
            world.send(f"sig-{number}", account_id=f"made-up-{number}")
        await world.run(3)
        text = await scrape(http)
        assert "made-up" not in text
        assert value(text, "execution_refusals_total", code="UNKNOWN_ACCOUNT", account="") == 20
        assert value(text, "execution_orders_stored", status="REJECTED", account="") == 20


async def test_what_an_earlier_life_counted_is_not_counted_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("one")
        await world.run(1)
        await world.kill()
        await world.restart()
        async with client_of(api_of(world)) as http:
            await world.run(2)
            world.fill("one", None, "10")
            await world.run(5)
            text = await scrape(http)
        assert value(text, "execution_order_outcomes_total", outcome="placed") in (None, 0)
        assert value(text, "execution_order_outcomes_total", outcome="filled") == 1


async def test_the_oldest_message_is_known_while_the_store_is_away_and_after_it_was_handed_back(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, _):
        inbox = world.orders.queue
        assert inbox.oldest is None
        world.store_faults.is_away = True
        sent_at = world.clock.now()
        world.send("one")
        await world.run(5)
        assert inbox.oldest == sent_at, "it is being stored"
        await world.run(15)
        assert inbox.is_refusing
        assert inbox.oldest == sent_at, "it was handed back"
        world.store_faults.is_away = False
        await world.run(30)
        assert inbox.oldest is None


async def test_a_scrape_with_the_environments_token_is_answered_however_long_the_store_is_away(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world, client_of(api_of(world, token="t0ken"), token="t0ken") as http:
        world.send("good")
        await world.run(3)
        await scrape(http)
        world.store_faults.is_away = True
        await world.run(150)
        text = await scrape(http)
        assert value(text, "execution_orders_stored", status="FILLED", **WHERE) == 1
        assert (value(text, "execution_counts_age_seconds") or 0) >= 150
        assert (value(text, "execution_silent_seconds", service="store") or 0) > 100
        assert value(text, "execution_kill_switches_known") == 0
        assert value(text, "execution_kill_switch_engaged", scope="all", level="halt") is None, "nothing made up"


async def test_how_long_the_safety_service_and_the_kill_key_are_not_known_is_shown(tmp_path: Path) -> None:
    safety, key = FakeSafetyService(), FakeKey()
    async with http_world(tmp_path, safety=safety, kill_key=key) as (world, http):
        await world.run(5)
        text = await scrape(http)
        assert value(text, "execution_silent_seconds", service="risk_safety") == 0
        assert value(text, "execution_silent_seconds", service="kill_key") == 0
        safety.said, key.is_away = b'{"error": "not ready", "healthy": false}', True
        await world.run(40)
        text = await scrape(http)
        assert (value(text, "execution_silent_seconds", service="risk_safety") or 0) > 30, (
            "it answers, and nobody can tell what"
        )
        assert (value(text, "execution_silent_seconds", service="kill_key") or 0) > 30
        safety.said, key.is_away = ARMED, False
        await world.run(5)
        text = await scrape(http)
        assert value(text, "execution_silent_seconds", service="risk_safety") == 0
        assert value(text, "execution_silent_seconds", service="kill_key") == 0


async def test_an_engaged_kill_switch_is_shown_with_its_scope_and_level(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await world.run(1)
        text = await scrape(http)
        assert value(text, "execution_kill_switch_engaged", scope="all", level="halt") == 0
        kill(world, f"account:{ACCOUNT}", level="halt")
        await world.run(2)
        text = await scrape(http)
        scope = f"account:{ACCOUNT}"
        assert value(text, "execution_kill_switch_engaged", scope=scope, level="halt") == 1
        assert value(text, "execution_kill_switch_engaged", scope=scope, level="reduce_only") == 0
        assert value(text, "execution_kill_switch_engaged", scope="all", level="halt") == 0


async def test_whoever_only_watches_holds_up_neither_an_order_nor_its_confirmations(tmp_path: Path) -> None:
    def breaks(_: object) -> None:
        raise RuntimeError("the figures broke")

    async with world_of(tmp_path) as world:
        rooms = world.service.rooms
        rooms.live_orders.on_taken.append(breaks)
        rooms.confirmations.on_published.append(breaks)
        world.send("one")
        await world.run(10)
        assert world.record("one").status.value == "FILLED"
        numbers = [attributes["event_number"] for _, attributes, _ in world.publisher.messages]
        assert len(numbers) == len(set(numbers)) > 0


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_limit_that_is_used_up_is_1() -> None:
    limits = RiskLimits(tables={Scope(account_id="a"): LimitSet(max_open_orders=Decimal(0))})
    book = RiskBook(account_id="a", counters=Counters(account_id="a"))
    used = risk_use(usages(limits, book, NOW, ZoneInfo("UTC")))
    assert used["a", LimitType.MAX_OPEN_ORDERS, "account:a"] == 1
    assert used["a", LimitType.MAX_CONSECUTIVE_REJECTIONS, "all"] == 0


# --- calls ----------------------------------------------------------------------------------------------------------


async def test_the_calls_left_are_those_within_each_period() -> None:
    now = [100.0]
    limits = (RateLimit(calls=3, seconds=1.0), RateLimit(calls=10, seconds=60.0, reserve=2, for_exits=1))
    budget = RateBudget(limits, clock=lambda: now[0])
    assert budget.left() == {1.0: 3, 60.0: 8}
    await budget.take()
    await budget.take(CallPriority.EXIT)
    assert budget.left() == {1.0: 1, 60.0: 6}
    now[0] += 2
    assert budget.left() == {1.0: 3, 60.0: 6}
    budget.pause(5)
    assert budget.left() == {1.0: 0, 60.0: 0}


@pytest.mark.parametrize("calls", [1, 5])
async def test_no_less_than_none_is_left(calls: int) -> None:
    budget = RateBudget((RateLimit(calls=5, seconds=60.0, reserve=4, for_exits=2),), clock=lambda: 0.0)
    for _ in range(calls):
        await budget.take(CallPriority.EXIT)
    assert budget.left() == {60.0: 0}
