"""Tables written by numba have the bytes that they have when they are written row by row; or they are not written at all."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from simulation.files import write_csv
from simulation.tables import NUMBER, TEXT, TIME, Coded, Columns, Made, Same, Table
from simulation.units import DAY

pytestmark = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed (make differential)")
KINDS = (
    ("name", TEXT),
    ("at", TIME),
    ("side", TEXT),
    ("price", NUMBER),
    ("both", TEXT),
    ("none", TEXT),
    ("same", TEXT),
)
SIDES = {1: "BUY", -1: None}


def table(names: list[str], prices: list[int]) -> Table:
    rows = len(names)
    columns = (
        names,
        Coded([n * DAY + n % 3 for n in range(rows)]),
        Coded([n * 7 % rows for n in range(rows)], SIDES.__getitem__, [1 - n % 2 * 2 for n in range(rows)]),
        Coded(prices, str),
        Made(lambda name, price: f"{name}|{price}" if price % 2 else None, [names, prices]),
        Same(None),
        Same("TRAINING"),
    )
    return Table("trades", KINDS, Columns(columns))


def written(known: Table, folder: Path) -> tuple[bool, bytes, bytes]:
    """Whether it was written by numba, what that wrote, and what is written row by row."""
    quick = import_module("simulation.compiled_tables")
    assert isinstance(known.rows, Columns)
    quickly, slowly = folder / "quickly.csv", folder / "slowly.csv"
    is_written = quick.write_csv(known, known.rows, quickly)
    write_csv(known, slowly)
    return is_written, quickly.read_bytes() if quickly.exists() else b"", slowly.read_bytes()


@pytest.mark.parametrize(
    ("names", "prices"),
    [
        (["a", "", "ccc", "a"], [5, -3, 0, 5]),
        (["é", "€uro", "x"], [10**18, 1, -(10**18)]),
        (["alone"], [7]),
        ([], []),
        ([f"o{n}" for n in range(70_000)], [n % 13 for n in range(70_000)]),
    ],
)
def test_the_bytes_are_those_of_plain_python(tmp_path: Path, names: list[str], prices: list[int]) -> None:
    is_written, quickly, slowly = written(table(names, prices), tmp_path)
    assert is_written
    assert quickly == slowly
    assert slowly.count(b"\n") == len(names) + 1


@pytest.mark.parametrize(
    ("name", "price"), [("a,b", 1), ('a"', 1), ("a\nb", 1), ("a\r", 1), ("a", 2**63), ("a", -(2**70))]
)
def test_what_needs_quotation_marks_or_more_than_64_bits_is_left_to_plain_python(
    tmp_path: Path, name: str, price: int
) -> None:
    is_written, quickly, slowly = written(table(["b", name], [4, price]), tmp_path)
    assert not is_written
    assert not quickly
    assert slowly


def test_the_writer_of_a_run_asks_plain_python_for_what_numba_does_not_write(tmp_path: Path) -> None:
    quick = import_module("simulation.compiled_tables")
    known = table(["a,b", "c"], [1, 2])
    quickly, slowly = write_csv(known, tmp_path / "a.csv", quick), write_csv(known, tmp_path / "b.csv")
    assert quickly.read_bytes() == slowly.read_bytes()
    assert b'"a,b",' in slowly.read_bytes()
