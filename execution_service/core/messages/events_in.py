"""Events of the systems around us -> order messages, hints, or what is wrong with them. How they arrive, and what follows, is decided
elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from types import MappingProxyType

from execution_service.core.messages.fields import (
    Fields,
    UnreadableMessage,
    object_of,
    shown,
    text_of,
    without_not_finite,
    written,
)
from execution_service.core.messages.inbound import Unusable

DECISION, INTENT = "ai.decision.made", "trade.intent"
TRIGGERS = (DECISION, INTENT)
"""What makes a trade by itself. One decision appears on both, so that one of them at most is listened to."""
MANUAL = "signal.execute"
HINTS_OF_THE_SPEC = ("ess.tripped", "policy.updated", "model.promoted")
"""Those that a topic of their own may be relied on for."""
HINTS = (*HINTS_OF_THE_SPEC, "ess.rearmed", "ess.manual_reset", "ess.state.changed", "policy.mode.changed")
"""What makes no trade: something elsewhere has changed, and may be asked for."""
NOT_REPEATABLE = "it has neither signal_id nor timestamp: the same message, sent again, would be another order"
DEFAULT_STRATEGY = "ai_decision"
MANUAL_STRATEGY = "manual"

_SMALLEST_UNIT = Decimal("1e-8")
"""Quantities are rounded down to this, before the broker's own lot is known."""
_MOST_UNITS = Decimal(10) ** 10
_PRICE = Context(prec=15)
_MOST_DISTANT = Decimal(50)
"""Percent of the entry price: a stop or a target further away than this was given in another unit."""
_NEAREST_PERCENT = Decimal("0.05")
"""Fewer percent than this are a fraction that was taken for percent."""
_MILLISECONDS_FROM = Decimal(10) ** 11
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

_SIDES = MappingProxyType(
    {"BUY": "BUY", "LONG": "BUY", "SELL": "SELL", "SHORT": "SELL", "HOLD": "HOLD", "NEUTRAL": "HOLD"}
)
_FLAGS = MappingProxyType({"TRUE": True, "1": True, "YES": True, "FALSE": False, "0": False, "NO": False})
_PAID_IN_COINS = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD")
"""What the names of coins that are traded against a dollar coin end with."""
_NAMED_IN_EVENTS = ("instrument_type", "secType", "exchange", "currency")
_NOT_OF_AN_ORDER = frozenset({"side", "price", "leverage", "metadata", "timestamp"})
_NAMED_IN_METADATA = ("signal_id", "account_id", "strategy_name", "strategy_id", "instrument_type", "exchange")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOrder:
    """An order in our own message dialect, with the whole event within it under `event`."""

    data: bytes
    decided_at: datetime | None
    """When the sender decided it, as the event says."""
    warning: str | None = None
    """What people should know, although the order can be executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Something has changed elsewhere. Its content is for the log: whoever needs to know asks."""

    event_type: str
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTrade:
    """A decision that nothing be traded."""

    reason: str


def entry_data(fields: Mapping[bytes, bytes]) -> bytes:
    """The event in an entry of a Redis stream, of any form that is written there: the JSON text in `payload` or in `data`, else the
    entry's own fields as one JSON object of texts. Never raises; what is no text makes bytes that are no message."""
    for name in (b"payload", b"data"):
        text = fields.get(name)
        if text is not None and text.strip():
            return text
    try:
        return json.dumps({name.decode(): text.decode() for name, text in fields.items()}).encode()
    except UnicodeDecodeError:
        return b"; ".join(name + b"=" + text for name, text in fields.items())


