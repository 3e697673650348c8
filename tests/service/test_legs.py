"""The legs of one signal, judged together before any of them is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from brokers.base import Capabilities
from brokers.errors import BrokerError, NotAnswered, OrderRefused
from execution_service.core.orders.legs import UNKNOWN_LEG_SECONDS
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import World, world_of
from tests.service.audit import audit

TOGETHER = Capabilities(
    fits_tickets=True, needs_reservation=True, refuses_repeated_client_id=True, splits_option_combinations=False
)
CALL = {"instrument_type": "OPTION", "strike": 190, "right": "CALL", "expiry": "20270115"}


def send_legs(world: World, *legs: dict[str, object]) -> None:
    for number, fields in enumerate(legs):
        world.send(leg_index=number, total_legs=len(legs), **fields)


def statuses(world: World, legs: Sequence[int] = (0, 1)) -> list[Status]:
    return [world.record(leg_index=number).status for number in legs]


def reason(world: World, leg: int) -> str:
    said = world.record(leg_index=leg).reason
    return "" if said is None else said.message


async def test_no_share_is_bought_beside_an_option_that_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        send_legs(world, {"symbol": "AAPL"}, {"symbol": "AAPL", "side": "SELL", **CALL})
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert not world.calls("place_order")
        assert "leg 2 of 2" in reason(world, 0)
        assert "stand naked" in reason(world, 0)
        audit(world)


async def test_a_leg_waits_for_the_others_and_leaves_as_soon_as_they_are_there(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.send(leg_index=1, total_legs=2, symbol="NVDA", side="SELL")
        await world.run(1)
        looked = world.store_faults.reads["execution_orders.find"]
        await world.run(10)
        assert world.store_faults.reads["execution_orders.find"] - looked <= 10
        assert not world.calls("place_order")
        world.send(leg_index=0, total_legs=2)
        await world.run(1)
        assert statuses(world) == [Status.FILLED] * 2
        audit(world)


async def test_a_leg_whose_others_never_come_is_not_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.send(leg_index=1, total_legs=3)
        world.send("single", symbol="MSFT")
        await world.run(UNKNOWN_LEG_SECONDS - 1)
        assert world.record(leg_index=1).status is Status.PENDING
        assert world.record("single").status is Status.FILLED
        await world.run(4)
        assert world.record(leg_index=1).status is Status.REJECTED
        assert "have not come: 1, 3" in reason(world, 1)


async def test_a_leg_that_comes_after_the_other_was_given_up_is_not_placed_either(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.send(leg_index=0, total_legs=2)
        await world.run(UNKNOWN_LEG_SECONDS + 4)
        world.send(leg_index=1, total_legs=2, symbol="NVDA", side="SELL")
        await world.run(4)
        assert statuses(world) == [Status.REJECTED] * 2
        assert not world.calls("place_order")


async def test_a_leg_that_the_market_does_not_know_keeps_the_others_from_leaving(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.broker_faults.unfitting["ZZNONE"] = [OrderRefused("no contract") for _ in range(2)]
        send_legs(world, {"symbol": "AAPL"}, {"symbol": "ZZNONE", "side": "SELL"})
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert not world.calls("place_order")
        assert reason(world, 0) == "not placed without leg 2 of 2: no contract"


@pytest.mark.parametrize("error", [NotAnswered("no answer in time"), BrokerError("library broke")])
async def test_a_leg_leaves_only_once_the_others_could_be_looked_at(tmp_path: Path, error: BrokerError) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.broker_faults.unfitting["NVDA"] = [error, error]
        send_legs(world, {"symbol": "AAPL"}, {"symbol": "NVDA", "side": "SELL"})
        await world.run(0.2)
        assert not world.calls("place_order")
        await world.run(5)
        assert statuses(world) == [Status.FILLED] * 2


async def test_a_leg_refused_at_the_door_keeps_the_others_from_leaving(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(leg_index=1, total_legs=2, symbol="NVDA", quantity=-5)
        await world.run(1)
        world.send(leg_index=0, total_legs=2)
        await world.run(1)
        assert statuses(world) == [Status.REJECTED] * 2
        refusal = world.record(leg_index=0).reason
        assert refusal is not None
        assert refusal.code is ReasonCode.INVALID_ORDER
        assert "leg 2 of 2" in refusal.message


async def test_a_leg_whose_cancellation_is_wished_keeps_the_others_from_leaving(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.send(leg_index=0, total_legs=2)
        await world.run(1)
        world.cancel(signal_id="sig", leg_index=1)
        world.send(leg_index=1, total_legs=2, symbol="NVDA", side="SELL")
        await world.run(5)
        assert statuses(world) == [Status.REJECTED, Status.CANCELLED]


async def test_a_leg_that_waits_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        world.send(leg_index=0, total_legs=2)
        await world.run(1)
        await world.restart()
        world.send(leg_index=1, total_legs=2, symbol="NVDA", side="SELL")
        await world.run(3)
        assert statuses(world) == [Status.FILLED] * 2


async def test_legs_of_exits_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TOGETHER) as world:
        send_legs(world, {"symbol": "AAPL"}, {"symbol": "NVDA", "side": "SELL"})
        await world.run(2)
        world.exit("out", "sig", leg_index=0, total_legs=2)
        await world.run(2)
        assert world.record("out", Purpose.EXIT).status is Status.FILLED
