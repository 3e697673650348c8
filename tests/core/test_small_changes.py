"""What a small change of the state machine would alter and no other test would notice: found by `make mutants`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from brokers.base import OrderType, ReportStatus, Side, Tif
from execution_service.core.orders.events import (
    Accepted,
    Busted,
    Cancelled,
    CancelRequested,
    Completed,
    Expired,
    Filled,
    Fitted,
    Noted,
    Rejected,
)
from execution_service.core.orders.legs import pending_legs
from execution_service.core.orders.next_step import StepKind, cancel_request, is_stale, next_step
from execution_service.core.orders.order import Order, apply, apply_all
from execution_service.core.orders.report_events import fills_are_missing, is_of_another, is_short, new_events
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.positions.position import Position, apply_fill, reverse_fill
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
    instrument_matched,
    limits,
    noted,
    order,
    order_in,
    report,
    request,
    send_again_ordered,
    submit_started,
)

# --- orders ---------------------------------------------------------------------------------------------------------


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


# --- news -----------------------------------------------------------------------------------------------------------


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


# --- steps ----------------------------------------------------------------------------------------------------------


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


# --- positions ------------------------------------------------------------------------------------------------------


def traded(*trades: tuple[Side, str, str]) -> Position:
    position = Position()
    for number, (side, quantity, price) in enumerate(trades):
        position = apply_fill(
            position,
            side=side,
            quantity=Decimal(quantity),
            price=Decimal(price),
            multiplier=Decimal(1),
            at=at(number),
            order_id=f"o{number}",
        ).position
    return position


def test_the_average_of_a_holding_and_of_none() -> None:
    assert traded((Side.BUY, "4", "10"), (Side.BUY, "4", "20")).average_price == 15
    assert Position().average_price is None


def test_the_final_average_is_that_of_an_ended_episode_only() -> None:
    held = traded((Side.BUY, "4", "10"), (Side.SELL, "1", "12"))
    assert held.final_average is None
    assert traded((Side.BUY, "4", "10"), (Side.SELL, "4", "12")).final_average == 10


def test_taking_the_only_opening_back_ends_the_episode_and_says_so() -> None:
    held = traded((Side.BUY, "4", "10"))
    booked = reverse_fill(
        held,
        side=Side.BUY,
        quantity=Decimal(4),
        price=Decimal(10),
        realized=Decimal(0),
        closed=Decimal(0),
        episode=1,
        multiplier=Decimal(1),
        at=at(9),
        order_id="o0",
    )
    assert booked.ended == booked.position
    assert not booked.position.is_open
    partly = reverse_fill(
        traded((Side.BUY, "4", "10"), (Side.BUY, "1", "10")),
        side=Side.BUY,
        quantity=Decimal(1),
        price=Decimal(10),
        realized=Decimal(0),
        closed=Decimal(0),
        episode=1,
        multiplier=Decimal(1),
        at=at(9),
        order_id="o1",
    )
    assert partly.ended is None


def test_an_opening_of_an_ended_episode_is_taken_back_as_a_trade() -> None:
    """Bought, sold, bought anew: annulling the first purchase must not touch the new episode's cost."""
    held = traded((Side.BUY, "4", "10"), (Side.SELL, "4", "12"), (Side.BUY, "6", "20"))
    assert held.episode == 2
    booked = reverse_fill(
        held,
        side=Side.BUY,
        quantity=Decimal(4),
        price=Decimal(10),
        realized=Decimal(0),
        closed=Decimal(0),
        episode=1,
        multiplier=Decimal(1),
        at=at(9),
        order_id="o0",
    )
    assert booked.position.quantity == 2
    assert booked.position.cost == 40
    assert booked.realized == (Decimal(10) - Decimal(20)) * 4


def test_an_orders_id_is_named_once_however_often_it_fills() -> None:
    position = Position()
    for _ in range(3):
        position = apply_fill(
            position,
            side=Side.BUY,
            quantity=Decimal(1),
            price=Decimal(1),
            multiplier=Decimal(1),
            at=NOW,
            order_id="same",
        ).position
    assert (position.order_ids, position.order_count) == (("same",), 1)


def test_no_digit_of_a_cost_is_lost_however_many_there_are() -> None:
    quantity, price = "123456789.123456789", "987654321.987654321"
    held = traded((Side.BUY, quantity, price))
    assert str(held.cost) == "121932631356500531.347203169112635269"
    closed = traded((Side.BUY, quantity, price), (Side.SELL, quantity, price))
    assert (closed.cost, closed.realized_pnl, closed.quantity) == (0, 0, 0)
    small = ("0.000000000000000003", "0.000000000000000007")
    closed = traded((Side.BUY, *small), (Side.SELL, *small))
    assert (closed.cost, closed.realized_pnl) == (0, 0)


# --- complete, with less than was ordered -----------------------------------------------------------------------------

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


def test_what_is_short_ends_only_once_that_has_lasted() -> None:
    about = order_in(Status.PARTIALLY_FILLED)
    told = report(about, DONE, about.fills)
    assert new_events(about, told, NOW) == []
    (end,) = new_events(about, told, NOW, is_settled=True)
    assert isinstance(end, Cancelled)
    assert (end.reason.code, end.filled_quantity) == (ReasonCode.BROKER_CANCELLED, 40)


def test_an_amount_of_money_whose_executions_were_all_annulled_is_not_spent() -> None:
    spends = Fitted(at=NOW, message="an amount of money", cash_quantity=Decimal(500))
    about = order(events=[spends, submit_started(), accepted(), filled_by("f1", 40), busted("f1")])
    (end,) = new_events(about, report(about, DONE, busted=["f1"]), NOW)
    assert isinstance(end, Cancelled)


# --- declared placed --------------------------------------------------------------------------------------------------


def test_a_time_out_counts_from_the_sending_or_from_a_persons_word() -> None:
    sent = order(events=(submit_started(), replace(accepted(), at=at(50))))
    assert order().working_since is None
    assert sent.working_since == NOW
    assert apply(order_in(Status.IN_DOUBT), replace(declared_placed(), at=at(90))).working_since == at(90)


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
