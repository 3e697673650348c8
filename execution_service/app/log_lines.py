"""What a log line looks like: spec 004's form or JSON, always one line a record, nothing forged, nothing leaked; where lines go is not known here."""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

_MAX_CHARACTERS = 20_000
_MIN_SECRET_CHARACTERS = 6

# Control characters, line and paragraph separators, marks that reorder or hide text, lone surrogates, tag characters.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


class Record(NamedTuple):
    """One thing that was logged, not yet turned into text. `created` in seconds since 1970; `event` and `exc_info` are among the keys."""

    created: float
    level: int
    logger: str
    keys: Mapping[str, Any]

    @property
    def signal_id(self) -> str | None:
        given = self.keys.get("signal_id")
        return None if given is None or given == "" else str(given)


_STDLIB_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def of_stdlib(record: logging.LogRecord) -> Record:
    """Raises whatever its arguments raise where they do not fit its message."""
    keys = {name: value for name, value in vars(record).items() if name not in _STDLIB_ATTRIBUTES}
    keys |= {"event": record.getMessage(), "exc_info": record.exc_info}
    return Record(record.created, record.levelno, record.name, keys)


def redact(*secrets: str) -> None:
    """From now on these values appear in no line of any log; those under 6 characters are ignored, as too common."""
    _redactor.add(secrets)


def safe(text: str) -> str:
    """The text as it may be shown outside the log: one line, no secret that `redact` knows, nothing that a terminal would obey."""
    return _visible(_redactor(text))


class _Redactor:
    """Replaces known secrets in finished text, in the spellings in which they may stand there."""

    def __init__(self) -> None:
        self._spellings: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: tuple[str, ...]) -> None:
        for secret in secrets:
            if len(secret) >= _MIN_SECRET_CHARACTERS:
                in_json = json.dumps(secret, ensure_ascii=False)[1:-1]
                in_urls = (quote(secret, safe=""), quote(secret))
                self._spellings |= {secret, in_json, *in_urls, _visible(secret), repr(secret)[1:-1]}
        longest_first = sorted(self._spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub("***", text)


_redactor = _Redactor()


def _visible(text: str) -> str:
    """The text with every character that could forge, hide or reorder a line turned into its escape."""
    # Nothing dangerous is printable; asking is far cheaper than searching.
    if text.isprintable():
        return text
    return _DANGEROUS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def _shortened(message: object) -> str:
    # Redacted first: a cut might leave half of a secret.
    text = _redactor(str(message))
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[:_MAX_CHARACTERS]} ({len(text) - _MAX_CHARACTERS} more characters)"


def _traceback_of(record: Record) -> str:
    exc_info = record.keys.get("exc_info")
    if not exc_info or exc_info[1] is None:
        return ""
    return _shortened("".join(traceback.format_exception(*exc_info)).rstrip("\n"))


def _names(message: str, signal_id: str) -> bool:
    """Whether the message has the id as a word of its own."""
    place = message.find(signal_id)
    while place >= 0:
        around = message[max(place - 1, 0) : place] + message[place + len(signal_id) :][:1]
        if not any(character.isalnum() or character in "_-" for character in around):
            return True
        place = message.find(signal_id, place + 1)
    return False


@lru_cache(maxsize=4)
def _stamp(seconds: int, form: str) -> str:
    return time.strftime(form, time.gmtime(seconds))


def text_line(record: Record) -> str:
    """One line, and below it those of a traceback, none of which can be taken for a record."""
    message = _visible(_shortened(record.keys.get("event", "")))
    if record.level >= logging.WARNING:
        message = f"{logging.getLevelName(record.level)} | {message}"
    signal_id = record.signal_id
    if signal_id is not None and not _names(message, shown_id := _visible(signal_id)):
        message = f"{message} | {shown_id}"
    line = f"{_stamp(int(record.created), '%Y-%m-%d %H:%M:%S')} | [EXECUTION] | {_redactor(message)}\n"
    if trace := _traceback_of(record):
        line += _redactor("".join(f"    | {_visible(each)}\n" for each in trace.split("\n") if each))
    return line


_as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode
_HAVE_A_PLACE = frozenset({"event", "exc_info", "action", "signal_id"})


def json_line(record: Record) -> str:
    """The record as one JSON object on one line."""
    milliseconds = int(record.created * 1000)
    shown: dict[str, object] = {
        "time": f"{_stamp(milliseconds // 1000, '%Y-%m-%dT%H:%M:%S')}.{milliseconds % 1000:03}Z",
        "level": logging.getLevelName(record.level),
        "message": _shortened(record.keys.get("event", "")),
    }
    if "action" in record.keys:
        shown["action"] = record.keys["action"]
    if record.signal_id is not None:
        shown["signal_id"] = record.signal_id
    shown["logger"] = record.logger
    for key, value in record.keys.items():
        if key not in _HAVE_A_PLACE:
            shown[f"{key}_" if key in shown else key] = value
    if trace := _traceback_of(record):
        shown["traceback"] = trace
    try:
        line = _as_json(shown)
    except (TypeError, ValueError):
        # NaN, a circular value or a key that is no text: said in Python's spelling rather than not at all.
        line = _as_json({key: value if isinstance(value, str) else repr(value) for key, value in shown.items()})
    line = _redactor(line)
    if not line.isprintable():
        line = _DANGEROUS.sub(lambda found: json.dumps(found[0])[1:-1], line)
    return f"{line}\n"
