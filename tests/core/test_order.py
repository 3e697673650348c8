"""The transition table row by row, fills and annulments from every status, cancels, sending again and the ids; no decisions."""

from __future__ import annotations

import string
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import OrderType, ReportStatus, Side, Tif
from execution_service.core.errors import FillsDoNotAddUp, InvalidTransition
from execution_service.core.orders.effects import bare
from execution_service.core.orders.events import (
    Accepted,
    Adopted,
    AdoptionUndone,
    AwaitsOpening,
    Busted,
    Cancelled,
    CancelRefused,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractDeclared,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Held,
    InstrumentMatched,
    Noted,
    NothingSent,
    ProtectionChanged,
    Rejected,
    Released,
    SendAgainOrdered,
    Sized,
    SubmitStarted,
    Triggered,
    stored_name,
)
from execution_service.core.orders.order import Order, apply, apply_all
from execution_service.core.orders.report_events import new_events
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import FINAL, ReasonCode, Status
from execution_service.core.orders.transitions import TRANSITIONS
from execution_service.core.views.record import event_from_document, event_to_document
from tests.builders import (
    NOW,
    accepted,
    adopted_order,
    at,
    busted,
    cancel_refused,
    cancel_requested,
    cancelled,
    capped,
    commission_reported,
    completed,
    declared_cancelled,
    declared_not_placed,
    declared_placed,
    doubted,
    expired,
    fill,
    filled_by,
    fitted,
    identity,
    instrument_matched,
    noted,
    nothing_sent,
    one_event_of_each_kind,
    order,
    order_in,
    refused_request,
    rejected,
    report,
    request,
    send_again_ordered,
    submit_started,
)

DONE = ReportStatus.FILLED

EVENT_CLASSES: tuple[type[Event], ...] = get_args(Event)
TAKEN_EVERYWHERE = frozenset({Filled, Busted, CommissionReported, ContractDeclared, Noted, ProtectionChanged})

P, S, W, PF = Status.PENDING, Status.SUBMITTING, Status.SUBMITTED, Status.PARTIALLY_FILLED
D, X, C, E = Status.IN_DOUBT, Status.REJECTED, Status.CANCELLED, Status.EXPIRED

