"""Between the world's decimals and the matcher's whole numbers: ticks, lots, microseconds, and text without trailing noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TypeVar

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
"""In microseconds."""
_MICROSECOND = timedelta(microseconds=1)
K = TypeVar("K")
V = TypeVar("V")


def microseconds(at: datetime) -> int:
    return (at - EPOCH) // _MICROSECOND


def moment(at: int) -> datetime:
    return EPOCH + at * _MICROSECOND


def parsed_time(text: str) -> int:
    """ISO 8601 with Z or an offset, or a date alone, which is its midnight in UTC. Raises ValueError."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        if len(text) != 10:
            raise ValueError("a time needs Z or an offset")
        at = at.replace(tzinfo=UTC)
    return microseconds(at)


_TRUTHS = {"": False, "0": False, "false": False, "1": True, "true": True}


def truth(text: str) -> bool:
    """Of a column of flags; empty is false. Raises ValueError."""
    known = _TRUTHS.get(text.strip().lower())
    if known is None:
        raise ValueError("is none of 0, 1, true, false")
    return known


def exact(text: str) -> Decimal:
    """Digits, a sign, a point and an exponent, as files have them. Raises InvalidOperation, for what else Python would take for a number too:
    digits of other scripts, and such as are grouped by underscores."""
    if not text.isascii() or "_" in text:
        raise InvalidOperation
    return Decimal(text)


def written_time(at: int) -> str:
    text = moment(at).isoformat(timespec="seconds" if at % 1_000_000 == 0 else "microseconds")
    return text.replace("+00:00", "Z")


class Kept(dict[K, V]):
    """What a function makes of each key, worked out once: a whole column is `map(kept.__getitem__, keys)`. What the function raises is raised,
    and nothing is kept then."""

    MOST = 1_000_000
    """So many answers are kept; others are worked out each time."""

    def __init__(self, work_out: Callable[[K], V]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, key: K) -> V:
        value = self._work_out(key)
        if len(self) < self.MOST:
            self[key] = value
        return value


class Whole:
    """Decimals as whole numbers of a step. What is no multiple of it raises ValueError."""

    def __init__(self, step: Decimal) -> None:
        self.step = step
        exponent = step.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        self._places = max(0, -exponent)
        self._read = Kept(self.parsed)
        self._written = Kept(self._text)

    def of(self, text: str) -> int:
        """Raises ValueError: no decimal number, or none of the steps."""
        return self._read[text]

    def all_of(self, texts: Iterable[str]) -> list[int]:
        """Raises ValueError if any of them is none."""
        return list(map(self._read.__getitem__, texts))

    def parsed(self, text: str) -> int:
        """As `of`, without keeping the answer."""
        try:
            return self.of_number(exact(text))
        except InvalidOperation:
            raise ValueError("is no decimal number") from None

    def of_number(self, number: Decimal) -> int:
        """Raises ValueError."""
        if not number.is_finite():
            raise ValueError("is no decimal number")
        count, rest = divmod(number, self.step)
        if rest:
            raise ValueError(f"is no multiple of {self.step}")
        return int(count)

    def text(self, count: int) -> str:
        """Always with as many decimals as the step has."""
        return self._written[count]

    @property
    def text_of(self) -> Callable[[int], str]:
        """As `text`, for a whole column."""
        return self._written.__getitem__

    def _text(self, count: int) -> str:
        return f"{self.step * count:.{self._places}f}"
