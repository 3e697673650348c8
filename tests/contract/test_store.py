"""What every store must do, in memory, on a real SecantusDB and on a MongoDB where one is given."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from pymongo.errors import BulkWriteError, OperationFailure, WriteError
from structlog.testing import capture_logs

from brokers.base import AssetClass, Side
from execution_service.core.errors import InvalidTransition, UnreadableRecord
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Event, Noted
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry, Line, fold, key_of
from execution_service.core.positions.position import Position
from execution_service.core.reconcile.discrepancies import (
    Discrepancy,
    DiscrepancyKind,
    DiscrepancyState,
    Finding,
    Owner,
)
from execution_service.core.risk.book import new_book
from execution_service.core.risk.exposure import Reservation
from execution_service.core.risk.kill import KillLevel, Switch
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import SwitchRecord, with_engaged
from execution_service.core.trades.rows import TradeRow, rows_of
from execution_service.core.views.record import protected_in
from execution_service.core.views.shared import HexId
from execution_service.delivery.past_trades import trade_write
from execution_service.storage.mongo import orders as mongo_orders
from execution_service.storage.mongo import settled as settled_records
from execution_service.storage.mongo.documents import command_from_document, with_ids
from execution_service.storage.mongo.names import (
    ALERTS,
    COMMANDS,
    CONFIRMATIONS_VIEW,
    DEAD_LETTERS,
    DECISIONS_OF_OTHERS,
    DISCREPANCIES,
    KILL_SWITCHES,
    ORDERS,
    POSITIONS,
    POSITIONS_VIEW,
    SIGNALS_VIEW,
    TRADES_VIEW,
    TRADING_ACCOUNTS_VIEW,
    TRADING_ORDERS_VIEW,
    WRITTEN,
)
from execution_service.storage.mongo.opening import connect
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.alerts import Alert
from execution_service.storage.ports.commands import Command, CommandStatus, DeadLetter
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.leases import Lease, ProcessIdentity
from execution_service.storage.ports.orders import CursorCommit, Stored, Told, Unsettled, VersionConflict
from execution_service.storage.ports.queries import OrderFilter, PageOfTrades, Place
from execution_service.storage.ports.switches import UnreadableSwitch
from execution_service.storage.ports.tokens import KeptToken, Role
from execution_service.storage.ports.views import View, ViewWrite
from tests.builders import (
    NOW,
    accepted,
    adopted,
    adopted_order,
    at,
    busted,
    contract_resolved,
    doubted,
    filled_by,
    identity,
    instrument,
    noted,
    order,
    protection_changed,
    refused_request,
    rejected,
    send_again_ordered,
    submit_started,
)
from tests.contract.stores import MONGODB_MISSING, MONGODB_VARIABLE, Faults, SecantusProcess, Server

HEX = "0123456789abcdef01234567"


@pytest.fixture(scope="session")
def secantus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecantusProcess]:
    process = SecantusProcess(tmp_path_factory.mktemp("secantus") / "data")
    yield process
    process.kill()


@pytest.fixture(params=["memory", "secantus", *(["mongodb"] if MONGODB_VARIABLE in os.environ else [])])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    uri: str | None = None
    if request.param == "secantus":
        uri = request.getfixturevalue("secantus").uri
    elif request.param == "mongodb":
        uri = os.environ[MONGODB_VARIABLE]
    made = Server(request.param, uri)
    yield made
    await made.close()


@pytest.mark.skipif(MONGODB_VARIABLE not in os.environ, reason=MONGODB_MISSING)
async def test_a_mongodb_was_given_and_answers() -> None:
    made = Server("mongodb", os.environ[MONGODB_VARIABLE])
    assert made.client().admin.command("ping")["ok"] == 1
    await made.close()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def store(server: Server, faults: Faults) -> MongoStore:
    return await server.store(faults=faults)


def numbered(number: int, **changes: Any) -> Order:
    return order(of=identity(f"signal-{number}"), received_at=at(number), **changes)


async def inserted(store: MongoStore, count: int) -> list[Order]:
    orders = [numbered(n) for n in range(count)]
    assert await store.insert_orders(orders) == [None] * count
    return orders


async def loaded(store: MongoStore, about: Order) -> Order:
    (stored,) = await store.load([about.order_id])
    return stored.order


async def stored_after(store: MongoStore, *events: Event, **changes: Any) -> Order:
    """A new order in the store with these events."""
    about = order(**changes)
    await store.insert_orders([about])
    return await store.append(about, events) if events else about


# --- what is asked over HTTP ------------------------------------------------------------------------------------------


async def test_pages_of_orders_are_the_latest_first_without_gaps(store: MongoStore) -> None:
    orders = await inserted(store, 5)
    shown: list[str] = []
    place: Place | None = None
    while True:
        page = await store.page_of_orders(OrderFilter(), place, 2)
        if not page:
            break
        shown += [stored.order.order_id for stored in page]
        place = Place(moment=page[-1].order.received_at, row_id=page[-1].order.order_id)
    assert shown == [each.order_id for each in reversed(orders)]


async def test_a_list_shows_what_has_changed_since_it_was_read_before(store: MongoStore) -> None:
    orders = await inserted(store, 3)
    first = await store.page_of_orders(OrderFilter(), None, 10)
    await store.append(orders[1], [rejected()])
    second = await store.page_of_orders(OrderFilter(), None, 10)
    assert [stored.order.status for stored in first] == [Status.PENDING] * 3
    assert [stored.order.status for stored in second] == [Status.PENDING, Status.REJECTED, Status.PENDING]
    assert second[0] == first[0]


async def test_orders_are_chosen_and_counted_by_status_and_account(store: MongoStore) -> None:
    orders = await inserted(store, 3)
    await store.append(orders[0], [rejected()])
    account_id = str(orders[0].request.account_id)
    chosen = OrderFilter(statuses=frozenset({Status.PENDING}), account_id=account_id, symbol="AAPL")
    assert [s.order.order_id for s in await store.page_of_orders(chosen, None, 10)] == [
        orders[2].order_id,
        orders[1].order_id,
    ]
    assert await store.counts_of_orders() == {("PENDING", account_id): 2, ("REJECTED", account_id): 1}
    sizes = await store.sizes()
    assert (sizes["placed_orders"], sizes["dead_letters"]) == (0, 0)
    assert await store.order_by_id(orders[0].order_id) is not None
    assert await store.order_by_id("nobody") is None


async def test_a_token_is_kept_and_revoked_once(store: MongoStore) -> None:
    token = KeptToken(token_id="t1", name="a board", role=Role.VIEWER, secret_sha256="0" * 64, created_at=NOW)
    assert await store.insert_token(token)
    assert not await store.insert_token(replace(token, name="another"))
    assert await store.revoke_token("t1", at(1))
    assert await store.revoke_token("t1", at(2))
    assert not await store.revoke_token("t2", at(2))
    assert await store.tokens() == [replace(token, revoked_at=at(1))]


# --- indexes --------------------------------------------------------------------------------------------------------


async def test_the_indexes_are_those_of_the_contract(store: MongoStore, server: Server) -> None:
    def indexes(collection: str) -> dict[tuple[str, ...], dict[str, Any]]:
        found = server.collection(collection).index_information()
        return {tuple(name for name, _ in index["key"]): index for index in found.values()}

    by_identity = ("signal_id", "leg_index", "purpose")
    orders, confirmations = indexes(ORDERS), indexes(CONFIRMATIONS_VIEW)
    assert orders[by_identity]["unique"]
    assert orders[("account_id", "client_order_id")]["unique"]
    assert "lookup" in {key[0] for key in orders}
    assert confirmations[by_identity]["unique"]
    assert {("submitted_at",), ("timestamp",)} <= set(confirmations)
    assert ("received_at",) in orders
    assert ("opened_at",) in indexes(POSITIONS_VIEW)
    of_positions = indexes(POSITIONS_VIEW)[("ledger_id",)]
    assert of_positions["unique"]
    assert dict(of_positions["partialFilterExpression"]) == {"status": "OPEN"}
    of_discrepancies = indexes(DISCREPANCIES)[("place",)]
    assert of_discrepancies["unique"]
    assert dict(of_discrepancies["partialFilterExpression"]) == {"state": "OPEN"}
    assert ("signal_id",) in indexes(SIGNALS_VIEW)
    assert ("order_id",) in indexes(TRADING_ORDERS_VIEW)


async def test_an_index_that_is_missing_is_made_at_the_next_opening(server: Server) -> None:
    await server.store("process-1")
    server.collection(ORDERS).drop_index([("lookup", 1)])
    server.collection(CONFIRMATIONS_VIEW).drop_indexes()
    await server.store("process-2")
    orders, confirmations = (
        {
            tuple(field for field, _ in index["key"]): index
            for index in server.collection(n).index_information().values()
        }
        for n in (ORDERS, CONFIRMATIONS_VIEW)
    )
    assert ("lookup",) in orders
    assert confirmations[("signal_id", "leg_index", "purpose")]["unique"]
    assert ("timestamp",) in confirmations


async def test_indexes_that_are_there_are_not_made_again_whatever_their_names(server: Server, faults: Faults) -> None:
    await server.store("process-1")
    server.collection(SIGNALS_VIEW).drop_indexes()
    server.collection(SIGNALS_VIEW).create_index("signal_id", name="upstream")
    faults.refuse("create_index", times=99)
    await server.store("process-2", faults=faults)


async def test_a_store_whose_records_cannot_be_kept_unique_is_not_used_and_says_why(server: Server) -> None:
    twins = [{"_id": n, "signal_id": "s", "leg_index": 0, "purpose": "ENTRY"} for n in (1, 2)]
    server.collection(ORDERS).insert_many(twins)
    with pytest.raises(StoreUnavailable, match=r"execution_orders on .*signal_id.* cannot be made"):
        await server.store()


async def test_an_index_for_speed_that_cannot_be_made_is_reported_and_missed(server: Server, faults: Faults) -> None:
    await server.store("process-1")
    server.collection(ALERTS).drop_indexes()
    faults.fail("create_index", OperationFailure("not authorized on trading", 13))
    with capture_logs() as logs:
        await server.store("process-2", faults=faults)
    (said,) = [entry for entry in logs if entry.get("action") == "index_missing"]
    assert "the index of execution_alerts on ('sent_at',) cannot be made: not authorized on trading" in said["event"]
    assert said["log_level"] == "error"


async def test_opening_twice_is_harmless(server: Server) -> None:
    first = await server.store("process-1")
    about = await stored_after(first)
    again = await server.store("process-2")
    assert await loaded(again, about) == about


async def test_a_server_that_is_away_is_said_to_be_unavailable(server: Server, faults: Faults) -> None:
    faults.refuse("command" if server.kind != "memory" else "create_index")
    with pytest.raises(StoreUnavailable, match="connection refused"):
        await server.store(faults=faults)


# --- inserting ------------------------------------------------------------------------------------------------------


async def test_new_orders_are_stored_and_come_back_as_they_were(store: MongoStore) -> None:
    orders = [
        numbered(0),
        numbered(1, asked=refused_request(), events=(rejected(),)),
        order(of=identity("signal-0", 1), received_at=at(2)),
        order(of=identity("signal-0", 0, Purpose.EXIT), received_at=at(3), entry_refs=("signal-0",)),
    ]
    assert await store.insert_orders(orders) == [None] * 4
    assert [s.order for s in await store.open_orders()] == orders
    assert all(s.told == Told() for s in await store.open_orders())


async def test_the_unsettled_records_of_one_account_are_found_whole(store: MongoStore) -> None:
    mine = [numbered(0), numbered(2)]
    others = [order(of=identity(f"signal-{n}"), received_at=at(n), account_id=who) for n, who in ((1, "B"), (3, None))]
    assert await store.insert_orders([*mine, *others]) == [None] * 4
    account_id = mine[0].request.account_id
    assert account_id is not None
    assert [s.order for s in await store.open_orders(account_id)] == mine
    assert [u.order_id for u in await store.unsettled(account_id)] == [each.order_id for each in mine]


async def test_a_repeated_order_is_answered_with_the_first(store: MongoStore) -> None:
    first = await stored_after(store, submit_started())
    again = replace(order(quantity=5), message_id="message-2", received_at=at(9))
    assert await store.insert_orders([numbered(7), again]) == [None, first]
    assert await loaded(store, first) == first
    assert len(await store.open_orders()) == 2


async def test_of_two_equal_orders_in_one_batch_one_is_new(store: MongoStore) -> None:
    about = order()
    assert await store.insert_orders([about, about]) == [None, about]


async def test_of_two_stores_that_insert_one_order_one_is_told_that_it_is_new(server: Server) -> None:
    stores = [await server.store(f"process-{n}") for n in range(2)]
    mine = [replace(order(), message_id=f"message-{n}") for n in range(2)]
    answers = await asyncio.gather(*(s.insert_orders([o]) for s, o in zip(stores, mine, strict=True)))
    assert sorted(answer == [None] for answer in answers) == [False, True]
    (loser,) = [answer for answer in answers if answer != [None]]
    assert loser == [await loaded(stores[0], mine[0])]


async def test_an_insert_whose_answer_was_lost_is_ours_when_it_is_repeated(store: MongoStore, faults: Faults) -> None:
    orders = [numbered(n) for n in range(3)]
    faults.lose_answer("insert_many")
    with capture_logs() as logs:
        with pytest.raises(StoreUnavailable):
            await store.insert_orders(orders)
        assert await store.insert_orders([*orders, numbered(3)]) == [None] * 4
    assert [line["action"] for line in logs] == ["part_silent", "part_answers"]


async def test_an_insert_that_others_have_worked_on_meanwhile_is_no_longer_new(
    store: MongoStore, server: Server, faults: Faults
) -> None:
    about = order()
    faults.lose_answer("insert_many")
    with pytest.raises(StoreUnavailable):
        await store.insert_orders([about])
    moved = await (await server.store("process-2")).append(about, [submit_started()])
    assert await store.insert_orders([about]) == [moved]


async def test_a_redelivered_message_with_other_times_is_a_repetition(store: MongoStore) -> None:
    first = await stored_after(store)
    assert await store.insert_orders([order(received_at=at(5))]) == [first]


# --- appending ------------------------------------------------------------------------------------------------------


async def test_events_are_added_to_the_record(store: MongoStore) -> None:
    about = await stored_after(store, submit_started(), accepted())
    after = await store.append(about, [filled_by("f1", 40)])
    assert after.status is Status.PARTIALLY_FILLED
    assert await loaded(store, about) == after


async def test_the_state_beside_the_events_follows_them(store: MongoStore, server: Server) -> None:
    about = await stored_after(store, submit_started(), accepted("B-7"), filled_by("f1", 40))
    document = server.collection(ORDERS).find_one({"_id": about.order_id})
    assert (document["version"], len(document["events"])) == (3, 3)
    assert (document["status"], document["broker_order_id"]) == ("PARTIALLY_FILLED", "B-7")
    assert (document["filled_quantity"], document["account_id"]) == ("40", "acct-1")


async def test_an_impossible_event_is_refused_before_anything_is_written(store: MongoStore) -> None:
    about = await stored_after(store)
    with pytest.raises(InvalidTransition):
        await store.append(about, [submit_started(), submit_started()])
    assert await loaded(store, about) == about


async def test_an_old_version_is_refused_with_the_present_record(store: MongoStore) -> None:
    about = await stored_after(store)
    now = await store.append(about, [submit_started(), accepted()])
    with pytest.raises(VersionConflict) as caught:
        await store.append(about, [submit_started("another")])
    assert caught.value.current.order == now
    assert await loaded(store, about) == now


async def test_the_record_shown_in_a_conflict_has_its_ledger_lines(store: MongoStore) -> None:
    about = await stored_after(store, filled_by("f1", 40))
    lines = {1: Line(1, 1, 1, Decimal("2.5"), Decimal(40))}
    await store.commit_cursors(
        [CursorCommit(order_id=about.order_id, version=1, is_settled=False, world=1, lines=lines)]
    )
    with pytest.raises(VersionConflict) as caught:
        await store.append(order(), [noted()])
    assert caught.value.current.told == Told(world=1, lines=lines)


async def test_an_unknown_order_cannot_be_appended_to_and_stops_nobody(store: MongoStore) -> None:
    with pytest.raises(KeyError):
        await store.append(order(), [submit_started()])
    await stored_after(store, submit_started())


async def test_of_two_stores_that_append_at_once_exactly_one_wins(server: Server) -> None:
    stores = [await server.store(f"process-{n}") for n in range(2)]
    for number in range(10):
        about = numbered(number)
        await stores[0].insert_orders([about])
        outcomes = await asyncio.gather(
            *(s.append(about, [submit_started(f"process-{n}")]) for n, s in enumerate(stores)),
            return_exceptions=True,
        )
        winners = [o for o in outcomes if isinstance(o, Order)]
        losers = [o for o in outcomes if isinstance(o, VersionConflict)]
        assert (len(winners), len(losers)) == (1, 1)
        assert losers[0].current.order == winners[0] == await loaded(stores[0], about)


async def test_of_two_appends_of_one_process_at_once_exactly_one_wins(store: MongoStore) -> None:
    about = await stored_after(store)
    outcomes = await asyncio.gather(
        *(store.append(about, [noted(f"remark {n}")]) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(o, VersionConflict) for o in outcomes) == 4
    assert (await loaded(store, about)).version == 1


@pytest.mark.parametrize("count", [1, 2, 7, 100, 101, 200])
async def test_appends_that_wait_together_all_arrive(store: MongoStore, count: int) -> None:
    orders = await inserted(store, count)
    after = await asyncio.gather(
        *(store.append(o, [submit_started(), accepted(f"B-{n}")]) for n, o in enumerate(orders))
    )
    assert [s.order for s in await store.open_orders()] == list(after)


async def test_a_flood_of_appends_for_one_account_is_not_in_the_way_of_another(store: MongoStore) -> None:
    flood = await inserted(store, 300)
    other = order(of=identity("other"), account_id="another account")
    await store.insert_orders([other])
    finished: list[str] = []

    async def append(about: Order) -> None:
        await store.append(about, [submit_started()])
        finished.append(about.order_id)

    await asyncio.gather(*(append(each) for each in (*flood, other)))
    assert len(finished) == 301
    assert finished.index(other.order_id) < 100


async def test_what_an_account_begins_to_send_at_once_is_written_at_its_next_turn(store: MongoStore) -> None:
    flood = await inserted(store, 200)
    others = [order(of=identity(f"other-{n}"), account_id="another account") for n in range(20)]
    await store.insert_orders(others)
    finished: list[str] = []

    async def append(about: Order, event: Event) -> None:
        await store.append(about, [event])
        finished.append(about.order_id)

    different = [append(each, noted(f"remark {n}")) for n, each in enumerate(flood)]
    await asyncio.gather(*different, *(append(each, submit_started()) for each in others))
    assert max(finished.index(each.order_id) for each in others) < 64


async def test_what_has_happened_is_written_however_much_is_about_to_be_sent(store: MongoStore) -> None:
    flood, (filled,) = await inserted(store, 300), [order(of=identity("filled before"))]
    await store.insert_orders([filled])
    working = await store.append(filled, [submit_started(), accepted()])
    finished: list[str] = []

    async def append(about: Order, event: Event) -> None:
        await store.append(about, [event])
        finished.append(about.order_id)

    await asyncio.gather(*(append(each, submit_started()) for each in flood), append(working, filled_by("f1", 40)))
    assert finished.index(filled.order_id) < 100


async def test_a_conflict_among_many_is_its_own_affair(store: MongoStore, server: Server) -> None:
    orders = await inserted(store, 60)
    other = await server.store("process-2")
    taken = {n: await other.append(orders[n], [submit_started("process-2")]) for n in (0, 17, 59)}
    outcomes = await asyncio.gather(*(store.append(o, [submit_started()]) for o in orders), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        stored = await loaded(store, orders[number])
        if number in taken:
            assert isinstance(outcome, VersionConflict)
            assert stored == taken[number] == outcome.current.order
        else:
            assert stored == outcome
            assert stored.version == 1


async def test_alike_updates_and_different_ones_may_wait_together(store: MongoStore) -> None:
    orders = await inserted(store, 30)
    events: list[Event] = [submit_started() if n % 2 else noted(f"remark {n}") for n in range(30)]
    await asyncio.gather(*(store.append(o, [e]) for o, e in zip(orders, events, strict=True)))
    assert [s.order.events for s in await store.open_orders()] == [(e,) for e in events]


# unclear answers


async def test_an_append_whose_answer_was_lost_succeeds_without_doubling(store: MongoStore, faults: Faults) -> None:
    about = await stored_after(store)
    faults.lose_answer("update_one")
    after = await store.append(about, [submit_started()])
    assert faults.left == 0
    assert await loaded(store, about) == after
    assert after.version == 1


async def test_an_append_that_did_not_arrive_is_made_once_the_store_is_back(store: MongoStore, faults: Faults) -> None:
    about = await stored_after(store)
    faults.refuse("update_one", times=4)
    after = await store.append(about, [submit_started()])
    assert faults.left == 0
    assert await loaded(store, about) == after


@pytest.mark.parametrize("fault", ["lost", "refused"])
async def test_a_group_commit_with_an_unclear_answer_arrives_once(
    store: MongoStore, server: Server, faults: Faults, fault: str
) -> None:
    orders = await inserted(store, 20)
    call = "commit_transaction" if server.kind == "secantus" else "bulk_write"
    (faults.lose_answer if fault == "lost" else faults.refuse)(call)
    after = await asyncio.gather(*(store.append(o, [submit_started(), noted()]) for o in orders))
    assert faults.left == 0
    assert [s.order for s in await store.open_orders()] == list(after)
    assert all(len(o.events) == 2 for o in after)


async def test_a_lost_answer_is_not_taken_for_ours_if_somebody_else_wrote(
    store: MongoStore, server: Server, faults: Faults
) -> None:
    about = await stored_after(store)
    faults.refuse("update_one")
    theirs = await (await server.store("process-2")).append(about, [submit_started("process-2")])
    with pytest.raises(VersionConflict) as caught:
        await store.append(about, [submit_started("process-1")])
    assert caught.value.current.order == theirs


async def test_two_processes_that_record_the_same_words_do_not_take_each_others_for_their_own(server: Server) -> None:
    one, other = await server.store("process-1"), await server.store("process-2")
    about = await stored_after(one)
    await one.append(about, [noted("the same")])
    with pytest.raises(VersionConflict):
        await other.append(about, [noted("the same")])


async def test_a_lost_answer_is_found_though_the_record_has_moved_on(server: Server, faults: Faults) -> None:
    mine, theirs = await server.store("process-1", faults), await server.store("process-2")
    about = await stored_after(mine)
    first = apply_all(about, [submit_started()])
    faults.lose_answer("update_one")
    faults.refuse("find_one", times=1_000_000)
    waiting = asyncio.create_task(mine.append(about, [submit_started()]))
    for _ in range(10_000):
        if (await loaded(theirs, about)).version:
            break
    await theirs.append(first, [accepted()])
    assert not waiting.done()
    faults.mend()
    assert await waiting == first
    assert (await loaded(mine, about)).version == 2


async def test_times_finer_than_the_store_keeps_do_not_hide_a_write_that_arrived(
    store: MongoStore, faults: Faults
) -> None:
    about = await stored_after(store)
    faults.lose_answer("update_one")
    fine = NOW + timedelta(microseconds=123_456)
    await store.append(about, [filled_by("f1", 40, time=fine)])
    assert (await loaded(store, about)).fills[0].time == NOW + timedelta(milliseconds=123)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OperationFailure("not now"), OverflowError("8-byte ints")])
async def test_whatever_fails_the_writer_of_records_goes_on(
    store: MongoStore, faults: Faults, error: Exception
) -> None:
    orders = await inserted(store, 2)
    for call in ("update_one", "bulk_write"):
        faults.fail(call, error)
        await asyncio.gather(*(store.append(o, [noted()]) for o in orders), return_exceptions=True)
    faults.mend()
    now = [await loaded(store, o) for o in orders]
    after = await asyncio.gather(*(store.append(o, [noted("at last")]) for o in now))
    assert [s.order for s in await store.open_orders()] == list(after)


async def test_a_record_too_large_for_any_server_fails_by_itself(secantus: SecantusProcess) -> None:
    server = Server("secantus", secantus.uri)
    store = await server.store()
    orders = await inserted(store, 3)
    too_large = Noted(at=NOW, message="x" * (17 << 20))
    for _ in range(2):
        failed, *others = await asyncio.gather(
            store.append(orders[0], [too_large]),
            *(store.append(o, [noted("small")]) for o in orders[1:]),
            return_exceptions=True,
        )
        assert isinstance(failed, Exception)
        assert not isinstance(failed, VersionConflict | StoreUnavailable)
        orders[1:] = [o for o in others if isinstance(o, Order)]
    assert [s.order.version for s in await store.open_orders()] == [0, 2, 2]
    await server.close()


async def test_half_a_character_in_a_brokers_words_is_recorded_in_its_written_form(store: MongoStore) -> None:
    about = await stored_after(store)
    await store.append(about, [noted("rejected \ud83d")])
    (event,) = (await loaded(store, about)).events
    assert event == noted("rejected \\ud83d")


async def test_a_foreign_record_in_the_way_is_reported_and_the_writer_goes_on(
    store: MongoStore, server: Server
) -> None:
    about = await stored_after(store)
    server.collection(ORDERS).update_one({"_id": about.order_id}, {"$set": {"format": 99, "version": 5}})
    with pytest.raises(UnreadableRecord):
        await store.append(about, [submit_started()])
    (other,) = [numbered(9)]
    await store.insert_orders([other])
    assert [s.order.order_id for s in await store.open_orders()] == [other.order_id]
    assert (await store.append(other, [submit_started()])).version == 1


async def test_a_client_id_that_another_order_has_is_refused_and_the_writer_goes_on(
    store: MongoStore, server: Server
) -> None:
    about = await stored_after(store, submit_started(), doubted())
    clash = {"account_id": "acct-1", "client_order_id": about.identity.client_order_id(2)}
    server.collection(ORDERS).insert_one({"_id": "foreign", "signal_id": "x", "lookup": [], **clash})
    outcomes = await asyncio.gather(
        store.append(about, [send_again_ordered()]), store.insert_orders([numbered(4)]), return_exceptions=True
    )
    assert isinstance(outcomes[0], Exception)
    assert (await loaded(store, about)).version == 2
    await store.append(about, [noted()])


async def test_appends_wait_while_the_store_is_away_and_reads_do_not(store: MongoStore, faults: Faults) -> None:
    about = await stored_after(store)
    faults.refuse("update_one", times=10_000)
    faults.refuse("find")
    waiting = asyncio.create_task(store.append(about, [submit_started()]))
    with pytest.raises(StoreUnavailable):
        await store.open_orders()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


# --- finding --------------------------------------------------------------------------------------------------------


async def test_an_order_is_found_by_each_of_its_names(store: MongoStore) -> None:
    about = await stored_after(
        store,
        submit_started(),
        accepted("B-7"),
        of=identity("out", purpose=Purpose.EXIT),
        request_order_id="up-1",
        mathematricks_signal_id=HEX,
        entry_refs=("in", "f" * 24),
    )
    await store.insert_orders([numbered(1)])
    words = (f"client:{about.client_order_id}", "broker:B-7", "request:up-1", f"signal:{HEX}", "signal:out")
    for word in (*words, "exit_of:in", "exit_of:" + "f" * 24):
        assert [s.order for s in await store.find([word])] == [about], word
    assert await store.find(["broker:B-8"]) == []
    assert len(await store.find(["broker:B-7", "signal:signal-1", "signal:out"])) == 2


async def test_an_order_sent_again_is_found_by_both_tags(store: MongoStore) -> None:
    about = await stored_after(store, submit_started(), doubted(), send_again_ordered())
    for tag in about.client_order_ids:
        assert [s.order for s in await store.find([f"client:{tag}"])] == [about]


async def test_found_orders_come_in_the_order_of_their_arrival(store: MongoStore) -> None:
    await store.insert_orders([numbered(n) for n in (5, 1, 3)])
    assert [s.order.signal_id for s in await store.open_orders()] == ["signal-1", "signal-3", "signal-5"]
    assert [s.order.signal_id for s in await store.load([numbered(n).order_id for n in (5, 3)])] == [
        "signal-3",
        "signal-5",
    ]


# --- finding again what has ended -------------------------------------------------------------------------------------


async def settled(store: MongoStore, *of: Identity) -> list[Order]:
    """Exits of "in" that are over and told to everybody, and have been found once."""
    found = []
    for each in of or (identity("out", purpose=Purpose.EXIT),):
        about = await stored_after(store, *DONE, of=each, entry_refs=("in",))
        await store.commit_cursors([cursor_commit(about, world=3, people=3)])
        found.append(about)
    assert [s.order for s in await store.find(["exit_of:in"])] == sorted(found, key=lambda o: o.order_id)
    return [s.order for s in await store.find(["exit_of:in"])]


async def test_what_has_ended_is_read_once_and_found_each_time(
    store: MongoStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (identity(name, purpose=Purpose.EXIT) for name in ("out-1", "out-2"))
    about = await settled(store, first, second)
    read: list[str] = []
    whole = mongo_orders.stored_from_document

    def counted(document: Mapping[str, Any], lines: Any) -> Stored:
        read.append(document["signal_id"])
        return whole(document, lines)

    monkeypatch.setattr(mongo_orders, "stored_from_document", counted)
    third = await stored_after(store, of=identity("out-3", purpose=Purpose.EXIT), entry_refs=("in",))
    assert [s.order for s in await store.find([f"signal:{about[1].signal_id}", "signal:nobody"])] == [about[1]]
    assert {s.order.signal_id: s.order for s in await store.find(["exit_of:in"])} == {
        each.signal_id: each for each in (*about, third)
    }
    assert read == ["out-3"]


async def test_what_another_process_adds_to_what_has_ended_is_found(server: Server) -> None:
    one, two = [await server.store(f"process-{n}") for n in range(2)]
    (about,) = await settled(one)
    corrected = await two.append(about, [busted("f1")])
    assert [s.order for s in await one.find(["exit_of:in"])] == [corrected]
    again = await two.append(corrected, [filled_by("f2", 100)])
    await two.commit_cursors([cursor_commit(again, world=5, people=5)])
    (found,) = await one.find(["exit_of:in"])
    assert (found.order, found.told) == (again, Told(world=5, people=5))


async def test_what_has_ended_and_has_been_changed_into_what_cannot_be_read_is_not_found(
    store: MongoStore, server: Server
) -> None:
    (about,) = await settled(store)
    records = server.collection(ORDERS)
    records.update_one({"_id": about.order_id}, {"$set": {"version": "odd"}})
    assert await store.find(["exit_of:in"]) == []
    assert len(store.unreadable(["exit_of:in"])) == 1
    records.update_one({"_id": about.order_id}, {"$set": {"version": about.version}})
    assert [s.order for s in await store.find(["exit_of:in"])] == [about]
    assert store.unreadable(["exit_of:in"]) == []


async def test_an_entry_whose_protection_has_ended_is_not_found_as_protected(store: MongoStore) -> None:
    entry = await stored_after(store, *DONE, protection_changed(), stop_loss=Decimal(9))
    await store.commit_cursors([cursor_commit(entry, world=4, people=4)])
    assert [s.order for s in await store.find(["signal:signal-1"])] == [entry]
    assert [s.order for s in await store.find([protected_in("acct-1")])] == [entry]
    over = replace(protection_changed(), state=ProtectionState.CLOSED, filled_quantity=Decimal(100))
    closed = await store.append(entry, [over])
    assert await store.find([protected_in("acct-1")]) == []
    await store.commit_cursors([cursor_commit(closed, world=5, people=5)])
    assert await store.find([protected_in("acct-1")]) == []
    assert [s.order for s in await store.find(["signal:signal-1", protected_in("acct-1")])] == [closed]


async def test_what_has_ended_is_not_found_by_a_brokers_id_that_it_bears_no_more(store: MongoStore) -> None:
    (about,) = await settled(store)
    named_anew = await store.append(about, [busted("f1"), accepted("B-8")])
    assert await store.find([f"broker:{about.broker_order_id}"]) == []
    assert [s.order for s in await store.find(["broker:B-8"])] == [named_anew]


async def test_of_what_has_ended_those_read_last_are_remembered(
    store: MongoStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled_records, "MOST_REMEMBERED", 2)
    names = [f"out-{number}" for number in range(3)]
    about = await settled(store, *(identity(name, purpose=Purpose.EXIT) for name in names))
    for _ in range(2):
        assert [s.order for s in await store.find(["exit_of:in"])] == about
    assert len(store._settled.named(["exit_of:in"])) == 2


# --- striking -------------------------------------------------------------------------------------------------------

DONE = (submit_started(), accepted(), filled_by("f1", 100))


def cursor_commit(about: Order, **changes: Any) -> CursorCommit:
    usual = CursorCommit(order_id=about.order_id, version=about.version, is_settled=about.status.is_final)
    return replace(usual, **changes)


async def told(store: MongoStore, about: Order) -> Told:
    (stored,) = await store.load([about.order_id])
    return stored.told


async def is_unsettled(store: MongoStore, about: Order) -> bool:
    return about.order_id in {s.order.order_id for s in await store.open_orders()}


async def test_a_final_order_that_owes_nothing_is_settled(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, world=3, people=3)])
    assert not await is_unsettled(store, about)
    assert await told(store, about) == Told(world=3, people=3)


async def test_a_record_that_no_update_fits_any_more_stops_no_other(store: MongoStore, server: Server) -> None:
    spoilt, sound = await inserted(store, 2)
    server.collection("execution_orders").update_one({"_id": spoilt.order_id}, {"$set": {"told": "gone"}})
    async with asyncio.timeout(20):
        await store.commit_cursors([cursor_commit(spoilt, world=0, people=0), cursor_commit(sound, world=0, people=0)])
        await store.append(sound, (submit_started(),))
    assert (await loaded(store, sound)).version == 1


async def test_lines_that_go_with_nothing_that_stands_there_are_no_outage(store: MongoStore, faults: Faults) -> None:
    about = await stored_after(store, *DONE)
    lines = {3: Line(1, 1, 1, Decimal("2.5"), Decimal(100))}
    await store.keep_lines({about.order_id: lines})
    faults.fail("update_one", WriteError("Cannot create field '3' in element {lines: \"gone\"}", 28))
    with pytest.raises(UnreadableRecord):
        await store.commit_cursors([cursor_commit(about, world=3, people=3, lines=lines)])
    assert await is_unsettled(store, about)


@pytest.mark.parametrize("first", ["world", "people"])
async def test_world_and_people_may_be_told_in_either_order(store: MongoStore, first: str) -> None:
    second = "people" if first == "world" else "world"
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, **{first: 3})])
    assert await is_unsettled(store, about)
    await store.commit_cursors([cursor_commit(about, **{second: 3})])
    assert not await is_unsettled(store, about)
    assert await told(store, about) == Told(world=3, people=3)


async def test_a_record_is_settled_when_every_cursor_has_reached_its_version(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, world=3, people=3, others={"ledger": 2})])
    assert await is_unsettled(store, about)
    assert await told(store, about) == Told(world=3, people=3, others={"ledger": 2})
    await store.commit_cursors([cursor_commit(about, world=1, people=1, others={"ledger": 3})])
    assert await is_unsettled(store, about), "one commit has to find all of them there"
    assert await told(store, about) == Told(world=3, people=3, others={"ledger": 3})
    await store.commit_cursors([cursor_commit(about, world=3, people=3, others={"ledger": 3})])
    assert not await is_unsettled(store, about)


async def test_a_cursor_that_a_record_does_not_have_stands_where_world_does(store: MongoStore) -> None:
    """Of a version that did not know it; the first commit of one that does states it."""
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, is_settled=False, world=2, people=1)])
    before = await told(store, about)
    assert (before.at("ledger"), before.at("people"), before.lowest) == (2, 1, 1)
    await store.commit_cursors([cursor_commit(about, is_settled=False, world=2, people=1, others={"ledger": 2})])
    await store.commit_cursors([cursor_commit(about, is_settled=False, world=3, people=1)])
    assert (await told(store, about)).at("ledger") == 2


async def test_one_strike_that_fails_is_said_and_leaves_the_others_made(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    missing = replace(cursor_commit(about, world=3, people=3), order_id="nowhere")
    await store.commit_cursors([missing, cursor_commit(about, world=3, people=3)])
    assert not await is_unsettled(store, about)
    assert ["'nowhere'" in unreadable.words for unreadable in store.newly_unreadable()] == [True]


async def test_an_order_that_has_moved_on_stays_unsettled(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    moved = await store.append(about, [busted("f1")])
    await store.commit_cursors([cursor_commit(about, world=3, people=3)])
    assert await is_unsettled(store, about)
    assert await told(store, about) == Told(world=3, people=3)
    assert await loaded(store, about) == moved


async def test_a_settled_order_owes_again_after_news(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, world=3, people=3)])
    moved = await store.append(about, [busted("f1")])
    assert await is_unsettled(store, about)
    again = await store.append(moved, [filled_by("f2", 100)])
    await store.commit_cursors([cursor_commit(again, world=5, people=5)])
    assert not await is_unsettled(store, about)


async def test_a_note_on_a_settled_order_makes_it_unsettled(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, world=3, people=3)])
    await store.append(about, [noted()])
    assert await is_unsettled(store, about)


async def test_a_late_strike_takes_nothing_back(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    await store.commit_cursors([cursor_commit(about, is_settled=False, world=3)])
    await store.commit_cursors([cursor_commit(about, is_settled=False, world=2)])
    assert (await told(store, about)).world == 3


async def test_a_repeated_settling_is_harmless(store: MongoStore) -> None:
    about = await stored_after(store, *DONE)
    for _ in range(2):
        await store.commit_cursors([cursor_commit(about, world=3, people=3)])
    assert not await is_unsettled(store, about)


@pytest.mark.parametrize("fault", ["lost", "refused"])
async def test_a_strike_with_an_unclear_answer_settles(store: MongoStore, faults: Faults, fault: str) -> None:
    about = await stored_after(store, *DONE)
    (faults.lose_answer if fault == "lost" else faults.refuse)("update_one")
    await store.commit_cursors([cursor_commit(about, world=3, people=3)])
    assert faults.left == 0
    assert not await is_unsettled(store, about)


async def test_many_strikes_and_appends_wait_together(store: MongoStore) -> None:
    orders = await inserted(store, 40)
    done = await asyncio.gather(*(store.append(o, DONE) for o in orders))
    late = done[::4]
    await asyncio.gather(
        store.commit_cursors([cursor_commit(o, world=3, people=3) for o in done]),
        *(store.append(o, [noted()]) for o in late),
    )
    assert {s.order.order_id for s in await store.open_orders()} == {o.order_id for o in late}
    assert all((s.told.world, s.order.version) == (3, 4) for s in await store.open_orders())


async def test_ledger_lines_are_kept_with_the_strike_and_grow(store: MongoStore) -> None:
    about = await stored_after(store, submit_started(), accepted(), filled_by("f1", 40), filled_by("f2", 60))
    first = {3: Line(3, 1, 1, Decimal(0))}
    both = first | {4: Line(4, 2, 1, Decimal("-0.10"), Decimal(60))}
    await store.commit_cursors([cursor_commit(about, is_settled=False, world=3, lines=first)])
    assert (await told(store, about)).lines == first
    await store.commit_cursors([cursor_commit(about, world=4, people=4, lines=both)])
    assert await told(store, about) == Told(world=4, people=4, lines=both)
    assert (await told(store, about)).realized_pnl == Decimal("-0.1")


async def test_lines_of_an_order_are_read_before_its_delivery_is_struck_out(store: MongoStore) -> None:
    """As after a death between the two writes of one strike."""
    about = await stored_after(store, submit_started(), accepted(), filled_by("f1", 100))
    lines = {3: Line(3, 1, 1, Decimal(0))}
    await store.keep_lines({about.order_id: lines})
    assert (await told(store, about)) == Told(lines=lines)
    assert await store.ledger_lines([about.order_id, "other"]) == {about.order_id: lines}


# --- what is left for another process -------------------------------------------------------------------------------


async def test_an_order_is_left_for_its_desk_until_it_is_picked_up(store: MongoStore) -> None:
    one, other = numbered(1), numbered(2)
    await store.insert_orders([one, other], {one.order_id: "acct-1"})
    assert await store.left_for(["acct-1", "acct-2"]) == [Unsettled(one.order_id, 0, "acct-1")]
    assert await store.left_for(["acct-2"]) == []
    await store.leave({other.order_id: "acct-2"})
    await store.leave({other.order_id: "acct-2"})
    assert [left.order_id for left in await store.left_for(["acct-1", "acct-2"])] == [one.order_id, other.order_id]
    await store.picked_up(await store.left_for(["acct-1", "acct-2"]), ["acct-1", "acct-2"])
    assert await store.left_for(["acct-1", "acct-2"]) == []
    assert len(await store.open_orders()) == 2


async def test_what_was_written_after_the_look_stays_left(store: MongoStore) -> None:
    about = await stored_after(store)
    await store.leave({about.order_id: "acct-1"})
    before = await store.left_for(["acct-1"])
    await store.append(about, [submit_started()])
    await store.picked_up(before, ["acct-1"])
    (left,) = await store.left_for(["acct-1"])
    assert left.version == 1
    await store.picked_up([left], ["acct-1"])
    assert await store.left_for(["acct-1"]) == []


async def test_unsettled_records_in_brief_of_all_or_one_account(store: MongoStore) -> None:
    mine, other = numbered(1), order(of=identity("signal-2"), account_id="acct-2")
    await store.insert_orders([mine, other])
    mine = await store.append(mine, [submit_started()])
    brief = {Unsettled(mine.order_id, 1, "acct-1"), Unsettled(other.order_id, 0, "acct-2")}
    assert set(await store.unsettled()) == brief
    assert [u.order_id for u in await store.unsettled("acct-2")] == [other.order_id]
    assert await store.unsettled("acct-3") == []


# --- leases ---------------------------------------------------------------------------------------------------------


def lease(holder: str = "one", **changes: Any) -> Lease:
    first = Lease(
        partition="acct-1",
        holder=holder,
        epoch=1,
        beat=0,
        term_seconds=8.0,
        host="host",
        pid=7,
        taken_at=NOW,
        renewed_at=NOW,
    )
    return replace(first, **changes)


async def test_a_lease_is_taken_by_one_of_many(server: Server) -> None:
    stores = [await server.store(nonce=f"n{i}") for i in range(4)]
    taken = await asyncio.gather(*(s.take_lease(lease(f"n{i}"), None) for i, s in enumerate(stores)))
    assert sorted(taken) == [False, False, False, True]
    (found,) = await stores[0].leases()
    assert found == lease(f"n{taken.index(True)}")


async def test_a_lease_that_was_renewed_is_not_taken_from_its_holder(store: MongoStore) -> None:
    assert await store.take_lease(lease(), None)
    (seen,) = await store.leases()
    await store.renew_leases("one", ["acct-1"], at(5))
    assert not await store.take_lease(lease("other", epoch=2), seen)
    (seen,) = await store.leases()
    assert seen == lease(beat=1, renewed_at=at(5))
    assert await store.take_lease(lease("other", epoch=2), seen)
    await store.renew_leases("one", ["acct-1"], at(6))
    assert await store.leases() == [lease("other", epoch=2)]


HOLDER = ProcessIdentity(
    boot_id="boot-1", pid_namespace="pid:[4026531836]", time_namespace="", pid=7, start_ticks=2**40
)


async def test_a_lease_names_the_process_that_holds_it_until_another_takes_it(store: MongoStore) -> None:
    assert await store.take_lease(lease(process=HOLDER), None)
    await store.renew_leases("one", ["acct-1"], at(5))
    (seen,) = await store.leases()
    assert seen == lease(process=HOLDER, beat=1, renewed_at=at(5))
    assert await store.take_lease(lease("other", epoch=2), seen)
    assert await store.leases() == [lease("other", epoch=2)]


async def test_of_two_successors_that_saw_the_same_dead_holder_one_has_the_lease(server: Server) -> None:
    stores = [await server.store(nonce=f"n{i}") for i in range(4)]
    assert await stores[0].take_lease(lease("dead", process=HOLDER), None)
    (seen,) = await stores[0].leases()
    taken = await asyncio.gather(*(s.take_lease(lease(f"n{i}", epoch=2), seen) for i, s in enumerate(stores)))
    assert sorted(taken) == [False, False, False, True]
    (found,) = await stores[0].leases()
    assert found == lease(f"n{taken.index(True)}", epoch=2)


@pytest.mark.parametrize(
    "process",
    [
        "boot-1",
        {},
        {"boot_id": "", "pid_namespace": "p", "time_namespace": "", "pid": 7, "start_ticks": 1},
        {"boot_id": "b", "pid_namespace": "p", "time_namespace": "", "pid": -1, "start_ticks": 1},
        {"boot_id": "b", "pid_namespace": "p", "time_namespace": "", "pid": 7.5, "start_ticks": 1},
        {"boot_id": "b", "pid_namespace": "p", "time_namespace": None, "pid": 7, "start_ticks": 1},
    ],
)
async def test_a_lease_whose_process_makes_no_sense_is_one_that_names_none(store: MongoStore, process: Any) -> None:
    assert await store.take_lease(lease(), None)
    store._db["execution_leases"].update_one({}, {"$set": {"process": process}})
    assert await store.leases() == [lease()]


async def test_a_lease_of_an_earlier_version_names_no_process(store: MongoStore) -> None:
    assert await store.take_lease(lease(process=HOLDER), None)
    store._db["execution_leases"].update_one({}, {"$unset": {"process": 1}})
    assert await store.leases() == [lease()]


async def test_a_lease_is_given_back_by_its_holder_only(store: MongoStore) -> None:
    await store.take_lease(lease(), None)
    await store.release_leases("other", ["acct-1"])
    assert [found.holder for found in await store.leases()] == ["one"]
    await store.release_leases("one", ["acct-1"])
    (found,) = await store.leases()
    assert found == lease("", beat=1)
    assert await store.take_lease(lease("other", epoch=2), found)


# --- commands -------------------------------------------------------------------------------------------------------


def command(number: int = 1, **changes: Any) -> Command:
    usual = Command(
        command_id=f"msg-{number}",
        kind="CANCEL",
        body={"order_id": "up-1", "leg_index": None, "a.b": {"$c": 1}},
        published_at=NOW,
        received_at=at(number),
    )
    return replace(usual, **changes)


async def test_a_command_is_stored_once_and_comes_back_until_it_is_done(store: MongoStore) -> None:
    assert await store.insert_command(command())
    assert not await store.insert_command(command())
    assert await store.commands(now=NOW) == [command()]
    await store.finish_command("msg-1", CommandStatus.DONE, "cancelled", None)
    assert await store.commands(now=NOW) == []


async def test_a_finished_cancel_holds_until_its_time_is_over(store: MongoStore) -> None:
    await store.insert_command(command())
    await store.finish_command("msg-1", CommandStatus.DONE, "remembered", at(60))
    (active,) = await store.commands(now=at(59))
    assert (active.status, active.outcome, active.active_until) == (CommandStatus.DONE, "remembered", at(60))
    assert await store.commands(now=at(60)) == []


async def test_a_refused_command_is_kept_but_does_not_come_back(store: MongoStore, server: Server) -> None:
    await store.insert_command(command(status=CommandStatus.REFUSED, outcome="unreadable"))
    assert await store.commands(now=NOW) == []
    assert server.collection(COMMANDS).find_one({"_id": "msg-1"})["outcome"] == "unreadable"


async def test_commands_come_in_the_order_of_their_arrival(store: MongoStore) -> None:
    for number in (3, 1, 2):
        await store.insert_command(command(number))
    assert [c.command_id for c in await store.commands(now=NOW)] == ["msg-1", "msg-2", "msg-3"]


async def test_new_commands_are_those_that_nobody_carried_out(store: MongoStore) -> None:
    for number in (3, 1, 2):
        await store.insert_command(command(number))
    await store.finish_command("msg-1", CommandStatus.DONE, "cancelled", at(60))
    assert [c.command_id for c in await store.new_commands()] == ["msg-2", "msg-3"]


async def test_cancels_are_found_by_what_they_name_if_they_are_new_or_hold(store: MongoStore) -> None:
    by_order, by_signal = {"order_id": "a", "signal_id": None}, {"order_id": None, "signal_id": "s"}
    for number, body in enumerate((by_order, by_signal, by_order, by_signal, {"signal_id": "z"}), 1):
        await store.insert_command(command(number, body=body))
    await store.finish_command("msg-2", CommandStatus.DONE, "remembered", NOW - timedelta(hours=5))
    await store.finish_command("msg-3", CommandStatus.REFUSED, "failed", None)
    await store.insert_command(command(6, body=by_signal, kind="RESOLVE"))
    assert [c.command_id for c in await store.cancels_naming(["a", "s"])] == ["msg-1", "msg-2", "msg-4"]
    assert [c.command_id for c in await store.cancels_naming(["a"])] == ["msg-1"]
    assert await store.cancels_naming([]) == []


async def test_a_store_that_answers_is_not_silent(store: MongoStore) -> None:
    await store.check()
    assert store.silent_seconds() == 0


# --- dead letters ---------------------------------------------------------------------------------------------------

PAYLOADS = [
    b"",
    b"not json",
    b"a\x00b",
    b"\xff\xfe\x80",
    b'{"signal_id": "\\ud800"}',
    bytes(range(256)) * 4096,
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=["empty", "text", "nul", "no-utf8", "half-character", "one-mebibyte"])
async def test_any_payload_is_kept_to_the_byte(store: MongoStore, payload: bytes) -> None:
    letter = DeadLetter(
        message_id="m.$1",
        payload=payload,
        reason="not a JSON object",
        publish_time=NOW,
        attributes={"a.b": "1", "$set": "2", "": "3", "traceparent": "\x00"},
        received_at=at(1),
    )
    await store.insert_dead_letters([letter])
    assert await store.dead_letter("m.$1") == letter


async def test_a_repeated_dead_letter_is_one(store: MongoStore, server: Server) -> None:
    def letter(message_id: str, reason: str) -> DeadLetter:
        return DeadLetter(
            message_id=message_id, payload=b"x", reason=reason, publish_time=NOW, attributes={}, received_at=NOW
        )

    await store.insert_dead_letters([letter("1", "first"), letter("1", "again"), letter("2", "other")])
    await store.insert_dead_letters([letter("2", "again"), letter("3", "new")])
    found = {d["_id"]: d["reason"] for d in server.collection(DEAD_LETTERS).find()}
    assert found == {"1": "first", "2": "other", "3": "new"}
    assert await store.dead_letter("4") is None
    first = await store.latest_dead_letters(2)
    rest = await store.latest_dead_letters(2, Place(moment=first[-1].received_at, row_id=first[-1].message_id))
    assert [each.message_id for each in (*first, *rest)] == ["3", "2", "1"]


# --- alerts ---------------------------------------------------------------------------------------------------------


def alert(**changes: Any) -> Alert:
    return replace(Alert(alert_id="a1", kind="dead_letter", text="one", count=1, first_at=NOW), **changes)


async def test_alarms_of_one_id_are_counted_together(store: MongoStore) -> None:
    await store.raise_alert(alert())
    await store.raise_alert(alert(text="two", count=2, first_at=at(5)))
    assert await store.unsent_alerts() == [alert(text="two", count=3)]


async def test_a_sent_alarm_does_not_come_back(store: MongoStore, server: Server) -> None:
    await store.raise_alert(alert())
    await store.raise_alert(alert(alert_id="a0", first_at=at(1)))
    first, second = await store.unsent_alerts()
    assert [first.alert_id, second.alert_id] == ["a1", "a0"]
    await store.alert_sent(first, at(9))
    assert await store.unsent_alerts() == [second]
    assert server.collection(ALERTS).find_one({"_id": "a1"})["sent_count"] == 1


async def test_alarms_of_two_processes_at_once_are_counted_together(server: Server) -> None:
    stores = [await server.store(f"process-{n}") for n in range(2)]
    await asyncio.gather(*(s.raise_alert(alert()) for s in stores for _ in range(5)))
    assert await stores[0].unsent_alerts() == [alert(count=10)]


async def test_an_alert_that_was_told_is_not_added_to(store: MongoStore) -> None:
    assert await store.raise_alert(alert())
    await store.alert_sent(alert(), at(9))
    assert not await store.raise_alert(alert(text="two"))
    assert await store.unsent_alerts() == []
    assert await store.raise_alert(alert(alert_id="another", text="two"))


async def test_an_alert_that_was_added_to_while_it_was_told_stays_to_be_told(store: MongoStore) -> None:
    await store.raise_alert(alert())
    await store.raise_alert(alert(text="two"))
    await store.alert_sent(alert(), at(9))
    assert [told.text for told in await store.unsent_alerts()] == ["two"]


# --- the ledger -----------------------------------------------------------------------------------------------------


def ledger(version: int = 1, symbol: str = "AAPL", quantity: int = 10) -> LedgerEntry:
    about = order(instrument=instrument(symbol), events=(filled_by("f1", quantity),))
    entry = LedgerEntry(key=key_of(about), instrument=about.accepted_request.instrument)
    entry, _ = fold(entry, about, applied_events(about), {})
    return replace(entry, version=version)


async def test_ledger_entries_are_saved_and_found_by_key(store: MongoStore) -> None:
    one, other = ledger(symbol="AAPL"), ledger(symbol="MSFT")
    assert await store.save_ledgers([one, other]) == [True, True]
    assert await store.ledgers([one.key, other.key, ledger(symbol="X").key]) == {one.key: one, other.key: other}


async def test_an_entry_replaces_only_the_version_before(store: MongoStore) -> None:
    assert await store.save_ledgers([ledger(1, quantity=1)]) == [True]
    assert await store.save_ledgers([ledger(1, quantity=2)]) == [False]
    assert await store.save_ledgers([ledger(3, quantity=3)]) == [False]
    assert await store.save_ledgers([ledger(2, quantity=4)]) == [True]
    assert await store.save_ledgers([ledger(2, quantity=5)]) == [False]
    assert await store.ledgers([ledger().key]) == {ledger().key: ledger(2, quantity=4)}


@pytest.mark.parametrize("version", [1, 2], ids=["that is there already", "that is overtaken"])
async def test_of_several_entries_one_that_cannot_be_saved_is_not_taken_for_saved(
    store: MongoStore, version: int
) -> None:
    """The others may seem so too, and are found as they are when they are read."""
    for number in range(1, version + 1):
        await store.save_ledgers([ledger(number, "MSFT", quantity=20)])
    apple, lost = ledger(1, "AAPL", quantity=7), ledger(version, "MSFT", quantity=8)
    is_saved, is_lost_saved = await store.save_ledgers([apple, lost])
    assert not is_lost_saved
    found = await store.ledgers([apple.key, lost.key])
    assert found[lost.key] == ledger(version, "MSFT", quantity=20)
    assert found.get(apple.key) in ((apple,) if is_saved else (apple, None))


async def test_of_two_processes_that_save_an_entry_one_wins(server: Server) -> None:
    stores = [await server.store(f"process-{n}") for n in range(2)]
    for version in range(1, 6):
        saved = await asyncio.gather(
            *(s.save_ledgers([ledger(version, quantity=version * 10 + n)]) for n, s in enumerate(stores))
        )
        assert sorted(saved) == [[False], [True]]


async def test_only_open_entries_of_the_account_are_listed_unless_all_are_wanted(store: MongoStore) -> None:
    flat = order(instrument=instrument("FLAT"), events=(filled_by("f1", 10), busted("f1")))
    entry, _ = fold(LedgerEntry(key=key_of(flat), instrument=instrument("FLAT")), flat, applied_events(flat), {})
    await store.save_ledgers([ledger(), replace(entry, version=1)])
    assert await store.open_ledgers("acct-1") == [ledger()]
    assert await store.open_ledgers("acct-2") == []
    assert {each.key for each in await store.every_ledger("acct-1")} == {ledger().key, entry.key}
    assert await store.every_ledger("acct-2") == []


# --- views ----------------------------------------------------------------------------------------------------------


def position(
    document_id: str, number: int, status: str = "OPEN", ledger_id: str = "led_1", **changes: Any
) -> ViewWrite:
    fields = {"ledger_id": ledger_id, "status": status, "seen": number}
    return replace(ViewWrite(View.POSITIONS, document_id, fields, "sequence", number), **changes)


def confirmation(document_id: str, number: int, of: Identity | None = None, **changes: Any) -> ViewWrite:
    who = of or identity(document_id)
    fields = {"signal_id": who.signal_id, "leg_index": who.leg_index, "purpose": who.purpose.value, "seen": number}
    return replace(ViewWrite(View.CONFIRMATIONS, document_id, fields, "event_number", number), **changes)


def seen(server: Server, collection: str) -> dict[Any, Any]:
    return {d["_id"]: d.get("seen") for d in server.collection(collection).find()}


@pytest.mark.parametrize("is_probably_new", [False, True])
async def test_a_view_is_made_and_only_moves_forward(store: MongoStore, server: Server, is_probably_new: bool) -> None:
    for number in (3, 2, 5, 5, 4):
        await store.write_views([confirmation("e1", number, is_probably_new=is_probably_new)])
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": 5}
    assert server.collection(CONFIRMATIONS_VIEW).find_one()["event_number"] == 5


async def test_the_same_number_changes_nothing_unless_it_is_a_repair(store: MongoStore, server: Server) -> None:
    await store.write_views([confirmation("e1", 3)])
    other = {**confirmation("e1", 3).changes, "seen": "again"}
    await store.write_views([replace(confirmation("e1", 3), changes=other)])
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": 3}
    await store.write_views([replace(confirmation("e1", 3), changes=other, rewrites=True)])
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": "again"}


async def test_old_and_new_documents_may_be_written_together(store: MongoStore, server: Server) -> None:
    await store.write_views([confirmation(f"e{n}", 5) for n in range(4)])
    mixed = [confirmation(f"e{n}", 4 + n % 3, is_probably_new=n % 2 == 0) for n in range(8)]
    await store.write_views(mixed)
    assert seen(server, CONFIRMATIONS_VIEW) == {f"e{n}": max(5 if n < 4 else 0, 4 + n % 3) for n in range(8)}


def signal_view(document_id: str, number: int, **changes: Any) -> ViewWrite:
    return replace(ViewWrite(View.SIGNALS, document_id, {"seen": number}, "reflects", number), **changes)


@pytest.mark.parametrize("is_stale", [False, True], ids=["all new", "one is further on"])
async def test_views_of_several_collections_are_written_together(
    store: MongoStore, server: Server, is_stale: bool
) -> None:
    if is_stale:
        await store.write_views([confirmation("e1", 9)])
    await store.write_views([confirmation("e1", 1, is_probably_new=True), signal_view("s1", 1, is_probably_new=True)])
    await store.write_views([confirmation("e1", 2), signal_view("s1", 2), signal_view("s2", 1)])
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": 9 if is_stale else 2}
    assert seen(server, SIGNALS_VIEW) == {"s1": 2, "s2": 1}


async def test_views_whose_one_commit_gets_no_answer_may_be_written_again(
    store: MongoStore, server: Server, faults: Faults
) -> None:
    if server.kind != "secantus":
        pytest.skip("only a store of our own writes them in one commit")
    writes = [confirmation("e1", 1, is_probably_new=True), signal_view("s1", 1, is_probably_new=True)]
    faults.lose_answer("commit_transaction")
    with pytest.raises(StoreUnavailable):
        await store.write_views(writes)
    assert faults.left == 0
    await store.write_views(writes)
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": 1}
    assert seen(server, SIGNALS_VIEW) == {"s1": 1}


async def test_a_view_written_by_two_at_once_ends_with_the_later_number(server: Server) -> None:
    stores = [await server.store(f"process-{n}") for n in range(2)]
    for round_ in range(10):
        writes = [confirmation(f"e{round_}", number) for number in (1, 2)]
        await asyncio.gather(*(s.write_views([w]) for s, w in zip(stores, writes, strict=True)))
    assert seen(server, CONFIRMATIONS_VIEW) == {f"e{n}": 2 for n in range(10)}


async def test_a_document_made_at_the_same_moment_with_an_older_number_is_overtaken(
    store: MongoStore, server: Server, faults: Faults
) -> None:
    """The server refuses the later number as a duplicate, because the document came into being between its look and its insert."""
    await store.write_views([confirmation("e1", 1), confirmation("e2", 9)])
    refusals = [{"index": index, "code": 11000, "errmsg": "duplicate"} for index in (0, 1)]
    faults.fail("bulk_write", BulkWriteError({"writeErrors": refusals, "writeConcernErrors": []}))
    await store.write_views([confirmation("e1", 2), confirmation("e2", 2)])
    assert faults.left == 0
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": 2, "e2": 9}


@pytest.mark.parametrize("is_probably_new", [False, True])
async def test_a_clash_with_another_document_is_not_swallowed_and_hinders_no_other_write(
    store: MongoStore, server: Server, is_probably_new: bool
) -> None:
    foreign = {"_id": "theirs", "signal_id": "s", "leg_index": 0, "purpose": "ENTRY"}
    server.collection(CONFIRMATIONS_VIEW).insert_one(foreign)
    clash = confirmation("ours", 1, of=identity("s"), is_probably_new=is_probably_new)
    with pytest.raises(BulkWriteError):
        await store.write_views([confirmation("e1", 1), clash, confirmation("e2", 1)])
    assert seen(server, CONFIRMATIONS_VIEW) == {"theirs": None, "e1": 1, "e2": 1}


async def test_a_clash_that_lasts_is_left_as_it_is_and_said_once(store: MongoStore, server: Server) -> None:
    foreign = {"_id": "theirs", "signal_id": "s", "leg_index": 0, "purpose": "ENTRY"}
    server.collection(CONFIRMATIONS_VIEW).insert_one(foreign)
    clash = confirmation("ours", 1, of=identity("s"))
    for _ in range(4):
        with pytest.raises(BulkWriteError):
            await store.write_views([clash])
    for number in range(3):
        await store.write_views([confirmation(f"e{number}", 1), clash])
    assert seen(server, CONFIRMATIONS_VIEW) == {"theirs": None, "e0": 1, "e1": 1, "e2": 1}
    (unreadable,) = store.newly_unreadable()
    assert "execution_confirmations ours" in unreadable.words
    server.collection(CONFIRMATIONS_VIEW).delete_one({"_id": "theirs"})
    await store.write_views([clash])
    assert seen(server, CONFIRMATIONS_VIEW)["ours"] == 1


@pytest.mark.parametrize("theirs", ["text", [1], 5])
async def test_a_document_of_others_that_takes_no_update_holds_up_no_other(
    store: MongoStore, server: Server, theirs: Any
) -> None:
    if server.kind == "memory":
        pytest.skip("mongomock refuses no such update")
    write = signal({"status": "FILLED"}, 3)
    document = {
        "_id": with_ids(write.document_id),
        "signal_id": "s",
        "execution_reflects": theirs,
        "exit_signals": theirs,
    }
    server.collection(SIGNALS_VIEW).insert_one(document)
    sound = replace(write, document_id=HexId("a" * 24))
    for _ in range(2):
        await store.write_views([write, sound])
        await store.write_views([replace(write, number_field=None, adds_to_sets={"exit_signals": HexId("b" * 24)})])
    assert server.collection(SIGNALS_VIEW).find_one({"_id": with_ids(sound.document_id)})["execution_reflects"]
    assert len(store.newly_unreadable()) == 1


async def test_signals_of_others_that_make_no_sense_hide_none_that_do(store: MongoStore, server: Server) -> None:
    server.collection(SIGNALS_VIEW).insert_many(
        [{"_id": 1, "signal_id": ["a", "b"]}, {"_id": {"x": 1}, "signal_id": "b"}, {"_id": "mine", "signal_id": "a"}]
    )
    assert await store.signal_documents(["a", "b"]) == {"a": "mine"}


async def test_signals_are_told_besides_those_whose_document_is_known(store: MongoStore, server: Server) -> None:
    ours, theirs = HexId("a" * 24), HexId("b" * 24)
    server.collection(SIGNALS_VIEW).insert_many(
        [{"_id": with_ids(ours), "signal_id": "a"}, {"_id": with_ids(theirs), "signal_id": "b"}]
    )
    found = {"a": with_ids(ours), "b": with_ids(theirs)}
    assert await store.signal_documents(["a", "b"]) == found
    assert await store.signal_documents(["a", "b"], besides=[ours]) == {"b": found["b"]}


def test_a_moment_beyond_the_calendar_or_a_text_that_is_none_spoils_one_document() -> None:
    client = connect("mongodb://127.0.0.1:9/?connect=false")
    raw = bson.encode({"_id": "c", "published_at": DatetimeMS(2**60), "kind": "CANCEL"})
    with pytest.raises(UnreadableRecord):
        command_from_document(bson.decode(raw, client.codec_options))
    broken = bson.encode({"_id": "c", "kind": "abc"}).replace(b"abc", b"\xff\xfe\xfd")
    with pytest.raises(UnreadableRecord):
        command_from_document(bson.decode(broken, client.codec_options))
    client.close()


async def test_there_is_one_open_position_of_a_key(store: MongoStore, server: Server) -> None:
    await store.write_views([position("pos_1", 1)])
    with pytest.raises(BulkWriteError):
        await store.write_views([position("pos_2", 2)])
    await store.write_views([position("pos_3", 1, ledger_id="led_2")])
    assert seen(server, POSITIONS_VIEW) == {"pos_1": 1, "pos_3": 1}


@pytest.mark.parametrize("is_probably_new", [False, True])
async def test_a_flip_closes_before_it_opens_in_whatever_order_it_is_given(
    store: MongoStore, server: Server, is_probably_new: bool
) -> None:
    await store.write_views([position("pos_1", 1)])
    await store.write_views([position("pos_2", 2, is_probably_new=is_probably_new), position("pos_1", 2, "CLOSED")])
    found = {d["_id"]: d["status"] for d in server.collection(POSITIONS_VIEW).find()}
    assert found == {"pos_1": "CLOSED", "pos_2": "OPEN"}


async def test_an_old_open_position_that_offends_against_both_indexes_is_benign(
    store: MongoStore, server: Server
) -> None:
    """It clashes with its own `_id` and with the open position of today, and servers name either."""
    await store.write_views([position("pos_1", 5, "CLOSED"), position("pos_2", 5)])
    await store.write_views([position("pos_1", 3), position("pos_2", 4)])
    assert seen(server, POSITIONS_VIEW) == {"pos_1": 5, "pos_2": 5}


async def test_a_closed_position_may_be_open_again(store: MongoStore, server: Server) -> None:
    for number, status in ((1, "OPEN"), (2, "CLOSED"), (3, "OPEN")):
        await store.write_views([position("pos_1", number, status)])
    assert server.collection(POSITIONS_VIEW).find_one()["status"] == "OPEN"


async def test_what_belongs_to_others_is_changed_but_never_made(store: MongoStore, server: Server) -> None:
    write = ViewWrite(View.TRADING_ORDERS, "up-1", {"status": "FILLED"}, creates=False, match_field="order_id")
    await store.write_views([write])
    orders = server.collection(TRADING_ORDERS_VIEW)
    assert list(orders.find()) == []
    orders.insert_one({"_id": 7, "order_id": "up-1", "status": "PENDING", "price": 1.5})
    await store.write_views([write])
    assert list(orders.find()) == [{"_id": 7, "order_id": "up-1", "status": "FILLED", "price": 1.5}]


async def test_an_accounts_positions_are_replaced_as_a_whole(store: MongoStore, server: Server) -> None:
    accounts = server.collection(TRADING_ACCOUNTS_VIEW)
    assert not await store.has_trading_account("acct-1")
    write = ViewWrite(View.TRADING_ACCOUNTS, "acct-1", {"open_positions": [{"quantity": 1.0}]}, creates=False)
    await store.write_views([write])
    assert list(accounts.find()) == []
    accounts.insert_one({"_id": "acct-1", "balances": {"equity": 1.0}, "open_positions": [{"quantity": 9.0}] * 2})
    assert await store.has_trading_account("acct-1")
    await store.write_views([write])
    found = accounts.find_one()
    assert found == {"_id": "acct-1", "balances": {"equity": 1.0}, "open_positions": [{"quantity": 1.0}]}


def signal(execution: Any, number: int, cause: str = "ord_a", **changes: Any) -> ViewWrite:
    fields = {"signal_id": "s", "execution": execution}
    return replace(ViewWrite(View.SIGNALS, HexId(HEX), fields, f"execution_reflects.{cause}", number), **changes)


async def test_a_signals_execution_that_is_null_takes_the_whole_object(store: MongoStore, server: Server) -> None:
    signals = server.collection(SIGNALS_VIEW)
    write = signal({"status": "FILLED"}, 3)
    theirs = with_ids(write.document_id)
    signals.insert_one({"_id": theirs, "signal_id": "s", "execution": None, "exit_signals": [], "own": 1})
    await store.write_views([write])
    found = signals.find_one({"_id": theirs})
    assert (found["execution"], found["own"], found["execution_reflects"]) == ({"status": "FILLED"}, 1, {"ord_a": 3})
    assert await store.signal_documents(["s", "t"]) == {"s": theirs}


@pytest.mark.parametrize("is_probably_new", [False, True])
async def test_a_signal_keeps_one_number_for_each_order_that_it_reflects(
    store: MongoStore, server: Server, is_probably_new: bool
) -> None:
    await store.write_views([signal(1, 5, is_probably_new=is_probably_new)])
    await store.write_views([signal(2, 2, "ord_b", is_probably_new=is_probably_new)])
    await store.write_views([signal(3, 4, is_probably_new=is_probably_new)])
    (found,) = server.collection(SIGNALS_VIEW).find()
    assert (found["execution"], found["execution_reflects"]) == (2, {"ord_a": 5, "ord_b": 2})


async def test_two_legs_that_make_one_signals_document_together_both_get_in(store: MongoStore, server: Server) -> None:
    await store.write_views([signal(1, 1, is_probably_new=True), signal(1, 1, "ord_b", is_probably_new=True)])
    (found,) = server.collection(SIGNALS_VIEW).find()
    assert found["execution_reflects"] == {"ord_a": 1, "ord_b": 1}


async def test_an_exits_signal_is_named_once_in_its_entry(store: MongoStore, server: Server) -> None:
    adds = {"exit_signals": HexId("f" * 24)}
    for number in (1, 2):
        await store.write_views([signal(number, number, "ord_exit", adds_to_sets=adds)])
    (found,) = server.collection(SIGNALS_VIEW).find()
    assert found["exit_signals"] == [with_ids(HexId("f" * 24))]


async def test_views_that_cannot_be_written_now_say_so(store: MongoStore, faults: Faults) -> None:
    faults.refuse("bulk_write")
    with pytest.raises(StoreUnavailable):
        await store.write_views([confirmation("e1", 1)])
    await store.write_views([confirmation("e1", 1)])


async def test_views_whose_answer_was_lost_may_be_written_again(
    store: MongoStore, server: Server, faults: Faults
) -> None:
    faults.lose_answer("insert_many")
    writes = [confirmation("e1", 1, is_probably_new=True), confirmation("e2", 1, is_probably_new=True)]
    with pytest.raises(StoreUnavailable):
        await store.write_views(writes)
    await store.write_views(writes)
    assert seen(server, CONFIRMATIONS_VIEW) == {"e1": 1, "e2": 1}


# --- durability -----------------------------------------------------------------------------------------------------


async def test_every_table_of_the_embedded_server_is_made_before_the_first_document(tmp_path: Path) -> None:
    """It makes one with a collection's first document, and does not start again where it is killed in the midst of that."""
    process = SecantusProcess(tmp_path / "data")
    server = Server("secantus", process.uri)
    try:
        await server.store()
        made = {path.name for path in (tmp_path / "data").glob("*.wt")}
        for name in WRITTEN:
            assert server.collection(name).count_documents({}) == 0
            server.collection(name).insert_one({"_id": "first"})
        assert {path.name for path in (tmp_path / "data").glob("*.wt")} == made
        await server.close()
    finally:
        process.kill()


