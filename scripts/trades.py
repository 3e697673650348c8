"""`execctl trades` and `execctl cash`: what was executed, as a list or as a file for other programs, and what it has changed of the money."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from execution_service.api.trades import cash_fields
from execution_service.core.texts.values import plain
from execution_service.core.trades.documents import trade_fields
from execution_service.core.trades.rows import TradeRow
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.reader import StoreReader
from scripts.display import Shows, counted, print_json, print_table
from scripts.trade_files import ExportFailed, Format, write_trades

EXIT_FAILED = 1


class Context(Shows, Protocol):
    """What a command of execctl works with."""

    @property
    def view(self) -> StoreReader: ...

    @property
    def store(self) -> MongoStore: ...


def add_options(parser: argparse.ArgumentParser, whole: Callable[[str], int]) -> None:
    """`whole`: how a whole number from 1 is read."""
    parser.add_argument("what", metavar="export", nargs="?", choices=["export"], help="write them all to a file")
    parser.add_argument("--account", help="only this account's")
    parser.add_argument("--since", type=_moment, metavar="TIME", help="from this time on, as in 2026-01-31 (UTC)")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="before this time")
    parser.add_argument("--limit", type=whole, default=20, help="list at most so many (default 20)")
    parser.add_argument("--format", type=Format, choices=list(Format), help="with export")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with export; a SQLite database gets what it lacks")
    parser.add_argument(
        "--add-decisions",
        action="store_true",
        help="with export: add to pipeline_decisions, by their ids, the decisions that trades name and it does not have",
    )


def problem_with(options: argparse.Namespace) -> str | None:
    is_export = options.what == "export"
    if is_export and (options.format is None or options.out is None):
        return "trades export needs --format and --out"
    if not is_export and (options.format is not None or options.out is not None or options.add_decisions):
        return "--format, --out and --add-decisions go with export"
    return None


async def show(context: Context) -> int:
    """The latest, or all of them as a file. 1: the file could not be written."""
    options = context.options
    if options.what == "export":
        return _export(context)
    rows = context.view.latest_trades(options.limit, since=options.since, until=options.until, account=options.account)
    if context.wants_json:
        print_json([trade_fields(row) for row in rows])
        return 0
    columns = ("Time", "Account", "Strategy", "Kind", "Side", "Size", "Instrument", "Price", "Commission", "Decision")
    cells = [
        (
            row.at,
            row.account_id,
            row.strategy_id,
            row.kind.value,
            row.side.value,
            row.size,
            row.instrument_key,
            row.price,
            row.commission,
            row.decision.decision_id,
        )
        for row in rows
    ]
    title = f"{counted(len(cells), 'trade')}, the latest first"
    print_table(context.console, title, columns, cells, dispensable=("Decision", "Commission", "Strategy"))
    return 0


def _export(context: Context) -> int:
    options = context.options
    rows: Iterator[TradeRow] = context.view.trades(since=options.since, until=options.until, account=options.account)
    try:
        count = write_trades(rows, options.format, options.out, adds_decisions=options.add_decisions)
    except (ExportFailed, OSError) as exc:
        print(f"Nothing was exported: {plain(str(exc))}", file=sys.stderr)
        return EXIT_FAILED
    if context.wants_json:
        print_json({"file": str(options.out), "format": options.format.value, "trades": count})
    else:
        context.console.print(f"{counted(count, 'trade')} in {options.out}")
    return 0


async def show_cash(context: Context) -> int:
    """By account and currency. Exactly what the HTTP API tells."""
    found = [
        each for each in await context.store.cash_by_trades() if context.options.account in (None, each.account_id)
    ]
    if context.wants_json:
        print_json([cash_fields(each) for each in found])
        return 0
    columns = ("Account", "Currency", "Change", "Bought and sold", "Commissions", "Amounts not known")
    cells = [(c.account_id, c.currency, c.change, c.traded, -c.commissions, c.unknown or None) for c in found]
    print_table(context.console, "What trading has changed of the cash", columns, cells)
    return 0


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no time, as in 2026-01-31 or 2026-01-31T15:30:00Z") from exc
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
