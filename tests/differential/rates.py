"""`python -m tests.differential.rates`: orders a second of processor time, each engine on the same orders, by turns; one thread."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

from simulation.bars import BarReader, History
from simulation.orders import OrderColumns, OrderReader
from simulation.run import simulate_orders
from simulation.settings import settings_of
from tests.differential.stocks import Bar, Wish

KNOWN = settings_of({"stamp": "open", "interval": "1m", "participation": 1})
LEAST = {"backtrader": 30, "vectorbt": 2}


def walk(count: int, luck: random.Random) -> list[int]:
    """Prices in ticks, from a random walk."""
    price, found = 10_000, []
    for _ in range(count):
        price = max(1_000, price + luck.randint(-5, 5))
        found.append(price)
    return found


def history_of(prices: list[list[int]]) -> tuple[History, list[str]]:
    """Minute bars of one price each."""
    reader = BarReader(KNOWN)
    times = [
        f"2024-{1 + n // 40_320:02d}-{1 + n // 1_440 % 28:02d}T{n // 60 % 24:02d}:{n % 60:02d}:00Z"
        for n in range(len(prices[0]))
    ]
    header = ["symbol", "time", "open", "high", "low", "close", "volume"]
    for number, each in enumerate(prices):
        texts = [f"{price / 100:.2f}" for price in each]
        reader.rows(
            [header, *([f"S{number:04d}", at, *[text] * 4, "1000000"] for at, text in zip(times, texts, strict=True))],
            "bars",
        )
    return reader.history(), times


def orders_of(history: History, times: list[str], sizes: list[list[int]]) -> OrderColumns:
    reader = OrderReader(KNOWN, history)
    rows = [["order_id", "time", "symbol", "side", "quantity", "order_type", "tif"]]
    for number, each in enumerate(sizes):
        rows += [
            [
                f"{number}-{n}",
                times[n],
                f"S{number:04d}",
                "BUY" if size > 0 else "SELL",
                str(abs(size)),
                "MARKET",
                "GTC",
            ]
            for n, size in enumerate(each)
            if size
        ]
    reader.rows(rows, "orders")
    return reader.orders()


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compare(name: str, count: int, theirs: Callable[[], object], ours: Callable[[], object], pairs: int) -> None:
    """By turns, after one turn that is not counted: compiling belongs to no order."""
    theirs()
    ours()
    took = [(seconds(theirs), seconds(ours)) for _ in range(pairs)]
    ratios = [them / us for them, us in took]
    rates = [count / statistics.median(each) for each in zip(*took, strict=True)]
    least = LEAST[name.split()[0]]
    verdict = "met" if statistics.median(ratios) >= least else "NOT MET"
    print(
        f"{name}: {rates[0]:,.0f} orders/s, ours {rates[1]:,.0f}; ours / theirs {statistics.median(ratios):.1f} "
        f"({' '.join(f'{ratio:.1f}' for ratio in ratios)}), target {least}: {verdict}"
    )


def beside_backtrader(pairs: int, engine: str) -> None:
    """One instrument, 50,000 minute bars, an order at each fifth."""
    from tests.differential import backtrader_engine

    count = 50_000
    prices = walk(count, random.Random(1))
    sizes = [0] * count
    for n in range(5, count, 5):
        sizes[n] = 10 if n % 10 else -10
    history, times = history_of([prices])
    orders = orders_of(history, times, [sizes])
    bars = [Bar(at, *[f"{price / 100:.2f}"] * 4, "1000000") for at, price in zip(times, prices, strict=True)]
    wishes = [Wish(n - 1, "BUY" if size > 0 else "SELL", 10, "MARKET") for n, size in enumerate(sizes) if size]
    compare(
        f"backtrader beside {engine}", len(orders),
        lambda: backtrader_engine.fills_of(bars, wishes), lambda: simulate_orders(orders, history, KNOWN, engine=engine), pairs,
    )  # fmt: skip


def beside_vectorbt(pairs: int, engine: str, instruments: int) -> None:
    """Market orders at each bar of many instruments: fills, fees and cash of both; ours has positions at exact cost too."""
    import numpy
    import vectorbt

    count = 2_500
    luck = random.Random(2)
    prices = [walk(count, luck) for _ in range(instruments)]
    sizes = [[0, *(luck.choice([10, -10]) for _ in range(count - 1))] for _ in range(instruments)]
    history, times = history_of(prices)
    orders = orders_of(history, times, sizes)
    price, size = numpy.array(prices, dtype=float).T / 100, numpy.array(sizes, dtype=float).T

    def theirs() -> object:
        book = vectorbt.Portfolio.from_orders(
            close=price, size=size, price=price, init_cash=1e12, cash_sharing=True, group_by=True
        )
        return book.cash()

    compare(
        f"vectorbt beside {engine}",
        len(orders),
        theirs,
        lambda: simulate_orders(orders, history, KNOWN, engine=engine),
        pairs,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.differential.rates", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--instruments", type=int, default=40, help="beside vectorbt, 2,499 orders each (%(default)s)")
    options = parser.parse_args()
    for engine in ("plain", "numba") if find_spec("numba") else ("plain",):
        beside_backtrader(options.pairs, engine)
        beside_vectorbt(options.pairs, engine, options.instruments)


if __name__ == "__main__":
    main()
