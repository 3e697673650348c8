"""A share is split while a stop rests: the broker has cancelled the stop, adjusted it, or left it as it was. Nothing is closed that nobody named, and
what a person books is protected anew, at prices of after the split."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import AssetClass, OrderRef, OrderType, Side
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState, ProtectiveRole
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.service.adoptions import adopt, held, outcome, records, undo
from tests.service.test_protection import ALONE, STOP_AT, at_broker, children, resting, state

BEFORE, AFTER = {"bid": "9.99", "ask": "10.01"}, {"bid": "4.99", "ask": "5.01"}
"""The market before and after one share has become two: the entry is at 10, its stop at 9."""
MERGED = {"bid": "19.99", "ask": "20.01"}
"""After two have become one."""
OF_THE_DAY = replace(ALONE, classes_of_the_day=frozenset({AssetClass.STOCK}))
WITHOUT_STOPS = replace(ALONE, classes_without_stops=frozenset({AssetClass.STOCK}))


async def ten_held(world: World, **fields: Any) -> None:
    world.quote(**BEFORE)
    world.send("in", **(STOP_AT | {"quantity": 10} | fields))
    await world.run(1)
    world.fill("in")
    await world.run(70)  # what it paid says nothing of the market any more


def moved(world: World, quantity: int) -> None:
    """So many shares come without an execution, or go: below 0."""
    world.book().move_position(world.record("in").accepted_request.instrument, Decimal(quantity))


def taken_down(world: World) -> None:
    """The broker cancels what rests, as some do before a corporate action."""
    for child in children(world):
        if not child.status.is_final:
            world.book().cancel_unasked(OrderRef(client_order_id=child.client_order_id), "Corporate action")


def came(world: World, command: str) -> Order:
    """What stands for the entry by that adoption."""
    (found,) = [order for order in records(world, command) if order.identity.purpose is Purpose.ENTRY]
    return found


def is_held_back(world: World) -> bool:
    """Nothing is at the broker, nothing was closed, and people know."""
    closed = children(world, ProtectiveRole.CLOSE)
    return not closed and not at_broker(world) and state(world) is ProtectionState.UNPROTECTED


def told(world: World, words: str) -> int:
    return sum(words in text for text in world.notifier.titled("Position Unprotected"))


async def booked(world: World, occasion: str = "split", **said: Any) -> Order:
    command = await adopt(world, occasion, **said)
    await world.run(15)
    assert outcome(world, command)[0] == "DONE"
    return came(world, command)


async def test_a_stop_that_was_cancelled_for_a_split_is_placed_at_half_the_price_when_that_is_booked(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        taken_down(world)
        moved(world, 10)
        world.quote(**AFTER)
        await world.run(60)
        assert is_held_back(world)
        words = (
            "the broker shows 10 more than all our records together, 10 of them this strategy's, "
            "and its stop at 9 may be reached by a split alone"
        )
        assert told(world, words) == 1
        await world.restart()
        await world.run(60)
        assert is_held_back(world)
        assert told(world, words) == 1
        stands = await booked(world, ratio="1:2")
        assert held(world) == {"AAPL": (20.0, 5.0)}
        (stop,) = at_broker(world)
        assert (stop.ticket.order_type, stop.ticket.stop_price) == (OrderType.STOP, Decimal("4.5"))
        assert stop.open_quantity == 20
        assert state(world) is ProtectionState.CLOSED
        assert stands.protection is not None
        assert (stands.protection.state, stands.protection.quantity) == (ProtectionState.PROTECTED, 20)
        world.exit("out", "in", quantity=20)
        await world.run(5)
        (sale,) = [p for p in world.placed() if p.ticket.client_order_id == world.exit_record("out").client_order_id]
        assert (sale.open_quantity, at_broker(world)) == (20, [])


@pytest.mark.parametrize("first", ["quantity", "price"])
async def test_the_broker_may_show_the_new_quantity_before_the_new_price_or_after_it(
    tmp_path: Path, first: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        if first == "quantity":
            moved(world, 10)
            await world.run(60)
            assert resting(world) == 10
            world.quote(**AFTER)
            taken_down(world)
        else:
            world.quote(**AFTER)
            taken_down(world)
            await world.run(60)
            assert is_held_back(world)
            assert told(world, "the market is as far beyond it as after a split") == 1
            moved(world, 10)
        await world.run(60)
        assert is_held_back(world)
        await booked(world, ratio="1:2")
        assert resting(world) == 20


async def test_a_stop_that_was_left_as_it_was_ends_before_the_new_one_is_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        moved(world, 10)
        world.quote(**AFTER)
        await world.run(30)
        assert (resting(world), children(world, ProtectiveRole.CLOSE)) == (10, [])
        old = at_broker(world)[0].ticket.client_order_id
        await booked(world, ratio="1:2")
        (new,) = at_broker(world)
        assert (new.ticket.stop_price, new.open_quantity) == (Decimal("4.5"), 20)
        ended = next(o.finished_at for o in children(world) if o.client_order_id == old)
        begun = next(o.received_at for o in children(world) if o.client_order_id == new.ticket.client_order_id)
        assert ended is not None
        assert ended <= begun


async def test_a_stop_of_the_day_is_not_placed_into_the_morning_after_a_split(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=OF_THE_DAY) as world:
        await ten_held(world)
        world.book().expire_day()
        moved(world, 10)
        world.quote(**AFTER)
        await world.run(120)
        assert is_held_back(world)


async def test_a_watched_stop_closes_nothing_after_a_split(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=WITHOUT_STOPS) as world:
        await ten_held(world)
        moved(world, 10)
        await world.run(30)
        assert state(world) is ProtectionState.WATCHED
        world.quote(**AFTER)
        await world.run(30)
        assert is_held_back(world)
        stands = await booked(world, ratio="1:2")
        assert stands.protection is not None
        assert stands.protection.state is ProtectionState.WATCHED
        world.quote(bid="4.49", ask="4.51")
        await world.run(15)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert close.quantity == 20


async def test_shares_of_somebody_else_in_the_account_keep_no_stop_from_closing_by_an_ordinary_move(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=WITHOUT_STOPS) as world:
        await ten_held(world)
        moved(world, 10)
        for bid, ask in (("9.39", "9.41"), ("8.94", "8.96")):
            world.quote(bid=bid, ask=ask)
            await world.run(20)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert close.quantity == 10


async def test_a_stop_that_a_person_took_down_before_an_ordinary_fall_closes_as_ever(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        taken_down(world)
        world.quote(bid="8.79", ask="8.81")
        await world.run(30)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert close.quantity == 10


async def test_after_a_merger_of_shares_the_stop_shrinks_and_the_old_target_is_not_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world, take_profit=12)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (10, 10)
        moved(world, -5)
        taken_down(world)
        world.quote(**MERGED)
        await world.run(60)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (5, 0)
        assert children(world, ProtectiveRole.CLOSE) == []
        await booked(world, ratio="2:1")
        prices = {p.ticket.order_type: p.ticket.stop_price or p.ticket.limit_price for p in at_broker(world)}
        assert prices == {OrderType.STOP: 18, OrderType.LIMIT: 24}
        assert (resting(world), resting(world, OrderType.LIMIT)) == (5, 5)


async def test_the_stop_of_a_short_position_is_held_back_after_a_merger_of_shares(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world, side="SELL", stop_loss=11)
        taken_down(world)
        moved(world, 5)
        world.quote(**MERGED)
        await world.run(60)
        assert is_held_back(world)
        await booked(world, ratio="2:1")
        (stop,) = at_broker(world)
        assert (stop.ticket.side, stop.ticket.stop_price, stop.open_quantity) == (Side.BUY, 22, 5)


async def test_what_is_split_twice_is_protected_by_both_ratios(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        moved(world, 10)
        command = await adopt(world, "split", ratio="1:2")
        await world.run(15)
        moved(world, 40)
        taken_down(world)
        world.quote(bid="1.66", ask="1.68")
        await world.run(30)
        stands = came(world, command)
        assert at_broker(world) == []
        assert stands.protection is not None
        assert stands.protection.state is ProtectionState.UNPROTECTED
        assert (
            told(
                world,
                "the broker shows 40 more than all our records together, 20 of them this strategy's, and its stop at 4.5",
            )
            == 1
        )
        await booked(world, ratio="1:3")
        (stop,) = at_broker(world)
        assert (stop.ticket.stop_price, stop.open_quantity) == (Decimal("1.5"), 60)


async def test_a_trailing_stop_goes_on_from_where_it_stood(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world, stop_loss=None, trail_amount=1)
        world.quote(bid="11.99", ask="12.01")
        await world.run(15)
        (stop,) = at_broker(world)
        assert stop.ticket.stop_price == 11
        taken_down(world)
        moved(world, 10)
        world.quote(bid="5.49", ask="5.51")
        await world.run(15)
        assert is_held_back(world)
        await booked(world, ratio="1:2")
        (stop,) = at_broker(world)
        assert (stop.ticket.stop_price, stop.open_quantity) == (Decimal("5.5"), 20)


async def test_what_has_another_name_keeps_its_stop_under_that(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        instrument = world.record("in").accepted_request.instrument
        moved(world, -10)
        world.book().move_position(replace(instrument, symbol="AAPLNEW"), Decimal(10))
        taken_down(world)
        await world.run(30)
        await booked(world, "rename", successor={"symbol": "AAPLNEW"})
        (stop,) = at_broker(world)
        assert (stop.ticket.instrument.symbol, stop.ticket.stop_price, stop.open_quantity) == ("AAPLNEW", 9, 10)


async def test_a_split_that_is_taken_back_takes_its_stop_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await ten_held(world)
        command = await adopt(world, "split", ratio="1:2")
        await world.run(15)
        (stop,) = at_broker(world)
        assert stop.ticket.stop_price == Decimal("4.5")
        await undo(world, command)
        await world.run(30)
        (stop,) = at_broker(world)
        assert (stop.ticket.stop_price, stop.open_quantity, state(world)) == (9, 10, ProtectionState.PROTECTED)
        assert came(world, command).status is Status.CANCELLED
