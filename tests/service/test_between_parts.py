"""What no part does wrong by itself, and two of them did together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from brokers.base import Capabilities
from brokers.errors import OutcomeUnknown
from brokers.paper.model import Market
from execution_service.core.orders.events import DeclaredPlaced, Event, SendAgainOrdered
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.intake.intake import HELD_SECONDS
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, World, two_worlds, world_of

BY_HAND = Market(fill_delay_seconds=None)
RESTING = TradingRules(order_timeout_seconds=0.0)


def restarted(world: World) -> list[str]:
    return [str(line["part"]) for line in world.logs if line.get("action") == "part_restarted"]


def spoil(world: World, signal_id: str, purpose: Purpose = Purpose.ENTRY) -> None:
    """Somebody's hand in the record: it cannot be read any more."""
    order = world.record(signal_id, purpose)
    world.mongo["trading"]["execution_orders"].update_one({"_id": order.order_id}, {"$set": {"request": "gone"}})


# --- messages -------------------------------------------------------------------------------------------------------


async def test_people_hear_that_messages_went_back_though_the_store_fails_again_in_that_moment(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RESTING) as world:
        world.store_faults.is_away = True
        world.send("one")
        await world.run(HELD_SECONDS + 2)
        assert world.orders.queue.is_refusing
        world.store_faults.breaks["execution_alerts.update_one"] = [AutoReconnect("again")] * 3
        world.store_faults.is_away = False
        await world.run(30)
        assert len(world.notifier.titled("Messages Handed Back")) == 1
        assert restarted(world) == []


# --- exits and records that cannot be read --------------------------------------------------------------------------


