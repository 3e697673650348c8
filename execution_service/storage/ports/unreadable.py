"""What was met in the store and cannot be read, for people to be told of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableDocument:
    """A document of ours that cannot be read: it is left alone, and everything else goes on."""

    account_id: str | None
    """Whose it is, as far as it tells."""
    words: str


class UnreadableStore(Protocol):
    """What was met in the store and cannot be read."""

    def newly_unreadable(self) -> list[UnreadableDocument]:
        """Documents that cannot be read, and of which people have not been told."""

    def unreadable_reported(self, some: Collection[UnreadableDocument]) -> None:
        """People will be told of these, whatever happens to the process now."""
