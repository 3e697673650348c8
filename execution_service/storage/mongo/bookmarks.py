"""Bookmarks on MongoDB."""

from __future__ import annotations

from execution_service.storage.mongo.names import BOOKMARKS
from execution_service.storage.mongo.port import MongoPort


class MongoBookmarks(MongoPort):
    """How far streams outside were read."""

    async def bookmark(self, name: str) -> str | None:
        document = await self._calls.ask(lambda: self._db[BOOKMARKS].find_one({"_id": name}))
        value = None if document is None else document.get("value")
        return value if isinstance(value, str) else None

    async def set_bookmark(self, name: str, value: str) -> None:
        changes = {"$set": {"value": value}}
        await self._calls.write(lambda: self._db[BOOKMARKS].update_one({"_id": name}, changes, upsert=True))