async def test_what_was_acknowledged_is_there_after_the_server_was_killed(tmp_path: Path) -> None:
    process = SecantusProcess(tmp_path / "data")
    before = Server("secantus", process.uri)
    try:
        store = await before.store()
        orders = await inserted(store, 50)
        after = await asyncio.gather(*(store.append(o, DONE) for o in orders))
        alone = await store.append(after[0], [noted("alone")])
        lines = {3: Line(3, 1, 1, Decimal("1.5"))}
        await store.commit_cursors([cursor_commit(after[1], world=3, people=3, lines=lines)])
        await store.save_ledgers([ledger()])
        await store.write_views([confirmation("e1", 1), position("pos_1", 1)])
        await store.insert_command(command())
        await store.raise_alert(alert())
    finally:
        process.kill()
    again = SecantusProcess(tmp_path / "data")
    reopened = Server("secantus", again.uri)
    reopened.database = before.database
    try:
        store = await reopened.store("process-2")
        assert [s.order for s in await store.load([o.order_id for o in orders])] == [alone, *after[1:]]
        assert not await is_unsettled(store, after[1])
        assert await told(store, after[1]) == Told(world=3, people=3, lines=lines)
        assert await store.ledgers([ledger().key]) == {ledger().key: ledger()}
        assert seen(reopened, CONFIRMATIONS_VIEW) == {"e1": 1}
        assert seen(reopened, POSITIONS_VIEW) == {"pos_1": 1}
        assert await store.commands(now=NOW) == [command()]
        assert await store.unsent_alerts() == [alert()]
        await reopened.close()
    finally:
        again.kill()


