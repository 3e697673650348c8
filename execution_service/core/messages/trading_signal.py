"""A `TradingSignal`, as programs of spec 000 hand it over by a call, as the fields of an order message; nothing is made up."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

ACTIONS: Mapping[str, str] = {"BUY": "BUY", "SELL": "SELL"}
CLOSING: Mapping[str, str] = {"CLOSE_LONG": "SELL", "CLOSE_SHORT": "BUY"}
NO_ORDER = "HOLD"
_FROM_METADATA = (
    "account_id",
    "quantity",
    "price",
    "exchange",
    "currency",
    "instrument_type",
    "entry_signal_id",
    "timeout_seconds",
)


def fields_of_signal(signal: object, *, account_id: str | None) -> dict[str, object] | None:
    """None: it asks for no order (`hold`). An order at the market; `stop_loss_price` and `target_price` are its protection and never its prices.
    Without a quantity in `metadata` it is sized by its stop. A close is an exit, which needs a quantity. `account_id`: where it goes if `metadata`
    names none.

    Raises ValueError for an action that is none.
    """
    action = str(_get(signal, "action")).strip().upper()
    if action == NO_ORDER:
        return None
    side = ACTIONS.get(action) or CLOSING.get(action)
    if side is None:
        raise ValueError(f"action must be buy, sell, hold, close_long or close_short, not {action[:40]}")
    metadata = _get(signal, "metadata")
    more = {name: metadata.get(name) for name in _FROM_METADATA} if isinstance(metadata, Mapping) else {}
    source = _get(signal, "source")
    fields: dict[str, object] = {
        "signal_id": _get(signal, "signal_id"),
        "account_id": account_id,
        "strategy_name": source if isinstance(source, str) and source.strip() else "signals",
        "symbol": _get(signal, "symbol"),
        "side": side,
        "order_type": "MARKET",
        "signal_type": "EXIT" if action in CLOSING else None,
        "stop_loss": _get(signal, "stop_loss_price"),
        "take_profit": _get(signal, "target_price"),
        "confidence": _get(signal, "confidence"),
        **{name: value for name, value in more.items() if value is not None},
    }
    return {name: value for name, value in fields.items() if value is not None}


def _get(signal: object, name: str) -> object:
    """Of a mapping or of an object with attributes; what is an Enum counts by its value."""
    value = signal.get(name) if isinstance(signal, Mapping) else getattr(signal, name, None)
    return value.value if isinstance(value, Enum) else value
