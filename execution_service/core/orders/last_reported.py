"""What was last said of each of many things, kept in a few bytes each, so that a repetition is known as one; not what it was."""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b

from brokers.base import Report

_BYTES = 15
"""120 bits, which an int holds in 40 bytes: two different things have the same digest as good as never, whoever chose them."""


class LastReported:
    """Remembers at least the latest `at_least` names and at most twice as many, each with the last thing said of it: both as digests of
    an exact text, less than 200 bytes a name however much was said. What differs in any way, in a sign, a type or a trailing zero, is
    another thing: the worst that comes of it is that something equal is looked at once more."""

    def __init__(self, at_least: int) -> None:
        self._at_least = at_least
        self._fresh: dict[int, int] = {}
        self._stale: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._fresh.keys() | self._stale.keys())

    def is_known(self, name: str, said: Hashable) -> bool:
        """Whether this is what was said of it last; then it is remembered as if it had been noted now."""
        key = _digest(str(name))
        if key in self._fresh:
            return self._fresh[key] == _digest(_text(said))
        if key not in self._stale:
            return False
        number = _digest(_text(said))
        if self._stale[key] != number:
            return False
        self._note(key, number)
        return True

    def note(self, name: str, said: Hashable) -> None:
        self._note(_digest(str(name)), _digest(_text(said)))

    def _note(self, key: int, number: int) -> None:
        self._fresh[key] = number
        if len(self._fresh) >= self._at_least:
            self._fresh, self._stale = {}, self._fresh


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest(), "big")


def _text(said: object) -> str:
    """Equal only for what is equal in value and in type; the elements of a set in a sequence of their own."""
    return repr(_in_sequence(said))


def _in_sequence(said: object) -> object:
    if isinstance(said, tuple):
        return tuple(map(_in_sequence, said))
    return ("frozenset", *sorted(map(_text, said))) if isinstance(said, frozenset) else said


def name_of(report: Report) -> str:
    """Of the order at the broker: there may be several under one tag."""
    return f"{report.client_order_id} {report.broker_order_id}"
