"""Alerts that belong to no order, on MongoDB."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from pymongo.errors import (
    DuplicateKeyError,
)

from execution_service.storage.mongo.documents import (
    alarm_from_document,
)
from execution_service.storage.mongo.names import ALERTS
from execution_service.storage.mongo.port import MongoPort
from execution_service.storage.ports.alerts import Alarm


class MongoAlerts(MongoPort):
    """Alerts that belong to no order."""

    async def raise_alarm(self, alarm: Alarm) -> None:
        update = {
            "$inc": {"count": alarm.count},
            "$set": {"text": alarm.text},
            "$setOnInsert": {"kind": alarm.kind, "first_at": alarm.first_at, "sent_at": None, "sent_count": 0},
        }
        write = partial(self._db[ALERTS].update_one, {"_id": alarm.alarm_id}, update, upsert=True)
        try:
            await self._calls.ask(write)
        except DuplicateKeyError:
            # Somebody else made it at the same moment; now it is there to be added to.
            await self._calls.ask(write)

    async def unsent_alarms(self) -> list[Alarm]:
        def read() -> list[Alarm]:
            return self._readable(ALERTS, self._db[ALERTS].find({"sent_at": None}), alarm_from_document)

        return sorted(await self._calls.ask(read), key=lambda a: (a.first_at, a.alarm_id))

    async def alarm_sent(self, alarm: Alarm, at: datetime) -> None:
        update = {"$set": {"sent_at": at, "sent_count": alarm.count}}
        await self._calls.ask(lambda: self._db[ALERTS].update_one({"_id": alarm.alarm_id}, update))
