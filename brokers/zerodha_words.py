"""Zerodha's words and ours: instruments, order forms, order and trade lists; no calls and no clock."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from brokers.base import (
    AssetClass,
    Balance,
    BrokerPosition,
    Fill,
    Instrument,
    OptionRight,
    OrderType,
    Report,
    ReportStatus,
    Side,
    Ticket,
    Tif,
)
from brokers.errors import OrderRefused

IST = timezone(timedelta(hours=5, minutes=30), "IST")
"""Indian time has had no summer time since 1945."""
CURRENCY = "INR"
EXCHANGES = ("NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX")
PRODUCTS = ("CNC", "MIS", "NRML")
VARIETIES = ("regular", "amo", "iceberg")

_ASSET_CLASSES = {
    "NSE": (AssetClass.STOCK, AssetClass.ETF),
    "BSE": (AssetClass.STOCK, AssetClass.ETF),
    "NFO": (AssetClass.OPTION, AssetClass.FUTURE),
    "BFO": (AssetClass.OPTION, AssetClass.FUTURE),
    "CDS": (AssetClass.FOREX, AssetClass.OPTION, AssetClass.FUTURE),
    "BCD": (AssetClass.FOREX, AssetClass.OPTION, AssetClass.FUTURE),
    "MCX": (AssetClass.OPTION, AssetClass.FUTURE),
}
_HOME_EXCHANGE = {
    AssetClass.STOCK: "NSE",
    AssetClass.ETF: "NSE",
    AssetClass.OPTION: "NFO",
    AssetClass.FUTURE: "NFO",
    AssetClass.FOREX: "CDS",
}
_KINDS = {
    AssetClass.STOCK: frozenset({"EQ"}),
    AssetClass.ETF: frozenset({"EQ"}),
    AssetClass.FUTURE: frozenset({"FUT"}),
    AssetClass.FOREX: frozenset({"FUT"}),
    AssetClass.OPTION: frozenset({"CE", "PE"}),
}
_ORDER_TYPES = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "SL-M",
    OrderType.STOP_LIMIT: "SL",
}
_FINAL = {
    "COMPLETE": ReportStatus.FILLED,
    "CANCELLED": ReportStatus.CANCELLED,
    "REJECTED": ReportStatus.REJECTED,
}
_OUR_TAG = re.compile(r"[a-z][a-z0-9]{18}")
_CANDIDATES_NAMED = 5
_LEAST_ICEBERG_LEGS = 2
_MICROSECOND = timedelta(microseconds=1)

Row = Mapping[str, Any]
"""One element of a list that Kite sends."""


# Instruments


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of an exchange's instruments list. Prices in rupees; `lot` is the step of quantities, `tick` that of prices."""

    symbol: str
    exchange: str
    name: str
    kind: str
    """EQ, FUT, CE or PE."""
    segment: str
    tick: Decimal
    lot: Decimal
    expiry: date | None
    strike: Decimal


class Listing:
    """One exchange's instruments of one day."""

    def __init__(self, exchange: str, rows: Iterable[Row]) -> None:
        self.exchange = exchange
        self._by_symbol: dict[str, Listed] = {}
        self._derivatives: defaultdict[str, list[Listed]] = defaultdict(list)
        for row in rows:
            listed = _listed(row)
            self._by_symbol[listed.symbol] = listed
            if listed.kind != "EQ":
                self._derivatives[listed.name].append(listed)

    def by_symbol(self, symbol: str) -> Listed | None:
        return self._by_symbol.get(symbol)

    def resolve(self, thing: Instrument) -> Listed | None:
        """The line that is meant: under its trading symbol, else by underlying, expiry, strike and right; None: there is none.
        Raises OrderRefused for one that cannot be traded or that several lines fit, which are then named."""
        symbol = thing.symbol.removeprefix(f"{self.exchange}:")
        listed = self._by_symbol.get(symbol)
        if listed is None:
            fitting = [each for each in self._derivatives.get(thing.underlying or symbol, ()) if _fits(each, thing)]
            if not fitting and thing.underlying is not None:
                fitting = [each for each in self._derivatives.get(symbol, ()) if _fits(each, thing)]
            if len(fitting) > 1:
                names = ", ".join(sorted(each.symbol for each in fitting)[:_CANDIDATES_NAMED])
                raise OrderRefused(
                    f"{thing.symbol} on {self.exchange} may be any of {len(fitting)} instruments: {names}"
                )
            return fitting[0] if fitting else None
        if listed.segment == "INDICES" or listed.lot < 1:
            raise OrderRefused(f"{listed.symbol} on {self.exchange} is an index: it cannot be traded itself")
        if not _fits(listed, thing):
            raise OrderRefused(
                f"{listed.symbol} on {self.exchange} is not the {thing.asset_class} that the order describes"
            )
        return listed


