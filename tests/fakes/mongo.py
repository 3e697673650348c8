"""As much of a MongoDB server as the store uses, in memory and quick; `simulation/test_mongo.py` holds it against mongomock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import NoneType, SimpleNamespace
from typing import Any, TypeAlias

import mongomock
from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import InsertOne, ReplaceOne, UpdateMany
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

Document: TypeAlias = dict[str, Any]
Test: TypeAlias = Callable[[Document], bool]
MISSING = object()
MOST_ANSWERS_KEPT = 500


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

    def list_collection_names(self) -> list[str]:
        return self.names

    def command(self, name: str) -> Mapping[str, Any]:
        return {"ok": 1.0}


class Found(list[Document]):
    """What a query finds, in the sequence of making; what else a cursor can, mongomock does."""

    def __init__(self, documents: Iterable[Document], anew: Callable[[], Any]) -> None:
        """`anew`: the same question to mongomock."""
        super().__init__(documents)
        self._anew = anew

    def sort(self, *keys: Any) -> Any:  # type: ignore[override]
        return self._anew().sort(*keys)

    def limit(self, number: int) -> Found:
        return Found(self[:number] if number else self, self._anew)


class Collection:
    """No document in it is changed: what a write changes is put in its place, so that whoever has a document may know it again by `is`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents: dict[Any, Document] = {}
        """By `_id`, in the sequence of their making: the plain truth, for judges to look at without a copy, and for nobody to change."""
        self._places: dict[Any, int] = {}
        self._unique: list[_UniqueIndex] = []
        self._made_ids = itertools.count(1)
        self._indexes: list[dict[str, Any]] = []
        self._answers: dict[str, Sequence[Document]] = {}
        """By the query: what it finds, for as long as nothing is written. Most of what a service asks it asks again and again."""
        self._at_mongomock: Any = None
        """The same documents there, for as long as nothing is written; made when something is asked that this server does not know."""

    def create_index(self, keys: Any, unique: bool = False, **options: Any) -> None:
        pairs = [(keys, 1)] if isinstance(keys, str) else list(keys)
        index = {"key": dict(pairs), **({"unique": True} if unique else {}), **options}
        if index in self._indexes:
            return
        self._indexes.append(index)
        if unique:
            self._unique.append(_UniqueIndex(tuple(index["key"]), options.get("partialFilterExpression")))

    def list_indexes(self) -> list[dict[str, Any]]:
        return [{"key": {"_id": 1}}, *(dict(index) for index in self._indexes)]

    # --- by hand ------------------------------------------------------------------------------------------------

    def leave(self, document: Document) -> None:
        """As another program leaves one, past all indexes."""
        self._place(document["_id"], document)

    def alter(self, document_id: Any, field: str, value: Any) -> None:
        """As a hand does, past all indexes; MISSING takes the field away."""
        document = dict(self.documents[document_id])
        if value is MISSING:
            document.pop(field, None)
        else:
            document[field] = value
        self._place(document_id, document)

    def remove(self, document_id: Any) -> None:
        self.documents.pop(document_id, None)
        self._forget_answers()

    # --- reading ------------------------------------------------------------------------------------------------

    def find(
        self, query: Mapping[str, Any] | None = None, fields: Mapping[str, int] | None = None, **options: Any
    ) -> Any:
        wanted = {name: value for name, value in options.items() if value and name != "max_time_ms"}
        if wanted:
            return Found(
                self._rarely_asked().find(query, fields, **wanted),
                lambda: self._rarely_asked().find(query, fields, **wanted),
            )
        found = (_read(document, fields) for document in self._matching(query or {}))
        return Found(found, lambda: self._rarely_asked().find(query, fields))

    def find_one(
        self,
        query: Mapping[str, Any] | None = None,
        fields: Mapping[str, int] | None = None,
        sort: Sequence[tuple[str, int]] | None = None,
    ) -> Document | None:
        if sort is not None:
            found: Document | None = self._rarely_asked().find_one(query or {}, fields, sort=list(sort))
            return found
        for document in self._matching(query or {}):
            return _read(document, fields)
        return None

    def count_documents(self, query: Mapping[str, Any], **options: Any) -> int:
        return len(self._matching(query))

    def distinct(self, field: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._rarely_asked().distinct(field, query)

    def aggregate(self, pipeline: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        return self._rarely_asked().aggregate(pipeline)

    def _rarely_asked(self) -> Any:
        """Mongomock with the same documents, for questions that are asked so rarely that they are not worth an answer of our own."""
        if self._at_mongomock is None:
            collection = self._at_mongomock = mongomock.MongoClient(tz_aware=True)["copy"][self.name]
            if self.documents:
                collection.insert_many([_read(document, None) for document in self.documents.values()])
        return self._at_mongomock

    def _matching(self, query: Mapping[str, Any]) -> Sequence[Document]:
        try:
            return self._looked_up(query)
        except NotImplementedError:
            found = self._rarely_asked().find(query, {"_id": 1})
            return tuple(self.documents[_hashable(document["_id"])] for document in found)

    def _looked_up(self, query: Mapping[str, Any]) -> Sequence[Document]:
        """Raises NotImplementedError for an operator that this server does not know."""
        wanted = query.get("_id", MISSING)
        if wanted is MISSING:
            key = repr(query)
            found = self._answers.get(key)
            if found is None:
                if len(self._answers) >= MOST_ANSWERS_KEPT:
                    self._answers.clear()
                found = self._answers[key] = _those(self.documents.values(), query)
            return found
        if not isinstance(wanted, Mapping):
            document = self.documents.get(_hashable(wanted))
            if document is None or len(query) == 1:
                return () if document is None else (document,)
            return _those((document,), query)
        if "$in" in wanted:
            ids = {key for each in wanted["$in"] if (key := _hashable(each)) in self.documents}
            return _those((self.documents[each] for each in sorted(ids, key=self._places.__getitem__)), query)
        return _those(self.documents.values(), query)

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

    def delete_one(self, query: Mapping[str, Any]) -> Any:
        return self._delete(self._matching(query)[:1])

    def delete_many(self, query: Mapping[str, Any]) -> Any:
        return self._delete(self._matching(query))

    def _delete(self, found: Sequence[Document]) -> Any:
        for document in found:
            for index in self._unique:
                index.keep(_hashable(document["_id"]), None)
            self.remove(_hashable(document["_id"]))
        return SimpleNamespace(deleted_count=len(found))

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
            except WriteError as exc:
                errors.append({"index": index, "code": exc.code, "errmsg": str(exc)})
                if ordered:
                    break
        if errors:
            details = {"writeErrors": errors, "nMatched": matched, "nInserted": inserted, "writeConcernErrors": []}
            raise BulkWriteError(details)
        return SimpleNamespace(matched_count=matched, inserted_count=inserted)

    def _update(self, query: Mapping[str, Any], update: Mapping[str, Any], *, upsert: bool, is_many: bool) -> Any:
        """Raises WriteError (DuplicateKeyError is one), and then what was matched before that has been changed."""
        found = self._matching(query)
        if not is_many:
            found = found[:1]
        for document in found:
            changed = dict(document)
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
        document_id = _hashable(document["_id"])
        if before is None and document_id in self.documents:
            raise DuplicateKeyError(f"E11000 duplicate key: {self.name} _id {document_id!r}", 11000)
        keys = [index.key_for(document) for index in self._unique]
        for index, key in zip(self._unique, keys, strict=True):
            if key is not None and index.owners.get(key, document_id) != document_id:
                raise DuplicateKeyError(f"E11000 duplicate key: {self.name} {index.names} {key!r}", 11000)
        for index, key in zip(self._unique, keys, strict=True):
            index.keep(document_id, key)
        self._place(document_id, document)

    def _place(self, document_id: Any, document: Document) -> None:
        self._places.setdefault(document_id, len(self._places))
        self.documents[document_id] = document
        self._forget_answers()

    def _forget_answers(self) -> None:
        self._answers.clear()
        self._at_mongomock = None


class _UniqueIndex:
    def __init__(self, names: tuple[str, ...], only: Mapping[str, Any] | None) -> None:
        """`only`: what a document must fulfil to be in it."""
        self.names = names
        self._tests = _tests_of(only or {})
        self.owners: dict[tuple[Any, ...], Any] = {}
        """By the key: whose it is."""
        self._keys: dict[Any, tuple[Any, ...]] = {}

    def key_for(self, document: Document) -> tuple[Any, ...] | None:
        if not all(test(document) for test in self._tests):
            return None
        return tuple(_hashable(_value(document, name)) for name in self.names)

    def keep(self, document_id: Any, key: tuple[Any, ...] | None) -> None:
        before = self._keys.pop(document_id, None)
        if before is not None and self.owners.get(before) == document_id:
            del self.owners[before]
        if key is not None:
            self.owners[key] = document_id
            self._keys[document_id] = key


# --- values ---------------------------------------------------------------------------------------------------------

_PLAIN = frozenset({str, int, float, bool, NoneType})
"""What is the same for everybody and is not changed."""


def _copied(value: Any) -> Any:
    """As the server keeps it: times in whole milliseconds, tuples as lists."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {name: each if type(each) in _PLAIN else _copied(each) for name, each in value.items()}
    if kind is list or kind is tuple:
        return [each if type(each) in _PLAIN else _copied(each) for each in value]
    if kind is datetime:
        return value.replace(microsecond=value.microsecond // 1000 * 1000) if value.microsecond % 1000 else value
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return value


def _read(document: Document, fields: Mapping[str, int] | None) -> Document:
    """As the driver gives it."""
    if fields is not None:
        document = {"_id": document["_id"]} | {name: document[name] for name in fields if name in document}
    return {name: each if type(each) in _PLAIN else _given(each) for name, each in document.items()}


def _given(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {name: each if type(each) in _PLAIN else _given(each) for name, each in value.items()}
    if kind is list:
        return [each if type(each) in _PLAIN else _given(each) for each in value]
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


def _those(documents: Iterable[Document], query: Mapping[str, Any]) -> Sequence[Document]:
    tests = _tests_of(query)
    return tuple(document for document in documents if all(test(document) for test in tests))


def _tests_of(query: Mapping[str, Any]) -> list[Test]:
    return [_test_of(name, wanted) for name, wanted in query.items()]


def _test_of(name: str, wanted: Any) -> Test:
    if name in ("$or", "$nor"):
        ways, is_wanted = [_tests_of(each) for each in wanted], name == "$or"
        return lambda document: any(all(test(document) for test in tests) for tests in ways) is is_wanted
    if name.startswith("$"):
        raise NotImplementedError(name)
    value_of: Callable[[Document], Any]
    value_of = partial(_value, path=name) if "." in name else lambda document: document.get(name)
    if isinstance(wanted, Mapping) and any(str(key).startswith("$") for key in wanted):
        operators = list(wanted.items())
        if not wanted.keys() <= KNOWN_OPERATORS:
            raise NotImplementedError(str(wanted))
        return lambda document: all(_holds(value_of(document), operator, operand) for operator, operand in operators)

    def equals(document: Document) -> bool:
        value = value_of(document)
        return bool(value == wanted) or (type(value) is list and wanted in value)

    return equals


_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


KNOWN_OPERATORS = frozenset({"$in", "$not", "$ne", *_ORDERINGS})


def _holds(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$in":
        return any(each in operand for each in value) if type(value) is list else value in operand
    if operator == "$not":
        return not all(_holds(value, inner, wanted) for inner, wanted in operand.items())
    if operator == "$ne":
        return not (value == operand or (isinstance(value, list) and operand in value))
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

BAD_VALUE, TYPE_MISMATCH, PATH_NOT_VIABLE = 2, 14, 28
"""The server's codes for an update that does not go with what stands in the document."""


def _apply(document: Document, update: Mapping[str, Any], *, is_new: bool) -> None:
    """Changes the document, but nothing that lies in it. Raises WriteError."""
    for operator, changes in update.items():
        for name, operand in changes.items():
            match operator:
                case "$set":
                    _set(document, name, _copied(operand))
                case "$setOnInsert":
                    if is_new:
                        _set(document, name, _copied(operand))
                case "$unset":
                    if "." in name:
                        raise NotImplementedError(name)
                    document.pop(name, None)
                case "$inc":
                    value = _found(document, name)
                    if value is not MISSING and (isinstance(value, bool) or not isinstance(value, int | float)):
                        raise WriteError(f"Cannot apply $inc to {name}: {value!r}", TYPE_MISMATCH)
                    _set(document, name, operand if value is MISSING else value + operand)
                case "$max":
                    value = _value(document, name)
                    if value is None or (_is_comparable(value, operand) and operand > value):
                        _set(document, name, operand)
                case "$addToSet" | "$pull":
                    _set_elements(document, operator, name, operand)
                case _:
                    raise NotImplementedError(operator)


def _set_elements(document: Document, operator: str, name: str, operand: Any) -> None:
    values = _found(document, name)
    if values is MISSING:
        if operator == "$addToSet":
            _set(document, name, [_copied(operand)])
        return
    if not isinstance(values, list):
        raise WriteError(f"Cannot apply {operator} to {name}: {values!r}", BAD_VALUE)
    if operator == "$pull":
        gone = operand["$in"] if isinstance(operand, Mapping) else [operand]
        _set(document, name, [each for each in values if each not in gone])
    elif operand not in values:
        _set(document, name, [*values, _copied(operand)])


def _set(document: Document, path: str, value: Any) -> None:
    """What lies on the way is copied."""
    place: Any = document
    *way, last = path.split(".")
    for name in way:
        inner = _element(place, name)
        if inner is MISSING:
            inner = {}
        elif type(inner) in (dict, list):
            inner = inner.copy()
        else:
            raise WriteError(f"Cannot create field {last!r} in element {{{name}: {inner!r}}}", PATH_NOT_VIABLE)
        _set_element(place, name, inner)
        place = inner
    _set_element(place, last, value)


def _element(place: Any, name: str) -> Any:
    if isinstance(place, list):
        number = _number(name)
        return place[number] if number < len(place) else MISSING
    return place.get(name, MISSING)


def _set_element(place: Any, name: str, value: Any) -> None:
    if isinstance(place, list):
        number = _number(name)
        place.extend([None] * (number + 1 - len(place)))
        place[number] = value
    else:
        place[name] = value


def _number(name: str) -> int:
    if not name.isdecimal():
        raise WriteError(f"Cannot create field {name!r} in a list", PATH_NOT_VIABLE)
    return int(name)
