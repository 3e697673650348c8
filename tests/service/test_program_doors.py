"""What a program of spec 001 keeps of its orders and positions: the newest state of each, and where the broker differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from brokers.base import BrokerPosition, Instrument
from execution_service.core.messages.inbound import ParsedOrder, parse_order_fields
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from services.execution.alpaca import OrderManagementSystem, OrderRequest, PositionTracker
from tests.builders import order_in


class Client:
    """Shows these positions and orders."""

    def __init__(self, positions: Sequence[BrokerPosition] = (), orders: Sequence[Order] = ()) -> None:
        self.positions = positions
        self.orders = {order.order_id: order for order in orders}

    async def get_positions(self) -> Sequence[BrokerPosition]:
        return self.positions

    async def get_order(self, order_id: str) -> Order:
        return self.orders[order_id]


def held(symbol: str, quantity: int) -> BrokerPosition:
    return BrokerPosition(instrument=Instrument(symbol=symbol), quantity=Decimal(quantity))


def test_an_older_state_of_an_order_changes_nothing() -> None:
    older, newer = order_in(Status.SUBMITTED), order_in(Status.FILLED)
    assert older.order_id == newer.order_id
    oms = OrderManagementSystem()
    oms.add_order(newer)
    oms.add_order(older)
    assert oms.get_order(older.order_id) == newer
    assert (oms.get_open_orders(), oms.get_orders("FILLED")) == ([], [newer])
    assert oms.get_order("ord_unknown") is None


async def test_open_orders_are_seen_anew_and_those_that_changed_are_told() -> None:
    oms = OrderManagementSystem()
    oms.add_order(order_in(Status.SUBMITTED))
    assert await oms.refresh(Client(orders=[order_in(Status.SUBMITTED)])) == []
    filled = order_in(Status.FILLED)
    assert await oms.refresh(Client(orders=[filled])) == [filled]
    assert await oms.refresh(Client()) == []


@pytest.mark.parametrize(
    ("now", "has"),
    [
        ([held("AAPL", 10)], False),
        ([held("AAPL", 7)], True),
        ([], True),
        ([held("AAPL", 10), held("SPY", 1)], True),
    ],
    ids=["equal", "fewer", "gone", "another"],
)
async def test_a_tracker_tells_where_the_broker_differs_now(now: list[BrokerPosition], has: bool) -> None:
    tracker = PositionTracker()
    tracker.update_from_broker([held("AAPL", 10)])
    result = await tracker.reconcile(Client(now))
    assert result.has_discrepancies is has
    assert tracker.positions == (held("AAPL", 10),)


def test_a_request_is_an_order_as_a_message_brings_it_and_each_is_another_one() -> None:
    request = OrderRequest(
        symbol="AAPL", side="BUY", quantity=10, strategy_id="m", order_type="LIMIT", limit_price="190.05"
    )
    parsed = parse_order_fields(request.fields("Alpaca_Main"))
    assert isinstance(parsed, ParsedOrder)
    assert request.fields("A") == request.fields("A")
    again = OrderRequest(
        symbol="AAPL", side="BUY", quantity=10, strategy_id="m", order_type="LIMIT", limit_price="190.05"
    )
    assert again.signal_id != request.signal_id
    assert replace(request, quantity=5).signal_id == request.signal_id
