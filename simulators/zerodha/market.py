"""The simulated Zerodha's instruments, and its checks of an order form. No server, no book."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from brokers.base import AssetClass, Instrument, OrderType, Side, Ticket, Tif

EXCHANGES = ("NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX")
ICEBERG = "iceberg"
VARIETIES = ("regular", "amo", ICEBERG)
PRODUCTS = ("CNC", "MIS", "NRML")
LONGEST_TAG = 20
MOST_ICEBERG_LEGS = 50

_ORDER_TYPES = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "SL-M": OrderType.STOP,
    "SL": OrderType.STOP_LIMIT,
}
KITE_ORDER_TYPES = {ours: theirs for theirs, ours in _ORDER_TYPES.items()}
_HEADER = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange"


class Refused(Exception):
    """An error answer of the API: HTTP status, Kite's error type and message."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One line of the instruments list. Prices are in rupees; `expiry` is YYYY-MM-DD or empty."""

    token: int
    symbol: str
    exchange: str
    name: str
    kind: str = "EQ"
    last_price: Decimal = Decimal(100)
    tick: Decimal = Decimal("0.05")
    lot: int = 1
    multiplier: int = 1
    """Units per lot, which only positions show, for contracts whose quantities are in lots."""
    freeze: int | None = None
    """The most that the exchange takes in one order; no list of Kite's names it. None: no bound here."""
    expiry: str = ""
    strike: Decimal = Decimal(0)

    @property
    def segment(self) -> str:
        if self.name in ("NIFTY 50", "SENSEX"):
            return "INDICES"
        return self.exchange if self.kind == "EQ" else f"{self.exchange}-{'FUT' if self.kind == 'FUT' else 'OPT'}"

    def instrument(self) -> Instrument:
        asset_class = {"EQ": AssetClass.STOCK, "FUT": AssetClass.FUTURE}.get(self.kind, AssetClass.OPTION)
        return Instrument(symbol=self.symbol, asset_class=asset_class, exchange=self.exchange)


LISTINGS: tuple[Listing, ...] = (
    Listing(token=408065, symbol="INFY", exchange="NSE", name="INFOSYS", last_price=Decimal("1485.50")),
    Listing(token=738561, symbol="RELIANCE", exchange="NSE", name="RELIANCE INDUSTRIES", tick=Decimal("0.1")),
    Listing(token=2707457, symbol="NIFTYBEES", exchange="NSE", name="NIP IND ETF NIFTY BEES", tick=Decimal("0.01")),
    Listing(token=256265, symbol="NIFTY 50", exchange="NSE", name="NIFTY 50", tick=Decimal(0), lot=0),
    Listing(token=128053508, symbol="INFY", exchange="BSE", name="INFOSYS", last_price=Decimal("1485.35")),
    Listing(
        token=13568258, symbol="NIFTY26DECFUT", exchange="NFO", name="NIFTY", kind="FUT", lot=75, expiry="2026-12-31",
        freeze=1800,
    ),
    Listing(
        token=13568514, symbol="INFY26DEC1500CE", exchange="NFO", name="INFY", kind="CE", lot=400,
        expiry="2026-12-29", strike=Decimal(1500), last_price=Decimal("31.40"),
    ),
    Listing(
        token=13568770, symbol="INFY26D081500CE", exchange="NFO", name="INFY", kind="CE", lot=400,
        expiry="2026-12-08", strike=Decimal(1500), last_price=Decimal("12.10"),
    ),
    Listing(
        token=13569026, symbol="INFY26DEC1500PE", exchange="NFO", name="INFY", kind="PE", lot=400,
        expiry="2026-12-29", strike=Decimal(1500), last_price=Decimal("44.05"),
    ),
    Listing(
        token=219002122, symbol="SENSEX26DECFUT", exchange="BFO", name="SENSEX", kind="FUT", lot=20, expiry="2026-12-24"
    ),
    Listing(
        token=412675, symbol="USDINR26DECFUT", exchange="CDS", name="USDINR", kind="FUT",
        tick=Decimal("0.0025"), expiry="2026-12-29", last_price=Decimal("88.1225"), multiplier=1000,
    ),
    Listing(
        token=109134855, symbol="GOLDM26DECFUT", exchange="MCX", name="GOLDM", kind="FUT",
        tick=Decimal(1), expiry="2026-12-04", last_price=Decimal(121500), multiplier=10,
    ),
)  # fmt: skip
"""A few of each market; dates and prices are invented."""


