"""Answers on their way to the chat: one message for those that wait together, what tells of a kill first, and none that comes too late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import structlog

from execution_service.delivery.channel import Channel
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from notifications.base import Notifier

log = structlog.get_logger(__name__)

LASTS_SECONDS = 120.0
"""An answer that could not be sent for so long is not waited for any more; its question can be asked again."""
MOST_WAITING = 50
LONGEST_TOGETHER = 3500
"""Of several in one message, in UTF-16 units: Telegram takes 4096."""


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    given_at: float


class Answers:
    """Whoever answers does not wait for the channel."""

    def __init__(self, *, notifier: Notifier, clock: Clock) -> None:
        self._channel = Channel(notifier, clock)
        self._clock = clock
        self._wake = WakeUp(clock)
        self._waiting: deque[_Answer] = deque()

    def give(self, text: str, *, is_urgent: bool = False) -> None:
        """HTML, with escaped values."""
        answer = _Answer(text, self._clock.monotonic())
        if is_urgent:
            self._waiting.appendleft(answer)
        else:
            self._waiting.append(answer)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.pop()
            log.warning("An answer was left out: too many wait", action="telegram_answer_left_out")
        self._wake.tell()

    async def run(self) -> None:
        """Until cancelled; what was being sent then is sent again."""
        while True:
            while batch := self._next():
                if await self._channel.is_sent("\n\n".join(answer.text for answer in batch)):
                    self._waiting = deque(answer for answer in self._waiting if answer not in batch)
            await self._wake.wait()

    def _next(self) -> list[_Answer]:
        oldest = self._clock.monotonic() - LASTS_SECONDS
        late = [answer for answer in self._waiting if answer.given_at < oldest]
        if late:
            log.warning(f"{len(late)} answers given up: Telegram took none", action="telegram_answers_given_up")
            self._waiting = deque(answer for answer in self._waiting if answer not in late)
        batch: list[_Answer] = []
        room = LONGEST_TOGETHER
        for answer in self._waiting:
            room -= len(answer.text.encode("utf-16-le", "replace")) // 2 + 2
            if batch and room < 0:
                break
            batch.append(answer)
        return batch
