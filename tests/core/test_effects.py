"""Which events move positions, are published, are shown and are corrections, in every status that takes them."""

from __future__ import annotations

import itertools

import pytest

from execution_service.core.errors import CoreError
from execution_service.core.orders.effects import AppliedEvent, applied_events, applied_events_since, bare
from execution_service.core.orders.events import (
    Busted,
    Cancelled,
    CancelRequested,
    CommissionReported,
    Completed,
    DeclaredCancelled,
    DeclaredNotPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Rejected,
)
from execution_service.core.orders.order import Order, apply, apply_all
from execution_service.core.orders.status import FINAL, Status
from tests.builders import (
    accepted,
    awaits_opening,
    busted,
    cancel_requested,
    cancelled,
    capped,
    commission_reported,
    filled_by,
    fitted,
    instrument_matched,
    noted,
    one_event_of_each_kind,
    order,
    order_in,
    rejected,
    sized,
    submit_started,
)


def last(about: Order) -> AppliedEvent:
    *_, applied_event = applied_events(about)
    return applied_event


def happened(about: Order, event: Event) -> AppliedEvent:
    return last(apply(about, event))


def every_happening() -> list[AppliedEvent]:
    found = []
    for status in Status:
        about = order_in(status)
        for event in one_event_of_each_kind(about).values():
            try:
                after = apply(about, event)
            except CoreError:
                continue
            found.append(AppliedEvent(after.version, about, event, after))
    return found


EVERY = every_happening()
NAMES = [f"{type(h.event).__name__}-in-{h.before.status}" for h in EVERY]


def test_the_bare_order_is_what_it_was_before_its_first_event() -> None:
    about = order()
    assert bare(apply_all(about, [submit_started(), accepted(), filled_by()])) == about


def test_happenings_tell_each_event_with_the_order_as_it_was_then() -> None:
    events = (submit_started(), accepted(), filled_by("f1", 40), filled_by("f2", 60))
    story = list(applied_events(order(events=events)))
    assert [h.number for h in story] == [1, 2, 3, 4]
    assert tuple(h.event for h in story) == events
    assert [h.after.status for h in story] == [
        Status.SUBMITTING,
        Status.SUBMITTED,
        Status.PARTIALLY_FILLED,
        Status.FILLED,
    ]
    assert all(one.after == other.before for one, other in itertools.pairwise(story))


def test_a_story_ends_with_the_order_itself() -> None:
    about = order(events=(submit_started(), accepted(), filled_by("f1", 40)))
    for after in range(3):
        *_, last = applied_events(about, after)
        assert last.after is about
    assert about.as_of(about.version) is about


def test_a_story_goes_on_from_any_earlier_state() -> None:
    about = order(events=(submit_started(), accepted(), filled_by("f1", 40), filled_by("f2", 60)))
    for number in range(about.version + 1):
        assert list(applied_events_since(about.as_of(number), about)) == list(applied_events(about, number))


def test_happenings_go_on_where_the_world_was_last_told() -> None:
    about = order(events=(submit_started(), accepted(), filled_by("f1", 40)))
    assert [h.number for h in applied_events(about, 2)] == [3]
    assert list(applied_events(about, 3)) == []


@pytest.mark.parametrize("applied_event", EVERY, ids=NAMES)
def test_a_position_moves_exactly_when_the_filled_quantity_does(applied_event: AppliedEvent) -> None:
    assert applied_event.moves_position == (applied_event.before.filled_quantity != applied_event.after.filled_quantity)


@pytest.mark.parametrize("applied_event", EVERY, ids=NAMES)
def test_published_is_what_the_contract_names_and_nothing_else(applied_event: AppliedEvent) -> None:
    match applied_event.event:
        case Filled() | Busted():
            expected = applied_event.before.filled_quantity != applied_event.after.filled_quantity
        case CommissionReported():
            expected = applied_event.before.status in FINAL
        case CancelRequested():
            expected = applied_event.before.status is Status.PENDING
        case event:
            told = (Rejected, Cancelled, Expired, Completed, Doubted, DeclaredNotPlaced, DeclaredCancelled)
            expected = isinstance(event, told)
    assert applied_event.is_published == expected


@pytest.mark.parametrize("applied_event", EVERY, ids=NAMES)
def test_every_change_to_a_final_status_or_to_doubt_is_published(applied_event: AppliedEvent) -> None:
    before, after = applied_event.before.status, applied_event.after.status
    if before is not after and (after.is_final or after is Status.IN_DOUBT):
        assert applied_event.is_published


@pytest.mark.parametrize("applied_event", EVERY, ids=NAMES)
def test_what_is_published_is_also_shown(applied_event: AppliedEvent) -> None:
    assert applied_event.is_shown or not applied_event.is_published


def test_a_late_fill_of_a_finished_order_is_a_correction() -> None:
    assert happened(order_in(Status.CANCELLED), filled_by("late", 10)).is_correction


def test_the_fill_that_finishes_an_order_is_no_correction() -> None:
    assert not happened(order_in(Status.PARTIALLY_FILLED), filled_by("f2", 60)).is_correction


@pytest.mark.parametrize("status", [Status.PARTIALLY_FILLED, Status.FILLED])
def test_the_annulment_of_a_fill_is_a_correction_in_every_status(status: Status) -> None:
    applied_event = happened(order_in(status), busted("f1"))
    assert applied_event.is_correction
    assert applied_event.is_published
    assert applied_event.moves_position


def test_the_annulment_of_a_fill_that_never_came_tells_nobody() -> None:
    applied_event = happened(order_in(Status.SUBMITTED), busted("f9"))
    assert not (applied_event.moves_position)
    assert not (applied_event.is_published)
    assert not (applied_event.is_correction)


def test_a_fill_after_its_annulment_tells_nobody() -> None:
    about = order(events=(submit_started(), accepted(), busted("f1"), filled_by("f1", 40)))
    assert not (last(about).moves_position)
    assert not (last(about).is_published)


def test_a_repeated_fill_tells_nobody() -> None:
    about = order(events=(submit_started(), accepted(), filled_by("f1", 40), filled_by("f1", 40)))
    assert not (last(about).moves_position)
    assert not (last(about).is_published)
    assert not (last(about).is_correction)


def test_a_commission_is_told_as_a_correction_once_the_order_is_finished() -> None:
    late = happened(order_in(Status.FILLED), commission_reported("f1"))
    early = happened(order_in(Status.PARTIALLY_FILLED), commission_reported("f1"))
    assert late.is_correction
    assert late.is_published
    assert not early.is_published
    assert early.is_shown


def test_a_cancel_before_sending_is_told_and_a_mere_wish_is_not() -> None:
    assert happened(order_in(Status.PENDING), cancel_requested()).is_published
    assert not happened(order_in(Status.SUBMITTED), cancel_requested()).is_published


def test_the_rest_refused_after_a_partial_fill_is_told() -> None:
    applied_event = happened(order_in(Status.PARTIALLY_FILLED), rejected(40))
    assert applied_event.after.status is Status.CANCELLED
    assert applied_event.is_published


@pytest.mark.parametrize(
    "event", [submit_started(), awaits_opening(), sized(), capped(), fitted(), instrument_matched(), noted()]
)
def test_what_concerns_nobody_outside_waits_for_the_next_showing(event: Event) -> None:
    assert not happened(order(), event).is_shown


def test_a_cancellation_is_shown_and_told() -> None:
    applied_event = happened(order_in(Status.SUBMITTED), cancelled())
    assert applied_event.is_shown
    assert applied_event.is_published
    assert not applied_event.is_correction
