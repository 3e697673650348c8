"""Exits that cannot leave: why, and that people are alerted in time, once for each reason; not how they leave."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from weakref import WeakKeyDictionary

from execution_service.core.orders.events import Noted
from execution_service.core.orders.order import Order
from execution_service.core.orders.report_events import was_noted
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.orders.waiting import Waiting, WaitingReason
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import exits_waiting, targets_waiting
from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.clock import Clock
from execution_service.trading.connection import Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.timers import Timers

EXIT_ALERT_SECONDS = 5.0
ENTRY_ALERT_SECONDS = 30.0
"""An exit that waits for its entry is ordinary for as long as entries may work."""
TURN_ALERT_SECONDS = 15.0
"""Longer than a broker takes for the orders before it."""
TARGET_ALERT_SECONDS = 30.0
"""Its stop protects what is held meanwhile."""
_ALERT_SECONDS = {
    WaitingReason.ENTRY: ENTRY_ALERT_SECONDS,
    WaitingReason.TURN: TURN_ALERT_SECONDS,
    WaitingReason.POSITIONS: TURN_ALERT_SECONDS,
    WaitingReason.STOP: TARGET_ALERT_SECONDS,
}
_LOOK_SECONDS = 1.0


class BlockedExits:
    """Looks at the exits of one account that are still to be sent."""

    def __init__(
        self,
        *,
        connection: Connection,
        timers: Timers[LiveOrder],
        grouped_alerts: GroupedAlerts,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._timers = timers
        self._grouped_alerts = grouped_alerts
        self._clock = clock
        self._alerted: WeakKeyDictionary[LiveOrder, set[WaitingReason]] = WeakKeyDictionary()
        """What each exit waits for by the alerts that were raised, or will be with the next message."""
        self._to_note: WeakKeyDictionary[LiveOrder, list[WaitingReason]] = WeakKeyDictionary()
        """Of these, what was raised and the record does not say yet."""

    def remark(self, live: LiveOrder, waiting: Waiting, now: float) -> Noted | None:
        """Sees to it that people hear of an exit that is to be sent and cannot leave; what is to be recorded of that, once they do: a life that
        ends before leaves it to the next. Has it looked at again in time. `now` by the monotonic clock."""
        order = live.order
        if order.identity.purpose is not Purpose.EXIT:
            return None
        to_note = self._to_note.get(live)
        if to_note:
            return Noted(at=self._clock.now(), message=_note(to_note.pop(0)))
        reason = waiting.reason
        alerted = self._alerted.setdefault(live, set())
        is_alerted = reason in alerted
        due_in = live.known_from + _ALERT_SECONDS.get(reason, EXIT_ALERT_SECONDS) - now
        if is_alerted or due_in >= 0:
            if not reason.lets_others_pass:
                self._timers.make(live, _LOOK_SECONDS)
            elif not is_alerted:
                self._timers.make(live, due_in + 0.001)  # each look costs a question to the store
            return None
        alerted.add(reason)
        note = _note(reason)
        if was_noted(order, note):
            # An earlier life of the service has raised the alert; of another reason it has not.
            if not reason.lets_others_pass:
                self._timers.make(live, _LOOK_SECONDS)
            return None
        since = self._clock.now() - timedelta(seconds=now - live.known_from)
        name, broker = self._connection.account_name, self._connection.broker_name
        words = partial(targets_waiting, account_name=name, broker=broker)
        if reason is not WaitingReason.STOP:
            to_do = _TO_DO_FOR_ENTRY if reason is WaitingReason.ENTRY else _TO_DO
            why = self._words(order, waiting)
            words = partial(exits_waiting, account_name=name, broker=broker, reason=why, to_do=to_do)

        def raised() -> None:
            if live.order.status is Status.PENDING:
                self._to_note.setdefault(live, []).append(reason)
                self._timers.make(live, 0.0)

        self._grouped_alerts.mention(f"exit_waits:{reason}", MentionedOrder(order, since), words, raised)
        return None

    def _words(self, order: Order, waiting: Waiting) -> str:
        """Why it stays, for people."""
        match waiting.reason:
            case WaitingReason.ENTRY:
                return f"waits until its entry ({', '.join(order.accepted_request.entry_refs)}) has ended"
            case WaitingReason.CONNECTION:
                return f"the broker is not connected: {waiting.words}"
            case WaitingReason.EARLIER_ID:
                return "an order of the account was perhaps sent, and none may leave before that is known"
            case WaitingReason.RISK:
                return "the risk gate cannot tell that it is an exit, and lets no new risk pass for now"
            case WaitingReason.PROTECTION:
                return "the protective orders of its position are being cancelled, and the broker has not confirmed their end"
            case WaitingReason.TURN:
                return "orders before it are on their way to the broker"
            case WaitingReason.NOT_TAKEN:
                return waiting.words or "the broker does not take orders of this instrument now"
        return waiting.words


def _note(reason: str) -> str:
    return f"cannot leave: {reason}"


_TO_DO = "it leaves by itself as soon as it may; to be out at once, close the position in the broker's own screen and cancel the exit"
_TO_DO_FOR_ENTRY = "to exit now, cancel what is left of that, or resolve its doubt"
