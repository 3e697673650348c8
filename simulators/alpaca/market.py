"""The simulated Alpaca's assets, and its checks of an order. No server, no book."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from brokers.base import AssetClass, Instrument, OptionRight, OrderType, Side, Ticket, Tif

MOST_CLIENT_ID_CHARACTERS = 128
_ORDER_TYPES = {
    "market": OrderType.MARKET,
    "limit": OrderType.LIMIT,
    "stop": OrderType.STOP,
    "stop_limit": OrderType.STOP_LIMIT,
}
ALPACA_ORDER_TYPES = {ours: theirs for theirs, ours in _ORDER_TYPES.items()}
_TYPES = {
    "us_equity": frozenset(_ORDER_TYPES),
    "us_option": frozenset({"market", "limit"}),
    "crypto": frozenset({"market", "limit", "stop_limit"}),
}
_TIFS = {
    "us_equity": frozenset({"day", "gtc", "ioc", "opg", "cls", "fok"}),
    "us_option": frozenset({"day"}),
    "crypto": frozenset({"gtc", "ioc"}),
}
_OUR_TIFS = {"day": Tif.DAY, "gtc": Tif.GTC, "ioc": Tif.IOC}
_FRACTION_DIGITS = 9
_LEAST_COINS_VALUE = Decimal(10)
_FURTHER_SHARE = re.compile(r"H[0-9A-F]{7}")
"""As many further shares as a test needs."""


class Refused(Exception):
    """An error answer of the API: HTTP status, code (None: without), message, and further fields."""

    def __init__(self, status: int, code: int | None, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.fields = ({} if code is None else {"code": code}) | {"message": message} | more


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One asset, or option contract. Prices are in dollars."""

    symbol: str
    name: str
    kind: str = "us_equity"
    exchange: str = "NASDAQ"
    last_price: Decimal = Decimal(100)
    day_volume: int = 390_000
    """Traded on every day, on all exchanges."""
    is_tradable: bool = True
    is_fractionable: bool = True
    is_shortable: bool = True
    least_quantity: Decimal | None = None
    quantity_step: Decimal | None = None
    price_step: Decimal | None = None
    underlying: str = ""
    expiry: str = ""
    strike: Decimal = Decimal(0)
    right: str = ""

    def instrument(self) -> Instrument:
        if self.kind == "crypto":
            return Instrument(symbol=self.symbol, asset_class=AssetClass.CRYPTO)
        if self.kind == "us_option":
            return Instrument(
                symbol=self.symbol,
                asset_class=AssetClass.OPTION,
                expiry=self.expiry.replace("-", ""),
                strike=self.strike,
                right=OptionRight.CALL if self.right == "call" else OptionRight.PUT,
            )
        return Instrument(symbol=self.symbol)

    def row(self) -> dict[str, Any]:
        """As the API shows it."""
        status = {"status": "active" if self.is_tradable else "inactive", "tradable": self.is_tradable}
        if self.kind == "us_option":
            return {
                "id": _uuid(self.symbol),
                "symbol": self.symbol,
                "name": self.name,
                **status,
                "expiration_date": self.expiry,
                "root_symbol": self.underlying,
                "underlying_symbol": self.underlying,
                "type": self.right,
                "style": "american",
                "strike_price": str(self.strike),
                "multiplier": "100",
                "size": "100",
            }
        steps = {
            "min_order_size": self.least_quantity,
            "min_trade_increment": self.quantity_step,
            "price_increment": self.price_step,
        }
        return {
            "id": _uuid(self.symbol),
            "class": self.kind,
            "exchange": self.exchange,
            "symbol": self.symbol,
            "name": self.name,
            **status,
            "marginable": True,
            "shortable": self.is_shortable,
            "easy_to_borrow": self.is_shortable,
            "fractionable": self.is_fractionable,
            "attributes": [],
            **{name: str(step) for name, step in steps.items() if step is not None},
        }


