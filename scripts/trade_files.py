"""Rows of `trades` as a SQLite database, a script for PostgreSQL, or CSV: exact amounts, and no half file under its final name."""

from __future__ import annotations

import contextlib
import csv
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from execution_service.core.trades.documents import trade_fields
from execution_service.core.trades.rows import TradeRow

TABLE, DECISIONS, DECISION = "trades", "pipeline_decisions", "decision_id"
AT_ONCE = 1000
MOST_NAMED = 5


class Format(StrEnum):
    SQLITE = "sqlite"
    POSTGRES = "postgres"
    CSV = "csv"


class ExportFailed(Exception):
    """Nothing was written; the message says why."""


_NUMBERS = frozenset({"size", "price", "commission", "money_per_point", "cash"})
_TIMES = frozenset({"timestamp", "recorded_at"})
_WHOLE = frozenset({"leg_index"})
_NEEDED = frozenset({"timestamp", "ticker", "direction", "size", "price", "order_id", "strategy_id", "kind"})
_TYPES: Mapping[Format, Mapping[str, str]] = {
    # As text: amounts are exact, and SQLite would make binary floats of NUMERIC ones.
    Format.SQLITE: {"number": "TEXT", "time": "TEXT", "whole": "INTEGER"},
    Format.POSTGRES: {"number": "NUMERIC", "time": "TIMESTAMPTZ", "whole": "INTEGER"},
}
COLUMNS: tuple[str, ...] = (
    *("trade_id", "timestamp", "ticker", "direction", "size", "price", "order_id", "strategy_id"),
    *("profile_version_id", "regime_id", "universe_id", DECISION),
    *("kind", "execution_trade_id", "fill_reason", "commission", "commission_currency", "currency", "money_per_point"),
    *("cash", "plan_id", "mode", "account_id", "signal_id", "leg_index", "broker_order_id", "fill_id", "instrument"),
    *("ledger_id", "recorded_at"),
)


def write_trades(rows: Iterable[TradeRow], form: Format, path: Path, *, adds_decisions: bool = False) -> int:
    """How many rows. A SQLite database that is there gets those that it lacks; another file is replaced. `adds_decisions`: the decisions that rows
    name are added by their ids where they are missing. Raises ExportFailed, OSError."""
    if form is Format.SQLITE:
        return _to_sqlite(rows, path, adds_decisions=adds_decisions)
    with _whole_file(path) as file:
        if form is Format.CSV:
            return _to_csv(rows, file)
        return _to_postgres(rows, file, adds_decisions=adds_decisions)


def create_table(form: Format) -> str:
    """The statement that makes the table, with its reference to the table of decisions."""
    lines = [f'  "{name}" {_type(form, name)}{_constraint(name)}' for name in COLUMNS]
    return f'CREATE TABLE IF NOT EXISTS "{TABLE}" (\n' + ",\n".join(lines) + "\n)"


_CREATE_DECISIONS = f'CREATE TABLE IF NOT EXISTS "{DECISIONS}" ("{DECISION}" TEXT PRIMARY KEY)'


def _kind(name: str) -> str:
    return "number" if name in _NUMBERS else "time" if name in _TIMES else "whole" if name in _WHOLE else "text"


def _type(form: Format, name: str) -> str:
    return _TYPES[form].get(_kind(name), "TEXT")


def _constraint(name: str) -> str:
    if name == "trade_id":
        return " PRIMARY KEY"
    if name == DECISION:
        return f' REFERENCES "{DECISIONS}" ("{DECISION}")'
    return " NOT NULL" if name in _NEEDED else ""


def _texts(row: TradeRow) -> list[str | int | None]:
    fields = trade_fields(row)
    return [_text(fields[name]) for name in COLUMNS]


