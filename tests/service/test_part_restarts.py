"""A part of the service that ends is begun anew, what it had in hand is done, once, and people learn of it; by a hand-moved clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities
from brokers.errors import BrokerUnavailable, RateLimited
from execution_service.app import embedded
from execution_service.core.orders.status import Status
from execution_service.runtime.supervision import Part
from execution_service.storage.mongo.gate import Gate
from execution_service.storage.mongo.schedule import OneAtATime, Schedule, SideBySide, Turn
from execution_service.storage.ports.commands import Command
from execution_service.trading.connection import Connection
from execution_service.trading.reconciliation import Reconciliation
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, RESTING, HandClock, World, two_worlds, world_of
from tests.service.audit import audit

RESERVING = Capabilities(needs_reservation=True, refuses_repeated_client_id=False)


RESTARTED = "Part Restarted"


def cut() -> asyncio.CancelledError:
    """What a library raises whose own future was cancelled: no `except Exception` sees it, and it ends a task without a word."""
    return asyncio.CancelledError()


def broken() -> RuntimeError:
    return RuntimeError("of nobody's making")


def restarted(world: World) -> list[str]:
    """The parts that failed, as the log says."""
    return [str(line["part"]) for line in world.logs if line.get("action") == "part_restarted"]


# --- what writes to the store ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_written", [False, True], ids=["before the write", "after the write"])
async def test_a_writer_that_ends_in_the_middle_of_a_batch_loses_nothing_and_writes_nothing_twice(
    tmp_path: Path, is_written: bool
) -> None:
    async with world_of(tmp_path) as world:
        faults = world.store_faults.breaks_after if is_written else world.store_faults.breaks
        for method in ("bulk_write", "update_one"):
            faults[f"execution_orders.{method}"] = [cut()]
        for number in range(5):
            world.send(f"sig-{number}", symbol=f"S{number}")
        await world.run(20)
        assert {order.status for order in world.records()} == {Status.FILLED}
        assert len(world.placed()) == 5
        assert restarted(world)
        audit(world)


async def test_updates_that_wait_while_a_writer_is_begun_anew_are_written_then(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.breaks["execution_orders.update_one"] = [cut(), cut()]
        world.send()
        await world.run(0.4)
        assert world.record().status is Status.PENDING
        world.send("later", symbol="MSFT")
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert world.record("later").status is Status.FILLED


@dataclass(slots=True)
class Update:
    """One that waits in a schedule."""

    order_id: str
    account_id: str
    is_settled: bool = False

    @property
    def statement(self) -> str:
        return self.order_id


SCHEDULES: dict[str, Callable[[], Schedule[Update]]] = {
    "one at a time": lambda: OneAtATime(HandClock(), Gate()),
    "side by side": SideBySide,
}


@pytest.mark.parametrize("made", SCHEDULES.values(), ids=SCHEDULES)
async def test_each_writer_puts_back_what_it_had_taken(made: Callable[[], Schedule[Update]]) -> None:
    schedule = made()
    fails, written = True, []

    async def write(take: Callable[[], Sequence[Update]], turn: Turn) -> None:
        async with turn():
            for update in take():
                if fails:
                    raise cut()
                written.append(update)
                update.is_settled = True

    busy = [Update(f"busy-{number}", "busy") for number in range(3)]
    for update in (*busy, quiet := Update("quiet", "quiet")):
        schedule.put(update, update.account_id, is_leaving=True)
    for part in reversed(schedule.parts(write)):  # what hurries first: the other takes everything
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(part.run(), 5)
    fails = False
    writers = [asyncio.create_task(part.run()) for part in schedule.parts(write)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert sorted(update.order_id for update in written) == sorted(update.order_id for update in (*busy, quiet))
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)


async def test_what_was_taken_in_the_moment_the_writer_fails_is_written_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule, written = SideBySide[Update](), []
    taken = [[update := Update("one", "busy")], cut()]

    def take(limit: int) -> list[Update]:
        found = taken.pop(0) if taken else []
        if isinstance(found, BaseException):
            raise found
        return found

    async def write(take: Callable[[], Sequence[Update]], turn: Turn) -> None:
        for each in take():
            written.append(each)
            each.is_settled = True

    schedule.put(update, "busy")
    monkeypatch.setattr(schedule._queue, "take", take)
    (part,) = schedule.parts(write)
    with pytest.raises(asyncio.CancelledError):
        await part.run()  # before the task that is to write has taken its first step
    assert written == []
    writer = asyncio.create_task(part.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert written == [update]
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def test_people_learn_of_a_part_that_was_begun_anew_and_the_state_tells_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.breaks["execution_orders.update_one"] = [cut(), cut()]
        world.send()
        await world.run(10)
        (text,) = world.notifier.titled(RESTARTED)
        assert "record updates" in text
        found = world.service.part_states()["record updates"]
        assert (found["state"], found["restarts"]) == ("RUNNING", 2)
        assert "cancelled" in str(found["last_failure"])


async def test_a_service_whose_writer_cannot_be_kept_alive_ends(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.breaks["execution_orders.update_one"] = [cut() for _ in range(1000)]
        ends = asyncio.ensure_future(world.service.has_to_end())
        world.send()
        await world.run(60)
        assert not ends.done()
        await world.run(120)
        assert "record updates cannot be kept alive" in await ends
        assert world.notifier.titled("Service Ends")
        assert world.service.part_states()["record updates"]["state"] == "GIVEN_UP"
        await world.stop()
        world.store_faults.breaks.clear()
        await world.start()
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert len(world.placed()) == 1


# --- what tells the world -------------------------------------------------------------------------------------------


async def test_people_are_told_of_orders_though_the_part_that_tells_them_ended(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.breaks = [cut()]
        world.send()
        await world.run(5)
        assert len(world.notifier.titled("Order Filled")) == 1
        assert restarted(world)


async def test_an_alert_is_sent_though_the_part_that_sends_alerts_ended(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.breaks = [cut()]
        world.send_raw(b"not an order")
        await world.run(5)
        assert len(world.notifier.titled("Dead Letter")) == 1
        assert len(world.notifier.titled(RESTARTED)) == 1


async def test_the_alert_of_a_part_that_cannot_be_raised_is_raised_later(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.breaks = [cut()]
        world.store_faults.breaks["execution_alerts.update_one"] = [broken(), broken()]
        world.send()
        await world.run(10)
        assert len(world.notifier.titled("Order Filled")) == 1
        assert len(world.notifier.titled(RESTARTED)) == 1
        assert [line for line in world.logs if line.get("action") == "alert_failed"]


async def test_views_and_confirmations_follow_though_the_part_that_writes_them_ended(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.breaks["execution_positions.find"] = [cut()]
        world.send()
        await world.run(10)
        assert world.publisher.statuses("sig") == ["FILLED"]
        assert len(world.documents("positions")) == 1
        audit(world)


# --- what takes in --------------------------------------------------------------------------------------------------


async def test_an_intake_that_ends_amid_a_message_takes_the_next_and_hands_that_one_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.breaks["execution_orders.insert_many"] = [cut()]
        world.send("first")
        await world.run(0.1)
        world.send("second", symbol="MSFT")
        await world.run(5)
        assert world.record("second").status is Status.FILLED
        world.orders.deliver_again()
        await world.run(5)
        assert world.record("first").status is Status.FILLED
        assert not world.orders.unacknowledged


async def test_orders_are_taken_in_though_the_intake_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of(tmp_path) as world:
        inbox = world.orders.queue

        def ends(at_most: int) -> Any:
            monkeypatch.undo()
            raise cut()

        monkeypatch.setattr(inbox, "next_batch", ends)
        world.send("first")
        await world.run(2)
        world.send("second", symbol="MSFT")
        await world.run(5)
        world.send("third", symbol="IBM")
        await world.run(5)
        assert [world.record(name).status for name in ("first", "second", "third")] == [Status.FILLED] * 3
        assert restarted(world) == ["orders in"]


async def test_what_is_left_in_the_store_is_found_though_the_look_for_it_ended(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.store_faults.breaks["execution_commands.find"] = [cut()]
        world.send()
        await world.run(5)
        now = world.clock.now()
        cancel = Command(
            command_id="ctl-1", kind="CANCEL", body={"signal_id": "sig"}, published_at=now, received_at=now
        )
        await world.store_beside().insert_command(cancel)
        await world.run(10)
        assert world.record().status is Status.CANCELLED


# --- accounts -------------------------------------------------------------------------------------------------------


async def test_an_account_is_connected_though_the_part_that_connects_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, starts=False) as world:
        attempt = Connection._connect
        cuts = [cut()]

        async def ends(self: Connection) -> None:
            if cuts:
                raise cuts.pop()
            await attempt(self)

        monkeypatch.setattr(Connection, "_connect", ends)
        await world.start()
        world.send()
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert restarted(world) == [f"connection {ACCOUNT}"]
        (text,) = world.notifier.titled(RESTARTED)
        assert ACCOUNT in text


async def test_an_account_that_cannot_be_connected_at_all_is_tried_more_and_more_rarely(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False, accounts=(ACCOUNT, "acct-2")) as world:
        world.broker_faults.errors["connect"] = [cut() for _ in range(12)]
        await world.start()
        await world.run(20)
        assert len(world.calls("connect")) <= 12
        world.broker_faults.errors.clear()
        await world.run(60)
        assert {state["state"] for state in world.service.account_states().values()} == {"CONNECTED"}


async def test_a_trader_that_stumbles_is_begun_anew_after_pauses_that_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        trader = world.service.accounts.traders[ACCOUNT]
        turn = trader._turn

        def stumbles() -> float | None:
            if trader.is_connected:
                raise broken()
            return turn()

        monkeypatch.setattr(trader, "_turn", stumbles)
        before = len(world.calls("connect"))
        trader._timers.wake()
        await world.run(20)
        assert 4 <= len(world.calls("connect")) - before <= 6
        assert set(restarted(world)) == {f"trader {ACCOUNT}"}
        monkeypatch.undo()
        world.send()
        await world.run(20)
        assert world.record().status is Status.FILLED


async def test_books_are_compared_though_the_comparison_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = TradingRules(reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, starts=False, rules=rules) as world:
        compare = Reconciliation._compare
        cuts = [cut()]

        async def ends(self: Reconciliation, *, is_whole: bool) -> Any:
            if cuts:
                raise cuts.pop()
            return await compare(self, is_whole=is_whole)

        monkeypatch.setattr(Reconciliation, "_compare", ends)
        await world.start()
        await world.run(5)
        assert restarted(world) == [f"comparison {ACCOUNT}"]
        asked = len(world.calls("positions"))
        assert asked >= 1
        await world.run(25)
        assert len(world.calls("positions")) > asked


async def test_an_account_that_is_let_go_leaves_no_part_behind(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        assert [name for name in one.service.part_states() if name.endswith(ACCOUNT)]
        one.store_faults.is_away = True
        await one.run(12)
        assert not [name for name in one.service.part_states() if name.endswith(ACCOUNT)]
        assert not restarted(one)


# --- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [cut, broken])
async def test_leases_are_renewed_though_the_part_that_does_it_ended(
    tmp_path: Path, fault: Callable[[], BaseException]
) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        one.store_faults.breaks["execution_leases.find"] = [fault()]
        await one.run(20)
        assert one.service.ownership.holds(ACCOUNT)
        assert restarted(one) == ["leases"]


async def test_an_account_is_opened_though_the_first_try_failed_and_people_hear_whose_it_was(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        await one.kill()
        other.store_faults.breaks["execution_alerts.update_one"] = [broken(), broken()]
        await other.run_until(lambda: other.service.ownership.holds(ACCOUNT))
        await other.run(30)
        assert len(other.notifier.titled("Taken Over")) >= 1
        assert len([name for name in other.service.accounts.traders if name == ACCOUNT]) == 1
        other.fill("a", 100, "10")
        await other.run(5)
        assert other.record("a").status is Status.FILLED


async def test_an_account_whose_opening_failed_in_the_middle_is_opened_by_the_next_try(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        accounts: Any = other.service.accounts
        opens = accounts.open

        def opens_once_broken(partition: str, *arguments: object) -> None:
            if partition == ACCOUNT:
                accounts.open = opens
                raise broken()
            opens(partition, *arguments)

        accounts.open = opens_once_broken
        await one.stop()
        other.send("a")
        await other.run(10)
        assert other.record("a").status is Status.FILLED
        assert restarted(other) == [f"opening of {ACCOUNT}"]


# --- outages are no failures ------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lease_seconds", [None, 8.0], ids=["alone", "sharing"])
async def test_what_is_away_for_a_quarter_of_an_hour_makes_no_part_fail(
    tmp_path: Path, lease_seconds: float | None
) -> None:
    rules = TradingRules(reconcile_interval_seconds=30.0)
    async with world_of(tmp_path, market=BY_HAND, lease_seconds=lease_seconds, rules=rules) as world:
        world.send("at work")
        world.send("to be cancelled", symbol="MSFT")
        await world.run(2)
        world.store_faults.is_away = world.publisher.is_away = world.notifier.is_away = True
        world.broker_faults.unavailable = BrokerUnavailable("the line is cut", known_pause=True)
        world.send("meanwhile", symbol="IBM")
        world.send_raw(b"not an order")
        world.cancel(signal_id="to be cancelled")
        await world.run(450)
        world.broker_faults.unavailable = None
        await world.run(450)
        assert restarted(world) == []
        assert {state["state"] for state in world.service.part_states().values()} == {"RUNNING"}
        world.store_faults.is_away = world.publisher.is_away = world.notifier.is_away = False
        await world.run(120)
        assert world.record("to be cancelled").status is Status.CANCELLED
        assert world.record("meanwhile").status is Status.REJECTED
        assert restarted(world) == []


# --- the end --------------------------------------------------------------------------------------------------------


async def test_the_service_stops_in_order_though_the_last_alert_fails(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING, lease_seconds=8.0) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(2)
        spent = RateLimited("the rate budget is spent", wait_seconds=86_128.0)
        world.broker_faults.errors["reserve"] = [spent] * 10_000
        world.exit("out", "in")
        await world.run(5.5)
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        service = world.service
        await world.stop()
        assert service.part_states() == {}
        assert {lease["holder"] for lease in world.documents("execution_leases")} == {""}


# --- embedded parts -------------------------------------------------------------------------------------------------


async def test_an_embedded_part_is_started_again_though_that_failed_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, for example, on which the new process cannot have its log."""
    tries = 0

    class Ended:
        async def wait(self) -> int:
            return 1

    class Running:
        async def wait(self) -> int:
            await asyncio.get_running_loop().create_future()
            return 0

    @contextlib.asynccontextmanager
    async def child(command: object, output: object, name: object) -> AsyncIterator[Running]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise embedded.EmbeddedPartFailed("no space left on device")
        yield Running()

    monkeypatch.setattr(embedded, "_child", child)
    async with world_of(tmp_path) as world:
        revivals: list[Part] = []
        ended: Any = Ended()
        async with embedded._kept_alive(ended, ["store"], tmp_path / "log", "embedded store", revivals):
            world.service.supervisor.keep(*revivals)
            await world.run(2)
            assert tries == 2
            assert restarted(world) == ["embedded store"] * 2
            (text,) = world.notifier.titled(RESTARTED)
            assert "has ended by itself" in text
            await world.service.supervisor.end("embedded store")


