"""Answers of the broker that are lost or unclear, and orders that are looked for and sent again: never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Capabilities, Fill, Report, ReportStatus
from brokers.errors import AnswerUnclear, BrokerUnavailable, OrderAlreadyExists, OrderRefused, OutcomeUnknown
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.status import Status
from execution_service.trading import placement, report_poller
from execution_service.trading.trader import TradingRules
from tests.fakes import BY_HAND, DOWN, IN_SEQUENCE, ONLY_A_TAG, World, world_of
from tests.service.audit import audit

PATIENT = Capabilities(refuses_repeated_client_id=True, find_window_seconds=3.0, concurrent_calls=4)


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
    async with world_of(tmp_path, faults=[fault], capabilities=ONLY_A_TAG, is_unique=False) as world:
        world.send()
        await world.run(60)
        assert world.record().status is Status.IN_DOUBT
        assert len(world.calls("place_order")) == 1
        assert world.publisher.statuses("sig") == ["IN_DOUBT"]
        assert world.publisher.of("sig")[0]["reason"]["code"] == "OUTCOME_UNKNOWN"
        assert world.notifier.titled("Order In Doubt")


async def test_order_of_which_the_answer_stays_unclear_is_in_doubt_and_holds_up_none_behind_it(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, capabilities=ONLY_A_TAG, is_unique=False, faults=[fault]) as world:
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
    async with world_of(tmp_path, faults=faults, capabilities=ONLY_A_TAG, is_unique=False) as world:
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
    async with world_of(tmp_path, capabilities=ONLY_A_TAG, is_unique=False) as world:
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


async def test_a_call_whose_order_the_broker_tells_of_meanwhile_holds_up_nobody(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        world.send("first")
        await world.run(0.3)
        world.broker_faults.holds_answer.clear()
        world.fill("first")
        world.send("second")
        await world.run(8)
        assert world.record("first").status is Status.FILLED
        assert world.record("second").status is Status.SUBMITTED
        assert len(world.calls("place_order")) == 2
        audit(world)


async def test_an_answer_that_may_be_on_its_way_is_waited_for_though_the_order_is_known(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        hold = world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        world.send("first")
        await world.run(0.3)
        world.broker_faults.holds_answer.clear()
        world.send("second")
        await world.run_until(lambda: world.record("first").status is Status.SUBMITTED, 10)
        await world.run(report_poller.ANSWER_SECONDS / 2)
        assert world.record("second").status is Status.PENDING
        hold.set()
        await world.run(0.2)
        assert world.record("second").status is Status.SUBMITTED


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
    async with world_of(tmp_path, capabilities=ONLY_A_TAG, is_unique=False, market=BY_HAND) as world:
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


@pytest.mark.parametrize(
    "capabilities",
    [ONLY_A_TAG, Capabilities(refuses_repeated_client_id=True, needs_reservation=True)],
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


async def test_order_sent_again_and_again_without_an_answer_is_slowed_down_and_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(max_order_age_seconds=0)) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")] * 10_000
        world.send()
        await world.run(600)
        assert len(world.calls("place_order")) < 60
        assert len([text for text in world.notifier.texts if "sent again under the same id" in text]) == 1
