"""The simulated Zerodha's order book and its presentation: orders, trades, positions, charges. No server, no forms."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from brokers.base import Instrument, OrderRef, Report, ReportStatus
from brokers.paper.model import Fault, Market, Operation, PaperFill, PaperOrder, ScriptedQuote
from simulators.fault_plan import PlannedBook
from simulators.zerodha.market import KITE_ORDER_TYPES, Listing, Refused

IST = timezone(timedelta(hours=5, minutes=30), "IST")
ORDER_ID_FORMAT = "{time:%y%m%d}{number:09d}"
TRADE_ID_FORMAT = "{number:08d}"
_STATUS = {
    ReportStatus.FILLED: "COMPLETE",
    ReportStatus.CANCELLED: "CANCELLED",
    ReportStatus.EXPIRED: "CANCELLED",
    ReportStatus.REJECTED: "REJECTED",
}


@dataclass(frozen=True, slots=True)
class KiteHolding:
    """The account's position in an instrument in one product: intraday positions and delivered shares are separate."""

    instrument: Instrument
    product: str
    quantity: Decimal
    average_price: Decimal

    def after(self, bought: Decimal, price: Decimal) -> KiteHolding:
        """With so much more; negative: sold."""
        quantity = self.quantity + bought
        average = self.average_price
        if self.quantity * bought >= 0 and quantity:
            average = (self.quantity * average + bought * price) / quantity
        elif quantity * self.quantity < 0:
            average = price
        return replace(self, quantity=quantity, average_price=round(average, 8))


class KiteBook(PlannedBook):
    """A paper exchange with Kite's ids, in rupees, in which a tag may repeat."""

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
            fill_id_format=TRADE_ID_FORMAT,
            unique_client_order_ids=False,
            clock=clock,
        )
        self._known: dict[str, PaperOrder] = {}

    def shown(self) -> list[tuple[PaperOrder, Report]]:
        """What the order list shows, after the book's faults: each order as placed, with its present state."""
        reports = self.reports().reports
        if any(report.broker_order_id not in self._known for report in reports):
            self._known = {order.broker_order_id: order for order in self.orders()}
        pairs = [(self._known[report.broker_order_id], report) for report in reports]
        # What was annulled of an iceberg order only the order itself says.
        pairs = [
            (order if order.ticket.display_quantity is None else self._present(order), report)
            for order, report in pairs
        ]
        hiding = [fault for fault in self.armed_faults(Operation.FIND) if _hides(fault)]
        return [pair for pair in pairs if not any(self._is_hidden(pair[0], fault) for fault in hiding)]

    def _present(self, order: PaperOrder) -> PaperOrder:
        return self.order(order.broker_order_id) or order

    def known(self, order_id: str) -> PaperOrder | None:
        """The order as placed; its state may be outdated."""
        if order_id not in self._known:
            self._known = {order.broker_order_id: order for order in self.orders()}
        return self._known.get(order_id)

    def trade_by_hand(
        self,
        instrument: Instrument,
        quantity: Decimal,
        price: Decimal | None = None,
        *,
        product: str | None = None,
        now: datetime | None = None,
    ) -> PaperOrder:
        made = super().trade_by_hand(
            instrument, quantity, price, product=product or _usual_product(instrument), now=now
        )
        self._known[made.broker_order_id] = made
        return made

    def net(self) -> list[KiteHolding]:
        """The sums of trades by product; without delivered shares that arrived or left otherwise."""
        return [held for held in self._sums(settled=False) if held.quantity]

    def holdings(self) -> list[KiteHolding]:
        """Delivered shares: what arrived or left without a trade."""
        return [held for held in self._sums(settled=True) if held.quantity]

    def sold_of(self, holding: KiteHolding) -> Decimal:
        """How much of delivered shares was sold today."""
        place = (holding.instrument.key, holding.product)
        today = (held.quantity for held in self.net() if (held.instrument.key, held.product) == place)
        return min(max(-sum(today, Decimal(0)), Decimal(0)), holding.quantity)

    def _sums(self, *, settled: bool) -> list[KiteHolding]:
        sums: dict[tuple[str, str], KiteHolding] = {}
        for execution in self.executions():
            instrument = execution.instrument
            product = execution.product or _usual_product(instrument)
            if settled is not (execution.is_transfer and product == "CNC"):
                continue
            place = (instrument.key, product)
            before = sums.get(place) or KiteHolding(instrument, product, Decimal(0), Decimal(0))
            sums[place] = before.after(execution.bought, execution.price)
        return list(sums.values())

    def _record_fill(
        self,
        db: sqlite3.Connection,
        order: PaperOrder,
        quantity: Decimal,
        price: Decimal,
        at: int,
        moment: int,
        commission: Decimal | None,
        *,
        corrects: str | None = None,
        market_volume: Decimal | None = None,
    ) -> str:
        """An execution is of one leg of an iceberg order: what goes beyond that is one of the next leg. Each leg has a brokerage of its own, also
        where only that of the whole was planned. The id of the last is returned."""
        if order.ticket.display_quantity is not None and corrects is None and commission == 0:
            commission = self._commission(order)
        while corrects is None and (left := _left_in_leg(order)) is not None and left < quantity:
            super()._record_fill(db, order, left, price, at, moment, commission, market_volume=market_volume)
            order = self._existing(db, OrderRef(client_order_id="", broker_order_id=order.broker_order_id))
            quantity, commission = quantity - left, None if commission is None else self._commission(order)
        return super()._record_fill(
            db, order, quantity, price, at, moment, commission, corrects=corrects, market_volume=market_volume
        )

    def _commission(self, order: PaperOrder) -> Decimal:
        part, executed = order.ticket.display_quantity, _executed(order)
        if part is None:
            return super()._commission(order)
        is_begun = executed % part or executed >= order.ticket.quantity
        return Decimal(0) if is_begun else self.market.commission_per_order

    def _is_hidden(self, order: PaperOrder, fault: Fault) -> bool:
        tag = order.ticket.client_order_id
        return fault.concerns(tag, order.ticket.instrument.symbol) and self.find(tag) is None


