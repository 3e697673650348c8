"""The order records on MongoDB: inserts, events added by compare-and-set, delivery cursors, questions by name."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import bson
from bson.codec_options import CodecOptions
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    WriteError,
)

from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Event, SubmitStarted
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.views.record import (
    Document,
    event_to_document,
    order_from_document,
    order_to_document,
    state_of,
)
from execution_service.storage.mongo.calls import raise_unless_duplicates
from execution_service.storage.mongo.commits import Commits
from execution_service.storage.mongo.documents import (
    stored_from_document,
)
from execution_service.storage.mongo.ledger_lines import LedgerLines
from execution_service.storage.mongo.names import LEFT, ORDERS, UNSETTLED
from execution_service.storage.mongo.port import MongoPort, Place
from execution_service.storage.mongo.settled import SettledRecords, unless_known
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import (
    NOTHING_LEFT,
    PEOPLE,
    WORLD,
    CursorCommit,
    Stored,
    Unsettled,
    VersionConflict,
)

BRIEFS = f"{ORDERS} in brief"
"""Of a record that can be read in brief the whole may be unreadable all the same: what is known of either is kept apart."""
CURSOR_COMMITS = f"{ORDERS} struck out"
"""Apart, too: what else is known of the record stays known."""
CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=UTC)


class MongoOrders(MongoPort):
    """The order records. One is changed by compare-and-set on `version`, through `Commits`; its events bear this process's mark, `nonce`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._nonce = place.nonce
        self._ledger_lines = LedgerLines(place)
        self._settled = SettledRecords()
        self._commits = Commits(
            place.client, self._db[ORDERS], place.calls, place.clock, schedule=place.schedule, read=self._with_lines
        )

    async def insert_orders(
        self, orders: Sequence[Order], left: Mapping[str, str] = NOTHING_LEFT
    ) -> list[Order | UnreadableRecord | None]:
        documents = []
        for order in orders:
            document = order_to_document(order)
            document["lookup"].append(UNSETTLED)
            if order.order_id in left:
                document["lookup"].append(LEFT + left[order.order_id])
            document["told"] = {"world": 0, "people": 0}
            documents.append(document)
        return await self._calls.write(partial(self._insert_orders, documents))

    def _insert_orders(self, documents: list[Document]) -> list[Order | UnreadableRecord | None]:
        collection = self._db[ORDERS]
        try:
            collection.insert_many(documents, ordered=False)
            return [None] * len(documents)
        except BulkWriteError as exc:
            raise_unless_duplicates(exc)
        present = {d["_id"]: d for d in collection.find({"_id": {"$in": [d["_id"] for d in documents]}})}
        outcome: list[Order | UnreadableRecord | None] = []
        for place, document in enumerate(documents):
            found = present.get(document["_id"])
            if found is None:
                raise StoreUnavailable(f"order {document['_id']} was refused as a duplicate and is not there")
            # Ours by an attempt whose answer was lost; but a second document of one order in the same batch is a repetition.
            is_first = all(d["_id"] != document["_id"] for d in documents[:place])
            is_ours = is_first and all(found.get(n) == document[n] for n in ("received_at", "message_id", "version"))
            try:
                outcome.append(None if is_ours else order_from_document(found))
            except UnreadableRecord as exc:
                self._unreadable.note(ORDERS, found, exc)
                outcome.append(exc)
        return outcome

    async def append(self, order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
        after = apply_all(order, events)
        documents = [event_to_document(event) | {"writer": self._nonce} for event in events]
        before, fields = state_of(order), state_of(after)
        changed: Document = {name: value for name, value in fields.items() if value != before[name]}
        if order.status.is_final or "lookup" in changed:
            changed["lookup"] = [*fields["lookup"], UNSETTLED]
        for number, document in enumerate(documents, order.version):
            changed[f"events.{number}"] = document

        def has_arrived(stored: Document) -> bool:
            there: list[Document] = stored["events"][order.version : after.version]
            return there == [_as_stored(document) for document in documents]

        await self._commits.make(
            order.order_id,
            {"version": order.version},
            {"$set": changed},
            has_arrived,
            account_id=order.request.account_id or "",
            urgent=urgent,
            is_leaving=any(isinstance(event, SubmitStarted) for event in events),
        )
        return after

    async def commit_cursors(self, commits: Sequence[CursorCommit]) -> None:
        await self._ledger_lines.keep({commit.order_id: commit.lines for commit in commits if commit.lines})
        begun = [(commit, self._begin(commit)) for commit in commits]
        first: Exception | None = None
        try:
            for commit, done in begun:
                try:
                    await self._ended(commit, done)
                except Exception as exc:  # noqa: BLE001  raised when all have ended
                    first = first or exc
        finally:
            for _, done in begun:
                done.cancel()
        if first is not None:
            raise first

    def _begin(self, commit: CursorCommit) -> asyncio.Future[None]:
        cursors = {f"told.{name}": number for name, number in commit.cursors.items()}
        if commit.is_settled and min(commit.cursors.values()) >= commit.version:
            others = {f"told.{name}": commit.version for name in (WORLD, PEOPLE) if name not in commit.cursors}
            return self._commits.begin(
                commit.order_id,
                {"version": commit.version, **others},
                {"$max": cursors, "$pull": {"lookup": UNSETTLED}},
                lambda document: UNSETTLED not in document["lookup"] and _covers(document["told"], commit),
            )
        return self._commits.begin(commit.order_id, {}, {"$max": cursors}, lambda d: _covers(d["told"], commit))

    async def _ended(self, commit: CursorCommit, done: asyncio.Future[None]) -> None:
        """A record that is gone, or cannot be read any more, is said and holds up no other's: they would be delivered again for ever."""
        try:
            try:
                await done
            except VersionConflict:
                # The order has moved on, or something else is still owed: the record stays unsettled.
                await self._begin(replace(commit, is_settled=False))
        except (KeyError, UnreadableRecord, WriteError) as exc:
            words = f"order {commit.order_id!r}: what was told of it cannot be struck out: {exc}"
            self._unreadable.note(CURSOR_COMMITS, {"_id": commit.order_id}, words)

    async def open_orders(self, account_id: str | None = None) -> list[Stored]:
        return await self._find(_unsettled(account_id))

    async def unsettled(self, account_id: str | None = None) -> list[Unsettled]:
        return await self._in_brief(_unsettled(account_id))

    async def leave(self, left: Mapping[str, str]) -> None:
        def write() -> None:
            for order_id, partition in left.items():
                self._db[ORDERS].update_one({"_id": order_id}, {"$addToSet": {"lookup": LEFT + partition}})

        await self._calls.ask(write)

    async def left_for(self, partitions: Sequence[str]) -> list[Unsettled]:
        return await self._in_brief({"lookup": {"$in": [LEFT + partition for partition in partitions]}})

    async def _in_brief(self, query: Document) -> list[Unsettled]:
        def read() -> list[Unsettled]:
            found = self._db[ORDERS].find(query, {"version": 1, "account_id": 1, "received_at": 1, "signal_id": 1})
            oldest_first = sorted(self._readable(BRIEFS, found, _in_brief))
            return [unsettled for _, _, unsettled in oldest_first]

        return await self._calls.ask(read)

    async def picked_up(self, looked_at: Sequence[Unsettled], partitions: Sequence[str]) -> None:
        words = {"$in": [LEFT + partition for partition in partitions]}
        pulls: list[UpdateOne | UpdateMany] = [
            UpdateOne({"_id": brief.order_id, "version": brief.version}, {"$pull": {"lookup": words}})
            for brief in looked_at
        ]
        await self._calls.write(lambda: self._db[ORDERS].bulk_write(pulls, ordered=False))

    async def load(self, order_ids: Sequence[str]) -> list[Stored]:
        return await self._find({"_id": {"$in": list(order_ids)}})

    async def order_ids_after(self, order_id: str, limit: int) -> list[str]:
        def read() -> list[str]:
            found = self._db[ORDERS].find({"_id": {"$gt": order_id}}, {"_id": 1}, sort=[("_id", 1)], limit=limit)
            return [str(document["_id"]) for document in found]

        return await self._calls.look(read)

    async def find(self, names: Sequence[str]) -> list[Stored]:
        # One that could not be read is read again, so that it is known when it can be.
        known = self._settled.named(names, without=self._unreadable.ids(ORDERS))
        changed: set[str] = set()

        def read() -> list[Stored]:
            documents = list(self._db[ORDERS].find({"lookup": {"$in": list(names)}} | unless_known(known)))
            changed.update(str(document["_id"]) for document in documents)
            return self._with_lines(documents)

        found = await self._calls.ask(read)
        self._settled.keep(found)
        return _oldest_first([*found, *(stored for order_id, stored in known.items() if order_id not in changed)])

    async def _find(self, query: Mapping[str, Any]) -> list[Stored]:
        return _oldest_first(await self._calls.ask(lambda: self._with_lines(list(self._db[ORDERS].find(query)))))

    def _lines_of(self, documents: Sequence[Document]) -> Mapping[str, Any]:
        # A process that was killed or superseded may have kept an order's lines and not have struck out its delivery any more.
        told = [d["_id"] for d in documents if _may_have_lines(d)]
        return self._ledger_lines.found(told) if told else {}

    def _with_lines(self, documents: Sequence[Document]) -> list[Stored]:
        lines = self._lines_of(documents)
        return self._readable(
            ORDERS, documents, lambda document: stored_from_document(document, lines.get(document["_id"], {}))
        )

    def unreadable(self, names: Collection[str], *, may_be_at_work: bool = False) -> list[str]:
        return self._unreadable.named((ORDERS, BRIEFS), names, also=UNSETTLED if may_be_at_work else None)

    def set_aside(self) -> list[str]:
        return self._unreadable.ids(ORDERS)


def _unsettled(account_id: str | None) -> Document:
    return {"lookup": UNSETTLED} | ({} if account_id is None else {"account_id": account_id})


def _oldest_first(stored: Iterable[Stored]) -> list[Stored]:
    return sorted(stored, key=lambda s: (s.order.received_at, s.order.order_id))


def _as_stored(document: Document) -> Document:
    """As the server would give it back: times cut to milliseconds, zones to UTC."""
    return bson.decode(bson.encode(document), CODEC)


def _covers(told: Mapping[str, Any], commit: CursorCommit) -> bool:
    return all(told.get(name, 0) >= number for name, number in commit.cursors.items())


def _may_have_lines(document: Mapping[str, Any]) -> bool:
    told = document.get("told")
    return bool(told.get("world") if isinstance(told, Mapping) else told) or document.get("filled_quantity") != "0"


def _in_brief(document: Mapping[str, Any]) -> tuple[datetime, str, Unsettled]:
    """Raises UnreadableRecord where it cannot even be told which version of which order it is."""
    order_id, version, received_at = document["_id"], document.get("version"), document.get("received_at")
    account_id = document.get("account_id")
    if (
        not isinstance(order_id, str)
        or not isinstance(version, int)
        or not isinstance(received_at, datetime)
        or not isinstance(account_id, str | None)
    ):
        raise UnreadableRecord(
            f"order {order_id!r}: version {version!r}, received at {received_at!r}, account {account_id!r}"
        )
    return received_at, order_id, Unsettled(order_id, version, account_id)
