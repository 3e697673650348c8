"""The rules of fills by worked examples: what an order of each kind gets from a bar, and what it does not."""

from __future__ import annotations

from decimal import Decimal

import pytest

from simulation.bars import BarReader
from simulation.orders import OrderReader
from simulation.run import simulate_orders
from simulation.settings import settings_of
from tests.simulated.cases import D, day, ends, fills, order_rows, reasons, simulated

CALM = "99 99 99 99"


def price_of(bars: list[str], order: str, **settings: object) -> Decimal | None:
    """Of the first fill of the only order; None: it has none."""
    filled = fills(simulated(bars, [order], **settings))
    return filled[0][2] if filled else None


@pytest.mark.parametrize(("bar", "order", "settings", "price"), [
    ("103 104 102 103", "BUY 10 MARKET", {"slippage": {"model": "bps", "bps": 5}}, "103.06"),
    ("103 104 102 103", "SELL 10 MARKET", {"slippage": {"model": "bps", "bps": 5}}, "102.94"),
    ("103 105 102 103", "BUY 10 LIMIT limit=104", {}, "103"),
    ("103 104 102 103", "BUY 10 LIMIT limit=102", {}, None),
    ("103 104 102 103", "BUY 10 LIMIT limit=102", {"limit_fill": "touch"}, "102"),
    ("103 104 101.99 103", "BUY 10 LIMIT limit=102", {}, "102"),
    ("102 104 101.99 103", "BUY 10 LIMIT limit=102", {}, "102"),
    ("99.98 100 99 99", "BUY 10 LIMIT limit=99.99", {"slippage": {"model": "bps", "bps": 5}}, "99.99"),
    ("90 92 88 90", "SELL 10 STOP stop=100", {}, "90"),
    ("28.19 29 25.37 25.75", "SELL 10 STOP stop=50", {}, "28.19"),
    ("102 103 98 100", "SELL 10 STOP stop=100", {"slippage": {"model": "ticks", "ticks": 1}}, "99.99"),
    ("102 103 100 101", "SELL 10 STOP stop=100", {}, "100"),
    ("102 103 100.01 101", "SELL 10 STOP stop=100", {}, None),
    ("103 106 102 104", "BUY 10 STOP_LIMIT stop=100 limit=105", {}, "103"),
    ("99 101.50 99 101", "BUY 10 STOP_LIMIT stop=100 limit=100.25", {}, "100"),
    ("99 101.50 99 101", "BUY 10 STOP_LIMIT stop=100 limit=100", {"slippage": {"model": "ticks", "ticks": 3}}, "100"),
    ("102 103 102 103", "BUY 10 LIMIT limit=102", {}, "102"),
    ("99 100 98 99", "BUY 10 STOP stop=100", {}, "100"),
    ("100 101 99 99", "BUY 10 STOP stop=100 tif=IOC", {}, "100"),
    ("99.80 101 99.30 99.40", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {}, "99.50"),
    ("99.80 101 99.30 100", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {}, None),
    ("99.80 101 99.30 99.50", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {}, None),
    ("99.80 101 99.30 99.50", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {"limit_fill": "touch"}, "99.50"),
    ("99.80 101 99.30 99.60", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {"limit_fill": "touch"}, None),
    ("99.80 101 99.30 99.49", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {}, "99.50"),
    ("99.80 101 99.30 99.40", "BUY 10 STOP_LIMIT stop=100 limit=99.50", {"slippage": {"model": "ticks", "ticks": 3}}, "99.50"),
    ("99.50 101 99.40 100", "BUY 10 STOP_LIMIT stop=100 limit=99.99", {}, None),
    ("99 99 97 98", "BUY 10 LIMIT limit=98", {"slippage": {"model": "ticks", "ticks": 3}}, "98"),
    ("102.01 103 102.01 103", "BUY 10 LIMIT limit=102", {}, None),
    ("103 104 102 103", "BUY 10 LIMIT limit=101", {"limit_fill": "touch"}, None),
])  # fmt: skip
def test_an_order_gets_what_the_bar_gives(bar: str, order: str, settings: dict[str, object], price: str | None) -> None:
    assert price_of([bar], order, **settings) == (None if price is None else D(price))