def _executed(order: PaperOrder) -> Decimal:
    """What has ever filled: a leg that is done stays done, whatever of it is annulled later."""
    return sum((fill.quantity for fill in order.fills if fill.corrects is None), Decimal(0))


def _left_in_leg(order: PaperOrder) -> Decimal | None:
    """What can still fill of the leg at work; None: it is the last, or the order has no legs."""
    part, executed = order.ticket.display_quantity, _executed(order)
    if part is None or executed + (left := part - executed % part) >= order.ticket.quantity:
        return None
    return left


def _usual_product(instrument: Instrument) -> str:
    return "CNC" if instrument.exchange in ("NSE", "BSE") else "NRML"


def _hides(fault: Fault) -> bool:
    return fault.action == "hide"


@dataclass(frozen=True, slots=True)
class _Trade:
    trade_id: str
    quantity: Decimal
    price: Decimal
    time: datetime


@dataclass(frozen=True, slots=True)
class _Leg:
    """One row of the order list: an order, or one leg of an iceberg order."""

    order_id: str
    number: int
    quantity: Decimal
    trades: tuple[_Trade, ...]
    status: ReportStatus

    @property
    def filled(self) -> Decimal:
        return sum((trade.quantity for trade in self.trades), Decimal(0))


def _legs(order: PaperOrder, report: Report) -> list[_Leg]:
    if order.ticket.display_quantity is None:
        trades = tuple(_Trade(fill.fill_id, fill.quantity, fill.price, fill.time) for fill in report.fills)
        return [_Leg(order.broker_order_id, 1, order.ticket.quantity, trades, report.status)]
    # A leg that is done stays done, whatever of it is annulled later.
    waiting = [(fill, fill.quantity) for fill in order.fills if fill.corrects is None]
    legs: list[_Leg] = []
    left = order.ticket.quantity
    while left > 0:
        number, quantity, own = len(legs) + 1, min(order.ticket.display_quantity, left), list[_Trade]()
        left -= quantity
        missing = quantity
        while waiting and (missing or not left):
            fill, rest = waiting.pop(0)
            taken = min(missing, rest) if left else rest
            own += _trades_of(order, fill, taken, number, is_begun=rest < fill.quantity)
            missing = max(missing - taken, Decimal(0))
            if taken < rest:
                waiting.insert(0, (fill, rest - taken))
        order_id = order.broker_order_id if number == 1 else f"{order.broker_order_id}{number:02d}"
        status = report.status if missing else ReportStatus.FILLED
        legs.append(_Leg(order_id, number, quantity, tuple(own), status))
        if missing:
            break  # the next leg is placed when this one is done
    return legs


