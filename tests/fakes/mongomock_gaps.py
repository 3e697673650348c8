"""What mongomock does not do as pymongo's collections do, or not any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError
from pymongo.results import BulkWriteResult


def has_index(collection: Any, keys: Any) -> bool:
    have = {tuple(index["key"]) for index in collection.index_information().values()}
    return tuple([(keys, 1)] if isinstance(keys, str) else keys) in have


def create_index(collection: Any, keys: Any, **options: Any) -> None:
    """Once: mongomock forgets the filter of a partial index when it looks whether an existing one still holds."""
    if not has_index(collection, keys):
        collection.create_index(keys, **options)


def bulk_write(
    collection: Any,
    requests: Sequence[InsertOne[Any] | ReplaceOne[Any] | UpdateOne | UpdateMany],
    ordered: bool = True,
) -> BulkWriteResult:
    """Mongomock's own does not know the pymongo of today."""
    matched, inserted, errors = 0, 0, []
    for index, request in enumerate(requests):
        try:
            if isinstance(request, InsertOne):
                collection.insert_one(request._doc)
                inserted += 1
            elif isinstance(request, ReplaceOne):
                matched += collection.replace_one(request._filter, request._doc).matched_count
            else:
                update = collection.update_many if isinstance(request, UpdateMany) else collection.update_one
                matched += update(request._filter, request._doc, upsert=bool(request._upsert)).matched_count
        except DuplicateKeyError as exc:
            errors.append({"index": index, "code": 11000, "errmsg": str(exc)})
            if ordered:
                break
    if errors:
        raise BulkWriteError({"writeErrors": errors, "nMatched": matched, "nInserted": inserted})
    return BulkWriteResult({"nMatched": matched, "nInserted": inserted}, acknowledged=True)