# --- discrepancies --------------------------------------------------------------------------------------------------


def differing(
    quantity: int = 150, *, account_id: str = "acct-1", seconds: float = 0, subject: str = "AAPL"
) -> Discrepancy:
    finding = Finding(
        kind=DiscrepancyKind.POSITION_DIFFERS, subject=subject, ours="100", theirs=str(quantity), instrument=subject
    )
    return Discrepancy(
        account_id=account_id,
        finding=finding,
        opened_at=at(seconds),
        updated_at=at(seconds),
        owner=Owner.OPERATOR,
        next_step="Compare.",
    )


async def test_open_discrepancies_of_an_account_come_back_as_they_were(store: MongoStore) -> None:
    first, second = differing(), differing(subject="SPY", seconds=5)
    assert await store.insert_discrepancy(second)
    assert await store.insert_discrepancy(first)
    assert await store.insert_discrepancy(differing(account_id="acct-2"))
    assert await store.open_discrepancies("acct-1") == [first, second]


async def test_pages_of_discrepancies_are_the_latest_first_of_one_account_or_all(store: MongoStore) -> None:
    rows = [differing(subject=f"S{number}", seconds=number % 2) for number in range(4)]
    for row in (*rows, differing(account_id="acct-2", seconds=9)):
        assert await store.insert_discrepancy(row)
    await store.save_discrepancy(replace(rows[0], state=DiscrepancyState.CLOSED, closed_at=at(20)))
    shown: list[Discrepancy] = []
    place: Place | None = None
    while page := await store.page_of_discrepancies(is_open=True, account_id="acct-1", after=place, limit=2):
        shown += page
        place = Place(moment=page[-1].opened_at, row_id=page[-1].discrepancy_id)
    assert sorted(each.finding.subject for each in shown) == ["S1", "S2", "S3"]
    assert [each.opened_at for each in shown] == [at(1), at(1), at(0)]
    every = await store.page_of_discrepancies(is_open=False, account_id=None, after=None, limit=9)
    assert (len(every), every[0].account_id) == (5, "acct-2")
    assert await store.adoptions_closing([rows[0].discrepancy_id]) == {}


