"""What any message may and may not become: a second, deliberately naive reading beside which every answer of the parser is held."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import bson
from bson.codec_options import CodecOptions

from brokers.base import AssetClass, OrderType
from execution_service.core.messages.confirmation import attributes, confirmation_json
from execution_service.core.messages.inbound import (
    CancelCommand,
    ParsedOrder,
    RefusedCommand,
    Unusable,
    parse_command,
    parse_order,
)
from execution_service.core.orders.events import Rejected
from execution_service.core.orders.order import Order, apply, new_order
from execution_service.core.orders.request import Identity, OrderRequest, Purpose, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.views.record import order_from_document, order_to_document

NOW = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)
_TZ_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


class MeaningChanged(AssertionError):
    """An order came out that is not what the message says."""


def check_order(data: bytes) -> str:
    """Which of the declared outcomes it is: `order`, `refusal` or `dead letter`. Raises AssertionError for anything else."""
    answer = parse_order(data)
    if isinstance(answer, Unusable):
        _demand(bool(answer.reason) and answer.reason.isprintable(), "a dead letter has one line of reason")
        return "dead letter"
    _demand(isinstance(answer, ParsedOrder), "an order, a refusal or a dead letter")
    identity = answer.identity
    _demand(identity.signal_id.isprintable() and 1 <= len(identity.signal_id) <= 256, "a usable signal id")
    order = new_order(identity, answer.request, received_at=NOW, published_at=NOW, message_id="m", raw=answer.raw)
    if answer.problems:
        _demand(isinstance(answer.request, RefusedRequest), "problems make a refusal")
        _demand(all(p.isprintable() and len(p) < 400 for p in answer.problems), "problems are short lines")
        _check_record(order)
        reason = Reason(ReasonCode.INVALID_ORDER, "; ".join(answer.problems))
        _check_record(apply(order, Rejected(at=NOW, reason=reason)))
        return "refusal"
    assert isinstance(answer.request, OrderRequest)
    _check_meaning(data, identity, answer.request)
    _check_record(order)
    return "order"


def check_command(data: bytes) -> str:
    """As `check_order`: `cancel`, `refusal` or `dead letter`."""
    answer = parse_command(data)
    if isinstance(answer, Unusable):
        _demand(bool(answer.reason) and answer.reason.isprintable(), "a dead letter has one line of reason")
        return "dead letter"
    if isinstance(answer, RefusedCommand):
        _demand(bool(answer.reason) and answer.reason.isprintable(), "a refusal has one line of reason")
        return "refusal"
    _demand(isinstance(answer, CancelCommand), "a cancel, a refusal or a dead letter")
    said = _naive(data)
    _same("command", str(said["command"]).strip().upper(), "CANCEL")
    _same("order_id", answer.order_id, _text(said.get("order_id")))
    _same("signal_id", answer.signal_id, _text(said.get("signal_id")))
    _demand(answer.order_id is not None or answer.signal_id is not None, "a cancel names something")
    leg = _number(said.get("leg_index"))
    _same("leg_index", answer.leg_index, None if leg is None else int(leg))
    _demand(answer.reason.isprintable() and len(answer.reason) <= 1000, "a reason of one line")
    return "cancel"


# --- the naive reading ------------------------------------------------------------------------------------------------


def _naive(data: bytes) -> dict[str, Any]:
    """A plain `json.loads`, numbers exact, names that stand twice noticed."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            found["\0twice"] = True
        return found

    said = json.loads(data.decode("utf-8"), parse_float=_exact, parse_int=_exact, object_pairs_hook=unique)
    _demand(isinstance(said, dict), "only an object is an order")
    _demand("\0twice" not in said, "a name that stands twice is refused")
    return said


def _exact(words: str) -> Decimal:
    """NaN, which is equal to nothing, where the exponent is beyond all decimals: whoever reads such a field must not have taken it."""
    try:
        return Decimal(words)
    except InvalidOperation:
        return Decimal("NaN")


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, Decimal):
        _demand(value == value.to_integral_value(), "a number that serves as text is a whole one")
        return str(int(value))
    _demand(isinstance(value, str), "text is text")
    return str(value)


def _word(value: Any) -> str | None:
    text = _text(value)
    return None if text is None else text.strip().upper().replace("-", "_").replace(" ", "_")


def _number(value: Any) -> Decimal | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    _demand(isinstance(value, Decimal | str), "a number is a number")
    return Decimal(value.strip()) if isinstance(value, str) else value


