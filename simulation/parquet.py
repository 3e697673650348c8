"""Parquet in and out by polars; loaded by name, and only where a file of that format is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import polars

from simulation.bars import COLUMNS, LARGEST, BarReader, Series
from simulation.settings import Settings
from simulation.tables import NUMBER, TIME, Table
from simulation.units import DAY, Kept, microseconds

NEAR = 1e-6
"""So near to a whole number of ticks must a binary float be to be taken for it."""
LARGEST_FLOAT = 2**52
_AT_ONCE = 2_000


def write(table: Table, path: Path) -> Path:
    columns: list[list[Any]] = [[] for _ in table.columns]
    rows = iter(table.rows)
    while block := list(islice(rows, _AT_ONCE)):
        for column, values in zip(columns, zip(*block, strict=True), strict=True):
            column.extend(values)
    frame = polars.DataFrame(
        [_series(name, kind, column) for (name, kind), column in zip(table.columns, columns, strict=True)]
    )
    frame.write_parquet(path, compression="zstd")
    return path


def _series(name: str, kind: str, values: list[Any]) -> Any:
    if kind is TIME:
        return polars.Series(name, values, dtype=polars.Int64).cast(polars.Datetime("us", "UTC"))
    if kind is NUMBER:
        places = max((len(v.partition(".")[2]) for v in set(values) if v), default=0)
        return polars.Series(name, values, dtype=polars.String).cast(polars.Decimal(38, places))
    return polars.Series(name, values, dtype=polars.String)


def rows_of(path: Path) -> Iterator[Sequence[str]]:
    """A file as texts, its header first: for orders and targets."""
    frame = polars.read_parquet(path)
    yield frame.columns
    yield from zip(*map(_texts, frame.get_columns()), strict=True)


def _texts(column: Any) -> Sequence[str]:
    """Of a column; what nothing stands in is empty."""
    if column.dtype == polars.String or column.dtype.is_integer():
        texts: list[str] = column.cast(polars.String).fill_null("").to_list()
        return texts
    if column.dtype.is_nested():
        return list(map(_text, column.to_list()))
    known: Kept[Any, str] = Kept(_text)
    return list(map(known.__getitem__, column.to_list()))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # A float's shortest text is what was written: 0.1, and not its binary neighbour.
        return str(Decimal(repr(value)))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def read_bars(path: Path, reader: BarReader, settings: Settings) -> None:
    """All bars of a file; floats are taken where they are whole ticks within a millionth, else the row is refused."""
    frame = polars.read_parquet(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        reader.problems.add(path.name, 1, "COLUMNS", f"missing: {', '.join(missing)}")
        return
    if not all(frame.schema[name].is_numeric() for name in COLUMNS[2:]) or frame.schema["time"] == polars.String:
        reader.rows(rows_of(path), path.name)
        return
    zone = getattr(frame.schema["time"], "time_zone", None)
    if zone is None and frame.schema["time"] != polars.Date:
        reader.problems.add(path.name, 1, "TIME", "needs a time zone: a time without one may mean any")
        return
    prices = [_whole(frame[name], settings.tick, path.name, reader) for name in COLUMNS[2:6]]
    if _are_taken_at_once(frame, prices, reader, settings):
        return
    times, volumes = frame["time"].to_list(), frame["volume"].cast(polars.Float64).to_list()
    halted = frame["halted"].cast(polars.Boolean).fill_null(False).to_list() if "halted" in frame.columns else None
    opens, highs, lows, closes = (column.to_list() for column in prices)
    stamps: dict[Any, int] = {}
    lots: dict[float, tuple[int, int]] = {}
    for n, (symbol, time, volume) in enumerate(zip(frame["symbol"].to_list(), times, volumes, strict=True)):
        row = n + 2
        if not symbol or time is None:
            reader.problems.add(path.name, row, "SYMBOL" if time else "TIME", "is empty")
            continue
        if volume is None or not 0 <= volume < float("inf"):
            reader.problems.add(path.name, row, "VOLUME", f"{volume!r} is no amount that can be traded")
            continue
        at = stamps.get(time)
        if at is None:
            at = stamps[time] = microseconds(_moment(time))
        amounts = lots.get(volume)
        if amounts is None:
            amounts = lots[volume] = reader.lots_of(Decimal(repr(volume)))
        o, h, low, c = opens[n], highs[n], lows[n], closes[n]
        if o is None or h is None or low is None or c is None:
            continue
        reader.add(symbol, at, (o, h, low, c), amounts, bool(halted and halted[n]), path.name, row)


def _are_taken_at_once(frame: Any, prices: Sequence[Any], reader: BarReader, settings: Settings) -> bool:
    """Whether nothing at all is wrong with the file, so that its columns could be taken whole. False: nothing was taken; row by row it is found
    out what is wrong, or how a figure of an uncommon kind is meant."""
    if settings.lot != 1 or not frame.schema["volume"].is_integer() or frame.schema["time"] == polars.Date:
        return False
    up, down = reader.rate
    o, h, low, c = prices
    table = polars.DataFrame(
        {
            "symbol": frame["symbol"].cast(polars.String),
            "at": frame["time"].dt.epoch("us") - reader.shift,
            "open": o,
            "high": h,
            "low": low,
            "close": c,
            "volume": frame["volume"].cast(polars.Int64),
        }
    )
    halted = frame["halted"].cast(polars.Boolean).fill_null(False) if "halted" in frame.columns else polars.lit(False)
    table = table.with_columns(
        pool=polars.col("volume") * up // down,
        trading=(polars.col("volume") > 0) & ~halted,
        day=polars.col("at") // DAY,
    )
    # Of one instrument the rows follow each other as they stand, also where others are between them.
    behind = polars.col("at") - polars.col("at").shift(1).over("symbol")
    is_new_day = polars.col("day") != polars.col("day").shift(1).over("symbol")
    is_later = (behind > 0) & is_new_day if settings.interval >= DAY else behind >= settings.interval
    is_good = (
        (polars.col("symbol") != "")
        & (polars.col("low") > 0)
        & (polars.col("low") <= polars.min_horizontal("open", "close"))
        & (polars.col("high") >= polars.max_horizontal("open", "close"))
        & (polars.col("high") < LARGEST)
        & (polars.col("volume") >= 0)
        & (polars.col("volume") < LARGEST // max(1, up))
        & is_later.fill_null(True)
    )
    if table.null_count().sum_horizontal()[0] or not table.select(is_good.fill_null(False).all()).item():
        return False
    parts = table.partition_by("symbol", maintain_order=True, as_dict=True)
    if any(reader.has(str(symbol)) for (symbol,) in parts):
        return False
    for (symbol,), part in parts.items():
        columns = {name: array("q", part[name].to_numpy().astype("int64").tobytes()) for name in _TAKEN}
        reader.add_checked(
            Series(
                symbol=str(symbol),
                open_time=columns["at"],
                open=columns["open"],
                high=columns["high"],
                low=columns["low"],
                close=columns["close"],
                volume=columns["volume"],
                pool=columns["pool"],
                trading=array("b", part["trading"].to_list()),
            )
        )
    return True


_TAKEN = ("at", "open", "high", "low", "close", "volume", "pool")


def _moment(time: date) -> datetime:
    """A date is its midnight in UTC."""
    return time if isinstance(time, datetime) else datetime(time.year, time.month, time.day, tzinfo=UTC)


def _whole(column: Any, tick: Decimal, where: str, reader: BarReader) -> Any:
    """In ticks; None, and a problem, where it is none."""
    exact = column.cast(polars.Float64) / float(tick)
    whole = exact.round()
    good = ((exact - whole).abs() < NEAR) & exact.is_finite() & (exact.abs() < LARGEST_FLOAT)
    for n in (~good.fill_null(False)).arg_true().to_list():
        value = column[n]
        finite = value is not None and abs(float(value)) < float("inf")
        rule, words = ("TICK", f"is no multiple of {tick}") if finite else ("NUMBER", "is no decimal number")
        reader.problems.add(where, n + 2, rule, f"{column.name} {value} {words}")
    return whole.set(~good.fill_null(False), None).cast(polars.Int64)
