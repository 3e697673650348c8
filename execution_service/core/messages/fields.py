"""Reads untrusted JSON into typed fields and collects everything that is wrong with them. What a field means for an
order is not known here."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import TypeVar

T = TypeVar("T")

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_DEPTH = 100
MAX_TEXT_LENGTH = 256
MAX_DIGITS = 18
SHOWN_LENGTH = 60

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_LONGEST_NUMBER = 64
_MOST_BITS_WRITTEN_OUT = 4096
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_STRING_OR_NOT_FINITE = re.compile(rf"({_STRING})|-?Infinity|NaN", re.DOTALL)
_STRING_OR_BRACKETS = re.compile(rf"{_STRING}|[\[{{]|[\]}}]", re.DOTALL)


class UnreadableMessage(ValueError):
    """The bytes are not one JSON object of a permitted size. The message says why."""


class Number(str):
    """A JSON number as it was written. Its length is checked before anything is computed."""

    __slots__ = ()


class NotFinite(str):
    """One of NaN, Infinity and -Infinity: not JSON, but Python senders produce them."""

    __slots__ = ()


class RepeatedNames(dict[str, object]):
    """An object in which a name occurs more than once, so that it is not known which value was meant."""

    names: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    times = Counter(name for name, _ in pairs)
    repeated = RepeatedNames(values)
    repeated.names = tuple(name for name, count in times.items() if count > 1)
    return repeated


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=NotFinite)


def text_of(data: bytes) -> str:
    """The message as text. Raises UnreadableMessage."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise UnreadableMessage(f"the message has {len(data)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise UnreadableMessage(f"the message is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    if text.startswith("\ufeff"):
        raise UnreadableMessage("the message begins with a byte order mark, which JSON forbids")
    return text


def object_of(text: str) -> dict[str, object]:
    """The JSON object that the text holds, numbers still as text. Raises UnreadableMessage."""
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise UnreadableMessage(f"the message is nested more than {MAX_DEPTH} deep")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise UnreadableMessage(f"the message is not JSON: {exc.msg} at character {exc.pos}") from exc
    except RecursionError as exc:
        raise UnreadableMessage("the message is nested too deeply") from exc
    if not isinstance(value, dict):
        raise UnreadableMessage(f"the message is {shown(value)}, not a JSON object")
    return value


def _depth(text: str) -> int:
    deepest = depth = 0
    for match in _STRING_OR_BRACKETS.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def without_not_finite(text: str) -> str:
    """The JSON text with null for each NaN, Infinity and -Infinity outside strings; unchanged if there are none."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return _STRING_OR_NOT_FINITE.sub(lambda match: match.group(1) or "null", text)


def written(value: object) -> str:
    """A Python value as JSON text: floats by their shortest repr, decimals exactly, types that JSON does not have by
    their `str`.

    Raises RecursionError for a value that contains itself.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case float():
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text := float.__repr__(value), text)
        case int():
            exact = value.bit_length() <= _MOST_BITS_WRITTEN_OUT
            return int.__repr__(value) if exact else format(Decimal(value), ".6e")
        case Decimal():
            if value.is_finite():
                return str(value)
            return "NaN" if value.is_nan() else "-Infinity" if value < 0 else "Infinity"
        case Mapping():
            return "{" + ",".join(f"{json.dumps(str(name))}:{written(part)}" for name, part in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(str(value))


def shown(value: object) -> str:
    """The value for a sentence: on one line, without control or invisible characters, and shortened."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Number() | NotFinite():
            return value[:SHOWN_LENGTH] + ("…" if len(value) > SHOWN_LENGTH else "")
        case str():
            return repr(str(value[:SHOWN_LENGTH])) + ("…" if len(value) > SHOWN_LENGTH else "")
        case dict():
            return "an object"
        case list():
            return "a list"
    return "a value of another kind"


def exact_decimal(text: str) -> Decimal | None:
    """The number, exactly. None if it has more than 18 significant digits, 18 decimals or 18 digits before the point.

    `text` must look like a number. A huge exponent costs nothing: it is checked, never expanded.
    """
    if len(text) > _LONGEST_NUMBER:
        return None
    if len(text) <= MAX_DIGITS and "e" not in text and "E" not in text:
        return Decimal(text)
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > len("+0000"):
        return None
    whole, _, decimals = mantissa.lstrip("+-").partition(".")
    digits = (whole + decimals).lstrip("0").rstrip("0")
    if not digits:
        return Decimal(0)
    scale = int(exponent or 0) - len(decimals) + len(whole + decimals) - len((whole + decimals).rstrip("0"))
    if len(digits) > MAX_DIGITS or scale < -MAX_DIGITS or len(digits) + scale > MAX_DIGITS:
        return None
    return Decimal(text)


def normal_word(text: str) -> str:
    """The form in which words of closed lists are compared: upper case, an underscore for a space or hyphen."""
    return text.strip().upper().replace("-", "_").replace(" ", "_")


class Fields:
    """The fields of one message. Each reading method returns the value, or None if it is absent or wrong; errors are
    collected in `problems`.

    Null and blank text count as absent. Several names given to one method are synonyms: one is enough, and two that
    differ are an error.
    """

    __slots__ = ("_values", "problems")

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self.problems: list[str] = []
        if isinstance(values, RepeatedNames):
            self.problems += [f"{shown(name)} stands more than once in the message" for name in values.names[:10]]
            self._values = {name: value for name, value in values.items() if name not in values.names}

    @property
    def names(self) -> Iterable[str]:
        """All field names of the message, in their order."""
        return self._values.keys()

    def get(self, name: str) -> object:
        value = self._values.get(name)
        if type(value) is str and (not value or value.isspace()):
            return None
        return value

    def has(self, *names: str) -> bool:
        return any(self.get(name) is not None for name in names)

    def wrong(self, name: str, must: str) -> None:
        self.problems.append(f"{name} must be {must}, not {shown(self.get(name))}")

    def same(self, names: tuple[str, ...], read: Callable[[str], T | None]) -> T | None:
        """The common value of all these names that are present."""
        found: T | None = None
        found_name = ""
        agreed = True
        for name in names:
            value = read(name)
            if value is None:
                continue
            if found is None:
                found, found_name = value, name
            elif value != found:
                self.contradiction(found_name, name)
                agreed = False
        return found if agreed else None

    def contradiction(self, one: str, other: str) -> None:
        self.problems.append(f"{one} {shown(self.get(one))} contradicts {other} {shown(self.get(other))}")

    def text(self, name: str) -> str | None:
        """Printable text of 1 to 256 characters, unchanged. A whole number counts as its digits."""
        value = self.get(name)
        if value is None:
            return None
        if type(value) is str:
            if len(value) > MAX_TEXT_LENGTH:
                self.wrong(name, f"at most {MAX_TEXT_LENGTH} characters long")
            elif not value.isprintable():
                self.wrong(name, "printable text")
            else:
                return value
        elif isinstance(value, Number) and (digits := whole_digits(value)) is not None:
            return digits
        else:
            self.wrong(name, "text")
        return None

    def word(self, name: str, allowed: Mapping[str, T]) -> T | None:
        """One of a closed list of words."""
        value = self.get(name)
        if value is None:
            return None
        word = allowed.get(normal_word(value)) if type(value) is str else None
        if word is None:
            self.wrong(name, "one of " + ", ".join(dict.fromkeys(str(each) for each in allowed.values())))
        return word

    def pattern(self, name: str, pattern: re.Pattern[str], must: str) -> str | None:
        """Text in upper case and stripped, which must match the whole pattern. A whole number counts as its digits."""
        value = self.get(name)
        if value is None:
            return None
        text = value.strip().upper() if type(value) is str else whole_digits(value) if isinstance(value, Number) else ""
        if text and pattern.fullmatch(text):
            return text
        self.wrong(name, must)
        return None

    def number(self, name: str) -> Decimal | None:
        """A JSON number or a decimal string, exactly."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, NotFinite):
            self.wrong(name, "a finite number")
        elif not isinstance(value, str) or not (isinstance(value, Number) or _NUMBER.fullmatch(value.strip())):
            self.wrong(name, "a number")
        elif (number := exact_decimal(value.strip())) is None:
            self.wrong(name, f"a number of at most {MAX_DIGITS} digits before and after the point and in all")
        else:
            return number
        return None

    def positive(self, name: str) -> Decimal | None:
        number = self.number(name)
        """A number above 0."""
        if number is None or number > 0:
            return number
        self.wrong(name, "greater than zero")
        return None

    def positive_or_absent(self, name: str) -> Decimal | None:
        """As `positive`, but 0 counts as absent."""
        number = self.number(name)
        if number is None or number > 0:
            return number
        if number < 0:
            self.wrong(name, "greater than zero (zero meaning absent)")
        return None

    def whole(self, name: str, least: int, most: int) -> int | None:
        number = self.number(name)
        """A whole number from `least` to `most`."""
        if number is None:
            return None
        if number == number.to_integral_value() and least <= number <= most:
            return int(number)
        self.wrong(name, f"a whole number from {least} to {most}")
        return None

    def expiry(self, name: str) -> str | None:
        """A date YYYYMMDD or a month YYYYMM."""
        value = self.get(name)
        if value is None:
            return None
        text = value.strip() if isinstance(value, str) else ""
        if text.isascii() and text.isdigit() and len(text) in (6, 8):
            try:
                date(int(text[:4]), int(text[4:6]), int(text[6:] or "1"))
            except ValueError:
                self.wrong(name, "a date that exists")
                return None
            return text
        self.wrong(name, "YYYYMMDD or YYYYMM")
        return None


def whole_digits(number: Number) -> str | None:
    """The digits of a whole number of at most 18 digits ("10.0" gives "10"). None for any other."""
    value = exact_decimal(number)
    if value is None or value != value.to_integral_value():
        return None
    return str(int(value))
