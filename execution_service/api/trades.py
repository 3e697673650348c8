"""Positions and trades in the shape of spec 002, and of the same amounts as our books; from values alone.

A trade is a holding from flat to flat. What its orders opened and closed is taken from the ledger's lines, so that a fill that turns a position
counts for both of its trades. No amount in another currency is shown as dollars: it is null.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from execution_service.core.orders.events import Filled
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectiveRole
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry, key_of
from execution_service.core.trades.rows import trade_id_of
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.queries import Cash, PositionRow

ZERO = Decimal(0)
_AT_THE_BROKER = frozenset({Status.SUBMITTED, Status.PARTIALLY_FILLED})
DOLLARS = frozenset({None, "USD", "USDT"})
"""Currencies that count as dollars; None: nobody has named one, and dollars are what this service assumes everywhere."""


@dataclass(slots=True)
class Parts:
    """What orders opened and closed of one trade."""

    opened: Decimal = ZERO
    paid: Decimal = ZERO
    closed: Decimal = ZERO
    received: Decimal = ZERO
    fees: Decimal = ZERO
    worth: Decimal | None = Decimal(1)
    """Money per point of the price."""
    last_price: Decimal | None = None
    orders: list[Order] = field(default_factory=list)
    trade_ids: list[str] = field(default_factory=list)
    """Of its executions, in the collection `trades`."""
    is_whole: bool = True
    """The orders' records have all lines of the ledger for their fills: none of them came a moment ago."""

    @property
    def entry_price(self) -> Decimal | None:
        return self.paid / self.opened if self.opened else None

    @property
    def exit_price(self) -> Decimal | None:
        return self.received / self.closed if self.closed else None


def parts_of(ledger_id: str, episode: int, orders: Iterable[Stored]) -> Parts:
    """Of these orders, as far as they are that trade's."""
    parts = Parts()
    for stored in orders:
        order = stored.order
        if not isinstance(order.request, OrderRequest) or key_of(order).ledger_id != ledger_id:
            continue
        is_part = False
        lines = stored.told.lines
        parts.is_whole &= all(n in lines for n, event in enumerate(order.events, 1) if isinstance(event, Filled))
        for number, line in lines.items():
            event = order.events[number - 1] if 0 < number <= order.version else None
            if not isinstance(event, Filled) or event.fill.fill_id in order.busted_fill_ids:
                continue
            opened = event.fill.quantity - line.closed
            closed_in = line.episode if not opened else line.episode - 1
            if opened and line.episode == episode:
                parts.opened += opened
                parts.paid += opened * event.fill.price
            if line.closed and closed_in == episode:
                parts.closed += line.closed
                parts.received += line.closed * event.fill.price
            if (opened and line.episode == episode) or (line.closed and closed_in == episode):
                is_part = True
                parts.trade_ids.append(trade_id_of(order.order_id, event.fill))
                parts.last_price = event.fill.price
        if is_part:
            parts.orders.append(order)
            parts.fees += order.commission
            parts.worth = order.money_per_point
    return parts


def trade_fields(
    row: PositionRow, orders: Sequence[Stored], leaving: Collection[tuple[str, str, str]]
) -> dict[str, Any]:
    """`leaving`: account, strategy and symbol of exits that work now."""
    parts = parts_of(row.ledger_id, row.episode, orders)
    first = parts.orders[0] if parts.orders else None
    is_complete = len(row.shown_order_ids) >= row.order_count and bool(parts.orders) and parts.is_whole
    entry_price = parts.entry_price if is_complete else None
    is_dollars = row.currency in DOLLARS
    profit = row.realized_pnl
    is_leaving = row.is_open and (row.account_id, row.strategy, row.symbol) in leaving
    said = _said(first)
    return {
        "trade_id": row.document_id,
        "symbol": row.symbol,
        "side": "LONG" if row.is_long else "SHORT",
        "status": ("pending_exit" if is_leaving else "open") if row.is_open else "closed",
        "quantity": float(parts.opened) if is_complete else row.quantity,
        "leverage": 1,
        "entry_price": _float(entry_price) if entry_price is not None else row.average_price,
        "entry_time": row.opened_at,
        "exit_price": _float(parts.exit_price) if is_complete else None,
        "exit_time": row.closed_at,
        "stop_loss": _float(_named(first, "stop_loss")),
        "take_profit": _float(_named(first, "take_profit")),
        "pnl_usd": profit if is_dollars else None,
        "pnl_percent": _percent(profit, parts, entry_price),
        "model": str(said.get("model") or row.strategy),
        "confidence": _confidence(said.get("confidence")),
        "metadata": {
            "account_id": row.account_id,
            "strategy": row.strategy,
            "currency": row.currency,
            "realized_pnl": profit,
            "fees": float(parts.fees),
            "open_quantity": row.quantity,
            "order_count": row.order_count,
            "order_ids": [order.order_id for order in parts.orders],
            "trade_ids": sorted(parts.trade_ids),
            "is_complete": is_complete,
        },
    }


