"""The simulated Binance's order book and its presentation: orders, conditional orders and what they become, trades,
positions, the wallet. No server, no forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from brokers.base import OrderRef, OrderType, Report, ReportStatus, Side, Ticket, Tif
from brokers.paper.model import Fault, Market, Operation, PaperOrder, ScriptedQuote
from simulators.binance.market import ALGO, BOTH, LONG, REDUCE_ONLY, SHORT, Listing, Refused
from simulators.fault_plan import PlannedBook

ORDER_ID_FORMAT = "{symbol}:{number}"
FILL_ID_FORMAT = "{symbol}:{number}"
_CHILDREN_FROM = 500_000_000
_STATUS = {
    ReportStatus.FILLED: "FILLED",
    ReportStatus.CANCELLED: "CANCELED",
    ReportStatus.EXPIRED: "EXPIRED",
    ReportStatus.REJECTED: "REJECTED",
}
_TYPES = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "STOP_MARKET",
    OrderType.STOP_LIMIT: "STOP",
}
_BECOMES = {OrderType.STOP: "MARKET", OrderType.STOP_LIMIT: "LIMIT"}


@dataclass(frozen=True, slots=True)
class FuturesPosition:
    symbol: str
    quantity: Decimal
    entry_price: Decimal
    side: str = BOTH


class BinanceBook(PlannedBook):
    """A paper exchange with Binance's ids, in USDT, in which a client order id is free again once its order is
    finished. Orders and trades have numbers within their symbol."""

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
            market=market,
            broker_order_id_format=ORDER_ID_FORMAT,
            fill_id_format=FILL_ID_FORMAT,
            unique_client_order_ids=False,
            clock=clock,
        )

    def take(self, ticket: Ticket) -> PaperOrder:
        """Accepts the order. Raises Refused as Binance would, also for one that the market rejects at once."""
        own = self.orders(ticket.client_order_id) if ticket.client_order_id else []
        if any(order.status is ReportStatus.WORKING for order in own):
            raise Refused(-4116, "ClientOrderId is duplicated.")
        if is_closing(ticket) and ticket.variety != ALGO:
            reducible = self._reducible(ticket)
            if not reducible:
                raise Refused(-2022, "ReduceOnly Order is rejected.")
            resting = self._reducing(ticket)
            if resting and ticket.quantity > reducible - resting:
                raise Refused(-4118, "ReduceOnly Order Failed. Please check your existing position and open orders.")
            if ticket.product != REDUCE_ONLY and ticket.quantity > reducible:
                raise Refused(
                    -2022, "ReduceOnly Order is rejected."
                )  # in so many words, though it did not ask for that
            ticket = replace(ticket, quantity=min(ticket.quantity, reducible))
        if ticket.variety == ALGO:
            number = len(self.orders()) + 1
            ticket = replace(ticket, reserved_order_id=f"{ticket.instrument.symbol}:{ALGO}:{2_000_000 + number}")
        report = self.place(ticket)
        order = self.order(report.broker_order_id)
        assert order is not None
        if order.status is ReportStatus.REJECTED and ticket.variety != ALGO:
            # Never in any list: a refused order has not existed.
            raise Refused(-2019, order.reason or "Margin is insufficient.")
        return order

    def expire_day(self, now: datetime | None = None) -> int:
        """There are no orders for the day: every one that rests expires, as at the end of a contract."""
        resting = [order for order in self.orders() if order.status is ReportStatus.WORKING]
        for order in resting:
            ref = OrderRef(client_order_id="", broker_order_id=order.broker_order_id)
            self._finish(ref, ReportStatus.EXPIRED, "Expired with its contract", now)
        return len(resting)

    def _reducible(self, ticket: Ticket) -> Decimal:
        held = self.position(ticket.instrument.symbol, side_of(ticket.product)).quantity
        return max(-held * ticket.side.sign, Decimal(0))

    def _reducing(self, ticket: Ticket) -> Decimal:
        """What resting orders of this side would take off the position. Those that wait for their trigger do not count."""
        resting = [
            order.open_quantity
            for order in self.orders()
            if order.ticket.product == ticket.product
            and order.ticket.side is ticket.side
            and order.ticket.instrument.symbol == ticket.instrument.symbol
            and (not is_algo(order) or is_triggered(order))
        ]
        return sum(resting, Decimal(0))

    # What lists show

    def shown(self) -> list[tuple[PaperOrder, Report]]:
        """What lists show, after the book's faults: each order with its present state."""
        known = {order.broker_order_id: order for order in self.orders()}
        pairs = [(known[report.broker_order_id], report) for report in self.reports().reports]
        return [pair for pair in pairs if not was_refused(pair[0])]

    def is_hidden(self, order: PaperOrder, *, counts: bool) -> bool:
        """Whether an armed fault hides the order from those who look for it; `counts`: it is used up thereby."""
        tag, symbol = order.ticket.client_order_id, order.ticket.instrument.symbol
        hiding = [fault for fault in self.armed_faults(Operation.FIND) if _hides(fault)]
        if not any(fault.concerns(tag, symbol) for fault in hiding):
            return False
        return self.find(tag) is None if counts else True

    def numbered(self, symbol: str, number: int) -> PaperOrder | None:
        """The order with this number, which may be what a conditional order became."""
        self.advance()
        if number < _CHILDREN_FROM:
            return self.order(f"{symbol}:{number}")
        found = self.order(f"{symbol}:{ALGO}:{number - _CHILDREN_FROM}")
        return found if found is not None and is_triggered(found) else None

    def algo_numbered(self, number: int) -> PaperOrder | None:
        self.advance()
        named = f":{ALGO}:{number}"
        return next((order for order in self.orders() if order.broker_order_id.endswith(named)), None)

    # Positions and money

    def positions_held(self) -> list[FuturesPosition]:
        return [held for held in self._sums()[0].values() if held.quantity]

    def position(self, symbol: str, side: str = BOTH) -> FuturesPosition:
        return self._sums()[0].get((symbol, side), FuturesPosition(symbol, Decimal(0), Decimal(0), side))

    def wallet(self) -> dict[str, Decimal]:
        """By asset: what was paid in, plus realised profits, less commissions. A purchase itself costs nothing."""
        return self._sums()[1]

    def _sums(self) -> tuple[dict[tuple[str, str], FuturesPosition], dict[str, Decimal]]:
        held: dict[tuple[str, str], FuturesPosition] = {}
        wallet = {self.market.currency: self.market.opening_cash}
        for execution in self.executions():
            symbol, quote = execution.instrument.symbol, execution.instrument.currency or self.market.currency
            side = side_of(execution.product)
            before = held.get((symbol, side), FuturesPosition(symbol, Decimal(0), Decimal(0), side))
            after, entry = before.quantity + execution.bought, before.entry_price
            closed = Decimal(0)
            if before.quantity * execution.bought < 0:
                closed = min(abs(before.quantity), abs(execution.bought)) * (1 if before.quantity > 0 else -1)
                if after * before.quantity < 0:
                    entry = execution.price
            elif after:
                entry = (before.quantity * entry + execution.bought * execution.price) / after
            held[symbol, side] = FuturesPosition(symbol, after, round(entry, 8), side)
            if not execution.is_transfer:
                profit = closed * (execution.price - before.entry_price)
                wallet[quote] = wallet.get(quote, Decimal(0)) + profit
                paid_in = execution.currency or quote
                wallet[paid_in] = wallet.get(paid_in, Decimal(0)) - execution.commission
        return held, wallet


