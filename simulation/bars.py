"""Historical bars, checked and in whole numbers: what is read is trusted from here on; what breaks a rule is refused, naming file, row and rule."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from hashlib import sha256
from itertools import groupby, repeat
from operator import le, lt, sub
from pathlib import Path

from simulation.blocks import Block, Texts, csv_texts, repeated, texts_of
from simulation.matching.kernel import Bars
from simulation.problems import Collected
from simulation.settings import Settings
from simulation.units import DAY, Kept, Whole, exact, parsed_time, truth

COLUMNS = ("symbol", "time", "open", "high", "low", "close", "volume")
Column = Callable[[Iterable[int]], MutableSequence[int]]
"""Makes a column of whole numbers: `list`, or arrays for the compiled matcher."""
LARGEST = 2**53
"""Prices in ticks and volumes in lots stay below, so that no figure in the matcher overflows."""


@dataclass(slots=True)
class Series:
    """One instrument's bars as they were read, in time."""

    symbol: str
    open_time: array[int] = field(default_factory=lambda: array("q"))
    open: array[int] = field(default_factory=lambda: array("q"))
    high: array[int] = field(default_factory=lambda: array("q"))
    low: array[int] = field(default_factory=lambda: array("q"))
    close: array[int] = field(default_factory=lambda: array("q"))
    volume: array[int] = field(default_factory=lambda: array("q"))
    """In lots, rounded down."""
    pool: array[int] = field(default_factory=lambda: array("q"))
    trading: array[int] = field(default_factory=lambda: array("b"))
    split_up: dict[int, int] = field(default_factory=dict)
    split_down: dict[int, int] = field(default_factory=dict)
    dividend: dict[int, Decimal] = field(default_factory=dict)

    def columns(self) -> tuple[array[int], ...]:
        """What each bar has, in the sequence of the fields above."""
        return (self.open_time, self.open, self.high, self.low, self.close, self.volume, self.pool, self.trading)

    def bars(self, column: Column = list) -> Bars:
        """In the columns that the matcher has: plain Python reads lists fastest, one by one."""
        count = len(self.open)
        up, down = column(repeat(0, count)), column(repeat(0, count))
        for k, number in self.split_up.items():
            up[k], down[k] = number, self.split_down[k]
        return Bars(
            open_time=column(self.open_time),
            open=column(self.open),
            high=column(self.high),
            low=column(self.low),
            close=column(self.close),
            pool=column(self.pool),
            trading=column(self.trading),
            session=column(at // DAY for at in self.open_time),
            split_up=up,
            split_down=down,
        )


@dataclass(frozen=True, slots=True)
class History:
    """All bars of a simulation, by symbol, and the times at which any of them opens."""

    series: Mapping[str, Series]
    open_times: array[int]
    """Of all instruments, each once, rising."""
    count: int
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    sessions: Mapping[int, int] = field(init=False, repr=False, compare=False)
    """By time, as `session_from`; each worked out once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sessions", Kept(self.session_from))

    def session_from(self, arrival: int) -> int:
        """The session of the first bar of any instrument that opens at `arrival` or later; -1: there is none."""
        n = bisect_left(self.open_times, arrival)
        return self.open_times[n] // DAY if n < len(self.open_times) else -1

    @property
    def last_session(self) -> int:
        return self.open_times[-1] // DAY if self.open_times else -1


class BarReader:
    """Collects rows of any source; `history` checks what only all rows together show."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._price = Whole(settings.tick)
        self._shift = settings.interval if settings.stamp == "close" else 0
        rate = Fraction(settings.participation) / Fraction(settings.lot)
        self._rate = (rate.numerator, rate.denominator)
        self._lot = settings.lot.as_integer_ratio()
        self._series: dict[str, Series] = {}
        self._times = Kept(parsed_time)
        self.problems = Collected()

    def csv(self, path: Path) -> None:
        """Rows that cannot be read are noted, and left out. Raises OSError."""
        with csv_texts(path, self.problems) as texts:
            self._take_texts(texts, path.name)

    def rows(self, rows: Iterable[Sequence[str]], where: str) -> None:
        """Texts, a header first. Rows that cannot be read are noted, and left out."""
        self._take_texts(texts_of(rows, where, self.problems), where)

    def _take_texts(self, texts: Texts, where: str) -> None:
        header = texts.header
        missing = [name for name in COLUMNS if name not in header]
        twice = [name for name in repeated(header) if name in (*COLUMNS, "halted")]
        if missing or twice:
            words = f"missing: {', '.join(missing) or 'none'}; twice: {', '.join(twice) or 'none'}"
            self.problems.add(where, 1, "COLUMNS", words)
            return
        places = [header.index(name) for name in COLUMNS]
        halted = header.index("halted") if "halted" in header else -1
        for block in texts.blocks:
            columns = block.columns
            if columns is None or not self._take_columns([columns[n] for n in (*places, halted) if n >= 0]):
                self._take_rows(block, len(header), places, halted, where)

    def _take_columns(self, columns: Sequence[Sequence[str]]) -> bool:
        """Whether the block's rows could be taken whole, as `_take` would have taken each. False: nothing was taken."""
        symbols, times, *prices, volumes = columns[: len(COLUMNS)]
        try:
            at = list(map(self._times.__getitem__, times))
            o, h, low, c = map(self._price.all_of, prices)
            halted = [truth(text) for text in columns[-1]] if len(columns) > len(COLUMNS) else None
        except ValueError:
            return False
        if (
            "" in symbols
            or not are_sound(o, h, low, c)
            or not all(map(str.isdigit, volumes))
            or not "".join(volumes).isascii()
        ):
            return False
        if self._shift:
            at = [each - self._shift for each in at]
        lots, pools = self._all_lots(list(map(int, volumes)))
        if max(lots) >= LARGEST:
            return False
        rows: dict[str, list[int]] = {}
        first = 0
        for symbol, run in groupby(symbols):
            last = first + len(list(run))
            rows.setdefault(symbol, []).extend(range(first, last))
            first = last
        trading = [int(number > 0) for number in lots]
        if halted is not None:
            trading = [0 if is_halted else number for is_halted, number in zip(halted, trading, strict=True)]
        parts = {
            symbol: [_picked(column, picked) for column in (at, o, h, low, c, lots, pools, trading)]
            for symbol, picked in rows.items()
        }
        if not all(self._follow(symbol, part[0]) for symbol, part in parts.items()):
            return False
        for symbol, part in parts.items():
            series = self._series.get(symbol)
            if series is None:
                series = self._series[symbol] = Series(symbol)
            for column, values in zip(series.columns(), part, strict=True):
                column.extend(values)
        return True

    def _follow(self, symbol: str, opens: Sequence[int]) -> bool:
        """Whether each of these bars begins when the one before it is over."""
        series = self._series.get(symbol)
        all_opens = [*series.open_time[-1:], *opens] if series is not None else opens
        interval = self._settings.interval
        if interval < DAY:
            return min(map(sub, all_opens[1:], all_opens), default=interval) >= interval
        days = [at // DAY for at in all_opens]
        return all(map(lt, days, days[1:]))

    def _all_lots(self, volumes: list[int]) -> tuple[list[int], list[int]]:
        up, down = self._rate
        over, under = self._lot
        lots = volumes if over == under else [volume * under // over for volume in volumes]
        return lots, [volume * up // down for volume in volumes]

    def _take_rows(self, block: Block, width: int, places: Sequence[int], halted: int, where: str) -> None:
        for row, line in enumerate(block.rows, block.first):
            if not line:
                continue
            if len(line) != width:
                self.problems.add(where, row, "COLUMNS", f"{len(line)} fields instead of {width}")
                continue
            self._take([line[n] for n in places], "" if halted < 0 else line[halted], where, row)

    def _take(self, values: list[str], halted: str, where: str, row: int) -> None:
        symbol, time, *prices, volume = values
        if not symbol:
            self.problems.add(where, row, "SYMBOL", "is empty")
            return
        try:
            at = self._times[time]
        except ValueError as exc:
            self.problems.add(where, row, "TIME", f"{time!r}: {exc}")
            return
        try:
            o, h, low, c = map(self._price.of, prices)
        except ValueError:
            self._name_bad_price(prices, where, row)
            return
        amounts = self._volume(volume, where, row)
        if amounts is None:
            return
        try:
            is_halted = truth(halted)
        except ValueError as exc:
            self.problems.add(where, row, "HALTED", f"{halted!r} {exc}")
            return
        self.add(symbol, at, (o, h, low, c), amounts, is_halted, where, row)

    def _name_bad_price(self, prices: Sequence[str], where: str, row: int) -> None:
        for name, text in zip(COLUMNS[2:6], prices, strict=True):
            try:
                self._price.of(text)
            except ValueError as exc:
                rule = "TICK" if "multiple" in str(exc) else "NUMBER"
                self.problems.add(where, row, rule, f"{name} {text!r} {exc}")

    def _volume(self, text: str, where: str, row: int) -> tuple[int, int] | None:
        if text.isascii() and text.isdigit():
            return self._lots(int(text), 1)
        try:
            amount = exact(text)
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount < 0:
            self.problems.add(where, row, "VOLUME", f"{text!r} is no amount that can be traded")
            return None
        return self.lots_of(amount)

    def lots_of(self, volume: Decimal) -> tuple[int, int]:
        """The volume in lots, and how many of them the simulation may have."""
        return self._lots(*volume.as_integer_ratio())

    def _lots(self, over: int, under: int) -> tuple[int, int]:
        up, down = self._rate
        lot_over, lot_under = self._lot
        return over * lot_under // (under * lot_over), over * up // (under * down)

    def add(
        self,
        symbol: str,
        at: int,
        prices: tuple[int, int, int, int],
        amounts: tuple[int, int],
        is_halted: bool,
        where: str,
        row: int,
    ) -> None:
        """One row in whole numbers; `at` is its stamp in microseconds."""
        o, h, low, c = prices
        if low <= 0:
            self.problems.add(where, row, "NEGATIVE", "prices must be more than 0")
            return
        if not low <= o <= h or not low <= c <= h:
            self.problems.add(where, row, "CROSSED", "open and close must lie between low and high")
            return
        if h >= LARGEST or amounts[0] >= LARGEST:
            self.problems.add(where, row, "NUMBER", "is too large for this tick and lot")
            return
        series = self._series.get(symbol)
        if series is None:
            series = self._series[symbol] = Series(symbol)
        opens = at - self._shift
        if series.open_time and opens <= series.open_time[-1]:
            if opens == series.open_time[-1]:
                self.problems.add(where, row, "DUPLICATE", f"{symbol} has a bar of this time already")
            else:
                self.problems.add(where, row, "SEQUENCE", f"{symbol}: the time is before that of the row before it")
            return
        if series.open_time and self._overlaps(series.open_time[-1], opens):
            why = "begins before the bar before it ends: two conventions, or another interval than stated"
            self.problems.add(where, row, "OVERLAP", f"{symbol}: it {why}")
            return
        values = (opens, o, h, low, c, *amounts, 0 if is_halted or not amounts[0] else 1)
        for column, value in zip(series.columns(), values, strict=True):
            column.append(value)

    @property
    def rate(self) -> tuple[int, int]:
        """The part of a volume that the simulation may have, in lots: a fraction."""
        return self._rate

    @property
    def shift(self) -> int:
        """How long before its stamp a bar opens, in microseconds."""
        return self._shift

    def has(self, symbol: str) -> bool:
        return symbol in self._series

    def add_checked(self, series: Series) -> None:
        """All bars of an instrument that has none yet, by somebody who has checked what `add` checks."""
        self._series[series.symbol] = series

    def _overlaps(self, before: int, opens: int) -> bool:
        interval = self._settings.interval
        # A day is shorter by an hour when the clocks go forward: two daily bars are told apart by their dates.
        return opens - before < interval if interval < DAY else opens // DAY == before // DAY

    def history(self, files: Mapping[str, str] | None = None) -> History:
        """Raises InputRefused."""
        self.problems.raise_if_any()
        if not self._series:
            self.problems.add("bars", 0, "EMPTY", "there are no bars")
        self.problems.raise_if_any()
        times: set[int] = set()
        for series in self._series.values():
            times.update(series.open_time)
        count = sum(len(series.open) for series in self._series.values())
        ordered = {symbol: self._series[symbol] for symbol in sorted(self._series)}
        return History(ordered, array("q", sorted(times)), count, files or {})


def are_sound(o: Sequence[int], high: Sequence[int], low: Sequence[int], c: Sequence[int]) -> bool:
    """Whether no bar's prices are negative, crossed or too large."""
    return (
        min(low) > 0
        and max(high) < LARGEST
        and all(map(le, low, o))
        and all(map(le, o, high))
        and all(map(le, low, c))
        and all(map(le, c, high))
    )


def _picked(column: Sequence[int], rows: Sequence[int]) -> Sequence[int]:
    """Those rows of a column, which rise."""
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows):
        return column[first : last + 1]
    return list(map(column.__getitem__, rows))


def files_of(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """The file itself, or all of a folder with these endings, by name."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in endings and file.is_file())
    return [path]


def digest(path: Path) -> str:
    hashed = sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            hashed.update(block)
    return hashed.hexdigest()


def digests(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        yield path.name, digest(path)
