"""Corporate actions of raw prices: splits and cash dividends, by their ex-dates."""

from __future__ import annotations

import csv
from bisect import bisect_left
from decimal import Decimal, InvalidOperation
from pathlib import Path

from simulation.bars import History
from simulation.problems import Collected
from simulation.settings import Settings
from simulation.units import DAY, parsed_time

COLUMNS = ["symbol", "ex_date", "type", "value"]


def read_actions(path: Path, history: History, settings: Settings) -> None:
    """`symbol,ex_date,type,value`: a `split` of 2:1 is `2`, a reverse one of 1:10 `0.1` or `1/10`; a `dividend` is an amount a share.

    They are written into the history, at the first bar that opens on the ex-date or later. Raises InputRefused.
    """
    problems = Collected()
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        if [name.strip().lower() for name in next(lines, [])] != COLUMNS:
            problems.add(path.name, 1, "COLUMNS", f"must be {', '.join(COLUMNS)}")
        else:
            for row, line in enumerate(lines, 2):
                if line:
                    _take(line, path.name, row, history, problems)
    if settings.multiplier != 1 and not problems.count:
        problems.add(path.name, 0, "MULTIPLIER", "corporate actions are of shares: the multiplier must be 1")
    problems.raise_if_any()


def _take(line: list[str], where: str, row: int, history: History, problems: Collected) -> None:
    if len(line) != len(COLUMNS):
        problems.add(where, row, "COLUMNS", f"{len(line)} fields instead of {len(COLUMNS)}")
        return
    symbol, ex_date, kind, value = line
    series = history.series.get(symbol)
    if series is None:
        problems.add(where, row, "SYMBOL", f"there are no bars of {symbol!r}")
        return
    try:
        at = parsed_time(ex_date)
        over, _, under = value.partition("/")
        number = Decimal(over) / Decimal(under or 1)
    except (ValueError, InvalidOperation, ZeroDivisionError) as exc:
        problems.add(where, row, "VALUE", f"{ex_date!r}, {value!r}: {exc}")
        return
    if not number.is_finite() or number <= 0 or kind not in ("split", "dividend"):
        problems.add(where, row, "VALUE", "must be a split or a dividend of more than 0")
        return
    k = bisect_left(series.open_time, at // DAY * DAY)
    if k == len(series.open_time):
        problems.add(where, row, "EX_DATE", f"{symbol} has no bar on it or later")
    elif kind == "split":
        up, down = (int(over), int(under)) if under else number.as_integer_ratio()
        series.split_up[k], series.split_down[k] = up, down
    else:
        series.dividend[k] = number
