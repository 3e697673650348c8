"""`execctl trades` and `execctl cash`: what is listed, and files that other programs read, with the reference to decisions."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.status import Status
from execution_service.core.trades.documents import FIRST_COLUMNS, trade_fields
from execution_service.core.trades.rows import rows_of
from execution_service.storage.reader import StoreReader
from scripts import trade_files, trades
from scripts.trade_files import COLUMNS, Format
from tests.builders import order_in
from tests.fakes import DATABASE, World, world_of

HOSTILE = "a'); DROP TABLE trades;--\\"


class Context:
    """As execctl makes it, on the world's store."""

    def __init__(self, world: World, *words: str) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--json", action="store_true")
        trades.add_options(parser, int)
        self.options = parser.parse_args(words)
        assert trades.problem_with(self.options) is None
        self.view = StoreReader(world.mongo, "trading")
        self.store = world.store_beside()
        self.console = Console(file=io.StringIO(), width=250)
        self.wants_json = self.options.json

    @property
    def text(self) -> str:
        file = self.console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


async def traded(world: World) -> None:
    """Bought for a decision, sold without one, one annulled."""
    world.send(price="10.01", quantity="0.3", decision_id="d-1", strategy_name=HOSTILE, multiplier=3)
    world.exit("out", "sig", price=11, quantity="0.1", strategy_name=HOSTILE, multiplier=3)
    world.send("other", price=5, symbol="MSFT")
    await world.run(3)
    world.book().bust_fill(next(p for p in world.placed() if p.ticket.instrument.symbol == "MSFT").fills[0].fill_id)
    await world.run(15)


async def exported(world: World, form: Format, path: Path, *more: str) -> int:
    return await trades.show(Context(world, "export", "--format", form.value, "--out", str(path), *more))


def asked(path: Path, question: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA foreign_keys = ON")
        return database.execute(question).fetchall()


def has_decisions(path: Path, names: Sequence[str]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE pipeline_decisions (decision_id TEXT PRIMARY KEY, made_by TEXT)")
        database.executemany("INSERT INTO pipeline_decisions VALUES (?, 'me')", [(name,) for name in names])


def has_half_files(folder: Path) -> bool:
    return any(folder.glob("*.part"))


async def test_a_sqlite_database_has_every_trade_exactly_and_its_reference_holds(tmp_path: Path) -> None:
    path = tmp_path / "trades.db"
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.SQLITE, path) == 0
        columns = asked(path, "SELECT name FROM pragma_table_info('trades')")
        assert tuple(name for (name,) in columns) == COLUMNS
        assert COLUMNS[:12] == FIRST_COLUMNS
        found = asked(path, "SELECT ticker, direction, size, price, cash, commission, decision_id, kind FROM trades")
        assert sorted(found) == [
            ("AAPL", "BUY", "0.3", "10.01", "-9.009", "1.00", "d-1", "FILL"),
            ("AAPL", "SELL", "0.1", "11", "3.3", "1.00", None, "FILL"),
            ("MSFT", "BUY", "-100", "5", "500", "-1.00", None, "REVERSAL"),
            ("MSFT", "BUY", "100", "5", "-500", "1.00", None, "FILL"),
        ]
        ((_, _, table, column, parent, *_),) = asked(path, "PRAGMA foreign_key_list(trades)")
        assert (table, column, parent) == ("pipeline_decisions", "decision_id", "decision_id")
        assert asked(path, "PRAGMA foreign_key_check") == []
        assert asked(path, "SELECT decision_id FROM pipeline_decisions") == [("d-1",)]
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            asked(path, "UPDATE trades SET decision_id = 'nobody knows'")


async def test_a_database_that_is_there_gets_what_it_lacks_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "trades.db"
    has_decisions(path, ["d-1", "d-2"])
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.SQLITE, path) == 0
        before = asked(path, "SELECT * FROM trades ORDER BY trade_id")
        world.send("later", decision_id="d-2", symbol="IBM")
        await world.run(3)
        assert await exported(world, Format.SQLITE, path) == 0
        after = asked(path, "SELECT * FROM trades ORDER BY trade_id")
        assert [row for row in after if row in before] == before
        assert len(after) == len(before) + 1
        assert asked(path, "SELECT made_by FROM pipeline_decisions") == [("me",)] * 2


async def test_trades_whose_decision_the_database_does_not_have_are_named_and_none_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trades.db"
    has_decisions(path, ["d-2"])
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.SQLITE, path) == 1
        assert "d-1" in capsys.readouterr().err
        assert asked(path, "SELECT name FROM sqlite_master WHERE name = 'trades'") == []
        assert await exported(world, Format.SQLITE, path, "--add-decisions") == 0
        found = asked(path, "SELECT decision_id, made_by FROM pipeline_decisions ORDER BY 1")
        assert found == [("d-1", None), ("d-2", "me")]


