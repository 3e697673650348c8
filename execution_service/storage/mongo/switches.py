"""Kill switches on MongoDB, each changed by compare-and-set on the version that was seen of it."""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError

from execution_service.core.risk.switch_record import SwitchRecord, record_to_document
from execution_service.storage.mongo.documents import kept_switch_from_document
from execution_service.storage.mongo.names import KILL_SWITCHES
from execution_service.storage.mongo.port import MongoPort
from execution_service.storage.ports.switches import KeptSwitch, UnreadableSwitch


class MongoSwitches(MongoPort):
    """One document for each scope."""

    async def switches(self) -> list[KeptSwitch]:
        # All of them: a document that a query leaves out for an odd field would count as armed.
        found = await self._calls.urgent(lambda: list(self._db[KILL_SWITCHES].find({})))
        return [kept_switch_from_document(document) for document in found]

    async def put_switch(self, record: SwitchRecord, seen: KeptSwitch | None) -> bool:
        document = record_to_document(record)

        def write() -> bool:
            if seen is None:
                try:
                    self._db[KILL_SWITCHES].insert_one(document)
                except DuplicateKeyError:
                    return False
                return True
            version = seen.version if isinstance(seen, UnreadableSwitch) else seen.switch.version
            guard = {"_id": document["_id"], "version": version}
            return self._db[KILL_SWITCHES].replace_one(guard, document).matched_count == 1

        return await self._calls.urgent(write)
