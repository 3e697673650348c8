"""Which orders a cancel means, from values alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.status import Reason, ReasonCode
from tests.builders import identity, order

MOMENT = datetime(2026, 11, 22, 10, 0, 0, 123_000, tzinfo=UTC)


def cancel(*, order_id: str | None = None, signal_id: str | None = None, leg_index: int | None = None) -> Cancel:
    return Cancel(
        command_id="msg-1",
        order_id=order_id,
        signal_id=signal_id,
        leg_index=leg_index,
        reason=Reason(ReasonCode.CANCEL_REQUESTED, "changed my mind"),
        requested_by="Ann",
        published_at=MOMENT,
        received_at=MOMENT,
        is_message=True,
    )


def test_times_of_one_millisecond_are_the_same_moment() -> None:
    """A command that was read from the store has whole milliseconds only."""
    of_signal = cancel(signal_id="sig")
    assert not of_signal.spares(order(published_at=MOMENT + timedelta(microseconds=900)))
    assert of_signal.spares(order(published_at=MOMENT + timedelta(milliseconds=1)))


def test_a_cancel_of_one_order_spares_it_at_no_time() -> None:
    assert not cancel(order_id="sig_ORD").spares(order(published_at=MOMENT + timedelta(hours=1)))


@pytest.mark.parametrize(("leg_index", "legs"), [(None, [0, 1]), (1, [1])])
def test_a_leg_is_meant_alone_where_it_is_named(leg_index: int | None, legs: list[int]) -> None:
    orders = [order(of=identity(leg_index=leg)) for leg in (0, 1)]
    meant = cancel(signal_id=orders[0].signal_id, leg_index=leg_index).meant_of(orders)
    assert [each.identity.leg_index for each in meant] == legs


def test_upstreams_id_counts_before_ours() -> None:
    ours = order()
    namesake = order(of=identity(signal_id="other"), request_order_id=ours.order_id)
    assert cancel(order_id=ours.order_id).meant_of([ours, namesake]) == [namesake]
    assert cancel(order_id=ours.order_id).meant_of([ours]) == [ours]
