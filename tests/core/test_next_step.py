"""What is done next with an order, by the time that has passed and what was asked; values in, values out, a clock moved by hand."""

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

from brokers.base import OrderType, Report, ReportStatus, Tif
from execution_service.core.errors import InvalidTransition
from execution_service.core.orders.events import (
    Cancelled,
    CancelRequested,
    Completed,
    Doubted,
    Event,
    Filled,
    Fitted,
    Rejected,
)
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
from execution_service.core.orders.report_events import new_events
from execution_service.core.orders.status import FINAL, Reason, ReasonCode, Status
from execution_service.core.orders.tickets import fitting
from execution_service.core.orders.waiting import Pause, Waiting, WaitingReason
from tests.builders import (
    NOW,
    accepted,
    cancel_refused,
    cancel_requested,
    elapsed,
    fill,
    filled_by,
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


UNFINISHED = tuple(s for s in Status if not s.is_final)


REFUSING = limits(refuses_repeated_client_id=True)


def step_of(about: Order, since: Elapsed | None = None, under: Limits | None = None, **keywords: bool) -> Step:
    return next_step(about, NOW, since or elapsed(), under or limits(), **keywords)


def recorded(step: Step) -> Event:
    assert step.kind is StepKind.RECORD
    (event,) = step.events
    return event


# --- PENDING --------------------------------------------------------------------------------------------------------


def test_a_pending_order_is_submitted() -> None:
    assert step_of(order()) == Step(StepKind.SUBMIT, wait_seconds=299.0)


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


WAITS = [Waiting(reason, "words", seconds) for reason in WaitingReason for seconds in (None, 2.0)]


@pytest.mark.parametrize("waiting", WAITS)
def test_an_order_that_may_not_leave_yet_says_why_and_when_it_will_be_too_old(waiting: Waiting) -> None:
    step = next_step(order(), NOW, elapsed(40), limits(), waiting=waiting)
    assert step == Step(StepKind.WAIT, wait_seconds=260.0, waiting=waiting)


def test_an_order_whose_pause_is_over_is_submitted() -> None:
    waiting = Waiting(WaitingReason.CALLS, "spent", 0.0)
    assert next_step(order(), NOW, elapsed(), limits(), waiting=waiting).kind is StepKind.SUBMIT


@pytest.mark.parametrize("waiting", WAITS)
@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PENDING])
def test_only_an_order_that_is_to_be_sent_waits(status: Status, waiting: Waiting) -> None:
    about = order_in(status)
    assert next_step(about, NOW, elapsed(), limits(), waiting=waiting) == step_of(about)


@pytest.mark.parametrize("waiting", WAITS)
def test_whatever_it_waits_for_a_wish_and_its_age_end_it(waiting: Waiting) -> None:
    assert next_step(order(), NOW, elapsed(301), limits(), waiting=waiting).kind is StepKind.RECORD


def test_a_pause_is_known_until_an_order_is_taken_and_over_in_its_time() -> None:
    pause = Pause(reason=WaitingReason.NOT_TAKEN, words="no answer", until=10.0)
    assert pause.waiting(9.0) == Waiting(WaitingReason.NOT_TAKEN, "no answer", 1.0)
    assert not pause.waiting(9.0).is_over
    assert pause.waiting(10.0).is_over
    assert pause.waiting(99.0).reason is WaitingReason.NOT_TAKEN


def test_the_words_that_stand_in_records_stay_as_they_are() -> None:
    assert [reason.value for reason in WaitingReason] == [
        "its entry has not ended",
        "the other legs of its signal have not come",
        "the broker is not connected",
        "an order before it is looked for",
        "the broker's positions are being looked at",
        "calls are spent",
        "held back",
        "the broker does not take it",
        "an order of the account is looked for",
        "the risk gate lets no more pass for now",
        "protective orders have not made way",
        "the broker has not told what its stop has filled",
        "its turn has not come",
    ]


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
    elif step.kind in (StepKind.SUBMIT, StepKind.WAIT):
        assert step.wait_seconds is None or step.wait_seconds >= 0, "until it is too old"
    else:
        assert step.wait_seconds is None
    assert bool(step.events) == (step.kind is StepKind.RECORD)
    assert apply_all(about, step.events) != about or not step.events


# --- every boundary at once -----------------------------------------------------------------------------------------------


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


# --- a silent broker, a clock moved by hand ---------------------------------------------------------------------------------


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


WORK = ReportStatus.WORKING


def starting_points() -> Iterator[Order]:
    yield from (order_in(status) for status in Status)
    first = order_in(Status.IN_DOUBT)
    yield apply(first, send_again_ordered())


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


def test_an_unreadable_order_with_a_fill_has_a_next_step() -> None:
    strange = order(asked=refused_request(quantity=Decimal(100)), events=[rejected(), filled_by("f1", 40)])
    assert_sound(strange, step_of(strange))


def test_sending_again_is_not_repeated_without_a_pause() -> None:
    just_asked = elapsed(31, sent=0.0, finding=30.0, asked=0.0)
    assert step_of(order_in(Status.SUBMITTING), just_asked, REFUSING).kind is not StepKind.SUBMIT_AGAIN
