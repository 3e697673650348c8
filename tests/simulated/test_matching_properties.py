"""What holds of every fill, for random bars and orders; and that the compiled matcher is the plain one."""

from __future__ import annotations

import random
from collections import defaultdict
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulation.lanes import InstrumentLane
from simulation.matching import kernel
from simulation.matching.codes import AT_GAP, AT_OPEN
from simulation.orders import OrderReader
from simulation.run import Result
from simulation.settings import settings_of
from tests.simulated.cases import DAILY, D, bars_of, ends, fills, order_rows, reasons, simulated

THOROUGH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
RATE = D("0.1")
SLIPPAGES: list[Any] = [
    {"model": "none"},
    {"model": "ticks", "ticks": 3},
    [{"model": "bps", "bps": 7}, {"model": "ticks", "ticks": 1}],
    {"model": "volume_share"},
    {"model": "sqrt", "sigma": "0.05", "adv": 2000},
]


def random_bars(luck: random.Random, count: int) -> list[str]:
    """Prices in a narrow band, so that levels are met, passed and gapped over."""
    bars = []
    for _ in range(count):
        o, c, a, b = (luck.randint(980, 1020) for _ in range(4))
        high, low = max(o, c, a), min(o, c, b)
        volume = luck.choice([0, 5, 300, 1000, 1000])
        shape = " ".join(f"{n / 10:.2f}" for n in (o, high, low, c))
        bars.append(luck.choice([f"{shape} {volume}"] * 9 + [f"{shape} {volume} halted", "-"]))
    bars[0] = "100 100 100 100 1000"
    return bars


def random_orders(luck: random.Random, count: int, days: int) -> list[str]:
    orders = []
    for _ in range(count):
        kind = luck.choice(["MARKET", "LIMIT", "STOP", "STOP_LIMIT"])
        words = [luck.choice(["BUY", "SELL"]), str(luck.randint(1, 150)), kind]
        if kind in ("LIMIT", "STOP_LIMIT"):
            words.append(f"limit={luck.randint(980, 1020) / 10}")
        if kind in ("STOP", "STOP_LIMIT"):
            words.append(f"stop={luck.randint(980, 1020) / 10}")
        words += [f"tif={luck.choice(['DAY', 'GTC', 'GTC', 'IOC'])}", f"at={luck.randint(1, days)}"]
        words += luck.choice([[], [], ["reduce_only=1"], [f"oco={luck.randint(1, 3)}"], ["strategy=other"]])
        orders.append(" ".join(words))
    return orders


