"""The key by which a system around us kills: what it engages, what it never does, and what is said while it cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pymongo.errors import AutoReconnect

from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import BY_HAND, RESTING, Moment, World, two_worlds, world_of
from tests.fakes.keys import FakeKey

SWITCHES = "execution_kill_switches"


def history(world: World) -> list[dict[str, Any]]:
    """Of the switch of all; none: it was never touched."""
    return [change for document in world.documents(SWITCHES, _id="all") for change in document["history"]]


def deeds(world: World) -> list[str]:
    return [change["deed"] for change in history(world)]


async def arm(world: World) -> None:
    """A person arms the switch of all, by both steps."""
    wish = {"command": "ARM", "scope": "all", "person": "Ann", "reason": "looked at it"}
    first = world.commands.publish(json.dumps(wish).encode(), world.clock.now())
    await world.run(1)
    (command,) = world.documents("execution_commands", _id=f"msg-{first}")
    nonce = json.loads(command["outcome"])["nonce"]
    await world.run(61)
    world.commands.publish(json.dumps(wish | {"nonce": nonce}).encode(), world.clock.now())
    await world.run(1)
    assert deeds(world)[-1] == "armed"


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def said(world: World, words: str) -> int:
    return sum(words in text for text in world.notifier.texts)


async def test_the_key_engages_the_switch_by_a_command_with_audit_and_alert(tmp_path: Path) -> None:
    key = FakeKey()
    async with world_of(tmp_path, kill_key=key) as world:
        world.send("before")
        await world.run(2)
        key.text = "1"
        await world.run(2)
        world.send("after")
        await world.run(2)
        assert world.record("before").status is Status.FILLED
        assert world.record("after").reason.code is ReasonCode.KILL_SWITCH  # type: ignore[union-attr]
        (change,) = history(world)
        assert (change["deed"], change["level"], change["by"]) == ("engaged", "reduce_only", "quantum:kill in Redis")
        (command,) = world.documents("execution_commands", _id=change["command_id"])
        assert (command["kind"], command["status"]) == ("KILL", "DONE")
        assert said(world, "Kill Switch Engaged") == 1


async def test_a_stop_from_before_the_start_counts_before_an_order_leaves(tmp_path: Path) -> None:
    async with world_of(tmp_path, kill_key=FakeKey("1"), starts=False) as world:
        world.send("waited")
        await world.start()
        await world.run(3)
        assert world.record("waited").reason.code is ReasonCode.KILL_SWITCH  # type: ignore[union-attr]
        assert not world.placed()


async def test_a_key_that_is_cleared_or_flushed_arms_nothing(tmp_path: Path) -> None:
    key = FakeKey("1")
    async with world_of(tmp_path, kill_key=key) as world:
        await world.run(2)
        for text in ("0", None):
            key.text = text
            await world.run(3)
        world.send("after")
        await world.run(2)
        assert world.record("after").status is Status.REJECTED
        assert deeds(world) == ["engaged"]


async def test_a_stop_that_is_read_again_and_again_engages_once_and_never_undoes_a_persons_arming(
    tmp_path: Path,
) -> None:
    key = FakeKey("1")
    async with world_of(tmp_path, kill_key=key) as world:
        await world.run(30)
        await arm(world)
        await world.run(30)
        key.is_away = True
        await world.run(30)
        key.is_away = False
        await world.run(5)
        await world.restart()
        await world.run(10)
        assert deeds(world) == ["engaged", "arming_asked", "armed"]
        assert said(world, "Kill Key Still Says Stop") == 1, "the disagreement is told, once for each start"
        world.send("after")
        await world.run(2)
        assert world.record("after").status is Status.FILLED


async def test_the_next_stop_engages_again(tmp_path: Path) -> None:
    key = FakeKey("1")
    async with world_of(tmp_path, kill_key=key) as world:
        await world.run(2)
        await arm(world)
        for text in ("0", "1"):
            key.text = text
            await world.run(2)
        assert deeds(world) == ["engaged", "arming_asked", "armed", "engaged"]


async def test_a_stop_after_a_restart_that_missed_nothing_but_the_clearing_engages_again(tmp_path: Path) -> None:
    key = FakeKey("1")
    async with world_of(tmp_path, kill_key=key) as world:
        await world.run(2)
        await arm(world)
        key.text = None
        await world.run(2)
        await world.kill()
        key.text = "1"
        await world.start()
        await world.run(2)
        assert deeds(world)[-1] == "engaged"


async def test_two_processes_that_see_a_stop_in_the_same_second_give_one_command(tmp_path: Path) -> None:
    key = FakeKey()
    async with two_worlds(tmp_path, kill_key=key) as (one, other):
        await other.start()
        await one.run(3)
        key.text = "1"
        await one.run(3)
        assert deeds(one) == ["engaged"]
        assert len(one.documents("execution_commands", kind="KILL")) == 1


async def test_while_it_cannot_be_read_new_risk_waits_exits_leave_and_both_ends_are_said_once(tmp_path: Path) -> None:
    key = FakeKey()
    async with world_of(tmp_path, kill_key=key, market=BY_HAND, rules=RESTING) as world:
        world.send("entry")
        await world.run(2)
        world.fill("entry")
        await world.run(2)
        key.is_away = True
        await world.run(6)
        world.send("waits", symbol="MSFT")
        world.exit("out", "entry", quantity=40)
        await world.run(30)
        assert world.record("waits").status is Status.PENDING
        assert world.exit_record("out").status is Status.SUBMITTED
        assert not history(world), "nothing is guessed"
        assert said(world, "Kill Key Not Known") == 1
        assert world.service.kill_key is not None
        assert world.service.kill_key.silent_seconds() > 30
        key.is_away = False
        await world.run(5)
        assert world.record("waits").status is Status.SUBMITTED
        assert (said(world, "Kill Key Not Known"), said(world, "Kill Key Known Again")) == (1, 1)
        assert world.service.kill_key.silent_seconds() == 0


async def test_a_short_pause_of_the_server_holds_up_nothing_and_is_no_news(tmp_path: Path) -> None:
    key = FakeKey()
    async with world_of(tmp_path, kill_key=key) as world:
        await world.run(2)
        key.is_away = True
        await world.run(3)
        world.send("goes")
        await world.run(1)
        assert world.record("goes").status is Status.FILLED
        key.is_away = False
        await world.run(30)
        assert not said(world, "Kill Key")


async def test_a_stop_that_cannot_be_stored_yet_lets_no_new_risk_pass_and_is_engaged_when_it_can(
    tmp_path: Path,
) -> None:
    key = FakeKey()
    async with world_of(tmp_path, kill_key=key) as world:
        await world.run(2)
        broken = world.store_faults.breaks["execution_bookmarks.find_one"] = [
            AutoReconnect("not for you") for _ in range(200)
        ]
        key.text = "1"
        await world.run(6)
        world.send("waits")
        await world.run(2)
        assert world.record("waits").status is Status.PENDING
        broken.clear()
        await world.run(4)
        assert deeds(world) == ["engaged"]
        assert world.record("waits").reason.code is ReasonCode.KILL_SWITCH  # type: ignore[union-attr]


async def test_a_death_at_any_write_of_it_ends_killed_by_one_change(tmp_path: Path) -> None:
    async def stop(folder: Path, dies_at: tuple[int, Moment] | None) -> tuple[int, list[str]]:
        """How many writes there were before the stop, and those of it."""
        key = FakeKey()
        async with world_of(folder, kill_key=key) as world:
            await world.run(2)
            before = len(world.gate.names)
            world.gate.dies_at = dies_at
            key.text = "1"
            await world.run(2)
            names = world.gate.names[before:]
            if dies_at is not None:
                assert world.gate.is_dead
                await world.restart()
                await world.run(3)
            assert deeds(world) == ["engaged"]
            assert said(world, "Kill Switch Engaged") == 1
            assert not said(world, "Still Says Stop")
            return before, names

    before, names = await stop(made(tmp_path / "rehearsal"), None)
    assert {"execution_bookmarks.update_one", f"{SWITCHES}.insert_one"} <= set(names)
    until_stored = names.index(f"{SWITCHES}.insert_one") + 4
    for number in range(before + 1, before + 1 + min(until_stored, len(names))):
        for moment in (Moment.BEFORE, Moment.AFTER):
            await stop(made(tmp_path / f"{number}-{moment}"), (number, moment))