async def test_what_is_no_database_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("to whom it may concern " * 100, encoding="utf-8")
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.SQLITE, path) == 1
        assert "not a database" in capsys.readouterr().err
        assert path.read_text(encoding="utf-8").startswith("to whom")


async def test_the_script_for_postgresql_makes_the_same_table_and_may_be_run_again(tmp_path: Path) -> None:
    """SQLite reads all of its statements too."""
    path = tmp_path / "trades.sql"
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.POSTGRES, path, "--add-decisions") == 0
        script = path.read_text(encoding="utf-8")
        assert '"price" NUMERIC NOT NULL' in script
        assert '"timestamp" TIMESTAMPTZ NOT NULL' in script
        assert '"decision_id" TEXT REFERENCES "pipeline_decisions" ("decision_id")' in script
        with closing(sqlite3.connect(":memory:")) as database:
            database.execute("PRAGMA foreign_keys = ON")
            for _ in range(2):
                database.executescript(script)
            found = database.execute("SELECT trade_id, strategy_id, size FROM trades").fetchall()
            assert len(found) == 4
            assert {strategy for _, strategy, _ in found} == {HOSTILE, "momentum"}
            assert 0.3 in {size for *_, size in found}
        assert not has_half_files(tmp_path)


async def test_without_the_wish_the_script_adds_no_decision_and_makes_no_table_of_others(tmp_path: Path) -> None:
    path = tmp_path / "trades.sql"
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.POSTGRES, path) == 0
        assert 'INTO "pipeline_decisions"' not in path.read_text(encoding="utf-8")
        assert 'EXISTS "pipeline_decisions"' not in path.read_text(encoding="utf-8")


async def test_csv_has_a_line_for_each_trade_of_the_account_and_time_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    async with world_of(tmp_path) as world:
        await traded(world)
        assert await exported(world, Format.CSV, path) == 0
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        assert tuple(lines[0]) == COLUMNS
        assert [line["size"] for line in lines if line["ticker"] == "AAPL"] == ["0.3", "0.1"]
        assert sorted(line["timestamp"] for line in lines) == [line["timestamp"] for line in lines]
        later = (world.clock.now() + timedelta(hours=1)).isoformat()
        for nothing in (("--account", "nobody"), ("--since", later), ("--until", "2001-01-01")):
            assert await exported(world, Format.CSV, path, *nothing) == 0
            assert len(path.read_text(encoding="utf-8").splitlines()) == 1


async def test_an_export_that_breaks_off_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    path.write_text("of before", encoding="utf-8")

    def broken() -> Any:
        raise RuntimeError
        yield

    with pytest.raises(RuntimeError):
        trade_files.write_trades(broken(), Format.CSV, path)
    assert path.read_text(encoding="utf-8") == "of before"
    assert not has_half_files(tmp_path)


async def test_the_latest_trades_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with world_of(tmp_path) as world:
        await traded(world)
        context = Context(world, "--limit", "1")
        await trades.show(context)
        assert "REVERSAL" in context.text
        assert "1 trade" in context.text
        await trades.show(Context(world, "--json"))
        shown = json.loads(capsys.readouterr().out)
        assert (shown[0]["kind"], shown[0]["size"]) == ("REVERSAL", "-100")


async def test_documents_of_others_hide_none_of_the_latest_trades(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await traded(world)
        for other in ("trade_zz", "trade_zy", "trades", "zzz"):
            world.mongo[DATABASE]["trades"].leave({"_id": other})
        context = Context(world, "--limit", "1")
        await trades.show(context)
        assert "REVERSAL" in context.text
        assert len(list(context.view.trades())) == 4


async def test_cash_is_told_by_account_and_currency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with world_of(tmp_path) as world:
        await traded(world)
        world.send("euro", price=7, symbol="SAP", currency="EUR")
        await world.run(3)
        context = Context(world, "--json")
        await trades.show_cash(context)
        shown = {each["currency"]: each for each in json.loads(capsys.readouterr().out)}
        assert {c: (e["traded"], e["commissions"], e["change"]) for c, e in shown.items()} == {
            "EUR": ("-700", "1.00", "-701.00"),
            "USD": ("-5.709", "2.00", "-7.709"),
        }


@pytest.mark.parametrize(
    "words", [("export",), ("export", "--format", "csv"), ("--format", "csv"), ("--add-decisions",)]
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser()
    trades.add_options(parser, int)
    assert trades.problem_with(parser.parse_args(words)) is not None


def test_the_columns_of_files_are_those_that_are_shown() -> None:
    about = order_in(Status.FILLED)
    (row,) = [row for event in applied_events(about) for row in rows_of(event, None)]
    assert tuple(trade_fields(row)) == COLUMNS
