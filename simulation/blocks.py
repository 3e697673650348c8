"""Rows of texts by the thousand: what is checked column by column is read several times as fast as row by row, and means the same."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from simulation.problems import Collected

ROWS_AT_ONCE = 2_000
CHARACTERS_AT_ONCE = 1 << 17
"""Of a file. What is read at once should still be in the processor's cache when it is looked at."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that follow each other."""

    first: int
    """The number of its first row, as `Problem.row` counts."""
    columns: list[Sequence[str]] | None
    """None: some row has more or fewer fields than the header."""
    rows: Iterable[Sequence[str]]
    """The same, row by row, which may be gone through once. An empty one is a line without anything."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A table as it was written. What its source cannot read is noted as a problem, and ends the blocks."""

    header: list[str]
    """In small letters. Empty: there is none, or it cannot be read."""
    blocks: Iterator[Block]
    """May be gone through once."""


def texts_of(rows: Iterable[Sequence[str]], where: str, problems: Collected) -> Texts:
    """Of rows, their header first."""
    source = _Rows(rows, where, problems, 1)
    header = [name.strip().lower() for line in source.some(1) for name in line]
    return Texts(header, source.blocks(len(header)))


@contextmanager
def csv_texts(path: Path, problems: Collected) -> Iterator[Texts]:
    """Of a CSV file, which is open as long as that lasts. Raises OSError."""
    with path.open(newline="", encoding="utf-8") as file:
        source = _CsvFile(path, file, problems)
        header = source.header()
        yield Texts(header, source.blocks(len(header)))


def repeated(header: Sequence[str]) -> list[str]:
    """Names that several columns have: it is not said which of them is meant."""
    return [name for name, count in Counter(header).items() if count > 1]


class _Rows:
    def __init__(self, rows: Iterable[Sequence[str]], where: str, problems: Collected, next_row: int) -> None:
        self._rows, self._where, self._problems = iter(rows), where, problems
        self._next_row = next_row

    def blocks(self, width: int) -> Iterator[Block]:
        while rows := self.some(ROWS_AT_ONCE):
            is_even = set(map(len, rows)) == {width}
            yield Block(self._next_row - len(rows), list(zip(*rows, strict=True)) if is_even else None, rows)

    def some(self, count: int) -> list[Sequence[str]]:
        rows: list[Sequence[str]] = []
        try:
            # What came before an error stays in the list.
            rows.extend(islice(self._rows, count))
        except csv.Error as exc:
            self._problems.add(self._where, self._next_row + len(rows), "FORMAT", str(exc))
            self._rows = iter(())
        self._next_row += len(rows)
        return rows


class _CsvFile:
    def __init__(self, path: Path, file: TextIO, problems: Collected) -> None:
        self._path, self._file, self._problems = path, file, problems

    def header(self) -> list[str]:
        try:
            line = self._file.readline()
        except UnicodeDecodeError as exc:
            self._not_text(exc)
            return []
        return texts_of(csv.reader([line]), self._path.name, self._problems).header

    def blocks(self, width: int) -> Iterator[Block]:
        try:
            yield from self._blocks(width)
        except UnicodeDecodeError as exc:
            self._not_text(exc)

    def _blocks(self, width: int) -> Iterator[Block]:
        """Commas are looked for in many lines at once, up to the first quotation mark: from there on it is the csv module's."""
        row, name = 2, self._path.name
        while text := self._file.read(CHARACTERS_AT_ONCE) + self._file.readline():
            lines = text.replace("\r\n", "\n")
            if '"' in lines or "\r" in lines:
                rest = csv.reader(chain(StringIO(text, newline=""), self._file))
                yield from _Rows(rest, name, self._problems, row).blocks(width)
                return
            if not lines.endswith("\n"):
                lines += "\n"
            count = lines.count("\n")
            # After each line's fields comes one that is its end: where all of these stand in their places, all lines are of one width.
            fields = lines.replace("\n", ",\n,").split(",")
            step = width + 1
            is_even = len(fields) == count * step + 1 and fields[width:-1:step].count("\n") == count
            columns: list[Sequence[str]] = [fields[n:-1:step] for n in range(width)]
            yield Block(row, columns if is_even else None, csv.reader(StringIO(lines, newline="")))
            row += count

    def _not_text(self, exc: UnicodeDecodeError) -> None:
        """Text is decoded ahead of what is read: the row is looked for."""
        with self._path.open("rb") as file:
            row = next((n for n, line in enumerate(file, 1) if not _is_text(line)), 0)
        self._problems.add(self._path.name, row, "FORMAT", str(exc))


def _is_text(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
