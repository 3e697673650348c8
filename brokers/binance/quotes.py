"""What Binance's tickers say of the market: a quote of each contract, or why there is none, and how much of it is traded. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from brokers.base import NoQuote, Quote
from brokers.binance.rows import Malformed, amount_traded, read_book_ticker, time_of

BOOK_TICKERS = "/fapi/v1/ticker/bookTicker"
_ONE_WEIGHS, _ALL_WEIGH = 2, 5
DAY_TICKERS = "/fapi/v1/ticker/24hr"
"""The last 24 hours of one contract (weight 1), or of all (40); `volume` is in the base asset, as quantities of orders are. By Binance's reference,
"24hr Ticker Price Change Statistics" of USD-M futures."""
_DAY_OF_ONE_WEIGHS, _DAY_OF_ALL_WEIGHS = 1, 40
_MINUTES = 24 * 60
_WIDEST = Decimal("0.05")
"""A part of the bid. The middle of a book that is wider is nobody's price, and there is no last trade beside it."""


def form_for(symbols: Sequence[str]) -> tuple[Mapping[str, object], int]:
    """The call's parameters and its weight: one contract is named; without a name Binance tells all contracts, however many there are."""
    return ({"symbol": symbols[0]}, _ONE_WEIGHS) if len(symbols) == 1 else ({}, _ALL_WEIGH)


def day_form_for(symbols: Sequence[str]) -> tuple[Mapping[str, object], int]:
    """As `form_for`, of `DAY_TICKERS`."""
    return ({"symbol": symbols[0]}, _DAY_OF_ONE_WEIGHS) if len(symbols) == 1 else ({}, _DAY_OF_ALL_WEIGHS)


def volumes_in(answer: object) -> dict[str, Decimal]:
    """By contract, what falls to a minute of the last 24 hours; one whose row cannot be read, or in which nobody has traded, is left out. Raises
    Malformed where the answer is none to `day_form_for`."""
    rows = answer if isinstance(answer, list) else [answer]
    found = {}
    for row in rows:
        if not isinstance(row, Mapping):
            raise Malformed("Binance answered with no volumes")
        try:
            symbol, traded = amount_traded(row)
        except Malformed:
            continue
        if traded:
            found[symbol] = traded / _MINUTES
    return found


def quotes_in(answer: object, symbols: Sequence[str], by_our_clock: Callable[[int], int]) -> dict[str, Quote | NoQuote]:
    """Of each of these symbols. `by_our_clock`: carries a time in milliseconds from Binance's clock to ours. Raises Malformed if the
    answer is none to `form_for` of them."""
    rows = answer if len(symbols) > 1 else [answer]
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise Malformed("Binance answered with no quotes")
    by_symbol = {str(row.get("symbol")): row for row in rows}
    return {symbol: _quote(symbol, by_symbol.get(symbol), by_our_clock) for symbol in symbols}


def _quote(symbol: str, row: Mapping[str, object] | None, by_our_clock: Callable[[int], int]) -> Quote | NoQuote:
    if row is None:
        return NoQuote(reason=f"{symbol} is not among Binance's quotes")
    try:
        told = read_book_ticker(row)
        at = time_of(by_our_clock(told.at_ms))
    except Malformed as exc:
        return NoQuote(reason=f"Binance's quote of {symbol} cannot be read: {exc}")
    is_wide = bool(told.bid and told.ask) and told.ask - told.bid > told.bid * _WIDEST
    return Quote(at=at) if is_wide else Quote(bid=told.bid or None, ask=told.ask or None, at=at)
