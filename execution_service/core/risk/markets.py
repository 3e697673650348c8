"""Which calendar of trading hours an instrument has, by its exchange; an exchange that is not listed here has none, and nothing is guessed for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from brokers.base import AssetClass, Instrument

ALWAYS_OPEN = "24/7"
_BY_EXCHANGE: Mapping[str, str] = MappingProxyType(
    {
        name: calendar
        for calendar, names in {
            "XNYS": ("NYSE", "NASDAQ", "ISLAND", "ARCA", "AMEX", "BATS", "IEX", "XNYS", "XNAS", "ARCX", "XASE"),
            "XBOM": ("NSE", "BSE", "NFO", "BFO", "XNSE", "XBOM"),
            "XLON": ("LSE", "XLON"),
            "XETR": ("IBIS", "XETRA", "XETR"),
            "XPAR": ("SBF", "XPAR"),
            "XAMS": ("AEB", "XAMS"),
            "XMIL": ("BVME", "XMIL"),
            "XMAD": ("BM", "XMAD"),
            "XSWX": ("EBS", "XSWX"),
            "XSTO": ("SFB", "XSTO"),
            "XTSE": ("TSE", "TSX", "XTSE"),
            "XTKS": ("TSEJ", "XTKS"),
            "XHKG": ("SEHK", "HKEX", "XHKG"),
            "XASX": ("ASX", "XASX"),
            "XSES": ("SGX", "XSES"),
            "XKRX": ("KSE", "KRX", "XKRX"),
            "CMES": ("CME", "GLOBEX", "NYMEX", "COMEX", "XCME", "XNYM", "XCEC"),
        }.items()
        for name in names
    }
)
"""As messages and brokers name exchanges, and by MIC. India's two exchanges have the same hours and holidays, as the stock exchanges of the United
States have."""
_ROUTES = frozenset({"SMART"})
"""No exchange, but a broker's way to several."""
_STOCKS_OF: Mapping[str, str] = MappingProxyType({"USD": "XNYS", "INR": "XBOM"})
"""Where shares are traded of which only the currency is known, where all exchanges of that currency have the same hours."""
_SHARES = frozenset({AssetClass.STOCK, AssetClass.ETF})


def calendar_of(instrument: Instrument, *, currency: str | None, exchange: str | None = None) -> str | None:
    """The name of its calendar, as exchange-calendars names it; None: it is not known. `currency`: in which the order is traded; `exchange`: by the
    broker's word for the contract, which counts where the order names none."""
    if instrument.asset_class is AssetClass.CRYPTO:
        return ALWAYS_OPEN
    named = [name.upper() for name in (instrument.exchange, exchange) if name and name.upper() not in _ROUTES]
    if named:
        return _BY_EXCHANGE.get(named[0])
    return _STOCKS_OF.get(currency or "") if instrument.asset_class in _SHARES else None