async def test_a_discrepancy_is_found_by_its_id_and_what_is_to_close_it_by_that(store: MongoStore) -> None:
    row = differing()
    await store.insert_discrepancy(row)
    assert await store.discrepancy(row.discrepancy_id) == row
    assert await store.discrepancy("dis_of_nobody") is None
    told = adopted(discrepancy_id=row.discrepancy_id)
    closing = adopted_order(told=told, entry_refs=("entry",))
    instead = adopted_order(signal_id="adopt-2", purpose=Purpose.ENTRY, stands_for=("entry", "a" * 24))
    await store.insert_orders([closing, instead])
    found = {name: [s.order for s in await store.find([name])] for name in ("signal:entry", f"signal:{'a' * 24}")}
    assert found == {"signal:entry": [instead], f"signal:{'a' * 24}": [instead]}
    for name in (f"discrepancy:{row.discrepancy_id}", "exit_of:entry", "signal:adopt-1"):
        assert [s.order for s in await store.find([name])] == [closing]


async def test_same_discrepancy_is_open_once(server: Server, store: MongoStore) -> None:
    other = await server.store("process-2")
    assert await store.insert_discrepancy(differing())
    assert not await store.insert_discrepancy(differing())
    assert not await other.insert_discrepancy(differing(160, seconds=60))
    assert await other.open_discrepancies("acct-1") == [differing()]