MEANINGS: tuple[tuple[Status, type[Event], Status, str], ...] = (
    (P, AwaitsOpening, P, "it is kept for the opening of its market"),
    (P, Sized, P, "its quantity is worked out as it is about to leave"),
    (P, Capped, P, "an exit is reduced before it is sent"),
    (P, InstrumentMatched, P, "an exit takes its entry's name for the instrument"),
    (P, ContractResolved, P, "the broker says which contract is meant"),
    (P, Fitted, P, "its prices and quantity are put on the market's ticks and increment"),
    (P, SubmitStarted, S, "the sending is recorded before the ticket leaves"),
    (P, Rejected, X, "an order is refused before it is sent"),
    (P, CancelRequested, C, "an unsent order is cancelled at once"),
    (P, Cancelled, C, "a wish made while it was being sent is carried out once nothing was sent"),
    (P, Accepted, W, "the broker has what we thought unsent"),
    (S, NothingSent, P, "surely nothing left, so it waits again"),
    (S, Accepted, W, "the broker takes it"),
    (S, Doubted, D, "the broker cannot tell whether it has it"),
    (S, Rejected, X, "the broker refuses it"),
    (S, CancelRequested, S, "a wish to cancel waits until the order is found"),
    (S, Cancelled, C, "an immediate-or-cancel order comes back empty"),
    (S, Expired, E, "it is found expired"),
    (S, DeclaredNotPlaced, X, "a person finds that the broker never had it"),
    (S, DeclaredPlaced, W, "a person finds it at the broker"),
    (W, Accepted, W, "the broker replaces its id"),
    (W, Rejected, X, "the venue rejects a working order late"),
    (W, CancelRequested, W, "a working order stays alive until the broker confirms the cancel"),
    (W, CancelRefused, W, "a refused cancel leaves it working"),
    (W, Held, W, "the broker holds it for the opening"),
    (W, Released, W, "the market has it"),
    (W, Triggered, W, "its stop is triggered"),
    (W, Cancelled, C, "the broker cancels it"),
    (W, Expired, E, "it expires at the venue"),
    (W, DeclaredCancelled, C, "a person finds it dead at the broker"),
    (PF, Accepted, PF, "the acceptance comes after the first fill"),
    (PF, Rejected, C, "the rest is refused and what filled stays filled"),
    (PF, CancelRequested, PF, "a partly filled order stays alive until the broker confirms the cancel"),
    (PF, CancelRefused, PF, "a refused cancel leaves the rest working"),
    (PF, Held, PF, "the broker holds the rest for the next opening"),
    (PF, Released, PF, "the market has the rest"),
    (PF, Triggered, PF, "a stop of which a part had filled before it was known to be triggered"),
    (PF, Cancelled, C, "the rest is cancelled"),
    (PF, Expired, E, "the rest expires"),
    (PF, DeclaredCancelled, C, "a person finds the rest dead"),
    (PF, Completed, Status.FILLED, "the money is spent"),
    (D, Accepted, W, "the doubtful order turns up"),
    (D, Rejected, X, "the doubtful order turns out rejected"),
    (D, CancelRequested, D, "a wish to cancel waits while in doubt"),
    (D, Cancelled, C, "the doubtful order turns out cancelled"),
    (D, Expired, E, "the doubtful order turns out expired"),
    (D, DeclaredNotPlaced, X, "a person ends the doubt: never placed"),
    (D, DeclaredPlaced, W, "a person ends the doubt: placed"),
    (D, DeclaredCancelled, C, "a person ends the doubt: dead"),
    (D, SendAgainOrdered, P, "a person ends the doubt: send it again"),
    (P, Adopted, P, "a person tells of a movement past the service, whose fills come with it"),
    (Status.FILLED, AdoptionUndone, C, "a person takes that back"),
)


ORDINARY = {pair for pair in TRANSITIONS if pair[1] is not AdoptionUndone}
"""Of orders that were meant to be sent."""


def grown(before: Order, kind: type[Event]) -> Order:
    return apply(before, one_event_of_each_kind(before)[kind])


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "target"), [row[:3] for row in MEANINGS], ids=[f"{row[0]}: {row[3]}" for row in MEANINGS]
)
def test_row_of_the_table(status: Status, kind: type[Event], target: Status) -> None:
    after = grown(adopted_order() if kind is AdoptionUndone else order_in(status), kind)
    assert after.status is target
    assert (after.finished_at is not None) == target.is_final


def test_every_row_of_the_table_has_a_meaning_here() -> None:
    assert {(status, kind): target for status, kind, target, _ in MEANINGS} == dict(TRANSITIONS)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param(status, kind, id=f"{status}-{kind.__name__}")
        for status in Status
        for kind in EVENT_CLASSES
        if (status, kind) not in ORDINARY and kind not in TAKEN_EVERYWHERE
    ],
)
def test_absent_pair_raises_and_names_order_status_and_event(status: Status, kind: type[Event]) -> None:
    before = order_in(status)
    with pytest.raises(InvalidTransition) as caught:
        grown(before, kind)
    assert (caught.value.order_id, caught.value.status, caught.value.event) == (
        before.order_id,
        status,
        stored_name(kind),
    )


def test_the_samples_cover_every_class_of_event() -> None:
    assert set(one_event_of_each_kind(order())) == set(EVENT_CLASSES)


@pytest.mark.parametrize("status", Status)
def test_final_means_that_only_the_six_everywhere_events_are_taken(status: Status) -> None:
    taken = {kind for (source, kind) in ORDINARY if source is status}
    assert status.is_final == (not taken) == (status in FINAL)


@pytest.mark.parametrize("status", Status)
def test_only_a_pending_order_can_be_sent(status: Status) -> None:
    assert ((status, SubmitStarted) in TRANSITIONS) == (status is P)


