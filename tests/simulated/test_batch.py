"""The batch lane from files to files: columns, money that adds up, repeatability, and the positions of the service's own ledger."""

from __future__ import annotations

import csv
import gc
import json
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.positions.position import Position as Booked
from execution_service.core.positions.position import apply_fill
from simulation.__main__ import main
from simulation.files import write_sql
from simulation.positions import SMALLEST_SHARE, Position
from simulation.settings import Settings, read_settings
from simulation.tables import tables_of, trades_table
from tests.simulated.cases import D, simulated

TRADES_OF_THE_SPECIFICATION = [
    "trade_id", "timestamp", "ticker", "direction", "size", "price", "order_id", "strategy_id", "profile_version_id",
    "regime_id", "universe_id", "decision_id",
]  # fmt: skip
BARS = """symbol,time,open,high,low,close,volume
A,2024-01-02T00:00:00Z,10,11,9,10.50,1000
B,2024-01-02T00:00:00Z,20,21,19,20,1000
A,2024-01-03T00:00:00Z,12,12,11,11,1000
"""
ORDERS = """order_id,time,symbol,side,quantity,order_type,limit_price,strategy_id
one,2024-01-02T00:00:00Z,A,BUY,30,MARKET,,growth
two,2024-01-03T00:00:00Z,A,SELL,20,MARKET,,growth
three,2024-01-02T00:00:00Z,B,BUY,5,LIMIT,19.50,growth
"""
CONFIG = """stamp = "open"
interval = "1d"
tick = 0.01
commission = { model = "per_order", per_order = 1 }
"""