async def test_discrepancy_is_brought_up_to_date_and_closed_for_good(store: MongoStore, server: Server) -> None:
    await store.insert_discrepancy(differing())
    changed = replace(differing(), finding=differing(160).finding, updated_at=at(60), is_alerted=True)
    await store.save_discrepancy(changed)
    assert await store.open_discrepancies("acct-1") == [changed]
    await store.save_discrepancy(replace(changed, state=DiscrepancyState.CLOSED, closed_at=at(120)))
    assert await store.open_discrepancies("acct-1") == []
    await store.save_discrepancy(changed)
    assert await store.open_discrepancies("acct-1") == []
    (document,) = server.collection(DISCREPANCIES).find()
    assert document["state"] == "CLOSED"


async def test_closed_discrepancy_that_comes_back_is_a_new_one(store: MongoStore, server: Server) -> None:
    await store.insert_discrepancy(differing())
    await store.save_discrepancy(replace(differing(), state=DiscrepancyState.CLOSED, closed_at=at(60)))
    again = differing(seconds=3600)
    assert await store.insert_discrepancy(again)
    assert await store.open_discrepancies("acct-1") == [again]
    assert server.collection(DISCREPANCIES).count_documents({}) == 2


async def test_discrepancy_that_cannot_be_read_does_not_hide_the_others(store: MongoStore, server: Server) -> None:
    await store.insert_discrepancy(differing())
    await store.insert_discrepancy(differing(subject="SPY"))
    server.collection(DISCREPANCIES).update_one({"finding.subject": "AAPL"}, {"$set": {"format": 99}})
    assert await store.open_discrepancies("acct-1") == [differing(subject="SPY")]


