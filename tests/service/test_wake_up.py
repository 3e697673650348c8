"""Whoever waits wakes by news or by the time, whichever is first, and no news is lost between two waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from execution_service.app.clock import SystemClock
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from tests.fakes import HandClock


async def begun(wait: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(wait)
    await settled()
    return task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seconds", [None, 10.0])
async def test_news_that_came_before_the_wait_ends_it_at_once_and_only_once(seconds: float | None) -> None:
    wake_up = WakeUp(HandClock())
    wake_up.tell()
    wake_up.tell()
    await wake_up.wait(seconds)
    assert not (await begun(wake_up.wait(seconds))).done()


@pytest.mark.parametrize("seconds", [None, 10.0])
async def test_news_ends_a_wait_before_its_time(seconds: float | None) -> None:
    wake_up = WakeUp(HandClock())
    waiting = await begun(wake_up.wait(seconds))
    wake_up.tell()
    await settled()
    assert waiting.done()
    assert not (await begun(wake_up.wait(seconds))).done()


async def test_without_news_a_wait_ends_at_its_time() -> None:
    clock = HandClock()
    waiting = await begun(WakeUp(clock).wait(10.0))
    clock.move(9.9)
    await settled()
    assert not waiting.done()
    clock.move(0.1)
    await settled()
    assert waiting.done()


async def test_a_time_that_has_passed_is_news_to_nobody_else() -> None:
    clock = HandClock()
    wake_up = WakeUp(clock)
    waiting = await begun(wake_up.wait(10.0))
    clock.move(10.0)
    await waiting
    assert not (await begun(wake_up.wait())).done()


@pytest.mark.parametrize("clock", [HandClock(), SystemClock()], ids=["by hand", "real"])
@pytest.mark.parametrize("seconds", [0.0, -3.0])
async def test_a_time_that_is_past_already_ends_a_wait(clock: Clock, seconds: float) -> None:
    await asyncio.wait_for(WakeUp(clock).wait(seconds), timeout=5.0)


async def test_news_that_ends_a_wait_takes_its_time_off_the_clock() -> None:
    clock = HandClock()
    wake_up = WakeUp(clock)
    waiting = await begun(wake_up.wait(10.0))
    assert clock.next_wake() is not None
    wake_up.tell()
    await waiting
    assert clock.next_wake() is None


async def test_who_is_cancelled_leaves_the_news_to_the_next_and_no_time_on_the_clock() -> None:
    clock = HandClock()
    wake_up = WakeUp(clock)
    waiting = await begun(wake_up.wait(10.0))
    wake_up.tell()
    waiting.cancel()
    await settled()
    assert waiting.cancelled()
    assert clock.next_wake() is None
    await asyncio.wait_for(wake_up.wait(), timeout=5.0)


async def test_a_wait_takes_no_task_of_its_own() -> None:
    before = len(asyncio.all_tasks())
    waiting = await begun(WakeUp(HandClock()).wait(10.0))
    assert len(asyncio.all_tasks()) == before + 1
    waiting.cancel()
