"""How much of each limit is used, as far as an account's risk document tells it, and which table binds; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal

from brokers.base import Side
from execution_service.core.exact import EXACT, ZERO, shown_beside
from execution_service.core.orders.events import UsedPrice
from execution_service.core.risk.book import LastUse, RiskBook
from execution_service.core.risk.counters import Counters, rolled
from execution_service.core.risk.exposure import Exposure, Reservation
from execution_service.core.risk.limits import (
    MINUTE_SECONDS,
    OF_ACCOUNTS_ONLY,
    QUOTIENT_PLACES,
    QUOTIENTS,
    Bound,
    LimitType,
    Repetition,
    RiskLimits,
    Scope,
)
from execution_service.core.risk.prices import HUNDRED
from execution_service.core.risk.verdict import NEAR

_COUNTED = (
    LimitType.MAX_OPEN_ORDERS,
    LimitType.MAX_ORDERS_PER_DAY,
    LimitType.MAX_ORDERS_PER_MINUTE,
    LimitType.MAX_CONSECUTIVE_REJECTIONS,
    LimitType.MAX_DAILY_LOSS,
    LimitType.MAX_DRAWDOWN,
    LimitType.MAX_DRAWDOWN_PCT,
)
"""The document itself tells how much of these is used at any moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one limit that binds one account's orders."""

    account_id: str
    scope: Scope
    """Whose figure it is: the account's, a strategy's or a symbol's in it."""
    limit_type: LimitType
    value: Decimal
    """The limit, in the account's currency, in units, orders or per cent, as its name says."""
    used: Decimal
    """In the same unit."""
    at: datetime
    """When it was so: of what is counted now; of positions and exposure, when an order was last let pass, or what it
    filled was booked."""
    table: Scope
    """The table of `risk.toml` that binds; the widest also where it is only built in."""
    is_written: bool = True
    """False: it is only built in."""
    price: UsedPrice | None = None
    """Of an amount of money: the reference price of the order that it was last reckoned for."""

    @property
    def percent(self) -> Decimal:
        """Of the limit, exact; 100 is all of it. Of a limit of 0 anything at all is more than that."""
        if self.value > 0:
            return EXACT.divide(self.used * HUNDRED, self.value)
        return 2 * HUNDRED if self.used > 0 else HUNDRED

    def shown_percent(self, places: int) -> Decimal:
        """With at most so many decimals, beside 100; what is near stays so."""
        shown = shown_beside(self.percent, HUNDRED, places)
        return shown.quantize(Decimal(1), context=EXACT) if shown == shown.to_integral_value() else shown

    @property
    def shown_used(self) -> Decimal:
        """`used`, exact where it is no quotient."""
        return shown_beside(self.used, self.value, QUOTIENT_PLACES) if self.limit_type in QUOTIENTS else self.used

    @property
    def is_near(self) -> bool:
        """People are warned of it."""
        return self.percent >= NEAR * HUNDRED


def usages(limits: RiskLimits, book: RiskBook, now: datetime, zone: tzinfo) -> Iterator[Usage]:
    """Of every limit that compares more than one order and binds this account, by the limits of now; what nothing is known of yet is left out.
    Where two tables speak of the same figure it is the one that counts."""
    counters = rolled(book.counters, now, zone)
    for total in _totals(limits, book.account_id):
        for limit in _COUNTED:
            bound = bound_of(limits, limit, total)
            used = None if bound is None else _used(limit, total, counters, book.reservations, now)
            if bound is not None and isinstance(bound.value, Decimal) and used is not None:
                yield _usage(bound, bound.value, used, now)
    for each in dict.fromkeys((each.strategy, each.symbol) for each in counters.executions):
        where = Scope(account_id=book.account_id, strategy=each[0], symbol=each[1])
        bound = limits.of(where).bound(LimitType.REPEATED_EXECUTIONS)
        if bound is not None and isinstance(bound.value, Repetition):
            executed = counters.executions_within(where, bound.value.window_seconds, now)
            yield _usage(bound, Decimal(bound.value.count), Decimal(executed), now)
    for kept in book.uses:
        bound = None if kept.limit in _COUNTED else bound_of(limits, kept.limit, kept.total)
        if bound is not None and isinstance(bound.value, Decimal):
            yield replace(_usage(bound, bound.value, kept.actual_value, kept.at), price=kept.price)


def recounted(
    uses: tuple[LastUse, ...], exposure: Exposure, now: datetime, changed: Iterable[Reservation]
) -> tuple[LastUse, ...]:
    """As they are by what is held and works now, of all totals that have these orders in them; the others stay as they are, and those that `exposure`
    does not tell."""
    totals = {
        (strategy, symbol) for each in changed for strategy in (None, each.strategy) for symbol in (None, each.symbol)
    }
    return tuple(
        use
        if (use.total.strategy, use.total.symbol) not in totals or (figure := _figure(use, exposure)) is None
        else replace(use, actual_value=figure, at=now)
        for use in uses
    )


def _figure(use: LastUse, exposure: Exposure) -> Decimal | None:
    """Of positions, that of the instrument and side that uses most of the limit."""
    total = use.total
    match use.limit:
        case LimitType.MAX_GROSS_EXPOSURE:
            return exposure.gross(total)
        case LimitType.MAX_NET_EXPOSURE:
            return exposure.net(total)
        case LimitType.MAX_POSITION_QUANTITY | LimitType.MAX_POSITION_VALUE:
            is_value = use.limit is LimitType.MAX_POSITION_VALUE
            figure = exposure.position_value if is_value else exposure.position_quantity
            keys = {line.instrument_key for line in exposure.within(total)}
            found = [figure(key, total.strategy, side) for key in keys for side in Side]
            known = [each for each in found if each is not None]
            return max(known, default=ZERO) if len(known) == len(found) else None
    return None


def _totals(limits: RiskLimits, account_id: str) -> Iterable[Scope]:
    """Whose figures the tables bind, the account's first."""
    mine = (table for table in limits.tables if table.account_id in (None, account_id))
    return dict.fromkeys(replace(table, account_id=account_id) for table in (Scope(), *mine))


def bound_of(limits: RiskLimits, limit: LimitType, total: Scope) -> Bound | None:
    """The one that compares the figure of `total`; None: there is none."""
    if limit in OF_ACCOUNTS_ONLY and total != Scope(account_id=total.account_id):
        return None
    # Where the total names no strategy or symbol, no table that is for one may be found.
    where = Scope(account_id=total.account_id, strategy=total.strategy or "", symbol=total.symbol or "")
    found = limits.of(where).bounds(limit)
    return next((bound for bound in found if limit in OF_ACCOUNTS_ONLY or bound.total == total), None)


def _usage(bound: Bound, value: Decimal, used: Decimal, at: datetime) -> Usage:
    total = bound.total
    if bound.limit in OF_ACCOUNTS_ONLY:
        total = Scope(account_id=total.account_id)
    return Usage(
        account_id=total.account_id or "",
        scope=total,
        limit_type=bound.limit,
        value=value,
        used=used,
        at=at,
        table=bound.scope,
        is_written=bound.is_written,
    )


def _used(
    limit: LimitType, total: Scope, counters: Counters, working: Iterable[Reservation], now: datetime
) -> Decimal | None:
    """None: nothing is known of it."""
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
            return None if result is None else max(ZERO, result.loss)
        case LimitType.MAX_DRAWDOWN:
            return None if result is None else result.drawdown
        case _:
            return None if result is None else result.drawdown_pct
