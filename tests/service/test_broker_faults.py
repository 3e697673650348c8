"""A broker that is down, hangs, loses answers, refuses or breaks: what the service does about it, by a hand-moved clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities, Fill, OrderType, Report, Reports, ReportStatus
from brokers.errors import (
    AnswerUnclear,
    AuthRequired,
    BrokerUnavailable,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
    ReservationLost,
    UndocumentedAnswer,
)
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.core.orders.events import Noted, NothingSent, SubmitStarted
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.trading import placement
from execution_service.trading.connection import LOGIN_LOOK_SECONDS, AccountState
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, World, world_of
from tests.service.audit import audit

BY_HAND = Market(fill_delay_seconds=None)
TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=4)
PATIENT = Capabilities(refuses_repeated_client_id=True, find_window_seconds=3.0, concurrent_calls=4)


IN_SEQUENCE = Capabilities(
    refuses_repeated_client_id=True, needs_reservation=True, find_window_seconds=10.0, send_again_seconds=2.0
)
DOWN = BrokerUnavailable("connection refused")
PAUSE = BrokerUnavailable("nightly restart", known_pause=True)


def code(world: World, signal_id: str = "sig") -> ReasonCode | None:
    reason = world.record(signal_id).reason
    return None if reason is None else reason.code


# --- down -----------------------------------------------------------------------------------------------------------


async def test_orders_that_wait_are_rejected_after_three_attempts_to_connect_and_people_are_told(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = DOWN
        await world.start()
        world.send()
        await world.run(0.2)
        assert world.record().status is Status.PENDING
        await world.run_until(lambda: world.record().status is Status.REJECTED)
        assert len(world.calls("connect")) == 3
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        await world.run(1)
        assert len(world.notifier.titled("Broker Down")) == 1
        assert world.publisher.statuses("sig") == ["REJECTED"]


async def test_what_is_amiss_with_a_session_is_told_once_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    limited = Capabilities(concern="Client id 1 is in use by another connection.")
    async with world_of(tmp_path, capabilities=limited) as world:
        await world.run(1)
        for number in (2, 3):
            world.broker_faults.errors["reports"] = [DOWN]
            await world.run_until(lambda number=number: len(world.calls("connect")) == number)  # type: ignore[misc]
            await world.run(1)
        (told,) = world.notifier.titled("Limited Session")
        assert "Client id 1 is in use" in told


async def test_connecting_goes_on_for_ever_and_later_orders_are_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = DOWN
        await world.start()
        world.send()
        await world.run(600)
        assert len(world.calls("connect")) > 10
        assert len(world.notifier.titled("Broker Down")) == 1
        world.broker_faults.unavailable = None
        await world.run(60)
        world.send("later")
        await world.run(1)
        assert world.record("later").status is Status.FILLED
        assert world.notifier.titled("Broker Up")
        assert len(world.placed()) == 1


async def test_orders_are_held_while_the_pause_is_a_known_one(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = PAUSE
        await world.start()
        world.send()
        await world.run(200)
        assert world.record().status is Status.PENDING
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.FILLED


LOGIN = AuthRequired("AUTH_REQUIRED: the access token is dead; log in and write the new token to /run/token")


async def test_dead_session_is_told_at_once_with_what_to_do_and_the_login_is_noticed_soon(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = LOGIN
        world.send()
        await world.run(200)
        assert world.record().status is Status.PENDING
        assert world.service.account_states()[ACCOUNT]["state"] == AccountState.AUTH_REQUIRED
        assert "write the new token to /run/token" in world.service.account_states()[ACCOUNT]["trouble"]
        (told,) = world.notifier.titled("Login Required")
        assert "/run/token" in str(told)
        assert not world.notifier.titled("Broker Down")
        assert len(world.calls("connect")) > 50
        world.broker_faults.unavailable = None
        await world.run(LOGIN_LOOK_SECONDS + 0.5)
        assert world.record().status is Status.FILLED
        assert world.service.account_states()[ACCOUNT]["state"] == AccountState.CONNECTED
        assert len(world.notifier.titled("Broker Up")) == 1
        world.broker_faults.unavailable = LOGIN
        world.send("the next day")
        await world.run(301)
        assert code(world, "the next day") is ReasonCode.STALE_ORDER
        assert len(world.notifier.titled("Login Required")) == 2
        assert len(world.placed()) == 1


async def test_connection_lost_while_placing_leaves_the_order_pending_and_it_is_sent_later(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("socket closed")]
        world.send()
        await world.run(10)
        order = world.record()
        assert order.status is Status.FILLED
        assert [type(e) for e in order.events[:3]] == [SubmitStarted, NothingSent, SubmitStarted]
        audit(world)


async def test_order_that_cannot_leave_in_three_attempts_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("socket closed") for _ in range(3)]
        world.send()
        await world.run(60)
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        assert not world.placed()


async def test_service_is_idle_while_the_broker_is_down(tmp_path: Path) -> None:
    """It must not spin: `settle` raises if it does."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = PAUSE
        await world.run(10)
        world.send("more", symbol="NVDA")
        world.cancel(signal_id="sig")
        await world.run(30)
        assert world.record().status is Status.SUBMITTED
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.CANCELLED
        assert world.record("more").status is Status.SUBMITTED


