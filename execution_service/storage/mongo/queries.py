"""Questions of people and of programs that watch, on MongoDB: in threads of their own, each with an end on the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection as MongoCollection

from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import FINAL
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyState
from execution_service.core.views.record import UNPROTECTED, Document, discrepancy_from_document, ledger_from_document
from execution_service.storage.mongo.documents import (
    command_from_document,
    dead_letter_from_document,
    position_row_from_document,
    stored_from_document,
)
from execution_service.storage.mongo.names import (
    ALERTS,
    COMMANDS,
    DEAD_LETTERS,
    DISCREPANCIES,
    ORDERS,
    POSITIONS,
    POSITIONS_VIEW,
    UNSETTLED,
)
from execution_service.storage.mongo.orders import MongoOrders
from execution_service.storage.mongo.port import Place as StorePlace
from execution_service.storage.ports.commands import Command, CommandStatus, DeadLetter
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.queries import OrderFilter, Place, PositionRow

LONGEST_QUERY_MS = 5000
"""A question that the server has not answered by then is given up there, too."""
WINDOWS = (timedelta(minutes=10), timedelta(hours=3), timedelta(days=2))
ORDERS_KEPT = 512
AHEAD = timedelta(minutes=1)
"""Another process's clock may be ahead of ours by so much, and what it has received still be among the latest."""
NAME_KINDS = ("signal", "request", "broker", "client")


@dataclass(frozen=True, slots=True)
class Page:
    """The latest first, by this moment, from behind a place on."""

    moment: str
    after: Place | None
    limit: int


