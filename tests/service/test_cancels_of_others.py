"""Cancels that another process stored: each order asks for its own before it leaves, by name, whatever the clocks and however many there are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brokers.paper.model import Market
from execution_service.core.orders.status import Status
from execution_service.trading.trader import TradingRules
from tests.fakes import World, two_worlds, world_of

BY_HAND = Market(fill_delay_seconds=None)
RULES = TradingRules(order_timeout_seconds=0.0)
LIFETIME = timedelta(minutes=10)
MANY = 100_000


def cancel_document(world: World, name: str, body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """As a process left it that has carried the cancel out, for an order that had not come."""
    now = world.clock.now()
    usual = {
        "_id": f"msg-{name}",
        "kind": "CANCEL",
        "body": {"order_id": None, "signal_id": None, "leg_index": None, "reason": "changed my mind"} | body,
        "published_at": now,
        "received_at": now,
        "status": "DONE",
        "outcome": "not known",
        "active_until": now + LIFETIME,
    }
    return usual | changes


def store(world: World, *documents: dict[str, Any]) -> None:
    world.mongo["trading"]["execution_commands"].insert_many(documents)


async def test_an_order_reads_only_what_names_it_among_a_hundred_thousand_cancels(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=8.0) as world:
        store(world, *(cancel_document(world, f"o{n}", {"signal_id": f"other-{n}"}) for n in range(MANY)))
        store(world, cancel_document(world, "mine", {"signal_id": "mine"}))
        await world.settle()
        world.store_faults.documents_read.clear()
        world.send("mine", age_seconds=1)
        for n in range(10):
            world.send(f"free-{n}")
        await world.settle()
        await world.run_until(lambda: len(world.placed()) == 10)
        assert world.record("mine").status is Status.CANCELLED
        assert world.store_faults.documents_read["execution_commands"] <= 3


@pytest.mark.parametrize("skew", [timedelta(hours=-5), timedelta(hours=5)], ids=["behind", "ahead"])
@pytest.mark.parametrize("by", ["signal_id", "order_id"])
@pytest.mark.parametrize("status", ["NEW", "DONE"])
async def test_a_cancel_of_a_process_whose_clock_is_wrong_is_seen(
    tmp_path: Path, skew: timedelta, by: str, status: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=8.0) as world:
        told = world.clock.now() + skew
        until = None if status == "NEW" else told + LIFETIME
        store(world, cancel_document(world, "c", {by: "mine"}, received_at=told, active_until=until, status=status))
        names = {"order_id": "mine"} if by == "order_id" else {}
        world.send("mine", age_seconds=1, **names)
        await world.run(3)
        assert world.placed() == []
        assert world.record("mine").status is Status.CANCELLED


async def test_a_cancel_that_is_stored_after_the_order_was_and_before_it_leaves_is_seen(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=8.0) as world:
        world.broker_faults.unavailable = None
        service = world.service
        look = service.commands.look_for_cancels
        held = world.broker_faults.holds
        assert held == {}
        seen: list[str] = []

        async def just_before(orders: Any) -> None:
            if any(order.order_id in service.live_orders.by_id for order in orders) and not seen:
                seen.append("leaves")
                store(world, cancel_document(world, "c", {"signal_id": "mine"}))
            await look(orders)

        for trader in service.accounts.traders.values():
            submission: Any = trader._submission
            submission._cancels = SimpleNamespace(look_for_cancels=just_before)
        world.send("mine", age_seconds=1)
        await world.run(3)
        assert seen == ["leaves"]
        assert world.placed() == []
        assert world.record("mine").status is Status.CANCELLED


async def test_an_order_published_long_after_the_cancel_of_its_id_goes_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=8.0) as world:
        past = world.clock.now() - timedelta(hours=1)
        by_hour = cancel_document(world, "c", {"order_id": "ord-7"}, published_at=past, received_at=past)
        store(world, by_hour | {"active_until": past + LIFETIME})
        world.send("mine", order_id="ord-7")
        await world.run(3)
        assert world.record("mine").status is Status.SUBMITTED


async def test_an_exit_under_the_id_of_an_entry_that_was_cancelled_elsewhere_goes_by_its_time(tmp_path: Path) -> None:
    """The entry was cancelled by one process; the exit, published after, comes to another that never saw the cancel."""
    async with two_worlds(tmp_path, market=BY_HAND, rules=RULES) as (one, other):
        await other.start()
        one.send("in", symbol="MSFT")
        await one.run(1)
        one.fill("in")
        await one.run(1)
        one.send("first", order_id="ord-7")
        await one.run(1)
        one.cancel(order_id="ord-7")
        await one.run(2)
        assert one.record("first").status is Status.CANCELLED
        other.exit("out", "in", symbol="MSFT", order_id="ord-7")
        await other.run(5)
        assert other.exit_record("out").status is Status.SUBMITTED


async def test_the_poll_reads_what_is_new_and_nothing_that_is_done(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=8.0) as world:
        store(world, *(cancel_document(world, f"o{n}", {"signal_id": f"other-{n}"}) for n in range(500)))
        world.store_faults.documents_read.clear()
        await world.run(10)
        assert world.store_faults.documents_read["execution_commands"] == 0


async def test_remembered_cancels_are_forgotten_in_time(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES) as world:
        for n in range(50):
            world.cancel(signal_id=f"none-{n}")
        await world.run(1)
        commands = world.service.commands
        assert len(commands._active) == len(commands._by_name) == 50
        await world.run(LIFETIME.total_seconds())
        world.send("one")
        await world.run(1)
        assert commands._active == {}
        assert commands._by_name == {}