async def test_what_happened_while_the_connection_was_away_is_read_before_anything_is_sent(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = PAUSE
        await world.run(10)
        world.fill("sig")
        world.send("next", symbol="NVDA")
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.FILLED
        after = [name for name, _ in world.broker_calls[world.broker_calls.index(("connect", ""), 2) :]]
        assert after.index("reports") < after.index("place_order")


async def test_store_that_is_away_while_connecting_is_not_held_against_the_broker(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = PAUSE
        await world.run(6)
        world.send("next", symbol="NVDA")
        await world.run(1)
        world.broker_faults.unavailable = None
        world.store_faults.is_away = True
        world.book().bust_fill(world.placed()[0].fills[0].fill_id)
        await world.run(60)
        world.store_faults.is_away = False
        await world.run(60)
        assert world.record("next").status is Status.FILLED


async def test_real_account_that_is_configured_as_paper_is_sent_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=Capabilities(is_paper=False)) as world:
        world.send()
        await world.run(5)
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        assert "live = false" in world.service.account_states()[ACCOUNT]["trouble"]
        assert not world.calls("place_order")


# --- lost answers ---------------------------------------------------------------------------------------------------


async def test_lost_answer_is_found_and_the_order_is_not_sent_again(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP)
    async with world_of(tmp_path, faults=[fault]) as world:
        world.send()
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert len(world.calls("place_order")) == 1
        audit(world)


async def test_lost_request_is_sent_again_under_the_same_id_where_the_broker_takes_that_only_once(
    tmp_path: Path,
) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, faults=[fault]) as world:
        world.send()
        await world.run(5)
        assert world.calls("place_order") == [world.client_id("sig")] * 2
        assert world.record().status is Status.FILLED


async def test_lost_request_is_in_doubt_where_the_id_is_only_a_tag(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, faults=[fault], capabilities=TAG, is_unique=False) as world:
        world.send()
        await world.run(60)
        assert world.record().status is Status.IN_DOUBT
        assert len(world.calls("place_order")) == 1
        assert world.publisher.statuses("sig") == ["IN_DOUBT"]
        assert world.publisher.of("sig")[0]["reason"]["code"] == "OUTCOME_UNKNOWN"
        assert world.notifier.titled("Order In Doubt")


async def test_order_of_which_the_answer_stays_unclear_is_in_doubt_and_holds_up_none_behind_it(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, faults=[fault]) as world:
        world.broker_faults.errors["find"] = [AnswerUnclear("its tag is 7")] * 1000
        world.send("lost")
        await world.run(0.5)
        world.send("next")
        await world.run(10)
        assert world.record("lost").status is Status.IN_DOUBT
        assert world.record("next").status is Status.FILLED
        assert len(world.notifier.titled("In Doubt")) == 1
        assert len(world.placed()) == 1


async def test_an_answer_that_stays_unclear_keeps_later_ids_waiting_no_longer_than_the_find_window(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.broker_faults.errors["find"] = [AnswerUnclear("a row names nobody")] * 1000
        world.send("lost")
        await world.run(1)
        world.send("elsewhere", symbol="MSFT")
        world.send("behind")
        await world.run(12)
        assert world.record("lost").status is Status.IN_DOUBT
        assert world.record("elsewhere").status is Status.SUBMITTED
        assert world.record("behind").status is Status.SUBMITTED
        assert world.calls("place_order").count(World.client_id("lost")) == 1
        (told,) = world.notifier.titled("In Doubt")
        assert "something that cannot be read may be this order" in told
        world.broker_faults.errors["find"] = []
        await world.run(70)
        assert world.record("lost").status is Status.IN_DOUBT
        assert world.calls("place_order").count(World.client_id("lost")) == 1


async def test_a_repetition_that_was_refused_is_no_refusal_while_a_row_may_be_the_order(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        Fault(operation=Operation.FIND, action=Action.HIDE, seconds=4),
        Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=60),
    ]
    rules = TradingRules(order_timeout_seconds=0.0)
    async with world_of(tmp_path, faults=faults, market=BY_HAND, capabilities=IN_SEQUENCE, rules=rules) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["place_order"] = [OrderRefused("duplicate order id")]
        await world.run_until(lambda: len(world.calls("place_order")) == 2)
        await world.run(0.5)
        world.broker_faults.errors["find"] = [AnswerUnclear("a row names nobody")] * 1000
        await world.run(30)
        assert world.record().status is Status.IN_DOUBT
        world.broker_faults.errors["find"] = []
        await world.run(70)
        assert world.record().status is Status.SUBMITTED
        audit(world)


async def test_an_order_is_sent_again_only_after_looks_that_were_clear_to_their_end(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.send()
        await world.run(1)
        world.broker_faults.errors["find"] = [AnswerUnclear("a row names nobody")] * 3
        await world.run(3)
        assert len(world.calls("place_order")) == 1
        await world.run(1)
        assert len(world.calls("place_order")) == 1
        await world.run(4)
        assert world.record().status is Status.SUBMITTED
        assert len(world.placed()) == 1


async def test_order_in_doubt_that_turns_up_goes_on(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        Fault(operation=Operation.FIND, action=Action.HIDE, seconds=60),
        Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=60),
    ]
    async with world_of(tmp_path, faults=faults, capabilities=TAG, is_unique=False) as world:
        world.send()
        await world.run(30)
        assert world.record().status is Status.IN_DOUBT
        await world.run(70)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("sig") == ["IN_DOUBT", "FILLED"]
        audit(world)


