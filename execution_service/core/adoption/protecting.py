"""What becomes of an entry's stop and target where another holding takes its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from brokers.base import Side
from execution_service.core.adoption.entries import is_entry_of, refs_to
from execution_service.core.adoption.records import EntryProtection
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerKey

_PLACES = Decimal("1e-8")


def present_holder(orders: Iterable[Order], refs: Sequence[str], key: LedgerKey) -> Order | None:
    """The entry, or what has taken its place last, that exits of the holding name by these ids; None: there is none."""
    found = [order for order in orders if is_entry_of(order, key) and refs_to(order) == tuple(refs)]
    return max(found, key=lambda order: (order.received_at, order.order_id), default=None)


def after_split(entry: Order, old: Decimal, new: Decimal) -> EntryProtection | None:
    """As the entry is protected, where so many old units have become so many new ones: its prices times old/new. What has no short decimal form is
    rounded so that a stop is not reached sooner, nor a target at a worse price. A trailing stop goes on from where it stood. None: the entry asks for
    no protection."""
    request = entry.accepted_request
    if not entry.wants_protection:
        return None
    stood = None if entry.protection is None else entry.protection.stop_price
    is_long = request.side is Side.BUY
    stop = request.stop_loss if stood is None else stood

    def scaled(price: Decimal | None, *, up: bool) -> Decimal | None:
        if price is None or old == new:
            return price
        return (price * old / new).quantize(_PLACES, ROUND_CEILING if up else ROUND_FLOOR).normalize()

    return EntryProtection(
        stop_loss=scaled(stop, up=not is_long),
        take_profit=scaled(request.take_profit, up=is_long),
        trail_percent=request.trail_percent,
        trail_amount=scaled(request.trail_amount, up=True),
    )