def _listed(row: Row) -> Listed:
    expiry = row["expiry"]
    return Listed(
        symbol=row["tradingsymbol"],
        exchange=row["exchange"],
        name=row["name"],
        kind=row["instrument_type"],
        segment=row["segment"],
        # The library has made floats of them; the shortest text of such a float is the text that it was made from.
        tick=Decimal(str(row["tick_size"])),
        strike=Decimal(str(row["strike"])),
        lot=Decimal(row["lot_size"]),
        expiry=expiry if isinstance(expiry, date) else None,
    )


def _fits(listed: Listed, thing: Instrument) -> bool:
    right = {"CE": OptionRight.CALL, "PE": OptionRight.PUT}.get(listed.kind)
    expiry = "" if listed.expiry is None else listed.expiry.strftime("%Y%m%d")
    return (
        listed.kind in _KINDS.get(thing.asset_class, ())
        and (thing.expiry is None or expiry.startswith(thing.expiry))
        and (thing.strike is None or listed.strike == thing.strike)
        and (thing.right is None or right is thing.right)
    )


def exchange_of(thing: Instrument) -> str:
    """Where the instrument trades: as it says, else its kind's home. Raises OrderRefused for an exchange that Zerodha has not."""
    exchange = thing.exchange
    prefix = thing.symbol.partition(":")[0]
    if not exchange and prefix in EXCHANGES:
        exchange = prefix
    exchange = (exchange or _HOME_EXCHANGE.get(thing.asset_class, "NSE")).upper()
    if exchange not in EXCHANGES:
        raise OrderRefused(f"Zerodha does not trade on {exchange}; known are {', '.join(EXCHANGES)}", unsupported=True)
    if thing.currency not in (None, CURRENCY):
        raise OrderRefused(f"Zerodha trades in {CURRENCY}, not in {thing.currency}", unsupported=True)
    return exchange


def asset_classes(exchanges: Iterable[str]) -> frozenset[AssetClass]:
    """What can be traded on these exchanges."""
    return frozenset(kind for exchange in exchanges for kind in _ASSET_CLASSES.get(exchange, ()))


# Order forms


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What an order that does not say is sent with."""

    market_protection: Decimal = Decimal(-1)
    """-1: Zerodha's own; else a per cent above 0 and up to 100."""
    equity_product: str = "CNC"
    derivatives_product: str = "NRML"
    iceberg_legs: int = 5


def order_form(ticket: Ticket, listed: Listed, habits: Habits) -> dict[str, object]:
    """The arguments of the placing call. Prices are rounded to the tick, purchases down and sales up, so that the order never pays more or
    takes less than its author said. Raises OrderRefused for what Zerodha would not take; a quantity is never changed."""
    is_derivative = listed.kind != "EQ"
    product = (ticket.product or (habits.derivatives_product if is_derivative else habits.equity_product)).upper()
    variety = (ticket.variety or "regular").lower()
    if product not in PRODUCTS or (is_derivative and product == "CNC"):
        raise OrderRefused(f"{listed.symbol} is not traded with the product {product}", unsupported=True)
    if variety not in VARIETIES:
        raise OrderRefused(
            f"The variety {variety} is not supported; known are {', '.join(VARIETIES)}", unsupported=True
        )
    if ticket.quantity != ticket.quantity.to_integral_value() or ticket.quantity % listed.lot or ticket.quantity <= 0:
        raise OrderRefused(f"{ticket.quantity:f} of {listed.symbol} is no whole number of lots of {listed.lot:f}")
    form: dict[str, object] = {
        "variety": variety,
        "exchange": listed.exchange,
        "tradingsymbol": listed.symbol,
        "transaction_type": ticket.side.value,
        "quantity": int(ticket.quantity),
        "product": product,
        "order_type": _ORDER_TYPES[ticket.order_type],
        "validity": (ticket.tif or Tif.DAY).value,
        "tag": ticket.client_order_id,
    }
    if ticket.tif is Tif.GTC:
        raise OrderRefused("Zerodha has no orders that are good till cancelled", unsupported=True)
    if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT):
        form["price"] = _price(ticket.limit_price, "a limit price", ticket.side, listed)
    else:
        form["market_protection"] = format(habits.market_protection, "f")
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        form["trigger_price"] = _price(ticket.stop_price, "a stop price", ticket.side, listed)
    if variety == "iceberg":
        form |= _iceberg(ticket, listed, habits.iceberg_legs)
    return form