def _check_meaning(data: bytes, identity: Identity, request: OrderRequest) -> None:
    said = _naive(data)
    _same("signal_id", identity.signal_id, _text(said["signal_id"]))
    _same("leg_index", Decimal(identity.leg_index), _number(said.get("leg_index")) or Decimal(0))
    _same("quantity", request.quantity, _number(said.get("quantity")))
    _demand(request.quantity > 0, "a quantity above zero")
    for name in ("account_id", "account"):
        if _text(said.get(name)) is not None:
            _same(name, request.account_id, _text(said[name]))
    for name in ("strategy_name", "strategy_id"):
        if _text(said.get(name)) is not None:
            _same(name, request.strategy, _text(said[name]))
    for name in ("symbol", "instrument"):
        if _text(said.get(name)) is not None:
            symbol = (_text(said[name]) or "").strip().upper()
            if request.instrument.asset_class is AssetClass.FOREX:
                symbol = "".join(c for c in symbol if c.isalpha())
            _same(name, request.instrument.symbol, symbol)
    _check_side(said, identity, request)
    _check_prices(said, request)
    for name, kept in (
        ("exchange", request.instrument.exchange),
        ("currency", request.instrument.currency),
    ):
        given = _text(said.get(name))
        _same(name, kept, None if given is None else given.strip().upper())
    for name, amount in (
        ("strike", request.instrument.strike),
        ("multiplier", request.instrument.multiplier),
        ("stop_loss", request.stop_loss),
        ("take_profit", request.take_profit),
    ):
        _same(name, amount, _number(said.get(name)) or None)
    _same("timeout_seconds", request.timeout_seconds, _number(said.get("timeout_seconds")))
    _same("tif", None if request.tif is None else request.tif.value, _word(said.get("tif")))
    _same("product", request.product, _word(said.get("product")))
    right = _word(said.get("right"))
    _same("right", None if request.instrument.right is None else request.instrument.right.value[0], right and right[0])


def _check_side(said: dict[str, Any], identity: Identity, request: OrderRequest) -> None:
    side, action, direction = (_word(said.get(name)) for name in ("side", "action", "direction"))
    _demand(side is not None or action is not None or direction is not None, "something tells the side")
    buys = request.side.value == "BUY"
    if side is not None:
        _same("side", buys, side == "BUY")
    if action in ("BUY", "SELL"):
        _same("action", buys, action == "BUY")
    if direction is not None:
        _same("direction", buys, (direction == "LONG") != (action == "EXIT"))
    signal_type = _text(said.get("signal_type"))
    kind = None if signal_type is None else signal_type.strip().upper()
    closes = kind in ("EXIT", "SCALE_OUT") or (kind is None and action == "EXIT")
    _same("purpose", identity.purpose is Purpose.EXIT, closes)


def _check_prices(said: dict[str, Any], request: OrderRequest) -> None:
    order_type = _word(said.get("order_type"))
    price, limit, stop = (_number(said.get(name)) for name in ("price", "limit_price", "stop_price"))
    _same("order_type", request.order_type.value, order_type or "MARKET")
    if order_type is None:
        _demand(not limit and not stop, "without a type a price is a contradiction")
    uses_limit = request.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
    uses_stop = request.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
    _same("limit_price", request.limit_price, (price if limit is None else limit) if uses_limit else None)
    own_stop = price if stop is None and request.order_type is OrderType.STOP else stop
    _same("stop_price", request.stop_price, own_stop if uses_stop else None)
    _demand(request.limit_price is None or request.limit_price > 0, "a limit above zero")
    _demand(request.stop_price is None or request.stop_price > 0, "a stop above zero")


# --- what is kept and told ----------------------------------------------------------------------------------------------


def _check_record(order: Order) -> None:
    """The record comes back from the store's own bytes as it was, and what is told of it is one JSON object."""
    stored = bson.decode(bson.encode(order_to_document(order)), codec_options=_TZ_AWARE)
    _same("record", order_from_document(stored), order)
    if order.events:
        told = confirmation_json(order, event=order.events[-1], broker="MOCK", realized_pnl=None, correction=False)
        _demand(b"\n" not in told, "a confirmation is one line")
        body = json.loads(told, parse_constant=_refuse_constant)
        _same("told signal_id", body["signal_id"], order.signal_id)
        _demand(all(len(value.encode()) <= 1024 for value in attributes(order).values()), "attributes within limits")


def _refuse_constant(token: str) -> object:
    raise MeaningChanged(f"{token} is no JSON")


def _same(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise MeaningChanged(f"{what}: {ours!r} was read where the message says {theirs!r}")


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise MeaningChanged(f"it must be {what}")
