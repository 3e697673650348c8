"""The verb to resolve: a person's decision about an order of which it is not known what became of it, recorded as an event like any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from execution_service.control.requests import Decision, Resolution
from execution_service.control.results import Done, Refused
from execution_service.core.errors import InvalidTransition
from execution_service.core.orders.events import (
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Event,
    SendAgainOrdered,
)
from execution_service.core.orders.order import Order
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store

_WHEN_POSSIBLE = {
    Decision.SEND_AGAIN: "an order is sent again only from IN_DOUBT; before, its first sending may still be under way",
    Decision.PLACED: "only an order that was perhaps sent can be declared placed",
    Decision.NOT_PLACED: "only an order that was perhaps sent, and is not known at the broker, can be declared not placed",
    Decision.CANCELLED: "only an order that was perhaps sent, or is at work, can be declared cancelled",
}


class StepsOrders(Protocol):
    """Who works an account's orders."""

    def look_again(self, live: LiveOrder) -> None:
        """The order's record has changed: its next step is due."""


class ResolvedAccounts(Protocol):
    """The accounts whose orders are decided about."""

    def trader_of(self, account_id: str | None) -> StepsOrders | None:
        """None: it is not traded here."""


class ResolveOrder:
    """May be asked for again: the same decision is the same event, and recorded once."""

    def __init__(
        self, *, accounts: ResolvedAccounts, ownership: Ownership, live_orders: LiveOrders, store: Store
    ) -> None:
        self._accounts = accounts
        self._ownership = ownership
        self._live = live_orders
        self._store = store

    async def carry_out(self, asked: Resolution) -> Done | Refused:
        """Done when the decision is durable. Raises StoreUnavailable."""
        order_id, event = asked.order_id, _event(asked)
        stored = await self._store.load([order_id])
        if any(event in s.order.events for s in stored):
            return Done(f"{order_id} resolved as {asked.decision} by {asked.by} before")
        if isinstance(event, DeclaredPlaced):
            refusal = await self._refused_as_anothers(event.broker_order_id, stored)
            if refusal is not None:
                return refusal
        live = self._live.by_id.get(order_id)
        trader = None if live is None else self._accounts.trader_of(live.order.request.account_id)

        def decide(order: Order) -> tuple[Event, ...]:
            return () if event in order.events else (event,)

        try:
            if live is not None and trader is not None:
                await self._live.record(live, decide)
                trader.look_again(live)
                order = live.order
            elif self._ownership.has_others and stored and not stored[0].order.status.is_final:
                order = await self._live.record_for_holder(stored[0].order, decide)
                await self._ownership.leave_to_holder(order)
            else:
                return Refused(f"order {order_id}: {_why_no_decision(stored)}")
        except InvalidTransition as exc:
            return Refused(f"{order_id} is {exc.status}: {_WHEN_POSSIBLE[asked.decision]}")
        return Done(f"{order_id} resolved as {asked.decision} by {asked.by}: {order.status}")

    async def _refused_as_anothers(self, broker_order_id: str, stored: Sequence[Stored]) -> Refused | None:
        """The broker's order is one of our others: a cancel would go to that one."""
        for other in await self._store.find([f"broker:{broker_order_id}"]):
            if any(_is_namesake(other.order, s.order) for s in stored):
                return Refused(
                    f"{broker_order_id} is the broker's id of {other.order.order_id}, {other.order.signal_id}"
                )
        return None


def _event(asked: Resolution) -> Event:
    """Its moment is when the decision was stored: the same decision, carried out again, is the same event."""
    at, by, note = asked.decided_at, asked.by, asked.note
    match asked.decision:
        case Decision.NOT_PLACED:
            return DeclaredNotPlaced(at=at, by=by, message=note)
        case Decision.CANCELLED:
            return DeclaredCancelled(at=at, by=by, message=note)
        case Decision.SEND_AGAIN:
            return SendAgainOrdered(at=at, by=by, message=note)
        case Decision.PLACED:
            return DeclaredPlaced(at=at, by=by, broker_order_id=asked.broker_order_id, message=note)


def _why_no_decision(stored: Sequence[Stored]) -> str:
    if not stored:
        return "it is not known, or its record cannot be read"
    order = stored[0].order
    if order.status.is_final:
        return f"it is {order.status} already"
    return f"account {order.request.account_id} is not traded here; configure it again, then decide"


def _is_namesake(other: Order, order: Order) -> bool:
    """Whether the broker's order cannot be both: legs of one combination are one order there."""
    is_one_order = other.combination is not None and other.combination == order.combination
    is_same_account = other.request.account_id == order.request.account_id
    return other.order_id != order.order_id and is_same_account and not is_one_order
