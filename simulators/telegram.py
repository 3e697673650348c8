"""Telegram's Bot API on loopback, as far as sending and receiving texts needs it, with faults on demand. Sends nothing anywhere.

    python -m simulators.telegram --port 8081        prints every message as its reader would see it

Implements getMe, getChat, sendMessage and getUpdates (long polls, offsets that forget, 409 for the earlier of two askers) under
`/bot<TOKEN>/METHOD`, with JSON, form or query parameters, and:

    GET /_messages      {"messages": [...]}, oldest first        DELETE /_messages   forgets them
    GET /_faults        the pending faults                       DELETE /_faults     removes them
    POST /_faults       one fault or a list, e.g. {"kind": "too_many_requests", "seconds": 5, "times": 2}
    POST /_written      what a person writes to the bot: {"text": "/status", "user_id": 7, "chat_id": 7}; or {"update": {...}} as it is
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from starlette.responses import Response

from simulators.loopback_http import Dropped, HttpCall, LoopbackServer, Trickled, json_response

DEFAULT_TOKEN = "110201543:simulated-token-no-secret"
LONGEST_TEXT = 4096

_PLAIN_TAGS = ("b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "code", "pre", "a", "span", "blockquote")
_TAGS = frozenset((*_PLAIN_TAGS, "tg-spoiler", "tg-emoji", "tg-time"))
_NAMED_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"'}
_ENTITY = re.compile(r"&(?:#(?P<decimal>\d{1,7})|#[xX](?P<hex>[0-9a-fA-F]{1,6})|lt|gt|amp|quot);")


class FaultKind(StrEnum):
    TOO_MANY_REQUESTS = "too_many_requests"
    """429, asking for a pause of `seconds`."""
    BAD_ENTITIES = "bad_entities"
    """400 "can't parse entities" for a text with a parse mode; a plain text passes and keeps the fault armed."""
    CHAT_NOT_FOUND = "chat_not_found"
    CHAT_MOVED = "chat_moved"
    """400: the group is now a supergroup, under -100 and its old number."""
    CONFLICT = "conflict"
    """409, as where somebody else asks for this bot's updates, or a webhook is set."""
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    SERVER_ERROR = "server_error"
    """`status` (default 500) with an HTML page, as from a proxy."""
    SLOW = "slow"
    """Accepts, and answers `seconds` later."""
    NEVER_ANSWERS = "never_answers"
    """Accepts nothing and keeps the connection open until the server stops."""
    TRICKLES = "trickles"
    """Accepts nothing and answers one byte at a time, so that no single read times out."""
    DROP = "drop"
    """Accepts nothing and closes the connection."""
    ACCEPT_THEN_DROP = "accept_then_drop"
    BARE_ANSWER = "bare_answer"
    """Accepts, and answers only `{"ok": true, "result": {}}`."""
    NONSENSE = "nonsense"
    """Accepts nothing and answers 200 with a page that is not JSON, as from a captive portal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The fault of the next `times` calls (None: of all) of `method` (None: of any)."""

    kind: FaultKind
    method: str | None = "sendMessage"
    times: int | None = 1
    seconds: float = 1.0
    status: int = 500

    @classmethod
    def from_json(cls, said: object) -> Fault:
        """Raises ValueError, with the reason, for anything but a fault's fields."""
        if not isinstance(said, dict):
            raise ValueError("a fault is an object with at least a kind")
        unknown = set(said) - {"kind", "method", "times", "seconds", "status"}
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        if said.get("kind") not in set(FaultKind):
            raise ValueError(f"kind is one of {', '.join(FaultKind)}")
        fault = cls(**{**said, "kind": FaultKind(said["kind"])})
        whole_or_none = fault.times is None or (type(fault.times) is int and fault.times > 0)
        if not whole_or_none or type(fault.status) is not int or not isinstance(fault.seconds, int | float):
            raise ValueError("times is a positive whole number or null, status a whole number, seconds a number")
        return fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """`text` is what a reader sees, `source` what was sent; `received_at` is UTC."""

    message_id: int
    chat_id: str
    text: str
    source: str
    parse_mode: str | None
    link_preview: bool
    received_at: datetime


_CONFLICT = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"


class _Refused(Exception):
    def __init__(self, status: int, description: str, parameters: dict[str, int] | None = None) -> None:
        super().__init__(description)
        self.status = status
        self.description = description
        self.parameters = parameters


