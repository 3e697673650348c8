"""What is asked of a channel to people: send one text, or say why not; no channel's own dialect, no queue."""

from __future__ import annotations

from typing import Protocol


class NotificationFailed(Exception):
    """A message was not surely accepted; it may have arrived all the same when an answer was lost on the way.

    `retry_after_seconds` is the pause the channel asks for, or None where the caller may choose.
    `permanent` says that the same message will fail again until a person changes something (token, chat, rights).
    The text is for people and holds no secret.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.permanent = permanent


class Notifier(Protocol):
    """A channel to people. The caller keeps what must not be lost, and repeats what failed."""

    @property
    def enabled(self) -> bool:
        """False when messages go nowhere by the operator's own choice."""
        ...

    async def start(self) -> None:
        """Makes ready without speaking to the service, so that a channel that is down delays no start."""
        ...

    async def send(self, text: str) -> None:
        """Returns once the channel has surely accepted the text; ends within a bounded time.

        `text` is Telegram's HTML (`<b>`, `<i>`, `<code>` ...) whose values the caller has escaped.
        Raises NotificationFailed, and nothing else but asyncio.CancelledError.
        """
        ...

    async def close(self) -> None:
        """Gives connections back; nothing can be sent afterwards. May be called twice."""
        ...


class NoNotifier:
    """Stands in where notifications are switched off: takes every text and does nothing."""

    @property
    def enabled(self) -> bool:
        return False

    async def start(self) -> None:
        return None

    async def send(self, text: str) -> None:
        return None

    async def close(self) -> None:
        return None
