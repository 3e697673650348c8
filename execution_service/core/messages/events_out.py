"""An order after an event -> the events that are published about it. Whether, where and when they are published is decided elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

from brokers.base import Fill
from execution_service.core.messages.confirmation import json_number
from execution_service.core.messages.fields import Fields, UnreadableMessage, object_of
from execution_service.core.orders.effects import AppliedEvent
from execution_service.core.orders.events import Busted, CommissionReported, Completed, Filled
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectiveRole
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.positions.ledger import Held, LedgerEntry, Line, key_of

ORDER_PLACED, ORDER_FILLED, ORDER_FAILED = "order.placed", "order.filled", "order.failed"
TRADE_OPENED, TRADE_CLOSED, POSITION_UPDATED = "trade.opened", "trade.closed", "position.updated"
EXECUTION_RESULT = "execution.result"
EVENTS_OUT = (ORDER_PLACED, ORDER_FILLED, ORDER_FAILED, TRADE_OPENED, TRADE_CLOSED, POSITION_UPDATED)
SOURCE = "execution"

_AT_THE_VENUE = frozenset({Status.SUBMITTED, Status.PARTIALLY_FILLED, Status.FILLED})
_FAILED = frozenset({Status.REJECTED, Status.CANCELLED, Status.EXPIRED})
_ASKED_FOR = frozenset({ReasonCode.CANCEL_REQUESTED, ReasonCode.RESOLVED_BY_PERSON})
_DOLLARS = ("USD", "USDT", "USDC", "BUSD", "FDUSD", "TUSD")
_FACTS = ("confidence", "model", "strategy", "meta_strategy", "regime", "cluster", "leverage")
_NUMBERS = frozenset({"confidence", "leverage"})

Body = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutEvent:
    """Something that happened, for others. `body` is plain JSON: text, numbers and booleans; null nowhere but in a mark that is not known."""

    event_type: str
    event_id: str
    """Derived from order and event: the same each time it is published."""
    signal_id: str
    number: int
    """The number of the order's event that it tells of; 0: of none."""
    timestamp: str
    """As the envelope of a Redis entry has it: UTC without a zone; of `execution.result` whole seconds since 1970, which its readers
    count with."""
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where the market stands in an instrument, who says so, and since when."""

    price: Decimal
    source: str
    at: datetime


def marked_position(entry: LedgerEntry, mark: Mark | None, at: datetime) -> OutEvent:
    """An open position as it stood at this moment, with what the market says; `mark` None: no price of it is known now, which is said by null.
    Each is an event of its own: of several the latest `timestamp` counts."""
    position, worth = entry.position, entry.money_per_point
    moment, ledger_id = at.astimezone(UTC), entry.key.ledger_id
    event_id = f"{ledger_id}-{int(moment.timestamp() * 1000)}:{POSITION_UPDATED}"
    profit = None if mark is None or worth is None else (position.quantity * mark.price - position.cost) * worth
    known: Body = {
        "event_type": POSITION_UPDATED,
        "event_id": event_id,
        "account_id": entry.key.account_id,
        "strategy_id": entry.key.strategy,
        "timestamp": _iso(moment),
        "source": SOURCE,
        "trade_id": _trade_of(ledger_id, position.episode),
        "symbol": entry.instrument.symbol,
        "side": _side(position.quantity),
        "quantity": json_number(abs(position.quantity)),
        "entry_price": _price(position.average_price),
        "realized_pnl": None if worth is None else json_number(position.realized_pnl),
        "is_open": True,
        "currency": entry.currency,
    }
    marked: Body = {
        "is_mark": True,
        "mark": None if mark is None else _price(mark.price),
        "mark_source": None if mark is None else mark.source,
        "mark_at": None if mark is None else _iso(mark.at.astimezone(UTC)),
        "current_price": None if mark is None else _price(mark.price),
        "unrealized_pnl": json_number(profit),
    }
    return OutEvent(
        event_type=POSITION_UPDATED,
        event_id=event_id,
        signal_id="",
        number=0,
        timestamp=_iso(moment).removesuffix("+00:00"),
        body={name: value for name, value in known.items() if value is not None} | marked,
    )


def events_of(applied: AppliedEvent, line: Line | None, lines: Mapping[int, Line], *, broker: str) -> list[OutEvent]:
    """In the sequence in which they happened. `line` is the ledger's for this event, where it moves a position; `lines` are all of this order
    up to now."""
    order = applied.after
    told: list[tuple[str, Body]] = []
    if order.adoption is None:
        told += _about_order(applied, broker)
    if line is not None and line.held is not None and applied.moves_position:
        told += _about_position(applied, line, line.held, lines)
    if order.adoption is None and (result := _execution_result(applied, line)) is not None:
        told.append((EXECUTION_RESULT, result))
    return [_event(applied, event_type, body) for event_type, body in told]


def payload_json(event: OutEvent) -> bytes:
    """The body as compact UTF-8 JSON."""
    text = json.dumps(event.body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def stream_entry(event: OutEvent) -> dict[str, bytes]:
    """The fields of an entry in a Redis stream, for readers of either kind: those that parse `payload`, and those that take each field by
    itself. The names of the envelope are the envelope's."""
    flat = {name: _flat(value) for name, value in event.body.items() if value is not None}
    envelope = {
        "event_type": event.event_type.encode(),
        "payload": payload_json(event),
        "trace_id": b"",
        "correlation_id": event.event_id.encode(),
        "timestamp": event.timestamp.encode(),
        "source": SOURCE.encode(),
    }
    return {**flat, **envelope}


