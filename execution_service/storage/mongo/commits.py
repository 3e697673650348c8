"""Updates of the order records: many in one write, each a compare-and-set, none taken for made that was not; knows no collection's name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pymongo
import structlog
import tenacity
from bson.errors import BSONError
from pymongo import UpdateMany, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge, DuplicateKeyError, OperationFailure, WriteError

from execution_service.core.errors import UnreadableRecord
from execution_service.core.views.record import Document
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper
from execution_service.storage.mongo.calls import Calls
from execution_service.storage.mongo.schedule import Schedule, Turn
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored, VersionConflict

log = structlog.get_logger(__name__)

REFUSED_FOR_EVER = frozenset({2, 121, 10334, 17280, 17419})
"""Codes of a server that will never take this document: a bad value, a validator, too large, a key too large."""
REFUSED_FOR_THIS_DOCUMENT = REFUSED_FOR_EVER | {9, 14, 28, 66}
"""Codes, too, of an update that does not go with what stands in the document: a field within a text, another type, a field that may not
change."""
UNSTORABLE = (BSONError, DocumentTooLarge, UnicodeError, OverflowError)
"""What the driver raises for a document that no server could take."""


@dataclass(slots=True)
class Commit:
    """One waiting update of one record."""

    order_id: str
    guard: Document
    """What else must be true of the record, besides its `_id`."""
    update: Document
    has_arrived: Callable[[Document], bool]
    done: asyncio.Future[None]
    statement: str
    """Equal where the same statement serves several records."""

    @property
    def is_settled(self) -> bool:
        return self.done.done()


class Commits:
    """Updates that wait at the same time are written together. After an unclear answer the record is read back and searched for the update's
    own mark, so that a write is never taken for somebody else's, nor made twice."""

    def __init__(
        self,
        client: pymongo.MongoClient[Document],
        records: Collection[Document],
        calls: Calls,
        clock: Clock,
        *,
        schedule: Schedule[Commit],
        read: Callable[[Sequence[Document]], Sequence[Stored]],
    ) -> None:
        """`schedule` has the updates that wait. `read` makes of records' documents those that can be read; called where the update is made,
        so it may ask the server."""
        self._client = client
        self._records = records
        self._calls = calls
        self._clock = clock
        self._read = read
        self._schedule = schedule
        self._writers: list[asyncio.Task[None]] = []
        self._has_transactions = False

    def open(self, *, has_transactions: bool) -> None:
        """From now on what waits is written, until `be_kept` by writers that nobody watches, which do for scripts. `has_transactions`: a
        batch is one transaction, which is one flush to disk for all of it."""
        self._has_transactions = has_transactions
        self._writers = [
            asyncio.create_task(part.run(), name=part.name) for part in self._schedule.parts(self._write_until_answered)
        ]

    async def be_kept(self, keeper: Keeper) -> None:
        """From now on the keeper's are the writers: to begin, to begin anew and to end."""
        await self.close()
        for part in self._schedule.parts(self._write_until_answered):
            keeper.keep(part)

    async def close(self) -> None:
        """Ends after the commit under way; waiting ones are dropped, their callers are cancelled by then."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)

    async def make(
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
        """Waits until the update is durable, however long the store is away. `has_arrived` tells from the record's document whether this very
        update is in it; `account_id` and `is_leaving` as in `WriteQueue.put`; an urgent one waits for no turn.

        Raises VersionConflict if the record no longer matches `guard`, and what the server has against this update for ever."""
        if urgent:
            commit = _commit(order_id, guard, update, has_arrived)
            await self._write_until_answered(lambda: [commit], contextlib.nullcontext, urgent=True)
            await commit.done
        else:
            await self.begin(order_id, guard, update, has_arrived, account_id=account_id, is_leaving=is_leaving)

    def begin(
        self,
        order_id: str,
        guard: Document,
        update: Document,
        has_arrived: Callable[[Document], bool],
        *,
        account_id: str | None = None,
        is_leaving: bool = False,
    ) -> asyncio.Future[None]:
        """As `make`, for who has several to wait for. One that nobody waits for any more when its turn comes is not written."""
        commit = _commit(order_id, guard, update, has_arrived)
        self._schedule.put(commit, account_id, is_leaving=is_leaving)
        return commit.done

    async def _write_until_answered(
        self, take: Callable[[], Sequence[Commit]], turn: Turn, *, urgent: bool = False
    ) -> None:
        """Takes a batch when its turn has come. Tries on while the store is away; then settles every commit of the batch. What nobody waits for
        any more is not written: whoever was about to act on it has gone."""
        batch: Sequence[Commit] | None = None
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(StoreUnavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
            before_sleep=_say_store_is_away,
            sleep=self._clock.sleep,
        ):
            with attempt:
                async with turn():
                    batch = [c for c in (take() if batch is None else batch) if not c.done.cancelled()]
                    outcomes = await self._outcomes(batch, urgent=urgent) if batch else []
        for commit, outcome in zip(batch or (), outcomes, strict=True):
            if commit.done.done():
                continue  # its caller was cancelled; the write stands
            if outcome is None:
                commit.done.set_result(None)
            else:
                commit.done.set_exception(outcome)

    async def _outcomes(self, batch: Sequence[Commit], *, urgent: bool) -> Sequence[Exception | None]:
        try:
            call = self._calls.urgent if urgent else self._calls.commit
            return await call(partial(self._write_batch, batch))
        except StoreUnavailable:
            raise
        except Exception as exc:
            # Whoever waits must learn of it, and the next batch must have its turn.
            log.error(f"Record updates failed: {exc}", action="commit_failed", exc_info=exc)
            return [exc] * len(batch)

    def _write_batch(self, batch: Sequence[Commit]) -> list[Exception | None]:
        if len(batch) > 1 and self._write_together(batch):
            return [None] * len(batch)
        return [self._write_one(commit) for commit in batch]

    def _write_together(self, batch: Sequence[Commit]) -> bool:
        """True if every update of the batch matched. False: nothing is known, each must be looked at by itself."""
        updates = _merged(batch)
        if not self._has_transactions:
            with contextlib.suppress(BulkWriteError, WriteError, *UNSTORABLE):
                return self._records.bulk_write(updates, ordered=True).matched_count == len(batch)
            return False
        with self._client.start_session() as session:
            try:
                with session.start_transaction():
                    if self._records.bulk_write(updates, ordered=True, session=session).matched_count == len(batch):
                        return True
                    session.abort_transaction()
            except (OperationFailure, *UNSTORABLE) as exc:
                log.info(f"Group commit fell apart and is done singly: {exc}", action="commit_singly")
        return False

    def _write_one(self, commit: Commit) -> Exception | None:
        """None, or the error that belongs to this record alone. Raises what concerns the store as a whole."""
        try:
            if self._records.update_one({"_id": commit.order_id, **commit.guard}, commit.update).matched_count:
                return None
        except (DuplicateKeyError, *UNSTORABLE) as exc:
            return exc
        except WriteError as exc:
            if exc.code in REFUSED_FOR_THIS_DOCUMENT:
                return exc  # this record's own affair: the others go on
            raise
        document = self._records.find_one({"_id": commit.order_id})
        if document is None:
            return KeyError(f"order {commit.order_id} is not in the store")
        try:
            if commit.has_arrived(document):
                return None
        except (LookupError, TypeError, AttributeError) as exc:
            return UnreadableRecord(f"order {commit.order_id} cannot be read: {type(exc).__name__}: {exc}")
        current = self._read([document])
        return VersionConflict(current[0]) if current else UnreadableRecord(f"order {commit.order_id} cannot be read")


def _commit(order_id: str, guard: Document, update: Document, has_arrived: Callable[[Document], bool]) -> Commit:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Commit(order_id, guard, update, has_arrived, done, repr((guard, update)))


def _merged(batch: Sequence[Commit]) -> list[UpdateOne | UpdateMany]:
    """The batch as few statements: what is the same for several records (the start of sending, a delivery struck out) is one, which
    spares the server from planning it anew for each."""
    alike: dict[str, list[Commit]] = {}
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


def _say_store_is_away(state: tenacity.RetryCallState) -> None:
    if state.attempt_number in (1, 5) or state.attempt_number % 20 == 0:
        exc = state.outcome.exception() if state.outcome is not None else None
        log.warning(f"Record updates wait for the store: {exc}", action="store_unavailable")
