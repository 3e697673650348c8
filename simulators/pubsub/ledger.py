"""The SQLite file behind the local Pub/Sub server: topics, subscriptions and every message still owed.

One dedicated thread owns the connection and commits whatever has gathered since the last commit in one go. What is
deliverable, leased or waiting is not known here.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import queue
import sqlite3
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_APPLICATION_ID = 0x50755362
_LAYOUT_VERSION = 1
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
_JOBS_PER_COMMIT = 500


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSubscription:
    """A subscription as the file holds it; `resource` is a serialized google.pubsub.v1.Subscription."""

    id: int
    discard_before_us: int
    resource: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOwed:
    """One unacknowledged message without its payload; `size` is bytes, `published_us` microseconds since 1970 UTC."""

    subscription_id: int
    message_id: int
    published_us: int
    ordering_key: str
    size: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything a server needs to go on where the last one stopped."""

    topics: list[bytes]
    subscriptions: list[StoredSubscription]
    owed: list[StoredOwed]
    last_message_id: int


OwedRow = tuple[int, int, int, str, int, bytes]
"""subscription id, message id, published_us, ordering key, size in bytes, serialized PubsubMessage."""

Work = Callable[[sqlite3.Connection], Any]


class _Job:
    __slots__ = ("future", "on_commit", "work")

    def __init__(self, work: Work, future: asyncio.Future[Any] | None, on_commit: Callable[[], None] | None) -> None:
        self.work = work
        self.future = future
        self.on_commit = on_commit


class Ledger:
    """The durable side of the server. All methods are called on the event loop's thread."""

    def __init__(self, path: Path, *, acknowledge_within_seconds: float = 0.1) -> None:
        self._path = path
        self._lazy_seconds = acknowledge_within_seconds
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock_fd: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: dict[tuple[int, bool], list[int]] = {}
        self._failures: dict[tuple[int, int], int] = {}
        self._flush_timer: asyncio.TimerHandle | None = None

    async def open(self) -> Contents:
        """Lock and open the file (created with mode 0600) and read what it holds.

        Raises LedgerBusyError when another server holds it, LedgerUnusableError when it is not ours to use.
        """
        self._loop = asyncio.get_running_loop()
        self._lock_fd = _lock(self._path)
        try:
            _make_private(self._path)
            self._connection = _connect(self._path)
            contents = await asyncio.to_thread(_read_contents, self._connection)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._serve, name="pubsub-ledger", daemon=True)
        self._thread.start()
        return contents

    async def close(self) -> None:
        """Commit what is still waiting, close the file and give up the lock."""
        if self._thread is not None:
            self.flush()
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self._release()

    async def run(self, work: Callable[[sqlite3.Connection], T], *, on_commit: Callable[[], None] | None = None) -> T:
        """Run `work` in a transaction and return its result after the commit.

        `on_commit` runs on the loop right after the commit, also when the caller has been cancelled meanwhile.
        Raises LedgerWriteError when SQLite refused it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.flush()
        self._jobs.put(_Job(work, future, on_commit))
        return await future

    async def insert(self, rows: Sequence[OwedRow], *, on_commit: Callable[[], None]) -> None:
        """Commit new messages; raises LedgerWriteError."""
        await self.run(lambda connection: insert_owed(connection, rows), on_commit=on_commit)

    async def payloads(self, subscription_id: int, message_ids: Sequence[int]) -> dict[int, bytes]:
        """The serialized messages with these ids, as far as they are still there."""
        ids = json.dumps(list(message_ids))

        def work(connection: sqlite3.Connection) -> dict[int, bytes]:
            return dict(
                connection.execute(
                    "SELECT message, body FROM owed WHERE subscription = ?"
                    " AND message IN (SELECT value FROM json_each(?))",
                    (subscription_id, ids),
                )
            )

        return await self.run(work)

    def forget(self, subscription_id: int, message_ids: Sequence[int], *, keep: bool) -> None:
        """Write down acknowledgements soon; a crash before that only means that the messages are delivered again.

        With `keep` the messages stay for a later seek.
        """
        if not message_ids:
            return
        self._done.setdefault((subscription_id, keep), []).extend(message_ids)
        self._flush_soon()

    def note_failures(self, subscription_id: int, message_id: int, failures: int) -> None:
        """Write down soon how often a message failed, for the dead-letter count."""
        self._failures[subscription_id, message_id] = failures
        self._flush_soon()

    def flush(self) -> None:
        """Hand the gathered acknowledgements to the writing thread now."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if not self._done and not self._failures:
            return
        done, self._done = self._done, {}
        failures, self._failures = self._failures, {}

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE owed SET failures = ? WHERE subscription = ? AND message = ?",
                [(count, subscription, message) for (subscription, message), count in failures.items()],
            )
            for (subscription, keep), messages in done.items():
                acknowledge(connection, subscription, messages, keep=keep)

        self._jobs.put(_Job(work, None, None))

    def _flush_soon(self) -> None:
        if self._flush_timer is None and self._loop is not None:
            self._flush_timer = self._loop.call_later(self._lazy_seconds, self.flush)

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _serve(self) -> None:
        assert self._connection is not None
        assert self._loop is not None
        running = True
        while running:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while True:
                if job is None:
                    running = False
                    break
                jobs.append(job)
                if len(jobs) >= _JOBS_PER_COMMIT:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                outcomes = _commit_together(self._connection, jobs)
                self._loop.call_soon_threadsafe(_settle, jobs, outcomes)


