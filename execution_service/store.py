"""MongoDB: order records, ledger, commands, dead letters, alarms and views; the only room that names a collection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import bson
import pymongo
import structlog
import tenacity
from bson import Binary, ObjectId
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteError,
    WTimeoutError,
)

from execution_service.core.errors import UnreadableRecord
from execution_service.core.ledger import LedgerEntry, LedgerKey, Line
from execution_service.core.order import Event, Order, SubmitStarted, apply_all
from execution_service.core.reconcile import Discrepancy, State
from execution_service.core.record import (
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
from execution_service.core.views import HexId
from execution_service.ports import (
    NOTHING_LEFT,
    Alarm,
    Clock,
    Command,
    CommandStatus,
    DeadLetter,
    Lease,
    Stored,
    StoreUnavailable,
    Strike,
    Told,
    Unsettled,
    VersionConflict,
    View,
    ViewWrite,
)
from execution_service.reach import Reach
from execution_service.threads import Blocking, Gate
from execution_service.turns import Turns

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

IDENTITY_INDEX = [("signal_id", 1), ("leg_index", 1), ("purpose", 1)]
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
DUPLICATE_KEY = 11000
VIEW_ATTEMPTS = 3
REFUSED_FOR_EVER = frozenset({2, 121, 10334, 17280, 17419})
"""Codes of a server that will never take this document: a bad value, a validator, too large, a key too large."""
UNSTORABLE = (BSONError, DocumentTooLarge, UnicodeError, OverflowError)
"""What the driver raises for a document that no server could take."""
CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=UTC)


def connect(uri: str) -> pymongo.MongoClient[Document]:
    """A client with bounded waits and durable writes; opens no connection yet. Raises StoreUnavailable for an address that is unusable."""
    try:
        return pymongo.MongoClient(
            uri,
            tz_aware=True,
            tzinfo=UTC,
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


@dataclass(slots=True)
class _Commit:
    """One waiting update of one record."""

    order_id: str
    guard: Document
    """What else must be true of the record, besides its `_id`."""
    update: Document
    has_arrived: Callable[[Document], bool]
    done: asyncio.Future[None]
    statement: str
    """Equal where the same statement serves several records."""


class MongoStore:
    """The Store on any server that speaks MongoDB's protocol.

    Record updates that wait at the same time are written together: on a server of our own in one transaction, which is one flush
    to disk for all. Each is a compare-and-set on `version`; after an unclear answer the record is read back and searched for our own mark,
    so that a write is never taken for somebody else's, nor made twice.
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
        self._threads = threads
        self._commit_threads = commit_threads or threads
        self._urgent_threads = urgent_threads or threads
        self._turns: Turns[_Commit] = Turns(clock)
        self._gate = Gate()
        self._news, self._hurry = asyncio.Event(), asyncio.Event()
        self._committers: list[asyncio.Task[None]] = []
        self._is_private = is_private
        self._has_transactions = False
        self._reach = Reach("The store", clock)

    # --- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Finds out what the server can do and makes the indexes. Raises StoreUnavailable."""
        await self._call(self._prepare)
        self._committers = [
            asyncio.create_task(self._commit_for_ever(), name="store-commits"),
            asyncio.create_task(self._commit_hurry_for_ever(), name="store-commits-hurry"),
        ]

    async def close(self) -> None:
        """Ends after the commit under way; waiting ones are dropped, their callers are cancelled by then."""
        for committer in self._committers:
            committer.cancel()
        await asyncio.gather(*self._committers, return_exceptions=True)
        self._threads.close()
        self._commit_threads.close()
        self._urgent_threads.close()
        self._client.close()

    def _prepare(self) -> None:
        hello = self._client.admin.command("hello")
        self._has_transactions = self._is_private and "setName" in hello
        db = self._db
        db[ORDERS].create_index(IDENTITY_INDEX, unique=True)
        db[ORDERS].create_index([("account_id", 1), ("client_order_id", 1)], unique=True)
        db[ORDERS].create_index("lookup")
        db[COMMANDS].create_index("status")
        db[COMMANDS].create_index("active_until")
        db[ALERTS].create_index("sent_at")
        db[POSITIONS].create_index("account_id")
        db[DISCREPANCIES].create_index("place", unique=True, partialFilterExpression={"state": State.OPEN.value})
        db[DISCREPANCIES].create_index("account_id")
        db[CONFIRMATIONS_VIEW].create_index(IDENTITY_INDEX, unique=True)
        db[CONFIRMATIONS_VIEW].create_index("submitted_at")
        db[CONFIRMATIONS_VIEW].create_index("timestamp")
        db[SIGNALS_VIEW].create_index("signal_id")
        db[POSITIONS_VIEW].create_index("ledger_id", unique=True, partialFilterExpression={"status": "OPEN"})
        db[TRADING_ORDERS_VIEW].create_index("order_id")

    async def _call(self, call: Callable[[], T], *, urgent: bool = False) -> T:
        """One blocking call. Raises StoreUnavailable when the server cannot be reached or is not fit to answer now."""
        return await self._call_in(self._urgent_threads if urgent else self._threads, call)

    async def _write(self, call: Callable[[], T]) -> T:
        """As `_call`, for writes that come with every order. The server of our own makes one at a time sooner than several at once, and an
        order that hurries waits for no more than one."""
        if not self._is_private:
            return await self._call(call)
        async with self._gate.turn():
            # In the thread of the commits: whose turn it is waits for no question.
            return await self._call_in(self._commit_threads, call)

    async def _call_in(self, threads: Blocking, call: Callable[[], T]) -> T:
        with self._watched():
            return await threads.run(call)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionFailure, ExecutionTimeout, WTimeoutError) as exc:
            self._reach.fails(_first_line(exc))
            raise StoreUnavailable(_first_line(exc)) from exc
        except OperationFailure as exc:
            if isinstance(exc, DuplicateKeyError | BulkWriteError):
                raise
            raise StoreUnavailable(_first_line(exc)) from exc
        self._reach.answers()

    # --- the record ---------------------------------------------------------------------------------------------

    async def insert_orders(
        self, orders: Sequence[Order], left: Mapping[str, str] = NOTHING_LEFT
    ) -> list[Order | None]:
        documents = []
        for order in orders:
            document = order_to_document(order)
            document["lookup"].append(UNSETTLED)
            if order.order_id in left:
                document["lookup"].append(LEFT + left[order.order_id])
            document["told"] = {"world": 0, "people": 0}
            documents.append(document)
        return await self._write(partial(self._insert_orders, documents))

    def _insert_orders(self, documents: list[Document]) -> list[Order | None]:
        collection = self._db[ORDERS]
        try:
            collection.insert_many(documents, ordered=False)
            return [None] * len(documents)
        except BulkWriteError as exc:
            _raise_unless_duplicates(exc)
        present = {d["_id"]: d for d in collection.find({"_id": {"$in": [d["_id"] for d in documents]}})}
        outcome: list[Order | None] = []
        for place, document in enumerate(documents):
            found = present.get(document["_id"])
            if found is None:
                raise StoreUnavailable(f"order {document['_id']} was refused as a duplicate and is not there")
            # Ours by an attempt whose answer was lost; but a second document of one order in the same batch is a repetition.
            is_first = all(d["_id"] != document["_id"] for d in documents[:place])
            is_ours = is_first and all(found[n] == document[n] for n in ("received_at", "message_id", "version"))
            outcome.append(None if is_ours else order_from_document(found))
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

        await self._commit(
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
        lines = {strike.order_id: strike.lines for strike in strikes if strike.lines}
        if lines:
            await self._write(lambda: self._keep_lines(lines))
        await asyncio.gather(*(self._strike(strike) for strike in strikes))

    def _keep_lines(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        collection = self._db[LEDGER_LINES]
        documents = [{"_id": order_id, "lines": lines_to_document(some)} for order_id, some in lines.items()]
        try:
            collection.insert_many(documents, ordered=False)
        except BulkWriteError as exc:
            _raise_unless_duplicates(exc)
            for error in exc.details["writeErrors"]:
                document = documents[error["index"]]
                fields = {f"lines.{number}": line for number, line in document["lines"].items()}
                collection.update_one({"_id": document["_id"]}, {"$set": fields})

    async def _strike(self, strike: Strike) -> None:
        told: Document = {}
        if strike.world is not None:
            told["told.world"] = strike.world
        if strike.people is not None:
            told["told.people"] = strike.people
        if strike.is_settled:
            guard: Document = {"version": strike.version}
            if strike.world is None:
                guard["told.world"] = strike.version
            if strike.people is None:
                guard["told.people"] = strike.version
            with contextlib.suppress(VersionConflict):
                await self._commit(
                    strike.order_id,
                    guard,
                    {"$set": told, "$pull": {"lookup": UNSETTLED}},
                    lambda document: UNSETTLED not in document["lookup"] and _covers(document["told"], strike),
                )
                return
        # The order has moved on, or something else is still owed: what was delivered is struck, the record stays unsettled.
        await self._commit(strike.order_id, {}, {"$max": told}, lambda document: _covers(document["told"], strike))
        if strike.is_settled:
            # The other delivery may have been struck out between our two writes, seeing ours not done yet.
            version = strike.version
            with contextlib.suppress(VersionConflict):
                await self._commit(
                    strike.order_id,
                    {"version": version, "told.world": version, "told.people": version},
                    {"$pull": {"lookup": UNSETTLED}},
                    lambda document: UNSETTLED not in document["lookup"],
                )

    async def _commit(
        self,
        order_id: str,
        guard: Document,
        update: Document,
        has_arrived: Callable[[Document], bool],
        *,
        account_id: str | None = None,
        urgent: bool = False,
        is_leaving: bool = False,
    ) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commit = _Commit(order_id, guard, update, has_arrived, done, repr((guard, update)))
        if urgent:
            await self._write_until_answered(lambda: [commit], urgent=True)
        else:
            self._turns.put(commit, account_id, is_leaving=is_leaving)
            self._news.set()
            self._hurry.set()
        await done

    async def _commit_for_ever(self) -> None:
        while True:
            await self._news.wait()
            if self._turns:
                await self._write_until_answered(self._take)
            else:
                self._news.clear()

    def _take(self) -> Sequence[_Commit]:
        self._hurry.set()  # who has less to write than the busiest is another question after this
        return self._turns.take()

    async def _commit_hurry_for_ever(self) -> None:
        while True:
            await self._hurry.wait()
            if self._turns.has_hurry:
                await self._write_until_answered(self._turns.take_hurry, hurries=True)
            else:
                self._hurry.clear()

    async def _write_until_answered(
        self, take: Callable[[], Sequence[_Commit]], *, urgent: bool = False, hurries: bool = False
    ) -> None:
        """Takes a batch when its turn has come, since two commits at once hold each other up at any server. Tries on while the store is away;
        then settles every commit of the batch. What nobody waits for any more is not written: whoever was about to act on it has gone."""
        batch: Sequence[_Commit] | None = None
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(StoreUnavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
            before_sleep=_say_store_is_away,
            sleep=self._clock.sleep,
        ):
            with attempt:
                async with contextlib.nullcontext() if urgent else self._gate.turn(hurries=hurries):
                    batch = [c for c in (take() if batch is None else batch) if not c.done.cancelled()]
                    outcomes = await self._outcomes(batch, urgent=urgent) if batch else []
        for commit, outcome in zip(batch or (), outcomes, strict=True):
            if commit.done.done():
                continue  # its caller was cancelled; the write stands
            if outcome is None:
                commit.done.set_result(None)
            else:
                commit.done.set_exception(outcome)

    async def _outcomes(self, batch: Sequence[_Commit], *, urgent: bool) -> Sequence[Exception | None]:
        try:
            threads = self._urgent_threads if urgent else self._commit_threads
            return await self._call_in(threads, partial(self._write_batch, batch))
        except StoreUnavailable:
            raise
        except Exception as exc:
            # Whoever waits must learn of it, and the next batch must have its turn.
            log.error(f"Record updates failed: {exc}", action="commit_failed", exc_info=exc)
            return [exc] * len(batch)

    def _write_batch(self, batch: Sequence[_Commit]) -> list[Exception | None]:
        if len(batch) > 1 and self._write_together(batch):
            return [None] * len(batch)
        return [self._write_one(commit) for commit in batch]

    def _write_together(self, batch: Sequence[_Commit]) -> bool:
        """True if every update of the batch matched. False: nothing is known, each must be looked at by itself."""
        updates = _merged(batch)
        collection = self._db[ORDERS]
        if not self._has_transactions:
            with contextlib.suppress(BulkWriteError, WriteError, *UNSTORABLE):
                return collection.bulk_write(updates, ordered=True).matched_count == len(batch)
            return False
        with self._client.start_session() as session:
            try:
                with session.start_transaction():
                    if collection.bulk_write(updates, ordered=True, session=session).matched_count == len(batch):
                        return True
                    session.abort_transaction()
            except (OperationFailure, *UNSTORABLE) as exc:
                log.info(f"Group commit fell apart and is done singly: {exc}", action="commit_singly")
        return False

    def _write_one(self, commit: _Commit) -> Exception | None:
        """None, or the error that belongs to this record alone. Raises what concerns the store as a whole."""
        collection = self._db[ORDERS]
        try:
            if collection.update_one({"_id": commit.order_id, **commit.guard}, commit.update).matched_count:
                return None
        except (DuplicateKeyError, *UNSTORABLE) as exc:
            return exc
        except WriteError as exc:
            if exc.code in REFUSED_FOR_EVER:
                return exc  # this record's own affair: the others go on
            raise
        document = collection.find_one({"_id": commit.order_id})
        if document is None:
            return KeyError(f"order {commit.order_id} is not in the store")
        if commit.has_arrived(document):
            return None
        current = self._with_lines([document])
        return VersionConflict(current[0]) if current else UnreadableRecord(f"order {commit.order_id} cannot be read")

    async def open_orders(self) -> list[Stored]:
        return await self._find({"lookup": UNSETTLED})

    async def unsettled(self, account_id: str | None = None) -> list[Unsettled]:
        return await self._in_brief({"lookup": UNSETTLED} | ({} if account_id is None else {"account_id": account_id}))

    async def leave(self, left: Mapping[str, str]) -> None:
        def write() -> None:
            for order_id, desk in left.items():
                self._db[ORDERS].update_one({"_id": order_id}, {"$addToSet": {"lookup": LEFT + desk}})

        await self._call(write)

    async def left_for(self, desks: Sequence[str]) -> list[Unsettled]:
        return await self._in_brief({"lookup": {"$in": [LEFT + desk for desk in desks]}})

    async def _in_brief(self, query: Document) -> list[Unsettled]:
        def read() -> list[Unsettled]:
            found = self._db[ORDERS].find(query, {"version": 1, "account_id": 1, "received_at": 1})
            oldest_first = sorted(found, key=lambda d: (d["received_at"], d["_id"]))
            return [Unsettled(d["_id"], d["version"], d.get("account_id")) for d in oldest_first]

        return await self._call(read)

    async def picked_up(self, looked_at: Sequence[Unsettled], desks: Sequence[str]) -> None:
        words = {"$in": [LEFT + desk for desk in desks]}
        pulls: list[UpdateOne | UpdateMany] = [
            UpdateOne({"_id": brief.order_id, "version": brief.version}, {"$pull": {"lookup": words}})
            for brief in looked_at
        ]
        await self._write(lambda: self._db[ORDERS].bulk_write(pulls, ordered=False))

    async def load(self, order_ids: Sequence[str]) -> list[Stored]:
        return await self._find({"_id": {"$in": list(order_ids)}})

    async def find(self, names: Sequence[str]) -> list[Stored]:
        return await self._find({"lookup": {"$in": list(names)}})

    async def _find(self, query: Mapping[str, Any]) -> list[Stored]:
        stored = await self._call(lambda: self._with_lines(list(self._db[ORDERS].find(query))))
        return sorted(stored, key=lambda s: (s.order.received_at, s.order.order_id))

    def _with_lines(self, documents: Sequence[Document]) -> list[Stored]:
        # A process that was killed or superseded may have kept an order's lines and not have struck out its delivery any more.
        told = [d["_id"] for d in documents if d["told"]["world"] or d["filled_quantity"] != "0"]
        found = self._db[LEDGER_LINES].find({"_id": {"$in": told}}) if told else ()
        lines = {d["_id"]: lines_from_document(d["lines"]) for d in found}
        readable = []
        for document in documents:
            try:
                readable.append(_stored(document, lines.get(document["_id"], {})))
            except UnreadableRecord as exc:
                # Left alone and said: one record that cannot be read must not keep the others from being worked.
                log.error(f"Record left alone, it cannot be read: {exc}", action="unreadable_record")
        return readable

    # --- commands, dead letters, alarms -------------------------------------------------------------------------

    async def insert_command(self, command: Command) -> bool:
        document = {
            "_id": command.command_id,
            "kind": command.kind,
            "body": dict(command.body),
            "published_at": command.published_at,
            "received_at": command.received_at,
            "status": command.status.value,
            "outcome": command.outcome,
            "active_until": command.active_until,
        }
        return await self._call(partial(self._insert_new, COMMANDS, [document]), urgent=True) == 1

    async def finish_command(
        self, command_id: str, status: CommandStatus, outcome: str, active_until: datetime | None
    ) -> None:
        changes = {"status": status.value, "outcome": outcome, "active_until": active_until}
        # Several processes may carry out one command at once: the first to finish says what came of it.
        match = {"_id": command_id, "status": CommandStatus.NEW.value}
        await self._call(lambda: self._db[COMMANDS].update_one(match, {"$set": changes}), urgent=True)

    async def commands(self, *, now: datetime) -> list[Command]:
        def read() -> list[Command]:
            fresh = self._db[COMMANDS].find({"status": CommandStatus.NEW.value})
            active = self._db[COMMANDS].find({"active_until": {"$gt": now}})
            by_id = {d["_id"]: d for d in (*fresh, *active)}
            return [command_from(d) for d in by_id.values()]

        return sorted(await self._call(read), key=lambda c: (c.received_at, c.command_id))

    async def insert_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        documents = [
            {
                "_id": letter.message_id,
                "message_id": letter.message_id,
                "payload": Binary(letter.payload),
                "text": letter.payload[:4096].decode("utf-8", "replace"),
                "reason": letter.reason,
                "publish_time": letter.publish_time,
                "attributes": [{"name": k, "value": v} for k, v in letter.attributes.items()],
                "received_at": letter.received_at,
            }
            for letter in letters
        ]
        await self._write(partial(self._insert_new, DEAD_LETTERS, documents))

    async def dead_letter(self, message_id: str) -> DeadLetter | None:
        document = await self._call(lambda: self._db[DEAD_LETTERS].find_one({"_id": message_id}))
        return None if document is None else dead_letter_from(document)

    def _insert_new(self, collection: str, documents: list[Document]) -> int:
        """Inserts what is not there yet; how many that was."""
        try:
            return len(self._db[collection].insert_many(documents, ordered=False).inserted_ids)
        except BulkWriteError as exc:
            _raise_unless_duplicates(exc)
            return int(exc.details["nInserted"])

    async def raise_alarm(self, alarm: Alarm) -> None:
        update = {
            "$inc": {"count": alarm.count},
            "$set": {"text": alarm.text},
            "$setOnInsert": {"kind": alarm.kind, "first_at": alarm.first_at, "sent_at": None, "sent_count": 0},
        }
        write = partial(self._db[ALERTS].update_one, {"_id": alarm.alarm_id}, update, upsert=True)
        try:
            await self._call(write)
        except DuplicateKeyError:
            # Somebody else made it at the same moment; now it is there to be added to.
            await self._call(write)

    async def unsent_alarms(self) -> list[Alarm]:
        def read() -> list[Alarm]:
            return [_alarm(d) for d in self._db[ALERTS].find({"sent_at": None})]

        return sorted(await self._call(read), key=lambda a: (a.first_at, a.alarm_id))

    async def alarm_sent(self, alarm: Alarm, at: datetime) -> None:
        update = {"$set": {"sent_at": at, "sent_count": alarm.count}}
        await self._call(lambda: self._db[ALERTS].update_one({"_id": alarm.alarm_id}, update))

    # --- the ledger ---------------------------------------------------------------------------------------------

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
        def read() -> list[LedgerEntry]:
            found = self._db[POSITIONS].find({"_id": {"$in": [key.ledger_id for key in keys]}})
            return [ledger_from_document(d) for d in found]

        return {entry.key: entry for entry in await self._call(read)}

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        def read() -> dict[str, Mapping[int, Line]]:
            found = self._db[LEDGER_LINES].find({"_id": {"$in": list(order_ids)}})
            return {d["_id"]: lines_from_document(d["lines"]) for d in found}

        return await self._call(read)

    async def open_ledgers(self, account_id: str) -> list[LedgerEntry]:
        def read() -> list[LedgerEntry]:
            return [
                ledger_from_document(d) for d in self._db[POSITIONS].find({"account_id": account_id, "is_open": True})
            ]

        return await self._call(read)

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        wanted = {"account_id": account_id, "$or": [{"is_open": True}, {"instrument.symbol": {"$in": list(symbols)}}]}

        def read() -> list[LedgerEntry]:
            return [ledger_from_document(d) for d in self._db[POSITIONS].find(wanted)]

        return await self._call(read)

    async def save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        return [await self._write(partial(self._save_ledger, entry)) for entry in entries]

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
            readable = []
            for document in self._db[DISCREPANCIES].find({"account_id": account_id, "state": State.OPEN.value}):
                try:
                    readable.append(discrepancy_from_document(document))
                except UnreadableRecord as exc:
                    log.error(f"Discrepancy left alone, it cannot be read: {exc}", action="unreadable_record")
            return readable

        return sorted(await self._call(read), key=lambda d: (d.opened_at, d.discrepancy_id))

    async def insert_discrepancy(self, discrepancy: Discrepancy) -> bool:
        document = discrepancy_to_document(discrepancy)
        return await self._call(partial(self._insert_new, DISCREPANCIES, [document])) == 1

    async def save_discrepancy(self, discrepancy: Discrepancy) -> None:
        document = discrepancy_to_document(discrepancy)
        guard = {"_id": document["_id"], "state": State.OPEN.value}
        await self._call(lambda: self._db[DISCREPANCIES].replace_one(guard, document))

    # --- leases -------------------------------------------------------------------------------------------------

    async def leases(self) -> list[Lease]:
        return await self._call(lambda: [lease_from(d) for d in self._db[LEASES].find()], urgent=True)

    async def take_lease(self, lease: Lease, seen: Lease | None) -> bool:
        fields = asdict(lease)
        document = {"_id": fields.pop("desk"), **fields}

        def write() -> bool:
            if seen is None:
                try:
                    self._db[LEASES].insert_one(document)
                except DuplicateKeyError:
                    return False
                return True
            guard = {"_id": seen.desk, "holder": seen.holder, "epoch": seen.epoch, "beat": seen.beat}
            return self._db[LEASES].replace_one(guard, document).matched_count == 1

        return await self._call(write, urgent=True)

    async def renew_leases(self, holder: str, desks: Sequence[str], at: datetime) -> None:
        update = {"$inc": {"beat": 1}, "$set": {"renewed_at": at}}
        mine = {"_id": {"$in": list(desks)}, "holder": holder}
        await self._call(lambda: self._db[LEASES].update_many(mine, update), urgent=True)

    async def release_leases(self, holder: str, desks: Sequence[str]) -> None:
        update = {"$inc": {"beat": 1}, "$set": {"holder": ""}}
        mine = {"_id": {"$in": list(desks)}, "holder": holder}
        await self._call(lambda: self._db[LEASES].update_many(mine, update), urgent=True)

    # --- views --------------------------------------------------------------------------------------------------

    async def write_views(self, writes: Sequence[ViewWrite]) -> None:
        groups: dict[tuple[str, bool], list[ViewWrite]] = {}
        for write in writes:
            # What ends an episode goes before what opens the next: there may be one OPEN document of a key.
            is_open_position = write.view is View.POSITIONS and write.changes["status"] == "OPEN"
            groups.setdefault((COLLECTION_OF[write.view], is_open_position), []).append(write)

        for (name, _), some in sorted(groups.items(), key=lambda item: item[0]):
            await self._write(partial(self._write_view, name, some))

    def _write_view(self, name: str, writes: Sequence[ViewWrite]) -> None:
        fresh = [w for w in writes if w.is_probably_new]
        others = [w for w in writes if not w.is_probably_new]
        if fresh:
            try:
                self._db[name].insert_many([_view_document(w) for w in fresh], ordered=False)
            except BulkWriteError as exc:
                _raise_unless_duplicates(exc)
                others += [fresh[error["index"]] for error in exc.details["writeErrors"]]
        for attempt in range(1, VIEW_ATTEMPTS + 1):
            if not others:
                return
            try:
                self._db[name].bulk_write([_view_update(w) for w in others], ordered=False)
                return
            except BulkWriteError as exc:
                _raise_unless_duplicates(exc)
                others = self._still_behind(name, [others[error["index"]] for error in exc.details["writeErrors"]])
                if others and attempt == VIEW_ATTEMPTS:
                    raise

    def _still_behind(self, name: str, refused: Sequence[ViewWrite]) -> list[ViewWrite]:
        """Of the writes refused as duplicates, those whose document is not further on already.

        Somebody else may have made that document at the same moment: then the write is due once more. If it is refused for ever,
        another document has what must be unique; which index was hit does not tell, for a document may offend against several.
        """
        ids = [_with_ids(w.document_id) for w in refused if w.match_field == "_id"]
        present = {d["_id"]: d for d in self._db[name].find({"_id": {"$in": ids}})}
        return [w for w in refused if not _is_further_on(present.get(_with_ids(w.document_id)), w)]

    async def signal_documents(self, signal_ids: Sequence[str]) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            found = self._db[SIGNALS_VIEW].find({"signal_id": {"$in": list(signal_ids)}}, {"signal_id": 1})
            return {d["signal_id"]: d["_id"] for d in found}

        return await self._call(read)

    async def has_trading_account(self, account_id: str) -> bool:
        def read() -> bool:
            return self._db[TRADING_ACCOUNTS_VIEW].find_one({"_id": account_id}, {"_id": 1}) is not None

        return await self._call(read)


def _merged(batch: Sequence[_Commit]) -> list[UpdateOne | UpdateMany]:
    """The batch as few statements: what is the same for several records (the start of sending, a delivery struck out) is one, which
    spares the server from planning it anew for each."""
    alike: dict[str, list[_Commit]] = {}
    for commit in batch:
        alike.setdefault(commit.statement, []).append(commit)
    statements: list[UpdateOne | UpdateMany] = []
    for some in alike.values():
        first = some[0]
        if len(some) == 1:
            statements.append(UpdateOne({"_id": first.order_id, **first.guard}, first.update))
        else:
            ids = {"$in": [commit.order_id for commit in some]}
            statements.append(UpdateMany({"_id": ids, **first.guard}, first.update))
    return statements


def _as_stored(document: Document) -> Document:
    """As the server would give it back: times cut to milliseconds, zones to UTC."""
    return bson.decode(bson.encode(document), CODEC)


def _view_update(write: ViewWrite) -> UpdateOne:
    match: Document = {write.match_field: _with_ids(write.document_id)}
    changes: Document = dict(write.changes)
    if write.number_field is not None:
        match[write.number_field] = {"$not": {"$gt" if write.rewrites else "$gte": write.number}}
        changes[write.number_field] = write.number
    update: Document = {"$set": changes}
    if write.adds_to_sets:
        update["$addToSet"] = {name: _with_ids(value) for name, value in write.adds_to_sets.items()}
    return UpdateOne(match, update, upsert=write.creates)


def _is_further_on(document: Mapping[str, Any] | None, write: ViewWrite) -> bool:
    value: Any = document
    for name in (write.number_field or "").split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value is not None and (value > write.number or (value == write.number and not write.rewrites))


def _view_document(write: ViewWrite) -> Document:
    document: Document = {"_id": _with_ids(write.document_id), **write.changes}
    if write.number_field is not None:
        name, _, inner = write.number_field.partition(".")
        document[name] = {inner: write.number} if inner else write.number
    document.update((name, [_with_ids(value)]) for name, value in write.adds_to_sets.items())
    return document


def _with_ids(value: Any) -> Any:
    return ObjectId(value) if isinstance(value, HexId) else value


def _covers(told: Mapping[str, Any], strike: Strike) -> bool:
    return all(
        number is None or told.get(name, 0) >= number
        for name, number in (("world", strike.world), ("people", strike.people))
    )


def _stored(document: Mapping[str, Any], lines: Mapping[int, Line]) -> Stored:
    told = document["told"]
    return Stored(order_from_document(document), Told(world=told["world"], people=told["people"], lines=lines))


def command_from(document: Mapping[str, Any]) -> Command:
    return Command(
        command_id=document["_id"],
        kind=document["kind"],
        body=document["body"],
        published_at=_utc(document["published_at"]),
        received_at=_utc(document["received_at"]),
        status=CommandStatus(document["status"]),
        outcome=document["outcome"],
        active_until=None if document["active_until"] is None else _utc(document["active_until"]),
    )


def _alarm(document: Mapping[str, Any]) -> Alarm:
    return Alarm(
        alarm_id=document["_id"],
        kind=document["kind"],
        text=document["text"],
        count=document["count"],
        first_at=_utc(document["first_at"]),
    )


def lease_from(document: Mapping[str, Any]) -> Lease:
    return Lease(
        desk=document["_id"],
        holder=document["holder"],
        epoch=document["epoch"],
        beat=document["beat"],
        term_seconds=document["term_seconds"],
        host=document["host"],
        pid=document["pid"],
        taken_at=_utc(document["taken_at"]),
        renewed_at=_utc(document["renewed_at"]),
    )


def dead_letter_from(document: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        message_id=document["message_id"],
        payload=bytes(document["payload"]),
        reason=document["reason"],
        publish_time=_utc(document["publish_time"]),
        attributes={a["name"]: a["value"] for a in document["attributes"]},
        received_at=_utc(document["received_at"]),
    )


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _raise_unless_duplicates(exc: BulkWriteError) -> None:
    details = exc.details
    if any(e.get("code") != DUPLICATE_KEY for e in details.get("writeErrors", ())) or details.get("writeConcernErrors"):
        raise StoreUnavailable(_first_line(exc)) from exc


def _first_line(exc: PyMongoError) -> str:
    return str(exc).splitlines()[0][:300] if str(exc) else type(exc).__name__


def _say_store_is_away(state: tenacity.RetryCallState) -> None:
    if state.attempt_number in (1, 5) or state.attempt_number % 20 == 0:
        exc = state.outcome.exception() if state.outcome is not None else None
        log.warning(f"Record updates wait for the store: {exc}", action="store_unavailable")
