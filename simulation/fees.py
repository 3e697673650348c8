"""Commissions in whole numbers: the fee of all that an order has filled, less what it was charged already, each rounded half-even to the cent."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from simulation.settings import Commission, Settings

CENT = Decimal("0.01")


class _Model(NamedTuple):
    """In parts of a cent: per lot, per unit of the amount, per order, at least, at most per unit of the amount."""

    per_lot: int
    of_amount: int
    flat: int
    least: int
    most: int | None


class Fees:
    """By order and cumulative; minimum and maximum apply once an order. Amounts come in units of tick x lot x multiplier."""

    def __init__(self, settings: Settings) -> None:
        unit = settings.tick * settings.lot * settings.multiplier
        models = {side: _models(settings.commission, side, settings.lot, unit) for side in (1, -1)}
        parts = [part for each in models.values() for model in each for part in model]
        self.scale = lcm(*(part.denominator for part in parts if part is not None)) if parts else 1
        """So many parts are a cent."""
        self.models = {side: tuple(_scaled(model, self.scale) for model in each) for side, each in models.items()}
        """By side, 1 buys."""

    def total(self, side: int, lots: int, amount: int) -> int:
        """The fee, in cents, of an order that has filled so many lots for that amount."""
        exact = 0
        for per_lot, of_amount, flat, least, most in self.models[side]:
            fee = per_lot * lots + of_amount * amount + flat
            if fee < least:
                fee = least
            if most is not None and fee > most * amount:
                fee = most * amount
            exact += fee
        return half_even(exact, self.scale)

    def bound(self, lots: int, amount: int) -> int:
        """No figure on the way to the fee of an order of at most so many lots, for at most that amount, is larger; in parts of a cent."""
        models = (model for each in self.models.values() for model in each)
        return sum(
            model.per_lot * lots + (model.of_amount + (model.most or 0)) * amount + model.flat + model.least
            for model in models
        )


def _models(
    commissions: Sequence[Commission], side: int, lot: Decimal, unit: Decimal
) -> tuple[tuple[Fraction, Fraction, Fraction, Fraction, Fraction | None], ...]:
    """As `_Model` has them, in cents."""
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


def _scaled(model: tuple[Fraction, Fraction, Fraction, Fraction, Fraction | None], scale: int) -> _Model:
    per_lot, of_amount, flat, least, most = model
    return _Model(
        per_lot=int(per_lot * scale),
        of_amount=int(of_amount * scale),
        flat=int(flat * scale),
        least=int(least * scale),
        most=None if most is None else int(most * scale),
    )


def half_even(number: int, by: int) -> int:
    """The nearest whole number of `number / by`; of two equally near the even one."""
    whole, rest = divmod(number, by)
    double = 2 * rest
    return whole + (1 if double > by or (double == by and whole & 1) else 0)
