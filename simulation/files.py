"""Results to files: CSV by the standard library, SQLite, or Parquet where polars is installed; and the manifest beside them."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any

from simulation.tables import NUMBER, TEXT, TIME, Columns, Table, shown
from simulation.units import Kept, written_time

FORMATS = ("csv", "parquet", "sqlite")
_AT_ONCE = 2_000


def default_format() -> str:
    return "parquet" if find_spec("polars") is not None else "csv"


def write(tables: Iterable[Table], folder: Path, form: str, *, compiled: bool = False) -> list[Path]:
    """Writes each table; an older result of the same name is replaced. `compiled`: numba may write it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "sqlite":
        return [write_sqlite(tables, folder / "results.sqlite")]
    if form == "parquet":
        writer = import_module("simulation.parquet")
        return [writer.write(table, folder / f"{table.name}.parquet") for table in tables]
    quick = import_module("simulation.compiled_tables") if compiled else None
    return [write_csv(table, folder / f"{table.name}.csv", quick) for table in tables]


def write_csv(table: Table, path: Path, quick: Any = None) -> Path:
    """`quick`: `compiled_tables`, which writes what it can. Raises OSError."""
    if quick is not None and isinstance(table.rows, Columns) and quick.write_csv(table, table.rows, path):
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.header)
        texts = [n for n, (_, kind) in enumerate(table.columns) if kind is TEXT]
        for columns in _blocks(table):
            if any(needs_quotes("".join(filter(None, columns[n]))) for n in texts):
                writer.writerows(zip(*columns, strict=True))
            else:
                filled = (map(_empty_if_none, column) if None in column else column for column in columns)
                file.write("\n".join(map(",".join, zip(*filled, strict=True))) + "\n")
    return path


def needs_quotes(letters: str) -> bool:
    """Whether there is anything in them that a field of CSV has in quotation marks only."""
    return "," in letters or '"' in letters or "\n" in letters or "\r" in letters


def _empty_if_none(text: str | None) -> str:
    return text or ""


def _blocks(table: Table) -> Iterator[list[Sequence[Any]]]:
    """Some rows at a time, as columns, with their times as texts."""
    times: Kept[int, str] = Kept(written_time)
    places = [n for n, (_, kind) in enumerate(table.columns) if kind is TIME]
    rows = iter(table.rows)
    while block := list(islice(rows, _AT_ONCE)):
        columns: list[Sequence[Any]] = list(zip(*block, strict=True))
        for n in places:
            columns[n] = list(map(times.__getitem__, columns[n]))
        yield columns


SQL_TYPES = {
    # Amounts as text: they are exact, and SQLite would make binary floats of NUMERIC ones.
    "sqlite": {"text": "TEXT", "number": "TEXT", "time": "TEXT"},
    "postgresql": {"text": "TEXT", "number": "NUMERIC", "time": "TIMESTAMPTZ"},
}
KEYS = {"trades": "trade_id", "orders": "order_id", "equity": "time"}
DECISIONS = "pipeline_decisions"


def create_table(table: Table, dialect: str, *, with_decisions: bool = False) -> str:
    """The statement that makes the table; `with_decisions`: the table of decisions is in the same database, and is referred to."""
    types = SQL_TYPES[dialect]
    lines = []
    for name, kind in table.columns:
        more = " PRIMARY KEY" if KEYS.get(table.name) == name else ""
        if name == "decision_id" and with_decisions:
            more = f" REFERENCES {DECISIONS} (decision_id)"
        lines.append(f'  "{name}" {types[kind]}{more}')
    return f'CREATE TABLE "{table.name}" (\n' + ",\n".join(lines) + "\n)"


def write_sqlite(tables: Iterable[Table], path: Path) -> Path:
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    try:
        # One transaction for all: a run that is cut off leaves no half result.
        with database:
            for table in tables:
                database.execute(create_table(table, "sqlite"))
                rows = chain.from_iterable(zip(*columns, strict=True) for columns in _blocks(table))
                marks = ", ".join("?" * len(table.columns))
                database.executemany(f'INSERT INTO "{table.name}" VALUES ({marks})', rows)
    finally:
        database.close()
    return path


def write_sql(tables: Iterable[Table], path: Path, dialect: str, *, with_decisions: bool = False) -> Path:
    """A script of statements, for `sqlite3` or `psql`, in one transaction."""
    with path.open("w", encoding="utf-8") as file:
        file.write("BEGIN;\n")
        for table in tables:
            file.write(create_table(table, dialect, with_decisions=with_decisions) + ";\n")
            for row in table.rows:
                values = ", ".join(
                    _literal(kind, dialect, value) for (_, kind), value in zip(table.columns, row, strict=True)
                )
                file.write(f'INSERT INTO "{table.name}" VALUES ({values});\n')
        file.write("COMMIT;\n")
    return path


def _literal(kind: str, dialect: str, value: str | int | None) -> str:
    if value is None:
        return "NULL"
    text = shown(kind, value)
    if kind is NUMBER and dialect == "postgresql":
        return text
    return "'" + text.replace("'", "''") + "'"


def write_manifest(manifest: Mapping[str, Any], folder: Path) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
    return path
