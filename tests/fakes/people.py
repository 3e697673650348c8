"""The people behind Telegram: what they were told, and when."""

from __future__ import annotations

import asyncio
from datetime import datetime

from notifications.base import NotificationFailed
from tests.fakes.clock import HandClock
from tests.fakes.process import Gate


class RecordingNotifier:
    """Keeps what people were told, with the time; fails while `is_away`, does not answer while `hold` is there and not set."""

    def __init__(self, gate: Gate, clock: HandClock) -> None:
        self._gate, self._clock = gate, clock
        self.enabled = True
        self.is_away = False
        self.breaks: list[BaseException] = []
        """Raised by the next calls, one after the other; nothing is sent by them."""
        self.hold: asyncio.Event | None = None
        self.sent: list[tuple[datetime, str]] = []

    async def start(self) -> None:
        return None

    async def send(self, text: str) -> None:
        number = self._gate.enter("telegram")
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        if self.is_away:
            raise NotificationFailed("no route to Telegram")
        if self.breaks:
            raise self.breaks.pop(0)
        self.sent.append((self._clock.now(), text))
        self._gate.leave(number)

    async def close(self) -> None:
        return None

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.sent]

    def titled(self, title: str) -> list[str]:
        return [text for text in self.texts if title in text.partition("\n")[0]]
