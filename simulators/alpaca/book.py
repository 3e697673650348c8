"""The simulated Alpaca's book and its presentation: orders, activities, positions, the account. No server, no forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from brokers.base import AssetClass, BrokerPosition, Instrument, ReportStatus, Side
from brokers.paper.model import Market, PaperFill, PaperOrder, ScriptedQuote
from simulators.alpaca.market import ALPACA_ORDER_TYPES
from simulators.fault_plan import PlannedBook

ORDER_ID_FORMAT = "00000000-0000-4000-8000-{number:012d}"
ACTIVITY_ID_FORMAT = "{time:%Y%m%d%H%M%S}000::00000000-0000-4000-8000-{number:012d}"
_STATUS = {
    ReportStatus.FILLED: "filled",
    ReportStatus.CANCELLED: "canceled",
    ReportStatus.EXPIRED: "expired",
    ReportStatus.REJECTED: "rejected",
}


CRYPTO_FEE = Decimal("0.0025")
"""The part of the coins bought that Alpaca keeps."""


class AlpacaBook(PlannedBook):
    """A paper exchange with Alpaca's ids, in dollars and without commissions, in which a client id is taken once. The
    fee of a purchase of coins is taken out of them."""

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str,
        market: Market,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(
            path,
            account_id=account_id,
            market=replace(market, commission_per_order=Decimal(0), currency="USD"),
            broker_order_id_format=ORDER_ID_FORMAT,
            fill_id_format=ACTIVITY_ID_FORMAT,
            clock=clock,
        )

    def positions(self, now: datetime | None = None) -> tuple[BrokerPosition, ...]:
        fees: dict[str, Decimal] = {}
        for each in self.executions():
            if each.instrument.asset_class is AssetClass.CRYPTO and each.bought > 0 and not each.is_transfer:
                symbol = each.instrument.symbol
                fees[symbol] = fees.get(symbol, Decimal(0)) + each.bought * CRYPTO_FEE
        held = [
            replace(position, quantity=position.quantity - fees.get(position.instrument.symbol, Decimal(0)))
            for position in super().positions(now)
        ]
        return tuple(position for position in held if position.quantity)

    def held_by_orders(self, symbol: str, side: Side) -> dict[str, Decimal]:
        """What open orders of this side would still take, by order id."""
        return {
            order.broker_order_id: order.open_quantity
            for order in self.orders()
            if order.open_quantity and order.ticket.side is side and order.ticket.instrument.symbol == symbol
        }


def kind_of(instrument: Instrument) -> str:
    names = {AssetClass.CRYPTO: "crypto", AssetClass.OPTION: "us_option"}
    return names.get(instrument.asset_class, "us_equity")


def status_of(order: PaperOrder) -> str:
    working = "partially_filled" if order.filled_quantity else "new"
    return _STATUS.get(order.status, working)


def order_row(order: PaperOrder, chain: Mapping[str, Any]) -> dict[str, Any]:
    """An order as the API shows it. `chain`: the fields that say what it replaced or what replaced it."""
    ticket = order.ticket
    fills = [fill for fill in order.fills if not fill.busted]
    paid = sum((fill.quantity * fill.price for fill in fills), Decimal(0))
    filled, status = order.filled_quantity, str(chain.get("status") or status_of(order))
    placed_at, changed_at = alpaca_time(order.placed_at), alpaca_time(order.changed_at)
    tif = (
        ticket.variety if ticket.variety in ("opg", "cls", "fok") else ticket.tif.value.lower() if ticket.tif else "day"
    )
    return {
        "id": order.broker_order_id,
        "client_order_id": ticket.client_order_id or f"by-hand-{order.number}",
        "created_at": placed_at,
        "updated_at": changed_at,
        "submitted_at": placed_at,
        "filled_at": changed_at if status == "filled" else None,
        "expired_at": changed_at if status == "expired" else None,
        "canceled_at": changed_at if status == "canceled" else None,
        "failed_at": changed_at if status == "rejected" else None,
        "replaced_at": changed_at if status == "replaced" else None,
        "replaced_by": chain.get("replaced_by"),
        "replaces": chain.get("replaces"),
        "asset_id": None,
        "symbol": ticket.instrument.symbol,
        "asset_class": kind_of(ticket.instrument),
        "notional": None,
        "qty": _text(ticket.quantity),
        "filled_qty": _text(filled),
        "filled_avg_price": _text(round(paid / filled, 8)) if filled else None,
        "order_class": "",
        "order_type": ALPACA_ORDER_TYPES[ticket.order_type],
        "type": ALPACA_ORDER_TYPES[ticket.order_type],
        "side": ticket.side.value.lower(),
        "time_in_force": tif,
        "limit_price": None if ticket.limit_price is None else _text(ticket.limit_price),
        "stop_price": None if ticket.stop_price is None else _text(ticket.stop_price),
        "status": status,
        "extended_hours": ticket.variety == "extended_hours",
        "legs": None,
        "trail_percent": None,
        "trail_price": None,
        "hwm": None,
    }


def activity_rows(orders: list[PaperOrder]) -> list[dict[str, Any]]:
    """The executions of all orders, oldest first, without busted ones: no activity tells of a bust."""
    found = [(fill.fill_id, order, fill) for order in orders for fill in order.fills if not fill.busted]
    return [_activity(order, fill) for _, order, fill in sorted(found, key=lambda each: each[0])]


def _activity(order: PaperOrder, fill: PaperFill) -> dict[str, Any]:
    so_far = sum(
        (each.quantity for each in order.fills if each.fill_id <= fill.fill_id and not each.busted), Decimal(0)
    )
    left = max(order.ticket.quantity - so_far, Decimal(0))
    return {
        "activity_type": "FILL",
        "id": fill.fill_id,
        "transaction_time": alpaca_time(fill.time),
        "type": "partial_fill" if left else "fill",
        "price": _text(fill.price),
        "qty": _text(fill.quantity),
        "side": order.ticket.side.value.lower(),
        "symbol": order.ticket.instrument.symbol,
        "leaves_qty": _text(left),
        "cum_qty": _text(so_far),
        "order_id": order.broker_order_id,
        "order_status": "partially_filled" if left else "filled",
    }


def position_row(position: BrokerPosition, held: Decimal) -> dict[str, Any]:
    """A position as the API shows it. `held`: what open orders would take of it."""
    quantity, price = position.quantity, position.average_price or Decimal(0)
    return {
        "asset_id": None,
        "symbol": position.instrument.symbol.replace("/", ""),
        "exchange": "CRYPTO" if position.instrument.asset_class is AssetClass.CRYPTO else "NASDAQ",
        "asset_class": kind_of(position.instrument),
        "avg_entry_price": _text(price),
        "qty": _text(quantity),
        "qty_available": _text(max(abs(quantity) - held, Decimal(0)) * (1 if quantity > 0 else -1)),
        "side": "long" if quantity > 0 else "short",
        "market_value": _text(quantity * price),
        "cost_basis": _text(quantity * price),
        "current_price": _text(price),
    }


def day_bar(price: Decimal, volume: int) -> dict[str, Any]:
    """A day on which the price stood still."""
    return {**dict.fromkeys(("o", "h", "l", "c", "vw"), float(price)), "v": volume, "n": 1}


def snapshot_item(
    price: Decimal, step: Decimal, scripted: ScriptedQuote | None, delay_seconds: float
) -> dict[str, Any]:
    """The market in one asset, as numbers: as it was set, else one step around its last price. A side on which nobody stands has the price 0."""
    quote = scripted or ScriptedQuote(symbol="", bid=price - step, ask=price + step, last=price, last_age_seconds=0)
    now = datetime.now(UTC) - timedelta(seconds=delay_seconds)

    def at(age_seconds: float) -> str:
        return alpaca_time(now - timedelta(seconds=age_seconds))

    trade = None
    if quote.last is not None:
        age = quote.age_seconds if quote.last_age_seconds is None else quote.last_age_seconds
        trade = {"t": at(age), "x": "V", "p": float(quote.last), "s": 100, "c": ["@"], "i": 1, "z": "C"}
    bid, ask = float(quote.bid or 0), float(quote.ask or 0)
    sides = {
        "bp": bid,
        "bs": 1 if bid else 0,
        "bx": "V" if bid else " ",
        "ap": ask,
        "as": 1 if ask else 0,
        "ax": "V" if ask else " ",
    }
    return {
        "latestTrade": trade,
        "latestQuote": {"t": at(quote.age_seconds), **sides, "c": ["R"], "z": "C"},
        "minuteBar": None,
        "dailyBar": None,
        "prevDailyBar": None,
    }


def account_row(book: AlpacaBook) -> dict[str, Any]:
    balance = next((each for each in book.balances() if each.currency == "USD"), None)
    cash = Decimal(0) if balance is None else balance.cash
    equity = cash if balance is None or balance.equity is None else balance.equity
    return {
        "id": "00000000-0000-4000-8000-000000000000",
        "account_number": book.account_id,
        "status": "ACTIVE",
        "crypto_status": "ACTIVE",
        "currency": "USD",
        "cash": _text(cash),
        "equity": _text(equity),
        "buying_power": _text(max(cash * 2, Decimal(0))),
        "options_buying_power": _text(max(cash, Decimal(0))),
        "non_marginable_buying_power": _text(max(cash, Decimal(0))),
        "options_approved_level": 2,
        "options_trading_level": 2,
        "shorting_enabled": True,
        "multiplier": "2",
        "trading_blocked": False,
        "account_blocked": False,
        "transfers_blocked": False,
        "trade_suspended_by_user": False,
    }


def alpaca_time(moment: datetime) -> str:
    """With nanoseconds, as the API writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def _text(number: Decimal) -> str:
    return format(number, "f")
