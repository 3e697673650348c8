"""Databases for the store's tests: one in memory, a real SecantusDB process, a MongoDB that is given; and lost answers. No tests here."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import mongomock
import pymongo
from pymongo.errors import AutoReconnect

from execution_service.app.clock import SystemClock
from execution_service.runtime.threads import Blocking, InPlace, ThreadPool
from execution_service.storage.mongo.opening import connect
from execution_service.storage.mongo.store import MongoStore
from tests.fakes.mongomock_gaps import bulk_write, create_index
from tests.waits import wait_until_listening

T = TypeVar("T")
MONGODB_VARIABLE = "TEST_MONGODB_URI"
MONGODB_MISSING = f"no MongoDB to test with: set {MONGODB_VARIABLE}, e.g. mongodb://127.0.0.1:27017/?replicaSet=rs0"
_READY_SECONDS = 45.0


class QuickClock(SystemClock):
    """Between attempts there is nothing to wait for here."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Faults:
    """What goes wrong between the store and its server, by the name of the driver's call."""

    def __init__(self) -> None:
        self._lost: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._failing: dict[str, Exception] = {}

    def lose_answer(self, name: str, times: int = 1) -> None:
        """The next calls arrive and are carried out, but their answers do not come back."""
        self._lost[name] += times

    def refuse(self, name: str, times: int = 1) -> None:
        """The next calls do not arrive."""
        self._refused[name] += times

    def fail(self, name: str, error: Exception) -> None:
        """The next call fails with this."""
        self._failing[name] = error

    def mend(self) -> None:
        """Everything works again."""
        self._lost.clear()
        self._refused.clear()
        self._failing.clear()

    @property
    def left(self) -> int:
        return self._lost.total() + self._refused.total() + len(self._failing)

    def around(self, name: str, call: Callable[..., T]) -> Callable[..., T]:
        def faulty(*args: Any, **kwargs: Any) -> T:
            if self._refused[name]:
                self._refused[name] -= 1
                raise AutoReconnect("connection refused")
            if name in self._failing:
                raise self._failing.pop(name)
            answer = call(*args, **kwargs)
            if self._lost[name]:
                self._lost[name] -= 1
                raise AutoReconnect("connection reset by peer")
            return answer

        return faulty


class _Collection:
    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        own: dict[str, Callable[..., Any]] = {"bulk_write": bulk_write, "create_index": create_index}
        if isinstance(self._inner, mongomock.Collection) and name in own:
            found = partial(own[name], self._inner)
        return self._faults.around(name, found)


class _Database:
    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self._inner[name], self._faults)

    def command(self, name: str) -> dict[str, Any]:
        """Mongomock knows no commands; it has no transactions either."""
        if isinstance(self._inner, mongomock.Database):
            return {}
        return cast(dict[str, Any], self._faults.around("command", self._inner.command)(name))


class FaultyClient:
    """As much of a MongoClient as the store uses, on one that works."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.admin = _Database(inner["admin"], faults)

    def __getitem__(self, name: str) -> _Database:
        return _Database(self._inner[name], self._faults)

    def start_session(self) -> Any:
        session = self._inner.start_session()
        session.commit_transaction = self._faults.around("commit_transaction", session.commit_transaction)
        return session

    def close(self) -> None:
        self._inner.close()


class Server:
    """One database on one server; any number of stores may share it, each as if in a process of its own."""

    def __init__(self, kind: str, uri: str | None) -> None:
        self.kind = kind
        self.database = f"test_{uuid4().hex[:12]}"
        self._uri = uri
        self._memory: Any = mongomock.MongoClient(tz_aware=True) if uri is None else None
        self._stores: list[MongoStore] = []
        self._clients: list[Any] = []

    def client(self) -> pymongo.MongoClient[dict[str, Any]]:
        if self._uri is None:
            return cast(pymongo.MongoClient[dict[str, Any]], self._memory)
        client = connect(self._uri)
        self._clients.append(client)
        return client

    def collection(self, name: str) -> Any:
        """The plain truth, past the store."""
        return self.client()[self.database][name]

    async def store(self, nonce: str = "process-1", faults: Faults | None = None) -> MongoStore:
        threads: Blocking = InPlace() if self._uri is None else ThreadPool("store", 2)
        client = FaultyClient(self.client(), faults or Faults())
        made = MongoStore(
            cast(pymongo.MongoClient[dict[str, Any]], client),
            self.database,
            nonce=nonce,
            clock=QuickClock(),
            threads=threads,
            is_private=self.kind == "secantus",
        )
        await made.open()
        self._stores.append(made)
        return made

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        if self._uri is not None:
            self.client().drop_database(self.database)
        for client in self._clients:
            client.close()


class SecantusProcess:
    """SecantusDB as a real child process on one folder, durable at each commit as in production."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("secantusd-py", path=str(Path(sys.executable).parent))
        assert program is not None, "secantusdb is not installed"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = [program, "--host", "127.0.0.1", "--port", str(self.port), "--storage-path", str(folder)]
        command += ["--sync-on-commit", "--cache-size", "256M", "--log-level", "WARNING"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            wait_until_listening(self.port, self._process, "SecantusDB", within=_READY_SECONDS)
        except BaseException:
            self.kill()
            raise

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def kill(self) -> None:
        """End it with no chance to write anything."""
        self._process.kill()
        self._process.wait()
