"""What a process has received and cannot store goes back to Pub/Sub, for others, and comes again when its store answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pymongo.errors import AutoReconnect

from execution_service.app.service import ORDERS_IN
from execution_service.core.orders.status import Status
from execution_service.intake.intake import HELD_SECONDS, RELAPSE_SECONDS
from execution_service.runtime.supervision import Part
from tests.fakes import BY_HAND, RESTING, World, two_worlds, world_of

T = TypeVar("T")


def said(world: World, action: str) -> list[Any]:
    return [entry for entry in world.logs if entry.get("action") == action]


async def test_orders_go_back_when_the_store_has_been_away_for_a_while_and_come_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, rules=RESTING) as world:
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
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
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
    async with two_worlds(tmp_path, rules=RESTING) as (one, other):
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
    async with world_of(tmp_path, rules=RESTING) as world:
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
    async with world_of(tmp_path, rules=RESTING) as world:
        for n in range(5):
            world.store_faults.is_away = True
            world.send(f"sig-{n}")
            await world.run(HELD_SECONDS - 1)
            world.store_faults.is_away = False
            await world.run(2)
        assert world.orders.handed_back == []
        assert len(world.records()) == 5


async def test_a_store_that_soon_fails_again_is_trusted_later_each_time(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RESTING) as world:
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
    async with world_of(tmp_path, rules=RESTING) as world:
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


async def test_what_a_frozen_store_was_given_and_never_answered_is_handed_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RESTING) as world:
        store: Any = world.service._store
        threads, began = Hanging(), world.clock.monotonic()
        store._calls._threads = store._calls._commit_threads = store._calls._urgent_threads = threads
        sent = [world.send(name) for name in ("one", "two")]
        await world.run_until(lambda: world.orders.queue.is_refusing)
        assert world.clock.monotonic() - began <= HELD_SECONDS + 2
        assert world.orders.handed_back == sent
        assert world.records() == []


async def test_messages_go_back_where_only_the_calls_that_they_wait_for_hang(tmp_path: Path) -> None:
    """Leases and record updates have threads of their own, and are answered all along."""
    async with world_of(tmp_path, rules=RESTING, lease_seconds=8.0) as world:
        store: Any = world.service._store
        threads, sound, began = Hanging(), store._calls._threads, world.clock.monotonic()
        store._calls._threads = threads
        sent = world.send("one")
        await world.run_until(lambda: world.orders.queue.is_refusing)
        assert world.clock.monotonic() - began <= HELD_SECONDS + 2
        assert world.orders.handed_back == [sent]
        await world.run(30)
        assert world.orders.queue.is_refusing, "nothing is taken that could only be handed back again"
        store._calls._threads = sound
        for gate in threads.waiting:
            gate.cancelled() or gate.set_result(None)
        await world.run_until(lambda: not world.orders.queue.is_refusing)


def restarted(world: World) -> list[str]:
    return [str(line["part"]) for line in world.logs if line.get("action") == "part_restarted"]


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