def _trades_of(order: PaperOrder, fill: PaperFill, taken: Decimal, number: int, *, is_begun: bool) -> list[_Trade]:
    """What a leg shows of so much of a fill: nothing if that was annulled, and a correction of it in the leg where it
    began."""
    if not fill.busted:
        return [_Trade(f"{fill.fill_id}{number:02d}", taken, fill.price, fill.time)]
    corrected = next((each for each in order.fills if each.corrects == fill.fill_id), None)
    if corrected is None or is_begun:
        return []
    return _trades_of(order, corrected, corrected.quantity, number, is_begun=False)


@dataclass(frozen=True, slots=True)
class Legs:
    """How the legs of iceberg orders are shown, since Zerodha does not say."""

    are_tagged: bool = True
    """Whether a later leg bears the order's tag, besides its parent's id."""
    follow_at_once: bool = True
    """Whether the next leg is in the list as soon as the one before it is done."""


USUAL_LEGS = Legs()


def order_items(order: PaperOrder, report: Report, token: int, shown_as: Legs = USUAL_LEGS) -> list[dict[str, Any]]:
    """An order's rows in the order list: itself, or the legs of an iceberg order so far."""
    items = [_order_item(order, report, leg, token) for leg in _legs(order, report)]
    if len(items) > 1 and not shown_as.are_tagged:
        items[1:] = [item | {"tag": None, "tags": []} for item in items[1:]]
    if (
        len(items) > 1
        and not shown_as.follow_at_once
        and items[-1]["status"] == "OPEN"
        and not items[-1]["filled_quantity"]
    ):
        items.pop()
    return items


def _order_item(order: PaperOrder, report: Report, leg: _Leg, token: int) -> dict[str, Any]:
    ticket = order.ticket
    is_open = leg.status is ReportStatus.WORKING
    placed_at = kite_time(order.placed_at)
    changed_at = kite_time(leg.trades[-1].time) if leg.trades else placed_at
    paid = sum((trade.quantity * trade.price for trade in leg.trades), Decimal(0))
    pending = max(leg.quantity - leg.filled, Decimal(0))
    return {
        "placed_by": order.account_id,
        "order_id": leg.order_id,
        "exchange_order_id": None if leg.status is ReportStatus.REJECTED else f"11{order.number:014d}",
        "parent_order_id": None if leg.number == 1 else order.broker_order_id,
        "status": _STATUS.get(leg.status, "OPEN" if ticket.stop_price is None or leg.filled else "TRIGGER PENDING"),
        "status_message": None if leg.status is ReportStatus.FILLED else report.reason,
        "status_message_raw": None if leg.status is ReportStatus.FILLED else report.reason,
        "order_timestamp": placed_at,
        "exchange_update_timestamp": changed_at,
        "exchange_timestamp": changed_at,
        "variety": ticket.variety or "regular",
        "modified": False,
        "exchange": ticket.instrument.exchange,
        "tradingsymbol": ticket.instrument.symbol,
        "instrument_token": token,
        "order_type": KITE_ORDER_TYPES[ticket.order_type],
        "transaction_type": ticket.side.value,
        "validity": "DAY" if ticket.tif is None else ticket.tif.value,
        "validity_ttl": 0,
        "product": ticket.product,
        "quantity": leg.quantity,
        "disclosed_quantity": 0,
        "price": ticket.limit_price or 0,
        "trigger_price": ticket.stop_price or 0,
        "average_price": round(paid / leg.filled, 4) if leg.filled else 0,
        "filled_quantity": leg.filled,
        "pending_quantity": pending if is_open else 0,
        "cancelled_quantity": 0 if is_open else pending,
        "market_protection": 0,
        "meta": {} if ticket.display_quantity is None else _iceberg_meta(ticket.quantity, ticket.display_quantity, leg),
        "tag": ticket.client_order_id or None,
        "tags": [ticket.client_order_id] if ticket.client_order_id else [],
        "guid": f"{order.number:x}X",
    }


