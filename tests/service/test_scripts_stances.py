"""execctl's stance and stances, beside a running service and without one."""

from __future__ import annotations

import argparse
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from execution_service.app.clock import SystemClock
from execution_service.core.orders.status import Status
from execution_service.storage.mongo.documents import command_from_document
from execution_service.storage.ports.commands import Command
from scripts import stances
from scripts.health import State, of_stances
from tests.fakes import BY_HAND, RESTING, World, world_of


def options(stance: str = "EMERGENCY", **fields: Any) -> argparse.Namespace:
    usual = {"word": "stance", "scope": "all", "stance": stance, "by": "ann", "reason": "the market gaps"}
    return argparse.Namespace(**usual | {"until": None, "json": True} | fields)


async def say(world: World, asked: argparse.Namespace, *, is_here: bool = False) -> int:
    async def outcome(command: Command) -> Command:
        await world.run(2)
        return command_from_document(world.documents("execution_commands", _id=command.command_id)[0])

    return await stances.set_stance(
        asked,
        store=world.store_beside(),
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


async def test_a_stance_that_is_over_already_is_refused_and_no_command_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        assert await say(world, options(until="2000-01-01T00:00:00Z")) == 1
        assert "over already" in json.loads(capsys.readouterr().out)["refused"]
        assert world.documents("execution_commands") == []
        assert of_stances(await world.store_beside().stances(), world.clock.now()) == []
