"""As much of a MongoDB server as the store uses, in memory and quick; `test_mongo.py` holds it against mongomock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import InsertOne, ReplaceOne, UpdateMany
from pymongo.errors import BulkWriteError, DuplicateKeyError

Document = dict[str, Any]
MISSING = object()


BEYOND_TIME = DatetimeMS(2**60)
"""A date after the year 9999, which the server stores and `datetime` cannot hold: the driver gives it as this, as the store asks it to."""


class Mongo:
    """A server with its databases."""

    def __init__(self) -> None:
        self._databases: dict[str, Database] = {}

    def __getitem__(self, name: str) -> Database:
        return self._databases.setdefault(name, Database())


class Database:
    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}

    def __getitem__(self, name: str) -> Collection:
        return self._collections.setdefault(name, Collection(name))

    @property
    def names(self) -> list[str]:
        return sorted(self._collections)

    def command(self, name: str) -> Mapping[str, Any]:
        return {"ok": 1.0}


class Collection:
    def __init__(self, name: str) -> None:
        self.name = name
        self.documents: dict[Any, Document] = {}
        """By `_id`: the plain truth, for judges to look at without a copy."""
        self._unique: list[tuple[tuple[str, ...], Mapping[str, Any] | None, dict[tuple[Any, ...], Any]]] = []
        self._made_ids = itertools.count(1)
        self._indexes: list[dict[str, Any]] = []

    def create_index(self, keys: Any, unique: bool = False, **options: Any) -> None:
        pairs = [(keys, 1)] if isinstance(keys, str) else list(keys)
        index = {"key": dict(pairs), **({"unique": True} if unique else {}), **options}
        if index in self._indexes:
            return
        self._indexes.append(index)
        if unique:
            self._unique.append((tuple(index["key"]), options.get("partialFilterExpression"), {}))

    def list_indexes(self) -> list[dict[str, Any]]:
        return [{"key": {"_id": 1}}, *(dict(index) for index in self._indexes)]

    # --- reading ------------------------------------------------------------------------------------------------

    def find(self, query: Mapping[str, Any] | None = None, fields: Mapping[str, int] | None = None) -> list[Document]:
        return [_read(document, fields) for document in self._matching(query or {})]

    def find_one(self, query: Mapping[str, Any], fields: Mapping[str, int] | None = None) -> Document | None:
        for document in self._matching(query):
            return _read(document, fields)
        return None

    def _matching(self, query: Mapping[str, Any]) -> Iterator[Document]:
        wanted = query.get("_id", MISSING)
        if wanted is not MISSING and not isinstance(wanted, Mapping):
            document = self.documents.get(wanted)
            found: Sequence[Document] = () if document is None else (document,)
        elif isinstance(wanted, Mapping) and "$in" in wanted:
            ids = dict.fromkeys(wanted["$in"])
            found = [document for each in ids if (document := self.documents.get(each)) is not None]
        else:
            found = list(self.documents.values())
        return (document for document in found if _matches(document, query))

    # --- writing ------------------------------------------------------------------------------------------------

    def insert_one(self, document: Document) -> Any:
        fresh = _copied(document)
        fresh.setdefault("_id", ObjectId(f"{next(self._made_ids):024x}"))
        self._put(fresh, None)
        return SimpleNamespace(inserted_id=fresh["_id"])

    def insert_many(self, documents: Sequence[Document], ordered: bool = True) -> Any:
        inserted, errors = [], []
        for index, document in enumerate(documents):
            try:
                inserted.append(self.insert_one(document).inserted_id)
            except DuplicateKeyError as exc:
                errors.append({"index": index, "code": 11000, "errmsg": str(exc)})
                if ordered:
                    break
        if errors:
            raise BulkWriteError({"writeErrors": errors, "nInserted": len(inserted), "writeConcernErrors": []})
        return SimpleNamespace(inserted_ids=inserted)

    def update_one(self, query: Mapping[str, Any], update: Mapping[str, Any], upsert: bool = False) -> Any:
        return self._update(query, update, upsert=upsert, is_many=False)

    def update_many(self, query: Mapping[str, Any], update: Mapping[str, Any], upsert: bool = False) -> Any:
        return self._update(query, update, upsert=upsert, is_many=True)

    def replace_one(self, query: Mapping[str, Any], document: Document) -> Any:
        for found in self._matching(query):
            self._put({"_id": found["_id"], **_copied(document)}, found)
            return SimpleNamespace(matched_count=1)
        return SimpleNamespace(matched_count=0)

    def bulk_write(self, requests: Sequence[Any], ordered: bool = True) -> Any:
        matched, inserted, errors = 0, 0, []
        for index, request in enumerate(requests):
            is_many = isinstance(request, UpdateMany)
            try:
                if isinstance(request, InsertOne):
                    self.insert_one(request._doc)
                    inserted += 1
                elif isinstance(request, ReplaceOne):
                    matched += self.replace_one(request._filter, request._doc).matched_count
                else:
                    result = self._update(request._filter, request._doc, upsert=bool(request._upsert), is_many=is_many)
                    matched += result.matched_count
            except DuplicateKeyError as exc:
                errors.append({"index": index, "code": 11000, "errmsg": str(exc)})
                if ordered:
                    break
        if errors:
            details = {"writeErrors": errors, "nMatched": matched, "nInserted": inserted, "writeConcernErrors": []}
            raise BulkWriteError(details)
        return SimpleNamespace(matched_count=matched, inserted_count=inserted)

    def _update(self, query: Mapping[str, Any], update: Mapping[str, Any], *, upsert: bool, is_many: bool) -> Any:
        found = list(self._matching(query))
        if not is_many:
            found = found[:1]
        for document in found:
            changed = _copied(document)
            _apply(changed, update, is_new=False)
            self._put(changed, document)
        if not found and upsert:
            fresh: Document = {}
            for name, value in query.items():
                if not isinstance(value, Mapping):
                    _set(fresh, name, value)
            _apply(fresh, update, is_new=True)
            fresh.setdefault("_id", ObjectId(f"{next(self._made_ids):024x}"))
            self._put(fresh, None)
        return SimpleNamespace(matched_count=len(found))

    def _put(self, document: Document, before: Document | None) -> None:
        """In the place of `before`. Raises DuplicateKeyError, and then nothing has changed."""
        document_id = document["_id"]
        if before is None and document_id in self.documents:
            raise DuplicateKeyError(f"E11000 duplicate key: {self.name} _id {document_id!r}", 11000)
        keys = []
        for names, only, index in self._unique:
            key = None
            if only is None or _matches(document, only):
                key = tuple(_hashable(_value(document, name)) for name in names)
                if index.get(key, document_id) != document_id:
                    raise DuplicateKeyError(f"E11000 duplicate key: {self.name} {names} {key!r}", 11000)
            keys.append(key)
        if before is not None:
            for _, _, index in self._unique:
                for key in [k for k, owner in index.items() if owner == document_id]:
                    del index[key]
        for (_, _, index), key in zip(self._unique, keys, strict=True):
            if key is not None:
                index[key] = document_id
        self.documents[document_id] = document


# --- values ---------------------------------------------------------------------------------------------------------


def _copied(value: Any) -> Any:
    """As the server keeps it: times in whole milliseconds, tuples as lists."""
    kind = type(value)
    if kind is dict:
        return {name: _copied(each) for name, each in value.items()}
    if kind is list or kind is tuple:
        return [_copied(each) for each in value]
    if kind is datetime:
        return value.replace(microsecond=value.microsecond // 1000 * 1000) if value.microsecond % 1000 else value
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return value


def _read(document: Document, fields: Mapping[str, int] | None) -> Document:
    """As the driver gives it."""
    if fields is not None:
        document = {"_id": document["_id"]} | {name: document[name] for name in fields if name in document}
    return _given(document)


def _given(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {name: _given(each) for name, each in value.items()}
    if kind is list:
        return [_given(each) for each in value]
    if kind is datetime and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else value


def _value(document: Any, path: str) -> Any:
    """None where it is missing."""
    found = _found(document, path)
    return None if found is MISSING else found


def _found(document: Any, path: str) -> Any:
    if "." not in path:
        return document.get(path, MISSING)
    value = document
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name, MISSING)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return MISSING
    return value


# --- queries --------------------------------------------------------------------------------------------------------


def _matches(document: Document, query: Mapping[str, Any]) -> bool:
    for name, wanted in query.items():
        if name == "$or":
            if not any(_matches(document, each) for each in wanted):
                return False
        elif isinstance(wanted, Mapping) and any(str(key).startswith("$") for key in wanted):
            value = _value(document, name)
            if not all(_holds(value, operator, operand) for operator, operand in wanted.items()):
                return False
        else:
            value = _value(document, name)
            if value != wanted and not (isinstance(value, list) and wanted in value):
                return False
    return True


_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def _holds(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$in":
        values = value if isinstance(value, list) else [value]
        return any(each == wanted for each in values for wanted in operand)
    if operator == "$not":
        return not all(_holds(value, inner, wanted) for inner, wanted in operand.items())
    if operator == "$ne":
        return not (value == operand or (isinstance(value, list) and operand in value))
    if operator == "$exists":
        raise NotImplementedError(operator)
    if isinstance(operand, datetime) and isinstance(value, DatetimeMS):
        return _ORDERINGS[operator](value, DatetimeMS(operand))
    return _is_comparable(value, operand) and _ORDERINGS[operator](value, operand)


def _is_comparable(value: Any, operand: Any) -> bool:
    """Only values of one kind are compared."""
    for kinds in ((int, float), str, datetime):
        if isinstance(operand, kinds):  # type: ignore[arg-type]
            return isinstance(value, kinds) and isinstance(value, bool) == isinstance(operand, bool)  # type: ignore[arg-type]
    return False


# --- updates --------------------------------------------------------------------------------------------------------


def _apply(document: Document, update: Mapping[str, Any], *, is_new: bool) -> None:
    for operator, changes in update.items():
        for name, operand in changes.items():
            match operator:
                case "$set":
                    _set(document, name, _copied(operand))
                case "$setOnInsert":
                    if is_new:
                        _set(document, name, _copied(operand))
                case "$inc":
                    _set(document, name, (_value(document, name) or 0) + operand)
                case "$max":
                    value = _value(document, name)
                    if value is None or (_is_comparable(value, operand) and operand > value):
                        _set(document, name, operand)
                case "$addToSet":
                    values = _value(document, name) or []
                    if operand not in values:
                        _set(document, name, [*values, _copied(operand)])
                case "$pull":
                    values = _value(document, name)
                    if isinstance(values, list):
                        is_choice = isinstance(operand, Mapping)
                        gone = operand["$in"] if is_choice else [operand]
                        _set(document, name, [each for each in values if each not in gone])
                case _:
                    raise NotImplementedError(operator)


def _set(document: Document, path: str, value: Any) -> None:
    place: Any = document
    *way, last = path.split(".")
    for name in way:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    if isinstance(place, list):
        number = int(last)
        place.extend([None] * (number + 1 - len(place)))
        place[number] = value
    else:
        place[last] = value
