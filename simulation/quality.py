"""How well the orders of a run were filled: each against the market at its arrival, and many together by the same figures as in the service."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import compress
from operator import attrgetter
from typing import Any

from execution_service.core.quality.slippage import BASIS_POINTS, Slippage, median, slippage_of
from simulation.bars import History, Series
from simulation.matching.codes import AT_GAP, AT_OPEN, KINDS, STOP, STOP_LIMIT
from simulation.run import Result

_ZERO, _ONE = Decimal(0), Decimal(1)
MOST_MEASURED = 100_000
"""So many orders are measured; of larger runs the first ones."""
NO_NAME = "(none)"
STANCE, STRATEGY, ORDER_TYPE, INSTRUMENT = "stance", "strategy", "order type", "instrument"
_PLAN = 4
"""Where an order's plan is in its context."""


@dataclass(slots=True)
class OrderFigures:
    """Of one order that filled, in whole or in part. Money in the settings' currency, times in microseconds."""

    row: int
    lots: int
    amount: int
    """Lots by ticks: what they filled at, added up."""
    benchmark: Decimal
    """In ticks: the last close before it arrived, or of a stop order its stop. 0: nothing had traded before it arrived, and all that follows from
    it is 0."""
    slippage_bps: Decimal
    """Positive is a cost."""
    cost: Decimal
    value: Decimal
    """At the benchmark."""
    volume: int
    """What was traded, in lots, in the bars in which it filled."""
    to_first_fill: int
    """From its arrival; what fills inside a bar has the time of the bar's end."""
    to_last_fill: int
    filled_part: Decimal
    """Of what it asked for."""
    share_of_volume: Decimal | None
    """None: nothing was traded in lots."""
    is_measured: bool
    """Whether there is a benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Orders that have something in common: `by` says what, `name` which."""

    by: str
    name: str
    orders: int
    filled: int
    """Orders that filled, in whole or in part."""
    filled_part: Decimal | None
    """Of all that the orders asked for, each order counting alike."""
    slippage: Slippage
    share_of_volume: Decimal | None
    """The median."""
    seconds_to_last_fill: Decimal | None
    """The median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuality:
    """Of a whole run."""

    figures: tuple[OrderFigures, ...]
    """Of each order that filled, by its row."""
    groups: tuple[Group, ...]
    whole: Group
    is_complete: bool
    """False: only the first `MOST_MEASURED` orders are in it."""

    def by(self, what: str) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.by == what)


@dataclass(slots=True)
class _Sum:
    lots: int = 0
    amount: int = 0
    volume: int = 0
    first: int = 0
    last: int = 0
    first_bar: int = 0


def run_quality(result: Result, history: History) -> RunQuality:
    """By stance (of orders that targets have led to), strategy, type and instrument."""
    figures = tuple(order_figures(result, history))
    count = min(len(result.orders), MOST_MEASURED)
    # Sorted once, the figures of each group are sorted too.
    rising = sorted(figures, key=attrgetter("slippage_bps"))
    shares = sorted([each for each in figures if each.share_of_volume is not None], key=attrgetter("share_of_volume"))
    groups = [group for by, names in _names(result).items() for group in _groups(by, names[:count], rising, shares)]
    (whole,) = _groups("", [""] * count, rising, shares) or [_group("", "", 0, [], [])]
    return RunQuality(figures=figures, groups=tuple(groups), whole=whole, is_complete=count == len(result.orders))


def order_figures(result: Result, history: History) -> Iterator[OrderFigures]:
    """Of each order that filled, by its row; at most `MOST_MEASURED` rows are looked at."""
    orders, settings = result.orders, result.settings
    series = list(history.series.values())
    sums = _sums(result, series)
    money = settings.tick * settings.lot * settings.multiplier
    arrivals = _arrivals(result)
    # Of each instrument the bars that traded; None: all.
    traded = [None if all(each.trading) else list(compress(range(len(each.close)), each.trading)) for each in series]
    for row in sorted(sums):
        each, symbol, side = sums[row], orders.symbol[row], orders.side[row]
        benchmark = _ZERO
        if orders.kind[row] in (STOP, STOP_LIMIT):
            benchmark = Decimal(orders.stop[row])
        else:
            closed, mine = series[symbol], traded[symbol]
            k = bisect_right(closed.open_time, arrivals[row] - settings.interval) - 1
            if mine is not None:
                n = bisect_right(mine, k) - 1
                k = mine[n] if n >= 0 else -1
            if k >= 0:
                benchmark = _as_of_fill(closed, k, each.first_bar, result)
        slippage = cost = value = _ZERO
        is_measured = benchmark > 0
        if is_measured:
            at_benchmark = benchmark * each.lots
            paid_more = side * (each.amount - at_benchmark)
            slippage, cost, value = paid_more * BASIS_POINTS / at_benchmark, paid_more * money, at_benchmark * money
        arrival = arrivals[row]
        yield OrderFigures(
            row,
            each.lots,
            each.amount,
            benchmark,
            slippage,
            cost,
            value,
            each.volume,
            each.first - arrival,
            each.last - arrival,
            _ONE if each.lots == orders.quantity[row] else Decimal(each.lots) / orders.quantity[row],
            Decimal(each.lots) / each.volume if each.volume else None,
            is_measured,
        )


def _arrivals(result: Result) -> Sequence[int]:
    """By row, when the order arrived; of a slice, when the first one of its order did: what the market does meanwhile is a cost of waiting."""
    orders = result.orders
    if not result.contexts:
        return orders.arrival
    first: dict[str, int] = {}
    return [
        first.setdefault(order_id.partition("/")[0], arrival)
        for order_id, arrival in zip(orders.order_id, orders.arrival, strict=True)
    ]


def _sums(result: Result, series: Sequence[Series]) -> dict[int, _Sum]:
    """What each order filled, by its row."""
    trades, interval = result.trades, result.settings.interval
    sums: dict[int, _Sum] = {}
    columns = zip(trades.order, trades.symbol, trades.time, trades.quantity, trades.price, trades.reason, strict=True)
    for row, symbol, at, lots, price, reason in columns:
        if row >= MOST_MEASURED:
            continue
        mine = series[symbol]
        opened = at if reason & 7 in (AT_OPEN, AT_GAP) else at - interval
        k = bisect_right(mine.open_time, opened) - 1
        known = sums.get(row)
        if known is None:
            known = sums[row] = _Sum(first=at, first_bar=k)
        known.lots += lots
        known.amount += lots * price
        known.volume += mine.volume[k]
        known.last = at
    return sums


def _as_of_fill(series: Series, k: int, first_bar: int, result: Result) -> Decimal:
    """The close of bar `k`, in ticks, as it would be after the splits and dividends until the fill."""
    price = Decimal(series.close[k])
    if series.split_up or series.dividend:
        for at in range(k + 1, first_bar + 1):
            if at in series.split_up:
                price = price * series.split_down[at] / series.split_up[at]
            if at in series.dividend:
                price -= series.dividend[at] / result.settings.tick
    return price


def _names(result: Result) -> Mapping[str, Sequence[str]]:
    """By what orders are grouped: of each row, its group's name."""
    orders = result.orders
    kinds = {code: name for name, code in KINDS.items()}
    found = {}
    if result.plans:
        stances = {each.plan.plan_id: each.plan.targets.aggressiveness.value for each in result.plans}
        found[STANCE] = [
            f"{stances.get(context[_PLAN] or '', NO_NAME)}, {'reducing' if reduces else 'increasing'}"
            for context, reduces in zip(result.contexts, orders.reduce_only, strict=True)
        ]
    found[STRATEGY] = [orders.strategies[n] or NO_NAME for n in orders.strategy]
    # What orders were by their columns: a stop that was reached is a market order by now, and a stop-limit a limit.
    found[ORDER_TYPE] = [kinds[n] for n in orders.kind]
    found[INSTRUMENT] = [orders.symbols[n] for n in orders.symbol]
    return found


