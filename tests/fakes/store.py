"""A MongoDB in memory that outlives the service, with a server's troubles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pymongo import InsertOne
from pymongo.errors import AutoReconnect

from tests.fakes.process import Died, Gate

T = TypeVar("T")


DATABASE = "trading"


class StoreFaults:
    """How the database server behaves."""

    def __init__(self) -> None:
        self.is_away = False
        self.lost_answers: Counter[str] = Counter()
        """By `collection.method`: so many of the next such calls are carried out, and then the connection breaks."""
        self.refused: set[str] = set()
        """Collections that take no write."""
        self.writes: Counter[str] = Counter()
        """By collection: updates of one document each, so far; also those that matched none."""
        self.reads: Counter[str] = Counter()
        """By `collection.method`, so far."""
        self.documents_read: Counter[str] = Counter()
        """By collection: how many came back from `find` and were looked at."""
        self.breaks: dict[str, list[BaseException]] = {}
        """By `collection.method`: raised by the next calls, one after the other, before they are carried out."""
        self.breaks_after: dict[str, list[BaseException]] = {}
        """The same of writes, when they have been carried out."""

    def pass_or_break(self, name: str) -> None:
        if self.breaks.get(name):
            raise self.breaks[name].pop(0)


class _Collection:
    """A collection whose every call passes the gate and may meet a fault."""

    WRITES = frozenset({"insert_one", "insert_many", "update_one", "replace_one", "update_many", "bulk_write"})

    def __init__(self, inner: Any, gate: Gate, faults: StoreFaults) -> None:
        self._inner, self._gate, self._faults = inner, gate, faults

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._inner, method)
        name = f"{self._inner.name}.{method}"
        if method not in self.WRITES:
            self._faults.reads[name] += 1

            def read(*args: Any, **kwargs: Any) -> Any:
                self._faults.pass_or_break(name)
                return self._counted(self._reachable(call)(*args, **kwargs))

            return read

        def write(*args: Any, **kwargs: Any) -> Any:
            number = self._gate.enter(name)
            if self._inner.name in self._faults.refused:
                raise AutoReconnect("not writable")
            self._faults.writes[self._inner.name] += _documents_in(method, args[0])
            if method == "bulk_write" and self._gate.is_halved(number):
                call(args[0][: len(args[0]) // 2], **kwargs)
                self._gate.is_dead = True
                raise Died
            self._faults.pass_or_break(name)
            answer = self._reachable(call)(*args, **kwargs)
            self._gate.leave(number)
            if self._faults.breaks_after.get(name):
                raise self._faults.breaks_after[name].pop(0)
            if self._faults.lost_answers[name]:
                self._faults.lost_answers[name] -= 1
                raise AutoReconnect("connection closed before the answer")
            return answer

        return write

    def _counted(self, answer: Any) -> Any:
        if not isinstance(answer, Iterable) or isinstance(answer, Mapping):
            return answer

        def documents() -> Iterator[Any]:
            for document in answer:
                self._faults.documents_read[self._inner.name] += 1
                yield document

        return documents()

    def _reachable(self, call: Callable[..., T]) -> Callable[..., T]:
        if self._gate.is_dead:
            raise Died
        if self._faults.is_away:
            raise AutoReconnect("connection refused")
        return call


def _documents_in(method: str, written: Any) -> int:
    if method == "insert_many":
        return len(written)
    if method != "bulk_write":
        return 1
    ids = [None if isinstance(request, InsertOne) else request._filter.get("_id") for request in written]
    return sum(len(each["$in"]) if isinstance(each, dict) and "$in" in each else 1 for each in ids)


class _Database:
    def __init__(self, inner: Any, gate: Gate, faults: StoreFaults) -> None:
        self._inner, self._gate, self._faults = inner, gate, faults

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self._inner[name], self._gate, self._faults)

    def command(self, name: str) -> Mapping[str, Any]:
        return {"ok": 1.0}


class FakeMongoClient:
    """As much of a MongoClient as the store uses, on a server in memory that survives."""

    def __init__(self, inner: Any, gate: Gate, faults: StoreFaults) -> None:
        self._inner, self._gate, self._faults = inner, gate, faults
        self.admin = _Database(inner["admin"], gate, faults)

    def __getitem__(self, name: str) -> _Database:
        return _Database(self._inner[name], self._gate, self._faults)

    def close(self) -> None:
        """The data stay."""
