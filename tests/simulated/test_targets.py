"""Target positions on bars: planned as the service plans, seen only what had closed, and the same numbers as the worked examples."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from execution_service.core.planning.targets import Aggressiveness
from simulation.__main__ import main
from simulation.bars import BarReader, History
from simulation.matching.codes import NONE, OF_DAY, OF_IOC
from simulation.problems import InputRefused
from simulation.run import Result
from simulation.settings import Settings, settings_of
from simulation.slices import USUAL_BARS, latest_volumes, slice_lots
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


def test_a_passive_order_rests_at_the_last_close_in_slices_of_a_twentieth_of_the_usual_volume() -> None:
    bars = {"A": ["10 10 10 10 100"] * 2 + ["10.50 11 9.50 10.50 300"] + ["10.50 10.60 10.40 10.60 100"] * 3}
    result = run(["2 A quantity=20 aggressiveness=PASSIVE"], bars)
    # Of what was usual by then: 100, 100, (100 + 100 + 300) / 3, 150, 140 lots. In the third bar 10 was passed, from above.
    assert trades(result) == [
        ("A", "BUY", 5, 10),
        ("A", "BUY", 5, 10),
        ("A", "BUY", 8, D("10.50")),
        ("A", "BUY", 2, D("10.50")),
    ]
    assert [o.partition("/")[2] for o in result.orders.order_id] == ["", "1", "2", "3"]
    assert states(result) == [("d2", "COMPLETED")]


def test_a_passive_order_that_the_market_leaves_behind_is_missed_and_asked_for_anew_at_the_next_bar() -> None:
    bars = {"A": ["10 10 10 10", "11 11 11 11", "12 12 12 12", "12 13 11.50 13"]}
    result = run(["2 A quantity=1 aggressiveness=PASSIVE"], bars)
    assert trades(result) == [("A", "BUY", 1, 12)]
    assert list(result.reason) == [OF_DAY, OF_DAY, NONE]


def test_an_urgent_order_pays_half_a_per_cent_more_and_no_more() -> None:
    bars = {"A": ["10 10 10 10", "10.06 10.06 10 10", "10.05 10.05 10.05 10.05"]}
    result = run(["2 A quantity=1 aggressiveness=URGENT"], bars)
    assert trades(result) == [("A", "BUY", 1, D("10.05"))]
    assert list(result.reason) == [OF_IOC, NONE]


def test_an_emergency_reaches_further_with_each_bar_and_then_says_that_it_did_not_sell() -> None:
    falling = [
        "10 10 10 10",
        "10 10 10 10",
        "8.50 8.50 8.50 8.50",
        "7.20 7.20 7.20 7.20",
        "6.10 6.10 6.10 6.10",
        *["6 6 6 6"] * 2,
    ]
    targets = ["1 A quantity=1", "3 A quantity=0 aggressiveness=EMERGENCY"]
    result = run(targets, {"A": falling})
    # Limits of 9.90, 8.25 (8.50 less 3 %, upwards) and 6.48: the market was below each.
    assert [result.settings.tick * limit for limit in result.orders.limit] == [0, D("9.90"), D("8.25"), D("6.48")]
    assert trades(result) == [("A", "BUY", 1, 10)]
    assert states(result) == [("d1", "COMPLETED"), ("d3", "FAILED")]
    resting = run(targets, {"A": [*falling[:3], "8.40 8.50 8.40 8.50", *falling[4:]]})
    assert trades(resting)[-1] == ("A", "SELL", 1, D("8.40"))


def test_a_bar_without_trading_is_no_reason_to_reach_further() -> None:
    bars = ["10 10 10 10", "10 10 10 10", "9 9 9 9 0", "9.95 9.95 9.95 9.95"]
    result = run(["1 A quantity=1", "3 A quantity=0 aggressiveness=EMERGENCY"], {"A": bars})
    assert [result.settings.tick * limit for limit in result.orders.limit][1:] == [D("9.90"), D("9.90")]
    assert trades(result)[-1] == ("A", "SELL", 1, D("9.95"))


def test_what_is_usual_is_known_from_the_last_twenty_bars_that_traded() -> None:
    known = settings_of(DAILY)
    bars = [f"10 10 10 10 {100 if n != 20 else 0}" for n in range(25)]
    series = history_of(known, A=bars).series["A"]
    assert latest_volumes(series, 24) == [100] * USUAL_BARS
    assert latest_volumes(series, 2) == [100] * 3
    assert [slice_lots(Aggressiveness.PASSIVE, left, [100]) for left in (20, 3)] == [5, 3]
    assert slice_lots(Aggressiveness.URGENT, 20, []) == 1
    assert slice_lots(Aggressiveness.NORMAL, 20, []) == 20


def test_no_slice_follows_a_newer_decision_a_split_or_the_end_of_the_money() -> None:
    passive = "2 A quantity=20 aggressiveness=PASSIVE"
    bars = {"A": ["10 10 10 10 100"] * 6}
    newer = run([passive, "4 A quantity=10"], bars)
    assert [size for _, _, size, _ in trades(newer)] == [5, 5]
    assert ("d2", "SUPERSEDED") in states(newer) or ("d2", "PARTIAL") in states(newer)
    poor = run([passive], bars, cash=70)
    assert [size for _, _, size, _ in trades(poor)] == [5, 2]
    known = settings_of(DAILY | PLAIN)
    history = history_of(known, **bars)
    history.series["A"].split_up[3], history.series["A"].split_down[3] = 2, 1
    split = simulate_targets(read_targets(target_rows(passive), "targets"), history, known)
    assert [size for _, _, size, _ in trades(split)] == [5, 5]
    assert states(split) == [("d2", "PARTIAL")]


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
