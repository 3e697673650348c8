"""The interface of a notification channel: send one text, or say why not. No channel's dialect, no queue."""

from __future__ import annotations

from typing import Protocol


class NotificationFailed(Exception):
    """A message was not certainly accepted. It may have arrived all the same, if an answer was lost.

    `retry_after_seconds` is the pause that the channel asks for, or None if the caller may choose. `permanent`: the
    same message will fail until a person changes something (token, chat, rights). The text is for people and contains
    no secret.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.permanent = permanent


class Notifier(Protocol):
    """A channel to people. The caller keeps messages until they are accepted, and repeats failed ones."""

    @property
    def enabled(self) -> bool:
        """False if the operator has switched notifications off."""
        ...

    async def start(self) -> None:
        """Prepares without contacting the channel's server, so that an outage of it delays no start."""
        ...

    async def send(self, text: str) -> None:
        """Returns once the channel has accepted the text. Ends within a bounded time.

        `text` is Telegram's HTML (`<b>`, `<i>`, `<code>` ...) with escaped values. Raises NotificationFailed, and
        nothing else but asyncio.CancelledError.
        """
        ...

    async def close(self) -> None:
        """Releases connections; nothing can be sent afterwards. May be called twice."""
        ...


class NoNotifier:
    """Used if notifications are switched off: accepts every text and does nothing."""

    @property
    def enabled(self) -> bool:
        return False

    async def start(self) -> None:
        return None

    async def send(self, text: str) -> None:
        return None

    async def close(self) -> None:
        return None
