"""Faults armed in the paper exchange's book: which of them hit a call, and how they distort an answer. Their effect
on orders is not here."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from brokers.paper.book import decimal_of, text_of
from brokers.paper.model import ON_THE_WAY, Action, Fault, Operation, PaperOrder, micros_of

_FAULT_COLUMNS = (
    "id, operation, action, client_id, symbol, account, nth, times, reason, seconds, quantity, accepted, until, seen"
)


@dataclass(frozen=True, slots=True)
class Armed:
    """A fault as stored in the book."""

    row_id: int
    fault: Fault
    seen: int
    until: int | None


def arm(db: sqlite3.Connection, faults: Iterable[Fault], moment: int, *, named: bool) -> None:
    """`named` faults, identified by place and fields, are armed once per book."""
    for index, fault in enumerate(faults):
        name = hashlib.sha256(f"{index}:{fault!r}".encode()).hexdigest() if named else None
        timed = fault.action is Action.HIDE and fault.seconds > 0
        db.execute(
            "INSERT OR IGNORE INTO faults (name, operation, action, client_id, symbol, account, nth, times, reason, seconds,"
            " quantity, accepted, until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name,
                fault.operation,
                fault.action,
                fault.client_order_id,
                fault.symbol,
                fault.account_id,
                fault.nth,
                None if timed else fault.times,
                fault.reason,
                fault.seconds,
                text_of(fault.quantity),
                fault.accepted,
                moment + micros_of(fault.seconds) if timed else None,
            ),
        )


def disarm_all(db: sqlite3.Connection) -> None:
    db.execute("UPDATE faults SET spent = 1")


def armed_for(db: sqlite3.Connection, operation: Operation) -> list[Armed]:
    rows = db.execute(
        f"SELECT {_FAULT_COLUMNS} FROM faults WHERE spent = 0 AND operation = ? ORDER BY id", (operation,)
    ).fetchall()
    return [
        Armed(
            row[0],
            Fault(
                operation=Operation(row[1]),
                action=Action(row[2]),
                client_order_id=row[3],
                symbol=row[4],
                account_id=row[5],
                nth=row[6],
                times=row[7],
                reason=row[8],
                seconds=row[9],
                quantity=decimal_of(row[10]),
                accepted=bool(row[11]),
            ),
            seen=row[13],
            until=row[12],
        )
        for row in rows
    ]


def draw(
    db: sqlite3.Connection,
    account_id: str,
    operation: Operation,
    client_order_id: str,
    symbol: str,
    moment: int,
    *,
    on_the_way: bool = False,
) -> list[Fault]:
    """The armed faults, on the way or in the book, that hit a call about this order; each hit is counted."""
    hits = []
    for armed in armed_for(db, operation):
        if (armed.fault.action in ON_THE_WAY) is on_the_way and armed.fault.concerns(client_order_id, symbol):
            hits += _hit(db, account_id, armed, moment)
    return hits


def distort(
    db: sqlite3.Connection, account_id: str, found: list[PaperOrder], mark: int, moment: int
) -> tuple[list[PaperOrder], int]:
    """The answer as distorted by the faults of the book."""
    for armed in armed_for(db, Operation.REPORTS):
        fault = armed.fault
        if fault.action is Action.HIDE:
            hidden = {
                order.number: order.change
                for order in found
                if fault.concerns(order.ticket.client_order_id, order.ticket.instrument.symbol)
            }
            if hidden and _hit(db, account_id, armed, moment):
                found = [order for order in found if order.number not in hidden]
                mark = min(mark, min(hidden.values()) - 1)
        elif fault.action is Action.DUPLICATE and found and _hit(db, account_id, armed, moment):
            found = [order for order in found for _ in range(2)]
        elif fault.action is Action.REORDER and found and _hit(db, account_id, armed, moment):
            found = found[::-1]
    return found, mark


def _hit(db: sqlite3.Connection, account_id: str, armed: Armed, moment: int) -> list[Fault]:
    fault = armed.fault
    if not fnmatchcase(account_id, fault.account_id):
        return []
    if armed.until is not None and moment >= armed.until:
        db.execute("UPDATE faults SET spent = 1 WHERE id = ?", (armed.row_id,))
        return []
    seen = armed.seen + 1
    spent = fault.times is not None and seen >= fault.nth + fault.times - 1
    db.execute("UPDATE faults SET seen = ?, spent = ? WHERE id = ?", (seen, spent, armed.row_id))
    return [fault] if seen >= fault.nth else []
