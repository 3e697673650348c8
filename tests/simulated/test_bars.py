"""Bars and orders as they are read: what is refused, with file, row and rule; conventions that must be stated."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from simulation import history as histories
from simulation.__main__ import read_bars
from simulation.bars import BarReader, History
from simulation.orders import OrderReader
from simulation.problems import InputRefused
from simulation.settings import Settings, read_settings, settings_of
from tests.simulated.cases import D, bars_of, order_rows

DAILY = {"stamp": "open", "interval": "1d"}
HEADER = "symbol,time,open,high,low,close,volume"
GOOD = "A,2024-01-02T00:00:00Z,10,11,9,10,100"


def read(*lines: str, header: str = HEADER, **settings: object) -> History:
    reader = BarReader(settings_of(DAILY | settings))
    reader.rows([line.split(",") for line in (header, *lines)], "bars.csv")
    return reader.history()


@pytest.mark.parametrize(("line", "rule"), [
    ("A,2024-01-02T00:00:00Z,10,11,9,10,100", "DUPLICATE"),
    ("A,2024-01-01T00:00:00Z,10,11,9,10,100", "SEQUENCE"),
    ("A,2024-01-02T20:00:00Z,10,11,9,10,100", "OVERLAP"),
    ("A,2024-01-03T00:00:00Z,10,9,11,10,100", "CROSSED"),
    ("A,2024-01-03T00:00:00Z,12,11,9,10,100", "CROSSED"),
    ("A,2024-01-03T00:00:00Z,10,11,9,8,100", "CROSSED"),
    ("A,2024-01-03T00:00:00Z,-1,11,-2,10,100", "NEGATIVE"),
    ("A,2024-01-03T00:00:00Z,10,11,0,10,100", "NEGATIVE"),
    ("A,2024-01-03T00:00:00Z,10.005,11,9,10,100", "TICK"),
    ("A,2024-01-03T00:00:00Z,10.000000001,11,9,10,100", "TICK"),
    ("A,2024-01-03T00:00:00Z,x,11,9,10,100", "NUMBER"),
    ("A,2024-01-03T00:00:00Z,NaN,11,9,10,100", "NUMBER"),
    ("A,2024-01-03T00:00:00Z,10,1e30,9,10,100", "NUMBER"),
    ("A,2024-01-03T00:00:00Z,10,11,9,10,-5", "VOLUME"),
    ("A,2024-01-03T00:00:00Z,10,11,9,10,", "VOLUME"),
    ("A,2024-01-03T00:00:00,10,11,9,10,100", "TIME"),
    ("A,yesterday,10,11,9,10,100", "TIME"),
    (",2024-01-03T00:00:00Z,10,11,9,10,100", "SYMBOL"),
    ("A,2024-01-03T00:00:00Z,10,11,9,10", "COLUMNS"),
])  # fmt: skip
def test_a_bad_row_is_refused_by_file_row_and_rule(line: str, rule: str) -> None:
    with pytest.raises(InputRefused) as refused:
        read(GOOD, line)
    assert [(each.where, each.row, each.rule) for each in refused.value.problems] == [("bars.csv", 3, rule)]


def test_all_bad_rows_are_named_at_once_and_many_are_counted() -> None:
    with pytest.raises(InputRefused) as refused:
        read(*(f"A,2024-01-02T00:00:00Z,10,11,9,10,{-n}" for n in range(1, 61)))
    assert (len(refused.value.problems), refused.value.count) == (50, 60)
    assert str(refused.value).endswith("and 10 more")


@pytest.mark.parametrize("header", ["symbol,time,open,high,low,close", "a,b", ""])
def test_columns_that_are_missing_are_named(header: str) -> None:
    with pytest.raises(InputRefused, match=r"COLUMNS: missing: .*volume"):
        read(header=header)


def test_no_bars_are_refused() -> None:
    with pytest.raises(InputRefused, match="EMPTY"):
        read()


def test_a_bar_that_is_stamped_at_its_close_opens_an_interval_earlier() -> None:
    day = 86_400_000_000
    at_open, at_close = read(GOOD), read(GOOD, stamp="close")
    assert at_open.series["A"].open_time[0] - at_close.series["A"].open_time[0] == day


def test_a_day_that_is_an_hour_shorter_is_no_overlap() -> None:
    read("A,2024-03-08T14:30:00Z,10,11,9,10,1", "A,2024-03-09T13:30:00Z,10,11,9,10,1")


def test_bars_of_two_files_of_one_instrument_belong_together() -> None:
    reader = BarReader(settings_of(DAILY))
    for name in ("a.csv", "b.csv"):
        reader.rows([HEADER.split(","), GOOD.split(",")], name)
    with pytest.raises(InputRefused, match=r"b.csv, row 2: DUPLICATE"):
        reader.history()


def test_a_volume_that_is_no_whole_lot_counts_in_whole_ones() -> None:
    series = read("A,2024-01-02T00:00:00Z,10,11,9,10,0.1234", lot="0.01", participation="0.5").series["A"]
    assert (series.volume[0], series.pool[0]) == (12, 6)


# --- settings -------------------------------------------------------------------------------------------------------


def refused_settings(**table: object) -> list[str]:
    with pytest.raises(InputRefused) as refused:
        settings_of(table)
    return [each.rule for each in refused.value.problems]


def test_conventions_must_be_stated() -> None:
    assert refused_settings() == ["stamp", "interval"]


@pytest.mark.parametrize(("table", "rule"), [
    ({"stamp": "middle"}, "stamp"),
    ({"interval": "1 fortnight"}, "interval"),
    ({"tick": 0}, "tick"),
    ({"tick": 0.01}, "tick"),
    ({"tick": "NaN"}, "tick"),
    ({"participation": "1.5"}, "participation"),
    ({"path": "best"}, "path"),
    ({"limit_fill": "always"}, "limit_fill"),
    ({"slippage": {"model": "luck"}}, "slippage"),
    ({"slippage": {"model": "bps"}}, "slippage.bps"),
    ({"slippage": {"model": "bps", "bps": 1, "ticks": 1}}, "slippage.ticks"),
    ({"commission": {"model": "per_share", "per_share": -1}}, "commission.per_share"),
    ({"commission": {"model": "per_order", "per_order": 1, "side": "both"}}, "commission.side"),
    ({"seed": "x"}, "seed"),
    ({"margin": "0.5"}, "margin"),
    ({"pathh": "adverse"}, "pathh"),
])  # fmt: skip
def test_a_bad_setting_is_named(table: dict[str, object], rule: str) -> None:
    assert refused_settings(**DAILY | table) == [rule]


def test_numbers_of_a_file_are_exact(tmp_path: Path) -> None:
    file = tmp_path / "simulation.toml"
    file.write_text(
        'stamp = "close"\ninterval = "5m"\ntick = 0.05\nparticipation = 0.1\n'
        'slippage = { model = "bps", bps = 12.5 }\n'
        'commission = { model = "per_share", per_share = 0.005, minimum = 1.00, maximum_pct = 1.0 }\n'
    )
    known = read_settings(file)
    assert (known.interval, known.tick, known.slippage[0].bps) == (300_000_000, D("0.05"), D("12.5"))
    assert known.commission[0].per_share == D("0.005")


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "simulation.toml"
    file.write_text("stamp =")
    with pytest.raises(InputRefused, match=r"simulation.toml: TOML"):
        read_settings(file)


# --- orders ---------------------------------------------------------------------------------------------------------

KNOWN = settings_of(DAILY | {"lot": 10})
BARS = bars_of(KNOWN, "10 11 9 10")


@pytest.mark.parametrize(("column", "text", "rule"), [
    ("order_id", "", "ORDER_ID"), ("order_id", "o1", "DUPLICATE"), ("time", "now", "TIME"), ("symbol", "B", "SYMBOL"),
    ("side", "HOLD", "SIDE"), ("quantity", "0", "QUANTITY"), ("quantity", "-10", "QUANTITY"), ("quantity", "15", "QUANTITY"),
    ("quantity", "x", "QUANTITY"), ("order_type", "PEGGED", "ORDER_TYPE"), ("limit_price", "", "LIMIT_PRICE"),
    ("limit_price", "10.001", "LIMIT_PRICE"), ("tif", "FOK", "TIF"), ("reduce_only", "maybe", "REDUCE_ONLY"),
])  # fmt: skip
def test_a_bad_order_is_refused_by_row_and_rule(column: str, text: str, rule: str) -> None:
    header, first, second = order_rows("BUY 10 LIMIT limit=10", "BUY 10 LIMIT limit=10")
    second[header.index(column)] = text
    reader = OrderReader(KNOWN, BARS)
    reader.rows([header, first, second], "orders.csv")
    with pytest.raises(InputRefused) as refused:
        reader.orders()
    assert [(each.row, each.rule) for each in refused.value.problems] == [(3, rule)]


# --- Parquet --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("polars") is None, reason="polars is not installed")
def test_parquet_is_as_csv(tmp_path: Path) -> None:
    import polars

    lines = [GOOD, "A,2024-01-03T00:00:00Z,10.1,10.37,10.07,10.2,1234", "B,2024-01-02T00:00:00Z,5,5,5,5,0"]
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    frame = polars.read_csv(tmp_path / "bars.csv", try_parse_dates=True)
    frame.write_parquet(tmp_path / "bars.parquet")
    known = settings_of(DAILY)
    both = []
    for name in ("bars.csv", "bars.parquet"):
        reader = BarReader(known)
        read_bars(tmp_path / name, reader, known)
        both.append({symbol: series.bars() for symbol, series in reader.history().series.items()})
    assert both[0] == both[1]


@pytest.mark.skipif(find_spec("polars") is None, reason="polars is not installed")
@pytest.mark.parametrize(("second", "rule"), [
    ("A,2024-01-02T00:00:00Z,10,11,9,10,100", "DUPLICATE"),
    ("A,2024-01-01T00:00:00Z,10,11,9,10,100", "SEQUENCE"),
    ("A,2024-01-02T20:00:00Z,10,11,9,10,100", "OVERLAP"),
    ("A,2024-01-03T00:00:00Z,10,9,11,10,100", "CROSSED"),
    ("A,2024-01-03T00:00:00Z,-1,11,-2,10,100", "NEGATIVE"),
    ("A,2024-01-03T00:00:00Z,10,11,9,10,-5", "VOLUME"),
])  # fmt: skip
def test_a_bad_row_of_parquet_is_refused_as_one_of_csv(tmp_path: Path, second: str, rule: str) -> None:
    import polars

    between = "B,2024-01-02T00:00:00Z,10,11,9,10,100"
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, GOOD, between, second]) + "\n")
    polars.read_csv(tmp_path / "bars.csv", try_parse_dates=True).write_parquet(tmp_path / "bars.parquet")
    known = settings_of(DAILY)
    reader = BarReader(known)
    read_bars(tmp_path / "bars.parquet", reader, known)
    with pytest.raises(InputRefused) as refused:
        reader.history()
    assert [(each.row, each.rule) for each in refused.value.problems] == [(4, rule)]


@pytest.mark.skipif(find_spec("polars") is None, reason="polars is not installed")
def test_a_float_off_the_tick_is_refused_by_row(tmp_path: Path) -> None:
    import polars

    rows = {"symbol": ["A"] * 2, "time": ["2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z"], "volume": [1, 1]}
    rows |= {name: [10.0, 10.0] for name in ("high", "low", "close")} | {"open": [10.0, 10.005]}
    frame = polars.DataFrame(rows).with_columns(polars.col("time").str.to_datetime(time_zone="UTC"))
    frame.write_parquet(tmp_path / "bars.parquet")
    known: Settings = settings_of(DAILY)
    reader = BarReader(known)
    read_bars(tmp_path / "bars.parquet", reader, known)
    with pytest.raises(InputRefused, match=r"bars.parquet, row 3: TICK: open 10.005"):
        reader.history()


@pytest.mark.skipif(find_spec("polars") is None, reason="polars is not installed")
def test_a_column_of_lists_beside_bars_of_texts_is_ignored_as_any_other(tmp_path: Path) -> None:
    import polars

    rows = {"symbol": ["A"], "time": ["2024-01-02T00:00:00Z"], "volume": ["1"], "tags": [["x", "y"]]}
    rows |= {name: ["10"] for name in ("open", "high", "low", "close")}
    polars.DataFrame(rows).write_parquet(tmp_path / "bars.parquet")
    known = settings_of(DAILY)
    reader = BarReader(known)
    read_bars(tmp_path / "bars.parquet", reader, known)
    assert list(reader.history().series) == ["A"]


@pytest.mark.parametrize("changed", ["bars.csv", "actions.csv"])
def test_a_file_that_changes_while_it_is_read_is_refused_since_its_hash_would_not_be_that_of_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    bars, actions = tmp_path / "bars.csv", tmp_path / "actions.csv"
    bars.write_text(f"{HEADER}\n{GOOD}\n", encoding="utf-8")
    actions.write_text("symbol,ex_date,type,value\n", encoding="utf-8")
    settings = settings_of(DAILY)
    assert histories.read_history(bars, settings, actions=actions).count == 1
    read = histories.read_actions

    def read_and_changed(*arguments: Any) -> None:
        read(*arguments)
        (tmp_path / changed).write_text("other\n", encoding="utf-8")

    monkeypatch.setattr(histories, "read_actions", read_and_changed)
    with pytest.raises(InputRefused, match=f"{changed}: CHANGED"):
        histories.read_history(bars, settings, actions=actions)
