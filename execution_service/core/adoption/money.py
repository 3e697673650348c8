"""Exact costs, prices and proportions of an adoption: no money appears or vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Context, Decimal

from brokers.base import AssetClass, Instrument, Side
from execution_service.core.adoption.entries import CannotBeAdopted
from execution_service.core.adoption.records import (
    Deal,
    Movement,
)
from execution_service.core.exact import ZERO
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.positions.position import Position, apply_fill
from execution_service.core.texts.values import plain

EXACT_MONEY = Context(prec=80)
_DIGITS_OF_A_PRICE = Context(prec=12)
_MOST_PLACES = 18
SMALLEST_SHARE = Decimal("1e-20")
WHOLE_UNITS_ONLY = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.OPTION, AssetClass.FUTURE})
"""Only whole units exist of these, unless a fraction was already held."""


# --- money -----------------------------------------------------------------------------------------------------------


def money_per_point(entry: LedgerEntry) -> Decimal:
    """The money per point of its price. Raises _CannotBe if the broker does not say."""
    worth = entry.money_per_point
    if worth is None:
        raise CannotBeAdopted(f"nobody has told what a contract of {plain(entry.key.instrument_key)} is worth")
    return worth


def contract_size(entry: LedgerEntry) -> Decimal | None:
    """The shares in one contract of the option; None if the ledger does not say."""
    return entry.instrument.multiplier if entry.terms is None else entry.terms.multiplier


def decimal_quotient(value: Decimal, part: Decimal) -> Decimal | None:
    """None: the quotient has no finite decimal form, or more places than a price should have."""
    price = (value / part).normalize(EXACT_MONEY) + ZERO
    is_exact = price * part == value and -int(price.as_tuple().exponent) <= _MOST_PLACES
    return price if is_exact else None


def exact_deals(amount: Decimal, value: Decimal) -> tuple[Deal, ...]:
    """`amount` units with the exact total value `value`: as two parts if a single price would have no finite decimal
    form."""
    price = decimal_quotient(value, amount)
    if price is not None:
        return (Deal(amount, price),)
    first, unit = _in_two(amount)
    if not first:
        return (Deal(amount, (value / amount).normalize(EXACT_MONEY) + ZERO),)
    price = _DIGITS_OF_A_PRICE.plus(value / amount)
    return (Deal(first, price), Deal(unit, (value - first * price) / unit))


def _in_two(amount: Decimal) -> tuple[Decimal, Decimal]:
    """The second part is a power of ten, by which every value can be divided."""
    unit = Decimal(1).scaleb(amount.adjusted())
    return amount - unit, unit


def at_cost(position: Position, leaving: Decimal) -> tuple[Deal, ...]:
    """The closed quantity at its cost, so that nothing is realised."""
    whole = exact_deals(leaving, released_cost(position, leaving)[0])
    if len(whole) == 1:
        return whole
    first, unit = whole
    of_first, after = released_cost(position, first.quantity)
    of_unit, _ = released_cost(after, unit.quantity)
    return (first, replace(unit, price=(of_first + of_unit - first.quantity * first.price) / unit.quantity))


def released_cost(position: Position, leaving: Decimal) -> tuple[Decimal, Position]:
    """The cost that would be released, and the position after that."""
    side = Side.SELL if position.quantity > 0 else Side.BUY
    at = position.updated_at
    assert at is not None
    booked = apply_fill(position, side=side, quantity=leaving, price=ZERO, multiplier=Decimal(1), at=at, order_id="")
    return booked.realized * side.sign, booked.position


def incoming_values(closed: Sequence[Movement], per_old: Decimal, per_new: Decimal, cash: Decimal) -> list[Decimal]:
    """The value of each of these in its successor, after `cash` has been deducted from all of them together."""
    values = [movement.value for movement in closed]
    if not cash and per_old == per_new:
        return values
    total, before = (sum(values, ZERO) * per_old - cash) / per_new, sum(values, ZERO)
    weights = values if before else [movement.quantity for movement in closed]
    shared = [(total * weight / sum(weights, ZERO)).quantize(SMALLEST_SHARE) for weight in weights[:-1]]
    return [*shared, total - sum(shared, ZERO)]


def shared_out(total: Decimal, parts: Sequence[Decimal], what: Instrument, of: Decimal) -> list[Decimal]:
    """`total` divided in the proportion of the parts, which add up to `of`; in whole units if there are no others."""
    shares, given, counted = [], ZERO, ZERO
    is_whole = what.asset_class in WHOLE_UNITS_ONLY and not total % 1
    for part in parts:
        counted += part
        due = total * counted / of
        due = due // 1 if is_whole else due.quantize(SMALLEST_SHARE).normalize(EXACT_MONEY) + ZERO
        shares.append(due - given)
        given = due
    return shares
