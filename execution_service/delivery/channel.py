"""One sender's way to people: one text at a time, with a pause after each failure; what is said and for how long it is tried is the sender's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import structlog

from execution_service.core.backoff import Backoff
from execution_service.runtime.clock import Clock
from notifications.base import NotificationFailed, Notifier

log = structlog.get_logger(__name__)

TEXT_LIFETIME = timedelta(hours=1)
"""For so long after what it tells of a text is tried."""
PAUSES = Backoff(first_seconds=1.0, longest_seconds=60.0)
SAID_AT = (1, 4)
"""The pauses at which a failure is said: the first, and one that shows that it lasts."""
ANSWER_SECONDS = 120.0
"""Longer than a sending takes that ends at all."""


class Channel:
    """After each failure it waits longer, and it says that it fails and that it is back."""

    def __init__(self, notifier: Notifier, clock: Clock) -> None:
        self._notifier = notifier
        self._clock = clock
        self._failures = 0
        """In succession."""

    async def is_sent(self, text: str) -> bool:
        """Tries once, for a bounded time. False: it was not surely sent, and now it is time to try again."""
        try:
            await self._in_time(self._notifier.send(text))
        except NotificationFailed as exc:
            least = exc.retry_after_seconds or 0.0
            if self._failures + 1 in SAID_AT:
                log.warning(f"Telegram message not sent, tried again: {exc}", action="telegram_failed")
        except Exception as exc:
            least = 0.0
            log.error(f"Telegram message not sent: {exc}", action="telegram_failed", exc_info=exc)
        else:
            if self._failures:
                log.info("Telegram message sent after all", action="telegram_answers")
            self._failures = 0
            return True
        self._failures += 1
        await self._clock.sleep(max(PAUSES.pause_seconds(self._failures), least))
        return False

    async def _in_time(self, submission: Awaitable[None]) -> None:
        """Raises NotificationFailed for one that does not end."""
        work = asyncio.ensure_future(submission)
        end = asyncio.ensure_future(self._clock.sleep(ANSWER_SECONDS))
        try:
            await asyncio.wait((work, end), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise NotificationFailed(f"no answer within {ANSWER_SECONDS:g} s")
            work.result()
        finally:
            work.cancel()
            end.cancel()
