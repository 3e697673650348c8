"""Fill quality of many orders together, by strategy, broker and currency, from values alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from execution_service.core.quality.order_quality import OrderQuality
from execution_service.core.quality.slippage import Measured, Slippage, median, rounded, slippage_of


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
