"""Plans on MongoDB, one document each."""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError

from execution_service.core.planning.records import PlanRecord, plan_from_document, plan_to_document
from execution_service.storage.mongo.names import PLANS
from execution_service.storage.mongo.port import MongoPort


class MongoPlans(MongoPort):
    """By their ids, which are of account, strategy and decision."""

    async def insert_plan(self, record: PlanRecord) -> PlanRecord:
        document = plan_to_document(record)

        def write() -> PlanRecord:
            try:
                self._db[PLANS].insert_one(document)
            except DuplicateKeyError:
                found = self._db[PLANS].find_one({"_id": document["_id"]})
                return record if found is None else plan_from_document(found)
            return record

        return await self._calls.write(write)

    async def plan_named(self, plan_id: str) -> PlanRecord | None:
        found = await self._calls.ask(lambda: self._db[PLANS].find_one({"_id": plan_id}))
        return None if found is None else plan_from_document(found)

    async def open_plans(self) -> list[PlanRecord]:
        found = await self._calls.ask(lambda: list(self._db[PLANS].find({"is_open": True})))
        records = self._readable(PLANS, found, plan_from_document)
        return sorted(records, key=lambda record: record.plan.targets.as_of)

    async def latest_plan(self, account_id: str, strategy_id: str) -> PlanRecord | None:
        asked = {"account_id": account_id, "strategy_id": strategy_id}
        found = await self._calls.ask(lambda: self._db[PLANS].find_one(asked, sort=[("as_of", -1)]))
        return None if found is None else plan_from_document(found)

    async def put_plan(self, record: PlanRecord) -> bool:
        document = plan_to_document(record)
        guard = {"_id": document["_id"], "version": record.version - 1}
        done = await self._calls.write(lambda: self._db[PLANS].replace_one(guard, document))
        return bool(done.matched_count == 1)
