"""The SQLite file of the paper exchange's book: its schema, how it is created, opened and shared, and its
transactions. Not its rows."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brokers.errors import BrokerError, BrokerUnavailable, OutcomeUnknown

_SCHEMA_VERSION = 4
_SCHEMA = (
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('order', 0), ('fill', 0), ('change', 0)",
    # `guard` is the client id if the venue refuses a repeated one, else NULL, which UNIQUE allows to repeat.
    """CREATE TABLE orders (
        number INTEGER PRIMARY KEY, account TEXT NOT NULL, client_id TEXT NOT NULL, guard TEXT, broker_id TEXT NOT NULL,
        symbol TEXT NOT NULL, asset_class TEXT NOT NULL, exchange TEXT, expiry TEXT, strike TEXT, call_or_put TEXT, currency TEXT,
        multiplier TEXT, underlying TEXT, con_id INTEGER, trading_class TEXT, isin TEXT,
        side TEXT NOT NULL, quantity TEXT NOT NULL, order_type TEXT NOT NULL, limit_price TEXT,
        stop_price TEXT, reference_price TEXT, tif TEXT, product TEXT, variety TEXT, reserved_id TEXT,
        is_protective INTEGER NOT NULL DEFAULT 0, link TEXT, display_quantity TEXT,
        status TEXT NOT NULL, reason TEXT, placed_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, changed INTEGER NOT NULL,
        UNIQUE (account, guard), UNIQUE (account, broker_id))""",
    "CREATE INDEX orders_client ON orders (account, client_id)",
    "CREATE INDEX orders_changed ON orders (account, changed)",
    "CREATE INDEX orders_changed_at ON orders (account, changed_at)",
    "CREATE INDEX orders_working ON orders (account, number) WHERE status = 'WORKING'",
    """CREATE TABLE fills (
        number INTEGER PRIMARY KEY, fill_id TEXT NOT NULL UNIQUE, order_number INTEGER NOT NULL, quantity TEXT NOT NULL,
        price TEXT NOT NULL, at INTEGER NOT NULL, commission TEXT, currency TEXT NOT NULL, busted INTEGER NOT NULL DEFAULT 0,
        corrects TEXT, market_volume TEXT)""",
    "CREATE INDEX fills_order ON fills (order_number)",
    """CREATE TABLE plan (
        id INTEGER PRIMARY KEY, account TEXT NOT NULL, order_number INTEGER NOT NULL, due INTEGER NOT NULL, step TEXT NOT NULL,
        quantity TEXT, price TEXT, commission TEXT, reason TEXT)""",
    "CREATE INDEX plan_due ON plan (account, due)",
    "CREATE INDEX plan_order ON plan (order_number)",
    """CREATE TABLE faults (
        id INTEGER PRIMARY KEY, name TEXT UNIQUE, operation TEXT NOT NULL, action TEXT NOT NULL, client_id TEXT NOT NULL,
        symbol TEXT NOT NULL, account TEXT NOT NULL, nth INTEGER NOT NULL, times INTEGER, reason TEXT NOT NULL, seconds REAL NOT NULL,
        quantity TEXT, accepted INTEGER NOT NULL, until INTEGER, seen INTEGER NOT NULL DEFAULT 0, spent INTEGER NOT NULL DEFAULT 0)""",
)
_TRANSFERS = """CREATE TABLE IF NOT EXISTS transfers (
        number INTEGER PRIMARY KEY, account TEXT NOT NULL, symbol TEXT NOT NULL, asset_class TEXT NOT NULL, exchange TEXT, expiry TEXT,
        strike TEXT, call_or_put TEXT, currency TEXT, multiplier TEXT, underlying TEXT, con_id INTEGER, trading_class TEXT,
        isin TEXT, quantity TEXT NOT NULL, price TEXT NOT NULL, product TEXT, at INTEGER NOT NULL)"""
"""Separate from the schema, because books created before it get it too."""
_QUOTES = """CREATE TABLE IF NOT EXISTS quotes (
        symbol TEXT PRIMARY KEY, bid TEXT, ask TEXT, last TEXT, close TEXT, age REAL NOT NULL, last_age REAL, delayed INTEGER NOT NULL,
        refusal TEXT) WITHOUT ROWID"""
"""Likewise."""
_SINCE_VERSION_1 = (
    "ALTER TABLE orders ADD COLUMN con_id INTEGER",
    "ALTER TABLE orders ADD COLUMN trading_class TEXT",
    "ALTER TABLE orders ADD COLUMN isin TEXT",
)
_SINCE_VERSION_2 = (
    "ALTER TABLE orders ADD COLUMN is_protective INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE orders ADD COLUMN link TEXT",
)
_SINCE_VERSION_3 = (
    "ALTER TABLE orders ADD COLUMN display_quantity TEXT",
    "ALTER TABLE fills ADD COLUMN market_volume TEXT",
)
_STATEMENTS = {
    0: _SCHEMA,
    1: (*_SINCE_VERSION_1, *_SINCE_VERSION_2, *_SINCE_VERSION_3),
    2: (*_SINCE_VERSION_2, *_SINCE_VERSION_3),
    3: _SINCE_VERSION_3,
}
"""By the version of the book that is opened; 0: it is new."""
_PAGES_BETWEEN_CHECKPOINTS = 4_000


class BookFile:
    """An open book: one connection, for one thread at a time."""

    def __init__(self, path: Path, busy_timeout_seconds: float = 5.0) -> None:
        """Creates the book, for its owner only, if there is none. Raises BrokerUnavailable if it cannot be opened."""
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = _open(path, busy_timeout_seconds)

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def writing(self, at_commit: type[BrokerError] = OutcomeUnknown) -> Iterator[sqlite3.Connection]:
        """One write transaction. A failure before its commit means that nothing happened (BrokerUnavailable); a
        failed commit raises `at_commit`."""
        with self._held() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
            except sqlite3.Error as exc:
                _roll_back(db)
                raise BrokerUnavailable(f"The paper exchange's book could not be written: {exc}") from exc
            except BaseException:
                _roll_back(db)
                raise
            try:
                db.execute("COMMIT")
            except sqlite3.Error as exc:
                _roll_back(db)
                raise at_commit(f"The paper exchange's book could not be committed: {exc}") from exc

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the book."""
        with self._held() as db:
            try:
                db.execute("BEGIN")
                yield db
            except sqlite3.Error as exc:
                raise BrokerUnavailable(f"The paper exchange's book could not be read: {exc}") from exc
            finally:
                _roll_back(db)

    @contextmanager
    def asking(self) -> Iterator[sqlite3.Connection]:
        """For one statement that reads and whose answer is fetched inside: that is a consistent view by itself, so no transaction is begun."""
        with self._held() as db:
            try:
                yield db
            except sqlite3.Error as exc:
                raise BrokerUnavailable(f"The paper exchange's book could not be read: {exc}") from exc

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. Raises BrokerUnavailable once it is closed."""
        with self._lock:
            if self._db is None:
                raise BrokerUnavailable("The paper exchange's book is closed")
            yield self._db


# One process may open a book for several accounts at once. Closing any descriptor of a file drops all locks that the
# process holds on it, including SQLite's, so the file must not be opened elsewhere during creation.
_opening = threading.Lock()


def _open(path: Path, busy_timeout_seconds: float) -> sqlite3.Connection:
    deadline = time.monotonic() + busy_timeout_seconds
    try:
        with _opening:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                if path.stat().st_mode & 0o077:
                    path.chmod(0o600)
            else:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            db = sqlite3.connect(path, timeout=busy_timeout_seconds, isolation_level=None, check_same_thread=False)
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                # SQLite does not wait here by itself while another process changes the file's journal mode.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_CHECKPOINTS}")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version in _STATEMENTS:
            for statement in _STATEMENTS[version]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        if version in (*_STATEMENTS, _SCHEMA_VERSION):
            db.execute(_TRANSFERS)
            db.execute(_QUOTES)
        db.execute("COMMIT")
    except (OSError, sqlite3.Error) as exc:
        raise BrokerUnavailable(f"The paper exchange's book {path} cannot be opened: {exc}") from exc
    if version not in (*_STATEMENTS, _SCHEMA_VERSION):
        db.close()
        raise BrokerUnavailable(f"The paper exchange's book {path} was made by another version of this program")
    return db


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        try:
            db.execute("ROLLBACK")
        except sqlite3.Error:
            # The original error is the one to report; an open transaction is rolled back when the connection or the
            # process ends.
            return
