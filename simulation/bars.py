"""Historical bars, checked and in whole numbers: what is read is trusted from here on; what breaks a rule is refused, naming file, row and rule."""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

from simulation.matching.kernel import Bars
from simulation.problems import Collected
from simulation.settings import Settings
from simulation.units import DAY, Whole, parsed_time

COLUMNS = ("symbol", "time", "open", "high", "low", "close", "volume")
LARGEST = 2**53
"""Prices in ticks and volumes in lots stay below, so that no figure in the matcher overflows."""


@dataclass(slots=True)
class Series:
    """One instrument's bars as they were read, in time."""

    symbol: str
    where: list[str] = field(default_factory=list)
    """The file of each row, where there are several; else the one."""
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

    def bars(self) -> Bars:
        """As lists: those are read fastest one by one."""
        count = len(self.open)
        up, down = [0] * count, [0] * count
        for k, number in self.split_up.items():
            up[k], down[k] = number, self.split_down[k]
        return Bars(
            open_time=self.open_time.tolist(),
            open=self.open.tolist(),
            high=self.high.tolist(),
            low=self.low.tolist(),
            close=self.close.tolist(),
            pool=self.pool.tolist(),
            trading=self.trading.tolist(),
            session=[at // DAY for at in self.open_time],
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
        self._times: dict[str, int] = {}
        self.problems = Collected()

    def csv(self, path: Path) -> None:
        with path.open(newline="", encoding="utf-8") as file:
            self.rows(csv.reader(file), path.name)

    def rows(self, rows: Iterable[Sequence[str]], where: str) -> None:
        """Texts, a header first. Rows that cannot be read are noted, and left out."""
        lines = iter(rows)
        header = [name.strip().lower() for name in next(lines, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            self.problems.add(where, 1, "COLUMNS", f"missing: {', '.join(missing)}")
            return
        places = [header.index(name) for name in COLUMNS]
        halted = header.index("halted") if "halted" in header else -1
        try:
            for row, line in enumerate(lines, 2):
                if not line:
                    continue
                if len(line) != len(header):
                    self.problems.add(where, row, "COLUMNS", f"{len(line)} fields instead of {len(header)}")
                    continue
                self._take([line[n] for n in places], "" if halted < 0 else line[halted], where, row)
        except (csv.Error, UnicodeDecodeError) as exc:
            self.problems.add(where, 0, "FORMAT", str(exc))

    def _take(self, values: list[str], halted: str, where: str, row: int) -> None:
        symbol, time, *prices, volume = values
        if not symbol:
            self.problems.add(where, row, "SYMBOL", "is empty")
            return
        at = self._times.get(time)
        if at is None:
            try:
                at = self._times[time] = parsed_time(time)
            except ValueError as exc:
                self.problems.add(where, row, "TIME", f"{time!r}: {exc}")
                return
        price = self._price
        try:
            o, h, low, c = map(price.of, prices)
        except ValueError:
            self._name_bad_price(prices, where, row)
            return
        amounts = self._volume(volume, where, row)
        if amounts is None:
            return
        is_halted = halted.strip().lower()
        if is_halted not in ("", "0", "1", "true", "false"):
            self.problems.add(where, row, "HALTED", f"{halted!r} is none of 0, 1, true, false")
            return
        self.add(symbol, at, (o, h, low, c), amounts, is_halted in ("1", "true"), where, row)

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
            amount = Decimal(text)
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
            series = self._series[symbol] = Series(symbol, [where])
        elif series.where[-1] != where:
            series.where.append(where)
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
        series.open_time.append(opens)
        series.open.append(o)
        series.high.append(h)
        series.low.append(low)
        series.close.append(c)
        series.volume.append(amounts[0])
        series.pool.append(amounts[1])
        series.trading.append(0 if is_halted or not amounts[0] else 1)

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
