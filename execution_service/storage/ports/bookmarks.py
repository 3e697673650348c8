"""How far streams outside were read, as far as that has to outlive both the stream and this process."""

from __future__ import annotations

from typing import Protocol


class BookmarkStore(Protocol):
    """A text for each name."""

    async def bookmark(self, name: str) -> str | None:
        """None: there has never been one. Raises StoreUnavailable."""

    async def set_bookmark(self, name: str, value: str) -> None:
        """Raises StoreUnavailable."""