def read_event(
    event_type: str, data: bytes, *, account_id: str | None, message_id: str
) -> EventOrder | Hint | NoTrade | Unusable:
    """What the event means. `account_id`: where orders go that name no account. `message_id`: the transport's, for manual orders without an
    id and a time of their own. Never raises: everything that is wrong is in the result."""
    try:
        text = text_of(data)
        fields = Fields(object_of(text))
    except UnreadableMessage as exc:
        return Unusable(reason=f"{event_type}: {exc}")
    if event_type in HINTS:
        return Hint(event_type=event_type, summary=_summary(fields))
    if event_type == MANUAL:
        order, decided_at = _manual_order(fields, message_id), _moment(fields)
    elif event_type in TRIGGERS:
        side = _side(fields)
        if side == "HOLD":
            return NoTrade(reason=f"{event_type} {shown(fields.get('symbol'))}: hold")
        decided_at = _moment(fields)
        order = _decided_order(fields, side, decided_at)
    else:
        return Unusable(reason=f"{shown(event_type)} is no event that makes an order")
    if not any(order.get(name) for name in ("account_id", "account")):
        order["account_id"] = account_id
        if account_id is None:
            fields.problems.append("it names no account, and EVENTS_ACCOUNT is not set")
    if fields.problems:
        return Unusable(reason=f"{event_type}: {'; '.join(fields.problems)}")
    head = written({name: value for name, value in order.items() if value is not None} | {"event_type": event_type})
    is_repeatable = event_type != MANUAL or str(order["signal_id"]) != _derived_id("manual", message_id)
    return EventOrder(
        data=f'{head[:-1]},"event":{without_not_finite(text)}}}'.encode(),
        decided_at=decided_at,
        warning=None if is_repeatable else NOT_REPEATABLE,
    )


def _decided_order(fields: Fields, side: str | None, decided_at: datetime | None) -> dict[str, object]:
    symbol = _symbol(fields)
    is_exit = _flag(fields, "reduceOnly", "reduce_only")
    price = fields.positive("entry_price")
    size = fields.positive("position_size_usd")
    if not fields.has("position_size_usd"):
        fields.problems.append("position_size_usd is missing: `quantity` alone is an amount of dollars, or of units")
    if not fields.has("entry_price"):
        fields.problems.append("entry_price is missing: an amount of dollars cannot become a quantity")
    if decided_at is None and not fields.has("signal_id", "timestamp"):
        fields.problems.append("timestamp (or signal_id) is missing: a repetition could not be told from a new trade")
    quantity = _bought(fields, size, price)
    signal_id = fields.text("signal_id")
    if signal_id is None and None not in (symbol, side, decided_at):
        signal_id = _derived_id("ai", symbol, side, _utc(decided_at))
    return {
        "signal_id": signal_id,
        **_order_fields(fields, "account_id", "account"),
        "strategy_name": _strategy(fields) or DEFAULT_STRATEGY,
        "symbol": symbol,
        **_instrument(fields, symbol),
        "side": side,
        "quantity": quantity,
        "order_type": "MARKET",
        "price": price,
        "confidence": fields.get("confidence"),
        "signal_type": "EXIT" if is_exit else None,
        "stop_loss": _protection(fields, "stop_loss", price, side, is_beyond=False),
        "take_profit": _protection(fields, "take_profit", price, side, is_beyond=True),
    }


def _bought(fields: Fields, dollars: Decimal | None, price: Decimal | None) -> Decimal | None:
    if dollars is None or price is None:
        return None
    quotient = dollars / price
    quantity = quotient.quantize(_SMALLEST_UNIT, ROUND_DOWN) if quotient < _MOST_UNITS else None
    if not quantity:
        amount = "more than can be meant" if quantity is None else "nothing"
        fields.problems.append(f"position_size_usd {dollars:f} buys {amount} at entry_price {price:f}")
    return quantity


def _manual_order(fields: Fields, message_id: str) -> dict[str, object]:
    """From the body of `POST /api/execution/order`. With a price it is a limit order. What it says in the words of orders is kept."""
    symbol, side, price = _symbol(fields), _side(fields), fields.positive_or_absent("price")
    if side == "HOLD":
        fields.problems.append("side hold is no order")
    if not fields.has("side", "action"):
        fields.problems.append("side is missing")
    order: dict[str, object] = {
        name: value for name in fields.names if name not in _NOT_OF_AN_ORDER and (value := fields.get(name)) is not None
    }
    metadata = fields.get("metadata")
    if isinstance(metadata, dict):
        order = {name: metadata[name] for name in _NAMED_IN_METADATA if name in metadata} | order
    if not fields.has("order_type"):
        order["order_type"] = "LIMIT" if price is not None else "MARKET"
    if not any(order.get(name) for name in ("strategy_name", "strategy_id")):
        order["strategy_name"] = MANUAL_STRATEGY
    if order.get("signal_id") is None:
        at = fields.get("timestamp")
        marks = (symbol, side, str(fields.get("quantity")), str(price), str(at))
        order["signal_id"] = _derived_id("manual", message_id) if at is None else _derived_id("manual", *marks)
    order.pop("action", None)
    return {**_instrument(fields, symbol), **order, "symbol": symbol, "side": side, "price": price}


