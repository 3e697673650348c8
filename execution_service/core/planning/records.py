"""A plan as it is kept: computed once, with what was released of it, until its result is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from execution_service.core.codec import decode, encode
from execution_service.core.errors import UnreadableRecord
from execution_service.core.planning.plan import Plan
from execution_service.core.planning.progress import PlanState, Release


class RoundKind(StrEnum):
    """What a round of a decision is for."""

    TARGETS = "TARGETS"
    """The decision's own plan; always the first round."""
    RETRY = "RETRY"
    UNWIND = "UNWIND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One plan of a decision that has ended, and what was released of it."""

    kind: RoundKind
    plan: Plan
    releases: tuple[Release, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One document a decision, changed by compare-and-set on its version. `plan`, `kind` and `releases` are those of the round at work."""

    plan: Plan
    content: str
    """A hash of the list of targets: the same decision with another content is refused."""
    version: int = 1
    releases: tuple[Release, ...] = ()
    superseded_by: str | None = None
    """The id of the newer plan that takes its place."""
    state: PlanState = PlanState.WORKING
    is_told: bool = False
    """Its result is published; nothing is to be done for it any more."""
    kind: RoundKind = RoundKind.TARGETS
    earlier: tuple[Round, ...] = ()
    """The rounds before, the oldest first."""
    next_round_at: datetime | None = None
    """The round has ended short, and another one is planned at this time. None: nothing is to follow, or not yet."""
    is_over: bool = False
    """No round follows any more, however the last one has ended."""

    @property
    def releases_by_signal(self) -> Mapping[str, Release]:
        return {release.signal_id: release for release in self.releases}

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All of them, the one at work last."""
        return (*self.earlier, Round(kind=self.kind, plan=self.plan, releases=self.releases))

    @property
    def first_plan(self) -> Plan:
        """The answer to the decision, whatever followed."""
        return self.rounds[0].plan

    @property
    def plan_id(self) -> str:
        """The decision's: that of its first plan. A further round's has its number behind it."""
        return self.first_plan.plan_id

    def with_round(self, kind: RoundKind, plan: Plan) -> PlanRecord:
        """The record with another round at work, whose orders have names of their own."""
        return replace(
            self,
            plan=replace(plan, plan_id=f"{self.plan_id}.{len(self.rounds)}"),
            kind=kind,
            releases=(),
            earlier=self.rounds,
            next_round_at=None,
            version=self.version + 1,
        )


def plan_to_document(record: PlanRecord) -> dict[str, Any]:
    """With what is asked for on top."""
    targets = record.plan.targets
    return {
        "_id": record.plan_id,
        "account_id": targets.account_id,
        "strategy_id": targets.strategy_id,
        "as_of": targets.as_of,
        "record": encode(record),
        "version": record.version,
        "is_open": not record.is_told,
    }


def plan_from_document(document: Mapping[str, Any]) -> PlanRecord:
    """Raises UnreadableRecord for what `plan_to_document` never wrote."""
    try:
        record = decode(PlanRecord, document["record"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
        raise UnreadableRecord(f"plan {document.get('_id')}: {type(exc).__name__}: {exc}") from exc
    if record.plan_id != document.get("_id") or record.version != document.get("version"):
        raise UnreadableRecord(f"plan {document.get('_id')} is not the one of its place or version")
    return record