async def test_orders_of_an_account_that_was_opened_by_the_second_try_are_followed(tmp_path: Path) -> None:
    rules = TradingRules(order_timeout_seconds=60.0)
    async with two_worlds(tmp_path, market=BY_HAND, rules=rules) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        accounts: Any = other.service.accounts
        keep_trading, tries = accounts._keep, []

        def keep_once_broken(trader: object) -> None:
            tries.append(trader)
            if len(tries) == 1:
                raise RuntimeError("of nobody's making")
            keep_trading(trader)

        accounts._keep = keep_once_broken
        await one.stop()
        await other.run(90)
        assert len(tries) == 2
        assert other.record("a").status is Status.CANCELLED


async def test_nothing_is_opened_any_more_by_a_process_that_stops(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING) as (one, other):
        await other.start()
        await one.kill()
        service: Any = other.service
        opened: list[str] = []
        open_desk, open_orders, drain, hold = (
            service.accounts.open,
            service._store.open_orders,
            service.delivery.drain,
            asyncio.Event(),
        )

        def noted(partition: str, *found: Any) -> None:
            opened.append(partition)
            open_desk(partition, *found)

        async def slowly(*of: Any) -> Any:
            if of == (ACCOUNT,):
                await hold.wait()
            return await open_orders(*of)

        async def drained() -> None:
            hold.set()
            await drain()

        service.accounts.open, service._store.open_orders, service.delivery.drain = noted, slowly, drained
        await other.run(12)
        assert service.ownership._leases.holds(ACCOUNT)
        await other.stop()
        assert ACCOUNT not in opened
