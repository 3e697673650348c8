"""The batch lane compiled by numba: instruments matched and booked in whole numbers of 64 bits, with the results of plain Python to the last digit.

Loaded by name, and only when it is wanted. What it cannot hold, figures that are too large or an instrument with corporate actions, it leaves to
plain Python, instrument by instrument.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from math import gcd
from typing import Any, TypeVar

import numba
import numpy

from simulation.bars import History, Series
from simulation.books import IS_AT_OPEN, Account, Trades
from simulation.fees import Fees
from simulation.lanes import rings, rules_of
from simulation.matching import kernel
from simulation.matching.codes import NONE, WORKING
from simulation.matching.compiled import expire, match
from simulation.matching.kernel import Bars, Fills, Orders
from simulation.orders import OrderColumns
from simulation.positions import Position
from simulation.settings import Settings
from simulation.units import DAY

LARGEST = 2**62
"""Sums and products stay below; what would not is left to plain Python."""
HALF_BITS = 30
"""The rest of a cost is divided in two halves of so many bits."""
LARGEST_HOLDING = 1 << HALF_BITS + 1
_AT_OPEN = numpy.array(IS_AT_OPEN)
_SYMBOL, _TIME, _REASON = 1, 3, 6
"""Places of columns in `Trades`."""
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """By numba, once for an installation."""
    made: F = numba.njit(cache=True)(function)
    return made


NUMBER, LOTS, AMOUNT, FEE = range(4)
"""What is known of an order: how many fills it has, and what all of them come to."""
PER_LOT, OF_AMOUNT, FLAT, LEAST, MOST = range(5)
"""Of a model of commission, as `fees` has them; a `MOST` of -1 is none."""
QUANTITY, COST, COST_REST, PROFIT, PROFIT_REST = range(5)
"""Of a position. Cost and profit are whole parts, and a rest from 0 to below a part."""


@compiled
def _fold(
    count: int, order: Any, bar: Any, lots: Any, price: Any, side: Any, book: Any, places: Any, close: Any, flow: Any, value: Any,
    models: Any, scale: int, per_tick: int, per_cent: int, grain: int, part: int, known: Any, fees: Any, numbers: Any, positions: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """`books.Account.book` of `count` fills. Returns what was bought less what was sold, what was traded, in ticks times lots, and all fees.

    `models` has those of buyers, then of sellers; `known` a row for each order, `positions` one for each book; a tick of a lot is `grain` parts.
    """
    bought = 0
    traded = 0
    charged = 0
    held = 0
    n = 0
    for k in range(len(places)):
        while n < count and bar[n] == k:
            i = order[n]
            direction = side[i]
            amount = lots[n] * price[n]
            known[i, NUMBER] += 1
            known[i, LOTS] += lots[n]
            known[i, AMOUNT] += amount
            total = _fee(models, 0 if direction > 0 else 1, scale, known[i, LOTS], known[i, AMOUNT])
            fees[n] = total - known[i, FEE]
            numbers[n] = known[i, NUMBER]
            known[i, FEE] = total
            flow[places[k]] -= direction * amount * per_tick + fees[n] * per_cent
            charged += fees[n]
            bought += direction * amount
            traded += amount
            held += direction * lots[n]
            _book(positions, book[i], direction * lots[n], price[n] * grain, part)
            n += 1
        if held:
            worth = held * close[k]
            end = places[k + 1] if k + 1 < len(places) else len(value)
            for at in range(places[k], end):
                value[at] += worth
    return bought, traded, charged


@compiled
def _fee(models: Any, way: int, scale: int, lots: int, amount: int) -> int:
    """`fees.Fees.total`."""
    exact = 0
    for m in range(models.shape[1]):
        fee = models[way, m, PER_LOT] * lots + models[way, m, OF_AMOUNT] * amount + models[way, m, FLAT]
        fee = max(fee, models[way, m, LEAST])
        if models[way, m, MOST] >= 0:
            fee = min(fee, models[way, m, MOST] * amount)
        exact += fee
    total = exact // scale
    rest = 2 * (exact % scale)
    if rest > scale or (rest == scale and total & 1):
        total += 1
    return total


@compiled
def _book(positions: Any, b: int, signed: int, price: int, part: int) -> None:
    """`positions.Position.book`, the price in parts."""
    held = positions[b, QUANTITY]
    positions[b, QUANTITY] = held + signed
    if held * signed >= 0:
        positions[b, COST] += signed * price
    elif abs(signed) < abs(held):
        # The share n / h of the cost is released, half-even: first of its whole parts, then of what is left of them and of the rest.
        n = abs(signed)
        h = abs(held)
        whole = positions[b, COST] * n // h
        left = positions[b, COST] * n % h
        low = (1 << HALF_BITS) - 1
        high = left * (part >> HALF_BITS) + n * (positions[b, COST_REST] >> HALF_BITS)
        rest = (high % h << HALF_BITS) + left * (part & low) + n * (positions[b, COST_REST] & low)
        fine = (high // h << HALF_BITS) + rest // h
        rest = 2 * (rest % h)
        is_odd = (whole & part & 1) != (fine & 1)
        if rest > h or (rest == h and is_odd):
            fine += 1
        whole += fine // part
        fine %= part
        _add(positions, b, COST, -whole, -fine, part)
        _add(positions, b, PROFIT, -signed * price - whole, -fine, part)
    else:
        _add(positions, b, PROFIT, held * price - positions[b, COST], -positions[b, COST_REST], part)
        positions[b, COST] = positions[b, QUANTITY] * price
        positions[b, COST_REST] = 0


@compiled
def _add(positions: Any, b: int, which: int, whole: int, rest: int, part: int) -> None:
    """`rest` is above minus a part, and at most 0."""
    positions[b, which] += whole
    positions[b, which + 1] += rest
    if positions[b, which + 1] < 0:
        positions[b, which + 1] += part
        positions[b, which] -= 1


class CompiledRun:
    """The instruments of a run without `cash`, one after the other."""

    def __init__(
        self,
        orders: OrderColumns,
        history: History,
        settings: Settings,
        account: Account,
        ends: tuple[array[int], array[int], array[int]],
    ) -> None:
        """`ends`, what is left of each order, its status and its reason, are filled in as instruments are taken."""
        self._history, self._settings, self._account = history, settings, account
        self._left, self._status, self._reason = map(numpy.asarray, ends)
        self._times = _at(history.open_times)
        self._everywhere = numpy.arange(len(self._times))
        self._rules = rules_of(settings)
        arrival, symbol = _at(orders.arrival), _at(orders.symbol)
        self._rows = numpy.lexsort((arrival, symbol))
        """Of all orders, by instrument, then by arrival, then as they are."""
        self._first = numpy.searchsorted(symbol[self._rows], numpy.arange(len(history.series) + 1)).tolist()
        """Where in these each instrument's begin."""

        def mine(column: array[int]) -> Any:
            return _at(column)[self._rows]

        self._group = mine(orders.group)
        self._has_groups = bool((self._group >= 0).any())
        self._books = max(1, len(orders.strategies))
        count = len(orders)
        self._orders: Any = Orders(
            side=mine(orders.side),
            kind=mine(orders.kind),
            limit=mine(orders.limit),
            stop=mine(orders.stop),
            tif=mine(orders.tif),
            arrival=mine(orders.arrival),
            session=_sessions(self._times, mine(orders.arrival)),
            left=mine(orders.quantity),
            status=_ints(count, WORKING),
            reason=_ints(count, NONE),
            partner=_ints(count),
            reduce_only=mine(orders.reduce_only),
            book=mine(orders.strategy),
            seen=_ints(count, -1),
        )
        point = Position(settings.tick, settings.lot).point
        self._part = gcd(point, 10**18)
        """Of a cost, in units of its smallest share."""
        self._grain = point // self._part
        self._models = _models_of(account.fees)
        self._flow, self._value = _ints(len(self._times)), _ints(len(self._times))
        self._room = LARGEST
        """So much may still be added to any of these two."""
        self._trades: list[tuple[Any, ...]] = []
        """Columns as `Trades` has them, by instrument."""

    def __getitem__(self, symbol: int) -> list[int]:
        """The rows of an instrument's orders, by arrival."""
        rows: list[int] = self._rows[self._first[symbol] : self._first[symbol + 1]].tolist()
        return rows

    def take(self, symbol: int, series: Series) -> bool:
        """Matches and books all orders of an instrument. False: that is plain Python's, and nothing of it was taken."""
        first, last = self._first[symbol], self._first[symbol + 1]
        if first == last:
            return True
        if self._models is None or series.split_up or series.dividend:
            return False
        orders: Any = Orders(*(column[first:last] for column in self._orders))
        orders.partner[:] = rings(self._group[first:last].tolist()) if self._has_groups else numpy.arange(last - first)
        opens = _at(series.open_time)
        bars: Any = Bars(
            open_time=opens,
            open=_at(series.open),
            high=_at(series.high),
            low=_at(series.low),
            close=_at(series.close),
            pool=_at(series.pool),
            trading=_at(series.trading),
            session=opens // DAY,
            split_up=_ints(len(opens)),
            split_down=_ints(len(opens)),
        )
        fills = self._matched(bars, orders)
        rows = self._rows[first:last]
        if not self._is_booked(symbol, series, bars, orders, fills, rows):
            return False
        for column, mine in ((self._left, orders.left), (self._status, orders.status), (self._reason, orders.reason)):
            column[rows] = mine
        return True

    def _is_booked(self, symbol: int, series: Series, bars: Any, orders: Any, fills: Any, rows: Any) -> bool:
        """Books all fills of an instrument; False: their figures may be too large, and none is booked."""
        account, count = self._account, len(fills.order)
        lots, highest = int(fills.quantity.sum()), int(max(fills.price.max(initial=0), bars.close.max()))
        cents = len(rows) * (account.fees.bound(lots, lots * highest) // account.fees.scale + 1)
        change = lots * highest * account.per_tick + cents * account.per_cent
        if change >= LARGEST or not self._fits(lots, lots * highest):
            return False
        if change >= self._room:
            self._add_up()
        self._room -= change
        positions = numpy.zeros((self._books, PROFIT_REST + 1), dtype=numpy.int64)
        known = numpy.zeros((len(rows), FEE + 1), dtype=numpy.int64)
        charged, numbers, places = _ints(count), _ints(count), self._places(bars.open_time)
        bought, traded, paid = _fold(
            count, fills.order, fills.bar, fills.quantity, fills.price, orders.side, orders.book, places, bars.close, self._flow,
            self._value, self._models, account.fees.scale, account.per_tick, account.per_cent, self._grain, self._part, known,
            charged, numbers, positions,
        )  # fmt: skip
        account.bought += int(bought) * account.per_tick
        account.traded += int(traded) * account.per_tick
        account.paid_fees += int(paid)
        for book in numpy.unique(orders.book).tolist():
            account.positions[book, series.symbol] = self._position(positions[book].tolist())
        times = bars.open_time[fills.bar] + numpy.where(_AT_OPEN[fills.reason], 0, self._settings.interval)
        symbols = _ints(count, symbol)
        self._trades.append(
            (rows[fills.order], symbols, numbers, times, fills.quantity, fills.price, fills.reason, charged)
        )
        return True

    def _matched(self, bars: Bars, orders: Orders) -> Any:
        """The fills."""
        count, last = len(orders.side), len(bars.open)
        active, reached, keys = _ints(count), _ints(count), _ints(count)
        held, state = _ints(self._books), _at(kernel.fresh_state())
        room = 2 * count + 64
        fills: Any = Fills(*(_ints(room) for _ in Fills._fields))
        first = 0
        while True:
            first = match(first, last, active, reached, keys, bars, orders, held, self._rules, fills, state, None, None)
            if first >= last:
                break
            more: Any = [numpy.concatenate((column, _ints(room))) for column in fills]
            fills = Fills(*more)
        expire(self._history.last_session, orders, state)
        done = state[kernel.FILLS]
        return Fills(*(column[:done] for column in fills))

    def _places(self, opens: Any) -> Any:
        """Of an instrument's bars, among all."""
        if numpy.array_equal(opens, self._times):
            return self._everywhere
        return numpy.searchsorted(self._times, opens)

    def _fits(self, lots: int, amount: int) -> bool:
        """Whether an instrument of which so many lots were traded, for at most that, can be booked in 64 bits."""
        cost = 2 * amount * self._grain
        return lots < LARGEST_HOLDING and cost * lots < LARGEST and 2 * self._account.fees.bound(lots, amount) < LARGEST

    def _position(self, figures: Sequence[int]) -> Position:
        position = Position(self._settings.tick, self._settings.lot)
        position.quantity = figures[QUANTITY]
        position.cost = figures[COST] * self._part + figures[COST_REST]
        position.realized = figures[PROFIT] * self._part + figures[PROFIT_REST]
        return position

    def _add_up(self) -> None:
        """What instruments have changed of the account, by bar."""
        self._account.add(self._flow.tolist(), self._value.tolist())
        self._flow[:] = 0
        self._value[:] = 0
        self._room = LARGEST

    def end(self, others: Trades) -> Trades:
        """All trades, those of plain Python among them, as `Trades.sorted_by_time` has them."""
        self._add_up()
        columns = [
            numpy.concatenate((_at(plain), *(each[n] for each in self._trades)))
            for n, plain in enumerate(others.columns())
        ]
        self._trades.clear()
        sequence = numpy.lexsort((columns[_SYMBOL], _AT_OPEN[columns[_REASON]], columns[_TIME]))
        return Trades(*(array_of(column[sequence]) for column in columns))


def _sessions(times: Any, arrival: Any) -> Any:
    """`History.session_from` of each."""
    place = numpy.searchsorted(times, arrival)
    begun = times[numpy.minimum(place, len(times) - 1)] // DAY
    return numpy.where(place < len(times), begun, -1)


def _models_of(fees: Fees) -> Any:
    """As `_fee` has them; None where they are too large."""
    most = max(map(len, fees.models.values()))
    none = (0, 0, 0, 0, None)
    rows = [[*fees.models[side], *[none] * (most - len(fees.models[side]))] for side in (1, -1)]
    figures = [[[-1 if part is None else part for part in model] for model in models] for models in rows]
    if any(part >= LARGEST for models in figures for model in models for part in model) or fees.scale >= LARGEST:
        return None
    return numpy.array(figures, dtype=numpy.int64).reshape(2, most, MOST + 1)


def _at(column: Any) -> Any:
    """A column where it is, as numpy's."""
    return numpy.asarray(column, dtype=numpy.int64)


def _ints(count: int, value: int = 0) -> Any:
    return numpy.full(count, value, dtype=numpy.int64)


def array_of(column: Any) -> array[int]:
    """Of a column of numpy's, of 64 bits."""
    made = array("q")
    made.frombytes(column.tobytes())
    return made
