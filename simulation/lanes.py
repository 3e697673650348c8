"""One instrument at work: its orders and bars in the matcher's lists, matched by bar or all at once."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from itertools import repeat
from typing import Any, Protocol

from simulation.bars import Column, History, Series
from simulation.impact import QuantityImpact, needs_impact
from simulation.matching import kernel
from simulation.matching.codes import ASKED, CANCELLED, MARKET, NONE, PATHS, WORKING
from simulation.matching.kernel import Bars, Fills, Impact, Money, Orders, Rules
from simulation.orders import OrderColumns
from simulation.settings import Settings


class Matcher(Protocol):
    """`kernel.match`, as it is or compiled."""

    def __call__(
        self,
        first: int,
        last: int,
        active: MutableSequence[int],
        reached: MutableSequence[int],
        keys: MutableSequence[int],
        bars: Bars,
        orders: Orders,
        held: MutableSequence[int],
        rules: Rules,
        fills: Fills,
        state: MutableSequence[int],
        money: None,
        impact: Impact | None,
    ) -> int: ...


def rules_of(settings: Settings) -> Rules:
    """Parts of the price are added exactly. Ticks are whole ones where these rules count: else `impact.py` adds everything up."""
    ticks = sum((each.ticks for each in settings.slippage), start=0 * settings.tick)
    part = sum((each.bps for each in settings.slippage), start=0 * settings.tick) / 10_000
    up, down = part.as_integer_ratio()
    return Rules(
        touch=1 if settings.limit_fill == "touch" else 0,
        path=PATHS[settings.path],
        slip_ticks=int(ticks),
        slip_up=up,
        slip_down=down,
    )


def rings(groups: Sequence[int]) -> Sequence[int]:
    """For each order the next one of its group, the last one's being the first; its own number where it has none."""
    partner = list(range(len(groups)))
    members: dict[int, list[int]] = {}
    if any(group >= 0 for group in groups):
        for n, group in enumerate(groups):
            if group >= 0:
                members.setdefault(group, []).append(n)
    for ring in members.values():
        for n, each in enumerate(ring):
            partner[each] = ring[(n + 1) % len(ring)]
    return partner


class InstrumentLane:
    """Orders may be added as time goes on, in the sequence of their arrival. Fills are in the sequence in which they happen."""

    def __init__(self, series: Series, settings: Settings, books: int, column: Column = list) -> None:
        """`column` makes what the matcher reads and writes: of `list`s it is fastest as it is, and compiled it needs arrays."""
        self.symbol = series.symbol
        self.series = series
        self.bars = series.bars(column)
        self.orders = Orders(*(column(()) for _ in Orders._fields))
        self.fills = Fills(*(column(()) for _ in Fills._fields))
        self.held = column(repeat(0, books))
        self.state = column(kernel.fresh_state())
        self.rules = rules_of(settings)
        self.held_before: Sequence[int] = ()
        """As it was before the present bar began."""
        self.rows: list[int] = []
        """Which row of all orders each is."""
        self._active, self._reached, self._keys = column(()), column(()), column(())
        self._column = column
        self.impact = QuantityImpact(settings, self.bars, series.volume.tolist()) if needs_impact(settings) else None

    def add_all(self, columns: OrderColumns, rows: Sequence[int], history: History) -> None:
        """`rows` are those of this instrument, by arrival, then by row."""
        column, count = self._column, len(rows)

        def mine(values: Sequence[int]) -> MutableSequence[int]:
            return column(map(values.__getitem__, rows))

        arrival = mine(columns.arrival)
        self.orders = Orders(
            side=mine(columns.side),
            kind=mine(columns.kind),
            limit=mine(columns.limit),
            stop=mine(columns.stop),
            tif=mine(columns.tif),
            arrival=arrival,
            session=column(map(history.sessions.__getitem__, arrival)),
            left=mine(columns.quantity),
            status=column(repeat(WORKING, count)),
            reason=column(repeat(NONE, count)),
            partner=column(rings(mine(columns.group))),
            reduce_only=mine(columns.reduce_only),
            book=mine(columns.strategy),
            seen=column(repeat(-1, count)),
        )
        self.rows = list(rows)
        self._make_room(len(rows))

    def add(
        self,
        *,
        side: int,
        quantity: int,
        arrival: int,
        session: int,
        book: int,
        row: int,
        tif: int,
        reduce_only: int,
        kind: int = MARKET,
        limit: int = 0,
        stop: int = 0,
        partner: int | None = None,
    ) -> int:
        """An order that comes later than all before it; returns its number in the lane. `partner`: an order of the group that it joins."""
        n = len(self.orders.side)
        values = (side, kind, limit, stop, tif, arrival, session, quantity, 0, 0, n, reduce_only, book, -1)
        columns: Sequence[Any] = self.orders
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        if partner is not None:
            ring: Any = self.orders.partner
            ring[n], ring[partner] = ring[partner], n
        self.rows.append(row)
        self._make_room(n + 1)
        return n

    def cancel(self, n: int) -> None:
        """A working order ends by being asked to."""
        if self.orders.status[n] == WORKING:
            kernel.end(n, CANCELLED, ASKED, self.orders)

    def begin(self, k: int) -> bool:
        """The bar's beginning; False: nothing can happen in it."""
        self._make_room_for_fills(max(0, self.state[kernel.FILLS] + len(self.orders.side) - len(self.fills.order)))
        self.held_before = list(self.held)
        return kernel.begin_bar(k, self._active, self.bars, self.orders, self.held, self.state)

    def at_work(self) -> list[int]:
        """The orders that the present bar may fill, by arrival."""
        return [i for i in self._active[: self.state[kernel.ACTIVE]] if self.orders.status[i] == WORKING]

    def reduces(self, n: int) -> bool:
        return self.orders.side[n] * sum(self.held) < 0

    def open(self, n: int, k: int, money: Money | None) -> None:
        """What the open decides of one order."""
        if self.orders.status[n] == WORKING:
            kernel.at_open(
                n, k, self.bars, self.orders, self.held, self.rules, self.fills, self.state, money, self.impact
            )

    def close(self, k: int, money: Money | None) -> None:
        """The inside of the bar, and its end."""
        reached = [i for i in self.at_work() if kernel.is_due_at(i, k, self.bars, self.orders, self.rules)]
        if reached:
            self._reached[: len(reached)] = reached
            kernel.inside(
                len(reached), k, self._reached, self._keys, self.bars, self.orders, self.held, self.rules, self.fills,
                self.state, money, self.impact,
            )  # fmt: skip
        kernel.end_bar(self._active, self.orders, self.state)

    def _make_room(self, orders: int) -> None:
        for scratch in (self._active, self._reached, self._keys):
            scratch.extend(repeat(0, orders - len(scratch)))

    def _make_room_for_fills(self, more: int) -> None:
        for column in self.fills:
            column.extend(repeat(0, more))

    def match_all(self, matcher: Matcher, last_session: int) -> None:
        """All bars at once, by `kernel.match` or its compiled form."""
        first, last = 0, len(self.bars.open)
        total = len(self.orders.side)
        while True:
            self._make_room_for_fills(2 * total + 64)
            first = matcher(
                first, last, self._active, self._reached, self._keys, self.bars, self.orders, self.held, self.rules,
                self.fills, self.state, None, self.impact,
            )  # fmt: skip
            if first >= last:
                break
        kernel.expire(last_session, self.orders, self.state)
