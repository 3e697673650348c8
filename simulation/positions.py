"""A position at average cost in whole numbers: the fold of `execution_service.core.positions`, to the last digit, many times as fast."""

from __future__ import annotations

from decimal import Decimal

from simulation.fees import half_even

SMALLEST_SHARE = Decimal("1e-20")
"""The share of the cost that a partial exit releases is rounded to it, half-even; the rest stays with the position."""


class Position:
    """Quantity in lots; cost and profit in units of 1e-20 of the currency before the multiplier. `point` is how many of them a tick of one
    lot is worth."""

    __slots__ = ("cost", "point", "quantity", "realized")

    def __init__(self, tick: Decimal, lot: Decimal) -> None:
        self.point = int(tick * lot / SMALLEST_SHARE)
        self.quantity = 0
        self.cost = 0
        self.realized = 0

    def book(self, signed: int, price: int) -> int:
        """Books one fill; returns the profit that it realises."""
        amount = signed * price * self.point
        held = self.quantity
        if held * signed >= 0:
            self.quantity += signed
            self.cost += amount
            return 0
        if abs(signed) < abs(held):
            released = half_even(self.cost * abs(signed), abs(held))
            self.quantity += signed
            self.cost -= released
            realized = -amount - released
        else:
            # Closed whole; what is more opens the other side.
            realized = held * price * self.point - self.cost
            self.quantity += signed
            self.cost = self.quantity * price * self.point
        self.realized += realized
        return realized

    def split(self, up: int, down: int, whole: int, paid: int) -> None:
        """One share becomes `up` / `down`, at the same cost, and `whole` lots of that remain, the nearest below or above. For the difference
        `paid` was had, or given if negative: a fraction that leaves realises its profit, one that comes adds to the cost."""
        exact = abs(self.quantity) * up
        less = exact - abs(whole) * down
        if less > 0:
            released = half_even(self.cost * less, exact)
            self.cost -= released
            self.realized += paid - released
        else:
            self.cost -= paid
        self.quantity = whole
