"""Which way a price goes to the market's tick, for every broker alike; no ticks of any market."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from brokers.base import Side


def limit_on_tick(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Never to the order's disadvantage: it never pays more or takes less than its author said. Zero where nothing is left."""
    return _on_tick(price, tick, up=side is Side.SELL)


def stop_on_tick(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Away from the market: it never triggers before the price that its author named. Zero where nothing is left."""
    return _on_tick(price, tick, up=side is Side.BUY)


def _on_tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    return (price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * tick
