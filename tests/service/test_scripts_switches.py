"""execctl's kill, arm and switches, beside a running service and without one."""

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
from execution_service.storage.mongo.documents import command_from_document, kept_switch_from_document
from execution_service.storage.ports.commands import Command
from scripts import switches
from scripts.health import of_kill_switches
from tests.fakes import BY_HAND, World, world_of

SWITCHES = "execution_kill_switches"


def options(word: str, **fields: Any) -> argparse.Namespace:
    usual = {"word": word, "scope": "all", "reason": "runaway", "json": True}
    if word == "kill":
        usual |= {"level": "reduce_only", "cancel_entries": False, "by": "ann"}
    if word == "arm":
        usual |= {"person": "bob", "nonce": None}
    return argparse.Namespace(**usual | fields)


async def kill(world: World, *, is_here: bool = False, **fields: Any) -> int:
    async def outcome(command: Command) -> Command:
        await world.run(2)
        return command_from_document(world.documents("execution_commands", _id=command.command_id)[0])

    return await switches.kill(
        options("kill", **fields),
        store=world.store_beside(),
        console=Console(file=StringIO()),
        is_here=is_here,
        may_be_elsewhere=False,
        outcome=outcome,
    )


async def arm(world: World, **fields: Any) -> int:
    return await switches.arm(options("arm", **fields), store=world.store_beside(), console=Console(file=StringIO()))


async def test_a_kill_while_no_service_runs_stops_the_next_life_before_anything_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        await world.kill()
        world.send("waits")
        assert await kill(world) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["scope"], told["level"], told["is_carried_out"]) == ("all", "reduce_only", True)
        (command,) = world.documents("execution_commands")
        assert command["status"] == "DONE"
        await world.start()
        await world.run(2)
        assert world.record("waits").status is Status.REJECTED
        assert not world.placed()
        assert len(world.notifier.titled("Kill Switch Engaged")) == 1


async def test_beside_a_service_it_is_engaged_by_execctl_and_counted_and_cancelled_by_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        world.send("rests", order_type="LIMIT", limit_price=9)
        await world.run(1)
        assert await kill(world, is_here=True, cancel_entries=True) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["working_entries"], told["cancels_asked"], told["cancels_confirmed"]) == (1, 1, 1)
        assert len(world.documents(SWITCHES)[0]["history"]) == 1
        assert world.record("rests").status is Status.CANCELLED


async def test_both_steps_of_arming_and_what_is_shown_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        monkeypatch.setattr(SystemClock, "now", lambda self: world.clock.now())
        await kill(world)
        capsys.readouterr()
        assert await arm(world) == 0
        nonce = json.loads(capsys.readouterr().out)["nonce"]
        kept = [kept_switch_from_document(d) for d in world.documents(SWITCHES)]
        (row,) = of_kill_switches(kept)
        assert "ENGAGED: all" in row.detail
        switches.warn(kept)
        assert "KILL SWITCH ENGAGED" in capsys.readouterr().err
        switches.show(options("switches"), kept, Console(file=StringIO()))
        shown = capsys.readouterr().out
        assert nonce not in shown
        assert json.loads(shown)[0]["arming"]["person"] == "bob"
        assert await arm(world, nonce=nonce) == switches.EXIT_FAILED  # too early
        await world.run(61)
        assert await arm(world, nonce=nonce, person="eve") == switches.EXIT_FAILED
        capsys.readouterr()
        assert await arm(world, nonce=nonce) == 0
        assert json.loads(capsys.readouterr().out)["level"] is None
        await world.run(2)
        world.send("free")
        await world.run(1)
        assert world.placed()
        assert of_kill_switches([kept_switch_from_document(d) for d in world.documents(SWITCHES)]) == []


async def test_what_is_no_scope_is_refused_and_nothing_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world_of(tmp_path) as world:
        assert await kill(world, scope="everything") == switches.EXIT_FAILED
        assert "no scope" in json.loads(capsys.readouterr().out)["refused"]
        assert not world.documents(SWITCHES)
        assert not world.documents("execution_commands")
