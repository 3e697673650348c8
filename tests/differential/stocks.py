"""Real daily bars of bokeh_sampledata (AAPL, FB, GOOG, IBM, MSFT, 2000 to 2013, as they were traded), and random orders on them."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from simulation.bars import BarReader, History
from simulation.orders import COLUMNS, MORE, OrderReader
from simulation.run import Result, simulate_orders
from simulation.settings import settings_of


class Bar(NamedTuple):
    day: str
    open: str
    high: str
    low: str
    close: str
    volume: str


class Wish(NamedTuple):
    """An order that is decided when bar `after` has closed. Prices are texts; empty: it has none."""

    after: int
    side: str
    quantity: int
    kind: str
    limit: str = ""
    stop: str = ""


@cache
def stocks() -> Mapping[str, Sequence[Bar]]:
    """By ticker. Two digits after the point, as they were traded; a range that leaves out its own open or close by a cent is widened to it."""
    spec = find_spec("bokeh_sampledata")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "_data" / "stocks.csv.gz"
    bars: dict[str, list[Bar]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            o, h, low, c = (Decimal(row[name]).quantize(Decimal("0.01")) for name in ("Open", "High", "Low", "Close"))
            shape = (o, max(o, h, c), min(o, low, c), c)
            bars.setdefault(row["Ticker"], []).append(Bar(row["Date"], *map(str, shape), row["Volume"]))
    return bars


def wishes(bars: Sequence[Bar], count: int, seed: int, quantity: int = 10) -> list[Wish]:
    """Of every kind, around the close that was known."""
    luck = random.Random(seed)
    found = []
    for _ in range(count):
        after = luck.randrange(len(bars) - 1)
        close = Decimal(bars[after].close)
        side = luck.choice(["BUY", "SELL"])
        away = (close * luck.randint(1, 60) / 1000).quantize(Decimal("0.01")) * (1 if side == "BUY" else -1)
        kind = luck.choice(["MARKET", "LIMIT", "STOP", "STOP_LIMIT"])
        limit = {"LIMIT": close - away, "STOP_LIMIT": close + luck.choice([-1, 0, 1, 2]) * away}.get(kind)
        stop = close + away if kind in ("STOP", "STOP_LIMIT") else None
        texts = ("" if price is None else str(price) for price in (limit, stop))
        found.append(Wish(after, side, quantity, kind, *texts))
    return found


def simulated(bars: Sequence[Bar], orders: Sequence[Wish], **settings: Any) -> tuple[Result, History]:
    """All orders are good till cancelled; the order of a wish is named after its place."""
    known = settings_of({"stamp": "open", "interval": "1d", "limit_fill": "touch", "participation": 1} | settings)
    reader = BarReader(known)
    header = ["symbol", "time", "open", "high", "low", "close", "volume"]
    reader.rows([header, *(["A", *bar] for bar in bars)], "bars")
    history = reader.history()
    rows = [[*COLUMNS, *MORE]]
    for n, order in enumerate(orders):
        at = bars[order.after + 1].day
        fields = [
            str(n),
            at,
            "A",
            order.side,
            str(order.quantity),
            order.kind,
            order.limit,
            order.stop,
            "GTC",
            "",
            "",
            "",
        ]
        rows.append(fields)
    asked = OrderReader(known, history)
    asked.rows(rows, "orders")
    return simulate_orders(asked.orders(), history, known, engine="plain"), history


Fill = tuple[int, int, int, int]
"""The place of the wish, the bar, lots, and the price in ticks."""


def fills_of(result: Result, history: History) -> list[Fill]:
    """In the sequence of their bars, then of the wishes."""
    series = history.series["A"]
    number = {at: n for n, at in enumerate(series.open_time)}
    day = result.settings.interval
    trades = result.trades
    at_open = (0, 1)
    return sorted(
        (
            (int(result.orders.order_id[row]), number[at if code & 7 in at_open else at - day], quantity, price)
            for row, at, code, quantity, price in zip(
                trades.order, trades.time, trades.reason, trades.quantity, trades.price, strict=True
            )
        ),
        key=lambda fill: (fill[1], fill[0]),
    )
