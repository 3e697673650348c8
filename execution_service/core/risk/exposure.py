"""What an account holds and may come to hold by all that works or is on its way: projected exposure, reservations, and what an exit is; no limits.

Everything is counted at its worst. A working order may fill in whole or not at all, whichever is worse; strategies are not netted against each
other, since either may leave at any time; an amount that cannot be told is None, and never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from brokers.base import Side
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.risk.limits import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one strategy holds of one instrument."""

    strategy: str
    instrument_key: str
    symbol: str
    quantity: Decimal | None
    """Signed, negative is short, by the fills that are booked; None: it is not known."""
    unit_value: Decimal | None = None
    """What one unit is worth in the account's currency: price, money per point and rate of exchange; None: that cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What an order that was sent, or is about to be, may still do. It is written no later than the intent, and shrinks no earlier than the fill is
    booked to the holding: in between a fill is counted twice, and never not at all."""

    order_id: str
    strategy: str
    instrument_key: str
    symbol: str
    side: Side
    quantity: Decimal
    """Still to be filled, by the fills that are booked."""
    unit_value: Decimal | None
    """What one unit costs at most in the account's currency; None: that cannot be told."""
    is_exit: bool
    at: datetime
    is_paid_in_full: bool = True
    """It takes its value of the buying power; of futures and the like nobody but the broker knows how much."""

    @property
    def value(self) -> Decimal | None:
        return None if self.unit_value is None else EXACT.multiply(self.quantity, self.unit_value)


def reserved(some: Iterable[Reservation], new: Reservation) -> tuple[Reservation, ...]:
    """With this one, in the place of an earlier one of the same order."""
    return (*released(some, new.order_id), new)


def released(some: Iterable[Reservation], order_id: str) -> tuple[Reservation, ...]:
    """Without that of the order: all that it filled is booked, and it is over."""
    return tuple(each for each in some if each.order_id != order_id)


def reduced(some: Iterable[Reservation], left: Mapping[str, Decimal]) -> tuple[Reservation, ...]:
    """With so much of these orders left, by the fills that are booked: an annulled fill makes it more again. Nothing left releases one."""
    return tuple(
        each if still is None or still == each.quantity else replace(each, quantity=still)
        for each in some
        if (still := left.get(each.order_id)) is None or still > 0
    )


# --- what an exit is ------------------------------------------------------------------------------------------------


def exit_room(held: Decimal | None, side: Side, working: Decimal, most: Decimal | None = None) -> Decimal:
    """The most that an order of this side may trade and still be an exit: the position less all that works or is on its way on that side, so that
    whatever of it fills, the position never passes zero. Nothing where the position is not known, or is on the order's own side already.

    `held` is signed. `most`: what a comparison with the broker's positions lets an exit take; None: nothing is known to differ.
    """
    if held is None:
        return ZERO
    room = max(ZERO, -held * side.sign - working)
    return room if most is None else min(room, max(ZERO, most))


# --- projected exposure ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """One strategy's holding of one instrument, with all that works on it."""

    strategy: str
    instrument_key: str
    symbol: str
    held: Decimal | None = ZERO
    unit_value: Decimal | None = None
    buys: Decimal = ZERO
    sells: Decimal = ZERO
    buys_value: Decimal | None = ZERO
    sells_value: Decimal | None = ZERO
    dearest_buy: Decimal = ZERO
    dearest_sell: Decimal = ZERO
    """What one unit of the working orders of that side costs at most."""

    @property
    def most_long(self) -> Decimal | None:
        """The quantity held long if all purchases fill and no sale; never below 0."""
        return None if self.held is None else max(ZERO, self.held + self.buys)

    @property
    def most_short(self) -> Decimal | None:
        """The quantity held short if all sales fill and no purchase; never below 0."""
        return None if self.held is None else max(ZERO, self.sells - self.held)

    @property
    def value(self) -> Decimal | None:
        """Of what is held, signed."""
        if not self.held:
            return self.held
        return None if self.unit_value is None else EXACT.multiply(self.held, self.unit_value)

    @property
    def long_value(self) -> Decimal | None:
        """Of the most that it may be long."""
        if self.held is None:
            return None
        return self._value_of_position(self.held, self.most_long, self.buys_value, self.dearest_buy)

    @property
    def short_value(self) -> Decimal | None:
        """Of the most that it may be short, as a positive amount."""
        if self.held is None:
            return None
        return self._value_of_position(-self.held, self.most_short, self.sells_value, self.dearest_sell)

    def _value_of_position(
        self, held: Decimal, reached: Decimal | None, added: Decimal | None, dearest: Decimal
    ) -> Decimal | None:
        """The value of a position of `reached` on one side, of which `held` is there (below 0: on the other side, to be closed first)."""
        if not reached:
            return ZERO
        if added is None:
            return None
        if held <= 0:  # what closes the other side adds nothing here
            return EXACT.multiply(reached, dearest)
        return None if self.unit_value is None else EXACT.add(EXACT.multiply(held, self.unit_value), added)

    @cached_property
    def gross(self) -> Decimal | None:
        """The larger of both: it cannot be long and short at once."""
        if not self.buys and not self.sells:
            return None if self.value is None else abs(self.value)
        long, short = self.long_value, self.short_value
        return None if long is None or short is None else max(long, short)

    def plus(self, order: Reservation) -> Line:
        """With one more order at work."""
        value, unit = order.value, order.unit_value or ZERO
        if order.side is Side.BUY:
            return replace(
                self,
                buys=self.buys + order.quantity,
                buys_value=_sum((self.buys_value, value)),
                dearest_buy=max(self.dearest_buy, unit),
            )
        return replace(
            self,
            sells=self.sells + order.quantity,
            sells_value=_sum((self.sells_value, value)),
            dearest_sell=max(self.dearest_sell, unit),
        )


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """None where any of them is not known."""
    total = ZERO
    for amount in amounts:
        if amount is None:
            return None
        total = EXACT.add(total, amount)
    return total