def _order_fields(fields: Fields, *names: str) -> dict[str, object]:
    return {name: fields.get(name) for name in names if fields.has(name)}


def _symbol(fields: Fields) -> str | None:
    symbol = fields.text("symbol")
    if symbol is None:
        if not fields.has("symbol"):
            fields.problems.append("symbol is missing")
        return None
    return symbol.strip().upper()


def _instrument(fields: Fields, symbol: str | None) -> dict[str, object]:
    """What the event says of the instrument. A pair against a dollar coin is a coin's; of anything else nothing is assumed."""
    named = _order_fields(fields, *_NAMED_IN_EVENTS)
    is_coin = symbol is not None and any(symbol.endswith(coin) and symbol != coin for coin in _PAID_IN_COINS)
    if is_coin and not fields.has("instrument_type", "secType"):
        named["instrument_type"] = "CRYPTO"
    return named


def _side(fields: Fields) -> str | None:
    """BUY, SELL or HOLD, or None. `action` says what is done, and `side` may beside it name the position: they contradict each other only
    where something is opened."""
    action, side = fields.word("action", _SIDES), fields.word("side", _SIDES)
    if not fields.has("action", "side"):
        fields.problems.append("side (or action) is missing")
    is_of_position = str(fields.get("side")).strip().upper() in ("LONG", "SHORT")
    if action and side and action != side and not (is_of_position and _flag(fields, "reduceOnly", "reduce_only")):
        fields.contradiction("action", "side")
    return action or side


def _flag(fields: Fields, *names: str) -> bool:
    for name in names:
        value = fields.get(name)
        if isinstance(value, bool):
            return value
        if value is not None:
            word = _FLAGS.get(str(value).strip().upper()) if isinstance(value, str) else None
            if word is not None:
                return word
            fields.wrong(name, "true or false")
    return False


def _strategy(fields: Fields) -> str | None:
    return fields.text("strategy_name") or fields.text("strategy_id") or fields.text("strategy")


def _protection(
    fields: Fields, name: str, price: Decimal | None, side: str | None, *, is_beyond: bool
) -> Decimal | None:
    """The price of a stop or target. `is_beyond`: it lies where the trade wins."""
    given = fields.positive_or_absent(name)
    percent = fields.positive_or_absent(f"{name}_pct")
    if fields.has("intent_type"):
        given, percent = None, given if percent is None else percent
    if price is None or side is None:
        return None
    if given is None and percent is None:
        return None
    if given is None and percent is not None:
        if percent < _NEAREST_PERCENT or percent > _MOST_DISTANT:
            fields.problems.append(f"{name} of {percent} percent is no distance: is it a fraction, or a price?")
            return None
        sign = 1 if (side == "BUY") is is_beyond else -1
        return _PRICE.plus(price * (100 + sign * percent) / 100).normalize()
    assert given is not None
    if abs(given - price) * 100 > price * _MOST_DISTANT:
        fields.problems.append(f"{name} {given} is more than {_MOST_DISTANT} percent away from entry_price {price}")
        return None
    return given


def _moment(fields: Fields) -> datetime | None:
    """The event's `timestamp`: ISO 8601, UTC where it names no zone, or seconds or milliseconds since 1970."""
    value = fields.get("timestamp")
    if value is None:
        return None
    moment = None
    if isinstance(value, str):
        moment = _iso(value.strip())
        if moment is None and (seconds := Fields({"timestamp": value}).number("timestamp")) is not None:
            seconds = seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds
            if 0 < seconds < _MILLISECONDS_FROM:
                moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(seconds * 1_000_000))
    if moment is None or not _EARLIEST <= moment <= _LATEST:
        fields.wrong("timestamp", "ISO 8601, or seconds since 1970")
        return None
    return moment


def _iso(text: str) -> datetime | None:
    if len(text) < len("2025-01-01T00"):
        return None  # a date alone says no moment, and digits alone are seconds
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _utc(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def _derived_id(kind: str, *marks: str | None) -> str:
    """The same for the same content, however often and by whichever way it comes."""
    text = "|".join(f"{len(mark)}:{mark}" for mark in map(str, marks))
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def _summary(fields: Fields) -> str:
    told = ("reason", "state", "new_state", "key", "new_value", "new_mode", "model_type", "new_version")
    return ", ".join(f"{name} {shown(fields.get(name))}" for name in told if fields.has(name))
