"""Which holding an order's fills will be booked to, decided before it is sent; what is held is counted elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from brokers.base import DERIVATIVES, ContractTerms
from execution_service.core.orders.contracts import Contract
from execution_service.core.orders.events import ContractResolved, Event, Rejected, SubmitStarted
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, SeveralHoldings, holding_for
from execution_service.recording.live_orders import LiveOrders
from execution_service.trading.holdings import booked_to


class LedgerAndViews(Protocol):
    """What is asked of the store."""

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]: ...


class HoldingChoice:
    """Knows the holdings that are open, or being built by orders in hand."""

    def __init__(self, store: LedgerAndViews, live_orders: LiveOrders) -> None:
        self._store = store
        self._live = live_orders

    async def contract_events(self, order: Order, terms: ContractTerms | None, now: datetime) -> tuple[Event, ...]:
        """What is to be recorded of the order's contract before it is sent, `terms` being what the broker said of it; nothing where the order's
        own words say it all; the end of an exit that may mean several holdings. Raises StoreUnavailable."""
        instrument = order.accepted_request.instrument
        try:
            booked_as, held = await self._holding_for(order, terms)
        except SeveralHoldings as exc:
            return (Rejected(at=now, reason=Reason(ReasonCode.INVALID_ORDER, f"nothing was sent: {exc}")),)
        if terms is None and instrument.multiplier is None and held is not None:
            terms = held.known_terms
        elif terms is not None and terms.is_size_unknown:
            terms = _sized_as(terms, order.terms if held is None else held.known_terms)
        event = ContractResolved(at=now, terms=terms, booked_as=None if booked_as == instrument.key else booked_as)
        return () if (event.terms, event.booked_as) == (order.terms, order.booked_as) else (event,)

    async def key_for(self, order: Order) -> LedgerKey:
        """The holding that the order would change, were it sent now. Raises StoreUnavailable."""
        request = order.accepted_request
        try:
            name, _ = await self._holding_for(order, order.terms)
        except SeveralHoldings:
            name = request.instrument.key
        return LedgerKey(request.account_id, request.strategy, name)

    async def _holding_for(self, order: Order, terms: ContractTerms | None) -> tuple[str, Contract | None]:
        """Its key, and what it is of if it is there already and was looked for. An order that was perhaps sent before keeps its own: fills of that
        sending may come at any time."""
        instrument = order.accepted_request.instrument
        if any(isinstance(event, SubmitStarted) for event in order.events):
            return order.booked_as or instrument.key, None
        says_facts = (instrument.multiplier, instrument.trading_class, instrument.isin) != (None, None, None)
        is_bare_exit = order.identity.purpose is Purpose.EXIT and not order.accepted_request.entry_refs
        # The shares that most orders are about have one name only: for them nobody needs to be asked.
        if not (instrument.asset_class in DERIVATIVES or says_facts or is_bare_exit):
            return instrument.key, None
        held = await self._held(order)
        key = holding_for(order, terms, held)
        return key, held.get(key)

    async def _held(self, order: Order) -> dict[str, Contract]:
        request = order.accepted_request
        # From before the question: an order may be booked, delivered and let go of while the store answers.
        held = {}
        for live in self._live.by_id.values():
            other = live.order
            is_unbooked = other.submitted_at is not None and (not other.status.is_final or live.owes_world)
            if is_unbooked and other.order_id != order.order_id:
                key = booked_to(other)
                if key is not None and (key.account_id, key.strategy) == (request.account_id, request.strategy):
                    held[key.instrument_key] = Contract(other.accepted_request.instrument, other.terms)
        entries = await self._store.ledgers_of_account(request.account_id, ())
        held.update(
            (entry.key.instrument_key, entry.contract)
            for entry in entries
            if entry.key.strategy == request.strategy and entry.position.is_open
        )
        return held


def _sized_as(terms: ContractTerms, known: ContractTerms | None) -> ContractTerms:
    """With what is known of the holding where the broker does not tell the size now: else its profit would be counted as if that were 1."""
    if known is None or known.is_size_unknown:
        return terms
    return replace(terms, multiplier=known.multiplier, price_magnifier=known.price_magnifier, is_size_unknown=False)
