"""What is done next with an order, and what a report tells that is new; values in, values out, a clock moved by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import AssetClass, Capabilities, Fill, FillsShown, OrderType, Report, ReportStatus, Tif
from execution_service.core.errors import InvalidTransition
from execution_service.core.orders.events import (
    Accepted,
    Busted,
    Cancelled,
    CancelRequested,
    CommissionReported,
    Completed,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Noted,
    Rejected,
)
from execution_service.core.orders.legs import missing_legs, refusing_leg
from execution_service.core.orders.next_step import (
    NEVER,
    Elapsed,
    Limits,
    Step,
    StepKind,
    is_stale,
    next_step,
    stale,
    timeout_seconds,
)
from execution_service.core.orders.order import Order, apply, apply_all
from execution_service.core.orders.repetition import CANCELS, FINDS, RequestHistory
from execution_service.core.orders.report_events import fills_are_missing, new_events
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import FINAL, Reason, ReasonCode, Status
from execution_service.core.orders.tickets import fitting, unsupported_reason
from tests.builders import (
    NOW,
    accepted,
    cancel_refused,
    cancel_requested,
    cancelled,
    declared_placed,
    doubted,
    elapsed,
    fill,
    filled_by,
    identity,
    instrument,
    limits,
    nothing_sent,
    one_event_of_each_kind,
    order,
    order_in,
    refused_request,
    rejected,
    report,
    send_again_ordered,
    submit_started,
)

WORKING_STATUSES = (Status.SUBMITTED, Status.PARTIALLY_FILLED)
UNACCEPTED_STATUSES = (Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT)
UNFINISHED = tuple(s for s in Status if not s.is_final)
REFUSING = limits(refuses_repeated_client_id=True)


def step_of(about: Order, since: Elapsed | None = None, under: Limits | None = None, **keywords: bool) -> Step:
    return next_step(about, NOW, since or elapsed(), under or limits(), **keywords)


def recorded(step: Step) -> Event:
    assert step.kind is StepKind.RECORD
    (event,) = step.events
    return event


def told(about: Order, by: Report) -> tuple[list[type[Event]], Order]:
    events = new_events(about, by, NOW)
    return [type(event) for event in events], apply_all(about, events)


# --- PENDING --------------------------------------------------------------------------------------------------------


def test_a_pending_order_is_submitted() -> None:
    assert step_of(order()) == Step(StepKind.SUBMIT)


@pytest.mark.parametrize(("age", "is_too_old"), [(0, False), (-5, False), (300, False), (300.001, True), (9e9, True)])
def test_an_order_is_stale_only_beyond_its_age_limit(age: float, is_too_old: bool) -> None:
    assert is_stale(elapsed(age), limits()) is is_too_old
    step = step_of(order(), elapsed(age))
    assert step.kind is (StepKind.RECORD if is_too_old else StepKind.SUBMIT)


def test_a_stale_order_is_rejected_with_its_reason_and_never_sent() -> None:
    event = recorded(step_of(order(), elapsed(301)))
    assert isinstance(event, Rejected)
    assert event == stale(elapsed(301), limits(), NOW)
    assert event.reason.code is ReasonCode.STALE_ORDER
    assert apply(order(), event).status is Status.REJECTED


def test_an_age_limit_of_zero_means_none() -> None:
    assert step_of(order(), elapsed(9e9), limits(max_order_age_seconds=0)).kind is StepKind.SUBMIT


def test_a_wish_made_while_sending_is_carried_out_once_nothing_was_sent() -> None:
    waiting = order(events=[submit_started(), cancel_requested(), nothing_sent()])
    event = recorded(step_of(waiting, elapsed(9e9)))
    assert isinstance(event, Cancelled), "the wish comes before staleness"
    done = apply(waiting, event)
    assert (done.status, done.reason) == (Status.CANCELLED, cancel_requested().reason)


# --- SUBMITTING and IN_DOUBT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("under", [limits(), REFUSING], ids=["takes repeated ids", "refuses repeated ids"])
@pytest.mark.parametrize("wishes", [(), (cancel_requested(),)], ids=["no wish", "cancel wished"])
@pytest.mark.parametrize("age", [1.0, 9e9])
def test_an_order_found_submitting_is_looked_for_first(under: Limits, wishes: tuple[Event, ...], age: float) -> None:
    crashed = order(events=[submit_started(), *wishes])
    assert step_of(crashed, elapsed(age), under) == Step(StepKind.FIND)
    assert step_of(crashed, elapsed(age, finding=9e9), under) == Step(StepKind.FIND), "not asked in this process yet"


@pytest.mark.parametrize(
    ("finding", "asked", "kind"),
    [
        (0.0, 0.0, StepKind.NONE),
        (0.5, 0.09, StepKind.NONE),
        (0.5, 0.1, StepKind.FIND),
        (1.99, 0.1, StepKind.FIND),
        (2.0, 0.1, StepKind.NONE),
        (2.0, 0.5, StepKind.FIND),
        (29.99, 0.5, StepKind.FIND),
        (29.99, 0.0, StepKind.NONE),
    ],
)
def test_within_the_find_window_it_is_looked_for_again(finding: float, asked: float, kind: StepKind) -> None:
    assert step_of(order_in(Status.SUBMITTING), elapsed(finding=finding, asked=asked), REFUSING).kind is kind


def test_a_longer_find_window_is_searched_more_slowly() -> None:
    patient = limits(find_window_seconds=600.0)
    step = step_of(order_in(Status.SUBMITTING), elapsed(finding=100.0, asked=0.5), patient)
    assert step == Step(StepKind.NONE, wait_seconds=1.5)


def test_after_the_window_it_is_sent_again_only_to_a_broker_that_refuses_a_repeated_id() -> None:
    lost = order_in(Status.SUBMITTING)
    after = elapsed(31, finding=30.0, asked=0.0)
    assert step_of(lost, after, REFUSING) == Step(StepKind.SUBMIT_AGAIN)
    assert isinstance(recorded(step_of(lost, after)), Doubted)


@pytest.mark.parametrize("age", [31.0, 9e9])
def test_a_refusal_of_the_second_sending_is_the_end_only_after_another_whole_window(age: float) -> None:
    lost, no = order_in(Status.SUBMITTING), Reason(ReasonCode.BROKER_REJECTED, "duplicate")

    def step(**since: float) -> Step:
        return next_step(lost, NOW, elapsed(age, **since), REFUSING, refusal=no)

    assert step() == Step(StepKind.FIND)
    assert step(finding=29.0, asked=9.0) == Step(StepKind.FIND)
    end = recorded(step(finding=30.0, asked=0.0))
    assert isinstance(end, Rejected)
    assert (end.reason, apply(lost, end).status) == (no, Status.REJECTED)


def test_where_it_may_be_sent_again_sooner_it_is_and_where_not_the_window_holds() -> None:
    sooner = limits(find_window_seconds=10.0, send_again_seconds=2.0, refuses_repeated_client_id=True)
    lost = order_in(Status.SUBMITTING)
    assert step_of(lost, elapsed(31, finding=1.9, asked=9.0), sooner).kind is StepKind.FIND
    assert step_of(lost, elapsed(31, sent=1.9, finding=2.0, asked=9.0), sooner).kind is StepKind.FIND
    assert step_of(lost, elapsed(31, sent=2.0, finding=2.0, asked=9.0), sooner).kind is StepKind.SUBMIT_AGAIN
    wished = apply(lost, cancel_requested())
    assert step_of(wished, elapsed(31, finding=9.9, asked=9.0), sooner).kind is StepKind.FIND
    assert isinstance(recorded(step_of(wished, elapsed(31, finding=10.0, asked=9.0), sooner)), Doubted)
    no = Reason(ReasonCode.BROKER_REJECTED, "duplicate")
    assert next_step(lost, NOW, elapsed(31, finding=9.9, asked=9.0), sooner, refusal=no).kind is StepKind.FIND
    assert isinstance(
        recorded(next_step(lost, NOW, elapsed(31, finding=10.0, asked=9.0), sooner, refusal=no)), Rejected
    )


def test_after_the_window_a_stale_order_is_doubted_and_not_sent_again() -> None:
    event = recorded(step_of(order_in(Status.SUBMITTING), elapsed(301, finding=30.0, asked=0.0), REFUSING))
    assert isinstance(event, Doubted)
    assert apply(order_in(Status.SUBMITTING), event).status is Status.IN_DOUBT


def test_after_the_window_an_order_that_should_be_cancelled_is_doubted_and_not_sent_again() -> None:
    wished = apply(order_in(Status.SUBMITTING), cancel_requested())
    assert isinstance(recorded(step_of(wished, elapsed(31, finding=30.0, asked=0.0), REFUSING)), Doubted)


@pytest.mark.parametrize("under", [limits(), REFUSING], ids=["takes repeated ids", "refuses repeated ids"])
@pytest.mark.parametrize("wishes", [(), (cancel_requested(),)], ids=["no wish", "cancel wished"])
@pytest.mark.parametrize("seconds", [0.0, 5.0, 100.0, 9e9])
def test_a_doubtful_order_is_only_ever_looked_for(under: Limits, wishes: tuple[Event, ...], seconds: float) -> None:
    doubtful = apply_all(order_in(Status.IN_DOUBT), wishes)
    since = elapsed(9e9, sent=seconds, finding=seconds, asked=seconds, cancel_sent=seconds, find_wait=seconds)
    assert step_of(doubtful, since, under).kind in (StepKind.FIND, StepKind.NONE)


# --- SUBMITTED and PARTIALLY_FILLED -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_a_working_order_is_checked_often_while_young_and_slowly_later(status: Status) -> None:
    resting = order_in(status, tif=Tif.GTC)
    for sent, pause in ((0.0, 0.2), (1.99, 0.2), (2.0, 1.0), (29.9, 1.0), (30.0, 5.0), (9e9, 5.0)):
        assert step_of(resting, elapsed(sent=sent)) == Step(StepKind.CHECK), "never asked in this process"
        assert step_of(resting, elapsed(sent=sent, asked=pause)) == Step(StepKind.CHECK)
        assert step_of(resting, elapsed(sent=sent, asked=0.0)) == Step(StepKind.NONE, wait_seconds=pause)


@pytest.mark.parametrize("sent", [0.1, 100.0])
def test_a_broker_that_hints_is_not_asked_more_often_than_it_bears(sent: float) -> None:
    calm = limits(poll_seconds=7.0)
    working = order_in(Status.SUBMITTED, tif=Tif.GTC)
    assert step_of(working, elapsed(sent=sent, asked=6.9), calm).kind is StepKind.NONE
    assert step_of(working, elapsed(sent=sent, asked=7.0), calm) == Step(StepKind.CHECK)


@pytest.mark.parametrize(
    ("tif", "order_type", "own", "default", "expected"),
    [
        (None, OrderType.MARKET, None, 60.0, 60.0),
        (None, OrderType.LIMIT, None, 60.0, 60.0),
        (Tif.IOC, OrderType.LIMIT, None, 60.0, 60.0),
        (Tif.DAY, OrderType.LIMIT, None, 60.0, None),
        (Tif.GTC, OrderType.LIMIT, None, 60.0, None),
        (Tif.DAY, OrderType.MARKET, None, 60.0, None),
        (None, OrderType.STOP, None, 60.0, None),
        (None, OrderType.STOP_LIMIT, None, 60.0, None),
        (Tif.IOC, OrderType.STOP, None, 60.0, None),
        (None, OrderType.LIMIT, None, 0.0, None),
        (None, OrderType.LIMIT, Decimal(5), 60.0, 5.0),
        (None, OrderType.LIMIT, Decimal("0.5"), 0.0, 0.5),
        (None, OrderType.LIMIT, Decimal(0), 60.0, None),
        (Tif.GTC, OrderType.LIMIT, Decimal(5), 60.0, 5.0),
        (Tif.DAY, OrderType.STOP, Decimal(5), 60.0, 5.0),
    ],
)
@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_how_long_an_order_may_work(
    status: Status, tif: Tif | None, order_type: OrderType, own: Decimal | None, default: float, expected: float | None
) -> None:
    working = order_in(status, tif=tif, order_type=order_type, timeout_seconds=own)
    under = limits(order_timeout_seconds=default)
    assert timeout_seconds(working, under) == expected
    if expected is None:
        assert step_of(working, elapsed(sent=9e9, asked=0.0), under).kind is StepKind.NONE
        return
    just_before = step_of(working, elapsed(sent=expected - 0.05, asked=0.0), under)
    assert just_before.kind is StepKind.NONE
    assert just_before.wait_seconds == pytest.approx(0.05), "it wakes for the time-out, not for the next question"
    event = recorded(step_of(working, elapsed(sent=expected, asked=0.0), under))
    assert isinstance(event, CancelRequested)
    assert event.reason.code is ReasonCode.TIMEOUT


def test_without_a_known_time_of_sending_no_time_out_is_claimed() -> None:
    assert step_of(order_in(Status.SUBMITTED), elapsed(9e9, sent=None, asked=0.0)).kind is StepKind.NONE


@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_a_timed_out_order_is_cancelled_next_and_only_the_broker_ends_it(status: Status) -> None:
    working = order_in(status)
    wished = apply_all(working, step_of(working, elapsed(61, sent=60.0, asked=0.0)).events)
    assert wished.status is status
    assert step_of(wished, elapsed(61, sent=60.0, asked=0.0)) == Step(StepKind.CANCEL)
    told_cancelled = report(wished, ReportStatus.CANCELLED, wished.fills)
    done = apply_all(wished, new_events(wished, told_cancelled, NOW))
    assert done.status is Status.CANCELLED
    assert done.reason is not None
    assert done.reason.code is ReasonCode.TIMEOUT, "our wish explains it, not the broker's words"


@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_an_unanswered_cancel_is_repeated_when_its_time_has_come(status: Status) -> None:
    wished = apply(order_in(status), cancel_requested())
    early = elapsed(sent=100.0, asked=0.0, cancel_sent=59.99, cancel_wait=0.01)
    assert step_of(wished, early) == Step(StepKind.NONE, wait_seconds=0.01), "it wakes for that"
    assert step_of(wished, replace(early, asked=9e9)) == Step(StepKind.CHECK), "in between it is checked"
    assert step_of(wished, replace(early, cancel_wait=0.0)) == Step(StepKind.CANCEL)


def test_a_cancel_that_was_never_sent_in_this_process_is_sent_at_once() -> None:
    wished = apply(order_in(Status.SUBMITTED), cancel_requested())
    assert step_of(wished, elapsed(asked=0.0)) == Step(StepKind.CANCEL)


def test_a_refused_cancel_is_wished_for_still() -> None:
    wished = apply_all(order_in(Status.SUBMITTED), [cancel_requested(), cancel_refused()])
    assert step_of(wished, elapsed(asked=0.0, cancel_sent=2.0)).kind is StepKind.CANCEL


def test_the_wish_of_a_submitting_order_is_carried_out_once_it_is_found() -> None:
    wished = apply(order_in(Status.SUBMITTING), cancel_requested())
    found = apply_all(wished, new_events(wished, report(wished), NOW))
    assert step_of(found, elapsed(asked=0.0)) == Step(StepKind.CANCEL)


# --- finished -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(FINAL))
def test_with_a_finished_order_nothing_is_done(status: Status) -> None:
    for since in every_elapsed():
        assert step_of(order_in(status), since) == NEVER


# --- every boundary at once -----------------------------------------------------------------------------------------------

BOUNDARIES = (None, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 29.999, 30.0, 60.0, 9e9)


def every_elapsed() -> Iterator[Elapsed]:
    for sent, asked in product(BOUNDARIES, BOUNDARIES):
        for cancel_sent, wait in ((None, 0.0), (0.0, 2.0), (1.999, 0.001), (2.0, 0.0), (59.0, 1.0), (60.0, 0.0)):
            yield Elapsed(
                age=400.0 if sent == 9e9 else 1.0,
                sent=sent,
                finding=sent,
                asked=asked,
                cancel_sent=cancel_sent,
                cancel_wait=wait,
                find_wait=wait,
                opened=sent,
            )


def assert_sound(about: Order, step: Step) -> None:
    """No step spins, contradicts itself or proposes events that the order cannot take."""
    if step.kind is StepKind.NONE:
        assert step.wait_seconds is None or (step.wait_seconds > 0 and math.isfinite(step.wait_seconds))
        assert step.wait_seconds is not None or about.status.is_final, "an unfinished order is never forgotten"
    else:
        assert step.wait_seconds is None
    assert bool(step.events) == (step.kind is StepKind.RECORD)
    assert apply_all(about, step.events) != about or not step.events


@pytest.mark.parametrize("under", [limits(), REFUSING, limits(order_timeout_seconds=0.0, find_window_seconds=0.0)])
@pytest.mark.parametrize("wishes", [(), (cancel_requested(),)], ids=["no wish", "cancel wished"])
@pytest.mark.parametrize("status", [s for s in UNFINISHED if s is not Status.PENDING])
def test_no_step_spins_or_forgets_at_any_boundary(status: Status, wishes: tuple[Event, ...], under: Limits) -> None:
    about = apply_all(order_in(status), wishes)
    for since in every_elapsed():
        assert_sound(about, step_of(about, since, under))


SECONDS = st.none() | st.floats(0, 1e7)


@given(
    st.sampled_from(UNFINISHED),
    st.booleans(),
    st.builds(
        Elapsed,
        age=st.floats(-1e3, 1e7),
        sent=SECONDS,
        finding=SECONDS,
        asked=SECONDS,
        cancel_sent=SECONDS,
        cancel_wait=st.floats(0, 1e5),
        find_wait=st.floats(0, 1e5),
        opened=st.none() | st.floats(-1e5, 1e5),
    ),
    st.builds(
        Limits,
        order_timeout_seconds=st.floats(0, 1e4),
        max_order_age_seconds=st.floats(0, 1e4),
        find_window_seconds=st.floats(0, 1e3),
        refuses_repeated_client_id=st.booleans(),
    ),
)
def test_no_step_spins_or_forgets_at_any_time(status: Status, wished: bool, since: Elapsed, under: Limits) -> None:
    about = order_in(status)
    if wished:
        about = apply(about, cancel_requested())
    assert_sound(about, step_of(about, since, under))


# --- a silent broker, a clock moved by hand ---------------------------------------------------------------------------------


@dataclass
class SilentBroker:
    """Carries out the steps of one order against a broker that never tells anything new, and counts what is asked of it."""

    about: Order
    under: Limits
    now: float = 0.0

    def run(self, seconds: float) -> Counter[StepKind]:
        done: Counter[StepKind] = Counter()
        first_find = asked = None
        cancels = finds = RequestHistory()
        while self.now < seconds:
            since = Elapsed(
                age=self.now,
                sent=self.now,
                finding=None if first_find is None else self.now - first_find,
                asked=None if asked is None else self.now - asked,
                cancel_sent=None if cancels.latest is None else self.now - cancels.latest,
                cancel_wait=cancels.wait_seconds(CANCELS, self.now),
                find_wait=finds.wait_seconds(FINDS, self.now),
            )
            step = next_step(self.about, NOW, since, self.under)
            done[step.kind] += 1
            assert done.total() < 50 * seconds + 100, f"it spins: {done}"
            match step.kind:
                case StepKind.NONE:
                    # A real timer is never early, and late by some hundredths.
                    self.now += seconds if step.wait_seconds is None else step.wait_seconds + 0.01
                case StepKind.RECORD:
                    self.about = apply_all(self.about, step.events)
                case StepKind.CANCEL:
                    cancels = cancels.with_request(self.now)
                case StepKind.FIND | StepKind.CHECK:
                    asked = self.now
                    if step.kind is StepKind.FIND and first_find is None:
                        first_find = self.now
                    if step.kind is StepKind.FIND and self.about.status is Status.IN_DOUBT:
                        finds = finds.with_request(self.now)
                case _:
                    return done
        return done


def test_an_hour_of_silence_about_a_resting_order_is_asked_about_at_a_calm_rate() -> None:
    broker = SilentBroker(order_in(Status.SUBMITTED, tif=Tif.GTC), limits())
    done = broker.run(3600)
    assert broker.about.status is Status.SUBMITTED
    assert 600 < done[StepKind.CHECK] < 800
    assert set(done) == {StepKind.CHECK, StepKind.NONE}


def test_an_hour_of_silence_after_sending_ends_in_doubt_and_in_nothing_else() -> None:
    broker = SilentBroker(order_in(Status.SUBMITTING), limits())
    done = broker.run(3600)
    assert broker.about.status is Status.IN_DOUBT
    assert done[StepKind.RECORD] == 1
    window = limits().find_window_seconds
    assert window / 0.5 < done[StepKind.FIND] < window / 0.5 + 20 + FINDS.an_hour, (
        "often in the window, rarely after it"
    )


# --- news: each statement of the broker in each status -----------------------------------------------------------------------

ACCEPTANCE, WORK, END = [Accepted], ReportStatus.WORKING, ReportStatus.CANCELLED


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


# --- nothing legal makes it raise ---------------------------------------------------------------------------------------------


def starting_points() -> Iterator[Order]:
    yield from (order_in(status) for status in Status)
    first = order_in(Status.IN_DOUBT)
    yield apply(first, send_again_ordered())


# --- what the market takes -------------------------------------------------------------------------------------------


def test_what_fits_as_it_is_needs_no_record() -> None:
    about = order(order_type=OrderType.LIMIT, limit_price=Decimal("9.95"))
    assert fitting(about, replace(about.ticket(), limit_price=Decimal("9.950"), reserved_order_id="1:1"), NOW) == ()


def test_what_was_changed_to_fit_is_recorded_and_what_was_not_is_not() -> None:
    about = order(quantity=Decimal("99.5"), order_type=OrderType.LIMIT, limit_price=Decimal("9.957"))
    ticket = replace(about.ticket(), quantity=Decimal(99), limit_price=Decimal("9.95"))
    (event,) = fitting(about, ticket, NOW)
    assert event == Fitted(
        at=NOW,
        message="sent with quantity 99 for 99.5, limit price 9.95 for 9.957, as the market takes it",
        quantity=Decimal(99),
        limit_price=Decimal("9.95"),
    )
    assert fitting(apply(about, event), ticket, NOW) == ()


def test_a_stop_price_that_was_changed_to_fit_is_recorded() -> None:
    about = order(order_type=OrderType.STOP, stop_price=Decimal("9.957"))
    (event,) = fitting(about, replace(about.ticket(), stop_price=Decimal("9.95")), NOW)
    words = "sent with stop price 9.95 for 9.957, as the market takes it"
    assert event == Fitted(at=NOW, message=words, stop_price=Decimal("9.95"))


def test_an_order_for_money_is_complete_by_the_brokers_word_whatever_it_bought() -> None:
    (for_money,) = fitting(order(), replace(order().ticket(), cash_quantity=Decimal(1000)), NOW)
    assert isinstance(for_money, Fitted)
    assert for_money.message == "sent with cash quantity 1000, as the market takes it"
    sent = apply_all(order(), [for_money, submit_started(), accepted()])
    some, all_of_it = [fill("f1", 60)], [fill("f1", 60), fill("f2", 38)]
    assert new_events(sent, report(sent, ReportStatus.FILLED), NOW) == [], (
        "done, it says, and shows nothing that was bought"
    )
    assert [type(e) for e in new_events(sent, report(sent, ReportStatus.FILLED, some, filled_quantity=98), NOW)] == [
        Filled
    ]
    events = new_events(sent, report(sent, ReportStatus.FILLED, all_of_it), NOW)
    assert [type(e) for e in events] == [Filled, Filled, Completed]
    done = apply_all(sent, events)
    assert (done.status, done.quantity) == (Status.FILLED, 98)
    assert new_events(done, report(done, ReportStatus.FILLED, all_of_it), NOW) == []


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("asset_class", [AssetClass.OPTION, AssetClass.STOCK])
@pytest.mark.parametrize("legs", [1, 2])
@pytest.mark.parametrize("splits", [True, False])
def test_an_option_that_is_one_leg_of_several_does_not_stand_naked(
    purpose: Purpose, asset_class: AssetClass, legs: int, splits: bool
) -> None:
    leg = order(of=identity(purpose=purpose), instrument=instrument(asset_class=asset_class), total_legs=legs)
    reason = unsupported_reason(leg, Capabilities(splits_option_combinations=splits), "IBKR")
    is_naked = (purpose, asset_class, legs, splits) == (Purpose.ENTRY, AssetClass.OPTION, 2, False)
    assert (reason is not None) == is_naked
    assert reason is None or "one of 2 legs" in reason


def leg(number: int, *events: Event, account: str = "acct-1", kind: AssetClass = AssetClass.STOCK) -> Order:
    return order(
        of=identity(leg_index=number),
        events=events,
        instrument=instrument(asset_class=kind),
        account_id=account,
        total_legs=3,
    )


WHOLE = Capabilities(splits_option_combinations=False)


def test_a_leg_is_refused_by_what_the_others_say_and_by_nothing_else() -> None:
    mine = leg(0)
    option = leg(1, kind=AssetClass.OPTION)
    assert refusing_leg(mine, [mine, leg(1), leg(2)], WHOLE, "IBKR") is None
    assert refusing_leg(mine, [mine, option], Capabilities(), "Zerodha") is None
    refused = refusing_leg(mine, [mine, option], WHOLE, "IBKR")
    assert refused is not None
    assert refused.message.startswith("not placed without leg 2 of 3: IBKR does not take an option alone")
    assert refusing_leg(mine, [leg(1, account="other", kind=AssetClass.OPTION)], WHOLE, "IBKR") is None
    for events in ([rejected()], [cancel_requested()]):
        assert refusing_leg(mine, [leg(2, *events)], WHOLE, "IBKR") is not None
    filled_in_part = leg(2, submit_started(), filled_by("f1", 40), cancelled(filled_quantity=40))
    assert refusing_leg(mine, [filled_in_part], WHOLE, "IBKR") is None


def test_a_leg_is_refused_with_the_reason_of_the_other() -> None:
    mine, words = leg(0), "not placed without leg 2 of 3: insufficient margin"
    assert refusing_leg(mine, [leg(1, rejected())], WHOLE, "IBKR") == Reason(ReasonCode.BROKER_REJECTED, words)
    asked = Reason(ReasonCode.CANCEL_REQUESTED, "not placed without leg 2 of 3: asked by upstream")
    assert refusing_leg(mine, [leg(1, cancel_requested())], WHOLE, "IBKR") == asked
    wished_while_it_was_sent = leg(1, submit_started(), cancel_requested(), nothing_sent())
    assert refusing_leg(mine, [wished_while_it_was_sent], WHOLE, "IBKR") == asked
    of_no_kind = refusing_leg(mine, [leg(1, kind=AssetClass.OPTION)], WHOLE, "IBKR")
    assert of_no_kind is not None
    assert of_no_kind.code is ReasonCode.UNSUPPORTED_ORDER
    message_not_composed = replace(leg(1, rejected()), reason=None)
    said = Reason(ReasonCode.BROKER_REJECTED, "not placed without leg 2 of 3: it is REJECTED")
    assert refusing_leg(mine, [message_not_composed], WHOLE, "IBKR") == said


def test_a_leg_that_has_left_is_not_judged_again_by_what_the_broker_takes() -> None:
    """It was sent: the others complete it. To refuse them now would leave it alone."""
    for events in ([submit_started()], [submit_started(), accepted()], [submit_started(), filled_by("f1", 100)]):
        assert refusing_leg(leg(0), [leg(1, *events, kind=AssetClass.OPTION)], WHOLE, "IBKR") is None


def test_legs_that_have_not_come_are_numbered_from_one() -> None:
    assert missing_legs(leg(1), [leg(1)]) == [1, 3]
    assert missing_legs(leg(1), [leg(0), leg(1), leg(2)]) == []
    assert missing_legs(leg(1), [order(of=identity(leg_index=0, purpose=Purpose.EXIT))]) == [1, 3]


def reports_about(about: Order) -> Iterator[Report]:
    lists: tuple[Callable[[], Report], ...] = (
        lambda: report(about, fills=about.fills),
        lambda: report(about, fills=[*about.fills, fill("f-more", 30)]),
        lambda: report(about, fills=[*about.fills, fill("f-over", 500)], busted=["f1"]),
        lambda: report(about, filled_quantity=70),
    )
    for make, status, tag in product(lists, ReportStatus, (about.client_order_ids[0], about.client_order_id)):
        yield replace(make(), status=status, client_order_id=tag)


SOME_ELAPSED = (
    elapsed(),
    elapsed(400),
    elapsed(sent=0.0, finding=0.0, asked=0.0),
    elapsed(sent=70.0, finding=70.0, asked=70.0),
    elapsed(400, sent=70.0, finding=70.0, asked=0.0, cancel_sent=1.0, cancel_wait=1.0),
    elapsed(sent=70.0, finding=70.0, asked=0.0, cancel_sent=90.0),
)


def legal_followers(about: Order) -> Iterator[Order]:
    for event in one_event_of_each_kind(about).values():
        try:
            yield apply(about, event)
        except InvalidTransition:
            continue


def test_no_pair_of_events_makes_news_or_next_step_raise() -> None:
    seen = 0
    for start in starting_points():
        for second in legal_followers(start):
            for third in legal_followers(second):
                seen += 1
                for about in reports_about(third):
                    events = new_events(third, about, NOW)
                    after = apply_all(third, events)
                    if events:
                        assert new_events(after, about, NOW) == []
                for since, under in product(SOME_ELAPSED, (limits(), REFUSING)):
                    assert_sound(third, step_of(third, since, under))
    assert seen > 500


# --- four failures of a peer --------------------------------------------------------------------------------------------------


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


def test_s3_a_cancel_that_is_never_answered_cancels_nothing() -> None:
    broker = SilentBroker(apply(order_in(Status.SUBMITTED), cancel_requested()), limits())
    done = broker.run(3600)
    assert broker.about.status is Status.SUBMITTED
    assert StepKind.RECORD not in done
    assert done[StepKind.CANCEL] == 8, "it is asked for again, more and more rarely, for as long as it lasts"
    assert new_events(broker.about, report(broker.about, WORK), NOW) == [], "the broker shows it alive"


@pytest.mark.parametrize("status", WORKING_STATUSES)
def test_s4_a_live_order_that_no_answer_mentions_stays_open(status: Status) -> None:
    broker = SilentBroker(order_in(status, tif=Tif.DAY), limits())
    broker.run(3600)
    assert broker.about == order_in(status, tif=Tif.DAY), "silence and failing queries are no statements"


# --- found wanting --------------------------------------------------------------------------------------------------------------


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


# --- lists that show all executions -----------------------------------------------------------------------------------


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


IDS = ("B-0", "B-1", "B-2")


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


def test_an_unreadable_order_with_a_fill_has_a_next_step() -> None:
    strange = order(asked=refused_request(quantity=Decimal(100)), events=[rejected(), filled_by("f1", 40)])
    assert_sound(strange, step_of(strange))


def test_sending_again_is_not_repeated_without_a_pause() -> None:
    just_asked = elapsed(31, sent=0.0, finding=30.0, asked=0.0)
    assert step_of(order_in(Status.SUBMITTING), just_asked, REFUSING).kind is not StepKind.SUBMIT_AGAIN


def test_a_report_about_another_order_tells_nothing_of_this_one() -> None:
    sent = order_in(Status.SUBMITTING)
    foreign = report(sent, fills=[fill("f1", 40)], client_order_id="xanotherorderofours")
    assert new_events(sent, foreign, NOW) == []
