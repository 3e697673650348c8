"""Drawings for a page of HTML, as SVG in text: lines, areas and marks over time, bars by name. The same figures give the same text.

Colours are classes, which the page's style gives: it may be read in light or dark. Each drawing has a title and a description for who cannot see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from simulation.units import moment

WIDTH, HEIGHT = 920, 300
LEFT, RIGHT, TOP, BOTTOM = 84, 14, 12, 26
ROW = 34
"""Height of one bar with its name."""
NAMES = 190
"""Width for the names of bars."""
POINTS = 900
"""More than these are not drawn of a line: the least and the greatest of each stretch are."""
UP, DOWN = "up", "down"
_UNITS = ((1e9, " bn"), (1e6, " M"))
_YEAR, _MONTH, _DAY = 365 * 86_400_000_000, 28 * 86_400_000_000, 86_400_000_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A triangle at a point, up or down; `words` are shown by a browser where one points at it."""

    at: int
    value: float
    shape: str
    words: str


@dataclass(frozen=True, slots=True)
class Bar:
    """`value` is drawn from 0; `median` and `far` are ticks on a thin line."""

    name: str
    value: float
    median: float
    far: float
    words: str


class TimeChart:
    """Drawn over time (in microseconds) and one scale of values."""

    def __init__(self, name: str, title: str, description: str, times: tuple[int, int], values: tuple[float, float]):
        """`name` is unique on the page."""
        self._name, self._title, self._description = name, title, description
        self._begin, self._end = times[0], max(times[1], times[0] + 1)
        self._ticks = nice_ticks(*values)
        self._low, self._high = min(values[0], self._ticks[0]), max(values[1], self._ticks[-1])
        self._parts: list[str] = []

    def x(self, at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - self._begin) / (self._end - self._begin)

    def y(self, value: float) -> float:
        span = self._high - self._low or 1.0
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self._low) / span

    def line(self, points: Sequence[tuple[int, float]], kind: str) -> None:
        self._parts.append(f'<polyline class="{kind}" points="{self._path(points)}"/>')

    def area(self, points: Sequence[tuple[int, float]], base: float, kind: str) -> None:
        """Between the points and a value."""
        if points:
            first, last = f"{self.x(points[0][0]):.1f}", f"{self.x(points[-1][0]):.1f}"
            edge = f"{self.y(base):.1f}"
            path = f"{first},{edge} {self._path(points)} {last},{edge}"
            self._parts.append(f'<polygon class="{kind}" points="{path}"/>')

    def marks(self, marks: Iterable[Mark]) -> None:
        for mark in marks:
            x, y, way = self.x(mark.at), self.y(mark.value), 1 if mark.shape == UP else -1
            path = f"{x:.1f},{y:.1f} {x - 4:.1f},{y + 8 * way:.1f} {x + 4:.1f},{y + 8 * way:.1f}"
            self._parts.append(
                f'<polygon class="{mark.shape}" points="{path}"><title>{escape(mark.words)}</title></polygon>'
            )

    def _path(self, points: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in thinned(points))

    def svg(self) -> str:
        return _framed(self._name, self._title, self._description, HEIGHT, [*self._axes(), *self._parts])

    def _axes(self) -> Iterable[str]:
        for value in self._ticks:
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value, self._ticks)}</text>'
        for at, words in time_ticks(self._begin, self._end):
            x = self.x(at)
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            yield f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{words}</text>'


