"""Cancels that another process stored: each order asks for its own before it leaves, by name, whatever the clocks and however many there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence, Set
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from execution_service.control.remembered_cancels import RememberedCancels
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.errors import StoreUnavailable
from tests.fakes import BY_HAND, RESTING, World, two_worlds, world_of

LIFETIME = timedelta(minutes=10)
MANY = 100_000
NOT_CARRIED_OUT = {"status": "NEW", "outcome": "", "active_until": None}


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
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
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
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        told = world.clock.now() + skew
        until = None if status == "NEW" else told + LIFETIME
        store(world, cancel_document(world, "c", {by: "mine"}, received_at=told, active_until=until, status=status))
        names = {"order_id": "mine"} if by == "order_id" else {}
        world.send("mine", age_seconds=1, **names)
        await world.run(3)
        assert world.placed() == []
        assert world.record("mine").status is Status.CANCELLED


@pytest.mark.parametrize("changes", [{}, NOT_CARRIED_OUT], ids=["carried out", "new"])
async def test_a_cancel_that_is_stored_after_the_order_was_and_before_it_leaves_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        world.broker_faults.unavailable = None
        service = world.service
        look = RememberedCancels.named_by_cancels
        seen: list[str] = []

        async def just_before(cancels: RememberedCancels, orders: Sequence[Order]) -> Set[str]:
            if any(order.order_id in service.live_orders.by_id for order in orders) and not seen:
                seen.append("leaves")
                store(world, cancel_document(world, "c", {"signal_id": "mine"}, **changes))
            return await look(cancels, orders)

        monkeypatch.setattr(RememberedCancels, "named_by_cancels", just_before)
        world.send("mine", age_seconds=1)
        await world.run(3)
        assert seen == ["leaves"]
        assert world.placed() == []
        assert world.record("mine").status is Status.CANCELLED


@contextlib.contextmanager
def nobody_carries_commands_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The store does not say which commands are new; that a cancel names an order it says."""

    async def away(_: MongoStore) -> list[Command]:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(MongoStore, "new_commands", away)
        yield


async def test_no_command_is_carried_out_by_an_order_that_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order stays, and with it what comes after it; whoever carries commands out ends it."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        with nobody_carries_commands_out(monkeypatch):
            store(world, cancel_document(world, "c", {"signal_id": "mine"}, **NOT_CARRIED_OUT))
            world.send("mine", age_seconds=1)
            world.send("next")
            world.send("beside", symbol="MSFT")
            await world.run(5)
            assert world.record("mine").status is Status.PENDING
            assert world.record("next").status is Status.PENDING
            assert world.record("beside").status is Status.SUBMITTED
            assert world.documents("execution_commands")[0]["status"] == "NEW"
        await world.run(3)
        assert world.record("mine").status is Status.CANCELLED
        assert world.record("next").status is Status.SUBMITTED
        assert world.documents("execution_commands")[0]["status"] == "DONE"


async def test_an_order_that_waits_for_a_cancel_ends_as_soon_as_that_is_carried_out(tmp_path: Path) -> None:
    """Not only when the store is next asked for commands."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        await world.run(0.05)  # just after the store was asked
        store(world, cancel_document(world, "c", {"signal_id": "mine"}, **NOT_CARRIED_OUT))
        world.send("mine", age_seconds=1)
        await world.run(0.6)
        assert world.record("mine").status is Status.CANCELLED


async def test_an_order_published_after_a_cancel_that_nobody_has_carried_out_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        with nobody_carries_commands_out(monkeypatch):
            earlier = world.clock.now() - timedelta(seconds=5)
            late = cancel_document(world, "c", {"signal_id": "mine"}, **NOT_CARRIED_OUT)
            store(world, late | {"published_at": earlier})
            world.send("mine")
            await world.run(2)
            assert world.record("mine").status is Status.SUBMITTED


@pytest.mark.parametrize("call", ["find", "update_one"])
async def test_an_order_that_a_stored_cancel_names_stays_while_the_store_fails(tmp_path: Path, call: str) -> None:
    """At the question which cancels there are, or when what came of one is written."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        store(world, cancel_document(world, "c", {"signal_id": "mine"}, **NOT_CARRIED_OUT))
        failures = [AutoReconnect("gone") for _ in range(60)]
        world.store_faults.breaks[f"execution_commands.{call}"] = failures
        world.send("mine", age_seconds=1)
        await world.run(3)
        assert len(failures) < 60
        assert world.placed() == []
        failures.clear()
        await world.run(15)
        assert world.placed() == []
        assert world.record("mine").status is Status.CANCELLED
        assert world.documents("execution_commands")[0]["status"] == "DONE"


