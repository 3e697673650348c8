"""What markets usually trade, as a broker has told it, kept for a while: it changes slowly, and calls that ask for it are few."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal


class KeptVolumes:
    """By the broker's symbol. That nothing is told of one is kept, too, so that it is not asked about again and again."""

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._monotonic = seconds, monotonic
        self._kept: dict[str, tuple[Decimal | None, float]] = {}
        """With the time until which it counts."""

    def to_ask(self, symbols: Collection[str]) -> list[str]:
        """Those of which nothing is kept, or what is too old."""
        now = self._monotonic()
        return [symbol for symbol in symbols if symbol not in self._kept or self._kept[symbol][1] <= now]

    def keep(self, symbols: Collection[str], told: Mapping[str, Decimal]) -> None:
        """What the broker has answered when it was asked about these."""
        until = self._monotonic() + self._seconds
        self._kept |= {symbol: (told.get(symbol), until) for symbol in (*symbols, *told)}

    def of(self, symbol: str) -> Decimal | None:
        """None: the broker does not tell it."""
        return self._kept[symbol][0] if symbol in self._kept else None
