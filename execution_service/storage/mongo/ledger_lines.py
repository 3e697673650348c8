"""The ledger's lines of single orders: one document an order, beside its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import (
    BulkWriteError,
    WriteError,
)

from execution_service.core.errors import UnreadableRecord
from execution_service.core.positions.ledger import Line
from execution_service.core.views.record import (
    lines_to_document,
)
from execution_service.storage.mongo.calls import in_short, raise_unless_duplicates
from execution_service.storage.mongo.commits import REFUSED_FOR_THIS_DOCUMENT
from execution_service.storage.mongo.names import LEDGER_LINES
from execution_service.storage.mongo.port import Place


class LedgerLines:
    """The ledger's lines that an order has of its own: read with its record, and kept before its delivery is struck out."""

    def __init__(self, place: Place) -> None:
        self._collection = place.db[LEDGER_LINES]
        self._calls = place.calls

    def found(self, order_ids: Sequence[str]) -> dict[str, Any]:
        """As they are stored, by our order id. A blocking call."""
        found = self._collection.find({"_id": {"$in": list(order_ids)}})
        return {d["_id"]: d.get("lines") for d in found}

    async def keep(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        """By our order id, in place of those of the same numbers. Raises UnreadableRecord where one's document takes none."""
        if lines:
            await self._calls.write(lambda: self._keep(lines))

    def _keep(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        documents = [{"_id": order_id, "lines": lines_to_document(some)} for order_id, some in lines.items()]
        try:
            self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as exc:
            raise_unless_duplicates(exc)
            for error in exc.details["writeErrors"]:
                document = documents[error["index"]]
                fields = {f"lines.{number}": line for number, line in document["lines"].items()}
                try:
                    self._collection.update_one({"_id": document["_id"]}, {"$set": fields})
                except WriteError as refused:
                    if refused.code not in REFUSED_FOR_THIS_DOCUMENT:
                        raise
                    words = f"ledger lines of order {document['_id']!r} cannot be added to: {in_short(refused)}"
                    raise UnreadableRecord(words) from refused
