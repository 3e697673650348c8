"""Fill quality of many orders, read from their records: the same for whoever asks, however; changes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.quality.order_quality import order_quality
from execution_service.core.quality.summary import GroupKey, QualityGroup, quality_groups
from execution_service.core.texts.values import currency_of
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
class FoundOrders:
    """Orders that have left, the latest first."""

    chosen: QualityFilter
    orders: Sequence[Order]
    is_complete: bool
    """False: there are more, which are older."""


async def orders_sent(
    store: ListsOrders, brokers: NamesBrokers, chosen: QualityFilter, *, most: int | None = None
) -> FoundOrders:
    """At most `most` of those that the filter lets through. Raises StoreUnavailable."""
    wanted = OrderFilter(account_id=chosen.account_id, strategy=chosen.strategy)
    found: list[Order] = []
    after: Place | None = None
    while True:
        page = await store.page_of_orders(wanted, after, PAGE)
        for stored in page:
            order = stored.order
            if order.received_at < chosen.since:
                return FoundOrders(chosen=chosen, orders=found, is_complete=True)
            if order.submitted_at is None or not _is_at(order, chosen.broker, brokers):
                continue
            if most is not None and len(found) >= most:
                return FoundOrders(chosen=chosen, orders=found, is_complete=False)
            found.append(order)
        if len(page) < PAGE:
            return FoundOrders(chosen=chosen, orders=found, is_complete=True)
        after = Place(moment=page[-1].order.received_at, row_id=page[-1].order.order_id)


def _is_at(order: Order, broker: str | None, brokers: NamesBrokers) -> bool:
    return broker is None or brokers.broker_of(order.request.account_id or "").upper() == broker.upper()


def groups_of(found: FoundOrders, brokers: NamesBrokers) -> list[QualityGroup]:
    """By strategy, broker and currency. Takes some 10 µs an order: not for the event loop."""
    return quality_groups((_key(order, brokers), order_quality(order)) for order in found.orders)


def _key(order: Order, brokers: NamesBrokers) -> GroupKey:
    request = order.request
    strategy = request.strategy if isinstance(request, OrderRequest) else ""
    broker = brokers.broker_of(request.account_id or "")
    return GroupKey(strategy=strategy, broker=broker, currency=currency_of(order) or "")


def quality_fields(found: FoundOrders, brokers: NamesBrokers) -> dict[str, Any]:
    """As JSON has them."""
    return {
        "since": found.chosen.since,
        "orders": len(found.orders),
        "is_complete": found.is_complete,
        "groups": [group.fields() for group in groups_of(found, brokers)],
    }


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