@pytest.mark.parametrize(("bar", "order", "price"), [
    ("97 98 95 97", "SELL 10 LIMIT limit=96", "97"),
    ("97 98 95 97", "SELL 10 LIMIT limit=98", None),
    ("97 98.01 95 97", "SELL 10 LIMIT limit=98", "98"),
    ("110 112 108 110", "BUY 10 STOP stop=100", "110"),
    ("97 98 94 96", "SELL 10 STOP_LIMIT stop=100 limit=95", "97"),
    ("101 101 98.50 99", "SELL 10 STOP_LIMIT stop=100 limit=99.75", "100"),
    ("100.20 100.70 99 100.60", "SELL 10 STOP_LIMIT stop=100 limit=100.50", "100.50"),
])  # fmt: skip
def test_the_other_side_is_the_mirror(bar: str, order: str, price: str | None) -> None:
    assert price_of([bar], order) == (None if price is None else D(price))


def test_a_stop_limit_that_gapped_over_its_limit_rests_and_fills_when_the_price_comes_back() -> None:
    result = simulated(["103 106 102 104", "102 103 100.50 102"], ["BUY 10 STOP_LIMIT stop=100 limit=101 tif=GTC"])
    assert fills(result) == [("o1", 10, 101)]
    assert reasons(result) == ["limit"]


def test_a_limit_is_kept_on_every_partial() -> None:
    """One that was reached once buys nothing at 104 or 110."""
    bars = ["99 99 99 99 1000", "104 105 103 104 1000", "110 111 109 110 1000"]
    result = simulated(bars, ["BUY 250 LIMIT limit=100 tif=GTC"], participation="0.1")
    assert fills(result) == [("o1", 100, 99)]
    assert reasons(result) == ["open+capped_by_volume"]
    assert ends(result) == ["WORKING"]


@pytest.mark.parametrize(("ticks", "why"), [(1, "open"), (2, "open+slippage_capped")])
def test_slippage_that_just_reaches_the_limit_is_not_capped(ticks: int, why: str) -> None:
    result = simulated(["100 100 99 99"], ["BUY 10 LIMIT limit=100.01"], slippage={"model": "ticks", "ticks": ticks})
    assert (fills(result), reasons(result)) == ([("o1", 10, D("100.01"))], [why])


def test_slippage_that_is_capped_by_the_limit_is_said() -> None:
    settings = {"slippage": {"model": "bps", "bps": 5}}
    assert reasons(simulated(["99.98 100 99 99"], ["BUY 10 LIMIT limit=99.99"], **settings)) == ["open+slippage_capped"]


@pytest.mark.parametrize(("open_", "path", "exit_at"), [
    ("100", "adverse", "95"), ("100", "nearest", "95"), ("100", "ohlc", "106"), ("100", "olhc", "95"),
    ("94", "adverse", "94"), ("108", "adverse", "108"),
])  # fmt: skip
def test_of_a_stop_and_a_target_in_one_bar_the_path_decides(open_: str, path: str, exit_at: str) -> None:
    bars = ["100 100 100 100", f"{open_} {max(107, int(open_))} 94 100"]
    orders = ["BUY 10 MARKET", "SELL 10 STOP stop=95 oco=x tif=GTC at=2", "SELL 10 LIMIT limit=106 oco=x tif=GTC at=2"]
    result = simulated(bars, orders, path=path)
    assert [price for _, _, price in fills(result)] == [100, D(exit_at)]
    assert sorted(ends(result)) == ["CANCELLED OCO", "FILLED", "FILLED"]
    assert reasons(result)[1] == ("path" if open_ == "100" else "gap" if open_ == "94" else "open")


@pytest.mark.parametrize(("bar", "path", "first"), [
    ("100 107 93 100", "adverse", "o1"), ("100 107 93 100", "ohlc", "o1"), ("100 107 93 100", "olhc", "o2"),
    ("100 107 93 100", "nearest", "o1"), ("100 107 92 100", "nearest", "o1"), ("100 108 93 100", "nearest", "o2"),
])  # fmt: skip
def test_of_a_buyers_stop_and_limit_the_path_decides(bar: str, path: str, first: str) -> None:
    result = simulated([bar], ["BUY 10 STOP stop=106 oco=x", "BUY 10 LIMIT limit=94 oco=x"], path=path)
    assert [name for name, _, _ in fills(result)] == [first]