def leaving_of(unsettled: Iterable[Stored]) -> set[tuple[str, str, str]]:
    """Account, strategy and symbol of the exits among these that have not ended; those that only rest to protect are none."""
    return {
        (order.request.account_id, order.request.strategy, order.request.instrument.symbol)
        for stored in unsettled
        if (order := stored.order).identity.purpose is Purpose.EXIT
        and isinstance(order.request, OrderRequest)
        and not order.status.is_final
        and (order.protective is None or order.protective.role is ProtectiveRole.CLOSE)
    }


def position_fields(entry: LedgerEntry, orders: Sequence[Stored], unsettled: Sequence[Stored] = ()) -> dict[str, Any]:
    """An open position. We receive no market prices: the current one is that of our last execution in it. `unsettled`: where the orders
    are looked for that rest at the broker to protect it."""
    position = entry.position
    average = position.average_price or ZERO
    last = parts_of(entry.key.ledger_id, position.episode, orders).last_price
    current = average if last is None else last
    worth = entry.money_per_point
    gain = None if worth is None else (current - average) * position.quantity * worth
    cost = None if worth is None else abs(position.cost) * worth
    is_dollars = entry.currency in DOLLARS
    ledger_id = entry.key.ledger_id
    targets = _resting(ProtectiveRole.TARGET, ledger_id, unsettled)
    stops = _resting(ProtectiveRole.STOP, ledger_id, unsettled)
    return {
        "symbol": entry.instrument.symbol,
        "side": "LONG" if position.is_long else "SHORT",
        "quantity": float(abs(position.quantity)),
        "entry_price": float(average),
        "current_price": float(current),
        "unrealized_pnl": _float(gain),
        "unrealized_pnl_pct": float(gain / cost * 100) if gain is not None and cost else 0.0,
        "leverage": 1,
        "margin_usd": _float(cost) if is_dollars else None,
        "liquidation_price": 0.0,
        "has_tp_sl": bool(targets or stops),
        "tp_orders": targets,
        "sl_orders": stops,
    }


def _resting(role: ProtectiveRole, ledger_id: str, unsettled: Iterable[Stored]) -> list[dict[str, Any]]:
    """The protective orders of this ledger that rest at the broker."""
    return [
        {
            "order_id": order.order_id,
            "price": _float(request.limit_price if request.stop_price is None else request.stop_price),
            "quantity": float(order.remaining_quantity),
        }
        for order in (stored.order for stored in unsettled)
        if order.protective is not None
        and order.protective.role is role
        and order.status in _AT_THE_BROKER
        and isinstance(request := order.request, OrderRequest)
        and key_of(order).ledger_id == ledger_id
    ]


def totals(positions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of those in dollars: amounts of several currencies have no sum."""
    in_dollars = [position for position in positions if position["margin_usd"] is not None]
    return {
        "total_margin_usd": sum(position["margin_usd"] for position in in_dollars),
        "total_unrealized_pnl": sum(position["unrealized_pnl"] or 0.0 for position in in_dollars),
    }


def cash_fields(cash: Cash) -> dict[str, Any]:
    """Exact. `unknown_amounts`: so many trades have no known amount, and `traded` and `change` are without them."""
    return {
        "account_id": cash.account_id,
        "currency": cash.currency,
        "change": cash.change,
        "traded": cash.traded,
        "commissions": cash.commissions,
        "unknown_amounts": cash.unknown,
    }


def _percent(profit: float | None, parts: Parts, entry_price: Decimal | None) -> float | None:
    """Of what was paid for the part that was closed; not multiplied by any leverage."""
    if profit is None or entry_price is None or parts.worth is None or not parts.closed:
        return None
    cost = entry_price * parts.closed * parts.worth
    return float(Decimal(str(profit)) / cost * 100) if cost else None


def _said(order: Order | None) -> Mapping[str, Any]:
    """What the message said beside the order: the model and how sure it was, at the top or in its metadata."""
    if order is None:
        return {}
    try:
        message = json.loads(order.raw)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(message, dict):
        return {}
    more = message.get("metadata")
    return {**(more if isinstance(more, dict) else {}), **message}


def _confidence(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 100 else 0.0  # type: ignore[arg-type, operator]


def _named(order: Order | None, name: str) -> Decimal | None:
    return getattr(order.request, name, None) if order is not None else None


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
