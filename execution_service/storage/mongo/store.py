"""The store on MongoDB: all ports on one database, opened and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Protocol

import pymongo

from execution_service.core.views.record import (
    Document,
)
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper
from execution_service.runtime.threads import Blocking, ThreadPool
from execution_service.storage.mongo.alerts import MongoAlerts
from execution_service.storage.mongo.bookmarks import MongoBookmarks
from execution_service.storage.mongo.calls import Calls
from execution_service.storage.mongo.commands import MongoCommands
from execution_service.storage.mongo.commits import Commit
from execution_service.storage.mongo.decisions import MongoDecisions
from execution_service.storage.mongo.discrepancies import MongoDiscrepancies
from execution_service.storage.mongo.gate import Gate
from execution_service.storage.mongo.leases import MongoLeases
from execution_service.storage.mongo.ledger import MongoLedger
from execution_service.storage.mongo.names import COMMANDS, WRITTEN
from execution_service.storage.mongo.opening import INDEXES, connect, ensure_indexes
from execution_service.storage.mongo.orders import MongoOrders
from execution_service.storage.mongo.plans import MongoPlans
from execution_service.storage.mongo.port import Place
from execution_service.storage.mongo.queries import MongoQueries
from execution_service.storage.mongo.risk import MongoRisk
from execution_service.storage.mongo.schedule import COMMITS_AT_ONCE, OneAtATime, Schedule, SideBySide
from execution_service.storage.mongo.stances import MongoStances
from execution_service.storage.mongo.switches import MongoSwitches
from execution_service.storage.mongo.tokens import MongoTokens
from execution_service.storage.mongo.trades import MongoTrades
from execution_service.storage.mongo.unreadable import UnreadableDocuments
from execution_service.storage.mongo.views import MongoViews
from execution_service.storage.ports.unreadable import UnreadableDocument

THREADS, THREADS_AT_A_SERVER = 2, 8
"""For questions, and at a server that is not our own for writes beside the record updates; there each waits for the way to it and back."""

QUERY_THREADS = 2
"""For those who only look: however many ask, no more of the server's time and of the interpreter's is theirs."""


class NotesComplete(Protocol):
    """Who has to know when all tables of a private server are made."""

    def note_complete(self) -> None:
        """They are, and nothing is stored in them yet."""


class MongoStore(
    MongoQueries,
    MongoOrders,
    MongoLedger,
    MongoCommands,
    MongoAlerts,
    MongoDiscrepancies,
    MongoLeases,
    MongoSwitches,
    MongoViews,
    MongoBookmarks,
    MongoTokens,
    MongoRisk,
    MongoPlans,
    MongoTrades,
    MongoDecisions,
    MongoStances,
):
    """The Store on any server that speaks MongoDB's protocol: all ports on one database."""

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
        query_threads: Blocking | None = None,
        is_private: bool = False,
        private_tables: NotesComplete | None = None,
    ) -> None:
        """`commit_threads` write the record updates, for which orders wait on their way to the broker. `urgent_threads` serve commands
        and wishes to cancel, which must not wait behind a burst of orders. `query_threads` answer those who only look.

        `is_private`: the server dies with this process. Only then are transactions used: elsewhere one that was open when we were killed
        would hold its records locked until the server's own limit, up to a minute.
        """
        gate = Gate() if is_private else None
        calls = Calls(
            clock,
            threads=threads,
            commit_threads=commit_threads,
            urgent_threads=urgent_threads,
            query_threads=query_threads,
            gate=gate,
        )
        schedule: Schedule[Commit] = SideBySide() if gate is None else OneAtATime(clock, gate)
        place = Place(
            client=client,
            db=client[database],
            calls=calls,
            clock=clock,
            unreadable=UnreadableDocuments(),
            nonce=nonce,
            schedule=schedule,
        )
        super().__init__(place)
        self._client = client
        self._is_private = is_private
        self._private_tables = private_tables

    async def open(self) -> None:
        """Finds out what the server can do and makes the indexes that are missing. Raises StoreUnavailable."""
        hello, *_ = await asyncio.gather(
            self._calls.ask(lambda: self._client.admin.command("hello")),
            *(self._calls.ask(partial(ensure_indexes, self._db, name)) for name in INDEXES),
        )
        self._has_transactions = self._is_private and "setName" in hello
        if self._has_transactions:
            await self._calls.ask(self._make_tables)
        if self._private_tables is not None:
            self._private_tables.note_complete()
        self._commits.open(has_transactions=self._has_transactions)

    def _make_tables(self) -> None:
        """The embedded server makes the table behind a collection with the collection's first document, and does not start again where it is killed
        in the midst of that. So all are made here, before there is anything to lose; the transactions are given up, and no document is ever there."""
        with self._client.start_session() as session:
            for name in WRITTEN:
                session.start_transaction()
                try:
                    self._db[name].insert_one({"_id": "a table is made"}, session=session)
                finally:
                    session.abort_transaction()

    async def be_kept(self, keeper: Keeper) -> None:
        await self._commits.be_kept(keeper)

    async def close(self) -> None:
        """Ends after the commit under way; waiting ones are dropped, their callers are cancelled by then."""
        await self._commits.close()
        self._calls.close()
        self._client.close()

    async def check(self) -> None:
        # Of the primary, as all that matters: a ping would be answered by a server that can store nothing. And in the threads in which
        # messages are stored: if those hang, nothing can be taken.
        await self._calls.ask(lambda: self._db[COMMANDS].find_one({"_id": ""}, {"_id": 1}))

    def silent_seconds(self) -> float:
        return self._calls.silent_seconds()

    def newly_unreadable(self) -> list[UnreadableDocument]:
        return self._unreadable.fresh()

    def unreadable_reported(self, some: Collection[UnreadableDocument]) -> None:
        self._unreadable.told(some)


def mongo_store(
    uri: str, database: str, *, nonce: str, clock: Clock, private_tables: NotesComplete | None
) -> MongoStore:
    """The store of a running service, with a client and threads of its own; not open yet. `private_tables`: those of the embedded store, which has
    one writer. Raises StoreUnavailable for an address that is unusable."""
    is_private = private_tables is not None
    return MongoStore(
        connect(uri),
        database,
        nonce=nonce,
        clock=clock,
        threads=ThreadPool("store", THREADS if is_private else THREADS_AT_A_SERVER),
        commit_threads=ThreadPool("store-commits", 1 if is_private else COMMITS_AT_ONCE),
        urgent_threads=ThreadPool("store-urgent", 1),
        query_threads=ThreadPool("store-queries", QUERY_THREADS),
        is_private=is_private,
        private_tables=private_tables,
    )
