"""execctl's stance and stances, beside a running service and without one."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from execution_service.app.clock import SystemClock
from execution_service.control.requests import StanceRequest, read_request
from execution_service.control.stances import NobodyLearnsStances, StanceWriter
from execution_service.core.orders.status import Status
from execution_service.runtime.threads import InPlace
from execution_service.storage.mongo.documents import command_from_document
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.commands import Command
from scripts import stances
from scripts.health import State, of_stances
from tests.builders import NOW
from tests.fakes import BY_HAND, DATABASE, RESTING, Moment, World, world_of
from tests.fakes.process import Died, Gate
from tests.fakes.store import FakeMongoClient, StoreFaults


def options(stance: str = "EMERGENCY", **fields: Any) -> argparse.Namespace:
    usual = {"word": "stance", "scope": "all", "stance": stance, "by": "ann", "reason": "the market gaps"}
    return argparse.Namespace(**usual | {"until": None, "json": True} | fields)


async def say(
    world: World, asked: argparse.Namespace, *, is_here: bool = False, store: MongoStore | None = None
) -> int:
    async def outcome(command: Command) -> Command:
        await world.run(2)
        return command_from_document(world.documents("execution_commands", _id=command.command_id)[0])

    return await stances.set_stance(
        asked,
        store=store or world.store_beside(),
        console=Console(file=StringIO()),
        is_waited_for=is_here,
        outcome=outcome,
    )


async def test_a_stance_that_is_set_while_no_service_runs_counts_in_the_next_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        world.send("working")
        await world.run(1)
        await world.kill()
        assert await say(world, options()) == 0
        assert json.loads(capsys.readouterr().out)["is_carried_out"] is False
        world.send("waits")
        await world.start()
        await world.run(3)
        assert world.record("working").status is Status.CANCELLED
        assert world.record("waits").status is Status.REJECTED
        assert len(world.notifier.titled("Stance EMERGENCY")) == 1


async def test_beside_a_running_service_the_answer_counts_the_cancels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        world.send("working")
        await world.run(1)
        assert await say(world, options(), is_here=True) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["stance"], told["cancels_asked"], told["is_carried_out"]) == ("EMERGENCY", 1, True)
        kept, now = await world.store_beside().stances(), world.clock.now()
        assert [(part.name, part.state) for part in of_stances(kept, now)] == [("stance", State.LOOK)]
        stances.warn(kept)
        assert "EMERGENCY: all, set by ann" in capsys.readouterr().err
        out = StringIO()
        stances.show(argparse.Namespace(json=False), kept, Console(file=out, width=200))
        assert "the market gaps" in out.getvalue()


async def set_and_die(folder: Path, dies_at: tuple[int, Moment] | None) -> tuple[int, bool]:
    """An EMERGENCY that a program sets and dies there, while no service runs: how many writes that takes, and whether the service's next life has
    the stance."""
    async with world_of(folder, market=BY_HAND, rules=RESTING) as world:
        world.send("working")
        await world.run(1)
        await world.kill()
        gate = Gate()
        gate.dies_at = dies_at
        client: Any = FakeMongoClient(world.mongo, gate, StoreFaults())
        store = MongoStore(client, DATABASE, nonce="program", clock=world.clock, threads=InPlace())
        with suppress(Died):
            await say(world, options(), store=store)
        assert gate.is_dead is (dies_at is not None)
        await world.start()
        await world.run(3)
        records = (await world.store_beside().stances()).records
        is_set = [record.latest.stance.value for record in records] == ["EMERGENCY"]
        assert (world.record("working").status is Status.CANCELLED) is is_set
        assert len(world.notifier.titled("Stance EMERGENCY")) == int(is_set)
        return len(gate.names), is_set


async def test_an_emergency_that_is_begun_is_whole_wherever_the_program_that_sets_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever works next takes it up, and cancels; or nothing of it was begun."""
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)

    def place(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return folder

    writes, _ = await set_and_die(place("whole"), None)
    assert writes >= 3
    found = [
        (await set_and_die(place(f"{number}-{moment}"), (number, moment)))[1]
        for number in range(1, writes + 1)
        for moment in (Moment.BEFORE, Moment.AFTER)
    ]
    assert found == [False, *[True] * (2 * writes - 1)]


async def test_a_wish_that_somebody_overtakes_leaves_its_command_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said later came between the look and the write."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        await world.kill()
        store = world.store_beside()
        later = StanceWriter(store=world.store_beside(), learner=NobodyLearnsStances(), clock=world.clock)
        insert = store.insert_command

        async def overtaken(command: Command) -> bool:
            asked = read_request(replace(command, command_id="c-later"))
            assert isinstance(asked, StanceRequest)
            await later.set(replace(asked, asked_at=asked.asked_at + timedelta(seconds=1)))
            return await insert(command)

        monkeypatch.setattr(store, "insert_command", overtaken)
        assert await say(world, options("URGENT"), store=store) == 1
        assert "after this was asked for" in json.loads(capsys.readouterr().out)["refused"]
        await world.start()
        await world.run(2)
        (command,) = world.documents("execution_commands")
        assert command["status"] == "REFUSED"
        (kept,) = (await world.store_beside().stances()).records
        assert kept.version == 1


async def test_a_stance_that_is_over_already_is_refused_and_no_command_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        assert await say(world, options(until="2000-01-01T00:00:00Z")) == 1
        assert "over already" in json.loads(capsys.readouterr().out)["refused"]
        assert world.documents("execution_commands") == []
        assert of_stances(await world.store_beside().stances(), world.clock.now()) == []
