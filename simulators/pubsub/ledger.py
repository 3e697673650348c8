"""The SQLite file behind the local Pub/Sub server: topics, subscriptions and every message still owed.

Whatever has gathered since the last commit is committed in one go, in a thread. What is
deliverable, leased or waiting is not known here.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_APPLICATION_ID = 0x50755362
_LAYOUT_VERSION = 1
# `discard_before_us`, `failures` and `acknowledged` are of features that are gone; with them the files of earlier versions can be used.
_LAYOUT = (
    "CREATE TABLE topics(name TEXT PRIMARY KEY, resource BLOB NOT NULL)",
    """CREATE TABLE subscriptions(
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, discard_before_us INTEGER NOT NULL DEFAULT 0,
        resource BLOB NOT NULL)""",
    """CREATE TABLE owed(
        row INTEGER PRIMARY KEY AUTOINCREMENT, subscription INTEGER NOT NULL, message INTEGER NOT NULL,
        published_us INTEGER NOT NULL, ordering_key TEXT NOT NULL, size INTEGER NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0, acknowledged INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX owed_by_message ON owed(subscription, message)",
)
_OWED_COLUMNS = "subscription, message, published_us, ordering_key, size, body"
_ROWS_PER_STATEMENT = 50


class LedgerBusyError(Exception):
    """Another server has the file open."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is in use by another local Pub/Sub server; two servers cannot share one file. "
            "Stop the other one or name another file."
        )


class LedgerUnusableError(Exception):
    """The file is not one of this server's, or cannot be opened safely."""


class LedgerWriteError(Exception):
    """SQLite refused the work (disk full, file damaged); nothing of it was committed."""


class Contents(NamedTuple):
    """What a server needs to go on where the last one stopped; resources and messages are serialized."""

    topics: list[bytes]
    subscriptions: list[tuple[int, bytes]]
    """Each with its id."""
    owed: list[tuple[int, int, int, bytes]]
    """Subscription id, message id, when it was published (microseconds since 1970 UTC), the message."""


OwedRow = tuple[int, int, int, str, int, bytes]
"""subscription id, message id, published_us, ordering key, size in bytes, serialized PubsubMessage."""

Work = Callable[[sqlite3.Connection], Any]


class _Job(NamedTuple):
    work: Work
    future: asyncio.Future[Any] | None
    on_commit: Callable[[], object] | None


class Ledger:
    """The durable side of the server. All methods are called on the event loop's thread."""

    def __init__(self, path: Path, *, acknowledge_within_seconds: float = 0.1) -> None:
        self._path = path
        self._lazy_seconds = acknowledge_within_seconds
        self._jobs: list[_Job] = []
        self._writing: asyncio.Task[None] | None = None
        self._lock_fd: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._done: dict[int, list[int]] = {}
        self._flush_timer: asyncio.TimerHandle | None = None

    async def open(self) -> Contents:
        """Lock and open the file (created with mode 0600) and read what it holds.

        Raises LedgerBusyError when another server holds it, LedgerUnusableError when it is not ours to use.
        """
        self._lock_fd = _lock(self._path)
        try:
            _make_private(self._path)
            self._connection = _connect(self._path)
            return await asyncio.to_thread(_read_contents, self._connection)
        except BaseException:
            self._release()
            raise

    async def close(self) -> None:
        """Commit what is still waiting, close the file and give up the lock."""
        self.flush()
        if self._writing is not None:
            await self._writing
        self._release()

    async def run(self, work: Callable[[sqlite3.Connection], T], *, on_commit: Callable[[], object] | None = None) -> T:
        """Run `work` in a transaction and return its result after the commit.

        `on_commit` runs on the loop right after the commit, also when the caller has been cancelled meanwhile.
        Raises LedgerWriteError when SQLite refused it.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.flush()
        self._put(_Job(work, future, on_commit))
        return await future

    async def insert(self, rows: Sequence[OwedRow], *, on_commit: Callable[[], None]) -> None:
        """Commit new messages; raises LedgerWriteError."""
        await self.run(lambda connection: insert_owed(connection, rows), on_commit=on_commit)

    def forget(self, subscription_id: int, message_ids: Sequence[int]) -> None:
        """Write down acknowledgements soon; a crash before that only means that the messages are delivered again."""
        if not message_ids:
            return
        self._done.setdefault(subscription_id, []).extend(message_ids)
        if self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(self._lazy_seconds, self.flush)

    def flush(self) -> None:
        """Have the gathered acknowledgements written now."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if not self._done:
            return
        done, self._done = self._done, {}

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "DELETE FROM owed WHERE subscription = ? AND message IN (SELECT value FROM json_each(?))",
                [(subscription, json.dumps(messages)) for subscription, messages in done.items()],
            )

        self._put(_Job(work, None, None))

    def _put(self, job: _Job) -> None:
        self._jobs.append(job)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """What gathers during one commit goes into the next."""
        try:
            while self._jobs:
                jobs, self._jobs = self._jobs, []
                assert self._connection is not None
                _settle(jobs, await asyncio.to_thread(_commit_together, self._connection, jobs))
        finally:
            self._writing = None

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def insert_owed(connection: sqlite3.Connection, rows: Sequence[OwedRow]) -> None:
    """Write messages owed to subscriptions."""
    # One statement for many rows: SQLite gives up Python's lock once per statement, and getting it back under load
    # costs far more than the row.
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        chunk = rows[start : start + _ROWS_PER_STATEMENT]
        places = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(chunk))
        connection.execute(
            f"INSERT INTO owed({_OWED_COLUMNS}) VALUES {places}", [value for row in chunk for value in row]
        )


