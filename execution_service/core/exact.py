"""The exact arithmetic that all amounts share: the zero and the decimal context. No values of the trade."""

from __future__ import annotations

from decimal import Context, Decimal

ZERO = Decimal(0)
EXACT = Context(prec=60)
"""Precise enough for any product of three numbers of 18 digits, so that no amount is ever rounded."""
