"""VERIFY_DECISIONS: an order whose decision does not exist is told of or refused; what cannot be told refuses nothing, and exits always leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import ExecutionTimeout, OperationFailure

from execution_service.core.orders.decisions import VerifyDecisions
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from tests.fakes import DATABASE, World, world_of
from tests.service.audit import audit

LOOKED_UP = "pipeline_decisions.find"
OFF, WARN, REFUSE = VerifyDecisions


def decide(world: World, **document: Any) -> None:
    world.mongo[DATABASE]["pipeline_decisions"].insert_many([document])


async def test_nobody_asks_unless_told_to(tmp_path: Path) -> None:
    async with world_of(tmp_path, verify_decisions=OFF) as world:
        world.send(decision_id="nobody's")
        await world.run(2)
        assert world.record().status is Status.FILLED
        assert not world.store_faults.reads[LOOKED_UP]


async def test_an_order_whose_decision_does_not_exist_is_refused_before_the_broker_hears_of_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, verify_decisions=REFUSE) as world:
        decide(world, _id="x", decision_id="d-1")
        world.send(decision_id="d-2")
        await world.run(2)
        order = world.record()
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert (order.reason.code, order.reason.message) == (
            "UNKNOWN_DECISION",
            "decision d-2 is not in pipeline_decisions",
        )
        assert not world.placed()
        assert [body["reason"]["code"] for body in world.publisher.of("sig")] == ["UNKNOWN_DECISION"]
        audit(world)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"_id": "d-1"}, "d-1"),
        ({"_id": 1, "decision_id": "d-1"}, "d-1"),
        ({"_id": ObjectId("0123456789abcdef01234567")}, "0123456789abcdef01234567"),
        ({"_id": 17}, 17),
        ({"_id": "x", "decision_id": 17}, "17"),
        ({"_id": "x", "decision_id": ["d-1", "d-2", {"d": 3}]}, "d-1"),
    ],
)
async def test_a_decision_is_known_by_its_id_however_it_is_kept(
    tmp_path: Path, document: dict[str, Any], named: object
) -> None:
    async with world_of(tmp_path, verify_decisions=REFUSE) as world:
        decide(world, **document)
        world.send(decision_id=named)
        await world.run(2)
        assert world.record().status is Status.FILLED


async def test_an_order_that_names_no_decision_goes_on_and_one_whose_decision_cannot_be_read_does_not(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, verify_decisions=REFUSE) as world:
        world.send("plain")
        world.send("wrong", decision_id=["d-1"], symbol="MSFT")
        await world.run(2)
        assert [world.record(name).status for name in ("plain", "wrong")] == [Status.FILLED, Status.REJECTED]


@pytest.mark.parametrize("verify", [WARN, REFUSE])
async def test_an_exit_goes_on_and_people_are_told(tmp_path: Path, verify: VerifyDecisions) -> None:
    async with world_of(tmp_path, verify_decisions=verify) as world:
        decide(world, _id="d-1")
        world.send(decision_id="d-1")
        world.exit("out", "sig", decision_id="d-2")
        await world.run(3)
        assert world.record("out", Purpose.EXIT).status is Status.FILLED
        assert len(world.notifier.titled("Unknown Decision")) == 1


async def test_a_warning_comes_once_for_each_decision_and_the_orders_go_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, verify_decisions=WARN) as world:
        for number in range(4):
            world.send(f"s{number}", symbol=f"S{number}", decision_id=f"d-{number % 2}")
            await world.run(1)
        await world.restart()
        world.send("s4", symbol="S4", decision_id="d-0")
        await world.run(120)
        assert {order.status for order in world.records()} == {Status.FILLED}
        assert len(world.notifier.titled("Unknown Decision")) == 2


async def test_a_decision_that_comes_later_is_known_then_and_one_that_is_known_is_not_asked_for_again(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, verify_decisions=REFUSE) as world:
        world.send("early", decision_id="d-1")
        await world.run(1)
        decide(world, _id="d-1")
        world.send("late", decision_id="d-1", symbol="MSFT")
        await world.run(1)
        asked = world.store_faults.reads[LOOKED_UP]
        world.send("later", decision_id="d-1", symbol="IBM")
        await world.run(1)
        assert world.store_faults.reads[LOOKED_UP] == asked
        found = [world.record(name).status for name in ("early", "late", "later")]
        assert found == [Status.REJECTED, Status.FILLED, Status.FILLED]


UNANSWERED = (ExecutionTimeout("too long"), OperationFailure("not allowed", code=13))


@pytest.mark.parametrize("error", UNANSWERED)
async def test_what_cannot_be_told_refuses_nothing(tmp_path: Path, error: Exception) -> None:
    async with world_of(tmp_path, verify_decisions=REFUSE) as world:
        decide(world, _id="d-1")
        world.store_faults.breaks[LOOKED_UP] = [error] * 3
        world.send("entry", decision_id="d-1")
        world.send("unknown", decision_id="d-2", symbol="IBM")
        world.send("plain", symbol="MSFT")
        await world.run(0.5)
        assert [order.signal_id for order in world.records()] == ["plain"], "it is placed, the others wait"
        await world.run(30)
        found = [world.record(name).status for name in ("entry", "unknown", "plain")]
        assert found == [Status.FILLED, Status.REJECTED, Status.FILLED]
        audit(world)


async def test_an_entry_waits_as_long_as_it_cannot_be_told_and_exits_leave_meanwhile(tmp_path: Path) -> None:
    async with world_of(tmp_path, verify_decisions=REFUSE) as world:
        world.send()
        await world.run(2)
        world.store_faults.breaks[LOOKED_UP] = [ExecutionTimeout("too long")] * 1000
        world.send("entry", decision_id="d-1", symbol="MSFT")
        world.exit("out", "sig", decision_id="d-1")
        await world.run(20)
        assert world.record("out", Purpose.EXIT).status is Status.FILLED
        assert len(world.records()) == 2
        world.store_faults.breaks.clear()
        decide(world, _id="d-1")
        await world.run(90)
        assert world.record("entry").status is Status.FILLED


async def test_with_warnings_what_cannot_be_told_holds_nothing_up(tmp_path: Path) -> None:
    async with world_of(tmp_path, verify_decisions=WARN) as world:
        world.store_faults.breaks[LOOKED_UP] = [ExecutionTimeout("too long")] * 1000
        world.send(decision_id="d-1")
        await world.run(2)
        assert world.record().status is Status.FILLED
        assert not world.notifier.titled("Unknown Decision")
