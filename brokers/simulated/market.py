"""A market of the past at work: orders in, one bar after the other, fills and ends out. The same orders at the same places give the same, always.

It has no memory but what it was told: whoever keeps its inputs (placed, cancelled, moved on) in their sequence can have it again as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from simulation.bars import History
from simulation.books import Account, action_pays
from simulation.fees import CENT, Fees
from simulation.lanes import InstrumentLane
from simulation.matching import kernel
from simulation.matching.codes import (
    AT_GAP,
    AT_OPEN,
    FILL_REASONS,
    GTC,
    REASONS,
    STATUSES,
    WORKING,
)
from simulation.run import Together
from simulation.settings import Settings
from simulation.slices import latest_volumes
from simulation.units import microseconds, moment

BOOK = 0
"""An account has one position in each instrument, whatever strategies it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An order as the matcher takes it: ticks, lots and codes of `simulation.matching`, the time in microseconds."""

    number: int
    """Who has placed it knows it by that."""
    symbol: str
    side: int
    kind: int
    limit: int
    stop: int
    tif: int
    lots: int
    arrival: int
    linked: int | None = None
    """The number of an earlier order: what one of them fills is taken off the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketFill:
    number: int
    """Of the order."""
    quantity: Decimal
    price: Decimal
    commission: Decimal
    time: datetime
    """The bar's opening for what its open decides, its closing for the rest."""
    market_volume: Decimal
    """What the bar has traded in all, in whole lots."""
    reason: str
    """Why it has its price, as in the results of a batch run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketEnd:
    """An order works no more."""

    number: int
    status: str
    """FILLED, CANCELLED or EXPIRED."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporateAction:
    """What a split or a dividend did to a holding. `quantity` is what came to it (negative: left), `cash` what was paid."""

    symbol: str
    quantity: Decimal
    cash: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one move of the clock has brought."""

    opened_at: datetime
    fills: Sequence[MarketFill]
    ends: Sequence[MarketEnd]
    actions: Sequence[CorporateAction]


@dataclass(slots=True)
class _Charged:
    """What an order has filled so far, and what was charged for it."""

    lots: int = 0
    amount: int = 0
    cents: int = 0


class HistoricalMarket:
    """All instruments of the bars, and one account's orders in them."""

    def __init__(self, history: History, settings: Settings, start: datetime | None = None) -> None:
        """`start`: bars that open before it are only known, and not traded in. Raises ValueError where none is left."""
        self.history, self.settings = history, settings
        self._account = Account(settings, {})
        lanes = [InstrumentLane(series, settings, books=1) for series in history.series.values()]
        self._lane_of = {lane.symbol: n for n, lane in enumerate(lanes)}
        self._market = Together(lanes, history, settings, self._account)
        self._fees = Fees(settings)
        self._places: dict[int, tuple[int, int]] = {}
        """By order number: its lane, and its place there."""
        self._working: dict[int, tuple[int, int]] = {}
        """Those of them that still work."""
        self._charged: dict[int, _Charged] = {}
        self._next = 0
        """Which of all opening times comes next."""
        if start is not None:
            self._next = sum(1 for at in history.open_times if at < microseconds(start))
            if self._next == len(history.open_times):
                raise ValueError(f"no bar opens at {start.isoformat()} or later")
            for n, lane in enumerate(lanes):
                skipped = sum(1 for at in lane.bars.open_time if at < history.open_times[self._next])
                self._market.bar_of[n] = skipped - 1

    @property
    def has_bars(self) -> bool:
        """Whether the clock can move on."""
        return self._next < len(self.history.open_times)

    @property
    def now(self) -> int:
        """The market's time: when the bars that are over have closed, or the next ones open, if that is before."""
        times = self.history.open_times
        opens = times[self._next] if self.has_bars else None
        if not self._next:
            return times[0]
        closed = times[self._next - 1] + self.settings.interval
        return closed if opens is None else min(closed, opens)

    @property
    def time(self) -> datetime:
        return moment(self.now)

    @property
    def next_opening(self) -> datetime | None:
        """When the next bars open; None: there are none left."""
        return moment(self.history.open_times[self._next]) if self.has_bars else None

    @property
    def last_opening(self) -> datetime:
        """Of the last bars."""
        return moment(self.history.open_times[-1])

    @property
    def arrival(self) -> int:
        """When an order that is sent now arrives."""
        return self.now + int(self.settings.latency_seconds * 1_000_000)

    def last_price(self, symbol: str) -> Decimal | None:
        """The close of its latest bar that is over and in which there was trading; None: there is none."""
        at = self._lane_of[symbol]
        lane, k = self._market.lanes[at], self._market.bar_of[at]
        while k >= 0 and not lane.bars.trading[k]:
            k -= 1
        return self.settings.tick * lane.bars.close[k] if k >= 0 else None

    def usual_volume(self, symbol: str) -> Decimal | None:
        """The mean of its latest bars that traded and are over, in whole lots each; None: there is none."""
        at = self._lane_of[symbol]
        volumes = latest_volumes(self._market.lanes[at].series, self._market.bar_of[at])
        return self.settings.lot * sum(volumes) / len(volumes) if volumes else None

    def marks(self) -> Mapping[str, Decimal]:
        """By symbol, the close of its latest bar that is over, traded or not: what a holding counts at."""
        lanes = zip(self._market.lanes, self._market.bar_of, strict=True)
        return {lane.symbol: self.settings.tick * lane.bars.close[k] for lane, k in lanes if k >= 0}

    @property
    def passing(self) -> Sequence[int]:
        """Those of them that time ends, if nothing else: they are not good until cancelled."""
        lanes = self._market.lanes
        return tuple(n for n, (at, place) in self._working.items() if lanes[at].orders.tif[place] != GTC)

    @property
    def working(self) -> Sequence[int]:
        """The numbers of all orders that work."""
        return tuple(self._working)

    def place(self, order: Placed) -> None:
        """Orders come in the sequence of their arrival."""
        at = self._lane_of[order.symbol]
        lane = self._market.lanes[at]
        linked = None if order.linked is None else self._places[order.linked]
        place = lane.add(
            side=order.side,
            quantity=order.lots,
            arrival=order.arrival,
            session=self.history.session_from(order.arrival),
            book=BOOK,
            row=order.number,
            tif=order.tif,
            reduce_only=0,
            kind=order.kind,
            limit=order.limit,
            stop=order.stop,
            partner=None if linked is None or linked[0] != at else linked[1],
        )
        self._places[order.number] = self._working[order.number] = (at, place)

    def cancel(self, number: int) -> None:
        """It fills no more."""
        at, place = self._places[number]
        self._market.lanes[at].cancel(place)
        self._working.pop(number, None)

    def move_on(self) -> Turn:
        """All bars of the next opening time. There has to be one."""
        at = self.history.open_times[self._next]
        lanes = self._market.lanes
        filled = [lane.state[kernel.FILLS] for lane in lanes]
        before = list(self._market.bar_of)
        self._next += 1
        self._market.step(at)
        if not self.has_bars:
            self._market.end()
        actions = [each for n in range(len(lanes)) if self._market.bar_of[n] != before[n] for each in self._acted(n)]
        fills = [fill for lane, first in zip(lanes, filled, strict=True) for fill in self._filled(lane, first)]
        return Turn(opened_at=moment(at), fills=fills, ends=self._ended(), actions=actions)

    def _acted(self, n: int) -> Iterator[CorporateAction]:
        lane, k = self._market.lanes[n], self._market.bar_of[n]
        series = lane.series
        if not (k in series.split_up or k in series.dividend):
            return
        (held,) = lane.held_before
        quantity = 0
        if k in series.split_up:
            size = abs(held) * series.split_up[k] // series.split_down[k]
            quantity = (size if held > 0 else -size) - held
        cash = self._account.unit * sum(action_pays(lane, k, held, self._account))
        if quantity or cash:
            yield CorporateAction(symbol=lane.symbol, quantity=self.settings.lot * quantity, cash=cash)

    def _filled(self, lane: InstrumentLane, first: int) -> Iterator[MarketFill]:
        fills, orders, settings = lane.fills, lane.orders, self.settings
        for n in range(first, lane.state[kernel.FILLS]):
            place, code = fills.order[n], fills.reason[n]
            charged = self._charged.setdefault(lane.rows[place], _Charged())
            charged.lots += fills.quantity[n]
            charged.amount += fills.quantity[n] * fills.price[n]
            total = self._fees.total(orders.side[place], charged.lots, charged.amount)
            fee, charged.cents = total - charged.cents, total
            opened = lane.bars.open_time[fills.bar[n]]
            yield MarketFill(
                number=lane.rows[place],
                quantity=settings.lot * fills.quantity[n],
                price=settings.tick * fills.price[n],
                commission=CENT * fee,
                time=moment(opened + (0 if code & 7 in (AT_OPEN, AT_GAP) else settings.interval)),
                market_volume=settings.lot * lane.series.volume[fills.bar[n]],
                reason=FILL_REASONS[code],
            )

    def _ended(self) -> Sequence[MarketEnd]:
        ends = []
        for number, (at, place) in self._working.items():
            orders = self._market.lanes[at].orders
            if orders.status[place] != WORKING:
                reason = REASONS[orders.reason[place]]
                ends.append(MarketEnd(number=number, status=STATUSES[orders.status[place]], reason=reason))
        for end in ends:
            del self._working[end.number]
        return ends
