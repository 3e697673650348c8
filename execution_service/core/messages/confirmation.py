"""Writes the messages on `execution-confirmations`: one order after one event as JSON. Which events are published,
and when, is decided elsewhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

from brokers.base import Fill
from execution_service.core.orders.events import Event, Filled
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, RefusedRequest
from execution_service.core.orders.status import Status

SCHEMA_VERSION = "1"
MAX_ATTRIBUTE_BYTES = 1024

_WORKING = frozenset({Status.PENDING, Status.SUBMITTING, Status.SUBMITTED})


def confirmation(
    order: Order, *, event: Event, broker: str, realized_pnl: Decimal | None, correction: bool
) -> dict[str, object]:
    """The message's body, ready for `json.dumps`. `order` is the state right after `event`. `realized_pnl` is before
    commissions; None (null in the message) if the money per point of the price is not known."""
    request = order.request
    symbol = order.symbol
    known_quantity = order.quantity is not None
    body: dict[str, object] = {
        "signal_id": order.signal_id,
        "leg_index": order.identity.leg_index,
        "order_id": order.broker_order_id,
        "request_order_id": request.request_order_id,
        "client_order_id": order.client_order_id,
        "status": published_status(order).value,
        "symbol": symbol,
        "instrument": symbol,
        "side": None if request.side is None else request.side.value,
        "order_type": None if request.order_type is None else request.order_type.value,
        "quantity": json_number(order.quantity),
        "filled_quantity": json_number(order.filled_quantity),
        "remaining_quantity": json_number(order.remaining_quantity) if known_quantity else None,
        "avg_fill_price": json_number(order.average_price),
        "commission": json_number(order.commission),
        "commission_currency": commission_currency(order),
        "realized_pnl": None if order.money_per_point is None else json_number(realized_pnl),
        **_names(request),
        "broker": broker,
        "submitted_at": iso_time(order.submitted_at),
        "filled_at": iso_time(order.filled_at),
        "timestamp": iso_time(event.at),
        "reason": None if order.reason is None else {"code": order.reason.code.value, "message": order.reason.message},
        "last_fill": fill_body(event.fill) if isinstance(event, Filled) else None,
    }
    if order.reason is not None and order.reason.breaches is not None:
        body["reasons"] = [breach.told for breach in order.reason.breaches]
    if correction:
        body["correction"] = True
    return body


def confirmation_json(
    order: Order, *, event: Event, broker: str, realized_pnl: Decimal | None, correction: bool
) -> bytes:
    """The body of `confirmation` as compact UTF-8 JSON."""
    body = confirmation(order, event=event, broker=broker, realized_pnl=realized_pnl, correction=correction)
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate (from a broker's text) has no UTF-8 form; JSON writes it as a \u escape.
    return text.encode("utf-8", "backslashreplace")


def attributes(order: Order) -> dict[str, str]:
    """The message's attributes. They are equal for each repetition of one event, so that a reader can drop
    duplicates and put the rest in order."""
    values = {
        "event_id": f"{order.order_id}-{order.version}",
        "signal_id": order.signal_id,
        "status": published_status(order).value,
        "event_number": str(order.version),
        "schema_version": SCHEMA_VERSION,
    }
    return {name: _cut(value) for name, value in values.items()}


def published_status(order: Order) -> Status:
    """The status as it is published: an order that works again because its only execution was busted is
    PARTIALLY_FILLED with 0 filled, not SUBMITTED."""
    return Status.PARTIALLY_FILLED if order.status in _WORKING else order.status


def json_number(value: Decimal | None) -> int | float | None:
    """A JSON number: an int if it is whole, else the nearest double."""
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def iso_time(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds and a Z."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def fill_body(fill: Fill) -> dict[str, object]:
    """One execution as JSON. Its commission is null until the broker reports it. `is_time_estimated` is present only
    if true."""
    body: dict[str, object] = {
        "fill_id": fill.fill_id,
        "quantity": json_number(fill.quantity),
        "price": json_number(fill.price),
        "commission": json_number(fill.commission),
        "commission_currency": fill.commission_currency,
        "time": iso_time(fill.time),
    }
    return body | {"is_time_estimated": True} if fill.is_time_estimated else body


def commission_currency(order: Order) -> str | None:
    """The currency of the first fill that names one."""
    return order.commission_currency


def _names(request: OrderRequest | RefusedRequest) -> dict[str, object]:
    """The identifying fields, each under the names of both message dialects."""
    return {
        "account_id": request.account_id,
        "account": request.account_id,
        "strategy_name": request.strategy,
        "strategy_id": request.strategy,
    }


def _cut(value: str) -> str:
    return value.encode("utf-8", "replace")[:MAX_ATTRIBUTE_BYTES].decode("utf-8", "ignore")