async def test_discrepancies_while_the_server_is_away_say_so(store: MongoStore, faults: Faults) -> None:
    faults.refuse("insert_many")
    with pytest.raises(StoreUnavailable):
        await store.insert_discrepancy(differing())
    faults.lose_answer("insert_many")
    with pytest.raises(StoreUnavailable):
        await store.insert_discrepancy(differing())
    assert await store.open_discrepancies("acct-1") == [differing()]


@pytest.mark.parametrize("odd", [{"a": 1}, 5], ids=str)
async def test_a_ledger_document_of_an_odd_id_is_unreadable_and_hides_no_other(
    store: MongoStore, server: Server, odd: Any
) -> None:
    about = order(instrument=instrument("AAPL"))
    held = Position(quantity=Decimal(5), is_long=True, episode=1)
    entry = LedgerEntry(key=key_of(about), instrument=instrument("AAPL"), version=1, position=held)
    await store.save_ledgers([entry])
    server.collection(POSITIONS).insert_one({"_id": odd, "account_id": "acct-1", "is_open": True})
    for _ in range(2):
        assert await store.ledgers_of_account("acct-1", []) == [entry]
    assert len(store.newly_unreadable()) == 1


async def test_ledgers_of_an_account_are_the_open_ones_and_the_flat_ones_of_given_symbols(store: MongoStore) -> None:
    def entry(symbol: str, quantity: int, account_id: str = "acct-1") -> LedgerEntry:
        about = order(instrument=instrument(symbol), account_id=account_id)
        held = Position(quantity=Decimal(quantity), is_long=True, episode=1)
        return LedgerEntry(key=key_of(about), instrument=instrument(symbol), version=1, position=held)

    entries = [entry("AAPL", 5), entry("SPY", 0), entry("QQQ", 0), entry("AAPL", 7, "acct-2")]
    await store.save_ledgers(entries)
    assert {e.instrument.symbol for e in await store.ledgers_of_account("acct-1", ["SPY", "TSLA"])} == {"AAPL", "SPY"}
    assert [e.position.quantity for e in await store.ledgers_of_account("acct-2", [])] == [Decimal(7)]


