"""Calls of the store's server: in which thread, whose turn it is to write, and what the driver's errors mean; knows no collection."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.threads import Blocking
from execution_service.storage.mongo.gate import Gate
from execution_service.storage.ports.errors import StoreUnavailable

T = TypeVar("T")

DUPLICATE_KEY = 11000
_CONFIGURED_TIMEOUTS = re.compile(r" \(configured timeouts: [^)]*\)")
_PICTURE = (", Timeout: ", ", Topology Description: ", ", full error: ")
_WORDS_LENGTH = 300


class Calls:
    """Each raises StoreUnavailable when the server cannot be reached or is not fit to answer now; what belongs to one document alone (a
    duplicate key, the errors of a bulk write) passes as the driver raised it."""

    def __init__(
        self,
        clock: Clock,
        *,
        threads: Blocking,
        commit_threads: Blocking | None = None,
        urgent_threads: Blocking | None = None,
        query_threads: Blocking | None = None,
        gate: Gate | None = None,
    ) -> None:
        """`gate`: of a server that makes one write at a time sooner than several at once; None of one that serves many."""
        self._threads = threads
        self._commit_threads = commit_threads or threads
        self._urgent_threads = urgent_threads or threads
        self._query_threads = query_threads or threads
        self._gate = gate
        self._clock = clock
        self._connectivity = Connectivity("The store", clock)

    def close(self) -> None:
        self._threads.close()
        self._commit_threads.close()
        self._urgent_threads.close()
        self._query_threads.close()

    @property
    def are_one_at_a_time(self) -> bool:
        """Whether writes that come with every order wait for each other: then they are to be short."""
        return self._gate is not None

    def silent_seconds(self) -> float:
        """How long no call has reached the server; 0: it answers, or was not asked."""
        return self._connectivity.silent_seconds()

    async def ask(self, call: Callable[[], T]) -> T:
        """A question, or a write that nothing waits for."""
        return await self._run(self._threads, call)

    async def look(self, call: Callable[[], T]) -> T:
        """A question of people or of programs that watch, in threads of its own: nothing that trades waits for it."""
        return await self._run(self._query_threads, call)

    async def urgent(self, call: Callable[[], T]) -> T:
        """For commands, wishes to cancel and leases: in threads of their own, and it waits for no other write."""
        return await self._run(self._urgent_threads, call)

    async def write(self, call: Callable[[], T]) -> T:
        """For writes that come with every order: one at a time where there is a gate."""
        if self._gate is None:
            return await self.ask(call)
        async with self._gate.turn():
            # In the thread of the commits: whose turn it is waits for no question.
            return await self.commit(call)

    async def commit(self, call: Callable[[], T]) -> T:
        """For record updates; whoever makes it has its turn already."""
        return await self._run(self._commit_threads, call)

    async def _run(self, threads: Blocking, call: Callable[[], T]) -> T:
        try:
            answer = await threads.run(call)
        except (ConnectionFailure, ExecutionTimeout, WTimeoutError) as exc:
            self._connectivity.fails(in_short(exc))
            raise StoreUnavailable(in_short(exc)) from exc
        except OperationFailure as exc:
            if isinstance(exc, DuplicateKeyError | BulkWriteError):
                raise
            raise StoreUnavailable(in_short(exc)) from exc
        self._connectivity.answers()
        return answer


def raise_unless_duplicates(exc: BulkWriteError) -> None:
    details = exc.details
    if any(e.get("code") != DUPLICATE_KEY for e in details.get("writeErrors", ())) or details.get("writeConcernErrors"):
        raise StoreUnavailable(in_short(exc)) from exc


def in_short(exc: PyMongoError) -> str:
    """What the driver says first, without its time-outs and its picture of all servers."""
    words = _CONFIGURED_TIMEOUTS.sub("", str(exc)).partition("\n")[0]
    words = min((words.partition(mark)[0] for mark in _PICTURE), key=len)
    return textwrap.shorten(words, _WORDS_LENGTH, placeholder=" …") or type(exc).__name__
