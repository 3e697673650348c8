"""Heartbeats: from outside, whose silence stops new risk, and ours, which a watcher outside misses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from execution_service.app.heartbeat import Heartbeat
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.storage.ports.tokens import Role
from execution_service.transport.heartbeat_http import HeartbeatNotTaken, HeartbeatOverHttp
from tests.fakes import Moment, World, two_worlds, world_of
from tests.fakes.clock import HandClock
from tests.service.http_calls import api_of, client_of, http_world, make_token
from tests.service.test_kill_key import arm, deeds, made, said

PATH = "/api/execution/heartbeat"
SWITCHES = "execution_kill_switches"


async def beat(world: World) -> None:
    assert world.service.dead_man is not None
    await world.service.dead_man.beat()


# --- from outside ---------------------------------------------------------------------------------------------------


async def test_a_silence_stops_new_risk_by_a_command_with_audit_and_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path, dead_man_seconds=30) as world:
        for _ in range(10):
            await world.run(20)
            await beat(world)
        world.send("before")
        await world.run(28)
        assert world.record("before").status is Status.FILLED
        assert deeds(world) == []
        await world.run(4)
        world.send("after")
        await world.run(2)
        assert world.record("after").reason.code is ReasonCode.KILL_SWITCH  # type: ignore[union-attr]
        (switch,) = world.documents(SWITCHES, _id="all")
        (change,) = switch["history"]
        assert (change["deed"], change["level"], change["by"]) == ("engaged", "reduce_only", "the dead man's switch")
        assert (said(world, "Heartbeat Missed"), said(world, "Kill Switch Engaged")) == (1, 1)


async def test_one_silence_engages_once_and_what_a_person_arms_during_it_stays_armed(tmp_path: Path) -> None:
    async with world_of(tmp_path, dead_man_seconds=30) as world:
        await world.run(40)
        await arm(world)
        await world.run(300)
        await world.restart()
        await world.run(100)
        assert deeds(world) == ["engaged", "arming_asked", "armed"]
        assert said(world, "Heartbeat Still Missed") == 1


async def test_the_next_silence_engages_again_and_a_heartbeat_arms_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, dead_man_seconds=90) as world:
        await world.run(100)
        await beat(world)
        await world.run(5)
        assert deeds(world) == ["engaged"]
        assert said(world, "Heartbeat Again") == 1
        await arm(world)
        await beat(world)
        await world.run(100)
        assert deeds(world) == ["engaged", "arming_asked", "armed", "engaged"]


async def test_a_heartbeat_that_one_process_took_counts_for_all_and_a_silence_is_one_command(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, dead_man_seconds=30) as (one, other):
        await other.start()
        for _ in range(5):
            await one.run(25)
            await beat(other)
        assert deeds(one) == []
        await one.run(40)
        assert deeds(one) == ["engaged"]
        assert len(one.documents("execution_commands", kind="KILL")) == 1
        assert said(one, "Heartbeat Missed") == 1


async def test_what_could_not_be_seen_while_the_store_was_away_is_held_against_nobody(tmp_path: Path) -> None:
    async with world_of(tmp_path, dead_man_seconds=30) as world:
        await beat(world)
        await world.run(20)
        broken = world.store_faults.breaks["execution_bookmarks.find_one"] = [
            AutoReconnect("not for you") for _ in range(500)
        ]
        await world.run(60)
        broken.clear()
        await world.run(28)
        assert deeds(world) == []
        await world.run(10)
        assert deeds(world) == ["engaged"]


async def test_a_jump_of_the_wall_clock_is_no_silence(tmp_path: Path) -> None:
    async with world_of(tmp_path, dead_man_seconds=30) as world:
        await beat(world)
        await world.run(5)
        world.clock.jump_wall(86_400)
        await world.run(10)
        assert deeds(world) == []


async def test_a_death_at_any_write_of_a_missed_heartbeat_ends_killed_by_one_change(tmp_path: Path) -> None:
    async def miss(folder: Path, dies_at: tuple[int, Moment] | None) -> tuple[int, list[str]]:
        async with world_of(folder, dead_man_seconds=30) as world:
            await world.run(25)
            before = len(world.gate.names)
            world.gate.dies_at = dies_at
            await world.run(8)
            names = world.gate.names[before:]
            if dies_at is not None:
                assert world.gate.is_dead
                await world.restart()
                await world.run(35)
            assert deeds(world) == ["engaged"]
            return before, names

    before, names = await miss(made(tmp_path / "rehearsal"), None)
    until_stored = names.index(f"{SWITCHES}.insert_one") + 4
    for number in range(before + 1, before + 1 + min(until_stored, len(names))):
        for moment in (Moment.BEFORE, Moment.AFTER):
            await miss(made(tmp_path / f"{number}-{moment}"), (number, moment))


async def test_it_is_told_over_http_and_needs_an_operators_token_where_there_is_any(tmp_path: Path) -> None:
    async with http_world(tmp_path, dead_man_seconds=30) as (world, http):
        for _ in range(4):
            await world.run(20)
            response = await http.post(PATH, json={})
            assert (response.status_code, response.json()["dead_man_seconds"]) == (200, 30)
        assert deeds(world) == []
        for role, status in ((Role.VIEWER, 403), (Role.OPERATOR, 200)):
            _, text = await make_token(world, role)
            async with client_of(api_of(world), token=text) as other:
                assert (await other.post(PATH, json={})).status_code == status


async def test_who_sends_them_learns_that_nobody_counts_them_or_that_one_may_not_count(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        response = await http.post(PATH, json={})
        assert response.status_code == 409
        assert "DEAD_MAN_SECONDS" in response.json()["detail"]


async def test_a_heartbeat_that_cannot_be_stored_is_not_answered_as_one_that_counts(tmp_path: Path) -> None:
    async with http_world(tmp_path, dead_man_seconds=30) as (world, http):
        world.store_faults.refused.add("execution_bookmarks")
        asking = asyncio.create_task(http.post(PATH, json={}))
        await world.run(60)
        assert (await asking).status_code in (500, 503)


# --- to outside -----------------------------------------------------------------------------------------------------


class Watcher:
    def __init__(self) -> None:
        self.heard: list[Mapping[str, object]] = []
        self.is_away = False

    async def send(self, body: Mapping[str, object]) -> None:
        if self.is_away:
            raise HeartbeatNotTaken("it cannot be reached (ConnectError)")
        self.heard.append(body)


class Stood:
    mode, version = "PAPER", "1"

    def __init__(self) -> None:
        self.is_down = False

    def status(self) -> str:
        return "DOWN" if self.is_down else "OK"


async def let(clock: HandClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.move(1.0)
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_watcher_hears_that_we_live_while_orders_could_be_stored() -> None:
    clock, watcher, stood = HandClock(), Watcher(), Stood()
    heartbeat = Heartbeat(wire=watcher, standing=stood, seconds=10, clock=clock)
    running = asyncio.create_task(heartbeat.run())
    await let(clock, 25)
    assert len(watcher.heard) == 3
    assert watcher.heard[0]["service"] == "execution"
    stood.is_down = True
    await let(clock, 60)
    assert len(watcher.heard) == 3, "then it is to notice"
    stood.is_down, watcher.is_away = False, True
    await let(clock, 20)
    assert heartbeat.connectivity.silent_seconds() > 0
    watcher.is_away = False
    await let(clock, 10)
    assert heartbeat.connectivity.silent_seconds() == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Answering:
    """A server on loopback that answers every call alike; None: never."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.asked = b""

    async def __aenter__(self) -> Answering:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/secret-path"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = await reader.read(4096)
        if self._answer is None:
            await asyncio.Event().wait()
        writer.write(self._answer or b"")
        writer.close()

    async def __aexit__(self, *_: Any) -> None:
        self._server.close()


def http(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def test_a_heartbeat_is_one_post_to_the_watchers_address() -> None:
    async with Answering(http("204 No Content")) as server:
        wire = HeartbeatOverHttp(server.url)
        await wire.send({"service": "execution"})
        await wire.close()
        assert server.asked.startswith(b"POST /secret-path HTTP/1.1")


@pytest.mark.parametrize("answer", [http("500 No"), http("302 Found"), b"nonsense\r\n\r\n", None])
async def test_whatever_else_a_watcher_answers_is_a_heartbeat_not_taken_and_names_no_address(
    answer: bytes | None,
) -> None:
    async with Answering(answer) as server:
        wire = HeartbeatOverHttp(server.url, answer_seconds=0.3)
        with pytest.raises(HeartbeatNotTaken) as caught:
            await wire.send({})
        await wire.close()
        assert "secret" not in str(caught.value)
