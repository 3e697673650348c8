"""A run's results as tables: their columns, and their rows as text and whole numbers, ready for any file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import repeat
from operator import itemgetter
from typing import Any

from execution_service.core.planning.plan import LegState
from execution_service.core.quality.slippage import rounded
from simulation.fees import CENT, half_even
from simulation.matching.codes import FILL_REASONS, REASONS, STATUSES
from simulation.positions import SMALLEST_SHARE
from simulation.quality import Group, RunQuality
from simulation.run import Result, steps_of, trade_id
from simulation.units import Kept, Whole, microseconds, written_time

TEXT, NUMBER, TIME = "text", "number", "time"
"""A number is exact: its text is a decimal. A time is microseconds since 1970 in UTC."""
_AVERAGE = Decimal("1e-10")


Value = str | int | None
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Coded:
    """A column in which the same values come again and again: of each row `value` of its code, or the code itself; with `by`, what `by` has at
    that place is the code."""

    codes: Sequence[int]
    value: Callable[[int], Value] | None = None
    by: Sequence[int] | None = None

    def __iter__(self) -> Iterator[Value]:
        codes = self.codes if self.by is None else map(self.by.__getitem__, self.codes)
        return iter(codes) if self.value is None else map(self.value, codes)


@dataclass(frozen=True, slots=True)
class Made:
    """A column whose every value is made of what stands in others, each row anew."""

    value: Callable[..., Value]
    of: Sequence[Iterable[Any]]

    def __iter__(self) -> Iterator[Value]:
        return map(self.value, *self.of)


@dataclass(frozen=True, slots=True)
class Same:
    """A column with one value in all rows."""

    value: Value

    def __iter__(self) -> Iterator[Value]:
        return repeat(self.value)


Filled = Coded | Made | Same | Sequence[str]
"""What a column holds; may be gone through more than once."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The rows of a large table, kept as its columns; the first has a value for each row."""

    columns: Sequence[Filled]

    def __iter__(self) -> Iterator[Row]:
        return zip(*self.columns)  # noqa: B905 - what is the same in all rows has no end


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    columns: tuple[tuple[str, str], ...]
    """Name and kind."""
    rows: Columns | Sequence[Row] | Iterator[Row]

    @property
    def header(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)


def tables_of(result: Result) -> Iterator[Table]:
    yield trades_table(result)
    yield orders_table(result)
    yield equity_table(result)
    yield positions_table(result)
    if result.plans or result.refused:
        yield plans_table(result)


TRADES = (
    ("trade_id", TEXT), ("timestamp", TIME), ("ticker", TEXT), ("direction", TEXT), ("size", NUMBER), ("price", NUMBER),
    ("order_id", TEXT), ("strategy_id", TEXT), ("profile_version_id", TEXT), ("regime_id", TEXT), ("universe_id", TEXT),
    ("decision_id", TEXT), ("fill_reason", TEXT), ("commission", NUMBER), ("currency", TEXT), ("plan_id", TEXT), ("mode", TEXT),
)  # fmt: skip


def trades_table(result: Result) -> Table:
    """One row a fill, in the sequence in which they happened."""
    return Table("trades", TRADES, _trades(result))


def _trades(result: Result) -> Columns:
    orders, trades = result.orders, result.trades
    prices, lots = steps_of(result.settings)
    contexts: Sequence[Filled] = [Same(None)] * 5
    if result.contexts:
        own = list(map(result.contexts.__getitem__, trades.order))
        contexts = [Made(itemgetter(n), [own]) for n in range(5)]
    profile, regime, universe, decision, plan = contexts
    order_ids = Coded(trades.order, orders.order_id.__getitem__)
    return Columns(
        (
            Made(trade_id, [order_ids, trades.number]),
            Coded(trades.time),
            Coded(trades.symbol, orders.symbols.__getitem__),
            Coded(trades.order, _DIRECTIONS.__getitem__, orders.side),
            Coded(trades.quantity, lots.text_of),
            Coded(trades.price, prices.text_of),
            order_ids,
            Coded(trades.order, orders.strategies.__getitem__, orders.strategy),
            profile,
            regime,
            universe,
            decision,
            Coded(trades.reason, FILL_REASONS.__getitem__),
            Coded(trades.fee, Whole(CENT).text_of),
            Same(result.settings.currency),
            plan,
            Same("TRAINING"),
        )
    )


