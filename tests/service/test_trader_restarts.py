"""An account's trader that stumbles and begins anew, at every moment: no order waits for a task that has ended with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities
from brokers.errors import HeldBack, NotAnswered, OutcomeUnknown, RateLimited
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.trading.trader import Trader, TradingRules
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, two_worlds, world_of
from tests.service.audit import audit

ONE_BY_ONE = Capabilities(refuses_repeated_client_id=True, needs_reservation=True, find_window_seconds=3.0)
TOGETHER = Capabilities(refuses_repeated_client_id=True, find_window_seconds=3.0)


class Stumbled(Exception):
    """By this test."""


def stumble(world: World, *, in_turn: int = 1, is_after: bool = False) -> Callable[[], bool]:
    """The account's trader fails once, before or after all that one of its next turns begins. Returns whether it has."""
    trader: Any = world.service.accounts.traders[ACCOUNT]
    whole, left = trader._turn, in_turn

    def turn() -> float | None:
        nonlocal left
        left -= 1
        if left > 0:
            return whole()  # type: ignore[no-any-return]
        trader._turn = whole
        if is_after:
            whole()
        raise Stumbled

    trader._turn = turn
    trader._timers.wake()
    return lambda: left <= 0


def times_begun_anew(world: World) -> int:
    return len([line for line in world.logs if str(line.get("part", "")).startswith("trader")])


@pytest.mark.parametrize(
    "refusal",
    [
        RateLimited("calls are spent", wait_seconds=5.0),
        HeldBack("no list of instruments", wait_seconds=5.0),
        NotAnswered("no answer"),
    ],
    ids=lambda refusal: type(refusal).__name__,
)
async def test_a_queue_that_pauses_is_taken_up_again(tmp_path: Path, refusal: Exception) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [refusal]
        world.send()
        await world.run(0.1)
        assert world.record().status is Status.PENDING
        stumble(world)
        world.send("behind")
        await world.run(10)
        assert times_begun_anew(world) == 1
        assert world.record().status is Status.FILLED
        assert world.record("behind").status is Status.FILLED


@pytest.mark.parametrize("operation", ["place_order", "reports", "find", "cancel_order", "reserve", "positions"])
@pytest.mark.parametrize("is_answer", [False, True], ids=["the call hangs", "the answer hangs"])
@pytest.mark.parametrize("capabilities", [TOGETHER, ONE_BY_ONE], ids=["together", "one by one"])
async def test_whatever_call_was_under_way_trading_goes_on(
    tmp_path: Path, operation: str, is_answer: bool, capabilities: Capabilities
) -> None:
    rules = TradingRules(exit_position_check=ExitPositionCheck.ALWAYS, reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, market=BY_HAND, capabilities=capabilities, rules=rules) as world:
        world.send("in")
        world.send("working", symbol="MSFT")
        await world.run(2)
        world.fill("in")
        await world.run(2)
        holds = world.broker_faults.holds_answer if is_answer else world.broker_faults.holds
        holds[operation] = asyncio.Event()
        if operation == "find":
            world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")]
        world.send("new", symbol="TSLA")
        world.exit("out", "in")
        world.cancel(signal_id="working")
        await world.run(0.5)
        stumble(world)
        await world.run(0.01)
        holds.clear()
        await world.run(30)
        for name, purpose in (("new", Purpose.ENTRY), ("out", Purpose.EXIT)):
            world.fill(name, purpose=purpose)
        await world.run(30)
        statuses = {record.signal_id: record.status for record in world.records()}
        filled = dict.fromkeys(("in", "new", "out"), Status.FILLED)
        assert statuses == {**filled, "working": Status.CANCELLED}
        assert times_begun_anew(world) == 1
        assert len(world.placed()) == 4
        audit(world)


