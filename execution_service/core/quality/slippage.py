"""Slippage in basis points: of one fill, and of many together (median, mean by value, 95th percentile); whose they are is not known here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Any, Protocol, TypeVar

from execution_service.core.exact import ZERO

BASIS_POINTS = Decimal(10_000)
_PLACES = Decimal("0.0001")
"""To which slippage and shares of volume are shown."""
Number = TypeVar("Number", int, Decimal)
PERCENTILE = Decimal("0.95")


class HasSlippage(Protocol):
    """An order whose slippage is known."""

    @property
    def slippage_bps(self) -> Decimal: ...

    @property
    def cost(self) -> Decimal | None:
        """None: the contract's size is not known."""

    @property
    def value(self) -> Decimal | None:
        """Of what was filled, at the benchmark. None: likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The slippage of one order; `cost` and `value` None: the contract's size is not known."""

    slippage_bps: Decimal
    cost: Decimal | None = None
    value: Decimal | None = None
    """At the benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slippage:
    """Of orders whose amounts are in one currency. None: nothing was measured."""

    measured: int
    median_bps: Decimal | None
    mean_bps: Decimal | None
    """Weighted by value: the sum of the costs as a part of the sum of the values."""
    p95_bps: Decimal | None
    """95 of 100 orders were not worse: the smallest figure of an order of which that is so."""
    cost: Decimal | None
    """Of those whose amounts are known; so are the mean and the value."""
    value: Decimal | None
    """At the benchmarks."""

    def fields(self) -> dict[str, Any]:
        """As JSON has them."""
        return {
            "measured": self.measured,
            "median_bps": rounded(self.median_bps),
            "mean_bps": rounded(self.mean_bps),
            "p95_bps": rounded(self.p95_bps),
            "cost": self.cost,
            "value": self.value,
        }


def slippage_of(orders: Iterable[HasSlippage]) -> Slippage:
    """The same whatever the sequence in which they come."""
    some = list(orders)
    found = sorted(each.slippage_bps for each in some)
    costs = [each.cost for each in some if each.cost is not None]
    cost = sum(costs, ZERO)
    value = sum((each.value for each in some if each.value is not None), ZERO)
    return Slippage(
        measured=len(found),
        median_bps=median(found),
        mean_bps=cost * BASIS_POINTS / value if value else None,
        p95_bps=percentile(found, PERCENTILE),
        cost=cost if costs else None,
        value=value if costs else None,
    )


def median(rising: Sequence[Number]) -> Decimal | None:
    """The middle one, or half-way between the two in the middle."""
    if not rising:
        return None
    half = len(rising) // 2
    return Decimal(rising[half]) if len(rising) % 2 else (Decimal(rising[half - 1]) + rising[half]) / 2


def percentile(rising: Sequence[Decimal], part: Decimal) -> Decimal | None:
    """By the nearest rank: one of the figures themselves, never something between two. `part` above 0, at most 1."""
    if not rising:
        return None
    return rising[max(ceil(part * len(rising)), 1) - 1]


def slippage_bps(side: int, average: Decimal, benchmark: Decimal) -> Decimal:
    """`side` is 1 for a buy and -1 for a sale; `benchmark` is above 0."""
    return (average - benchmark) * side * BASIS_POINTS / benchmark + ZERO  # never -0


def rounded(figure: Decimal | None) -> Decimal | None:
    """To four decimals, half to even."""
    return None if figure is None else figure.quantize(_PLACES) + ZERO
