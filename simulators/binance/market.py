"""The contracts of the simulated Binance, and the reading of its order forms. No book, no server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from brokers.base import AssetClass, Instrument, OrderType, Side, Ticket, Tif

CONDITIONAL_TYPES = {"STOP_MARKET": OrderType.STOP, "STOP": OrderType.STOP_LIMIT}
_PLAIN_TYPES = {"MARKET": OrderType.MARKET, "LIMIT": OrderType.LIMIT}
ALGO = "algo"
"""The variety of a conditional order in the book."""
REDUCE_ONLY = "reduce-only"
"""The product of an order that may only reduce the one position of its contract; of any other, the side of its position."""
LONG, SHORT, BOTH = "LONG", "SHORT", "BOTH"


class Refused(Exception):
    """An error as the API answers it."""

    def __init__(self, code: int, message: str, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    base: str
    quote: str = "USDT"
    delivery: datetime | None = None
    tick: Decimal = Decimal("0.01")
    step: Decimal = Decimal("0.001")
    most: Decimal = Decimal(10_000)
    market_most: Decimal = Decimal(1_000)
    least_value: Decimal = Decimal(5)
    market_step: Decimal | None = None
    """None: as for other orders."""
    perpetual_type: str = "PERPETUAL"
    status: str = "TRADING"
    last_price: Decimal | None = None
    """None: the book makes one up, always the same."""
    day_volume: Decimal = Decimal(1_440_000)
    """Traded in the last 24 hours, in the base asset."""

    @property
    def symbol(self) -> str:
        pair = self.base + self.quote
        return pair if self.delivery is None else f"{pair}_{self.delivery:%y%m%d}"

    @property
    def instrument(self) -> Instrument:
        """As the adapter names positions, so that both sides' rows are the same."""
        if self.delivery is None:
            return Instrument(symbol=self.symbol, asset_class=AssetClass.CRYPTO, currency=self.quote)
        expiry = f"{self.delivery:%Y%m%d}"
        return Instrument(symbol=self.symbol, asset_class=AssetClass.FUTURE, currency=self.quote, expiry=expiry)

    def as_json(self) -> dict[str, Any]:
        def lot(kind: str, most: Decimal, step: Decimal) -> dict[str, str]:
            return {
                "filterType": kind,
                "minQty": str(step),
                "maxQty": str(most),
                "stepSize": str(step),
            }

        perpetual = self.delivery is None
        delivery = datetime(2100, 12, 25, 8, tzinfo=UTC) if self.delivery is None else self.delivery
        return {
            "symbol": self.symbol,
            "pair": self.base + self.quote,
            "contractType": self.perpetual_type if perpetual else "CURRENT_QUARTER",
            "deliveryDate": int(delivery.timestamp() * 1000),
            "status": self.status,
            "baseAsset": self.base,
            "quoteAsset": self.quote,
            "marginAsset": self.quote,
            # Not the tick, although it looks like one.
            "pricePrecision": 8,
            "quantityPrecision": 8,
            "triggerProtect": "0.05",
            "orderTypes": ["LIMIT", "MARKET", *CONDITIONAL_TYPES],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": str(self.tick),
                    "maxPrice": "10000000",
                    "tickSize": str(self.tick),
                },
                lot("LOT_SIZE", self.most, self.step),
                lot("MARKET_LOT_SIZE", self.market_most, self.step if self.market_step is None else self.market_step),
                {"filterType": "MAX_NUM_ORDERS", "limit": 200},
                {"filterType": "MIN_NOTIONAL", "notional": str(self.least_value)},
                {"filterType": "PERCENT_PRICE", "multiplierUp": "1.05", "multiplierDown": "0.95"},
            ],
        }


LISTINGS = (
    Listing(base="SOL", last_price=Decimal("100.25")),
    Listing(base="BTC", tick=Decimal("0.10")),
    Listing(base="ETH"),
    Listing(base="ETH", quote="USDC"),
    Listing(base="BTC", tick=Decimal("0.10"), delivery=datetime(2030, 3, 29, 8, tzinfo=UTC)),
    Listing(base="OLD", status="SETTLING"),
    Listing(base="XAU", perpetual_type="TRADIFI_PERPETUAL"),
    Listing(base="EOS", market_step=Decimal(0)),
)


def read_order(form: Mapping[str, str], listings: Mapping[str, Listing], *, is_hedged: bool) -> Ticket:
    """An order as its form says it. Raises Refused as Binance would."""
    is_algo = "algoType" in form
    kind = form.get("type", "")
    if not is_algo and kind in (*CONDITIONAL_TYPES, "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"):
        raise Refused(
            -4120, "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead."
        )
    types = CONDITIONAL_TYPES if is_algo else _PLAIN_TYPES
    if kind not in types:
        raise Refused(-1116, "Invalid orderType.")
    listing = _listing(form, listings)
    order_type = types[kind]
    quantity = _number(form, "quantity")
    most = listing.market_most if order_type in (OrderType.MARKET, OrderType.STOP) else listing.most
    if quantity <= 0:
        raise Refused(-4003, "Quantity less than or equal to zero.")
    if quantity > most:
        raise Refused(-4005, "Quantity greater than max quantity.")
    if quantity % listing.step:
        raise Refused(-1111, "Precision is over the maximum defined for this asset.")
    limit = _price(form, "price", listing) if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None
    stop = _price(form, "triggerPrice", listing) if is_algo else None
    reduce_only = form.get("reduceOnly") == "true"
    side = form.get("positionSide", "BOTH")
    if is_hedged is not (side in ("LONG", "SHORT")):
        raise Refused(-4061, "Order's position side does not match user's setting.")
    if is_hedged and "reduceOnly" in form:
        raise Refused(-1106, "Parameter 'reduceonly' sent when not required.")
    is_closing = reduce_only or (side, form.get("side")) in ((LONG, "SELL"), (SHORT, "BUY"))
    price = limit or stop
    if price is not None and not is_closing and quantity * price < listing.least_value:
        raise Refused(
            -4164, f"Order's notional must be no smaller than {listing.least_value} (unless you choose reduce only)."
        )
    tif = form.get("timeInForce")
    if order_type is OrderType.LIMIT and tif is None:
        raise Refused(-1102, "Mandatory parameter 'timeInForce' was not sent, was empty/null, or malformed.")
    if tif not in (None, "GTC", "IOC"):
        raise Refused(-1115, "Invalid timeInForce.")
    return Ticket(
        client_order_id=form.get("clientAlgoId" if is_algo else "newClientOrderId", ""),
        instrument=listing.instrument,
        side=Side(form["side"]),
        quantity=quantity,
        order_type=order_type,
        limit_price=limit,
        stop_price=stop,
        reference_price=listing.last_price,
        tif=None if tif is None else Tif(tif),
        product=side if is_hedged else REDUCE_ONLY if reduce_only else None,
        variety=ALGO if is_algo else None,
    )


def _listing(form: Mapping[str, str], listings: Mapping[str, Listing]) -> Listing:
    listing = listings.get(form.get("symbol", ""))
    if listing is None:
        raise Refused(-1121, "Invalid symbol.")
    if listing.status != "TRADING":
        raise Refused(-4140, "Invalid symbol status for opening position.")
    return listing


def _price(form: Mapping[str, str], name: str, listing: Listing) -> Decimal:
    price = _number(form, name)
    if price % listing.tick:
        raise Refused(-4014, "Price not increased by tick size.")
    return price


def _number(form: Mapping[str, str], name: str) -> Decimal:
    said = form.get(name)
    if said is None:
        raise Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    try:
        return Decimal(said)
    except InvalidOperation:
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'.") from None
