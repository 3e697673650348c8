"""Orders, facts and limits of the risk gate with sensible defaults; no assertions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from brokers.base import Instrument, OrderType, Side
from execution_service.core.orders.order import Order
from execution_service.core.risk.counters import Counters
from execution_service.core.risk.exposure import Holding, Reservation
from execution_service.core.risk.gate import Facts, Reading
from execution_service.core.risk.kill import KillState
from execution_service.core.risk.limits import LimitSet, RiskLimits, Scope, combined
from execution_service.core.risk.prices import PriceSource, ReferencePrice
from tests.builders import NOW, Amount, amount, identity, order

ACCOUNT, STRATEGY, SYMBOL = "acct-1", "momentum", "AAPL"
WHERE = Scope(account_id=ACCOUNT, strategy=STRATEGY, symbol=SYMBOL)
KEY = Instrument(symbol=SYMBOL).key


def written(**limits: Any) -> RiskLimits:
    """Limits that stand in [defaults]."""
    return tables((Scope(), limits))


def tables(*some: tuple[Scope, dict[str, Any]]) -> RiskLimits:
    return combined((scope, LimitSet(**{key: _value(each) for key, each in limits.items()})) for scope, limits in some)


def _value(value: Any) -> Any:
    return Decimal(value) if isinstance(value, str | int) and not isinstance(value, bool | Enum) else value


def buying(quantity: Amount = 100, *, signal_id: str = "signal-1", **changes: Any) -> Order:
    """To buy AAPL at the market."""
    return order(of=identity(signal_id), quantity=quantity, **changes)


def selling(quantity: Amount = 100, **changes: Any) -> Order:
    return buying(quantity, side=Side.SELL, **changes)


def limited(quantity: Amount = 100, price: Amount = 10, side: Side = Side.BUY, **changes: Any) -> Order:
    return buying(quantity, side=side, order_type=OrderType.LIMIT, limit_price=amount(price), **changes)


def quote(price: Amount = 10, at: datetime = NOW, source: PriceSource = PriceSource.QUOTE) -> ReferencePrice:
    return ReferencePrice(price=amount(price), source=source, at=at)


def holding(quantity: Amount | None = 0, *, price: Amount | None = 10, **changes: Any) -> Holding:
    usual = Holding(
        strategy=STRATEGY,
        instrument_key=KEY,
        symbol=SYMBOL,
        quantity=None if quantity is None else amount(quantity),
        unit_value=None if price is None else amount(price),
    )
    return replace(usual, **changes)


def works(
    quantity: Amount = 100, side: Side = Side.BUY, *, price: Amount | None = 10, name: str = "ord_other", **changes: Any
) -> Reservation:
    usual = Reservation(
        order_id=name,
        strategy=STRATEGY,
        instrument_key=KEY,
        symbol=SYMBOL,
        side=side,
        quantity=amount(quantity),
        unit_value=None if price is None else amount(price),
        is_exit=False,
        at=NOW,
    )
    return replace(usual, **changes)


def facts(*, holdings: Iterable[Holding] | None = (), working: Iterable[Reservation] = (), **changes: Any) -> Facts:
    """An armed switch, a fresh price of 10, an account in dollars with plenty of money, nothing held or working."""
    usual = Facts(
        now=NOW,
        zone=UTC,
        account_currency="USD",
        order_currency="USD",
        holdings=None if holdings is None else tuple(holdings),
        working=tuple(working),
        counters=Counters(account_id=ACCOUNT),
        kill=KillState(),
        prices=(quote(),),
        equity=Reading(value=Decimal(1_000_000), at=NOW),
        buying_power=Reading(value=Decimal(1_000_000), at=NOW),
    )
    return replace(usual, **changes)