def _text(value: object) -> str | int | None:
    match value:
        case None | int():
            return value
        case Decimal():
            return format(value, "f")
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # No text of a database holds a NUL, nor half a character.
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# --- files ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[str]]:
    """Under another name until it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _to_csv(rows: Iterable[TradeRow], file: IO[str]) -> int:
    writer, count = csv.writer(file, lineterminator="\n"), 0
    writer.writerow(COLUMNS)
    for block in _blocks(rows):
        writer.writerows(block)
        count += len(block)
    return count


def _to_postgres(rows: Iterable[TradeRow], file: IO[str], *, adds_decisions: bool) -> int:
    """In one transaction; may be run again, and adds what is new."""
    file.write("BEGIN;\n")
    if adds_decisions:
        file.write(_CREATE_DECISIONS + ";\n")
    file.write(create_table(Format.POSTGRES) + ";\n")
    columns, count = ", ".join(f'"{name}"' for name in COLUMNS), 0
    for block in _blocks(rows):
        if adds_decisions and (names := _decisions_of(block)):
            values = ", ".join(f"({_literal(DECISION, name)})" for name in names)
            file.write(f'INSERT INTO "{DECISIONS}" ("{DECISION}") VALUES {values} ON CONFLICT DO NOTHING;\n')
        for row in block:
            values = ", ".join(_literal(name, value) for name, value in zip(COLUMNS, row, strict=True))
            file.write(f'INSERT INTO "{TABLE}" ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING;\n')
        count += len(block)
    file.write("COMMIT;\n")
    return count


def _literal(name: str, value: str | int | None) -> str:
    if value is None:
        return "NULL"
    if _kind(name) in ("number", "whole"):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def _to_sqlite(rows: Iterable[TradeRow], path: Path, *, adds_decisions: bool) -> int:
    is_new = not path.exists()
    try:
        return _in_database(rows, path, adds_decisions=adds_decisions)
    except sqlite3.Error as exc:
        raise ExportFailed(f"{path}: {exc}") from exc
    finally:
        if is_new and path.exists() and not path.stat().st_size:
            path.unlink()


def _in_database(rows: Iterable[TradeRow], path: Path, *, adds_decisions: bool) -> int:
    """In one transaction, checked before its end."""
    database = sqlite3.connect(path, isolation_level=None)
    count = 0
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            # Where nobody has decisions here, they are what the rows name.
            adds = adds_decisions or not _has_table(database, DECISIONS)
            if adds:
                database.execute(_CREATE_DECISIONS)
            database.execute(create_table(Format.SQLITE))
            columns, marks = ", ".join(f'"{name}"' for name in COLUMNS), ", ".join("?" * len(COLUMNS))
            insert = f'INSERT OR IGNORE INTO "{TABLE}" ({columns}) VALUES ({marks})'
            for block in _blocks(rows):
                if adds:
                    named = [(name,) for name in _decisions_of(block)]
                    database.executemany(f'INSERT OR IGNORE INTO "{DECISIONS}" ("{DECISION}") VALUES (?)', named)
                database.executemany(insert, block)
                count += len(block)
            _check_decisions(database)
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
    finally:
        database.close()
    return count


def _has_table(database: sqlite3.Connection, name: str) -> bool:
    found = database.execute("SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?", (name,))
    return found.fetchone() is not None


def _check_decisions(database: sqlite3.Connection) -> None:
    lacking = (
        f'SELECT DISTINCT t."{DECISION}" FROM "{TABLE}" t WHERE t."{DECISION}" IS NOT NULL AND NOT EXISTS '
        f'(SELECT 1 FROM "{DECISIONS}" d WHERE d."{DECISION}" = t."{DECISION}") ORDER BY 1'
    )
    missing = [str(name) for (name,) in database.execute(lacking)]
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise ExportFailed(
            f"trades name decisions that {DECISIONS} does not have: {', '.join(missing[:MOST_NAMED])}{more}; "
            "--add-decisions adds them by their ids"
        )
    if database.execute(f'PRAGMA foreign_key_check("{TABLE}")').fetchone() is not None:
        raise ExportFailed(f"the reference to {DECISIONS} does not hold")


def _blocks(rows: Iterable[TradeRow]) -> Iterator[Sequence[Sequence[str | int | None]]]:
    remaining = iter(rows)
    for first in remaining:
        yield [_texts(row) for row in chain((first,), islice(remaining, AT_ONCE - 1))]


def _decisions_of(block: Sequence[Sequence[Any]]) -> list[str]:
    place = COLUMNS.index(DECISION)
    return sorted({row[place] for row in block if row[place] is not None})
