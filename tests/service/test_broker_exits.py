"""What a broker, or a person at it, has closed without us is booked once where its executions prove it, and left to a person where they do not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.paper.model import PaperOrder
from execution_service.control.broker_exits import LOOK_SECONDS, REFUSED_AGAIN_SECONDS
from execution_service.core.adoption.records import Refused
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import Purpose
from tests.fakes import BY_HAND, RESTING, UNPROTECTED, Moment, World, world_of
from tests.service.adoptions import adopt, undo
from tests.service.test_protection import STOP_AT, at_broker, children, entered, resting, state

LONG_ENOUGH = 130.0
"""Two comparisons, a minute apart, and what follows from them."""


def bookings(world: World) -> list[Order]:
    return [order for order in world.records() if order.adoption is not None]


def stops_placed(world: World) -> list[PaperOrder]:
    tags = {order.client_order_id for order in children(world)}
    return [placed for placed in world.placed() if placed.ticket.client_order_id in tags]


def held(world: World) -> list[float]:
    return [p["quantity"] for p in world.documents("positions", status="OPEN")]


def sell_at_the_broker(world: World, quantity: int, price: str = "9.5") -> None:
    instrument = world.record("in").accepted_request.instrument
    world.book().trade_by_hand(instrument, Decimal(-quantity), Decimal(price))


async def test_what_was_sold_at_the_broker_is_booked_once_with_its_price_and_the_rest_stays_protected(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        sell_at_the_broker(world, 30)
        sell_at_the_broker(world, 10, "9.25")
        await world.run(LONG_ENOUGH)
        assert [(o.filled_quantity, o.average_price, o.accepted_request.entry_refs) for o in bookings(world)] == [
            (30, Decimal("9.5"), ("in",)),
            (10, Decimal("9.25"), ("in",)),
        ]
        assert (held(world), resting(world), state(world)) == ([60.0], 60, ProtectionState.PROTECTED)
        assert [p.ticket.quantity for p in stops_placed(world)] == [
            100,
            60,
        ]  # and not for less while it is being booked
        assert not world.documents("execution_discrepancies", state="OPEN")
        await world.restart()
        await world.run(LONG_ENOUGH)
        assert (len(bookings(world)), held(world)) == (2, [60.0])


async def test_a_square_off_closes_the_trade_and_ends_its_protection(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        sell_at_the_broker(world, 100)
        await world.run(LONG_ENOUGH)
        assert (held(world), at_broker(world), state(world)) == ([], [], ProtectionState.CLOSED)
        (booking,) = bookings(world)
        assert booking.identity.purpose is Purpose.EXIT


async def test_it_is_left_to_a_person_where_it_is_not_asked_for(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        sell_at_the_broker(world, 40)
        await world.run(LONG_ENOUGH)
        assert (bookings(world), held(world)) == ([], [100.0])


async def _no_execution(world: World) -> None:
    await entered(world)
    world.book().move_position(world.record("in").accepted_request.instrument, Decimal(-40))


async def _two_holders(world: World) -> None:
    await entered(world)
    world.send("other", strategy_name="other", **STOP_AT)
    await world.run(1)
    world.fill("other")
    await world.run(2)
    sell_at_the_broker(world, 40)


async def _more_than_the_difference(world: World) -> None:
    await entered(world)
    sell_at_the_broker(world, 40)
    world.book().trade_by_hand(world.record("in").accepted_request.instrument, Decimal(15), Decimal("9.5"))


async def _the_other_side(world: World) -> None:
    await entered(world)
    sell_at_the_broker(world, 140)


@pytest.mark.parametrize("what", [_no_execution, _two_holders, _more_than_the_difference, _the_other_side])
async def test_what_executions_do_not_prove_is_left_to_a_person(tmp_path: Path, what: Any) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await what(world)
        await world.run(LONG_ENOUGH)
        assert bookings(world) == []
        assert world.documents("execution_discrepancies", state="OPEN")


async def test_what_may_be_of_either_entry_is_tried_again_when_the_books_have_changed_and_seldom_else(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=UNPROTECTED, books_broker_exits=True) as world:
        for name in ("in", "more"):
            world.send(name, quantity=100)
            await world.run(1)
            world.fill(name)
            await world.run(1)
        sell_at_the_broker(world, 40)
        await world.run(LONG_ENOUGH)
        before = world.store_faults.reads["execution_positions.find"]
        await world.run(LOOK_SECONDS * 20)
        assert world.store_faults.reads["execution_positions.find"] - before < 20, "they are not read at every look"
        assert [line.get("action") for line in world.logs].count("broker_exit_refused") == 1
        world.exit("out", "more", quantity=100)
        await world.run(2)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(LONG_ENOUGH)
        assert [(o.filled_quantity, o.accepted_request.entry_refs) for o in bookings(world)] == [(40, ("in",))]
        assert held(world) == [60.0]


async def test_a_refused_booking_is_tried_again_after_a_while_though_nothing_seems_to_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execution_service.control.broker_exits.plan", lambda *_: Refused(("not now",)))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        sell_at_the_broker(world, 40)
        await world.run(LONG_ENOUGH)
        assert [line.get("action") for line in world.logs].count("broker_exit_refused") == 1
        monkeypatch.undo()
        world.store_faults.is_away = True
        await world.run(REFUSED_AGAIN_SECONDS)
        assert bookings(world) == []
        world.store_faults.is_away = False
        await world.run(LONG_ENOUGH)
        assert (len(bookings(world)), held(world)) == (1, [60.0])


async def test_what_a_person_has_taken_back_is_not_booked_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        sell_at_the_broker(world, 40)
        await world.run(LONG_ENOUGH)
        (command,) = world.documents("execution_commands", kind="ADOPT")
        await undo(world, command["_id"])
        await world.run(LONG_ENOUGH)
        assert [order.filled_quantity for order in bookings(world)] == [0]


async def test_what_a_person_has_told_is_not_booked_once_more_for_what_left_later(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        sell_at_the_broker(world, 40)
        await adopt(world, "SQUARE_OFF", quantity="40", price="9.5")
        await world.run(LONG_ENOUGH)
        assert held(world) == [60.0]
        world.book().move_position(world.record("in").accepted_request.instrument, Decimal(-40))
        await world.run(LONG_ENOUGH)
        assert (len(bookings(world)), held(world)) == (1, [60.0])
        sell_at_the_broker(world, 20)
        await world.run(LONG_ENOUGH)
        assert (len(bookings(world)), held(world)) == (1, [60.0]), (
            "20 of the 60 that have left are proven, and 40 are not"
        )


async def test_one_that_cannot_be_judged_is_left_to_a_person_and_nothing_else_suffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ArithmeticError("nobody foresaw this")

    monkeypatch.setattr("execution_service.control.broker_exits.exits_to_book", broken)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        sell_at_the_broker(world, 40)
        await world.run(LONG_ENOUGH)
        assert (bookings(world), resting(world)) == ([], 60)
        told = [line.get("action") for line in world.logs]
        assert told.count("broker_exit_failed") == 1
        assert "part_restarted" not in told


async def test_a_death_while_it_is_booked_books_it_once(tmp_path: Path) -> None:
    async with world_of(tmp_path / "calm", market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        before = len(world.gate.names)
        sell_at_the_broker(world, 100)
        await world.run(LONG_ENOUGH)
        calls = world.gate.names[before:]
    commands = [number for number, name in enumerate(calls, 1) if name.startswith("execution_commands.")]
    after = [number for number in range(commands[0], commands[-1] + 4) if not calls[number - 1].endswith(".find")]
    for number in after:
        async with world_of(tmp_path / f"{number}", market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
            await entered(world)
            world.gate.dies_at = (len(world.gate.names) + number, Moment.AFTER)
            sell_at_the_broker(world, 100)
            await world.run(LONG_ENOUGH)
            if world.gate.is_dead:
                await world.restart()
                await world.run(LONG_ENOUGH)
            assert (len(bookings(world)), held(world), state(world)) == (1, [], ProtectionState.CLOSED)
