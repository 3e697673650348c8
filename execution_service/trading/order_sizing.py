"""The quantity of an order that names a stop in its place: worked out once, when the order is about to leave, by what is known then."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from execution_service.core.orders.events import AwaitsOpening, ContractResolved, Event, Rejected, Sized
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.status import LimitBreach, Reason, ReasonCode
from execution_service.core.risk.order_size import opening_to_wait_for, size_of
from execution_service.core.risk.sizing import NotSized
from execution_service.trading.connection import Connection
from execution_service.trading.risk_gate import RiskGate

SIZING = "sizing"
"""What the reason is called by for which an order has no quantity; it is no limit."""


class OrderSizing:
    """Of one account."""

    def __init__(self, *, connection: Connection, risk_gate: RiskGate, risk_per_trade: Decimal | None) -> None:
        """`risk_per_trade`: the part of the equity that one order may lose until its stop; None: no order is sized."""
        self._connection = connection
        self._risk_gate = risk_gate
        self._risk_per_trade = risk_per_trade

    async def events_for(self, order: Order, now: datetime) -> tuple[Event, ...]:
        """What is to be recorded with the intent: its quantity with the arithmetic, or its end with all that is missing; or alone, that it is kept
        for the opening of its market. Sends no order.

        Raises StoreUnavailable, and OrderRefused, BrokerError or TimeoutError where the broker is asked for the contract.
        """
        facts, limits = await self._risk_gate.known_of(order)
        opens_at = opening_to_wait_for(order, facts, limits)
        if opens_at is not None:
            # Sized then, by what is known then.
            return (AwaitsOpening(at=now, message="the market is closed", until=opens_at),)
        try:
            found = size_of(order, facts, limits, self._risk_per_trade)
            if self._connection.capabilities.fits_tickets and order.terms is None:
                # The first is only what the contract is asked with; what it is worth and its lot are the broker's to say.
                probe = apply(order, Sized(at=now, quantity=max(Decimal(1), found.quantity), arithmetic=""))
                terms = (await self._connection.ask(self._connection.broker.fitted(probe.ticket()))).terms
                resolved = apply(order, ContractResolved(at=now, terms=terms))
                facts = replace(
                    facts, order_currency=(None if terms is None else terms.currency) or facts.order_currency
                )
                found = size_of(resolved, facts, limits, self._risk_per_trade)
        except NotSized as exc:
            told = tuple(
                LimitBreach(limit_type=SIZING, limit_value="a quantity", message=problem) for problem in exc.problems
            )
            words = f"the order names no quantity, and none can be worked out: {exc}"
            return (Rejected(at=now, reason=Reason(ReasonCode.RISK_LIMIT, words, told)),)
        return (Sized(at=now, quantity=found.quantity, arithmetic=found.arithmetic),)
