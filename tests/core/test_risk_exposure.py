"""Projected exposure and exits: worked examples, and a naive second reckoning of every fill that could happen as an oracle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.risk.exposure import (
    Holding,
    Line,
    Reservation,
    exit_room,
    exposure,
    in_currency,
    reduced,
    released,
    reserved,
    working_quantity,
)
from execution_service.core.risk.limits import Scope
from tests.core.risk_cases import ACCOUNT, KEY, STRATEGY, holding, works

BUY, SELL = Side.BUY, Side.SELL
OF_ACCOUNT = Scope(account_id=ACCOUNT)
THOROUGH = settings(max_examples=300, deadline=None)


# --- exits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "side", "working", "most", "room"),
    [
        (100, SELL, 0, None, 100),
        (100, SELL, 60, None, 40),
        (100, SELL, 100, None, 0),
        (100, SELL, 130, None, 0),
        (100, BUY, 0, None, 0),
        (-100, BUY, 0, None, 100),
        (-100, BUY, 25, None, 75),
        (-100, SELL, 0, None, 0),
        (0, SELL, 0, None, 0),
        (0, BUY, 0, None, 0),
        (None, SELL, 0, None, 0),
        (None, SELL, 0, 50, 0),
        (100, SELL, 0, 30, 30),
        (100, SELL, 80, 30, 20),
        (100, SELL, 0, 0, 0),
        (100, SELL, 0, -5, 0),
        (100, SELL, 0, 500, 100),
    ],
)
def test_an_exit_takes_no_more_than_the_position_less_all_that_works_on_its_side(
    held: int | None, side: Side, working: int, most: int | None, room: int
) -> None:
    known = None if held is None else Decimal(held)
    assert exit_room(known, side, Decimal(working), None if most is None else Decimal(most)) == room


@THOROUGH
@given(st.integers(-50, 50), st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 40)), max_size=6), st.data())
def test_whatever_fills_exits_never_take_a_position_past_zero(
    held: int, wanted: list[tuple[Side, int]], data: st.DataObject
) -> None:
    """Orders that are exits by the room that is left, in any sequence, each filling in whole, in part or not at all."""
    working = {BUY: Decimal(0), SELL: Decimal(0)}
    exits: list[tuple[Side, int]] = []
    for side, quantity in wanted:
        if quantity <= exit_room(Decimal(held), side, working[side]):
            working[side] += quantity
            exits.append((side, quantity))
    position = held
    for side, quantity in data.draw(st.permutations(exits)):
        position += side.sign * data.draw(st.integers(0, quantity))
    assert min(0, held) <= position <= max(0, held)


# --- an oracle: every fill that could happen, one by one ---------------------------------------------------------------


def outcomes(holdings: Iterable[Holding], orders: list[Reservation]) -> Iterator[dict[tuple[str, str], Decimal]]:
    """What could be held after every combination of orders that fill in whole or not at all."""
    for filled in product((False, True), repeat=len(orders)):
        held = {(h.strategy, h.instrument_key): h.quantity or Decimal(0) for h in holdings}
        for order, is_filled in zip(orders, filled, strict=True):
            key = (order.strategy, order.instrument_key)
            held[key] = held.get(key, Decimal(0)) + (order.quantity * order.side.sign if is_filled else 0)
        yield held


PRICES = {"A": Decimal(10), "B": Decimal(7)}
quantities = st.integers(1, 20).map(Decimal)
some_holdings = st.dictionaries(st.tuples(st.sampled_from("xy"), st.sampled_from("AB")), st.integers(-20, 20)).map(
    lambda d: [
        Holding(strategy=s, instrument_key=k, symbol=k, quantity=Decimal(q), unit_value=PRICES[k])
        for (s, k), q in d.items()
    ]
)
some_orders = st.lists(
    st.tuples(st.sampled_from("xy"), st.sampled_from("AB"), st.sampled_from(Side), quantities), max_size=5
).map(
    lambda some: [
        works(q, side, name=f"o{n}", strategy=s, instrument_key=k, symbol=k, unit_value=PRICES[k])
        for n, (s, k, side, q) in enumerate(some)
    ]
)


@THOROUGH
@given(some_holdings, some_orders)
def test_projected_exposure_is_the_worst_that_any_fills_could_bring(
    holdings: list[Holding], orders: list[Reservation]
) -> None:
    found = exposure(holdings, orders)
    after = list(outcomes(holdings, orders))
    for strategy in ("x", "y"):
        for key in ("A", "B"):
            worst_long = max(max(held.get((strategy, key), Decimal(0)), Decimal(0)) for held in after)
            worst_short = max(max(-held.get((strategy, key), Decimal(0)), Decimal(0)) for held in after)
            assert found.position_quantity(key, strategy, BUY) == worst_long
            assert found.position_quantity(key, strategy, SELL) == worst_short
            assert found.position_value(key, strategy, BUY) == worst_long * PRICES[key]
            assert found.position_value(key, strategy, SELL) == worst_short * PRICES[key]
            within = Scope(account_id=ACCOUNT, strategy=strategy, symbol=key)
            assert found.gross(within) == max(worst_long, worst_short) * PRICES[key]
            net = [held.get((strategy, key), Decimal(0)) * PRICES[key] for held in after]
            assert found.net(within) == max(abs(each) for each in net)
    whole = [sum((held[k] * PRICES[k[1]] for k in held), Decimal(0)) for held in after]
    assert found.net(OF_ACCOUNT) == max(abs(each) for each in whole)
    gross = [sum((abs(held[k]) * PRICES[k[1]] for k in held), Decimal(0)) for held in after]
    worst = found.gross(OF_ACCOUNT)
    assert worst is not None
    assert worst >= max(gross)  # lines are at their worst together
    by_line = [max(abs(held.get(line, Decimal(0))) * PRICES[line[1]] for held in after) for line in product("xy", "AB")]
    assert worst == sum(by_line)


@THOROUGH
@given(some_holdings, some_orders)
def test_an_order_added_alone_is_the_same_as_all_of_them_at_once(
    holdings: list[Holding], orders: list[Reservation]
) -> None:
    one_by_one = exposure(holdings, ())
    for order in orders:
        one_by_one = one_by_one.plus(order)
    at_once = exposure(holdings, orders)
    assert sorted(one_by_one.lines, key=lambda line: (line.strategy, line.instrument_key)) == sorted(
        at_once.lines, key=lambda line: (line.strategy, line.instrument_key)
    )


@THOROUGH
@given(some_holdings, some_orders, st.sampled_from("xy"), st.sampled_from("AB"), quantities)
def test_an_exit_raises_no_position_and_no_gross_exposure_of_anybody(
    holdings: list[Holding], orders: list[Reservation], strategy: str, key: str, quantity: Decimal
) -> None:
    before = exposure(holdings, orders)
    (line,) = before.plus(works(0, name="probe", strategy=strategy, instrument_key=key)).of_instrument(key, strategy)
    held = line.held or Decimal(0)
    side = SELL if held > 0 else BUY
    room = exit_room(held, side, working_quantity(orders, strategy, key, side))
    if quantity > room:
        return
    leaving = works(
        quantity,
        side,
        name="exit",
        strategy=strategy,
        instrument_key=key,
        symbol=key,
        unit_value=PRICES[key] * 3,
    )
    after = before.plus(leaving)
    for whose in (None, strategy):
        for way in Side:
            assert after.position_quantity(key, whose, way) == before.position_quantity(key, whose, way)
            assert after.position_value(key, whose, way) == before.position_value(key, whose, way)
        assert after.gross(Scope(strategy=whose)) == before.gross(Scope(strategy=whose))


# --- worked examples -------------------------------------------------------------------------------------------------


def test_strategies_are_not_netted_against_each_other() -> None:
    """Either may leave at any time, and the other's position is what remains."""
    found = exposure([holding(100), holding(-100, strategy="other")], ())
    assert found.position_quantity(KEY, None, BUY) == 100
    assert found.position_quantity(KEY, None, SELL) == 100
    assert found.gross(OF_ACCOUNT) == 2000
    assert found.net(OF_ACCOUNT) == 0


