"""What people are told of many orders of one account in one message: gathered for a moment, then sent; not what there is to tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import structlog

from execution_service.core import alerts
from execution_service.core.alerts import Mentioned
from execution_service.ports import Clock
from execution_service.trading.tasks import Tasks

log = structlog.get_logger(__name__)

GATHER_SECONDS = 2.0
PAUSE_SECONDS = 60.0
"""Between two messages about the same: alarms of one kind come no more often."""

Words: TypeAlias = Callable[[Sequence[Mentioned]], str]


class Bulletins:
    """One message about each subject, however many orders it is about."""

    def __init__(
        self,
        *,
        account_id: str,
        clock: Clock,
        tasks: Tasks,
        raise_alarm: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._account_id = account_id
        self._clock = clock
        self._tasks = tasks
        self._raise_alarm = raise_alarm
        self._gathered: dict[str, tuple[Words, list[Mentioned]]] = {}
        self._sent_at: dict[str, float] = {}

    def mention(self, subject: str, about: Mentioned, words: Words) -> None:
        """The order will be named in the next message about the subject, which `words` puts together. Waits for nothing."""
        if subject in self._gathered:
            self._gathered[subject][1].append(about)
            return
        self._gathered[subject] = (words, [about])
        self._tasks.begin(self._send(subject), "bulletin")

    def begin_anew(self) -> None:
        """What was gathered and not sent when the tasks were ended is sent by new ones."""
        for subject in self._gathered:
            self._tasks.begin(self._send(subject), "bulletin")

    async def _send(self, subject: str) -> None:
        sent_at = self._sent_at.get(subject, float("-inf"))
        await self._clock.sleep(max(GATHER_SECONDS, sent_at + PAUSE_SECONDS - self._clock.monotonic()))
        self._sent_at[subject] = self._clock.monotonic()
        words, about = self._gathered.pop(subject)
        await self._raise_alarm(f"{subject}:{self._account_id}", _text(subject, words, about))


def _text(subject: str, words: Words, about: Sequence[Mentioned]) -> str:
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
    parts.append(alerts.without_words(subject, [each.order.signal_id for each in others]))
    return "\n\n".join(parts)
