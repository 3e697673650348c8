"""A broker whose calls never return, one kind of them at a time, and not even when they are cancelled: other orders go on, and people are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities
from brokers.errors import OutcomeUnknown
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.trading import connection
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, World, world_of

TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=8)
ONE_BY_ONE = Capabilities(
    refuses_repeated_client_id=True, fits_tickets=True, needs_reservation=True, find_window_seconds=3.0
)
SIDE_BY_SIDE = replace(ONE_BY_ONE, concurrent_calls=8)


class HandMovedWaits:
    """`asyncio` whose waits end by the hand-moved clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def wait(
        self, calls: set[asyncio.Future[Any]], *, timeout: float, return_when: str = asyncio.ALL_COMPLETED
    ) -> None:
        bound = asyncio.ensure_future(self._world.clock.sleep(timeout))
        try:
            await asyncio.wait({*calls, bound}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            bound.cancel()


class Hanging:
    """Calls that hang until the test is over."""

    def __init__(self, *, heeds_cancellation: bool) -> None:
        self._over = asyncio.Event()
        self._heeds_cancellation = heeds_cancellation
        self.times = 0

    async def hang(self) -> None:
        self.times += 1
        while not self._over.is_set():
            try:
                await self._over.wait()
            except asyncio.CancelledError:
                if self._heeds_cancellation or self._over.is_set():
                    raise

    def over(self, broker: Any, operation: str, is_meant: Callable[[Any], bool] = lambda about: True) -> None:
        whole = getattr(broker, operation)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if not self._over.is_set() and is_meant(args[0] if args else None):
                await self.hang()
            return await whole(*args, **kwargs)

        setattr(broker, operation, call)

    def end(self) -> None:
        self._over.set()


@pytest.fixture(params=[True, False], ids=["heeds cancellation", "heeds nothing"])
async def hanging(request: pytest.FixtureRequest) -> AsyncIterator[Hanging]:
    some = Hanging(heeds_cancellation=request.param)
    yield some
    some.end()


@contextlib.asynccontextmanager
async def hanging_world(folder: Path, hanging: Hanging, **kwargs: Any) -> AsyncIterator[World]:
    async with world_of(folder, **kwargs) as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "asyncio", HandMovedWaits(world))
            try:
                yield world
            finally:
                hanging.end()
                await world.settle()


def is_of(tag: str) -> Callable[[Any], bool]:
    def is_meant(about: Any) -> bool:
        if isinstance(about, str):
            return about == tag
        if isinstance(about, tuple):
            return tag in about
        return bool(about.client_order_id == tag)

    return is_meant


@pytest.mark.parametrize("capabilities", [ONE_BY_ONE, SIDE_BY_SIDE], ids=["one call at a time", "several"])
@pytest.mark.parametrize("operation", ["fitted", "reserve", "place_order"])
async def test_while_an_order_hangs_on_its_way_out_the_others_leave(
    tmp_path: Path, hanging: Hanging, operation: str, capabilities: Capabilities
) -> None:
    """At once where the broker takes several calls, else when the call's bound has passed."""
    async with hanging_world(tmp_path, hanging, capabilities=capabilities) as world:
        hanging.over(world.brokers[ACCOUNT], operation, is_of(World.client_id("odd")))
        world.send("odd")
        for number in range(5):
            world.send(f"other-{number}", symbol=f"S{number}")
        await world.run(5 if capabilities.concurrent_calls > 1 else 35)
        if operation != "place_order":
            assert {world.record(f"other-{n}").status for n in range(5)} == {Status.FILLED}
        await world.run(150)  # an order that was perhaps sent may have to leave again before a later id does
        assert hanging.times
        assert [world.record(f"other-{n}").status for n in range(5)] == [Status.FILLED] * 5
        assert [text for text in world.notifier.texts if "odd" in text]
        assert len({placed.ticket.client_order_id for placed in world.placed()}) == len(world.placed())
        assert world.service.accounts.traders[ACCOUNT].is_connected


async def test_an_order_of_which_the_answer_hangs_is_in_doubt_and_the_others_leave(
    tmp_path: Path, hanging: Hanging
) -> None:
    async with hanging_world(tmp_path, hanging, capabilities=TAG, is_unique=False) as world:
        hanging.over(world.brokers[ACCOUNT], "place_order", is_of(World.client_id("odd")))
        world.send("odd")
        world.send("same")
        world.send("other", symbol="MSFT")
        await world.run(5)
        assert world.record("other").status is Status.FILLED
        await world.run(40)
        assert world.record("odd").status is Status.IN_DOUBT
        assert world.record("same").status is Status.FILLED
        hanging.over(world.brokers[ACCOUNT], "find_all")
        await world.run(20)
        world.send("later")
        await world.run(2)
        assert world.record("later").status is Status.FILLED
        assert world.notifier.titled("Order In Doubt")


