"""CSV files read by numba mean what they mean when they are read row by row; or they are not taken, and nothing of them is."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from simulation.__main__ import main
from simulation.bars import BarReader, History
from simulation.history import quick_texts
from simulation.orders import OrderReader
from simulation.problems import InputRefused
from simulation.settings import settings_of
from tests.simulated.cases import DAILY
from tests.simulated.test_batch import BARS, ORDERS, files

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed (make differential)")
MORE_BARS = """symbol,time,open,high,low,close,volume,halted,note
A,2024-02-28T09:30:00Z,10,11,9,10.5,1000,,x
B,2024-02-28T09:30:00Z,20.00,21,19.95,20,1000,0,
A,2024-02-29T09:30:00Z,12,12.05,11,11.10,0,1,
B,2024-02-29T09:30:00Z,20,21,19,20,33,,
B,2024-03-01,20,21,19,20,33,,
A,2024-03-01T00:00:00Z,12,12,11,11,7,,
"""
SPACED_BARS = MORE_BARS.replace("volume,halted", "volume, Halted ")
MORE_ORDERS = """time,order_id,symbol,side,quantity,order_type,limit_price,stop_price,tif,strategy_id,reduce_only,oco
2024-02-28T00:00:00Z,a,A,BUY,3,MARKET,7.13,,,,,
1969-12-31T23:59:59Z,b,B,SELL,12,LIMIT,20.05,,GTC,growth,0,
2024-02-29,c,A,SELL,1,STOP_LIMIT,10.95,11,IOC,value,1,
2024-02-29T00:00:00Z,d,A,BUY,5,STOP,,11.5,DAY,growth,,
"""
SETTINGS: list[dict[str, Any]] = [
    {}, {"tick": "0.05", "lot": "0.5"}, {"stamp": "close", "interval": "1h", "latency_seconds": "0.25"}, {"lot": 3},
]  # fmt: skip
LETTERS = '0123456789.,-+eE"\n\r ABZTx_é'


def bars_read(path: Path, settings: Any, *, quickly: bool) -> tuple[Any, ...] | None:
    """What a file came to, series by series, or what is wrong with it; None: it was not taken."""
    reader = BarReader(settings)
    if not quickly:
        reader.csv(path)
    elif not import_module("simulation.compiled_texts").read_bars(path, reader, settings):
        assert not reader.problems.count
        return None
    try:
        history = reader.history()
    except InputRefused as exc:
        return (str(exc),)
    return tuple((series.symbol, *series.columns()) for series in history.series.values())


def orders_read(path: Path, settings: Any, history: History, *, quickly: bool) -> Any:
    reader = OrderReader(settings, history)
    if not quickly:
        reader.csv(path)
    elif not import_module("simulation.compiled_texts").read_orders(path, reader, history, settings):
        assert not reader.problems.count
        return None
    try:
        return reader.orders()
    except InputRefused as exc:
        return str(exc)


def readers(folder: Path, settings: Any, kind: str) -> Callable[[str, bool], Any]:
    """Of a text: what it comes to, row by row or quickly."""
    path = folder / f"{kind}.csv"
    known = BarReader(settings)
    known.rows([line.split(",") for line in MORE_BARS.splitlines()], "bars")
    history = History(known._series, known._series["A"].open_time, 0)

    def read(text: str, quickly: bool) -> Any:
        path.write_text(text, encoding="utf-8", newline="")
        if kind == "bars":
            return bars_read(path, settings, quickly=quickly)
        return orders_read(path, settings, history, quickly=quickly)

    return read


@needs_numba
@pytest.mark.parametrize("given", SETTINGS)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bars", BARS),
        ("bars", MORE_BARS),
        ("bars", SPACED_BARS),
        ("orders", MORE_ORDERS),
        ("orders", MORE_ORDERS[:-1]),
    ],
)
def test_a_common_file_is_taken_and_is_what_it_is_row_by_row(
    tmp_path: Path, kind: str, text: str, given: dict[str, Any]
) -> None:
    read = readers(tmp_path, settings_of(DAILY | given), kind)
    expected, found = read(text, False), read(text, True)
    assert found == (None if isinstance(expected, str) or len(expected) == 1 else expected)
    if not given:
        assert found is not None


@needs_numba
@pytest.mark.parametrize(("kind", "text"), [("bars", MORE_BARS), ("orders", MORE_ORDERS)])
def test_whatever_stands_in_a_file_it_is_what_it_is_row_by_row_or_is_not_taken(
    tmp_path: Path, kind: str, text: str
) -> None:
    luck, taken = random.Random(5), 0
    read = readers(tmp_path, settings_of(DAILY), kind)
    for _ in range(500):
        letters = list(text)
        for _ in range(luck.choice([1, 1, 1, 2, 6])):
            at = luck.randrange(len(letters))
            letters[at : at + luck.choice([0, 1, 1, 2])] = luck.choice(["", *LETTERS])
        changed = "".join(letters)
        found = read(changed, True)
        if found is not None:
            taken += 1
            assert found == read(changed, False), changed
    assert taken > 30, "else nothing was compared"


@needs_numba
@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("bars", "1000,,x", "1e3,,x"),
        ("bars", "10.5,", "10.50000000000000000,"),
        ("bars", "2024-02-28T09:30:00Z,10", "2024-02-28T09:30:00+00:00,10"),
        ("bars", "2024-02-29", "2023-02-29"),
        ("bars", "12.05", "99999999999999999.05"),
        ("bars", "33,,\n", '"33",,\n'),
        ("bars", "symbol,", "symbol,symbol,"),
        ("orders", "a,A", "a,C"),
        ("orders", "b,B", "a,B"),
        ("orders", "BUY,3", "buy,3"),
        ("orders", "growth,,\n", "growth,,pair\n"),
        ("orders", "SELL,12", "SELL,0"),
        ("orders", "20.05", ""),
    ],
)
def test_what_is_out_of_the_common_is_left_to_who_knows_it(tmp_path: Path, kind: str, old: str, new: str) -> None:
    text = MORE_BARS if kind == "bars" else MORE_ORDERS
    assert old in text
    assert readers(tmp_path, settings_of(DAILY), kind)(text.replace(old, new, 1), True) is None


@needs_numba
def test_an_instrument_of_two_files_is_read_row_by_row_from_the_second_on(tmp_path: Path) -> None:
    module = import_module("simulation.compiled_texts")
    known = settings_of(DAILY)
    path = tmp_path / "bars.csv"
    path.write_text(BARS)
    reader = BarReader(known)
    assert module.read_bars(path, reader, known)
    assert not module.read_bars(path, reader, known)


@needs_numba
def test_a_run_from_files_to_files_is_the_same_compiled(tmp_path: Path) -> None:
    arguments = [*files(tmp_path), "--format", "csv"]
    written = []
    for engine in ("plain", "numba"):
        assert main([*arguments, "--engine", engine]) == 0
        written.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert written[0] == written[1]


def test_small_files_are_not_worth_loading_numba_for(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(ORDERS)
    assert quick_texts([path], "auto") is None
    assert quick_texts([path], "plain") is None