@pytest.mark.parametrize("status", Status)
def test_a_note_changes_only_the_history(status: Status) -> None:
    before = order_in(status)
    after = apply(before, noted())
    assert after.events[-1] == noted()
    assert replace(after, events=before.events) == before


@pytest.mark.parametrize("kind", [Rejected, Cancelled, Expired])
@pytest.mark.parametrize("claimed", [0, 39, 41, 100])
def test_an_end_that_claims_another_quantity_than_we_hold_raises(kind: type[Event], claimed: int) -> None:
    ends: dict[type[Event], Event] = {
        Rejected: rejected(claimed),
        Cancelled: cancelled(claimed),
        Expired: expired(claimed),
    }
    with pytest.raises(FillsDoNotAddUp):
        apply(order_in(PF, filled=40), ends[kind])


def test_every_event_makes_one_version_and_the_old_order_stays_what_it_was() -> None:
    before = order_in(S)
    after = apply(before, accepted())
    assert (before.version, after.version) == (1, 2)
    assert before.status is S
    with pytest.raises(FrozenInstanceError):
        before.status = W  # type: ignore[misc]


@pytest.mark.parametrize("status", Status)
def test_an_order_is_the_fold_of_its_events(status: Status) -> None:
    for event in one_event_of_each_kind(order_in(status)).values():
        try:
            after = apply(order_in(status), event)
        except InvalidTransition:
            continue
        assert apply_all(bare(after), after.events) == after


# --- what else an event leaves behind -----------------------------------------------------------------------------------


def test_submit_started_keeps_the_reserved_id_and_the_ticket_carries_it() -> None:
    sent = order(events=[submit_started(reserved_order_id="R-7")])
    assert sent.submitted_at == NOW
    assert sent.ticket().reserved_order_id == "R-7"
    assert sent.ticket().client_order_id == sent.client_order_id


def test_nothing_sent_forgets_the_reservation_and_the_time_of_sending() -> None:
    waiting = order(events=[submit_started(reserved_order_id="R-7"), nothing_sent()])
    assert (waiting.reserved_order_id, waiting.submitted_at) == (None, None)
    assert waiting.client_order_id == order().client_order_id, "the same attempt keeps its tag"


def test_a_replaced_broker_id_is_kept() -> None:
    assert apply(order_in(W), accepted("B-2")).broker_order_id == "B-2"


def test_a_declared_place_gives_the_broker_id() -> None:
    assert apply(order_in(D), declared_placed("B-9")).broker_order_id == "B-9"


def test_doubt_has_a_reason_and_acceptance_clears_it() -> None:
    doubtful = order_in(D)
    assert doubtful.reason is not None
    assert doubtful.reason.code is ReasonCode.OUTCOME_UNKNOWN
    assert apply(doubtful, accepted()).reason is None


@pytest.mark.parametrize("event", [declared_not_placed(), declared_cancelled()], ids=["not placed", "dead"])
def test_a_persons_decision_is_the_reason(event: Event) -> None:
    decided = apply(order_in(D), event)
    assert decided.reason is not None
    assert decided.reason.code is ReasonCode.RESOLVED_BY_PERSON


def test_an_exit_is_traded_as_its_entrys_instrument_and_remains_the_same_request() -> None:
    before = order()
    after = apply(before, instrument_matched())
    assert after.ticket().instrument == instrument_matched().instrument
    assert after.request == before.request


def test_a_fitted_order_asks_the_broker_for_what_the_market_takes() -> None:
    asked = order(quantity="99.5", order_type=OrderType.LIMIT, limit_price=Decimal("9.957"))
    ticket = apply(asked, fitted()).ticket()
    assert (ticket.quantity, ticket.limit_price) == (99, Decimal("9.95"))
    assert asked.accepted_request.limit_price == Decimal("9.957")