async def test_a_holding_is_worked_out_anew_only_where_its_document_has_changed(
    store: MongoStore, server: Server
) -> None:
    about = order(instrument=instrument("AAPL"), account_id="acct-1")
    held = Position(quantity=Decimal(5), is_long=True, episode=1)
    entry = LedgerEntry(key=key_of(about), instrument=instrument("AAPL"), version=1, position=held)
    await store.save_ledgers([entry])
    (first,) = await store.ledgers_of_account("acct-1", [])
    (again,) = await store.ledgers_of_account("acct-1", [])
    assert again is first
    await store.save_ledgers([replace(entry, version=2, position=replace(held, quantity=Decimal(8)))])
    (later,) = await store.ledgers_of_account("acct-1", [])
    assert later.position.quantity == 8
    # By hand, and without another version.
    mended = {"$set": {"position.quantity": "9"}}
    server.collection("execution_positions").update_one({"_id": entry.key.ledger_id}, mended)
    (by_hand,) = await store.ledgers_of_account("acct-1", [])
    assert by_hand.position.quantity == 9


# --- kill switches --------------------------------------------------------------------------------------------------


def engaged_record(scope: Scope, version: int = 0) -> SwitchRecord:
    record = SwitchRecord(switch=Switch(scope=scope, version=version))
    return with_engaged(record, KillLevel.REDUCE_ONLY, by="ann", reason="trial", now=NOW, command_id=f"k{version}")


