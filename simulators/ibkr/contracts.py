"""The simulated gateway's contracts, their ticks and sizes, and queries for them. No wire format, no orders."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from brokers.base import AssetClass, Instrument, OptionRight

ETFS = frozenset({"SPY", "QQQ", "IWM", "DIA", "GLD", "TLT", "VTI", "XLF"})


@dataclass(frozen=True, slots=True)
class Series:
    """The futures of one size on one underlying. Prices are quoted so that `magnifier` units of them make one of the
    currency."""

    exchange: str
    multiplier: str
    tick: str
    trading_class: str
    magnifier: str = "1"
    currency: str = "USD"


FUTURES = {
    "ES": (Series("CME", "50", "0.25", "ES"),),
    "MES": (Series("CME", "5", "0.25", "MES"),),
    "NQ": (Series("CME", "20", "0.25", "NQ"),),
    "GC": (Series("COMEX", "100", "0.1", "GC"),),
    "SI": (Series("COMEX", "5000", "0.005", "SI"), Series("COMEX", "1000", "0.005", "SIL")),
    "HG": (Series("COMEX", "25000", "0.0005", "HG"),),
    "CL": (Series("NYMEX", "1000", "0.01", "CL"),),
    "NG": (Series("NYMEX", "10000", "0.001", "NG"),),
    "ZC": (Series("CBOT", "5000", "0.25", "ZC", magnifier="100"),),
    "DAX": (Series("EUREX", "25", "0.5", "FDAX", currency="EUR"), Series("EUREX", "5", "1", "FDXM", currency="EUR")),
    "BUND": (Series("EUREX", "1000", "0.01", "FGBL", currency="EUR"),),
}
"""By symbol: silver and the DAX come in two sizes each, corn is quoted in cents."""
OPTION_CLASSES = {"SPX": ("SPX", "SPXW")}
"""Indices with two series of options of the same expiry, strike and right."""
ISINS = {"SPY": "US78462F1030", "AAPL": "US0378331005"}
IN_PENCE = frozenset({"VOD"})
"""Shares of London, whose prices are in pence and whose costs are in pounds (gloomberb pull request 537)."""
CURRENCIES = frozenset({"USD", "EUR", "GBP", "JPY", "CHF", "AUD", "CAD", "NZD", "SEK", "NOK"})
COINS = frozenset({"BTC", "ETH", "LTC", "BCH"})
COIN_EXCHANGES = ("PAXOS", "ZEROHASH")
NICKEL_RULE = 32
PENNY_RULE = 26
"""Market rules as in `marketRule`; option prices from 3 upwards are multiples of 0.05."""
_RULES = {PENNY_RULE: (("0", "0.01"),), NICKEL_RULE: (("0", "0.01"), ("3", "0.05"))}
_NO_SUCH = "ZZ"
"""Symbols with this prefix are not listed, except `TWIN`, which is listed twice."""
TWIN = "ZZTWIN"
_FUTURE_DAY = "20"
_MONTHS = ("202703", "202706", "202709")
_OPTION_DAYS = ("06", "13", "20", "27")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A contract as a client names it; empty: not given."""

    con_id: int = 0
    symbol: str = ""
    sec_type: str = ""
    expiry: str = ""
    strike: str = ""
    right: str = ""
    multiplier: str = ""
    exchange: str = ""
    primary_exchange: str = ""
    currency: str = ""
    trading_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One contract as the venue lists it; numbers in their wire form."""

    symbol: str
    sec_type: str
    exchange: str
    currency: str
    expiry: str = ""
    strike: str = "0"
    right: str = ""
    multiplier: str = ""
    primary_exchange: str = ""
    stock_type: str = ""
    min_tick: str = "0.01"
    size_increment: str = "1"
    market_rule: int | None = None
    magnifier: str = "1"
    series: str = ""
    """The trading class, if it is not the symbol."""
    isin: str = ""

    @property
    def con_id(self) -> int:
        """Always the same number, derived from the contract's identity."""
        parts = (self.symbol, self.sec_type, self.expiry, self.strike, self.right, self.currency)
        where = self.primary_exchange if self.sec_type == "STK" else self.exchange
        return zlib.crc32("|".join((*parts, where, self.multiplier, self.series)).encode()) & 0x7FFFFFFF

    @property
    def trading_class(self) -> str:
        return self.series or self.symbol

    @property
    def point_value(self) -> Decimal | None:
        """Money per point of the quoted price; None: 1."""
        is_one = not self.multiplier and self.magnifier == "1"
        return None if is_one else Decimal(self.multiplier or 1) / Decimal(self.magnifier)

    @property
    def local_symbol(self) -> str:
        if self.sec_type == "CASH":
            return f"{self.symbol}.{self.currency}"
        parts = (self.trading_class, self.expiry, self.right, self.strike)
        return " ".join(part for part in parts if part not in ("", "0"))

    @property
    def order_fields(self) -> tuple[object, ...]:
        """The eleven fields that name the contract in orders, executions and positions."""
        return (
            self.con_id,
            self.symbol,
            self.sec_type,
            self.expiry,
            self.strike,
            self.right,
            self.multiplier,
            self.exchange,
            self.currency,
            self.local_symbol,
            self.trading_class,
        )

    @property
    def instrument(self) -> Instrument:
        """The listing as the order book's Instrument, whose multiplier is the money per point."""
        return Instrument(
            symbol=self.symbol,
            asset_class=_asset_class(self),
            exchange=self.primary_exchange if self.sec_type == "STK" else self.exchange,
            expiry=self.expiry or None,
            strike=Decimal(self.strike) if self.right else None,
            right={"C": OptionRight.CALL, "P": OptionRight.PUT}.get(self.right),
            currency=self.currency,
            multiplier=self.point_value,
            trading_class=self.series or None,
        )


