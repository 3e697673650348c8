"""Reference prices and rates of exchange with their source and age, and what an order may cost at most; nothing is asked and no price is made up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from brokers.base import OrderType, Quote, Side
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.orders.events import UsedPrice
from execution_service.core.orders.order import Order

HUNDRED = Decimal(100)


class PriceSource(StrEnum):
    """Where a reference price comes from, in the order of trust."""

    QUOTE = "QUOTE"
    """The broker's."""
    EXECUTION = "EXECUTION"
    """The latest of ours in this instrument."""
    MESSAGE = "MESSAGE"
    """The price that the order's author saw."""


_TRUST = {source: n for n, source in enumerate(PriceSource)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePrice:
    price: Decimal
    source: PriceSource
    at: datetime
    bid: Decimal | None = None
    ask: Decimal | None = None
    """Where the source tells them."""

    @property
    def is_usable(self) -> bool:
        return self.price.is_finite() and self.price > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So much of `quoted` is one of `base`; without a rate no amount is carried from one currency into another."""

    base: str
    quoted: str
    rate: Decimal
    source: str
    at: datetime
    max_age_seconds: Decimal | None = None
    """By whoever wrote it down. None: as old as a reference price may be."""


def rates_into(
    currency: str | None, rates: Iterable[Rate], now: datetime, max_age_seconds: Decimal | None
) -> dict[str, Decimal]:
    """What one unit of other currencies is worth in this one: of each the youngest rate that is young enough, as it is quoted or turned around.
    Nothing is carried over a third currency."""
    found: dict[str, tuple[datetime, Decimal]] = {}
    for rate in rates:
        is_turned = rate.base == currency
        other = rate.quoted if is_turned else rate.base
        if currency not in (rate.base, rate.quoted) or other == currency:
            continue
        oldest = max_age_seconds if rate.max_age_seconds is None else rate.max_age_seconds
        if not rate.rate.is_finite() or rate.rate <= 0 or not is_fresh(rate.at, now, oldest):
            continue
        if other not in found or found[other][0] <= rate.at:
            found[other] = rate.at, EXACT.divide(Decimal(1), rate.rate) if is_turned else rate.rate
    return {other: rate for other, (_, rate) in found.items()}


def age_seconds(at: datetime, now: datetime) -> Decimal:
    """How long ago, by the wall clock; one that lies ahead of it is of no age that could be told, and counts by its distance."""
    distance = abs(now - at)
    return Decimal(distance.days * 86_400 + distance.seconds) + Decimal(distance.microseconds) / 1_000_000


def is_fresh(at: datetime, now: datetime, max_age_seconds: Decimal | None) -> bool:
    """None: any age will do."""
    return max_age_seconds is None or age_seconds(at, now) <= max_age_seconds


def best_reference(
    candidates: Iterable[ReferencePrice], now: datetime, max_age_seconds: Decimal | None
) -> ReferencePrice | None:
    """The most trusted of those that are fresh, the younger of two, the first of two of one age; None: there is none, and none is made up."""
    fresh = [c for c in candidates if c.is_usable and is_fresh(c.at, now, max_age_seconds)]
    if len(fresh) < 2:
        return fresh[0] if fresh else None
    return min(fresh, key=lambda c: (_TRUST[c.source], age_seconds(c.at, now)))


def price_of_quote(quote: Quote) -> ReferencePrice | str:
    """The latest trade's price where it still lies between bid and ask, else the nearer of these two: where the market has gone since. Without a
    trade the middle of both. As old as what it was taken from: a bid and ask as the quote, a trade alone as that trade. Yesterday's close is no
    price of now. Where the quote gives none, the reason in words."""
    bid, ask, last = (_positive(price) for price in (quote.bid, quote.ask, quote.last))
    if quote.is_delayed:
        return "the broker's quote is delayed"
    if bid is not None and ask is not None and bid > ask:
        return f"the broker's quote has a bid of {bid.normalize():f} above the ask of {ask.normalize():f}"
    at = quote.at
    if bid is not None and ask is not None:
        price = EXACT.divide(EXACT.add(bid, ask), Decimal(2)) if last is None else min(max(last, bid), ask)
    elif last is None:
        return "the broker's quote has no price"
    elif (bid is not None and last < bid) or (ask is not None and last > ask):
        price = bid if bid is not None and last < bid else ask or last
    elif quote.last_at is None:
        return "the broker's quote has only the price of a trade of any age"
    else:
        price, at = last, min(quote.last_at, quote.at)
    return ReferencePrice(price=price, source=PriceSource.QUOTE, at=at, bid=bid, ask=ask)


def _positive(price: Decimal | None) -> Decimal | None:
    return price if price is not None and price.is_finite() and price > 0 else None


def price_of_message(order: Order) -> ReferencePrice | None:
    """What the order's author saw, as old as the message."""
    seen = order.accepted_request.reference_price
    return None if seen is None else ReferencePrice(price=seen, source=PriceSource.MESSAGE, at=order.published_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRange:
    """Between which prices an order executes, as far as can be told before; None: no bound on that end is known."""

    least: Decimal
    most: Decimal | None


def execution_range(order: Order, reference: Decimal | None) -> PriceRange:
    """At which prices the order may execute. A purchase with a limit never above it; a sale with a limit never below it, and where the market stands
    higher, there; a stop at its price or where the market stands by then, of which the present price is the best that is known."""
    side, limit, stop = order.accepted_request.side, order.limit_price, order.stop_price
    match order.accepted_request.order_type:
        case OrderType.LIMIT | OrderType.STOP_LIMIT if side is Side.BUY and limit is not None:
            return PriceRange(least=ZERO, most=limit)
        case OrderType.STOP_LIMIT if limit is not None and stop is not None:
            return PriceRange(least=limit, most=max(limit, stop))
        case OrderType.LIMIT if limit is not None:
            return PriceRange(least=limit, most=None if reference is None else max(limit, reference))
        case OrderType.STOP if stop is not None and side is Side.SELL:
            return PriceRange(least=ZERO, most=stop if reference is None else max(stop, reference))
        case OrderType.STOP if stop is not None:
            return PriceRange(least=stop, most=None if reference is None else max(stop, reference))
    return PriceRange(least=ZERO if reference is None else reference, most=reference)


def used_price(reference: ReferencePrice | None, now: datetime) -> UsedPrice | None:
    """As a verdict and a record keep it."""
    if reference is None:
        return None
    age = age_seconds(reference.at, now)
    return UsedPrice(price=reference.price, source=reference.source.value, at=reference.at, age_seconds=age)


def distance_pct(price: Decimal, reference: Decimal) -> Decimal:
    """How far the price lies from the reference, in per cent of that."""
    return EXACT.divide(abs(price - reference) * HUNDRED, reference)
