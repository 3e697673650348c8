"""The ledger on MongoDB: one document for ever per position key, changed by compare-and-set on its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pymongo import InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from brokers.base import Instrument
from execution_service.core.errors import UnreadableRecord
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line
from execution_service.core.views.record import (
    Document,
    ledger_from_document,
    ledger_to_document,
    lines_from_document,
)
from execution_service.storage.mongo.calls import raise_unless_duplicates
from execution_service.storage.mongo.ledger_lines import LedgerLines
from execution_service.storage.mongo.names import POSITIONS
from execution_service.storage.mongo.port import MongoPort, Place

ENTRIES_KNOWN_AGAIN = 4096


class MongoLedger(MongoPort):
    """The exact positions, and the ledger's lines of each order."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._ledger_lines = LedgerLines(place)
        self._read_before: dict[str, tuple[Document, LedgerEntry]] = {}
        """By their ids, documents of what is held and the entries that they are: one that is the same again is not worked out again."""

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
        def read() -> list[LedgerEntry]:
            found = list(self._db[POSITIONS].find({"_id": {"$in": [key.ledger_id for key in keys]}}))
            entries = self._readable(POSITIONS, found, ledger_from_document)
            if len(entries) < len(found):
                # To whoever asked for it by name a missing entry would be an empty one.
                unreadable = self._unreadable.named((POSITIONS,), [key.ledger_id for key in keys])
                raise UnreadableRecord("; ".join(unreadable))
            return entries

        return {entry.key: entry for entry in await self._calls.ask(read)}

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        def read() -> dict[str, Mapping[int, Line]]:
            return {
                order_id: lines_from_document(some) for order_id, some in self._ledger_lines.found(order_ids).items()
            }

        return await self._calls.ask(read)

    async def open_ledgers(self, account_id: str) -> list[LedgerEntry] | None:
        def read() -> list[LedgerEntry] | None:
            found = list(self._db[POSITIONS].find({"account_id": account_id, "is_open": True}))
            entries = self._readable(POSITIONS, found, ledger_from_document)
            return entries if len(entries) == len(found) else None

        return await self._calls.ask(read)

    async def accounts_holding(self) -> list[str]:
        def read() -> list[str]:
            found = self._db[POSITIONS].find({"is_open": True}, {"account_id": 1})
            return sorted({str(document.get("account_id")) for document in found})

        return await self._calls.ask(read)

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        wanted = {"account_id": account_id, "$or": [{"is_open": True}, {"instrument.symbol": {"$in": list(symbols)}}]}

        def read() -> list[LedgerEntry]:
            return self._readable(POSITIONS, self._db[POSITIONS].find(wanted), self._known_again)

        return await self._calls.ask(read)

    def _known_again(self, document: Document) -> LedgerEntry:
        """Raises UnreadableRecord. An account's holdings are read for each order that is judged, and few have changed since the order before."""
        ledger_id = document["_id"]
        # Another's may be anything, even what can be no key.
        before = self._read_before.get(ledger_id) if isinstance(ledger_id, str) else None
        if before is not None and before[0] == document:
            return before[1]
        entry = ledger_from_document(document)
        if len(self._read_before) >= ENTRIES_KNOWN_AGAIN:
            self._read_before.clear()
        self._read_before[entry.key.ledger_id] = document, entry
        return entry

    async def every_ledger(self, account_id: str) -> list[LedgerEntry]:
        def read() -> list[LedgerEntry]:
            return self._readable(POSITIONS, self._db[POSITIONS].find({"account_id": account_id}), ledger_from_document)

        return await self._calls.ask(read)

    def unreadable_ledgers(self, account_id: str) -> list[Instrument]:
        return self._unreadable.ledgers_of(account_id)

    async def save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        if self._calls.are_one_at_a_time or len(entries) < 2:
            return [await self._calls.write(partial(self._save_ledger, entry)) for entry in entries]
        return await self._calls.write(partial(self._save_ledgers, entries))

    def _save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        """By one statement. If that shows that not all could be saved, which is rare, none counts as saved: what was, is found so when it is
        read."""
        are_all_saved = False
        try:
            done = self._db[POSITIONS].bulk_write(list(map(_write_of, entries)), ordered=False)
            are_all_saved = done.inserted_count + done.matched_count == len(entries)
        except BulkWriteError as exc:
            raise_unless_duplicates(exc)
        return [are_all_saved] * len(entries)

    def _save_ledger(self, entry: LedgerEntry) -> bool:
        document = ledger_to_document(entry)
        collection = self._db[POSITIONS]
        if entry.version == 1:
            try:
                collection.insert_one(document)
            except DuplicateKeyError:
                return False
            return True
        return collection.replace_one(_before(entry), document).matched_count == 1

    async def keep_lines(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        await self._ledger_lines.keep(lines)


def _write_of(entry: LedgerEntry) -> InsertOne[Document] | ReplaceOne[Document]:
    document = ledger_to_document(entry)
    return InsertOne(document) if entry.version == 1 else ReplaceOne(_before(entry), document)


def _before(entry: LedgerEntry) -> Document:
    """The stored entry that this one follows on."""
    return {"_id": entry.key.ledger_id, "version": entry.version - 1}
