"""Whatever stands in any collection of the store, in any field: orders trade, commands work, leases hold, alerts are sent, execctl reads."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerKey
from execution_service.core.views.record import (
    discrepancy_from_document,
    discrepancy_to_document,
    ledger_from_document,
    ledger_to_document,
)
from execution_service.core.views.shared import confirmation_id
from execution_service.storage.mongo.names import (
    ALERTS,
    COMMANDS,
    CONFIRMATIONS_VIEW,
    DEAD_LETTERS,
    DISCREPANCIES,
    LEASES,
    LEDGER_LINES,
    ORDERS,
    POSITIONS,
    POSITIONS_VIEW,
    SIGNALS_VIEW,
    TRADING_ACCOUNTS_VIEW,
    TRADING_ORDERS_VIEW,
    UNSETTLED,
)
from execution_service.storage.reader import StoreReader
from execution_service.trading.trader import TradingRules
from tests.builders import identity, order
from tests.fakes import ACCOUNT, BY_HAND, World, world_of

RULES = TradingRules(order_timeout_seconds=0.0, reconcile_interval_seconds=10.0)
LEASE_SECONDS = 4.0

OURS = (
    ORDERS,
    POSITIONS,
    LEDGER_LINES,
    COMMANDS,
    ALERTS,
    DEAD_LETTERS,
    DISCREPANCIES,
    LEASES,
)
SHARED = (
    CONFIRMATIONS_VIEW,
    SIGNALS_VIEW,
    POSITIONS_VIEW,
    TRADING_ORDERS_VIEW,
    TRADING_ACCOUNTS_VIEW,
)

MISSING = object()
JUNK: dict[str, Any] = {
    "missing": MISSING,
    "none": None,
    "a list": [{"a": 1}],
    "a document": {"$gt": ""},
    "senseless text": "yesterday, \x00 perhaps",
    "no number": float("nan"),
    "an enormous number": 2**62,
    "a negative number": -1,
    "true": True,
    "the last moment": datetime(9999, 12, 31, 23, 59, tzinfo=UTC),
    "the first moment": datetime(1, 1, 1, tzinfo=UTC),
    "another version": {"format": 99, "schema": 99},
}

UNIQUE = {
    # Fields that no two documents may have alike.
    CONFIRMATIONS_VIEW: ("signal_id",),
    POSITIONS_VIEW: ("ledger_id",),
}


async def lived(world: World) -> None:
    """A life that leaves a document in each collection."""
    database = world.mongo["trading"]
    database[TRADING_ACCOUNTS_VIEW].insert_one({"_id": ACCOUNT, "open_positions": []})
    database[TRADING_ORDERS_VIEW].insert_one({"order_id": "up-1", "status": "APPROVED"})
    database[SIGNALS_VIEW].insert_one({"signal_id": "held"})
    world.send("held", order_id="up-1")
    await world.run(2)
    world.fill("held", 60)
    await world.run(2)
    world.send_raw(b"not JSON")
    world.cancel(signal_id="nobody's")
    world.broker_faults.held = lambda told: [replace(each, quantity=Decimal(7)) for each in told]
    await world.run(60)
    world.broker_faults.held = None
    await world.kill()
    database[ALERTS].update_many({}, {"$set": {"sent_at": None}})
    database[COMMANDS].update_many({}, {"$set": {"status": "NEW"}})


def places(value: Any, depth: int = 2) -> list[tuple[Any, ...]]:
    """The ways to all fields, and to those of the documents and of the first of each list within."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        inner = sorted((name, each) for name, each in value.items() if name != "_id")
    elif isinstance(value, list) and value:
        inner = [(0, value[0])]
    return [(name, *rest) for name, each in inner for rest in ((), *(places(each, depth - 1) if depth > 0 else ()))]


def another(collection: str, document: dict[str, Any], number: int) -> dict[str, Any]:
    """As sound as the first, and called otherwise."""
    if collection == ORDERS:
        of = Identity(signal_id=f"odd-{number}", leg_index=0, purpose=Purpose.ENTRY)
        called = {"_id": of.order_id, "signal_id": of.signal_id, "client_order_id": of.client_order_id(1)}
        return document | called | {"lookup": [f"signal:{of.signal_id}", UNSETTLED]}
    if collection == POSITIONS:
        entry = ledger_from_document(document)
        return ledger_to_document(replace(entry, key=replace(entry.key, strategy=f"odd-{number}")))
    if collection == DISCREPANCIES:
        found = discrepancy_from_document(document)
        return discrepancy_to_document(replace(found, finding=replace(found.finding, subject=f"ODD{number}|STOCK")))
    document["_id"] = f"odd-{number}"
    for unique in UNIQUE.get(collection, ()):
        document[unique] = f"{document[unique]}-{number}"
    return document


def unreadable(collection: str, document: Mapping[str, Any], junk: Any) -> list[dict[str, Any]]:
    """A copy for each of its places, with the junk there."""
    copies = []
    for number, way in enumerate(places(document)):
        made = another(collection, copy.deepcopy(dict(document)), number)
        target: Any = made
        for step in way[:-1]:
            target = target[step]
        if junk is MISSING:
            del target[way[-1]]
        else:
            target[way[-1]] = copy.deepcopy(junk)
        copies.append(made)
    return copies


