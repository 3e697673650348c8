"""The rows of Binance's answers as values: orders, conditional orders, trades, positions, balances. Each is read by
itself: a row that cannot be read spoils no other. No calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from brokers.base import AssetClass, Balance, Fill, FillsShown, Instrument, Report, ReportStatus, Side

_T = TypeVar("_T")
Row = Mapping[str, Any]
_OURS = re.compile(r"[a-z][a-z0-9]{18}")
"""The form of a tag of this service. Binance makes ids of other forms for orders that come without one, and for its
own liquidations (autoclose-…, adl_autoclose, settlement_autoclose-…)."""
_MADE_BY_BINANCE = {
    "autoclose-": "Binance liquidated the position",
    "adl_autoclose": "Binance reduced the position (auto-deleveraging)",
    "settlement_autoclose-": "Binance settled the contract",
}
"""How the client ids of its own orders begin, and what they are."""

STATUSES = {
    "NEW": ReportStatus.WORKING,
    "PARTIALLY_FILLED": ReportStatus.WORKING,
    "PENDING_CANCEL": ReportStatus.WORKING,
    "FILLED": ReportStatus.FILLED,
    "CANCELED": ReportStatus.CANCELLED,
    "REJECTED": ReportStatus.REJECTED,
    "EXPIRED": ReportStatus.EXPIRED,
    "EXPIRED_IN_MATCH": ReportStatus.CANCELLED,
}
ALGO_STATUSES = {
    "NEW": ReportStatus.WORKING,
    "TRIGGERING": ReportStatus.WORKING,
    "TRIGGERED": ReportStatus.WORKING,
    "FINISHED": ReportStatus.WORKING,
    "CANCELED": ReportStatus.CANCELLED,
    "EXPIRED": ReportStatus.EXPIRED,
    "REJECTED": ReportStatus.REJECTED,
}
"""FINISHED says that the order which it became has ended: how, only that order tells."""
_IMMEDIATE = frozenset({"IOC", "FOK"})
_CONDITIONAL_TYPES = frozenset({"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"})


class Malformed(Exception):
    """A row or answer cannot be read; the message says what of it."""


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """A row that cannot be read."""

    tag: str | None
    """Of the order that it is about; None: not legible, it may be about any."""
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One order in the matching engine. Its number is unique within its symbol only."""

    symbol: str
    number: int
    tag: str
    """Empty: none of ours."""
    status: str
    tif: str
    quantity: Decimal
    executed: Decimal
    created_ms: int
    is_triggered: bool
    """It says that it is what a conditional order became."""
    closing_side: Side | None = None
    """Of one that can only close a position: BUY closes a short one. None: it may open one, or does not say."""
    side: str = ""
    made_by_binance: str | None = None
    """Why Binance itself made the order, for people; None: it did not."""

    @property
    def key(self) -> tuple[str, int]:
        return self.symbol, self.number

    @property
    def broker_order_id(self) -> str:
        return f"{self.symbol}:{self.number}"

    @property
    def is_working(self) -> bool:
        return STATUSES.get(self.status, ReportStatus.WORKING) is ReportStatus.WORKING


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgoRow:
    """One conditional order."""

    symbol: str
    number: int
    tag: str
    status: str
    child: int | None
    """The number of the order that it became when it was triggered."""
    reason: str
    created_ms: int

    @property
    def broker_order_id(self) -> str:
        return f"{self.symbol}:algo:{self.number}"

    @property
    def may_change(self) -> bool:
        is_over = self.status in ALGO_STATUSES and self.status not in ("NEW", "TRIGGERING", "TRIGGERED")
        return not is_over or (self.status == "FINISHED" and self.child is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeRow:
    symbol: str
    number: int
    order: int
    fill: Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class BookTickerRow:
    """The best bid and ask of a contract; 0: nobody stands on that side."""

    bid: Decimal
    ask: Decimal
    at_ms: int
    """When they came to stand so, in milliseconds since 1970 by Binance's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionRow:
    symbol: str
    quantity: Decimal
    entry_price: Decimal
    side: str
    """LONG or SHORT where the account keeps these apart, else BOTH."""


def read_rows(
    answer: object, read: Callable[[Row], _T], what: str, tag_field: str = "clientOrderId"
) -> tuple[list[_T], list[MalformedRow]]:
    """The readable rows, and the unreadable ones. Raises Malformed if it is no list."""
    if not isinstance(answer, list):
        raise Malformed(f"Binance answered with no list of {what}")
    rows: list[_T] = []
    malformed: list[MalformedRow] = []
    for row in answer:
        try:
            if not isinstance(row, Mapping):
                raise Malformed("it is no object")
            rows.append(read(row))
        except Malformed as exc:
            given = row.get(tag_field) if isinstance(row, Mapping) else None
            tag = our_tag(given) if isinstance(given, str) else None
            malformed.append(MalformedRow(tag, f"A row of Binance's {what} cannot be read: {exc}"))
    return rows, malformed


def read_order(row: Row) -> OrderRow:
    kind, original = row.get("type"), row.get("origType")
    return OrderRow(
        symbol=text(row, "symbol"),
        number=whole(row, "orderId"),
        tag=our_tag(text(row, "clientOrderId")),
        status=text(row, "status"),
        tif=str(row.get("timeInForce", "")),
        quantity=amount(row, "origQty"),
        executed=_at_least_0(row, "executedQty"),
        created_ms=_moment(row, "time", "updateTime"),
        is_triggered=original in _CONDITIONAL_TYPES and kind != original,
        closing_side=_closing_side(row),
        side=str(row.get("side", "")),
        made_by_binance=made_by_binance(text(row, "clientOrderId")),
    )


def _closing_side(row: Row) -> Side | None:
    said = row.get("side")
    side = Side(said) if said in ("BUY", "SELL") else None
    closes = {"LONG": Side.SELL, "SHORT": Side.BUY}.get(str(row.get("positionSide")))
    is_closing = side is not None and (row.get("reduceOnly") is True or side is closes)
    return side if is_closing else None


def read_algo(row: Row) -> AlgoRow:
    child = str(row.get("actualOrderId") or "")
    return AlgoRow(
        symbol=text(row, "symbol"),
        number=whole(row, "algoId"),
        tag=our_tag(text(row, "clientAlgoId")),
        status=text(row, "algoStatus"),
        child=int(child) if child.isdecimal() and int(child) > 0 else None,
        reason=str(row.get("rejectReason") or row.get("rm") or ""),
        created_ms=_moment(row, "createTime", "updateTime"),
    )


def read_trade(row: Row) -> TradeRow:
    symbol, number = text(row, "symbol"), whole(row, "id")
    quantity, price = amount(row, "qty"), amount(row, "price")
    if quantity <= 0 or price <= 0:
        raise Malformed(f"an execution of {quantity} at {price}")
    # What is charged: positive; a rebate is negative.
    commission, asset = amount_or_none(row, "commission"), row.get("commissionAsset")
    is_charged = commission is not None and isinstance(asset, str) and asset != ""
    return TradeRow(
        symbol=symbol,
        number=number,
        order=whole(row, "orderId"),
        fill=Fill(
            fill_id=f"{symbol}:{number}",
            quantity=quantity,
            price=price,
            time=time_of(whole(row, "time")),
            commission=commission if is_charged else None,
            commission_currency=str(asset) if is_charged else None,
        ),
    )


def read_book_ticker(row: Row) -> BookTickerRow:
    """Raises Malformed, also for one of which nobody can tell how old it is."""
    at_ms = whole(row, "time")
    if at_ms <= 0:
        raise Malformed(f"time is {at_ms}")
    return BookTickerRow(bid=_at_least_0(row, "bidPrice"), ask=_at_least_0(row, "askPrice"), at_ms=at_ms)


def amount_traded(row: Row) -> tuple[str, Decimal]:
    """Of which contract, and how much in the ticker's 24 hours. Raises Malformed."""
    return text(row, "symbol"), _at_least_0(row, "volume")


def read_position(row: Row) -> PositionRow:
    return PositionRow(
        symbol=text(row, "symbol"),
        quantity=amount(row, "positionAmt"),
        entry_price=amount(row, "entryPrice"),
        side=text(row, "positionSide"),
    )


def read_balance(row: Row) -> Balance:
    cash = amount(row, "balance")
    return Balance(currency=text(row, "asset"), cash=cash, equity=cash + amount(row, "crossUnPnl"))


def report_of(order: OrderRow, fills: Sequence[Fill], reason: str | None = None) -> Report:
    """The order as a report. An execution counts once the list of trades has it: Binance's own count may be ahead."""
    status = STATUSES.get(order.status, ReportStatus.WORKING)
    if status is ReportStatus.EXPIRED and order.tif in _IMMEDIATE:
        # What an immediate order leaves is called expired; it is what its owner asked for.
        status, reason = ReportStatus.CANCELLED, reason or "What could not be filled at once is cancelled"
    if order.status == "EXPIRED_IN_MATCH":
        reason = reason or "It would have traded with another order of the same account"
    adds_up = sum((fill.quantity for fill in fills), Decimal(0)) == order.executed
    return Report(
        client_order_id=order.tag,
        broker_order_id=order.broker_order_id,
        status=status,
        filled_quantity=order.executed,
        fills=tuple(fills),
        fills_shown=FillsShown.ALL if adds_up else FillsShown.SOME,
        reason=reason or order.made_by_binance,
        said=order.status,
        # Not of what has a delivery: its date stands in the list of symbols.
        instrument=None if "_" in order.symbol else Instrument(symbol=order.symbol, asset_class=AssetClass.CRYPTO),
        side={"BUY": Side.BUY, "SELL": Side.SELL}.get(order.side),
    )


def report_of_algo(algo: AlgoRow, child: OrderRow | None, fills: Sequence[Fill], reason: str | None = None) -> Report:
    """A conditional order as a report: before it is triggered its own state, afterwards that of the order that it
    became. While that is not shown, it counts as working."""
    if child is not None:
        became = report_of(child, fills, reason)
        return replace(
            became,
            client_order_id=algo.tag,
            broker_order_id=algo.broker_order_id,
            said=f"{algo.status}, {child.status}",
            is_triggered=True,
        )
    status = ALGO_STATUSES.get(algo.status, ReportStatus.WORKING)
    words = algo.reason or reason
    if status is ReportStatus.REJECTED:
        words = f"Rejected when it was triggered: {words or 'Binance does not say why'}"
    return Report(
        client_order_id=algo.tag,
        broker_order_id=algo.broker_order_id,
        status=status,
        filled_quantity=Decimal(0),
        fills_shown=FillsShown.ALL if algo.child is None else FillsShown.SOME,
        reason=words,
        said=algo.status,
        is_triggered=algo.status == "TRIGGERED" or algo.child is not None,
    )


def our_tag(client_id: str) -> str:
    """The client order id if it may be one of this service's; else empty."""
    return client_id if _OURS.fullmatch(client_id) else ""


def made_by_binance(client_id: str) -> str | None:
    """Why Binance itself made the order, for people; None: it did not."""
    return next((words for start, words in _MADE_BY_BINANCE.items() if client_id.startswith(start)), None)


def text(row: Any, name: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name} is {value!r}")
    return value


def whole(row: Any, name: str) -> int:
    value = row.get(name) if isinstance(row, Mapping) else None
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"{name} is {value!r}")
    return value


def amount(row: Any, name: str) -> Decimal:
    value = row.get(name) if isinstance(row, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise Malformed(f"{name} is {value!r}")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise Malformed(f"{name} is {value!r}") from None
    if not number.is_finite():
        raise Malformed(f"{name} is {value!r}")
    return number


def amount_or_none(row: Any, name: str) -> Decimal | None:
    try:
        return amount(row, name)
    except Malformed:
        return None


def _at_least_0(row: Row, name: str) -> Decimal:
    number = amount(row, name)
    if number < 0:
        raise Malformed(f"{name} is {number}")
    return number


def _moment(row: Row, *names: str) -> int:
    """Milliseconds since 1970, of the first of these fields that the row has."""
    for name in names:
        if row.get(name) is not None:
            return whole(row, name)
    raise Malformed(f"it has no {' or '.join(names)}")


def time_of(moment_ms: int) -> datetime:
    """Of milliseconds since 1970. Raises Malformed for a time that cannot be."""
    try:
        return datetime.fromtimestamp(moment_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise Malformed(f"a time of {moment_ms}") from None
