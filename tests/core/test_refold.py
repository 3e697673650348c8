"""Positions folded again from the records are those that the ledger made when the fills came."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.positions.ledger import LedgerEntry, Line, fold, key_of
from execution_service.core.positions.position import Position
from execution_service.core.views.refold import OrderWithLines, as_last_shown, corrected, refolded
from tests.builders import accepted, busted, contract_declared, filled_by, identity, order, submit_started


def traded(number: int, side: Side, quantity: int, price: str, *, is_busted: bool = False) -> Order:
    """An order with one fill, which the venue may have annulled later."""
    fresh = order(of=identity(f"signal-{number}"), side=side, quantity=Decimal(quantity))
    events = [submit_started(), accepted(f"B-{number}"), filled_by(f"f-{number}", quantity, price)]
    return apply_all(fresh, [*events, *([busted(f"f-{number}")] if is_busted else [])])


def booked(orders: list[Order]) -> tuple[LedgerEntry, list[OrderWithLines], dict[int, Position]]:
    """The ledger's entry after all fills and then all annulments came one by one, each order's lines, and every episode that ended."""
    entry = LedgerEntry(key=key_of(orders[0]), instrument=orders[0].accepted_request.instrument)
    lines: dict[str, dict[int, Line]] = {one.order_id: {} for one in orders}
    ended: dict[int, Position] = {}
    steps = [(one, h) for one in orders for h in applied_events(one)]
    fills = [step for step in steps if type(step[1].event).__name__ == "Filled"]
    busts = [step for step in steps if type(step[1].event).__name__ == "Busted"]
    for one, applied_event in [*fills, *busts]:
        entry, lines[one.order_id] = fold(entry, one, (applied_event,), lines[one.order_id])
        ended.update((p.episode, p) for p in entry.ended)
        entry = replace(entry, ended=())
    return entry, [OrderWithLines(one, lines[one.order_id]) for one in orders], ended


TRADES = st.lists(
    st.tuples(st.sampled_from(Side), st.integers(1, 4), st.sampled_from(("10", "10.25", "9.5")), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(trades=TRADES, mixing=st.randoms(use_true_random=False))
def test_every_episode_comes_out_as_it_was_whatever_order_the_records_are_read_in(trades, mixing) -> None:  # type: ignore[no-untyped-def]
    orders = [traded(n, side, q, price, is_busted=b) for n, (side, q, price, b) in enumerate(trades)]
    entry, bookings, ended = booked(orders)
    mixing.shuffle(bookings)
    whole, contradictions = refolded(entry, bookings)
    assert contradictions == ()
    assert whole.position == entry.position
    assert {p.episode: p for p in whole.ended} == ended


@given(trades=TRADES)
def test_what_a_contract_is_worth_may_be_said_afterwards_and_the_books_are_as_if_it_had_been_known(trades) -> None:  # type: ignore[no-untyped-def]
    orders = [traded(n, side, q, price, is_busted=b) for n, (side, q, price, b) in enumerate(trades)]
    declared = [apply_all(one, [contract_declared(50)]) for one in orders]
    entry, bookings, _ = booked(orders)
    wanted, of_then, _ = booked(declared)
    later = [OrderWithLines(one, booking.lines) for one, booking in zip(declared, bookings, strict=True)]
    better = corrected(entry, later)
    assert better is not None
    assert (better.entry.position, better.entry.terms) == (wanted.position, wanted.terms)
    lines = [dict(b.lines) | dict(better.lines.get(b.order.order_id, {})) for b in later]
    assert lines == [dict(booking.lines) for booking in of_then]
    again = [OrderWithLines(one, own) for one, own in zip(declared, lines, strict=True)]
    assert corrected(better.entry, again) is None
    assert refolded(better.entry, again)[1] == ()


def test_nothing_is_corrected_where_the_records_contradict_the_entry() -> None:
    orders = [traded(1, Side.BUY, 2, "10"), traded(2, Side.SELL, 2, "11")]
    entry, bookings, _ = booked(orders)
    declared = [OrderWithLines(apply_all(b.order, [contract_declared()]), b.lines) for b in bookings]
    assert corrected(entry, declared) is not None
    assert corrected(entry, declared[:1]) is None


def test_a_line_that_says_something_else_is_a_contradiction() -> None:
    orders = [traded(1, Side.BUY, 2, "10"), traded(2, Side.SELL, 2, "11")]
    entry, bookings, _ = booked(orders)
    (number, line), *_ = bookings[1].lines.items()
    bookings[1] = OrderWithLines(orders[1], {number: replace(line, realized=Decimal(5))})
    (sentence,) = refolded(entry, bookings)[1]
    assert "realised 5" in sentence
    assert orders[1].order_id in sentence


def test_a_missing_order_is_a_contradiction_and_the_stored_position_stays() -> None:
    orders = [traded(1, Side.BUY, 2, "10"), traded(2, Side.BUY, 3, "11")]
    entry, bookings, _ = booked(orders)
    whole, contradictions = refolded(entry, bookings[:1])
    assert len(contradictions) == 1
    assert whole.position == entry.position


def test_lines_that_came_after_the_entry_was_read_are_left_out() -> None:
    orders = [traded(1, Side.BUY, 2, "10"), traded(2, Side.SELL, 2, "11")]
    before, _, _ = booked(orders[:1])
    _, bookings, _ = booked(orders)
    whole, contradictions = refolded(before, bookings)
    assert contradictions == ()
    assert whole.ended == ()


@pytest.mark.parametrize(("told", "filled", "realized"), [(3, "40", "1"), (4, "70", "3"), (9, "70", "3")])
def test_an_order_is_shown_as_the_world_was_told_of_it(told: int, filled: str, realized: str) -> None:
    events = [submit_started(), accepted(), filled_by("f1", 40), filled_by("f2", 30)]
    lines = {3: Line(3, 1, 1, Decimal(1)), 4: Line(4, 2, 1, Decimal(2))}
    shown = as_last_shown(OrderWithLines(apply_all(order(), events), lines), told)
    assert shown is not None
    assert (shown.order.filled_quantity, shown.realized_pnl) == (Decimal(filled), Decimal(realized))


def test_an_order_nobody_was_told_of_is_not_shown() -> None:
    assert as_last_shown(OrderWithLines(order(), {}), 0) is None
