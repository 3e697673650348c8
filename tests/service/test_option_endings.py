"""An option that expired, was assigned or exercised is booked once where its broker's records prove it, and left to a person where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import AssetClass, Delivered, EndingKind, Instrument, OptionRight, PositionEnding
from brokers.errors import BrokerUnavailable
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from tests.builders import NOW
from tests.fakes import BY_HAND, Moment, World, world_of
from tests.service.adoptions import adopt, undo

LONG_ENOUGH = 130.0
"""Two comparisons, a minute apart, and what follows from them."""
ASKED_AGAIN = 320.0
PUT = Instrument(
    symbol="XYZ",
    asset_class=AssetClass.OPTION,
    expiry="20250303",
    strike=Decimal(50),
    right=OptionRight.PUT,
    multiplier=Decimal(100),
)
OPTION = {"instrument_type": "OPTION", "expiry": "20250303", "strike": "50", "right": "P", "multiplier": "100"}
SHARES = Instrument(symbol="XYZ")


def ended(kind: EndingKind, contracts: int, **changes: Any) -> PositionEnding:
    """So the broker tells of the put."""
    quantity = Decimal(contracts)
    moved = -quantity * -100 if kind is EndingKind.ASSIGNMENT else quantity * 100
    delivered = Delivered(instrument=SHARES, quantity=moved, price=Decimal(50))
    made = PositionEnding(
        ending_id=f"{kind.value} 1",
        kind=kind,
        instrument=PUT,
        quantity=quantity,
        at=NOW + timedelta(hours=6),
        delivered=None if kind is EndingKind.EXPIRY else delivered,
    )
    return replace(made, **changes)


async def holding(world: World, contracts: int) -> None:
    side = "BUY" if contracts > 0 else "SELL"
    world.send("in", quantity=abs(contracts), symbol="XYZ", side=side, price=3.20, **OPTION)
    await world.run(2)
    world.fill("in")
    await world.run(2)


def leaves(world: World, change: int, shares: int = 0) -> None:
    """By the broker's positions, without an execution."""
    world.book().move_position(world.record("in").accepted_request.instrument, Decimal(change))
    if shares:
        world.book().move_position(SHARES, Decimal(shares))


def bookings(world: World) -> list[Order]:
    return [order for order in world.records() if order.adoption is not None]


def held(world: World) -> list[tuple[str, str, float, float]]:
    rows = world.documents("positions", status="OPEN")
    return [(row["instrument_type"], row["side"], row["quantity"], row["avg_entry_price"]) for row in rows]


def realized(world: World) -> float:
    return sum(row["realized_pnl"] for row in world.documents("positions"))


async def test_an_expiry_that_the_broker_recorded_is_booked_once_and_has_cost_the_premium(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, 2)
        leaves(world, -2)
        await world.run(LONG_ENOUGH)
        assert bookings(world) == [], "the broker has recorded nothing yet"
        world.broker_faults.endings = [ended(EndingKind.EXPIRY, -2)]
        await world.run(ASKED_AGAIN)
        assert [(b.adoption and b.adoption.occasion.value, b.average_price) for b in bookings(world)] == [("expiry", 0)]
        assert (held(world), realized(world)) == ([], -640.0)
        assert not world.documents("execution_discrepancies", state="OPEN")
        await world.restart()
        await world.run(ASKED_AGAIN)
        assert len(bookings(world)) == 1


@pytest.mark.parametrize(
    ("kind", "contracts", "shares", "position"),
    [
        (EndingKind.ASSIGNMENT, -1, 100, ("STOCK", "LONG", 100.0, 50.0)),
        (EndingKind.EXERCISE, 1, -100, ("STOCK", "SHORT", 100.0, 50.0)),
    ],
)
async def test_the_shares_of_an_assignment_or_exercise_stand_in_the_books_of_the_strategy(
    tmp_path: Path, kind: EndingKind, contracts: int, shares: int, position: tuple[str, str, float, float]
) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, contracts)
        leaves(world, -contracts, shares)
        world.broker_faults.endings = [ended(kind, -contracts)]
        await world.run(LONG_ENOUGH)
        assert held(world) == [position]
        assert realized(world) == -contracts * 320.0
        assert not world.documents("execution_discrepancies", state="OPEN")
        world.exit("out", "in", quantity=500, symbol="XYZ", price=49, side="SELL" if shares > 0 else "BUY")
        await world.run(5)
        assert world.exit_record("out").quantity == 100, "its exit takes the shares, and no more"


async def test_a_broker_that_shows_executions_without_a_price_has_them_booked_as_what_they_are(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, -1)
        option = world.record("in").accepted_request.instrument
        world.book().trade_by_hand(option, Decimal(1), Decimal(0))
        world.book().trade_by_hand(SHARES, Decimal(100), Decimal(50))
        await world.run(LONG_ENOUGH + ASKED_AGAIN)
        assert [b.adoption and b.adoption.occasion.value for b in bookings(world)] == ["assignment", "assignment"]
        assert (held(world), realized(world)) == ([("STOCK", "LONG", 100.0, 50.0)], 320.0)
        assert not world.documents("execution_discrepancies", state="OPEN")


async def _nothing_recorded(world: World) -> None:
    leaves(world, -1)


async def _another_quantity(world: World) -> None:
    leaves(world, -1)
    world.broker_faults.endings = [ended(EndingKind.EXPIRY, -2)]


