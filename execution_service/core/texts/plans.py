"""What people are told of plans of target positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from execution_service.core.planning.progress import Progress
from execution_service.core.planning.records import PlanRecord, RoundKind
from execution_service.core.planning.rounds import ended, reasons_not_reached
from execution_service.core.planning.stances import StanceChange
from execution_service.core.planning.targets import Aggressiveness, Refusal, TargetPositions
from execution_service.core.texts.messages import html_message
from execution_service.core.texts.values import quantity

MOST_SHOWN = 10


def plan_ended(record: PlanRecord, rounds: Sequence[Progress]) -> str:
    """It has ended, and its targets are not all reached."""
    targets, end = record.first_plan.targets, ended(record, rounds)
    missing = [f"{key}: {quantity(left)}" for key, left in end.residuals.items()]
    facts = [
        ("Account", targets.account_id),
        ("Strategy", targets.strategy_id),
        ("Decision", targets.decision_id),
        ("State", end.state.value),
        ("Missing", _some(missing)),
        ("Why", _some(reasons_not_reached(record, rounds))),
    ]
    retries = sum(each.kind is RoundKind.RETRY for each in record.rounds)
    if retries:
        facts.append(("Tried again", f"{retries} times" if retries > 1 else "once"))
    if end.is_unwound is not None:
        facts.append(("Unwound", "what had filled is traded back" if end.is_unwound else "not to the end: look at it"))
    return html_message("📉 Plan Ended Short", *facts)


def plan_refused(targets: TargetPositions, refusals: Iterable[Refusal]) -> str:
    """Nothing was planned or placed."""
    return html_message(
        "🚫 Plan Refused",
        ("Account", targets.account_id),
        ("Strategy", targets.strategy_id),
        ("Decision", targets.decision_id),
        ("Reasons", _some([f"{each.code.value}: {each.message}" for each in refusals])),
        ("Placed", "nothing"),
    )


def stance_set(scope: str, change: StanceChange) -> str:
    """Whoever carries out plans there goes by it from now on."""
    is_emergency = change.stance is Aggressiveness.EMERGENCY
    until = "until somebody says otherwise" if change.until is None else f"until {change.until:%Y-%m-%d %H:%M:%S} UTC"
    means = "reductions only; working entries are cancelled" if is_emergency else "see docs/planning.md"
    return html_message(
        f"{'🚨' if is_emergency else '🎚'} Stance {change.stance.value}",
        ("Scope", scope),
        ("By", change.by or "nobody named"),
        ("Reason", change.reason or "none given"),
        ("Holds", until),
        ("Means", means),
    )


def stance_refused(*, command_id: str, reason: str) -> str:
    """An EMERGENCY was asked for, and is not set."""
    return html_message(
        "🚨 Stance Not Set",
        ("Stance", Aggressiveness.EMERGENCY.value),
        ("Command", command_id),
        ("Reason", reason),
        ("Orders", "they go on as before"),
        ("To do", "execctl stance all EMERGENCY --by ... --reason ..., if it is still meant"),
    )


def plan_waits_for_broker(targets: TargetPositions, why: str) -> str:
    """Nothing more of the plan is sent meanwhile."""
    return html_message(
        "⏳ Plan Waits",
        ("Account", targets.account_id),
        ("Strategy", targets.strategy_id),
        ("Decision", targets.decision_id),
        ("Why", why),
        ("Until", "it goes on" if targets.valid_until is None else f"{targets.valid_until:%Y-%m-%d %H:%M:%S} UTC"),
    )


def plan_set_aside(*, plan_id: str, reason: str) -> str:
    """Something of the plan cannot be worked; it is tried again."""
    return html_message("⚠️ Plan Cannot Be Worked", ("Plan", plan_id), ("Reason", reason), ("Now", "it is tried again"))


def _some(lines: list[str]) -> str:
    more = "" if len(lines) <= MOST_SHOWN else f"; and {len(lines) - MOST_SHOWN} more"
    return "; ".join(lines[:MOST_SHOWN]) + more
