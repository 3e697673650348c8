"""The process dies at each write of a kill, of both steps of arming, of a flattening and of an override: state and audit agree, and killed wins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from execution_service.control.requests import Kind
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.risk.kill import KillLevel
from execution_service.core.risk.switch_record import SwitchRecord, record_from_document
from execution_service.storage.ports.commands import Command
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, RESTING, Moment, World, world_of
from tests.service.audit import audit
from tests.service.test_kill_switches import LIMIT, SWITCHES, answer, give, hold, kill
from tests.service.test_kill_switches import switch as switch_document

SMALL = written(max_order_quantity=100)


async def leave(world: World, kind: Kind, command_id: str, **body: Any) -> None:
    """As execctl and other processes do: stored, for whoever carries it out."""
    now = world.clock.now()
    fields = {"scope": "all", "reason": "looked at it", "by": "ann", "person": "bob"} | body
    command = Command(command_id=command_id, kind=kind, body=fields, published_at=now, received_at=now)
    assert await world.store_beside().insert_command(command)


def record(world: World) -> SwitchRecord:
    return record_from_document(switch_document(world))


def deeds(world: World) -> list[str]:
    return [change.deed.value for change in record(world).history]


def is_told_once(world: World, alert_id: str, title: str) -> bool:
    """One alert; its message may come twice, where the process died as it was sent."""
    return len(world.documents("execution_alerts", _id=alert_id)) == 1 and bool(world.notifier.titled(title))


# --- what is begun, and what must be so afterwards ------------------------------------------------------------------


async def _resting(world: World) -> None:
    world.send("rests", **LIMIT)
    await world.run(2)


async def _kill(world: World) -> None:
    kill(world, cancel_entries=True)


async def _is_killed(world: World) -> None:
    assert record(world).switch.is_engaged
    assert deeds(world) == ["engaged"]
    assert world.record("rests").status is Status.CANCELLED
    world.send("late", symbol="MSFT")
    await world.run(2)
    assert world.record("late").status is Status.REJECTED


async def _killed_for_a_minute(world: World) -> None:
    await give(world, Kind.KILL, "kill-1", by="ann")
    await world.run(61)


async def _ask_to_arm(world: World) -> None:
    await leave(world, Kind.ARM, "arm-1")


async def _is_asked_once(world: World) -> None:
    assert deeds(world) == ["engaged", "arming_asked"]
    assert record(world).switch.is_engaged, "the first step arms nothing"
    told = await world.store_beside().command("arm-1")
    assert told is not None
    arming = record(world).switch.arming
    assert arming is not None
    assert arming.nonce in told.outcome


async def _asked_to_arm(world: World) -> None:
    await _killed_for_a_minute(world)
    world.nonce = answer(await give(world, Kind.ARM, "arm-1", person="bob"))["nonce"]  # type: ignore[attr-defined]
    await world.run(1)


async def _arm(world: World) -> None:
    await leave(world, Kind.ARM, "arm-2", nonce=world.nonce)  # type: ignore[attr-defined]


async def _is_armed_by_one_change(world: World) -> None:
    assert deeds(world) == ["engaged", "arming_asked", "armed"]
    assert record(world).history[-1].level is record(world).switch.level is None
    world.send("after")
    await world.run(2)
    assert world.record("after").status is Status.SUBMITTED


async def _arm_while_somebody_kills(world: World) -> None:
    await _arm(world)
    await leave(world, Kind.KILL, "kill-2", level="halt")


async def _killed_has_won(world: World) -> None:
    assert record(world).switch.level is KillLevel.HALT
    assert record(world).history[-1].level is KillLevel.HALT
    assert [change.command_id for change in record(world).history].count("kill-2") == 1
    world.send("after")
    await world.run(2)
    assert world.record("after").status is Status.REJECTED


async def _holding(world: World) -> None:
    await hold(world)


async def _flatten(world: World) -> None:
    await leave(world, Kind.FLATTEN, "flatten-1")


async def _is_flattened_once(world: World) -> None:
    exits = [order for order in world.records() if order.identity.purpose is Purpose.EXIT]
    assert [(order.status, order.quantity) for order in exits] == [(Status.SUBMITTED, 100)]
    assert is_told_once(world, "flatten:flatten-1", "Flatten Ordered")
    world.fill(exits[0].signal_id, purpose=Purpose.EXIT)
    await world.run(2)
    assert not [d for d in world.documents("execution_positions") if d["is_open"]]


async def _refused(world: World) -> None:
    world.send("big", quantity=101)
    await world.run(2)
    assert world.record("big").status is Status.REJECTED


async def _allow(world: World) -> None:
    await leave(world, Kind.ALLOW, "allow-1", order_id="big")


async def _is_allowed_once(world: World) -> None:
    for name in ("again", "third"):
        world.send(name, quantity=101)
        await world.run(2)
    assert [world.record(name).status for name in ("again", "third")] == [Status.SUBMITTED, Status.REJECTED]
    assert is_told_once(world, "risk-allowed:allow-1", "Order Allowed Past Its Limits")


@dataclass(frozen=True)
class Deed:
    """A verb: what is there before, how it is asked for, and what must be so whatever died in between."""

    prepare: Callable[[World], Awaitable[None]]
    ask: Callable[[World], Awaitable[None]]
    check: Callable[[World], Awaitable[None]]


DEEDS = {
    "kill": Deed(_resting, _kill, _is_killed),
    "first step of arming": Deed(_killed_for_a_minute, _ask_to_arm, _is_asked_once),
    "second step of arming": Deed(_asked_to_arm, _arm, _is_armed_by_one_change),
    "arming while somebody kills": Deed(_asked_to_arm, _arm_while_somebody_kills, _killed_has_won),
    "flatten": Deed(_holding, _flatten, _is_flattened_once),
    "override": Deed(_refused, _allow, _is_allowed_once),
}


async def play(folder: Path, deed: Deed, dies_at: tuple[int, Moment] | None) -> tuple[int, list[str]]:
    """Returns how many writes there were before, and those of the deed."""
    async with world_of(folder, market=BY_HAND, rules=RESTING, limits=SMALL) as world:
        await deed.prepare(world)
        before = len(world.gate.names)
        world.gate.dies_at = dies_at
        await deed.ask(world)
        await world.run(4)
        names = world.gate.names[before:]
        if dies_at is not None:
            assert world.gate.is_dead
            await world.restart()
        await world.run(6)
        await deed.check(world)
        await world.run(3)
        audit(world)
        return before, names


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", DEEDS)
async def test_a_death_at_any_write_leaves_what_was_asked_for_done_once(tmp_path: Path, name: str) -> None:
    deed = DEEDS[name]
    before, names = await play(made(tmp_path / "rehearsal"), deed, None)
    assert any(each.startswith((SWITCHES, "execution_orders", "execution_risk")) for each in names), names
    firsts = sorted({each: number for number, each in reversed(list(enumerate(names, before + 1)))}.values())
    for number in firsts:
        for moment in (Moment.BEFORE, Moment.AFTER):
            await play(made(tmp_path / f"{number}-{moment}"), deed, (number, moment))
