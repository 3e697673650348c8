"""What the records of orders say of a position's protection."""

from __future__ import annotations

from brokers.base import Side
from execution_service.core.orders.order import Order
from execution_service.core.positions.position import Position
from execution_service.core.protection.orders import are_all_that_traded
from tests.builders import accepted, amount, at, busted, filled_by, identity, instrument, order, submit_started

POSITION = Position(quantity=amount(100), opened_at=at(5), order_ids=("B-1", "B-2"), order_count=2)
ENTRY = order(of=identity("in"), events=[submit_started(), accepted("B-0")])


def traded(name: str, broker_order_id: str, *more: object, symbol: str = "AAPL", strategy: str = "momentum") -> Order:
    events = [submit_started(), accepted(broker_order_id), filled_by(f"{name}-1", 50, time=at(6)), *more]
    return order(
        of=identity(name),
        side=Side.BUY,
        instrument=instrument(symbol),
        strategy=strategy,
        events=events,  # type: ignore[arg-type]
    )


ONE, OTHER = traded("one", "B-1"), traded("other", "B-2")


def test_the_orders_that_a_position_names_are_all_that_traded_in_it() -> None:
    assert are_all_that_traded([ONE, OTHER], ENTRY, POSITION)
    assert not are_all_that_traded([ONE], ENTRY, POSITION)


def test_of_the_legs_of_one_order_at_the_broker_another_contracts_stands_for_none() -> None:
    sibling = traded("leg", "B-1", symbol="MSFT")
    assert not are_all_that_traded([ONE, sibling], ENTRY, POSITION)
    assert not are_all_that_traded([sibling, OTHER], ENTRY, POSITION)
    assert not are_all_that_traded([traded("one", "B-1", strategy="other"), OTHER], ENTRY, POSITION)


def test_an_annulled_execution_of_one_of_them_leaves_it_open() -> None:
    assert not are_all_that_traded([ONE, traded("other", "B-2", busted("other-1"))], ENTRY, POSITION)
    assert are_all_that_traded([ONE, OTHER, traded("leg", "B-1", busted("leg-1"), symbol="MSFT")], ENTRY, POSITION)


def test_an_order_that_was_booked_before_the_broker_named_it_is_one() -> None:
    both = Position(quantity=amount(100), opened_at=at(5), order_ids=(ONE.order_id, "B-1"), order_count=2)
    assert are_all_that_traded([ONE], ENTRY, both)