async def test_a_switch_is_put_only_in_the_place_of_what_was_seen(store: MongoStore) -> None:
    first = engaged_record(Scope(symbol="AAPL"))
    assert await store.put_switch(first, None)
    assert not await store.put_switch(first, None)
    (seen,) = await store.switches()
    assert seen == first
    second = with_engaged(first, KillLevel.HALT, by="bob", reason="worse", now=NOW, command_id="k2")
    assert await store.put_switch(second, seen)
    assert not await store.put_switch(second, seen)
    assert await store.switches() == [second]


@pytest.mark.parametrize("odd", [{}, {"version": "odd"}, {"version": 3}, {"version": None}, {"version": {"a": 1}}])
async def test_an_unreadable_switch_is_told_and_can_be_replaced(store: MongoStore, odd: dict[str, Any]) -> None:
    store._db[KILL_SWITCHES].insert_one({"_id": "symbol:AAPL", **odd})
    (seen,) = await store.switches()
    assert isinstance(seen, UnreadableSwitch)
    assert seen.scope == Scope(symbol="AAPL")
    record = engaged_record(Scope(symbol="AAPL"), 10)
    assert await store.put_switch(record, seen)
    assert not await store.put_switch(record, seen)
    assert await store.switches() == [record]


async def test_a_document_whose_key_is_no_scope_is_of_no_scope(store: MongoStore) -> None:
    store._db[KILL_SWITCHES].insert_many([{"_id": 7}, {"_id": "symbol:aapl"}, {"_id": "what"}])
    found = await store.switches()
    assert all(isinstance(each, UnreadableSwitch) and each.scope is None for each in found)
    assert len(found) == 3


# --- bookmarks ------------------------------------------------------------------------------------------------------


async def test_bookmark_is_the_last_that_was_set_and_each_name_has_its_own(store: MongoStore) -> None:
    assert await store.bookmark("quantum:stream:a.b") is None
    await store.set_bookmark("quantum:stream:a.b", "1-0")
    await store.set_bookmark("quantum:stream:a.b", "2-0")
    await store.set_bookmark("other", "9-0")
    assert await store.bookmark("quantum:stream:a.b") == "2-0"
    assert await store.bookmark("other") == "9-0"


async def test_bookmark_that_makes_no_sense_is_none(store: MongoStore) -> None:
    store._db["execution_bookmarks"].insert_one({"_id": "odd", "value": {"a": 1}})
    assert await store.bookmark("odd") is None


async def test_bookmarks_while_the_server_is_away_say_so(store: MongoStore, faults: Faults) -> None:
    faults.refuse("find_one")
    with pytest.raises(StoreUnavailable):
        await store.bookmark("a")
    faults.refuse("update_one")
    with pytest.raises(StoreUnavailable):
        await store.set_bookmark("a", "1-0")


# --- risk documents ---------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_waited_for_three_seconds_whatever_the_address_says() -> None:
    with connect("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=30000&connectTimeoutMS=20000") as client:
        assert client.options.server_selection_timeout == 3
        assert client.options.pool_options.connect_timeout == 3


async def test_a_risk_document_is_made_when_it_is_first_asked_for(store: MongoStore) -> None:
    assert await store.read_risk_book("acct-1") is None
    assert (await store.risk_book("acct-1")).version == 1
    assert (await store.risk_book("acct-1")).version == 1


async def test_a_risk_document_comes_back_as_it_was_saved(store: MongoStore) -> None:
    reservation = Reservation(
        order_id="ord_1",
        strategy="momentum",
        instrument_key="AAPL",
        symbol="AAPL",
        side=Side.BUY,
        quantity=Decimal("0.10"),
        unit_value=None,
        is_exit=False,
        at=NOW,
    )
    book = replace(await store.risk_book("acct-1"), version=2, reservations=(reservation,))
    assert await store.save_risk_book(book)
    assert await store.read_risk_book("acct-1") == book
    assert await store.risk_books() == [book]


async def test_of_two_writers_of_a_risk_document_the_second_has_to_read_it_again(store: MongoStore) -> None:
    book = await store.risk_book("acct-1")
    assert await store.save_risk_book(replace(book, version=2, fence=1))
    assert not await store.save_risk_book(replace(book, version=2, fence=2))
    assert (await store.risk_book("acct-1")).fence == 1


async def test_of_two_that_make_a_risk_document_one_does(store: MongoStore) -> None:
    made = await asyncio.gather(*(store.save_risk_book(new_book("acct-1", version=1)) for _ in range(3)))
    assert sorted(made) == [False, False, True]


async def test_a_raised_fence_undoes_what_was_judged_before(store: MongoStore) -> None:
    book = await store.risk_book("acct-1")
    other = await store.risk_book("acct-2")
    assert await store.raise_fences(Scope(account_id="acct-1", strategy="momentum")) == 1
    assert not await store.save_risk_book(replace(book, version=2))
    assert await store.save_risk_book(replace(other, version=2))
    assert await store.raise_fences(Scope(symbol="AAPL")) == 2
    fenced = await store.risk_book("acct-1")
    assert (fenced.version, fenced.fence) == (3, 2)


async def test_a_risk_document_that_cannot_be_read_is_left_alone_and_keeps_no_other_from_being_fenced(
    store: MongoStore, server: Server
) -> None:
    await store.risk_book("acct-2")
    collection = store._db["execution_risk"]
    collection.insert_one({"_id": "acct-1", "format": 1, "account_id": "acct-1", "version": "many"})
    with pytest.raises(UnreadableRecord):
        await store.risk_book("acct-1")
    assert [unreadable.account_id for unreadable in store.newly_unreadable()] == ["acct-1"]
    assert await store.raise_fences(Scope()) == 1
    assert [book.account_id for book in await store.risk_books()] == ["acct-2"]


async def test_a_lost_answer_of_a_risk_document_is_said_and_the_document_is_there(
    store: MongoStore, faults: Faults
) -> None:
    book = await store.risk_book("acct-1")
    faults.lose_answer("replace_one")
    with pytest.raises(StoreUnavailable):
        await store.save_risk_book(replace(book, version=2, fence=7))
    assert (await store.risk_book("acct-1")).fence == 7


# --- trades ---------------------------------------------------------------------------------------------------------


def trade_rows(number: int, price: str = "10.1", **changes: Any) -> list[TradeRow]:
    """Of an order that bought 3 at so many seconds after NOW, for a commission of 0.1."""
    paid = {"commission": Decimal("0.1"), "commission_currency": "USD"}
    events = (submit_started(), accepted(), filled_by("f1", 3, price, time=at(number), **paid))
    about = order(of=identity(f"traded-{number}"), events=events, **changes)
    return [row for event in applied_events(about) for row in rows_of(event, "PRODUCTION")]


async def test_a_trade_is_kept_once_and_never_changed(store: MongoStore, server: Server) -> None:
    (first,), (second,) = trade_rows(1), trade_rows(2)
    confirmation = ViewWrite(View.CONFIRMATIONS, "exec_1", {"signal_id": "s"}, "event_number", 1, is_probably_new=True)
    await store.write_views([trade_write(first), confirmation])
    server.collection(TRADES_VIEW).update_one({"_id": first.trade_id}, {"$set": {"note": "of a reader"}})
    await store.write_views([trade_write(first), confirmation, trade_write(second)])
    assert await store.latest_trades(None, 10) == PageOfTrades([second, first], None)
    assert server.collection(TRADES_VIEW).find_one({"_id": first.trade_id})["note"] == "of a reader"


async def test_pages_of_trades_are_the_latest_first_and_those_that_are_named_are_found(store: MongoStore) -> None:
    rows = [row for number in (5, 90_000, 1, 4_000_000) for row in trade_rows(number)]
    await store.write_views(list(map(trade_write, rows)))
    first = await store.latest_trades(None, 3)
    assert [row.at for row in first.rows] == [at(4_000_000), at(90_000), at(5)]
    last = await store.latest_trades(first.following, 3)
    assert ([row.at for row in last.rows], last.following) == ([at(1)], None)
    assert await store.trades_named([rows[0].trade_id, "trade_unheard_of"]) == [rows[0]]


async def test_documents_of_others_among_the_trades_hide_none_and_end_no_page(
    store: MongoStore, server: Server
) -> None:
    (row,) = trade_rows(1)
    await store.write_views([trade_write(row)])
    others = [f"trade_f{number}" for number in range(5)] + ["trades", "tradf", "a", 7]
    server.collection(TRADES_VIEW).insert_many([{"_id": other} for other in others])
    found, place = [], None
    for _ in range(3):
        page = await store.latest_trades(place, 2)
        found.append(page.rows)
        place = page.following
    assert (found, place) == ([[], [], [row]], None)


async def test_an_amount_that_is_not_known_counts_until_its_row_is_taken_back(store: MongoStore) -> None:
    future = instrument("ES", asset_class=AssetClass.FUTURE, expiry="202612")
    paid = {"commission": Decimal("0." + "1" * 40), "commission_currency": "USD"}
    for number, fees in enumerate(({}, paid)):
        begun = (
            contract_resolved(multiplier=None, is_size_unknown=True),
            *(submit_started(), accepted(), filled_by("f1", 2, 5000, **fees)),
        )
        about = order(of=identity(f"traded-{number}"), events=(*begun, busted("f1")), instrument=future)
        rows = [row for event in applied_events(about) for row in rows_of(event, None)]
        for row, unknown in zip(rows, (1, 0), strict=True):
            await store.write_views([trade_write(row)])
            assert sum(cash.unknown for cash in await store.cash_by_trades()) == unknown


async def test_cash_is_added_up_exactly_by_account_and_currency(store: MongoStore) -> None:
    euro = instrument("SAP", currency="EUR")
    many = [row for number in range(30) for row in trade_rows(number)]
    rows = [*many, *trade_rows(50, "7", instrument=euro), *trade_rows(60, "1", account_id="other")]
    await store.write_views(list(map(trade_write, rows)))
    found = {(cash.account_id, cash.currency): cash for cash in await store.cash_by_trades()}
    assert {place: (cash.traded, cash.commissions) for place, cash in found.items()} == {
        ("acct-1", "EUR"): (Decimal(-21), Decimal(0)),
        ("acct-1", "USD"): (Decimal("-909.0"), Decimal("3.1")),
        ("other", "USD"): (Decimal(-3), Decimal("0.1")),
    }
    assert found["acct-1", "USD"].change == Decimal("-912.1")


async def test_decisions_are_known_by_either_id(store: MongoStore, server: Server) -> None:
    documents = [{"_id": "a"}, {"_id": bson.ObjectId(HEX)}, {"_id": 1, "decision_id": "b"}, {"_id": 2}]
    server.collection(DECISIONS_OF_OTHERS).insert_many(documents)
    wanted = ["a", "b", "c", "2", HEX, "0" * 24, "9" * 40]
    assert await store.known_decisions(wanted) == {"a", "b", "2", HEX}


async def test_all_records_are_gone_through_by_their_ids(store: MongoStore) -> None:
    orders = [numbered(number) for number in range(5)]
    await store.insert_orders(orders)
    found: list[str] = []
    while more := await store.order_ids_after(found[-1] if found else "", 2):
        found += more
    assert found == sorted(each.order_id for each in orders)
