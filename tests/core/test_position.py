"""Positions against an independent reference in fractions: what is held, what it cost, what was earned, and what an annulment undoes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.positions.position import ORDER_IDS_KEPT, FillEffect, Position, apply_fill, reverse_fill
from tests.builders import NOW, at

THOROUGH = settings(max_examples=400, deadline=None)
ONE = Decimal(1)


@dataclass(frozen=True)
class Trade:
    side: Side
    quantity: Decimal
    price: Decimal


def buy(quantity: str, price: str) -> Trade:
    return Trade(Side.BUY, Decimal(quantity), Decimal(price))


def sell(quantity: str, price: str) -> Trade:
    return Trade(Side.SELL, Decimal(quantity), Decimal(price))


def seen(*values: object) -> tuple[object, ...]:
    return values


def book(
    position: Position, trade: Trade, *, multiplier: Decimal = ONE, seconds: int = 0, order_id: str = "o1"
) -> FillEffect:
    return apply_fill(
        position,
        side=trade.side,
        quantity=trade.quantity,
        price=trade.price,
        multiplier=multiplier,
        at=at(seconds),
        order_id=order_id,
    )


def after(*trades: Trade, multiplier: Decimal = ONE) -> Position:
    position = Position()
    for seconds, trade in enumerate(trades):
        position = book(position, trade, multiplier=multiplier, seconds=seconds).position
    return position


def undo(position: Position, trade: Trade, booked: FillEffect, *, multiplier: Decimal = ONE) -> FillEffect:
    return reverse_fill(
        position,
        side=trade.side,
        quantity=trade.quantity,
        price=trade.price,
        realized=booked.realized,
        closed=booked.closed,
        episode=booked.position.episode,
        multiplier=multiplier,
        at=at(100),
        order_id="o1",
    )


# --- examples that a trader would check by hand ---------------------------------------------------------------------


def test_a_purchase_opens_a_long_at_its_price() -> None:
    position = after(buy("100", "235.15"))
    assert seen(position.quantity, position.cost, position.average_price) == (100, Decimal("23515"), Decimal("235.15"))
    assert seen(position.episode, position.is_long, position.opened_at, position.closed_at) == (1, True, NOW, None)


def test_scaling_in_adds_and_averages() -> None:
    position = after(buy("10", "100"), buy("4", "107"))
    assert seen(position.quantity, position.average_price, position.realized_pnl) == (14, Decimal(102), 0)
    assert seen(position.episode, position.opened_at, position.updated_at) == (1, NOW, at(1))


def test_a_short_sold_at_150_and_bought_back_at_152_is_a_loss() -> None:
    position = after(sell("10", "150"), buy("10", "152"))
    assert seen(position.quantity, position.cost, position.realized_pnl) == (0, 0, -20)
    assert seen(position.is_long, position.final_average, position.closed_at) == (False, 150, at(1))


def test_a_partial_exit_leaves_the_average_and_the_rest() -> None:
    position = after(buy("10", "100"), sell("4", "110"))
    assert seen(position.quantity, position.average_price, position.realized_pnl, position.closed_at) == (
        6,
        100,
        40,
        None,
    )


def test_profits_of_partial_exits_add_up() -> None:
    assert after(buy("10", "100"), sell("4", "110"), sell("6", "95")).realized_pnl == 10


def test_the_multiplier_counts_in_the_profit_and_not_in_the_cost() -> None:
    position = after(buy("2", "1950.5"), sell("1", "1952"), multiplier=Decimal(100))
    assert seen(position.cost, position.realized_pnl) == (Decimal("1950.5"), 150)


def test_a_flip_ends_one_episode_and_opens_the_next() -> None:
    held = after(buy("10", "100"))
    booked = book(held, sell("15", "110"), seconds=5, order_id="o2")
    assert booked.realized == 100
    assert booked.closed == 10
    assert booked.ended is not None
    assert seen(booked.ended.quantity, booked.ended.episode, booked.ended.realized_pnl) == (0, 1, 100)
    assert seen(booked.ended.final_average, booked.ended.closed_at, booked.ended.order_ids) == (
        100,
        at(5),
        ("o1", "o2"),
    )
    now = booked.position
    assert seen(now.quantity, now.average_price, now.realized_pnl, now.episode) == (-5, 110, 0, 2)
    assert seen(now.is_long, now.opened_at, now.closed_at, now.order_ids) == (False, at(5), None, ("o2",))


def test_the_next_entry_after_flat_is_a_new_episode() -> None:
    position = after(buy("10", "100"), sell("10", "110"), buy("3", "90"))
    assert seen(position.episode, position.realized_pnl, position.opened_at, position.final_average) == (
        2,
        0,
        at(2),
        None,
    )


def test_an_order_is_named_once_however_many_fills_it_has() -> None:
    position = Position()
    for order_id in ("a", "a", "b", "a"):
        position = book(position, buy("1", "1"), order_id=order_id).position
    assert seen(position.order_ids, position.order_count) == (("b", "a"), 2)


def test_only_the_latest_orders_are_named_but_all_are_counted() -> None:
    position = Position()
    for number in range(ORDER_IDS_KEPT + 5):
        position = book(position, buy("1", "1"), order_id=f"o{number}").position
    assert len(position.order_ids) == ORDER_IDS_KEPT
    assert seen(position.order_ids[0], position.order_ids[-1], position.order_count) == (
        "o5",
        f"o{ORDER_IDS_KEPT + 4}",
        ORDER_IDS_KEPT + 5,
    )


@pytest.mark.parametrize(
    "trades",
    [
        (buy("3", "100"), sell("1", "100"), sell("2", "100")),
        (buy("1", "0.1"), buy("2", "0.20"), sell("1", "0.3")),
        (buy("100.00", "470.3000"), buy("100.00", "470.3000")),
        (sell("7", "13"), buy("2", "17.5"), sell("3", "11"), buy("1", "12.25")),
    ],
)
def test_figures_carry_neither_exponents_nor_trailing_zeros(trades: Sequence[Trade]) -> None:
    position = after(*trades)
    for figure in (position.quantity, position.cost, position.realized_pnl):
        text = str(figure)
        assert "E" not in text
        assert text not in ("-0", "0.0")
        assert not ("." in text and text.endswith("0"))


def test_a_third_of_a_cost_is_rounded_but_nothing_of_the_whole_is_lost() -> None:
    bought = after(buy("1", "10"), buy("2", "10.05"))
    exits = [book(bought, sell("1", "11"))]
    exits.append(book(exits[-1].position, sell("1", "11")))
    exits.append(book(exits[-1].position, sell("1", "11")))
    assert exits[0].realized == Decimal("0.96666666666666666667")
    assert sum(b.realized for b in exits) == Decimal("2.9") == exits[-1].position.realized_pnl


# --- annulment ------------------------------------------------------------------------------------------------------


def test_annulling_the_only_fill_leaves_nothing_and_earns_nothing() -> None:
    entry = buy("10", "100")
    booked = book(Position(), entry)
    undone = undo(booked.position, entry, booked)
    assert seen(undone.position.quantity, undone.position.cost, undone.realized) == (0, 0, 0)
    assert undone.ended == undone.position
    assert undone.position.closed_at == at(100)


def test_annulling_an_exit_reopens_the_same_episode() -> None:
    held = after(buy("10", "100"))
    leaving = sell("10", "110")
    booked = book(held, leaving)
    undone = undo(booked.position, leaving, booked)
    assert undone.realized == -100
    assert undone.ended is None
    assert replace(undone.position, updated_at=held.updated_at) == held


def test_annulling_an_exit_without_profit_reopens_the_same_episode() -> None:
    held = after(buy("10", "100"))
    leaving = sell("10", "100")
    booked = book(held, leaving)
    undone = undo(booked.position, leaving, booked)
    assert replace(undone.position, updated_at=held.updated_at) == held


def test_annulling_an_exit_gives_back_what_it_had_taken_and_not_the_present_average() -> None:
    held = after(buy("10", "100"))
    leaving = sell("4", "110")
    booked = book(held, leaving)
    grown = book(booked.position, buy("4", "150")).position
    undone = undo(grown, leaving, booked).position
    assert seen(undone.quantity, undone.cost, undone.realized_pnl) == (14, 1600, 0)


def test_annulling_a_flip_restores_what_was_held_before() -> None:
    held = after(buy("10", "100"))
    turning = sell("15", "110")
    booked = book(held, turning)
    undone = undo(booked.position, turning, booked)
    assert seen(undone.position.quantity, undone.position.cost, undone.position.is_long) == (10, 1000, True)
    assert undone.realized == -100
    assert undone.ended is not None
    assert seen(undone.ended.episode, undone.position.episode) == (2, 3)


def test_annulling_a_flip_does_not_take_up_an_episode_that_came_after_it() -> None:
    held = after(buy("10", "100"))
    turning = sell("15", "110")
    booked = book(held, turning)
    flat = book(booked.position, buy("5", "110")).position
    short = book(flat, sell("5", "120")).position
    assert short.episode == 3
    undone = undo(short, turning, booked)
    assert undone.ended is not None
    assert seen(undone.ended.episode, undone.ended.is_long, undone.ended.realized_pnl) == (3, False, 50)
    now = undone.position
    assert seen(now.episode, now.quantity, now.cost, now.is_long, now.opened_at) == (4, 10, 1000, True, at(100))


def test_annulling_an_exit_after_the_position_has_turned_is_a_trade_the_other_way() -> None:
    held = after(buy("10", "100"))
    leaving = sell("10", "110")
    booked = book(held, leaving)
    short = book(booked.position, sell("4", "200")).position
    undone = undo(short, leaving, booked)
    assert seen(undone.position.quantity, undone.position.average_price, undone.position.is_long) == (6, 110, True)
    assert undone.realized == 360
    assert undone.ended is not None
    assert undone.ended.episode == 2


def test_annulling_an_entry_that_was_sold_since_is_a_trade_the_other_way() -> None:
    entry = buy("10", "100")
    booked = book(Position(), entry)
    flat = book(booked.position, sell("10", "120")).position
    undone = undo(flat, entry, booked).position
    assert seen(undone.quantity, undone.average_price, undone.episode) == (-10, 100, 2)


def test_no_annulment_leaves_a_long_with_a_negative_average() -> None:
    dear = buy("5", "400")
    held = after(buy("10", "100"))
    booked = book(held, dear)
    left = book(booked.position, sell("8", "200")).position
    undone = undo(left, dear, booked).position
    assert undone.quantity == 2
    assert undone.average_price == 200


def test_annulling_the_last_purchase_left_tells_what_the_others_lost() -> None:
    """Bought at 100 and at 200, half sold at 150 at no profit; without the purchase at 100 that sale was a loss of 50 a share."""
    first = buy("10", "100")
    booked = book(Position(), first, multiplier=Decimal(2))
    dearer = book(booked.position, buy("10", "200"), multiplier=Decimal(2)).position
    left = book(dearer, sell("10", "150"), multiplier=Decimal(2)).position
    undone = undo(left, first, booked, multiplier=Decimal(2))
    assert undone.ended == undone.position
    assert seen(undone.realized, undone.position.realized_pnl) == (-1000, -1000)
    assert seen(undone.position.quantity, undone.position.cost, undone.position.final_average) == (0, 0, 150)


# What costs nothing: rights, spin-offs, options that expire


def test_annulling_a_purchase_beside_free_shares_leaves_those_and_earns_nothing() -> None:
    dear = buy("2", "10")
    booked = book(after(buy("5", "0")), dear)
    undone = undo(booked.position, dear, booked)
    assert seen(undone.position.quantity, undone.position.cost, undone.position.realized_pnl) == (5, 0, 0)


def test_annulling_free_shares_beside_others_leaves_those() -> None:
    free = buy("2", "0")
    booked = book(after(buy("4", "0")), free)
    undone = undo(booked.position, free, booked)
    assert seen(undone.position.quantity, undone.position.cost, undone.position.realized_pnl) == (4, 0, 0)


def test_a_sale_for_nothing_costs_nothing_without_a_sign() -> None:
    assert str(after(sell("4", "0")).cost) == "0"


# --- against the reference ------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """Average cost as a book-keeper would do it, in fractions: exact, and without a look at the code under test."""

    multiplier: Fraction
    lots: Fraction = Fraction(0)
    average: Fraction = Fraction(0)
    realized: Fraction = Fraction(0)
    episodes: int = 0

    def take(self, trade: Trade) -> None:
        price, quantity = Fraction(trade.price), Fraction(trade.quantity)
        direction = 1 if trade.side is Side.BUY else -1
        while quantity:
            if self.lots * direction >= 0:
                self.episodes += not self.lots
                whole = abs(self.lots) + quantity
                self.average = (abs(self.lots) * self.average + quantity * price) / whole
                self.lots, quantity = direction * whole, Fraction(0)
            else:
                part = min(quantity, abs(self.lots))
                self.realized += part * (self.average - price) * direction * self.multiplier
                self.lots += direction * part
                quantity -= part


QUANTITIES = st.one_of(
    st.integers(1, 30).map(Decimal),
    st.decimals("0.00000001", "50", places=8, allow_nan=False, allow_infinity=False),
)
PRICES = st.one_of(
    st.integers(1, 500).map(Decimal),
    st.decimals("0.0001", "99999", places=4, allow_nan=False, allow_infinity=False),
)
TRADES = st.builds(Trade, st.sampled_from(Side), QUANTITIES, PRICES)
MULTIPLIERS = st.sampled_from([Decimal(m) for m in ("1", "100", "50", "0.1", "12.5", "3", "7")])
SLIGHTLY = Fraction(1, 10**15)


def cash_of(trades: Iterable[Trade], multiplier: Decimal) -> Fraction:
    """Money received less money paid."""
    return sum(
        (-t.side.sign * Fraction(t.quantity) * Fraction(t.price) * Fraction(multiplier) for t in trades), Fraction(0)
    )


@THOROUGH
@given(st.lists(TRADES, max_size=12), MULTIPLIERS)
def test_any_trades_end_as_in_the_reference(trades: list[Trade], multiplier: Decimal) -> None:
    reference, position, realized = Reference(Fraction(multiplier)), Position(), Fraction(0)
    for trade in trades:
        reference.take(trade)
        booked = book(position, trade, multiplier=multiplier)
        position = booked.position
        realized += Fraction(booked.realized)
        assert Fraction(position.quantity) == reference.lots
        assert abs(Fraction(position.cost) - reference.lots * reference.average) < SLIGHTLY
        assert abs(realized - reference.realized) < SLIGHTLY
        assert position.episode == reference.episodes
        ends = booked.closed > 0 and (not position.is_open or booked.closed < trade.quantity)
        assert (booked.ended is not None) is ends
        assert position.is_open == (position.closed_at is None)


@THOROUGH
@given(st.lists(TRADES, max_size=12), MULTIPLIERS)
def test_money_is_conserved_to_the_last_digit(trades: list[Trade], multiplier: Decimal) -> None:
    position, realized = Position(), Fraction(0)
    for trade in trades:
        booked = book(position, trade, multiplier=multiplier)
        position = booked.position
        realized += Fraction(booked.realized)
    invested = Fraction(position.cost) * Fraction(multiplier)
    assert realized - invested == cash_of(trades, multiplier)


@THOROUGH
@given(st.lists(TRADES, max_size=8), MULTIPLIERS)
def test_an_episode_tells_the_profit_of_its_own_trades(trades: list[Trade], multiplier: Decimal) -> None:
    position, realized, ended = Position(), Fraction(0), Fraction(0)
    for trade in trades:
        booked = book(position, trade, multiplier=multiplier)
        position = booked.position
        realized += Fraction(booked.realized)
        if booked.ended is not None:
            ended += Fraction(booked.ended.realized_pnl)
    present = Fraction(position.realized_pnl) if position.is_open else Fraction(0)
    assert ended + present == realized


@THOROUGH
@given(st.lists(TRADES, max_size=8), TRADES, MULTIPLIERS)
def test_an_annulment_at_once_restores_quantity_cost_and_profit(
    trades: list[Trade], wrong: Trade, multiplier: Decimal
) -> None:
    before = after(*trades, multiplier=multiplier)
    booked = book(before, wrong, multiplier=multiplier)
    undone = undo(booked.position, wrong, booked, multiplier=multiplier)
    assert seen(undone.position.quantity, undone.position.cost) == (before.quantity, before.cost)
    assert undone.realized == -booked.realized
    if before.is_open and booked.closed in (0, wrong.quantity):
        assert undone.position.realized_pnl == before.realized_pnl
        assert undone.position.episode == before.episode
        assert undone.position.opened_at == before.opened_at


@THOROUGH
@given(st.lists(QUANTITIES, min_size=1, max_size=6), st.data(), MULTIPLIERS)
def test_an_annulled_opening_among_others_leaves_what_the_others_make(
    quantities: list[Decimal], data: st.DataObject, multiplier: Decimal
) -> None:
    side = data.draw(st.sampled_from(Side))
    trades = [Trade(side, quantity, data.draw(PRICES)) for quantity in quantities]
    which = data.draw(st.integers(0, len(trades) - 1))
    position, bookings = Position(), []
    for trade in trades:
        bookings.append(book(position, trade, multiplier=multiplier))
        position = bookings[-1].position
    undone = undo(position, trades[which], bookings[which], multiplier=multiplier).position
    others = after(*trades[:which], *trades[which + 1 :], multiplier=multiplier)
    assert seen(undone.quantity, undone.cost, undone.realized_pnl) == (
        others.quantity,
        others.cost,
        others.realized_pnl,
    )


@THOROUGH
@given(st.lists(TRADES, min_size=1, max_size=8), st.data(), MULTIPLIERS)
def test_any_annulment_at_any_time_keeps_quantities_and_money(
    trades: list[Trade], data: st.DataObject, multiplier: Decimal
) -> None:
    position, realized, bookings = Position(), Fraction(0), []
    for trade in trades:
        bookings.append(book(position, trade, multiplier=multiplier))
        position = bookings[-1].position
        realized += Fraction(bookings[-1].realized)
    order = data.draw(st.permutations(range(len(trades))))
    annulled = order[: data.draw(st.integers(1, len(trades)))]
    for which in annulled:
        undone = undo(position, trades[which], bookings[which], multiplier=multiplier)
        position = undone.position
        realized += Fraction(undone.realized)
        assert position.is_open == (position.closed_at is None)
        assert not position.is_open or position.is_long == (position.quantity > 0)
    standing = [trade for number, trade in enumerate(trades) if number not in annulled]
    assert Fraction(position.quantity) == sum((t.side.sign * Fraction(t.quantity) for t in standing), Fraction(0))
    assert realized - Fraction(position.cost) * Fraction(multiplier) == cash_of(standing, multiplier)


def traded(*trades: tuple[Side, str, str]) -> Position:
    position = Position()
    for number, (side, quantity, price) in enumerate(trades):
        position = apply_fill(
            position,
            side=side,
            quantity=Decimal(quantity),
            price=Decimal(price),
            multiplier=Decimal(1),
            at=at(number),
            order_id=f"o{number}",
        ).position
    return position


def test_the_average_of_a_holding_and_of_none() -> None:
    assert traded((Side.BUY, "4", "10"), (Side.BUY, "4", "20")).average_price == 15
    assert Position().average_price is None


def test_the_final_average_is_that_of_an_ended_episode_only() -> None:
    held = traded((Side.BUY, "4", "10"), (Side.SELL, "1", "12"))
    assert held.final_average is None
    assert traded((Side.BUY, "4", "10"), (Side.SELL, "4", "12")).final_average == 10


def test_taking_the_only_opening_back_ends_the_episode_and_says_so() -> None:
    held = traded((Side.BUY, "4", "10"))
    booked = reverse_fill(
        held,
        side=Side.BUY,
        quantity=Decimal(4),
        price=Decimal(10),
        realized=Decimal(0),
        closed=Decimal(0),
        episode=1,
        multiplier=Decimal(1),
        at=at(9),
        order_id="o0",
    )
    assert booked.ended == booked.position
    assert not booked.position.is_open
    partly = reverse_fill(
        traded((Side.BUY, "4", "10"), (Side.BUY, "1", "10")),
        side=Side.BUY,
        quantity=Decimal(1),
        price=Decimal(10),
        realized=Decimal(0),
        closed=Decimal(0),
        episode=1,
        multiplier=Decimal(1),
        at=at(9),
        order_id="o1",
    )
    assert partly.ended is None


def test_an_opening_of_an_ended_episode_is_taken_back_as_a_trade() -> None:
    """Bought, sold, bought anew: annulling the first purchase must not touch the new episode's cost."""
    held = traded((Side.BUY, "4", "10"), (Side.SELL, "4", "12"), (Side.BUY, "6", "20"))
    assert held.episode == 2
    booked = reverse_fill(
        held,
        side=Side.BUY,
        quantity=Decimal(4),
        price=Decimal(10),
        realized=Decimal(0),
        closed=Decimal(0),
        episode=1,
        multiplier=Decimal(1),
        at=at(9),
        order_id="o0",
    )
    assert booked.position.quantity == 2
    assert booked.position.cost == 40
    assert booked.realized == (Decimal(10) - Decimal(20)) * 4


def test_an_orders_id_is_named_once_however_often_it_fills() -> None:
    position = Position()
    for _ in range(3):
        position = apply_fill(
            position,
            side=Side.BUY,
            quantity=Decimal(1),
            price=Decimal(1),
            multiplier=Decimal(1),
            at=NOW,
            order_id="same",
        ).position
    assert (position.order_ids, position.order_count) == (("same",), 1)


def test_no_digit_of_a_cost_is_lost_however_many_there_are() -> None:
    quantity, price = "123456789.123456789", "987654321.987654321"
    held = traded((Side.BUY, quantity, price))
    assert str(held.cost) == "121932631356500531.347203169112635269"
    closed = traded((Side.BUY, quantity, price), (Side.SELL, quantity, price))
    assert (closed.cost, closed.realized_pnl, closed.quantity) == (0, 0, 0)
    small = ("0.000000000000000003", "0.000000000000000007")
    closed = traded((Side.BUY, *small), (Side.SELL, *small))
    assert (closed.cost, closed.realized_pnl) == (0, 0)
