"""The process dies before and after each step of placing, growing, shrinking and ending protection; restarted, it must end as if it had not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import OrderType, ReportStatus
from execution_service.core.orders.protective import ProtectionState, ProtectiveRole
from execution_service.core.orders.request import Purpose
from tests.fakes import BY_HAND, RESTING, Moment, World, world_of
from tests.service.audit import audit
from tests.service.test_protection import STOP_AT, at_broker, children, hit, resting, state

AFTER_THESE = ("broker.place_order", "broker.cancel_order", "execution_orders.insert_many")
BEFORE_THESE = ("execution_orders.update_one", "execution_orders.bulk_write")
"""Of the calls of a calm life those at which it dies in turn: after what the broker is asked for and what is stored anew, and before every second
record of an event; what is before the one is mostly after another."""


async def goes_on(world: World, seconds: float = 12.0) -> None:
    """A turn of the monitor, with the next life if this one has ended."""
    await world.run(seconds)
    if world.gate.is_dead:
        await world.restart()
        await world.run(seconds)


async def live(world: World) -> None:
    """An entry fills in two parts, a part of it is closed by an exit, and a target takes the rest."""
    world.send("in", **STOP_AT, take_profit=12)
    await goes_on(world)
    world.fill("in", 40)
    await goes_on(world)
    assert (resting(world), resting(world, OrderType.LIMIT)) == (40, 40)
    world.fill("in")
    await goes_on(world)
    assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 100)
    world.exit("out", "in", quantity=70)
    await goes_on(world)
    assert (resting(world), resting(world, OrderType.LIMIT)) == (30, 30)
    world.fill("out", purpose=Purpose.EXIT)
    await goes_on(world)
    assert (resting(world), state(world)) == (30, ProtectionState.PROTECTED)
    for target in children(world, ProtectiveRole.TARGET):
        if not target.status.is_final:
            hit(world, target)
    await goes_on(world)
    assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)
    assert world.book().positions() == ()
    assert not [p for p in world.placed() if p.status is ReportStatus.WORKING]
    audit(world)


async def entered_trailing(world: World) -> None:
    world.quote(bid="9.99", ask="10.01")
    world.send("in", order_type="LIMIT", limit_price=10, trail_percent=10)
    await world.run(1)
    world.fill("in")
    await world.run(6)
    assert _stops(world) == [(9, 100)]


async def followed(world: World) -> None:
    """The stop follows a rise of the market, and stays where it stood when that falls."""
    for bid, ask in (("10.99", "11.01"), ("10.49", "10.51")):
        world.quote(bid=bid, ask=ask)
        await goes_on(world, 8)
        assert _stops(world) == [(Decimal("9.9"), 100)]
    audit(world)


def _stops(world: World) -> list[tuple[Decimal | None, Decimal]]:
    return [(placed.ticket.stop_price, placed.open_quantity) for placed in at_broker(world)]


async def test_death_at_any_step_of_moving_a_trailing_stop_neither_loosens_nor_doubles_it(tmp_path: Path) -> None:
    async with world_of(tmp_path / "calm", market=BY_HAND, rules=RESTING) as world:
        await entered_trailing(world)
        before = len(world.gate.names)
        await followed(world)
        calls = world.gate.names[before:]
    numbers = [number for number, name in enumerate(calls, 1) if name in (*AFTER_THESE, *BEFORE_THESE)]
    for number in numbers:
        async with world_of(tmp_path / f"{number}", market=BY_HAND, rules=RESTING) as world:
            await entered_trailing(world)
            world.gate.dies_at = (len(world.gate.names) + number, Moment.AFTER)
            await followed(world)


@pytest.mark.parametrize(
    ("names", "every", "moment"), [(AFTER_THESE, 1, Moment.AFTER), (BEFORE_THESE, 2, Moment.BEFORE)]
)
async def test_death_at_any_step_leaves_the_position_protected_within_one_turn(
    tmp_path: Path, names: tuple[str, ...], every: int, moment: Moment
) -> None:
    async with world_of(tmp_path / "calm", market=BY_HAND, rules=RESTING) as world:
        before = len(world.gate.names)
        await live(world)
        calls = world.gate.names[before:]
    assert set(names) <= set(calls)
    for number in [number for number, name in enumerate(calls, 1) if name in names][::every]:
        async with world_of(tmp_path / f"{number}", market=BY_HAND, rules=RESTING) as world:
            world.gate.dies_at = (len(world.gate.names) + number, moment)
            await live(world)
