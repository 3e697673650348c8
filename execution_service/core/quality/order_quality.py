"""How well one order was filled, worked out from its record alone: against which price, by how much, how fast. Nothing is asked, nothing kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from brokers.base import Fill, OrderType
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.orders.events import SubmitStarted, UsedPrice
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.quality.slippage import rounded, slippage_bps
from execution_service.core.risk.prices import PriceSource, price_of_message, used_price

OLDEST_PRICE_SECONDS = Decimal(60)
"""An older price is no arrival price: the market may have gone anywhere since."""
CLOCK_TOLERANCE = timedelta(minutes=1)
"""A fill that bears a time so much before the order was received is timed by another clock than ours (a market of the past, for one)."""


class Benchmark(StrEnum):
    """The price that an order's average is compared with."""

    ARRIVAL = "ARRIVAL"
    """Where the market stood when the order left for the first time."""
    STOP = "STOP"
    """Of a stop order, the price at which it becomes one for the market: where that stood before is not its doing."""


class Missing(StrEnum):
    """Why a figure is null."""

    NOT_SENT = "NOT_SENT"
    """Nothing was sent: the order was refused or cancelled before, waits, or is the report of a person."""
    NOT_FILLED = "NOT_FILLED"
    NO_PRICE = "NO_PRICE"
    """No price was known when it left: the broker was not asked for one, nothing of ours had traded, and the message named none."""
    OLD_PRICE = "OLD_PRICE"
    """The youngest was older than a minute."""
    OWN_PRICE = "OWN_PRICE"
    """The only price that was known is the order's own limit or stop, which says nothing of the market."""
    NO_CONTRACT_SIZE = "NO_CONTRACT_SIZE"
    """The broker does not say what a point of the price is worth."""
    NOT_TOLD = "NOT_TOLD"
    """The broker does not tell how much was traded in the market."""
    OTHER_CLOCK = "OTHER_CLOCK"
    """The broker's times are not of our clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderQuality:
    """The figures of one order. None: not known, and `missing` says why, by the figure's name."""

    arrival: UsedPrice | None
    """Per unit, as the instrument is quoted; with its source, and its age when the order left."""
    benchmark: Benchmark | None
    benchmark_price: Decimal | None
    average_price: Decimal | None
    filled_quantity: Decimal
    slippage_bps: Decimal | None
    """How much worse than the benchmark the average is, in hundredths of a per cent of that; positive is a cost, for buys and sells alike."""
    cost: Decimal | None
    """The same as money, in the contract's currency, without commissions."""
    benchmark_value: Decimal | None
    """What was filled is worth at the benchmark, in the same currency: what slippage is weighted by."""
    share_of_volume: Decimal | None
    """What it filled, as a part of all that was traded while it did; 1 is all of it."""
    seconds_to_first_fill: Decimal | None
    """From when we received the order, by the venue's time of the fill."""
    seconds_to_last_fill: Decimal | None
    missing: Mapping[str, Missing] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """As JSON has them: amounts exact, slippage and shares to four decimals."""
        arrival = self.arrival
        return {
            "arrival_price": None if arrival is None else arrival.price,
            "arrival_source": None if arrival is None else arrival.source,
            "arrival_at": None if arrival is None else arrival.at,
            "arrival_age_seconds": None if arrival is None else arrival.age_seconds,
            "benchmark": self.benchmark,
            "benchmark_price": self.benchmark_price,
            "average_price": self.average_price,
            "slippage_bps": rounded(self.slippage_bps),
            "cost": self.cost,
            "share_of_volume": rounded(self.share_of_volume),
            "seconds_to_first_fill": self.seconds_to_first_fill,
            "seconds_to_last_fill": self.seconds_to_last_fill,
            "missing": {name: why.value for name, why in self.missing.items()},
        }