def test_an_order_for_money_is_done_when_the_broker_says_so_and_not_by_its_quantity() -> None:
    for_money = Fitted(at=NOW, message="sent with cash quantity 1000", cash_quantity=Decimal(1000))
    sent = apply_all(order(quantity=100), [for_money, submit_started(), accepted()])
    assert sent.ticket().cash_quantity == 1000
    for bought in (97, 100, 103):
        filled = apply(sent, filled_by("f1", bought))
        assert filled.status is Status.PARTIALLY_FILLED
        done = apply(filled, completed(bought))
        assert (done.status, done.quantity, done.remaining_quantity) == (Status.FILLED, bought, 0)


def test_an_exit_says_on_its_ticket_that_it_is_one() -> None:
    assert [order(of=identity(purpose=purpose)).ticket().is_exit for purpose in (Purpose.ENTRY, Purpose.EXIT)] == [
        False,
        True,
    ]


def test_a_capped_exit_asks_the_broker_for_less() -> None:
    exit_order = apply(order(quantity=100), capped(60))
    assert exit_order.ticket().quantity == 60
    assert exit_order.accepted_request.quantity == 100
    assert apply_all(exit_order, [submit_started(), accepted(), filled_by("f1", 60)]).status is Status.FILLED


def test_an_unreadable_order_can_be_rejected_and_has_no_ticket() -> None:
    unreadable = order(asked=refused_request(), events=[rejected()])
    assert unreadable.status is X
    assert unreadable.remaining_quantity == 0
    with pytest.raises(TypeError, match=unreadable.order_id):
        unreadable.ticket()


# --- fills --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "target"), [(P, PF), (S, PF), (W, PF), (PF, PF), (D, PF), (X, PF), (C, C), (E, E)], ids=str
)
def test_a_partial_fill_is_taken_in_every_status(status: Status, target: Status) -> None:
    before = order_in(status, filled=20)
    after = apply(before, filled_by("late", 30))
    assert after.status is target
    assert after.filled_quantity == before.filled_quantity + 30
    assert after.fill_of("late") is not None
    assert (after.finished_at is None) == (not target.is_final)


@pytest.mark.parametrize("status", Status)
def test_fills_that_complete_the_order_make_it_filled_from_every_status(status: Status) -> None:
    before = order_in(status, quantity=100, filled=20)
    after = apply(before, filled_by("last", 100 - before.filled_quantity or 5))
    assert after.status is Status.FILLED
    assert after.filled_quantity >= 100
    assert after.finished_at is not None
    assert after.reason is None, "a filled order needs no excuse"


@pytest.mark.parametrize("status", Status)
def test_a_known_fill_id_changes_nothing_in_any_status(status: Status) -> None:
    before = apply(order_in(status), filled_by("f1", 40))
    after = apply(before, filled_by("f1", 60, "99.00"))
    assert replace(after, events=before.events) == before


def test_fill_after_cancel_is_recorded_and_the_reason_stays() -> None:
    late = apply(order_in(C), filled_by("late", 40))
    assert (late.status, late.filled_quantity) == (C, Decimal(40))
    assert late.reason is not None


def test_fill_after_rejection_shows_the_order_alive_and_drops_the_reason() -> None:
    alive = apply(order_in(X), filled_by("f1", 40))
    assert (alive.status, alive.reason, alive.finished_at) == (PF, None, None)


def test_an_overfill_is_recorded_as_it_is() -> None:
    overfilled = apply(order_in(PF, quantity=100, filled=40), filled_by("big", 90))
    assert (overfilled.status, overfilled.filled_quantity, overfilled.remaining_quantity) == (
        Status.FILLED,
        Decimal(130),
        Decimal(0),
    )
    more = apply(overfilled, filled_by("more", 5))
    assert (more.status, more.filled_quantity) == (Status.FILLED, Decimal(135))


def test_the_first_end_keeps_its_time_when_a_late_fill_completes_the_order() -> None:
    late = apply(order_in(C, quantity=100), replace(filled_by("f1", 100), at=at(60)))
    assert (late.status, late.finished_at) == (Status.FILLED, NOW)


