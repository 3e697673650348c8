"""Exact decimals: nothing, and the context in which averages are computed."""

from __future__ import annotations

from decimal import Context, Decimal

ZERO = Decimal(0)
EXACT = Context(prec=60)
"""Wide enough for any product of three numbers of 18 digits: amounts are never rounded."""
