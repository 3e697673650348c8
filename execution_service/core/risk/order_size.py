"""The quantity of one order that names a stop in its place, from all that is known as it leaves, and the limits that cap it; nothing is asked here.

The limits of the order itself and of the position in its instrument make it smaller. Those that add up over instruments (exposure, leverage, losses)
do not: an order that breaks one is refused by the gate as any other is, with its size in its record.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import ROUND_DOWN, Context, Decimal

from brokers.base import AssetClass, OrderType
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import key_of
from execution_service.core.risk.exposure import Reservation, exposure, in_currency, released
from execution_service.core.risk.gate import Facts, Reading
from execution_service.core.risk.limits import Applicable, LimitType, RiskLimits, Scope, SessionRule
from execution_service.core.risk.prices import (
    best_reference,
    execution_range,
    is_fresh,
    price_of_message,
    rates_into,
)
from execution_service.core.risk.sizing import Cap, Sized, sized

SMALLEST_COIN = Decimal("0.00000001")
"""Coins are traded in parts; what the market takes of them less finely is rounded down by its adapter."""
_ON_MARGIN = frozenset({AssetClass.FUTURE, AssetClass.CFD, AssetClass.FOREX})
"""What they take of the buying power only the broker knows."""
_DOWN = Context(prec=60, rounding=ROUND_DOWN)


def size_of(order: Order, facts: Facts, limits: RiskLimits, risk_per_trade: Decimal | None) -> Sized:
    """Raises NotSized, with all that is missing or wrong. The price that it may lose from is the order's own, else a fresh reference price."""
    request = order.accepted_request
    where = Scope(account_id=request.account_id, strategy=request.strategy, symbol=request.instrument.symbol)
    applicable = limits.of(where)
    oldest = _number(applicable, LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS)
    seen = price_of_message(order)
    known = (*(() if seen is None else (seen,)), *facts.prices)
    reference = best_reference(known, facts.now, oldest)
    price = _own_price(order) or (None if reference is None else reference.price)
    rates = rates_into(facts.account_currency, facts.rates, facts.now, oldest)
    unit_value = in_currency(order.money_per_point, facts.order_currency, facts.account_currency, rates)
    worst = execution_range(order, None if reference is None else reference.price).most
    value = None if unit_value is None else EXACT.multiply(max(worst or ZERO, price or ZERO), unit_value)
    oldest_balance = _number(applicable, LimitType.BALANCE_MAX_AGE_SECONDS)
    working = released(facts.working, order.order_id)
    is_paid_in_full = request.instrument.asset_class not in _ON_MARGIN
    return sized(
        side=request.side,
        equity=_recent(facts.equity, facts, oldest_balance),
        risk_per_trade=risk_per_trade,
        price=price,
        stop=request.stop_loss,
        unit_value=unit_value,
        lot=_lot(order),
        caps=(
            *_affordable(_recent(facts.buying_power, facts, oldest_balance), working, value, is_paid_in_full),
            *_of_the_limits(order, facts, applicable, working, value),
        ),
    )


def opening_to_wait_for(order: Order, facts: Facts, limits: RiskLimits) -> datetime | None:
    """Until when an order of this market is to be held; None: it is open, nobody knows, or the rule is another."""
    request = order.accepted_request
    where = Scope(account_id=request.account_id, strategy=request.strategy, symbol=request.instrument.symbol)
    rule = limits.of(where).bound(LimitType.SESSION)
    is_closed = facts.session is not None and not facts.session.is_open
    if rule is None or rule.value is not SessionRule.HOLD or not is_closed or facts.session is None:
        return None
    return facts.session.opens_at


def _own_price(order: Order) -> Decimal | None:
    if order.accepted_request.order_type is OrderType.MARKET:
        return None
    return order.limit_price or order.stop_price


def _lot(order: Order) -> Decimal:
    if order.terms is not None and order.terms.lot_size is not None:
        return order.terms.lot_size
    is_coin = order.accepted_request.instrument.asset_class is AssetClass.CRYPTO
    return SMALLEST_COIN if is_coin else Decimal(1)


def _affordable(
    power: Decimal | None, working: tuple[Reservation, ...], value: Decimal | None, is_paid_in_full: bool
) -> Iterator[Cap]:
    """What the buying power allows, less what all that works and is no exit takes of it."""
    if power is None or not value or not is_paid_in_full:
        return
    taken = [each.value for each in working if not each.is_exit]
    left = power - sum((each for each in taken if each is not None), ZERO)
    if None in taken:
        left = ZERO
    yield Cap(name="the buying power, less what works", quantity=_DOWN.divide(max(ZERO, left), value))


def _of_the_limits(
    order: Order, facts: Facts, applicable: Applicable, working: tuple[Reservation, ...], value: Decimal | None
) -> Iterator[Cap]:
    most = _number(applicable, LimitType.MAX_ORDER_QUANTITY)
    if most is not None:
        yield Cap(name=LimitType.MAX_ORDER_QUANTITY, quantity=most)
    bound = applicable.order_value(order.accepted_request.instrument.asset_class)
    if bound is not None and value:
        yield Cap(name=LimitType.MAX_ORDER_VALUE, quantity=_DOWN.divide(bound.number, value))
    if facts.holdings is None:
        return
    before, key, side = exposure(facts.holdings, working), key_of(order).instrument_key, order.accepted_request.side
    for bound in applicable.bounds(LimitType.MAX_POSITION_QUANTITY):
        held = before.position_quantity(key, bound.total.strategy, side)
        if held is not None:
            yield Cap(name=bound.limit, quantity=max(ZERO, bound.number - held))
    for bound in applicable.bounds(LimitType.MAX_POSITION_VALUE):
        worth = before.position_value(key, bound.total.strategy, side)
        if worth is not None and value:
            yield Cap(name=bound.limit, quantity=_DOWN.divide(max(ZERO, bound.number - worth), value))


def _number(applicable: Applicable, limit: LimitType) -> Decimal | None:
    bound = applicable.bound(limit)
    return None if bound is None else bound.number


def _recent(reading: Reading | None, facts: Facts, oldest: Decimal | None) -> Decimal | None:
    return None if reading is None or not is_fresh(reading.at, facts.now, oldest) else reading.value
