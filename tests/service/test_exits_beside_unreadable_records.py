"""Exits whose entry or sibling cannot be read: nothing is sold twice, and nothing that may be sold already."""

from __future__ import annotations

from pathlib import Path

from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from tests.fakes import BY_HAND, RESTING, World, world_of


def spoil(world: World, signal_id: str, purpose: Purpose = Purpose.ENTRY) -> None:
    """Somebody's hand in the record: it cannot be read any more."""
    order = world.record(signal_id, purpose)
    world.mongo["trading"]["execution_orders"].update_one({"_id": order.order_id}, {"$set": {"request": "gone"}})


async def test_an_exit_whose_sibling_cannot_be_read_sells_nothing_that_is_sold(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(1)
        world.exit("out-1", "in")
        await world.run(1)
        world.fill("out-1", purpose=Purpose.EXIT)
        await world.run(10)
        spoil(world, "out-1", Purpose.EXIT)
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2
        assert world.exit_record("out-2").status is Status.REJECTED


async def test_two_exits_of_an_entry_that_cannot_be_read_sell_it_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(10)
        spoil(world, "in")
        world.exit("out-1", "in")
        await world.run(5)
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2


async def test_an_exit_beside_one_that_may_be_at_work_and_cannot_be_read_is_not_sent(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(1)
        world.exit("out-1", "in")
        await world.run(1)
        await world.kill()
        spoil(world, "out-1", Purpose.EXIT)
        await world.start()
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2
        assert world.exit_record("out-2").status is Status.REJECTED
