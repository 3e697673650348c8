"""Large tables written as CSV by numba, where no field needs quotation marks; loaded by name, and only after a run by numba.

Each value that a column has is made a text once, by who makes it a text in plain Python too; the lines are put together of these texts as bytes.
A table is written whole or not at all: what needs quotation marks, and codes beyond 64 bits, are left to `files`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy

from simulation.compiled import compiled
from simulation.files import needs_quotes
from simulation.tables import TIME, Coded, Columns, Filled, Same, Table, Value
from simulation.units import written_time

_AT_ONCE = 1 << 16
"""Lines."""
_COMMA, _LINE = map(ord, ",\n")


@compiled
def _join_cells(texts: Any, begins: Any, characters: Any, lines: Any) -> None:
    """`texts` has a row a column: the number of each line's text, which is what `characters` has from its `begins` to the next."""
    width, count = texts.shape
    at = 0
    for row in range(count):
        for column in range(width):
            text = texts[column, row]
            for n in range(begins[text], begins[text + 1]):
                lines[at] = characters[n]
                at += 1
            lines[at] = _COMMA
            at += 1
        lines[at - 1] = _LINE


def write_csv(table: Table, rows: Columns, path: Path) -> bool:
    """False: nothing was written, and `files` has to. Raises OSError."""
    texts, numbers = _Texts(), []
    for (_, kind), column in zip(table.columns, rows.columns, strict=True):
        found = texts.numbers_of(column, kind)
        if found is None:
            return False
        numbers.append(found)
    characters, begins = texts.characters, texts.begins
    count = len(numbers[0])
    with path.open("wb") as file:
        file.write((",".join(table.header) + "\n").encode())
        for first in range(0, count, _AT_ONCE):
            size = min(_AT_ONCE, count - first)
            block = numpy.empty((len(numbers), size), dtype=numpy.int64)
            for n, mine in enumerate(numbers):
                block[n] = mine[first : first + size] if len(mine) == count else mine[0]
            lines = numpy.empty(int((begins[block + 1] - begins[block]).sum()) + block.size, dtype=numpy.uint8)
            _join_cells(block, begins, characters, lines)
            file.write(lines.data)
    return True


class _Texts:
    """The texts of a table, numbered over all columns."""

    def __init__(self) -> None:
        self._characters: list[bytes] = []
        self._lengths: list[Any] = []
        self._count = 0

    @property
    def characters(self) -> Any:
        return numpy.frombuffer(b"".join(self._characters), dtype=numpy.uint8)

    @property
    def begins(self) -> Any:
        """Where each text begins in `characters`, and the end."""
        return numpy.concatenate(([0], *self._lengths)).cumsum()

    def numbers_of(self, column: Filled, kind: str) -> Any:
        """The number of each row's text, or a single one where that is the same in all; None: something has to be written another way."""
        first = self._count
        if isinstance(column, Coded):
            codes = _codes_of(column)
            if codes is None:
                return None
            used, numbers = _numbered(codes)
            values: Iterable[Value] = used.tolist() if column.value is None else map(column.value, used.tolist())
        else:
            values, numbers = [column.value] if isinstance(column, Same) else column, None
        is_added = self._add(values, kind)
        if numbers is None:
            numbers = numpy.arange(self._count - first)
        return numbers + first if is_added else None

    def _add(self, values: Iterable[Any], kind: str) -> bool:
        """False: one of them needs quotation marks, and none was added."""
        written: list[Any] = list(map(written_time, values)) if kind is TIME else [value or "" for value in values]
        joined = "".join(written)
        if needs_quotes(joined):
            return False
        lengths = map(len, written) if joined.isascii() else map(len, map(str.encode, written))
        self._characters.append(joined.encode())
        self._lengths.append(numpy.fromiter(lengths, dtype=numpy.int64, count=len(written)))
        self._count += len(written)
        return True


def _codes_of(column: Coded) -> Any:
    """None: they have no room in 64 bits."""
    try:
        codes = numpy.asarray(column.codes, dtype=numpy.int64)
    except OverflowError:
        return None
    return codes if column.by is None else numpy.asarray(column.by, dtype=numpy.int64)[codes]


def _numbered(codes: Any) -> tuple[Any, Any]:
    """The different codes, rising, and of each row which of them it has."""
    if not len(codes):
        return codes, codes
    low, high = int(codes.min()), int(codes.max())
    if high - low > 4 * len(codes) + 1_000:
        used, numbers = numpy.unique(codes, return_inverse=True)
        return used, numbers
    places = codes - low
    is_used = numpy.zeros(high - low + 1, dtype=numpy.bool_)
    is_used[places] = True
    return is_used.nonzero()[0] + low, (is_used.cumsum() - 1)[places]
