"""What every port on MongoDB has in common: the database, its calls, and what to do about a document that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import pymongo
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
)

from execution_service.core.errors import UnreadableRecord
from execution_service.core.views.record import (
    Document,
)
from execution_service.runtime.clock import Clock
from execution_service.storage.mongo.calls import Calls, raise_unless_duplicates
from execution_service.storage.mongo.commits import Commit
from execution_service.storage.mongo.schedule import Schedule
from execution_service.storage.mongo.unreadable import UnreadableDocuments

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where documents are kept and how that is reached: what all ports have in common."""

    client: pymongo.MongoClient[Document]
    db: Database[Document]
    calls: Calls
    clock: Clock
    unreadable: UnreadableDocuments
    schedule: Schedule[Commit]
    """Of the records' updates."""
    nonce: str
    """This process's mark on the events that it writes."""


class MongoPort:
    """Some collections of one database."""

    def __init__(self, place: Place) -> None:
        self._db = place.db
        self._calls = place.calls
        self._unreadable = place.unreadable

    def _readable(self, collection: str, documents: Iterable[Document], read: Callable[[Document], T]) -> list[T]:
        """What can be read. The rest is left alone and said: one document that cannot be read must not keep the others from being worked."""
        readable = []
        for document in documents:
            try:
                readable.append(read(document))
            except UnreadableRecord as exc:
                self._unreadable.note(collection, document, exc)
            else:
                self._unreadable.read(collection, document["_id"])
        return readable

    def _insert_new(self, collection: str, documents: list[Document]) -> int:
        """Inserts what is not there yet; how many that was."""
        try:
            return len(self._db[collection].insert_many(documents, ordered=False).inserted_ids)
        except BulkWriteError as exc:
            raise_unless_duplicates(exc)
            return int(exc.details["nInserted"])
