"""One account's risk document as a value: what its orders reserve, what was counted, the overrides; how each write changes it. No store.

It is changed by compare-and-set on `version`, so of two orders judged by the same state one is judged again. ADR 0036 tells who writes when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal

from execution_service.core.errors import CoreError
from execution_service.core.orders.events import UsedPrice
from execution_service.core.orders.order import Order
from execution_service.core.risk.counters import Counters, fold_all, sent
from execution_service.core.risk.exposure import Reservation, reduced, reserved
from execution_service.core.risk.limits import LimitType, RiskLimits, Scope, is_of_prices, is_of_the_order_alone
from execution_service.core.risk.verdict import Decision, Override, Verdict

USES_KEPT = 200
"""Of so many figures it is kept how much was used last, the latest ones: there is no end of symbols."""


class NotAdmitted(CoreError):
    """An order that the gate did not let pass was to be written as if it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastUse:
    """How much of one limit the account used when it was last reckoned, by all that was held and worked then."""

    limit: LimitType
    total: Scope
    """Whose figure it is."""
    actual_value: Decimal
    at: datetime
    price: UsedPrice | None = None
    """Of the order that it was reckoned for, where the figure is an amount of money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskBook:
    """The first that is stored has version 1."""

    account_id: str
    counters: Counters
    version: int = 0
    fence: int = 0
    """Raised by whoever engages a kill switch, after that is stored: a write that was judged before fails."""
    reservations: tuple[Reservation, ...] = ()
    overrides: tuple[Override, ...] = ()
    uses: tuple[LastUse, ...] = ()
    """Of limits that compare more than one order and are not counted in `counters`; for people, no order is judged by them."""


def new_book(account_id: str, *, version: int = 0) -> RiskBook:
    return RiskBook(account_id=account_id, counters=Counters(account_id=account_id), version=version)


def admitted(book: RiskBook, order: Order, verdict: Verdict, limits: RiskLimits, zone: tzinfo) -> RiskBook:
    """With what the order reserves and counts, and the override used up that it needed: to be stored before or with its intent. Of an order that
    reserves already nothing is reserved or counted twice. Raises NotAdmitted."""
    if verdict.decision is not Decision.PASS or verdict.reservation is None or verdict.order_id != order.order_id:
        raise NotAdmitted(f"order {order.order_id}: the gate's decision was {verdict.decision}, for {verdict.order_id}")
    keep = limits.longest_window_seconds()
    is_counted = any(each.order_id == order.order_id for each in book.reservations)
    events = (*verdict.trips, *(() if is_counted else (sent(order, verdict.at),)))
    return replace(
        book,
        version=book.version + 1,
        reservations=reserved(book.reservations, verdict.reservation),
        counters=fold_all(book.counters, events, now=verdict.at, zone=zone, keep_seconds=keep),
        overrides=tuple(o.used(order) if o.override_id == verdict.override_id else o for o in book.overrides),
        uses=_with_uses(book.uses, verdict),
    )


def _with_uses(kept: tuple[LastUse, ...], verdict: Verdict) -> tuple[LastUse, ...]:
    latest = {
        (use.limit, use.total): LastUse(
            limit=use.limit,
            total=use.total,
            actual_value=use.actual_value,
            at=verdict.at,
            price=verdict.price if is_of_prices(use.limit) else None,
        )
        for use in verdict.uses
        if not is_of_the_order_alone(use.limit)
    }
    if not latest:
        return kept
    return (*(each for each in kept if (each.limit, each.total) not in latest), *latest.values())[-USES_KEPT:]


def tripped(book: RiskBook, verdict: Verdict, limits: RiskLimits, zone: tzinfo) -> RiskBook:
    """With the limits that a refused order found broken for good."""
    keep = limits.longest_window_seconds()
    counters = fold_all(book.counters, verdict.trips, now=verdict.at, zone=zone, keep_seconds=keep)
    return book if counters == book.counters else replace(book, version=book.version + 1, counters=counters)


def settled(book: RiskBook, remaining: Mapping[str, Decimal]) -> RiskBook:
    """With what these orders still may fill, by the fills that are booked to the ledger: 0 once an order is over and all of its fills are booked.
    Never told earlier: a fill that is in neither would be risk that nobody counts. Orders that are not among these keep what they reserve."""
    if not remaining:
        return book
    reservations = reduced(book.reservations, remaining)
    return (
        book
        if reservations == book.reservations
        else replace(book, version=book.version + 1, reservations=reservations)
    )


def granted(book: RiskBook, override: Override, now: datetime) -> RiskBook:
    """With one more override; without those that are over. One that was used is kept until it expires, so that it is not used by another. The book
    itself where it has that one already, used or not: granted again it would let a second order through."""
    if any(each.override_id == override.override_id for each in book.overrides):
        return book
    kept = tuple(each for each in book.overrides if now < each.expires_at)
    return replace(book, version=book.version + 1, overrides=(*kept, override))
