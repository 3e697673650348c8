"""When a market of the past goes on: not before everything that its last bar brought is dealt with, and not never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from brokers.errors import BrokerUnavailable
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.recording.live_orders import LiveOrders
from execution_service.storage.ports.orders import Stored, Told
from execution_service.trading.market_turns import PATIENCE_SECONDS, MarketTurns
from tests.builders import order_in
from tests.fakes import HandClock

ACCOUNT = order_in(Status.PENDING).request.account_id


class Past:
    """A trader at a market of the past, and the accounts and plans around it, as far as its clock goes by them."""

    def __init__(self) -> None:
        self.is_connected, self.is_protecting, self.is_wanted = True, False, True
        self.calls: list[str] = []
        self.fails: Exception | None = None
        self.on_work: Callable[[], object] = lambda: None
        self.on_look: Callable[[], object] = lambda: None

    @property
    def on_bars(self) -> dict[str, Past]:
        return {str(ACCOUNT): self}

    async def read_book(self, *, whole: bool) -> None:
        self.calls.append("read")
        if self.fails is not None:
            raise self.fails

    async def look_at_bar(self) -> None:
        self.calls.append("look")
        self.on_look()

    async def wants_market_to_move(self) -> bool:
        return self.is_wanted

    async def move_market(self) -> bool:
        self.calls.append("move")
        self.is_wanted = False
        return True

    async def work(self) -> bool:
        self.calls.append("plans")
        self.on_work()
        return False


class Stage:
    def __init__(self) -> None:
        self.past, self.clock = Past(), HandClock()
        self.live = LiveOrders(store=None, clock=self.clock)  # type: ignore[arg-type]
        self._turns = MarketTurns(accounts=self.past, live_orders=self.live, plans=self.past, clock=self.clock)

    def has(self, order: Order, *, is_booked: bool = True) -> None:
        told = Told(world=order.version, people=order.version) if is_booked else Told()
        self.live.adopt(Stored(order, told))

    async def moves_within(self, seconds: float) -> bool:
        task = asyncio.create_task(self._turns.run())
        end = self.clock.monotonic() + seconds
        try:
            while self.clock.monotonic() < end and "move" not in self.past.calls:
                for _ in range(10):
                    await asyncio.sleep(0)
                self.clock.move(0.05)
        finally:
            task.cancel()
            await asyncio.wait([task])
        return "move" in self.past.calls


async def test_all_is_read_and_plans_have_released_before_it_moves() -> None:
    stage = Stage()
    assert await stage.moves_within(1)
    assert stage.past.calls[:4] == ["read", "look", "plans", "move"]


@pytest.mark.parametrize("status", [Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT])
async def test_it_waits_for_an_order_on_its_way_but_not_for_ever(status: Status) -> None:
    stage = Stage()
    stage.has(order_in(status))
    assert not await stage.moves_within(PATIENCE_SECONDS - 1)
    assert await stage.moves_within(2)


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PARTIALLY_FILLED])
async def test_it_does_not_wait_for_an_order_that_works(status: Status) -> None:
    stage = Stage()
    stage.has(order_in(status))
    assert await stage.moves_within(1)


@pytest.mark.parametrize("status", [Status.PARTIALLY_FILLED, Status.FILLED])
async def test_it_waits_until_fills_are_booked_however_long_that_takes(status: Status) -> None:
    stage = Stage()
    stage.has(order_in(status), is_booked=False)
    assert not await stage.moves_within(PATIENCE_SECONDS * 3)


async def test_it_waits_for_what_a_plan_releases() -> None:
    stage = Stage()
    stage.past.on_work = lambda: stage.has(order_in(Status.PENDING))
    assert not await stage.moves_within(1)


async def test_it_waits_for_what_a_price_of_the_last_bar_asks_for() -> None:
    stage = Stage()
    stage.past.on_look = lambda: setattr(stage.past, "is_protecting", True)
    assert not await stage.moves_within(1)
    stage.past.on_look = lambda: None
    stage.past.is_protecting = False
    assert await stage.moves_within(1)


async def test_it_stands_still_while_no_price_of_the_last_bar_is_told() -> None:
    stage = Stage()

    def fail() -> None:
        raise BrokerUnavailable("away")

    stage.past.on_look = fail
    assert not await stage.moves_within(PATIENCE_SECONDS * 2)


async def test_it_waits_for_protective_orders_that_are_not_on_their_way_yet() -> None:
    stage = Stage()
    stage.past.is_protecting = True
    assert not await stage.moves_within(PATIENCE_SECONDS * 3)


async def test_it_stands_still_where_nobody_wants_it_to_move_or_the_broker_is_away() -> None:
    stage = Stage()
    stage.past.is_wanted = False
    assert not await stage.moves_within(3)
    stage.past.is_wanted, stage.past.fails = True, BrokerUnavailable("no")
    assert not await stage.moves_within(3)
    stage.past.fails, stage.past.is_connected = None, False
    assert not await stage.moves_within(3)
    stage.past.is_connected = True
    assert await stage.moves_within(3)