def test_a_sale_that_flips_counts_by_what_it_opens() -> None:
    found = exposure([holding(3)], [works(10, SELL, price=12)])
    assert found.position_quantity(KEY, STRATEGY, SELL) == 7
    assert found.position_value(KEY, STRATEGY, SELL) == 84
    assert found.position_value(KEY, STRATEGY, BUY) == 30
    assert found.gross(OF_ACCOUNT) == 84


def test_what_closes_the_other_side_adds_no_value() -> None:
    found = exposure([holding(-10)], [works(10, BUY, price=99)])
    assert found.position_value(KEY, STRATEGY, BUY) == 0
    assert found.gross(OF_ACCOUNT) == 100


def test_each_order_counts_at_its_own_price_and_what_opens_at_the_dearest() -> None:
    more = exposure([holding(10)], [works(5, price=11), works(5, price=13, name="o2")])
    assert more.position_value(KEY, STRATEGY, BUY) == 100 + 55 + 65
    short = exposure([], [works(5, SELL, price=13), works(5, SELL, price=11, name="o2")])
    assert short.position_value(KEY, STRATEGY, SELL) == 130
    opened = exposure([holding(-4)], [works(5, price=13), works(5, price=11, name="o2")])
    assert opened.position_value(KEY, STRATEGY, BUY) == 6 * 13


