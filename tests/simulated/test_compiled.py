"""The batch lane compiled by numba: the results of plain Python, to the last digit and in the same sequence, whatever the figures are."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from simulation.actions import read_actions
from simulation.bars import BarReader
from simulation.orders import OrderReader
from simulation.positions import Position
from simulation.run import Result, simulate_orders
from simulation.settings import settings_of
from simulation.tables import tables_of
from tests.simulated.cases import DAILY, D, day, order_rows
from tests.simulated.test_matching_properties import random_bars, random_orders

pytestmark = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed (make differential)")

COMMISSIONS: list[Any] = [
    [],
    {"model": "per_share", "per_share": "0.005", "minimum": 1, "maximum_pct": "0.5"},
    [{"model": "percent", "percent": "0.037"}, {"model": "per_order", "per_order": "1.25", "side": "sell"}],
    {"model": "percent", "percent": "0.1", "side": "sell"},
]
STEPS: list[dict[str, Any]] = [{}, {"tick": "0.05", "lot": "0.1"}, {"tick": "0.001", "multiplier": 50}]
SPLITS = "S1,2024-01-09,split,3/2\nS1,2024-01-15,split,1/7\nS2,2024-01-12,dividend,0.255\n"


def ran(luck: random.Random, folder: Path, engine: str, **given: Any) -> Result:
    """Four instruments with gaps and halts, orders of three strategies."""
    known = settings_of(DAILY | {"participation": "0.1"} | given)
    reader = BarReader(known)
    header = ["symbol", "time", "open", "high", "low", "close", "volume", "halted"]
    rows, orders = [header], []
    for n in range(4):
        symbol, count = f"S{n}", luck.randint(16, 28)
        for number, line in enumerate(random_bars(luck, count), 1):
            words = line.split()
            if words != ["-"]:
                rows.append([symbol, day(number), *words[:4], words[4], str(int("halted" in words))])
        mine = order_rows(*random_orders(luck, luck.choice([0, 30, 60]), 28))
        for row in mine[1:]:
            row[0], row[2], row[3 + 6] = f"{symbol}-{row[0]}", symbol, luck.choice(["", row[3 + 6], "third"])
            row[10] = row[10] and f"{symbol}-{row[10]}"
        orders += mine[1:]
    header = mine[0]
    luck.shuffle(orders)
    reader.rows(rows, "bars")
    history = reader.history()
    if "multiplier" not in given:
        path = folder / "actions.csv"
        path.write_text("symbol,ex_date,type,value\n" + SPLITS)
        read_actions(path, history, known)
    wishes = OrderReader(known, history)
    wishes.rows([header, *orders], "orders")
    return simulate_orders(wishes.orders(), history, known, engine=engine)


def tables(result: Result) -> dict[str, list[Any]]:
    return {table.name: list(table.rows) for table in tables_of(result)}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("commission", COMMISSIONS)
def test_compiled_and_plain_give_the_same_tables(tmp_path: Path, commission: Any, steps: dict[str, Any]) -> None:
    known = steps | {"commission": commission, "slippage": {"model": "bps", "bps": 7}}
    for seed in range(12):
        plain = ran(random.Random(seed), tmp_path, "plain", **known)
        compiled = ran(random.Random(seed), tmp_path, "numba", **known)
        assert (plain.matched_by, compiled.matched_by) == ("plain", "numba")
        assert tables(compiled) == tables(plain)
        assert compiled.account.cash == plain.account.cash
        assert compiled.account.traded == plain.account.traded


def test_what_is_compiled_leaves_figures_that_are_too_large_to_plain_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulation import compiled

    luck = random.Random(3)
    expected = tables(ran(random.Random(3), tmp_path, "plain", commission=COMMISSIONS[1]))
    for largest in (10**12, 10**9, 1):
        monkeypatch.setattr(compiled, "LARGEST", largest)
        assert tables(ran(luck, tmp_path, "numba", commission=COMMISSIONS[1])) == expected
        luck = random.Random(3)


@pytest.mark.parametrize(("tick", "lot"), [("0.01", "1"), ("0.05", "0.1"), ("0.25", "1"), ("0.0001", "0.001")])
def test_a_compiled_position_is_the_plain_one_to_the_last_digit(tick: str, lot: str) -> None:
    from math import gcd

    import numpy

    from simulation import compiled

    luck = random.Random(7)
    point = Position(D(tick), D(lot)).point
    part = gcd(point, 10**18)
    for _ in range(200):
        plain = Position(D(tick), D(lot))
        positions = numpy.zeros((1, compiled.PROFIT_REST + 1), dtype=numpy.int64)
        for _ in range(30):
            # Lots of one size often meet halves, where the even one is taken.
            signed = luck.choice([-1, 1]) * luck.choice([1, 2, 2, 4, luck.randint(1, 10**6)])
            price = luck.randint(1, 10**5)
            plain.book(signed, price)
            compiled._book(positions, 0, signed, price * (point // part), part)
            quantity, cost, cost_rest, profit, profit_rest = positions[0].tolist()
            assert 0 <= cost_rest < part
            assert 0 <= profit_rest < part
            assert (quantity, cost * part + cost_rest) == (plain.quantity, plain.cost)
            assert profit * part + profit_rest == plain.realized