def looks_of_execctl(world: World) -> list[Callable[[], object]]:
    view = StoreReader(world.mongo, "trading")
    return [
        view.orders,
        lambda: view.named("held"),
        view.ledgers,
        lambda: view.dead_letters(100),
        lambda: view.discrepancies(only_open=False),
        view.unfinished,
        view.traded_accounts,
        view.accounts,
        view.leases,
        lambda: view.commands_naming(["nobody's", "new"]),
        view.waiting,
    ]


async def assert_all_goes_on(world: World) -> None:
    world.send("new", symbol="TSLA", order_id="up-2")
    await world.run(5)
    world.fill("new")
    world.send("away", symbol="NVDA")
    await world.run(5)
    world.cancel(signal_id="away")
    world.send_raw(b"not JSON either")
    await world.run(90)
    assert world.record("new").status is Status.FILLED
    assert world.publisher.statuses("new") == ["FILLED"]
    assert world.publisher.statuses("away") == ["CANCELLED"]
    assert world.orders.unacknowledged == world.commands.unacknowledged == []
    assert [d["status"] for d in world.documents(COMMANDS, **{"body.signal_id": "away"})] == ["DONE"]
    assert world.notifier.titled("Dead Letter")
    (before,) = world.documents(LEASES, _id=ACCOUNT)
    await world.run(5)
    (after,) = world.documents(LEASES, _id=ACCOUNT)
    assert after["holder"].startswith("life-2")
    assert after["beat"] > before["beat"]
    for look in looks_of_execctl(world):
        look()


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("collection", [*OURS, *SHARED])
async def test_a_document_that_cannot_be_read_is_set_aside_and_everything_else_goes_on(
    tmp_path: Path, collection: str, junk: Any
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=LEASE_SECONDS) as world:
        await lived(world)
        found = world.documents(collection)
        assert found, f"the first life left nothing in {collection}"
        documents = unreadable(collection, found[0], junk)
        for document in documents:
            with contextlib.suppress(DuplicateKeyError):  # the same junk in a field that no two may have alike
                world.mongo["trading"][collection].insert_one(document)
        said_before = len(world.logs)
        await world.start()
        await world.run(20)
        await assert_all_goes_on(world)
        said = Counter(
            (entry.get("action"), entry["log_level"])
            for entry in world.logs[said_before:]
            if entry["log_level"] in ("warning", "error")
        )
        assert said["part_restarted", "error"] == said["unexpected", "error"] == 0, said
        assert said["unreadable_record", "error"] <= 2 * len(documents)
        assert said.total() <= 100 + 5 * len(documents), said
        alerts = world.notifier.titled("Record Cannot Be Read")
        assert len(alerts) <= 6, "one for each account that is named, and junk may name some"


# What others wrote, where this service is about to write


def in_the_way(order: Order) -> dict[str, tuple[str, dict[str, Any]]]:
    """Documents of the shared collections that the news of this order meets, by what is odd with them."""
    own = {"signal_id": order.signal_id, "leg_index": 0, "purpose": "ENTRY"}
    ledger = {"ledger_id": LedgerKey(ACCOUNT, "momentum", "TSLA|STOCK").ledger_id, "status": "OPEN"}
    return {
        "its confirmation under another id": (CONFIRMATIONS_VIEW, {"_id": "theirs"} | own),
        "its confirmation with another number": (
            CONFIRMATIONS_VIEW,
            {"_id": confirmation_id(order), "event_number": {"$gt": "many"}} | own,
        ),
        "its signal twice": (SIGNALS_VIEW, {"_id": {"odd": [1]}, "signal_id": order.signal_id}),
        "its signal in a list": (SIGNALS_VIEW, {"_id": 5, "signal_id": [order.signal_id, 7]}),
        "its signal, as text": (
            SIGNALS_VIEW,
            {"_id": "t", "signal_id": order.signal_id, "execution": "done", "execution_reflects": "all"},
        ),
        "an open position": (POSITIONS_VIEW, {"_id": "theirs", "quantity": "many"} | ledger),
        "its row": (TRADING_ORDERS_VIEW, {"_id": 5, "order_id": "up-2", "status": [1], "fills": 7}),
        "its account": (TRADING_ACCOUNTS_VIEW, {"_id": ACCOUNT, "open_positions": "none"}),
    }


NEW = order(of=identity("new"))


@pytest.mark.parametrize(("collection", "document"), in_the_way(NEW).values(), ids=in_the_way(NEW))
async def test_a_document_of_others_that_makes_no_sense_keeps_no_order_from_being_told(
    tmp_path: Path, collection: str, document: dict[str, Any]
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RULES, lease_seconds=LEASE_SECONDS) as world:
        world.mongo["trading"][collection].insert_one(document)
        for name, symbol in (("new", "TSLA"), ("other", "NVDA")):
            world.send(name, symbol=symbol, **({"order_id": "up-2"} if name == "new" else {}))
            await world.run(2)
            world.fill(name)
        await world.run(2)
        assert world.publisher.statuses("other") == ["FILLED"]
        await world.run(150)
        assert world.publisher.statuses("new") == ["FILLED"]
        assert len(world.notifier.titled("Record Cannot Be Read")) <= 1
        assert len(world.notifier.titled("Delivery Failing")) <= 1
        assert world.unsettled() == []
