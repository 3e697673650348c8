"""The paper exchange's book with what a gateway needs besides: its ids, corrections and a view of what changed; no socket and no wire."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from brokers.paper_exchange import Market, PaperExchange, PaperOrder

_FIRST_PERM_ID = 1_900_000_000


class TwsBook(PaperExchange):
    """One account's book. An order's `broker_order_id` is `CLIENT:ORDER`, by the ids of the client that placed it, or `p` and the permanent
    id where no client did. A client order id is only a tag here. A corrected execution keeps its id but for the last part, which rises."""

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str,
        market: Market | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(
            path,
            account_id=account_id,
            market=market,
            broker_order_id_format=f"p{_FIRST_PERM_ID // 10**8}{{number:08d}}",
            fill_id_format="0000e0d5.{number:08x}.01.01",
            unique_client_order_ids=False,
            clock=clock,
        )

    def mark(self) -> int:
        """The number of the last change to anything in the book."""
        with self._reading() as db:
            value: int = db.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()[0]
        return value

    def changed_since(self, mark: int) -> list[PaperOrder]:
        """The plain truth about the orders that changed after `mark`, in the sequence of their last change; no fault touches it."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT broker_id FROM orders WHERE account = ? AND changed > ? ORDER BY changed",
                (self.account_id, mark),
            ).fetchall()
        return [order for (broker_id,) in rows if (order := self.order(broker_id)) is not None]

    def order(self, broker_order_id: str) -> PaperOrder | None:
        """The plain truth about one order; None: there is none."""
        with self._reading() as db:
            row = db.execute(
                "SELECT client_id FROM orders WHERE account = ? AND broker_id = ?", (self.account_id, broker_order_id)
            ).fetchone()
        if row is None:
            return None
        return next(order for order in self.orders(row[0]) if order.broker_order_id == broker_order_id)

    def next_order_id(self, client_id: int) -> int:
        """One more than the client ever used."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT broker_id FROM orders WHERE broker_id LIKE ? ORDER BY number DESC LIMIT 1000",
                (f"{client_id}:%",),
            ).fetchall()
        return 1 + max((int(broker_id.partition(":")[2]) for (broker_id,) in rows), default=0)

    def _record_fill(
        self,
        db: sqlite3.Connection,
        order: PaperOrder,
        quantity: Decimal,
        price: Decimal,
        at: int,
        moment: int,
        commission: Decimal | None,
        *,
        corrects: str | None = None,
    ) -> str:
        fill_id = super()._record_fill(db, order, quantity, price, at, moment, commission, corrects=corrects)
        if corrects is None:
            return fill_id
        risen = next_version(corrects)
        db.execute("UPDATE fills SET fill_id = ? WHERE fill_id = ?", (risen, fill_id))
        return risen


def perm_id(order: PaperOrder) -> int:
    """The gateway's permanent id of the order."""
    return _FIRST_PERM_ID + order.number


def client_and_order_id(order: PaperOrder) -> tuple[int, int]:
    """Zeros for an order that no client placed."""
    client_id, colon, order_id = order.broker_order_id.partition(":")
    return (int(client_id), int(order_id)) if colon else (0, 0)


def next_version(exec_id: str) -> str:
    """`….01` -> `….02`."""
    base, _, version = exec_id.rpartition(".")
    return f"{base}.{int(version) + 1:02d}"