def _flat(value: object) -> bytes:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.encode("utf-8", "backslashreplace")


def _event(applied: AppliedEvent, event_type: str, body: Body) -> OutEvent:
    order, at = applied.after, applied.event.at.astimezone(UTC)
    event_id = f"{order.order_id}-{applied.number}:{event_type}"
    is_result = event_type == EXECUTION_RESULT
    common: Body = {
        "event_type": event_type,
        "event_id": event_id,
        "signal_id": order.signal_id,
        "account_id": order.request.account_id,
        "strategy_id": order.request.strategy,
        "timestamp": int(at.timestamp()) if is_result else _iso(at),
        "source": SOURCE,
    }
    known = {name: value for name, value in {**common, **body}.items() if value is not None}
    return OutEvent(
        event_type=event_type,
        event_id=event_id,
        signal_id=order.signal_id,
        number=applied.number,
        timestamp=str(int(at.timestamp())) if is_result else _iso(at).removesuffix("+00:00"),
        body=known,
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


# --- orders ---------------------------------------------------------------------------------------------------------


def _about_order(applied: AppliedEvent, broker: str) -> list[tuple[str, Body]]:
    before, order = applied.before, applied.after
    told: list[tuple[str, Body]] = []
    if order.status in _AT_THE_VENUE and before.status not in _AT_THE_VENUE and not before.status.is_final:
        told.append((ORDER_PLACED, _placed(order, broker)))
    if order.status is Status.FILLED and before.status is not Status.FILLED:
        filled: Body = {"filled_quantity": json_number(order.filled_quantity), "price": _price(order.average_price)}
        told.append((ORDER_FILLED, {**_order_body(order, broker), "status": "FILLED", **filled}))
    if order.status in _FAILED and not before.status.is_final and not _is_asked_for(order):
        told.append((ORDER_FAILED, _failed(order, broker)))
    return told


def _is_asked_for(order: Order) -> bool:
    """Somebody wanted it to end so: nothing failed."""
    return order.reason is not None and order.reason.code in _ASKED_FOR


def _placed(order: Order, broker: str) -> Body:
    return {**_order_body(order, broker), "status": "NEW", "price": _price(_own_price(order))}


def _failed(order: Order, broker: str) -> Body:
    reason = order.reason
    return {
        **_order_body(order, broker),
        "status": order.status.value,
        "reason": order.status.value if reason is None else reason.message,
        "reason_code": None if reason is None else reason.code.value,
        "filled_quantity": json_number(order.filled_quantity),
    }


def _order_body(order: Order, broker: str) -> Body:
    request = order.request
    return {
        "order_id": order.broker_order_id or order.client_order_id,
        "client_order_id": order.client_order_id,
        "symbol": order.symbol,
        "side": None if request.side is None else request.side.value,
        "order_type": None if request.order_type is None else request.order_type.value,
        "quantity": json_number(order.quantity),
        "broker": broker,
    }


def _own_price(order: Order) -> Decimal | None:
    if order.limit_price is not None or order.stop_price is not None:
        return order.limit_price if order.limit_price is not None else order.stop_price
    return getattr(order.request, "reference_price", None)


def _execution_result(applied: AppliedEvent, line: Line | None) -> Body | None:
    """What became of the order, one for each fill: their `qty` add up to what was filled."""
    order, event = applied.after, applied.event
    if not applied.is_published or isinstance(event, CommissionReported):
        return None
    body = _order_body(order, "")
    del body["broker"]
    fill = _moved(applied)
    quantity = Decimal(0) if fill is None else fill.quantity
    price = order.average_price if fill is None else fill.price
    request = order.request
    facts = _facts(order.raw)
    return {
        **facts,
        **body,
        "trade_id": order.order_id if line is None else _trade_id(order, line.episode),
        "status": _result_status(applied),
        "qty": json_number(quantity),
        "price": _price(price),
        "entry_price": _price(price) if order.identity.purpose is Purpose.ENTRY else None,
        "stop_loss": _price(getattr(request, "stop_loss", None)),
        "take_profit": _price(getattr(request, "take_profit", None)),
        "filled_quantity": json_number(order.filled_quantity),
        "realized_pnl": None if line is None or order.money_per_point is None else json_number(line.realized),
        "reason": None if order.reason is None else order.reason.message,
        "time": _iso(event.at.astimezone(UTC)),
    }


def _result_status(applied: AppliedEvent) -> str:
    match applied.event:
        case Filled() | Completed():
            return "FILLED" if applied.after.status is Status.FILLED else "PARTIAL"
        case Busted():
            return "BUSTED"
    return applied.after.status.value


# --- positions and trades -------------------------------------------------------------------------------------------


def _about_position(
    applied: AppliedEvent, line: Line, held: Held, lines: Mapping[int, Line]
) -> Sequence[tuple[str, Body]]:
    """A trade lasts from flat to flat; a fill that turns the position ends one and begins the next."""
    order, fill = applied.after, _moved(applied)
    if fill is None:
        return []
    change = fill.quantity * order.accepted_request.side.sign
    before = held.quantity + change if isinstance(applied.event, Busted) else held.quantity - change
    has_crossed = before * held.quantity <= 0
    told: list[tuple[str, Body]] = []
    if before and has_crossed:
        told.append((TRADE_CLOSED, _closed(applied, line, held, lines, before=before)))
    if held.quantity and has_crossed:
        told.append((TRADE_OPENED, _opened(order, line, held)))
    told.append((POSITION_UPDATED, _position(order, line, held, fill, before=before)))
    if isinstance(applied.event, Busted):
        for _, body in told:
            body["correction"] = True
    return told


def _moved(applied: AppliedEvent) -> Fill | None:
    """The fill that was booked, or annulled."""
    match applied.event:
        case Filled(fill=fill):
            return fill
        case Busted(fill_id=fill_id):
            return applied.before.fill_of(fill_id)
    return None


def _opened(order: Order, line: Line, held: Held) -> Body:
    request, facts = order.accepted_request, _facts(order.raw)
    return {
        "leverage": 1,
        **facts,
        "trade_id": _trade_id(order, line.episode),
        "order_id": order.broker_order_id or order.client_order_id,
        "symbol": order.symbol,
        "side": _side(held.quantity),
        "quantity": json_number(abs(held.quantity)),
        "entry_price": _price(held.cost / held.quantity),
        "stop_loss": _price(request.stop_loss),
        "take_profit": _price(request.take_profit),
    }


def _closed(applied: AppliedEvent, line: Line, held: Held, lines: Mapping[int, Line], *, before: Decimal) -> Body:
    """Quantity and exit price are those of the order that ended the trade; the profit is the whole trade's."""
    order = applied.after
    episode = line.episode - 1 if held.quantity else line.episode
    is_long, worth = before > 0, order.money_per_point
    fill = _moved(applied)
    assert fill is not None
    quantity, exit_price, entry_price = abs(before), fill.price, fill.price
    if isinstance(applied.event, Filled):
        quantity, exit_price = _exit_of(order, applied.number, lines, episode)
        if worth is not None and line.closed:
            per_unit = line.realized / worth / line.closed
            entry_price = fill.price - per_unit if is_long else fill.price + per_unit
    pnl = None if worth is None else json_number(held.realized)
    gained = exit_price - entry_price if is_long else entry_price - exit_price
    percent = None if worth is None or not entry_price else json_number(round(gained * 100 / abs(entry_price), 6))
    currency = _currency(order)
    return {
        **_facts(order.raw),
        "trade_id": _trade_id(order, episode),
        "order_id": order.broker_order_id or order.client_order_id,
        "symbol": order.symbol,
        "side": _side(before),
        "quantity": json_number(quantity),
        "entry_price": _price(entry_price) if worth is not None else None,
        "exit_price": _price(exit_price),
        "pnl": pnl,
        "realized_pnl": pnl,
        "realizedPnl": pnl,
        "pnl_usd": pnl if _is_in_dollars(currency, order.symbol) else None,
        "pnl_percent": percent,
        "pnl_pct": percent,
        "currency": currency,
        "exit_fee": json_number(order.commission) if order.commission_currency is not None else None,
        "r_multiple": _r_multiple(order, gained, entry_price) if worth is not None else None,
        "reason": "busted" if isinstance(applied.event, Busted) else _why_closed(order),
    }


def _why_closed(order: Order) -> str:
    if order.adoption is not None:
        return order.adoption.occasion.value
    own = order.protective
    if own is None or own.role is ProtectiveRole.CLOSE:
        return order.identity.purpose.value.lower()
    return "stop_loss" if own.role is ProtectiveRole.STOP else "take_profit"


def _r_multiple(order: Order, gained: Decimal, entry_price: Decimal) -> int | float | None:
    """What each unit gained, in units of what it risked; None: the order that closed the trade does not know of a stop."""
    stop = None if order.protective is None else order.protective.stop_loss
    risked = None if stop is None else abs(entry_price - stop)
    return json_number(round(gained / risked, 4)) if risked else None


def _exit_of(order: Order, until: int, lines: Mapping[int, Line], episode: int) -> tuple[Decimal, Decimal]:
    """How much of the trade this order has closed, and at which average price."""
    quantity = paid = Decimal(0)
    for number, line in lines.items():
        event = order.events[number - 1] if number <= until else None
        if isinstance(event, Filled) and line.closed and episode in (line.episode, line.episode - 1):
            quantity += line.closed
            paid += line.closed * event.fill.price
    return quantity, paid / quantity


def _position(order: Order, line: Line, held: Held, fill: Fill, *, before: Decimal) -> Body:
    """`current_price` is the price of this fill: the service has no other."""
    worth = order.money_per_point
    unrealized = None if worth is None else (held.quantity * fill.price - held.cost) * worth
    return {
        "trade_id": _trade_id(order, line.episode),
        "symbol": order.symbol,
        "side": _side(held.quantity or before),
        "quantity": json_number(abs(held.quantity)),
        "entry_price": _price(held.cost / held.quantity if held.quantity else fill.price),
        "current_price": _price(fill.price),
        "unrealized_pnl": json_number(unrealized),
        "realized_pnl": None if worth is None else json_number(held.realized),
        "is_open": bool(held.quantity),
        "currency": _currency(order),
    }


def _trade_id(order: Order, episode: int) -> str:
    return _trade_of(key_of(order).ledger_id, episode)


def _trade_of(ledger_id: str, episode: int) -> str:
    """The `_id` of the trade's document in `positions`."""
    return f"pos_{ledger_id.removeprefix('led_')}_{episode}"


def _side(quantity: Decimal) -> str:
    return "LONG" if quantity > 0 else "SHORT"


def _currency(order: Order) -> str | None:
    named = None if order.instrument is None else order.instrument.currency
    return named if order.terms is None else order.terms.currency or named


def _is_in_dollars(currency: str | None, symbol: str | None) -> bool:
    if currency is not None:
        return currency in _DOLLARS
    return symbol is not None and symbol.endswith(_DOLLARS)


def _price(value: Decimal | None) -> int | float | None:
    return json_number(value)


@lru_cache(maxsize=256)
def _facts(raw: str) -> Mapping[str, object]:
    """What the decision behind the order says of itself, where an event brought the order."""
    if '"event":' not in raw:
        return MappingProxyType({})
    try:
        event = object_of(raw).get("event")
    except UnreadableMessage:
        return MappingProxyType({})
    fields = Fields(event if isinstance(event, dict) else {})
    read: dict[str, object] = {}
    for name in _FACTS:
        value = json_number(fields.number(name)) if name in _NUMBERS else fields.text(name)
        if value is not None:
            read[name] = value
    return MappingProxyType(read)
