"""What fills do to positions and money, per instrument: fees, profit, what is held at each close. Exact, in whole numbers."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate, repeat
from operator import add, mul

from simulation.fees import CENT, Fees, half_even
from simulation.lanes import InstrumentLane
from simulation.matching import kernel
from simulation.matching.codes import AT_GAP, AT_OPEN, FILL_REASONS
from simulation.matching.kernel import FILLS
from simulation.positions import SMALLEST_SHARE, Position
from simulation.settings import Settings


def _column() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Trades:
    """Fills in the sequence of the result. `order` is the row of all orders; `time` in microseconds; `fee` in cents."""

    order: array[int] = field(default_factory=_column)
    symbol: array[int] = field(default_factory=_column)
    number: array[int] = field(default_factory=_column)
    """Which fill of its order it is, from 1."""
    time: array[int] = field(default_factory=_column)
    quantity: array[int] = field(default_factory=_column)
    price: array[int] = field(default_factory=_column)
    reason: array[int] = field(default_factory=_column)
    fee: array[int] = field(default_factory=_column)

    def __len__(self) -> int:
        return len(self.order)

    def sorted_by_time(self) -> Trades:
        """By time, closes before opens, then as they are."""
        keys = list(map(add, map(mul, repeat(2), self.time), map(IS_AT_OPEN.__getitem__, self.reason)))
        sequence = sorted(range(len(keys)), key=keys.__getitem__)
        return Trades(*(array("q", map(column.__getitem__, sequence)) for column in self.columns()))

    def columns(self) -> tuple[array[int], ...]:
        return (self.order, self.symbol, self.number, self.time, self.quantity, self.price, self.reason, self.fee)


IS_AT_OPEN = tuple(code & 7 in (AT_OPEN, AT_GAP) for code in range(len(FILL_REASONS)))
"""By the code of a fill's reason: whether the open decided it."""


