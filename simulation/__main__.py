"""`python -m simulation`: a batch run from files to files, with a progress bar and a summary."""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as ShownTable

from simulation.actions import read_actions
from simulation.bars import BarReader, History, digests, files_of
from simulation.files import FORMATS, default_format, write, write_manifest
from simulation.history import ENDINGS, inputs_of, parquet_for, quick_texts, read_bars
from simulation.orders import OrderColumns, OrderReader
from simulation.problems import InputRefused
from simulation.quality import run_quality
from simulation.report import write_report
from simulation.run import Result, simulate_orders
from simulation.settings import Settings, read_settings
from simulation.tables import order_quality_table, plain, quality_table, tables_of
from simulation.targets import read_targets, simulate_targets

REFUSED = 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulation", description="Orders against historical bars: trades, orders, equity and positions."
    )
    parser.add_argument("--bars", type=Path, required=True, help="a CSV or Parquet file, or a folder of them")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--orders", type=Path, help="a CSV or Parquet file")
    what.add_argument("--targets", type=Path, help="a CSV or Parquet file of target positions")
    parser.add_argument("--config", type=Path, required=True, help="simulation.toml")
    parser.add_argument("--actions", type=Path, help="corporate actions, a CSV file: symbol,ex_date,type,value")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="where the page of HTML about the run is written (OUT/report.html)"
    )
    parser.add_argument("--format", choices=FORMATS, default=default_format(), help="of the results (%(default)s)")
    parser.add_argument(
        "--engine", choices=("auto", "plain", "numba"), default="auto", help="of the matcher; the results are the same"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0: done; 2: refused, with every reason on standard error."""
    chosen = arguments().parse_args(argv)
    errors = Console(stderr=True, highlight=False)
    try:
        with _uncollected():
            run(chosen, errors)
    except InputRefused as exc:
        errors.print(str(exc), markup=False, soft_wrap=True)
        return REFUSED
    except (OSError, ValueError) as exc:
        errors.print(f"{type(exc).__name__}: {exc}", markup=False, soft_wrap=True)
        return REFUSED
    return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for objects that hold each other: a run makes millions that do not, and each look goes through all of them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run(chosen: argparse.Namespace, errors: Console) -> None:
    begun = time.perf_counter()
    settings = read_settings(chosen.config)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        files = files_of(chosen.bars, ENDINGS)
        reading = progress.add_task("Reading bars", total=len(files) + 1)
        reader = BarReader(settings)
        asked = chosen.orders or chosen.targets
        quick = quick_texts([*files, asked], chosen.engine)
        for file in files:
            read_bars(file, reader, settings, quick)
            progress.advance(reading)
        given = [*files, asked, chosen.config, *([] if chosen.actions is None else [chosen.actions])]
        history = reader.history(dict(digests(given)))
        if chosen.actions is not None:
            read_actions(chosen.actions, history, settings)
        orders = None if chosen.orders is None else read_orders(chosen.orders, settings, history, quick)
        decisions = [] if chosen.targets is None else read_targets(rows_of(chosen.targets), chosen.targets.name)
        progress.advance(reading)
        matching = progress.add_task("Matching", total=history.count)
        told = partial(_progressed, progress, matching)
        if orders is None:
            result = simulate_targets(decisions, history, settings, told=told)
        else:
            result = simulate_orders(orders, history, settings, engine=chosen.engine, told=told)
        writing = progress.add_task("Writing", total=1)
        quality = run_quality(result, history)
        tables = (*tables_of(result), quality_table(quality), order_quality_table(result, quality))
        written = write(tables, chosen.out, chosen.format, compiled=result.matched_by == "numba")
        page = chosen.report or chosen.out / "report.html"
        manifest = manifest_of(result, history, [path.name for path in (*written, page)])
        write_report(result, history, quality, manifest, page)
        write_manifest(manifest, chosen.out)
        progress.advance(writing)
    Console(highlight=False).print(summary_of(result, history, time.perf_counter() - begun))


def read_orders(path: Path, settings: Settings, history: History, quick: Any = None) -> OrderColumns:
    """`quick`: as `quick_texts`. Raises InputRefused, OSError."""
    reader = OrderReader(settings, history)
    if path.suffix.lower() == ".parquet":
        reader.rows(parquet_for(path).rows_of(path), path.name)
    elif quick is None or not quick.read_orders(path, reader, history, settings):
        reader.csv(path)
    return reader.orders()


def rows_of(path: Path) -> Iterator[Sequence[str]]:
    """A file as texts, its header first. Raises InputRefused, OSError."""
    if path.suffix.lower() == ".parquet":
        yield from parquet_for(path).rows_of(path)
        return
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.reader(file)


def _progressed(progress: Progress, task: TaskID, done: int) -> None:
    progress.update(task, completed=done)


def manifest_of(result: Result, history: History, written: Sequence[str]) -> dict[str, Any]:
    """What a repetition needs, and what it must come to. The same inputs give the same manifest."""
    account = result.account
    cash, value = account.equity()[-1]
    return {
        **inputs_of(history, result.settings),
        "counts": {"bars": history.count, "orders": len(result.orders), "trades": len(result.trades)},
        "end": {
            "cash": plain(account.unit * cash),
            "equity": plain(account.unit * (cash + value)),
            "commission": plain(account.unit * account.paid_fees * account.per_cent),
        },
        "files": list(written),
    }


def summary_of(result: Result, history: History, seconds: float) -> ShownTable:
    account = result.account
    cash, value = account.equity()[-1]
    table = ShownTable(title="Simulation", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    counts = [0, 0, 0, 0]
    for status in result.status:
        counts[status] += 1
    rows = (
        ("Bars", f"{history.count:,} of {len(history.series):,} instruments"),
        ("Orders", f"{len(result.orders):,}"),
        ("Filled, cancelled, expired, working", f"{counts[1]:,}, {counts[2]:,}, {counts[3]:,}, {counts[0]:,}"),
        ("Trades", f"{len(result.trades):,}"),
        ("Turnover", f"{plain(account.unit * account.traded)} {result.settings.currency}"),
        ("Commission", f"{plain(account.unit * account.paid_fees * account.per_cent)} {result.settings.currency}"),
        ("Cash at the end", f"{plain(account.unit * cash)} {result.settings.currency}"),
        ("Equity at the end", f"{plain(account.unit * (cash + value))} {result.settings.currency}"),
        ("Time", f"{seconds:.1f} s, matched by {result.matched_by}"),
    )
    for name, words in rows:
        table.add_row(name, words)
    return table


if __name__ == "__main__":
    sys.exit(main())
