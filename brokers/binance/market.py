"""What Binance trades: the symbols with their filters, and the form of an order for them. No calls.

Filters as in GET /fapi/v1/exchangeInfo; a symbol's `pricePrecision` is not its tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from brokers.base import POSITION_SIDES, AssetClass, ContractTerms, Instrument, OrderType, Side, Ticket, Tif
from brokers.binance.rows import Malformed, amount, text, whole
from brokers.errors import OrderRefused
from brokers.ticks import limit_on_tick, stop_on_tick

PERPETUAL = "PERPETUAL"
"""Part of every contract type that is not delivered: also TRADIFI_PERPETUAL, PERPETUAL_DELIVERING."""
CONDITIONAL = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})
"""Order types that only the service for conditional orders takes."""
_LIMITED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_SEPARATORS = str.maketrans("", "", "/-:_")
LONG, SHORT = POSITION_SIDES
"""The sides of a position, as products, where the account keeps them apart."""
_CLOSES = {LONG: Side.SELL, SHORT: Side.BUY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One contract."""

    symbol: str
    base: str
    quote: str
    contract_type: str
    delivery: str | None
    """YYYYMMDD; None: a perpetual one."""
    is_trading: bool
    tick: Decimal
    step: Decimal
    least: Decimal
    most: Decimal
    market_step: Decimal
    market_least: Decimal
    market_most: Decimal
    least_value: Decimal

    @property
    def instrument(self) -> Instrument:
        """As positions name it."""
        if self.delivery is None:
            return Instrument(symbol=self.symbol, asset_class=AssetClass.CRYPTO, currency=self.quote)
        return Instrument(symbol=self.symbol, asset_class=AssetClass.FUTURE, currency=self.quote, expiry=self.delivery)

    @property
    def also_called(self) -> frozenset[str]:
        names = {f"{self.base}{mark}{self.quote}" for mark in ("/", "-", "", "_")}
        return frozenset(names - {self.symbol})

    @property
    def terms(self) -> ContractTerms:
        return ContractTerms(
            multiplier=Decimal(1), currency=self.quote, local_symbol=self.symbol, exchange="BINANCE", is_one_size=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Binance's own limits of calls; None: not stated."""

    weight_per_minute: int | None = None
    orders_by_seconds: Mapping[float, int]


class Listings:
    """All contracts of one day."""

    def __init__(self, answer: object) -> None:
        """From an answer to exchangeInfo; contracts that cannot be read are left out. Raises Malformed if it is no
        such answer."""
        if not isinstance(answer, Mapping) or not isinstance(answer.get("symbols"), list):
            raise Malformed("Binance's list of contracts cannot be read")
        self.odd_symbols: set[str] = set()
        self._by_symbol: dict[str, Listing] = {}
        for row in answer["symbols"]:
            try:
                listing = _listing(row)
            except Malformed:
                self.odd_symbols.add(str(row.get("symbol", "?")) if isinstance(row, Mapping) else "?")
                continue
            self._by_symbol[listing.symbol] = listing
        self.limits = _limits(answer.get("rateLimits"))
        self._by_pair = {each.base + each.quote: each for each in self._by_symbol.values() if each.delivery is None}
        self.read_on = datetime.now(UTC).date()

    def by_symbol(self, symbol: str) -> Listing | None:
        return self._by_symbol.get(symbol)

    @property
    def trading(self) -> tuple[str, ...]:
        """The symbols of those that are traded now."""
        return tuple(each.symbol for each in self._by_symbol.values() if each.is_trading)

    def resolve(self, instrument: Instrument) -> Listing:
        """The one contract that the order names. Raises OrderRefused if there is none, or if it is not what the order
        says of it."""
        symbol = instrument.symbol.strip().upper()
        if instrument.asset_class is AssetClass.FUTURE:
            listing = self._future(instrument, symbol)
        elif instrument.asset_class is AssetClass.CRYPTO:
            # Also as people write a pair: BTC/USDT, BTC-USDT. Nothing is added or guessed.
            listing = self._by_symbol.get(symbol) or self._by_pair.get(symbol.translate(_SEPARATORS))
        else:
            raise OrderRefused(
                f"Binance futures are CRYPTO (perpetual) or FUTURE (with an expiry), not {instrument.asset_class}",
                unsupported=True,
            )
        if listing is None and symbol in self.odd_symbols:
            raise OrderRefused(f"{symbol} cannot be read in Binance's list of contracts")
        if listing is None:
            raise OrderRefused(f"{instrument.symbol} is not in Binance's list of USD-M contracts")
        if instrument.asset_class is AssetClass.CRYPTO and listing.delivery is not None:
            raise OrderRefused(
                f"{listing.symbol} is delivered on {listing.delivery}: an order for it is a FUTURE with that expiry"
            )
        if instrument.currency is not None and instrument.currency.upper() != listing.quote:
            raise OrderRefused(f"{listing.symbol} is priced in {listing.quote}, not in {instrument.currency}")
        if instrument.multiplier is not None and instrument.multiplier != 1:
            raise OrderRefused(f"A contract of {listing.symbol} is one {listing.base}, not {instrument.multiplier:f}")
        return listing

    def _future(self, instrument: Instrument, symbol: str) -> Listing | None:
        expiry = instrument.expiry
        if expiry is None:
            raise OrderRefused(f"A FUTURE needs an expiry; the perpetual {symbol} is ordered as CRYPTO")
        pair = symbol.translate(_SEPARATORS)
        named = [
            each
            for each in self._by_symbol.values()
            if each.delivery is not None
            and each.delivery.startswith(expiry)
            and (each.symbol == symbol or each.base + each.quote == pair)
        ]
        if len(named) > 1:
            raise OrderRefused(f"{symbol} {expiry} may be any of {', '.join(sorted(each.symbol for each in named))}")
        return named[0] if named else None


def fitted(ticket: Ticket, listing: Listing) -> Ticket:
    """Prices on the tick, never to the order's disadvantage; the quantity rounded down to its step. Raises
    OrderRefused for what is below or above Binance's limits; the smallest value is no limit for an exit, which leaves
    as reduce-only."""
    if not listing.is_trading and not ticket.is_exit:
        raise OrderRefused(f"Binance does not trade {listing.symbol} now")
    is_market = ticket.order_type in (OrderType.MARKET, OrderType.STOP)
    step = listing.market_step if is_market else listing.step
    least, most = (listing.market_least, listing.market_most) if is_market else (listing.least, listing.most)
    rounded = (ticket.quantity // step) * step
    quantity = ticket.quantity if rounded == ticket.quantity else rounded.normalize()
    if quantity <= 0 or quantity < least:
        raise OrderRefused(
            f"{ticket.quantity:f} {listing.symbol} is less than the smallest order of {max(least, step):f}"
        )
    if quantity > most:
        raise OrderRefused(f"{ticket.quantity:f} {listing.symbol} is more than the largest order of {most:f}")
    limit = stop = None
    if ticket.order_type in _LIMITED:
        limit = _on_tick(ticket.limit_price, "limit price", listing, ticket.side, is_stop=False)
    if ticket.order_type in CONDITIONAL:
        stop = _on_tick(ticket.stop_price, "stop price", listing, ticket.side, is_stop=True)
    price = limit or stop or ticket.reference_price
    if price is not None and not ticket.is_exit and quantity * price < listing.least_value:
        raise OrderRefused(
            f"{quantity:f} {listing.symbol} at {price:f} is worth less than the smallest value of "
            f"{listing.least_value:f} {listing.quote}"
        )
    return replace(ticket, quantity=quantity, limit_price=limit, stop_price=stop, terms=listing.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDefaults:
    """What an order does not say itself."""

    working_type: str = "CONTRACT_PRICE"
    """Which price triggers a conditional order: CONTRACT_PRICE (the last trade) or MARK_PRICE."""
    protective_working_type: str = "MARK_PRICE"
    """The same of one that protects a position."""
    is_hedged: bool = False
    """The account keeps long and short positions in one contract apart."""
    reduce_only_exits: bool = True


def order_form(ticket: Ticket, listing: Listing, defaults: OrderDefaults) -> dict[str, object]:
    """The parameters of POST /fapi/v1/order, or for a conditional order of POST /fapi/v1/algoOrder (since 2025-12-09
    the only place for those). Raises OrderRefused for what Binance does not have."""
    if ticket.tif is Tif.DAY:
        raise OrderRefused("Binance has no orders for the day: GTC or IOC", unsupported=True)
    form: dict[str, object] = {
        "symbol": listing.symbol,
        "side": ticket.side.value,
        "quantity": ticket.quantity,
        **_position_fields(ticket, defaults),
    }
    tif = (ticket.tif or Tif.GTC).value
    if ticket.order_type not in CONDITIONAL:
        form |= {"type": ticket.order_type.value, "newClientOrderId": ticket.client_order_id}
        if ticket.order_type is OrderType.LIMIT:
            form |= {"price": ticket.limit_price, "timeInForce": tif}
        return form
    form |= {
        "algoType": "CONDITIONAL",
        "type": "STOP_MARKET" if ticket.order_type is OrderType.STOP else "STOP",
        "triggerPrice": ticket.stop_price,
        "workingType": defaults.protective_working_type if ticket.is_protective else defaults.working_type,
        "timeInForce": tif,
        "clientAlgoId": ticket.client_order_id,
    }
    if ticket.order_type is OrderType.STOP_LIMIT:
        form["price"] = ticket.limit_price
    return form


def _position_fields(ticket: Ticket, defaults: OrderDefaults) -> dict[str, object]:
    if defaults.is_hedged:
        # What closes a side can open nothing here; reduceOnly is forbidden, and needless.
        return {"positionSide": _side_of(ticket)}
    if ticket.product in _CLOSES:
        raise OrderRefused(
            f"The order names the product {ticket.product}, and this account keeps no sides apart", unsupported=True
        )
    if ticket.is_exit and defaults.reduce_only_exits:
        return {"reduceOnly": "true"}
    return {}


def _side_of(ticket: Ticket) -> str:
    """The side of the position that the order is about. One that names none is about the side that it opens if it buys, and the side that it
    closes if it is an exit. Raises OrderRefused for a sale that is no exit and names none, since it might be meant either way."""
    is_buy = ticket.side is Side.BUY
    side = ticket.product or (LONG if is_buy is not ticket.is_exit else SHORT)
    if side not in _CLOSES:
        raise OrderRefused(f"Binance keeps positions apart by LONG and SHORT, not by {side}", unsupported=True)
    if ticket.is_exit and ticket.side is not _CLOSES[side]:
        raise OrderRefused(f"An exit of the {side} position does not {ticket.side.lower()}")
    if ticket.product is None and not is_buy and not ticket.is_exit:
        raise OrderRefused(
            "This account holds long and short positions at once: a sale that is no exit names SHORT as its product to open a "
            "short position, or LONG to reduce the long one"
        )
    return side


def _on_tick(price: Decimal | None, name: str, listing: Listing, side: Side, *, is_stop: bool) -> Decimal:
    if price is None or not price.is_finite() or price <= 0:
        raise OrderRefused(f"The order has no {name} above 0")
    rounded = stop_on_tick(price, listing.tick, side) if is_stop else limit_on_tick(price, listing.tick, side)
    if rounded <= 0:
        raise OrderRefused(f"A {name} of {price:f} is below the tick of {listing.tick:f}")
    return rounded


def _listing(row: object) -> Listing:
    if not isinstance(row, Mapping):
        raise Malformed("a contract is no object")
    filters: dict[str, Mapping[str, Any]] = {
        str(each.get("filterType")): each for each in row.get("filters", ()) if isinstance(each, Mapping)
    }
    price, lot = filters.get("PRICE_FILTER", {}), filters.get("LOT_SIZE", {})
    market = filters.get("MARKET_LOT_SIZE", lot)
    step, most = _step(lot, "stepSize"), amount(lot, "maxQty")
    kind = text(row, "contractType")
    delivery = None
    if PERPETUAL not in kind:
        delivery = datetime.fromtimestamp(whole(row, "deliveryDate") / 1000, UTC).strftime("%Y%m%d")
    return Listing(
        symbol=text(row, "symbol"),
        base=text(row, "baseAsset"),
        quote=text(row, "quoteAsset"),
        contract_type=kind,
        delivery=delivery,
        is_trading=row.get("status") == "TRADING",
        tick=_step(price, "tickSize"),
        step=step,
        least=amount(lot, "minQty"),
        most=most,
        # For orders at the market both filters hold, and a 0 says nothing.
        market_step=max(step, amount(market, "stepSize")),
        market_least=amount(market, "minQty"),
        market_most=amount(market, "maxQty") or most,
        least_value=amount(filters["MIN_NOTIONAL"], "notional") if "MIN_NOTIONAL" in filters else Decimal(0),
    )


def _step(row: Mapping[str, Any], name: str) -> Decimal:
    step = amount(row, name)
    if step <= 0:
        raise Malformed(f"{name} is {step}")
    return step


def _limits(rows: object) -> Limits:
    weight: int | None = None
    orders: dict[float, int] = {}
    seconds_of = {"SECOND": 1.0, "MINUTE": 60.0, "DAY": 86_400.0}
    for row in rows if isinstance(rows, list) else ():
        try:
            seconds = seconds_of[text(row, "interval")] * whole(row, "intervalNum")
            calls = whole(row, "limit")
            kind = text(row, "rateLimitType")
        except (Malformed, KeyError):
            continue
        if kind == "REQUEST_WEIGHT" and seconds == 60.0:
            weight = calls
        elif kind == "ORDERS":
            orders[seconds] = calls
    return Limits(weight_per_minute=weight, orders_by_seconds=orders)