def test_filled_at_is_the_latest_execution_whatever_the_order_of_news() -> None:
    early, later = filled_by("a", 10, time=at(1)), filled_by("b", 10, time=at(9))
    one_way, other_way = apply_all(order_in(W), [early, later]), apply_all(order_in(W), [later, early])
    assert one_way.filled_at == other_way.filled_at == at(9)


def test_average_price_weighs_by_quantity_and_is_none_without_fills() -> None:
    assert order_in(W).average_price is None
    two = apply_all(order_in(W), [filled_by("a", 30, "10.00"), filled_by("b", 10, "12.00")])
    assert two.average_price == Decimal("10.50")


def test_a_commission_reaches_its_fill_and_no_other() -> None:
    two = apply_all(order_in(W), [filled_by("a", 30), filled_by("b", 10), commission_reported("b", "1.25")])
    assert [f.commission for f in two.fills] == [None, Decimal("1.25")]
    assert (two.commission, two.status) == (Decimal("1.25"), PF)


@pytest.mark.parametrize("status", Status)
def test_a_commission_of_an_unknown_fill_changes_no_figure(status: Status) -> None:
    before = order_in(status)
    after = apply(before, commission_reported("nobody"))
    assert replace(after, events=before.events) == before


# --- annulments -----------------------------------------------------------------------------------------------------------


def test_a_bust_reopens_a_filled_order() -> None:
    filled = apply_all(order_in(W, quantity=100), [filled_by("a", 60), filled_by("b", 40)])
    reopened = apply(filled, busted("b"))
    assert (reopened.status, reopened.filled_quantity, reopened.finished_at) == (PF, Decimal(60), None)
    assert apply(reopened, busted("a")).status is W


def test_a_correction_is_a_bust_and_a_new_fill() -> None:
    corrected = apply_all(order_in(Status.FILLED, quantity=100), [busted("f1"), filled_by("f1-corrected", 100, "9.50")])
    assert (corrected.status, corrected.average_price) == (Status.FILLED, Decimal("9.50"))


@pytest.mark.parametrize("status", [C, E])
def test_a_bust_leaves_a_cancelled_or_expired_order_what_it_is(status: Status) -> None:
    with_late_fill = apply(order_in(status), filled_by("late", 40))
    annulled = apply(with_late_fill, busted("late"))
    assert (annulled.status, annulled.filled_quantity, annulled.average_price, annulled.filled_at) == (
        status,
        Decimal(0),
        None,
        None,
    )
    assert annulled.finished_at is not None


@pytest.mark.parametrize("status", Status)
def test_a_bust_of_an_unknown_fill_changes_no_figure_and_is_remembered(status: Status) -> None:
    before = order_in(status)
    annulled = apply(before, busted("not-seen-yet"))
    assert (annulled.status, annulled.filled_quantity) == (status, before.filled_quantity)
    assert apply(annulled, filled_by("not-seen-yet", 10)).fills == before.fills, "an annulled fill never counts"


def test_a_bust_of_part_of_an_overfill_leaves_the_order_filled() -> None:
    overfilled = apply_all(order_in(W, quantity=100), [filled_by("a", 100), filled_by("b", 20)])
    annulled = apply(overfilled, busted("b"))
    assert (annulled.status, annulled.filled_quantity) == (Status.FILLED, Decimal(100))


def test_a_repeated_bust_changes_no_figure() -> None:
    once = apply(order_in(PF), busted("f1"))
    assert replace(apply(once, busted("f1")), events=once.events) == once


def test_filled_at_falls_back_to_the_last_standing_execution() -> None:
    two = apply_all(order_in(W), [filled_by("a", 10, time=at(1)), filled_by("b", 10, time=at(9)), busted("b")])
    assert two.filled_at == at(1)


# --- cancelling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "target"), [(P, C), (S, S), (W, W), (PF, PF), (D, D)], ids=["PENDING", "SUBMITTING", "W", "PF", "DOUBT"]
)
def test_a_cancel_is_a_wish_in_every_unfinished_state_but_pending(status: Status, target: Status) -> None:
    wished = apply(order_in(status), cancel_requested())
    assert wished.status is target
    assert wished.cancel_request == cancel_requested().reason
    assert (wished.reason == wished.cancel_request) == target.is_final or status is D