_told: dict[int, Listing] = {}
"""Every listing that was ever returned, by number."""


def listed(query: Query) -> list[Listing]:
    """The matching listings: none for a contract that is not traded here, several if the query leaves something
    open."""
    found = _listed(query)
    _told.update((each.con_id, each) for each in found)
    return found


def _listed(query: Query) -> list[Listing]:
    if query.con_id and not query.sec_type:
        known = _told | {each.con_id: each for each in _by_number()}
        found = [known[query.con_id]] if query.con_id in known else []
        return [each for each in found if query.exchange in ("", "SMART", each.exchange)]
    finder = _FINDERS.get(query.sec_type)
    if finder is None or not query.symbol or (query.symbol.startswith(_NO_SUCH) and query.symbol != TWIN):
        return []
    return [
        each
        for each in finder(query)
        if query.exchange in ("", "SMART", each.exchange)
        and query.currency in ("", each.currency)
        and query.con_id in (0, each.con_id)
        and query.multiplier in ("", each.multiplier)
        and query.trading_class in ("", each.trading_class)
    ]


def listing_of(instrument: Instrument) -> Listing:
    """The listing of an instrument from `Listing.instrument`. Raises ValueError for any other that is not listed."""
    sec_type = _SEC_TYPES[instrument.asset_class]
    is_stock = sec_type == "STK"
    query = Query(
        symbol=instrument.symbol,
        sec_type=sec_type,
        expiry=instrument.expiry or "",
        strike="" if instrument.strike is None else str(instrument.strike),
        right="" if instrument.right is None else instrument.right.value[0],
        exchange="" if is_stock else instrument.exchange or "",
        primary_exchange=(instrument.exchange or "") if is_stock else "",
        currency=instrument.currency or ("" if sec_type == "CASH" else "USD"),
        trading_class=instrument.trading_class or "",
    )
    found = [each for each in listed(query) if instrument.multiplier in (None, each.point_value)]
    if not found:
        raise ValueError(f"{instrument.key} is not listed")
    return found[0]


def market_rule(number: int) -> Sequence[tuple[str, str]]:
    """Pairs of lower edge and increment; empty for an unknown rule."""
    return _RULES.get(number, ())


def _stocks(query: Query) -> list[Listing]:
    if not re.fullmatch(r"[A-Z][A-Z0-9. ]{0,11}", query.symbol):
        return []
    is_etf = query.symbol in ETFS
    is_in_pence = query.symbol in IN_PENCE
    usual = "LSE" if is_in_pence else "ARCA" if is_etf else "NASDAQ"
    homes = ("NYSE", "NASDAQ") if query.symbol == TWIN else (usual,)
    return [
        Listing(
            symbol=query.symbol,
            sec_type="STK",
            exchange="SMART",
            currency="GBP" if is_in_pence else "USD",
            primary_exchange=home,
            stock_type="ETF" if is_etf else "COMMON",
            magnifier="100" if is_in_pence else "1",
            size_increment="0.0001",
            market_rule=PENNY_RULE,
            isin=ISINS.get(query.symbol, ""),
        )
        for home in homes
        if query.primary_exchange in ("", home)
    ]