def files(folder: Path, **changes: str) -> list[str]:
    texts = {"bars.csv": BARS, "orders.csv": ORDERS, "simulation.toml": CONFIG} | changes
    for name, text in texts.items():
        (folder / name).write_text(text)
    names = {"--bars": "bars.csv", "--orders": "orders.csv", "--config": "simulation.toml", "--out": "out"}
    return [word for option, name in names.items() for word in (option, str(folder / name))]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_trades_orders_equity_positions_and_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files(tmp_path), "--format", "csv"]) == 0
    out = tmp_path / "out"
    trades = rows(out / "trades.csv")
    assert list(trades[0])[:14] == [*TRADES_OF_THE_SPECIFICATION, "fill_reason", "commission"]
    assert [
        (t["order_id"], t["timestamp"], t["direction"], t["size"], t["price"], t["fill_reason"]) for t in trades
    ] == [
        ("one", "2024-01-02T00:00:00Z", "BUY", "30", "10.00", "open"),
        ("three", "2024-01-03T00:00:00Z", "BUY", "5", "19.50", "limit"),
        ("two", "2024-01-03T00:00:00Z", "SELL", "20", "12.00", "open"),
    ]
    assert rows(out / "orders.csv")[0] == {
        "order_id": "one", "status": "FILLED", "filled_quantity": "30", "avg_fill_price": "10", "reason": "",
    }  # fmt: skip
    assert rows(out / "equity.csv") == [
        {"time": "2024-01-03T00:00:00Z", "cash": "-399.5", "value": "415", "equity": "15.5"},
        {"time": "2024-01-04T00:00:00Z", "cash": "-160.5", "value": "210", "equity": "49.5"},
    ]
    assert [(p["ticker"], p["quantity"], p["realized_pnl"]) for p in rows(out / "positions.csv")] == [
        ("A", "10", "40"),
        ("B", "5", "0"),
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["end"] == {"cash": "-160.5", "equity": "49.5", "commission": "3"}
    assert set(manifest["inputs"]) == {"bars.csv", "orders.csv", "simulation.toml"}
    assert "Equity at the end" in capsys.readouterr().out


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    arguments = [*files(tmp_path), "--format", "csv"]
    written = []
    for _ in range(2):
        assert main(arguments) == 0
        written.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert written[0] == written[1]


def test_what_is_refused_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = BARS + "A,2024-01-03T00:00:00Z,12,12,11,11,1000\n"
    assert main(files(tmp_path, **{"bars.csv": bad})) == 2
    assert "bars.csv, row 5: DUPLICATE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = files(tmp_path)
    (tmp_path / "orders.csv").unlink()
    assert main(arguments) == 2
    assert "orders.csv" in capsys.readouterr().err


def test_sqlite_holds_the_same_rows_exactly(tmp_path: Path) -> None:
    assert main([*files(tmp_path), "--format", "sqlite"]) == 0
    database = sqlite3.connect(tmp_path / "out" / "results.sqlite")
    found = database.execute("SELECT order_id, timestamp, price, commission FROM trades WHERE ticker = 'B'").fetchall()
    database.close()
    assert found == [("three", "2024-01-03T00:00:00Z", "19.50", "1.00")]


@pytest.mark.skipif(find_spec("polars") is None, reason="polars is not installed")
def test_parquet_holds_the_same_rows_exactly(tmp_path: Path) -> None:
    import polars

    assert main([*files(tmp_path), "--format", "parquet"]) == 0
    trades = polars.read_parquet(tmp_path / "out" / "trades.parquet")
    assert trades["price"].to_list() == [D("10.00"), D("19.50"), D("12.00")]
    assert trades["timestamp"][1] == datetime(2024, 1, 3, tzinfo=UTC)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_trades_can_be_exported_as_sql_that_refers_to_the_decisions(tmp_path: Path, dialect: str) -> None:
    result = simulated(["10 10 10 10"], ["BUY 1 MARKET strategy=it's"])
    path = write_sql([trades_table(result)], tmp_path / "trades.sql", dialect, with_decisions=True)
    script = path.read_text()
    assert '"decision_id" TEXT REFERENCES pipeline_decisions (decision_id)' in script
    if dialect == "sqlite":
        database = sqlite3.connect(":memory:")
        database.executescript("CREATE TABLE pipeline_decisions (decision_id TEXT PRIMARY KEY);" + script)
        assert database.execute("SELECT strategy_id, price, decision_id FROM trades").fetchall() == [
            ("it's", "10.00", None)
        ]
        database.close()
    else:
        assert '"price" NUMERIC' in script
        assert ", 10.00, " in script


def test_every_table_has_as_many_values_as_columns() -> None:
    for table in tables_of(simulated(["10 10 10 10"], ["BUY 1 MARKET"])):
        assert all(len(row) == len(table.columns) for row in table.rows), table.name


MOVES = st.lists(st.tuples(st.integers(-50, 50).filter(bool), st.integers(1, 999)), max_size=25)


@settings(max_examples=100, deadline=None)
@given(MOVES)
def test_a_position_is_the_services_own_ledgers_to_the_last_digit(moves: list[tuple[int, int]]) -> None:
    tick, lot = D("0.01"), D("0.1")
    quick, booked, realized = Position(tick, lot), Booked(), Decimal(0)
    for signed, price in moves:
        quick.book(signed, price)
        effect = apply_fill(
            booked, side=Side.BUY if signed > 0 else Side.SELL, quantity=abs(signed) * lot, price=price * tick,
            multiplier=D(1), at=datetime(2024, 1, 1, tzinfo=UTC), order_id="o",
        )  # fmt: skip
        booked = effect.position
        realized += effect.realized
        assert quick.quantity * lot == booked.quantity
        assert quick.cost * SMALLEST_SHARE == booked.cost
        assert quick.realized * SMALLEST_SHARE == realized


def test_equity_is_what_trades_alone_come_to() -> None:
    bars = ["10 11 9 10.50", "12 12 11 11", "9 13 8 12"]
    orders = ["BUY 30 MARKET", "SELL 50 LIMIT limit=11.50 tif=GTC", "BUY 20 STOP stop=12.50 tif=GTC"]
    result = simulated(bars, orders, commission={"model": "percent", "percent": "0.1"})
    trades = list(trades_table(result).rows)
    header = trades_table(result).header
    cash = held = D(0)
    for row in trades:
        known = dict(zip(header, row, strict=True))
        sign = 1 if known["direction"] == "BUY" else -1
        cash -= sign * D(str(known["size"])) * D(str(known["price"])) + D(str(known["commission"]))
        held += sign * D(str(known["size"]))
    units, value = result.account.equity()[-1]
    assert result.account.unit * units == cash
    assert result.account.unit * (units + value) == cash + held * D("12.00")
    assert result.account.imbalance() == 0


@pytest.mark.parametrize("is_enabled", [True, False])
@pytest.mark.parametrize(("changes", "status"), [({}, 0), ({"bars.csv": "nothing"}, 2)])
def test_a_run_leaves_the_collector_of_objects_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_enabled: bool, changes: dict[str, str], status: int
) -> None:
    seen = []

    def read(path: Path) -> Settings:
        seen.append(gc.isenabled())
        return read_settings(path)

    monkeypatch.setattr("simulation.__main__.read_settings", read)
    arguments = files(tmp_path, **changes)
    try:
        if not is_enabled:
            gc.disable()
        assert main([*arguments, "--format", "csv"]) == status
        assert (gc.isenabled(), seen) == (is_enabled, [False])
    finally:
        gc.enable()
