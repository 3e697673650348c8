"""The outside safety service in the path of an order: what it stops, what is not known, what passes nevertheless, and what people are told."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.limits import LimitSet, Scope, combined
from execution_service.core.risk.safety import Policy
from tests.core.risk_cases import written
from tests.fakes import World, world_of
from tests.fakes.safety import ARMED, TRIPPED, FakeSafetyService

UNKNOWN = "the state of the safety service is not known: "


def refused_for(world: World, signal_id: str) -> str:
    """Why, of an order that the safety service stopped."""
    order = world.record(signal_id)
    assert order.status is Status.REJECTED
    assert order.reason is not None
    assert order.reason.code is ReasonCode.SAFETY_SERVICE
    return order.reason.message


def titles(world: World) -> list[str]:
    return [text.split("\n")[0] for _, text in world.notifier.sent if "Safety Service" in text]


async def test_orders_pass_while_it_is_armed(tmp_path: Path) -> None:
    async with world_of(tmp_path, safety=FakeSafetyService(ARMED)) as world:
        world.send()
        await world.run(3)
        assert world.record().status is Status.FILLED
        assert titles(world) == []


async def test_a_stop_refuses_new_risk_and_lets_exits_leave(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        world.send()
        await world.run(3)
        safety.said = TRIPPED
        await world.run(3)
        world.send("more")
        world.exit("out", "sig")
        await world.run(3)
        assert "the safety service says TRIPPED: daily drawdown" in refused_for(world, "more")
        assert world.exit_record("out").status is Status.FILLED


@pytest.mark.parametrize(
    "said",
    [
        b"<html>",
        {"error": "ESS not initialized", "healthy": False},
        {"state": "PANIC"},
        {"state": "ARMED", "can_execute": False},
    ],
)
async def test_an_unclear_answer_is_unknown_at_once_and_exits_leave(tmp_path: Path, said: bytes) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        world.send()
        await world.run(3)
        safety.said = said
        await world.run(2.5)
        world.send("more")
        world.exit("out", "sig")
        await world.run(3)
        assert UNKNOWN in refused_for(world, "more")
        assert world.exit_record("out").status is Status.FILLED


async def test_an_answer_counts_five_seconds_and_no_longer(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        safety.is_away = True
        await world.run(4)
        world.send("within")
        await world.run(2)
        world.send("after")
        await world.run(1)
        assert world.record("within").status is Status.FILLED
        assert UNKNOWN + "connection refused" in refused_for(world, "after")


async def test_a_service_that_was_never_reached_is_unknown(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    safety.is_away = True
    async with world_of(tmp_path, safety=safety) as world:
        world.send()
        await world.run(1)
        assert UNKNOWN in refused_for(world, "sig")


async def test_orders_that_wait_for_the_start_are_not_refused_for_a_question_that_was_not_asked_yet(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, safety=FakeSafetyService()) as world:
        await world.kill()
        world.send()
        await world.start()
        await world.run(1)
        assert world.record().status is Status.FILLED


async def test_unknown_is_said_once_and_once_when_it_is_known_again(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        safety.is_away = True
        await world.run(120)
        assert titles(world) == ["❓ Safety Service Unknown"]
        safety.is_away = False
        await world.run(120)
        assert titles(world) == ["❓ Safety Service Unknown", "✅ Safety Service Lets Trade"]
        world.send()
        await world.run(1)
        assert world.record().status is Status.FILLED


async def test_a_stop_is_said_with_its_reason(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        safety.said = TRIPPED
        await world.run(60)
        assert titles(world) == ["🛑 Safety Service Stops Trading"]
        assert "daily drawdown" in world.notifier.sent[-1][1]


# --- failing open -----------------------------------------------------------------------------------------------------


async def test_failing_open_lets_pass_what_is_not_known_and_says_so(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    safety.is_away = True
    async with world_of(tmp_path, safety=safety, is_safety_fail_open=True) as world:
        world.send()
        await world.run(3)
        assert world.record().status is Status.FILLED
        assert "ESS_FAIL_OPEN" in world.notifier.sent[0][1]


async def test_failing_open_ends_no_stop(tmp_path: Path) -> None:
    safety = FakeSafetyService(TRIPPED)
    async with world_of(tmp_path, safety=safety, is_safety_fail_open=True) as world:
        safety.is_away = True
        await world.run(60)
        world.send()
        await world.run(3)
        assert "TRIPPED" in refused_for(world, "sig")


# --- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", ["ess.tripped", "ess.state.changed", "policy.updated", "policy.mode.changed"])
async def test_a_hint_has_it_asked_at_once(tmp_path: Path, event_type: str) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        asked = safety.questions
        world.event(event_type, {"reason": "whatever", "new_state": "ARMED"})
        await world.run(0.1)
        assert safety.questions == asked + 1


async def test_a_hint_ends_no_stop_and_makes_none(tmp_path: Path) -> None:
    safety = FakeSafetyService(TRIPPED)
    async with world_of(tmp_path, safety=safety) as world:
        world.event("ess.rearmed", {"reason": "done", "new_state": "ARMED"})
        await world.run(0.1)
        world.send("one")
        await world.run(0.1)
        refused_for(world, "one")
        safety.said = ARMED
        world.event("ess.tripped", {"reason": "made up"})
        await world.run(0.1)
        world.send("other")
        await world.run(1)
        assert world.record("other").status is Status.FILLED


async def test_after_a_hint_an_old_answer_counts_no_more_where_none_comes(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        safety.is_away = True
        world.event("ess.tripped", {"reason": "daily drawdown"})
        await world.run(0.1)
        world.send()
        await world.run(1)
        assert UNKNOWN in refused_for(world, "sig")


async def test_a_promoted_model_is_recorded_and_asks_nothing(tmp_path: Path) -> None:
    safety = FakeSafetyService()
    async with world_of(tmp_path, safety=safety) as world:
        asked = safety.questions
        world.event("model.promoted", {"new_version": "7"})
        await world.run(0.1)
        assert safety.questions == asked


# --- policies ---------------------------------------------------------------------------------------------------------


async def test_a_policy_tightens_limits_of_ours_until_it_is_taken_back(tmp_path: Path) -> None:
    safety = FakeSafetyService(policies={"policies": {"execution.max_sl_distance_pct": 0.1}, "count": 1})
    async with world_of(tmp_path, safety=safety) as world:
        world.send("far", order_type="LIMIT", limit_price=10, stop_loss=8)
        world.send("near", order_type="LIMIT", limit_price=10, stop_loss=9.5)
        await world.run(2)
        far = world.record("far")
        assert far.reason is not None
        assert "the stop 8 is 20 per cent" in far.reason.message
        assert world.record("near").status is not Status.REJECTED
        safety.said_policies = {"policies": {}, "count": 0}
        await world.run(3)
        world.send("again", order_type="LIMIT", limit_price=10, stop_loss=8)
        await world.run(2)
        assert world.record("again").status is not Status.REJECTED


async def test_a_policy_never_loosens(tmp_path: Path) -> None:
    safety = FakeSafetyService(policies={"execution.max_sl_distance_pct": 0.5})
    async with world_of(tmp_path, safety=safety, limits=written(max_stop_distance_pct=10)) as world:
        world.send(order_type="LIMIT", limit_price=10, stop_loss=8)
        await world.run(2)
        assert world.record().status is Status.REJECTED


async def test_a_senseless_policy_is_unknown_and_what_was_known_stays_in_force(tmp_path: Path) -> None:
    safety = FakeSafetyService(policies={"execution.max_sl_distance_pct": 0.1})
    async with world_of(tmp_path, safety=safety) as world:
        safety.said_policies = {"execution.max_sl_distance_pct": 10}
        await world.run(3)
        world.send()
        await world.run(2)
        assert "policy execution.max_sl_distance_pct is 10" in refused_for(world, "sig")
        assert world.risk_rules.limits.tables[Scope()].max_stop_distance_pct == Decimal(10)


async def test_limits_of_the_file_that_are_read_again_are_tightened_too(tmp_path: Path) -> None:
    safety = FakeSafetyService(policies={"rl.max_leverage": 2})
    async with world_of(tmp_path, safety=safety) as world:
        world.risk_rules.limits = combined([(Scope(), LimitSet(max_leverage=Decimal(9)))])
        assert world.risk_rules.limits.tables[Scope()].max_leverage == Decimal(2)
        assert world.risk_rules.written.tables[Scope()].max_leverage == Decimal(9)


# --- in the middle of an order ----------------------------------------------------------------------------------------


class StopsMeanwhile:
    """Lets pass until an order's intent is durable, and nothing from then on."""

    policies: tuple[Policy, ...] = ()

    def __init__(self, world: World) -> None:
        self._world = world
        self._stops = False

    def reasons(self) -> tuple[str, ...]:
        documents = self._world.documents("execution_orders")
        self._stops = self._stops or any(document["status"] == "SUBMITTING" for document in documents)
        return ("the safety service says TRIPPED",) if self._stops else ()


async def test_a_stop_between_the_intent_and_the_sending_keeps_the_order_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.risk_rules.safety = StopsMeanwhile(world)
        world.send()
        await world.run(5)
        assert "TRIPPED" in refused_for(world, "sig")
        assert world.placed() == []


async def test_a_least_confidence_is_compared_with_what_the_signal_says(tmp_path: Path) -> None:
    safety = FakeSafetyService(policies={"rl.min_confidence": 0.75})
    async with world_of(tmp_path, safety=safety) as world:
        world.send("sure", confidence=0.8)
        world.send("unsure", confidence=0.7)
        world.send("silent")
        await world.run(3)
        assert world.record("sure").status is Status.FILLED
        assert world.record("unsure").status is Status.REJECTED
        assert world.record("silent").status is Status.REJECTED
