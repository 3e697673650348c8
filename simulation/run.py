"""The batch lane: orders, bars and models to trades, positions, cash and equity; a library that knows no service.

Without a check of buying power instruments do not touch each other, and are matched one after the other; with one they are, bar by bar.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

from execution_service.core.planning.progress import Progress
from execution_service.core.planning.targets import TargetPositions
from simulation.bars import Column, History
from simulation.books import Account, Trades
from simulation.impact import needs_impact
from simulation.lanes import InstrumentLane, Matcher
from simulation.matching import kernel
from simulation.orders import OrderColumns
from simulation.purse import LanePurse, Purse
from simulation.settings import Settings
from simulation.units import Whole

WORTH_COMPILING = 100_000
"""Orders, from which on the compiled matcher saves more time than it takes to be loaded."""
LARGEST_PRODUCT = 2**60
"""Price x quantity, and price x slippage, stay below where compiled: larger figures are matched as they are, in plain Python."""


@dataclass(slots=True)
class Result:
    """All that came of a run. Columns are as in `Trades` and `OrderColumns`; `left`, `status` and `reason` by row of the orders."""

    settings: Settings
    orders: OrderColumns
    trades: Trades
    account: Account
    left: array[int]
    status: array[int]
    reason: array[int]
    close_times: array[int]
    """When each bar of any instrument closes, rising; as `Account.equity` has its rows."""
    matched_by: str
    """`plain` or `numba`."""
    contexts: Sequence[tuple[str | None, ...]] = ()
    """By row of the orders: profile version, regime, universe, decision and plan. Empty: the orders have none."""
    plans: Sequence[Progress] = ()
    """How each plan of targets has ended, or stands at the end."""
    refused: Sequence[tuple[TargetPositions, str]] = ()
    """Lists of targets that were not planned, and why."""

    def filled(self) -> tuple[list[int], list[int]]:
        """Lots that filled and what they came to, in ticks times lots, by row of the orders."""
        lots, amounts = [0] * len(self.orders), [0] * len(self.orders)
        for row, quantity, price in zip(self.trades.order, self.trades.quantity, self.trades.price, strict=True):
            lots[row] += quantity
            amounts[row] += quantity * price
        return lots, amounts


def trade_id(order_id: str, number: int) -> str:
    """The same for the same order and fill, whatever else is simulated."""
    return "trade_" + sha256(f"{order_id}|{number}".encode()).hexdigest()[:24]


def matcher_for(
    settings: Settings, history: History, orders: OrderColumns, wanted: str = "auto"
) -> tuple[Matcher, str]:
    """`wanted`: `plain`, `numba` or `auto`: numba for many orders, where it is installed and its whole numbers are large enough."""
    can = not needs_impact(settings) and find_spec("numba") is not None
    if can and (wanted == "numba" or (wanted == "auto" and len(orders) >= WORTH_COMPILING)):
        compiled = import_module("simulation.matching.compiled")
        if _fits(settings, history, orders, compiled.largest):
            return compiled.match, "numba"
    if wanted == "numba":
        raise ValueError("numba is not installed, or cannot hold these figures or models")
    return kernel.match, "plain"


def _fits(
    settings: Settings, history: History, orders: OrderColumns, largest: Callable[[Iterable[array[int]]], int]
) -> bool:
    """Whether no figure of the matcher is too large for 64 bits. `largest` gives the largest of all in some columns."""
    series = history.series.values()
    price = largest((orders.limit, orders.stop, *(each.high for each in series)))
    lots = largest((orders.quantity, *(each.volume for each in series))) * max(1, len(orders))
    lots *= max((prod(each.split_up.values()) for each in series), default=1)
    up, down = sum((each.bps for each in settings.slippage), start=Decimal(0)).as_integer_ratio()
    return price * max(up, down, 1) * 10_000 < LARGEST_PRODUCT and lots < LARGEST_PRODUCT


Told = Callable[[int], Any]


def simulate_orders(
    orders: OrderColumns, history: History, settings: Settings, *, engine: str = "auto", told: Told | None = None
) -> Result:
    """Every order against its instrument's bars. `told` is called with the number of bars done, now and then.

    With `cash` the instruments share an account, and are matched bar by bar in plain Python; without, one after the other.
    """
    account = Account(settings, {at: n for n, at in enumerate(history.open_times)})
    finished = Collected(orders, history, settings, account)
    matcher, name = matcher_for(settings, history, orders, engine)
    if settings.cash is not None:
        rows = _rows_of_each(orders)
        lanes = [_lane(orders, mine, history, n, settings) for n, mine in enumerate(rows)]
        together = Together(lanes, history, settings, account)
        together.run(told)
        for symbol, lane in enumerate(lanes):
            finished.take(symbol, lane)
        return finished.result("plain")
    quick: Any = None
    column: Column = list
    if name == "numba":
        quick = import_module("simulation.compiled").CompiledRun(orders, history, settings, account, finished.ends)
        column = partial(array, "q")
    rows = quick if quick is not None else _rows_of_each(orders)
    done = 0
    for symbol, series in enumerate(history.series.values()):
        mine = [] if quick is not None and quick.take(symbol, series) else rows[symbol]
        if mine:
            lane = _lane(orders, mine, history, symbol, settings, column)
            lane.match_all(matcher, history.last_session)
            finished.take(symbol, lane)
        done += len(series.open)
        if told is not None:
            told(done)
    return finished.result(name, None if quick is None else quick.end(finished.trades))


def _rows_of_each(orders: OrderColumns) -> list[list[int]]:
    """By instrument, its orders by arrival."""
    rows: list[list[int]] = [[] for _ in orders.symbols]
    for row, symbol in enumerate(orders.symbol):
        rows[symbol].append(row)
    for mine in rows:
        mine.sort(key=orders.arrival.__getitem__)
    return rows


def _lane(
    orders: OrderColumns, rows: Sequence[int], history: History, symbol: int, settings: Settings, column: Column = list
) -> InstrumentLane:
    lane = InstrumentLane(history.series[orders.symbols[symbol]], settings, len(orders.strategies), column)
    lane.add_all(orders, rows, history)
    return lane


class Together:
    """Instruments that share one account, bar by bar: opens first, by arrival, where money bounds fills reductions before the rest; then the
    insides."""

    def __init__(self, lanes: Sequence[InstrumentLane], history: History, settings: Settings, account: Account) -> None:
        self.lanes = lanes
        self.purse = Purse(settings, account)
        self.purses = [self.purse.of(lane) for lane in lanes]
        self.bar_of = [-1] * len(lanes)
        """The bar that each instrument had last."""
        self._monies: Sequence[LanePurse | None] = [None] * len(lanes) if settings.cash is None else self.purses
        """What bounds fills; None: nothing does."""
        self._has_money = settings.cash is not None
        self._history = history

    def run(self, told: Told | None = None) -> None:
        """Through all bars."""
        done = 0
        for at in self._history.open_times:
            done += self.step(at)
            if told is not None:
                told(done)
        self.end()

    def step(self, at: int) -> int:
        """All bars that open at `at`; returns how many."""
        here = []
        for n, lane in enumerate(self.lanes):
            k = self.bar_of[n] + 1
            if k < len(lane.bars.open_time) and lane.bars.open_time[k] == at:
                self.bar_of[n] = k
                here.append((n, lane, k))
        looked = []
        waiting = []
        for n, lane, k in here:
            can_fill = lane.begin(k)
            if k in lane.series.split_up or k in lane.series.dividend:
                self.purses[n].acted(k)
            self.purses[n].marked(lane.bars.open[k])
            if can_fill:
                looked.append((n, lane, k))
                waiting += [
                    (self._has_money and not lane.reduces(i), lane.orders.arrival[i], lane.rows[i], n, i, k)
                    for i in lane.at_work()
                ]
        for _, _, _, n, i, k in sorted(waiting):
            self.lanes[n].open(i, k, self._monies[n])
        for n, lane, k in looked:
            lane.close(k, self._monies[n])
        for n, lane, k in here:
            self.purses[n].marked(lane.bars.close[k])
        return len(here)

    def end(self) -> None:
        for lane in self.lanes:
            kernel.expire(self._history.last_session, lane.orders, lane.state)


class Collected:
    """What came of each instrument, put together."""

    def __init__(self, orders: OrderColumns, history: History, settings: Settings, account: Account) -> None:
        self._orders, self._history, self._settings, self._account = orders, history, settings, account
        self.trades = Trades()
        self._left = array("q", orders.quantity)
        self._status = array("b", bytes(len(orders)))
        self._reason = array("b", bytes(len(orders)))

    @property
    def ends(self) -> tuple[array[int], array[int], array[int]]:
        """By row, what is left of each order, its status and its reason."""
        return self._left, self._status, self._reason

    def take(self, symbol: int, lane: InstrumentLane) -> None:
        self._account.book(lane, symbol, self.trades)
        mine = lane.orders
        for row, left, status, reason in zip(lane.rows, mine.left, mine.status, mine.reason, strict=True):
            self._left[row] = left
            self._status[row] = status
            self._reason[row] = reason

    def result(self, matched_by: str, trades: Trades | None = None, **more: Any) -> Result:
        """`trades`: all of them in their sequence, where that was made already. `more`: what else a result has."""
        assert self._account.imbalance() == 0, "the postings do not add up to zero"
        return Result(
            settings=self._settings,
            orders=self._orders,
            trades=self.trades.sorted_by_time() if trades is None else trades,
            account=self._account,
            left=self._left,
            status=self._status,
            reason=self._reason,
            close_times=array("q", (at + self._settings.interval for at in self._history.open_times)),
            matched_by=matched_by,
            **more,
        )


def steps_of(settings: Settings) -> tuple[Whole, Whole]:
    """Prices and quantities between decimals and whole numbers."""
    return Whole(settings.tick), Whole(settings.lot)