def test_nearest_goes_to_the_nearer_extreme_first() -> None:
    orders = ["SELL 10 LIMIT limit=106 oco=x", "SELL 10 STOP stop=95 oco=x"]
    assert fills(simulated(["100 106.50 90 100"], orders, path="nearest")) == [("o1", 10, 106)]
    assert fills(simulated(["100 107 94 100"], orders, path="nearest")) == [("o2", 10, 95)]


def test_nearest_with_both_extremes_equally_far_is_as_adverse() -> None:
    bars = ["100 106.50 93.50 100"]
    orders = ["SELL 10 LIMIT limit=106 oco=x", "SELL 10 STOP stop=95 oco=x"]
    assert fills(simulated(bars, orders, path="nearest")) == [("o2", 10, 95)]


def test_the_level_nearer_to_the_open_comes_first() -> None:
    result = simulated(["100 105 95 100 60"], ["BUY 50 LIMIT limit=97", "BUY 50 LIMIT limit=98"])
    assert fills(result) == [("o2", 50, 98), ("o1", 10, 97)]


def test_of_one_level_the_earlier_order_comes_first_and_levels_in_any_sequence_are_sorted() -> None:
    at_one = simulated(["100 105 95 100 60"], ["BUY 50 LIMIT limit=97", "BUY 50 LIMIT limit=97"])
    assert fills(at_one) == [("o1", 50, 97), ("o2", 10, 97)]
    levels = simulated(["100 105 95 100 25"], [f"BUY 10 LIMIT limit={level}" for level in (97, 96, 99, 98)])
    assert fills(levels) == [("o3", 10, 99), ("o4", 10, 98), ("o1", 5, 97)]


def test_what_only_the_close_decides_comes_last_and_by_arrival() -> None:
    orders = [f"BUY 10 STOP_LIMIT stop={stop} limit=99" for stop in (103, 104, 101, 102)]
    result = simulated(["100 105 98 98.50 35"], [*orders, "BUY 10 LIMIT limit=99"])
    assert fills(result) == [("o5", 10, 99), ("o1", 10, 99), ("o2", 10, 99), ("o3", 5, 99)]


def test_of_two_that_only_the_close_decides_the_earlier_comes_first_whichever_was_triggered_first() -> None:
    orders = ["BUY 10 STOP_LIMIT stop=102 limit=99", "BUY 10 STOP_LIMIT stop=101 limit=99"]
    assert fills(simulated(["100 105 98 98.50 15"], orders)) == [("o1", 10, 99), ("o2", 5, 99)]


def test_one_bar_has_one_pool_for_all_orders_and_the_rest_goes_on_at_the_next_open() -> None:
    bars = ["100 100 100 100 1000", "101 101 101 101 1000"]
    result = simulated(bars, ["SELL 30 MARKET tif=GTC", "BUY 90 MARKET tif=GTC"], participation="0.1")
    assert fills(result) == [("o1", 30, 100), ("o2", 70, 100), ("o2", 20, 101)]
    assert ends(result) == ["FILLED", "FILLED"]


def test_a_pool_of_no_lot_triggers_stops_and_fills_nothing() -> None:
    bars = ["100 100 90 92 5", "80 81 79 80 1000"]
    result = simulated(bars, ["SELL 10 STOP stop=95 tif=GTC"], participation="0.1")
    assert fills(result) == [("o1", 10, 80)]
    assert reasons(result) == ["open"]


def test_quantities_and_pools_are_in_lots() -> None:
    result = simulated(["100 100 100 100 999"], ["BUY 500 MARKET"], lot=100, participation="0.5")
    assert fills(result) == [("o1", 400, 100)]


# --- time -----------------------------------------------------------------------------------------------------------


def test_an_order_fills_only_in_bars_that_open_after_it_arrived() -> None:
    assert fills(simulated(["100 100 100 100", "101 101 101 101"], ["BUY 1 MARKET at=2"])) == [("o1", 1, 101)]
    late = simulated(["100 100 100 100", "101 101 101 101"], ["BUY 1 MARKET"], latency_seconds=1)
    assert fills(late) == [("o1", 1, 101)]


