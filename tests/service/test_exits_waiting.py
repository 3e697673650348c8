"""Exits that cannot leave, and cancels that wait for calls: who hears of it, when, and what counts; by a hand-moved clock."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from brokers.base import Capabilities, Report, Ticket
from brokers.errors import AuthRequired, BrokerUnavailable, HeldBack, OrderRefused, RateLimited
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import CancelRefused, Noted
from execution_service.core.orders.status import Status
from tests.fakes import ACCOUNT, BY_HAND, World, two_worlds, world_of

TELLING = "Cannot Leave"
RESERVING = Capabilities(needs_reservation=True, refuses_repeated_client_id=False)


async def entered(world: World, *symbols: str) -> None:
    for symbol in symbols:
        world.send(f"in-{symbol}", symbol=symbol)
    await world.run(1)
    for symbol in symbols:
        world.fill(f"in-{symbol}")
    await world.run(2)


def spend_calls(world: World, times: int = 10_000) -> None:
    world.broker_faults.errors["reserve"] = [
        RateLimited("the rate budget is spent; free again in about 86128.0 s", wait_seconds=86_128.0)
    ] * times


async def test_an_exit_for_which_no_calls_are_left_is_told_within_seconds_and_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL")
        spend_calls(world)
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(10)
        (text,) = world.notifier.titled(TELLING)
        assert "free again in about 86128.0 s" in text
        assert "SELL 100 AAPL (out) since 2025-03-03 15:00:03 UTC" in text
        await world.run(600)
        await world.restart()
        await world.run(200)
        assert len(world.notifier.titled(TELLING)) == 1
        world.broker_faults.errors.clear()
        await world.run(10)
        assert world.exit_record("out").status is Status.SUBMITTED


async def test_many_exits_that_cannot_leave_share_a_message(tmp_path: Path) -> None:
    symbols = [f"S{n}" for n in range(12)]
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, *symbols)
        spend_calls(world)
        for symbol in symbols:
            world.exit(f"out-{symbol}", f"in-{symbol}", symbol=symbol)
        await world.run(60)
        (text,) = world.notifier.titled(TELLING)
        assert text.startswith("🚨 12 Exits Cannot Leave")
        assert "and 7 more" in text


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (BrokerUnavailable("the line is cut", known_pause=True), "the line is cut"),
        (AuthRequired("AUTH_REQUIRED: log in"), "AUTH_REQUIRED"),
    ],
)
async def test_an_exit_without_a_connection_is_told(tmp_path: Path, trouble: BrokerUnavailable, words: str) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await entered(world, "AAPL")
        world.broker_faults.unavailable = trouble
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(12)
        (text,) = world.notifier.titled(TELLING)
        assert words in text


async def test_an_exit_that_is_held_back_is_told_with_the_reason(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL")
        held = HeldBack("the instruments list cannot be had", wait_seconds=60.0)
        world.broker_faults.errors["reserve"] = [held] * 10_000
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(12)
        (text,) = world.notifier.titled(TELLING)
        assert "the instruments list cannot be had" in text


async def test_an_exit_behind_an_order_that_is_looked_for_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await entered(world, "AAPL")
        world.broker_faults.errors["place_order"] = [TimeoutError("no answer")]
        world.broker_faults.holds["find"] = asyncio.Event()
        world.send("lost")
        await world.run(1)
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(12)
        (text,) = world.notifier.titled(TELLING)
        assert "perhaps sent" in text


async def test_another_reason_is_told_though_an_earlier_life_has_told_the_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await entered(world, "AAPL")
        world.broker_faults.errors["place_order"] = [TimeoutError("no answer")]
        world.broker_faults.holds["find"] = asyncio.Event()
        world.send("lost")
        await world.run(1)
        world.broker_faults.unavailable = BrokerUnavailable("the line is cut", known_pause=True)
        await world.run(1)
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(12)
        assert len(world.notifier.titled(TELLING)) == 1
        await world.restart()
        await world.run(30)
        assert len(world.notifier.titled(TELLING)) == 1
        world.broker_faults.unavailable = None
        await world.run(60)
        assert [text for text in world.notifier.titled(TELLING) if "perhaps sent" in text]


async def test_an_exit_before_whose_turn_others_take_long_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await entered(world, "AAPL")
        world.broker_faults.holds["place_order"] = asyncio.Event()
        for n in range(3):
            world.send(f"slow-{n}")
        await world.run(1)
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(14)
        assert not world.notifier.titled(TELLING)
        await world.run(6)
        (text,) = world.notifier.titled(TELLING)
        assert "orders before it are on their way" in text


class ScarceCalls:
    """None are left but those that are kept for exits."""

    def __init__(self, world: World) -> None:
        broker = world.brokers[ACCOUNT]
        self._reserve = broker.reserve
        broker.reserve = self.reserve  # type: ignore[method-assign]

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        if not ticket.is_exit:
            raise RateLimited("the rate budget is spent", wait_seconds=80_000.0)
        return await self._reserve(ticket, taken=taken)


@pytest.mark.parametrize("is_first", [True, False])
async def test_an_exit_passes_the_entries_of_its_instrument_that_have_no_calls(tmp_path: Path, is_first: bool) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL")
        ScarceCalls(world)
        if is_first:
            world.exit("out", "in-AAPL", quantity=60)
        for n in range(3):
            world.send(f"more-{n}")
        await world.run(3)
        world.exit("rest", "in-AAPL", quantity=40)
        await world.run(7)
        assert world.exit_record("rest").status is Status.SUBMITTED
        assert [world.record(f"more-{n}").status for n in range(3)] == [Status.PENDING] * 3
        assert not world.notifier.titled(TELLING)


async def test_an_exit_does_not_pass_the_entry_that_it_closes(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await world.run(1)
        ScarceCalls(world)
        world.send("in")
        await world.run(1)
        world.exit("out", "in")
        world.exit("unnamed", "", entry_signal_id=None)
        await world.run(20)
        assert not world.placed()
        await world.run(300)
        assert world.exit_record("out").status is Status.REJECTED
        assert not world.placed()


async def test_another_reason_is_told_too(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL")
        spend_calls(world)
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(12)
        world.broker_faults.unavailable = BrokerUnavailable("the line is cut", known_pause=True)
        await world.run(12)
        first, second = world.notifier.titled(TELLING)
        assert "free again" in first
        assert "the line is cut" in second


async def test_an_exit_that_leaves_at_once_and_an_entry_that_waits_are_not_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL")
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(10)
        spend_calls(world)
        world.send("more", symbol="NVDA")
        await world.run(60)
        assert not world.notifier.titled(TELLING)
        remarks = [e.message for e in world.exit_record("out").events if isinstance(e, Noted)]
        assert not [remark for remark in remarks if "cannot leave" in remark]


# --- cancels that wait for calls ------------------------------------------------------------------------------------


async def test_a_cancel_that_the_calls_held_back_was_not_asked_and_leaves_when_it_may(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for n in range(3):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(1)
        world.broker_faults.errors["cancel_order"] = [RateLimited("spent", wait_seconds=2.0)] * 30
        for n in range(3):
            world.cancel(signal_id=f"sig-{n}")
        await world.run(19)
        assert {o.status for o in world.records()} == {Status.SUBMITTED}
        assert not world.notifier.titled("Cancel Not Confirmed")
        assert world.brokers[ACCOUNT].repetitions == 0, "none of them was a repetition"
        await world.run(3)
        assert {o.status for o in world.records()} == {Status.CANCELLED}


async def test_a_cancel_for_which_no_calls_are_left_for_the_day_is_tried_calmly(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["cancel_order"] = [RateLimited("spent", wait_seconds=80_000.0)] * 10_000
        world.cancel(signal_id="sig")
        await world.run(100)
        assert len(world.calls("cancel_order")) <= 3
        world.broker_faults.errors.clear()
        await world.run(61)
        assert world.record().status is Status.CANCELLED


async def test_a_cancel_without_a_connection_does_not_count_either(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["cancel_order"] = [BrokerUnavailable("broken")] * 4
        world.cancel(signal_id="sig")
        await world.run(30)
        assert world.record().status is Status.CANCELLED
        assert world.brokers[ACCOUNT].repetitions == 0


async def test_a_cancel_asked_for_by_a_person_again_is_soon_asked_for_again(tmp_path: Path) -> None:
    ignored = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)
    async with world_of(tmp_path, market=BY_HAND, faults=[ignored]) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(400)
        assert len(world.calls("cancel_order")) == 6
        world.book().clear_faults()
        world.cancel(signal_id="sig")
        await world.run(5)
        assert world.record().status is Status.CANCELLED


async def test_a_cancel_asked_for_again_at_another_process_is_soon_asked_for_again(tmp_path: Path) -> None:
    ignored = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)
    async with two_worlds(tmp_path, market=BY_HAND, faults=[ignored]) as (one, other):
        one.send()
        await one.run(5)
        await other.start()
        one.cancel(signal_id="sig")
        await one.run(400)
        before = len(one.calls("cancel_order"))
        one.book().clear_faults()
        other.cancel(signal_id="sig")
        await one.run(8)
        assert (before, one.record().status) == (6, Status.CANCELLED)
        assert not other.calls("cancel_order")


async def test_a_change_of_the_order_wakes_its_cancel(tmp_path: Path) -> None:
    ignored = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)
    async with world_of(tmp_path, market=BY_HAND, faults=[ignored]) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(400)
        world.book().clear_faults()
        world.fill("sig", 10)
        await world.run(8)
        order = world.record()
        assert (order.status, order.filled_quantity) == (Status.CANCELLED, 10)


async def test_an_earlier_sending_that_is_listed_too_wakes_nothing(tmp_path: Path) -> None:
    ignored = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)
    async with world_of(tmp_path, market=BY_HAND, faults=[ignored]) as world:
        world.send()
        await world.run(1)

        def with_another(reports: Sequence[Report]) -> Sequence[Report]:
            """Every answer tells of a stranger's order under the same tag, too."""
            ids = ("a stranger's", *(report.broker_order_id for report in reports))
            own = [replace(report, orders_under_tag=ids) for report in reports]
            return [*own, *(replace(report, broker_order_id=ids[0], said="elsewhere") for report in own)]

        world.broker_faults.retold = with_another
        world.cancel(signal_id="sig")
        await world.run(3600)
        assert len(world.calls("cancel_order")) == 8


