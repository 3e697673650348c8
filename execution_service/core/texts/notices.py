"""The kinds of notice that people can switch off, and which kind each is; no text."""

from __future__ import annotations

from enum import StrEnum

from execution_service.core.orders.events import Completed, Doubted, Event, Filled

_OF_KILLS = ("kill_switch:", "kill_refused", "stance_refused", "kill_key", "dead_man")
_NEVER_MUTED = ("mute_ended:",)


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


def can_be_muted(about: Event | str) -> bool:
    """Whether a notice about this event of an order, or an alert of this kind, may be left out for a time: nothing that tells of a kill, nor that an
    order is in doubt, which waits for a person, nor that notices are told again."""
    if isinstance(about, str):
        return not (tells_of_kill(about) or about.startswith(_NEVER_MUTED))
    return not isinstance(about, Doubted)


def notice_of(event: Event, *, is_outcome: bool) -> NoticeKind:
    """Of a notice about an order; `is_outcome`: it can be told in one line among others."""
    if not is_outcome:
        return NoticeKind.ORDERS
    return NoticeKind.FILLS if isinstance(event, Filled | Completed) else NoticeKind.ENDINGS
