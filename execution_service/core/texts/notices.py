"""The kinds of notice that people can switch off, and which kind each is; no text."""

from __future__ import annotations

from enum import StrEnum

from execution_service.core.orders.events import Completed, Event, Filled

_OF_KILLS = ("kill_switch:", "kill_refused")


class NoticeKind(StrEnum):
    FILLS = "fills"
    """What was filled."""
    ENDINGS = "endings"
    """Rejected, cancelled, expired, timed out; but not an exit that failed."""
    ORDERS = "orders"
    """What a person should look at: in doubt, a failed exit, corrections, adoptions, rounded and capped orders."""
    ALERTS = "alerts"
    """What belongs to no order: brokers, differences, limits, parts of the service."""


ALL_NOTICES = frozenset(NoticeKind)


def tells_of_kill(alert_kind: str) -> bool:
    """It goes first, and cannot be switched off."""
    return alert_kind.startswith(_OF_KILLS)


def notice_of(event: Event, *, is_outcome: bool) -> NoticeKind:
    """Of a notice about an order; `is_outcome`: it can be told in one line among others."""
    if not is_outcome:
        return NoticeKind.ORDERS
    return NoticeKind.FILLS if isinstance(event, Filled | Completed) else NoticeKind.ENDINGS