def test_the_first_wish_keeps_its_reason() -> None:
    second = CancelRequested(at=at(5), reason=expired().reason, requested_by="operator")
    assert apply_all(order_in(W), [cancel_requested(), second]).cancel_request == cancel_requested().reason


def test_a_wish_survives_acceptance_fills_and_refusal() -> None:
    wished = apply_all(
        order_in(S), [cancel_requested(), accepted(), filled_by("f1", 40), cancel_refused(), filled_by("f2", 10)]
    )
    assert (wished.status, wished.cancel_request) == (PF, cancel_requested().reason)


def test_a_cancelled_order_tells_what_was_filled() -> None:
    done = apply_all(order_in(PF, filled=40), [cancel_requested(), cancelled(40)])
    assert (done.status, done.filled_quantity, done.remaining_quantity) == (C, Decimal(40), Decimal(60))


# --- sending again --------------------------------------------------------------------------------------------------------


def test_sending_again_takes_a_new_tag_and_keeps_watching_the_old() -> None:
    before = order_in(D)
    again = apply(before, send_again_ordered())
    assert (again.status, again.attempt) == (P, 2)
    assert again.client_order_id != before.client_order_id
    assert again.client_order_ids == (before.client_order_id, again.client_order_id)
    assert (again.broker_order_id, again.reserved_order_id, again.submitted_at, again.reason) == (None,) * 4
    assert again.order_id == before.order_id, "to the world it is the same order"


def test_a_fill_of_an_earlier_attempt_keeps_the_order_from_being_sent_again() -> None:
    again = apply_all(order_in(D, quantity=100), [send_again_ordered(), filled_by("late", 40)])
    assert again.status is PF
    assert apply(again, filled_by("later", 60)).status is Status.FILLED
    with pytest.raises(InvalidTransition):
        apply(again, submit_started())


def test_two_attempts_that_both_fill_are_recorded_as_an_overfill() -> None:
    both = apply_all(
        order_in(D, quantity=100),
        [send_again_ordered(), submit_started(), accepted("B-2"), filled_by("second", 100), filled_by("first", 100)],
    )
    assert (both.status, both.filled_quantity) == (Status.FILLED, Decimal(200))


# --- ids ------------------------------------------------------------------------------------------------------------------

BASE32 = frozenset(string.ascii_lowercase + "234567")


@given(
    st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 99), st.sampled_from(Purpose), st.integers(1, 9)
)
def test_a_client_order_id_is_19_characters_letter_first_and_stable(
    signal_id: str, leg_index: int, purpose: Purpose, attempt: int
) -> None:
    tag = identity(signal_id, leg_index, purpose).client_order_id(attempt)
    assert len(tag) == 19
    assert tag[0] in string.ascii_lowercase
    assert set(tag) <= BASE32
    assert tag == identity(signal_id, leg_index, purpose).client_order_id(attempt)


def test_ids_never_change_between_versions_of_this_program() -> None:
    of = identity("signal-1", 0, Purpose.ENTRY)
    assert of.order_id == "ord_a9f1edd466e59418f3793137"
    assert of.client_order_id(1) == "x4tfauwo43fp3px3uuc"


LOOK_ALIKES = (
    identity("a", 1),
    identity("a", 11),
    identity("a1", 1),
    identity("a|1", 1),
    identity("a|1|ENTRY|1", 1),
    identity("a", 1, Purpose.EXIT),
    identity("1:a", 1),
    identity("3:a|1", 1),
    identity("a|0|ENTRY", 0),
    identity("a|0|EXIT", 0),
    identity("a|0|ENTRY|order", 0),
    identity("", 0),
    identity("0:", 0),
    identity(" a", 1),
    identity("A", 1),
    identity("ä", 1),
    identity("a\u0308", 1),
)


def test_look_alike_identities_have_distinct_ids() -> None:
    tags = {of.client_order_id(attempt) for of in LOOK_ALIKES for attempt in (1, 2, 11, 12)}
    assert len(tags) == 4 * len(LOOK_ALIKES)
    assert len({of.order_id for of in LOOK_ALIKES}) == len(LOOK_ALIKES)


