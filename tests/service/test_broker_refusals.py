"""Orders that the broker refuses, before they are sent, in clear words or by words alone."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Capabilities, OrderType, Report, ReportStatus
from brokers.errors import BrokerUnavailable, NotAnswered, OrderRefused, UndocumentedAnswer
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import Noted
from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import ACCOUNT, BY_HAND, IN_SEQUENCE, World, world_of
from tests.service.audit import audit


def code(world: World, signal_id: str = "sig") -> ReasonCode | None:
    reason = world.record(signal_id).reason
    return None if reason is None else reason.code


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


async def test_an_order_that_shows_a_part_goes_only_where_the_broker_does_that(tmp_path: Path) -> None:
    iceberg = {"order_type": "LIMIT", "limit_price": 10, "display_quantity": 40}
    async with world_of(tmp_path, capabilities=Capabilities(refuses_repeated_client_id=True)) as world:
        world.send(**iceberg)
        await world.run(2)
        assert code(world) is ReasonCode.UNSUPPORTED_ORDER
        assert "display_quantity" in world.record().reason.message
        assert not world.calls("place_order")
    shows = Capabilities(refuses_repeated_client_id=True, takes_display_quantity=True)
    async with world_of(tmp_path / "shows", capabilities=shows) as world:
        world.send(**iceberg)
        await world.run(2)
        assert world.placed()[0].ticket.display_quantity == 40
        assert [fill.quantity for fill in world.record().fills] == [40, 40, 20]
        assert world.record().status is Status.FILLED


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
