"""Exits, fills and trades past us in random sequence: no exit ever brings the account where none of our strategies is."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Instrument, OrderRef, ReportStatus
from brokers.errors import NotAnswered
from brokers.paper.model import Market
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, World, world_of

BY_HAND = Market(fill_delay_seconds=None)
RULES = TradingRules(order_timeout_seconds=0.0, exit_position_check=ExitPositionCheck.ALWAYS)
STRATEGIES = ("one", "two", "three")
STOCK = Instrument(symbol="AAPL")


def beyond(world: World) -> tuple[Decimal, Decimal]:
    """How far the broker's position is below all that our strategies are short, and above all that they are long, by what truly filled."""
    held: dict[str, Decimal] = {}
    shown = Decimal(0)
    by_tag = {record.client_order_id: record for record in world.records()}
    for placed in world.placed():
        signed = placed.filled_quantity * placed.ticket.side.sign
        shown += signed
        record = by_tag.get(placed.ticket.client_order_id)
        if record is not None:
            held[record.request.strategy or ""] = held.get(record.request.strategy or "", Decimal(0)) + signed
    long = sum((q for q in held.values() if q > 0), Decimal(0))
    short = -sum((q for q in held.values() if q < 0), Decimal(0))
    return max(Decimal(0), -short - shown), max(Decimal(0), shown - long)


def resting(world: World) -> list[Any]:
    return [p for p in world.placed() if p.status is ReportStatus.WORKING]


def fill_some(world: World, dice: random.Random) -> None:
    for placed in resting(world):
        if dice.random() < 0.5:
            amount = Decimal(dice.randint(1, int(placed.open_quantity)))
            world.book().fill_order(OrderRef(client_order_id=placed.ticket.client_order_id), amount)


async def play(world: World, dice: random.Random) -> int:
    """So many exits have taken something."""
    for number, name in enumerate(STRATEGIES):
        side = "SELL" if number == 2 and dice.random() < 0.5 else "BUY"
        world.send(name, strategy_name=name, side=side, quantity=dice.randint(5, 40))
    await world.run(2)
    for name in STRATEGIES:
        world.fill(name)
    await world.run(3)
    broker: Any = world.brokers[ACCOUNT]
    positions = broker.positions

    async def while_things_fill() -> Any:
        fill_some(world, dice)
        told = await positions()
        fill_some(world, dice)
        return told

    broker.positions = while_things_fill
    for number in range(12):
        if not resting(world) and dice.random() < 0.5:
            world.book().trade_by_hand(STOCK, Decimal(dice.choice((-25, -10, -3, 4, 12))), Decimal(10))
        if dice.random() < 0.2:
            world.broker_faults.errors["positions"] = [NotAnswered("busy")]
        before = beyond(world)
        name = dice.choice(STRATEGIES)
        side = "SELL" if world.record(name).accepted_request.side.sign > 0 else "BUY"
        world.exit(f"out-{number}", name, strategy_name=name, side=side, quantity=dice.randint(1, 30))
        await world.run(dice.choice((0.5, 3, 15)))
        fill_some(world, dice)
        await world.run(dice.choice((0.1, 5)))
        after = beyond(world)
        assert after[0] <= before[0]
        assert after[1] <= before[1]
    return sum(bool(each.filled_quantity) for each in exits(world))


def exits(world: World) -> list[Order]:
    return [record for record in world.records() if record.identity.purpose is Purpose.EXIT]


@pytest.mark.parametrize("seed", range(12))
async def test_no_exit_brings_the_account_where_no_strategy_of_ours_is(tmp_path: Path, seed: int) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES) as world:
        assert await play(world, random.Random(seed))