def test_a_day_order_has_one_daily_bar() -> None:
    result = simulated([CALM, "99 101 99 101"], ["BUY 1 STOP stop=100", "BUY 1 STOP stop=100 at=2"])
    assert ends(result) == ["EXPIRED DAY_ENDED", "FILLED"]


@pytest.mark.parametrize(("order", "bar", "price"), [
    ("BUY 1 STOP stop=100 tif=GTC", "99 100 99 99", "100"),
    ("SELL 1 STOP stop=98 tif=GTC", "99 99 98 99", "98"),
    ("BUY 1 LIMIT limit=98 tif=GTC", "98 99 98 99", "98"),
    ("BUY 1 STOP stop=100 tif=GTC", "101 102 101 101", "101"),
    ("SELL 1 STOP stop=98 tif=GTC", "97 97 96 97", "97"),
    ("BUY 1 LIMIT limit=98 tif=GTC", "97 97 96 97", "97"),
    ("SELL 1 LIMIT limit=100 tif=GTC", "101 102 101 101", "101"),
])  # fmt: skip
def test_what_rests_is_met_by_the_very_price_that_it_waits_for_and_by_a_gap_over_it(
    order: str, bar: str, price: str
) -> None:
    assert fills(simulated([CALM, CALM, bar], [order])) == [("o1", 1, D(price))]


def test_each_day_ends_its_own_orders() -> None:
    orders = ["BUY 1 STOP stop=100", "BUY 1 STOP stop=100 at=2"]
    assert ends(simulated([CALM, CALM, "99 101 99 101"], orders)) == ["EXPIRED DAY_ENDED"] * 2


def test_the_last_day_ends_too_and_what_came_after_it_works_on() -> None:
    result = simulated([CALM], ["BUY 1 STOP stop=100", "BUY 1 MARKET at=2", "BUY 1 STOP stop=100 tif=GTC"])
    assert ends(result) == ["EXPIRED DAY_ENDED", "WORKING", "WORKING"]


@pytest.mark.parametrize("bar", ["99 99 99 99 0", "99 99 99 99 1000 halted"])
def test_where_nothing_is_traded_nothing_fills_and_nothing_triggers(bar: str) -> None:
    orders = ["BUY 1 MARKET", "BUY 1 MARKET tif=IOC", "BUY 1 STOP stop=98 tif=GTC", "BUY 1 MARKET tif=GTC"]
    result = simulated([bar, CALM], orders)
    assert ends(result) == ["EXPIRED NO_TRADING", "CANCELLED IOC", "FILLED", "FILLED"]
    assert fills(result) == [("o3", 1, 99), ("o4", 1, 99)]


def test_immediate_or_cancel_is_decided_by_the_open_alone() -> None:
    orders = ["BUY 1 LIMIT limit=98.50 tif=IOC", "BUY 1 STOP stop=100 tif=IOC", "BUY 2000000 MARKET tif=IOC"]
    result = simulated(["99 101 98 99"], orders)
    assert ends(result) == ["CANCELLED IOC", "CANCELLED IOC", "CANCELLED IOC"]
    assert fills(result) == [("o3", 1_000_000, 99)]
    assert ends(simulated([CALM], ["BUY 1 MARKET tif=IOC"])) == ["FILLED"]


def test_what_is_immediate_fills_in_a_bar_that_ends_others() -> None:
    orders = ["BUY 1 STOP stop=105", "BUY 1 MARKET tif=IOC at=2"]
    assert ends(simulated([CALM, CALM], orders)) == ["EXPIRED DAY_ENDED", "FILLED"]


# --- orders that look at the position ------------------------------------------------------------------------------


def test_what_reduces_only_never_opens() -> None:
    orders = ["BUY 5 MARKET", "SELL 8 MARKET reduce_only=1 tif=GTC", "SELL 3 MARKET reduce_only=1 tif=GTC"]
    result = simulated([CALM, CALM], orders)
    assert fills(result) == [("o1", 5, 99), ("o2", 5, 99)]
    assert ends(result) == ["FILLED", "CANCELLED REDUCE_ONLY", "CANCELLED REDUCE_ONLY"]


