"""What is shown of kill switches, uses of limits, commands, dead letters and discrepancies: the same fields, whoever asks and however."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from execution_service.core.orders.events import UsedPrice
from execution_service.core.planning.stances import StanceRecord
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.risk.usage import Usage
from execution_service.core.texts.discrepancies import difference
from execution_service.storage.ports.commands import Command, DeadLetter
from execution_service.storage.ports.switches import KeptSwitch, UnreadableSwitch


def is_engaged(kept: KeptSwitch) -> bool:
    """One that cannot be read counts as engaged."""
    return isinstance(kept, UnreadableSwitch) or kept.switch.is_engaged


def switch_fields(kept: KeptSwitch) -> Mapping[str, Any]:
    """Without the nonce: only whoever made the first step of arming is told that."""
    if isinstance(kept, UnreadableSwitch):
        state = "UNREADABLE, counts as reduce_only"
        fields = {"scope": str(kept.key), "state": state, "by": "", "since": None, "reason": kept.reason}
        return {**fields, "is_engaged": True}
    switch, arming = kept.switch, kept.switch.arming
    state = "armed" if switch.level is None else f"ENGAGED, {switch.level.value}"
    if arming is not None:
        state += f", {arming.person} is about to arm it"
    return {
        "scope": str(switch.scope),
        "state": state,
        "is_engaged": switch.is_engaged,
        "level": None if switch.level is None else switch.level.value,
        "version": switch.version,
        "by": switch.by,
        "since": switch.engaged_at,
        "reason": switch.reason,
        "arming": None if arming is None else {"person": arming.person, "not_before": arming.not_before},
        "history": [
            {
                "version": change.version,
                "at": change.at,
                "deed": change.deed.value,
                "by": change.by,
                "reason": change.reason,
                "command_id": change.command_id,
            }
            for change in kept.history
        ],
    }


def stance_fields(record: StanceRecord, now: datetime) -> Mapping[str, Any]:
    """`stance` is what was said last, `counts` what counts of it now: NORMAL once it has run out."""
    latest = record.latest
    return {
        "scope": str(record.scope),
        "stance": latest.stance.value,
        "counts": record.at(now).value,
        "version": latest.version,
        "by": latest.by,
        "reason": latest.reason,
        "since": latest.at,
        "until": latest.until,
        "history": [
            {
                "version": change.version,
                "at": change.at,
                "stance": change.stance.value,
                "until": change.until,
                "by": change.by,
                "reason": change.reason,
                "command_id": change.command_id,
            }
            for change in record.history
        ],
    }


def use_fields(usage: Usage) -> Mapping[str, Any]:
    """Amounts are exact, in the limit's unit."""
    return {
        "account_id": usage.account_id,
        "total": str(usage.scope),
        "limit_value": usage.value,
        "actual_value": usage.shown_used,
        "percent": usage.shown_percent(2),
        "at": usage.at,
        "price": None if usage.price is None else price_fields(usage.price),
    }


def command_fields(command: Command) -> Mapping[str, Any]:
    """Its outcome is what came of it, for people; empty as long as its status is NEW."""
    return {
        "command_id": command.command_id,
        "kind": command.kind,
        "received_at": command.received_at,
        "status": command.status.value,
        "outcome": command.outcome,
    }


def dead_letter_fields(letter: DeadLetter) -> Mapping[str, Any]:
    """Whole. Bytes that are no UTF-8 stand as backslash escapes."""
    return {
        "message_id": letter.message_id,
        "reason": letter.reason,
        "publish_time": letter.publish_time,
        "received_at": letter.received_at,
        "attributes": dict(letter.attributes),
        "payload": letter.payload.decode("utf-8", "backslashreplace"),
    }


def discrepancy_fields(discrepancy: Discrepancy) -> Mapping[str, Any]:
    finding = discrepancy.finding
    return {
        "discrepancy_id": discrepancy.discrepancy_id,
        "state": discrepancy.state,
        "kind": finding.kind,
        "account_id": discrepancy.account_id,
        "subject": finding.subject,
        "words": difference(finding),
        "ours": finding.ours,
        "theirs": finding.theirs,
        "order_id": finding.order_id,
        "signal_id": finding.signal_id,
        "client_order_id": finding.client_order_id,
        "instrument": finding.instrument,
        "product": finding.product or None,
        "before": finding.before or None,
        "note": finding.note or None,
        "successor": finding.successor or None,
        "resting_exits": finding.resting or None,
        "owner": discrepancy.owner,
        "next_step": discrepancy.next_step,
        "opened_at": discrepancy.opened_at,
        "updated_at": discrepancy.updated_at,
        "closed_at": discrepancy.closed_at,
    }


def price_fields(price: UsedPrice) -> Mapping[str, Any]:
    """The reference price that a figure was reckoned by, per unit."""
    return {"price": price.price, "source": price.source, "at": price.at, "age_seconds": price.age_seconds}
