"""MongoDB: order records, ledger, commands, dead letters, alarms and views; the only room that names a collection."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import bson
import pymongo
import structlog
from bson.codec_options import CodecOptions
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteError,
    WTimeoutError,
)

from brokers.base import Instrument
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Event, SubmitStarted
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line
from execution_service.core.reconcile import Discrepancy, State
from execution_service.core.views.record import (
    Document,
    discrepancy_from_document,
    discrepancy_to_document,
    event_to_document,
    ledger_from_document,
    ledger_to_document,
    lines_from_document,
    lines_to_document,
    order_from_document,
    order_to_document,
    state_of,
)
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper
from execution_service.runtime.threads import Blocking
from execution_service.storage.mongo.calls import DUPLICATE_KEY, Calls, in_short, raise_unless_duplicates
from execution_service.storage.mongo.commits import REFUSED_FOR_THIS_DOCUMENT, Commits
from execution_service.storage.mongo.documents import (
    alarm_from_document,
    command_from_document,
    command_to_document,
    dead_letter_from_document,
    dead_letter_to_document,
    is_further_on,
    lease_from_document,
    lease_to_document,
    stored_from_document,
    view_document,
    view_update,
    with_ids,
)
from execution_service.storage.mongo.spoilt import SpoiltDocuments
from execution_service.storage.ports import (
    NOTHING_LEFT,
    PEOPLE,
    WORLD,
    Alarm,
    Command,
    CommandStatus,
    DeadLetter,
    Lease,
    Spoilt,
    Stored,
    StoreUnavailable,
    Strike,
    Unsettled,
    VersionConflict,
    View,
    ViewWrite,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")

ORDERS = "execution_orders"
POSITIONS = "execution_positions"
LEDGER_LINES = "execution_ledger_lines"
COMMANDS = "execution_commands"
ALERTS = "execution_alerts"
DEAD_LETTERS = "execution_dead_letters"
DISCREPANCIES = "execution_discrepancies"
LEASES = "execution_leases"
CONFIRMATIONS_VIEW = "execution_confirmations"
SIGNALS_VIEW = "signal_store"
POSITIONS_VIEW = "positions"
TRADING_ORDERS_VIEW = "trading_orders"
TRADING_ACCOUNTS_VIEW = "trading_accounts"

BRIEFS = f"{ORDERS} in brief"
"""Of a record that can be read in brief the whole may be spoilt all the same: what is known of either is kept apart."""
STRIKES = f"{ORDERS} struck out"
"""Apart, too: what else is known of the record stays known."""
UNSETTLED = "unsettled"
"""A word in `lookup` for as long as the record is unfinished or owes the world something: one index serves all questions, and on the
embedded store each further index makes every update of a record about a third dearer."""

LEFT = "left:"
"""In `lookup`, before a desk's name: another process wrote the record, and the desk's holder has not looked at it since."""

COLLECTION_OF = {
    View.CONFIRMATIONS: CONFIRMATIONS_VIEW,
    View.SIGNALS: SIGNALS_VIEW,
    View.POSITIONS: POSITIONS_VIEW,
    View.TRADING_ORDERS: TRADING_ORDERS_VIEW,
    View.TRADING_ACCOUNTS: TRADING_ACCOUNTS_VIEW,
}


@dataclass(frozen=True, slots=True)
class Index:
    """One that the service relies on: for uniqueness, or for speed."""

    fields: tuple[str, ...]
    is_unique: bool = False
    only: Mapping[str, Any] | None = None
    """Of documents with these values alone."""

    @property
    def keys(self) -> list[tuple[str, int]]:
        return [(field, 1) for field in self.fields]

    @property
    def options(self) -> dict[str, Any]:
        unique = {"unique": True} if self.is_unique else {}
        return unique | ({} if self.only is None else {"partialFilterExpression": dict(self.only)})

    def is_served_by(self, found: Mapping[str, Any]) -> bool:
        """Whether an index, as the server tells of it, does for this one, whatever its name is."""
        return (
            list(found["key"].items()) == self.keys
            and (not self.is_unique or bool(found.get("unique")))
            and found.get("partialFilterExpression") == self.only
            and not any(found.get(name) for name in _LEAVES_OUT)
        )


_LEAVES_OUT = ("sparse", "collation", "hidden", "expireAfterSeconds")
"""An index with one of these does not answer every question about its fields."""
_BY_IDENTITY = Index(("signal_id", "leg_index", "purpose"), is_unique=True)
INDEXES: Mapping[str, Sequence[Index]] = {
    ORDERS: (_BY_IDENTITY, Index(("account_id", "client_order_id"), is_unique=True), Index(("lookup",))),
    COMMANDS: (Index(("status",)), Index(("active_until",)), Index(("body.order_id",)), Index(("body.signal_id",))),
    ALERTS: (Index(("sent_at",)),),
    POSITIONS: (Index(("account_id",)),),
    DISCREPANCIES: (Index(("place",), is_unique=True, only={"state": State.OPEN.value}), Index(("account_id",))),
    CONFIRMATIONS_VIEW: (_BY_IDENTITY, Index(("submitted_at",)), Index(("timestamp",))),
    SIGNALS_VIEW: (Index(("signal_id",)),),
    POSITIONS_VIEW: (Index(("ledger_id",), is_unique=True, only={"status": "OPEN"}),),
    TRADING_ORDERS_VIEW: (Index(("order_id",)),),
}

VIEW_ATTEMPTS = 3
CLASHES_BORNE = 4
"""So often a view may clash with another document before it is left as it is: whoever delivers tries on every half minute."""
CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=UTC)


def connect(uri: str) -> pymongo.MongoClient[Document]:
    """A client with bounded waits and durable writes; opens no connection yet. Raises StoreUnavailable for an address that is unusable."""
    try:
        return pymongo.MongoClient(
            uri,
            tz_aware=True,
            tzinfo=UTC,
            # One moment beyond the calendar, or one text that is none, would fail the reading of everything that is read with it.
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
            appname="execution-service",
            connectTimeoutMS=3000,
            serverSelectionTimeoutMS=3000,
            socketTimeoutMS=20000,
            timeoutMS=None,
            retryWrites=False,  # a repeated write is our own affair: see MongoStore
            w="majority",
            journal=True,
        )
    except (PyMongoError, ValueError) as exc:  # an option that is wrong, a name that does not resolve
        raise StoreUnavailable(f"MONGODB_URI cannot be used: {str(exc).splitlines()[0]}") from exc


class MongoStore:
    """The Store on any server that speaks MongoDB's protocol.

    A record is changed by compare-and-set on `version`, through `Commits`; its events bear this process's mark, `nonce`.
    """

    def __init__(
        self,
        client: pymongo.MongoClient[Document],
        database: str,
        *,
        nonce: str,
        clock: Clock,
        threads: Blocking,
        commit_threads: Blocking | None = None,
        urgent_threads: Blocking | None = None,
        is_private: bool = False,
    ) -> None:
        """`commit_threads` write the record updates, for which orders wait on their way to the broker. `urgent_threads` serve commands
        and wishes to cancel, which must not wait behind a burst of orders.

        `is_private`: the server dies with this process. Only then are transactions used: elsewhere one that was open when we were killed
        would hold its records locked until the server's own limit, up to a minute.
        """
        self._client = client
        self._db = client[database]
        self._nonce = nonce
        self._clock = clock
        self._is_private = is_private
        self._calls = Calls(
            clock,
            threads=threads,
            commit_threads=commit_threads,
            urgent_threads=urgent_threads,
            is_private=is_private,
        )
        self._spoilt = SpoiltDocuments()
        self._clashes: Counter[tuple[str, str]] = Counter()
        self._commits = Commits(client, self._db[ORDERS], self._calls, clock, read=self._with_lines)

    # --- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Finds out what the server can do and makes the indexes that are missing. Raises StoreUnavailable."""
        hello, *_ = await asyncio.gather(
            self._calls.ask(lambda: self._client.admin.command("hello")),
            *(self._calls.ask(partial(self._ensure_indexes, name)) for name in INDEXES),
        )
        self._commits.open(has_transactions=self._is_private and "setName" in hello)

    async def be_kept(self, keeper: Keeper) -> None:
        await self._commits.be_kept(keeper)

    async def close(self) -> None:
        """Ends after the commit under way; waiting ones are dropped, their callers are cancelled by then."""
        await self._commits.close()
        self._calls.close()
        self._client.close()

    async def check(self) -> None:
        # Of the primary, as all that matters: a ping would be answered by a server that can store nothing.
        await self._calls.urgent(lambda: self._db[COMMANDS].find_one({"_id": ""}, {"_id": 1}))

    def silent_seconds(self) -> float:
        return self._calls.silent_seconds()

    def newly_spoilt(self) -> list[Spoilt]:
        return self._spoilt.fresh()

    def spoilt_told(self, some: Collection[Spoilt]) -> None:
        self._spoilt.told(some)

    def spoilt(self, names: Collection[str], *, may_be_at_work: bool = False) -> list[str]:
        return self._spoilt.named(names, also=UNSETTLED if may_be_at_work else None)

    def _readable(self, collection: str, documents: Iterable[Document], read: Callable[[Document], T]) -> list[T]:
        """What can be read. The rest is left alone and said: one document that cannot be read must not keep the others from being worked."""
        readable = []
        for document in documents:
            try:
                readable.append(read(document))
            except UnreadableRecord as exc:
                self._spoilt.note(collection, document, exc)
            else:
                self._spoilt.read(collection, document["_id"])
        return readable

    def _ensure_indexes(self, name: str) -> None:
        """Makes what is missing. One that keeps records unique must be there: without it the store is not fit to be used. Without another the
        service is slow, and says so."""
        collection = self._db[name]
        there = list(collection.list_indexes())
        for wanted in INDEXES[name]:
            if any(wanted.is_served_by(found) for found in there):
                continue
            try:
                collection.create_index(wanted.keys, **wanted.options)
            except (ExecutionTimeout, WTimeoutError):
                raise
            except OperationFailure as exc:
                words = f"the index of {name} on {wanted.fields} cannot be made: {in_short(exc)}"
                if wanted.is_unique:
                    raise StoreUnavailable(words) from exc
                log.error(f"Slower than need be, {words}", action="index_missing", collection=name)

    # --- the record ---------------------------------------------------------------------------------------------

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
                self._spoilt.note(ORDERS, found, exc)
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

    async def strike(self, strikes: Sequence[Strike]) -> None:
        await self.keep_lines({strike.order_id: strike.lines for strike in strikes if strike.lines})
        outcomes = await asyncio.gather(*(self._strike_alone(strike) for strike in strikes), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _strike_alone(self, strike: Strike) -> None:
        """A record that is gone, or cannot be read any more, is said and holds up no other's: they would be delivered again for ever."""
        try:
            await self._strike(strike)
        except (KeyError, UnreadableRecord, WriteError) as exc:
            words = f"order {strike.order_id!r}: what was told of it cannot be struck out: {exc}"
            self._spoilt.note(STRIKES, {"_id": strike.order_id}, words)

    async def keep_lines(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        if lines:
            await self._calls.write(lambda: self._keep_lines(lines))

    def _keep_lines(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        collection = self._db[LEDGER_LINES]
        documents = [{"_id": order_id, "lines": lines_to_document(some)} for order_id, some in lines.items()]
        try:
            collection.insert_many(documents, ordered=False)
        except BulkWriteError as exc:
            raise_unless_duplicates(exc)
            for error in exc.details["writeErrors"]:
                document = documents[error["index"]]
                fields = {f"lines.{number}": line for number, line in document["lines"].items()}
                try:
                    collection.update_one({"_id": document["_id"]}, {"$set": fields})
                except WriteError as refused:
                    if refused.code not in REFUSED_FOR_THIS_DOCUMENT:
                        raise
                    words = f"ledger lines of order {document['_id']!r} cannot be added to: {in_short(refused)}"
                    raise UnreadableRecord(words) from refused

    async def _strike(self, strike: Strike) -> None:
        cursors = {f"told.{name}": number for name, number in strike.cursors.items()}
        if strike.is_settled and min(strike.cursors.values()) >= strike.version:
            others = {f"told.{name}": strike.version for name in (WORLD, PEOPLE) if name not in strike.cursors}
            with contextlib.suppress(VersionConflict):
                await self._commits.make(
                    strike.order_id,
                    {"version": strike.version, **others},
                    {"$max": cursors, "$pull": {"lookup": UNSETTLED}},
                    lambda document: UNSETTLED not in document["lookup"] and _covers(document["told"], strike),
                )
                return
        # The order has moved on, or something else is still owed: the record stays unsettled.
        await self._commits.make(
            strike.order_id, {}, {"$max": cursors}, lambda document: _covers(document["told"], strike)
        )

    async def open_orders(self) -> list[Stored]:
        return await self._find({"lookup": UNSETTLED})

    async def unsettled(self, account_id: str | None = None) -> list[Unsettled]:
        return await self._in_brief({"lookup": UNSETTLED} | ({} if account_id is None else {"account_id": account_id}))

    async def leave(self, left: Mapping[str, str]) -> None:
        def write() -> None:
            for order_id, desk in left.items():
                self._db[ORDERS].update_one({"_id": order_id}, {"$addToSet": {"lookup": LEFT + desk}})

        await self._calls.ask(write)

    async def left_for(self, desks: Sequence[str]) -> list[Unsettled]:
        return await self._in_brief({"lookup": {"$in": [LEFT + desk for desk in desks]}})

    async def _in_brief(self, query: Document) -> list[Unsettled]:
        def read() -> list[Unsettled]:
            found = self._db[ORDERS].find(query, {"version": 1, "account_id": 1, "received_at": 1, "signal_id": 1})
            oldest_first = sorted(self._readable(BRIEFS, found, _in_brief))
            return [unsettled for _, _, unsettled in oldest_first]

        return await self._calls.ask(read)

    async def picked_up(self, looked_at: Sequence[Unsettled], desks: Sequence[str]) -> None:
        words = {"$in": [LEFT + desk for desk in desks]}
        pulls: list[UpdateOne | UpdateMany] = [
            UpdateOne({"_id": brief.order_id, "version": brief.version}, {"$pull": {"lookup": words}})
            for brief in looked_at
        ]
        await self._calls.write(lambda: self._db[ORDERS].bulk_write(pulls, ordered=False))

    async def load(self, order_ids: Sequence[str]) -> list[Stored]:
        return await self._find({"_id": {"$in": list(order_ids)}})

    async def find(self, names: Sequence[str]) -> list[Stored]:
        return await self._find({"lookup": {"$in": list(names)}})

    async def _find(self, query: Mapping[str, Any]) -> list[Stored]:
        stored = await self._calls.ask(lambda: self._with_lines(list(self._db[ORDERS].find(query))))
        return sorted(stored, key=lambda s: (s.order.received_at, s.order.order_id))

    def _with_lines(self, documents: Sequence[Document]) -> list[Stored]:
        # A process that was killed or superseded may have kept an order's lines and not have struck out its delivery any more.
        told = [d["_id"] for d in documents if _may_have_lines(d)]
        found = self._db[LEDGER_LINES].find({"_id": {"$in": told}}) if told else ()
        lines: dict[Any, Any] = {d["_id"]: d.get("lines") for d in found}
        return self._readable(
            ORDERS, documents, lambda document: stored_from_document(document, lines.get(document["_id"], {}))
        )

    # --- commands, dead letters, alarms -------------------------------------------------------------------------

    async def insert_command(self, command: Command) -> bool:
        return await self._calls.urgent(partial(self._insert_new, COMMANDS, [command_to_document(command)])) == 1

    async def finish_command(
        self, command_id: str, status: CommandStatus, outcome: str, active_until: datetime | None
    ) -> None:
        changes = {"status": status.value, "outcome": outcome, "active_until": active_until}
        # Several processes may carry out one command at once: the first to finish says what came of it.
        match = {"_id": command_id, "status": CommandStatus.NEW.value}
        await self._calls.urgent(lambda: self._db[COMMANDS].update_one(match, {"$set": changes}))

    async def commands(self, *, now: datetime) -> list[Command]:
        def read() -> list[Command]:
            fresh = self._db[COMMANDS].find({"status": CommandStatus.NEW.value})
            active = self._db[COMMANDS].find({"active_until": {"$gt": now}})
            by_id = {d["_id"]: d for d in (*fresh, *active)}
            return self._readable(COMMANDS, by_id.values(), command_from_document)

        return sorted(await self._calls.ask(read), key=lambda c: (c.received_at, c.command_id))

    async def new_commands(self) -> list[Command]:
        def read() -> list[Command]:
            found = self._db[COMMANDS].find({"status": CommandStatus.NEW.value})
            return self._readable(COMMANDS, found, command_from_document)

        return sorted(await self._calls.ask(read), key=lambda c: (c.received_at, c.command_id))

    async def cancels_naming(self, names: Collection[str]) -> list[Command]:
        # One question for each field, so that each is answered by one index.
        holding = [{"status": CommandStatus.NEW.value}, {"active_until": {"$ne": None}}]
        questions: list[Document] = [
            {field: {"$in": list(names)}, "kind": "CANCEL", "$or": holding}
            for field in ("body.order_id", "body.signal_id")
        ]

        def read() -> list[Command]:
            by_id = {d["_id"]: d for question in questions for d in self._db[COMMANDS].find(question)}
            return self._readable(COMMANDS, by_id.values(), command_from_document)

        return sorted(await self._calls.ask(read), key=lambda c: (c.received_at, c.command_id))

    async def insert_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        documents = [dead_letter_to_document(letter) for letter in letters]
        await self._calls.write(partial(self._insert_new, DEAD_LETTERS, documents))

    async def dead_letter(self, message_id: str) -> DeadLetter | None:
        document = await self._calls.ask(lambda: self._db[DEAD_LETTERS].find_one({"_id": message_id}))
        return None if document is None else dead_letter_from_document(document)

    def _insert_new(self, collection: str, documents: list[Document]) -> int:
        """Inserts what is not there yet; how many that was."""
        try:
            return len(self._db[collection].insert_many(documents, ordered=False).inserted_ids)
        except BulkWriteError as exc:
            raise_unless_duplicates(exc)
            return int(exc.details["nInserted"])

    async def raise_alarm(self, alarm: Alarm) -> None:
        update = {
            "$inc": {"count": alarm.count},
            "$set": {"text": alarm.text},
            "$setOnInsert": {"kind": alarm.kind, "first_at": alarm.first_at, "sent_at": None, "sent_count": 0},
        }
        write = partial(self._db[ALERTS].update_one, {"_id": alarm.alarm_id}, update, upsert=True)
        try:
            await self._calls.ask(write)
        except DuplicateKeyError:
            # Somebody else made it at the same moment; now it is there to be added to.
            await self._calls.ask(write)

    async def unsent_alarms(self) -> list[Alarm]:
        def read() -> list[Alarm]:
            return self._readable(ALERTS, self._db[ALERTS].find({"sent_at": None}), alarm_from_document)

        return sorted(await self._calls.ask(read), key=lambda a: (a.first_at, a.alarm_id))

    async def alarm_sent(self, alarm: Alarm, at: datetime) -> None:
        update = {"$set": {"sent_at": at, "sent_count": alarm.count}}
        await self._calls.ask(lambda: self._db[ALERTS].update_one({"_id": alarm.alarm_id}, update))

    # --- the ledger ---------------------------------------------------------------------------------------------

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
        def read() -> list[LedgerEntry]:
            found = list(self._db[POSITIONS].find({"_id": {"$in": [key.ledger_id for key in keys]}}))
            entries = self._readable(POSITIONS, found, ledger_from_document)
            if len(entries) < len(found):
                # To whoever asked for it by name a missing entry would be an empty one.
                spoilt = self._spoilt.named([key.ledger_id for key in keys])
                raise UnreadableRecord("; ".join(spoilt))
            return entries

        return {entry.key: entry for entry in await self._calls.ask(read)}

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        def read() -> dict[str, Mapping[int, Line]]:
            found = self._db[LEDGER_LINES].find({"_id": {"$in": list(order_ids)}})
            return {d["_id"]: lines_from_document(d.get("lines")) for d in found}  # type: ignore[arg-type]

        return await self._calls.ask(read)

    async def open_ledgers(self, account_id: str) -> list[LedgerEntry] | None:
        def read() -> list[LedgerEntry] | None:
            found = list(self._db[POSITIONS].find({"account_id": account_id, "is_open": True}))
            entries = self._readable(POSITIONS, found, ledger_from_document)
            return entries if len(entries) == len(found) else None

        return await self._calls.ask(read)

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        wanted = {"account_id": account_id, "$or": [{"is_open": True}, {"instrument.symbol": {"$in": list(symbols)}}]}

        def read() -> list[LedgerEntry]:
            return self._readable(POSITIONS, self._db[POSITIONS].find(wanted), ledger_from_document)

        return await self._calls.ask(read)

    def spoilt_ledgers(self, account_id: str) -> list[Instrument]:
        return self._spoilt.ledgers_of(account_id)

    async def save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        return [await self._calls.write(partial(self._save_ledger, entry)) for entry in entries]

    def _save_ledger(self, entry: LedgerEntry) -> bool:
        document = ledger_to_document(entry)
        collection = self._db[POSITIONS]
        if entry.version == 1:
            try:
                collection.insert_one(document)
            except DuplicateKeyError:
                return False
            return True
        guard = {"_id": document["_id"], "version": entry.version - 1}
        return collection.replace_one(guard, document).matched_count == 1

    # --- discrepancies ------------------------------------------------------------------------------------------

    async def open_discrepancies(self, account_id: str) -> list[Discrepancy]:
        def read() -> list[Discrepancy]:
            found = self._db[DISCREPANCIES].find({"account_id": account_id, "state": State.OPEN.value})
            return self._readable(DISCREPANCIES, found, discrepancy_from_document)

        return sorted(await self._calls.ask(read), key=lambda d: (d.opened_at, d.discrepancy_id))

    async def discrepancy(self, discrepancy_id: str) -> Discrepancy | None:
        document = await self._calls.ask(lambda: self._db[DISCREPANCIES].find_one({"_id": discrepancy_id}))
        return None if document is None else discrepancy_from_document(document)

    async def insert_discrepancy(self, discrepancy: Discrepancy) -> bool:
        document = discrepancy_to_document(discrepancy)
        return await self._calls.ask(partial(self._insert_new, DISCREPANCIES, [document])) == 1

    async def save_discrepancy(self, discrepancy: Discrepancy) -> None:
        document = discrepancy_to_document(discrepancy)
        guard = {"_id": document["_id"], "state": State.OPEN.value}
        await self._calls.ask(lambda: self._db[DISCREPANCIES].replace_one(guard, document))

    # --- leases -------------------------------------------------------------------------------------------------

    async def leases(self) -> list[Lease]:
        """One that cannot be read is nobody's to take, for there is a document, and nobody's to keep."""
        return await self._calls.urgent(lambda: self._readable(LEASES, self._db[LEASES].find(), lease_from_document))

    async def take_lease(self, lease: Lease, seen: Lease | None) -> bool:
        document = lease_to_document(lease)

        def write() -> bool:
            if seen is None:
                try:
                    self._db[LEASES].insert_one(document)
                except DuplicateKeyError:
                    return False
                return True
            guard = {"_id": seen.desk, "holder": seen.holder, "epoch": seen.epoch, "beat": seen.beat}
            return self._db[LEASES].replace_one(guard, document).matched_count == 1

        return await self._calls.urgent(write)

    async def renew_leases(self, holder: str, desks: Sequence[str], at: datetime) -> None:
        update = {"$inc": {"beat": 1}, "$set": {"renewed_at": at}}
        mine = {"_id": {"$in": list(desks)}, "holder": holder}
        await self._calls.urgent(lambda: self._db[LEASES].update_many(mine, update))

    async def release_leases(self, holder: str, desks: Sequence[str]) -> None:
        update = {"$inc": {"beat": 1}, "$set": {"holder": ""}}
        mine = {"_id": {"$in": list(desks)}, "holder": holder}
        await self._calls.urgent(lambda: self._db[LEASES].update_many(mine, update))

    # --- views --------------------------------------------------------------------------------------------------

    async def write_views(self, writes: Sequence[ViewWrite]) -> None:
        groups: dict[tuple[str, bool], list[ViewWrite]] = {}
        for write in writes:
            # What ends an episode goes before what opens the next: there may be one OPEN document of a key.
            is_open_position = write.view is View.POSITIONS and write.changes["status"] == "OPEN"
            groups.setdefault((COLLECTION_OF[write.view], is_open_position), []).append(write)

        for (name, _), some in sorted(groups.items(), key=lambda item: item[0]):
            await self._calls.write(partial(self._write_view, name, some))

    def _write_view(self, name: str, writes: Sequence[ViewWrite]) -> None:
        fresh = [w for w in writes if w.is_probably_new]
        others = [w for w in writes if not w.is_probably_new]
        if fresh:
            try:
                self._db[name].insert_many([view_document(w) for w in fresh], ordered=False)
            except BulkWriteError as exc:
                others += self._duplicates(name, fresh, exc)
        for _ in range(VIEW_ATTEMPTS):
            if not others:
                break
            try:
                self._db[name].bulk_write([view_update(w) for w in others], ordered=False)
                break
            except BulkWriteError as exc:
                others = self._still_behind(name, self._duplicates(name, others, exc))
                clash = exc
        else:
            if self._still_borne(name, others, clash):
                raise clash
        for write in writes if self._clashes else ():
            if write not in others:
                self._clashes.pop((name, str(write.document_id)), None)

    def _duplicates(self, name: str, writes: Sequence[ViewWrite], exc: BulkWriteError) -> list[ViewWrite]:
        """Of the writes those that were refused as duplicates. One that the server will never make, since what somebody else wrote into that
        document does not go with it, is said and left out: it must not keep the others from being told. Raises StoreUnavailable."""
        duplicates = []
        for error in exc.details.get("writeErrors", ()):
            write = writes[error["index"]]
            if error.get("code") == DUPLICATE_KEY:
                duplicates.append(write)
            elif error.get("code") in REFUSED_FOR_THIS_DOCUMENT:
                self._note_view(name, write, error.get("errmsg"))
            else:
                raise_unless_duplicates(exc)
        if exc.details.get("writeConcernErrors"):
            raise_unless_duplicates(exc)
        return duplicates

    def _still_borne(self, name: str, refused: Sequence[ViewWrite], why: BulkWriteError) -> bool:
        """Whether any of these clashes may still end by itself, as when another process is about to close the position of before. What has
        clashed again and again is left as it is, and said: people are told of the order all the same."""
        is_borne = False
        for write in refused:
            key = (name, str(write.document_id))
            self._clashes[key] += 1
            if self._clashes[key] > CLASHES_BORNE:
                errors = why.details.get("writeErrors") or [{}]
                self._note_view(name, write, errors[0].get("errmsg") or in_short(why))
            else:
                is_borne = True
        return is_borne

    def _note_view(self, name: str, write: ViewWrite, why: object) -> None:
        words = f"{name} {write.document_id!s} is not brought up to date, for what stands there: {why}"
        self._spoilt.note(name, {"_id": write.document_id}, f"{words}; mend it, then rebuild-views")

    def _still_behind(self, name: str, refused: Sequence[ViewWrite]) -> list[ViewWrite]:
        """Of the writes refused as duplicates, those whose document is not further on already.

        Somebody else may have made that document at the same moment: then the write is due once more. If it is refused for ever,
        another document has what must be unique; which index was hit does not tell, for a document may offend against several.
        """
        ids = [with_ids(w.document_id) for w in refused if w.match_field == "_id"]
        present = {d["_id"]: d for d in self._db[name].find({"_id": {"$in": ids}})}
        return [w for w in refused if not is_further_on(present.get(with_ids(w.document_id)), w)]

    async def signal_documents(self, signal_ids: Sequence[str]) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            found = self._db[SIGNALS_VIEW].find({"signal_id": {"$in": list(signal_ids)}}, {"signal_id": 1})
            return dict(self._readable(SIGNALS_VIEW, found, _signal_document))

        return await self._calls.ask(read)

    async def has_trading_account(self, account_id: str) -> bool:
        def read() -> bool:
            return self._db[TRADING_ACCOUNTS_VIEW].find_one({"_id": account_id}, {"_id": 1}) is not None

        return await self._calls.ask(read)


def _as_stored(document: Document) -> Document:
    """As the server would give it back: times cut to milliseconds, zones to UTC."""
    return bson.decode(bson.encode(document), CODEC)


def _covers(told: Mapping[str, Any], strike: Strike) -> bool:
    return all(told.get(name, 0) >= number for name, number in strike.cursors.items())


def _signal_document(document: Mapping[str, Any]) -> tuple[str, Any]:
    """Somebody else's, so anything may stand there. Raises UnreadableRecord."""
    signal_id, document_id = document["signal_id"], document["_id"]
    if not isinstance(signal_id, str) or not isinstance(document_id, Hashable):
        raise UnreadableRecord(f"{SIGNALS_VIEW} {document_id!r}: its signal is {signal_id!r}")
    return signal_id, document_id


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
