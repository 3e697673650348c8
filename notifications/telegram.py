"""Sends texts to one Telegram chat through the Bot API. No queue and no wording; the token appears only in requests.

Facts about the Bot API are from https://core.telegram.org/bots/api and https://core.telegram.org/bots/faq.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import re
import time
import traceback
import warnings
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import structlog
from telegram import Bot, LinkPreviewOptions
from telegram.constants import ParseMode
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken, RetryAfter, TelegramError, TimedOut
from telegram.request import HTTPXRequest
from telegram.warnings import PTBDeprecationWarning

from notifications.base import NotificationFailed

DEFAULT_BASE_URL = "https://api.telegram.org"
LONGEST_TEXT = 4096
CUT_MARK = "…(cut)"
# Telegram's FAQ: about one message per second in one chat, and twenty per minute in a group.
CHAT_SPACING_SECONDS = 1.0
GROUP_MESSAGES_PER_MINUTE = 20
LONGEST_WAIT_SECONDS = 3.0

log = structlog.get_logger(__name__)

# A logger's filter does not apply to its children, so every logger that could write a URL is listed.
_TALKATIVE_LOGGERS = (
    "httpx",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
    "telegram",
    "telegram.Bot",
    "telegram.request.BaseRequest",
    "telegram.request.HTTPXRequest",
)
_HTML_PIECE = re.compile(r"<(?P<end>/?)(?P<name>[A-Za-z][\w-]*)[^<>]*>|&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z]+);|.", re.S)
_TELEGRAM_TAG = re.compile(
    r"</?(?:b|strong|i|em|u|ins|s|strike|del|code|pre|a|span|tg-spoiler|tg-emoji|blockquote)(?:\s[^<>]*)?>", re.I
)


def cut_html(text: str, limit: int = LONGEST_TEXT) -> str:
    """The text itself if it has at most `limit` UTF-16 units (as Telegram counts), including tags and entities; else
    its beginning, ending in `…(cut)`, with no tag or entity broken and every open tag closed."""
    if _utf16_length(text) <= limit:
        return text
    room = limit - _utf16_length(CUT_MARK)
    used = 0
    closers: list[str] = []
    end = 0
    closers_at_end = ""
    for piece in _HTML_PIECE.finditer(text):
        used += _utf16_length(piece.group())
        if used > room:
            break
        if piece["name"]:
            closer = f"</{piece['name']}>"
            if not piece["end"]:
                closers.append(closer)
            elif closers and closers[-1].lower() == closer.lower():
                closers.pop()
        tail = "".join(reversed(closers))
        if used + _utf16_length(tail) <= room:
            end, closers_at_end = piece.end(), tail
    return text[:end] + closers_at_end + CUT_MARK


def plain_text(text: str) -> str:
    """Telegram's HTML without tags, as a person reads it. Only known tags are removed: `<x>` in a malformed text may
    be a value."""
    return html.unescape(_TELEGRAM_TAG.sub("", text))


def _cut_plain(text: str, limit: int = LONGEST_TEXT) -> str:
    if _utf16_length(text) <= limit:
        return text
    room = (limit - _utf16_length(CUT_MARK)) * 2
    return text.encode("utf-16-le")[:room].decode("utf-16-le", "ignore") + CUT_MARK


def _utf16_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


class TelegramNotifier:
    """Sends to one chat. See notifications.base.Notifier for what each method guarantees.

    `chat_id` is a number (negative: a group) or `@channelname`. `base_url` is the address before `/bot<token>`, with or
    without a trailing `/bot`. One `send` lasts at most `timeout_seconds`, including the wait for Telegram's rate
    limits. If that wait would be longer than `LONGEST_WAIT_SECONDS`, or than half of `timeout_seconds`, nothing is sent
    and NotificationFailed says when to retry. A message whose answer was lost counts as failed; it is repeated, and
    people may read it twice.
    """

    def __init__(
        self,
        token: str,
        chat_id: int | str,
        base_url: str | None = None,
        *,
        timeout_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._secret = BotToken(token.strip())
        self._chat_id: int | str = chat_id.strip() if isinstance(chat_id, str) else chat_id
        self._base_url = (base_url or DEFAULT_BASE_URL).strip().rstrip("/").removesuffix("/bot")
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep
        in_group = not str(self._chat_id).isdecimal()
        self._pace = _Pace(per_minute=GROUP_MESSAGES_PER_MINUTE if in_group else None, clock=clock)
        self._bot: Bot | None = None
        self._transport: BotTransport | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"TelegramNotifier(chat_id={self._chat_id!r}, base_url={self._base_url!r})"

    @property
    def enabled(self) -> bool:
        return True

    async def start(self) -> None:
        """Builds the client. Contacts nobody, so that an outage delays no start; `check` does."""
        self._client()

    async def send(self, text: str) -> None:
        failure = await self._bounded(lambda: self._send_readable(text))
        if failure is not None:
            raise failure

    async def check(self) -> str:
        """Asks Telegram whether the token is valid and the bot knows the chat. Sends nothing.

        Returns a sentence for the operator. Raises NotificationFailed as `send` does.
        """
        found: list[str] = []

        async def ask() -> None:
            found.append(await self._describe())

        failure = await self._bounded(ask)
        if failure is not None:
            raise failure
        return found[0]

    async def close(self) -> None:
        self._closed = True
        transport, self._transport, self._bot = self._transport, None, None
        if transport is not None:
            await transport.shutdown()
        self._secret.stop_guarding_logs()

    def _client(self) -> Bot:
        if self._closed:
            raise NotificationFailed("The Telegram notifier is closed")
        if not self._secret.is_well_formed:
            raise NotificationFailed(
                "The Telegram bot token is not one: expected digits, a colon, letters and digits (TELEGRAM_BOT_TOKEN)",
                permanent=True,
            )
        if not str(self._chat_id):
            raise NotificationFailed("No Telegram chat is named (TELEGRAM_CHAT_ID)", permanent=True)
        if self._bot is None:
            self._secret.guard_logs()
            # Announces on each 429 that this number will become a timedelta; both are handled here.
            warnings.filterwarnings("ignore", message=".*retry_after", category=PTBDeprecationWarning)
            self._transport = BotTransport(
                connection_pool_size=8,
                connect_timeout=min(4.0, self._timeout_seconds),
                write_timeout=min(4.0, self._timeout_seconds),
                read_timeout=min(7.0, self._timeout_seconds),
                pool_timeout=min(1.0, self._timeout_seconds),
                httpx_kwargs={"trust_env": not is_on_loopback(self._base_url)},
            )
            self._bot = Bot(
                self._secret.reveal(),
                base_url=f"{self._base_url}/bot",
                request=self._transport,
                get_updates_request=self._transport,
            )
        return self._bot

    async def _bounded(self, work: Callable[[], Awaitable[None]]) -> NotificationFailed | None:
        """Runs `work` within the time limit and returns its error instead of raising it.

        Raised inside an `except`, the new error would carry the library's as its context, whose text has the URL and
        thus the token.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await work()
        except NotificationFailed as exc:
            return exc.with_traceback(None)
        except TimeoutError:
            return NotificationFailed(
                f"Telegram gave no answer within {self._timeout_seconds:g} s; the message may have arrived"
            )
        except Exception as exc:  # noqa: BLE001 - whatever a library raises, its text must pass the scrubbing
            return self._failure(exc)
        return None

    async def _send_readable(self, text: str) -> None:
        # A lone surrogate cannot be encoded: without this, one bad character would make the message fail for ever.
        sendable = text.encode("utf-8", "replace").decode("utf-8")
        as_plain_text = False
        try:
            await self._post(cut_html(sendable), ParseMode.HTML)
            return
        except ChatMigrated as moved:
            self._chat_id = moved.new_chat_id
        except BadRequest as refusal:
            if "entit" not in refusal.message.lower():
                raise
            as_plain_text = True
        if as_plain_text:
            log.warning("Telegram refused a message's formatting; sent as plain text", action="telegram_plain_text")
            await self._post(_cut_plain(plain_text(sendable)), None)
        else:
            log.warning(
                f"The Telegram group has become a supergroup: set TELEGRAM_CHAT_ID to {self._chat_id}",
                action="telegram_chat_moved",
            )
            await self._post(cut_html(sendable), ParseMode.HTML)

    async def _post(self, text: str, parse_mode: str | None) -> None:
        bot = self._client()
        wait = self._pace.seconds_until_free()
        if wait > min(LONGEST_WAIT_SECONDS, self._timeout_seconds / 2):
            raise NotificationFailed(
                f"Not sent yet: Telegram's rate limit leaves room in {wait:.0f} s", retry_after_seconds=wait
            )
        self._pace.take()
        if wait > 0:
            await self._sleep(wait)
        await bot.send_message(
            self._chat_id, text, parse_mode=parse_mode, link_preview_options=LinkPreviewOptions(is_disabled=True)
        )

    async def _describe(self) -> str:
        bot = self._client()
        name = "the bot"
        chat_name = f"chat {self._chat_id}"
        try:
            name = f"@{(await bot.get_me()).username}"
            chat = await bot.get_chat(self._chat_id)
            chat_name = f"{chat.effective_name or 'chat'} ({chat.type}, {self._chat_id})"
        except (KeyError, TypeError):
            # A self-hosted Bot API server of another version omits fields that the library requires.
            log.debug("Telegram's description of the bot or chat lacks fields", action="telegram_check")
        return f"Telegram: {name} knows {chat_name}"

    def _failure(self, exc: Exception) -> NotificationFailed:
        said = self._secret.scrub(str(exc))[:300]
        if isinstance(exc, RetryAfter):
            pause = exc.retry_after
            seconds = pause.total_seconds() if isinstance(pause, timedelta) else float(pause)
            self._pace.hold(seconds)
            return NotificationFailed(f"Telegram asks for a pause of {seconds:g} s", retry_after_seconds=seconds)
        if isinstance(exc, InvalidToken):
            return NotificationFailed(
                f"Telegram does not know this bot ({said}): check TELEGRAM_BOT_TOKEN and TELEGRAM_API_BASE_URL",
                permanent=True,
            )
        if isinstance(exc, Forbidden):
            return NotificationFailed(
                f"Telegram forbids the bot to write to chat {self._chat_id}: {said}", permanent=True
            )
        if isinstance(exc, BadRequest):
            advice = ": check TELEGRAM_CHAT_ID, and that the bot was started there" if "chat" in said.lower() else ""
            return NotificationFailed(
                f"Telegram refused the message for chat {self._chat_id} ({said}){advice}", permanent=True
            )
        if isinstance(exc, TimedOut):
            return NotificationFailed(f"Telegram did not answer in time ({said}); the message may have arrived")
        if isinstance(exc, TelegramError):
            return NotificationFailed(f"Telegram could not be reached or failed: {said}")
        return NotificationFailed(f"Telegram's answer could not be used: {type(exc).__name__}: {said}")


