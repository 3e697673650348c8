"""The accounts' risk documents on MongoDB, each changed by compare-and-set on its version."""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError

from execution_service.core.errors import UnreadableRecord
from execution_service.core.risk.book import RiskBook, new_book
from execution_service.core.risk.documents import book_to_document, from_document
from execution_service.core.risk.limits import Scope
from execution_service.core.views.record import Document
from execution_service.storage.mongo.names import RISK
from execution_service.storage.mongo.port import MongoPort


class MongoRisk(MongoPort):
    """One document an account; its id is the account's."""

    async def risk_book(self, account_id: str) -> RiskBook:
        found = await self.read_risk_book(account_id)
        while found is None:
            first = new_book(account_id, version=1)
            if await self.save_risk_book(first):
                return first
            found = await self.read_risk_book(account_id)  # somebody else has made it meanwhile
        return found

    async def read_risk_book(self, account_id: str) -> RiskBook | None:
        document = await self._calls.ask(lambda: self._db[RISK].find_one({"_id": account_id}))
        if document is None:
            return None
        try:
            book = from_document(RiskBook, document)
            if book.account_id != account_id:
                raise UnreadableRecord(f"RiskBook {account_id!r}: it is of {book.account_id!r}")
        except UnreadableRecord as exc:
            self._unreadable.note(RISK, {**document, "account_id": account_id}, exc)
            raise
        self._unreadable.read(RISK, account_id)
        return book

    async def risk_books(self) -> list[RiskBook]:
        def read() -> list[RiskBook]:
            found = [{**document, "account_id": document["_id"]} for document in self._db[RISK].find()]
            return self._readable(RISK, found, lambda document: from_document(RiskBook, document))

        return sorted(await self._calls.ask(read), key=lambda book: book.account_id)

    async def save_risk_book(self, book: RiskBook) -> bool:
        document: Document = {"_id": book.account_id, **book_to_document(book)}

        def write() -> bool:
            if book.version == 1:
                try:
                    self._db[RISK].insert_one(document)
                except DuplicateKeyError:
                    return False
                return True
            before = {"_id": book.account_id, "version": book.version - 1}
            return self._db[RISK].replace_one(before, document).matched_count == 1

        return await self._calls.write(write)

    async def raise_fences(self, scope: Scope) -> int:
        # One whose version is no number lets no new risk pass by itself, and must not keep the others from being fenced.
        concerned: Document = {"version": {"$gte": 0}}
        if scope.account_id is not None:
            concerned["_id"] = scope.account_id
        update = {"$inc": {"version": 1, "fence": 1}}
        return await self._calls.urgent(lambda: self._db[RISK].update_many(concerned, update).matched_count)
