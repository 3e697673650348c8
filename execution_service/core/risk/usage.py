"""How much of each limit is used, as far as an account's risk document and the latest verdicts tell it; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal

from execution_service.core.orders.events import SubmitStarted
from execution_service.core.orders.order import Order
from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.counters import Counters, rolled
from execution_service.core.risk.exposure import Reservation
from execution_service.core.risk.limits import BUILT_IN, MINUTE_SECONDS, LimitSet, LimitType, RiskLimits, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one limit that one table has, in one account."""

    table: Scope
    limit: LimitType
    account_id: str
    total: str
    """Whose figure it is, as a person names it."""
    limit_value: Decimal
    actual_value: Decimal
    at: datetime
    """When it was so."""


def counted(limits: RiskLimits, book: RiskBook, now: datetime, zone: tzinfo) -> Iterator[Usage]:
    """What the document itself tells: orders at work, of the day and the minute, rejections, losses. It is so now."""
    counters = rolled(book.counters, now, zone)
    everybody = limits.tables.get(Scope(), LimitSet())
    built_in = replace(LimitSet(), max_consecutive_rejections=BUILT_IN.max_consecutive_rejections)
    tables = {Scope(): built_in, **limits.tables}
    if everybody.max_consecutive_rejections is None:
        tables[Scope()] = replace(everybody, max_consecutive_rejections=BUILT_IN.max_consecutive_rejections)
    for table, values in tables.items():
        if table.account_id not in (None, book.account_id):
            continue
        total = replace(table, account_id=book.account_id)
        for limit in LimitType:
            value = values.of(limit)
            actual = _actual(limit, total, counters, book.reservations, now) if isinstance(value, Decimal) else None
            if isinstance(value, Decimal) and actual is not None:
                yield Usage(
                    table=table,
                    limit=limit,
                    account_id=book.account_id,
                    total=str(total),
                    limit_value=value,
                    actual_value=actual,
                    at=now,
                )


def _actual(
    limit: LimitType, total: Scope, counters: Counters, working: Iterable[Reservation], now: datetime
) -> Decimal | None:
    result = counters.result(total)
    match limit:
        case LimitType.MAX_OPEN_ORDERS:
            account = total.account_id
            scopes = [Scope(account_id=account, strategy=each.strategy, symbol=each.symbol) for each in working]
            return Decimal(sum(map(total.covers, scopes)))
        case LimitType.MAX_ORDERS_PER_DAY:
            return Decimal(counters.orders_today(total))
        case LimitType.MAX_ORDERS_PER_MINUTE:
            return Decimal(counters.orders_within(total, MINUTE_SECONDS, now))
        case LimitType.MAX_CONSECUTIVE_REJECTIONS:
            return Decimal(counters.rejections(total))
        case LimitType.MAX_DAILY_LOSS:
            return None if result is None else max(Decimal(0), result.loss)
        case LimitType.MAX_DRAWDOWN_PCT:
            return None if result is None else result.drawdown_pct
    return None


def last_judged(orders: Iterable[Order]) -> dict[tuple[str, str, str], tuple[Decimal, Decimal, datetime]]:
    """By account, limit and whose figure it is: what was used, the limit and when, by the latest verdict that tells it."""
    found: dict[tuple[str, str, str], tuple[Decimal, Decimal, datetime]] = {}
    for order in orders:
        for event in order.events:
            if not isinstance(event, SubmitStarted) or event.risk is None:
                continue
            for use in event.risk.uses or ():
                key = (order.accepted_request.account_id, use.limit, use.total)
                if key not in found or found[key][2] <= event.at:
                    found[key] = (use.actual_value, use.limit_value, event.at)
    return found
