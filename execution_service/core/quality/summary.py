"""Fill quality of many orders together: counts, median, mean by value and 95th percentile, from values alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from typing import Any

from execution_service.core.exact import ZERO
from execution_service.core.quality.order_quality import BASIS_POINTS, OrderQuality, rounded

PERCENTILE = Decimal("0.95")


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
    cost: Decimal
    value: Decimal

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


def slippage_of(orders: Iterable[Measured]) -> Slippage:
    """The same whatever the sequence in which they come."""
    some = list(orders)
    found = sorted(each.slippage_bps for each in some)
    cost = sum((each.cost for each in some if each.cost is not None), ZERO)
    value = sum((each.value for each in some if each.value is not None), ZERO)
    return Slippage(
        measured=len(found),
        median_bps=median(found),
        mean_bps=cost * BASIS_POINTS / value if value else None,
        p95_bps=percentile(found, PERCENTILE),
        cost=cost,
        value=value,
    )


def median(rising: Sequence[Decimal]) -> Decimal | None:
    """The middle one, or half-way between the two in the middle."""
    if not rising:
        return None
    half = len(rising) // 2
    return rising[half] if len(rising) % 2 else (rising[half - 1] + rising[half]) / 2


def percentile(rising: Sequence[Decimal], part: Decimal) -> Decimal | None:
    """By the nearest rank: one of the figures themselves, never something between two. `part` above 0, at most 1."""
    if not rising:
        return None
    return rising[max(ceil(part * len(rising)), 1) - 1]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class GroupKey:
    """Amounts of several currencies have no sum: each is a group of its own."""

    strategy: str
    broker: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityGroup:
    """What the orders of one strategy at one broker got."""

    key: GroupKey
    sent: int
    """Orders that have left."""
    filled: int
    """Those of them that filled, in whole or in part."""
    slippage: Slippage
    seconds_to_last_fill: Decimal | None
    """The median."""
    share_of_volume: Decimal | None
    """The median."""
    unmeasured: Mapping[str, int] = field(default_factory=dict)
    """Orders that filled and whose slippage is not known, by the reason."""

    def fields(self) -> dict[str, Any]:
        """As JSON has them."""
        return {
            "strategy": self.key.strategy,
            "broker": self.key.broker,
            "currency": self.key.currency,
            "sent": self.sent,
            "filled": self.filled,
            **self.slippage.fields(),
            "median_seconds_to_last_fill": self.seconds_to_last_fill,
            "median_share_of_volume": rounded(self.share_of_volume),
            "unmeasured": dict(self.unmeasured),
        }


def quality_groups(orders: Iterable[tuple[GroupKey, OrderQuality]]) -> list[QualityGroup]:
    """Of orders that have left; by strategy, broker and currency."""
    gathered: dict[GroupKey, list[OrderQuality]] = {}
    for key, quality in orders:
        gathered.setdefault(key, []).append(quality)
    return [_group(key, gathered[key]) for key in sorted(gathered)]


def _group(key: GroupKey, sent: Sequence[OrderQuality]) -> QualityGroup:
    filled = [each for each in sent if each.average_price is not None]
    seconds = sorted(each.seconds_to_last_fill for each in filled if each.seconds_to_last_fill is not None)
    shares = sorted(each.share_of_volume for each in filled if each.share_of_volume is not None)
    unmeasured = Counter(each.missing["slippage_bps"].value for each in filled if each.slippage_bps is None)
    return QualityGroup(
        key=key,
        sent=len(sent),
        filled=len(filled),
        slippage=slippage_of(
            Measured(slippage_bps=each.slippage_bps, cost=each.cost, value=each.benchmark_value)
            for each in filled
            if each.slippage_bps is not None
        ),
        seconds_to_last_fill=median(seconds),
        share_of_volume=median(shares),
        unmeasured=dict(sorted(unmeasured.items())),
    )