_DIRECTIONS = {1: "BUY", -1: "SELL"}


def orders_table(result: Result) -> Table:
    columns = (
        ("order_id", TEXT),
        ("status", TEXT),
        ("filled_quantity", NUMBER),
        ("avg_fill_price", NUMBER),
        ("reason", TEXT),
    )
    return Table("orders", columns, _orders(result))


def _orders(result: Result) -> Columns:
    _, steps = steps_of(result.settings)
    lots, amounts = result.filled()
    reasons = [words or None for words in REASONS]
    return Columns(
        (
            result.orders.order_id,
            Coded(result.status, STATUSES.__getitem__),
            Coded(lots, steps.text_of),
            Made(_Averages(result.settings.tick).text, [lots, amounts]),
            Coded(result.reason, reasons.__getitem__),
        )
    )


class _Averages:
    """Average prices as texts, rounded half-even to ten decimals."""

    def __init__(self, tick: Decimal) -> None:
        self._over, self._under = (tick / _AVERAGE).as_integer_ratio()
        self._whole = Kept(self._of_one)

    def text(self, lots: int, amount: int) -> str | None:
        """Of so many lots that came to `amount` ticks; None where there are none."""
        if not lots:
            return None
        ticks, rest = divmod(amount, lots)
        return self._text(amount, lots) if rest else self._whole[ticks]

    def _of_one(self, ticks: int) -> str:
        return self._text(ticks, 1)

    def _text(self, amount: int, lots: int) -> str:
        return plain(half_even(amount * self._over, lots * self._under) * _AVERAGE)


def equity_table(result: Result) -> Table:
    """At the close of each bar: what it is all worth, the cash beginning with the settings' (0 where there is none)."""
    columns = (("time", TIME), ("cash", NUMBER), ("value", NUMBER), ("equity", NUMBER))
    unit = result.account.unit
    rows = (
        (at, plain(unit * cash), plain(unit * value), plain(unit * (cash + value)))
        for at, (cash, value) in zip(result.close_times, result.account.equity(), strict=True)
    )
    return Table("equity", columns, rows)


def positions_table(result: Result) -> Table:
    """What is held at the end, and what each has realised before commissions."""
    columns = (
        ("strategy_id", TEXT),
        ("ticker", TEXT),
        ("quantity", NUMBER),
        ("cost", NUMBER),
        ("realized_pnl", NUMBER),
    )
    multiplier = result.settings.multiplier * SMALLEST_SHARE
    rows = (
        (
            result.orders.strategies[strategy],
            symbol,
            plain(result.settings.lot * position.quantity),
            plain(multiplier * position.cost),
            plain(multiplier * position.realized),
        )
        for (strategy, symbol), position in sorted(result.account.positions.items(), key=lambda each: each[0])
    )
    return Table("positions", columns, rows)


def plans_table(result: Result) -> Table:
    """How each list of targets has ended; residuals and reasons as JSON."""
    columns = (
        ("plan_id", TEXT), ("decision_id", TEXT), ("strategy_id", TEXT), ("as_of", TIME), ("state", TEXT), ("residuals", TEXT),
        ("reasons", TEXT),
    )  # fmt: skip
    return Table("plans", columns, _plans(result))