IDENTITIES = st.builds(
    Identity,
    signal_id=st.text("a1:|ENTRYXIorde", max_size=8),
    leg_index=st.integers(0, 12),
    purpose=st.sampled_from(Purpose),
)


@given(IDENTITIES, IDENTITIES, st.integers(1, 12), st.integers(1, 12))
def test_two_identities_or_attempts_share_a_tag_only_if_they_are_equal(
    one: Identity, other: Identity, attempt: int, other_attempt: int
) -> None:
    same = (one, attempt) == (other, other_attempt)
    assert (one.client_order_id(attempt) == other.client_order_id(other_attempt)) == same
    assert (one.order_id == other.order_id) == (one == other)


# --- contents of a request ------------------------------------------------------------------------------------------------


def test_a_price_that_the_order_type_ignores_does_not_make_another_order() -> None:
    assert request(limit_price=Decimal(10)).content == request(limit_price=Decimal(11)).content


def test_equal_quantities_written_differently_are_the_same_order() -> None:
    assert request(quantity="100").content == request(quantity="100.00").content


def test_fill_of_finds_by_id() -> None:
    assert order_in(PF, filled=40).fill_of("f1") == fill("f1", 40)
    assert order_in(PF).fill_of("f2") is None


# --- found wanting --------------------------------------------------------------------------------------------------------


def test_every_text_that_json_can_carry_gives_an_id() -> None:
    assert identity("\ud800").order_id != identity("\ud801").order_id


def test_a_bust_of_the_only_fill_of_an_unreadable_order_leaves_it_without_fills() -> None:
    strange = order(asked=refused_request(), events=[rejected(), filled_by("f1", 10), busted("f1")])
    assert strange.status is not PF


def test_words_alone_are_those_that_answered_the_present_sending() -> None:
    def noted_with(answer: str | None) -> Noted:
        return Noted(at=NOW, message="looked for", answer=answer)

    sent = apply_all(order(), [submit_started()])
    assert sent.undocumented_answer is None
    answered = apply_all(sent, [noted_with("No (code 1)"), noted_with(None)])
    assert answered.undocumented_answer == "No (code 1)"
    assert apply_all(answered, [accepted()]).undocumented_answer is None
    again = apply_all(answered, [nothing_sent(), submit_started()])
    assert again.undocumented_answer is None
    assert event_from_document(event_to_document(answered.events[1])) == answered.events[1]


def test_our_order_id_is_the_same_for_ever() -> None:
    """It is the record's key: another way of making it would orphan everything that is stored."""
    assert identity("kept for ever", 3).order_id == "ord_3e699109561d36d26b445d1c"
    assert identity("kept for ever", 3).client_order_id(2) == "xdhanahpviv3nbu3ubx"


def test_the_ticket_carries_all_that_was_asked() -> None:
    asked = order(
        order_type=OrderType.STOP_LIMIT,
        limit_price=Decimal(9),
        stop_price=Decimal(8),
        reference_price=Decimal(7),
        tif=Tif.GTC,
        product="MIS",
        variety="amo",
        side=Side.SELL,
    )
    ticket = asked.ticket()
    assert (ticket.limit_price, ticket.stop_price, ticket.reference_price) == (9, 8, 7)
    assert (ticket.tif, ticket.product, ticket.variety, ticket.side) == (Tif.GTC, "MIS", "amo", Side.SELL)
    assert replace(asked, quantity=None).ticket().quantity == 100
    assert replace(asked, quantity=Decimal(3)).ticket().quantity == 3


def test_an_exits_instrument_is_the_one_that_its_entry_named() -> None:
    exact = instrument_matched()
    asked = order()
    assert asked.instrument == asked.accepted_request.instrument
    assert apply(asked, exact).instrument == exact.instrument