def _uuid(symbol: str) -> str:
    return f"{symbol.encode().hex()[:12]:0<12}-0000-4000-8000-000000000000"[-36:].rjust(36, "0")


ASSETS: tuple[Asset, ...] = (
    Asset(symbol="AAPL", name="Apple Inc.", last_price=Decimal("190.10")),
    Asset(symbol="SPY", name="SPDR S&P 500", exchange="ARCA", last_price=Decimal("590.25")),
    Asset(symbol="QQQ", name="Invesco QQQ", last_price=Decimal("510.40")),
    Asset(symbol="BRK.B", name="Berkshire Hathaway", exchange="NYSE", is_fractionable=False, last_price=Decimal(460)),
    Asset(symbol="HALT", name="Halted Inc.", is_tradable=False),
    Asset(symbol="INFY", name="Infosys ADR", exchange="NYSE", last_price=Decimal("22.40")),
    Asset(
        symbol="BTC/USD", name="Bitcoin", kind="crypto", exchange="CRYPTO", last_price=Decimal(60000), is_shortable=False,
        least_quantity=Decimal("0.0001"), quantity_step=Decimal("0.0001"), price_step=Decimal(1),
    ),
    Asset(
        symbol="ETH/USD", name="Ethereum", kind="crypto", exchange="CRYPTO", last_price=Decimal(2100), is_shortable=False,
        least_quantity=Decimal("0.001"), quantity_step=Decimal("0.0001"), price_step=Decimal("0.1"),
    ),
    Asset(
        symbol="ETH/BTC", name="Ethereum in Bitcoin", kind="crypto", exchange="CRYPTO", last_price=Decimal("0.035"), is_shortable=False,
        least_quantity=Decimal("0.001"), quantity_step=Decimal("0.0001"), price_step=Decimal("0.00001"),
    ),
    Asset(
        symbol="AAPL261218C00200000", name="AAPL Dec 18 2026 200 Call", kind="us_option", last_price=Decimal("3.15"),
        underlying="AAPL", expiry="2026-12-18", strike=Decimal(200), right="call",
    ),
)  # fmt: skip
"""A few of each class; dates and prices are invented."""


def read_order(form: Mapping[str, Any], assets: Mapping[str, Asset]) -> Ticket:
    """The order as a ticket. Raises Refused as the API does."""
    symbol = form.get("symbol")
    asset = _known(symbol, assets)
    if asset is None:
        raise Refused(422, 42210000, f"asset {symbol!r} not found")
    if not asset.is_tradable:
        raise Refused(422, 42210000, f"asset {asset.symbol} is not tradable")
    kind, tif = str(form.get("type")), str(form.get("time_in_force"))
    if kind not in _TYPES[asset.kind]:
        raise Refused(422, 40010001, f"invalid order type for {asset.kind} order")
    if tif not in _TIFS[asset.kind]:
        raise Refused(422, 40010001, f"invalid time_in_force for {asset.kind} order")
    client_id = str(form.get("client_order_id") or "")
    if len(client_id) > MOST_CLIENT_ID_CHARACTERS:
        raise Refused(422, 40010001, "client_order_id must be no more than 128 characters")
    order_type = _ORDER_TYPES[kind]
    _check_value(form, asset)
    limit, stop = _price(form, "limit_price", asset), _price(form, "stop_price", asset)
    if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and limit is None:
        raise Refused(422, 40010001, f"{kind} orders require limit price")
    if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and stop is None:
        raise Refused(422, 40010001, f"{kind} orders require stop price")
    if form.get("extended_hours") and (order_type is not OrderType.LIMIT or tif not in ("day", "gtc")):
        raise Refused(422, 42210000, "extended hours order must be DAY or GTC limit orders")
    return Ticket(
        client_order_id=client_id,
        instrument=asset.instrument(),
        side=Side.BUY if form.get("side") == "buy" else Side.SELL,
        quantity=_quantity(form, asset, tif),
        order_type=order_type,
        limit_price=limit,
        stop_price=stop,
        # What a market order is filled at.
        reference_price=asset.last_price,
        tif=_OUR_TIFS.get(tif, Tif.DAY),
        variety=tif if tif not in _OUR_TIFS else "extended_hours" if form.get("extended_hours") else None,
    )