async def test_hidden_order_is_not_taken_for_unsent_when_sending_it_again_fails(tmp_path: Path) -> None:
    """The second sending surely did not leave; the first one did."""
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        Fault(operation=Operation.FIND, action=Action.HIDE, seconds=30),
        Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=30),
    ]
    async with world_of(tmp_path, faults=faults, market=BY_HAND) as world:
        world.send()
        await world.run(0.3)
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("socket closed")]
        await world.run(2)
        assert len(world.calls("place_order")) >= 2
        assert world.record().status is Status.SUBMITTING
        world.cancel(signal_id="sig")
        await world.run(60)
        assert world.record().status is Status.CANCELLED
        assert world.placed()[0].status == "CANCELLED"


async def test_answer_that_the_id_exists_means_that_it_had_arrived(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        world.send()
        await world.run(1)
        world.broker_faults.holds_answer.clear()
        await world.restart()
        world.broker_faults.errors["place_order"] = [OrderAlreadyExists("seen before")]
        await world.run(5)
        assert world.record().status is Status.SUBMITTED
        assert len(world.placed()) == 1


@pytest.mark.parametrize("error", [OutcomeUnknown("lost"), RuntimeError("library broke"), KeyError("x")])
async def test_whatever_comes_out_of_placing_may_have_left(tmp_path: Path, error: Exception) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False) as world:
        world.broker_faults.errors["place_order"] = [error]
        world.send()
        await world.run(10)
        assert world.record().status is Status.IN_DOUBT


async def test_placing_that_never_answers_ends_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "PLACE_SECONDS", 0.01)
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        world.send()
        await world.run(0.1)
        await asyncio.sleep(0.02)  # the time-out of a call is the event loop's own
        await world.run(2)
        assert world.record().status is Status.SUBMITTED
        assert len(world.placed()) == 1


# --- two orders under one tag -----------------------------------------------------------------------------------------


def with_a_twin(reports: Sequence[Report]) -> list[Report]:
    """Beside each order another one under its tag, which fills its own."""
    told = []
    for report in reports:
        ids = (report.broker_order_id, f"{report.broker_order_id}-twin")
        fill = Fill(fill_id="T-1", quantity=Decimal(7), price=Decimal(1), time=datetime(2024, 11, 24, tzinfo=UTC))
        twin = replace(
            report, broker_order_id=ids[1], status=ReportStatus.FILLED, filled_quantity=Decimal(7), fills=(fill,)
        )
        told += [replace(each, orders_under_tag=ids) for each in (report, twin)]
    return told


async def test_a_second_order_under_the_tag_is_an_alarm_and_no_part_of_the_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG, is_unique=False, market=BY_HAND) as world:
        world.broker_faults.retold = with_a_twin
        world.send()
        await world.run(5)
        assert (world.record().status, world.record().filled_quantity) == (Status.SUBMITTED, 0)
        assert len([text for text in world.notifier.texts if "placed twice?" in text]) == 1
        world.fill("sig")
        await world.run(60)
        assert world.record().status is Status.FILLED
        assert world.record().filled_quantity == world.record().quantity
        assert world.publisher.statuses("sig") == ["FILLED"]
        assert len([text for text in world.notifier.texts if "placed twice?" in text]) == 1


# --- refused when sent again ------------------------------------------------------------------------------------------


def hidden(seconds: float) -> list[Fault]:
    """The answer is lost, and the broker does not show the order for so long."""
    return [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        Fault(operation=Operation.FIND, action=Action.HIDE, seconds=seconds),
        Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=seconds),
    ]


async def test_refusal_of_the_second_sending_ends_nothing_while_the_first_may_be_alive(tmp_path: Path) -> None:
    async with world_of(tmp_path, faults=hidden(5), market=BY_HAND, capabilities=PATIENT) as world:
        world.send()
        await world.run(0.3)
        world.broker_faults.errors["place_order"] = [OrderRefused("duplicate order")]
        await world.run(30)
        assert len(world.calls("place_order")) == 2
        assert world.record().status is Status.SUBMITTED
        assert len(world.placed()) == 1
        assert world.publisher.statuses("sig") == []


async def test_refusal_of_the_second_sending_is_the_end_once_the_order_was_looked_for_and_is_not_there(
    tmp_path: Path,
) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, faults=[fault], capabilities=PATIENT) as world:
        world.send()
        await world.run(0.3)
        world.broker_faults.errors["place_order"] = [OrderRefused("no margin")]
        await world.run_until(lambda: len(world.calls("place_order")) == 2)
        looked = len(world.calls("find"))
        await world.run(1)
        assert world.record().status is Status.SUBMITTING
        await world.run(30)
        assert len(world.calls("find")) > looked
        assert world.publisher.of("sig")[0]["reason"] == {"code": "BROKER_REJECTED", "message": "no margin"}
        assert world.publisher.statuses("sig") == ["REJECTED"]
        assert len(world.calls("place_order")) == 2
        assert world.placed() == []


