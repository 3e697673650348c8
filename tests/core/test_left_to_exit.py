"""Exits at work are asked down to what is left, whatever they are and whatever took it."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.exact import ZERO
from execution_service.core.orders.events import CancelRequested, Noted
from execution_service.core.orders.exits_at_work import (
    OPENED,
    OVERTAKEN,
    Left,
    excess_exits,
    left_of_entries,
    taken_beyond,
)
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import AT_WORK, Reason, ReasonCode, Status
from tests.builders import NOW, accepted, filled_by, identity, order, submit_started


def entry(filled: int) -> Order:
    made = order(of=identity("in"), events=(submit_started(), accepted()))
    return apply(made, filled_by("entry", filled)) if filled else made


def exit_of(number: int, quantity: int, filled: int = 0, status: Status = Status.SUBMITTED) -> Order:
    events = () if status is Status.PENDING else (submit_started(), accepted())
    of = identity(f"out-{number}", purpose=Purpose.EXIT)
    made = order(of=of, events=events, quantity=Decimal(quantity), side=Side.SELL, entry_refs=("in",))
    return apply(made, filled_by(f"fill-{number}", filled)) if filled else made


def asked_to_end(working: Order) -> Order:
    return apply(working, CancelRequested(at=NOW, reason=Reason(ReasonCode.REDUCE_ONLY, ""), requested_by="us"))


EXITS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 40), st.sampled_from([Status.SUBMITTED, Status.PENDING])), max_size=6
)


@given(st.integers(0, 100), EXITS)
def test_what_works_on_never_takes_more_than_is_left(filled: int, drawn: list[tuple[int, int, Status]]) -> None:
    exits = [
        exit_of(n, quantity, min(done, quantity - 1) if status is Status.SUBMITTED else 0, status)
        for n, (quantity, done, status) in enumerate(drawn)
    ]
    for each_exit in exits:
        left = left_of_entries(each_exit, [entry(filled)], exits)
        assert left is not None
        assert left.quantity == filled - sum(each.filled_quantity for each in exits)
        chosen = {each.order.order_id for each in excess_exits(exits, left)}
        at_work = [each for each in exits if each.status in AT_WORK]
        stays = [each for each in at_work if each.order_id not in chosen]
        assert sum((each.remaining_quantity for each in stays), ZERO) <= max(ZERO, left.quantity)
        assert chosen <= {each.order_id for each in at_work}
        fits = sum((each.remaining_quantity for each in at_work), ZERO) <= max(ZERO, left.quantity)
        assert not (fits and chosen)
        after = [asked_to_end(each) if each.order_id in chosen else each for each in exits]
        assert not excess_exits(after, left)


def test_an_exit_of_what_is_none_of_ours_is_limited_by_no_entry() -> None:
    assert left_of_entries(exit_of(1, 10), [], [exit_of(1, 10)]) is None


def test_the_smallest_that_will_do_is_cancelled_with_the_numbers() -> None:
    (found,) = excess_exits([exit_of(1, 20), exit_of(2, 30), exit_of(3, 40)], Left(Decimal(60), "why"))
    assert found.order.signal_id == "out-2"
    assert found.why == (
        "why: 60 is left, and exits at work may take 90; cancelled with 30 open, and no exit at work covers 0 then"
    )


def told(exit_: Order, words: str) -> Order:
    return apply(exit_, Noted(at=NOW, message=words, alert=True))


def test_the_last_to_fill_beyond_what_there_was_is_told_of_once_for_each_fill() -> None:
    left, first, last = Left(Decimal(-5), "why"), exit_of(1, 10, 5), exit_of(2, 10, 5)
    found = taken_beyond([last, first], left, None)
    assert found is not None
    order, words = found
    assert order is last
    assert words.startswith(OPENED)
    assert "why, so 5 too much" in words
    assert "before its cancel" not in words
    assert taken_beyond([first, told(last, words)], left, None) is None
    again = apply(told(last, words), filled_by("another", 1))
    assert taken_beyond([first, again], left, None) is not None


def test_what_was_asked_to_end_is_said_to_have_filled_before_that() -> None:
    found = taken_beyond([asked_to_end(exit_of(1, 10, 5))], Left(Decimal(-5), "why"), None)
    assert found is not None
    assert "before its cancel took effect" in found[1]


def test_what_has_taken_no_more_than_there_was_is_not_told_of() -> None:
    assert taken_beyond([exit_of(1, 10, 5)], Left(ZERO, "why"), None) is None
    assert taken_beyond([exit_of(1, 10)], Left(Decimal(-5), "why"), None) is None


def test_only_who_holds_the_other_side_has_opened_a_position() -> None:
    for held, beginning in ((Decimal(-5), OPENED), (ZERO, OVERTAKEN), (Decimal(5), OVERTAKEN)):
        found = taken_beyond([exit_of(1, 10, 5)], Left(Decimal(-5), "why"), held)
        assert found is not None
        assert found[1].startswith(beginning)
