"""Which fills of an entry make up what is held of it now: those since exits last closed all of it. From values alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from brokers.base import Fill
from execution_service.core.exact import ZERO
from execution_service.core.orders.exits import is_exit_of
from execution_service.core.orders.order import Order


def begins_after(entry: Order, exits: Iterable[Order]) -> Decimal:
    """How much the entry had filled when exits that name it last had closed all of that, and more filled later; 0: there was no such time. By the
    venue's times; of one time the entry filled first. An annulled execution never was."""
    moves: list[tuple[datetime, bool, Decimal]] = [(fill.time, False, fill.quantity) for fill in entry.fills]
    moves += [(fill.time, True, fill.quantity) for each in exits if is_exit_of(each, entry) for fill in each.fills]
    found = filled = left = ZERO
    for _, is_exit, quantity in sorted(moves, key=lambda move: move[:2]):
        if is_exit:
            left -= quantity
            continue
        if filled and left <= 0:
            found = filled
        filled += quantity
        left += quantity
    return found


def present_fills(entry: Order, after: Decimal) -> Sequence[Fill]:
    """The entry's fills since it had filled so much (`begins_after`), the earliest first."""
    found: list[Fill] = []
    filled = ZERO
    for fill in sorted(entry.fills, key=lambda fill: fill.time):
        if filled >= after:
            found.append(fill)
        filled += fill.quantity
    return found


def average_price(fills: Iterable[Fill]) -> Decimal | None:
    """Weighted by quantity; None without a fill."""
    some = tuple(fills)
    quantity = sum((fill.quantity for fill in some), ZERO)
    return sum((fill.quantity * fill.price for fill in some), ZERO) / quantity if quantity else None
