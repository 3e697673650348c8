"""What is held, exactly, and what it has gained by our last execution in it; from values alone."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from execution_service.api.trades import parts_of
from execution_service.core.exact import EXACT
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.storage.ports.orders import Stored

_AVERAGE_PLACES = Decimal("1e-8")
_MONEY_PLACES = Decimal("0.01")


def holding_fields(entry: LedgerEntry, orders: Sequence[Stored]) -> dict[str, Any]:
    """Quantities are exact; an average is rounded to eight places, an amount of money to two. What is not known is null, never zero."""
    position = entry.position
    last = parts_of(entry.key.ledger_id, position.episode, orders).last_price
    worth = entry.money_per_point
    gain = None if last is None or worth is None else (last * position.quantity - position.cost) * worth
    average = position.average_price
    return {
        "account_id": entry.key.account_id,
        "strategy": entry.key.strategy,
        "symbol": entry.instrument.symbol,
        "instrument": entry.key.instrument_key,
        "side": "LONG" if position.is_long else "SHORT",
        "quantity": abs(position.quantity),
        "average_price": None if average is None else _rounded(average, _AVERAGE_PLACES),
        "last_price": last,
        "unrealized_pnl": None if gain is None else _rounded(gain, _MONEY_PLACES),
        "realized_pnl": _rounded(position.realized_pnl, _MONEY_PLACES),
        "currency": entry.currency,
        "opened_at": position.opened_at,
    }


def _rounded(value: Decimal, places: Decimal) -> Decimal:
    """Without zeros after the point that say nothing, but for money's two."""
    rounded = EXACT.quantize(value, places)
    return rounded if places == _MONEY_PLACES else _plain(rounded)


def _plain(value: Decimal) -> Decimal:
    whole = value == value.to_integral_value()
    return EXACT.quantize(value, Decimal(1)) if whole else value.normalize(EXACT)
