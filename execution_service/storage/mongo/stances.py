"""Stances on MongoDB, each changed by compare-and-set on the version that was seen of it."""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError

from execution_service.core.errors import UnreadableRecord
from execution_service.core.planning.stances import (
    StanceRecord,
    Stances,
    stance_from_document,
    stance_to_document,
    stances_of,
)
from execution_service.core.views.record import Document
from execution_service.storage.mongo.names import STANCES
from execution_service.storage.mongo.port import MongoPort


class MongoStances(MongoPort):
    """One document for each scope."""

    async def stances(self) -> Stances:
        # All of them: a document that a query leaves out for an odd field would not count.
        return stances_of(await self._calls.urgent(lambda: list(self._db[STANCES].find({}))))

    async def put_stance(self, record: StanceRecord) -> bool:
        document = stance_to_document(record)

        def write() -> bool:
            there = self._db[STANCES].find_one({"_id": document["_id"]})
            if there is None:
                try:
                    self._db[STANCES].insert_one(document)
                except DuplicateKeyError:
                    return False
                return True
            if _is_readable(there) and there["version"] != record.version - 1:
                return False
            guard = {"_id": document["_id"], "version": there.get("version")}
            return self._db[STANCES].replace_one(guard, document).matched_count == 1

        return await self._calls.urgent(write)


def _is_readable(document: Document) -> bool:
    try:
        stance_from_document(document)
    except UnreadableRecord:
        return False
    return True
