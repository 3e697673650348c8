"""Alerts that belong to no order: raised, stored, sent; their words are in core/alerts."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from execution_service.core.texts.discrepancies import discrepancies
from execution_service.core.texts.messages import one_line, with_count
from execution_service.core.texts.notices import ALL_NOTICES, NoticeKind, can_be_muted, tells_of_kill
from execution_service.delivery.channel import TEXT_LIFETIME, Channel
from execution_service.delivery.cursor import AFTER_FAILURE_SECONDS
from execution_service.delivery.mutes import Mutes
from execution_service.ownership.ownership import UNASSIGNED, Ownership
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.alerts import Alert, AlertStore
from execution_service.storage.ports.errors import StoreUnavailable
from notifications.base import Notifier

log = structlog.get_logger(__name__)

KIND_PAUSE_SECONDS = 60.0
POLL_SECONDS = 2.0
DISCREPANCIES = "discrepancy:"
"""What the kinds of alerts about discrepancies begin with: of many each is named."""


class Alerts:
    """An alert is durable before its cause may be forgotten, but for the time in which the store is away: then it is kept here. One message a
    minute goes out for each kind, with a count."""

    def __init__(
        self,
        *,
        store: AlertStore,
        notifier: Notifier,
        clock: Clock,
        ownership: Ownership,
        mutes: Mutes,
        notices: Collection[NoticeKind] = ALL_NOTICES,
    ) -> None:
        """Who holds what belongs to no account sends the alerts of all that share the store. `notices`: what people want to be told."""
        self._notices = notices
        self._mutes = mutes
        self._is_kill_waiting = False
        """One that tells of a kill was stored since the last look: others let it pass."""
        self._store = store
        self._channel = Channel(notifier, clock)
        self._clock = clock
        self._ownership = ownership
        self._wake_up = WakeUp(clock)
        self._unstored_wake_up = WakeUp(clock)
        self._generation = 0
        self._series = secrets.token_hex(4)
        self._unstored: dict[str, Alert] = {}
        """Raised while the store was away, one of each kind for all of it."""
        self._last_sent: dict[str, float] = {}

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return [
            Part("alerts to store", self.store_for_ever),
            Part("alerts of others", self.look_for_ever),
            Part("alerts", self.send_for_ever),
        ]

    # --- raising ------------------------------------------------------------------------------------------------

    async def raise_alert(self, kind: str, text: str, count: int = 1) -> None:
        """Stored, then sent at most once a minute for each kind, with a count. While the store is away it is kept in memory, and stored as soon
        as that is back."""
        await self._keep(self._alert(kind, text, count))

    async def raise_alert_durably(self, kind: str, text: str, count: int = 1) -> None:
        """The same, durable when it returns. Raises StoreUnavailable: it may not be stored, and is to be raised again."""
        await self._store_unsent(self._alert(kind, text, count))

    def _alert(self, kind: str, text: str, count: int) -> Alert:
        log.warning(one_line(text), action="alarm", kind=kind)
        now = self._clock.now()
        if self._ownership.has_others:
            self._generation += 1  # another process may be sending the last one at this moment
        return Alert(alert_id=self._id(kind, now), kind=kind, text=text, count=count, first_at=now)

    def _id(self, kind: str, at: datetime) -> str:
        """With a series of each life: one that was sent in an earlier life must not be added to."""
        return f"{kind}:{at:%Y%m%dT%H%M}:{self._series}:{self._generation}"

    async def _store_unsent(self, alert: Alert) -> None:
        """Under another id where the one of its own was sent while it was on its way. Raises StoreUnavailable."""
        while not await self._store.raise_alert(alert):
            self._generation += 1
            alert = replace(alert, alert_id=self._id(alert.kind, alert.first_at))
        self._is_stored(alert.kind)

    def _is_stored(self, kind: str) -> None:
        self._is_kill_waiting |= tells_of_kill(kind)
        self._wake_up.tell()

    async def raise_alert_once(self, alert_id: str, kind: str, text: str) -> None:
        """Never sent twice, however often it is raised under its id. Raises StoreUnavailable: it may not be stored."""
        log.warning(one_line(text), action="alarm", kind=kind)
        alert = Alert(alert_id=alert_id, kind=kind, text=text, count=1, first_at=self._clock.now())
        await self._store.raise_alert(alert)
        self._is_stored(kind)

    async def _keep(self, alert: Alert) -> None:
        try:
            await self._store_unsent(alert)
        except StoreUnavailable as exc:
            log.warning(f"Alert waits for the store: {exc}", action="alarm_waiting", kind=alert.kind)
            self._hold(alert)

    def _hold(self, alert: Alert) -> None:
        earlier = self._unstored.get(alert.kind)
        if earlier is not None:
            first, last = sorted((earlier, alert), key=lambda a: a.first_at)
            alert = replace(last, first_at=first.first_at, count=first.count + last.count)
        self._unstored[alert.kind] = alert
        self._unstored_wake_up.tell()

    async def store_for_ever(self) -> None:
        """Until cancelled: what was raised while the store was away. By itself, so that no channel that hangs keeps it from being durable."""
        while True:
            if self._unstored:
                await self._clock.sleep(AFTER_FAILURE_SECONDS)
            else:
                await self._unstored_wake_up.wait()
            for kind in tuple(self._unstored):
                alert = self._unstored.pop(kind)
                is_ended = False
                try:
                    await self._keep(alert)
                    is_ended = True
                finally:
                    if not is_ended:
                        self._hold(alert)

    # --- sending ------------------------------------------------------------------------------------------------

    async def send_for_ever(self) -> None:
        """Until cancelled; what was being sent then is sent again."""
        pause: float | None = 0.0  # those of before the start
        while True:
            await self._wake_up.wait(pause)
            pause = await self._send_stored() if self._sends() else None

    def _sends(self) -> bool:
        return self._ownership.holds(UNASSIGNED)

    async def look_for_ever(self) -> None:
        """Other processes store theirs without a word: replicas, and the commands for people."""
        while True:
            await self._clock.sleep(POLL_SECONDS)
            self._wake_up.tell()

    async def _send_stored(self) -> float | None:
        self._generation += 1
        self._is_kill_waiting = False
        try:
            return await self._send_due(await self._store.unsent_alerts())
        except StoreUnavailable as exc:
            log.warning(f"Alerts wait for the store: {exc}", action="alarms_waiting")
            return AFTER_FAILURE_SECONDS

    async def _send_due(self, alerts: Sequence[Alert]) -> float | None:
        """Sends one message a kind, for all its alerts; those that tell of kills go first. Returns the seconds until a held-back kind may be sent."""
        by_kind: dict[str, list[Alert]] = {}
        for alert in alerts:
            by_kind.setdefault(alert.kind, []).append(alert)
        waits = []
        for kind, some in sorted(by_kind.items(), key=lambda each: not tells_of_kill(each[0])):
            if self._must_let_pass(kind):
                return 0.0
            since = self._clock.monotonic() - self._last_sent.get(kind, float("-inf"))
            if since < KIND_PAUSE_SECONDS:
                waits.append(KIND_PAUSE_SECONDS - since)
                continue
            count = sum(alert.count for alert in some)
            are_discrepancies = kind.startswith(DISCREPANCIES)
            latest = some[-1].text
            text = discrepancies([a.text for a in some], count) if are_discrepancies else with_count(latest, count)
            is_ended = not self._is_wanted(kind) or await self._is_sent_or_given_up(kind, text, some[-1].first_at)
            if not self._sends():
                return None
            if not is_ended:
                return 0.0
            self._last_sent[kind] = self._clock.monotonic()
            for alert in some:
                await self._store.alert_sent(alert, self._clock.now())
        return min(waits, default=None)

    def _is_wanted(self, kind: str) -> bool:
        if can_be_muted(kind) and self._mutes.is_muted(NoticeKind.ALERTS):
            return False
        return NoticeKind.ALERTS in self._notices or tells_of_kill(kind)

    def _must_let_pass(self, kind: str) -> bool:
        return self._is_kill_waiting and not tells_of_kill(kind)

    async def _is_sent_or_given_up(self, kind: str, text: str, at: datetime) -> bool:
        """Tries on for an hour after what it tells of, and for as long as telling it is ours. False: not yet, for something else goes first."""
        while self._sends() and not self._must_let_pass(kind):
            if self._clock.now() - at >= TEXT_LIFETIME:
                log.error("Telegram message given up after an hour", action="telegram_given_up")
                return True
            if await self._channel.is_sent(text):
                return True
        return False
