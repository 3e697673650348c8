"""Many rows at once are read as each would be by itself: quotation marks, ends of lines, bad rows in the midst of good ones, undecodable bytes."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from simulation import blocks
from simulation.bars import BarReader
from simulation.blocks import csv_texts, texts_of
from simulation.orders import COLUMNS, MORE, OrderReader
from simulation.problems import Collected, Problem
from simulation.settings import settings_of
from tests.simulated.cases import DAILY, bars_of, day

HEADER = "symbol,time,open,high,low,close,volume,halted"


def rows_of(path: Path) -> tuple[list[list[str]], list[Problem]]:
    """All rows of the file as columns or rows give them, and what was found wrong with it."""
    problems = Collected()
    found: list[list[str]] = []
    with csv_texts(path, problems) as texts:
        for block in texts.blocks:
            rows = [list(row) for row in block.rows]
            if block.columns is not None:
                assert rows == [list(row) for row in zip(*block.columns, strict=True)]
            found += rows
    return found, list(problems.first)


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
@pytest.mark.parametrize("text", [
    "a,b\n1,2\n3,4\n", "a,b\n1,2\n3,4", "a,b\r\n1,2\r\n3,4\r\n", "a,b\n1,2\n\n3,4\n", "a,b\n1\n2,3,4\n", "a,b\n1,2,3\n4\n5,6\n",
    'a,b\n1,2\n"3,5",4\n5,6\n', 'a,b\n1,2\n"x\ny",4\n5,6\n', 'a,b\n1,a"b\n5,6\n', "a,b\n1,2\r3,4\r5,6", "a,b\n", "a,b", "",
    '"a","b"\n1,2\n', "a,b\n,\n ,\t\n", 'a,b\n1,2\r\n"3\r\n4",5\r\n',
])  # fmt: skip
def test_a_file_is_cut_into_rows_as_the_csv_module_cuts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, at_once: int
) -> None:
    monkeypatch.setattr(blocks, "CHARACTERS_AT_ONCE", at_once)
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    with path.open(newline="", encoding="utf-8") as file:
        assert rows_of(path) == (list(csv.reader(file))[1:], [])


def test_bytes_that_are_no_text_are_refused_by_their_row(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 5_000 + b"\xff,2\n" + b"1,2\n" * 5_000)
    _, problems = rows_of(path)
    assert [(each.where, each.row, each.rule) for each in problems] == [("table.csv", 5_002, "FORMAT")]
    path.write_bytes(b"\xff,b\n1,2\n")
    _, problems = rows_of(path)
    assert [(each.row, each.rule) for each in problems] == [(1, "FORMAT")]


def test_a_field_that_is_too_long_is_refused_in_the_header_and_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    long = '"' + "x" * 200_000 + '"'
    for text, row in ((f"{long},b\n1,2\n", 1), (f"a,b\n1,2\n{long},2\n", 3)):
        path.write_text(text)
        _, problems = rows_of(path)
        assert [(each.row, each.rule) for each in problems] == [(row, "FORMAT")]


def test_rows_before_one_that_cannot_be_read_are_read() -> None:
    def rows() -> list[str]:
        raise csv.Error("no more")

    problems = Collected()
    texts = texts_of((["a", "b"] if n == 0 else ["1", "2"] if n < 3 else rows() for n in range(5)), "table", problems)
    assert [block.columns for block in texts.blocks] == [[("1", "1"), ("2", "2")]]
    assert [(each.row, each.rule) for each in problems.first] == [(4, "FORMAT")]


# --- many rows and each by itself -----------------------------------------------------------------------------------


def bar_lines(luck: random.Random, spoiled: int) -> list[str]:
    lines = []
    for n in range(1, 15):
        for symbol in ("A", "B"):
            o, c = luck.randint(990, 1010), luck.randint(990, 1010)
            lines.append(
                f"{symbol},{day(n)},{o}.50,{max(o, c)}.5,{min(o, c)}.50,{c}.50,{luck.randint(0, 9)},{luck.choice(['', '1', '0'])}"
            )
    for _ in range(spoiled):
        n = luck.randrange(len(lines))
        fields = lines[n].split(",")
        fields[luck.randrange(8)] = luck.choice(
            ["", "x", "-1", "0", "1.005", "NaN", "1e99", "2.5", "9" * 30, "１", "1_0", " 7 "]
        )
        lines[n] = luck.choice([",".join(fields), lines[n - 1], "", lines[n] + ",more"])
    return lines


@pytest.mark.parametrize("seed", range(40))
def test_bars_of_a_block_are_as_bars_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    luck = random.Random(seed)
    lines = bar_lines(luck, luck.choice([0, 0, 1, 3]))
    known = settings_of(DAILY | luck.choice([{}, {"lot": 2}, {"stamp": "close"}, {"interval": "1h"}]))
    found = []
    for at_once in (1, 5, 1_000):
        monkeypatch.setattr(blocks, "ROWS_AT_ONCE", at_once)
        reader = BarReader(known)
        reader.rows([line.split(",") if line else [] for line in (HEADER, *lines)], "bars")
        series = {} if reader.problems.count else reader.history().series
        found.append((reader.problems.first, {symbol: each.bars() for symbol, each in series.items()}))
    assert found[0] == found[1] == found[2]


def order_lines(luck: random.Random, spoiled: int) -> list[list[str]]:
    lines = []
    for n in range(20):
        kind = luck.choice(["MARKET", "limit", "STOP", "STOP_LIMIT"])
        lines.append([f"o{n}", day(1), "A", luck.choice(["BUY", "sell"]), "10", kind, "9.99", "10", luck.choice(["", "gtc"]),
                      luck.choice(["", "s"]), luck.choice(["", "x"]), luck.choice(["", "1"])])  # fmt: skip
    for _ in range(spoiled):
        n = luck.randrange(len(lines))
        if lines[n]:
            lines[n][luck.randrange(12)] = luck.choice(["", "x", "-1", "0", "1.005", "NaN", "o3", "B", "１0"])
            lines[n] = luck.choice([lines[n], lines[n], [], [*lines[n], "more"]])
    return lines


@pytest.mark.parametrize("seed", range(40))
def test_orders_of_a_block_are_as_orders_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    luck = random.Random(seed)
    lines = order_lines(luck, luck.choice([0, 0, 1, 3]))
    known = settings_of(DAILY)
    history = bars_of(known, "10 11 9 10")
    found = []
    for at_once in (1, 5, 1_000):
        monkeypatch.setattr(blocks, "ROWS_AT_ONCE", at_once)
        reader = OrderReader(known, history)
        reader.rows([[*COLUMNS, *MORE], *lines], "orders")
        found.append((reader.problems.first, None if reader.problems.count else reader.orders()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("number", ["1_0", "１0", "٣"])
def test_only_digits_as_files_have_them_are_a_number(number: str) -> None:
    reader = BarReader(settings_of(DAILY))
    reader.rows(
        [
            HEADER.split(","),
            ["A", day(1), "10", "11", number, "10", "5", ""],
            ["A", day(2), "10", "11", "9", "10", number, ""],
        ],
        "b",
    )
    assert [(each.row, each.rule) for each in reader.problems.first] == [(2, "NUMBER"), (3, "VOLUME")]


def test_a_column_that_is_there_twice_is_refused() -> None:
    known = settings_of(DAILY)
    bars = BarReader(known)
    bars.rows([[*HEADER.split(","), "open"], []], "bars")
    orders = OrderReader(known, bars_of(known, "10 11 9 10"))
    orders.rows([[*COLUMNS, "time"], []], "orders")
    for reader in (bars, orders):
        assert [(each.row, each.rule) for each in reader.problems.first] == [(1, "COLUMNS")]
