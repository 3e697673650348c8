"""A plan as it is kept: computed once, with what was released of it, until its result is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from execution_service.core.codec import decode, encode
from execution_service.core.errors import UnreadableRecord
from execution_service.core.planning.plan import Plan
from execution_service.core.planning.progress import PlanState, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One document a plan, changed by compare-and-set on its version."""

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

    @property
    def releases_by_signal(self) -> Mapping[str, Release]:
        return {release.signal_id: release for release in self.releases}


def plan_to_document(record: PlanRecord) -> dict[str, Any]:
    """With what is asked for on top."""
    targets = record.plan.targets
    return {
        "_id": record.plan.plan_id,
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
    if record.plan.plan_id != document.get("_id") or record.version != document.get("version"):
        raise UnreadableRecord(f"plan {document.get('_id')} is not the one of its place or version")
    return record
