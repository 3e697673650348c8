"""One page of HTML about a run, with everything in it: equity and drawdown, what fills cost by stance and strategy, fills on the price, the manifest.

It loads nothing and runs nothing (a policy in it forbids both), is read in light and dark, and has the figures of each drawing as a table too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from simulation.bars import History, Series
from simulation.matching.codes import FILL_REASONS, REASONS, STATUSES
from simulation.quality import INSTRUMENT, ORDER_TYPE, STANCE, STRATEGY, Group, RunQuality
from simulation.run import Result
from simulation.svg import DOWN, UP, Bar, Mark, TimeChart, bars
from simulation.tables import plain
from simulation.units import written_time

CHARTS = 12
"""So many instruments have a chart: those of which most was traded."""
MARKS = 400
"""So many fills are marked on a chart, evenly chosen of more."""
ROWS = 40
"""So many rows has a table beside a drawing, evenly chosen of more."""
PERCENT = Decimal(100)
_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1c2430;--soft:#5b6675;--grid:#e3e7ec;--line:#0b62c4;--fall:#c2410c;--fill:#c2410c33;
--cost:#d9732f;--gain:#2a9d6f;--up:#15803d;--down:#b91c1c;--band:#f5f7f9}
@media(prefers-color-scheme:dark){:root{--ground:#12161c;--ink:#e6eaf0;--soft:#9aa6b5;--grid:#2a323d;--line:#6db3ff;--fall:#ff9d66;--fill:#ff9d6633;
--cost:#e08a4d;--gain:#4cc38a;--up:#4ade80;--down:#f87171;--band:#1a2029}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:0 auto;padding:1.5em 1em 4em;background:var(--ground);color:var(--ink)}
h1{margin:.2em 0}h2{margin:2em 0 .3em}h3{margin:1.5em 0 .2em}p{margin:.3em 0 .8em;color:var(--soft)}
table{border-collapse:collapse;margin:.6em 0 1em;font-size:13.5px;font-variant-numeric:tabular-nums}caption{text-align:left;color:var(--soft)}
td,th{padding:.25em .6em;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}
td:first-child,th:first-child{text-align:left}
td{white-space:nowrap}th{vertical-align:bottom}.scroll{overflow-x:auto}.summary th{font-weight:400;color:var(--soft);text-align:left}
figure{margin:.5em 0}svg{width:100%;height:auto;display:block}
summary{cursor:pointer;color:var(--soft)}pre{background:var(--band);padding:1em;overflow-x:auto;font-size:13px}
.axis{font-size:12px;fill:var(--soft)}.grid{stroke:var(--grid)}.zero{stroke:var(--soft)}
.line{fill:none;stroke:var(--line);stroke-width:1.5}.fall{fill:none;stroke:var(--fall);stroke-width:1.2}.falls{fill:var(--fill);stroke:none}
.up{fill:var(--up)}.down{fill:var(--down)}.cost{fill:var(--cost)}.gain{fill:var(--gain)}
.whisker{stroke:var(--ink);stroke-width:1.2}.median{stroke:var(--ink);stroke-width:3}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Fall:
    """The deepest: from the highest equity before it to the lowest."""

    amount: Decimal
    part: Decimal | None
    """Of the equity that it fell from. None: that was not above 0."""
    begun: int
    at: int


def write_report(
    result: Result, history: History, quality: RunQuality, manifest: Mapping[str, Any], path: Path
) -> Path:
    """The same run gives the same bytes. Raises OSError."""
    page = _Page(result, history, quality, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(page.parts()), encoding="utf-8")
    return path


class _Page:
    def __init__(self, result: Result, history: History, quality: RunQuality, manifest: Mapping[str, Any]) -> None:
        self._result, self._history, self._quality, self._manifest = result, history, quality, manifest
        unit, begun = result.account.unit, result.settings.cash or Decimal(0)
        self._times = [history.open_times[0], *result.close_times]
        """Before the first bar opens, then the close of each."""
        self._equity = [begun, *(unit * (cash + value) for cash, value in result.account.equity())]
        self._currency = result.settings.currency

    def parts(self) -> Iterator[str]:
        yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        yield '<meta name="viewport" content="width=device-width"><title>Simulation</title>'
        yield f"<style>{_STYLE}</style></head>\n<body><main><h1>Simulation</h1>"
        yield from self._summary()
        yield from self._curves()
        yield from self._costs()
        yield from self._prices()
        yield from self._endings()
        yield "<h2>Manifest</h2><p>What a repetition needs, and what it must come to.</p>"
        yield f"<pre>{escape(json.dumps(self._manifest, indent=2, sort_keys=True, default=str))}</pre>"
        yield "</main></body></html>\n"

    # --- what it came to ----------------------------------------------------------------------------------------

    def _summary(self) -> Iterator[str]:
        result, history, account = self._result, self._history, self._result.account
        times = self._times
        yield f"<p>{written_time(times[0])} to {written_time(times[-1])}, {history.count:,} bars of "
        yield f"{len(history.series):,} instruments. Amounts in {escape(self._currency)}.</p>"
        whole = self._quality.whole
        begun = result.settings.cash
        fall = deepest_fall(self._equity, times)
        rows = [
            ("Equity at the end", self._amount(self._equity[-1])),
            ("Profit", self._amount(self._equity[-1] - self._equity[0])),
        ]
        if begun:
            rows.append(("Return", f"{(self._equity[-1] / begun - 1) * PERCENT:.2f} %"))
        words = "none" if not fall.amount else self._amount(fall.amount)
        if fall.part is not None and fall.amount:
            words += f" ({fall.part * PERCENT:.2f} %), {_date(fall.begun)} to {_date(fall.at)}"
        rows += [
            ("Deepest drawdown", words),
            ("Orders, filled in whole or in part", f"{whole.orders:,}, {whole.filled:,}"),
            ("Fills", f"{len(result.trades):,}"),
            ("Turnover", self._amount(account.unit * account.traded)),
            ("Commissions", self._amount(account.unit * account.paid_fees * account.per_cent)),
            ("Slippage, as money", "not known" if whole.slippage.cost is None else self._amount(whole.slippage.cost)),
            ("Slippage, mean by value", bps(whole.slippage.mean_bps, " bp") or "not known"),
        ]
        body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows)
        yield f'<div class="scroll"><table class="summary"><caption>Summary</caption>{body}</table></div>'
        if not self._quality.is_complete:
            yield f"<p>Slippage is that of the first {whole.orders:,} of {len(result.orders):,} orders.</p>"

    def _curves(self) -> Iterator[str]:
        times, equity = self._times, self._equity
        low, high = float(min(equity)), float(max(equity))
        title = f"Equity from {written_time(times[0])} to {written_time(times[-1])}"
        about = f"It begins at {self._amount(equity[0])}, ends at {self._amount(equity[-1])}, and lies between "
        about += f"{self._amount(min(equity))} and {self._amount(max(equity))}."
        chart = TimeChart("equity", title, about, (times[0], times[-1]), (low, high))
        chart.line([(at, float(value)) for at, value in zip(times, equity, strict=True)], "line")
        yield f"<h2>Equity</h2><p>{escape(about)}</p><figure>{chart.svg()}</figure>"
        falls = drawdowns(equity)
        has_parts = all(peak > 0 for peak in accumulate(equity, max))
        shown = [-100 * float(each.part or 0) if has_parts else -float(each.amount) for each in falls]
        fall = deepest_fall(equity, times)
        about = "At each close, how far the equity is below its highest since the start."
        if fall.amount:
            about += f" The deepest: {self._amount(fall.amount)}, at {_date(fall.at)}, from its height at {_date(fall.begun)}."
        title = "Drawdown, in per cent of the highest equity" if has_parts else "Drawdown"
        chart = TimeChart("drawdown", title, about, (times[0], times[-1]), (min(shown), 0.0))
        points = list(zip(times, shown, strict=True))
        chart.area(points, 0.0, "falls")
        chart.line(points, "fall")
        yield f"<h2>{title}</h2><p>{escape(about)}</p><figure>{chart.svg()}</figure>"
        rows = (
            (written_time(times[n]), self._amount(equity[n]), self._amount(falls[n].amount),
             "" if falls[n].part is None else f"{(falls[n].part or Decimal(0)) * PERCENT:.2f} %")
            for n in evenly(len(equity), ROWS)
        )  # fmt: skip
        header = ("Time", "Equity", "Drawdown", "Of the highest")
        yield self._details("Equity and drawdown as a table", header, rows, of=len(equity))

    # --- what fills cost ----------------------------------------------------------------------------------------

    def _costs(self) -> Iterator[str]:
        quality = self._quality
        yield "<h2>What fills cost</h2><p>Each order's average price against the last close before it arrived (of a stop order: "
        yield "against its stop), in basis points; positive is a cost. The bar is the mean by value, the thick tick the median, the thin "
        yield "line goes to the 95th percentile. Part filled is of what the orders asked for; of volume, of what was traded while they filled; until "
        yield "filled, from arrival to the last fill (both are medians).</p>"
        for number, by in enumerate((STANCE, STRATEGY, ORDER_TYPE, INSTRUMENT)):
            groups = quality.by(by)
            if not groups or (by in (STRATEGY, INSTRUMENT) and len(groups) == 1):
                continue
            title = f"Slippage by {by}"
            drawn = [_bar(group) for group in _most(groups, CHARTS) if group.slippage.measured]
            yield f"<h3>{title}</h3>"
            if drawn:
                about = "; ".join(bar.words for bar in drawn)
                yield f"<figure>{bars(f'cost{number}', title, about, drawn)}</figure>"
            header = (
                *(by.capitalize(), "Orders", "Filled", "Part filled", "Measured", "Median", "Mean", "95 %"),
                *("Cost", "Of volume", "Until filled"),
            )
            yield _table(title, header, (self._cells(group) for group in groups))

    def _cells(self, group: Group) -> Sequence[str]:
        slippage = group.slippage
        return (
            group.name,
            f"{group.orders:,}",
            f"{group.filled:,}",
            _percent(group.filled_part),
            f"{slippage.measured:,}",
            bps(slippage.median_bps),
            bps(slippage.mean_bps),
            bps(slippage.p95_bps),
            "" if slippage.cost is None else self._amount(slippage.cost),
            _percent(group.share_of_volume),
            "" if group.seconds_to_last_fill is None else _length(group.seconds_to_last_fill),
        )

    # --- fills on the price -------------------------------------------------------------------------------------

    def _prices(self) -> Iterator[str]:
        trades = self._result.trades
        by_symbol: dict[int, list[int]] = {}
        for n, symbol in enumerate(trades.symbol):
            by_symbol.setdefault(symbol, []).append(n)
        traded = {symbol: sum(trades.quantity[n] * trades.price[n] for n in mine) for symbol, mine in by_symbol.items()}
        series = list(self._history.series.values())
        chosen = sorted(by_symbol, key=lambda symbol: (-traded[symbol], series[symbol].symbol))[:CHARTS]
        yield "<h2>Fills on the price</h2><p>The line is the close of each bar; triangles up are purchases, down are sales, "
        yield "each at its price. Point at one for its details.</p>"
        if len(by_symbol) > len(chosen):
            yield f"<p>Of {len(by_symbol):,} instruments those {CHARTS} of which most was traded.</p>"
        for number, symbol in enumerate(chosen):
            yield from self._price(number, series[symbol], by_symbol[symbol])
        if not chosen:
            yield "<p>Nothing was filled.</p>"

    def _price(self, number: int, series: Series, mine: Sequence[int]) -> Iterator[str]:
        result, trades, orders = self._result, self._result.trades, self._result.orders
        tick, interval = result.settings.tick, result.settings.interval
        points = [
            (at + interval, float(tick * close))
            for at, close, traded in zip(series.open_time, series.close, series.trading, strict=True)
            if traded
        ]
        shown = [mine[n] for n in evenly(len(mine), MARKS)]
        marks = [
            Mark(
                trades.time[n],
                float(tick * trades.price[n]),
                UP if orders.side[trades.order[n]] > 0 else DOWN,
                ", ".join(self._fill(n)),
            )
            for n in shown
        ]
        values = [value for _, value in points] + [mark.value for mark in marks]
        bought = sum(1 for n in mine if orders.side[trades.order[n]] > 0)
        title = f"Price of {series.symbol} with its fills"
        about = f"{bought:,} purchases and {len(mine) - bought:,} sales"
        if len(shown) < len(mine):
            about += f", of which {len(shown):,} are marked"
        chart = TimeChart(
            f"price{number}", title, about, (points[0][0] - interval, points[-1][0]), (min(values), max(values))
        )
        chart.line(points, "line")
        chart.marks(marks)
        yield f"<h3>{escape(series.symbol)}</h3><p>{about}.</p><figure>{chart.svg()}</figure>"
        header = ("Time", "Side", "Quantity", "Price", "Why", "Commission", "Order")
        rows = (self._fill(mine[n]) for n in evenly(len(mine), ROWS))
        yield self._details(f"Fills of {series.symbol} as a table", header, rows, of=len(mine))

    def _fill(self, n: int) -> Sequence[str]:
        trades, orders, settings = self._result.trades, self._result.orders, self._result.settings
        row = trades.order[n]
        return (
            written_time(trades.time[n]),
            "BUY" if orders.side[row] > 0 else "SELL",
            plain(settings.lot * trades.quantity[n]),
            plain(settings.tick * trades.price[n]),
            FILL_REASONS[trades.reason[n]],
            f"{Decimal(trades.fee[n]).scaleb(-2):.2f}",
            orders.order_id[row],
        )

    # --- the rest -----------------------------------------------------------------------------------------------

    def _endings(self) -> Iterator[str]:
        result = self._result
        yield "<h2>How orders ended</h2>"
        ended = Counter(zip(result.status, result.reason, strict=True))
        rows = sorted((f"{STATUSES[s]} {REASONS[r]}".strip(), f"{count:,}") for (s, r), count in ended.items())
        yield _table("How orders ended", ("Status", "Orders"), rows)
        if result.plans or result.refused:
            states = Counter(at.state.value for at in result.plans)
            states["REFUSED"] += len(result.refused)
            rows = [(name, f"{count:,}") for name, count in sorted(states.items()) if count]
            yield _table("How plans ended", ("State", "Plans"), rows)
        reasons = Counter(result.trades.reason)
        rows = [(FILL_REASONS[code], f"{count:,}") for code, count in sorted(reasons.items())]
        yield _table("Why fills have their prices", ("Reason", "Fills"), rows)

    def _amount(self, amount: Decimal) -> str:
        return f"{amount:,.2f}".replace("-0.00", "0.00") if abs(amount) < 1 else f"{amount:,.2f}"

    def _details(self, words: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, of: int) -> str:
        caption = words if of <= ROWS else f"{words}: {ROWS} of {of:,} rows, evenly chosen"
        return f"<details><summary>{escape(words)}</summary>{_table(caption, header, rows)}</details>"


def deepest_fall(equity: Sequence[Decimal], times: Sequence[int]) -> Fall:
    """The first of the deepest; an amount of 0: it never fell."""
    peak_at = 0
    deepest = Fall(Decimal(0), None, times[0], times[0])
    for n, value in enumerate(equity):
        peak = equity[peak_at]
        if value >= peak:
            peak_at = n
        elif peak - value > deepest.amount:
            part = (peak - value) / peak if peak > 0 else None
            deepest = Fall(peak - value, part, times[peak_at], times[n])
    return deepest


@dataclass(frozen=True, slots=True)
class Drawdown:
    """How far the equity is below its highest until then; `part` of that, None where it is not above 0."""

    amount: Decimal
    part: Decimal | None


def drawdowns(equity: Sequence[Decimal]) -> list[Drawdown]:
    """Of each of them."""
    peaks = accumulate(equity, max)
    return [
        Drawdown(peak - value, (peak - value) / peak if peak > 0 else None)
        for peak, value in zip(peaks, equity, strict=True)
    ]


def evenly(count: int, most: int) -> list[int]:
    """Places of at most so many, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [n * (count - 1) // (most - 1) for n in range(most)]


def bps(figure: Decimal | None, unit: str = "") -> str:
    """For people; empty where there is none."""
    return "" if figure is None else f"{figure.quantize(Decimal('0.01')) + 0:+,}{unit}"


def _bar(group: Group) -> Bar:
    slippage = group.slippage
    words = (
        f"{group.name}: mean {bps(slippage.mean_bps)}, median {bps(slippage.median_bps)}, 95 % {bps(slippage.p95_bps)}"
    )
    figures = (slippage.mean_bps, slippage.median_bps, slippage.p95_bps)
    mean, middle, far = (float(figure or 0) for figure in figures)
    return Bar(group.name, mean, middle, far, words)


def _most(groups: Sequence[Group], count: int) -> list[Group]:
    """Those of most value, as they were."""
    chosen = sorted(groups, key=lambda group: -(group.slippage.value or 0))[:count]
    return [group for group in groups if group in chosen]


def _percent(part: Decimal | None) -> str:
    return "" if part is None else f"{part * PERCENT:.2f} %"


def _length(seconds: Decimal) -> str:
    if seconds >= 86_400:
        return f"{seconds / 86_400:.1f} d"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.1f} s"


def _date(at: int) -> str:
    return written_time(at)[:10]


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table></div>'