async def test_refusal_of_the_second_sending_waits_for_a_broker_that_cannot_be_asked(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, faults=[fault], capabilities=PATIENT) as world:
        world.send()
        await world.run(0.3)
        world.broker_faults.errors["place_order"] = [OrderRefused("no margin")]
        await world.run_until(lambda: len(world.calls("place_order")) == 2)
        world.broker_faults.unavailable = DOWN
        await world.run(60)
        assert world.record().status is Status.SUBMITTING
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.REJECTED
        assert len(world.calls("place_order")) == 2


# --- refusals -------------------------------------------------------------------------------------------------------


async def test_refused_order_is_rejected_with_the_brokers_words(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [OrderRefused("no such contract")]
        world.send()
        await world.run(2)
        assert code(world) is ReasonCode.BROKER_REJECTED
        assert world.publisher.of("sig")[0]["reason"] == {"code": "BROKER_REJECTED", "message": "no such contract"}
        assert world.notifier.titled("Order Rejected")


async def test_rejected_order_is_not_placed_again_under_its_id(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.REJECT, reason="no margin")
    async with world_of(tmp_path, faults=[fault]) as world:
        world.send()
        await world.run(2)
        world.send()
        await world.run(2)
        assert world.record().status is Status.REJECTED
        assert len(world.calls("place_order")) == 1


async def test_order_that_the_broker_cannot_take_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    only_market = Capabilities(order_types=frozenset({OrderType.MARKET}))
    async with world_of(tmp_path, capabilities=only_market) as world:
        world.send(order_type="STOP", stop_price=12)
        await world.run(2)
        assert code(world) is ReasonCode.UNSUPPORTED_ORDER
        assert not world.calls("place_order")


async def test_reservation_that_is_refused_rejects_the_order(tmp_path: Path) -> None:
    reserving = Capabilities(needs_reservation=True, refuses_repeated_client_id=True)
    async with world_of(tmp_path, capabilities=reserving) as world:
        world.broker_faults.errors["reserve"] = [OrderRefused("no ids for this account")]
        world.send()
        await world.run(5)
        assert world.record().status is Status.REJECTED
        world.send("next")
        await world.run(5)
        assert world.record("next").broker_order_id == "R-1"


async def test_reservation_without_an_answer_slows_its_lane_down_and_costs_no_connection(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["reserve"] = [NotAnswered("no answer in time") for _ in range(2)]
        world.send()
        await world.run(0.1)
        world.send("other", symbol="NVDA")
        await world.run(0.2)
        assert len(world.calls("reserve")) == 2
        await world.run(5)
        assert [world.record(each).status for each in ("sig", "other")] == [Status.FILLED] * 2
        assert len(world.calls("connect")) == 1


async def test_order_whose_reservation_is_never_answered_is_rejected_with_the_last_words(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["reserve"] = [NotAnswered("nobody knows this code (322)") for _ in range(9)]
        world.send()
        await world.run(20)
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        assert "322" in world.record().reason.message
        assert len(world.calls("connect")) == 1


@pytest.mark.parametrize(("pause", "is_rejected"), [(False, True), (True, False)])
async def test_reservation_that_loses_the_connection_each_time_slows_its_lane_down(
    tmp_path: Path, pause: bool, is_rejected: bool
) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        gone = BrokerUnavailable("not connected (504)", known_pause=pause)
        world.broker_faults.errors["reserve"] = [gone for _ in range(99)]
        world.send()
        await world.run(30)
        assert (world.record().status is Status.REJECTED) is is_rejected
        assert len(world.calls("connect")) <= 7


async def test_reservation_that_breaks_harms_no_other_order(tmp_path: Path) -> None:
    reserving = Capabilities(needs_reservation=True, refuses_repeated_client_id=False, concurrent_calls=1)
    async with world_of(tmp_path, capabilities=reserving, is_unique=False) as world:
        world.broker_faults.errors["reserve"] = [RuntimeError("library broke")]
        for n in range(5):
            world.send(f"sig-{n}")
        await world.run(10)
        assert {o.status for o in world.records()} == {Status.FILLED}


async def test_unasked_end_at_the_venue_is_taken_over(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for signal_id in ("late-no", "by-hand", "day"):
            world.send(signal_id, tif="DAY", symbol=signal_id)
        await world.run(1)
        world.book().reject_order(world.ref("late-no"), "halted")
        world.book().cancel_unasked(world.ref("by-hand"), "at the terminal")
        await world.run(6)
        world.book().expire_day()
        await world.run(6)
        assert world.record("late-no").status is Status.REJECTED
        assert code(world, "by-hand") is ReasonCode.BROKER_CANCELLED
        assert world.record("day").status is Status.EXPIRED
        audit(world)


# --- ids that leave in their sequence -------------------------------------------------------------------------------


def reserved(world: World, signal_id: str) -> list[str | None]:
    return [e.reserved_order_id for e in world.record(signal_id).events if isinstance(e, SubmitStarted)]


def hidden_for(seconds: float) -> list[Fault]:
    return [
        Fault(operation=operation, action=Action.HIDE, seconds=seconds)
        for operation in (Operation.REPORTS, Operation.FIND)
    ]


async def test_an_order_whose_request_was_lost_leaves_again_before_any_later_id(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.send("other", symbol="NVDA")
        await world.run(5)
        assert [world.record(each).status for each in ("lost", "other")] == [Status.FILLED] * 2
        assert [each.ticket.client_order_id for each in world.placed()] == [
            world.client_id("lost"),
            world.client_id("other"),
        ]
        assert len(world.calls("connect")) == 1


async def test_an_order_whose_sending_the_process_did_not_survive_leaves_before_any_later_id(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send("lost")
        await world.run(1)
        world.broker_faults.holds.clear()
        world.send("other", symbol="NVDA")
        await world.restart()
        await world.run(8)
        assert [world.record(each).status for each in ("lost", "other")] == [Status.FILLED] * 2
        assert reserved(world, "lost") == ["R-1"]
        assert reserved(world, "other") == ["R-2"]
        audit(world)


async def test_an_id_that_an_order_was_perhaps_sent_under_is_given_to_no_other(tmp_path: Path) -> None:
    """The lost order is not sent again, since it is to be cancelled; nothing waits for it then."""
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send("lost")
        await world.run(1)
        world.broker_faults.holds.clear()
        world.cancel(signal_id="lost")
        await world.run(1)
        world.send("other", symbol="NVDA")
        await world.restart()
        await world.run(1)
        assert world.record("other").status is Status.FILLED
        assert reserved(world, "other") == ["R-2"]
        await world.run(15)
        assert world.record("lost").status is Status.IN_DOUBT


async def test_an_order_whose_id_was_passed_over_is_in_doubt_and_harms_no_other(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.reservations.pass_over()
        world.send("other", symbol="NVDA")
        await world.run(5)
        assert world.record("other").status is Status.FILLED
        assert world.record("lost").status is Status.SUBMITTING
        await world.run(10)
        assert world.record("lost").status is Status.IN_DOUBT
        assert len(world.calls("connect")) == 1
        assert len(world.notifier.titled("In Doubt")) == 1
        audit(world)


async def test_an_order_that_shows_up_though_its_id_was_passed_over_goes_on(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        *hidden_for(5),
    ]
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=faults) as world:
        world.send()
        await world.run(0.5)
        world.reservations.pass_over()
        await world.run(4)
        assert len(world.calls("place_order")) == 2
        assert world.record().status is Status.SUBMITTING
        await world.run(8)
        assert world.record().status is Status.FILLED
        assert not world.notifier.titled("In Doubt")


async def test_an_id_passed_over_before_the_first_sending_is_replaced(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [ReservationLost("R-1 was passed over by a later one")]
        world.send()
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert reserved(world, "sig") == ["R-1", "R-2"]
        assert len(world.calls("connect")) == 1


async def test_nobody_waits_for_an_order_that_was_sent_again_and_again_without_a_clear_answer(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT, times=3)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.send("other", symbol="NVDA")
        await world.run(2.5)
        assert world.record("other").status is Status.PENDING
        await world.run(4)
        assert world.record("other").status is Status.FILLED
        await world.run(20)
        assert world.record("lost").status is Status.IN_DOUBT


async def test_nobody_waits_for_an_order_that_may_not_leave_again_because_the_calls_are_spent(tmp_path: Path) -> None:
    """Others may leave meanwhile: a part of the calls is kept for exits."""
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.broker_faults.errors["place_order"] = [RateLimited("spent", wait_seconds=3600)] * 2
        world.send("other", symbol="NVDA")
        await world.run(10)
        assert world.record("other").status is Status.FILLED
        await world.run(20)
        assert world.record("lost").status is Status.IN_DOUBT
        assert len(world.notifier.titled("In Doubt")) == 1


async def test_an_order_that_the_broker_says_it_has_and_never_shows_is_in_doubt_after_the_find_window(
    tmp_path: Path,
) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send("lost")
        await world.run(0.5)
        world.broker_faults.errors["place_order"] = [OrderAlreadyExists("that id was used before")]
        await world.run(8)
        assert world.record("lost").status is Status.SUBMITTING
        await world.run(10)
        assert world.record("lost").status is Status.IN_DOUBT
        assert len(world.calls("place_order")) == 2
        assert len(world.notifier.titled("In Doubt")) == 1


async def test_a_repetition_that_is_refused_does_not_end_an_order_that_had_arrived(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
        *hidden_for(3),
    ]
    async with world_of(tmp_path, market=BY_HAND, capabilities=IN_SEQUENCE, faults=faults) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["place_order"] = [OrderRefused("cannot be changed")]
        hold = world.broker_faults.holds["place_order"] = asyncio.Event()
        await world.run(4)
        assert len(world.calls("place_order")) == 2
        hold.set()
        await world.run(1)
        assert world.record().status is Status.SUBMITTED


# --- answers by words alone -----------------------------------------------------------------------------------------

WORDS = "The 'EtradeOnly' order attribute is not supported (code 10268)"


def refused_by(world: World, signal_id: str = "sig") -> Report:
    """What a broker finds of the order once its words and the order's absence are a refusal."""
    return Report(
        client_order_id=world.client_id(signal_id),
        broker_order_id="R-1",
        status=ReportStatus.REJECTED,
        filled_quantity=Decimal(0),
        reason=WORDS,
    )


async def test_an_order_answered_by_words_alone_is_looked_for_and_holds_up_no_other_instrument(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [UndocumentedAnswer(WORDS)]
        world.send()
        world.send("same")
        world.send("other", symbol="NVDA")
        await world.run(0.5)
        assert world.record("other").status is Status.FILLED
        assert [world.record(each).status for each in ("sig", "same")] == [Status.SUBMITTING, Status.PENDING]
        assert any(WORDS in event.message for event in world.record().events if isinstance(event, Noted))
        await world.run(2)
        world.broker_faults.found[world.client_id("sig")] = refused_by(world)
        await world.run(1)
        assert [world.record(each).status for each in ("sig", "same")] == [Status.REJECTED, Status.FILLED]
        (told,) = world.publisher.of("sig")
        assert told["reason"] == {"code": "BROKER_REJECTED", "message": WORDS}
        await world.run(30)
        assert world.calls("place_order").count(world.client_id("sig")) == 1
        audit(world)


async def test_an_order_answered_by_words_alone_that_nobody_finds_refused_is_in_doubt_and_not_sent_again(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [UndocumentedAnswer(WORDS)]
        world.send()
        await world.run(20)
        assert world.record().status is Status.IN_DOUBT
        assert len(world.calls("place_order")) == 1
        world.broker_faults.found[world.client_id("sig")] = refused_by(world)
        await world.run(40)
        assert world.record().status is Status.REJECTED


async def test_an_order_answered_by_words_alone_that_fills_after_its_end_is_corrected(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [UndocumentedAnswer(WORDS)]
        world.send()
        await world.run(0.5)
        world.broker_faults.found[world.client_id("sig")] = refused_by(world)
        await world.run(1)
        assert world.record().status is Status.REJECTED
        world.broker_faults.found.clear()
        ticket = world.record().ticket()
        await world.brokers[ACCOUNT].inner.place_order(replace(ticket, reserved_order_id="R-1"))
        await world.run(10)
        assert world.record().filled_quantity == ticket.quantity
        assert world.publisher.statuses("sig")[0] == "REJECTED"
        assert world.publisher.of("sig")[-1]["correction"] is True
        audit(world)


async def test_words_that_answer_a_repetition_are_the_end_once_the_order_was_looked_for_as_long_as_may_be(
    tmp_path: Path,
) -> None:
    """The first sending may have arrived."""
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=IN_SEQUENCE, faults=[fault]) as world:
        world.send()
        await world.run(0.5)
        world.broker_faults.errors["place_order"] = [UndocumentedAnswer(WORDS)]
        await world.run_until(lambda: len(world.calls("place_order")) == 2)
        world.send("other", symbol="NVDA")
        await world.run(1)
        assert world.record("other").status is Status.FILLED
        assert world.record().status is Status.SUBMITTING
        await world.run(12)
        assert world.record().status is Status.REJECTED
        assert WORDS in world.publisher.of("sig")[0]["reason"]["message"]
        assert world.calls("place_order").count(world.client_id("sig")) == 2
        audit(world)


@pytest.mark.parametrize("arrived", [True, False])
async def test_words_are_remembered_by_the_next_life_which_looks_for_the_order_and_does_not_send_it_again(
    tmp_path: Path, arrived: bool
) -> None:
    async with world_of(tmp_path, capabilities=IN_SEQUENCE) as world:
        world.broker_faults.errors["place_order"] = [UndocumentedAnswer(WORDS)]
        world.send()
        await world.run(0.5)
        if arrived:
            ticket = replace(world.record().ticket(), reserved_order_id="R-1")
            await world.brokers[ACCOUNT].inner.place_order(ticket)
        await world.restart()
        world.send("other", symbol="NVDA")
        await world.run(1)
        assert world.record("other").status is Status.FILLED
        await world.run(12)
        assert world.record().status is (Status.FILLED if arrived else Status.REJECTED)
        if not arrived:
            (told,) = world.publisher.of("sig")
            assert told["reason"] == {"code": "BROKER_REJECTED", "message": WORDS}
        assert world.calls("place_order").count(world.client_id("sig")) == 1
        audit(world)


# --- one hangs, the others go on ------------------------------------------------------------------------------------


async def test_one_hanging_placement_stops_neither_other_orders_nor_cancels(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("working", symbol="MSFT")
        await world.run(1)
        hold = asyncio.Event()
        world.broker_faults.holds["place_order"] = hold
        world.send("hanging")
        await world.run(0.1)
        del world.broker_faults.holds["place_order"]
        world.send("other", symbol="NVDA")
        world.cancel(signal_id="working")
        await world.run(1)
        assert world.record("hanging").status is Status.SUBMITTING
        assert world.record("other").status is Status.SUBMITTED
        assert world.record("working").status is Status.CANCELLED
        hold.set()


async def test_one_hanging_question_stops_no_order(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.holds["reports"] = asyncio.Event()
        await world.run(10)
        world.send()
        await world.run(1)
        assert world.record().status is Status.FILLED


async def test_one_accounts_broker_being_down_stops_no_other_account(tmp_path: Path) -> None:
    async with world_of(tmp_path, accounts=(ACCOUNT, "acct-2")) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send()
        await world.run(1)
        world.broker_faults.holds.clear()
        world.send("two", account_id="acct-2")
        await world.run(1)
        assert world.record("two").status is Status.FILLED


async def test_question_that_breaks_changes_no_order_and_is_asked_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["reports"] = [RuntimeError("library broke"), OutcomeUnknown("x"), KeyError("y")]
        world.fill("sig")
        await world.run(20)
        assert world.record().status is Status.FILLED


async def test_question_that_breaks_each_time_is_asked_at_a_calm_pace_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        before = len(world.calls("reports"))
        world.broker_faults.errors["reports"] = [KeyError("odd") for _ in range(200)]
        await world.run(10)
        assert len(world.calls("reports")) - before <= 12
        assert len(world.notifier.titled("Broker Down")) == 1
        world.broker_faults.errors.clear()
        world.fill("sig")
        await world.run(60)
        assert world.record().status is Status.FILLED


async def test_search_that_breaks_is_repeated_at_a_calm_pace(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP)
    hide = Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=30)
    async with world_of(tmp_path, faults=[fault, hide]) as world:
        world.broker_faults.errors["find"] = [RuntimeError("library broke") for _ in range(5)]
        world.send()
        await world.run(4)
        assert len(world.calls("find")) <= 6
        await world.run(10)
        assert world.record().status is Status.FILLED


# --- odd truths -----------------------------------------------------------------------------------------------------


async def test_overfill_is_recorded_as_it_is_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 130, force=True)
        await world.run(2)
        assert world.record().filled_quantity == 130
        assert world.notifier.titled("Overfill")
        assert world.documents("positions")[0]["quantity"] == 130


async def test_busted_trade_is_taken_back_everywhere(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.book().bust_fill(world.placed()[0].fills[0].fill_id)
        await world.run(10)
        order = world.record()
        assert order.filled_quantity == 0
        told = [(b["status"], b["filled_quantity"], b.get("correction")) for b in world.publisher.of("sig")]
        assert told == [("FILLED", 100, None), ("PARTIALLY_FILLED", 0, True), ("CANCELLED", 0, None)]
        assert world.documents("positions")[0]["status"] == "CLOSED"
        assert world.notifier.titled("Correction: Execution Annulled")


async def test_busted_exit_gives_its_profit_back_though_the_service_was_restarted(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        world.exit("out", "sig", price=11)
        await world.run(2)
        await world.restart()
        world.book().bust_fill(world.placed()[1].fills[0].fill_id)
        await world.run(10)
        shown = world.documents("positions")
        assert sum(d["realized_pnl"] for d in shown) == 0
        assert [d["quantity"] for d in shown if d["status"] == "OPEN"] == [100]
        assert world.publisher.of("out")[-1]["realized_pnl"] == 0


async def test_corrected_trade_is_a_reversal_and_a_new_fill(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        from_fill = world.placed()[0].fills[0].fill_id
        world.book().correct_fill(from_fill, price=Decimal("9.5"))
        await world.run(10)
        assert world.record().average_price == Decimal("9.5")
        shown = [d for d in world.documents("positions") if d["status"] == "OPEN"]
        assert [(d["quantity"], d["avg_entry_price"]) for d in shown] == [(100.0, 9.5)]


async def test_late_commission_is_told_as_a_correction(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.LATE_COMMISSION, seconds=20)
    async with world_of(tmp_path, faults=[fault]) as world:
        world.send()
        await world.run(30)
        bodies = world.publisher.of("sig")
        assert [(b["status"], b["commission"], b.get("correction")) for b in bodies] == [
            ("FILLED", 0, None),
            ("FILLED", 1, True),
        ]
        assert world.documents("execution_confirmations")[0]["commission"] == 1.0
        audit(world)


async def test_commission_that_changes_long_after_the_end_is_told_as_a_correction(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(30)
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal("2.35"))
        await world.run(10)
        assert [b["commission"] for b in world.publisher.of("sig")] == [1, 2.35]
        audit(world)


async def test_repeated_and_reordered_reports_change_nothing(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.REPORTS, action=Action.DUPLICATE, times=None),
        Fault(operation=Operation.REPORTS, action=Action.REORDER, times=None),
    ]
    async with world_of(tmp_path, market=BY_HAND, faults=faults) as world:
        for n in range(3):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(1)
        for n in range(3):
            world.fill(f"sig-{n}", 40)
        await world.run(2)
        for n in range(3):
            world.fill(f"sig-{n}", 60)
        await world.run(2)
        audit(world)
        assert world.publisher.statuses("sig-1") == ["PARTIALLY_FILLED", "FILLED"]


# --- executions that are not shown ----------------------------------------------------------------------------------


async def test_count_ahead_of_the_executions_is_told_to_people_once_and_ends_nothing(tmp_path: Path) -> None:
    rules = TradingRules(reconcile_interval_seconds=0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        world.send(order_type="LIMIT", limit_price=100, tif="GTC")
        await world.run(1)
        ahead = Report(
            client_order_id=world.record().client_order_id,
            broker_order_id=str(world.record().broker_order_id),
            status=ReportStatus.FILLED,
            filled_quantity=Decimal(10),
        )
        answers = iter([[ahead]])  # a broker that tells only what is new
        world.broker_faults.retold = lambda reports: next(answers, [])
        await world.run(120)
        assert world.record().status is Status.SUBMITTED
        assert len([text for text in world.notifier.titled("Attention") if "add up to 0" in text]) == 1


@pytest.mark.parametrize(
    "capabilities",
    [TAG, Capabilities(refuses_repeated_client_id=True, needs_reservation=True)],
    ids=["the id is a tag", "ids have to leave in their sequence"],
)
async def test_intents_are_written_one_by_one_where_they_cannot_be_sent_again_in_any_sequence(
    tmp_path: Path, capabilities: Capabilities
) -> None:
    async with world_of(tmp_path, capabilities=capabilities) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        for number in range(5):
            world.send(f"sig-{number}")
        await world.run(1)
        statuses = [world.record(f"sig-{number}").status for number in range(5)]
        assert statuses == [Status.SUBMITTING, *[Status.PENDING] * 4]


async def test_report_of_an_order_that_is_let_out_of_hand_meanwhile_is_heard(tmp_path: Path) -> None:
    """Between the answer and its recording the last delivery of a finished order may end."""
    async with world_of(tmp_path) as world:
        world.store_faults.refused.add("execution_confirmations")  # so that it stays in hand
        world.send()
        await world.run(2)
        live = world.service.live_orders.by_client_id[world.client_id("sig")]
        assert live.order.status is Status.FILLED
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal(7))
        report = world.book().find(world.client_id("sig"))
        assert report is not None
        broker: Any = world.brokers[ACCOUNT]
        reports = broker.reports

        async def told_as_it_is_let_go(since: int | None = None) -> Reports:
            asyncio.get_running_loop().call_soon(world.service.live_orders.forget, live)
            return Reports([report])

        broker.reports = told_as_it_is_let_go
        await world.service.accounts.traders[ACCOUNT].read_book(whole=True)
        broker.reports = reports
        assert world.record().commission == 7
        world.store_faults.refused.clear()


# --- complete, with less than was ordered -----------------------------------------------------------------------------


def calls_it_complete(world: World) -> None:
    """As after a person has made the order smaller in the broker's own screen."""
    world.broker_faults.retold = lambda told: [replace(r, status=ReportStatus.FILLED) for r in told]


@pytest.mark.parametrize("tif", ["DAY", None])
async def test_an_order_that_the_broker_calls_complete_with_less_ends_once_that_has_lasted(
    tmp_path: Path, tif: str | None
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif=tif)
        await world.run(1)
        world.fill("sig", 60)
        calls_it_complete(world)
        await world.run(25)
        assert world.record().status is Status.PARTIALLY_FILLED
        await world.run(15)
        record = world.record()
        assert (record.status, record.filled_quantity) == (Status.CANCELLED, 60)
        assert record.reason is not None
        assert "less than was ordered" in record.reason.message
        assert world.publisher.statuses("sig")[-1] == "CANCELLED"


async def test_fills_that_come_after_the_word_complete_are_waited_for(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        world.fill("sig", 60)
        calls_it_complete(world)
        for quantity in (10, 10, 20):
            await world.run(25)
            world.fill("sig", quantity)
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert "CANCELLED" not in world.publisher.statuses("sig")


async def test_an_order_that_is_called_complete_with_nothing_is_no_end_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        calls_it_complete(world)
        await world.run(120)
        assert world.record().status is Status.SUBMITTED
        assert any("the executions it has shown add up to 0" in text for text in world.notifier.texts)


async def test_what_is_called_complete_with_less_is_asked_for_once_more_before_it_ends(tmp_path: Path) -> None:
    """The broker's last word may be old: nobody else may have asked for half a minute."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        world.fill("sig", 60)
        calls_it_complete(world)
        world.broker_faults.errors["find"] = [NotAnswered("busy")]
        await world.run(45)
        assert world.record().status is Status.PARTIALLY_FILLED
        await world.run(30)
        assert world.record().status is Status.CANCELLED
        assert len(world.calls("find")) >= 2


async def test_an_order_that_cannot_be_read_holds_up_neither_the_others_news_nor_the_comparison(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for name in ("odd", "plain"):
            world.send(name, order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        world.fill("odd", 60)
        calls_it_complete(world)  # of the other one nothing is shown at all
        world.broker_faults.errors["find"] = [AnswerUnclear("an odd row")] * 100
        await world.run(120)
        assert world.record("odd").status is Status.PARTIALLY_FILLED
        assert any("the executions it has shown add up to 0" in text for text in world.notifier.texts)
        assert not [line for line in world.logs if line.get("action") in ("check_failed", "reconcile_failed")]
