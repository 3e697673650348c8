"""Discrepancies on MongoDB."""

from __future__ import annotations

from functools import partial

from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyState
from execution_service.core.views.record import (
    discrepancy_from_document,
    discrepancy_to_document,
)
from execution_service.storage.mongo.names import DISCREPANCIES
from execution_service.storage.mongo.port import MongoPort


class MongoDiscrepancies(MongoPort):
    """Where our books and a broker's differ."""

    async def open_discrepancies(self, account_id: str) -> list[Discrepancy]:
        def read() -> list[Discrepancy]:
            found = self._db[DISCREPANCIES].find({"account_id": account_id, "state": DiscrepancyState.OPEN.value})
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
        guard = {"_id": document["_id"], "state": DiscrepancyState.OPEN.value}
        await self._calls.ask(lambda: self._db[DISCREPANCIES].replace_one(guard, document))