def _iceberg_meta(total: Decimal, part: Decimal, leg: _Leg) -> dict[str, Any]:
    return {
        "iceberg": {
            "leg": leg.number,
            "legs": -(-int(total) // int(part)),
            "leg_quantity": part,
            "total_quantity": total,
            "remaining_quantity": max(total - part * leg.number, Decimal(0)),
        }
    }


def trade_items(order: PaperOrder, report: Report, token: int) -> list[dict[str, Any]]:
    """An order's rows in the trade list."""
    return [
        {
            "trade_id": trade.trade_id,
            "order_id": leg.order_id,
            "exchange": order.ticket.instrument.exchange,
            "tradingsymbol": order.ticket.instrument.symbol,
            "instrument_token": token,
            "product": order.ticket.product,
            "average_price": trade.price,
            "quantity": trade.quantity,
            "exchange_order_id": f"11{order.number:014d}",
            "transaction_type": order.ticket.side.value,
            "fill_timestamp": kite_time(trade.time),
            "order_timestamp": kite_time(trade.time)[11:],
            "exchange_timestamp": kite_time(trade.time),
        }
        for leg in _legs(order, report)
        for trade in leg.trades
    ]


def position_item(position: KiteHolding, token: int, multiplier: int = 1) -> dict[str, Any]:
    """A row of the net positions; `multiplier` is the units in one lot, if quantities are in lots."""
    price = position.average_price
    bought = position.quantity > 0
    return {
        "tradingsymbol": position.instrument.symbol,
        "exchange": position.instrument.exchange,
        "instrument_token": token,
        "product": position.product,
        "quantity": position.quantity,
        "overnight_quantity": 0,
        "multiplier": multiplier,
        "average_price": price,
        "close_price": 0,
        "last_price": price,
        "value": -position.quantity * price * multiplier,
        "pnl": 0,
        "m2m": 0,
        "unrealised": 0,
        "realised": 0,
        "buy_quantity": position.quantity if bought else 0,
        "sell_quantity": 0 if bought else -position.quantity,
    }


def quote_item(quote: ScriptedQuote, listing: Listing, now: datetime) -> dict[str, Any]:
    """A full quote. Kite has no -1 and no empty price: where there is none it is 0, and five levels of depth are always there."""

    def at(age_seconds: float | None) -> str | None:
        return None if age_seconds is None else kite_time(now - timedelta(seconds=age_seconds))

    def levels(price: Decimal | None) -> list[dict[str, Any]]:
        best = {"price": price or 0, "quantity": 100 if price else 0, "orders": 1 if price else 0}
        return [best, *({"price": 0, "quantity": 0, "orders": 0} for _ in range(4))]

    close = quote.close or 0
    return {
        "instrument_token": listing.token,
        "timestamp": at(quote.age_seconds),
        "last_trade_time": at(quote.last_age_seconds),
        "last_price": quote.last or 0,
        "last_quantity": 1,
        "buy_quantity": 100,
        "sell_quantity": 100,
        "volume": 1000,
        "average_price": quote.last or 0,
        "oi": 0,
        "oi_day_high": 0,
        "oi_day_low": 0,
        "net_change": 0,
        "lower_circuit_limit": 0,
        "upper_circuit_limit": 0,
        "ohlc": {"open": close, "high": close, "low": close, "close": close},
        "depth": {"buy": levels(quote.bid), "sell": levels(quote.ask)},
    }


def holding_item(holding: KiteHolding, sold: Decimal, token: int) -> dict[str, Any]:
    """A row of the holdings. What was `sold` of them today is taken off their quantity, and is a negative position until
    the day is over (Zerodha's support page on stocks sold from holdings)."""
    price = holding.average_price
    return {
        "tradingsymbol": holding.instrument.symbol,
        "exchange": holding.instrument.exchange,
        "instrument_token": token,
        "isin": "",
        "product": holding.product,
        "price": 0,
        "quantity": holding.quantity - sold,
        "used_quantity": sold,
        "t1_quantity": 0,
        "realised_quantity": holding.quantity,
        "authorised_quantity": 0,
        "opening_quantity": holding.quantity,
        "collateral_quantity": 0,
        "discrepancy": False,
        "average_price": price,
        "last_price": price,
        "close_price": price,
        "pnl": 0,
        "day_change": 0,
        "day_change_percentage": 0,
    }


def charges_item(asked: Mapping[str, Any], book: KiteBook) -> dict[str, Any]:
    """The virtual contract note of one order. For an order in the book, the cost of its fills up to the requested
    quantity. Raises Refused while the book has no commission for them."""
    total: Decimal | None = book.market.commission_per_order
    order = book.known(str(asked.get("order_id", "")))
    if order is not None:
        (order,) = (o for o in book.orders(order.ticket.client_order_id) if o.broker_order_id == order.broker_order_id)
        wanted, total = Decimal(str(asked["quantity"])), Decimal(0)
        for fill in (fill for fill in order.fills if not fill.busted):
            if wanted <= 0:
                break
            if fill.commission is None:
                raise Refused(502, "DataException", "The contract note is not available now.")
            wanted, total = wanted - fill.quantity, total + fill.commission
    return {
        **{name: asked.get(name) for name in ("transaction_type", "tradingsymbol", "exchange", "variety", "product")},
        **{name: asked.get(name) for name in ("order_type", "quantity")},
        "price": asked.get("average_price"),
        "charges": {
            "transaction_tax": 0,
            "transaction_tax_type": "stt",
            "exchange_turnover_charge": 0,
            "sebi_turnover_charge": 0,
            "brokerage": total,
            "stamp_duty": 0,
            "gst": {"igst": 0, "cgst": 0, "sgst": 0, "total": 0},
            "total": total,
        },
    }


def margins(book: KiteBook) -> dict[str, Any]:
    """The funds of both segments; all the money is in the first."""
    cash = {balance.currency: balance.cash for balance in book.balances()}.get("INR", Decimal(0))
    return {"equity": _segment(cash, enabled=True), "commodity": _segment(Decimal(0), enabled=False)}


def _segment(cash: Decimal, *, enabled: bool) -> dict[str, Any]:
    return {
        "enabled": enabled,
        "net": cash,
        "available": {
            "adhoc_margin": 0,
            "cash": cash,
            "opening_balance": cash,
            "live_balance": cash,
            "collateral": 0,
            "intraday_payin": 0,
        },
        "utilised": {
            "debits": 0,
            "exposure": 0,
            "m2m_realised": 0,
            "m2m_unrealised": 0,
            "option_premium": 0,
            "span": 0,
        },
    }


def kite_time(moment: datetime) -> str:
    """Indian time in whole seconds, without a zone."""
    return moment.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S")
