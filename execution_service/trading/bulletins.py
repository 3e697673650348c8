"""What people are told of many orders of one account in one message: gathered for a moment, then sent; not what there is to tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from execution_service.core.alerts import Mentioned
from execution_service.ports import Clock
from execution_service.trading.tasks import Tasks

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
        self._gathered: dict[str, list[Mentioned]] = {}
        self._sent_at: dict[str, float] = {}

    def mention(self, subject: str, about: Mentioned, words: Words) -> None:
        """The order will be named in the next message about the subject, which `words` puts together. Waits for nothing."""
        gathered = self._gathered.get(subject)
        if gathered is not None:
            gathered.append(about)
            return
        self._gathered[subject] = [about]
        self._tasks.begin(self._send(subject, words), "bulletin")

    async def _send(self, subject: str, words: Words) -> None:
        sent_at = self._sent_at.get(subject, float("-inf"))
        await self._clock.sleep(max(GATHER_SECONDS, sent_at + PAUSE_SECONDS - self._clock.monotonic()))
        self._sent_at[subject] = self._clock.monotonic()
        await self._raise_alarm(f"{subject}:{self._account_id}", words(self._gathered.pop(subject)))
