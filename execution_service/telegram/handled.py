"""Up to which update everything was dealt with, kept so that a later life, or another process, deals with none of it again."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from execution_service.runtime.clock import Clock
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.storage.ports.errors import StoreUnavailable

log = structlog.get_logger(__name__)

NUMBERS_LAST = timedelta(days=6)
"""Telegram begins with other numbers where nothing happened for a week: what is kept from before says nothing any more."""


class HandledUpdates:
    """In memory, and in the store."""

    def __init__(self, *, store: BookmarkStore, clock: Clock, channel_id: str) -> None:
        self._store = store
        self._clock = clock
        self._name = f"telegram:{channel_id}"
        self.last: int | None = None
        """None: nothing is known of any."""

    async def take_up(self) -> None:
        """What an earlier life, or another process, has dealt with. Raises StoreUnavailable."""
        self.last = _read(await self._store.bookmark(self._name), self._clock.now())

    def has(self, number: int) -> bool:
        return self.last is not None and number <= self.last

    async def commit(self, number: int) -> None:
        """It was dealt with. Where the store is away it counts for this life, and is forgotten by the channel at the next question."""
        self.last = number
        try:
            await self._store.set_bookmark(self._name, f"{number} {self._clock.now().isoformat()}")
        except StoreUnavailable as exc:
            log.debug(f"The number of the last update was not stored: {exc}", action="telegram_bookmark_waits")


def _read(kept: str | None, now: datetime) -> int | None:
    number, _, at = (kept or "").partition(" ")
    try:
        is_known = now - datetime.fromisoformat(at) < NUMBERS_LAST
        return int(number) if is_known else None
    except (ValueError, TypeError):
        return None
