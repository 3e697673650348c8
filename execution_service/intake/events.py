"""A message that came as an event -> the order that it asks for, a hint for those who can ask, or what is wrong with it; stores nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from execution_service.core.messages.events_in import INTENT, EventOrder, Hint, NoTrade, read_event
from execution_service.core.messages.inbound import ParsedOrder, Unusable, parse_order
from execution_service.core.orders.request import OrderRequest
from execution_service.runtime.clock import Clock
from execution_service.transport.ports import RECEIVED_ID, Message

log = structlog.get_logger(__name__)

COPY_SECONDS = 60.0
"""Within this the same trade of another sender is taken for a copy: the same symbol, side, size and price to the last digit."""


class TakesHints(Protocol):
    """Who wants to know that something elsewhere has changed."""

    def take_hint(self, hint: Hint) -> None:
        """Returns at once. It may come twice, or never: whoever depends on what has changed also asks by itself."""


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """An order that an event asks for, and since when it is waiting: its age counts from the decision."""

    parsed: ParsedOrder
    published_at: datetime


class EventReader:
    """Reads events; keeps of what it has read only what shows a copy."""

    def __init__(self, clock: Clock, account_id: str | None = None) -> None:
        """`account_id`: where orders go that name no account."""
        self._clock = clock
        self._account_id = account_id
        self._lately: dict[tuple[object, ...], tuple[str, float]] = {}
        self.listeners: list[TakesHints] = []

    def read(self, message: Message) -> ReadOrder | Unusable | None:
        """None: nothing is asked for. Raises nothing for what an event says."""
        message_id = message.attributes.get(RECEIVED_ID, message.message_id)
        event_type = message.event_type or ""
        read = read_event(event_type, message.data, account_id=self._account_id, message_id=message_id)
        match read:
            case EventOrder():
                parsed = parse_order(read.data)
                if isinstance(parsed, Unusable):
                    return parsed
                if event_type == INTENT and self._is_copy(parsed):
                    return None
                if read.warning is not None:
                    parsed = replace(parsed, warning="; ".join(filter(None, (read.warning, parsed.warning))))
                times = [moment for moment in (message.publish_time, read.decided_at) if moment is not None]
                return ReadOrder(parsed, min(times))
            case Hint():
                log.warning(f"Event {event_type}: {read.summary}", action="event_hint", event_type=event_type)
                for listener in self.listeners:
                    listener.take_hint(read)
            case NoTrade():
                log.debug(read.reason, action="event_no_trade", event_type=event_type)
            case Unusable():
                return read
        return None

    def _is_copy(self, parsed: ParsedOrder) -> bool:
        """One decision is published as an intent by who made it and by who passes it on, with another timestamp."""
        request = parsed.request
        if not isinstance(request, OrderRequest):
            return False
        now, signal_id = self._clock.monotonic(), parsed.identity.signal_id
        self._lately = {key: seen for key, seen in self._lately.items() if now - seen[1] < COPY_SECONDS}
        key = (request.account_id, request.instrument, request.side, request.quantity, request.reference_price)
        first_id, _ = self._lately.setdefault(key, (signal_id, now))
        if first_id == signal_id:
            return False
        log.warning(
            f"{INTENT} {signal_id} is a copy of {first_id}, and makes no order",
            action="event_copy",
            signal_id=signal_id,
        )
        return True