@dataclass(frozen=True)
class Exposure:
    """All lines of one account. None for a figure: something that it needs cannot be told."""

    lines: tuple[Line, ...]

    def within(self, scope: Scope) -> tuple[Line, ...]:
        """Those of the strategy and the symbol that the scope names."""
        lines = self.lines if scope.symbol is None else self._by_symbol.get(scope.symbol, ())
        return tuple(line for line in lines if scope.strategy in (None, line.strategy))

    def of_instrument(self, key: str, strategy: str | None) -> tuple[Line, ...]:
        """Those of the strategy (None: of all) in one instrument."""
        return tuple(line for line in self._by_instrument.get(key, ()) if strategy in (None, line.strategy))

    @cached_property
    def _by_symbol(self) -> Mapping[str, Sequence[Line]]:
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.symbol, []).append(line)
        return found

    @cached_property
    def _by_instrument(self) -> Mapping[str, Sequence[Line]]:
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.instrument_key, []).append(line)
        return found

    def position_quantity(self, key: str, strategy: str | None, side: Side) -> Decimal | None:
        """The most that may come to be held in the instrument on that side, all strategies' holdings on it added up."""
        lines = self.of_instrument(key, strategy)
        return _sum(line.most_long if side is Side.BUY else line.most_short for line in lines)

    def position_value(self, key: str, strategy: str | None, side: Side) -> Decimal | None:
        lines = self.of_instrument(key, strategy)
        return _sum(line.long_value if side is Side.BUY else line.short_value for line in lines)

    def gross(self, scope: Scope) -> Decimal | None:
        """The absolute values of all lines at their worst, added up."""
        return _sum(line.gross for line in self.within(scope))

    def net(self, scope: Scope) -> Decimal | None:
        """The distance from zero that the sum of long and short values may come to, by all purchases or all sales that work."""
        lines = self.within(scope)
        held = _sum(line.value for line in lines)
        bought, sold = _sum(line.buys_value for line in lines), _sum(line.sells_value for line in lines)
        if held is None or bought is None or sold is None:
            return None
        return max(abs(EXACT.add(held, bought)), abs(EXACT.subtract(held, sold)))

    def plus(self, order: Reservation) -> Exposure:
        """With one more order at work."""
        mine = (order.strategy, order.instrument_key)
        found = [line for line in self.lines if (line.strategy, line.instrument_key) == mine]
        line = found[0] if found else _empty(order)
        return Exposure((*(each for each in self.lines if each is not line), line.plus(order)))


def _empty(order: Reservation) -> Line:
    return Line(strategy=order.strategy, instrument_key=order.instrument_key, symbol=order.symbol)


def exposure(holdings: Iterable[Holding], working: Iterable[Reservation]) -> Exposure:
    """What is held and works, a line for each strategy and instrument. What no holding is given for is held by nobody."""
    lines: dict[tuple[str, str], Line] = {}
    for each in holdings:
        line = Line(
            strategy=each.strategy,
            instrument_key=each.instrument_key,
            symbol=each.symbol,
            held=each.quantity,
            unit_value=each.unit_value,
        )
        lines[each.strategy, each.instrument_key] = line
    for order in working:
        key = (order.strategy, order.instrument_key)
        lines[key] = lines.get(key, _empty(order)).plus(order)
    return Exposure(tuple(lines.values()))


def working_quantity(working: Iterable[Reservation], strategy: str, key: str, side: Side) -> Decimal:
    """What orders of that strategy, instrument and side may still fill; those in flight and in doubt are among them."""
    return sum(
        (o.quantity for o in working if (o.strategy, o.instrument_key, o.side) == (strategy, key, side)),
        ZERO,
    )


# --- currencies -----------------------------------------------------------------------------------------------------


def in_currency(
    amount: Decimal | None, currency: str | None, wanted: str | None, rates: Mapping[str, Decimal]
) -> Decimal | None:
    """The amount in the account's currency; None where it cannot be told: the currencies differ or are not known, and there is no rate. `rates`:
    what one unit of a currency is worth in the wanted one."""
    if amount is None or currency is None or wanted is None:
        return None
    if currency == wanted:
        return amount
    rate = rates.get(currency)
    return None if rate is None else EXACT.multiply(amount, rate)