def test_what_reduces_only_ends_with_the_position_and_not_before() -> None:
    one_bar = simulated([CALM], ["BUY 5 MARKET", "SELL 8 MARKET reduce_only=1 tif=GTC"])
    assert (fills(one_bar)[1:], ends(one_bar)[1]) == ([("o2", 5, 99)], "CANCELLED REDUCE_ONLY")
    the_last = simulated([CALM], ["BUY 1 MARKET", "SELL 1 MARKET reduce_only=1"])
    assert ends(the_last) == ["FILLED", "FILLED"]
    in_parts = simulated(["99 99 99 99 30", CALM], ["BUY 20 MARKET", "SELL 20 MARKET reduce_only=1 tif=GTC"])
    assert fills(in_parts)[1:] == [("o2", 10, 99), ("o2", 10, 99)]
    free = simulated(["99 99 99 99 10"], ["BUY 5 MARKET", "SELL 20 MARKET tif=GTC"])
    assert (fills(free)[1:], ends(free)[1]) == ([("o2", 5, 99)], "WORKING")


@pytest.mark.parametrize("exits", [
    ("SELL 10 STOP stop=95", "SELL 10 LIMIT limit=106"), ("SELL 10 STOP_LIMIT stop=96 limit=97", "SELL 10 STOP_LIMIT stop=95 limit=97"),
])  # fmt: skip
def test_the_partner_of_what_closed_a_position_is_cancelled_as_a_partner(exits: tuple[str, str]) -> None:
    orders = ["BUY 10 MARKET", *(f"{line} oco=x reduce_only=1 tif=GTC at=2" for line in exits)]
    result = simulated([CALM, "100 107 94 99"], orders)
    assert sorted(ends(result)) == ["CANCELLED OCO", "FILLED", "FILLED"]


def test_a_partner_that_has_ended_stays_as_it_ended() -> None:
    orders = ["BUY 10 STOP stop=105 oco=x", "BUY 10 LIMIT limit=98.50 oco=x tif=GTC"]
    assert ends(simulated([CALM, "99 99 98 99"], orders)) == ["EXPIRED DAY_ENDED", "FILLED"]


def test_a_partner_that_the_open_has_ended_is_not_looked_at_in_that_bar_again() -> None:
    orders = ["BUY 10 MARKET oco=x tif=IOC", "SELL 10 STOP stop=95 oco=x tif=IOC"]
    assert ends(simulated([CALM], orders)) == ["FILLED", "CANCELLED OCO"]


def test_what_the_open_has_filled_whole_makes_nothing_a_matter_of_the_path() -> None:
    orders = ["BUY 4 LIMIT limit=101 oco=x", "BUY 10 STOP stop=106 oco=x"]
    result = simulated(["100 107 94 100"], orders)
    assert (fills(result), reasons(result)) == ([("o1", 4, 100), ("o2", 6, 106)], ["open", "stop"])


def test_only_a_partner_within_reach_makes_it_a_matter_of_the_path() -> None:
    orders = ["BUY 10 STOP stop=105 oco=x", "BUY 10 LIMIT limit=98.50 oco=x", "BUY 10 STOP stop=99.50"]
    assert reasons(simulated(["99 100 98 99"], orders)) == ["stop", "limit"]


def test_a_partial_fill_is_taken_off_the_partner() -> None:
    bars = ["100 107 99 100 60", "100 101 94 95 100"]
    orders = ["SELL 100 LIMIT limit=106 oco=x tif=GTC", "SELL 100 STOP stop=95 oco=x tif=GTC"]
    assert fills(simulated(bars, orders)) == [("o1", 60, 106), ("o2", 40, 95)]


def test_a_reverse_split_counts_in_a_bar_that_touches_nothing() -> None:
    orders = ["BUY 100 MARKET", "SELL 100 STOP stop=50 tif=GTC at=2", "SELL 20 MARKET reduce_only=1 at=4"]
    result = simulated([CALM] * 4, orders, actions="A,2024-01-03,split,1/10\n")
    assert ends(result) == ["FILLED", "CANCELLED CORPORATE_ACTION", "CANCELLED REDUCE_ONLY"]
    assert fills(result)[1:] == [("o3", 10, 99)]


