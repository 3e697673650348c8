"""What is shown of a kill switch and of how much of a limit is used: the same fields, whoever asks and however."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from execution_service.core.orders.events import UsedPrice
from execution_service.core.risk.usage import Usage
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


def use_fields(usage: Usage) -> Mapping[str, Any]:
    """Amounts are exact, in the limit's unit."""
    return {
        "account_id": usage.account_id,
        "total": str(usage.scope),
        "limit_value": usage.value,
        "actual_value": usage.used,
        "percent": usage.percent,
        "at": usage.at,
        "price": None if usage.price is None else price_fields(usage.price),
    }


def price_fields(price: UsedPrice) -> Mapping[str, Any]:
    """The reference price that a figure was reckoned by, per unit."""
    return {"price": price.price, "source": price.source, "at": price.at, "age_seconds": price.age_seconds}
