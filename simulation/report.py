"""One page of HTML about a run, with everything in it: the equity curve, what was filled and why, and what fills cost against arrival prices."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from pathlib import Path

from simulation.bars import History
from simulation.matching.codes import FILL_REASONS, KINDS, REASONS, STATUSES
from simulation.run import Result
from simulation.tables import plain
from simulation.units import written_time

WIDTH, HEIGHT, POINTS = 900, 280, 900
MOST_MEASURED = 200_000
"""So many orders are measured against their arrival prices; of larger runs the first ones."""
BASIS_POINTS = Decimal(10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What orders of one kind got. `slippage` in basis points of the amount, positive against us; None: nothing could be compared."""

    kind: str
    orders: int
    filled: int
    slippage: Decimal | None


def qualities(result: Result, history: History) -> list[Quality]:
    """By the orders' types, each order's average against the last close before it arrived, weighted by amounts."""
    settings, orders = result.settings, result.orders
    averages = result.averages()
    series = list(history.series.values())
    closes = [[at + settings.interval for at in each.open_time] for each in series]
    costs: dict[int, Decimal] = {}
    amounts: dict[int, Decimal] = {}
    counts: dict[int, list[int]] = {}
    for row in range(min(len(orders), MOST_MEASURED)):
        # A stop has become a market order by now, and a stop-limit a limit: what the orders were is in their columns.
        kind = orders.kind[row]
        count = counts.setdefault(kind, [0, 0])
        count[0] += 1
        known = averages.get(row)
        if known is None:
            continue
        count[1] += 1
        symbol = orders.symbol[row]
        k = bisect_right(closes[symbol], orders.arrival[row]) - 1
        if k < 0:
            continue
        arrival = settings.tick * series[symbol].close[k]
        lots, average = known
        costs[kind] = costs.get(kind, Decimal(0)) + orders.side[row] * (average - arrival) * lots
        amounts[kind] = amounts.get(kind, Decimal(0)) + arrival * lots
    names = {code: name for name, code in KINDS.items()}
    return [
        Quality(
            kind=names[kind],
            orders=count[0],
            filled=count[1],
            slippage=BASIS_POINTS * costs[kind] / amounts[kind] if amounts.get(kind) else None,
        )
        for kind, count in sorted(counts.items())
    ]


def write_report(result: Result, history: History, path: Path) -> Path:
    """Nothing in it is loaded from elsewhere. Raises OSError."""
    path.write_text("".join(_page(result, history)), encoding="utf-8")
    return path


def _page(result: Result, history: History) -> Iterator[str]:
    account, currency = result.account, result.settings.currency
    rows = account.equity()
    cash, value = rows[-1]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Simulation</title><style>'
    yield "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}"
    yield "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}"
    yield "td+td,th+th{text-align:right}svg{width:100%;height:auto}</style></head><body><h1>Simulation</h1>"
    yield _table(
        ("", ""),
        (
            ("Bars", f"{history.count:,} of {len(history.series):,} instruments"),
            ("Orders", f"{len(result.orders):,}"),
            ("Trades", f"{len(result.trades):,}"),
            ("Turnover", f"{plain(account.unit * account.traded)} {currency}"),
            ("Commission", f"{plain(account.unit * account.paid_fees * account.per_cent)} {currency}"),
            ("Cash at the end", f"{plain(account.unit * cash)} {currency}"),
            ("Equity at the end", f"{plain(account.unit * (cash + value))} {currency}"),
        ),
    )
    yield "<h2>Equity</h2>"
    yield _curve([account.unit * (c + v) for c, v in rows], result.close_times)
    yield "<h2>Fills against the price at arrival</h2><p>The last close before an order arrived; basis points, positive is against us.</p>"
    yield _table(
        ("Order type", "Orders", "Filled", "Slippage"),
        (
            (q.kind, f"{q.orders:,}", f"{q.filled:,}", "" if q.slippage is None else f"{q.slippage:.2f}")
            for q in qualities(result, history)
        ),
    )
    yield "<h2>Why fills have their prices</h2>"
    yield _table(("Reason", "Fills"), _counted(FILL_REASONS, result.trades.reason))
    yield "<h2>How orders ended</h2>"
    ended = [STATUSES[s] + (f" {REASONS[r]}" if r else "") for s, r in zip(result.status, result.reason, strict=True)]
    names = sorted(set(ended))
    counts = dict.fromkeys(names, 0)
    for each in ended:
        counts[each] += 1
    yield _table(("Status", "Orders"), ((name, f"{counts[name]:,}") for name in names))
    if result.plans:
        yield "<h2>Plans</h2>"
        states = [at.state.value for at in result.plans]
        yield _table(("State", "Plans"), ((name, f"{states.count(name):,}") for name in sorted(set(states))))
    yield "</body></html>\n"


def _counted(words: Sequence[str], codes: Sequence[int]) -> Iterator[tuple[str, str]]:
    counts = [0] * len(words)
    for code in codes:
        counts[code] += 1
    return ((words[code], f"{count:,}") for code, count in enumerate(counts) if count)


def _table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _curve(equity: Sequence[Decimal], times: Sequence[int]) -> str:
    """The equity at each close, as a line; of many closes those that fit."""
    step = max(1, len(equity) // POINTS)
    shown = [float(each) for each in [*equity[::step], equity[-1]]]
    low, high = min(shown), max(shown)
    span = high - low or 1.0
    across = max(1, len(shown) - 1)
    points = " ".join(
        f"{WIDTH * n / across:.1f},{HEIGHT - 20 - (HEIGHT - 40) * (each - low) / span:.1f}"
        for n, each in enumerate(shown)
    )
    first, last = written_time(times[0]), written_time(times[-1])
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Equity from {low:,.2f} to {high:,.2f}">'
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>'
        f'<g font-size="12" fill="#555"><text x="0" y="12">{high:,.2f}</text><text x="0" y="{HEIGHT - 4}">{low:,.2f}; {first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{last}</text></g></svg>'
    )
