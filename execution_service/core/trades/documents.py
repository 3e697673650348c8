"""Rows of `trades` as documents and back: doubles for readers who calculate, and beside them the exact amounts as text. No database."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from brokers.base import Side
from execution_service.core.codec import read_decimal, read_moment, read_text, read_whole
from execution_service.core.errors import UnreadableRecord
from execution_service.core.exact import ZERO
from execution_service.core.orders.request import DecisionIds
from execution_service.core.trades.rows import TradeKind, TradeRow

FIRST_COLUMNS = (
    *("trade_id", "timestamp", "ticker", "direction", "size", "price", "order_id", "strategy_id"),
    *("profile_version_id", "regime_id", "universe_id", "decision_id"),
)
"""In this order, in documents and in every export."""
UNSUMMED, SUMMED_DIGITS = "unsummed", 34
"""The mark of a row with an amount that has more digits than a server adds up exactly, and that number."""


def trade_to_document(row: TradeRow) -> dict[str, Any]:
    """Without what is None, but for the first columns."""
    decision, value = row.decision, row.value
    document: dict[str, Any] = {
        "trade_id": row.trade_id,
        "timestamp": row.at,
        "ticker": row.ticker,
        "direction": row.side.value,
        "size": float(row.size),
        "price": float(row.price),
        "order_id": row.order_id,
        "strategy_id": row.strategy_id,
        "profile_version_id": decision.profile_version_id,
        "regime_id": decision.regime_id,
        "universe_id": decision.universe_id,
        "decision_id": decision.decision_id,
        "kind": row.kind.value,
        "execution_trade_id": row.execution_trade_id,
        "fill_id": row.fill_id,
        "account_id": row.account_id,
        "signal_id": row.signal_id,
        "leg_index": row.leg_index,
        "ledger_id": row.ledger_id,
        "instrument": row.instrument_key,
        "currency": row.currency,
        "recorded_at": row.recorded_at,
    }
    exact = {"size": str(row.size), "price": str(row.price)}
    if row.money_per_point is not None:
        exact["money_per_point"] = str(row.money_per_point)
    if value is not None:
        exact["cash"] = str(value.copy_negate() if row.moves_cash else ZERO)
    if max(map(_digits, (value, row.commission))) > SUMMED_DIGITS:
        document[UNSUMMED] = True
    if row.commission is not None:
        document["commission"] = float(row.commission)
        exact["commission"] = str(row.commission)
    more = {
        "commission_currency": row.commission_currency,
        "broker_order_id": row.broker_order_id,
        "plan_id": decision.plan_id,
        "fill_reason": row.reason,
        "mode": row.mode,
    }
    document.update((name, found) for name, found in more.items() if found is not None)
    if not row.moves_cash:
        document["is_transfer"] = True
    document["exact"] = exact
    return document


def trade_from_document(document: Mapping[str, Any]) -> TradeRow:
    """Raises UnreadableRecord for what `trade_to_document` never wrote."""
    try:
        exact = document["exact"]
        return TradeRow(
            trade_id=read_text(document["trade_id"]),
            at=read_moment(document["timestamp"]),
            ticker=read_text(document["ticker"]),
            side=Side(document["direction"]),
            size=read_decimal(exact["size"]),
            price=read_decimal(exact["price"]),
            order_id=read_text(document["order_id"]),
            strategy_id=read_text(document["strategy_id"]),
            decision=DecisionIds(
                decision_id=_text(document, "decision_id"),
                profile_version_id=_text(document, "profile_version_id"),
                regime_id=_text(document, "regime_id"),
                universe_id=_text(document, "universe_id"),
                plan_id=_text(document, "plan_id"),
            ),
            kind=TradeKind(document["kind"]),
            execution_trade_id=read_text(document["execution_trade_id"]),
            fill_id=read_text(document["fill_id"]),
            account_id=read_text(document["account_id"]),
            signal_id=read_text(document["signal_id"]),
            leg_index=read_whole(document["leg_index"]),
            broker_order_id=_text(document, "broker_order_id"),
            ledger_id=read_text(document["ledger_id"]),
            instrument_key=read_text(document["instrument"]),
            currency=read_text(document["currency"]),
            money_per_point=_decimal(exact, "money_per_point"),
            commission=_decimal(exact, "commission"),
            commission_currency=_text(document, "commission_currency"),
            reason=_text(document, "fill_reason"),
            moves_cash=not document.get("is_transfer", False),
            recorded_at=read_moment(document["recorded_at"]),
            mode=_text(document, "mode"),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"trade {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc


def trade_fields(row: TradeRow) -> dict[str, Any]:
    """For whoever shows or exports it: exact amounts, and null for what is not known, the columns always the same."""
    decision, value = row.decision, row.value
    return {
        "trade_id": row.trade_id,
        "timestamp": row.at,
        "ticker": row.ticker,
        "direction": row.side.value,
        "size": row.size,
        "price": row.price,
        "order_id": row.order_id,
        "strategy_id": row.strategy_id,
        "profile_version_id": decision.profile_version_id,
        "regime_id": decision.regime_id,
        "universe_id": decision.universe_id,
        "decision_id": decision.decision_id,
        "kind": row.kind.value,
        "execution_trade_id": row.execution_trade_id,
        "fill_reason": row.reason,
        "commission": row.commission,
        "commission_currency": row.commission_currency,
        "currency": row.currency,
        "money_per_point": row.money_per_point,
        "cash": None if value is None else value.copy_negate() if row.moves_cash else ZERO,
        "plan_id": decision.plan_id,
        "mode": row.mode,
        "account_id": row.account_id,
        "signal_id": row.signal_id,
        "leg_index": row.leg_index,
        "broker_order_id": row.broker_order_id,
        "fill_id": row.fill_id,
        "instrument": row.instrument_key,
        "ledger_id": row.ledger_id,
        "recorded_at": row.recorded_at,
    }


def _digits(amount: Decimal | None) -> int:
    return 0 if amount is None else len(amount.as_tuple().digits)


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return None if value is None else read_text(value)


def _decimal(exact: Mapping[str, Any], name: str) -> Decimal | None:
    value = exact.get(name)
    return None if value is None else read_decimal(value)
