"""An account whose calls are spent: orders wait in their sequence, up to their age limit, and the connection stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.base import Capabilities
from brokers.errors import HeldBack, RateLimited
from execution_service.core.orders.events import Accepted, NothingSent, SubmitStarted
from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import BY_HAND, world_of
from tests.service.audit import audit

RESERVING = Capabilities(needs_reservation=True, refuses_repeated_client_id=True)


def spent(wait_seconds: float) -> RateLimited:
    return RateLimited("the rate budget is spent", wait_seconds=wait_seconds)


async def test_orders_wait_in_their_sequence_and_the_connection_stays(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [spent(3.0), spent(3.0)]
        for n in range(4):
            world.send(f"sig-{n}")
        await world.run(2.5)
        assert {order.status for order in world.records()} == {Status.PENDING}
        await world.run(8)
        assert {order.status for order in world.records()} == {Status.FILLED}
        assert [order.ticket.client_order_id for order in world.placed()] == [
            world.client_id(f"sig-{n}") for n in range(4)
        ]
        assert len(world.calls("connect")) == 1
        audit(world)


async def test_waiting_for_calls_is_no_failure_however_often_it_happens(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [spent(1.0)] * 20
        world.send()
        await world.run(60)
        order = world.record()
        assert order.status is Status.FILLED
        assert [type(e) for e in order.events].count(NothingSent) == 20
        assert len(world.calls("connect")) == 1


async def test_an_order_that_has_to_wait_before_its_sending_leaves_no_trace_of_one(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=RESERVING) as world:
        world.broker_faults.errors["reserve"] = [spent(60.0)] * 5
        world.send()
        await world.run(24)
        assert world.record().events == ()
        await world.run(2)
        assert [type(e) for e in world.record().events[:2]] == [SubmitStarted, Accepted]
        audit(world)


async def test_an_order_that_may_leave_does_not_overtake_the_one_before_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=RESERVING) as world:
        world.broker_faults.errors["reserve"] = [spent(2.0)]
        for n in range(3):
            world.send(f"sig-{n}")
        await world.run(10)
        assert [order.ticket.client_order_id for order in world.placed()] == [
            world.client_id(f"sig-{n}") for n in range(3)
        ]
        audit(world)


async def test_an_order_grows_too_old_while_it_waits_for_calls(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=RESERVING) as world:
        world.broker_faults.errors["reserve"] = [spent(86_400.0)] * 200
        world.send()
        await world.run(310)
        reason = world.record().reason
        assert reason is not None
        assert reason.code is ReasonCode.STALE_ORDER
        assert not world.calls("place_order")
        audit(world)


@pytest.mark.parametrize("operation", ["reports", "find", "cancel_order"])
async def test_a_question_that_has_to_wait_costs_no_connection(tmp_path: Path, operation: str) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors[operation] = [spent(1.0)] * 4
        world.broker_faults.errors["place_order"] = [TimeoutError()]
        world.send("lost", symbol="MSFT", tif="DAY")
        world.cancel(signal_id="sig")
        await world.run(120)
        assert world.broker_faults.errors[operation] == []
        assert world.record().status is Status.CANCELLED
        assert world.record("lost").status is Status.SUBMITTED
        assert len(world.calls("connect")) == 1
        audit(world)


async def test_orders_of_an_instrument_that_is_not_to_be_had_are_held_and_the_others_go_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=RESERVING) as world:
        world.broker_faults.errors["reserve"] = [HeldBack("no instruments list", wait_seconds=5.0)] * 12
        world.send("held")
        await world.run(0.5)
        world.broker_faults.errors["reserve"] = []
        world.send("other", symbol="MSFT")
        await world.run(3)
        assert world.record("other").status is Status.FILLED
        world.broker_faults.errors["reserve"] = [HeldBack("no instruments list", wait_seconds=5.0)] * 12
        await world.run(55)
        assert world.record("held").events == ()
        assert len(world.calls("connect")) == 1
        (said,) = world.notifier.titled("Orders Held")
        assert "no instruments list" in said
        await world.run(20)
        assert world.record("held").status is Status.FILLED
        audit(world)
