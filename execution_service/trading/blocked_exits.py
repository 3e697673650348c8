"""Exits that cannot leave: why, and that people hear of it in time, once for each reason; not how they leave."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from execution_service.core.orders.events import Noted
from execution_service.core.orders.report_events import was_noted
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import exits_waiting
from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.clock import Clock
from execution_service.trading.connection import Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.instrument_queues import Lanes
from execution_service.trading.timers import Timers

EXIT_ALERT_SECONDS = 5.0
ENTRY_ALERT_SECONDS = 30.0
"""An exit that waits for its entry is ordinary for as long as entries may work."""
TURN_ALERT_SECONDS = 15.0
"""Longer than a broker takes for the orders before it."""
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Cause:
    """`name` tells one situation from another, `words` tell people."""

    name: str
    words: str
    to_do: str
    alert_seconds: float = EXIT_ALERT_SECONDS


class BlockedExits:
    """Looks at the exits of one account that are still to be sent."""

    def __init__(
        self,
        *,
        connection: Connection,
        timers: Timers,
        lanes: Lanes,
        grouped_alerts: GroupedAlerts,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._timers = timers
        self._lanes = lanes
        self._grouped_alerts = grouped_alerts
        self._clock = clock

    def heed(self, live: LiveOrder, now: float) -> Noted | None:
        """Sees to it that people hear of an exit that cannot leave; what is to be recorded of that, once they do: a life that ends before leaves
        it to the next. Makes the appointment for the next look. `now` by the monotonic clock."""
        order = live.order
        if order.status is not Status.PENDING or order.identity.purpose is not Purpose.EXIT:
            return None
        if live.waits_to_note:
            return Noted(at=self._clock.now(), message=_note(live.waits_to_note.pop(0)))
        cause = self._cause(live)
        is_told = cause.name in live.told_waits
        due_in = live.known_from + cause.alert_seconds - now
        if is_told or due_in >= 0:
            if not self._lanes.is_waiting(order):
                self._timers.make(live, _LOOK_SECONDS)
            elif not is_told:
                self._timers.make(live, due_in + 0.001)  # each look costs a question to the store
            return None
        live.told_waits.add(cause.name)
        note = _note(cause.name)
        if was_noted(order, note):
            return None  # people were told by an earlier life of the service
        since = self._clock.now() - timedelta(seconds=now - live.known_from)
        words = partial(
            exits_waiting,
            account_name=self._connection.account_name,
            broker=self._connection.broker_name,
            reason=cause.words,
            to_do=cause.to_do,
        )

        def raised() -> None:
            if live.order.status is Status.PENDING:
                live.waits_to_note.append(cause.name)
                self._timers.make(live, 0.0)

        self._grouped_alerts.mention(f"exit_waits:{cause.name}", MentionedOrder(order, since), words, raised)
        return None

    def _cause(self, live: LiveOrder) -> _Cause:
        order = live.order
        if self._lanes.is_waiting(order):
            named = ", ".join(order.accepted_request.entry_refs)
            words = f"waits until its entry ({named}) has ended"
            to_do = "to exit now, cancel what is left of that, or resolve its doubt"
            return _Cause("its entry has not ended", words, to_do, ENTRY_ALERT_SECONDS)
        if not self._connection.is_connected:
            trouble = self._connection.trouble or "no connection yet"
            return _Cause("the broker is not connected", f"the broker is not connected: {trouble}", _TO_DO)
        lane = self._lanes.of(order)
        if lane.unresolved:
            words = "an order of the same instrument was perhaps sent and is being looked for"
            return _Cause("an order before it is looked for", words, _TO_DO)
        if lane.held_words:
            name = "calls are spent" if lane.is_for_calls else "held back"
            return _Cause(name, lane.held_words, _TO_DO)
        if lane.failures:
            words = live.last_failure or "the broker does not take orders of this instrument now"
            return _Cause("the broker does not take it", words, _TO_DO)
        if self._connection.capabilities.needs_reservation and any(self._lanes.unresolved()):
            words = "an order of the account was perhaps sent, and none may leave before that is known"
            return _Cause("an order of the account is looked for", words, _TO_DO)
        return _Cause(
            "its turn has not come", "orders before it are on their way to the broker", _TO_DO, TURN_ALERT_SECONDS
        )


def _note(cause: str) -> str:
    return f"cannot leave: {cause}"


_TO_DO = "it leaves by itself as soon as it may; to be out at once, close the position in the broker's own screen and cancel the exit"