def as_csv(listings: Iterable[Listing]) -> str:
    """The instruments list as the API sends it."""
    page = io.StringIO()
    page.write(_HEADER + "\n")
    writer = csv.writer(page, lineterminator="\n")
    for each in listings:
        writer.writerow(
            (
                *(each.token, each.token // 256, each.symbol, each.name, 0, each.expiry, each.strike),
                *(each.tick, each.lot, each.kind, each.segment, each.exchange),
            )
        )
    return page.getvalue()


def read_order(variety: str, form: Mapping[str, str], listings: Mapping[tuple[str, str], Listing]) -> Ticket:
    """The order in a form. Raises Refused, as the API would, for anything that the broker would not accept."""
    if variety not in VARIETIES or form.get("variety", variety) != variety:
        raise Refused(400, "InputException", f"Invalid `variety`: {variety}.")
    tag = form.get("tag", "")
    if len(tag) > LONGEST_TAG or not re.fullmatch(r"[A-Za-z0-9]*", tag):
        raise Refused(400, "InputException", f"Invalid `tag`: at most {LONGEST_TAG} letters and digits.")
    listing = _listing(form, listings)
    order_type = _ORDER_TYPES.get(form.get("order_type", ""))
    if order_type is None:
        raise Refused(400, "InputException", "Invalid `order_type`.")
    _check_terms(form, listing)
    if order_type in (OrderType.MARKET, OrderType.STOP):
        _check_market_protection(form.get("market_protection"))
    quantity = _number(form, "quantity")
    if quantity != int(quantity) or quantity <= 0:
        raise Refused(400, "InputException", "Invalid `quantity`.")
    if quantity % listing.lot:
        raise Refused(400, "InputException", f"Invalid quantity. Quantity should be in multiples of {listing.lot}.")
    if form.get("autoslice") == "true":
        raise Refused(400, "InputException", "The simulator makes one order of each call.")
    part = _iceberg_part(form, quantity, listing.lot) if variety == ICEBERG else None
    if listing.freeze is not None and (part or quantity) > listing.freeze:
        raise Refused(
            400,
            "InputException",
            f"The order quantity {part or quantity:f} is higher than the maximum quantity of {listing.freeze} allowed by "
            "the exchanges. Please reduce the order quantity or use iceberg orders.",
        )
    limited = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
    stopped = order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
    limit_price = _price(form, "price", listing) if limited else None
    stop_price = _price(form, "trigger_price", listing) if stopped else None
    _check_sides(form["transaction_type"], limit_price, stop_price)
    return Ticket(
        client_order_id=tag,
        instrument=listing.instrument(),
        side=Side(form["transaction_type"]),
        quantity=quantity,
        order_type=order_type,
        limit_price=limit_price,
        stop_price=stop_price,
        reference_price=listing.last_price,
        tif=Tif(form["validity"]),
        product=form["product"],
        variety=variety,
        display_quantity=part,
    )


def _listing(form: Mapping[str, str], listings: Mapping[tuple[str, str], Listing]) -> Listing:
    exchange, symbol = form.get("exchange", ""), form.get("tradingsymbol", "")
    if exchange not in EXCHANGES:
        raise Refused(400, "InputException", "Invalid `exchange`.")
    listing = listings.get((exchange, symbol))
    if listing is None or listing.lot < 1:
        raise Refused(
            400,
            "InputException",
            "The instrument you are placing an order for has either expired or does not exist.",
        )
    return listing


def _check_terms(form: Mapping[str, str], listing: Listing) -> None:
    allowed = {
        "transaction_type": ("BUY", "SELL"),
        "validity": ("DAY", "IOC"),
        "product": ("CNC", "MIS") if listing.kind == "EQ" else ("NRML", "MIS"),
    }
    for name, values in allowed.items():
        if form.get(name) not in values:
            raise Refused(400, "InputException", f"Invalid `{name}`.")


def _check_sides(side: str, limit_price: Decimal | None, stop_price: Decimal | None) -> None:
    if limit_price is None or stop_price is None:
        return
    if side == "BUY" and stop_price > limit_price:
        raise Refused(400, "InputException", "Trigger price for stoploss buy orders cannot be above the limit price.")
    if side == "SELL" and stop_price < limit_price:
        raise Refused(400, "InputException", "Trigger price for stoploss sell orders cannot be below the limit price.")


def _check_market_protection(given: str | None) -> None:
    try:
        protection = Decimal(given or "0")
    except InvalidOperation as exc:
        raise Refused(400, "InputException", "Invalid `market_protection`.") from exc
    if protection == 0:
        raise Refused(
            400,
            "InputException",
            "Market orders without market protection are not allowed via API. "
            "Please set market protection or use a Limit order.",
        )
    if protection != -1 and not 0 < protection <= 100:
        raise Refused(400, "InputException", "Invalid `market_protection`.")


def _iceberg_part(form: Mapping[str, str], quantity: Decimal, lot: int) -> Decimal:
    """The displayed quantity of an iceberg order: the quantity by the legs, rounded up to whole lots, and no other."""
    legs, part = _number(form, "iceberg_legs"), _number(form, "iceberg_quantity")
    if legs != int(legs) or not 2 <= legs <= MOST_ICEBERG_LEGS:
        raise Refused(400, "InputException", "Invalid `iceberg_legs`.")
    if part != -(-int(quantity) // (int(legs) * lot)) * lot or (legs - 1) * part >= quantity:
        raise Refused(400, "InputException", "Invalid `iceberg_quantity`.")
    return part


def _price(form: Mapping[str, str], name: str, listing: Listing) -> Decimal:
    price = _number(form, name)
    if price <= 0:
        raise Refused(400, "InputException", f"Invalid `{name}`.")
    if price % listing.tick:
        raise Refused(
            400,
            "InputException",
            f"Tick size for this script is {listing.tick * 100:f} paise. Kindly enter price in the multiple of tick size.",
        )
    return price


def _number(form: Mapping[str, str], name: str) -> Decimal:
    try:
        number = Decimal(form.get(name, "0"))
    except InvalidOperation as exc:
        raise Refused(400, "InputException", f"Invalid `{name}`.") from exc
    if not number.is_finite():
        raise Refused(400, "InputException", f"Invalid `{name}`.")
    return number
