"""What people are told of plans of target positions."""

from __future__ import annotations

from collections.abc import Iterable

from execution_service.core.planning.plan import LegState
from execution_service.core.planning.progress import Progress
from execution_service.core.planning.targets import Refusal, TargetPositions
from execution_service.core.texts.messages import html_message
from execution_service.core.texts.values import quantity

MOST_SHOWN = 10


def plan_ended(at: Progress) -> str:
    """It has ended, and its targets are not all reached."""
    targets = at.plan.targets
    missing = [f"{key}: {quantity(left)}" for key, left in at.residuals.items()]
    why = [
        f"{leg.instrument.symbol} {leg.side.value}: {leg.state.value}"
        + ("" if leg.reason is None else f" ({leg.reason.value})")
        + (f", {leg.note}" if leg.note else "")
        for leg in at.legs
        if leg.state is not LegState.DONE
    ]
    return html_message(
        "📉 Plan Ended Short",
        ("Account", targets.account_id),
        ("Strategy", targets.strategy_id),
        ("Decision", targets.decision_id),
        ("State", at.state.value),
        ("Missing", _some(missing)),
        ("Why", _some(why)),
    )


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


def plan_set_aside(*, plan_id: str, reason: str) -> str:
    """Something of the plan cannot be worked; it is tried again."""
    return html_message("⚠️ Plan Cannot Be Worked", ("Plan", plan_id), ("Reason", reason), ("Now", "it is tried again"))


def _some(lines: list[str]) -> str:
    more = "" if len(lines) <= MOST_SHOWN else f"; and {len(lines) - MOST_SHOWN} more"
    return "; ".join(lines[:MOST_SHOWN]) + more