def was_refused(order: PaperOrder) -> bool:
    """It was never accepted: no list has it."""
    is_rejected = order.status is ReportStatus.REJECTED
    return is_rejected and not is_algo(order) and not order.fills and order.changed_at == order.placed_at


def side_of(product: str | None) -> str:
    """Of the position that an order of this product is about."""
    return product if product in (LONG, SHORT) else BOTH


def is_closing(ticket: Ticket) -> bool:
    """It can only close a position."""
    return ticket.product == REDUCE_ONLY or (ticket.product, ticket.side) in ((LONG, Side.SELL), (SHORT, Side.BUY))


def is_algo(order: PaperOrder) -> bool:
    return order.ticket.variety == ALGO


def is_triggered(order: PaperOrder) -> bool:
    """The conditional order has become an order of the matching engine."""
    return is_algo(order) and bool(order.fills)


def number_of(order: PaperOrder) -> int:
    return int(order.broker_order_id.rpartition(":")[2])


def child_of(order: PaperOrder) -> int:
    return _CHILDREN_FROM + number_of(order)


def order_item(order: PaperOrder, report: Report) -> dict[str, Any]:
    """The row of an order in the matching engine; of a conditional one, that of the order that it became."""
    ticket = order.ticket
    filled = report.filled_quantity
    paid = sum((fill.quantity * fill.price for fill in report.fills), Decimal(0))
    original = _TYPES[ticket.order_type]
    status = _STATUS.get(report.status, "PARTIALLY_FILLED" if filled else "NEW")
    if report.status is ReportStatus.CANCELLED and ticket.tif is Tif.IOC:
        status = "EXPIRED"
    return {
        "orderId": child_of(order) if is_algo(order) else number_of(order),
        "symbol": ticket.instrument.symbol,
        "status": status,
        "clientOrderId": ticket.client_order_id or f"web_{order.number:020d}",
        "price": _text(ticket.limit_price),
        "avgPrice": str(round(paid / filled, 8)) if filled else "0",
        "origQty": str(ticket.quantity),
        "executedQty": str(filled),
        "cumQuote": str(paid),
        "timeInForce": "GTC" if ticket.tif is None else ticket.tif.value,
        "type": _BECOMES.get(ticket.order_type, original),
        "reduceOnly": is_closing(ticket),
        "closePosition": False,
        "side": ticket.side.value,
        "positionSide": side_of(ticket.product),
        "stopPrice": _text(ticket.stop_price),
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "origType": original,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "EXPIRE_MAKER",
        "goodTillDate": 0,
        "time": millis(order.fills[0].time if is_algo(order) and order.fills else order.placed_at),
        "updateTime": millis(order.changed_at),
    }


