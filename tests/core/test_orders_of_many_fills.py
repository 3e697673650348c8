"""An order of thousands of fills: each further event costs what the first ones did, counted in calls, not in time."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from types import FrameType

import pytest

from brokers.base import FillsShown
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Event, Filled
from execution_service.core.orders.order import Order, apply, apply_all, bare
from execution_service.core.orders.report_events import fills_are_missing, new_events
from execution_service.core.texts.log import log_line
from execution_service.core.texts.orders import order_alert
from execution_service.core.views.record import event_to_document, state_of
from tests.builders import (
    NOW,
    accepted,
    busted,
    commission_reported,
    declared_placed,
    doubted,
    fill,
    filled_by,
    noted,
    order,
    report,
    submit_started,
)

FEW, MANY = 500, 5000


def working(quantity: int = 100_000) -> Order:
    return order(quantity=quantity, events=(submit_started(), accepted()))


def of_fills(count: int, *, commission: str | None = None) -> Order:
    paid = None if commission is None else Decimal(commission)
    return apply_all(working(), (filled_by(f"f{n}", 1, commission=paid) for n in range(count)))


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, of Python or of C, and steps of generators are called for it."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


ONCE: dict[str, Callable[[Order], object]] = {
    "a fill": lambda order: apply(order, filled_by("new", 1)),
    "a fill that is known": lambda order: apply(order, filled_by("f7", 1)),
    "a commission": lambda order: apply(order, commission_reported("f77")),
    "a note": lambda order: apply(order, noted()),
    "a look for a fill": lambda order: order.fill_of("f3") or order.fill_of("none"),
    "the delivery of the last event": lambda order: list(applied_events(order, order.version - 1)),
    "the delivery of the last ten events": lambda order: list(applied_events(order, order.version - 10)),
    "what moves a position": lambda order: [h.moves_position for h in applied_events(order, order.version - 1)],
    "a report of one more fill": lambda order: new_events(
        order, report(order, fills=[fill("new", 1)], filled_quantity=9, fills_shown=FillsShown.SOME), NOW
    ),
    "a report without a fill": lambda order: new_events(order, report(order, fills_shown=FillsShown.SOME), NOW),
    "the broker's count": lambda order: fills_are_missing(order, report(order, filled_quantity=3)),
    "its amounts": lambda order: (order.average_price, order.commission, order.value),
    "since when it works": lambda order: order.working_since,
    "what is written": lambda order: (state_of(order), event_to_document(order.events[-1])),
    "a line of the log": lambda order: log_line(order, filled_by("new", 1), apply(order, filled_by("new", 1))),
    "a message to people": lambda order: order_alert(
        order, filled_by("new", 1), apply(order, filled_by("new", 1)), account_name=None, broker="MOCK"
    ),
}


@pytest.mark.parametrize("what", ONCE)
def test_what_happens_to_an_order_of_many_fills_costs_what_it_costs_one_of_few(what: str) -> None:
    few, many = of_fills(FEW), of_fills(MANY)
    assert calls_of(lambda: ONCE[what](many)) <= 1.5 * calls_of(lambda: ONCE[what](few)) + 100


def test_the_whole_life_of_an_order_grows_with_its_fills_and_not_faster() -> None:
    def live(count: int) -> int:
        def work() -> None:
            one = working()
            for number in range(count):
                event = filled_by(f"f{number}", 1)
                one = apply(one, event)
                list(applied_events(one, one.version - 1))

        return calls_of(work)

    assert live(MANY) <= 1.5 * live(FEW) * MANY / FEW


def test_deliveries_that_lag_behind_cost_what_they_deliver() -> None:
    many = of_fills(MANY)
    for behind in (1, 10, 100, 1000, MANY):
        assert calls_of(lambda behind=behind: list(applied_events(many, many.version - behind))) < 600 * (behind + 100)  # type: ignore[misc]


def test_a_report_that_shows_every_fill_costs_no_more_than_its_length() -> None:
    def cost(count: int) -> int:
        about = of_fills(count)
        shown = report(about, fills=[*about.fills, fill("new", 1)])
        return calls_of(lambda: new_events(about, shown, NOW))

    assert cost(MANY) <= 1.5 * cost(FEW) * MANY / FEW


def test_what_is_kept_of_earlier_states_is_next_to_nothing() -> None:
    many = of_fills(MANY)
    assert len(many.checkpoints) < 12
    assert not any(kept.checkpoints for kept in many.checkpoints)


# --- and it stays right ---------------------------------------------------------------------------------------------


def a_long_story() -> list[Event]:
    """Fills, repeated ones, commissions told late, told again and out of order, annulments before and after, and notes."""
    events: list[Event] = [submit_started(), accepted(), commission_reported("nobody's", "3")]
    for number in range(700):
        events.append(filled_by(f"f{number}", 1, f"10.{number % 100:02d}"))
        if number % 3 == 0:
            events.append(commission_reported(f"f{number}", f"0.{number % 10}5"))
        if number % 50 == 49:
            events += [
                commission_reported(f"f{number - 48}", "1.5"),
                filled_by(f"f{number - 20}", 1),
                busted(f"f{number - 9}"),
                busted(f"unseen-{number}"),
                filled_by(f"unseen-{number}", 1),
                noted(f"note {number}"),
            ]
    return events


def test_an_order_as_of_any_event_is_the_fold_of_the_events_until_then() -> None:
    events = a_long_story()
    whole = apply_all(working_before(), events)
    state = working_before()
    for number, event in enumerate(events, 1):
        state = apply(state, event)
        assert whole.as_of(number) == state
    assert whole.as_of(0) == bare(whole) == working_before()
    assert [h.after for h in applied_events(whole, 650)] == [whole.as_of(n) for n in range(651, len(events) + 1)]


def working_before() -> Order:
    return order(quantity=100_000)


def test_sums_that_are_carried_along_are_those_of_the_fills_that_stand() -> None:
    state = working_before()
    for event in a_long_story():
        state = apply(state, event)
        paid = sum((f.price * f.quantity for f in state.fills), Decimal(0))
        assert str(state.value) == str(paid) if state.fills else state.value is None
        assert state.average_price == (paid / state.filled_quantity if state.filled_quantity else None)
        fees = sum((f.commission for f in state.fills if f.commission is not None), Decimal(0))
        assert str(state.commission) == str(fees)
        assert state.filled_quantity == sum(f.quantity for f in state.fills)
        assert all(state.fill_of(f.fill_id) is f for f in state.fills[-60:])


def test_since_when_it_works_follows_the_last_word_of_a_person() -> None:
    told = replace(declared_placed(), at=NOW.replace(minute=5))
    doubtful = order(events=(submit_started(), doubted(), told, noted()))
    assert doubtful.working_since == told.at


@pytest.mark.parametrize("names", list(itertools.permutations(["a", "b", "c"])))
def test_two_futures_of_one_order_do_not_see_each_others_fills(names: tuple[str, ...]) -> None:
    """What is worked out and then not recorded leaves no trace in the order that it was worked out from."""
    one = of_fills(3)
    first = apply_all(one, [filled_by(name, 1) for name in names])
    second = apply_all(one, [filled_by(name, 2) for name in reversed(names)])
    third = apply_all(one, [busted("f1"), *(filled_by(name, 3) for name in names)])
    for about, quantity in ((first, 1), (second, 2), (third, 3)):
        held = {name: about.fill_of(name) for name in names}
        assert {name: found and found.quantity for name, found in held.items()} == dict.fromkeys(
            names, Decimal(quantity)
        )
        assert apply(about, filled_by(names[0], 9)).filled_quantity == about.filled_quantity, "a known fill"
    assert all(one.fill_of(name) is None for name in names)
    assert third.fill_of("f1") is None
    assert second.fill_of("f1") is not None


def test_an_order_whose_fills_were_put_in_by_hand_finds_them() -> None:
    made = replace(working(), fills=(fill("x", 1), fill("y", 2)))
    assert made.fill_of("x") == fill("x", 1)
    assert made.fill_of("y") == fill("y", 2)
    assert isinstance(apply(made, filled_by("x", 1)).events[-1], Filled)
    assert apply(made, filled_by("x", 1)).fills == made.fills
