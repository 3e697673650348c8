"""Flattening: a named person's wish becomes an ordinary exit for each holding, once, and never more than is held."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Side
from execution_service.control.kill import WORKING
from execution_service.control.requests import Kind
from execution_service.control.results import Done, Refused, Result
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.storage.ports.commands import Command
from simulators.telegram import read_html
from tests.fakes import BY_HAND, RESTING, World, two_worlds, world_of
from tests.service.audit import audit

LIMIT = {"order_type": "LIMIT", "limit_price": 9}
OPTION = {
    "instrument_type": "OPTION",
    "symbol": "SPY",
    "strike": 450.5,
    "right": "C",
    "expiry": "20261218",
    "exchange": "SMART",
}


ENDED = frozenset({Status.REJECTED, Status.CANCELLED, Status.FILLED})


async def give(world: World, kind: Kind, command_id: str, *, age_seconds: float = 0.0, **body: Any) -> Result | None:
    at = world.clock.now() - timedelta(seconds=age_seconds)
    fields = {"scope": "all", "person": "bob", "by": "ann", "reason": "out of all"} | body
    command = Command(command_id=command_id, kind=kind, body=fields, published_at=at, received_at=at)
    return await world.service.commands.give(command)


def answer(result: Result | None) -> dict[str, Any]:
    assert isinstance(result, Done), result
    told: dict[str, Any] = json.loads(result.words)
    return told


async def hold(world: World, signal_id: str, **fields: Any) -> None:
    world.send(signal_id, **fields)
    await world.run(1)
    world.fill(signal_id)
    await world.run(2)


def exits(world: World) -> dict[str, tuple[Side, str]]:
    """What works or has worked at the broker to close something."""
    return {
        p.ticket.instrument.symbol: (p.ticket.side, str(p.ticket.quantity))
        for p in world.placed()
        if any(
            p.ticket.client_order_id == o.client_order_id for o in world.records() if o.identity.purpose is Purpose.EXIT
        )
    }


async def test_a_scope_in_which_nothing_is_held_is_said_to_be_one(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        told = answer(await give(world, Kind.FLATTEN, "f1", scope="account:mistyped"))
        assert told["orders"] == []
        assert told["left_out"] == ["nothing is held within account:mistyped, so nothing is closed"]
        assert exits(world) == {}
        await world.run(2)
        (text,) = world.notifier.titled("Flatten Ordered")
        assert "Orders: none" in read_html(text)


async def test_each_holding_within_the_scope_gets_one_exit_of_exactly_what_is_held(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        await hold(world, "short", symbol="MSFT", side="SELL", quantity=30)
        await hold(world, "option", quantity=2, **OPTION)
        await hold(world, "other", symbol="NVDA", strategy_name="other", quantity=7)
        told = answer(await give(world, Kind.FLATTEN, "f1", scope="strategy:momentum"))
        assert (len(told["orders"]), told["left_out"]) == (3, [])
        await world.run(2)
        found = exits(world)
        assert found["AAPL"] == (Side.SELL, "100")
        assert found["MSFT"] == (Side.BUY, "30")
        assert found["SPY"] == (Side.SELL, "2")
        assert len(found) == 3
        (entry, closing) = [p.ticket.instrument for p in world.placed() if p.ticket.instrument.symbol == "SPY"]
        assert entry == closing
        assert len(world.notifier.titled("Flatten Ordered")) == 1
        for order in world.records():
            if order.identity.purpose is Purpose.EXIT:
                world.fill(order.signal_id, purpose=Purpose.EXIT)
        await world.run(3)
        audit(world)
        assert answer(await give(world, Kind.FLATTEN, "f2", scope="strategy:momentum"))["orders"] == []


async def test_the_same_command_carried_out_again_makes_no_second_exit(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        await give(world, Kind.FLATTEN, "f1")
        await world.run(2)
        world.mongo["trading"]["execution_commands"].update_one({"_id": "f1"}, {"$set": {"status": "NEW"}})
        await world.run(3)
        assert len(exits(world)) == 1
        assert not world.documents("execution_dead_letters")
        # Another wish meets what works already, and never takes more than is held.
        await give(world, Kind.FLATTEN, "f2")
        await world.run(3)
        sold = sum(p.open_quantity for p in world.placed() if p.ticket.side is Side.SELL)
        assert sold == 100


async def test_a_wish_that_nobody_could_carry_out_in_time_sells_nothing_later(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        assert isinstance(await give(world, Kind.FLATTEN, "f1", age_seconds=61), Refused)
        assert not exits(world)


@pytest.mark.parametrize("body", [{"person": ""}, {"reason": " "}, {"scope": "everything"}, {"scope": None}])
async def test_without_a_person_a_reason_and_a_scope_nothing_is_sold(tmp_path: Path, body: dict[str, Any]) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        assert isinstance(await give(world, Kind.FLATTEN, "f1", **body), Refused)
        await world.run(2)
        assert not exits(world)


async def test_after_a_kill_with_cancels_a_resting_entry_does_not_refill_what_was_flattened(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        world.send("rests", **LIMIT)
        await world.run(1)
        await give(world, Kind.KILL, "k1", cancel_entries=True)
        await world.run(4)
        assert world.record("rests").status is Status.CANCELLED
        answer(await give(world, Kind.FLATTEN, "f1"))
        await world.run(2)
        (exit_order,) = [o for o in world.records() if o.identity.purpose is Purpose.EXIT]
        world.fill(exit_order.signal_id, purpose=Purpose.EXIT)
        world.send("again")
        await world.run(3)
        assert world.record("again").status is Status.REJECTED
        held = [d for d in world.documents("execution_positions") if d["is_open"]]
        assert held == []


async def test_killed_under_load_at_two_processes_no_resting_entry_refills_what_was_flattened(tmp_path: Path) -> None:
    """One working entry rests unfilled, one fills in part as its cancel is on its way, and orders come at both processes all the while."""
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING, accounts=("acct-1", "acct-2")) as (one, other):
        await other.start()
        await one.run(3)
        await hold(one, "long", quantity=100)
        one.send("rests", **LIMIT)
        one.send("fills", symbol="MSFT", **LIMIT)
        other.send("elsewhere", account_id="acct-2", symbol="NVDA", **LIMIT)
        await one.run(3)
        names = iter(range(10_000))

        async def under_load(seconds: float) -> None:
            """Ten orders a second come, at either process, for either account."""
            for _ in range(int(seconds * 10)):
                number = next(names)
                account = f"acct-{number % 2 + 1}"
                (one, other)[number % 3 % 2].send(f"load-{number}", account_id=account, symbol=f"S{number % 7}")
                await one.run(0.1)

        await under_load(1)
        held_back = asyncio.Event()
        for world in (one, other):
            world.broker_faults.holds["cancel_order"] = held_back
        giving = asyncio.create_task(give(one, Kind.KILL, "k1", cancel_entries=True))
        await under_load(1)
        one.fill("fills", 40)  # its cancel is on its way
        held_back.set()
        await under_load(6)
        await giving
        working = [o for o in one.records() if o.identity.purpose is Purpose.ENTRY and o.status in WORKING]
        assert working == [], "no entry is left that could fill"
        answer(await give(one, Kind.FLATTEN, "f1"))
        await under_load(3)
        for order in one.records():
            if order.identity.purpose is Purpose.EXIT:
                assert order.status is Status.SUBMITTED
                one.fill(order.signal_id, purpose=Purpose.EXIT)
        await under_load(3)
        for account in ("acct-1", "acct-2"):
            for resting in one.placed(account):
                assert not resting.open_quantity, "the venue holds nothing that could fill"
        assert not [d for d in one.documents("execution_positions") if d["is_open"]]
        late = [o for o in one.records() if o.signal_id.startswith("load-") and o.status not in ENDED]
        assert late == []
        audit(one)


async def test_at_halt_no_exit_is_made_and_the_answer_says_why(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "long", quantity=100)
        await give(world, Kind.KILL, "k1", level="halt")
        told = answer(await give(world, Kind.FLATTEN, "f1"))
        assert told["orders"] == []
        assert "halt" in told["left_out"][0]
