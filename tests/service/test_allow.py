"""One order past its limits: what an admin allows comes once, in time, and nothing else does; what the records keep of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from execution_service.control.requests import ALLOWED_SECONDS, Allow, Kind, read_request
from execution_service.control.results import Done, Refused, Result
from execution_service.core.orders.events import Noted, SubmitStarted
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.errors import StoreUnavailable
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, RESTING, World, two_worlds, world_of
from tests.service.audit import audit

SMALL = written(max_order_quantity=50)
"""100 are too many by these."""


def command(world: World, command_id: str = "allow-1", at: datetime | None = None, **fields: Any) -> Command:
    body = {"order_id": "sig", "person": "ann", "reason": "agreed with the desk"} | fields
    now = at or world.clock.now()
    return Command(command_id=command_id, kind=Kind.ALLOW, body=body, published_at=now, received_at=now)


async def allow(world: World, command_id: str = "allow-1", **fields: Any) -> Result | None:
    return await world.service.commands.give(command(world, command_id, **fields))


def words(result: Result | None) -> str:
    assert isinstance(result, Refused), result
    return result.words


async def refuse(world: World, signal_id: str = "sig", **fields: Any) -> None:
    world.send(signal_id, **fields)
    await world.run(2)
    assert world.record(signal_id).status is Status.REJECTED


def sending(order: Order) -> SubmitStarted:
    return next(event for event in order.events if isinstance(event, SubmitStarted))


async def test_an_allowed_order_comes_once_under_a_new_signal_and_its_record_says_who_let_it_through(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=SMALL) as world:
        await refuse(world)
        done = await allow(world, seconds=120)
        assert isinstance(done, Done)
        told = json.loads(done.words)
        assert (told["order_id"], told["limits"]) == (world.record("sig").order_id, ["max_order_quantity"])
        await world.run(1)
        assert world.record("sig").status is Status.REJECTED  # it is final
        world.send("again")
        await world.run(2)
        order = world.record("again")
        assert order.status is Status.SUBMITTED
        verdict = sending(order).risk
        assert verdict is not None
        assert verdict.breaches is not None
        assert [breach.limit_type for breach in verdict.breaches] == ["max_order_quantity"]
        assert (verdict.override_id, verdict.allowed_by, verdict.allowed_for) == (
            "allow-1",
            "ann",
            "agreed with the desk",
        )
        assert verdict.allowed_until is not None
        assert any("by ann (agreed with the desk)" in e.message for e in order.events if isinstance(e, Noted))
        await refuse(world, "third")
        assert len(world.notifier.titled("Order Allowed Past Its Limits")) == 1
        audit(world)


async def test_an_allowed_order_is_seen_where_no_limit_adds_up_and_after_a_start(tmp_path: Path) -> None:
    """Nothing is written for orders then, and the account's risk document is only remembered."""
    async with world_of(tmp_path, market=BY_HAND, limits=SMALL) as world:
        await refuse(world)
        await allow(world)
        await world.restart()
        world.send("again")
        await world.run(2)
        assert world.record("again").status is Status.SUBMITTED
        await world.restart()
        await refuse(world, "third")


@pytest.mark.parametrize("changes", [{"quantity": 99}, {"symbol": "MSFT"}, {"side": "SELL"}, {"strategy_name": "else"}])
async def test_an_order_of_another_content_is_not_let_through(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with world_of(tmp_path, limits=SMALL) as world:
        await refuse(world)
        await allow(world)
        await refuse(world, "other", **changes)


async def test_what_was_allowed_is_over_when_its_time_is(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=SMALL) as world:
        await refuse(world)
        await allow(world, seconds=30)
        await world.run(30)
        await refuse(world, "late")


async def test_of_two_that_come_at_once_one_is_let_through_also_at_two_processes(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING, limits=SMALL, accounts=("acct-1",)) as (one, other):
        await other.start()
        await one.run(3)
        await refuse(one)
        await allow(other)
        one.send("a")
        other.send("b")
        await one.run(5)
        assert sorted(one.record(name).status for name in ("a", "b")) == [Status.REJECTED, Status.SUBMITTED]


async def test_no_kill_switch_is_passed_by_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=SMALL) as world:
        await refuse(world)
        await allow(world)
        body = {"scope": "all", "by": "bob", "reason": "stop", "level": "reduce_only"}
        now = world.clock.now()
        await world.service.commands.give(
            Command(command_id="k", kind=Kind.KILL, body=body, published_at=now, received_at=now)
        )
        await refuse(world, "again")
        reason = world.record("again").reason
        assert reason is not None
        assert reason.code is ReasonCode.KILL_SWITCH