def test_what_the_market_took_as_asked_stays_as_asked() -> None:
    asked = order(order_type=OrderType.STOP_LIMIT, limit_price=Decimal(9), stop_price=Decimal(8))

    def sent(**taken: Decimal) -> tuple[Decimal | None, ...]:
        after = apply(asked, Fitted(at=NOW, message="put on the market's ticks", **taken))
        return after.quantity, after.limit_price, after.stop_price, after.cash_quantity

    assert sent() == (100, 9, 8, None)
    assert sent(quantity=Decimal(99)) == (99, 9, 8, None)
    assert sent(limit_price=Decimal("9.05")) == (100, Decimal("9.05"), 8, None)
    assert sent(stop_price=Decimal("8.05")) == (100, 9, Decimal("8.05"), None)
    for_money = apply(asked, Fitted(at=NOW, message="for money", cash_quantity=Decimal(500)))
    again = apply(for_money, Fitted(at=NOW, message="put on a tick", limit_price=Decimal(7)))
    assert (again.cash_quantity, again.limit_price) == (500, 7)


def test_an_order_for_money_that_is_done_is_in_doubt_no_more() -> None:
    for_money = Fitted(at=NOW, message="for money", cash_quantity=Decimal(500))
    bought = order(events=[for_money, submit_started(), doubted(), filled_by("f1", 40)])
    done = apply(bought, Completed(at=NOW, filled_quantity=Decimal(40)))
    assert (done.status, done.quantity, done.reason) == (Status.FILLED, 40, None)


@pytest.mark.parametrize(
    ("order_type", "counts_limit", "counts_stop"),
    [
        (OrderType.MARKET, False, False),
        (OrderType.LIMIT, True, False),
        (OrderType.STOP, False, True),
        (OrderType.STOP_LIMIT, True, True),
    ],
)
def test_only_the_prices_that_a_type_uses_are_content(
    order_type: OrderType, counts_limit: bool, counts_stop: bool
) -> None:
    asked = request(order_type=order_type, limit_price=Decimal(9), stop_price=Decimal(8))
    assert (asked.content != replace(asked, limit_price=Decimal(1)).content) is counts_limit
    assert (asked.content != replace(asked, stop_price=Decimal(1)).content) is counts_stop


def test_the_order_type_is_content() -> None:
    assert request(order_type=OrderType.MARKET).content != request(order_type=OrderType.LIMIT).content


def test_sending_again_begins_with_a_clean_sheet() -> None:
    doubtful = order_in(Status.IN_DOUBT)
    doubtful = apply(replace(doubtful, reserved_order_id="r1", broker_order_id="b1"), cancel_requested())
    again = apply(doubtful, send_again_ordered())
    assert (again.reserved_order_id, again.broker_order_id, again.submitted_at) == (None, None, None)
    assert (again.cancel_request, again.reason, again.attempt) == (None, None, 2)


def test_a_small_late_fill_of_a_filled_order_leaves_it_filled() -> None:
    filled = order_in(Status.FILLED)
    assert apply(filled, filled_by("late", 1)).status is Status.FILLED
    # Even where an annulment meanwhile had left it with less and some venue's record is short.
    short = replace(filled, filled_quantity=Decimal(10))
    assert apply(short, filled_by("late", 1)).status is Status.FILLED


def test_after_an_annulment_the_last_fill_left_tells_when_it_filled() -> None:
    fills = tuple(Filled(at=NOW, fill=fill(f"f{n}", 20, time=at(n))) for n in (1, 2, 3))
    held = order(events=(submit_started(), accepted(), *fills))
    assert apply(held, busted("f3")).filled_at == at(2)
    assert apply(held, busted("f1")).filled_at == at(3)


def test_an_amount_of_money_whose_executions_were_all_annulled_is_not_spent() -> None:
    spends = Fitted(at=NOW, message="an amount of money", cash_quantity=Decimal(500))
    about = order(events=[spends, submit_started(), accepted(), filled_by("f1", 40), busted("f1")])
    (end,) = new_events(about, report(about, DONE, busted=["f1"]), NOW)
    assert isinstance(end, Cancelled)
