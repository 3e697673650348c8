"""Who waits for whom at the store: on a server of our own, and on somebody else's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import mongomock
import pytest

from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry, key_of
from execution_service.storage.mongo.schedule import COMMITS_AT_ONCE
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.mongo.write_queue import COMMIT, SHORT_COMMIT
from execution_service.storage.ports.commands import DeadLetter
from execution_service.storage.ports.orders import CursorCommit
from tests.builders import NOW, identity, noted, order, submit_started
from tests.contract.stores import Faults, FaultyClient
from tests.fakes import HandClock

T = TypeVar("T")


class HeldCalls:
    """Calls of the store that have been begun, each held until it is let through."""

    def __init__(self) -> None:
        self.begun: deque[asyncio.Event] = deque()
        self.is_held = False

    async def run(self, call: Callable[[], T]) -> T:
        if self.is_held:
            through = asyncio.Event()
            self.begun.append(through)
            await through.wait()
        return call()

    def close(self) -> None:
        """Nothing to end."""


class World:
    def __init__(self, *, is_private: bool) -> None:
        self.calls, self.questions = HeldCalls(), HeldCalls()
        client: Any = FaultyClient(mongomock.MongoClient(tz_aware=True), Faults())
        self.store = MongoStore(
            client,
            "test",
            nonce="process-1",
            clock=HandClock(),
            threads=self.questions if is_private else self.calls,
            commit_threads=self.calls,
            is_private=is_private,
        )
        self.done: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def orders(self, account_id: str, count: int) -> list[Order]:
        made = [order(of=identity(f"{account_id}-{number}"), account_id=account_id) for number in range(count)]
        await self.store.insert_orders(made)
        return made

    async def begin(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        async def run() -> None:
            await work
            self.done.append(name)

        self.tasks.append(asyncio.create_task(run()))
        await rest()

    async def let_one_through(self) -> None:
        self.calls.begun.popleft().set()
        await rest()

    def letters(self, name: str) -> Coroutine[Any, Any, None]:
        """A write that belongs to no order."""
        letter = DeadLetter(
            message_id=name, payload=b"", reason="no JSON", publish_time=NOW, attributes={}, received_at=NOW
        )
        return self.store.insert_dead_letters([letter])


async def rest() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def private() -> World:
    world = World(is_private=True)
    await world.store.open()
    return world


async def test_a_server_of_our_own_makes_one_write_at_a_time(private: World) -> None:
    (mine,) = await private.orders("one", 1)
    private.calls.is_held = True
    await private.begin("first letter", private.letters("first"))
    await private.begin("second letter", private.letters("second"))
    await private.begin("note", private.store.append(mine, [noted()]))
    for number in range(3):
        assert len(private.calls.begun) == 1
        assert len(private.done) == number
        await private.let_one_through()
    assert private.done == ["first letter", "second letter", "note"]


async def test_a_question_to_a_server_of_our_own_waits_for_no_write(private: World) -> None:
    (mine,) = await private.orders("one", 1)
    private.calls.is_held = True
    await private.begin("letter", private.letters("first"))
    await private.begin("question", private.store.ledgers([key_of(mine)]))
    assert private.done == ["question"]


async def test_whose_turn_it_is_waits_for_no_question(private: World) -> None:
    (mine,) = await private.orders("one", 1)
    private.questions.is_held = True
    await private.begin("question", private.store.ledgers([key_of(mine)]))
    await private.begin("letter", private.letters("first"))
    await private.begin("note", private.store.append(mine, [noted()]))
    assert private.done == ["letter", "note"]


async def test_ledgers_are_written_one_by_one_for_what_hurries_to_pass_between(private: World) -> None:
    busy = await private.orders("busy", 4)
    (quiet,) = await private.orders("quiet", 1)
    entries = [
        LedgerEntry(key=replace(key_of(each), strategy=f"s{number}"), instrument=each.accepted_request.instrument)
        for number, each in enumerate(busy)
    ]
    private.calls.is_held = True
    await private.begin("ledgers", private.store.save_ledgers(entries))
    for each in busy:
        await private.begin("busy", private.store.append(each, [noted()]))
    await private.begin("quiet", private.store.append(quiet, [submit_started()]))
    await private.let_one_through()
    await private.let_one_through()
    assert private.done == ["quiet"]


async def test_who_has_less_to_write_than_the_busiest_only_after_a_commit_hurries_too(private: World) -> None:
    accounts = {name: await private.orders(name, SHORT_COMMIT) for name in "abc"}
    private.calls.is_held = True
    await private.begin("call under way", private.letters("first"))
    for name, orders in accounts.items():
        for each in orders:
            await private.begin(name, private.store.append(each, [submit_started()]))
    await private.begin("call that waits", private.letters("second"))
    for _ in range(4):
        assert "call that waits" not in private.done
        await private.let_one_through()
    assert len(private.done) > 1 + SHORT_COMMIT
    assert private.done[-1] == "call that waits"


@pytest.mark.parametrize(
    ("event", "second"),
    [
        pytest.param(submit_started, "quiet", id="about to be sent"),
        pytest.param(noted, "call that waits", id="happened"),
    ],
)
async def test_of_an_account_with_little_to_write_only_what_is_about_to_be_sent_goes_before_what_waits(
    private: World, event: Callable[[], Event], second: str
) -> None:
    busy = await private.orders("busy", 4 * SHORT_COMMIT)
    (quiet,) = await private.orders("quiet", 1)
    private.calls.is_held = True
    await private.begin("call under way", private.letters("first"))
    await private.begin("call that waits", private.letters("second"))
    for each in busy:
        await private.begin("busy", private.store.append(each, [event()]))
    await private.begin("quiet", private.store.append(quiet, [event()]))
    await private.let_one_through()
    await private.let_one_through()
    assert private.done == ["call under way", second]


@pytest.fixture
async def shared() -> World:
    world = World(is_private=False)
    await world.store.open()
    return world


async def test_at_somebody_elses_server_no_write_waits_for_another(shared: World) -> None:
    orders = await shared.orders("busy", COMMITS_AT_ONCE - 1)
    (quiet,) = await shared.orders("quiet", 1)
    shared.calls.is_held = True
    await shared.begin("letter", shared.letters("first"))
    entry = LedgerEntry(key=key_of(quiet), instrument=quiet.accepted_request.instrument)
    await shared.begin("ledger", shared.store.save_ledgers([entry]))
    for each in (*orders, quiet):
        await shared.begin("note", shared.store.append(each, [noted()]))
    assert len(shared.calls.begun) == 2 + COMMITS_AT_ONCE


async def test_at_somebody_elses_server_what_waits_for_a_free_place_is_one_commit_of_all_accounts(
    shared: World,
) -> None:
    busy = await shared.orders("busy", COMMITS_AT_ONCE + 3 * COMMIT)
    (quiet,) = await shared.orders("quiet", 1)
    shared.calls.is_held = True
    for each in busy[:COMMITS_AT_ONCE]:
        await shared.begin("under way", shared.store.append(each, [submit_started()]))
    for each in busy[COMMITS_AT_ONCE:]:
        await shared.begin("busy", shared.store.append(each, [submit_started()]))
    await shared.begin("quiet", shared.store.append(quiet, [submit_started()]))
    assert len(shared.calls.begun) == COMMITS_AT_ONCE
    await shared.let_one_through()
    shared.calls.begun.rotate(1)  # the commit that was begun last
    await shared.let_one_through()
    assert shared.done.count("busy") > COMMIT // 2
    assert "quiet" in shared.done


async def test_at_somebody_elses_server_the_updates_of_one_record_are_made_in_their_order(shared: World) -> None:
    (mine,) = await shared.orders("one", 1)
    shared.calls.is_held = True

    def cursor(number: int) -> Coroutine[Any, Any, None]:
        return shared.store.commit_cursors(
            [CursorCommit(order_id=mine.order_id, version=1, is_settled=False, world=number)]
        )

    await shared.begin("note", shared.store.append(mine, [noted()]))
    await shared.begin("cursor", cursor(0))
    await shared.begin("cursor again", cursor(1))
    for number in range(3):
        assert (len(shared.calls.begun), len(shared.done)) == (1, number)
        await shared.let_one_through()
    assert shared.done == ["note", "cursor", "cursor again"]


async def test_an_update_that_is_given_up_at_somebody_elses_server_lets_the_next_of_its_record_pass(
    shared: World,
) -> None:
    others = await shared.orders("busy", COMMITS_AT_ONCE)
    (mine,) = await shared.orders("one", 1)
    shared.calls.is_held = True
    for each in others:
        await shared.begin("under way", shared.store.append(each, [noted()]))
    await shared.begin("given up", shared.store.append(mine, [submit_started()]))
    shared.tasks[-1].cancel()
    await shared.begin("second", shared.store.append(mine, [noted()]))
    shared.calls.is_held = False
    while shared.calls.begun:
        await shared.let_one_through()
    assert sorted(shared.done) == ["second", *["under way"] * COMMITS_AT_ONCE]


async def test_a_commit_that_is_given_up_while_it_waits_for_its_turn_lets_the_next_one_pass(private: World) -> None:
    one, two = await private.orders("one", 2)
    private.calls.is_held = True
    await private.begin("call under way", private.letters("first"))
    await private.begin("given up", private.store.append(one, [submit_started()]))
    private.tasks[-1].cancel()
    await private.begin("second", private.store.append(two, [submit_started()]))
    await private.let_one_through()
    await private.let_one_through()
    assert private.done == ["call under way", "second"]
    private.calls.is_held = False
    found = await private.store.load([one.order_id, two.order_id])
    assert {stored.order.order_id: stored.order.version for stored in found} == {one.order_id: 0, two.order_id: 1}
