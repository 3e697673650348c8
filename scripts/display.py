"""Tables and lines for people, plain if the output is no terminal. Knows nothing of their content."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from rich.box import ASCII, ROUNDED
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from execution_service.core.texts.values import plain, quantity

WIDE = 100_000
"""Columns without a terminal, so that nothing is cut or wrapped in a pipe."""
ASIDE = 0.5
"""The fraction of the terminal's width that may precede a last column that the terminal itself wraps."""
NOTHING = "-"


class Shows(Protocol):
    """What a command of execctl was asked, and where it says what it has found; each adds what it looks into."""

    @property
    def console(self) -> Console: ...

    @property
    def options(self) -> argparse.Namespace: ...

    @property
    def wants_json(self) -> bool: ...


_STYLES: Mapping[str, str] = {
    "FILLED": "green",
    "REJECTED": "red",
    "IN_DOUBT": "bold red",
    "CANCELLED": "yellow",
    "EXPIRED": "yellow",
    "up": "green",
    "DOWN": "bold red",
    "look": "bold yellow",
    "waiting": "yellow",
    "idle": "dim",
    "off": "dim",
}


def new_console(*, to_stderr: bool = False) -> Console:
    """Prints every text literally: no markup, so that no order's text can add colours or fake output."""
    is_terminal = (sys.stderr if to_stderr else sys.stdout).isatty()
    return Console(
        stderr=to_stderr,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if is_terminal else WIDE,
        soft_wrap=True,
    )


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    prose: Collection[str] = (),
    dispensable: Sequence[str] = (),
) -> None:
    """One table. Cells that are amounts, times or None are written as by `cell`.

    Ids are never wrapped. On a terminal that is too narrow, columns of sentences (`prose`) are wrapped between words,
    then `dispensable` columns are left out, in the given order; if that is not enough, rows become lines, which the
    terminal may wrap.
    """
    words = [[cell(value) for value in row] for row in rows]
    kept = _kept(columns, words, prose, dispensable, console.width)
    if kept is not None:
        console.print(_table(console, title, columns, words, prose, kept), soft_wrap=False)
    elif columns[-1] in prose and _needed(columns, words, (), range(len(columns) - 1)) <= console.width * ASIDE:
        _print_lines(console, title, words)
    else:
        _print_cards(console, title, columns, words)


def _kept(
    columns: Sequence[str],
    words: Sequence[Sequence[str]],
    prose: Collection[str],
    dispensable: Sequence[str],
    width: int,
) -> list[int] | None:
    """The indices of the columns for which there is room. None: there is none for those that must be shown."""
    for count in range(len(dispensable) + 1):
        kept = [n for n, column in enumerate(columns) if column not in dispensable[:count]]
        if _needed(columns, words, prose, kept) <= width:
            return kept
    return None


def _needed(columns: Sequence[str], words: Sequence[Sequence[str]], prose: Collection[str], kept: Sequence[int]) -> int:
    """The width needed for these columns, including the table's lines."""
    return 1 + sum(3 + _least_width(columns, words, prose, n) for n in kept)


def _least_width(columns: Sequence[str], words: Sequence[Sequence[str]], prose: Collection[str], n: int) -> int:
    texts = [columns[n], *(row[n] for row in words)]
    pieces = [piece for text in texts for piece in text.split()] if columns[n] in prose else texts
    return max(map(cell_len, pieces), default=0)


def _table(
    console: Console,
    title: str,
    columns: Sequence[str],
    words: Sequence[Sequence[str]],
    prose: Collection[str],
    kept: Sequence[int],
) -> Table:
    table = Table(title=Text(title), title_justify="left", box=ROUNDED if console.is_terminal else ASCII)
    for n in kept:
        is_prose = columns[n] in prose
        table.add_column(columns[n], no_wrap=not is_prose, min_width=_least_width(columns, words, prose, n))
    for row in words:
        table.add_row(*(_styled(row[n]) for n in kept))
    return table


def _print_lines(console: Console, title: str, words: Sequence[Sequence[str]]) -> None:
    """One line per row, with the last column unwrapped and the others below each other."""
    console.print(title)
    widths = [max(map(cell_len, column)) for column in zip(*words, strict=True)][:-1]
    for row in words:
        line = Text()
        for word, width in zip(row, widths, strict=False):
            line.append_text(_styled(word)).append(" " * (width - cell_len(word) + 2))
        console.print(line.append(row[-1]))


def _print_cards(console: Console, title: str, columns: Sequence[str], words: Sequence[Sequence[str]]) -> None:
    """Several lines per row: the first column's value, then each other value after its column's name, unwrapped."""
    console.print(title)
    for row in words:
        line = _styled(row[0])
        is_first = True
        for column, word in list(zip(columns, row, strict=True))[1:]:
            if word == NOTHING:
                continue
            piece = Text.assemble((f"{column} " if column else "", "dim"), _styled(word))
            if is_first or line.cell_len + 3 + piece.cell_len > console.width:
                console.print(line)
                line, is_first = Text("  "), False
            else:
                line.append("   ")
            line.append_text(piece)
        console.print(line)


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 order`, `2 orders`; `things` for an irregular plural."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def cell(value: object) -> str:
    """A value for people: amounts without trailing zeros, times in UTC, None as a dash."""
    match value:
        case None | "":
            return NOTHING
        case datetime():
            return table_time(value)
        case Decimal():
            return quantity(value)
    return plain(str(value))


def shown_time(moment: datetime) -> str:
    """2024-11-24 10:30:10.125Z, in UTC whatever the machine's time zone."""
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00") + "Z"


def table_time(moment: datetime) -> str:
    """2024-11-24 10:30:10Z: whole seconds, for tables."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def print_json(body: object) -> None:
    """One JSON document on standard output: amounts as exact decimal text, times as ISO 8601 with Z."""
    print(json.dumps(body, indent=2, ensure_ascii=True, default=_json_value))


def _json_value(value: Any) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)
