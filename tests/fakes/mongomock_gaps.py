"""What mongomock does not do as pymongo's collections do, or not any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError
from pymongo.results import BulkWriteResult


def has_index(collection: Any, keys: Any) -> bool:
    have = {tuple(index["key"]) for index in collection.index_information().values()}
    return tuple([(keys, 1)] if isinstance(keys, str) else keys) in have


def create_index(collection: Any, keys: Any, **options: Any) -> None:
    """Once: mongomock forgets the filter of a partial index when it looks whether an existing one still holds."""
    if not has_index(collection, keys):
        collection.create_index(keys, **options)


def bulk_write(collection: Any, requests: Sequence[UpdateOne | UpdateMany], ordered: bool = True) -> BulkWriteResult:
    """Mongomock's own does not know the pymongo of today."""
    matched, errors = 0, []
    for index, request in enumerate(requests):
        update = collection.update_many if isinstance(request, UpdateMany) else collection.update_one
        try:
            matched += update(request._filter, request._doc, upsert=bool(request._upsert)).matched_count
        except DuplicateKeyError as exc:
            errors.append({"index": index, "code": 11000, "errmsg": str(exc)})
            if ordered:
                break
    if errors:
        raise BulkWriteError({"writeErrors": errors, "nMatched": matched, "nInserted": 0})
    return BulkWriteResult({"nMatched": matched}, acknowledged=True)
