"""Buying power, shorts, margin and corporate actions: what an account can pay for, and what splits and dividends do to it."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulation.positions import SMALLEST_SHARE
from simulation.problems import InputRefused
from simulation.run import Result
from tests.simulated.cases import D, ends, fills, simulated
from tests.simulated.test_matching_properties import random_bars, random_orders

CALM = "10.20 10.20 10.20 10.20"
FEE = {"model": "per_order", "per_order": 1}


def cash(result: Result) -> Decimal:
    return result.account.cash


def equity(result: Result) -> Decimal:
    units, value = result.account.equity()[-1]
    return result.account.unit * (units + value)


def test_a_buy_is_cut_in_lots_to_what_cash_covers_with_its_fees() -> None:
    result = simulated([CALM], ["BUY 100 MARKET"], cash=1000, commission=FEE)
    assert fills(result) == [("o1", 97, D("10.20"))]
    assert (cash(result), ends(result)) == (D("9.60"), ["CANCELLED INSUFFICIENT_FUNDS"])


def test_what_cash_covers_not_one_lot_of_costs_nothing() -> None:
    orders = ["BUY 1 MARKET", "BUY 1 MARKET at=2"]
    result = simulated(["20 20 20 20", CALM], orders, cash="11.20", commission=FEE)
    assert (fills(result), cash(result)) == ([("o2", 1, D("10.20"))], 0)


def test_a_cash_account_sells_what_it_has_and_no_more() -> None:
    result = simulated([CALM, CALM], ["BUY 10 MARKET", "SELL 15 MARKET at=2"], cash=1000)
    assert fills(result) == [("o1", 10, D("10.20")), ("o2", 10, D("10.20"))]
    assert ends(result) == ["FILLED", "CANCELLED SHORT_NOT_ALLOWED"]


def test_at_the_open_what_reduces_comes_first_and_pays_for_the_rest() -> None:
    orders = ["BUY 98 MARKET", "BUY 98 MARKET at=2 strategy=b", "SELL 98 MARKET at=2"]
    result = simulated([CALM, CALM], orders, cash=1000)
    assert fills(result)[1:] == [("o3", 98, D("10.20")), ("o2", 98, D("10.20"))]


def test_margin_allows_shorts_and_bounds_the_exposure() -> None:
    result = simulated(["10 10 10 10"], ["SELL 500 MARKET"], cash=1000, margin="0.5")
    assert fills(result) == [("o1", 200, 10)]
    assert equity(result) == 1000


def test_a_reduction_passes_margin_always() -> None:
    bars = ["10 10 10 10", "5 5 5 5"]
    result = simulated(bars, ["BUY 200 MARKET", "SELL 200 MARKET at=2"], cash=1000, margin="0.5")
    assert fills(result) == [("o1", 200, 10), ("o2", 200, 5)]
    assert equity(result) == 0


def test_a_reverse_split_pays_the_fraction_at_the_open() -> None:
    bars = ["4 4 4 4", "40 41 39 40"]
    result = simulated(bars, ["BUY 105 MARKET"], actions="A,2024-01-02,split,1/10\n")
    position = result.account.positions[0, "A"]
    assert position.quantity == 10
    assert result.account.dividends == 0
    assert cash(result) == -420 + 20
    assert equity(result) == 0


@pytest.mark.parametrize(
    ("bought", "split", "opens", "held", "paid"),
    [
        # 1.5 shares each are 3: the one pays the other for the half share that it has of it, and nobody pays the account.
        ((1, 1), "3/2", "10", (1, 2), 0),
        ((3, 3, 3), "1/2", "10.01", (1, 2, 1), "5.00"),
        # What one strategy is short of is another's: the account holds one share, and is paid for a half.
        ((4, -3), "3/2", "10", (6, -5), 5),
        ((-1, 4), "3/2", "10", (-2, 6), 5),
        ((1, -1), "1/2", "10", (0, 0), 0),
        ((-1, -2), "1/2", "10", (0, -1), -5),
    ],
)  # fmt: skip
def test_fractions_of_a_split_are_settled_for_the_account_as_a_whole(
    bought: tuple[int, ...], split: str, opens: str, held: tuple[int, ...], paid: Any
) -> None:
    orders = [
        f"{'BUY' if n > 0 else 'SELL'} {abs(n)} MARKET strategy={name}" for name, n in zip("abc", bought, strict=False)
    ]
    result = simulated(["10 10 10 10", f"{opens} 99 1 {opens}"], orders, actions=f"A,2024-01-02,split,{split}\n")
    account = result.account
    positions = [account.positions[n, "A"] for n in range(len(bought))]
    assert tuple(each.quantity for each in positions) == held
    assert account.unit * account.paid_fractions == D(paid)
    assert cash(result) == -10 * sum(bought) + D(paid)
    assert account.imbalance() == 0
    # At the open nothing is won or lost by a split, but for less than a cent.
    worth = sum(each.quantity for each in positions) * D(opens) + cash(result)
    over, _, under = split.partition("/")
    assert abs(worth - (sum(bought) * D(over) / D(under or 1) * D(opens) - 10 * sum(bought))) < D("0.01")


def test_what_a_strategy_pays_for_a_fraction_of_another_is_its_cost_and_the_others_profit() -> None:
    """1.5 shares each, at a cost of 8: the first sells its half share at 10, the second buys it."""
    orders = ["BUY 1 MARKET strategy=a", "BUY 1 MARKET strategy=b"]
    account = simulated(["8 8 8 8", "10 10 10 10"], orders, actions="A,2024-01-02,split,3/2\n").account
    first, second = (account.positions[n, "A"] for n in (0, 1))
    assert (first.quantity, first.cost * SMALLEST_SHARE, first.realized * SMALLEST_SHARE) == (
        1,
        pytest.approx(D(8) * 2 / 3),
        pytest.approx(5 - D(8) / 3),
    )
    assert (second.quantity, second.cost * SMALLEST_SHARE, second.realized) == (2, 13, 0)


def test_a_dividend_is_paid_to_the_account_as_one_holder() -> None:
    orders = ["SELL 3 MARKET strategy=short", *(f"BUY 1 MARKET strategy={name}" for name in "abc")]
    result = simulated(["10 10 10 10"] * 2, orders, actions="A,2024-01-02,dividend,0.005\n")
    assert result.account.dividends == 0, "who holds nothing together neither gets nor pays a cent"


def test_a_split_cancels_what_works_and_leaves_the_cost() -> None:
    """Of AAPL 2005-02-28: a stop at 80 from before does not fill when the price is halved."""
    bars = ["88.99 88.99 88.99 88.99", "44.68 45 44 44.86"]
    orders = ["BUY 10 MARKET", "SELL 10 STOP stop=80 tif=GTC"]
    result = simulated(bars, orders, actions="A,2024-01-02,split,2\n")
    assert ends(result) == ["FILLED", "CANCELLED CORPORATE_ACTION"]
    assert result.account.positions[0, "A"].quantity == 20
    assert equity(result) == 20 * D("44.86") - D("889.90")


@pytest.mark.parametrize(("begun", "split", "held"), [(10, "2", 20), (10, "1/2", 5), (1, "2", 2)])
@pytest.mark.parametrize(("opens", "closes"), [("BUY", "SELL"), ("SELL", "BUY")])
def test_what_reduces_after_a_split_knows_what_is_held(
    opens: str, closes: str, begun: int, split: str, held: int
) -> None:
    orders = [f"{opens} {begun} MARKET tif=GTC", f"{closes} 99 MARKET reduce_only=1 at=2"]
    result = simulated(["10 10 10 10", "10 10 10 10"], orders, actions=f"A,2024-01-02,split,{split}\n")
    assert fills(result)[1:] == [("o2", held, 10)]


def test_a_split_cancels_what_rests_though_nothing_ends_with_its_day() -> None:
    orders = ["BUY 7 LIMIT limit=1 tif=GTC", "BUY 7 LIMIT limit=9.50 tif=GTC at=2"]
    result = simulated(["10 10 10 10", "10 10 9 10"], orders, actions="A,2024-01-02,split,2\n")
    assert ends(result) == ["CANCELLED CORPORATE_ACTION", "FILLED"]
    quiet = simulated(["10 10 10 10"] * 3, orders[:1], actions="A,2024-01-02,split,2\n")
    assert ends(quiet) == ["CANCELLED CORPORATE_ACTION"]


def test_a_dividend_is_paid_to_who_holds_and_by_who_is_short() -> None:
    bars = ["10 10 10 10", "10 10 10 10"]
    action = "A,2024-01-02,dividend,0.255\n"
    assert equity(simulated(bars, ["BUY 10 MARKET"], actions=action)) == D("2.55")
    assert equity(simulated(bars, ["SELL 10 MARKET"], actions=action)) == D("-2.55")


@pytest.mark.parametrize("line", ["B,2024-01-01,split,2", "A,2024-01-01,split,0", "A,2024-01-01,merger,2", "A,x,split,2",
                                  "A,2025-01-01,split,2", "A,2024-01-01,split,1/0", "A,2024-01-01,split"])  # fmt: skip
def test_a_bad_corporate_action_is_refused(line: str) -> None:
    with pytest.raises(InputRefused, match="row 2"):
        simulated(["10 10 10 10"], ["BUY 1 MARKET"], actions=line + "\n")


@settings(max_examples=60, deadline=None)
@example(132, 150, None)
@given(st.integers(0, 2**32), st.integers(0, 30_000), st.sampled_from([None, "0.5"]))
def test_cash_never_goes_below_zero_and_everything_adds_up(seed: int, begun: int, margin: str | None) -> None:
    luck = random.Random(seed)
    bars, orders = random_bars(luck, 10), random_orders(luck, 12, 10)
    more = {} if margin is None else {"margin": margin}
    actions = "A,2024-01-05,split,3/2\nA,2024-01-08,dividend,0.5\n" if luck.random() < 0.3 else None
    result = simulated(bars, orders, cash=begun, commission=FEE, actions=actions, **more)
    assert result.account.imbalance() == 0
    if margin is None:
        # A strategy may be short of what another holds, but not the account.
        assert all(units >= 0 for units, _ in result.account.equity())
        assert sum(position.quantity for position in result.account.positions.values()) >= 0
    assert result.account.equity()[-1][0] * result.account.unit == cash(result)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_with_money_enough_for_everything_it_is_the_lane_without_money(seed: int) -> None:
    luck = random.Random(seed)
    bars, orders = random_bars(luck, 10), [o for o in random_orders(luck, 12, 10) if o.startswith("BUY")]
    if orders:
        free, bound = simulated(bars, orders), simulated(bars, orders, cash=10**9)
        assert (fills(free), ends(free)) == (fills(bound), ends(bound))