def _price(price: Decimal | None, words: str, side: Side, listed: Listed) -> str:
    if price is None:
        raise OrderRefused(f"The order needs {words}")
    rounding = ROUND_FLOOR if side is Side.BUY else ROUND_CEILING
    rounded = (price / listed.tick).to_integral_value(rounding) * listed.tick
    if rounded <= 0:
        raise OrderRefused(f"{words.removeprefix('a ').capitalize()} {price:f} is less than one tick ({listed.tick:f})")
    return format(rounded, "f")


def _iceberg(ticket: Ticket, listed: Listed, most_legs: int) -> dict[str, object]:
    lots = int(ticket.quantity / listed.lot)
    legs = min(most_legs, lots)
    if legs < _LEAST_ICEBERG_LEGS or ticket.order_type is OrderType.MARKET:
        raise OrderRefused("An iceberg order has a limit and at least two lots")
    part = -(-lots // legs)
    # With parts of whole lots the last leg may come out empty.
    return {"iceberg_legs": -(-lots // part), "iceberg_quantity": int(part * listed.lot)}


# Order and trade lists


def tag_of(order: Row) -> str:
    """Our tag on the order; empty for somebody else's."""
    for tag in (order.get("tag"), *(order.get("tags") or ())):
        if isinstance(tag, str) and _OUR_TAG.fullmatch(tag):
            return tag
    return ""


def reports(orders: Iterable[Row], fills: Mapping[str, Sequence[Fill]]) -> list[Report]:
    """One report for each order, one for all legs of an iceberg order, as far as the list shows them. `fills` by order id."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for order in orders:
        tag = tag_of(order)
        key = ("iceberg", tag) if tag and order.get("variety") == "iceberg" else ("", order["order_id"])
        group = groups.setdefault(key, [])
        if all(leg["order_id"] != order["order_id"] for leg in group):
            group.append(order)
    return [_report(sorted(legs, key=_leg_number), fills) for legs in groups.values()]


def _leg_number(order: Row) -> int:
    return int((order.get("meta") or {}).get("iceberg", {}).get("leg", 1))


def _report(legs: Sequence[Row], fills: Mapping[str, Sequence[Fill]]) -> Report:
    own = [fill for leg in legs for fill in fills.get(leg["order_id"], ())]
    told = sum((Decimal(leg.get("filled_quantity") or 0) for leg in legs), Decimal(0))
    last = legs[-1]
    status = _FINAL.get(last["status"], ReportStatus.WORKING)
    total = (last.get("meta") or {}).get("iceberg", {}).get("total_quantity")
    if status is ReportStatus.FILLED and total is not None and told < Decimal(total):
        # This leg is done; the next one comes by itself.
        status = ReportStatus.WORKING
    return Report(
        client_order_id=tag_of(legs[0]),
        broker_order_id=str(legs[0]["order_id"]),
        status=status,
        # The trades are asked for after the orders and may be ahead of them.
        filled_quantity=max(told, sum((fill.quantity for fill in own), Decimal(0))),
        fills=tuple(own),
        reason=last.get("status_message") or last.get("status_message_raw") or None,
    )


def fills_by_order(trades: Iterable[Row]) -> dict[str, list[Fill]]:
    """The executions of each order, oldest first. Zerodha tells whole seconds: those of one second are kept in their sequence by
    microseconds. A trade's id is unique for its exchange and day only; within an order, which has one of each, it is enough."""
    by_order: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for trade in trades:
        by_order[str(trade["order_id"])][str(trade["trade_id"])] = trade
    return {order_id: _in_sequence(own.values()) for order_id, own in by_order.items()}


def _in_sequence(trades: Iterable[Row]) -> list[Fill]:
    fills: list[Fill] = []
    for trade in sorted(
        trades, key=lambda trade: (_fill_time(trade), len(str(trade["trade_id"])), str(trade["trade_id"]))
    ):
        time = _fill_time(trade)
        if fills and time <= fills[-1].time:
            time = fills[-1].time + _MICROSECOND
        fills.append(
            Fill(
                fill_id=str(trade["trade_id"]),
                quantity=Decimal(trade["quantity"]),
                price=Decimal(trade["average_price"]),
                time=time,
            )
        )
    return fills


def _fill_time(trade: Row) -> datetime:
    return utc(trade.get("fill_timestamp") or trade.get("exchange_timestamp") or trade["order_timestamp"])


def utc(told: datetime | str) -> datetime:
    """Kite's times name no zone and are Indian."""
    moment = told if isinstance(told, datetime) else datetime.fromisoformat(told)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=IST)).astimezone(UTC)


def working_legs(orders: Iterable[Row], client_order_id: str, order_id: str | None) -> list[Row]:
    """The orders to be cancelled when this one is: itself, or the legs of an iceberg order that are not finished; else all of them."""
    orders = list(orders)
    own = [order for order in orders if order["order_id"] == order_id] if order_id is not None else []
    if not own or own[0].get("variety") == "iceberg":
        own = [order for order in orders if client_order_id and tag_of(order) == client_order_id] or own
    return [order for order in own if order["status"] not in _FINAL] or own[-1:]


# Contract notes


def note_requests(order: Row, fills: Sequence[Fill]) -> list[dict[str, object]]:
    """What a contract note is asked for: the order after its first fill, after its second, and so on, since brokerage is per order."""
    requests: list[dict[str, object]] = []
    quantity = paid = Decimal(0)
    for fill in fills:
        quantity += fill.quantity
        paid += fill.quantity * fill.price
        requests.append(
            {
                **{
                    name: order[name]
                    for name in ("order_id", "exchange", "tradingsymbol", "transaction_type", "variety")
                },
                **{name: order[name] for name in ("product", "order_type")},
                "quantity": int(quantity),
                "average_price": float(paid / quantity),
            }
        )
    return requests


def charged(note: Row) -> Decimal:
    """All that an order costs by its contract note: brokerage, taxes and charges, in rupees."""
    return Decimal(note["charges"]["total"])


# Account


def positions(
    net: Iterable[Row], holdings: Iterable[Row], kinds: Mapping[tuple[str, str], Listed]
) -> list[BrokerPosition]:
    """What is held, products taken together; settled shares come from the holdings. `kinds` by exchange and symbol, as far as known."""
    held: defaultdict[tuple[str, str], list[tuple[Decimal, Decimal]]] = defaultdict(list)
    for row in net:
        held[row["exchange"], row["tradingsymbol"]].append((Decimal(row["quantity"]), Decimal(row["average_price"])))
    for row in holdings:
        quantity = Decimal(row.get("quantity") or 0) + Decimal(row.get("t1_quantity") or 0)
        held[row["exchange"], row["tradingsymbol"]].append((quantity, Decimal(row["average_price"])))
    found = []
    for (exchange, symbol), parts in held.items():
        quantity = sum((part for part, _ in parts), Decimal(0))
        if quantity:
            cost = sum((part * price for part, price in parts), Decimal(0))
            instrument = _instrument(exchange, symbol, kinds.get((exchange, symbol)))
            found.append(
                BrokerPosition(
                    instrument=instrument,
                    quantity=quantity,
                    average_price=cost / quantity,
                    also_called=frozenset({symbol}),
                )
            )
    return found


def _instrument(exchange: str, symbol: str, listed: Listed | None) -> Instrument:
    kind = "EQ" if listed is None and exchange in ("NSE", "BSE") else "FUT" if listed is None else listed.kind
    if kind == "EQ":
        return Instrument(symbol=symbol, exchange=exchange)
    if listed is None or kind == "FUT":
        expiry = None if listed is None or listed.expiry is None else listed.expiry.strftime("%Y%m%d")
        return Instrument(
            symbol=symbol,
            asset_class=AssetClass.FUTURE,
            exchange=exchange,
            expiry=expiry,
            underlying=None if listed is None else listed.name,
        )
    return Instrument(
        symbol=symbol,
        asset_class=AssetClass.OPTION,
        exchange=exchange,
        expiry=None if listed.expiry is None else listed.expiry.strftime("%Y%m%d"),
        strike=listed.strike,
        right=OptionRight.CALL if listed.kind == "CE" else OptionRight.PUT,
        underlying=listed.name,
    )


def balances(margins: Mapping[str, Row]) -> list[Balance]:
    """The cash of the segments that are enabled, taken together. What holdings are worth is not told here."""
    cash = Decimal(0)
    for segment in margins.values():
        if segment.get("enabled", True):
            available = segment["available"]
            live = available.get("live_balance")
            cash += Decimal(available["cash"] if live is None else live)
    return [Balance(currency=CURRENCY, cash=cash)]


def account_notes(profile: Row) -> list[str]:
    """What the operator should know of the account, one sentence each."""
    missing = [
        exchange
        for exchange in ("NSE", "BSE", "NFO", "BFO", "CDS", "MCX")
        if exchange not in profile.get("exchanges", ())
    ]
    notes = [f"The token is good, for user {profile.get('user_id')}; Zerodha ends it at about 06:00 Indian time."]
    if missing:
        notes.append(f"The account is not enabled for {', '.join(missing)}.")
    if (profile.get("meta") or {}).get("demat_consent") == "physical":
        notes.append(
            "Shares cannot be sold by the API before the demat holdings are authorised (TPIN) or a DDPI is signed."
        )
    return notes