def _groups(
    by: str, names: Sequence[str], rising: Sequence[OrderFigures], shares: Sequence[OrderFigures]
) -> list[Group]:
    """Of the orders that `names` has a name for, by their rows. The figures are all of the run: `rising` by slippage, `shares` by share of volume."""
    counts = Counter(names)
    figures: dict[str, list[OrderFigures]] = {name: [] for name in counts}
    for each in rising:
        figures[names[each.row]].append(each)
    of_volume: dict[str, list[Decimal | None]] = {name: [] for name in counts}
    for each in shares:
        of_volume[names[each.row]].append(each.share_of_volume)
    return [_group(by, name, counts[name], figures[name], of_volume[name]) for name in sorted(counts)]


def _group(by: str, name: str, orders: int, figures: Sequence[OrderFigures], shares: Sequence[Any]) -> Group:
    """Of so many orders those that filled, and their shares of volume, rising."""
    to_last = median(sorted([each.to_last_fill for each in figures]))
    return Group(
        by=by,
        name=name,
        orders=orders,
        filled=len(figures),
        filled_part=sum([each.filled_part for each in figures], _ZERO) / orders if orders else None,
        slippage=slippage_of([each for each in figures if each.is_measured]),
        share_of_volume=median(shares),
        seconds_to_last_fill=None if to_last is None else to_last / 1_000_000,
    )