class ReadBefore:
    """Orders as they were read last. One whose document is the same is not read anew: nine of ten in a list that is drawn up each second, and
    reading them is most of what that costs."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Document, Mapping[str, Any], Stored]] = {}

    def stored(self, document: Document, lines: Mapping[str, Any]) -> Stored:
        """Raises UnreadableRecord."""
        order_id = document["_id"]
        kept = self._kept.get(order_id) if isinstance(order_id, str) else None
        if kept is not None and kept[0] == document and kept[1] == lines:
            return kept[2]
        stored = stored_from_document(document, lines)
        if len(self._kept) >= ORDERS_KEPT:
            self._kept.clear()
        self._kept[stored.order.order_id] = (document, lines, stored)
        return stored


class MongoQueries(MongoOrders):
    """Reads alone."""

    def __init__(self, place: StorePlace) -> None:
        super().__init__(place)
        self._before = ReadBefore()
        self._clock = place.clock

    async def page_of_orders(self, chosen: OrderFilter, after: Place | None, limit: int) -> list[Stored]:
        query, now = _query_of(chosen), self._clock.now()

        def read() -> list[Stored]:
            return self._listed(self._latest(ORDERS, query, Page("received_at", after, limit), now))

        return await self._calls.look(read)

    async def orders_named(self, name: str) -> list[Stored]:
        def read() -> list[Stored]:
            by_id = list(self._db[ORDERS].find({"_id": name}))
            names = [f"{kind}:{name}" for kind in NAME_KINDS]
            return self._with_lines(by_id or list(self._asked(ORDERS, {"lookup": {"$in": names}})))

        return _oldest_first(await self._calls.look(read))

    async def orders_shown_as(self, shown_ids: Collection[str]) -> list[Stored]:
        def read() -> list[Stored]:
            named = [f"broker:{shown}" for shown in shown_ids]
            by_broker = self._asked(ORDERS, {"lookup": {"$in": named}})
            by_id = self._asked(ORDERS, {"_id": {"$in": list(shown_ids)}})
            found = {document["_id"]: document for document in (*by_broker, *by_id)}
            return self._listed(list(found.values()))

        return _oldest_first(await self._calls.look(read))

    async def order_by_id(self, order_id: str) -> Order | None:
        def read() -> list[Stored]:
            return self._with_lines(list(self._db[ORDERS].find({"_id": order_id})))

        return next((stored.order for stored in await self._calls.look(read)), None)

    async def counts_of_orders(self) -> Mapping[tuple[str, str], int]:
        def read() -> Counter[tuple[str, str]]:
            counts: Counter[tuple[str, str]] = Counter()
            grouping = {"$group": {"_id": {"status": "$status", "account_id": "$account_id"}, "n": {"$sum": 1}}}
            for group in self._db[ORDERS].aggregate([grouping], maxTimeMS=LONGEST_QUERY_MS):
                key = group["_id"]
                counts[str(key.get("status")), str(key.get("account_id") or "")] += int(group["n"])
            return counts

        return await self._calls.look(read)

    async def held_positions(self) -> list[LedgerEntry]:
        def read() -> list[LedgerEntry]:
            found = self._asked(POSITIONS, {"is_open": True})
            return self._readable(POSITIONS, found, ledger_from_document)

        entries = await self._calls.look(read)
        return sorted(entries, key=lambda e: (e.key.account_id, e.key.strategy, e.key.instrument_key))

    async def page_of_positions(self, is_open: bool | None, after: Place | None, limit: int) -> list[PositionRow]:
        query: Document = {"ledger_id": {"$type": "string"}}
        query |= {} if is_open is None else {"status": "OPEN" if is_open else "CLOSED"}
        now = self._clock.now()

        def read() -> list[PositionRow]:
            return _readable_rows(self._latest(POSITIONS_VIEW, query, Page("opened_at", after, limit), now))

        return await self._calls.look(read)

    async def position_row(self, document_id: str) -> PositionRow | None:
        def read() -> list[PositionRow]:
            query = {"_id": document_id, "ledger_id": {"$type": "string"}}
            return _readable_rows(self._asked(POSITIONS_VIEW, query))

        return next(iter(await self._calls.look(read)), None)

    async def counts_of_positions(self) -> Mapping[str, int]:
        def read() -> Mapping[str, int]:
            view = self._db[POSITIONS_VIEW]
            return {
                word: _count(view, {"status": word, "ledger_id": {"$type": "string"}}) for word in ("OPEN", "CLOSED")
            }

        return await self._calls.look(read)

    async def discrepancies(self) -> list[Discrepancy]:
        def read() -> list[Discrepancy]:
            found = self._asked(DISCREPANCIES, {"state": DiscrepancyState.OPEN.value})
            return self._readable(DISCREPANCIES, found, discrepancy_from_document)

        return sorted(await self._calls.look(read), key=lambda d: (d.opened_at, d.discrepancy_id))

    async def page_of_discrepancies(
        self, *, is_open: bool, account_id: str | None, after: Place | None, limit: int
    ) -> list[Discrepancy]:
        query: Document = {"state": DiscrepancyState.OPEN.value} if is_open else {}
        query |= {} if account_id is None else {"account_id": account_id}

        def read() -> list[Discrepancy]:
            found = self._asked(DISCREPANCIES, query | _behind("opened_at", after), "opened_at", limit)
            return self._readable(DISCREPANCIES, found, discrepancy_from_document)

        return await self._calls.look(read)

    async def adoptions_closing(self, discrepancy_ids: Collection[str]) -> Mapping[str, Sequence[str]]:
        def read() -> Mapping[str, Sequence[str]]:
            names = [f"discrepancy:{each}" for each in discrepancy_ids]
            found: dict[str, list[str]] = {}
            for stored in self._with_lines(list(self._asked(ORDERS, {"lookup": {"$in": names}}))):
                told = stored.order.adoption
                if told is not None and told.discrepancy_id is not None and stored.order.fills:
                    signals = found.setdefault(told.discrepancy_id, [])
                    signals += [] if stored.order.signal_id in signals else [stored.order.signal_id]
            return found

        return await self._calls.look(read) if discrepancy_ids else {}

    async def latest_dead_letters(self, limit: int, after: Place | None = None) -> list[DeadLetter]:
        def read() -> list[DeadLetter]:
            found = self._asked(DEAD_LETTERS, _behind("received_at", after), "received_at", limit)
            return self._readable(DEAD_LETTERS, found, dead_letter_from_document)

        return await self._calls.look(read)

    async def unprotected_entries(self) -> list[Stored]:
        def read() -> list[Stored]:
            return self._with_lines(list(self._asked(ORDERS, {"lookup": UNPROTECTED})))

        return sorted(await self._calls.look(read), key=lambda s: (s.order.received_at, s.order.order_id))

    async def unfinished_commands(self) -> list[Command]:
        def read() -> list[Command]:
            found = self._asked(COMMANDS, {"status": CommandStatus.NEW.value})
            return self._readable(COMMANDS, found, command_from_document)

        return sorted(await self._calls.look(read), key=lambda c: (c.received_at, c.command_id))

    async def sizes(self) -> Mapping[str, int]:
        questions: Mapping[str, tuple[str, Document]] = {
            "dead_letters": (DEAD_LETTERS, {}),
            "new_commands": (COMMANDS, {"status": CommandStatus.NEW.value}),
            "unsent_alerts": (ALERTS, {"sent_at": None}),
            "placed_orders": (ORDERS, {"broker_order_id": {"$ne": None}}),
            "open_discrepancies": (DISCREPANCIES, {"state": DiscrepancyState.OPEN.value}),
        }

        def read() -> Mapping[str, int]:
            return {name: _count(self._db[where], query) for name, (where, query) in questions.items()}

        return await self._calls.look(read)

    def _listed(self, documents: Sequence[Document]) -> list[Stored]:
        lines = self._lines_of(documents)
        return self._readable(
            ORDERS, documents, lambda document: self._before.stored(document, lines.get(document["_id"], {}))
        )

    def _latest(self, name: str, query: Document, page: Page, now: datetime) -> list[Document]:
        """What is wanted is mostly young, and not every server sorts by an index, though each bounds by one: so the last minutes are looked
        through first, then more, then all."""
        until = now + AHEAD if page.after is None else page.after.moment
        for window in (*WINDOWS, None):
            bounds: Document = {} if window is None else {"$gte": until - window}
            if page.after is not None:
                bounds["$lte"] = page.after.moment
            bounded = query | ({page.moment: bounds} if bounds else {}) | _behind(page.moment, page.after)
            found = list(self._asked(name, bounded, page.moment, page.limit))
            if len(found) >= page.limit:
                return found
        return found

    def _asked(
        self, name: str, query: Mapping[str, Any], latest_by: str | None = None, limit: int = 0
    ) -> Iterable[Document]:
        """`latest_by`: the latest first, by this moment. `limit` 0: all."""
        order = None if latest_by is None else [(latest_by, -1), ("_id", -1)]
        return self._db[name].find(query, sort=order, limit=limit, max_time_ms=LONGEST_QUERY_MS)


def _query_of(chosen: OrderFilter) -> Document:
    query: Document = {}
    if chosen.statuses is not None:
        query["status"] = {"$in": [status.value for status in chosen.statuses]}
        if chosen.statuses and not FINAL & frozenset(chosen.statuses):
            query["lookup"] = UNSETTLED  # an index has those that are unfinished, and few else
    if chosen.is_unsettled:
        query["lookup"] = UNSETTLED
    named = {"account_id": chosen.account_id, "request.strategy": chosen.strategy}
    query |= {field: value for field, value in named.items() if value is not None}
    if chosen.symbol is not None:
        query["request.instrument.symbol"] = chosen.symbol
    return query


def _behind(field: str, place: Place | None) -> Document:
    """What comes after the place, the latest first."""
    if place is None:
        return {}
    return {"$or": [{field: {"$lt": place.moment}}, {field: place.moment, "_id": {"$lt": place.row_id}}]}


def _count(collection: MongoCollection[Document], query: Mapping[str, Any]) -> int:
    return collection.count_documents(query, maxTimeMS=LONGEST_QUERY_MS)


def _oldest_first(found: list[Stored]) -> list[Stored]:
    return sorted(found, key=lambda s: (s.order.received_at, s.order.order_id))


def _readable_rows(documents: Iterable[Document]) -> list[PositionRow]:
    """Others write into that collection, too: what is none of ours is left out."""
    rows = []
    for document in documents:
        try:
            rows.append(position_row_from_document(document))
        except UnreadableRecord:
            continue
    return rows
