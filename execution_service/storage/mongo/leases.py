"""Leases on MongoDB, each changed by compare-and-set on what was seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pymongo.errors import (
    DuplicateKeyError,
)

from execution_service.storage.mongo.documents import (
    lease_from_document,
    lease_to_document,
)
from execution_service.storage.mongo.names import LEASES
from execution_service.storage.mongo.port import MongoPort
from execution_service.storage.ports.leases import Lease


class MongoLeases(MongoPort):
    """Which process works which account."""

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
            guard = {"_id": seen.partition, "holder": seen.holder, "epoch": seen.epoch, "beat": seen.beat}
            return self._db[LEASES].replace_one(guard, document).matched_count == 1

        return await self._calls.urgent(write)

    async def renew_leases(self, holder: str, partitions: Sequence[str], at: datetime) -> None:
        update = {"$inc": {"beat": 1}, "$set": {"renewed_at": at}}
        mine = {"_id": {"$in": list(partitions)}, "holder": holder}
        await self._calls.urgent(lambda: self._db[LEASES].update_many(mine, update))

    async def release_leases(self, holder: str, partitions: Sequence[str]) -> None:
        update = {"$inc": {"beat": 1}, "$set": {"holder": ""}}
        mine = {"_id": {"$in": list(partitions)}, "holder": holder}
        await self._calls.urgent(lambda: self._db[LEASES].update_many(mine, update))
