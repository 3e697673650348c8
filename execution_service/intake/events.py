"""A message that came as an event -> the order that it asks for, a hint for those who can ask, or what is wrong with it; stores nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from execution_service.core.messages.events_in import INTENT, EventOrder, Hint, NoTrade, read_event
from execution_service.core.messages.inbound import ParsedOrder, Unusable, parse_order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Reason, ReasonCode
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
    refusal: Reason | None = None
    """Why it is recorded and not traded: its age."""


class EventReader:
    """Reads events; keeps of what it has read only what shows a copy."""

    def __init__(
        self,
        clock: Clock,
        account_id: str | None = None,
        *,
        max_age_seconds: float = 60.0,
        takes_sized: bool = False,
    ) -> None:
        """`account_id`: where orders go that name no account. `max_age_seconds`: how old what an event asks for may be when it is read, and how
        far ahead of our clock its time may lie; 0: any age. `takes_sized`: a manual entry that names a stop need not name a quantity."""
        self._clock = clock
        self._account_id = account_id
        self._max_age = timedelta(seconds=max_age_seconds)
        self._takes_sized = takes_sized
        self._lately: dict[tuple[object, ...], tuple[str, float]] = {}
        self.listeners: list[TakesHints] = []

    def read(self, message: Message) -> ReadOrder | Unusable | None:
        """None: nothing is asked for. Raises nothing for what an event says."""
        message_id = message.attributes.get(RECEIVED_ID, message.message_id)
        event_type = message.event_type or ""
        read = read_event(event_type, message.data, account_id=self._account_id, message_id=message_id)
        match read:
            case EventOrder():
                parsed = parse_order(read.data, may_be_sized=self._takes_sized)
                if isinstance(parsed, Unusable):
                    return parsed
                if event_type == INTENT and self._is_copy(parsed):
                    return None
                if read.warning is not None:
                    parsed = replace(parsed, warning="; ".join(filter(None, (read.warning, parsed.warning))))
                times = [moment for moment in (message.publish_time, read.decided_at) if moment is not None]
                is_exit = parsed.identity.purpose is Purpose.EXIT
                return ReadOrder(parsed, min(times), None if is_exit else self._refusal(min(times), max(times)))
            case Hint():
                log.warning(f"Event {event_type}: {read.summary}", action="event_hint", event_type=event_type)
                for listener in self.listeners:
                    listener.take_hint(read)
            case NoTrade():
                log.debug(read.reason, action="event_no_trade", event_type=event_type)
            case Unusable():
                return read
        return None

    def _refusal(self, earliest: datetime, latest: datetime) -> Reason | None:
        """Of what would open something. History that is published anew has new messages and old times; a time that lies ahead of our clock, as of
        a sender that writes local time for UTC, says nothing of the age."""
        if not self._max_age:
            return None
        now, most = self._clock.now(), self._max_age.total_seconds()
        if now - earliest > self._max_age:
            age = (now - earliest).total_seconds()
            words = f"decided {age:.0f} s before it came ({earliest:%Y-%m-%d %H:%M:%S} UTC), MAX_SIGNAL_AGE_SECONDS is {most:g}; it was not sent"
        elif latest - now > self._max_age:
            ahead = (latest - now).total_seconds()
            words = (
                f"its time lies {ahead:.0f} s ahead of our clock ({latest:%Y-%m-%d %H:%M:%S} UTC), so its age is not known; "
                f"MAX_SIGNAL_AGE_SECONDS is {most:g}; it was not sent"
            )
        else:
            return None
        return Reason(ReasonCode.STALE_ORDER, words)

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