def _known(symbol: object, assets: Mapping[str, Asset]) -> Asset | None:
    if not isinstance(symbol, str):
        return None
    if _FURTHER_SHARE.fullmatch(symbol):
        return Asset(symbol=symbol, name="Another share", last_price=Decimal("100.25"))
    return assets.get(symbol) or next((a for a in assets.values() if a.symbol.replace("/", "") == symbol), None)


def find_asset(symbol: str, assets: Mapping[str, Asset]) -> Asset | None:
    """By its symbol, or a coin by its symbol without the stroke."""
    return _known(symbol, assets)


def _quantity(form: Mapping[str, Any], asset: Asset, tif: str) -> Decimal:
    if form.get("notional") is not None:
        if form.get("qty") is not None:
            raise Refused(422, 40010001, "only one of qty or notional is accepted")
        notional = _number(form, "notional")
        if asset.kind == "us_option" or (asset.kind == "us_equity" and tif != "day"):
            raise Refused(422, 42210000, "notional orders must be DAY orders")
        return (notional / asset.last_price).quantize(Decimal("0.000000001"))
    quantity = _number(form, "qty")
    is_fraction = quantity != quantity.to_integral_value()
    exponent = quantity.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _FRACTION_DIGITS:
        raise Refused(422, 40010001, "qty increment must be no more than 9 decimals")
    if is_fraction and asset.kind == "us_option":
        raise Refused(422, 40010001, "qty must be an integer")
    if is_fraction and asset.kind == "us_equity" and not asset.is_fractionable:
        raise Refused(422, 42210000, f"asset {asset.symbol!r} is not fractionable")
    if is_fraction and asset.kind == "us_equity" and tif != "day":
        raise Refused(422, 42210000, "fractional orders must be DAY orders")
    if asset.least_quantity is not None and quantity < asset.least_quantity:
        raise Refused(422, 40010001, f"minimal qty of order {asset.least_quantity}")
    if asset.quantity_step is not None and quantity % asset.quantity_step:
        raise Refused(422, 40010001, f"qty increment must be {asset.quantity_step}")
    return quantity


def _check_value(form: Mapping[str, Any], asset: Asset) -> None:
    """Of purchases of coins for dollars."""
    if asset.kind != "crypto" or form.get("side") != "buy" or not asset.symbol.endswith("/USD"):
        return
    price = _number(form, "limit_price") if form.get("limit_price") is not None else asset.last_price
    value = _number(form, "notional") if form.get("notional") is not None else _number(form, "qty") * price
    if value < _LEAST_COINS_VALUE:
        raise Refused(403, 40310000, f"cost basis must be >= minimal amount of order {_LEAST_COINS_VALUE}")


def _price(form: Mapping[str, Any], name: str, asset: Asset) -> Decimal | None:
    if form.get(name) is None:
        return None
    price = _number(form, name)
    step = asset.price_step if asset.kind == "crypto" else Decimal("0.01") if price >= 1 else Decimal("0.0001")
    if step is not None and price % step:
        words = f"invalid {name} {price}. sub-penny increment does not fulfill minimum pricing criteria"
        raise Refused(422, 42210000, words)
    return price


def _number(form: Mapping[str, Any], name: str) -> Decimal:
    said = form.get(name)
    if not isinstance(said, str) or not re.fullmatch(r"\d{1,18}(\.\d{1,18})?", said):
        raise Refused(422, 40010001, f"{name} must be a positive number")
    try:
        value = Decimal(said)
    except InvalidOperation as exc:
        raise Refused(422, 40010001, f"{name} is required") from exc
    if value <= 0:
        raise Refused(422, 40010001, f"{name} must be > 0")
    return value