def acknowledge(
    connection: sqlite3.Connection, subscription_id: int, message_ids: Sequence[int], *, keep: bool
) -> None:
    """Mark messages of one subscription as done: deleted, or with `keep` only marked."""
    action = "UPDATE owed SET acknowledged = 1" if keep else "DELETE FROM owed"
    connection.execute(
        f"{action} WHERE subscription = ? AND message IN (SELECT value FROM json_each(?))",
        (subscription_id, json.dumps(list(message_ids))),
    )


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


def create_subscription(connection: sqlite3.Connection, name: str, resource: bytes) -> int:
    """Write a new subscription and return its id, which is never used again."""
    cursor = connection.execute("INSERT INTO subscriptions(name, resource) VALUES(?, ?)", (name, resource))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def delete_subscription(connection: sqlite3.Connection, subscription_id: int) -> None:
    """Remove a subscription and all it was owed."""
    connection.execute("DELETE FROM subscriptions WHERE id = ?", (subscription_id,))
    connection.execute("DELETE FROM owed WHERE subscription = ?", (subscription_id,))


def seek(connection: sqlite3.Connection, subscription_id: int, moment_us: int, *, keep: bool) -> list[StoredOwed]:
    """Acknowledge everything published before a moment, and bring back the kept messages from it on."""
    if keep:
        connection.execute(
            "UPDATE owed SET acknowledged = 1 WHERE subscription = ? AND published_us < ?",
            (subscription_id, moment_us),
        )
    else:
        connection.execute("DELETE FROM owed WHERE subscription = ? AND published_us < ?", (subscription_id, moment_us))
    connection.execute("UPDATE subscriptions SET discard_before_us = ? WHERE id = ?", (moment_us, subscription_id))
    replayed = _read_owed(
        connection, "subscription = ? AND acknowledged = 1 AND published_us >= ?", (subscription_id, moment_us)
    )
    connection.execute(
        "UPDATE owed SET acknowledged = 0, failures = 0 WHERE subscription = ? AND acknowledged = 1 AND published_us >= ?",
        (subscription_id, moment_us),
    )
    return replayed


def delete_older(connection: sqlite3.Connection, subscription_id: int, moment_us: int) -> None:
    """Remove what is past its retention, acknowledged or not."""
    connection.execute("DELETE FROM owed WHERE subscription = ? AND published_us < ?", (subscription_id, moment_us))


def delete_acknowledged(connection: sqlite3.Connection, subscription_id: int) -> None:
    """Remove the messages kept for a seek."""
    connection.execute("DELETE FROM owed WHERE subscription = ? AND acknowledged = 1", (subscription_id,))


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
    connection.execute("DELETE FROM owed WHERE subscription NOT IN (SELECT id FROM subscriptions)")
    topics = [row[0] for row in connection.execute("SELECT resource FROM topics ORDER BY name")]
    subscriptions = [
        StoredSubscription(id=row[0], discard_before_us=row[1], resource=row[2])
        for row in connection.execute("SELECT id, discard_before_us, resource FROM subscriptions ORDER BY name")
    ]
    owed = _read_owed(connection, "acknowledged = 0", ())
    last = connection.execute("SELECT max(message) FROM owed").fetchone()[0]
    return Contents(topics=topics, subscriptions=subscriptions, owed=owed, last_message_id=last or 0)


def _read_owed(connection: sqlite3.Connection, condition: str, values: tuple[int, ...]) -> list[StoredOwed]:
    rows = connection.execute(
        "SELECT subscription, message, published_us, ordering_key, size, failures FROM owed"
        f" WHERE {condition} ORDER BY message",
        values,
    )
    return [
        StoredOwed(
            subscription_id=row[0],
            message_id=row[1],
            published_us=row[2],
            ordering_key=row[3],
            size=row[4],
            failures=row[5],
        )
        for row in rows
    ]


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
