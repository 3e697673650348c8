"""An account that holds long and short positions in one contract at once: each is compared, left and protected by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import BrokerPosition, Capabilities, OrderRef, OrderType, Side
from execution_service.control.requests import Kind
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.status import Status
from tests.fakes import BY_HAND, World, world_of
from tests.service.test_flatten import give

BY_SIDE = Capabilities(
    refuses_repeated_client_id=True,
    find_window_seconds=0.5,
    concurrent_calls=16,
    needs_reservation=True,
    derivative_products=("LONG", "SHORT"),
)
CONTRACT = {"symbol": "BTCUSDT", "instrument_type": "CRYPTO", "order_type": "LIMIT", "limit_price": 10}


def shown_by_side(world: World) -> None:
    """The broker tells its positions by side, as its orders named them."""

    def told(_: Sequence[BrokerPosition]) -> list[BrokerPosition]:
        held: dict[str, Decimal] = {}
        for order in world.placed():
            side = order.ticket.product or ("LONG" if order.ticket.side is Side.BUY else "SHORT")
            filled = sum((fill.quantity for fill in order.fills if not fill.busted), Decimal(0))
            held[side] = held.get(side, Decimal(0)) + order.ticket.side.sign * filled
        instrument = world.placed()[0].ticket.instrument
        return [
            BrokerPosition(instrument=instrument, quantity=quantity, product=side)
            for side, quantity in held.items()
            if quantity
        ]

    world.broker_faults.held = told


async def held_on_both_sides(world: World) -> None:
    shown_by_side(world)
    world.send("long", **CONTRACT, quantity=10, strategy_name="trend")
    world.send("short", **CONTRACT, quantity=4, strategy_name="fade", side="SELL", product="SHORT", stop_loss=12)
    await world.run(1)
    world.fill("long")
    world.fill("short")
    await world.run(3)


async def test_both_sides_agree_with_the_broker_and_each_is_left_by_itself(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        await held_on_both_sides(world)
        await world.run(200)
        assert world.documents("execution_discrepancies") == []
        world.exit("out", "short", **CONTRACT, quantity=10, strategy_name="fade", side="BUY")
        await world.run(10)
        leaving = world.exit_record("out")
        assert (leaving.ticket().product, leaving.ticket().quantity) == ("SHORT", Decimal(4))
        world.book().fill_order(OrderRef(client_order_id=leaving.client_order_id))
        await world.run(200)
        assert world.exit_record("out").status is Status.FILLED
        assert world.documents("execution_discrepancies") == []
        positions = {row["strategy_name"]: row["quantity"] for row in world.documents("positions", status="OPEN")}
        assert positions == {"trend": 10.0}


async def test_a_stop_protects_the_side_of_its_entry(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        await held_on_both_sides(world)
        (stop,) = [order.ticket for order in world.placed() if order.ticket.order_type is OrderType.STOP]
        assert (stop.product, stop.side, stop.quantity) == ("SHORT", Side.BUY, Decimal(4))
        await world.run(200)
        known = world.record("short").protection
        assert known is not None
        assert known.state is ProtectionState.PROTECTED


async def test_what_a_person_closes_on_one_side_is_no_difference_on_the_other(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        await held_on_both_sides(world)
        told = world.broker_faults.held
        assert told is not None
        world.broker_faults.held = lambda shown: [each for each in told(shown) if each.product == "LONG"]
        await world.run(400)
        (row,) = world.documents("execution_discrepancies", state="OPEN")
        assert row["finding"]["product"] == "SHORT"


async def sold_short_by_an_earlier_version(world: World, **fields: object) -> None:
    """Which took the side of the position from that of the order, and recorded none."""
    world._capabilities = replace(BY_SIDE, derivative_products=())
    await world.restart()
    world.send("short", **(CONTRACT | {"quantity": 4, "strategy_name": "fade", "side": "SELL"} | fields))
    await world.run(1)
    world.fill("short")
    await world.run(3)
    assert world.record("short").accepted_request.product is None
    world._capabilities = BY_SIDE
    shown_by_side(world)
    await world.restart()
    await world.run(3)


@pytest.mark.parametrize("names_entry", [True, False])
async def test_a_short_position_whose_orders_named_no_side_can_be_left(tmp_path: Path, names_entry: bool) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        await sold_short_by_an_earlier_version(world)
        await world.run(200)
        assert world.documents("execution_discrepancies") == []
        leaving = CONTRACT | {"quantity": 4, "strategy_name": "fade", "side": "BUY"}
        world.exit("out", "short" if names_entry else "", **leaving)
        await world.run(10)
        ticket = world.placed()[-1].ticket
        assert (ticket.product, ticket.side, ticket.quantity) == ("SHORT", Side.BUY, Decimal(4))
        world.book().fill_order(OrderRef(client_order_id=world.exit_record("out").client_order_id))
        await world.run(200)
        assert world.documents("execution_discrepancies") == []
        assert world.documents("positions", status="OPEN") == []


async def test_a_short_position_whose_orders_named_no_side_is_protected_and_flattened(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        await sold_short_by_an_earlier_version(world, stop_loss=12)
        known = world.record("short").protection
        assert known is not None
        assert known.state is ProtectionState.PROTECTED
        await give(world, Kind.FLATTEN, "out", scope="account:acct-1")
        await world.run(10)
        leaving = [order.ticket for order in world.placed() if order.ticket.order_type is OrderType.MARKET]
        assert [(each.product, each.side, each.quantity) for each in leaving] == [("SHORT", Side.BUY, Decimal(4))]


async def test_what_a_strategy_buys_beside_an_old_short_position_is_kept_apart_from_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        await sold_short_by_an_earlier_version(world)
        world.send("long", **CONTRACT, quantity=10, strategy_name="fade")
        await world.run(1)
        world.fill("long")
        await world.run(200)
        assert world.documents("execution_discrepancies") == []
        world.exit("out", "short", **CONTRACT, quantity=10, strategy_name="fade", side="BUY")
        await world.run(10)
        assert (world.placed()[-1].ticket.product, world.placed()[-1].ticket.quantity) == ("SHORT", Decimal(4))


async def test_of_two_old_sides_of_one_strategy_exits_take_no_more_than_both_records_and_broker_prove(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, capabilities=BY_SIDE, market=BY_HAND) as world:
        world._capabilities = replace(BY_SIDE, derivative_products=())
        await world.restart()
        world.send("long", **CONTRACT, quantity=10, strategy_name="fade")
        await world.run(1)
        world.fill("long")
        await sold_short_by_an_earlier_version(world)
        await world.run(200)
        assert {row["finding"]["product"] for row in world.documents("execution_discrepancies")} == {"LONG", "SHORT"}
        world.exit("cover", "short", **CONTRACT, quantity=5, strategy_name="fade", side="BUY")
        await world.run(20)
        assert (world.placed()[-1].ticket.product, world.placed()[-1].ticket.quantity) == ("SHORT", Decimal(4))
        world.exit("sell", "long", **CONTRACT, quantity=10, strategy_name="fade")
        await world.run(20)
        assert (world.placed()[-1].ticket.product, world.placed()[-1].ticket.quantity) == ("LONG", Decimal(6))
        assert "reduced from 10 to 6" in str(world.documents("execution_orders", signal_id="sell"))