def order_quality(order: Order) -> OrderQuality:
    """Of any order, as its record stands: a fill that is annulled later counts no more, one that comes late does."""
    missing: dict[str, Missing] = {}
    sent = next((event for event in order.events if isinstance(event, SubmitStarted)), None)
    arrival = _arrival(order, sent, missing)
    benchmark, price = _benchmark(order, arrival, missing)
    average = order.average_price
    if average is None:
        why = Missing.NOT_SENT if sent is None else Missing.NOT_FILLED
        missing |= dict.fromkeys(("average_price", "slippage_bps", "cost"), why)
    slippage = cost = value = None
    if average is not None and price is not None:
        side = order.accepted_request.side.sign
        slippage = slippage_bps(side, average, price)
        worth = order.money_per_point
        if worth is None:
            missing["cost"] = Missing.NO_CONTRACT_SIZE
        else:
            at_benchmark = EXACT.multiply(price, order.filled_quantity)
            value = EXACT.multiply(at_benchmark, worth)
            cost = EXACT.multiply(EXACT.subtract(order.paid, at_benchmark), worth * side)
    first, last = _seconds_to_fill(order, missing)
    return OrderQuality(
        arrival=arrival,
        benchmark=benchmark,
        benchmark_price=price,
        average_price=average,
        filled_quantity=order.filled_quantity,
        slippage_bps=slippage,
        cost=cost,
        benchmark_value=value,
        share_of_volume=_share_of_volume(order.fills, missing),
        seconds_to_first_fill=first,
        seconds_to_last_fill=last,
        missing=missing,
    )


def _arrival(order: Order, sent: SubmitStarted | None, missing: dict[str, Missing]) -> UsedPrice | None:
    """The price that the risk gate judged the order by as it left first; where that is the author's own, the record has it in the request alone."""
    request = order.request
    if sent is None or not isinstance(request, OrderRequest):
        missing["arrival_price"] = Missing.NOT_SENT
        return None
    found = None if sent.risk is None else sent.risk.price
    found = found or used_price(price_of_message(order), sent.at)
    if found is None or not (found.price.is_finite() and found.price > 0):
        missing["arrival_price"] = Missing.NO_PRICE
        return None
    if found.source == PriceSource.MESSAGE and found.price in (request.limit_price, request.stop_price):
        missing["arrival_price"] = Missing.OWN_PRICE
        return None
    if found.age_seconds > OLDEST_PRICE_SECONDS:
        missing["arrival_price"] = Missing.OLD_PRICE
        return None
    return found


def _benchmark(
    order: Order, arrival: UsedPrice | None, missing: dict[str, Missing]
) -> tuple[Benchmark | None, Decimal | None]:
    stop = order.stop_price
    if order.request.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and stop is not None and stop > 0:
        return Benchmark.STOP, stop
    if arrival is not None:
        return Benchmark.ARRIVAL, arrival.price
    missing |= dict.fromkeys(("benchmark_price", "slippage_bps", "cost"), missing["arrival_price"])
    return None, None


def _seconds_to_fill(order: Order, missing: dict[str, Missing]) -> tuple[Decimal | None, Decimal | None]:
    times = [fill.time for fill in order.fills]
    names = ("seconds_to_first_fill", "seconds_to_last_fill")
    if not times:
        missing |= dict.fromkeys(names, Missing.NOT_FILLED if order.submitted_at else Missing.NOT_SENT)
        return None, None
    if min(times) < order.received_at - CLOCK_TOLERANCE:
        missing |= dict.fromkeys(names, Missing.OTHER_CLOCK)
        return None, None
    return _seconds(order.received_at, min(times)), _seconds(order.received_at, max(times))


def _seconds(since: datetime, until: datetime) -> Decimal:
    """0 where the venue's clock, or the whole seconds that it tells, are before ours."""
    return max(ZERO, Decimal((until - since) // timedelta(microseconds=1)) / 1_000_000)


def _share_of_volume(fills: Sequence[Fill], missing: dict[str, Missing]) -> Decimal | None:
    volumes = [fill.market_volume for fill in fills if fill.market_volume]
    if not fills or len(volumes) < len(fills):
        missing["share_of_volume"] = Missing.NOT_TOLD if fills else Missing.NOT_FILLED
        return None
    return sum((fill.quantity for fill in fills), ZERO) / sum(volumes, ZERO)
