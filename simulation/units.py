"""Between the world's decimals and the matcher's whole numbers: ticks, lots, microseconds, and text without trailing noise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
"""In microseconds."""
_MICROSECOND = timedelta(microseconds=1)


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


def written_time(at: int) -> str:
    text = moment(at).isoformat(timespec="seconds" if at % 1_000_000 == 0 else "microseconds")
    return text.replace("+00:00", "Z")


class Whole:
    """Decimals as whole numbers of a step. What is no multiple of it raises ValueError; texts seen before are looked up."""

    MOST_KEPT = 1_000_000

    def __init__(self, step: Decimal) -> None:
        self.step = step
        exponent = step.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        self._places = max(0, -exponent)
        self._seen: dict[str, int] = {}
        self._written: dict[int, str] = {}

    def of(self, text: str) -> int:
        """Raises ValueError: no decimal number, or none of the steps."""
        found = self._seen.get(text)
        if found is None:
            try:
                found = self.of_number(Decimal(text))
            except InvalidOperation:
                raise ValueError("is no decimal number") from None
            if len(self._seen) < self.MOST_KEPT:
                self._seen[text] = found
        return found

    def of_number(self, number: Decimal) -> int:
        """Raises ValueError."""
        if not number.is_finite():
            raise ValueError("is no decimal number")
        count, rest = divmod(number, self.step)
        if rest:
            raise ValueError(f"is no multiple of {self.step}")
        return int(count)

    def decimal(self, count: int) -> Decimal:
        return self.step * count

    def text(self, count: int) -> str:
        """Always with as many decimals as the step has."""
        found = self._written.get(count)
        if found is None:
            found = f"{self.step * count:.{self._places}f}"
            if len(self._written) < self.MOST_KEPT:
                self._written[count] = found
        return found
