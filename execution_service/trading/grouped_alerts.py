"""Alerts about many orders of one account in one message: gathered for a moment, then raised; not what they are about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from execution_service.core.texts.messages import MentionedOrder, message_not_composed
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp

log = structlog.get_logger(__name__)

GATHER_SECONDS = 2.0
PAUSE_SECONDS = 60.0
"""Between two messages about the same: alerts of one kind come no more often."""

Words: TypeAlias = Callable[[Sequence[MentionedOrder]], str]


@dataclass(slots=True)
class _Gathered:
    """What the next message about one subject will name, and when it is due by the monotonic clock."""

    words: Words
    due_at: float
    about: list[tuple[MentionedOrder, Callable[[], None] | None]] = field(default_factory=list)


class GroupedAlerts:
    """One message about each subject, however many orders it is about. What was mentioned is forgotten when the alert has been raised,
    so that a run that fails, or is ended with the trader, leaves it to the next."""

    def __init__(self, *, account_id: str, clock: Clock, alerts: RaisesAlerts) -> None:
        self._account_id = account_id
        self._clock = clock
        self._alerts = alerts
        self._gathered: dict[str, _Gathered] = {}
        self._sent_at: dict[str, float] = {}
        self._wake_up = WakeUp(clock)
        self._submission = asyncio.Lock()

    def mention(
        self, subject: str, about: MentionedOrder, words: Words, raised: Callable[[], None] | None = None
    ) -> None:
        """The order will be named in the next message about the subject, which `words` puts together. `raised` is called when the alert has
        been raised. Waits for nothing."""
        gathered = self._gathered.get(subject)
        if gathered is None:
            now, sent_at = self._clock.monotonic(), self._sent_at.get(subject, float("-inf"))
            due_at = max(now + GATHER_SECONDS, sent_at + PAUSE_SECONDS)
            gathered = self._gathered[subject] = _Gathered(words, due_at)
            self._wake_up.tell()
        gathered.about.append((about, raised))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = self._clock.monotonic()
            for subject in [subject for subject, each in self._gathered.items() if each.due_at <= now]:
                await self._send(subject, now)
            due = [each.due_at - self._clock.monotonic() for each in self._gathered.values()]
            await self._wake_up.wait(max(0.0, min(due)) if due else None)

    async def send_all(self) -> None:
        """What was gathered until now, since nobody will be here to send it later."""
        for subject in tuple(self._gathered):
            await self._send(subject, self._clock.monotonic())

    async def _send(self, subject: str, now: float) -> None:
        async with self._submission:
            await self._send_gathered(subject, now)

    async def _send_gathered(self, subject: str, now: float) -> None:
        gathered = self._gathered.get(subject)
        if gathered is None:
            return  # sent meanwhile
        about = tuple(gathered.about)
        gathered.due_at = now + GATHER_SECONDS  # should it fail, the other subjects come before it
        await self._alerts.raise_alert(
            f"{subject}:{self._account_id}", _text(subject, gathered.words, [each for each, _ in about])
        )
        for _, raised in about:
            if raised is not None:
                raised()
        self._sent_at[subject] = now
        gathered.about = gathered.about[len(about) :]
        gathered.due_at = now + PAUSE_SECONDS
        if not gathered.about:
            del self._gathered[subject]


def _text(subject: str, words: Words, about: Sequence[MentionedOrder]) -> str:
    """Where there are no words for one order, it is named alone, beside the words for the others."""
    try:
        return words(about)
    except Exception as exc:
        log.exception(f"No words for an alert: {exc}", action="no_words", subject=subject)
    tellable, others = [], []
    for each in about:
        try:
            words([each])
        except Exception:  # noqa: BLE001  said above
            others.append(each)
        else:
            tellable.append(each)
    parts = [words(tellable)] if tellable else []
    parts.append(message_not_composed(subject, [each.order.signal_id for each in others]))
    return "\n\n".join(parts)
