"""What a stored order that has not been sent is waiting for, as far as the store knows; its account's row in the
status table says the rest."""

from __future__ import annotations

from datetime import datetime

from execution_service.core.orders.exits import exit_allowance
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.storage.reader import StoreReader


def waits_for(view: StoreReader, order: Order, now: datetime) -> list[str]:
    """A phrase for each order that it waits for; none if the order is not PENDING. Raises StoreUnavailable."""
    if order.status is not Status.PENDING or not isinstance(order.request, OrderRequest):
        return []
    return [*_being_looked_for(view, order, order.request), *_unfinished_entries(view, order, order.request, now)]


def _being_looked_for(view: StoreReader, order: Order, request: OrderRequest) -> list[str]:
    """Orders that may have been sent: until they are found, later ones wait."""
    stored = view.orders(status=Status.SUBMITTING.value, account_id=request.account_id)
    same = [s.order for s in stored if _named_instrument(s.order) == request.instrument.key]
    return [f"{_named(other)}, perhaps sent and being looked for" for other in same if other.order_id != order.order_id]


def _named_instrument(order: Order) -> str | None:
    """The instrument as the message names it, by which orders wait for each other."""
    return order.request.instrument.key if isinstance(order.request, OrderRequest) else None


def _unfinished_entries(view: StoreReader, order: Order, request: OrderRequest, now: datetime) -> list[str]:
    if order.identity.purpose is not Purpose.EXIT or not request.entry_refs:
        return []
    called = [stored.order for stored in view.signals(request.entry_refs)]
    exits = [stored.order for stored in view.exits_of(request.entry_refs)]
    if exit_allowance(order, called, exits, now) is not None:
        return []
    entries = [other for other in called if other.identity.purpose is Purpose.ENTRY]
    unfinished = [other for other in entries if not other.status.is_final]
    return [f"its entry {_named(other)}" for other in unfinished] or ["the leg of its entry that it closes"]


def _named(order: Order) -> str:
    return f"{order.order_id} {order.status.value} (signal {order.signal_id})"