async def test_what_is_said_of_a_cancel_that_cannot_be_read_names_its_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        broken = cancel_document(world, "c", {"order_id": "mine_ORD"}, **NOT_CARRIED_OUT)
        store(world, broken | {"received_at": "yesterday"})
        await world.run(5)
        (said,) = world.notifier.titled("Record Cannot Be Read")
        assert "CANCEL of mine_ORD" in said


async def test_commands_that_could_be_neither_carried_out_nor_refused_are_forgotten_with_their_documents(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        documents = [cancel_document(world, f"c{n}", {"signal_id": f"none-{n}"}, **NOT_CARRIED_OUT) for n in range(20)]
        world.store_faults.breaks["execution_commands.update_one"] = [ValueError("odd") for _ in documents]
        store(world, *documents)
        await world.run(3)
        runner = world.service.commands.runner
        assert len(runner.set_aside) == 20
        assert world.notifier.titled("Command Not Carried Out")
        world.mongo["trading"]["execution_commands"].delete_many({})
        await world.run(3)
        assert runner.set_aside == frozenset()


async def test_an_order_published_long_after_the_cancel_of_its_id_goes_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        past = world.clock.now() - timedelta(hours=1)
        by_hour = cancel_document(world, "c", {"order_id": "ord-7"}, published_at=past, received_at=past)
        store(world, by_hour | {"active_until": past + LIFETIME})
        world.send("mine", order_id="ord-7")
        await world.run(3)
        assert world.record("mine").status is Status.SUBMITTED


async def test_an_exit_under_the_id_of_an_entry_that_was_cancelled_elsewhere_goes_by_its_time(tmp_path: Path) -> None:
    """The entry was cancelled by one process; the exit, published after, comes to another that never saw the cancel."""
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING) as (one, other):
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


async def test_a_cancel_that_another_replica_took_and_could_not_finish_stops_its_order(tmp_path: Path) -> None:
    """It was stored there, and what came of it could not be; the order comes to the replica that trades."""
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING) as (one, other):
        await other.start()
        failures = other.store_faults.breaks["execution_commands.update_one"] = [
            AutoReconnect("gone") for _ in range(500)
        ]
        other.cancel(signal_id="mine")
        await other.run(0.2)
        one.send("mine", age_seconds=1)
        await one.run(5)
        assert len(failures) < 500
        assert one.placed() == []
        assert one.record("mine").status is Status.CANCELLED


async def test_the_poll_reads_what_is_new_and_nothing_that_is_done(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=8.0) as world:
        store(world, *(cancel_document(world, f"o{n}", {"signal_id": f"other-{n}"}) for n in range(500)))
        world.store_faults.documents_read.clear()
        await world.run(10)
        assert world.store_faults.documents_read["execution_commands"] == 0


async def test_remembered_cancels_are_forgotten_in_time(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for n in range(50):
            world.cancel(signal_id=f"none-{n}")
        await world.run(1)
        cancels: Any = world.service.commands.cancels
        assert len(cancels._active) == len(cancels._by_name) == 50
        await world.run(LIFETIME.total_seconds())
        world.send("one")
        await world.run(1)
        assert cancels._active == {}
        assert cancels._by_name == {}