# --- slippage -------------------------------------------------------------------------------------------------------


def test_models_add_up_and_are_rounded_up_once() -> None:
    both = [{"model": "bps", "bps": "12.5"}, {"model": "half_spread", "ticks": "0.5"}]
    # 100 x 0.00125 = 0.125, and half a tick of 0.01: 0.13
    assert price_of(["100 101 99 100"], "BUY 1 MARKET", slippage=both) == D("100.13")


def test_slippage_of_part_of_a_tick_is_rounded_up_to_a_whole_one() -> None:
    part = {"model": "ticks", "ticks": "1.5"}
    assert price_of(["100 101 99 100"], "BUY 1 MARKET", slippage=part) == D("100.02")


def test_the_root_of_the_days_share() -> None:
    root = {"model": "sqrt", "y": 1, "sigma": "0.02", "adv": 1_000_000}
    assert price_of(["50 51 49 50"], "BUY 10000 MARKET", slippage=root) == D("50.10")


def test_slicing_within_a_day_does_not_evade_the_root_and_a_new_day_begins_anew() -> None:
    root = {"model": "sqrt", "y": 1, "sigma": "0.02", "adv": 1_000_000}
    known = settings_of({"stamp": "open", "interval": "1h", "participation": 1, "slippage": root})
    reader = BarReader(known)
    times = [day(1, 10), day(1, 11), day(2, 10)]
    rows = [["A", at, "50", "50", "50", "50", "5000"] for at in times]
    reader.rows([["symbol", "time", "open", "high", "low", "close", "volume"], *rows], "bars")
    history = reader.history()
    asked = OrderReader(known, history)
    asked.rows(order_rows("BUY 15000 MARKET tif=GTC"), "orders")
    result = simulate_orders(asked.orders(), history, known, engine="plain")
    # The root of 5,000 of a million, of 10,000, and of 5,000 once more: 0.0707, 0.10 and 0.0707 of a price of 50.
    assert [price for _, _, price in fills(result)] == [D("50.08"), D("50.10"), D("50.08")]


def test_a_square_of_the_bars_share_counts_all_orders_of_the_bar() -> None:
    square = {"model": "volume_share", "price_impact": "0.1"}
    result = simulated(["100 100 100 100 1000"], ["BUY 100 MARKET", "BUY 100 MARKET"], slippage=square)
    # 0.1 x 0.1² x 100 = 0.1; then with both: 0.1 x 0.2² x 100 = 0.4
    assert [price for _, _, price in fills(result)] == [D("100.10"), D("100.40")]


def test_no_sale_goes_below_a_tick() -> None:
    assert price_of(["0.05 0.05 0.05 0.05"], "SELL 1 MARKET", slippage={"model": "ticks", "ticks": 9}) == D("0.01")


# --- fees -----------------------------------------------------------------------------------------------------------


def test_the_minimum_of_a_commission_is_once_an_order() -> None:
    bars = ["10 10 10 10 100"] * 3
    fee = {"model": "per_share", "per_share": "0.005", "minimum": "1.00"}
    result = simulated(bars, ["BUY 300 MARKET tif=GTC"], commission=fee)
    assert [cents / D(100) for cents in result.trades.fee] == [D("1.00"), D("0.00"), D("0.50")]


@pytest.mark.parametrize(("model", "fee"), [
    ({"model": "per_order", "per_order": "1"}, "1"),
    ({"model": "percent", "percent": "0.1"}, "1.00"),
    ({"model": "percent", "percent": "0.0125"}, "0.12"),
    ({"model": "per_share", "per_share": "0.005", "minimum": "20", "maximum_pct": "1.0"}, "10"),
    ([{"model": "per_order", "per_order": "0.005"}, {"model": "percent", "percent": "0.0001"}], "0.01"),
    ({"model": "per_order", "per_order": "1", "side": "sell"}, "0"),
    ({"model": "none"}, "0"),
])  # fmt: skip
def test_commissions(model: object, fee: str) -> None:
    """Of 100 at 10: the percentage is of 1,000; half a cent goes to the even one; two are added before they are rounded."""
    result = simulated(["10 10 10 10"], ["BUY 100 MARKET"], commission=model)
    assert result.trades.fee[0] / D(100) == D(fee)