def bars(name: str, title: str, description: str, rows: Sequence[Bar]) -> str:
    """A bar a row, from 0 to its value; a tick where the median is, and a thin line to `far`."""
    figures = [0.0, *(figure for row in rows for figure in (row.value, row.median, row.far))]
    ticks = nice_ticks(min(figures), max(figures))
    low, high = min(*figures, ticks[0]), max(*figures, ticks[-1])
    height = TOP + ROW * len(rows) + BOTTOM

    def x(value: float) -> float:
        return NAMES + (WIDTH - NAMES - RIGHT - 20) * (value - low) / (high - low or 1.0)

    parts = []
    for value in ticks:
        kind = "zero" if value == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        parts.append(
            f'<text class="axis" x="{x(value):.1f}" y="{height - 8}" text-anchor="middle">{_number(value, ticks)}</text>'
        )
    for n, row in enumerate(rows):
        middle = TOP + ROW * n + ROW / 2
        begin, end = sorted((x(0.0), x(row.value)))
        kind = "cost" if row.value > 0 else "gain"
        parts.append(
            f'<text class="axis" x="{NAMES - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(row.name))}</text>'
            f"<g><title>{escape(row.words)}</title>"
            f'<rect class="{kind}" x="{begin:.1f}" y="{middle - 9:.1f}" width="{max(end - begin, 0.5):.1f}" height="18"/>'
            f'<line class="whisker" x1="{x(row.median):.1f}" x2="{x(row.far):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
            f'<line class="median" x1="{x(row.median):.1f}" x2="{x(row.median):.1f}" y1="{middle - 12:.1f}" y2="{middle + 12:.1f}"/>'
            f'<line class="whisker" x1="{x(row.far):.1f}" x2="{x(row.far):.1f}" y1="{middle - 6:.1f}" y2="{middle + 6:.1f}"/></g>'
        )
    return _framed(name, title, description, height, parts)


def _framed(name: str, title: str, description: str, height: int, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-title {name}-about">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-about">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Few enough to be drawn: of each stretch its least and its greatest, in their sequence, and both ends."""
    if len(points) <= POINTS:
        return points
    stretch = 2 * ceil(len(points) / POINTS)
    found = [points[0]]
    for begin in range(0, len(points), stretch):
        some = points[begin : begin + stretch]
        least, most = min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])
        found += sorted({least, most})
    return [*found, points[-1]]


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round figures within the two, or around them where there are too few; always two at least."""
    if high <= low:
        low, high = low - (abs(low) * 0.01 or 1.0), high + (abs(high) * 0.01 or 1.0)
    rough = (high - low) / about
    size = 10.0 ** floor(log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    if last - first < 1:
        first, last = floor(low / step), ceil(high / step)
    return [n * step + 0.0 for n in range(first, last + 1)]


def _number(value: float, ticks: Sequence[float]) -> str:
    """As many decimals as tell the ticks apart; large ones in millions or thousands of millions."""
    largest = max(abs(ticks[0]), abs(ticks[-1]))
    unit, word = next((each for each in _UNITS if largest >= 10 * each[0]), (1.0, ""))
    step = (ticks[1] - ticks[0]) / unit
    places = max(0, -floor(log10(step) + 1e-9))
    if places < 6 and abs(step * 10**places - round(step * 10**places)) > 1e-6:
        places += 1
    return f"{value / unit:,.{places}f}{word}"


def time_ticks(begin: int, end: int) -> list[tuple[int, str]]:
    """About eight moments with their words: beginnings of years, months or days, else times of day."""
    from_, until = moment(begin), moment(end)
    span = end - begin
    found = []
    if span >= 2 * _YEAR:
        every = max(1, ceil((until.year - from_.year) / 9))
        for year in range(from_.year, until.year + 1, every):
            found.append(
                (from_.replace(year=year, month=1, day=1, hour=0, minute=0, second=0, microsecond=0), str(year))
            )
    elif span >= 2 * _MONTH:
        months = range(from_.year * 12 + from_.month - 1, until.year * 12 + until.month)
        every = max(1, ceil(len(months) / 9))
        for number in months[::every]:
            at = from_.replace(
                year=number // 12, month=number % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0
            )
            found.append((at, f"{at:%Y-%m}"))
    else:
        ticks = 6
        form = "%m-%d" if span >= 3 * _DAY else "%m-%d %H:%M"
        for n in range(ticks + 1):
            at = moment(begin + span * n // ticks)
            found.append((at, f"{at:{form}}"))
    inside = [(int((at - from_).total_seconds() * 1_000_000) + begin, words) for at, words in found]
    return [(at, words) for at, words in inside if begin <= at <= end]
