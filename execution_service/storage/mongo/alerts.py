"""Alerts that belong to no order, on MongoDB."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from pymongo.errors import (
    DuplicateKeyError,
)

from execution_service.storage.mongo.documents import (
    alert_from_document,
)
from execution_service.storage.mongo.names import ALERTS
from execution_service.storage.mongo.port import MongoPort
from execution_service.storage.ports.alerts import Alert


class MongoAlerts(MongoPort):
    """Alerts that belong to no order."""

    async def raise_alert(self, alert: Alert) -> bool:
        update = {
            "$inc": {"count": alert.count},
            "$set": {"text": alert.text},
            "$setOnInsert": {"kind": alert.kind, "first_at": alert.first_at, "sent_count": 0},
        }
        write = partial(self._db[ALERTS].update_one, {"_id": alert.alert_id, "sent_at": None}, update, upsert=True)
        for _ in range(2):
            try:
                await self._calls.ask(write)
            except DuplicateKeyError:
                continue  # made by somebody else at the same moment, and is there to be added to; or sent
            return True
        return False

    async def unsent_alerts(self) -> list[Alert]:
        def read() -> list[Alert]:
            return self._readable(ALERTS, self._db[ALERTS].find({"sent_at": None}), alert_from_document)

        return sorted(await self._calls.ask(read), key=lambda a: (a.first_at, a.alert_id))

    async def alert_sent(self, alert: Alert, at: datetime) -> None:
        update = {"$set": {"sent_at": at, "sent_count": alert.count}}
        as_last_shown = {"_id": alert.alert_id, "count": alert.count}
        await self._calls.ask(lambda: self._db[ALERTS].update_one(as_last_shown, update))
