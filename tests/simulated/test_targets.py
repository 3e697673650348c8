"""Target positions on bars: planned as the service plans, seen only what had closed, and the same numbers as the worked examples."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from simulation.__main__ import main
from simulation.bars import BarReader, History
from simulation.problems import InputRefused
from simulation.run import Result
from simulation.settings import Settings, settings_of
from simulation.tables import plans_table, trades_table
from simulation.targets import read_targets, simulate_targets
from tests.simulated.cases import DAILY, D, day
from tests.simulated.test_batch import CONFIG, rows

PLAIN = {"planning": {"buffer": 0, "guard": 0}}


def history_of(settings: Settings, **lines: list[str]) -> History:
    """`O H L C [VOLUME]` a day, by symbol."""
    reader = BarReader(settings)
    table = [["symbol", "time", "open", "high", "low", "close", "volume"]]
    for symbol, bars in lines.items():
        for n, bar in enumerate(bars, 1):
            words = bar.split()
            table.append([symbol, day(n), *words[:4], words[4] if len(words) > 4 else "1000000"])
    reader.rows(table, "bars")
    return reader.history()


def target_rows(*lines: str) -> list[list[str]]:
    """`DAY SYMBOL quantity=|weight= [strategy=] [complete=1] [...]`; the decision is named after its day."""
    names = ("quantity", "weight", "strategy_id", "complete", "allow_flatten", "aggressiveness")
    table = [["decision_id", "time", "symbol", *names]]
    for line in lines:
        at, symbol, *more = line.split()
        told = dict(word.split("=") for word in more)
        told["strategy_id"] = told.pop("strategy", "")
        table.append([f"d{at}", day(int(at)), symbol if symbol != "-" else "", *(told.get(name, "") for name in names)])
    return table


def run(targets: list[str], bars: dict[str, list[str]], **settings: Any) -> Result:
    known = settings_of(DAILY | PLAIN | settings)
    return simulate_targets(read_targets(target_rows(*targets), "targets"), history_of(known, **bars), known)


def trades(result: Result) -> list[tuple[str, str, Decimal, Decimal]]:
    header = trades_table(result).header
    known = [dict(zip(header, row, strict=True)) for row in trades_table(result).rows]
    return [(str(t["ticker"]), str(t["direction"]), D(str(t["size"])), D(str(t["price"]))) for t in known]


def states(result: Result) -> list[tuple[str, str]]:
    return [(str(row[1]), str(row[4])) for row in plans_table(result).rows]


FLAT = ["10 10 10 10"] * 5


def test_targets_become_fills_with_their_decision() -> None:
    result = run(["2 A quantity=30"], {"A": FLAT})
    assert trades(result) == [("A", "BUY", 30, 10)]
    header, (row,) = trades_table(result).header, list(trades_table(result).rows)
    known = dict(zip(header, row, strict=True))
    assert (known["decision_id"], known["mode"], known["order_id"]) == ("d2", "TRAINING", f"{known['plan_id']}:000")
    assert states(result) == [("d2", "COMPLETED")]


def test_a_weight_is_worked_out_at_the_last_close_that_was_known() -> None:
    bars = {"A": ["20 20 20 20", "40 50 40 50", "50 50 50 50"]}
    result = run(["2 A weight=0.5"], bars, cash=1000)
    # Decided as the second bar opens: it knows 20, wants 25, and pays 40 for each of what its cash covers.
    assert trades(result) == [("A", "BUY", 25, 40)]
    assert states(result) == [("d2", "COMPLETED")]


def test_increases_wait_for_reductions_and_spend_what_those_brought() -> None:
    fee = {"model": "per_order", "per_order": 1}
    targets = ["2 A quantity=100", "3 A quantity=0", "3 B quantity=100"]
    bars = {"A": [*FLAT[:2], "10 10 10 10 60", *FLAT[3:]], "B": FLAT}
    result = run(targets, bars, cash=1001, commission=fee)
    assert trades(result) == [("A", "BUY", 100, 10), ("A", "SELL", 60, 10), ("B", "BUY", 59, 10)]
    assert states(result) == [("d2", "COMPLETED"), ("d3", "PARTIAL")]
    plans = list(plans_table(result).rows)
    assert plans[1][5] == '{"A|STOCK": "-40", "B|STOCK": "41"}'


def test_a_newer_decision_supersedes_and_counts_what_filled() -> None:
    bars = {"A": ["10 10 10 10 10"] * 6}
    result = run(["1 A quantity=100", "2 A quantity=15"], bars)
    assert sum(size for _, _, size, _ in trades(result)) == 15
    assert [state for _, state in states(result)] == ["PARTIAL", "PARTIAL"] or states(result)[0][1] in (
        "PARTIAL",
        "SUPERSEDED",
    )


def test_crossing_zero_is_two_orders_and_the_second_waits() -> None:
    result = run(["1 A quantity=30", "2 A quantity=-20"], {"A": FLAT})
    assert trades(result) == [("A", "BUY", 30, 10), ("A", "SELL", 30, 10), ("A", "SELL", 20, 10)]
    assert result.account.positions[0, "A"].quantity == -20


def test_a_complete_list_closes_the_rest() -> None:
    result = run(["1 A quantity=5", "1 B quantity=7", "2 A quantity=5 complete=1"], {"A": FLAT, "B": FLAT})
    assert trades(result)[-1] == ("B", "SELL", 7, 10)


def test_an_emergency_reduces_only() -> None:
    result = run(["1 A quantity=5", "2 A quantity=2 aggressiveness=EMERGENCY", "2 B quantity=9 aggressiveness=EMERGENCY"],
                 {"A": FLAT, "B": FLAT})  # fmt: skip
    assert trades(result) == [("A", "BUY", 5, 10), ("A", "SELL", 3, 10)]


def test_a_list_that_is_refused_is_told_and_the_others_go_on() -> None:
    result = run(["1 Z quantity=5", "2 A quantity=5", "3 - complete=1"], {"A": FLAT})
    assert trades(result) == [("A", "BUY", 5, 10)]
    assert states(result) == [("d2", "COMPLETED"), ("d1", "REFUSED"), ("d3", "REFUSED")]


def test_bad_rows_are_refused_by_row_and_rule() -> None:
    table = target_rows("1 A quantity=x", "1 A complete=maybe", "2 A aggressiveness=RASH")
    with pytest.raises(InputRefused) as refused:
        read_targets(table, "targets.csv")
    found = [(each.row, each.rule) for each in refused.value.problems]
    assert found == [(2, "QUANTITY"), (3, "COMPLETE"), (4, "AGGRESSIVENESS")]


def test_the_command_takes_targets(tmp_path: Path) -> None:
    bars = "symbol,time,open,high,low,close,volume\nA,2024-01-02T00:00:00Z,10,11,9,10,1000\n"
    for name, text in {
        "bars.csv": bars, "simulation.toml": CONFIG,
        "targets.csv": "decision_id,time,symbol,quantity\nd1,2024-01-02T00:00:00Z,A,5\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    names = {"--bars": "bars.csv", "--targets": "targets.csv", "--config": "simulation.toml", "--out": "out"}
    arguments = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    assert main([*arguments, "--format", "csv"]) == 0
    assert [row["size"] for row in rows(tmp_path / "out" / "trades.csv")] == ["5"]
    assert [row["state"] for row in rows(tmp_path / "out" / "plans.csv")] == ["COMPLETED"]
