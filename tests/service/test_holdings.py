"""What we hold by our records, whatever is recorded, booked and told while the ledger is being read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from execution_service.control.adoption_books import read_books
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import apply, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line, fold, key_of
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.orders import Stored, Told
from execution_service.trading.holdings import holdings
from tests.builders import busted, filled_by, order_in
from tests.fakes import BY_HAND, RESTING, world_of
from tests.fakes.clock import HandClock
from tests.service.audit import audit

NO_STORE: Any = None
"""Nothing is asked of it."""


class Books:
    """The ledger of one key; something happens while it is asked."""

    def __init__(self, entries: Sequence[LedgerEntry], meanwhile: Callable[[], None] = lambda: None) -> None:
        self._entries = entries
        self._meanwhile = meanwhile

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        self._meanwhile()
        return list(self._entries)

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
        return {}

    def unreadable_ledgers(self, account_id: str) -> list[Any]:
        return []


async def held(live_orders: LiveOrders, live: LiveOrder, books: Any) -> Decimal:
    request = live.order.accepted_request
    found = await holdings(live_orders, books, request.account_id, [request.instrument.symbol], lambda _: ())
    return sum((each.quantity for each in found), Decimal(0))


def in_hand(status: Status, told: Told) -> tuple[LiveOrders, LiveOrder]:
    live_orders = LiveOrders(NO_STORE, HandClock())
    return live_orders, live_orders.adopt(Stored(order_in(status), told))


async def test_a_first_fill_that_is_recorded_while_the_ledger_is_read_counts() -> None:
    live_orders, live = in_hand(Status.SUBMITTED, Told())

    def fills() -> None:
        live.order = apply(live.order, filled_by("f1", 100))

    assert await held(live_orders, live, Books([], fills)) == 100


async def test_what_is_booked_told_and_let_go_of_while_the_ledger_is_read_counts() -> None:
    live_orders, live = in_hand(Status.SUBMITTED, Told())

    def ends() -> None:
        live.order = apply(live.order, filled_by("f1", 100))
        empty = LedgerEntry(key=key_of(live.order), instrument=live.order.accepted_request.instrument)
        _, lines = fold(empty, live.order, applied_events(live.order, 0), {})
        live.told = Told(world=live.order.version, people=live.order.version, lines=lines, others={})
        live_orders.forget(live)

    assert await held(live_orders, live, Books([], ends)) == 100


async def test_an_annulled_fill_counts_no_more_though_that_is_not_booked_yet() -> None:
    live_orders, live = in_hand(Status.SUBMITTED, Told())
    live.order = apply(live.order, filled_by("f1", 100))
    empty = LedgerEntry(key=key_of(live.order), instrument=live.order.accepted_request.instrument)
    entry, lines = fold(empty, live.order, applied_events(live.order, 0), {})
    live.told = Told(world=live.order.version, people=0, lines=lines, others={})
    live.order = apply_all(live.order, [busted("f1")])
    assert await held(live_orders, live, Books([entry])) == 0


class BooksOfAnotherProcess(Books):
    """Since the order's record was read the ledger has booked its fill, and forgotten the line, which the order has of its own by now."""

    def __init__(self, stored: Stored, entry: LedgerEntry, lines: Mapping[int, Line]) -> None:
        super().__init__([entry])
        self._stored, self._lines = stored, lines

    async def unsettled(self, account_id: str) -> list[Any]:
        return [SimpleNamespace(order_id=self._stored.order.order_id)]

    async def load(self, order_ids: Sequence[str]) -> list[Stored]:
        return [self._stored]

    async def find(self, names: Sequence[str]) -> list[Stored]:
        return []

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        return {self._stored.order.order_id: self._lines}


async def test_a_plan_of_an_adoption_counts_a_fill_once_that_is_booked_while_it_reads() -> None:
    order = apply(order_in(Status.SUBMITTED), filled_by("f1", 100))
    empty = LedgerEntry(key=key_of(order), instrument=order.accepted_request.instrument)
    booked, lines = fold(empty, order, applied_events(order, 0), {})
    store: Any = BooksOfAnotherProcess(Stored(order, Told()), replace(booked, applied={}), lines)
    request = order.accepted_request
    wish: Any = SimpleNamespace(
        account_id=request.account_id,
        strategy=request.strategy,
        instrument=request.instrument,
        successor=None,
        entries=(),
        discrepancy_id=None,
    )
    (entry,) = (await read_books(store, wish, None)).ledgers
    assert entry.position.quantity == 100


async def test_an_exit_counts_what_was_booked_and_told_while_it_asked_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_book, may_answer = asyncio.Event(), asyncio.Event()
    may_book.set()
    may_answer.set()
    read, save = MongoStore.ledgers, MongoStore.save_ledgers

    async def ledgers(self: MongoStore, keys: Any) -> Any:
        found = await read(self, keys)
        await may_answer.wait()
        return found

    async def save_ledgers(self: MongoStore, entries: Any) -> Any:
        await may_book.wait()
        return await save(self, entries)

    monkeypatch.setattr(MongoStore, "ledgers", ledgers)
    monkeypatch.setattr(MongoStore, "save_ledgers", save_ledgers)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        await world.run(1)
        world.send("first", signal_type="EXIT", side="SELL")
        await world.run(1)
        may_book.clear()
        world.fill("first", purpose=Purpose.EXIT)
        await world.run(1)
        may_answer.clear()
        world.send("second", signal_type="EXIT", side="SELL")
        await world.run(1)
        assert world.exit_record("second").status is Status.PENDING
        may_book.set()
        await world.run(2)
        assert world.publisher.statuses("first") == ["FILLED"]
        may_answer.set()
        await world.run(5)
        said = world.exit_record("second").reason
        assert said is not None
        assert said.code is ReasonCode.NOTHING_TO_EXIT
        audit(world)
