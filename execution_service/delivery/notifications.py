"""What people are still to be told of orders, and in which message: what waits, what goes alone, what together; the words are in core/alerts,
alerts that belong to no order in alerts.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.core.texts.notices import ALL_NOTICES, NoticeKind, can_be_muted, notice_of
from execution_service.core.texts.orders import digest, order_alert, outcome_line
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.delivery.channel import TEXT_LIFETIME, Channel
from execution_service.delivery.cursor import SLOW_PACE_SECONDS, Cursors, Failures, Progress
from execution_service.delivery.mutes import Mutes
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.orders import PEOPLE
from notifications.base import Notifier

log = structlog.get_logger(__name__)

ALONE_AT_MOST = 10
"""Orders whose outcomes wait are told of one by one; of more, many in one message."""
LONGEST_DIGEST = 3500
"""In UTF-16 units, without the title: Telegram takes 4096."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of an order: as a text of its own (None: many waited already when it was written), and as one line among others'."""

    at: datetime
    text: str | None
    line: str


@dataclass(slots=True)
class _Notification:
    """What waits to be told of one order, up to one of its versions."""

    progress: Progress
    version: int
    alerts: deque[tuple[datetime, str]] = field(default_factory=deque)
    """What a person should look at: goes first, and alone."""
    outcomes: list[_Outcome] = field(default_factory=list)
    is_in_doubt: bool = False
    """A person has to decide, however long ago that began: its alerts do not grow old."""

    @property
    def is_empty(self) -> bool:
        return not (self.alerts or self.outcomes)

    @property
    def is_let_go(self) -> bool:
        return self.progress.is_let_go


@dataclass(frozen=True, slots=True)
class _Message:
    """One message, and what it says of whom."""

    text: str
    alert_of: _Notification | None = None
    outcomes: Sequence[tuple[_Notification, _Outcome]] = ()


