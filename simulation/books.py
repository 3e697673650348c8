"""What fills do to positions and money, per instrument: fees, profit, what is held at each close. Exact, in whole numbers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from simulation.fees import CENT, Fees, half_even
from simulation.lanes import InstrumentLane
from simulation.matching.codes import AT_GAP, AT_OPEN
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
        keys = [2 * at + (code & 7 in _AT_OPEN) for at, code in zip(self.time, self.reason, strict=True)]
        sequence = sorted(range(len(keys)), key=keys.__getitem__)
        return Trades(*(array("q", map(column.__getitem__, sequence)) for column in self.columns()))

    def columns(self) -> tuple[array[int], ...]:
        return (self.order, self.symbol, self.number, self.time, self.quantity, self.price, self.reason, self.fee)


_AT_OPEN = (AT_OPEN, AT_GAP)


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
        """What is held is worth at the close, by the place of the bar."""
        self.positions: dict[tuple[int, str], Position] = {}
        self.paid_fees = 0
        self.bought = 0
        """Cash paid for what was bought, less cash had for what was sold."""
        self.dividends = 0
        self.paid_fractions = 0
        """Of lots, by splits."""
        self.traded = 0

    def book(self, lane: InstrumentLane, symbol: int, trades: Trades) -> None:
        """Books all fills of one instrument, bar by bar, with its corporate actions."""
        bars, fills, orders = lane.bars, lane.fills, lane.orders
        books = {b: Position(self._settings.tick, self._settings.lot) for b in set(orders.book)}
        interval = self._settings.interval
        series = lane.series
        count = lane.state[0]
        filled_lots: dict[int, int] = {}
        filled_amount: dict[int, int] = {}
        charged: dict[int, int] = {}
        number: dict[int, int] = {}
        side, book_of, rows = orders.side, orders.book, lane.rows
        fees, has_fees = self.fees, not self.fees.are_none
        n = net = paid = 0
        places = self._times
        actions = sorted({*series.split_up, *series.dividend})
        next_action = 0
        events = fills.bar
        first = events[0] if count else len(bars.open)
        last_place = -1
        worth = 0
        for k in range(first, len(bars.open)):
            place = places[bars.open_time[k]]
            if worth and place - last_place > 1:
                for missing in range(last_place + 1, place):
                    self.value[missing] += worth
            if next_action < len(actions) and actions[next_action] <= k:
                while next_action < len(actions) and actions[next_action] < k:
                    next_action += 1
                if next_action < len(actions) and actions[next_action] == k:
                    cash = self._corporate_action(lane, k, books)
                    self.flow[place] += cash
                    net = sum(each.quantity for each in books.values())
            while n < count and events[n] == k:
                i = fills.order[n]
                lots, price, sign = fills.quantity[n], fills.price[n], side[i]
                amount = lots * price * self.per_tick
                net += sign * lots
                books[book_of[i]].book(sign * lots, price)
                fee = 0
                if has_fees:
                    all_lots = filled_lots[i] = filled_lots.get(i, 0) + lots
                    all_amount = filled_amount[i] = filled_amount.get(i, 0) + lots * price
                    total = fees.total(sign, all_lots, all_amount)
                    fee = total - charged.get(i, 0)
                    charged[i] = total
                self.flow[place] -= sign * amount + fee * self.per_cent
                self.bought += sign * amount
                self.traded += amount
                paid += fee
                which = number[i] = number.get(i, 0) + 1
                code = fills.reason[n]
                trades.order.append(rows[i])
                trades.symbol.append(symbol)
                trades.number.append(which)
                trades.time.append(bars.open_time[k] + (0 if code & 7 in _AT_OPEN else interval))
                trades.quantity.append(lots)
                trades.price.append(price)
                trades.reason.append(code)
                trades.fee.append(fee)
                n += 1
            worth = net * bars.close[k] * self.per_tick
            self.value[place] += worth
            last_place = place
        if worth:
            for missing in range(last_place + 1, len(self.value)):
                self.value[missing] += worth
        self.paid_fees += paid
        for book, position in books.items():
            self.positions[book, lane.symbol] = position

    def _corporate_action(self, lane: InstrumentLane, k: int, books: Mapping[int, Position]) -> int:
        """What the action pays, in units of money; positions are split."""
        series = lane.series
        fractions, dividends = action_pays(lane, k, [each.quantity for each in books.values()], self)
        if k in series.split_up:
            up, down = series.split_up[k], series.split_down[k]
            for position in books.values():
                cents = fraction_cents(position.quantity, up, down, lane.bars.open[k], self)
                position.split(up, down, int(cents * CENT / SMALLEST_SHARE))
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
            rows.append((running, value))
        return rows

    def imbalance(self) -> Decimal:
        """The sum of all postings: cash, positions at cost less the profit realised, fees, dividends. Always 0."""
        at_cost = SMALLEST_SHARE * self._settings.multiplier * sum(p.cost - p.realized for p in self.positions.values())
        return at_cost + self.unit * (sum(self.flow) + self.paid_fees * self.per_cent - self.dividends)


def action_pays(lane: InstrumentLane, k: int, quantities: Iterable[int], account: Account) -> tuple[int, int]:
    """For fractions of a lot at the bar's open, and as dividends on what is held after a split; each to the cent, in units of money."""
    series = lane.series
    fractions = dividends = 0
    for quantity in quantities:
        held = quantity
        if k in series.split_up:
            up, down = series.split_up[k], series.split_down[k]
            fractions += fraction_cents(quantity, up, down, lane.bars.open[k], account) * account.per_cent
            held = (abs(quantity) * up // down) * (1 if quantity >= 0 else -1)
        if k in series.dividend:
            dividends += int((series.dividend[k] * held * account.lot).quantize(CENT) / account.unit)
    return fractions, dividends


def fraction_cents(quantity: int, up: int, down: int, price: int, account: Account) -> int:
    """What the fraction of a lot is worth that a split leaves, in cents; negative for a short position."""
    rest = abs(quantity) * up % down
    return half_even((rest if quantity >= 0 else -rest) * price * account.per_tick, down * account.per_cent)
