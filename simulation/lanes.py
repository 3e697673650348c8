"""One instrument at work: its orders and bars in the matcher's lists, matched by bar or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from simulation.bars import History, Series
from simulation.impact import QuantityImpact, needs_impact
from simulation.matching import kernel
from simulation.matching.codes import ASKED, CANCELLED, MARKET, PATHS, WORKING
from simulation.matching.kernel import Bars, Fills, Impact, Money, Orders, Rules
from simulation.orders import OrderColumns
from simulation.settings import Settings


class Matcher(Protocol):
    """`kernel.match`, as it is or compiled."""

    def __call__(
        self,
        first: int,
        last: int,
        active: list[int],
        reached: list[int],
        keys: list[int],
        bars: Bars,
        orders: Orders,
        held: list[int],
        rules: Rules,
        fills: Fills,
        state: list[int],
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


def no_orders() -> Orders:
    columns: list[list[int]] = [[] for _ in Orders._fields]
    return Orders(*columns)


def no_fills(room: int = 0) -> Fills:
    return Fills(*([0] * room for _ in Fills._fields))


class InstrumentLane:
    """Orders may be added as time goes on, in the sequence of their arrival. Fills are in the sequence in which they happen."""

    def __init__(self, series: Series, settings: Settings, books: int) -> None:
        self.symbol = series.symbol
        self.series = series
        self.bars = series.bars()
        self.orders = no_orders()
        self.fills = no_fills()
        self.held = [0] * books
        self.state = kernel.fresh_state()
        self.rules = rules_of(settings)
        self.held_before: list[int] = []
        """As it was before the present bar began."""
        self.rows: list[int] = []
        """Which row of all orders each is."""
        self._active: list[int] = []
        self._reached: list[int] = []
        self._keys: list[int] = []
        self.impact = QuantityImpact(settings, self.bars, series.volume.tolist()) if needs_impact(settings) else None

    def add_all(self, columns: OrderColumns, rows: Sequence[int], history: History) -> None:
        """`rows` are those of this instrument, by arrival, then by row."""
        sessions: dict[int, int] = {}
        groups: dict[int, list[int]] = {}
        partner = list(range(len(rows)))
        for n, row in enumerate(rows):
            at = columns.arrival[row]
            if at not in sessions:
                sessions[at] = history.session_from(at)
            if columns.group[row] >= 0:
                groups.setdefault(columns.group[row], []).append(n)
        for members in groups.values():
            for n, each in enumerate(members):
                partner[each] = members[(n + 1) % len(members)]
        self.orders = Orders(
            side=[columns.side[row] for row in rows],
            kind=[columns.kind[row] for row in rows],
            limit=[columns.limit[row] for row in rows],
            stop=[columns.stop[row] for row in rows],
            tif=[columns.tif[row] for row in rows],
            arrival=[columns.arrival[row] for row in rows],
            session=[sessions[columns.arrival[row]] for row in rows],
            left=[columns.quantity[row] for row in rows],
            status=[0] * len(rows),
            reason=[0] * len(rows),
            partner=partner,
            reduce_only=[columns.reduce_only[row] for row in rows],
            book=[columns.strategy[row] for row in rows],
            seen=[-1] * len(rows),
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
    ) -> int:
        """An order that comes later than all before it; returns its number in the lane."""
        n = len(self.orders.side)
        values = (side, kind, limit, 0, tif, arrival, session, quantity, 0, 0, n, reduce_only, book, -1)
        columns: Sequence[Any] = self.orders
        for column, value in zip(columns, values, strict=True):
            column.append(value)
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
            scratch.extend([0] * (orders - len(scratch)))

    def _make_room_for_fills(self, more: int) -> None:
        for column in self.fills:
            column.extend([0] * more)

    def match_all(self, matcher: Matcher, last_session: int) -> None:
        """All bars at once, by `kernel.match` or its compiled form."""
        first, last = 0, len(self.bars.open)
        total = len(self.orders.side)
        while True:
            self._make_room_for_fills(total + 64)
            first = matcher(
                first, last, self._active, self._reached, self._keys, self.bars, self.orders, self.held, self.rules,
                self.fills, self.state, None, self.impact,
            )  # fmt: skip
            if first >= last:
                break
        kernel.expire(last_session, self.orders, self.state)
