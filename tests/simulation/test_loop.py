"""The simulated loop: time that moves by itself, a sequence that the seed decides, and asyncio's own promises kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.builders import NOW, at
from tests.simulation.loop import LoopClock, NothingLeft, SimulatedLoop, Spins, run


def play(work: Callable[[], Coroutine[Any, Any, Any]], seed: int = 0, **kwargs: Any) -> Any:
    return run(SimulatedLoop(random.Random(seed), **kwargs), work())


def test_an_hour_passes_at_once_and_exactly() -> None:
    async def wait() -> float:
        await asyncio.sleep(3600.0)
        return asyncio.get_running_loop().time()

    assert play(wait) == 3600.0


def test_a_timeout_is_by_the_same_time() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    with pytest.raises(NothingLeft):  # but for the timer nobody would ever be woken
        play(lambda: asyncio.Event().wait())
    assert play(wait) == 30.0


async def woken_in_sequence(count: int = 6) -> list[int]:
    """Tasks that all wake at the same moment."""
    seen: list[int] = []
    bell = asyncio.Event()

    async def work(number: int) -> None:
        await bell.wait()
        seen.append(number)

    asyncio.get_running_loop().call_later(1.0, bell.set)
    await asyncio.gather(*(work(number) for number in range(count)))
    return seen


def test_tasks_that_wake_at_one_moment_run_in_a_sequence_of_the_seed() -> None:
    sequences = {tuple(play(woken_in_sequence, seed)) for seed in range(20)}
    assert len(sequences) > 10
    assert play(woken_in_sequence, 3) == play(woken_in_sequence, 3)


def test_without_shuffling_they_run_as_asyncio_runs_them() -> None:
    assert play(woken_in_sequence, shuffles=0.0) == list(range(6))


@pytest.mark.parametrize("seed", range(10))
def test_plain_callbacks_keep_their_sequence(seed: int) -> None:
    async def call() -> list[int]:
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(8):
            loop.call_soon(seen.append, number)
        await asyncio.sleep(0.1)
        return seen

    assert play(call, seed, passes_over=0.5) == list(range(8))


@pytest.mark.parametrize("seed", range(10))
def test_what_asyncio_promises_holds_when_tasks_are_passed_over(seed: int) -> None:
    """A queue gives in the sequence in which it was filled, a lock lets in one at a time, a group waits for all."""

    async def work() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        lock, inside, got = asyncio.Lock(), [0], []

        async def put() -> None:
            for number in range(10):
                await queue.put(number)

        async def enter() -> None:
            async with lock:
                inside[0] += 1
                assert inside[0] == 1
                await asyncio.sleep(0.01)
                inside[0] -= 1

        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            for _ in range(5):
                group.create_task(enter())
            for _ in range(10):
                got.append(await queue.get())
        return got

    assert play(work, seed, passes_over=0.5) == list(range(10))


def test_who_is_busy_for_ever_without_waiting_is_found() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)  # as a part that has gone wrong does

    with pytest.raises(Spins):
        play(spin)


def test_a_set_of_tasks_is_walked_through_in_the_sequence_of_their_making() -> None:
    async def numbers() -> list[int]:
        tasks = {asyncio.ensure_future(asyncio.sleep(0)) for _ in range(5)}
        await asyncio.gather(*tasks)
        return [hash(task) for task in tasks]

    found = play(numbers)
    assert found == sorted(found)


def test_the_clock_is_the_loops() -> None:
    loop = SimulatedLoop(random.Random(0))
    clock = LoopClock(loop)

    async def wait() -> tuple[Any, ...]:
        before = clock.monotonic()
        await clock.sleep(2.5)
        return clock.now(), clock.monotonic() - before

    assert clock.now() == NOW
    assert run(loop, wait()) == (at(2.5), 2.5)
