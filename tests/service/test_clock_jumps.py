"""The wall clock is set while the service runs: nothing expires early, nothing lasts longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from brokers.errors import BrokerUnavailable
from brokers.paper.model import Market
from execution_service.app.clock import SystemClock
from execution_service.core.orders.status import Status
from tests.fakes import world_of

BY_HAND = Market(fill_delay_seconds=None)
JUMPS = [3600.0, -3600.0, 86_400.0 * 30, -86_400.0 * 30]


@pytest.mark.parametrize("jump", JUMPS)
async def test_no_order_times_out_early_or_late(tmp_path: Path, jump: float) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(10)
        world.clock.jump_wall(jump)
        await world.run(49)
        assert world.record().status is Status.SUBMITTED
        await world.run(3)
        assert world.record().status is Status.CANCELLED


@pytest.mark.parametrize("jump", JUMPS)
async def test_no_order_becomes_too_old_early_or_late(tmp_path: Path, jump: float) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = BrokerUnavailable("pause", known_pause=True)
        await world.start()
        world.send()
        await world.run(10)
        world.clock.jump_wall(jump)
        await world.run(288)
        assert world.record().status is Status.PENDING
        await world.run(3)
        assert world.record().status is Status.REJECTED


async def test_order_that_comes_after_the_clock_was_set_forward_is_not_old(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.clock.jump_wall(3600)
        world.send(age_seconds=3600)  # Pub/Sub's clock was right all the time
        await world.run(1)
        assert world.record().status is Status.FILLED


@pytest.mark.parametrize("jump", JUMPS)
async def test_early_cancel_is_remembered(tmp_path: Path, jump: float) -> None:
    async with world_of(tmp_path) as world:
        published = world.clock.now()
        world.cancel(signal_id="sig")
        await world.run(5)
        world.clock.jump_wall(jump)
        await world.run(5)
        world.send(age_seconds=(world.clock.now() - published).total_seconds() + 1)
        await world.run(1)
        assert world.record().status is Status.CANCELLED


async def test_a_clock_that_was_slow_at_the_start_does_not_keep_orders_young(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.clock.jump_wall(3600)  # now it is right
        world.send("fresh")
        await world.run(1)
        world.send("old", age_seconds=3000)
        await world.run(1)
        assert world.record("fresh").status is Status.SUBMITTED
        assert world.record("old").status is Status.REJECTED


def test_the_real_clock_goes_on_while_the_machine_sleeps() -> None:
    assert (
        abs(SystemClock().monotonic() - time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))) < 1
    )
