"""The shared collections on MongoDB: writes that only move forward, and what to do about documents of others in their way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import structlog
from pymongo.errors import BulkWriteError, OperationFailure

from execution_service.core.errors import UnreadableRecord
from execution_service.core.views.shared import HexId
from execution_service.runtime.concurrency import side_by_side
from execution_service.storage.mongo.calls import DUPLICATE_KEY, in_short, raise_unless_duplicates
from execution_service.storage.mongo.commits import REFUSED_FOR_THIS_DOCUMENT, UNSTORABLE
from execution_service.storage.mongo.documents import (
    is_further_on,
    view_document,
    view_update,
    with_ids,
)
from execution_service.storage.mongo.names import (
    CONFIRMATIONS_VIEW,
    POSITIONS_VIEW,
    SIGNALS_VIEW,
    TRADES_VIEW,
    TRADING_ACCOUNTS_VIEW,
    TRADING_ORDERS_VIEW,
)
from execution_service.storage.mongo.port import MongoPort, Place
from execution_service.storage.ports.views import View, ViewWrite

log = structlog.get_logger(__name__)

COLLECTION_OF = {
    View.CONFIRMATIONS: CONFIRMATIONS_VIEW,
    View.SIGNALS: SIGNALS_VIEW,
    View.POSITIONS: POSITIONS_VIEW,
    View.TRADING_ORDERS: TRADING_ORDERS_VIEW,
    View.TRADING_ACCOUNTS: TRADING_ACCOUNTS_VIEW,
    View.TRADES: TRADES_VIEW,
}

VIEW_ATTEMPTS = 3
CLASHES_BORNE = 4
"""So often a view may clash with another document before it is left as it is: whoever delivers tries on every half minute."""


class MongoViews(MongoPort):
    """The shared collections."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._sessions = place.client
        self._has_transactions = False
        self._clashes: Counter[tuple[str, str]] = Counter()

    async def write_views(self, writes: Sequence[ViewWrite]) -> None:
        groups: dict[tuple[str, bool], list[ViewWrite]] = {}
        for write in writes:
            # What ends an episode goes before what opens the next: there may be one OPEN document of a key.
            is_open_position = write.view is View.POSITIONS and write.changes["status"] == "OPEN"
            groups.setdefault((COLLECTION_OF[write.view], is_open_position), []).append(write)

        several = [(name, some) for (name, _), some in sorted(groups.items(), key=lambda item: item[0])]
        if (
            len(several) > 1
            and self._has_transactions
            and await self._calls.write(partial(self._write_views_together, several))
        ):
            return
        await side_by_side(
            *(
                self._write_views_of(name, [some for _, some in groups])
                for name, groups in groupby(several, itemgetter(0))
            )
        )

    async def _write_views_of(self, name: str, groups: Sequence[Sequence[ViewWrite]]) -> None:
        for some in groups:
            await self._calls.write(partial(self._write_view, name, some))

    def _write_views_together(self, several: Sequence[tuple[str, Sequence[ViewWrite]]]) -> bool:
        """One flush to disk for all collections. False: nothing was written, since something did not go as it mostly does; each collection is
        to be written by itself."""
        with self._sessions.start_session() as session:
            try:
                with session.start_transaction():
                    for name, some in several:
                        fresh = [view_document(write) for write in some if write.is_probably_new]
                        others = [view_update(write) for write in some if not write.is_probably_new]
                        if fresh:
                            self._db[name].insert_many(fresh, ordered=False, session=session)
                        if others:
                            self._db[name].bulk_write(others, ordered=False, session=session)
            except (OperationFailure, *UNSTORABLE) as exc:
                log.debug(f"Views are written collection by collection: {exc}", action="views_singly")
                return False
        return True

    def _write_view(self, name: str, writes: Sequence[ViewWrite]) -> None:
        fresh = [w for w in writes if w.is_probably_new]
        others = [w for w in writes if not w.is_probably_new]
        if fresh:
            try:
                self._db[name].insert_many([view_document(w) for w in fresh], ordered=False)
            except BulkWriteError as exc:
                others += [w for w in self._duplicates(name, fresh, exc) if not w.is_for_ever]
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
        # Under a name of its own: that it can be read, as most such documents can, must not have it said again with each write.
        self._unreadable.note(f"{name} to write", {"_id": write.document_id}, f"{words}; mend it, then rebuild-views")

    def _still_behind(self, name: str, refused: Sequence[ViewWrite]) -> list[ViewWrite]:
        """Of the writes refused as duplicates, those whose document is not further on already.

        Somebody else may have made that document at the same moment: then the write is due once more. If it is refused for ever,
        another document has what must be unique; which index was hit does not tell, for a document may offend against several.
        """
        ids = [with_ids(w.document_id) for w in refused if w.match_field == "_id"]
        present = {d["_id"]: d for d in self._db[name].find({"_id": {"$in": ids}})}
        return [w for w in refused if not is_further_on(present.get(with_ids(w.document_id)), w)]

    async def signal_documents(self, signal_ids: Sequence[str], *, besides: Collection[HexId] = ()) -> dict[str, Any]:
        wanted: dict[str, Any] = {"signal_id": {"$in": list(signal_ids)}}
        if besides:
            wanted["$nor"] = [{"_id": {"$in": [with_ids(each) for each in besides]}}]

        def read() -> dict[str, Any]:
            found = self._db[SIGNALS_VIEW].find(wanted, {"signal_id": 1})
            return dict(self._readable(SIGNALS_VIEW, found, _signal_document))

        return await self._calls.ask(read)

    async def has_trading_account(self, account_id: str) -> bool:
        def read() -> bool:
            return self._db[TRADING_ACCOUNTS_VIEW].find_one({"_id": account_id}, {"_id": 1}) is not None

        return await self._calls.ask(read)


def _signal_document(document: Mapping[str, Any]) -> tuple[str, Any]:
    """Somebody else's, so anything may stand there. Raises UnreadableRecord."""
    signal_id, document_id = document["signal_id"], document["_id"]
    if not isinstance(signal_id, str) or not isinstance(document_id, Hashable):
        raise UnreadableRecord(f"{SIGNALS_VIEW} {document_id!r}: its signal is {signal_id!r}")
    return signal_id, document_id
