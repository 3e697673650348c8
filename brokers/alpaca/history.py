"""What is known of the account's orders and executions from earlier looks, so that a look asks for what is new. No
calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from brokers.alpaca.rows import FillRow, OrderRow
from brokers.base import Fill

WINDOW = timedelta(hours=24)
"""Orders submitted within it are read in each look, finished ones too."""
_SEEN_LEAVING = timedelta(hours=1)
"""Orders are kept in mind from so long before they leave the window."""
_OVERLAP = timedelta(seconds=120)
"""Executions may appear late: those so shortly before the newest known one are read again."""
_ORDERS_REMEMBERED = 20_000
_DONE = frozenset({"filled", "canceled", "expired", "rejected"})


class Executions:
    """The executions of the account's orders. Each is counted once, however often it is read."""

    def __init__(self) -> None:
        self._by_order: dict[str, dict[str, Fill]] = {}
        self._marks: list[tuple[datetime, str]] = []
        """When a page was read, the newest execution's time and id on it, oldest first."""

    def add(self, rows: Iterable[tuple[FillRow, Fill]]) -> None:
        for row, fill in rows:
            self._by_order.setdefault(row.order_id, {})[row.activity_id] = fill
            self._mark(row, fill)
        while len(self._by_order) > _ORDERS_REMEMBERED:
            self._by_order.pop(next(iter(self._by_order)))

    def replace(self, order_id: str, rows: Iterable[tuple[FillRow, Fill]]) -> None:
        """All executions of the order, as read now: one that is missing was annulled, or was never there."""
        self._by_order.pop(order_id, None)
        self.add((row, fill) for row, fill in rows if row.order_id == order_id)

    def of(self, order_id: str) -> Sequence[Fill]:
        """Oldest first. Alpaca's ids begin with the time."""
        own = self._by_order.get(order_id, {})
        return [own[activity_id] for activity_id in sorted(own)]

    def by_order(self, order_ids: Iterable[str]) -> Mapping[str, Sequence[Fill]]:
        return {order_id: self.of(order_id) for order_id in order_ids if order_id in self._by_order}

    def total(self, order_id: str) -> Decimal:
        return sum((fill.quantity for fill in self._by_order.get(order_id, {}).values()), Decimal(0))

    def average(self, order_id: str) -> Decimal | None:
        """Of their prices, by quantity. None without any."""
        own = self._by_order.get(order_id, {}).values()
        total = sum((fill.quantity for fill in own), Decimal(0))
        return sum((fill.quantity * fill.price for fill in own), Decimal(0)) / total if total else None

    @property
    def page_token(self) -> str | None:
        """The id of an execution after which everything is to be read again. None: from the window's beginning."""
        if not self._marks:
            return None
        newest = self._marks[-1][0]
        old = [activity_id for time, activity_id in self._marks if newest - time > _OVERLAP]
        return old[-1] if old else None

    def _mark(self, row: FillRow, fill: Fill) -> None:
        if row.time is None or (self._marks and (fill.time, row.activity_id) <= self._marks[-1]):
            return
        self._marks.append((fill.time, row.activity_id))
        newest = self._marks[-1][0]
        # One that is old enough is enough.
        while len(self._marks) > 1 and newest - self._marks[1][0] > _OVERLAP:
            self._marks.pop(0)


class OlderOrders:
    """Orders that were submitted before the window and were still open when they were last seen."""

    def __init__(self) -> None:
        self._rows: dict[str, OrderRow] = {}
        self._window: datetime | None = None

    def are_known_at(self, window: datetime) -> bool:
        """Whether those that were open when the window began here are known: they were read then, and what has left the
        window since was seen leaving."""
        return self._window is not None and window - self._window <= _SEEN_LEAVING

    def read_at(self, window: datetime) -> None:
        self._window = window

    def learn(self, rows: Iterable[OrderRow]) -> None:
        for row in rows:
            self._rows[row.order_id] = row

    @property
    def open_ids(self) -> frozenset[str]:
        return frozenset(order_id for order_id, row in self._rows.items() if row.status not in _DONE)

    def rows(self) -> list[OrderRow]:
        return list(self._rows.values())

    def forget_finished(self, at_most: int = 2000) -> None:
        """Keeps the memory bounded; what was finished long ago is found by its id."""
        finished = [order_id for order_id, row in self._rows.items() if row.status in _DONE]
        for order_id in finished[: max(0, len(finished) - at_most)]:
            del self._rows[order_id]


def leave_soon(rows: Iterable[OrderRow], now: datetime) -> list[OrderRow]:
    """Those that will be older than the window before long."""
    soon = window_start(now + 2 * _SEEN_LEAVING)
    return [row for row in rows if row.submitted_at is not None and row.submitted_at < soon]


def window_start(now: datetime) -> datetime:
    """On the whole hour, so that it does not move with every look."""
    return (now - WINDOW).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