def _options(query: Query) -> list[Listing]:
    strike = _number(query.strike)
    rights = [query.right[0]] if query.right[:1] in ("C", "P") else ["C", "P"]
    expiries = [query.expiry] if len(query.expiry) == 8 else [query.expiry + day for day in _OPTION_DAYS]
    if strike is None or strike <= 0 or not re.fullmatch(r"\d{6}(\d\d)?", query.expiry):
        return []
    return [
        Listing(
            symbol=query.symbol,
            sec_type="OPT",
            exchange="SMART",
            currency="USD",
            expiry=expiry,
            strike=format(strike.normalize(), "f"),
            right=right,
            multiplier="100",
            market_rule=NICKEL_RULE,
            series=series,
        )
        for expiry in expiries
        for right in rights
        for series in OPTION_CLASSES.get(query.symbol, ("",))
    ]


def _futures(query: Query) -> list[Listing]:
    if query.symbol not in FUTURES:
        return []
    return [
        Listing(
            symbol=query.symbol,
            sec_type="FUT",
            exchange=series.exchange,
            currency=series.currency,
            expiry=month + _FUTURE_DAY,
            multiplier=series.multiplier,
            min_tick=series.tick,
            magnifier=series.magnifier,
            series="" if series.trading_class == query.symbol else series.trading_class,
        )
        for series in FUTURES[query.symbol]
        for month in ([query.expiry[:6]] if query.expiry else _MONTHS)
        if query.expiry in ("", month, month + _FUTURE_DAY)
    ]


def _pairs(query: Query) -> list[Listing]:
    quotes = sorted(CURRENCIES - {query.symbol}) if query.symbol in CURRENCIES else []
    return [
        Listing(
            symbol=query.symbol,
            sec_type="CASH",
            exchange="IDEALPRO",
            currency=quote,
            min_tick="0.005" if quote == "JPY" else "0.00005",
        )
        for quote in quotes
    ]


def _coins(query: Query) -> list[Listing]:
    return [
        Listing(symbol=query.symbol, sec_type="CRYPTO", exchange=exchange, currency="USD", size_increment="0.00000001")
        for exchange in COIN_EXCHANGES
        if query.symbol in COINS
    ]


def _others(query: Query) -> list[Listing]:
    exchange = {"FUND": "FUNDSERV"}.get(query.sec_type, "SMART")
    return [Listing(symbol=query.symbol, sec_type=query.sec_type, exchange=exchange, currency="USD")]


_FINDERS = {
    "STK": _stocks,
    "OPT": _options,
    "FUT": _futures,
    "CASH": _pairs,
    "CRYPTO": _coins,
    "BOND": _others,
    "CFD": _others,
    "FUND": _others,
}
_SEC_TYPES = {
    AssetClass.STOCK: "STK",
    AssetClass.ETF: "STK",
    AssetClass.OPTION: "OPT",
    AssetClass.FUTURE: "FUT",
    AssetClass.FOREX: "CASH",
    AssetClass.CRYPTO: "CRYPTO",
    AssetClass.BOND: "BOND",
    AssetClass.CFD: "CFD",
    AssetClass.FUND: "FUND",
    AssetClass.INDEX: "IND",
}


def _asset_class(listing: Listing) -> AssetClass:
    if listing.sec_type == "STK":
        return AssetClass.ETF if listing.stock_type == "ETF" else AssetClass.STOCK
    return next(asset for asset, sec_type in _SEC_TYPES.items() if sec_type == listing.sec_type)


def _by_number() -> list[Listing]:
    """Contracts that can be queried only by number."""
    queries = [Query(symbol=symbol, sec_type="STK") for symbol in ("SPY", "AAPL", "NVDA", TWIN)]
    queries += [
        Query(symbol="912828C57", sec_type="BOND"),
        Query(symbol="AAPL", sec_type="CFD"),
        Query(symbol="VTSAX", sec_type="FUND"),
        Query(symbol="SPY", sec_type="OPT", expiry="20270115", strike="500"),
        Query(symbol="GC", sec_type="FUT"),
        Query(symbol="EUR", sec_type="CASH"),
        Query(symbol="BTC", sec_type="CRYPTO"),
    ]
    return [listing for query in queries for listing in _FINDERS[query.sec_type](query)]


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
