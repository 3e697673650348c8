"""What a process has received and cannot store goes back to Pub/Sub, for others, and comes again when its store answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from brokers.paper.model import Market
from execution_service.app.service import ORDERS_IN
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.status import Status
from execution_service.intake.intake import HELD_SECONDS, RELAPSE_SECONDS
from execution_service.runtime.supervision import Part
from execution_service.storage.mongo.calls import Calls
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.trader import TradingRules
from tests.fakes import HandClock, World, two_worlds, world_of

T = TypeVar("T")
BY_HAND = Market(fill_delay_seconds=None)
RULES = TradingRules(order_timeout_seconds=0.0)


def said(world: World, action: str) -> list[Any]:
    return [entry for entry in world.logs if entry.get("action") == action]


async def test_orders_go_back_when_the_store_has_been_away_for_a_while_and_come_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, rules=RULES) as world:
        world.store_faults.is_away = True
        sent = [world.send(f"sig-{n}", symbol="MSFT") for n in range(120)]
        await world.run(HELD_SECONDS - 2)
        assert world.orders.handed_back == []
        await world.run(4)
        assert world.orders.handed_back == sent
        assert world.orders.queue.is_refusing
        world.send("late")
        await world.run(100)
        assert len(said(world, "messages_handed_back")) == 1
        world.store_faults.is_away = False
        await world.run(10)
        assert {order.status for order in world.records()} == {Status.FILLED}
        assert len(world.records()) == 121
        assert world.orders.unacknowledged == []
        (text,) = world.notifier.titled("Messages Handed Back")
        assert "orders" in text


async def test_a_command_goes_back_too(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES) as world:
        world.send("one")
        await world.run(1)
        world.store_faults.is_away = True
        sent = world.cancel(signal_id="one")
        await world.run(HELD_SECONDS + 2)
        assert world.commands.handed_back == [sent]
        world.store_faults.is_away = False
        await world.run(10)
        assert world.record("one").status is Status.CANCELLED
        assert world.commands.unacknowledged == []


async def test_another_process_executes_what_the_one_without_a_store_has_handed_back(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, rules=RULES) as (one, other):
        await other.start()
        one.store_faults.is_away = True
        one.send("one")
        await one.run(HELD_SECONDS + 3)
        assert len(one.orders.handed_back) == 1
        one.orders.deliver_elsewhere(other.orders)
        await other.run(15)
        assert other.record("one").status is Status.FILLED
        assert len(other.placed()) == 1
        one.store_faults.is_away = False
        await one.run(30)
        assert len(other.placed()) == 1


async def test_an_order_that_was_stored_though_no_answer_came_is_placed_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RULES) as world:
        world.store_faults.lost_answers["execution_orders.insert_many"] = 1
        world.send("one")
        await world.settle()
        world.store_faults.is_away = True
        await world.run(HELD_SECONDS + 3)
        assert len(world.orders.handed_back) == 1
        world.store_faults.is_away = False
        await world.run(10)
        assert world.record("one").status is Status.FILLED
        assert len(world.placed()) == 1
        assert world.orders.unacknowledged == []


async def test_a_store_that_flaps_faster_than_that_hands_nothing_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RULES) as world:
        for n in range(5):
            world.store_faults.is_away = True
            world.send(f"sig-{n}")
            await world.run(HELD_SECONDS - 1)
            world.store_faults.is_away = False
            await world.run(2)
        assert world.orders.handed_back == []
        assert len(world.records()) == 5


async def test_a_store_that_soon_fails_again_is_trusted_later_each_time(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RULES) as world:
        rests = []
        for n in range(5):
            world.store_faults.is_away = True
            world.send(f"sig-{n}")
            await world.run_until(lambda: world.orders.queue.is_refusing)
            began = world.clock.monotonic()
            world.store_faults.is_away = False
            await world.run_until(lambda: not world.orders.queue.is_refusing)
            rests.append(world.clock.monotonic() - began)
        assert rests == sorted(rests)
        assert rests[0] <= 1
        assert 30 <= rests[-1] <= 60
        await world.run(RELAPSE_SECONDS + 1)
        world.store_faults.is_away = True
        world.send("after a quiet time")
        await world.run_until(lambda: world.orders.queue.is_refusing)
        world.store_faults.is_away = False
        await world.run(2)
        assert not world.orders.queue.is_refusing


async def test_one_message_that_cannot_be_taken_is_no_reason_to_hand_the_others_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RULES) as world:
        intake = world.service.intake
        take = intake.take

        async def stumbling(messages: Any) -> Any:
            if any(b"odd" in message.data for message in messages):
                raise RuntimeError("nobody foresaw this")
            return await take(messages)

        intake.take = stumbling  # type: ignore[method-assign]
        await world.service.supervisor.end(ORDERS_IN)
        world.service.supervisor.keep(Part(ORDERS_IN, lambda: intake.run(world.orders.queue)))
        for name in ("one", "odd", "two"):
            world.send(name)
        await world.run(20)
        assert {order.signal_id for order in world.records()} == {"one", "two"}
        assert world.orders.handed_back == []


# How it is known that the store is silent


class Hanging:
    """A thread whose calls return when they are let go."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def run(self, call: Callable[[], T]) -> T:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        await gate
        return call()

    def close(self) -> None:
        """Nothing to end."""


