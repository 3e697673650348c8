"""Remembers a digest of the last report of each order, so that a repeated report can be skipped. The reports
themselves are not kept."""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b

from brokers.base import Report

_BYTES = 15
"""120 bits: an int of 40 bytes, and no collision in practice, even against an adversary."""


class LastReported:
    """A bounded memory of name -> digest of its last value: at least the latest `at_least` names, at most twice as
    many, under 200 bytes each. Values are compared by an exact text: a different sign, type or trailing zero makes
    them different, so that the worst mistake is to process an equal report once more."""

    def __init__(self, at_least: int) -> None:
        self._at_least = at_least
        self._fresh: dict[int, int] = {}
        self._stale: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._fresh.keys() | self._stale.keys())

    def is_known(self, name: str, said: Hashable) -> bool:
        """Whether `said` equals the last value noted under this name. If so, the name counts as recently used."""
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
        """Keeps this as the name's last value."""
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
    """The key of a report: the order's id at the broker too, because several orders may bear one tag."""
    return f"{report.client_order_id} {report.broker_order_id}"
