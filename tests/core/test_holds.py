"""Orders that the broker holds for the opening: what is recorded of that, when their time-out runs, what people read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brokers.base import ReportStatus, Tif
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import CancelRequested, Event, Held, Released
from execution_service.core.orders.next_step import Limits, Step, StepKind, next_step
from execution_service.core.orders.order import Hold, Order, apply, apply_all
from execution_service.core.orders.report_events import new_events
from execution_service.core.orders.status import Status
from execution_service.core.reconcile.orders import HELD_UNLISTED_AT_MOST, may_be_unlisted
from execution_service.core.texts.log import log_line
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import cancels_unconfirmed, exits_waiting, held_for_opening, order_alert
from execution_service.core.views.record import order_from_document, order_to_document
from tests.builders import (
    NOW,
    accepted,
    at,
    cancel_requested,
    cancelled,
    elapsed,
    filled_by,
    held,
    identity,
    limits,
    order,
    order_in,
    released,
    report,
    send_again_ordered,
    submit_started,
)

WORKING = order_in(Status.SUBMITTED)
HELD = apply(WORKING, held())
DEFAULT_BACKOFF = limits()


def step_of(about: Order, *, under: Limits = DEFAULT_BACKOFF, **since: float) -> Step:
    return next_step(about, NOW, elapsed(**({"sent": 1e5, "asked": 0.0} | since)), under)


# --- what a report tells ---------------------------------------------------------------------------------------------


def said(about: Order, is_held: bool | None, **changes: object) -> list[Event]:
    return new_events(about, replace(report(about), is_held=is_held, **changes), NOW)  # type: ignore[arg-type]


def test_that_an_order_is_held_is_recorded_once_in_the_brokers_words() -> None:
    assert said(WORKING, True, said="not before nine") == [Held(at=NOW, message="not before nine", until=None)]
    assert said(WORKING, True) == [Held(at=NOW, message="held for the opening", until=None)]
    assert said(HELD, True, said="in other words") == []
    assert said(HELD, None) == [], "silence ends no hold"


def test_another_time_is_recorded_and_the_hold_began_when_it_began() -> None:
    (event,) = said(HELD, True, held_until=at(60), said="at the exchange")
    assert event == Held(at=NOW, message="at the exchange", until=at(60))
    later = apply(HELD, replace(event, at=at(30)))
    assert later.hold == Hold(since=NOW, until=at(60), message="at the exchange")
    assert said(later, True, held_until=at(60)) == []
    assert said(later, True) == [], "that no time is told takes none back"
    assert said(later, True, held_until=at(90))


def test_that_the_market_has_it_ends_the_hold_and_is_no_news_otherwise() -> None:
    assert said(HELD, False, said="OPEN") == [Released(at=NOW, message="OPEN")]
    assert said(HELD, False) == [Released(at=NOW, message="the market has it")]
    assert said(WORKING, False) == []


@pytest.mark.parametrize("status", [s for s in ReportStatus if s is not ReportStatus.WORKING])
def test_an_order_that_has_ended_is_not_held(status: ReportStatus) -> None:
    events = new_events(WORKING, replace(report(WORKING, status), is_held=True), NOW)
    assert not any(isinstance(event, Held) for event in events)


def test_the_rest_of_a_partly_filled_order_may_be_held_for_the_next_opening() -> None:
    part = order_in(Status.PARTIALLY_FILLED)
    told = replace(report(part, fills=part.fills), is_held=True, said="not before nine")
    after = apply_all(part, new_events(part, told, NOW))
    assert (after.status, after.hold) == (
        Status.PARTIALLY_FILLED,
        Hold(since=NOW, until=None, message="not before nine"),
    )
    assert [type(event) for event in new_events(after, replace(told, is_held=False), NOW)] == [Released]


@pytest.mark.parametrize("status", [Status.FILLED, Status.REJECTED, Status.CANCELLED, Status.EXPIRED])
@pytest.mark.parametrize("is_held", [True, False])
def test_an_older_picture_of_an_order_that_has_ended_holds_nothing(status: Status, is_held: bool) -> None:
    ended = order_in(status)
    events = new_events(ended, replace(report(ended, fills=ended.fills), is_held=is_held), NOW)
    assert not any(isinstance(event, Held | Released) for event in events)


def test_an_order_that_turns_up_held_is_accepted_first() -> None:
    sent = order_in(Status.SUBMITTING)
    after = apply_all(sent, new_events(sent, replace(report(sent), is_held=True), NOW))
    assert (after.status, after.hold is not None) == (Status.SUBMITTED, True)


def test_an_earlier_sending_that_is_held_holds_nothing() -> None:
    again = order(events=[submit_started(), accepted()])
    first = replace(report(again), is_held=True, client_order_id=identity().client_order_id(1))
    second = replace(again, attempt=2, client_order_id=identity().client_order_id(2))
    assert not any(isinstance(event, Held) for event in new_events(second, first, NOW))


# --- what it makes of the order --------------------------------------------------------------------------------------


def test_the_time_out_counts_from_the_release() -> None:
    assert HELD.working_since == NOW
    after = apply(HELD, released(600))
    assert (after.hold, after.released_at, after.working_since) == (None, at(600), at(600))


def test_a_fill_shows_that_the_market_has_it() -> None:
    after = apply(HELD, replace(filled_by("f1", 40), at=at(600)))
    assert (after.hold, after.working_since) == (None, at(600))
    assert apply(WORKING, filled_by("f1", 40)).working_since == NOW


def test_an_end_and_another_sending_end_the_hold() -> None:
    ended = apply_all(HELD, [cancel_requested(), cancelled()])
    assert ended.hold is None
    doubtful = replace(apply(HELD, released(5)), status=Status.IN_DOUBT)
    assert apply(doubtful, send_again_ordered()).released_at is None


def test_a_hold_survives_the_store() -> None:
    kept = apply(HELD, replace(held(at(60)), at=at(1)))
    assert order_from_document(order_to_document(kept)) == kept
    back = order_from_document(order_to_document(apply(kept, released(60))))
    assert (back.hold, back.working_since) == (None, at(60))


def test_the_views_wait_for_something_else() -> None:
    for applied_event in applied_events(apply(HELD, released()), WORKING.version):
        assert not applied_event.is_shown
        assert not applied_event.is_published


# --- its time-out -----------------------------------------------------------------------------------------------------


def test_while_it_is_held_the_time_out_does_not_run() -> None:
    assert step_of(HELD).kind is StepKind.NONE
    assert step_of(HELD, opened=-1.0).kind is StepKind.NONE
    assert isinstance(step_of(WORKING).events[0], CancelRequested)


def test_it_wakes_when_the_time_out_will_be_over() -> None:
    assert step_of(HELD, opened=-1.0, asked=0.0) == Step(StepKind.NONE, wait_seconds=60.0), "others ask before that"
    assert step_of(HELD, opened=30.0, asked=0.0) == Step(StepKind.NONE, wait_seconds=30.0)
    not_known = next_step(HELD, NOW, elapsed(sent=None, opened=1e5, asked=0.0), DEFAULT_BACKOFF)
    assert not_known.kind is StepKind.NONE


def test_from_the_opening_on_it_runs() -> None:
    assert step_of(HELD, opened=59.9).kind is StepKind.NONE
    (event,) = step_of(HELD, opened=60.0).events
    assert isinstance(event, CancelRequested)
    assert step_of(HELD, opened=1e5, sent=59.0).kind is StepKind.NONE, "an opening before the sending was another one"


def test_the_old_way_is_a_setting() -> None:
    assert step_of(HELD, under=limits(counts_while_held=True)).events
    assert not step_of(HELD, under=limits(counts_while_held=True), sent=59.0).events


def test_a_held_order_that_rests_does_not_time_out_later_either() -> None:
    resting = apply(order_in(Status.SUBMITTED, tif=Tif.GTC), held())
    assert step_of(resting, opened=1e6).kind is StepKind.NONE


def test_a_held_order_is_cancelled_when_that_is_wanted() -> None:
    assert step_of(apply(HELD, cancel_requested())) == Step(StepKind.CANCEL)


def test_a_held_order_makes_nobody_ask_often() -> None:
    assert step_of(HELD, asked=59.0) == Step(StepKind.NONE, wait_seconds=1.0)
    assert step_of(HELD, asked=60.0) == Step(StepKind.CHECK)


# --- comparisons and words --------------------------------------------------------------------------------------------


def test_only_a_hold_without_a_told_end_explains_an_absence_and_not_for_ever() -> None:
    last = NOW + HELD_UNLISTED_AT_MOST
    assert may_be_unlisted(HELD, NOW)
    assert not may_be_unlisted(HELD, last)
    assert not may_be_unlisted(WORKING, NOW)
    assert not may_be_unlisted(apply(WORKING, held(at(60))), NOW)
    assert not may_be_unlisted(apply(HELD, released()), NOW)


def test_the_log_has_a_line_for_each() -> None:
    assert log_line(WORKING, held(at(60)), HELD) == (
        "Order held for the opening until 2025-03-03 15:01:00 UTC: not at the exchange before the opening",
        "order_held",
    )
    line = log_line(HELD, released(), WORKING)
    assert line == ("Order released to the market: Submitted", "order_released")
    assert order_alert(WORKING, held(), HELD, account_name="A", broker="B") is None, "told together"


def test_one_message_tells_of_many_held_orders() -> None:
    text = held_for_opening(
        [MentionedOrder(HELD, at(60))] * 30, account_name="Evening", broker="IBKR", words="not before nine"
    )
    assert "Held: 30 orders of Evening are held until 2025-03-03 15:01:00 UTC: BUY 100 AAPL (signal-1); " in text
    assert "; and 25 more" in text
    assert "Broker's words: not before nine" in text
    one = held_for_opening([MentionedOrder(HELD, None)], account_name="Evening", broker="IBKR", words="")
    assert "1 order of Evening is held until the opening: " in one


def test_one_message_tells_of_exits_and_of_cancels() -> None:
    about = order()
    several = exits_waiting(
        [MentionedOrder(about, NOW), MentionedOrder(about, None)],
        account_name="A",
        broker="B",
        reason="no calls",
        to_do="wait",
    )
    assert several.startswith("🚨 2 Exits Cannot Leave")
    assert "BUY 100 AAPL (signal-1) since 2025-03-03 15:00:00 UTC; BUY 100 AAPL (signal-1)\n" in several
    one = exits_waiting([MentionedOrder(about, NOW)], account_name="A", broker="B", reason="no calls", to_do="wait")
    assert one.startswith("🚨 Exit Cannot Leave")
    cancels = cancels_unconfirmed([MentionedOrder(about, None)], account_name="A", broker="B", times=3)
    assert "asked 3 times" in cancels
