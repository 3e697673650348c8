"""The exact arithmetic that all amounts share: the zero and the decimal context. No values of the trade."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

ZERO = Decimal(0)
EXACT = Context(prec=60)
"""Precise enough for any product of three numbers of 18 digits, so that no amount is ever rounded."""


def shown_beside(value: Decimal, limit: Decimal, places: int) -> Decimal:
    """A figure for people, of at most so many decimals: up to the limit it is cut off and beyond it raised, so that a breach is never shown as none,
    nor anything else as a breach."""
    rounding = ROUND_CEILING if value > limit else ROUND_FLOOR
    shown = value.quantize(Decimal(1).scaleb(-places), rounding, EXACT)
    return value if shown == value else shown
