"""Rounding of prices to ticks, the same for every broker. The ticks themselves are the markets'."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from brokers.base import Side


def limit_on_tick(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Rounded in the order's favour: it never pays more or receives less than requested. 0 if nothing is left."""
    return _on_tick(price, tick, up=side is Side.SELL)


def stop_on_tick(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Rounded away from the market: it never triggers before the requested price. 0 if nothing is left."""
    return _on_tick(price, tick, up=side is Side.BUY)


def _on_tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    return (price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * tick