def _plans(result: Result) -> Iterator[tuple[str | int | None, ...]]:
    for at in result.plans:
        targets = at.plan.targets
        residuals = {key: plain(quantity) for key, quantity in at.residuals.items()}
        reasons = {
            leg.instrument.symbol: leg.reason.value if leg.reason is not None else leg.state.value
            for leg in at.legs
            if leg.state is not LegState.DONE
        }
        yield (
            at.plan.plan_id,
            targets.decision_id,
            targets.strategy_id,
            microseconds(targets.as_of),
            at.state.value,
            json.dumps(residuals, sort_keys=True),
            json.dumps(reasons, sort_keys=True),
        )
    for targets, why in result.refused:
        as_of = microseconds(targets.as_of)
        yield (targets.plan_id, targets.decision_id, targets.strategy_id, as_of, "REFUSED", "{}", json.dumps(why))


def order_quality_table(result: Result, quality: RunQuality) -> Table:
    """How well each order was filled that was filled at all; without benchmark where nothing had traded before it arrived."""
    columns = (
        ("order_id", TEXT), ("benchmark_price", NUMBER), ("avg_fill_price", NUMBER), ("slippage_bps", NUMBER), ("cost", NUMBER),
        ("share_of_volume", NUMBER), ("seconds_to_first_fill", NUMBER), ("seconds_to_last_fill", NUMBER),
    )  # fmt: skip
    return Table("order_quality", columns, _order_quality(result, quality))


def _order_quality(result: Result, quality: RunQuality) -> Iterator[Row]:
    tick, order_id = result.settings.tick, result.orders.order_id
    # Prices in whole ticks and times come again and again.
    prices: Kept[int | Decimal, str] = Kept(lambda ticks: _exact(tick * ticks))
    seconds: Kept[int, str] = Kept(lambda at: plain(Decimal(at) / 1_000_000))
    for each in quality.figures:
        ticks, rest = divmod(each.amount, each.lots)
        benchmark = slippage = cost = None
        if each.is_measured:
            benchmark, slippage, cost = prices[each.benchmark], _exact(each.slippage_bps), _exact(each.cost)
        yield (
            order_id[each.row],
            benchmark,
            _exact(tick * Decimal(each.amount) / each.lots) if rest else prices[ticks],
            slippage,
            cost,
            _rounded(each.share_of_volume),
            seconds[each.to_first_fill],
            seconds[each.to_last_fill],
        )


def _exact(amount: Decimal) -> str:
    """To ten decimals, which all but quotients have room in."""
    return plain(amount.quantize(_AVERAGE, ROUND_HALF_EVEN))


def quality_table(quality: RunQuality) -> Table:
    """How well orders were filled, by what they have in common; slippage in basis points, positive is a cost."""
    columns = (
        ("by", TEXT), ("name", TEXT), ("orders", NUMBER), ("filled", NUMBER), ("filled_part", NUMBER), ("measured", NUMBER),
        ("median_bps", NUMBER), ("mean_bps", NUMBER), ("p95_bps", NUMBER), ("cost", NUMBER), ("value", NUMBER),
        ("share_of_volume", NUMBER), ("seconds_to_last_fill", NUMBER),
    )  # fmt: skip
    return Table("quality", columns, (_quality(group) for group in (*quality.groups, quality.whole)))


def _quality(group: Group) -> tuple[str | int | None, ...]:
    found = group.slippage
    figures = (found.median_bps, found.mean_bps, found.p95_bps)
    return (
        group.by or "all",
        group.name,
        str(group.orders),
        str(group.filled),
        _rounded(group.filled_part),
        str(found.measured),
        *(_rounded(figure) for figure in figures),
        *(None if amount is None else _exact(amount) for amount in (found.cost, found.value)),
        _rounded(group.share_of_volume),
        None if group.seconds_to_last_fill is None else plain(group.seconds_to_last_fill),
    )


def _rounded(figure: Decimal | None) -> str | None:
    found = rounded(figure)
    return None if found is None else plain(found)


def plain(number: Decimal) -> str:
    """Without exponent, trailing zeros or a negative zero."""
    if not number:
        return "0"
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(kind: str, value: str | int | None) -> str:
    """For files of text."""
    if value is None:
        return ""
    return written_time(value) if kind is TIME and isinstance(value, int) else str(value)
