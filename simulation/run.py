"""The batch lane: orders, bars and models to trades, positions, cash and equity; a library that knows no service.

Without a check of buying power instruments do not touch each other, and are matched one after the other.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from simulation.bars import History
from simulation.books import Account, Trades
from simulation.impact import needs_impact
from simulation.lanes import InstrumentLane, Matcher
from simulation.matching import kernel
from simulation.orders import OrderColumns
from simulation.settings import Settings
from simulation.units import Whole

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

    def averages(self) -> dict[int, tuple[int, Decimal]]:
        """Lots filled and their average price, by row of the orders, of those that filled."""
        lots: dict[int, int] = {}
        amounts: dict[int, int] = {}
        for row, quantity, price in zip(self.trades.order, self.trades.quantity, self.trades.price, strict=True):
            lots[row] = lots.get(row, 0) + quantity
            amounts[row] = amounts.get(row, 0) + quantity * price
        return {row: (lots[row], self.settings.tick * amounts[row] / lots[row]) for row in lots}


def trade_id(order_id: str, number: int) -> str:
    """The same for the same order and fill, whatever else is simulated."""
    return "trade_" + sha256(f"{order_id}|{number}".encode()).hexdigest()[:24]


def matcher_for(
    settings: Settings, history: History, orders: OrderColumns, wanted: str = "auto"
) -> tuple[Matcher, str]:
    """`wanted`: `plain`, `numba` or `auto`: numba where it is installed and its whole numbers are large enough."""
    largest = max((max(series.high, default=0) for series in history.series.values()), default=0)
    largest = max(largest, max(orders.limit, default=0), max(orders.stop, default=0))
    most = max((max(series.volume, default=0) for series in history.series.values()), default=0)
    most = max(most, max(orders.quantity, default=0)) * max(1, len(orders))
    up, down = sum((each.bps for each in settings.slippage), start=Decimal(0)).as_integer_ratio()
    fits = largest * max(up, down, 1) * 10_000 < LARGEST_PRODUCT and most < LARGEST_PRODUCT
    can = fits and not needs_impact(settings) and find_spec("numba") is not None
    if wanted == "numba" and not can:
        raise ValueError("numba is not installed, or cannot hold these figures or models")
    if can and wanted != "plain":
        return import_module("simulation.matching.compiled").match, "numba"
    return kernel.match, "plain"


def simulate_orders(
    orders: OrderColumns,
    history: History,
    settings: Settings,
    *,
    engine: str = "auto",
    told: Callable[[int], Any] | None = None,
) -> Result:
    """Every order against its instrument's bars. `told` is called with the number of bars done, now and then."""
    matcher, name = matcher_for(settings, history, orders, engine)
    times = {at: n for n, at in enumerate(history.open_times)}
    account = Account(settings, times)
    trades = Trades()
    rows: list[list[int]] = [[] for _ in orders.symbols]
    for row, symbol in enumerate(orders.symbol):
        rows[symbol].append(row)
    left = array("q", orders.quantity)
    status = array("b", bytes(len(orders)))
    reason = array("b", bytes(len(orders)))
    last_session = history.last_session
    done = 0
    for symbol, series in enumerate(history.series.values()):
        mine = rows[symbol]
        if mine:
            mine.sort(key=orders.arrival.__getitem__)
            lane = InstrumentLane(series, settings, len(orders.strategies))
            lane.add_all(orders, mine, history)
            lane.match_all(matcher, last_session)
            account.book(lane, symbol, trades)
            for n, row in enumerate(mine):
                left[row] = lane.orders.left[n]
                status[row] = lane.orders.status[n]
                reason[row] = lane.orders.reason[n]
        done += len(series.open)
        if told is not None:
            told(done)
    assert account.imbalance() == 0, "the postings do not add up to zero"
    return Result(
        settings=settings,
        orders=orders,
        trades=trades.sorted_by_time(),
        account=account,
        left=left,
        status=status,
        reason=reason,
        close_times=array("q", (at + settings.interval for at in history.open_times)),
        matched_by=name,
    )


def steps_of(settings: Settings) -> tuple[Whole, Whole]:
    """Prices and quantities between decimals and whole numbers."""
    return Whole(settings.tick), Whole(settings.lot)
