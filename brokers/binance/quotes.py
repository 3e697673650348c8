"""What Binance's book tickers say of the market: a quote of each contract, or why there is none. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from brokers.base import NoQuote, Quote
from brokers.binance.rows import Malformed, read_book_ticker, time_of

BOOK_TICKERS = "/fapi/v1/ticker/bookTicker"
_ONE_WEIGHS, _ALL_WEIGH = 2, 5
_WIDEST = Decimal("0.05")
"""A part of the bid. The middle of a book that is wider is nobody's price, and there is no last trade beside it."""


def form_for(symbols: Sequence[str]) -> tuple[Mapping[str, object], int]:
    """The call's parameters and its weight: one contract is named; without a name Binance tells all contracts, however many there are."""
    return ({"symbol": symbols[0]}, _ONE_WEIGHS) if len(symbols) == 1 else ({}, _ALL_WEIGH)


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
