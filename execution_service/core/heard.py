"""What was last said of each of many things, kept in a few bytes each, so that a repetition is known as one; not what it was."""

from __future__ import annotations

from collections.abc import Hashable

from brokers.base import Report

_BITS = (1 << 60) - 1
"""Numbers up to this take half the memory of the next larger ones."""


class Heard:
    """Remembers at least the latest `at_least` names and at most twice as many, each with the last thing said of it: both as numbers of 60
    bits, some 120 bytes a name. That two things are taken for one is as good as impossible."""

    def __init__(self, at_least: int) -> None:
        self._at_least = at_least
        self._fresh: dict[int, int] = {}
        self._stale: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._fresh.keys() | self._stale.keys())

    def is_known(self, name: str, said: Hashable) -> bool:
        """Whether this is what was said of it last; then it is remembered as if it had been noted now."""
        key, number = hash(name) & _BITS, hash(said) & _BITS
        if self._fresh.get(key) == number:
            return True
        if key in self._fresh or self._stale.get(key) != number:
            return False
        self._note(key, number)
        return True

    def note(self, name: str, said: Hashable) -> None:
        self._note(hash(name) & _BITS, hash(said) & _BITS)

    def _note(self, key: int, number: int) -> None:
        self._fresh[key] = number
        if len(self._fresh) >= self._at_least:
            self._fresh, self._stale = {}, self._fresh


def name_of(report: Report) -> str:
    """Of the order at the broker: there may be several under one tag."""
    return f"{report.client_order_id} {report.broker_order_id}"