def read_html(source: str) -> str:
    """What a reader sees of Telegram's HTML. Raises ValueError with Telegram's own message if it would refuse the
    text."""
    seen: list[str] = []
    open_tags: list[str] = []
    at = 0
    while at < len(source):
        offset = len(source[:at].encode()) if source[at] == "<" else 0
        if source[at] == "&" and (entity := _ENTITY.match(source, at)):
            seen.append(_character(entity))
            at = entity.end()
        elif source[at] != "<":
            seen.append(source[at])
            at += 1
        else:
            name = re.compile(r"/?([\w-]*)").match(source, at + 1)
            end = source.find(">", at)
            tag = name[1].lower() if name else ""
            if source.startswith("</", at):
                if not open_tags:
                    raise ValueError(f"Unexpected end tag at byte offset {offset}")
                if open_tags[-1] != tag:
                    raise ValueError(
                        f'Unmatched end tag at byte offset {offset}, expected "</{open_tags[-1]}>", found "</{tag}>"'
                    )
                open_tags.pop()
            elif tag not in _TAGS:
                raise ValueError(f'Unsupported start tag "{tag}" at byte offset {offset}')
            else:
                open_tags.append(tag)
            if end < 0:
                raise ValueError(f"Unclosed tag at byte offset {offset}")
            at = end + 1
    if open_tags:
        raise ValueError(f'Can\'t find end tag corresponding to start tag "{open_tags[-1]}"')
    return "".join(seen)


def _character(entity: re.Match[str]) -> str:
    if entity[0] in _NAMED_ENTITIES:
        return _NAMED_ENTITIES[entity[0]]
    code = int(entity["decimal"]) if entity["decimal"] else int(entity["hex"], 16)
    return chr(code) if 0 < code <= sys.maxunicode and not 0xD800 <= code <= 0xDFFF else entity[0]


