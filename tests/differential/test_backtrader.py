"""Beside backtrader: where an order fills, and at which price, on real bars of five stocks."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.differential.stocks import Bar, Fill, Wish, fills_of, simulated, stocks, wishes

pytest.importorskip("backtrader", reason="backtrader is not installed (make differential)")
pytest.importorskip("bokeh_sampledata", reason="bokeh_sampledata is not installed (make differential)")

from tests.differential import backtrader_engine


def is_left_to_later_bars_by_backtrader(wish: Wish, bar: Bar) -> bool:
    """Expected difference 1. A stop-limit whose limit lies before its stop, triggered inside the bar, which closes beyond the limit: the close comes
    after the trigger, so the limit was reached. backtrader believes that only of a bar whose close lies on the limit's side of its open."""
    if wish.kind != "STOP_LIMIT":
        return False
    sign = 1 if wish.side == "BUY" else -1
    limit, stop, opens, close = (sign * Decimal(text) for text in (wish.limit, wish.stop, bar.open, bar.close))
    reached = sign * Decimal(bar.high if wish.side == "BUY" else bar.low) >= stop
    goes_against = opens <= close if wish.side == "BUY" else opens < close
    return opens < stop and reached and limit < stop and close <= limit and goes_against


@pytest.mark.parametrize("ticker", ["AAPL", "FB", "GOOG", "IBM", "MSFT"])
def test_orders_of_every_kind_fill_in_the_same_bar_at_the_same_price(ticker: str) -> None:
    bars = stocks()[ticker]
    orders = wishes(bars, 600, seed=len(bars))
    result, history = simulated(bars, orders)
    ours = {fill[0]: fill for fill in fills_of(result, history)}
    theirs = {fill[0]: fill for fill in backtrader_engine.fills_of(bars, orders)}
    different = {n for n in range(len(orders)) if ours.get(n) != theirs.get(n)}
    unexplained = [
        (orders[n], ours.get(n), theirs.get(n))
        for n in sorted(different)
        if n not in ours or not is_left_to_later_bars_by_backtrader(orders[n], bars[ours[n][1]])
    ]
    assert unexplained == []
    assert len(ours) > 400
    assert len(different) < 10


def bar(n: int, shape: str, volume: int = 1_000_000) -> Bar:
    return Bar(f"2024-01-{n:02d}", *shape.split(), str(volume))


def both(bars: list[Bar], orders: list[Wish], share: float | None = None) -> tuple[list[Fill], list[Fill]]:
    settings = {} if share is None else {"participation": str(share)}
    result, history = simulated(bars, orders, **settings)
    return fills_of(result, history), backtrader_engine.fills_of(bars, orders, share)


def test_expected_difference_1_a_close_beyond_the_limit_comes_after_the_trigger() -> None:
    bars = [bar(1, "99 99 99 99"), bar(2, "99.50 101 99.40 99.60"), bar(3, "103 103 103 103")]
    ours, theirs = both(bars, [Wish(0, "BUY", 10, "STOP_LIMIT", limit="99.80", stop="100")])
    assert (ours, theirs) == ([(0, 1, 10, 9980)], [])


RISING = [
    bar(1, "10 10 10 10"),
    bar(2, "10 12 9 11", 1_000),
    bar(3, "11 12 10 11", 1_000),
    bar(4, "12 12 11 11", 1_000),
]


@pytest.mark.parametrize("order", [Wish(0, "BUY", 250, "MARKET"), Wish(0, "BUY", 250, "LIMIT", limit="10")])
def test_what_one_bars_volume_leaves_goes_on_in_the_next(order: Wish) -> None:
    ours, theirs = both(RISING, [order], 0.1)
    assert ours == theirs
    assert len(ours) > 1


def test_expected_difference_3_what_was_triggered_stays_triggered() -> None:
    """What is left of a stop waits for its price once more at backtrader, and after a fall may wait for ever."""
    ours, theirs = both(RISING, [Wish(0, "SELL", 250, "STOP", stop="9.50")], 0.1)
    assert theirs == [(0, 1, 100, 950)]
    assert ours == [*theirs, (0, 2, 100, 1100), (0, 3, 50, 1200)]


def test_expected_difference_2_the_volume_of_a_bar_is_there_once() -> None:
    bars = [bar(1, "10 10 10 10"), bar(2, "10 10 10 10", 1_000), bar(3, "10 10 10 10", 1_000)]
    ours, theirs = both(bars, [Wish(0, "BUY", 90, "MARKET"), Wish(0, "BUY", 90, "MARKET")], 0.1)
    assert [fill for fill in theirs if fill[1] == 1] == [(0, 1, 90, 1000), (1, 1, 90, 1000)]
    assert ours == [(0, 1, 90, 1000), (1, 1, 10, 1000), (1, 2, 80, 1000)]
