"""Fill quality of many orders, read from their records: the same for whoever asks, however; changes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from execution_service.core.orders.order import Order
from execution_service.core.quality.order_quality import OrderQuality, order_quality
from execution_service.core.quality.summary import GroupKey, QualityGroup, quality_groups
from execution_service.core.texts.values import currency_of
from execution_service.runtime.threads import Blocking
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.queries import OrderFilter, Place

PAGE = 500
"""Orders that are read at once."""
USUAL_DAYS = 7
"""So far is looked back where nobody says."""
LONGEST_DAYS = 3660
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class ListsOrders(Protocol):
    """Who has the records."""

    async def page_of_orders(self, chosen: OrderFilter, after: Place | None, limit: int) -> list[Stored]:
        """The latest first, by when they were received. Raises StoreUnavailable."""


class NamesBrokers(Protocol):
    """Which broker serves an account."""

    def broker_of(self, account_id: str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFilter:
    """Whose orders are asked for; None: anybody's."""

    since: datetime
    """Received then or later."""
    account_id: str | None = None
    strategy: str | None = None
    broker: str | None = None
    """By its name, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillQuality:
    """Of orders that have left, the latest first: whose each is, and its figures."""

    since: datetime
    orders: Sequence[tuple[GroupKey, OrderQuality]]
    is_complete: bool
    """False: there are more, which are older."""

    def groups(self) -> list[QualityGroup]:
        """By strategy, broker and currency."""
        return quality_groups(self.orders)

    def fields(self) -> dict[str, Any]:
        """As JSON has them."""
        return {
            "since": self.since,
            "orders": len(self.orders),
            "is_complete": self.is_complete,
            "groups": [group.fields() for group in self.groups()],
        }


class QualityReader:
    """Asks for the records page by page, and keeps nothing of one but its figures."""

    def __init__(self, store: ListsOrders, brokers: NamesBrokers, threads: Blocking) -> None:
        """`threads`: where the figures of a page are worked out; it takes some milliseconds."""
        self._store = store
        self._brokers = brokers
        self._threads = threads

    async def read(self, chosen: QualityFilter, *, most: int | None = None) -> FillQuality:
        """Of at most `most` of the orders that the filter lets through. Raises StoreUnavailable."""
        wanted = OrderFilter(account_id=chosen.account_id, strategy=chosen.strategy)
        found: list[tuple[GroupKey, OrderQuality]] = []
        after: Place | None = None
        while True:
            page = await self._store.page_of_orders(wanted, after, PAGE)
            orders = [stored.order for stored in page if stored.order.received_at >= chosen.since]
            found += await self._threads.run(partial(self._measured, orders, chosen))
            if most is not None and len(found) > most:
                return FillQuality(since=chosen.since, orders=found[:most], is_complete=False)
            if len(orders) < len(page) or not page:  # a page may be short for a record that cannot be read
                return FillQuality(since=chosen.since, orders=found, is_complete=True)
            after = Place(moment=orders[-1].received_at, row_id=orders[-1].order_id)

    def _measured(self, orders: Sequence[Order], chosen: QualityFilter) -> list[tuple[GroupKey, OrderQuality]]:
        keys = ((order, self._key(order)) for order in orders if order.submitted_at is not None)
        wanted = None if chosen.broker is None else chosen.broker.upper()
        return [(key, order_quality(order)) for order, key in keys if wanted in (None, key.broker.upper())]

    def _key(self, order: Order) -> GroupKey:
        request = order.request
        broker = self._brokers.broker_of(request.account_id or "")
        return GroupKey(strategy=request.strategy or "", broker=broker, currency=currency_of(order))


def since_of(text: str | None, now: datetime) -> datetime:
    """A date, a time with its zone (ISO 8601), or how long ago: `90m`, `12h`, `7d`. Raises ValueError."""
    if text is None:
        return now - timedelta(days=USUAL_DAYS)
    ago = _AGO.fullmatch(text)
    if ago is not None:
        length = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if length > timedelta(days=LONGEST_DAYS):
            raise ValueError(f"it is longer ago than {LONGEST_DAYS} days")
        return now - length
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError("it is no date, no time (ISO 8601), and no length such as 90m, 12h or 7d") from exc
    if moment.tzinfo is None:
        if "T" in text or " " in text:
            raise ValueError("a time needs its zone, as in 2026-01-02T15:04:05Z")
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("it is outside the years 1 to 9999") from exc
