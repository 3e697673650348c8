"""Orders that the broker holds for the opening of their market: what runs, what rests and what people hear, by a hand-moved clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from brokers.base import Report, ReportStatus
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import Held, Released
from execution_service.core.orders.status import Status
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, World, two_worlds, world_of

HOUR = 3600.0
WORDS = "will not be placed at the exchange until the opening"
IGNORED = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)


class Opening:
    """A broker that holds what works for the opening, until it is told to open; from then on it says that the market has it."""

    def __init__(self, world: World, *, until: datetime | None = None, says_live: bool = True) -> None:
        self.is_open = False
        self.is_listing = True
        self._until = until
        self._says_live = says_live
        world.broker_faults.retold = self._retold

    def _retold(self, reports: Sequence[Report]) -> Sequence[Report]:
        return [self._as_told(report) for report in reports if self.is_listing]

    def _as_told(self, report: Report) -> Report:
        if report.status is not ReportStatus.WORKING:
            return report
        if self.is_open:
            return replace(report, is_held=False if self._says_live else None, said="Submitted")
        return replace(report, is_held=True, held_until=self._until, said=WORDS)


async def test_the_time_out_runs_from_the_opening_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        broker = Opening(world)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(3 * HOUR)
        assert (world.record().status, world.calls("cancel_order")) == (Status.SUBMITTED, [])
        assert [e.message for e in world.record().events if isinstance(e, Held)] == [WORDS]
        broker.is_open = True
        await world.run(55)
        assert len([e for e in world.record().events if isinstance(e, Released)]) == 1
        assert not world.calls("cancel_order")
        await world.run(15)
        assert world.record().status is Status.CANCELLED
        assert world.publisher.of("sig")[-1]["reason"]["code"] == "TIMEOUT"


@pytest.mark.parametrize("says_live", [True, False])
async def test_a_told_opening_begins_the_time_out_whatever_is_said_at_it(tmp_path: Path, says_live: bool) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        broker = Opening(world, until=world.clock.now() + timedelta(hours=3), says_live=says_live)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(3 * HOUR - 1)
        broker.is_open = True
        await world.run(55)
        assert not world.calls("cancel_order")
        await world.run(15)
        assert world.record().status is Status.CANCELLED


async def test_a_hold_without_a_told_end_ends_by_the_brokers_word_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        broker = Opening(world, says_live=False)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(HOUR)
        broker.is_open = True
        await world.run(HOUR)
        assert world.record().status is Status.SUBMITTED


@pytest.mark.parametrize("until_told", [True, False])
async def test_what_is_held_stays_held_over_a_restart_though_it_is_not_said_again(
    tmp_path: Path, until_told: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        until = world.clock.now() + timedelta(hours=3) if until_told else None
        Opening(world, until=until)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(60)
        await world.kill()
        silent = Opening(world, says_live=False)
        silent.is_open = True  # as a gateway that shows it, and does not say again why it waits
        world.clock.move(HOUR)
        await world.start()
        await world.run(1.5 * HOUR)
        assert (world.record().status, world.calls("cancel_order")) == (Status.SUBMITTED, [])
        if until_told:
            await world.run(HOUR)
            assert world.record().status is Status.CANCELLED


async def test_whoever_takes_the_account_over_knows_that_it_is_held(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        Opening(one)
        one.send(order_type="LIMIT", limit_price=10)
        await one.run(30)
        assert isinstance(one.record().events[-1], Held)
        broker = Opening(other, says_live=False)
        broker.is_open = True
        await other.start()
        await one.kill()
        await other.run(600)
        assert (one.record().status, one.calls("cancel_order"), other.calls("cancel_order")) == ("SUBMITTED", [], [])
        Opening(other).is_open = True
        await other.run(90)
        assert one.record().status is Status.CANCELLED
        assert len(one.notifier.titled("Held for the Opening")) == 1


async def test_the_wall_clock_opens_no_market(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        Opening(world, until=world.clock.now() + timedelta(hours=3))
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(60)
        world.clock.jump_wall(12 * HOUR)
        await world.run(HOUR)
        assert not world.calls("cancel_order")


async def test_the_setting_brings_the_old_way_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(counts_while_held=True)) as world:
        Opening(world)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(70)
        assert world.record().status is Status.CANCELLED


async def test_an_order_of_its_own_time_out_has_that_from_the_opening_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        broker = Opening(world)
        world.send(order_type="LIMIT", limit_price=10, timeout_seconds=5)
        await world.run(HOUR)
        assert not world.calls("cancel_order")
        broker.is_open = True
        await world.run(15)
        assert world.record().status is Status.CANCELLED


async def test_a_fill_shows_that_the_market_has_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        Opening(world)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(HOUR)
        world.broker_faults.retold = None
        world.fill("sig", 40)
        await world.run(50)
        order = world.record()
        assert (order.status, order.hold) == (Status.PARTIALLY_FILLED, None)
        await world.run(20)
        assert world.record().status is Status.CANCELLED


async def test_people_read_one_message_about_many_held_orders(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        Opening(world)
        for n in range(30):
            world.send(f"sig-{n}")
        await world.run(120)
        (text,) = world.notifier.texts
        assert "30 orders of acct-1 by name are held until the opening" in text
        assert WORDS in text
        await world.restart()
        await world.run(120)
        assert len(world.notifier.texts) == 1


async def test_a_held_order_that_is_to_be_cancelled_is_cancelled_when_the_market_has_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, faults=[IGNORED]) as world:
        broker = Opening(world)
        for n in range(5):
            world.send(f"sig-{n}")
        await world.run(60)
        for n in range(5):
            world.cancel(signal_id=f"sig-{n}")
        await world.run(HOUR)
        assert len(world.calls("cancel_order")) == 5 * 8
        assert world.brokers[ACCOUNT].repetitions == 5 * 7
        assert len(world.notifier.titled("Cancel Not Confirmed")) == 1
        world.book().clear_faults()
        broker.is_open = True
        await world.run(10)
        assert {o.status for o in world.records()} == {Status.CANCELLED}, "that the market has it wakes them"


async def test_a_list_that_is_empty_until_the_opening_is_no_discrepancy_and_costs_one_look_a_minute(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        broker = Opening(world)
        for n in range(60):
            world.send(f"sig-{n}", symbol=f"S{n}", order_type="LIMIT", limit_price=10)
        await world.run(60)
        broker.is_listing = False
        await world.run(600)
        assert not world.documents("execution_discrepancies")
        assert not world.notifier.titled("Discrepancy")
        assert len(world.calls("find")) == 0
        assert len(world.calls("find_all")) <= 12
        assert {o.status for o in world.records()} == {Status.SUBMITTED}
        broker.is_listing = broker.is_open = True
        await world.run(70)
        assert {o.status for o in world.records()} == {Status.CANCELLED}


async def test_a_held_order_that_is_not_shown_for_days_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        broker = Opening(world)
        world.send(order_type="LIMIT", limit_price=10)
        await world.run(60)
        broker.is_listing = False
        await world.run(600)
        assert not world.notifier.titled("Discrepancy")
        world.clock.move(4 * 24 * HOUR)
        await world.run(600)
        assert len(world.notifier.titled("Discrepancy")) == 1