def refuse() -> None:
    raise AutoReconnect("connection refused")


def answer_no() -> None:
    raise OperationFailure("not allowed")


async def begun(calls: Calls, call: Callable[[], None]) -> asyncio.Task[None]:
    task = asyncio.create_task(calls.ask(call))
    await asyncio.sleep(0)
    return task


async def test_a_store_is_silent_while_calls_hang_or_fail_and_until_one_is_answered() -> None:
    clock, threads = HandClock(), Hanging()
    calls = Calls(clock, threads=threads)
    hanging = await begun(calls, lambda: None)
    clock.move(7)
    assert calls.silent_seconds() == 7
    failing = await begun(calls, refuse)
    threads.waiting[1].set_result(None)
    with pytest.raises(StoreUnavailable):
        await failing
    clock.move(4)
    assert calls.silent_seconds() == 11
    answered = await begun(calls, answer_no)
    threads.waiting[2].set_result(None)
    with pytest.raises(StoreUnavailable):
        await answered
    assert calls.silent_seconds() == 0
    clock.move(3)
    assert calls.silent_seconds() == 3, "the first call still hangs"
    threads.waiting[0].set_result(None)
    await hanging
    clock.move(3)
    assert calls.silent_seconds() == 0


async def test_a_store_that_nobody_waits_for_any_more_is_not_called_silent() -> None:
    clock, threads = HandClock(), Hanging()
    calls = Calls(clock, threads=threads)
    given_up = await begun(calls, lambda: None)
    given_up.cancel()
    await asyncio.wait({given_up})
    clock.move(100)
    assert calls.silent_seconds() == 0


async def test_a_store_whose_answer_makes_no_sense_has_answered() -> None:
    clock, threads = HandClock(), Hanging()
    calls = Calls(clock, threads=threads)

    def nonsense() -> None:
        raise UnreadableRecord("what is this?")

    asked = await begun(calls, nonsense)
    threads.waiting[0].set_result(None)
    with pytest.raises(UnreadableRecord):
        await asked
    clock.move(100)
    assert calls.silent_seconds() == 0


async def test_what_a_frozen_store_was_given_and_never_answered_is_handed_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RULES) as world:
        store: Any = world.service._store
        threads, began = Hanging(), world.clock.monotonic()
        store._calls._threads = store._calls._commit_threads = store._calls._urgent_threads = threads
        sent = [world.send(name) for name in ("one", "two")]
        await world.run_until(lambda: world.orders.queue.is_refusing)
        assert world.clock.monotonic() - began <= HELD_SECONDS + 2
        assert world.orders.handed_back == sent
        assert world.records() == []