def test_an_unknown_quantity_is_never_nothing() -> None:
    found = exposure([holding(None)], [works(5)])
    assert found.position_quantity(KEY, STRATEGY, BUY) is None
    assert found.position_quantity(KEY, STRATEGY, SELL) is None
    assert found.position_value(KEY, STRATEGY, BUY) is None
    assert found.position_value(KEY, STRATEGY, SELL) is None
    assert found.gross(OF_ACCOUNT) is None
    assert found.net(OF_ACCOUNT) is None
    assert found.gross(Scope(strategy="other")) == 0


def test_an_unknown_price_makes_unknown_only_what_needs_it() -> None:
    held = exposure([holding(5, price=None)], ())
    assert held.position_quantity(KEY, STRATEGY, BUY) == 5
    assert held.position_value(KEY, STRATEGY, BUY) is None
    assert held.position_value(KEY, STRATEGY, SELL) == 0
    assert (held.gross(OF_ACCOUNT), held.net(OF_ACCOUNT)) == (None, None)
    working = exposure([holding(5)], [works(1, price=None)])
    assert working.position_value(KEY, STRATEGY, BUY) is None
    assert working.position_value(KEY, STRATEGY, SELL) == 0
    assert (working.gross(OF_ACCOUNT), working.net(OF_ACCOUNT)) == (None, None)
    covered = exposure(
        [holding(-10)], [works(5, price=None)]
    )  # it only closes, so what it costs matters to no position
    assert covered.position_value(KEY, STRATEGY, BUY) == 0
    assert covered.gross(OF_ACCOUNT) == 100
    sold = exposure([holding(5)], [works(6, SELL, price=None)])
    assert sold.gross(OF_ACCOUNT) is None
    assert sold.position_value(KEY, STRATEGY, SELL) is None
    assert sold.net(OF_ACCOUNT) is None
    flat = exposure([holding(0, price=None)], ())
    assert (flat.gross(OF_ACCOUNT), flat.net(OF_ACCOUNT)) == (0, 0)


def test_an_empty_account_has_no_exposure() -> None:
    assert exposure((), ()).gross(OF_ACCOUNT) == 0
    assert Line(strategy="s", instrument_key="k", symbol="k").gross == 0


def test_amounts_are_exact_however_long() -> None:
    many = Decimal("999999999999999999")
    found = exposure([holding(many, price="0.123456789012345678")], [works(many, price="0.123456789012345678")])
    value = found.position_value(KEY, STRATEGY, BUY)
    assert str(value) == "246913578024691355.753086421975308644"


# --- reservations ----------------------------------------------------------------------------------------------------


def test_an_order_reserves_once_shrinks_with_its_fills_and_is_released() -> None:
    some = reserved(reserved((), works(100, name="a")), works(50, name="b"))
    assert [(each.order_id, each.quantity) for each in some] == [("a", 100), ("b", 50)]
    again = reserved(some, works(70, name="a"))
    assert [(each.order_id, each.quantity) for each in again] == [("b", 50), ("a", 70)]
    part = reduced(again, {"a": Decimal(30)})
    assert [(each.order_id, each.quantity) for each in part] == [("b", 50), ("a", 30)]
    assert [each.order_id for each in reduced(part, {"a": Decimal(0)})] == ["b"]
    assert [each.order_id for each in released(part, "b")] == ["a"]
    assert reduced(part, {"unknown": Decimal(5)}) == part
    assert [each.quantity for each in reduced(part, {"a": Decimal("0.001")})] == [50, Decimal("0.001")]


def test_what_works_is_counted_by_strategy_instrument_and_side() -> None:
    some = [
        works(10, name="a"),
        works(20, name="b"),
        works(40, SELL, name="c"),
        works(80, name="d", strategy="other"),
        works(160, name="e", instrument_key="other"),
    ]
    assert working_quantity(some, STRATEGY, KEY, BUY) == 30
    assert working_quantity(some, STRATEGY, KEY, SELL) == 40


def test_a_reservation_without_a_price_has_no_value() -> None:
    assert works(5, price=None).value is None
    assert works(5, price=3).value == 15


# --- currencies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "currency", "wanted", "found"),
    [
        (10, "USD", "USD", 10),
        (10, "EUR", "USD", 11),
        (10, "INR", "USD", None),
        (10, None, "USD", None),
        (10, "USD", None, None),
        (10, None, None, None),
        (None, "USD", "USD", None),
    ],
)
def test_no_amount_is_carried_into_another_currency_without_a_rate(
    amount: int | None, currency: str | None, wanted: str | None, found: int | None
) -> None:
    known = None if amount is None else Decimal(amount)
    assert in_currency(known, currency, wanted, {"EUR": Decimal("1.1")}) == found
