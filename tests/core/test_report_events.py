"""What a report of the broker tells that is new: each statement in each status, lists that show all executions, and what ends an order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import Fill, FillsShown, Report, ReportStatus
from execution_service.core.orders.events import (
    Accepted,
    Busted,
    Cancelled,
    CancelRequested,
    CommissionReported,
    Event,
    Expired,
    Filled,
    Noted,
    Rejected,
)
from execution_service.core.orders.legs import pending_legs
from execution_service.core.orders.next_step import Elapsed, Limits, Step, StepKind, cancel_request, is_stale, next_step
from execution_service.core.orders.order import Order, apply, apply_all
from execution_service.core.orders.report_events import fills_are_missing, is_of_another, is_short, new_events
from execution_service.core.orders.status import FINAL, Reason, ReasonCode, Status
from tests.builders import (
    NOW,
    accepted,
    at,
    busted,
    cancel_requested,
    cancelled,
    declared_placed,
    doubted,
    elapsed,
    fill,
    filled_by,
    identity,
    limits,
    noted,
    nothing_sent,
    order,
    order_in,
    rejected,
    report,
    send_again_ordered,
    submit_started,
)

WORKING_STATUSES = (Status.SUBMITTED, Status.PARTIALLY_FILLED)

UNACCEPTED_STATUSES = (Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT)

UNFINISHED = tuple(s for s in Status if not s.is_final)

WORK, END = ReportStatus.WORKING, ReportStatus.CANCELLED

IDS = ("B-0", "B-1", "B-2")


@pytest.mark.parametrize("microsecond", [123_000, 123_999])
def test_fill_times_are_kept_in_whole_milliseconds(microsecond: int) -> None:
    moment = datetime(2025, 3, 3, 15, 0, 1, microsecond, tzinfo=UTC)
    working = order_in(Status.SUBMITTED)
    (event,) = new_events(working, report(working, fills=[fill(time=moment)]), NOW)
    assert isinstance(event, Filled)
    assert event.fill.time == moment.replace(microsecond=123_000)


@pytest.mark.parametrize(
    ("status", "kind", "code", "words"),
    [
        (ReportStatus.REJECTED, Rejected, ReasonCode.BROKER_REJECTED, "the broker gave no reason"),
        (ReportStatus.EXPIRED, Expired, ReasonCode.BROKER_EXPIRED, "the order expired at the venue"),
        (ReportStatus.CANCELLED, Cancelled, ReasonCode.BROKER_CANCELLED, "cancelled by the broker or the venue"),
    ],
)
def test_an_end_says_why(
    status: ReportStatus, kind: type[Rejected | Expired | Cancelled], code: ReasonCode, words: str
) -> None:
    working = order_in(Status.SUBMITTED)
    (event,) = new_events(working, report(working, status, reason="no margin"), NOW)
    assert isinstance(event, kind)
    assert (event.reason.code, event.reason.message) == (code, "no margin")
    (event,) = new_events(working, report(working, status), NOW)
    assert isinstance(event, kind)
    assert (event.reason.code, event.reason.message) == (code, words)


def test_an_order_done_with_less_is_the_brokers_cancellation() -> None:
    held = order(events=(submit_started(), accepted(), filled_by("f1", 60), filled_by("f2", 40), busted("f2")))
    (event,) = new_events(held, report(held, ReportStatus.FILLED, [fill("f1", 60)], busted=["f2"]), NOW)
    assert isinstance(event, Cancelled)
    assert event.reason.code is ReasonCode.BROKER_CANCELLED


def test_an_order_working_against_our_record_is_told_to_people_once() -> None:
    gone = apply_all(order(), (submit_started(), Rejected(at=NOW, reason=order_in(Status.REJECTED).reason)))  # type: ignore[arg-type]
    seen = report(gone)
    (event,) = new_events(gone, seen, NOW)
    assert isinstance(event, Noted)
    assert event.alert
    assert new_events(apply(gone, event), seen, NOW) == []


def test_a_remark_is_made_although_another_was_made_before() -> None:
    gone = apply(order_in(Status.REJECTED, filled=0), noted("another remark"))
    nameless = replace(gone, broker_order_id=None)
    assert [type(event) for event in new_events(nameless, report(nameless), NOW)] == [Noted]


def test_annulments_are_told_in_the_order_of_their_ids() -> None:
    fills = tuple(filled_by(f"f{n}", 1) for n in range(30))
    held = order(events=(submit_started(), accepted(), *fills))
    told = new_events(held, report(held, busted=[f"f{n}" for n in range(30)]), NOW)
    ids = [event.fill_id for event in told if isinstance(event, Busted)]
    assert ids == sorted(f"f{n}" for n in range(30))


@pytest.mark.parametrize("events", [(), (filled_by("f1", 10),)], ids=["submitted", "partly filled"])
def test_an_id_that_comes_late_is_taken_and_only_from_the_present_attempt(events: tuple[Filled, ...]) -> None:
    nameless = order(events=(submit_started(), accepted(broker_order_id=None), *events))  # type: ignore[arg-type]
    shown = [event.fill for event in events]
    assert [type(e) for e in new_events(nameless, report(nameless, fills=shown, broker_order_id="B-7"), NOW)] == [
        Accepted
    ]
    assert new_events(nameless, report(nameless, fills=shown, broker_order_id=""), NOW) == []
    other = report(nameless, fills=shown, broker_order_id="B-7", client_order_id="xanother")
    assert not any(isinstance(e, Accepted) for e in new_events(nameless, other, NOW))


def test_an_earlier_attempts_id_is_not_taken_for_the_present_one() -> None:
    first = order_in(Status.IN_DOUBT)
    nameless = apply_all(first, (send_again_ordered(), submit_started(), accepted(broker_order_id=None)))  # type: ignore[arg-type]
    told = new_events(nameless, report(first, broker_order_id="B-1"), NOW)
    assert [type(event) for event in told] == [Noted]


def test_a_fill_of_an_earlier_attempt_is_told_to_people_once() -> None:
    first = order_in(Status.IN_DOUBT)
    again = apply_all(first, (send_again_ordered(), submit_started(), accepted("B-2")))
    filled, note = new_events(again, report(first, ReportStatus.FILLED, [fill("f1", 40)]), NOW)
    assert isinstance(filled, Filled)
    assert isinstance(note, Noted)
    assert note.alert
    assert "both may fill" in note.message
    more = report(first, ReportStatus.FILLED, [fill("f1", 40), fill("f2", 10)])
    assert [type(event) for event in new_events(apply_all(again, (filled, note)), more, NOW)] == [Filled]


def test_fills_of_another_attempt_are_no_part_of_a_reports_count() -> None:
    again = apply_all(
        order_in(Status.IN_DOUBT), (send_again_ordered(), submit_started(), accepted("B-2"), filled_by("f1"))
    )
    assert fills_are_missing(again, report(again, filled_quantity=40)) is True
    assert fills_are_missing(again, report(again)) is False
    assert fills_are_missing(again, report(again, fills=[fill("f1", 40)])) is False


DONE = ReportStatus.FILLED


def test_complete_with_nothing_is_a_count_that_is_still_to_come() -> None:
    about = order_in(Status.SUBMITTED)
    assert fills_are_missing(about, report(about, DONE))
    assert not fills_are_missing(about, report(about))
    assert not fills_are_missing(about, report(about, DONE, busted=["f1"]))
    annulled = apply_all(about, [filled_by("f1", 40), busted("f1")])
    assert not fills_are_missing(annulled, report(annulled, DONE))
    filled = order_in(Status.PARTIALLY_FILLED)
    assert not fills_are_missing(filled, report(filled, DONE, filled.fills))


def test_short_is_what_the_broker_calls_complete_with_less_and_shows_whole() -> None:
    about = order_in(Status.PARTIALLY_FILLED)
    assert is_short(about, report(about, DONE, about.fills))
    assert is_short(about, report(about, DONE, about.fills, client_order_id=""))
    assert not is_short(about, report(about, ReportStatus.WORKING, about.fills))
    assert not is_short(about, report(about, DONE, about.fills, filled_quantity=60))
    assert not is_short(about, report(about, DONE, about.fills, client_order_id="another-tag"))
    ended = order_in(Status.FILLED)
    assert not is_short(ended, report(ended, DONE, ended.fills))


def test_the_brokers_own_id_of_an_order_takes_the_place_of_one_that_a_person_misread() -> None:
    misread = apply_all(order_in(Status.IN_DOUBT), [declared_placed("B-misread"), noted()])
    partly = apply(misread, filled_by("f1", 40))
    for about in (misread, partly):
        (found,) = new_events(about, report(about, fills=about.fills, broker_order_id="B-real"), NOW)
        assert isinstance(found, Accepted)
        assert found.broker_order_id == "B-real"
        assert new_events(about, report(about, fills=about.fills, broker_order_id=""), NOW) == []
        assert new_events(about, report(about, fills=about.fills, broker_order_id="B-misread"), NOW) == []
        known = apply(about, found)
        assert new_events(known, report(known, fills=known.fills, broker_order_id="B-other"), NOW) == []
    ended = apply(misread, cancelled())
    assert new_events(ended, report(ended, ReportStatus.CANCELLED, broker_order_id="B-real"), NOW) == []


def test_an_earlier_sendings_id_is_not_that_of_the_one_that_was_declared_placed() -> None:
    first = order_in(Status.IN_DOUBT)
    again = apply_all(first, [send_again_ordered(), submit_started(), doubted(), declared_placed("B-2")])
    told = new_events(again, report(first, ReportStatus.CANCELLED, broker_order_id="B-1"), NOW)
    assert not [event for event in told if isinstance(event, Accepted)]


def step_of(about: Order, since: Elapsed | None = None, under: Limits | None = None, **keywords: bool) -> Step:
    return next_step(about, NOW, since or elapsed(), under or limits(), **keywords)


def told(about: Order, by: Report) -> tuple[list[type[Event]], Order]:
    events = new_events(about, by, NOW)
    return [type(event) for event in events], apply_all(about, events)


@pytest.mark.parametrize(
    ("report_status", "expected", "end"),
    [
        (ReportStatus.WORKING, [Accepted], Status.SUBMITTED),
        (ReportStatus.CANCELLED, [Accepted, Cancelled], Status.CANCELLED),
        (ReportStatus.EXPIRED, [Accepted, Expired], Status.EXPIRED),
        (ReportStatus.REJECTED, [Rejected], Status.REJECTED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("status", UNACCEPTED_STATUSES)
def test_news_without_fills_of_an_order_not_yet_accepted(
    status: Status, report_status: ReportStatus, expected: list[type[Event]], end: Status
) -> None:
    before = order_in(status)
    kinds, after = told(before, report(before, report_status))
    assert (kinds, after.status) == (expected, end)
    assert report_status is ReportStatus.REJECTED or after.broker_order_id == "B-1"


@pytest.mark.parametrize(
    ("report_status", "expected", "end"),
    [
        (ReportStatus.WORKING, [], None),
        (ReportStatus.CANCELLED, [Cancelled], Status.CANCELLED),
        (ReportStatus.EXPIRED, [Expired], Status.EXPIRED),
        (ReportStatus.REJECTED, [Rejected], None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_news_without_new_fills_of_a_working_order(
    status: Status, report_status: ReportStatus, expected: list[type[Event]], end: Status | None
) -> None:
    before = order_in(status)
    kinds, after = told(before, report(before, report_status, before.fills))
    assert kinds == expected
    if report_status is ReportStatus.REJECTED:
        end = Status.REJECTED if status is Status.SUBMITTED else Status.CANCELLED
    assert after.status is (end or status)


@pytest.mark.parametrize("shown", list(ReportStatus))
def test_the_broker_corrects_the_id_that_a_person_named(shown: ReportStatus) -> None:
    before = apply(order_in(Status.IN_DOUBT), declared_placed("B-of-another"))
    seen = report(before, shown, broker_order_id="B-own")
    kinds, after = told(before, seen)
    assert (kinds[0], after.broker_order_id) == (Accepted, "B-own")
    assert told(after, seen)[0] == []
    assert told(before, report(before, shown))[1].broker_order_id == "B-of-another"


def test_an_id_that_the_broker_gave_itself_is_not_replaced_by_a_report() -> None:
    before = order_in(Status.SUBMITTED)
    assert told(before, report(before, broker_order_id="B-own"))[0] == []


@pytest.mark.parametrize("status", UNFINISHED)
def test_done_at_the_broker_with_less_after_an_annulment_is_a_cancel(status: Status) -> None:
    before = order_in(status, filled=40)
    _, after = told(before, report(before, ReportStatus.FILLED, before.fills, busted=["gone"]))
    assert (after.status, after.filled_quantity) == (Status.CANCELLED, before.filled_quantity)


@pytest.mark.parametrize("report_status", ReportStatus)
@pytest.mark.parametrize("status", sorted(FINAL))
def test_news_without_new_fills_never_changes_what_the_broker_finished(
    status: Status, report_status: ReportStatus
) -> None:
    before = order_in(status)
    if status is Status.REJECTED:
        before = apply_all(order_in(Status.SUBMITTED), [rejected()])
    assert new_events(before, report(before, report_status, before.fills), NOW) == []


@pytest.mark.parametrize("report_status", ReportStatus)
@pytest.mark.parametrize("status", Status)
def test_fills_that_add_up_make_the_order_filled_whatever_the_broker_calls_it(
    status: Status, report_status: ReportStatus
) -> None:
    before = order_in(status, filled=40)
    missing = 100 - before.filled_quantity
    shown = (*before.fills, fill("f-last", missing)) if missing else before.fills
    assert told(before, report(before, report_status, shown))[1].status is Status.FILLED


@pytest.mark.parametrize(
    ("report_status", "end"),
    [
        (ReportStatus.WORKING, Status.PARTIALLY_FILLED),
        (ReportStatus.CANCELLED, Status.CANCELLED),
        (ReportStatus.EXPIRED, Status.EXPIRED),
        (ReportStatus.REJECTED, Status.CANCELLED),
    ],
    ids=str,
)
@pytest.mark.parametrize("status", UNFINISHED)
def test_the_missed_fill_and_the_end_are_learned_from_one_report(
    status: Status, report_status: ReportStatus, end: Status
) -> None:
    before = order_in(status, filled=10)
    _, after = told(before, report(before, report_status, [*before.fills, fill("f-new", 30)]))
    assert (after.status, after.filled_quantity) == (end, before.filled_quantity + 30)


@pytest.mark.parametrize("counted", [0, 39, 41, 100])
@pytest.mark.parametrize("report_status", [s for s in ReportStatus if s is not ReportStatus.WORKING])
@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_no_end_is_taken_over_while_the_count_and_the_fills_differ(
    status: Status, report_status: ReportStatus, counted: int
) -> None:
    before = order_in(status)
    ahead = report(before, report_status, [fill("f1", 40)], filled_quantity=counted)
    _, after = told(before, ahead)
    assert (after.status, after.filled_quantity) == (Status.PARTIALLY_FILLED, Decimal(40))
    assert fills_are_missing(after, ahead)
    assert not fills_are_missing(after, report(after, fills=after.fills))


def test_fills_are_never_inferred_from_the_count() -> None:
    before = order_in(Status.SUBMITTED)
    assert new_events(before, report(before, ReportStatus.FILLED, filled_quantity=100), NOW) == []


@pytest.mark.parametrize("status", Status)
def test_a_late_commission_is_one_event_and_then_none(status: Status) -> None:
    before = apply(order_in(status), filled_by("f1", 40))
    priced = [replace(f, commission=Decimal("1.25"), commission_currency="USD") for f in before.fills]
    snapshot = report(before, fills=priced)
    kinds, after = told(before, snapshot)
    assert kinds.count(CommissionReported) == 1
    assert after.commission == Decimal("1.25")
    assert new_events(after, snapshot, NOW) == []


@pytest.mark.parametrize("status", Status)
def test_a_commission_that_the_broker_changes_is_recorded(status: Status) -> None:
    before = apply(order_in(status), filled_by("f1", 40))
    priced = [replace(f, commission=Decimal("1.25"), commission_currency="USD") for f in before.fills]
    _, before = told(before, report(before, fills=priced))
    changed = report(before, fills=[replace(f, commission=Decimal("2.35")) for f in priced])
    kinds, after = told(before, changed)
    assert kinds.count(CommissionReported) == 1
    assert after.commission == Decimal("2.35")
    assert new_events(after, changed, NOW) == []


def test_a_fill_that_comes_twice_in_one_report_counts_once() -> None:
    before = order_in(Status.SUBMITTED)
    kinds, after = told(
        before, report(before, fills=[fill("f1"), fill("f1", commission=Decimal(1))], filled_quantity=40)
    )
    assert kinds == [Filled, CommissionReported]
    assert (after.filled_quantity, after.commission) == (Decimal(40), Decimal(1))


@pytest.mark.parametrize("status", Status)
def test_a_correction_is_taken_from_one_report_in_every_status(status: Status) -> None:
    before = apply(order_in(status, filled=40), filled_by("f1", 40))
    corrected = report(before, fills=[*before.fills, fill("f1-corrected", 30, "9.00")], busted=["f1"])
    kinds, after = told(before, corrected)
    assert kinds[-2:] == [Busted, Filled] or kinds[-3:-1] == [Busted, Filled]
    assert (after.filled_quantity, after.average_price) == (Decimal(30), Decimal("9.00"))
    assert new_events(after, corrected, NOW) == []


def test_a_fill_shown_together_with_its_annulment_never_counts() -> None:
    before = order_in(Status.SUBMITTED)
    kinds, after = told(before, report(before, fills=[fill("f1")], busted=["f1"]))
    assert (kinds, after.status) == ([Busted], Status.SUBMITTED)


def test_a_fill_that_a_later_report_leaves_out_is_not_undone() -> None:
    before = order_in(Status.PARTIALLY_FILLED)
    assert new_events(before, report(before, filled_quantity=0), NOW) == []


def test_an_old_report_after_a_newer_one_tells_nothing() -> None:
    before = order_in(Status.SUBMITTED)
    old, new = report(before, fills=[fill("a", 10)]), report(before, fills=[fill("a", 10), fill("b", 10)])
    after = told(before, new)[1]
    assert new_events(after, old, NOW) == []


def test_our_own_wish_explains_a_cancel_and_otherwise_the_brokers_words() -> None:
    unasked = order_in(Status.SUBMITTED)
    event = new_events(unasked, report(unasked, END, reason="halted"), NOW)[-1]
    assert isinstance(event, Cancelled)
    assert (event.reason.code, event.reason.message) == (ReasonCode.BROKER_CANCELLED, "halted")
    asked = apply(unasked, cancel_requested())
    event = new_events(asked, report(asked, END, reason="halted"), NOW)[-1]
    assert isinstance(event, Cancelled)
    assert event.reason == cancel_requested().reason


@pytest.mark.parametrize("report_status", ReportStatus)
def test_a_report_without_our_tag_is_taken_as_the_present_attempts(report_status: ReportStatus) -> None:
    before = order_in(Status.SUBMITTED)
    tagless = report(before, report_status, client_order_id="")
    assert new_events(before, tagless, NOW) == new_events(before, report(before, report_status), NOW)


@pytest.mark.parametrize("report_status", ReportStatus)
@pytest.mark.parametrize("history", [(), (submit_started(),), (submit_started(), accepted("B-2"))], ids=len)
def test_an_earlier_attempts_report_brings_its_fills_and_never_its_end(
    history: tuple[Event, ...], report_status: ReportStatus
) -> None:
    first = order_in(Status.IN_DOUBT)
    again = apply_all(first, [send_again_ordered(), *history])
    kinds, after = told(again, report(first, report_status, [fill("f1", 40)]))
    assert Filled in kinds
    assert (after.status, after.filled_quantity) == (Status.PARTIALLY_FILLED, Decimal(40))
    ended = {Rejected, Cancelled, Expired, Accepted}
    assert not ended & set(told(again, report(first, report_status))[0])


def test_s1_a_missed_partial_fill_before_a_cancel_is_recorded() -> None:
    before = order_in(Status.SUBMITTED, quantity=100)
    counted_only = report(before, ReportStatus.CANCELLED, filled_quantity=40)
    assert new_events(before, counted_only, NOW) == [], "the poll tells the count, not the executions: no end yet"
    assert step_of(before, elapsed(sent=5.0, asked=5.0)) == Step(StepKind.CHECK)
    _, after = told(before, report(before, ReportStatus.CANCELLED, [fill("f1", 40)]))
    assert (after.status, after.filled_quantity) == (Status.CANCELLED, Decimal(40))


@pytest.mark.parametrize("found_late", [False, True], ids=["within the window", "after the doubt"])
def test_s2_a_lost_acknowledgement_and_a_later_fill_end_filled(found_late: bool) -> None:
    before = order(quantity=100, events=[submit_started(), *([doubted()] if found_late else [])])
    kinds, after = told(before, report(before, ReportStatus.FILLED, [fill("f1", 100)]))
    assert kinds == [Accepted, Filled]
    assert (after.status, after.filled_quantity) == (Status.FILLED, Decimal(100))


def test_s2_even_an_order_wrongly_rejected_ends_filled_by_one_correction() -> None:
    before = order_in(Status.REJECTED, quantity=100)
    kinds, after = told(before, report(before, ReportStatus.FILLED, [fill("f1", 100)]))
    assert kinds == [Filled]
    assert (after.status, after.filled_quantity) == (Status.FILLED, Decimal(100))


def test_a_second_attempt_can_end_although_the_first_had_fills() -> None:
    first = order_in(Status.IN_DOUBT)
    again = apply_all(first, [send_again_ordered(), submit_started(), accepted("B-2")])
    both = told(again, report(first, ReportStatus.CANCELLED, [fill("first", 40)]))[1]
    _, after = told(both, report(both, ReportStatus.CANCELLED))
    assert after.status is Status.CANCELLED


def test_lists_of_a_second_attempt_annul_nothing_of_the_first() -> None:
    first = order_in(Status.IN_DOUBT)
    again = apply_all(first, [send_again_ordered(), submit_started(), accepted("B-2")])
    both = told(again, report(first, ReportStatus.CANCELLED, [fill("first", 40)]))[1]
    (event,) = new_events(both, shown(both, fill("second", 10)), NOW)
    assert isinstance(event, Filled)
    assert event.fill.fill_id == "second"


def shown(about: Order, *fills: Fill, status: ReportStatus = ReportStatus.WORKING, settled: bool = True) -> Report:
    how = FillsShown.SETTLED if settled else FillsShown.ALL
    return report(about, status, fills, fills_shown=how)


def after(about: Order, *reports: Report) -> Order:
    for each in reports:
        about = apply_all(about, new_events(about, each, NOW))
        assert new_events(about, each, NOW) == [], "what is told again is no news"
    return about


def working() -> Order:
    return order(quantity=20, events=[submit_started(), accepted(), filled_by("1", 6), filled_by("2", 4, "11")])


def filled() -> Order:
    return order(quantity=10, events=[submit_started(), accepted(), filled_by("1", 6), filled_by("2", 4, "11")])


def test_an_execution_that_is_gone_from_settled_lists_was_annulled() -> None:
    done = working()
    done = after(done, shown(done, fill("2", 4, "11")))
    assert (done.status, done.filled_quantity, done.busted_fill_ids) == (Status.PARTIALLY_FILLED, 4, {"1"})
    done = after(done, shown(done, status=ReportStatus.CANCELLED))
    assert (done.status, done.filled_quantity, done.busted_fill_ids) == (Status.CANCELLED, 0, {"1", "2"})


def test_an_execution_that_is_gone_from_lists_that_agree_just_now_is_waited_for_with_those_in_its_place() -> None:
    done = working()
    young = shown(done, fill("2", 4, "11"), fill("3", 5), settled=False)
    assert new_events(done, young, NOW) == []
    assert fills_are_missing(done, young), "people are told if that lasts"
    done = after(done, replace(young, fills_shown=FillsShown.SETTLED))
    assert (done.filled_quantity, done.busted_fill_ids) == (9, {"1"})


def test_an_execution_of_an_ended_order_that_is_gone_from_settled_lists_was_annulled() -> None:
    done = after(filled(), shown(filled(), fill("2", 4, "11"), status=ReportStatus.FILLED))
    assert (done.status, done.filled_quantity, done.busted_fill_ids) == (Status.CANCELLED, 4, {"1"})


@pytest.mark.parametrize("fills", [(), (fill("1", 6),), (fill("1", 5), fill("2", 4, "11"))])
def test_settled_lists_that_show_an_ended_order_at_work_are_older_and_annul_nothing(fills: tuple[Fill, ...]) -> None:
    assert new_events(filled(), shown(filled(), *fills), NOW) == []


@pytest.mark.parametrize("settled", [True, False])
def test_an_execution_that_lists_show_for_the_first_time_is_no_correction(settled: bool) -> None:
    about = order(quantity=10, events=[submit_started(), accepted(), filled_by("1", 6)])
    (event,) = new_events(about, shown(about, fill("1", 6), fill("2", 4), settled=settled), NOW)
    assert isinstance(event, Filled)
    assert (event.fill.fill_id, event.fill.quantity) == ("2", 4)


def test_lists_that_do_not_add_up_annul_nothing() -> None:
    done = working()
    assert new_events(done, report(done, fills=[fill("2", 4, "11")], filled_quantity=10), NOW) == []
    assert new_events(done, report(done, fills=[fill("2", 4, "11")]), NOW) == []


def test_an_execution_with_other_figures_is_corrected_under_its_id() -> None:
    done = working()
    done = after(done, shown(done, fill("1", 5), fill("2", 4, "11")))
    assert (done.filled_quantity, done.busted_fill_ids) == (9, {"1"})
    done = after(done, shown(done, fill("1", 5, "9.90"), fill("2", 4, "11")))
    assert [(f.fill_id, f.quantity, f.price) for f in done.fills] == [("2", 4, 11), ("1~3", 5, Decimal("9.90"))]


def test_an_execution_that_comes_back_counts_again() -> None:
    done = working()
    done = after(done, shown(done, fill("2", 4, "11")))
    assert new_events(done, shown(done, fill("1", 6), fill("2", 4, "11"), settled=False), NOW) == []
    done = after(done, shown(done, fill("1", 6), fill("2", 4, "11")))
    assert (done.status, done.filled_quantity) == (Status.PARTIALLY_FILLED, 10)
    done = after(done, shown(done, fill("2", 4, "11")), shown(done, fill("1", 6), fill("2", 4, "11")))
    assert (done.status, done.filled_quantity) == (Status.PARTIALLY_FILLED, 10)


def test_a_commission_reaches_an_execution_under_the_name_that_we_hold_it_by() -> None:
    done = after(working(), shown(working(), fill("1", 5), fill("2", 4, "11")))
    done = after(done, shown(done, fill("1", 5, commission=Decimal(3)), fill("2", 4, "11")))
    held = done.fill_of("1~2")
    assert held is not None
    assert held.commission == 3


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("123"), st.integers(1, 4)), max_size=3, unique_by=lambda f: f[0]), max_size=8
    )
)
def test_whatever_settled_lists_show_is_what_we_hold_in_the_end(answers: list[list[tuple[str, int]]]) -> None:
    held = order(quantity=20, events=[submit_started(), accepted()])
    for answer in answers:
        held = after(held, shown(held, *(fill(name, quantity) for name, quantity in answer)))
        assert held.filled_quantity == sum(quantity for _, quantity in answer)
        assert sorted(f.quantity for f in held.fills) == sorted(quantity for _, quantity in answer)


@pytest.mark.parametrize("known", [*IDS, None])
def test_of_orders_under_one_tag_one_counts_and_people_are_told_once(known: str | None) -> None:
    """The one whose id we know; else the oldest."""
    about = order(quantity=10, events=[submit_started(), *([] if known is None else [accepted(broker_order_id=known)])])
    told = [
        report(about, ReportStatus.FILLED, [fill(f"f{n}", 10)], broker_order_id=b, orders_under_tag=IDS)
        for n, b in enumerate(IDS, start=1)
    ]
    for order_of_reports in (told, told[::-1], told * 2):
        after = about
        for each in order_of_reports:
            after = apply_all(after, new_events(after, each, NOW))
        assert (after.status, after.filled_quantity, after.broker_order_id) == (Status.FILLED, 10, known or IDS[0])
        (said,) = (event for event in after.events if isinstance(event, Noted))
        assert said.alert
        assert "placed twice?" in said.message
        assert all(each in said.message for each in IDS)


def test_another_order_under_the_tag_of_a_finished_one_is_told_and_changes_nothing() -> None:
    about = order_in(Status.CANCELLED)
    other = report(
        about,
        ReportStatus.FILLED,
        [fill("f77", 3)],
        broker_order_id="B-9",
        orders_under_tag=(about.broker_order_id or "", "B-9"),
    )
    (said,) = new_events(about, other, NOW)
    assert isinstance(said, Noted)
    assert new_events(apply(about, said), other, NOW) == []


def test_an_earlier_attempt_that_turns_up_working_is_news() -> None:
    first = order_in(Status.IN_DOUBT)
    again = apply_all(first, [send_again_ordered(), submit_started(), accepted("B-2")])
    assert new_events(again, report(first, WORK, broker_order_id="B-1"), NOW) != []


@pytest.mark.parametrize(
    "history",
    [
        pytest.param((submit_started(), rejected()), id="refused"),
        pytest.param((submit_started(), nothing_sent(), cancel_requested()), id="cancelled as unsent"),
    ],
)
def test_an_order_that_ended_without_the_broker_and_turns_up_working_is_news(history: tuple[Event, ...]) -> None:
    ended = order(events=history)
    assert new_events(ended, report(ended, WORK), NOW) != []


def test_the_broker_id_is_learned_even_when_a_fill_came_first() -> None:
    ahead = order(events=[submit_started(), filled_by("f1", 40)])
    assert told(ahead, report(ahead, fills=ahead.fills))[1].broker_order_id == "B-1"


def test_a_rejection_whose_fills_are_still_to_come_proves_that_the_broker_has_the_order() -> None:
    before = order_in(Status.SUBMITTING)
    _, after = told(before, report(before, ReportStatus.REJECTED, filled_quantity=40))
    assert after.status is Status.SUBMITTED


def test_filled_with_too_small_a_count_and_no_annulment_is_not_taken_for_a_cancel() -> None:
    before = order_in(Status.SUBMITTED, quantity=100)
    _, after = told(before, report(before, ReportStatus.FILLED, [fill("f1", 40)]))
    assert after.status is Status.PARTIALLY_FILLED


def test_a_report_about_another_order_tells_nothing_of_this_one() -> None:
    sent = order_in(Status.SUBMITTING)
    foreign = report(sent, fills=[fill("f1", 40)], client_order_id="xanotherorderofours")
    assert new_events(sent, foreign, NOW) == []


def test_a_doubtful_order_is_looked_for_when_its_time_has_come() -> None:
    doubtful = order_in(Status.IN_DOUBT)
    early = next_step(doubtful, NOW, elapsed(finding=100.0, asked=9e9, find_wait=0.25), limits())
    assert (early.kind, early.wait_seconds) == (StepKind.NONE, 0.25)
    assert next_step(doubtful, NOW, elapsed(finding=100.0, asked=0.0), limits()).kind is StepKind.FIND


@pytest.mark.parametrize(("age", "pause"), [(1.0, 0.1), (10.0, 0.5), (40.0, 2.0)])
def test_how_often_an_order_is_looked_for_that_may_be_sent_again(age: float, pause: float) -> None:
    sent = order_in(Status.SUBMITTING)
    rules = limits(find_window_seconds=50.0, refuses_repeated_client_id=True)
    early = next_step(sent, NOW, elapsed(finding=60.0, sent=age, asked=pause / 2), rules)
    assert (early.kind, early.wait_seconds) == (StepKind.NONE, pause / 2)
    assert next_step(sent, NOW, elapsed(finding=60.0, sent=age, asked=pause), rules).kind is StepKind.FIND


def test_an_order_sent_just_the_window_ago_is_sent_again() -> None:
    rules = limits(find_window_seconds=50.0, refuses_repeated_client_id=True)
    step = next_step(order_in(Status.SUBMITTING), NOW, elapsed(finding=60.0, sent=50.0, asked=0.0), rules)
    assert step.kind is StepKind.SUBMIT_AGAIN


@pytest.mark.parametrize(("since", "pause"), [(1.0, 0.1), (10.0, 0.5), (40.0, 60.0)])
def test_how_often_a_cancel_is_followed_up(since: float, pause: float) -> None:
    wished = apply(order_in(Status.SUBMITTED), cancel_requested())
    lately = elapsed(sent=50.0, cancel_sent=since, cancel_wait=99.0, asked=pause / 2)
    early = next_step(wished, NOW, lately, limits())
    assert (early.kind, early.wait_seconds) == (StepKind.NONE, pause / 2)
    assert next_step(wished, NOW, replace(lately, asked=pause), limits()).kind is StepKind.CHECK


def test_a_time_out_is_asked_for_in_the_services_name() -> None:
    step = next_step(order_in(Status.SUBMITTED), NOW, elapsed(sent=60.0), limits())
    (event,) = step.events
    assert isinstance(event, CancelRequested)
    assert event.requested_by == "execution-service"


def test_an_age_limit_below_a_second_counts() -> None:
    assert is_stale(elapsed(0.6), limits(max_order_age_seconds=0.5))
    assert not is_stale(elapsed(0.6), limits(max_order_age_seconds=0.0))


@pytest.mark.parametrize("status", Status)
def test_a_wish_to_cancel_says_who_and_why_and_only_of_what_has_not_ended(status: Status) -> None:
    about, why = order_in(status), Reason(ReasonCode.CANCEL_REQUESTED, "enough")
    wish = CancelRequested(at=NOW, reason=why, requested_by="somebody")
    assert cancel_request(about, why, "somebody", NOW) == (() if status.is_final else (wish,))
    if not status.is_final and status is not Status.PENDING:
        assert cancel_request(apply(about, cancel_requested()), why, "somebody", NOW) == ()


def test_of_several_orders_under_one_tag_ours_is_the_one_whose_id_we_know_or_the_oldest() -> None:
    nameless = order(events=(submit_started(),))
    known, gone = (apply(nameless, accepted(name)) for name in ("B-2", "B-9"))

    def others(about: Order, *shown: str) -> list[str]:
        under = ("B-1", "B-2", "B-3")
        return [
            name
            for name in shown
            if is_of_another(about, replace(report(about, broker_order_id=name), orders_under_tag=under))
        ]

    assert others(nameless, "B-1", "B-2", "B-3") == ["B-2", "B-3"]
    assert others(known, "B-1", "B-2", "B-3") == ["B-1", "B-3"]
    assert others(gone, "B-1", "B-2", "B-3") == ["B-2", "B-3"]
    assert not is_of_another(known, replace(report(known, broker_order_id="B-7"), orders_under_tag=("B-2",)))


def test_an_order_alone_under_its_tag_is_no_alarm() -> None:
    about = order_in(Status.SUBMITTED)
    assert new_events(about, replace(report(about), orders_under_tag=(about.broker_order_id or "",)), NOW) == []


def test_legs_still_to_be_sent_are_the_pending_ones_of_the_same_account() -> None:
    first, pending = order(), order(of=identity(leg_index=1))
    sent = order(of=identity(leg_index=2), events=(submit_started(), accepted()))
    elsewhere = order(of=identity(leg_index=3), account_id="another account")
    assert pending_legs(first, [first, pending, sent, elsewhere]) == [pending]


def test_what_is_short_ends_only_once_that_has_lasted() -> None:
    about = order_in(Status.PARTIALLY_FILLED)
    told = report(about, DONE, about.fills)
    assert new_events(about, told, NOW) == []
    (end,) = new_events(about, told, NOW, is_settled=True)
    assert isinstance(end, Cancelled)
    assert (end.reason.code, end.filled_quantity) == (ReasonCode.BROKER_CANCELLED, 40)


def test_a_time_out_counts_from_the_sending_or_from_a_persons_word() -> None:
    sent = order(events=(submit_started(), replace(accepted(), at=at(50))))
    assert order().working_since is None
    assert sent.working_since == NOW
    assert apply(order_in(Status.IN_DOUBT), replace(declared_placed(), at=at(90))).working_since == at(90)