async def test_what_a_switch_refused_or_what_was_not_refused_cannot_be_allowed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(2)
        assert "was not refused by a limit" in words(await allow(world, "allow-1"))
        body = {"scope": "all", "by": "bob", "reason": "stop"}
        now = world.clock.now()
        await world.service.commands.give(
            Command(command_id="k", kind=Kind.KILL, body=body, published_at=now, received_at=now)
        )
        await refuse(world, "killed")
        assert "KILL_SWITCH" in words(await allow(world, "allow-2", order_id="killed"))
        assert "no order" in words(await allow(world, "allow-3", order_id="nothing"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"person": " "}, "must be named"),
        ({"reason": None}, "must be named"),
        ({"order_id": 7}, "names no order"),
        ({"seconds": 0}, "whole number"),
        ({"seconds": True}, "whole number"),
        ({"seconds": 86_401}, "whole number"),
        ({"seconds": "60"}, "whole number"),
    ],
)
async def test_an_odd_wish_is_refused_with_the_reason(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    async with world_of(tmp_path, limits=SMALL) as world:
        await refuse(world)
        assert why in words(await allow(world, **fields))
        await refuse(world, "again")


async def test_a_command_that_is_carried_out_again_after_a_death_allows_no_second_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=SMALL) as world:
        await refuse(world)
        asked = read_request(command(world))
        assert isinstance(asked, Allow)
        assert asked.seconds == ALLOWED_SECONDS
        verb = world.service.commands.runner._verbs.allow
        assert isinstance(await verb.carry_out(asked), Done)
        world.send("again")
        await world.run(2)
        assert world.record("again").status is Status.SUBMITTED
        assert isinstance(await verb.carry_out(asked), Done)
        await refuse(world, "third")
        await world.run(ALLOWED_SECONDS)
        assert isinstance(await verb.carry_out(asked), Refused)
        assert len(world.notifier.titled("Order Allowed Past Its Limits")) == 1


async def test_it_is_not_told_as_allowed_while_the_store_is_away(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=SMALL) as world:
        await refuse(world)
        world.store_faults.breaks["execution_risk.replace_one"] = [AutoReconnect("connection refused")]
        with pytest.raises(StoreUnavailable):
            await allow(world)
        assert not world.notifier.titled("Order Allowed Past Its Limits")
        await world.run(3)  # the command is stored, and is carried out
        world.send("again")
        await world.run(2)
        assert world.record("again").status is Status.FILLED


async def test_what_was_asked_for_long_ago_is_not_allowed_at_a_later_start(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=SMALL) as world:
        await refuse(world)
        long_ago = world.clock.now() - timedelta(seconds=ALLOWED_SECONDS)
        assert "is over" in words(await world.service.commands.give(command(world, at=long_ago)))


async def test_an_order_that_needs_no_pass_leaves_it_to_the_next(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=SMALL) as world:
        await refuse(world)
        await allow(world)
        world.risk_rules.limits = written(max_order_quantity=500)
        world.send("fits")
        await world.run(2)
        world.risk_rules.limits = SMALL
        world.send("again")
        await world.run(2)
        assert [world.record(name).status for name in ("fits", "again")] == [Status.SUBMITTED] * 2