class Notifications:
    """One notification an order waits at most; it holds texts and numbers, not the order. What was sent is committed, so that a death loses
    nothing and repeats at most what was being sent."""

    name = "notifications"

    def __init__(
        self,
        *,
        notifier: Notifier,
        clock: Clock,
        cursors: Cursors,
        failures: Failures,
        parties: NamesOfAccounts,
        mutes: Mutes,
        notices: Collection[NoticeKind] = ALL_NOTICES,
    ) -> None:
        """`notices`: what people want to be told."""
        self._notices = notices
        self._mutes = mutes
        self._notifier = notifier
        self._channel = Channel(notifier, clock)
        self._clock = clock
        self._cursors = cursors
        self._failures = failures
        self._parties = parties
        self._to_look_at: dict[str, Progress] = {}
        self._failed: dict[str, float] = {}
        """Orders whose texts could not be made, and when that is tried again."""
        self._events = WakeUp(clock)
        self._waiting: dict[str, _Notification] = {}
        self._urgent: deque[_Notification] = deque()
        """One place for each alert that waits."""
        self._wake_up = WakeUp(clock)

    def __len__(self) -> int:
        """Orders of which people are still to be told something."""
        return len(self._waiting)

    def wake(self, progress: Progress) -> None:
        """The order has events."""
        if progress.taken[PEOPLE] < progress.version and not progress.is_let_go:
            self._to_look_at[progress.order_id] = progress
            self._events.tell()

    def let_go(self) -> None:
        """Others tell of the orders that were let go."""
        for notification in [n for n in self._waiting.values() if n.is_let_go]:
            del self._waiting[notification.progress.order_id]

    # --- writing ------------------------------------------------------------------------------------------------

    async def write_for_ever(self) -> None:
        """Until cancelled. By itself, so that a channel that hangs keeps no order in memory."""
        for progress in self._cursors.in_hand:
            self.wake(progress)
        while True:
            while self._to_look_at:
                progress = self._to_look_at.pop(next(iter(self._to_look_at)))
                if progress.live is not None and not progress.is_let_go:
                    await self._look_at(progress, progress.live.order)
            now = self._clock.monotonic()
            await self._events.wait(min(self._failed.values()) - now if self._failed else None)
            self._look_at_failed()

    async def _look_at(self, progress: Progress, order: Order) -> None:
        try:
            self._write(progress, order)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._failed[order.order_id] = self._clock.monotonic() + SLOW_PACE_SECONDS
            await self._failures.report(progress, exc)

    def _look_at_failed(self) -> None:
        now = self._clock.monotonic()
        for order_id in [order_id for order_id, due in self._failed.items() if due <= now]:
            del self._failed[order_id]
            progress = self._cursors.get(order_id)
            if progress is not None:
                self.wake(progress)

    def _write(self, progress: Progress, order: Order) -> None:
        """What people are owed of the events that are not written yet, into the notification that waits if there is one."""
        waiting = self._waiting.get(order.order_id)
        alone, outcomes = self._texts(progress, order, is_crowded=len(self._waiting) >= ALONE_AT_MOST)
        if waiting is None and not (alone or outcomes):
            self._cursors.advance(progress, PEOPLE, order.version, is_seen=False)
            return
        if waiting is None:
            waiting = self._waiting[order.order_id] = _Notification(progress, order.version)
        waiting.version, waiting.is_in_doubt = order.version, order.status is Status.IN_DOUBT
        waiting.alerts += alone
        self._urgent += [waiting] * len(alone)
        if outcomes:
            waiting.outcomes = outcomes[-1:] if outcomes[-1].text is None else waiting.outcomes + outcomes
        self._cursors.take(progress, PEOPLE, order.version)
        self._wake_up.tell()

    def _texts(
        self, progress: Progress, order: Order, *, is_crowded: bool
    ) -> tuple[list[tuple[datetime, str]], list[_Outcome]]:
        alone: list[tuple[datetime, str]] = []
        outcomes: list[_Outcome] = []
        if not self._notifier.enabled:
            return alone, outcomes
        account_names = self._parties.account_names_of(order.request.account_id)
        for applied_event in progress.applied_events(order, progress.taken[PEOPLE]):
            before, event, now = applied_event.before, applied_event.event, applied_event.after
            text = order_alert(before, event, now, account_name=account_names.account_name, broker=account_names.broker)
            if text is None:
                continue
            line = outcome_line(before, event, now, account_name=account_names.account_name)
            kind = notice_of(event, is_outcome=line is not None)
            if kind not in self._notices or (can_be_muted(event) and self._mutes.is_muted(kind)):
                continue
            if line is None:
                alone.append((event.at, text))
            else:
                outcomes.append(_Outcome(event.at, None if is_crowded else text, line))
        return alone, outcomes

    # --- sending ------------------------------------------------------------------------------------------------

    async def send_for_ever(self) -> None:
        """Until cancelled; what was being sent then is sent again. Tries on while the channel fails, each text for an hour after what it tells
        of."""
        while True:
            while self._waiting:
                self._give_up_old()
                message = self._next()
                if message is not None and await self._channel.is_sent(message.text):
                    self._sent(message)
            await self._wake_up.wait()

    def _next(self) -> _Message | None:
        """None: nothing is left to be told."""
        while self._urgent:
            notification = self._urgent[0]
            if notification.alerts and not notification.is_let_go:
                return _Message(notification.alerts[0][1], alert_of=notification)
            self._urgent.popleft()
        waiting = [each for each in self._waiting.values() if each.outcomes]
        if not waiting:
            return None
        first = waiting[0].outcomes[0]
        if len(waiting) <= ALONE_AT_MOST and first.text is not None:
            return _Message(first.text, outcomes=[(waiting[0], first)])
        lines: list[str] = []
        room = LONGEST_DIGEST
        shared: list[tuple[_Notification, _Outcome]] = []
        for notification in waiting:
            line = notification.outcomes[-1].line
            room -= len(line.encode("utf-16-le", "replace")) // 2 + 1
            if room < 0 and lines:
                break
            lines.append(line)
            shared += [(notification, outcome) for outcome in notification.outcomes]
        return _Message(digest(lines, waiting=len(waiting) - len(lines)), outcomes=shared)

    def _sent(self, message: _Message) -> None:
        concerned: dict[str, _Notification] = {}
        if message.alert_of is not None:
            message.alert_of.alerts.popleft()
            concerned[message.alert_of.progress.order_id] = message.alert_of
        for notification, outcome in message.outcomes:
            notification.outcomes = [other for other in notification.outcomes if other is not outcome]
            concerned[notification.progress.order_id] = notification
        self._done(concerned.values())

    def _give_up_old(self) -> None:
        oldest = self._clock.now() - TEXT_LIFETIME
        late = [
            notification
            for notification in self._waiting.values()
            if (any(at <= oldest for at, _ in notification.alerts) and not notification.is_in_doubt)
            or any(outcome.at <= oldest for outcome in notification.outcomes)
        ]
        if not late:
            return
        count = 0
        for notification in late:
            had = len(notification.alerts) + len(notification.outcomes)
            is_in_doubt = notification.is_in_doubt
            notification.alerts = deque(a for a in notification.alerts if is_in_doubt or a[0] > oldest)
            notification.outcomes = [outcome for outcome in notification.outcomes if outcome.at > oldest]
            count += had - len(notification.alerts) - len(notification.outcomes)
        log.error(f"{count} Telegram messages given up after an hour", action="telegram_given_up", count=count)
        self._done(late)

    def _done(self, notifications: Iterable[_Notification]) -> None:
        """Nothing of the empty ones is owed any more. One that was let go is its new holder's to commit."""
        for notification in notifications:
            if notification.is_empty and not notification.is_let_go:
                del self._waiting[notification.progress.order_id]
                self._cursors.advance(notification.progress, PEOPLE, notification.version, is_seen=True)
