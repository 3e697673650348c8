"""Commissions in whole numbers: the fee of all that an order has filled, less what it was charged already, each rounded half-even to the cent."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import lcm

from simulation.settings import Commission, Settings

CENT = Decimal("0.01")


class Fees:
    """By order and cumulative; minimum and maximum apply once an order. Amounts come in units of tick x lot x multiplier."""

    def __init__(self, settings: Settings) -> None:
        unit = settings.tick * settings.lot * settings.multiplier
        self._models = {side: _models(settings.commission, side, settings.lot, unit) for side in (1, -1)}
        parts = [part for models in self._models.values() for model in models for part in model]
        self._scale = lcm(*(part.denominator for part in parts if part is not None)) if parts else 1
        self._whole = {
            side: tuple(tuple(None if p is None else int(p * self._scale) for p in model) for model in models)
            for side, models in self._models.items()
        }
        self.are_none = not any(self._whole.values())

    def total(self, side: int, lots: int, amount: int) -> int:
        """The fee, in cents, of an order that has filled so many lots for that amount."""
        exact = 0
        for per_lot, of_amount, flat, least, most in self._whole[side]:
            fee = max((per_lot or 0) * lots + (of_amount or 0) * amount + (flat or 0), least or 0)
            exact += fee if most is None else min(fee, most * amount)
        return half_even(exact, self._scale)


def _models(
    commissions: Sequence[Commission], side: int, lot: Decimal, unit: Decimal
) -> tuple[tuple[Fraction | None, ...], ...]:
    """Each in cents: per lot, per unit of the amount, per order, at least, at most per unit of the amount."""
    wanted = "buy" if side > 0 else "sell"
    return tuple(
        (
            Fraction((each.per_share + each.per_contract) * lot / CENT),
            Fraction(each.percent * unit / 100 / CENT),
            Fraction(each.per_order / CENT),
            Fraction(each.minimum / CENT),
            None if each.maximum_pct is None else Fraction(each.maximum_pct * unit / 100 / CENT),
        )
        for each in commissions
        if each.side in (None, wanted)
    )


def half_even(number: int, by: int) -> int:
    """The nearest whole number of `number / by`; of two equally near the even one."""
    whole, rest = divmod(number, by)
    double = 2 * rest
    return whole + (1 if double > by or (double == by and whole & 1) else 0)
