"""What a person decides about an order in doubt: what is done with it, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities
from brokers.errors import BrokerUnavailable, OutcomeUnknown
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import DeclaredPlaced, Event, SendAgainOrdered
from execution_service.core.orders.status import Status
from execution_service.trading.trader import TradingRules
from tests.fakes import BY_HAND, World, two_worlds, world_of

TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)

LOST = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)


@pytest.mark.parametrize("decision", ["placed", "send-again"])
async def test_an_order_of_which_another_process_was_told_what_became_of_it_has_its_whole_time(
    tmp_path: Path, decision: str
) -> None:
    rules = TradingRules(order_timeout_seconds=60.0)
    unsure = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)
    async with two_worlds(tmp_path, market=BY_HAND, rules=rules, is_unique=False, capabilities=unsure) as (one, other):
        await other.start()
        one.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")]
        one.send("a")
        await one.run(50)
        assert one.record("a").status is Status.IN_DOUBT
        decided: Event = SendAgainOrdered(at=one.clock.now(), by="me", message="")
        if decision == "placed":
            decided = DeclaredPlaced(at=one.clock.now(), by="me", broker_order_id="b-7", message="")
        service: Any = other.service
        (stored,) = await service._store.load([one.record("a").order_id])
        after = await service.live_orders.record_for_holder(
            stored.order, lambda order: (decided,) if order.status is Status.IN_DOUBT else ()
        )
        await service.ownership.leave_to_holder(after)
        await one.run(50)
        assert one.record("a").status is Status.SUBMITTED
        assert one.record("a").cancel_request is None
        await one.run(30)
        assert one.record("a").cancel_request is not None


async def in_doubt(world: World) -> None:
    world.send()
    await world.run(10)
    assert world.record().status is Status.IN_DOUBT


def resolve(world: World, choice: str, command_id: str = "cmd-1", **fields: Any) -> None:
    """As execctl does it."""
    body = {"order_id": world.record().order_id, "decision": choice, "by": "ann", "note": "looked"} | fields
    world.mongo["trading"]["execution_commands"].insert_one(
        {
            "_id": command_id,
            "kind": "RESOLVE",
            "body": body,
            "published_at": world.clock.now(),
            "received_at": world.clock.now(),
            "status": "NEW",
            "outcome": "",
            "active_until": None,
        }
    )


@pytest.mark.parametrize(("decision", "end"), [("not-placed", Status.REJECTED), ("cancelled", Status.CANCELLED)])
async def test_a_person_ends_an_order_in_doubt(tmp_path: Path, decision: str, end: Status) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST]) as world:
        await in_doubt(world)
        resolve(world, decision)
        await world.run(3)
        assert world.record().status is end
        assert world.publisher.statuses("sig") == ["IN_DOUBT", end]
        assert world.documents("execution_commands", _id="cmd-1")[0]["status"] == "DONE"


async def test_a_person_has_an_order_sent_again_under_a_new_tag(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST]) as world:
        await in_doubt(world)
        resolve(world, "send-again")
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert [p.ticket.client_order_id for p in world.placed()] == [world.client_id("sig", attempt=2)]


async def test_people_hear_of_an_order_that_was_perhaps_sent_again_to_a_broker_that_cannot_be_asked(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False) as world:
        for attempt in (1, 2):
            world.broker_faults.errors = {"place_order": [OutcomeUnknown("lost")], "find": [TimeoutError()] * 50}
            if attempt == 1:
                world.send()
            else:
                resolve(world, "send-again")
                await world.run(1.5)
            await world.settle()
            world.broker_faults.unavailable = BrokerUnavailable("gone")
            await world.run(120)
            assert world.record().status is Status.SUBMITTING
            assert world.record().attempt == attempt
            assert len([text for text in world.notifier.texts if "cannot be asked" in text]) == attempt
            world.broker_faults.unavailable, world.broker_faults.errors = None, {}
            await world.run(90)
            assert world.record().status is Status.IN_DOUBT


async def test_an_order_is_not_sent_again_by_a_person_while_its_first_sending_is_under_way(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, market=BY_HAND) as world:
        hold = world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        world.send()
        await world.run(2)
        assert world.record().status is Status.SUBMITTING
        resolve(world, "send-again")
        await world.run(3)
        (command,) = world.documents("execution_commands", _id="cmd-1")
        assert (command["status"], "SUBMITTING" in command["outcome"]) == ("REFUSED", True)
        hold.set()
        await world.run(10)
        assert len(world.placed()) == 1
        assert world.record().status is Status.SUBMITTED


async def test_a_decision_to_send_again_is_not_carried_out_twice_when_it_is_delivered_twice(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST], market=BY_HAND) as world:
        await in_doubt(world)
        hold = world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        resolve(world, "send-again")
        await world.run(2)
        assert world.record().status is Status.SUBMITTING
        # Died before the command was marked as done, with the second sending under way.
        world.mongo["trading"]["execution_commands"].update_one({"_id": "cmd-1"}, {"$set": {"status": "NEW"}})
        world.broker_faults.holds_answer.clear()
        await world.restart()
        await world.run(10)
        assert len(world.placed()) == 1
        assert world.record().attempt == 2
        assert world.record().status is Status.SUBMITTED
        assert world.documents("execution_commands", _id="cmd-1")[0]["status"] == "DONE"
        hold.set()


async def test_a_person_names_the_order_that_was_placed_after_all(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST]) as world:
        await in_doubt(world)
        resolve(world, "placed", broker_order_id="B-77")
        await world.run(3)
        assert world.record().broker_order_id == "B-77"
        assert world.record().status is Status.SUBMITTED


async def test_a_person_cannot_name_the_order_of_another_of_our_orders(tmp_path: Path) -> None:
    """Its time-out, or a cancel, would end that other order."""
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST], market=BY_HAND) as world:
        await in_doubt(world)
        world.send("other")
        await world.run(3)
        other = world.record("other")
        assert other.status is Status.SUBMITTED
        resolve(world, "placed", broker_order_id=other.broker_order_id)
        await world.run(3)
        (command,) = world.documents("execution_commands", _id="cmd-1")
        assert command["status"] == "REFUSED"
        assert other.order_id in command["outcome"]
        assert world.record().status is Status.IN_DOUBT
        world.cancel(signal_id="sig")
        await world.run(5)
        assert world.record("other").status is Status.SUBMITTED


@pytest.mark.parametrize("body", [{"decision": "guess"}, {"order_id": "nobody"}, {"order_id": None, "by": None}])
async def test_a_decision_that_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST]) as world:
        await in_doubt(world)
        resolve(world, "not-placed", **body)
        await world.run(3)
        assert world.documents("execution_commands", _id="cmd-1")[0]["status"] == "REFUSED"
        assert world.record().status is Status.IN_DOUBT


async def test_a_lane_goes_on_when_a_person_ended_the_order_that_held_it_up(tmp_path: Path) -> None:
    """SUBMITTING holds up its instrument; nobody but the person knows that it is over."""
    lasting = Capabilities(refuses_repeated_client_id=False, find_window_seconds=10_000.0)
    async with world_of(tmp_path, capabilities=lasting, is_unique=False, faults=[LOST]) as world:
        world.send()
        await world.run(3)
        world.send("next")
        await world.run(3)
        assert world.record("next").status is Status.PENDING
        resolve(world, "not-placed")
        await world.run(3)
        assert world.record().status is Status.REJECTED
        assert world.record("next").status is Status.FILLED