async def test_while_a_look_for_an_order_hangs_the_others_leave_and_people_hear_of_it(
    tmp_path: Path, hanging: Hanging
) -> None:
    async with hanging_world(tmp_path, hanging, capabilities=TAG, is_unique=False) as world:
        hanging.over(world.brokers[ACCOUNT], "find", is_of(World.client_id("odd")))
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")]
        world.send("odd")
        await world.run(10)
        world.send("other", symbol="MSFT")
        await world.run(60)
        assert hanging.times
        assert world.record("odd").status is Status.SUBMITTING
        assert world.record("other").status is Status.FILLED
        assert [text for text in world.notifier.texts if "odd" in text and "cannot be asked" in text]


async def test_while_a_cancellation_hangs_the_others_are_cancelled_and_people_hear_of_it(
    tmp_path: Path, hanging: Hanging
) -> None:
    async with hanging_world(tmp_path, hanging, market=BY_HAND) as world:
        for name in ("odd", "other"):
            world.send(name)
        await world.run(2)
        hanging.over(world.brokers[ACCOUNT], "cancel_order", is_of(World.client_id("odd")))
        for name in ("odd", "other"):
            world.cancel(signal_id=name)
        await world.run(2)
        assert world.record("other").status is Status.CANCELLED
        await world.run(130)
        assert hanging.times >= 3
        (text,) = world.notifier.titled("Cancel Not Confirmed")
        assert "odd" in text


async def test_while_positions_hang_exits_leave_by_our_own_books_and_people_hear_of_it(
    tmp_path: Path, hanging: Hanging
) -> None:
    rules = TradingRules(exit_position_check=ExitPositionCheck.ALWAYS, reconcile_interval_seconds=10.0)
    async with hanging_world(tmp_path, hanging, rules=rules) as world:
        world.send("in")
        await world.run(2)
        hanging.over(world.brokers[ACCOUNT], "positions")
        world.exit("out", "in")
        world.send("other", symbol="MSFT")
        await world.run(15)
        assert world.record("other").status is Status.FILLED
        assert world.exit_record("out").status is Status.FILLED
        assert [text for text in world.notifier.texts if "did not tell its positions" in text]


async def test_while_reports_hang_orders_leave_until_the_connection_is_given_up_and_people_hear_of_it(
    tmp_path: Path, hanging: Hanging
) -> None:
    async with hanging_world(tmp_path, hanging) as world:
        hanging.over(world.brokers[ACCOUNT], "reports")
        world.send("other", symbol="MSFT")
        await world.run(1)
        assert world.record("other").status is Status.FILLED
        await world.run(220)
        assert world.notifier.titled("Broker Down")
        hanging.end()
        await world.run(40)
        assert world.service.accounts.traders[ACCOUNT].is_connected
        world.send("later")
        await world.run(3)
        assert world.record("later").status is Status.FILLED


async def test_while_connecting_or_closing_hangs_it_is_tried_again_and_people_hear_of_it(
    tmp_path: Path, hanging: Hanging
) -> None:
    other_accounts = (ACCOUNT, "acct-2")
    async with hanging_world(tmp_path, hanging, accounts=other_accounts) as world:
        broker = world.brokers[ACCOUNT]
        for operation in ("connect", "close"):
            hanging.over(broker, operation)
        trader: Any = world.service.accounts.traders[ACCOUNT]
        trader._connection.lose(OutcomeUnknown("gone"))
        await world.run(200)
        world.send("elsewhere", account_id="acct-2")
        await world.run(2)
        assert world.record("elsewhere").status is Status.FILLED
        assert world.notifier.titled("Broker Down")
        trader._turn = lambda: 1 / 0  # it begins anew, with another connection
        trader._timers.wake()
        await world.run(0.01)
        del trader._turn
        await world.run(20)
        assert trader.is_connected
        world.send("here")
        await world.run(2)
        assert world.record("here").status is Status.FILLED


async def test_exits_wait_for_one_that_hangs_no_longer_than_its_calls_may_take(
    tmp_path: Path, hanging: Hanging
) -> None:
    async with hanging_world(tmp_path, hanging, capabilities=ONE_BY_ONE) as world:
        for name, symbol in (("odd-in", "AAPL"), ("in", "MSFT")):
            world.send(name, symbol=symbol)
        await world.run(2)
        hanging.over(world.brokers[ACCOUNT], "reserve", is_of(World.client_id("odd-out", Purpose.EXIT)))
        world.exit("odd-out", "odd-in")
        await world.run(0.1)
        world.exit("out", "in", symbol="MSFT")
        await world.run(35)
        assert hanging.times
        assert world.exit_record("out").status is Status.FILLED
        await world.run(60)
        assert [text for text in world.notifier.texts if "odd-out" in text]


async def test_an_answer_that_goes_on_without_end_is_given_up(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        broker: Any = world.brokers[ACCOUNT]
        whole = broker.reports

        async def endless(since: int | None = None) -> Any:
            return replace(await whole(since), has_more=True)

        broker.reports = endless
        world.send()
        await world.run(10)
        assert world.record().status is Status.FILLED
        assert len(world.calls("reports")) < 40
        broker.reports = whole
        await world.run(10)
        assert world.service.accounts.traders[ACCOUNT].is_connected


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
