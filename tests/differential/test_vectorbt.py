"""Beside vectorbt: the cash of long streams of orders, at each bar, to the cent."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from tests.differential.stocks import Bar, Wish, simulated, stocks

vectorbt = pytest.importorskip("vectorbt", reason="vectorbt is not installed (make differential)")
numpy = pytest.importorskip("numpy")
pytest.importorskip("bokeh_sampledata", reason="bokeh_sampledata is not installed (make differential)")

CENT = Decimal("0.01")


@pytest.mark.parametrize("ticker", ["AAPL", "GOOG", "IBM"])
def test_cash_at_every_bar_is_the_same_to_the_cent(ticker: str) -> None:
    bars = stocks()[ticker]
    luck = random.Random(3)
    sizes = [0, *(luck.choice([0, 10, -10, 37, -112]) for _ in bars[1:])]
    orders = [Wish(n - 1, "BUY" if size > 0 else "SELL", abs(size), "MARKET") for n, size in enumerate(sizes) if size]
    result, _ = simulated(bars, orders, commission={"model": "per_order", "per_order": "1.25"})
    unit = result.account.unit
    ours = [Decimal(cash) * unit for cash, _ in result.account.equity()]
    begun = 10**9
    book = vectorbt.Portfolio.from_orders(
        close=numpy.array([float(bar.close) for bar in bars]),
        size=numpy.array(sizes, dtype=float),
        price=numpy.array([float(bar.open) for bar in bars]),
        fixed_fees=1.25,
        init_cash=float(begun),
    )
    theirs = [Decimal(repr(float(cash))).quantize(CENT) - begun for cash in book.cash().to_numpy()]
    assert len(orders) > 1_000
    assert ours == theirs


def test_expected_difference_a_step_that_no_binary_float_holds() -> None:
    """Their mistake: 0.3 in steps of 0.1 is floored to 0.2."""
    bars = [Bar(f"2024-01-{n:02d}", "10", "10", "10", "10", "1000") for n in (1, 2)]
    known = {"lot": "0.1"}
    result, _ = simulated(bars, [Wish(0, "BUY", 3, "MARKET")], **known)
    book = vectorbt.Portfolio.from_orders(
        close=numpy.array([10.0, 10.0]), size=numpy.array([0.0, 0.3]), size_granularity=0.1, init_cash=1000.0
    )
    assert list(result.trades.quantity) == [30]
    assert book.orders.values["size"].tolist() == [0.2]