async def _no_shares_came(world: World) -> None:
    leaves(world, -1)
    world.broker_faults.endings = [ended(EndingKind.EXERCISE, -1)]


async def _a_person_has_told(world: World) -> None:
    leaves(world, -1)
    await adopt(world, "expiry", "XYZ", instrument=OPTION, quantity="1")
    await world.run(LONG_ENOUGH)
    leaves(world, -1)
    world.broker_faults.endings = [ended(EndingKind.EXPIRY, -1)]


async def _no_price_and_shares_unexplained(world: World) -> None:
    world.book().trade_by_hand(world.record("in").accepted_request.instrument, Decimal(-1), Decimal(0))
    world.book().move_position(SHARES, Decimal(-100))


async def _the_broker_does_not_tell(world: World) -> None:
    leaves(world, -1)
    world.broker_faults.endings = [ended(EndingKind.EXPIRY, -1)]
    world.broker_faults.errors["endings"] = [BrokerUnavailable("busy")]


@pytest.mark.parametrize(
    "what",
    [
        _nothing_recorded,
        _another_quantity,
        _no_shares_came,
        _a_person_has_told,
        _no_price_and_shares_unexplained,
        _the_broker_does_not_tell,
    ],
)
async def test_what_is_not_proven_stays_an_open_difference(tmp_path: Path, what: Callable[[World], Any]) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, 2)
        await what(world)
        before = len(bookings(world))
        await world.run(LONG_ENOUGH)
        assert len(bookings(world)) == before
        said = [line for line in world.logs if line.get("action") == "broker_exit_not_proven"]
        assert len(said) <= 1, "why is said once"
        assert world.documents("execution_discrepancies", state="OPEN")


async def test_a_broker_that_could_not_tell_is_asked_again_and_no_other_is_asked_at_all(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, 2)
        world.send("shares", quantity=10)
        await world.run(2)
        world.fill("shares")
        await world.run(2)
        world.book().move_position(Instrument(symbol="AAPL"), Decimal(-5))
        await world.run(LONG_ENOUGH)
        assert "broker.endings" not in world.gate.names
        await _the_broker_does_not_tell(world)
        await world.run(LONG_ENOUGH + ASKED_AGAIN)
        assert len(bookings(world)) == 1


async def test_one_that_may_be_of_either_entry_is_tried_again_when_the_books_have_changed_and_seldom_else(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, -1)
        world.send("other", quantity=1, symbol="XYZ", side="SELL", price=3.20, **OPTION)
        await world.run(2)
        world.fill("other")
        await world.run(2)
        world.broker_faults.endings = [ended(EndingKind.ASSIGNMENT, 1)]
        leaves(world, 1, 100)
        await world.run(LONG_ENOUGH)
        before = world.gate.names.count("broker.positions")
        await world.run(ASKED_AGAIN)
        assert [line["event"] for line in world.logs if line.get("action") == "broker_exit_refused"] == [
            "An exit at the broker is left to a person: "
            "say which entry it belongs to (--entry): in has 1 left, other has 1 left"
        ], "why is said once"
        looks = 2 * 2
        comparisons = int(ASKED_AGAIN / 60) + 1
        assert world.gate.names.count("broker.positions") - before <= looks + comparisons
        world.exit("out", "in", quantity=1, symbol="XYZ", side="BUY", price=1, **OPTION)
        await world.run(2)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(LONG_ENOUGH)
        assert held(world) == [("STOCK", "LONG", 100.0, 50.0)]
        assert {b.accepted_request.entry_refs for b in bookings(world)} >= {("other",)}


async def test_it_is_left_to_a_person_where_it_is_not_asked_for(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await holding(world, 2)
        leaves(world, -2)
        world.broker_faults.endings = [ended(EndingKind.EXPIRY, -2)]
        await world.run(LONG_ENOUGH)
        assert bookings(world) == []


async def test_what_a_person_has_taken_back_is_not_booked_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, books_broker_exits=True) as world:
        await holding(world, 2)
        leaves(world, -2)
        world.broker_faults.endings = [ended(EndingKind.EXPIRY, -2)]
        await world.run(LONG_ENOUGH)
        (command,) = world.documents("execution_commands", kind="ADOPT")
        await undo(world, command["_id"])
        await world.run(ASKED_AGAIN)
        assert [order.filled_quantity for order in bookings(world)] == [0]


async def test_a_death_while_an_assignment_is_booked_books_it_once_and_whole(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await holding(world, -1)
        world.broker_faults.endings = [ended(EndingKind.ASSIGNMENT, 1)]
        leaves(world, 1, 100)

    async with world_of(tmp_path / "calm", market=BY_HAND, books_broker_exits=True) as world:
        await play(world)
        before = len(world.gate.names)
        await world.run(LONG_ENOUGH)
        calls = world.gate.names[before:]
    commands = [number for number, name in enumerate(calls, 1) if name.startswith("execution_commands.")]
    writes = [n for n in range(commands[0], commands[-1] + 4) if not calls[n - 1].endswith(".find")]
    for number in writes:
        async with world_of(tmp_path / f"{number}", market=BY_HAND, books_broker_exits=True) as world:
            await play(world)
            world.gate.dies_at = (len(world.gate.names) + number, Moment.AFTER)
            await world.run(LONG_ENOUGH)
            if world.gate.is_dead:
                await world.restart()
                await world.run(LONG_ENOUGH)
            assert (len(bookings(world)), held(world)) == (2, [("STOCK", "LONG", 100.0, 50.0)])
