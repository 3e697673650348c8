"""Questions that people ask of the store, answered for scripts; writes nothing and is no part of the running service."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.planning.stances import Stances, stances_of
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyState
from execution_service.core.trades.documents import trade_from_document
from execution_service.core.trades.rows import BEHIND_LAST_ID, FIRST_ID, TradeRow, id_from
from execution_service.core.views.record import Document, discrepancy_from_document, ledger_from_document
from execution_service.storage.mongo.calls import in_short
from execution_service.storage.mongo.documents import (
    command_from_document,
    dead_letter_from_document,
    kept_switch_from_document,
    lease_from_document,
    stored_from_document,
)
from execution_service.storage.mongo.names import (
    ALERTS,
    COMMANDS,
    CONFIRMATIONS_VIEW,
    DEAD_LETTERS,
    DISCREPANCIES,
    KILL_SWITCHES,
    LEASES,
    ORDERS,
    POSITIONS,
    STANCES,
    TRADES_VIEW,
    UNSETTLED,
)
from execution_service.storage.ports.commands import Command, CommandStatus, DeadLetter
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.leases import Lease
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.switches import KeptSwitch

T = TypeVar("T")

_NAMES = ("signal", "request", "broker", "client")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedExits:
    """How much of everything there is, and what still waits."""

    by_status: Mapping[str, int]
    unsettled: int
    new_commands: int
    dead_letters: int
    unsent_alerts: int
    """Those that belong to no order."""
    untold_orders: int
    """Orders with news that people have not been told of."""
    open_discrepancies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """As much of an order that has not ended as tells who has to work it."""

    order_id: str
    account_id: str
    status: Status
    received_at: datetime


class StoreReader:
    """Blocking reads. Every method raises StoreUnavailable when the server does not answer. What cannot be read is left out, and named in
    `unreadable`.

    Orders come without their lines in the ledger; whoever needs the profit they booked asks MongoStore for them.
    """

    def __init__(self, client: pymongo.MongoClient[Document], database: str) -> None:
        self._client = client
        self._db = client[database]
        self.unreadable: set[str] = set()
        """What is wrong with the documents that have been met and cannot be read."""

    def _readable(self, documents: Iterable[Document], read: Callable[[Document], T]) -> list[T]:
        found = []
        for document in documents:
            try:
                found.append(read(document))
            except UnreadableRecord as exc:
                self.unreadable.add(str(exc))
        return found

    def _readable_one(self, document: Document | None, read: Callable[[Document], T]) -> T | None:
        return next(iter(self._readable([] if document is None else [document], read)), None)

    def close(self) -> None:
        self._client.close()

    def ping(self) -> None:
        with _watched():
            self._client.admin.command("ping")

    def switches(self) -> list[KeptSwitch]:
        """All kill switches, those that cannot be read among them."""
        with _watched():
            return [kept_switch_from_document(document) for document in self._db[KILL_SWITCHES].find({})]

    def stances(self) -> Stances:
        """All, those that cannot be read as doubtful ones."""
        with _watched():
            return stances_of(self._db[STANCES].find({}))

    def orders(
        self, *, status: str | None = None, account_id: str | None = None, limit: int | None = None
    ) -> list[Stored]:
        """The latest orders first."""
        query = {k: v for k, v in (("status", status), ("account_id", account_id)) if v is not None}
        with _watched():
            found = self._db[ORDERS].find(query).sort([("received_at", -1), ("_id", 1)])
            return self._readable(found.limit(limit) if limit else found, _seen)

    def trades(
        self, *, since: datetime | None = None, until: datetime | None = None, account: str | None = None
    ) -> Iterator[TradeRow]:
        """As they happened, from that moment on and before the other. They are read as they are asked for, and not kept."""
        with _watched():
            found = self._db[TRADES_VIEW].find(_trades_query(since, until, account)).sort("_id", 1)
            for document in found:
                yield from self._readable([document], trade_from_document)

    def latest_trades(
        self, limit: int, *, since: datetime | None = None, until: datetime | None = None, account: str | None = None
    ) -> list[TradeRow]:
        """The latest first."""
        query = _trades_query(since, until, account)
        rows: list[TradeRow] = []
        while True:
            with _watched():
                found = list(self._db[TRADES_VIEW].find(query).sort("_id", -1).limit(limit))
            rows += self._readable(found, trade_from_document)
            if len(rows) >= limit or len(found) < limit:
                return rows[:limit]
            query["_id"]["$lt"] = found[-1]["_id"]  # others may have written there, too

    def order_ids(self) -> list[str]:
        """All of ours, oldest order first."""
        with _watched():
            found = self._db[ORDERS].find({}, {"received_at": 1}).sort([("received_at", 1), ("_id", 1)])
            return [document["_id"] for document in found]

    def load(self, order_ids: Sequence[str]) -> list[Stored]:
        return self._found({"_id": {"$in": list(order_ids)}})

    def named(self, name: str) -> list[Stored]:
        """The orders that this may mean: a signal's id, our order id, upstream's, the broker's, or our tag at the broker."""
        return self.load([name]) or self._found({"lookup": {"$in": [f"{kind}:{name}" for kind in _NAMES]}})

    def signals(self, names: Sequence[str]) -> list[Stored]:
        """The orders of these signals, by their ids or those of `signal_store`."""
        return self._found({"lookup": {"$in": [f"signal:{name}" for name in names]}})

    def exits_of(self, names: Sequence[str]) -> list[Stored]:
        """Exits that name one of these entries."""
        return self._found({"lookup": {"$in": [f"exit_of:{name}" for name in names]}})

    def _found(self, query: Mapping[str, Any]) -> list[Stored]:
        with _watched():
            stored = self._readable(self._db[ORDERS].find(query), _seen)
        return sorted(stored, key=lambda s: (s.order.received_at, s.order.order_id))

    def ledgers(self, *, only_open: bool = False) -> list[LedgerEntry]:
        """The exact positions, all that ever were or those held now."""
        with _watched():
            found = self._db[POSITIONS].find({"is_open": True} if only_open else {})
            entries = self._readable(found, ledger_from_document)
        return sorted(entries, key=lambda e: (e.key.account_id, e.key.strategy, e.key.instrument_key))

    def ledger(self, ledger_id: str) -> LedgerEntry | None:
        with _watched():
            document = self._db[POSITIONS].find_one({"_id": ledger_id})
        return self._readable_one(document, ledger_from_document)

    def confirmation(self, document_id: str) -> Document | None:
        """The order's document in the shared collection."""
        with _watched():
            return self._db[CONFIRMATIONS_VIEW].find_one({"_id": document_id})

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The latest first."""
        with _watched():
            found = self._db[DEAD_LETTERS].find().sort([("received_at", -1), ("_id", 1)]).limit(limit)
            return self._readable(found, dead_letter_from_document)

    def dead_letter(self, message_id: str) -> DeadLetter | None:
        with _watched():
            document = self._db[DEAD_LETTERS].find_one({"_id": message_id})
        return self._readable_one(document, dead_letter_from_document)

    def discrepancies(self, *, only_open: bool = True, account_id: str | None = None) -> list[Discrepancy]:
        """The oldest first."""
        query = {"state": DiscrepancyState.OPEN.value} if only_open else {}
        query |= {} if account_id is None else {"account_id": account_id}
        with _watched():
            found = self._readable(self._db[DISCREPANCIES].find(query), discrepancy_from_document)
        return sorted(found, key=lambda d: (d.opened_at, d.discrepancy_id))

    def closing(self, discrepancy_ids: Sequence[str]) -> dict[str, list[str]]:
        """The adoptions that are to close these differences, by their ids."""
        found: dict[str, list[str]] = {}
        for stored in self._found({"lookup": {"$in": [f"discrepancy:{each}" for each in discrepancy_ids]}}):
            told = stored.order.adoption
            if told is not None and told.discrepancy_id is not None and stored.order.fills:
                names = found.setdefault(told.discrepancy_id, [])
                names += [] if stored.order.signal_id in names else [stored.order.signal_id]
        return found

    def unfinished(self) -> list[Unfinished]:
        """The oldest first."""
        query = {"lookup": UNSETTLED, "status": {"$nin": [status.value for status in FINAL]}}
        fields = ("account_id", "status", "received_at")
        with _watched():
            found = self._db[ORDERS].find(query, fields).sort([("received_at", 1), ("_id", 1)])
            return self._readable(found, _unfinished)

    def traded_accounts(self) -> list[str]:
        """Those with orders that are not settled, or positions held, by their ids."""
        with _watched():
            at_work = self._db[ORDERS].distinct("account_id", {"lookup": UNSETTLED})
            holding = self._db[POSITIONS].distinct("account_id", {"is_open": True})
        return sorted({account_id for account_id in (*at_work, *holding) if isinstance(account_id, str)})

    def accounts(self) -> list[str]:
        """Those of which there is any order, position or discrepancy, by their ids."""
        names = (ORDERS, POSITIONS, DISCREPANCIES)
        with _watched():
            found = [account_id for name in names for account_id in self._db[name].distinct("account_id")]
        return sorted({account_id for account_id in found if isinstance(account_id, str)})

    def leases(self) -> list[Lease]:
        """Who works which account, by name; none where a service is alone on its embedded store."""
        with _watched():
            found = self._readable(self._db[LEASES].find(), lease_from_document)
        return sorted(found, key=lambda lease: lease.partition)

    def command(self, command_id: str) -> Command | None:
        with _watched():
            document = self._db[COMMANDS].find_one({"_id": command_id})
        return self._readable_one(document, command_from_document)

    def commands_naming(self, names: Sequence[str]) -> list[Command]:
        """Commands that name a signal or an order so."""
        chosen = {"$in": list(names)}
        with _watched():
            by_order = self._db[COMMANDS].find({"body.order_id": chosen})
            by_signal = self._db[COMMANDS].find({"body.signal_id": chosen})
            found = {c.command_id: c for c in self._readable((*by_order, *by_signal), command_from_document)}
        return sorted(found.values(), key=lambda c: (c.received_at, c.command_id))

    def waiting(self) -> BlockedExits:
        with _watched():
            groups = self._db[ORDERS].aggregate([{"$group": {"_id": "$status", "n": {"$sum": 1}}}])
            by_status: Counter[str] = Counter()
            for group in groups:
                by_status[str(group["_id"])] += group["n"]
            return BlockedExits(
                by_status=dict(sorted(by_status.items())),
                unsettled=self._db[ORDERS].count_documents({"lookup": UNSETTLED}),
                new_commands=self._db[COMMANDS].count_documents({"status": CommandStatus.NEW.value}),
                dead_letters=self._db[DEAD_LETTERS].count_documents({}),
                unsent_alerts=self._db[ALERTS].count_documents({"sent_at": None}),
                untold_orders=self._untold_orders(),
                open_discrepancies=self._db[DISCREPANCIES].count_documents({"state": DiscrepancyState.OPEN.value}),
            )

    def _untold_orders(self) -> int:
        found = self._db[ORDERS].find({"lookup": UNSETTLED}, {"version": 1, "told": 1})
        return sum(map(_is_untold, found))


def _unfinished(document: Document) -> Unfinished:
    account_id, received_at, status = document.get("account_id"), document.get("received_at"), document.get("status")
    if not isinstance(account_id, str) or not isinstance(received_at, datetime) or status not in tuple(Status):
        words = f"account {account_id!r}, received at {received_at!r}, status {status!r}"
        raise UnreadableRecord(f"order {document['_id']!r}: {words}")
    return Unfinished(order_id=document["_id"], account_id=account_id, status=Status(status), received_at=received_at)


def _is_untold(document: Document) -> bool:
    told, version = document.get("told"), document.get("version")
    people = told.get("people") if isinstance(told, Mapping) else None
    return isinstance(people, int) and isinstance(version, int) and people < version


def _seen(document: Document) -> Stored:
    return stored_from_document(document, {})


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except PyMongoError as exc:
        raise StoreUnavailable(in_short(exc)) from exc


def _trades_query(since: datetime | None, until: datetime | None, account: str | None) -> Document:
    bounds = {
        "$gte": FIRST_ID if since is None else id_from(since),
        "$lt": BEHIND_LAST_ID if until is None else id_from(until),
    }
    return {"_id": bounds} | ({} if account is None else {"account_id": account})
