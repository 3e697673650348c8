"""CSV files of bars and orders read by numba, where nothing in them is out of the common; loaded by name, and only for large files.

A file is taken whole or not at all: what is written in another way than by far most files are, and what breaks a rule, is left to `bars` and
`orders`, which know every way to write a figure, and name what is wrong. So what a file means is theirs to say; here it is only said sooner.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy

from simulation.bars import COLUMNS as BAR_COLUMNS
from simulation.bars import LARGEST, BarReader, History, Series
from simulation.compiled import array_of, compiled
from simulation.matching.codes import DAY as FOR_THE_DAY
from simulation.matching.codes import KINDS, TIFS
from simulation.orders import COLUMNS as ORDER_COLUMNS
from simulation.orders import LIMITED, MORE, SIDES, STOPPED, OrderColumns, OrderReader
from simulation.settings import Settings
from simulation.units import DAY

UNCOMMON = -(2**62)
"""In the place of a figure: it is written in another way, or none."""
DIGITS = 18
"""So many at most has a figure, the decimals that are not written among them."""
IGNORED, NAME, TIME, PRICE, COUNT, FLAG, WORD, TEXT, EMPTY = range(9)
"""What a column holds. A `COUNT` has no decimals; a `WORD` is one of a few, a `NAME` one of many, a `TEXT` another in each row; in an `EMPTY` one
nothing may stand."""
SLOTS = 1 << 20
"""For names: half as many may be told apart."""
_ASCII = 128
_COMMA, _QUOTE, _LINE, _RETURN, _POINT, _ZERO, _NINE = map(ord, ',"\n\r.09')


@compiled
def _parsed(
    data: Any, at: int, kinds: Any, places: Any, words: Any, figures: Any, ends: Any, slots: Any, names: Any
) -> tuple[int, int]:
    """Every line from `at` on; `figures` has a row a column. Returns how many lines there are, and how many names; or `UNCOMMON`.

    `kinds` and `places` (decimals at most) are by column, `words` too: each a length and its letters. Of a `TEXT` the figure is where it begins,
    and `ends` has where it ends; of a `NAME` it is the name's number, and `names` has where each begins and ends. `slots` are empty: -1.
    """
    size = len(data)
    width = len(kinds)
    row = 0
    known = 0
    while at < size:
        for column in range(width):
            begin = at
            while at < size and data[at] != _COMMA and data[at] != _LINE:
                if data[at] == _QUOTE or data[at] == _RETURN or data[at] >= _ASCII:
                    return UNCOMMON, 0
                at += 1
            if (at < size and data[at] == _COMMA) != (column < width - 1):
                return UNCOMMON, 0
            kind = kinds[column]
            figure = 0
            if kind == NAME:
                if row:
                    # Most often that of the line before.
                    figure = figures[column, row - 1]
                if not row or not _is_same(data, begin, at, names[figure, 0], names[figure, 1]):
                    figure, known = _named(data, begin, at, slots, names, known)
            elif kind == TIME:
                figure = _time(data, begin, at)
            elif kind in (PRICE, COUNT):
                figure = _decimal(data, begin, at, places[column])
            elif kind == FLAG:
                figure = 0 if at == begin else _digits(data, begin, at)
                if at - begin > 1 or not 0 <= figure <= 1:
                    return UNCOMMON, 0
            elif kind == WORD:
                figure = _word(data, begin, at, words[column])
            elif kind == TEXT:
                figure = begin
                ends[row] = at
            elif kind == EMPTY and at > begin:
                return UNCOMMON, 0
            if figure == UNCOMMON:
                return UNCOMMON, 0
            figures[column, row] = figure
            at += 1
        row += 1
    return row, known


@compiled
def _is_same(data: Any, begin: int, end: int, other: int, other_end: int) -> bool:
    if end - begin != other_end - other:
        return False
    n = 0
    while n < end - begin and data[begin + n] == data[other + n]:
        n += 1
    return n == end - begin


@compiled
def _named(data: Any, begin: int, end: int, slots: Any, names: Any, known: int) -> tuple[int, int]:
    """The name's number, a new one if it was not there, and how many there are then."""
    slot = 5381
    for n in range(begin, end):
        slot = (slot * 33 + data[n]) & 0xFFFFFFFF
    while True:
        slot &= SLOTS - 1
        number = slots[slot]
        if number < 0:
            break
        if _is_same(data, begin, end, names[number, 0], names[number, 1]):
            return number, known
        slot += 1
    if known == len(names):
        return UNCOMMON, known
    slots[slot] = known
    names[known, 0] = begin
    names[known, 1] = end
    return known, known + 1


