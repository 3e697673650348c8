"""Quantities in lots: rounding towards zero, slices that add up, and increases that share what cash there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal

from execution_service.core.exact import ZERO
from execution_service.core.planning.facts import ONE, Fees

_DOWN = Context(prec=60, rounding=ROUND_DOWN)


def whole_lots(quantity: Decimal, lot: Decimal) -> Decimal:
    """The largest multiple of the lot that is no further from zero. Exact for every decimal lot."""
    return _DOWN.divide_int(quantity, lot) * lot


def lots_for(quantity: Decimal, lot: Decimal) -> Decimal:
    """The smallest multiple of the lot that is no less than a quantity that is not negative. Exact for every decimal lot."""
    whole = whole_lots(quantity, lot)
    return whole if whole == quantity else whole + lot


def divided(amount: Decimal, by: Decimal) -> Decimal:
    """Never further from zero than the exact quotient."""
    return _DOWN.divide(amount, by)


def slices_of(
    total: Decimal, count: int, lot: Decimal, largest: Decimal | None = None, least: Decimal = ZERO
) -> tuple[Decimal, ...]:
    """`total`, never negative, in `count` parts that differ by one lot at most, the larger ones first; fewer where a part would be less than `least`;
    as many more as keep each at `largest`, which goes before `least`.

    The sum is exactly `total`. Fewer lots than parts: fewer parts. What is no whole lot (a holding that is closed whole) is in the first part, or,
    where that has no room for it, by itself at the end, or in a last part that has, if it is less than `least`. One lot is the least: a `largest`
    below it is no bound.
    """
    lots = int(_DOWN.divide_int(total, lot))
    odd = total - lots * lot
    fewest = max(1, int(_DOWN.divide_int(lots_for(least, lot), lot)))
    parts = max(1, min(count, lots // fewest))
    if largest is None or largest < lot:
        largest = total
    else:
        parts = max(parts, -(-lots // int(_DOWN.divide_int(largest, lot))))
    quantities = _even(lots, parts, lot)
    if quantities[0] + odd <= largest:
        quantities[0] += odd
        return tuple(q for q in quantities if q)
    if odd < least and quantities[-1] + odd > largest and lots // (parts + 1) >= fewest:
        quantities = _even(lots, parts + 1, lot)
    if odd < least and quantities[-1] + odd <= largest:
        quantities[-1] += odd
    else:
        quantities.append(odd)
    return tuple(quantities)


def _even(lots: int, parts: int, lot: Decimal) -> list[Decimal]:
    each, more = divmod(lots, parts)
    return [(each + (1 if n < more else 0)) * lot for n in range(parts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Increase:
    """One leg that waits for cash. `unit_cost` is money of the account for one unit, the guard included."""

    key: str
    wanted: Decimal
    unit_cost: Decimal
    lot: Decimal
    min_quantity: Decimal = ZERO
    orders: int = 1
    """In so many orders at most it is sent, of which each has its fee."""


def affordable(increases: Sequence[Increase], cash: Decimal, fees: Fees) -> tuple[Decimal, ...]:
    """How much of each increase `cash` pays for, fees included: all of it, or every one scaled by the same factor, in lots.

    What the rounding leaves buys one lot each, by the largest remainder, then by key. Costs never exceed `cash`.
    """
    costs = [_DOWN.multiply(each.unit_cost, ONE + fees.rate) for each in increases]
    taking = [n for n, each in enumerate(increases) if each.wanted > 0]
    quantities = [ZERO] * len(increases)
    while taking:
        for_orders = cash - fees.per_order * sum(increases[n].orders for n in taking)
        needed = sum((increases[n].wanted * costs[n] for n in taking), ZERO)
        if for_orders <= 0:
            # Not even all fees can be paid: the smallest wishes last longest.
            taking.remove(max(taking, key=lambda n: (increases[n].wanted * costs[n], increases[n].key)))
            continue
        if needed <= for_orders:
            for n in taking:
                quantities[n] = increases[n].wanted
            return tuple(quantities)
        shares = {n: _DOWN.divide(increases[n].wanted * for_orders, needed) for n in taking}
        for n in taking:
            quantities[n] = whole_lots(shares[n], increases[n].lot)
        left = for_orders - sum((quantities[n] * costs[n] for n in taking), ZERO)
        by_remainder = sorted(taking, key=lambda n: (-(shares[n] - quantities[n]) / increases[n].lot, increases[n].key))
        for n in by_remainder:
            more = increases[n].lot
            if quantities[n] + more <= increases[n].wanted and more * costs[n] <= left:
                quantities[n] += more
                left -= more * costs[n]
        too_small = [n for n in taking if quantities[n] < max(increases[n].lot, increases[n].min_quantity)]
        if not too_small:
            return tuple(quantities)
        # The smallest wish goes without, and its fee and share are the others'.
        out = min(too_small, key=lambda n: (quantities[n] * costs[n], increases[n].key))
        quantities[out] = ZERO
        taking.remove(out)
    return tuple(quantities)
