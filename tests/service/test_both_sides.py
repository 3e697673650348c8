"""An account that holds long and short positions in one contract at once: each is compared, left and protected by itself."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from brokers.base import BrokerPosition, Capabilities, OrderRef, OrderType, Side
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.status import Status
from tests.fakes import BY_HAND, World, world_of

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
            side = order.ticket.product or "LONG"
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