@compiled
def _digits(data: Any, begin: int, end: int) -> int:
    """-1: there is something else, or nothing."""
    figure = 0
    for n in range(begin, end):
        if not _ZERO <= data[n] <= _NINE:
            return -1
        figure = figure * 10 + data[n] - _ZERO
    return figure if end > begin else -1


@compiled
def _decimal(data: Any, begin: int, end: int, places: int) -> int:
    """In units of the last of `places` decimals; -1: nothing stands there."""
    if begin == end:
        return -1
    point = begin
    while point < end and data[point] != _POINT:
        point += 1
    if point - begin + places > DIGITS or end - point == 1 or end - point - 1 > places:
        return UNCOMMON
    figure = _digits(data, begin, point)
    if figure < 0:
        return UNCOMMON
    for n in range(places):
        figure *= 10
        if point + 1 + n < end:
            if not _ZERO <= data[point + 1 + n] <= _NINE:
                return UNCOMMON
            figure += data[point + 1 + n] - _ZERO
    return figure


@compiled
def _time(data: Any, begin: int, end: int) -> int:
    """In microseconds, of `2024-01-31T09:30:00Z` and `2024-01-31`."""
    size = end - begin
    if (size != 10 and size != 20) or data[begin + 4] != 45 or data[begin + 7] != 45:
        return UNCOMMON
    year = _digits(data, begin, begin + 4)
    month = _digits(data, begin + 5, begin + 7)
    day = _digits(data, begin + 8, begin + 10)
    if year < 1 or not 1 <= month <= 12 or day < 1:
        return UNCOMMON
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    most = 30 if month in (4, 6, 9, 11) else 31
    if month == 2:
        most = 29 if is_leap else 28
    if day > most:
        return UNCOMMON
    # Days since 1970, of years that begin in March.
    from_march = year - 1 if month <= 2 else year
    days = from_march * 365 + from_march // 4 - from_march // 100 + from_march // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719_468
    seconds = 0
    if size == 20:
        if data[begin + 10] != 84 or data[begin + 13] != 58 or data[begin + 16] != 58 or data[begin + 19] != 90:
            return UNCOMMON
        hour = _digits(data, begin + 11, begin + 13)
        minute = _digits(data, begin + 14, begin + 16)
        second = _digits(data, begin + 17, begin + 19)
        if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
            return UNCOMMON
        seconds = hour * 3600 + minute * 60 + second
    return days * DAY + seconds * 1_000_000


@compiled
def _word(data: Any, begin: int, end: int, words: Any) -> int:
    """Which one of them it is."""
    for number in range(len(words)):
        if words[number, 0] == end - begin:
            n = 0
            while n < end - begin and data[begin + n] == words[number, 1 + n]:
                n += 1
            if n == end - begin:
                return number
    return UNCOMMON


