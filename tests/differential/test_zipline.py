"""Beside zipline's models: slippage by the square of the volume's share, volume that all orders of a bar share, the minimum of a commission."""

from __future__ import annotations

import random
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from tests.differential.stocks import Bar, Wish, fills_of, simulated, stocks

pytest.importorskip("zipline", reason="zipline is not installed (make differential)")
pytest.importorskip("bokeh_sampledata", reason="bokeh_sampledata is not installed (make differential)")

import pandas
from zipline.assets import Equity, ExchangeInfo
from zipline.finance.commission import PerShare
from zipline.finance.order import Order
from zipline.finance.slippage import FixedBasisPointsSlippage, SlippageModel, VolumeShareSlippage

ASSET = Equity(1, exchange_info=ExchangeInfo("NYSE", "NYSE", "US"), symbol="A")
IMPACT, SHARE = "0.1", "0.025"


class OneBar:
    """What zipline's models ask of the data: the present bar."""

    def __init__(self, bar: Bar) -> None:
        self.current_dt = pandas.Timestamp(bar.day, tz="UTC")
        self._known = {"close": float(bar.close), "volume": float(bar.volume)}

    def current(self, _: Any, field: str) -> float:
        return self._known[field]


def through(model: SlippageModel, bars: list[Bar], orders: list[Wish]) -> list[tuple[int, int, int, float]]:
    """Place of the wish, bar, quantity and price."""
    working: list[tuple[int, Order]] = []
    fills = []
    for k, bar in enumerate(bars):
        for n, wish in enumerate(orders):
            if wish.after == k - 1:
                sign = 1 if wish.side == "BUY" else -1
                limit = float(wish.limit) if wish.limit else None
                working.append((n, Order(OneBar(bar).current_dt, ASSET, sign * wish.quantity, limit=limit)))
        numbers = {id(order): n for n, order in working}
        for order, transaction in model.simulate(OneBar(bar), ASSET, [order for _, order in working]):
            order.filled += transaction.amount
            fills.append((numbers[id(order)], k, abs(transaction.amount), float(transaction.price)))
        working = [(n, order) for n, order in working if order.open_amount]
    return fills


def flat(bars: list[Bar]) -> list[Bar]:
    """Bars of one price each, their close: zipline fills there, and a market order fills at the open."""
    return [Bar(bar.day, *[bar.close] * 4, bar.volume) for bar in bars]


@pytest.mark.parametrize("ticker", ["AAPL", "IBM", "MSFT"])
def test_the_square_of_the_share_and_the_volume_that_is_left_are_the_same(ticker: str) -> None:
    luck = random.Random(7)
    bars = flat(list(stocks()[ticker][:400]))
    orders = [
        Wish(luck.randrange(len(bars) - 20), luck.choice(["BUY", "SELL"]), luck.randint(1, 900_000), "MARKET")
        for _ in range(300)
    ]
    orders.sort(key=lambda wish: wish.after)
    settings = {"participation": SHARE, "slippage": {"model": "volume_share", "price_impact": IMPACT}}
    result, history = simulated(bars, orders, **settings)
    ours = fills_of(result, history)
    theirs = sorted(through(VolumeShareSlippage(float(SHARE), float(IMPACT)), bars, orders), key=lambda f: (f[1], f[0]))
    assert [fill[:3] for fill in ours] == [fill[:3] for fill in theirs]
    for (n, _, _, ticks), (_, _, _, price) in zip(ours, theirs, strict=True):
        # Ours is rounded to the tick, against the order.
        worse = (ticks - 100 * price) * (1 if orders[n].side == "BUY" else -1)
        assert -1e-6 < worse < 1 + 1e-6
    assert len(ours) > 300


def test_a_minimum_is_once_an_order() -> None:
    model = PerShare(cost=0.005, min_trade_cost=1.0)
    order = Order(pandas.Timestamp("2024-01-01", tz="UTC"), ASSET, 300)
    theirs = []
    for _ in range(3):
        fee = model.calculate(order, SimpleNamespace(amount=100, price=10.0))
        order.filled += 100
        order.commission += fee
        theirs.append(Decimal(repr(fee)).quantize(Decimal("0.01")))
    bars = [Bar(f"2024-01-{n:02d}", "10", "10", "10", "10", "100") for n in range(1, 5)]
    fee = {"model": "per_share", "per_share": "0.005", "minimum": "1"}
    result, _ = simulated(bars, [Wish(0, "BUY", 300, "MARKET")], commission=fee)
    assert [Decimal(cents) / 100 for cents in result.trades.fee] == theirs == [1, 0, Decimal("0.50")]


def test_expected_difference_a_limit_holds_on_every_partial() -> None:
    """Their mistake: that a limit was reached is remembered, and the price of later partials is not compared with it."""
    bars = [Bar(f"2024-01-{n:02d}", *[price] * 4, "1000") for n, price in enumerate(["99", "99", "104", "110"], 1)]
    order = Wish(0, "BUY", 250, "LIMIT", limit="100")
    result, history = simulated(bars, [order], participation="0.1")
    theirs = through(FixedBasisPointsSlippage(basis_points=5, volume_limit=0.1), bars, [order])
    assert fills_of(result, history) == [(0, 1, 100, 9900)]
    assert [fill[3] > 100 for fill in theirs] == [False, True, True]
