"""What people write to us, as a channel hands it over: texts with who wrote them, where and when. No channel's dialect, no command."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class IncomingUnavailable(Exception):
    """The channel could not be asked, or gave no usable answer; nothing was lost, and it may be asked again.

    `retry_after_seconds` is the pause that the channel asks for, or None if the caller may choose. `permanent`: it will fail until a person changes
    something. The text is for people and contains no secret.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.permanent = permanent


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingText:
    """One text, written by a person there and then: neither edited nor forwarded, nor in the name of a channel or a group."""

    chat_id: int
    is_private: bool
    """A chat with one person alone."""
    user_id: int
    user_name: str
    """As the person has named itself: anything at all may stand there."""
    text: str
    sent_at: datetime
    """Aware UTC, by the channel's clock, whole seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One thing that happened at the channel. The numbers rise; a number is given once."""

    number: int
    text: IncomingText | None
    """None: whatever it is, it is no text that a person wrote there and then."""


class Incoming(Protocol):
    """A channel from people."""

    @property
    def channel_id(self) -> str:
        """Tells the channel from others of its kind; no secret."""
        ...

    async def name(self) -> str:
        """By which people call us there, without `@`. Ends within a bounded time. Raises IncomingUnavailable."""
        ...

    async def updates(self, after: int | None) -> list[Update]:
        """Waits a while for what came after that number (None: for whatever is there), and returns it, the oldest first. Up to that number the
        channel may forget everything. Ends within a bounded time. Raises IncomingUnavailable, and nothing else but asyncio.CancelledError."""
        ...

    async def close(self) -> None:
        """Releases connections. May be called twice."""
        ...
