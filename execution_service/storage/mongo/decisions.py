"""Decisions of others on MongoDB."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from bson import ObjectId

from execution_service.storage.mongo.names import DECISIONS_OF_OTHERS
from execution_service.storage.mongo.port import MongoPort

LONGEST_QUERY_MS = 2000


class MongoDecisions(MongoPort):
    """Reads alone. A decision is found by its `decision_id`, or by its `_id`: as text, as a whole number or as an ObjectId."""

    async def known_decisions(self, decision_ids: Collection[str]) -> frozenset[str]:
        meant = {value: decision_id for decision_id in decision_ids for value in _may_be(decision_id)}

        def read() -> frozenset[str]:
            found: set[str] = set()
            for field in ("_id", "decision_id"):
                wanted = [value for value, decision_id in meant.items() if decision_id not in found]
                if wanted:
                    documents = self._db[DECISIONS_OF_OTHERS].find(
                        {field: {"$in": wanted}}, {field: 1}, max_time_ms=LONGEST_QUERY_MS
                    )
                    values = (value for d in documents for value in _values(d.get(field)))
                    found.update(meant[value] for value in values if value in meant)
            return frozenset(found)

        return await self._calls.ask(read)


def _values(stored: Any) -> list[Any]:
    """What of others' fields may be a decision's id: a server finds a list by what is in it, too."""
    return [
        each for each in (stored if isinstance(stored, list) else [stored]) if isinstance(each, str | int | ObjectId)
    ]


def _may_be(decision_id: str) -> list[Any]:
    """What may stand in a document for the decision of this id."""
    values: list[Any] = [decision_id]
    if decision_id.isascii() and decision_id.isdecimal() and str(int(decision_id)) == decision_id:
        values += [int(decision_id)] if int(decision_id) < 2**63 else []
    if ObjectId.is_valid(decision_id):
        values.append(ObjectId(decision_id))
    return values
