"""The verb to allow: one order that limits of risk refused may come once more, by a named person, for a while (ADR 0041); sends nothing itself."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Protocol

from execution_service.control.requests import Allow
from execution_service.control.results import Done, Refused
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.book import granted
from execution_service.core.risk.verdict import Override, exact_content
from execution_service.core.texts.service import risk_allowed
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import OrderStore
from execution_service.storage.ports.risk import RiskStore

MOST_TRIES = 50
"""So often in succession somebody else may be first to change the account's risk document."""


class OrderAndRiskStore(OrderStore, RiskStore, Protocol):
    """What it reads, and writes to."""


class AllowOrder:
    """May be asked for again: one command is one override, which one order uses up."""

    def __init__(self, *, store: OrderAndRiskStore, alerts: RaisesAlerts, clock: Clock) -> None:
        self._store = store
        self._alerts = alerts
        self._clock = clock

    async def carry_out(self, asked: Allow) -> Done | Refused:
        """Done when the override is durable: the next order of the same account, strategy, instrument, side, quantity, type and prices passes its
        limits, if it comes in time, under a signal of its own. The words are JSON. Raises StoreUnavailable."""
        if not (asked.person and asked.reason):
            return Refused("the person and the reason must be named")
        now, expires_at = self._clock.now(), asked.asked_at + timedelta(seconds=asked.seconds)
        if now >= expires_at:
            return Refused(f"it was to be allowed until {expires_at:%Y-%m-%d %H:%M:%S} UTC, which is over")
        order = await self._refused(asked.order_id)
        if isinstance(order, Refused):
            return order
        try:
            await self._grant(order, asked, now, expires_at)
        except UnreadableRecord as exc:
            return Refused(f"the account's risk document cannot be read: {exc}")
        limits = [breach.limit_type for breach in (order.reason and order.reason.breaches) or ()]
        text = risk_allowed(
            signal_id=order.signal_id, limits=limits, by=asked.person, reason=asked.reason, until=expires_at
        )
        await self._alerts.raise_alert_once(f"risk-allowed:{asked.command_id}", "risk_allowed", text)
        told = {
            "override_id": asked.command_id,
            "order_id": order.order_id,
            "signal_id": order.signal_id,
            "account_id": order.request.account_id,
            "limits": limits,
            "person": asked.person,
            "expires_at": expires_at.isoformat(timespec="milliseconds"),
        }
        return Done(json.dumps(told))

    async def _refused(self, name: str) -> Order | Refused:
        """The order that is meant, if limits of risk refused it."""
        found = await self._store.load([name])
        found = found or await self._store.find([f"request:{name}"]) or await self._store.find([f"signal:{name}"])
        orders = [stored.order for stored in found if stored.order.adoption is None]
        refused = [order for order in orders if _is_refused_by_limits(order)]
        if not orders:
            return Refused(f"there is no order {name!r}")
        if len(refused) > 1:
            return Refused(f"{name!r} names {len(refused)} refused orders; name one by its own id")
        if not refused:
            said = ", ".join(_what_became(order) for order in orders)
            return Refused(f"{name!r} was not refused by a limit of risk ({said}); nothing else can be allowed")
        return refused[0]

    async def _grant(self, order: Order, asked: Allow, now: datetime, expires_at: datetime) -> None:
        override = Override(
            override_id=asked.command_id,
            content=exact_content(order),
            by=asked.person,
            reason=asked.reason,
            at=min(now, asked.asked_at),
            expires_at=expires_at,
        )
        for _ in range(MOST_TRIES):
            book = await self._store.risk_book(order.accepted_request.account_id)
            changed = granted(book, override, now)
            if changed is book or await self._store.save_risk_book(changed):
                return
        raise StoreUnavailable("others have changed the account's risk document each time that an order was allowed")


def _is_refused_by_limits(order: Order) -> bool:
    return (
        isinstance(order.request, OrderRequest)
        and order.status is Status.REJECTED
        and _code(order) is ReasonCode.RISK_LIMIT
    )


def _code(order: Order) -> ReasonCode | None:
    return None if order.reason is None else order.reason.code


def _what_became(order: Order) -> str:
    code = _code(order)
    return order.status.value if code is None else f"{order.status.value}, {code.value}"