class _Table:
    """A file's rows as figures, a column at a time."""

    def __init__(
        self,
        path: Path,
        kinds: Mapping[str, int],
        places: Mapping[str, int],
        words: Mapping[str, Sequence[str]],
    ) -> None:
        """Columns that `kinds` does not have are ignored. Raises OSError."""
        self.count = 0
        """Rows; 0: there are none, or something is out of the common."""
        with path.open("rb") as file:
            first = file.readline()
        self._data: Any = numpy.fromfile(path, dtype=numpy.uint8)
        self.header = [name.strip() for name in first.decode("ascii", "replace").lower().split(",")]
        if not first.endswith(b"\n") or b'"' in first or len(set(self.header)) < len(self.header):
            return
        rows = int((self._data[len(first) :] == _LINE).sum()) + 1
        self._figures: Any = numpy.empty((len(self.header), rows), dtype=numpy.int64)
        self._ends: Any = numpy.empty(rows, dtype=numpy.int64)
        self._names: Any = numpy.empty((SLOTS // 2, 2), dtype=numpy.int64)
        count, self._known = _parsed(
            self._data, len(first), numpy.array([kinds.get(name, IGNORED) for name in self.header]),
            numpy.array([places.get(name, 0) for name in self.header]), _words_as_bytes([words.get(name, ()) for name in self.header]),
            self._figures, self._ends, numpy.full(SLOTS, -1, dtype=numpy.int64), self._names,
        )  # fmt: skip
        self.count = max(0, count)

    def figures(self, name: str) -> Any:
        """Of a column; 0 in each row where it is not there."""
        if name not in self.header:
            return numpy.zeros(self.count, dtype=numpy.int64)
        return self._figures[self.header.index(name), : self.count]

    def names(self) -> list[str]:
        """By number, as they come in the file."""
        begins_and_ends = self._names[: self._known].tolist()
        return [self._data[begin:end].tobytes().decode("ascii") for begin, end in begins_and_ends]

    def texts(self, name: str) -> list[str]:
        """Of a `TEXT` column."""
        whole = self._data.tobytes().decode("ascii")
        ends = self._ends[: self.count].tolist()
        return [whole[begin:end] for begin, end in zip(self.figures(name).tolist(), ends, strict=True)]


def _words_as_bytes(words: Sequence[Sequence[str]]) -> Any:
    """By column and word: how many letters it has, then the letters."""
    longest = max((len(word) for each in words for word in each), default=0)
    made = numpy.full((len(words), max(map(len, words)), 1 + longest), -1, dtype=numpy.int64)
    for n, each in enumerate(words):
        for m, word in enumerate(each):
            made[n, m, : 1 + len(word)] = [len(word), *word.encode("ascii")]
    return made


class _Steps:
    """Decimals as whole numbers of a step."""

    def __init__(self, step: Decimal) -> None:
        exponent = step.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        self.places = max(0, -exponent)
        self._size = int(step.scaleb(self.places))

    def of(self, figures: Any) -> Any:
        """Of a column in units of the last decimal; None where one is no multiple of the step."""
        if self._size == 1:
            return figures
        return None if (figures % self._size).any() else figures // self._size


_BARS = {"symbol": NAME, "time": TIME, "volume": COUNT, "halted": FLAG, **dict.fromkeys(BAR_COLUMNS[2:6], PRICE)}


def read_bars(path: Path, reader: BarReader, settings: Settings) -> bool:
    """False: nothing was taken, and `BarReader.csv` has to read the file. Raises OSError."""
    ticks = _Steps(settings.tick)
    table = _Table(path, _BARS, dict.fromkeys(BAR_COLUMNS[2:6], ticks.places), {})
    if not table.count or any(name not in table.header for name in BAR_COLUMNS):
        return False
    symbol, opens, volume = table.figures("symbol"), table.figures("time") - reader.shift, table.figures("volume")
    prices = [ticks.of(table.figures(name)) for name in BAR_COLUMNS[2:6]]
    names = table.names()
    if any(column is None for column in prices) or not all(names) or any(map(reader.has, names)):
        return False
    o, high, low, c = prices
    are_sound = low.min() > 0 and high.max() < LARGEST and volume.min() >= 0
    if not are_sound or not ((low <= o) & (o <= high) & (low <= c) & (c <= high)).all():
        return False
    up, down = reader.rate
    over, under = settings.lot.as_integer_ratio()
    if int(volume.max()) * max(up, under) >= -UNCOMMON:
        return False
    lots, pool = volume * under // over, volume * up // down
    if lots.max() >= LARGEST:
        return False
    trading = (lots > 0) & (table.figures("halted") == 0)
    columns = [opens, o, high, low, c, lots, pool, trading]
    if (symbol[1:] < symbol[:-1]).any():
        sequence = numpy.argsort(symbol, kind="stable")
        symbol, columns = symbol[sequence], [column[sequence] for column in columns]
    opens = columns[0]
    behind = opens // DAY if settings.interval >= DAY else opens
    least = 1 if settings.interval >= DAY else settings.interval
    if ((behind[1:] - behind[:-1] < least) & (symbol[1:] == symbol[:-1])).any():
        return False
    firsts = numpy.searchsorted(symbol, numpy.arange(len(names) + 1)).tolist()
    for name, first, last in zip(names, firsts, firsts[1:], strict=False):
        *figures, traded = (column[first:last] for column in columns)
        series = Series(name, trading=array("b", traded.astype(numpy.int8).tobytes()))
        for column, mine in zip(series.columns(), figures, strict=False):
            column.frombytes(mine.astype(numpy.int64).tobytes())
        reader.add_checked(series)
    return True


_ORDERS = {
    "order_id": TEXT, "time": TIME, "symbol": NAME, "side": WORD, "quantity": PRICE, "order_type": WORD, "limit_price": PRICE,
    "stop_price": PRICE, "tif": WORD, "strategy_id": NAME, "oco": EMPTY, "reduce_only": FLAG,
}  # fmt: skip
_LIFETIMES = {"": FOR_THE_DAY, **TIFS}


def read_orders(path: Path, reader: OrderReader, history: History, settings: Settings) -> bool:
    """False: nothing was taken, and `OrderReader.csv` has to read the file. Raises OSError."""
    ticks, steps = _Steps(settings.tick), _Steps(settings.lot)
    places = {"limit_price": ticks.places, "stop_price": ticks.places, "quantity": steps.places}
    words = {"side": tuple(SIDES), "order_type": tuple(KINDS), "tif": tuple(_LIFETIMES)}
    table = _Table(path, _ORDERS, places, words)
    has_all = all(name in table.header for name in ORDER_COLUMNS)
    if not table.count or not has_all or any(name not in (*ORDER_COLUMNS, *MORE) for name in table.header):
        return False
    names = table.names()
    numbers = {symbol: n for n, symbol in enumerate(history.series)}
    symbol = numpy.array([numbers.get(name, -1) for name in names], dtype=numpy.int64)[table.figures("symbol")]
    side, kind, tif = (
        numpy.array(list(codes.values()), dtype=numpy.int64)[table.figures(name)]
        for name, codes in (("side", SIDES), ("order_type", KINDS), ("tif", _LIFETIMES))
    )
    quantity = steps.of(table.figures("quantity"))
    limit, stop = (
        ticks.of(numpy.where(numpy.isin(kind, priced), table.figures(name), 0))
        for name, priced in (("limit_price", LIMITED), ("stop_price", STOPPED))
    )
    if symbol.min() < 0 or quantity is None or limit is None or stop is None:
        return False
    for figures, kinds in ((quantity, tuple(KINDS.values())), (limit, LIMITED), (stop, STOPPED)):
        if not ((figures > 0) & (figures < LARGEST) | ~numpy.isin(kind, kinds)).all():
            return False
    strategies, strategy = [""], numpy.zeros(table.count, dtype=numpy.int64)
    if "strategy_id" in table.header:
        used, first, strategy = numpy.unique(table.figures("strategy_id"), return_index=True, return_inverse=True)
        in_sequence = numpy.argsort(first)
        strategies = [names[used[n]] for n in in_sequence.tolist()]
        strategy = numpy.argsort(in_sequence)[strategy]
    latency = int(settings.latency_seconds * 1_000_000)
    return reader.add_checked(
        OrderColumns(
            symbols=list(history.series),
            strategies=strategies,
            order_id=table.texts("order_id"),
            arrival=array_of(table.figures("time") + latency),
            symbol=array_of(symbol),
            side=array_of(side),
            quantity=array_of(quantity),
            kind=array_of(kind),
            limit=array_of(limit),
            stop=array_of(stop),
            tif=array_of(tif),
            strategy=array_of(strategy),
            group=array("q", [-1]) * table.count,
            reduce_only=array_of(table.figures("reduce_only")),
        )
    )
