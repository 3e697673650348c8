"""Who may follow a holder at once: after a death that is proven, and never after anything less; the world around is faked, processes too."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from execution_service.core.orders.status import Status
from execution_service.ownership.ownership import UNASSIGNED
from execution_service.storage.ports.leases import ProcessIdentity
from tests.fakes import ACCOUNT, BY_HAND, World, world_of
from tests.service.audit import audit

TERM_SECONDS = 8.0
RENEWAL_SECONDS = TERM_SECONDS / 4
AT_ONCE_SECONDS = 0.1


class Machine:
    """The processes of one machine, as they see each other."""

    def __init__(self) -> None:
        self.dead: set[ProcessIdentity] = set()
        self._started = 0

    def starts(self, pid: int = 7) -> Process:
        self._started += 1
        identity = ProcessIdentity(
            boot_id="boot-1",
            pid_namespace="pid:[4026531836]",
            time_namespace="",
            pid=pid,
            start_ticks=self._started,
        )
        return Process(identity, self)


@dataclasses.dataclass(frozen=True)
class Process:
    own: ProcessIdentity | None
    machine: Machine

    def is_gone(self, process: ProcessIdentity) -> bool:
        return process in self.machine.dead

    def dies(self) -> None:
        assert self.own is not None
        self.machine.dead.add(self.own)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
async def one(tmp_path: Path, machine: Machine) -> AsyncIterator[World]:
    async with world_of(tmp_path, lease_seconds=TERM_SECONDS, processes=machine.starts()) as world:
        yield world


@pytest.fixture
async def other(tmp_path: Path, machine: Machine, one: World) -> AsyncIterator[World]:
    """A second process of the same machine, not started."""
    world = World(tmp_path, lease_seconds=TERM_SECONDS, processes=machine.starts(8), beside=one)
    world.logs = one.logs
    try:
        yield world
    finally:
        await world.close()


async def dies(world: World) -> None:
    await world.kill()
    assert isinstance(world.processes, Process)
    world.processes.dies()


def holds(world: World) -> bool:
    ownership = world.service.ownership
    return ownership.holds(ACCOUNT) and ownership.holds(UNASSIGNED)


def epoch(world: World) -> int:
    (lease,) = world.documents("execution_leases", _id=ACCOUNT)
    return int(lease["epoch"])


async def test_a_service_that_is_started_again_after_its_death_trades_at_once(machine: Machine, one: World) -> None:
    await dies(one)
    one.processes = machine.starts()
    one.send("a")
    began = one.clock.monotonic()
    await one.start()
    assert holds(one)
    assert epoch(one) == 2
    await one.run_until(lambda: any(o.status is Status.FILLED for o in one.records()))
    assert one.clock.monotonic() - began < AT_ONCE_SECONDS + 2.0
    assert one.calls("place_order") == [World.client_id("a")]
    await one.run(2)
    audit(one)


async def questions_of_a_takeover(folder: Path, machine: Machine, orders: int) -> int:
    """How often the records are asked for until an account with so many is taken over."""
    async with world_of(folder, lease_seconds=TERM_SECONDS, processes=machine.starts(), market=BY_HAND) as world:
        for number in range(orders):
            world.send(f"s{number}")
        await world.run_until(lambda: len(world.documents("execution_orders", status="SUBMITTED")) == orders)
        await dies(world)
        world.processes = machine.starts()
        before = world.store_faults.reads["execution_orders.find"]
        await world.start()
        assert len(world.service.live_orders.by_id) == orders
        return world.store_faults.reads["execution_orders.find"] - before


async def test_an_account_with_many_orders_is_taken_over_by_as_many_questions_as_one_with_few(
    tmp_path: Path, machine: Machine
) -> None:
    few = await questions_of_a_takeover(tmp_path / "few", machine, 3)
    assert await questions_of_a_takeover(tmp_path / "many", machine, 250) == few


async def test_people_are_told_that_the_one_before_died(machine: Machine, one: World) -> None:
    await dies(one)
    one.processes = machine.starts()
    await one.start()
    await one.run(5)
    said = one.notifier.titled("Taken Over")
    assert said
    assert all("which died and gave nothing back" in text and "see why it died" in text for text in said)


async def test_another_process_of_the_machine_follows_at_its_next_renewal(one: World, other: World) -> None:
    await other.start()
    await dies(one)
    began = one.clock.monotonic()
    await other.run_until(lambda: holds(other))
    assert one.clock.monotonic() - began <= RENEWAL_SECONDS + AT_ONCE_SECONDS


async def test_of_two_that_see_the_death_one_follows(machine: Machine, one: World, other: World) -> None:
    await other.start()
    await dies(one)
    one.processes = machine.starts()
    await one.start()
    await one.run(TERM_SECONDS)
    assert [holds(one), holds(other)] == [True, False]
    assert epoch(one) == 2


async def test_a_living_holder_is_left_alone_for_ever(one: World, other: World) -> None:
    await other.start()
    await one.run(10 * TERM_SECONDS)
    assert [holds(one), holds(other)] == [True, False]
    assert epoch(one) == 1


async def test_a_silent_holder_whose_death_is_not_proven_is_waited_for(one: World, other: World) -> None:
    await one.kill()  # or frozen: the machine does not say that it is gone
    began = one.clock.monotonic()
    await other.start()
    assert not holds(other)
    await other.run_until(lambda: holds(other))
    assert one.clock.monotonic() - began >= TERM_SECONDS
    await other.run(5)
    said = one.notifier.titled("Taken Over")
    assert said
    assert all("which did not renew its lease" in text for text in said)


@pytest.mark.parametrize("changes", [{"host": "another"}, {"process": None}], ids=["another host", "no identity"])
async def test_a_death_on_another_host_and_that_of_nobody_in_particular_are_waited_for(
    one: World, other: World, changes: dict[str, object]
) -> None:
    await dies(one)
    one.mongo["trading"]["execution_leases"].update_many({}, {"$set": changes})
    began = one.clock.monotonic()
    await other.start()
    await other.run_until(lambda: holds(other))
    assert one.clock.monotonic() - began >= TERM_SECONDS


async def test_a_holder_that_cannot_say_who_it_is_holds_as_any_other(tmp_path: Path, machine: Machine) -> None:
    nobody = dataclasses.replace(machine.starts(), own=None)
    async with world_of(tmp_path, lease_seconds=TERM_SECONDS, processes=nobody) as world:
        assert holds(world)
        (lease,) = world.documents("execution_leases", _id=ACCOUNT)
        assert lease["process"] is None