async def test_an_exit_whose_sibling_cannot_be_read_sells_nothing_that_is_sold(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(1)
        world.exit("out-1", "in")
        await world.run(1)
        world.fill("out-1", purpose=Purpose.EXIT)
        await world.run(10)
        spoil(world, "out-1", Purpose.EXIT)
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2
        assert world.exit_record("out-2").status is Status.REJECTED


async def test_two_exits_of_an_entry_that_cannot_be_read_sell_it_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(10)
        spoil(world, "in")
        world.exit("out-1", "in")
        await world.run(5)
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2


async def test_an_exit_beside_one_that_may_be_at_work_and_cannot_be_read_is_not_sent(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(1)
        world.exit("out-1", "in")
        await world.run(1)
        await world.kill()
        spoil(world, "out-1", Purpose.EXIT)
        await world.start()
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2
        assert world.exit_record("out-2").status is Status.REJECTED


async def test_two_exits_that_name_no_entry_sell_what_is_held_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(10)
        world.send("out-1", signal_type="EXIT", side="SELL", quantity=60)
        await world.run(5)
        world.send("out-2", signal_type="EXIT", side="SELL", quantity=60)
        await world.run(20)
        world.fill("out-1", purpose=Purpose.EXIT)
        world.fill("out-2", purpose=Purpose.EXIT)
        await world.run(20)
        assert [world.exit_record(name).filled_quantity for name in ("out-1", "out-2")] == [60, 40]


async def test_an_exit_of_an_entry_sells_nothing_that_one_without_an_entry_is_selling(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(10)
        world.send("out-1", signal_type="EXIT", side="SELL")
        await world.run(5)
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2
        assert world.exit_record("out-2").status is Status.REJECTED


# --- accounts -------------------------------------------------------------------------------------------------------


async def test_orders_of_an_account_that_was_opened_by_the_second_try_are_followed(tmp_path: Path) -> None:
    rules = TradingRules(order_timeout_seconds=60.0)
    async with two_worlds(tmp_path, market=BY_HAND, rules=rules) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        accounts: Any = other.service.accounts
        keep_trading, tries = accounts._keep, []

        def keep_once_broken(trader: object) -> None:
            tries.append(trader)
            if len(tries) == 1:
                raise RuntimeError("of nobody's making")
            keep_trading(trader)

        accounts._keep = keep_once_broken
        await one.stop()
        await other.run(90)
        assert len(tries) == 2
        assert other.record("a").status is Status.CANCELLED


async def test_nothing_is_opened_any_more_by_a_process_that_stops(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING) as (one, other):
        await other.start()
        await one.kill()
        service: Any = other.service
        opened: list[str] = []
        open_desk, unsettled, drain, hold = (
            service.accounts.open,
            service._store.unsettled,
            service.outbox.drain,
            asyncio.Event(),
        )

        def noted(partition: str, *found: Any) -> None:
            opened.append(partition)
            open_desk(partition, *found)

        async def slowly(*of: Any) -> Any:
            if of == (ACCOUNT,):
                await hold.wait()
            return await unsettled(*of)

        async def drained() -> None:
            hold.set()
            await drain()

        service.accounts.open, service._store.unsettled, service.outbox.drain = noted, slowly, drained
        await other.run(12)
        assert service.ownership._leases.holds(ACCOUNT)
        await other.stop()
        assert ACCOUNT not in opened


async def test_nothing_of_a_trader_goes_on_that_is_let_go_while_its_failure_is_put_in_order(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING) as (one, other):
        await other.start()
        service: Any = one.service
        trader: Any = service.accounts.traders[ACCOUNT]
        end = service.supervisor.end
        task = trader._tasks.begin(asyncio.Event().wait(), "work")

        async def slowly(*names: str) -> None:
            if f"connection {ACCOUNT}" in names:
                await asyncio.Event().wait()
            await end(*names)

        def stumbles() -> None:
            raise RuntimeError("of nobody's making")

        service.supervisor.end, trader._turn = slowly, stumbles
        trader._timers.wake()
        one.store_faults.is_away = True
        await one.run(12)
        assert ACCOUNT not in service.accounts.traders
        assert task.done()
        assert trader._connection._broker is None


@pytest.mark.parametrize("decision", ["placed", "send-again"])
async def test_an_order_of_which_another_process_was_told_what_became_of_it_has_its_whole_time(
    tmp_path: Path, decision: str
) -> None:
    rules = TradingRules(order_timeout_seconds=60.0)
    unsure = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)
    async with two_worlds(tmp_path, market=BY_HAND, rules=rules, is_unique=False, capabilities=unsure) as (one, other):
        await other.start()
        one.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")]
        one.send("a")
        await one.run(50)
        assert one.record("a").status is Status.IN_DOUBT
        decided: Event = SendAgainOrdered(at=one.clock.now(), by="me", message="")
        if decision == "placed":
            decided = DeclaredPlaced(at=one.clock.now(), by="me", broker_order_id="b-7", message="")
        service: Any = other.service
        (stored,) = await service._store.load([one.record("a").order_id])
        after = await service.live_orders.record_for_holder(
            stored.order, lambda order: (decided,) if order.status is Status.IN_DOUBT else ()
        )
        await service.ownership.leave_to_holder(after)
        await one.run(50)
        assert one.record("a").status is Status.SUBMITTED
        assert one.record("a").cancel_request is None
        await one.run(30)
        assert one.record("a").cancel_request is not None


# --- records --------------------------------------------------------------------------------------------------------


async def test_a_record_of_the_end_of_time_makes_no_other_order_wait(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(2)
        await world.kill()
        changes = {"$set": {"published_at": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)}}
        world.mongo["trading"]["execution_orders"].update_one({"_id": world.record("odd").order_id}, changes)
        await world.start()
        await world.run(120)
        world.send("sound", symbol="MSFT")
        await world.run(5)
        assert [order.ticket.instrument.symbol for order in world.placed()] == ["AAPL", "MSFT"]


# --- delivery -------------------------------------------------------------------------------------------------------


async def test_a_confirmation_whose_delivery_was_cancelled_by_nobody_of_ours_is_delivered_again(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        publish, cuts = world.publisher.publish, [asyncio.CancelledError()]

        async def cut_at_first(data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
            if cuts:
                raise cuts.pop()
            await publish(data, attributes, ordering_key)

        world.publisher.publish = cut_at_first  # type: ignore[method-assign]
        world.send("a")
        await world.run(5)
        assert world.publisher.statuses("a") == ["FILLED"]