class Account:
    """All that fills add up to: exact amounts in the settings' currency, and equity at every close of a bar."""

    def __init__(self, settings: Settings, times: Mapping[int, int]) -> None:
        """`times` gives each bar's opening its place among all."""
        self._settings, self._times = settings, times
        unit = settings.tick * settings.lot * settings.multiplier
        exponent = unit.normalize().as_tuple().exponent
        assert isinstance(exponent, int)
        self.unit = min(CENT, Decimal(1).scaleb(exponent))
        """All amounts of money are whole numbers of it."""
        self.per_tick = int(unit / self.unit)
        self.per_cent = int(CENT / self.unit)
        self.fees = Fees(settings)
        self.lot = settings.lot
        self.flow = [0] * len(times)
        """What trading, fees and dividends change of the cash, by the place of the bar."""
        self.value = [0] * len(times)
        """What is held is worth at the close, by the place of the bar; in lots times ticks."""
        self.positions: dict[tuple[int, str], Position] = {}
        self.paid_fees = 0
        self.bought = 0
        """Cash paid for what was bought, less cash had for what was sold."""
        self.dividends = 0
        self.paid_fractions = 0
        """Of lots, by splits."""
        self.traded = 0

    def book(self, lane: InstrumentLane, symbol: int, trades: Trades) -> None:
        """Books all fills of one instrument, with its corporate actions, in time."""
        bars, series, count = lane.bars, lane.series, lane.state[FILLS]
        order, at, lots, prices, reasons = (list(column[:count]) for column in lane.fills)
        side = list(map(lane.orders.side.__getitem__, order))
        places = list(map(self._times.__getitem__, bars.open_time))
        signed = list(map(mul, side, lots))
        amounts = list(map(mul, lots, prices))
        books = {b: Position(self._settings.tick, self._settings.lot) for b in set(lane.orders.book)}
        actions = sorted({*series.split_up, *series.dividend}) if count else []
        change = [0] * len(places)
        """By bar, of the quantity that is held."""
        done = 0
        for k in [*actions, len(places)]:
            last = bisect_left(at, k, done)
            for n in range(done, last):
                books[lane.orders.book[order[n]]].book(signed[n], prices[n])
                change[at[n]] += signed[n]
            done = last
            if done and k < len(places):
                before = sum(each.quantity for each in books.values())
                self.flow[places[k]] += self._corporate_action(lane, k, books)
                change[k] += sum(each.quantity for each in books.values()) - before
        fees, numbers = self._fees(order, side, lots, amounts)
        for k, direction, amount, fee in zip(at, side, amounts, fees, strict=True):
            self.flow[places[k]] -= direction * amount * self.per_tick + fee * self.per_cent
        self._mark(places, list(map(mul, accumulate(change), bars.close)))
        self.bought += self.per_tick * sum(map(mul, side, amounts))
        self.traded += self.per_tick * sum(amounts)
        self.paid_fees += sum(fees)
        later = [0 if is_at_open else self._settings.interval for is_at_open in IS_AT_OPEN]
        trades.order.extend(map(lane.rows.__getitem__, order))
        trades.symbol.extend(repeat(symbol, count))
        trades.number.extend(numbers)
        trades.time.extend(map(add, map(bars.open_time.__getitem__, at), map(later.__getitem__, reasons)))
        trades.quantity.extend(lots)
        trades.price.extend(prices)
        trades.reason.extend(reasons)
        trades.fee.extend(fees)
        for book, position in books.items():
            self.positions[book, lane.symbol] = position

    def add(self, flow: Sequence[int], value: Sequence[int]) -> None:
        """What instruments that were booked elsewhere change of the cash and of the value, by the place of the bar."""
        self.flow = list(map(add, self.flow, flow))
        self.value = list(map(add, self.value, value))

    def _fees(
        self, order: Sequence[int], side: Sequence[int], lots: Sequence[int], amounts: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """What each fill is charged, in cents, and which of its order's it is, from 1."""
        known: dict[int, tuple[int, int, int, int]] = {}
        """By order: fills, lots, amount and fee so far."""
        fees, numbers = [], []
        total = self.fees.total
        for i, direction, more_lots, more in zip(order, side, lots, amounts, strict=True):
            number, all_lots, amount, charged = known.get(i, (0, 0, 0, 0))
            all_lots += more_lots
            amount += more
            fee = total(direction, all_lots, amount)
            known[i] = number + 1, all_lots, amount, fee
            fees.append(fee - charged)
            numbers.append(number + 1)
        return fees, numbers

    def _mark(self, places: Sequence[int], worth: Sequence[int]) -> None:
        """Adds what an instrument's holding is worth at each of its closes; where it has no bar, the close before it holds."""
        value = self.value
        if not places:
            return
        end = places[-1] + 1
        if end - places[0] == len(places):
            value[places[0] : end] = map(add, value[places[0] : end], worth)
        else:
            for place, following, amount in zip(places, [*places[1:], end], worth, strict=True):
                for each in range(place, following):
                    value[each] += amount
        if worth[-1]:
            for each in range(end, len(value)):
                value[each] += worth[-1]

    def _corporate_action(self, lane: InstrumentLane, k: int, books: Mapping[int, Position]) -> int:
        """What the action pays, in units of money; positions are split."""
        series = lane.series
        fractions, dividends = action_pays(lane, k, sum(each.quantity for each in books.values()), self)
        if k in series.split_up:
            up, down = series.split_up[k], series.split_down[k]
            in_sequence = [books[book] for book in sorted(books)]
            quantities = [each.quantity for each in in_sequence]
            wholes = list(quantities)
            kernel.split(wholes, up, down)
            # Of the account's fraction up to each book, in parts of a lot: rounded in sums, each book's cents add up to the account's.
            rests = accumulate(quantity * up - whole * down for quantity, whole in zip(quantities, wholes, strict=True))
            cents = [fraction_cents(rest, down, lane.bars.open[k], self) for rest in rests]
            for position, whole, now, before in zip(in_sequence, wholes, cents, [0, *cents[:-1]], strict=True):
                position.split(up, down, whole, int((now - before) * CENT / SMALLEST_SHARE))
        self.dividends += dividends
        self.paid_fractions += fractions
        return fractions + dividends

    @property
    def cash(self) -> Decimal:
        """What is there at the end, beginning with the settings' cash."""
        begun = self._settings.cash or Decimal(0)
        other = self.dividends + self.paid_fractions
        return begun + self.unit * (other - self.bought - self.paid_fees * self.per_cent)

    def equity(self) -> list[tuple[int, int]]:
        """Cash and value at the close of each bar, in units of money; the cash begins with the settings'."""
        running = int((self._settings.cash or Decimal(0)) / self.unit)
        rows = []
        for flow, value in zip(self.flow, self.value, strict=True):
            running += flow
            rows.append((running, value * self.per_tick))
        return rows

    def imbalance(self) -> Decimal:
        """The sum of all postings: cash, positions at cost less the profit realised, fees, dividends. Always 0."""
        at_cost = SMALLEST_SHARE * self._settings.multiplier * sum(p.cost - p.realized for p in self.positions.values())
        return at_cost + self.unit * (sum(self.flow) + self.paid_fees * self.per_cent - self.dividends)


def action_pays(lane: InstrumentLane, k: int, quantity: int, account: Account) -> tuple[int, int]:
    """For the fraction of a lot at the bar's open, and as dividend on what is held after a split; each to the cent, in units of money.

    `quantity` is what the whole account held before: its strategies are paid as one holder."""
    series = lane.series
    fraction = dividend = 0
    held = quantity
    if k in series.split_up:
        up, down = series.split_up[k], series.split_down[k]
        held = abs(quantity) * up // down * (1 if quantity >= 0 else -1)
        fraction = fraction_cents(quantity * up - held * down, down, lane.bars.open[k], account) * account.per_cent
    if k in series.dividend:
        dividend = int((series.dividend[k] * held * account.lot).quantize(CENT) / account.unit)
    return fraction, dividend


def fraction_cents(rest: int, down: int, price: int, account: Account) -> int:
    """What `rest` / `down` of a lot is worth, in cents; negative for what was short."""
    return half_even(rest * price * account.per_tick, down * account.per_cent)
