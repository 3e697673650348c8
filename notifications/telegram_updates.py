"""Asks Telegram's Bot API what people wrote to the bot, by long polling; decides about none of it. The token appears only in requests.

Facts about the Bot API are from https://core.telegram.org/bots/api#getting-updates.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

from telegram import Update as TelegramUpdate
from telegram.constants import ChatType
from telegram.error import Conflict, InvalidToken, RetryAfter, TelegramError, TimedOut
from telegram.warnings import PTBDeprecationWarning

from notifications.incoming import IncomingText, IncomingUnavailable, Update
from notifications.telegram import DEFAULT_BASE_URL, BotToken, BotTransport, is_on_loopback

WAITS_SECONDS = 25.0
"""So long Telegram keeps a question open for which it has no answer yet."""
ANSWERS_WITHIN_SECONDS = 8.0
"""Beyond that."""
MOST_AT_ONCE = 100

T = TypeVar("T")


class TelegramUpdates:
    """See notifications.incoming.Incoming for what each method guarantees. Telegram answers one asker a bot: to a second it says 409."""

    def __init__(self, token: str, base_url: str | None = None, *, waits_seconds: float = WAITS_SECONDS) -> None:
        self._token = BotToken(token.strip())
        self._base_url = (base_url or DEFAULT_BASE_URL).strip().rstrip("/").removesuffix("/bot")
        self._waits_seconds = waits_seconds
        self._transport: BotTransport | None = None

    def __repr__(self) -> str:
        return f"TelegramUpdates(base_url={self._base_url!r})"

    @property
    def channel_id(self) -> str:
        """The bot's number, which is the public part of its token."""
        return self._token.reveal().partition(":")[0]

    async def name(self) -> str:
        answer = await self._bounded(lambda: self._ask("getMe", {}, 0.0), ANSWERS_WITHIN_SECONDS)
        username = answer.get("username") if isinstance(answer, Mapping) else None
        return username if isinstance(username, str) else ""

    async def updates(self, after: int | None) -> list[Update]:
        asked: dict[str, object] = {
            "timeout": int(self._waits_seconds),
            "limit": MOST_AT_ONCE,
            "allowed_updates": '["message"]',
        }
        if after is not None:
            asked["offset"] = after + 1
        most = self._waits_seconds + ANSWERS_WITHIN_SECONDS
        answer = await self._bounded(lambda: self._ask("getUpdates", asked, self._waits_seconds), most)
        if not isinstance(answer, list):
            raise IncomingUnavailable("Telegram's answer could not be used: it is no list of updates")
        found = [update for update in map(_update, answer) if update is not None]
        return sorted(found, key=lambda update: update.number)

    async def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.shutdown()
            self._token.stop_guarding_logs()

    async def _ask(self, method: str, fields: Mapping[str, object], waits_seconds: float) -> Any:
        if not self._token.is_well_formed:
            raise IncomingUnavailable(
                "The Telegram bot token is not one: expected digits, a colon, letters and digits (TELEGRAM_BOT_TOKEN)",
                permanent=True,
            )
        if self._transport is None:
            self._token.guard_logs()
            # Announces on each 429 that this number will become a timedelta; both are handled here.
            warnings.filterwarnings("ignore", message=".*retry_after", category=PTBDeprecationWarning)
            self._transport = BotTransport(
                connection_pool_size=2,
                connect_timeout=4.0,
                write_timeout=4.0,
                pool_timeout=1.0,
                httpx_kwargs={"trust_env": not is_on_loopback(self._base_url)},
            )
        # Not by the library's Bot, which reads all updates of an answer or none: one that it cannot read would keep the others from us for ever.
        url = f"{self._base_url}/bot{self._token.reveal()}/{method}?{urlencode(fields)}"
        return await self._transport.post(url, read_timeout=waits_seconds + ANSWERS_WITHIN_SECONDS - 1)

    async def _bounded(self, work: Callable[[], Awaitable[T]], seconds: float) -> T:
        """What `work` returns, within the time. Raises IncomingUnavailable, outside of the `except`: the library's own text has the token."""
        failure: IncomingUnavailable
        try:
            async with asyncio.timeout(seconds):
                return await work()
        except IncomingUnavailable as exc:
            failure = exc
        except TimeoutError:
            failure = IncomingUnavailable(f"Telegram gave no answer within {seconds:g} s")
        except Exception as exc:  # noqa: BLE001 - whatever a library raises, its text must pass the scrubbing
            failure = self._failure(exc)
        raise failure.with_traceback(None)

    def _failure(self, exc: Exception) -> IncomingUnavailable:
        said = self._token.scrub(str(exc))[:300]
        if isinstance(exc, RetryAfter):
            pause = exc.retry_after
            seconds = pause.total_seconds() if isinstance(pause, timedelta) else float(pause)
            return IncomingUnavailable(f"Telegram asks for a pause of {seconds:g} s", retry_after_seconds=seconds)
        if isinstance(exc, Conflict):
            return IncomingUnavailable(
                f"somebody else asks for what people write to this bot, or a webhook is set for it ({said})",
                permanent=True,
            )
        if isinstance(exc, InvalidToken):
            return IncomingUnavailable(
                f"Telegram does not know this bot ({said}): check TELEGRAM_BOT_TOKEN and TELEGRAM_API_BASE_URL",
                permanent=True,
            )
        if isinstance(exc, TimedOut):
            return IncomingUnavailable(f"Telegram did not answer in time ({said})")
        if isinstance(exc, TelegramError):
            return IncomingUnavailable(f"Telegram could not be reached or failed: {said}")
        return IncomingUnavailable(f"Telegram's answer could not be used: {type(exc).__name__}: {said}")


def _update(said: object) -> Update | None:
    """None: it has no number. What cannot be understood is an update without a text, so that it is passed over and not met for ever."""
    number = said.get("update_id") if isinstance(said, Mapping) else None
    if not isinstance(said, Mapping) or not isinstance(number, int) or isinstance(number, bool):
        return None
    try:
        return Update(number=number, text=_text(TelegramUpdate.de_json(dict(said), None)))
    except Exception:  # noqa: BLE001 - one update that the library cannot read must not keep the others from us
        return Update(number=number, text=None)


def _text(update: TelegramUpdate) -> IncomingText | None:
    message = update.message
    if message is None or message.text is None or message.from_user is None:
        return None
    is_of_another = (
        message.forward_origin is not None
        or message.is_automatic_forward
        or message.sender_chat is not None
        or message.via_bot is not None
        or message.edit_date is not None
        or message.from_user.is_bot
    )
    if is_of_another:
        return None
    user = message.from_user
    return IncomingText(
        chat_id=message.chat.id,
        is_private=message.chat.type == ChatType.PRIVATE,
        user_id=user.id,
        user_name=user.username or user.full_name,
        text=message.text,
        sent_at=message.date,
    )
