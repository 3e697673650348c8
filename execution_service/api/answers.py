"""Answers as JSON: exact decimals as text, times in ISO 8601, a tag by which a poller learns that nothing has changed; and places in lists."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.problems import Problem, reason
from execution_service.runtime.clock import Clock
from execution_service.runtime.threads import Blocking
from execution_service.storage.ports.queries import Place

MOST_ROWS = 1000
LONGEST_CURSOR = 512
RECENT_SECONDS, OLDEST_SECONDS = 1.0, 10.0
LEAST_TIMES = 50
"""A list is kept at least so many times as long as it took to draw it up: no list takes more than a fiftieth of the time, however slow the machine
or the store is. At most for `OLDEST_SECONDS`."""
ANSWERS_KEPT = 32


def as_json(value: object) -> bytes:
    # Half a character, from a broker's text, has no UTF-8.
    return json.dumps(value, ensure_ascii=False, default=_plain, separators=(",", ":")).encode("utf-8", "replace")


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case Decimal():
            return format(value, "f")
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case Mapping():
            return dict(value)
        case tuple() | frozenset() | set():
            return list(value)
    return str(value)


def answer(request: Request, body: object, *, headers: Mapping[str, str] | None = None) -> Response:
    """To be asked again: with its tag the caller is told 304 as long as nothing has changed."""
    return _tagged(request, drawn_up(body, headers or {}))


class Recent:
    """Answers that many ask for: drawn up once a second at most, whoever asks, and away from the event loop.

    So a hundred boards cost the store and the interpreter as much as one. An answer is at most a second older than its question, unless it took long;
    `Age` tells.
    """

    def __init__(self, clock: Clock, threads: Blocking) -> None:
        self._clock = clock
        self._threads = threads
        self._kept: OrderedDict[str, tuple[float, asyncio.Task[Drawn]]] = OrderedDict()
        self._took: OrderedDict[str, float] = OrderedDict()

    async def answer(self, request: Request, question: Coroutine[Any, Any, Body]) -> Response:
        """The answer to `question`, or to the same one that was asked just now. Raises what the question raises."""
        key = f"{request.url.path}?{urlencode(sorted(request.query_params.multi_items()))}"
        made_at, task = self._kept.get(key, (float("-inf"), None))
        now = self._clock.monotonic()
        lasts = min(max(RECENT_SECONDS, LEAST_TIMES * self._took.get(key, 0.0)), OLDEST_SECONDS)
        if task is None or (task.done() and (now - made_at >= lasts or not _is_well(task))):
            made_at = now
            task = asyncio.create_task(self._drawn(key, question))
            self._kept.pop(key, None)
            self._kept[key] = (now, task)
            if len(self._kept) > ANSWERS_KEPT:
                self._kept.popitem(last=False)
        else:
            question.close()
        drawn = await asyncio.shield(task)  # others may wait for it
        age = {"Age": str(int(self._clock.monotonic() - made_at))}
        return _tagged(request, replace(drawn, headers={**drawn.headers, **age}))

    async def _drawn(self, key: str, question: Coroutine[Any, Any, Body]) -> Drawn:
        began = self._clock.monotonic()
        body = await question
        drawn = await self._threads.run(lambda: drawn_up(body.draw(), body.headers))
        self._took.pop(key, None)
        self._took[key] = self._clock.monotonic() - began
        if len(self._took) > ANSWERS_KEPT:
            self._took.popitem(last=False)
        return drawn


@dataclass(frozen=True, slots=True)
class Body:
    """What is to be answered, from what was read for it."""

    draw: Callable[[], object]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answer as it is sent. By its tag the caller learns that nothing has changed."""

    text: bytes
    tag: str
    headers: Mapping[str, str]


def drawn_up(body: object, headers: Mapping[str, str]) -> Drawn:
    text = as_json(body)
    return Drawn(text, f'"{sha256(text).hexdigest()[:32]}"', headers)


def _is_well(task: asyncio.Task[Drawn]) -> bool:
    return not task.cancelled() and task.exception() is None


def _tagged(request: Request, drawn: Drawn) -> Response:
    more = {"ETag": drawn.tag, "Cache-Control": "no-cache", **drawn.headers}
    wanted = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if drawn.tag in wanted:
        return Response(status_code=304, headers=more)
    return Response(drawn.text, media_type="application/json", headers=more)


def done(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Of something that was done: not to be kept."""
    more = {"Cache-Control": "no-store", **(headers or {})}
    return Response(as_json(body), status, media_type="application/json", headers=more)


# --- pages ----------------------------------------------------------------------------------------------------------


def cursor_of(moment: datetime, row_id: str) -> str:
    """Opaque to callers."""
    text = json.dumps([moment.astimezone(UTC).isoformat(), row_id])
    return base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode().rstrip("=")


def place_of(cursor: str | None) -> Place | None:
    """Raises Problem for what no page has given."""
    if cursor is None:
        return None
    try:
        if len(cursor) > LONGEST_CURSOR:
            raise ValueError(cursor[:20])
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        moment_text, row_id = json.loads(text)
        moment = datetime.fromisoformat(moment_text)
        if not isinstance(row_id, str) or moment.tzinfo is None:
            raise ValueError(row_id)
    except (ValueError, TypeError, RecursionError, binascii.Error) as exc:
        words = "cursor is none that a page has given"
        raise Problem(400, "invalid-query", words, reasons=[reason("INVALID_QUERY", words)]) from exc
    return Place(moment=moment, row_id=row_id)


def next_link(request: Request, cursor: str) -> str:
    """The same question, from there on."""
    asked = {name: value for name, value in request.query_params.items() if name != "cursor"}
    return f"{request.url.path}?{urlencode({**asked, 'cursor': cursor})}"


def known_query(request: Request, *names: str) -> None:
    """Raises Problem for a parameter that nobody reads: a filter that was mistyped must not show everything."""
    unknown = sorted(set(request.query_params) - set(names))
    if unknown:
        words = f"{', '.join(unknown)[:200]} is not asked for here; known: {', '.join(names) or 'none'}"
        raise Problem(400, "invalid-query", words, reasons=[reason("INVALID_QUERY", words)])


def whole_number(request: Request, name: str, default: int, most: int = MOST_ROWS) -> int:
    """From 1. Raises Problem."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= most):
        words = f"{name} has to be a whole number from 1 to {most}"
        raise Problem(400, "invalid-query", words, reasons=[reason("INVALID_QUERY", words)])
    return int(text)


def one_of(request: Request, name: str, allowed: Mapping[str, Any]) -> Any | None:
    """By its word, in any case; None: not given. Raises Problem."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if text.lower() not in allowed:
        words = f"{name} has to be one of {', '.join(allowed)}"
        raise Problem(400, "invalid-query", words, reasons=[reason("INVALID_QUERY", words)])
    return allowed[text.lower()]