def create_topic(connection: sqlite3.Connection, *, name: str, resource: bytes) -> None:
    """Write a new topic."""
    connection.execute("INSERT INTO topics VALUES(?, ?)", (name, resource))


def create_subscription(connection: sqlite3.Connection, *, identifier: int, name: str, resource: bytes) -> None:
    """Write a new subscription."""
    row = (identifier, name, resource)
    connection.execute("INSERT INTO subscriptions(id, name, resource) VALUES(?, ?, ?)", row)


def delete_subscription(connection: sqlite3.Connection, *, identifier: int) -> None:
    """Remove a subscription and all it was owed."""
    connection.execute("DELETE FROM subscriptions WHERE id = ?", (identifier,))
    connection.execute("DELETE FROM owed WHERE subscription = ?", (identifier,))


def _lock(path: Path) -> int:
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LedgerUnusableError(f"{lock_path} cannot be opened: {exc.strerror}.") from exc
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(lock_fd)
        raise LedgerBusyError(path) from exc
    return lock_fd


def _make_private(path: Path) -> None:
    """Create the file for its owner only, or take wider permissions away, before SQLite opens it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LedgerUnusableError(f"{path} cannot be opened: {exc.strerror}.") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise LedgerUnusableError(f"{path} is not a regular file.")
        if found.st_uid != os.geteuid():
            raise LedgerUnusableError(f"{path} belongs to another user.")
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and (application_id != _APPLICATION_ID or version != _LAYOUT_VERSION):
            raise LedgerUnusableError(f"{path} is not a file of this local Pub/Sub server (or of another version).")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _LAYOUT:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_LAYOUT_VERSION}")
            connection.execute("COMMIT")
    except sqlite3.DatabaseError as exc:
        connection.close()
        raise LedgerUnusableError(f"{path} cannot be used: {exc}.") from exc
    except LedgerUnusableError:
        connection.close()
        raise
    return connection


def _read_contents(connection: sqlite3.Connection) -> Contents:
    # What earlier versions kept for a seek after it was acknowledged is owed to nobody.
    connection.execute("DELETE FROM owed WHERE acknowledged = 1 OR subscription NOT IN (SELECT id FROM subscriptions)")
    topics = [row[0] for row in connection.execute("SELECT resource FROM topics ORDER BY name")]
    subscriptions = connection.execute("SELECT id, resource FROM subscriptions ORDER BY name").fetchall()
    owed = connection.execute("SELECT subscription, message, published_us, body FROM owed ORDER BY message").fetchall()
    return Contents(topics, subscriptions, owed)


def _commit_together(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[tuple[Any, Exception | None]]:
    try:
        return [(result, None) for result in _transact(connection, jobs)]
    except Exception as exc:  # noqa: BLE001 - isolation: one job's fault must not fail the others of its commit
        if len(jobs) == 1:
            log.error("The local Pub/Sub server could not write to its file: %s", exc)
            return [(None, exc)]
    return [_commit_together(connection, [job])[0] for job in jobs]


def _transact(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[Any]:
    connection.execute("BEGIN")
    try:
        results = [job.work(connection) for job in jobs]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return results


def _settle(jobs: Sequence[_Job], outcomes: Sequence[tuple[Any, Exception | None]]) -> None:
    for job, (result, error) in zip(jobs, outcomes, strict=True):
        if error is None and job.on_commit is not None:
            job.on_commit()
        if job.future is None or job.future.done():
            continue
        if error is None:
            job.future.set_result(result)
        elif isinstance(error, sqlite3.Error):
            refusal = LedgerWriteError(f"the local Pub/Sub server could not write to its file: {error}")
            refusal.__cause__ = error
            job.future.set_exception(refusal)
        else:
            job.future.set_exception(error)
