"""What a stop and a target that the broker links may still fill together, and beside which stop a target may be placed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from brokers.base import Side
from execution_service.core.orders.events import Triggered
from execution_service.core.orders.exits import linked_stop_id, may_stand_beside, without_linked
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import Protective, ProtectiveRole
from execution_service.core.orders.request import Purpose
from tests.builders import NOW, accepted, cancelled, filled_by, identity, order, submit_started

SENT = (submit_started(),)
WORKING = (*SENT, accepted())


def protective(role: ProtectiveRole, events: Any = WORKING, *, is_linked: bool = True) -> Order:
    made = Protective(entry_order_id="ord_e", role=role, piece=1, is_linked=is_linked)
    of = identity(made.signal_id, purpose=Purpose.EXIT)
    return order(of=of, events=events, side=Side.SELL, entry_refs=("entry",), protective=made, quantity=100)


def stop(*events: Any) -> Order:
    return protective(ProtectiveRole.STOP, events or WORKING)


def target(*events: Any) -> Order:
    return protective(ProtectiveRole.TARGET, events or WORKING)


@pytest.mark.parametrize(
    ("stop_filled", "target_filled", "left"),
    [(0, 0, 100), (0, 40, 60), (30, 0, 100), (30, 40, 60), (30, 90, 10)],
)
def test_what_a_stop_has_filled_is_not_taken_for_taken_off_its_target(
    stop_filled: int, target_filled: int, left: int
) -> None:
    fills = [(filled_by(f"f{number}", number),) if number else () for number in (stop_filled, target_filled)]
    pair = [stop(*WORKING, *fills[0]), target(*WORKING, *fills[1])]
    assert [each.remaining_quantity for each in without_linked(pair)] == [Decimal(left)]


def test_only_a_linked_target_has_a_stop_beside_it() -> None:
    assert linked_stop_id(target()) == stop().order_id
    assert linked_stop_id(stop()) is None
    assert linked_stop_id(protective(ProtectiveRole.TARGET, is_linked=False)) is None


def test_a_target_may_stand_beside_a_stop_that_works_and_has_not_begun_to_fill() -> None:
    assert may_stand_beside(stop())
    triggered = Triggered(at=NOW, message="it was triggered")
    for events in (SENT, (*WORKING, filled_by("f1", 30)), (*WORKING, triggered), (*WORKING, cancelled(0))):
        assert not may_stand_beside(stop(*events))