@pytest.mark.parametrize("capabilities", [TOGETHER, ONE_BY_ONE], ids=["together", "one by one"])
@pytest.mark.parametrize("is_after", [False, True], ids=["before the turn", "after what it begins"])
@pytest.mark.parametrize("in_turn", range(1, 16))
async def test_whenever_it_stumbles_every_order_comes_to_its_end(
    tmp_path: Path, in_turn: int, is_after: bool, capabilities: Capabilities
) -> None:
    """Among these moments are those at which a task has been begun and has not run yet: ended then, it resets nothing."""
    rules = TradingRules(exit_position_check=ExitPositionCheck.ALWAYS, reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, capabilities=capabilities, rules=rules) as world:
        # One id after the other: an order that was lost twice may be passed over, and is then rightly in doubt.
        spent = [] if capabilities is ONE_BY_ONE else [RateLimited("spent", wait_seconds=1.0)]
        world.broker_faults.errors["place_order"] = [*spent, OutcomeUnknown("lost")]
        has_stumbled = stumble(world, in_turn=in_turn, is_after=is_after)
        for name, symbol in (("a", "AAPL"), ("b", "AAPL"), ("c", "MSFT")):
            world.send(name, symbol=symbol)
        for name, symbol in (("a", "AAPL"), ("c", "MSFT")):
            world.exit(f"{name}-out", name, symbol=symbol)
        await world.run(90)
        assert has_stumbled()
        statuses = {record.signal_id: record.status for record in world.records()}
        assert statuses == dict.fromkeys(("a", "b", "c", "a-out", "c-out"), Status.FILLED)
        assert len(world.placed()) == 5
        audit(world)


async def test_an_exit_that_waits_for_its_entry_leaves_when_that_has_ended(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("in")
        world.exit("out", "in")
        await world.run(2)
        stumble(world)
        await world.run(3)
        world.fill("in")
        await world.run(3)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(3)
        assert world.exit_record("out").status is Status.FILLED


async def test_what_people_were_about_to_be_told_they_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("in", tif="DAY")
        world.exit("out", "in")
        await world.run_until(lambda: bool(_trader(world)._grouped_alerts._gathered), 60)
        stumble(world)
        await world.run(10)
        assert times_begun_anew(world) == 1
        assert len([text for text in world.notifier.texts if "waits until its entry" in text]) == 1


def _trader(world: World) -> Trader:
    return world.service.accounts.traders[ACCOUNT]


async def test_a_record_that_waits_for_the_store_is_made_or_looked_at_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.store_faults.is_away = True
        world.fill("sig")
        await world.run(3)
        stumble(world)
        await world.run(3)
        world.store_faults.is_away = False
        await world.run(20)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("sig") == ["FILLED"]
        audit(world)


async def test_what_is_told_by_another_life_of_the_adapter_is_asked_for_from_the_start(tmp_path: Path) -> None:
    """A mark means something only to who has given it."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(10)
        stumble(world)
        await world.run(0.01)
        assert _trader(world)._report_poller._mark is not None
        world.broker_faults.errors["reports"] = [OutcomeUnknown("silent")]
        await world.run(0.7)
        assert _trader(world)._report_poller._mark is None
        world.fill("sig")
        await world.run(10)
        assert world.record().status is Status.FILLED


async def test_an_account_that_stumbles_again_and_again_keeps_what_it_knows_of_each_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(timeout_seconds=20)
        await world.run(5)
        for _ in range(4):
            stumble(world)
            await world.run(2)
        await world.run(12)
        assert world.record().status is Status.CANCELLED
        assert world.record().reason is not None
        assert "20 s" in world.record().reason.message  # type: ignore[union-attr]


async def test_that_an_order_may_be_alive_is_told_though_the_first_try_to_record_it_was_ended(tmp_path: Path) -> None:
    lost = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)
    async with world_of(tmp_path, capabilities=lost, is_unique=False) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")]
        world.broker_faults.errors["find"] = [OutcomeUnknown("silent")] * 1000
        world.send()
        await world.run(55)
        world.store_faults.is_away = True
        await world.run(10)
        stumble(world)
        await world.run(3)
        world.store_faults.is_away = False
        await world.run(20)
        assert times_begun_anew(world) == 1
        assert len([text for text in world.notifier.texts if "cannot be asked" in text]) == 1


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
