"""One call of the embedded store at a time, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from execution_service.storage.mongo.gate import Gate


class Users:
    """Those who go through a gate, and in which order they came to it."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.passed: list[str] = []
        self.inside = 0
        self.go_on = asyncio.Event()

    async def _use(self, name: str, hurries: bool) -> None:
        async with self.gate.turn(hurries=hurries):
            self.passed.append(name)
            self.inside += 1
            assert self.inside == 1
            await self.go_on.wait()
            await asyncio.sleep(0)
            self.inside -= 1

    async def come(self, name: str, *, hurries: bool = False) -> asyncio.Task[None]:
        task = asyncio.create_task(self._use(name, hurries))
        await asyncio.sleep(0)
        return task

    async def end(self, *tasks: asyncio.Task[None]) -> list[str]:
        self.go_on.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.passed


async def test_one_after_the_other_in_order() -> None:
    users = Users()
    tasks = [await users.come(name) for name in "abc"]
    assert users.passed == ["a"]
    assert await users.end(*tasks) == ["a", "b", "c"]


async def test_whoever_hurries_goes_before_those_who_came_earlier() -> None:
    users = Users()
    tasks = [await users.come(name) for name in "abc"]
    tasks.append(await users.come("hurried", hurries=True))
    assert await users.end(*tasks) == ["a", "hurried", "b", "c"]


async def test_between_two_who_hurry_one_of_the_others_has_its_turn() -> None:
    users = Users()
    tasks = [await users.come("first", hurries=True)]
    tasks += [await users.come(name, hurries=True) for name in ("second", "third")]
    tasks += [await users.come(name) for name in "ab"]
    assert await users.end(*tasks) == ["first", "a", "second", "b", "third"]


async def test_those_who_hurry_follow_each_other_where_nobody_else_waits() -> None:
    users = Users()
    tasks = [await users.come(name, hurries=True) for name in ("first", "second", "third")]
    assert await users.end(*tasks) == ["first", "second", "third"]


@pytest.mark.parametrize("hurries", [False, True])
async def test_who_gave_up_waiting_is_passed_over(hurries: bool) -> None:
    users = Users()
    tasks = [await users.come("a"), await users.come("gave up", hurries=hurries), await users.come("b")]
    tasks[1].cancel()
    await asyncio.sleep(0)
    assert await users.end(*tasks) == ["a", "b"]


@pytest.mark.parametrize("hurries", [False, True])
async def test_who_gives_up_when_the_turn_has_just_come_hands_it_on(hurries: bool) -> None:
    users = Users()
    tasks = [await users.come("a"), await users.come("gave up", hurries=hurries), await users.come("b")]
    users.go_on.set()
    while not tasks[0].done():
        await asyncio.sleep(0)
        if users.inside == 0:
            tasks[1].cancel()
    assert await users.end(*tasks) == ["a", "b"]


async def test_an_error_inside_hands_the_turn_on() -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="inside"):
        async with gate.turn():
            raise ValueError("inside")
    async with asyncio.timeout(5), gate.turn():
        pass