async def test_a_refusal_is_noted_three_times_and_no_more(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["cancel_order"] = [OrderRefused("being processed")] * 100
        world.cancel(signal_id="sig")
        await world.run(3600)
        assert len(world.calls("cancel_order")) == 8
        assert [e.message for e in world.record().events if isinstance(e, CancelRefused)] == ["being processed"] * 3


async def test_an_exit_that_people_were_about_to_be_told_of_is_told_by_the_next_life(tmp_path: Path) -> None:
    """Alerts about the same come no more often than once a minute: the process may die in between."""
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL", "MSFT")
        spend_calls(world)
        world.exit("first", "in-AAPL", symbol="AAPL")
        await world.run(12)
        assert len(world.notifier.titled(TELLING)) == 1
        world.exit("second", "in-MSFT", symbol="MSFT")
        await world.run(12)
        await world.restart()
        await world.run(100)
        told = world.notifier.titled(TELLING)
        assert ["first" in text for text in told] == [True, False]
        assert ["second" in text for text in told] == [False, True]


async def test_an_exit_that_people_were_about_to_be_told_of_is_told_before_the_service_stops(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        await entered(world, "AAPL")
        spend_calls(world)
        world.exit("out", "in-AAPL", symbol="AAPL")
        await world.run(5.5)
        await world.stop()
        assert [alert["kind"] for alert in world.documents("execution_alerts")] == [
            f"exit_waits:calls are spent:{ACCOUNT}"
        ]
