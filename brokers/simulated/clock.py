"""Where a market of the past stands, and how far a person has asked it to go; read and written beside a running service, in its book."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from brokers.errors import BrokerUnavailable
from brokers.paper.model import moment_of, time_of

TABLE = """CREATE TABLE IF NOT EXISTS market_clock (
    account TEXT PRIMARY KEY, stands_at INTEGER NOT NULL, opens_at INTEGER, bars INTEGER NOT NULL DEFAULT 0, until INTEGER)"""
_BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """As the book has it."""

    time: datetime
    """The market's."""
    next_opening: datetime | None
    """None: no bar is left."""
    bars: int
    """So many more it was asked to go on, and has not yet."""
    until: datetime | None
    """It was asked to go on through the bars that open until then, and is not there yet."""


def keep(db: sqlite3.Connection, account_id: str, time: datetime, next_opening: datetime | None, *, moved: int) -> None:
    """The market has gone on by `moved` bars, and stands there now."""
    opens_at = None if next_opening is None else moment_of(next_opening)
    db.execute(
        "INSERT INTO market_clock (account, stands_at, opens_at) VALUES (?, ?, ?) ON CONFLICT (account) DO UPDATE SET"
        " stands_at = excluded.stands_at, opens_at = excluded.opens_at, bars = max(0, bars - ?)",
        (account_id, moment_of(time), opens_at, moved),
    )


def is_asked(db: sqlite3.Connection, account_id: str) -> bool:
    """Whether it is to go on, and can."""
    standing = _standing(db, account_id)
    if standing is None or standing.next_opening is None:
        return False
    return standing.bars > 0 or standing.until is not None


def ask(db: sqlite3.Connection, account_id: str, *, bars: int = 0, until: datetime | None = None) -> None:
    """Whoever has the book open moves it: by so many opening times more, or through those that open until then."""
    db.execute(
        "UPDATE market_clock SET bars = bars + ?, until = max(coalesce(until, ?), ?) WHERE account = ?"
        if until is not None
        else "UPDATE market_clock SET bars = bars + ? WHERE account = ?",
        (bars, account_id) if until is None else (bars, moment_of(until), moment_of(until), account_id),
    )


def _standing(db: sqlite3.Connection, account_id: str) -> Standing | None:
    row = db.execute(
        "SELECT stands_at, opens_at, bars, until FROM market_clock WHERE account = ?", (account_id,)
    ).fetchone()
    if row is None:
        return None
    stands_at, opens_at, bars, until = row
    is_there = until is None or opens_at is None or opens_at > until
    return Standing(
        time=time_of(stands_at),
        next_opening=None if opens_at is None else time_of(opens_at),
        bars=0 if opens_at is None else bars,
        until=None if is_there else time_of(until),
    )


class MarketClock:
    """The clock of one account's market, for people."""

    def __init__(self, book: Path, account_id: str) -> None:
        self._book = book
        self._account_id = account_id

    def standing(self) -> Standing | None:
        """None: no service has opened the account yet. Raises BrokerUnavailable."""
        with self._opened() as db:
            return None if db is None else _standing(db, self._account_id)

    def ask(self, *, bars: int = 0, until: datetime | None = None) -> Standing | None:
        """Asks for it, durably; where it stands at this moment. None as above. Raises BrokerUnavailable."""
        with self._opened() as db:
            if db is None:
                return None
            ask(db, self._account_id, bars=bars, until=until)
            return _standing(db, self._account_id)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        if not self._book.exists():
            yield None
            return
        try:
            with contextlib.closing(sqlite3.connect(self._book, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
                yield db
        except sqlite3.Error as exc:
            raise BrokerUnavailable(f"The book {self._book} does not answer: {exc}") from exc
