"""How many orders came and ended in each of the last sixty minutes, and how long brokers took to acknowledge them: as this process saw it."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from execution_service.runtime.clock import Clock

MINUTES = 60
_STEP = 1.1
"""Each class of latencies begins so much above the one before: percentiles are right to a tenth, at any number of orders."""
_SHORTEST_SECONDS = 0.0001


@dataclass(slots=True)
class _Minute:
    received: int = 0
    filled: int = 0
    refused: int = 0
    latencies: Counter[int] = field(default_factory=Counter)


class Pace:
    """An hour, a minute each; what is older is forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = clock.now()
        self._minutes: OrderedDict[int, _Minute] = OrderedDict()

    def received(self, at: datetime) -> None:
        if (minute := self._minute(at)) is not None:
            minute.received += 1

    def filled(self, at: datetime) -> None:
        if (minute := self._minute(at)) is not None:
            minute.filled += 1

    def refused(self, at: datetime) -> None:
        if (minute := self._minute(at)) is not None:
            minute.refused += 1

    def acknowledged(self, at: datetime, seconds: float) -> None:
        """`seconds`: from sent to acknowledged."""
        if (minute := self._minute(at)) is not None:
            minute.latencies[_class_of(seconds)] += 1

    def _minute(self, at: datetime) -> _Minute | None:
        """None: that is longer ago than is kept, or ahead of the clock."""
        number, now = _number(at), _number(self._clock.now())
        if not now - MINUTES < number <= now:
            return None
        if number not in self._minutes:
            self._minutes[number] = _Minute()
            for old in [each for each in self._minutes if each <= now - MINUTES]:
                del self._minutes[old]
        return self._minutes[number]

    def minutes(self) -> Sequence[Mapping[str, Any]]:
        """Since the start, an hour at most, the oldest first; the last one goes on. Latency is null where nothing was acknowledged."""
        now = _number(self._clock.now())
        first = max(now - MINUTES + 1, _number(self._began_at))
        return [_fields(number, self._minutes.get(number, _Minute())) for number in range(first, now + 1)]


def _fields(number: int, minute: _Minute) -> Mapping[str, Any]:
    return {
        "at": datetime.fromtimestamp(number * 60, UTC),
        "received": minute.received,
        "filled": minute.filled,
        "refused": minute.refused,
        "acknowledged": minute.latencies.total(),
        "latency_ms_p50": _percentile(minute.latencies, 0.5),
        "latency_ms_p95": _percentile(minute.latencies, 0.95),
    }


def _number(at: datetime) -> int:
    return int(at.timestamp() // 60)


def _class_of(seconds: float) -> int:
    return math.ceil(math.log(max(seconds, _SHORTEST_SECONDS) / _SHORTEST_SECONDS, _STEP))


def _percentile(latencies: Counter[int], share: float) -> float | None:
    """In milliseconds: the bound of the class below which so many of them are."""
    wanted, seen = share * latencies.total(), 0
    for number in sorted(latencies):
        seen += latencies[number]
        if seen >= wanted:
            return round(1000 * _SHORTEST_SECONDS * float(_STEP**number), 2)
    return None