class SimulatedTelegram:
    """The server, in a thread of its own: `with SimulatedTelegram() as server: ... server.base_url, server.messages`.

    `token`: the only valid one (None: any). `chat_ids`: the only existing chats (None: any). `on_message` is called in
    a thread of the server for each accepted message. Port 0 takes any free port. Raises ValueError for a host other
    than loopback, OSError for a port in use.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        chat_ids: Iterable[int | str] | None = None,
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        on_message: Callable[[ReceivedMessage], None] | None = None,
    ) -> None:
        self._token = token
        self._chat_ids = None if chat_ids is None else frozenset(str(chat_id) for chat_id in chat_ids)
        self._faults = list(faults)
        self._on_message = on_message
        self._messages: list[ReceivedMessage] = []
        self._last_message_id = 0
        self._updates: list[dict[str, Any]] = []
        self._last_update_id = 736_500_000
        self._asker = 0
        """Whose getUpdates is being answered: an earlier one that still waits is ended."""
        self._calls: Counter[str] = Counter()
        self._wake_up = threading.Condition()
        self._server = LoopbackServer(host, port, self._answer, _refusal)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def token(self) -> str:
        """A token that this server accepts."""
        return self._token or DEFAULT_TOKEN

    @property
    def base_url(self) -> str:
        """For `TELEGRAM_API_BASE_URL`: without `/bot`."""
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def messages(self) -> tuple[ReceivedMessage, ...]:
        with self._wake_up:
            return tuple(self._messages)

    @property
    def faults(self) -> tuple[Fault, ...]:
        with self._wake_up:
            return tuple(self._faults)

    def calls(self, method: str) -> int:
        """How often the method was called, including refused and failed calls."""
        with self._wake_up:
            return self._calls[method]

    def wait_for_messages(self, count: int, timeout_seconds: float = 5.0) -> tuple[ReceivedMessage, ...]:
        """Blocks until so many messages have been accepted. Raises TimeoutError."""
        with self._wake_up:
            if not self._wake_up.wait_for(lambda: len(self._messages) >= count, timeout_seconds):
                raise TimeoutError(f"{len(self._messages)} of {count} messages after {timeout_seconds:g} s")
            return tuple(self._messages)

    def wait_for_calls(self, method: str, count: int, timeout_seconds: float = 5.0) -> None:
        """Blocks until the method was called so often, with any result. Raises TimeoutError."""
        with self._wake_up:
            if not self._wake_up.wait_for(lambda: self._calls[method] >= count, timeout_seconds):
                raise TimeoutError(f"{self._calls[method]} of {count} calls after {timeout_seconds:g} s")

    def add_fault(self, *faults: Fault) -> None:
        with self._wake_up:
            self._faults.extend(faults)

    def clear_faults(self) -> None:
        with self._wake_up:
            self._faults.clear()

    def write(
        self,
        text: str,
        *,
        user_id: int,
        chat_id: int | None = None,
        name: str = "Reader",
        sent_at: datetime | None = None,
        **more: Any,
    ) -> int:
        """What a person writes, in a chat with the bot alone unless another is named; the number of the update. `more`: further fields of the
        message, as `forward_origin`."""
        chat: dict[str, Any] = {"id": user_id if chat_id is None else chat_id, "type": "private", "first_name": name}
        if chat["id"] < 0:
            chat = {"id": chat["id"], "type": "supergroup", "title": "Simulated group"}
        with self._wake_up:
            self._last_message_id += 1
            message = {
                "message_id": self._last_message_id,
                "date": int((sent_at or datetime.now(UTC)).timestamp()),
                "chat": chat,
                "from": {"id": user_id, "is_bot": False, "first_name": name},
                "text": text,
            }
        return self.add_update({"message": {**message, **more}})

    def add_update(self, update: dict[str, Any]) -> int:
        """Anything that may happen to a bot, as the Bot API tells it; the number that it gets, unless it has one."""
        with self._wake_up:
            self._last_update_id += 1
            self._updates.append({"update_id": self._last_update_id, **update})
            self._wake_up.notify_all()
            return int(self._updates[-1]["update_id"]) if isinstance(self._updates[-1]["update_id"], int) else 0

    @property
    def unread(self) -> int:
        """Updates that no asker has confirmed by a later offset."""
        with self._wake_up:
            return len(self._updates)

    def clear_messages(self) -> None:
        with self._wake_up:
            self._messages.clear()

    def start(self) -> None:
        self._server.begin("simulated-telegram")

    def stop(self) -> None:
        """Ends every open call. Idempotent."""
        self._server.end()

    def _answer(self, call: HttpCall) -> Response:
        method = re.fullmatch(r"/bot([^/]*)/(\w+)", call.path)
        try:
            if method is None:
                return self._answer_operator(call)
            fields = {**dict(parse_qsl(call.query)), **_fields(call)}
            return json_response(200, {"ok": True, "result": self.answer(method[1], method[2], fields)})
        except _Refused as refusal:
            return _refusal(refusal.status, refusal.description, refusal.parameters)

    def _answer_operator(self, call: HttpCall) -> Response:
        match call.method, call.path:
            case (("GET" | "DELETE"), "/_messages"):
                if call.method == "DELETE":
                    self.clear_messages()
                messages = [{**asdict(each), "received_at": each.received_at.isoformat()} for each in self.messages]
                return json_response(200, {"messages": messages})
            case (("GET" | "POST" | "DELETE"), "/_faults"):
                if call.method == "DELETE":
                    self.clear_faults()
                elif call.method == "POST":
                    try:
                        said = json.loads(call.body)
                        self.add_fault(*[Fault.from_json(one) for one in (said if isinstance(said, list) else [said])])
                    except ValueError as exc:
                        raise _Refused(400, f"Bad Request: {exc}") from exc
                return json_response(200, {"faults": [asdict(fault) for fault in self.faults]})
            case "POST", "/_written":
                return json_response(200, {"update_id": self._written(call)})
        raise _Refused(404, "Not Found")

    def _written(self, call: HttpCall) -> int:
        try:
            said = json.loads(call.body)
            if isinstance(said.get("update"), dict):
                return self.add_update(said["update"])
            return self.write(str(said["text"]), user_id=int(said["user_id"]), chat_id=said.get("chat_id"))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise _Refused(400, f"Bad Request: {exc}") from exc

    def answer(self, token: str, method: str, fields: dict[str, Any]) -> object:
        """The `result` of one call. Raises _Refused, or Dropped or Trickled if no answer is to be given."""
        with self._wake_up:
            self._calls[method] += 1
            self._wake_up.notify_all()
            fault = self._next_fault(method, fields)
        if not re.fullmatch(r"\d+:[\w-]+", token) and self._token is None:
            raise _Refused(404, "Not Found")
        if self._token is not None and token != self._token:
            raise _Refused(401, "Unauthorized")
        if fault is not None:
            self._fail_before_accepting(fault, fields)
        match method:
            case "getMe":
                bot_id = int(token.partition(":")[0]) if token.partition(":")[0].isdecimal() else 1
                result: object = {
                    "id": bot_id, "is_bot": True, "first_name": "Simulated", "username": "simulated_bot"
                }  # fmt: skip
            case "getChat":
                gifts = dict.fromkeys(
                    (
                        "unlimited_gifts",
                        "limited_gifts",
                        "unique_gifts",
                        "premium_subscription",
                        "gifts_from_channels",
                    ),
                    False,
                )
                chat = self._chat(fields)
                result = {**chat, "accent_color_id": 0, "max_reaction_count": 11, "accepted_gift_types": gifts}
            case "sendMessage":
                result = self._accept(fields)
            case "getUpdates":
                result = self._updates_for(fields)
            case _:
                raise _Refused(404, "Not Found")
        if fault is None:
            return result
        return self._fail_after_accepting(fault, result)

    def _updates_for(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Waits for some; what is before the offset is forgotten for ever."""
        try:
            offset, limit = int(fields.get("offset") or 0), int(fields.get("limit") or 100)
            until = time.monotonic() + float(fields.get("timeout") or 0)
        except ValueError as exc:
            raise _Refused(400, f"Bad Request: {exc}") from exc
        with self._wake_up:
            self._asker += 1
            mine = self._asker
            self._wake_up.notify_all()
            if offset > 0:
                self._updates = [each for each in self._updates if _number(each) >= offset]
            while not self._updates:
                left = until - time.monotonic()
                if left <= 0 or self._server.stopping.is_set():
                    break
                self._wake_up.wait(min(left, 0.2))
                if self._asker != mine:
                    raise _Refused(409, _CONFLICT)
            return self._updates[: max(1, limit)]

    def _next_fault(self, method: str, fields: dict[str, Any]) -> Fault | None:
        for index, fault in enumerate(self._faults):
            if fault.method not in (None, method):
                continue
            if fault.kind is FaultKind.BAD_ENTITIES and not fields.get("parse_mode"):
                continue
            if fault.times == 1:
                del self._faults[index]
            elif fault.times is not None:
                self._faults[index] = replace(fault, times=fault.times - 1)
            return fault
        return None

    def _fail_before_accepting(self, fault: Fault, fields: dict[str, Any]) -> None:
        match fault.kind:
            case FaultKind.TOO_MANY_REQUESTS:
                pause = max(1, int(fault.seconds))
                raise _Refused(429, f"Too Many Requests: retry after {pause}", {"retry_after": pause})
            case FaultKind.BAD_ENTITIES:
                raise _Refused(400, 'Bad Request: can\'t parse entities: Unsupported start tag "x" at byte offset 0')
            case FaultKind.CHAT_NOT_FOUND:
                raise _Refused(400, "Bad Request: chat not found")
            case FaultKind.CHAT_MOVED:
                new_id = int(f"-100{str(fields.get('chat_id', '')).lstrip('-') or 1}")
                raise _Refused(
                    400,
                    "Bad Request: group chat was upgraded to a supergroup chat",
                    {"migrate_to_chat_id": new_id},
                )
            case FaultKind.CONFLICT:
                raise _Refused(409, _CONFLICT)
            case FaultKind.UNAUTHORIZED:
                raise _Refused(401, "Unauthorized")
            case FaultKind.FORBIDDEN:
                raise _Refused(403, "Forbidden: bot was blocked by the user")
            case FaultKind.SERVER_ERROR:
                raise _Refused(fault.status, "")
            case FaultKind.NONSENSE:
                raise _Refused(200, "")
            case FaultKind.TRICKLES:
                raise Trickled
            case FaultKind.DROP:
                raise Dropped
            case FaultKind.NEVER_ANSWERS:
                self._server.stopping.wait()
                raise Dropped
            case _:
                return

    def _fail_after_accepting(self, fault: Fault, result: object) -> object:
        if fault.kind is FaultKind.ACCEPT_THEN_DROP:
            raise Dropped
        if fault.kind is FaultKind.SLOW:
            self._server.stopping.wait(fault.seconds)
        return {} if fault.kind is FaultKind.BARE_ANSWER else result

    def _chat(self, fields: dict[str, Any]) -> dict[str, Any]:
        chat_id = str(fields.get("chat_id", ""))
        if not chat_id:
            raise _Refused(400, "Bad Request: chat_id is empty")
        known = self._chat_ids is None or chat_id in self._chat_ids
        if not known or not re.fullmatch(r"-?\d+|@\w+", chat_id):
            raise _Refused(400, "Bad Request: chat not found")
        if chat_id.startswith("@"):
            return {"id": -1001000000001, "type": "channel", "title": chat_id[1:], "username": chat_id[1:]}
        if chat_id.startswith("-"):
            kind = "supergroup" if chat_id.startswith("-100") else "group"
            return {"id": int(chat_id), "type": kind, "title": "Simulated group"}
        return {"id": int(chat_id), "type": "private", "first_name": "Reader"}

    def _accept(self, fields: dict[str, Any]) -> dict[str, Any]:
        chat = self._chat(fields)
        source = str(fields.get("text", ""))
        parse_mode = fields.get("parse_mode") or None
        text = source
        if parse_mode is not None:
            if str(parse_mode).lower() != "html":
                raise _Refused(400, "Bad Request: unsupported parse_mode")
            try:
                text = read_html(source)
            except ValueError as exc:
                raise _Refused(400, f"Bad Request: can't parse entities: {exc}") from exc
        if not text.strip():
            raise _Refused(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le", "surrogatepass")) // 2 > LONGEST_TEXT:
            raise _Refused(400, "Bad Request: message is too long")
        now = datetime.now(UTC)
        with self._wake_up:
            self._last_message_id += 1
            message = ReceivedMessage(
                message_id=self._last_message_id,
                chat_id=str(fields["chat_id"]),
                text=text,
                source=source,
                parse_mode=None if parse_mode is None else str(parse_mode),
                link_preview=not _previews_are_off(fields),
                received_at=now,
            )
            self._messages.append(message)
            self._wake_up.notify_all()
        if self._on_message is not None:
            self._on_message(message)
        return {"message_id": message.message_id, "date": int(now.timestamp()), "chat": chat, "text": text}


def _number(update: dict[str, Any]) -> int:
    number = update["update_id"]
    return number if isinstance(number, int) else sys.maxsize


def _previews_are_off(fields: dict[str, Any]) -> bool:
    options = fields.get("link_preview_options")
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError as exc:
            raise _Refused(400, "Bad Request: can't parse link preview options JSON object") from exc
    chosen = options.get("is_disabled") if isinstance(options, dict) else fields.get("disable_web_page_preview")
    return chosen in (True, "true", "True", 1, "1")


def _fields(call: HttpCall) -> dict[str, Any]:
    if not call.body:
        return {}
    if call.content_type == "application/x-www-form-urlencoded":
        return dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
    if call.content_type == "application/json":
        try:
            said = json.loads(call.body)
        except ValueError as exc:
            raise _Refused(400, "Bad Request: can't parse the JSON body") from exc
        if isinstance(said, dict):
            return said
    raise _Refused(400, f"Bad Request: the simulator reads no {call.content_type} body")


def _refusal(status: int, description: str, parameters: dict[str, Any] | None = None) -> Response:
    if not description:
        return Response(b"<html><body>upstream trouble</body></html>", status, media_type="text/html")
    answer: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if parameters is not None:
        answer["parameters"] = parameters
    return json_response(status, answer)


def _print_message(message: ReceivedMessage) -> None:
    head = f"--- {message.received_at:%Y-%m-%d %H:%M:%S} UTC, chat {message.chat_id}, message {message.message_id}"
    print(f"{head}\n{message.text}\n", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m simulators.telegram", description="A Telegram Bot API on loopback that prints what it is sent."
    )
    parser.add_argument("--port", type=int, default=8081, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--token", help="the only token that is good (default: any)")
    parser.add_argument("--chat-id", action="append", help="a chat that exists; may be repeated (default: any)")
    chosen = parser.parse_args(argv)
    try:
        server = SimulatedTelegram(
            token=chosen.token, chat_ids=chosen.chat_id, port=chosen.port, on_message=_print_message
        )
    except (OSError, OverflowError) as exc:
        print(f"Cannot listen on 127.0.0.1:{chosen.port}: {exc}", file=sys.stderr)
        return 1
    stop_asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_asked.set())
    with server:
        print(
            f"Simulated Telegram on {server.base_url}; Ctrl-C ends it. Settings for the service:\n"
            f"  TELEGRAM_ENABLED=true\n  TELEGRAM_API_BASE_URL={server.base_url}\n"
            f"  TELEGRAM_BOT_TOKEN={'(as given)' if chosen.token else DEFAULT_TOKEN}\n"
            f"  TELEGRAM_CHAT_ID={(chosen.chat_id or ['1'])[0]}\n",
            flush=True,
        )
        stop_asked.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
