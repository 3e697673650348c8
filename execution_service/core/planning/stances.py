"""Stances: how urgently plans are carried out within a scope until somebody says otherwise; as values with their history. No store, no orders.

A stance is kept for each scope, like a kill switch, and read again whenever an order is to be sent. Stopping everything is no stance of its own: HALT
engages the kill switch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from execution_service.core.codec import decode, encode
from execution_service.core.errors import CoreError, UnreadableRecord
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.risk.kill import KillLevel, Switch, scope_from_text
from execution_service.core.risk.limits import Scope

LONGEST_HISTORY = 100
HALT = "HALT"
"""The word for it where a stance is set."""


class StanceRefused(CoreError):
    """It is not set; the message says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StanceChange:
    """One change, as the audit has it."""

    version: int
    stance: Aggressiveness
    at: datetime
    """When it was asked for."""
    by: str = ""
    reason: str = ""
    until: datetime | None = None
    command_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StanceRecord:
    """One document a scope: its latest change counts. The first that is stored has version 1."""

    scope: Scope
    history: tuple[StanceChange, ...]
    """The oldest first, never empty."""

    @property
    def latest(self) -> StanceChange:
        return self.history[-1]

    @property
    def version(self) -> int:
        return self.latest.version

    def change_by(self, command_id: str) -> StanceChange | None:
        """What the command has changed already."""
        return next((change for change in self.history if change.command_id == command_id), None)

    def at(self, now: datetime) -> Aggressiveness:
        """NORMAL once it has run out."""
        until = self.latest.until
        return Aggressiveness.NORMAL if until is not None and now >= until else self.latest.stance


def with_stance(
    record: StanceRecord | None,
    scope: Scope,
    stance: Aggressiveness,
    *,
    by: str,
    reason: str,
    asked_at: datetime,
    now: datetime,
    until: datetime | None,
    command_id: str,
) -> StanceRecord:
    """The record with that stance; the same record where this command has set it before. Raises StanceRefused: for one that is over by the time at
    which it comes, whatever it says; and, but never for an EMERGENCY, for a wish that is older than what holds, and for one without a person or a
    reason."""
    if record is not None and record.change_by(command_id) is not None:
        return record
    if stance is not Aggressiveness.EMERGENCY and not (by.strip() and reason.strip()):
        raise StanceRefused("the person and the reason must be named")
    if until is not None and until <= max(asked_at, now):
        raise StanceRefused(f"until {until.isoformat()} is over already")
    latest = None if record is None else record.latest
    if latest is not None and asked_at < latest.at:
        if stance is not Aggressiveness.EMERGENCY:
            raise StanceRefused(f"{latest.stance} was set at {latest.at.isoformat()}, after this was asked for")
        if latest.stance is Aggressiveness.EMERGENCY:
            # One that comes late does not shorten the one that holds.
            until = None if until is None or latest.until is None else max(until, latest.until)
    change = StanceChange(
        version=1 if latest is None else latest.version + 1,
        stance=stance,
        at=asked_at if latest is None else max(asked_at, latest.at),
        by=by.strip(),
        reason=reason.strip(),
        until=until,
        command_id=command_id,
    )
    if record is None:
        return StanceRecord(scope=scope, history=(change,))
    return replace(record, history=(*record.history, change)[-LONGEST_HISTORY:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stances:
    """All of them, as they were read for one decision."""

    records: tuple[StanceRecord, ...] = ()
    doubtful: tuple[Scope, ...] = ()
    """Of documents that cannot be read: there only reductions pass."""
    is_known: bool = True
    """False: they cannot be read at this moment. Then nothing is increased anywhere, and what was read last counts."""

    def of(self, where: Scope, planned: Aggressiveness, now: datetime) -> Aggressiveness:
        """What counts for an order of a plan there. EMERGENCY wins, whoever says it and of whichever scope; else the narrowest scope that says
        anything but NORMAL, of two the later; else what the plan asks for."""
        if planned is Aggressiveness.EMERGENCY or self.is_emergency(where, now):
            return Aggressiveness.EMERGENCY
        found = [
            record
            for record in self.records
            if record.scope.covers(where) and record.at(now) is not Aggressiveness.NORMAL
        ]
        if not found:
            return planned
        return max(found, key=lambda record: (record.scope.rank, record.latest.at)).at(now)

    def is_emergency(self, where: Scope, now: datetime) -> bool:
        """Whether only reductions pass there: also where that is in doubt."""
        if not self.is_known or any(scope.covers(where) for scope in self.doubtful):
            return True
        return any(r.scope.covers(where) and r.at(now) is Aggressiveness.EMERGENCY for r in self.records)

    def switches(self, now: datetime) -> tuple[Switch, ...]:
        """What the stances let pass, in the words of the kill switch: within an EMERGENCY nothing but reductions."""
        emergencies = [
            Switch(
                scope=record.scope,
                version=record.version,
                level=KillLevel.REDUCE_ONLY,
                engaged_at=record.latest.at,
                by=record.latest.by,
                reason=f"stance EMERGENCY: {record.latest.reason}",
            )
            for record in self.records
            if record.at(now) is Aggressiveness.EMERGENCY
        ]
        doubtful = [
            Switch(scope=scope, level=KillLevel.REDUCE_ONLY, by="nobody known", reason="its stance cannot be read")
            for scope in self.doubtful
        ]
        return (*emergencies, *doubtful)


def stances_of(documents: Iterable[Mapping[str, Any]]) -> Stances:
    """Of what is kept. What cannot be read is doubtful: of its scope, or where that is not told either, of all."""
    records, doubtful = [], []
    for document in documents:
        try:
            records.append(stance_from_document(document))
        except UnreadableRecord:
            doubtful.append(_scope_of(document.get("_id")))
    return Stances(records=tuple(records), doubtful=tuple(doubtful))


def stance_to_document(record: StanceRecord) -> dict[str, Any]:
    """By the scope as a person names it; the version stands on top, for the compare-and-set."""
    return {"_id": str(record.scope), "version": record.version, "record": encode(record)}


def stance_from_document(document: Mapping[str, Any]) -> StanceRecord:
    """Raises UnreadableRecord for what `stance_to_document` never wrote: of a stance nothing is guessed."""
    try:
        record = decode(StanceRecord, document["record"])
        latest = record.latest
    except (KeyError, TypeError, ValueError, ArithmeticError, IndexError) as exc:
        raise UnreadableRecord(f"stance {document.get('_id')}: {type(exc).__name__}: {exc}") from exc
    if str(record.scope) != document.get("_id") or latest.version != document.get("version"):
        raise UnreadableRecord(f"stance {document.get('_id')} is not the one of its place or version")
    return record


def _scope_of(key: Any) -> Scope:
    try:
        return scope_from_text(str(key))
    except ValueError:
        return Scope()