def is_on_loopback(base_url: str) -> bool:
    """Whether it is on this machine, which a proxy from the environment cannot reach."""
    return urlsplit(base_url).hostname in {"127.0.0.1", "localhost", "::1"}


class BotTransport(HTTPXRequest):
    """Accepts any answer with "ok": an accepted message must not be repeated because its description is unreadable."""

    async def do_request(self, url: str, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        status, payload = await super().do_request(url, *args, **kwargs)
        if status == 200 and url.endswith("/sendMessage"):
            try:
                answer = json.loads(payload)
            except ValueError:
                return status, payload
            if isinstance(answer, dict) and answer.get("ok") is True:
                return status, b'{"ok":true,"result":true}'
        return status, payload


class _Pace:
    """When the next message may leave: one per second, so many per minute, and not before a requested pause has
    passed."""

    def __init__(self, *, per_minute: int | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._taken: deque[float] = deque(maxlen=per_minute or 1)
        self._not_before = clock()

    def seconds_until_free(self) -> float:
        return self._next() - self._clock()

    def take(self) -> None:
        self._taken.append(self._next())

    def hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _next(self) -> float:
        free = max(self._clock(), self._not_before)
        if self._taken:
            free = max(free, self._taken[-1] + CHAT_SPACING_SECONDS)
        if len(self._taken) == self._per_minute:
            free = max(free, self._taken[0] + 60.0)
        return free


class BotToken(logging.Filter):
    """The token, and the log filter that keeps it out of the logs of the libraries that put it into URLs."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def __repr__(self) -> str:
        return "BotToken(…)"

    @property
    def is_well_formed(self) -> bool:
        """Whether it can be part of a URL; whether it is a valid token only Telegram knows."""
        return re.fullmatch(r"[A-Za-z0-9:_-]+", self._token) is not None

    def reveal(self) -> str:
        return self._token

    def scrub(self, text: str) -> str:
        if not self._token:
            return text
        text = text.replace(self._token, "<token>")
        secret_part = self._token.partition(":")[2]
        return text.replace(secret_part, "<token>") if len(secret_part) >= 16 else text

    def guard_logs(self) -> None:
        """Silences the libraries' loggers, and filters them in case somebody enables them again.

        Their warnings and errors are reported by `send` in our own words.
        """
        for name in ("httpx", "httpcore", "telegram"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        for name in _TALKATIVE_LOGGERS:
            logging.getLogger(name).addFilter(self)

    def stop_guarding_logs(self) -> None:
        for name in _TALKATIVE_LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        scrubbed = self.scrub(message)
        if scrubbed != message:
            record.msg, record.args = scrubbed, None
        if record.exc_info and record.exc_info[1] is not None:
            told = "".join(traceback.format_exception(record.exc_info[1]))
            if self.scrub(told) != told:
                record.exc_info, record.exc_text = None, None
        return True