def placed_item(order: PaperOrder) -> dict[str, Any]:
    """The answer to placing: without what the API lost in 2026."""
    item = order_item(order, order.report()) | {"status": "NEW", "executedQty": "0", "cumQty": "0"}
    return {name: value for name, value in item.items() if name not in ("avgPrice", "cumQuote", "time")}


def algo_item(order: PaperOrder, report: Report) -> dict[str, Any]:
    ticket = order.ticket
    status = _STATUS.get(report.status, "NEW")
    if is_triggered(order):
        status = "TRIGGERED" if report.status is ReportStatus.WORKING else "FINISHED"
    return {
        "algoId": number_of(order),
        "clientAlgoId": ticket.client_order_id or f"web_{order.number:020d}",
        "algoType": "CONDITIONAL",
        "orderType": _TYPES[ticket.order_type],
        "symbol": ticket.instrument.symbol,
        "side": ticket.side.value,
        "positionSide": side_of(ticket.product),
        "timeInForce": "GTC" if ticket.tif is None else ticket.tif.value,
        "quantity": str(ticket.quantity),
        "algoStatus": status,
        "actualOrderId": str(child_of(order)) if is_triggered(order) else "",
        "actualPrice": "0",
        "triggerPrice": _text(ticket.stop_price),
        "price": _text(ticket.limit_price),
        "icebergQuantity": None,
        "workingType": "CONTRACT_PRICE",
        "closePosition": False,
        "priceProtect": False,
        "reduceOnly": is_closing(ticket),
        "createTime": millis(order.placed_at),
        "updateTime": millis(order.changed_at),
        "triggerTime": millis(order.fills[0].time) if order.fills else 0,
        "goodTillDate": 0,
    }


def trade_items(order: PaperOrder, report: Report) -> list[dict[str, Any]]:
    return [
        {
            "id": int(fill.fill_id.rpartition(":")[2]),
            "orderId": child_of(order) if is_algo(order) else number_of(order),
            "symbol": order.ticket.instrument.symbol,
            "side": order.ticket.side.value,
            "positionSide": side_of(order.ticket.product),
            "price": str(fill.price),
            "qty": str(fill.quantity),
            "quoteQty": str(fill.quantity * fill.price),
            "commission": str(fill.commission or 0),
            "commissionAsset": fill.commission_currency or order.ticket.instrument.currency,
            "realizedPnl": "0",
            "buyer": order.ticket.side is Side.BUY,
            "maker": False,
            "time": millis(fill.time),
        }
        for fill in report.fills
    ]


