"""Ids that the broker gives beforehand and takes in their sequence only: who waits for whom, and what an id that was passed over means."""

from __future__ import annotations

import asyncio
from pathlib import Path

from brokers.errors import OrderAlreadyExists, OrderRefused, RateLimited, ReservationLost
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import SubmitStarted
from execution_service.core.orders.status import Status
from tests.fakes import BY_HAND, IN_SEQUENCE, World, world_of
from tests.service.audit import audit


def reserved(world: World, signal_id: str) -> list[str | None]:
    return [e.reserved_order_id for e in world.record(signal_id).events if isinstance(e, SubmitStarted)]


def hidden_for(seconds: float) -> list[Fault]:
    return [
        Fault(operation=operation, action=Action.HIDE, seconds=seconds)
        for operation in (Operation.REPORTS, Operation.FIND)
    ]


async def test_an_order_whose_request_was_lost_leaves_again_before_any_later_id(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.send("other", symbol="NVDA")
        await world.run(5)
        assert [world.record(each).status for each in ("lost", "other")] == [Status.FILLED] * 2
        assert [each.ticket.client_order_id for each in world.placed()] == [
            world.client_id("lost"),
            world.client_id("other"),
        ]
        assert len(world.calls("connect")) == 1


async def test_an_order_whose_sending_the_process_did_not_survive_leaves_before_any_later_id(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send("lost")
        await world.run(1)
        world.broker_faults.holds.clear()
        world.send("other", symbol="NVDA")
        await world.restart()
        await world.run(8)
        assert [world.record(each).status for each in ("lost", "other")] == [Status.FILLED] * 2
        assert reserved(world, "lost") == ["R-1"]
        assert reserved(world, "other") == ["R-2"]
        audit(world)


async def test_an_id_that_an_order_was_perhaps_sent_under_is_given_to_no_other(tmp_path: Path) -> None:
    """The lost order is not sent again, since it is to be cancelled; nothing waits for it then."""
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send("lost")
        await world.run(1)
        world.broker_faults.holds.clear()
        world.cancel(signal_id="lost")
        await world.run(1)
        world.send("other", symbol="NVDA")
        await world.restart()
        await world.run(1)
        assert world.record("other").status is Status.FILLED
        assert reserved(world, "other") == ["R-2"]
        await world.run(15)
        assert world.record("lost").status is Status.IN_DOUBT


async def test_an_order_whose_id_was_passed_over_is_in_doubt_and_harms_no_other(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.reservations.pass_over()
        world.send("other", symbol="NVDA")
        await world.run(5)
        assert world.record("other").status is Status.FILLED
        assert world.record("lost").status is Status.SUBMITTING
        await world.run(10)
        assert world.record("lost").status is Status.IN_DOUBT
        assert len(world.calls("connect")) == 1
        assert len(world.notifier.titled("In Doubt")) == 1
        audit(world)


async def test_an_order_that_shows_up_though_its_id_was_passed_over_goes_on(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        *hidden_for(5),
    ]
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=faults) as world:
        world.send()
        await world.run(0.5)
        world.reservations.pass_over()
        await world.run(4)
        assert len(world.calls("place_order")) == 2
        assert world.record().status is Status.SUBMITTING
        await world.run(8)
        assert world.record().status is Status.FILLED
        assert not world.notifier.titled("In Doubt")


async def test_an_id_passed_over_before_the_first_sending_is_replaced(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [ReservationLost("R-1 was passed over by a later one")]
        world.send()
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert reserved(world, "sig") == ["R-1", "R-2"]
        assert len(world.calls("connect")) == 1


async def test_nobody_waits_for_an_order_that_was_sent_again_and_again_without_a_clear_answer(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT, times=3)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.send("other", symbol="NVDA")
        await world.run(2.5)
        assert world.record("other").status is Status.PENDING
        await world.run(4)
        assert world.record("other").status is Status.FILLED
        await world.run(20)
        assert world.record("lost").status is Status.IN_DOUBT


async def test_nobody_waits_for_an_order_that_may_not_leave_again_because_the_calls_are_spent(tmp_path: Path) -> None:
    """Others may leave meanwhile: a part of the calls is kept for exits."""
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.broker_faults.errors["place_order"] = [RateLimited("spent", wait_seconds=3600)] * 2
        world.send("other", symbol="NVDA")
        await world.run(10)
        assert world.record("other").status is Status.FILLED
        await world.run(20)
        assert world.record("lost").status is Status.IN_DOUBT
        assert len(world.notifier.titled("In Doubt")) == 1


async def test_an_order_that_the_broker_says_it_has_and_never_shows_is_in_doubt_after_the_find_window(
    tmp_path: Path,
) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.broker_faults.errors["place_order"] = [OrderAlreadyExists("that id was used before")]
        await world.run(8)
        assert world.record("lost").status is Status.SUBMITTING
        await world.run(10)
        assert world.record("lost").status is Status.IN_DOUBT
        assert len(world.calls("place_order")) == 2
        assert len(world.notifier.titled("In Doubt")) == 1


async def test_a_repetition_that_is_refused_does_not_end_an_order_that_had_arrived(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        *hidden_for(3),
    ]
    async with world_of(tmp_path, market=BY_HAND, capabilities=IN_SEQUENCE, faults=faults) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["place_order"] = [OrderRefused("cannot be changed")]
        hold = world.broker_faults.holds["place_order"] = asyncio.Event()
        await world.run(4)
        assert len(world.calls("place_order")) == 2
        hold.set()
        await world.run(1)
        assert world.record().status is Status.SUBMITTED
