"""A kill switch with its history as one stored value: each change and who made it are one write, so the state and the audit agree. No store.

What changes a switch by itself is in `kill`; here is what is kept of that, and that one command changes it once however often it is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.order import Order
from execution_service.core.risk.documents import from_document, to_document
from execution_service.core.risk.kill import KillLevel, Switch, armed, arming_asked, engaged
from execution_service.core.risk.limits import Scope

LONGEST_HISTORY = 200
"""So many changes are kept in the switch's document, the latest ones. The commands behind all of them are kept as commands."""


class Deed(StrEnum):
    """What was done to a switch."""

    ENGAGED = "engaged"
    ARMING_ASKED = "arming_asked"
    """The first of the two steps: nothing is armed by it."""
    ARMED = "armed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a switch, as the audit has it."""

    version: int
    """That the switch had after it."""
    deed: Deed
    at: datetime
    level: KillLevel | None = None
    """After it; None: it stops nothing."""
    by: str = ""
    reason: str = ""
    command_id: str = ""
    """Of the command by which it was done."""
    replaced: str = ""
    """What stood in the place of the document and could not be read, shortened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRecord:
    """One document: the switch as it is now, and how it came there, the oldest change first."""

    switch: Switch
    history: tuple[Change, ...] = ()

    def change_by(self, command_id: str) -> Change | None:
        """What the command has changed already."""
        return next((change for change in self.history if change.command_id == command_id), None)


def with_engaged(
    record: SwitchRecord,
    level: KillLevel,
    *,
    by: str,
    reason: str,
    now: datetime,
    command_id: str,
    cancel_entries: bool = False,
    replaced: str = "",
) -> SwitchRecord:
    """The record with its switch engaged. The same record where there is nothing to write: it is engaged so already, or this command has engaged it
    before. A command that is carried out again never engages a switch that a person has armed since."""
    if record.change_by(command_id) is not None:
        return record
    switch = engaged(record.switch, level, by=by, reason=reason, now=now, cancel_entries=cancel_entries)
    if switch is record.switch:
        return record
    return _changed(record, switch, Deed.ENGAGED, by, reason, now, command_id, replaced)


def with_arming_asked(
    record: SwitchRecord, *, person: str, reason: str, nonce: str, now: datetime, command_id: str
) -> SwitchRecord:
    """The record after the first step of arming. Raises ArmingRefused."""
    switch = arming_asked(record.switch, person=person, reason=reason, nonce=nonce, now=now)
    return _changed(record, switch, Deed.ARMING_ASKED, person.strip(), reason.strip(), now, command_id)


def with_armed(
    record: SwitchRecord, *, person: str, reason: str, nonce: str, now: datetime, command_id: str
) -> SwitchRecord:
    """The record after the second step: its switch stops nothing. Raises ArmingRefused."""
    switch = armed(record.switch, person=person, reason=reason, nonce=nonce, now=now)
    return _changed(record, switch, Deed.ARMED, person.strip(), reason.strip(), now, command_id)


def _changed(
    record: SwitchRecord,
    switch: Switch,
    deed: Deed,
    by: str,
    reason: str,
    now: datetime,
    command_id: str,
    replaced: str = "",
) -> SwitchRecord:
    change = Change(
        version=switch.version,
        deed=deed,
        at=now,
        level=switch.level,
        by=by,
        reason=reason,
        command_id=command_id,
        replaced=replaced,
    )
    return replace(record, switch=switch, history=(*record.history, change)[-LONGEST_HISTORY:])


def scope_of(order: Order) -> Scope:
    """Whose it is, as switches name it."""
    request = order.request
    return Scope(account_id=request.account_id, strategy=request.strategy, symbol=order.symbol)


def record_to_document(record: SwitchRecord) -> dict[str, Any]:
    """By the scope as a person names it; the version stands on top, for the compare-and-set."""
    return {"_id": str(record.switch.scope), "version": record.switch.version, **to_document(record)}


def record_from_document(document: Mapping[str, Any]) -> SwitchRecord:
    """Raises UnreadableRecord for what `record_to_document` never wrote: of a switch nothing is guessed."""
    record = from_document(SwitchRecord, document)
    if str(record.switch.scope) != document.get("_id"):
        raise UnreadableRecord(f"it is of {record.switch.scope}, and stands in the place of {document.get('_id')!r}")
    if record.switch.version != document.get("version") or record.switch.version < 1:
        raise UnreadableRecord(f"its version is {document.get('version')!r} and {record.switch.version}")
    if record.switch.is_engaged and record.switch.engaged_at is None:
        raise UnreadableRecord("it is engaged, and does not say since when")
    if not record.history or record.history[-1].version != record.switch.version:
        raise UnreadableRecord("its last change is not in its history")
    if record.history[-1].level is not record.switch.level:
        raise UnreadableRecord("its level is not the one that its last change gave it")
    return record