def position_item(position: FuturesPosition) -> dict[str, Any]:
    return {
        "symbol": position.symbol,
        "positionSide": position.side,
        "positionAmt": str(position.quantity),
        "entryPrice": str(position.entry_price),
        "breakEvenPrice": str(position.entry_price),
        "markPrice": str(position.entry_price),
        "unRealizedProfit": "0",
        "liquidationPrice": "0",
        "notional": str(position.quantity * position.entry_price),
        "marginAsset": "USDT",
        "updateTime": 0,
    }


def book_ticker_item(listing: Listing, scripted: ScriptedQuote | None, now_ms: int) -> dict[str, Any]:
    """The best bid and ask: as they were set, else one tick around the last price. A side on which nobody stands, and a contract without a
    price, has zeros."""
    bid = ask = Decimal(0)
    age_seconds = 0.0
    if scripted is not None and scripted.refusal is None:
        bid, ask, age_seconds = scripted.bid or bid, scripted.ask or ask, scripted.age_seconds
    elif scripted is None and listing.last_price is not None:
        bid, ask = listing.last_price - listing.tick, listing.last_price + listing.tick
    return {
        "symbol": listing.symbol,
        "bidPrice": str(bid),
        "bidQty": "10" if bid else "0",
        "askPrice": str(ask),
        "askQty": "10" if ask else "0",
        "time": now_ms - int(age_seconds * 1000),
        "lastUpdateId": now_ms,
    }


def day_ticker_item(listing: Listing, now_ms: int) -> dict[str, Any]:
    """The last 24 hours, of what a plan's sizes need."""
    price = listing.last_price or Decimal(0)
    return {
        "symbol": listing.symbol,
        "lastPrice": str(price),
        "volume": str(listing.day_volume),
        "quoteVolume": str(listing.day_volume * price),
        "openTime": now_ms - 86_400_000,
        "closeTime": now_ms,
        "count": 0,
    }


def events_of(order: PaperOrder) -> list[dict[str, Any]]:
    """What the stream says when the order has changed: its state, with its last execution."""
    report = order.report()
    moment = millis(order.changed_at)
    events: list[dict[str, Any]] = []
    if is_algo(order):
        item = algo_item(order, report)
        details: Mapping[str, Any] = {
            "caid": item["clientAlgoId"],
            "aid": item["algoId"],
            "at": "CONDITIONAL",
            "o": item["orderType"],
            "s": item["symbol"],
            "S": item["side"],
            "ps": item["positionSide"],
            "f": item["timeInForce"],
            "q": item["quantity"],
            "X": item["algoStatus"],
            "ai": item["actualOrderId"],
            "tp": item["triggerPrice"],
            "p": item["price"],
            "R": item["reduceOnly"],
            "rm": (order.reason or "") if order.status is ReportStatus.REJECTED else "",
        }
        events.append({"e": "ALGO_UPDATE", "E": moment, "T": moment, "o": details})
        if not is_triggered(order):
            return events
    item = order_item(order, report)
    last = order.fills[-1] if order.fills else None
    is_trade = last is not None and last.time == order.changed_at
    events.append(
        {
            "e": "ORDER_TRADE_UPDATE",
            "E": moment,
            "T": moment,
            "o": {
                "s": item["symbol"],
                "c": item["clientOrderId"],
                "S": item["side"],
                "o": item["type"],
                "f": item["timeInForce"],
                "q": item["origQty"],
                "p": item["price"],
                "ap": item["avgPrice"],
                "x": "TRADE" if is_trade else "NEW" if item["status"] == "NEW" else item["status"],
                "X": item["status"],
                "i": item["orderId"],
                "l": str(last.quantity) if is_trade and last else "0",
                "z": item["executedQty"],
                "L": str(last.price) if is_trade and last else "0",
                "t": int(last.fill_id.rpartition(":")[2]) if is_trade and last else 0,
                "ot": item["origType"],
                "ps": item["positionSide"],
                "R": item["reduceOnly"],
                "er": "0",
            },
        }
    )
    return events


def millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _hides(fault: Fault) -> bool:
    return fault.action == "hide"


def _text(price: Decimal | None) -> str:
    return "0" if price is None else str(price)
