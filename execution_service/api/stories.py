"""An order as JSON: in brief for lists, and its whole story, from values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from execution_service.core.orders.effects import AppliedEvent, applied_events
from execution_service.core.orders.events import stored_name
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import OrderRequest
from execution_service.core.quality.order_quality import order_quality
from execution_service.core.texts.log import log_line
from execution_service.core.texts.values import currency_of, plain
from execution_service.storage.ports.commands import DeadLetter
from execution_service.storage.ports.orders import Stored

MOST_EVENTS = 500
"""Of an order with more, the first and the last of them; it is said how many were left out."""
_UNCHANGED = "(changed nothing)"


def brief(stored: Stored) -> dict[str, Any]:
    """One row of a list. Quantities and amounts are exact decimals, as text."""
    order, request = stored.order, stored.order.request
    return {
        "order_id": order.order_id,
        "signal_id": order.signal_id,
        "leg_index": order.identity.leg_index,
        "purpose": order.identity.purpose,
        "status": order.status,
        "account_id": request.account_id,
        "strategy": request.strategy,
        "symbol": order.symbol,
        "side": request.side,
        "order_type": request.order_type,
        "quantity": order.quantity,
        "limit_price": order.limit_price,
        "stop_price": order.stop_price,
        "display_quantity": order.display_quantity,
        "filled_quantity": order.filled_quantity,
        "average_price": order.average_price,
        "value": order.value,
        "commission": order.commission,
        "realized_pnl": stored.realized_pnl,
        "currency": currency_of(order),
        "broker_order_id": order.broker_order_id,
        "reason": None if order.reason is None else {"code": order.reason.code, "message": plain(order.reason.message)},
        "reasons": reasons_of(order),
        "received_at": order.received_at,
        "submitted_at": order.submitted_at,
        "filled_at": order.filled_at,
        "finished_at": order.finished_at,
        "version": order.version,
    }


def reasons_of(order: Order) -> list[dict[str, Any]]:
    """All that the risk gate found where it refused the order: `limit_type`, `limit_value`, `actual_value`, `message`; else none."""
    breaches = () if order.reason is None else order.reason.breaches or ()
    return [{**breach.told, "message": plain(breach.message)} for breach in breaches]


def story(stored: Stored) -> dict[str, Any]:
    """All that happened to it, in its sequence, with what it was asked to be and what it filled at."""
    order, request = stored.order, stored.order.request
    events, left_out = _events(order)
    return brief(stored) | {
        "message_id": order.message_id,
        "published_at": order.published_at,
        "client_order_ids": order.client_order_ids,
        "request_order_id": request.request_order_id,
        "closes": request.entry_refs if isinstance(request, OrderRequest) else (),
        "stop_loss": request.stop_loss if isinstance(request, OrderRequest) else None,
        "take_profit": request.take_profit if isinstance(request, OrderRequest) else None,
        "protection": protection(order),
        "protects": None if order.protective is None else order.protective.entry_order_id,
        "events": [_event(each) for each in events],
        "events_left_out": left_out,
        "fills": [
            {
                "fill_id": fill.fill_id,
                "quantity": fill.quantity,
                "price": fill.price,
                "commission": fill.commission,
                "commission_currency": fill.commission_currency,
                "time": fill.time,
                "is_annulled": fill.fill_id in order.busted_fill_ids,
            }
            for fill in order.fills
        ],
        "quality": order_quality(order).fields(),
        "delivered": {
            "confirmations": stored.told.world,
            "people": stored.told.people,
            "ledger": stored.told.ledger,
            **stored.told.others,
        },
        "raw": order.raw,
    }


def protection(order: Order) -> dict[str, Any] | None:
    """Of an entry that asks for it: how it is protected, and by how much. None: it asks for none."""
    known = order.protection
    if known is None:
        return {"state": ProtectionState.NOT_PLACED, "reason": "", "quantity": None} if order.wants_protection else None
    told = {"state": known.state, "reason": plain(known.reason), "quantity": known.quantity, "since": known.at}
    return told if known.stop_price is None else told | {"stop_price": known.stop_price}


def _events(order: Order) -> tuple[Sequence[AppliedEvent], int]:
    half = MOST_EVENTS // 2
    if order.version <= MOST_EVENTS:
        return tuple(applied_events(order)), 0
    first = tuple(applied_events(order.as_of(half)))
    return (*first, *applied_events(order, order.version - half)), order.version - 2 * half


def _event(applied: AppliedEvent) -> dict[str, Any]:
    line = log_line(applied.before, applied.event, applied.after)
    return {
        "number": applied.number,
        "at": applied.event.at,
        "type": stored_name(type(applied.event)),
        "words": plain(_UNCHANGED if line is None else line[0]),
        "status": applied.after.status,
        "is_confirmed_to_senders": applied.is_published,
    }


def dead_letter(letter: DeadLetter) -> Mapping[str, Any]:
    return {
        "message_id": letter.message_id,
        "reason": plain(letter.reason),
        "received_at": letter.received_at,
        "publish_time": letter.publish_time,
        "text": plain(letter.payload[:2000].decode("utf-8", "replace")),
    }
