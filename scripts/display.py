"""Tables and lines for people, plain where the output is no terminal; knows nothing of what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.box import ASCII, ROUNDED
from rich.console import Console
from rich.table import Table
from rich.text import Text

from execution_service.core.alerts import plain

WIDE = 240
"""Columns where there is no terminal, so that nothing is cut in a pipe."""

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
}


def new_console(*, to_stderr: bool = False) -> Console:
    """Takes every text as it is: no markup, so that no order's words can paint or fake anything."""
    is_terminal = (sys.stderr if to_stderr else sys.stdout).isatty()
    return Console(
        stderr=to_stderr,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if is_terminal else WIDE,
        soft_wrap=True,
    )


def print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One table; cells that are amounts, times or None are written as `cell` does."""
    box = ROUNDED if console.is_terminal else ASCII
    table = Table(title=Text(title), title_justify="left", box=box)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        words = [cell(value) for value in row]
        table.add_row(*(Text(word, style=_STYLES.get(word, "")) for word in words))
    console.print(table, soft_wrap=False)


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 order`, `2 orders`; `things` for a plural that is not made with an s."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def cell(value: object) -> str:
    """A value as people read it: amounts exactly as stored, times in UTC, nothing as a dash."""
    match value:
        case None | "":
            return "-"
        case datetime():
            return shown_time(value)
        case Decimal():
            return format(value, "f")
    return plain(str(value))


def shown_time(moment: datetime) -> str:
    """2024-11-24 10:30:10.125Z, whatever the machine's time zone."""
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00") + "Z"


def print_json(body: object) -> None:
    """One JSON document on standard output: amounts as exact decimal text, times as ISO 8601 with Z."""
    print(json.dumps(body, indent=2, ensure_ascii=True, default=_json_value))


def _json_value(value: Any) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)