Case = tuple[list[str], list[str], dict[str, Any]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    luck = random.Random(draw(st.integers(0, 2**32)))
    days = draw(st.integers(2, 12))
    known = {
        "participation": RATE,
        "slippage": draw(st.sampled_from(SLIPPAGES)),
        "path": draw(st.sampled_from(["adverse", "nearest", "ohlc", "olhc"])),
        "limit_fill": draw(st.sampled_from(["through", "touch"])),
    }
    return random_bars(luck, days), random_orders(luck, draw(st.integers(1, 14)), days), known


def bar_numbers(result: Result) -> list[int]:
    day = 86_400_000_000
    begin = result.close_times[0] - day
    at_open = (AT_OPEN, AT_GAP)
    trades = result.trades
    return [
        (at - begin) // day + (0 if code & 7 in at_open else -1)
        for at, code in zip(trades.time, trades.reason, strict=True)
    ]


def told(orders: list[str]) -> dict[str, dict[str, str]]:
    return {
        f"o{n}": {"side": line.split()[0], "quantity": line.split()[1]}
        | dict(word.split("=") for word in line.split()[3:])
        for n, line in enumerate(orders, 1)
    }


@THOROUGH
@given(cases())
def test_slippage_never_helps_and_the_price_before_it_was_there(case: Case) -> None:
    bars, orders, known = case
    plain = simulated(bars, orders, **known | {"slippage": {"model": "none"}})
    for (name, _, price), k, why in zip(fills(plain), bar_numbers(plain), reasons(plain), strict=True):
        o, high, low, _ = (D(word) for word in bars[k].split()[:4])
        assert low <= price <= high, (name, why)
        assert price == o or not why.startswith(("open", "gap"))
    slipped = simulated(bars, orders, **known)
    for (name, _, price), k, why in zip(fills(slipped), bar_numbers(slipped), reasons(slipped), strict=True):
        o, high, low, _ = (D(word) for word in bars[k].split()[:4])
        buys = told(orders)[name]["side"] == "BUY"
        assert price >= low if buys else price <= high
        if why.startswith(("open", "gap")):
            assert price >= o if buys else price <= o


@THOROUGH
@given(cases())
def test_a_limit_is_never_violated_on_any_partial(case: Case) -> None:
    bars, orders, known = case
    result = simulated(bars, orders, **known)
    for name, _, price in fills(result):
        limit = told(orders)[name].get("limit")
        if limit is not None:
            assert price <= D(limit) if told(orders)[name]["side"] == "BUY" else price >= D(limit)


@THOROUGH
@given(cases())
def test_a_bars_pool_and_an_orders_quantity_are_never_exceeded(case: Case) -> None:
    bars, orders, known = case
    result = simulated(bars, orders, **known)
    by_bar: dict[int, Decimal] = defaultdict(Decimal)
    by_order: dict[str, Decimal] = defaultdict(Decimal)
    for (name, quantity, _), k in zip(fills(result), bar_numbers(result), strict=True):
        assert quantity > 0
        by_bar[k] += quantity
        by_order[name] += quantity
    for k, quantity in by_bar.items():
        assert "halted" not in bars[k]
        assert quantity <= RATE * D(bars[k].split()[4])
    for name, quantity in by_order.items():
        assert quantity <= D(told(orders)[name]["quantity"])
    assert result.account.imbalance() == 0


@THOROUGH
@given(cases(), st.integers(0, 2**32))
def test_later_bars_that_are_rubbish_change_nothing_earlier(case: Case, seed: int) -> None:
    bars, orders, known = case
    luck = random.Random(seed)
    cut = luck.randint(1, len(bars) - 1)
    rubbish = [f"{luck.randint(1, 9)} 99999 0.01 {luck.randint(1, 9)} {luck.randint(0, 9999)}" for _ in bars[cut:]]
    true, false = simulated(bars, orders, **known), simulated(bars[:cut] + rubbish, orders, **known)

    def before(result: Result) -> list[tuple[object, ...]]:
        numbers = bar_numbers(result)
        return [
            row for row, k in zip(zip(fills(result), reasons(result), strict=True), numbers, strict=True) if k < cut
        ]

    assert before(true) == before(false)


@THOROUGH
@given(cases())
def test_what_reduces_only_never_takes_its_strategys_position_past_zero(case: Case) -> None:
    bars, orders, known = case
    held: dict[str, Decimal] = defaultdict(Decimal)
    for name, quantity, _ in fills(simulated(bars, orders, **known)):
        order = told(orders)[name]
        before = held[order.get("strategy", "")]
        after = before + (quantity if order["side"] == "BUY" else -quantity)
        if "reduce_only" in order:
            assert before * after >= 0
            assert abs(after) < abs(before)
        held[order.get("strategy", "")] = after


@THOROUGH
@given(cases())
def test_another_orders_luck_is_its_own(case: Case) -> None:
    """An order that comes last and never fills changes nothing of the others."""
    bars, orders, known = case
    more = [*orders, "BUY 1 LIMIT limit=0.01 tif=GTC at=1"]
    assert fills(simulated(bars, more, **known)) == fills(simulated(bars, orders, **known))


@THOROUGH
@given(cases())
def test_what_is_not_looked_at_would_not_have_changed(case: Case) -> None:
    """All bars at once are matched with most looks left out; bar by bar every order at work is looked at."""
    bars, orders, given = case
    known = settings_of(DAILY | given)
    history = bars_of(known, *bars)
    reader = OrderReader(known, history)
    reader.rows(order_rows(*orders), "orders")
    columns = reader.orders()
    rows = sorted(range(len(columns)), key=columns.arrival.__getitem__)
    quick, whole = (InstrumentLane(history.series["A"], known, len(columns.strategies)) for _ in range(2))
    for lane in (quick, whole):
        lane.add_all(columns, rows, history)
    quick.match_all(kernel.match, history.last_session)
    for k in range(len(whole.bars.open)):
        if whole.begin(k) or (whole.bars.trading[k] and whole.at_work()):
            for i in whole.at_work():
                whole.open(i, k, None)
            whole.close(k, None)
    kernel.expire(history.last_session, whole.orders, whole.state)
    count = quick.state[kernel.FILLS]
    assert [column[:count] for column in quick.fills] == [column[: whole.state[kernel.FILLS]] for column in whole.fills]
    assert (quick.orders.status, quick.orders.reason, quick.orders.left) == (
        whole.orders.status, whole.orders.reason, whole.orders.left
    )  # fmt: skip


def holdings(result: Result) -> dict[tuple[int, str], tuple[int, int, int]]:
    """Lots, cost and profit of each strategy in each instrument."""
    return {key: (each.quantity, each.cost, each.realized) for key, each in result.account.positions.items()}


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
def test_the_compiled_matcher_is_the_plain_one_to_the_last_digit() -> None:
    luck = random.Random(17)
    for path in ("adverse", "nearest", "ohlc", "olhc"):
        for touch in ("through", "touch"):
            for _ in range(15):
                bars, orders = random_bars(luck, 31), random_orders(luck, 60, 31)
                known = {"participation": RATE, "path": path, "limit_fill": touch, "slippage": SLIPPAGES[2]}
                actions = "A,2024-01-09,split,3/2\nA,2024-01-20,split,1/7\nA,2024-01-20,dividend,0.255\n"
                plain = simulated(bars, orders, engine="plain", actions=actions, **known)
                compiled = simulated(bars, orders, engine="numba", actions=actions, **known)
                assert (plain.matched_by, compiled.matched_by) == ("plain", "numba")
                assert fills(plain) == fills(compiled)
                assert reasons(plain) == reasons(compiled)
                assert ends(plain) == ends(compiled)
                assert plain.account.equity() == compiled.account.equity()
                assert holdings(plain) == holdings(compiled)
