"""Which calendar an instrument has: by its exchange, by the broker's word, by its currency where that is enough; else none."""

from __future__ import annotations

import pytest

from brokers.base import AssetClass, Instrument
from execution_service.core.risk.markets import calendar_of


def named(asset_class: AssetClass = AssetClass.STOCK, exchange: str | None = None) -> Instrument:
    return Instrument(symbol="X", asset_class=asset_class, exchange=exchange)


@pytest.mark.parametrize(
    ("instrument", "currency", "told", "calendar"),
    [
        (named(exchange="NASDAQ"), "USD", None, "XNYS"),
        (named(exchange="nse"), "INR", None, "XBOM"),
        (named(exchange="XLON"), None, None, "XLON"),
        (named(AssetClass.FUTURE, "NFO"), "INR", None, "XBOM"),
        (named(AssetClass.FUTURE, "CME"), "USD", None, "CMES"),
        (named(AssetClass.FUTURE), "USD", "NYMEX", "CMES"),
        (named(exchange="SMART"), "USD", None, "XNYS"),
        (named(exchange="SMART"), "EUR", "IBIS", "XETR"),
        (named(exchange="LSE"), "USD", "NASDAQ", "XLON"),
        (named(), "USD", None, "XNYS"),
        (named(AssetClass.ETF), "INR", None, "XBOM"),
        (named(AssetClass.CRYPTO), "USD", None, "24/7"),
        (named(AssetClass.CRYPTO, "PAXOS"), None, None, "24/7"),
        (named(), "EUR", None, None),
        (named(), None, None, None),
        (named(exchange="MCX"), "INR", None, None),
        (named(exchange="NOWHERE"), "USD", None, None),
        (named(exchange="NOWHERE"), "USD", "NYSE", None),
        (named(AssetClass.OPTION), "USD", None, None),
        (named(AssetClass.FOREX), "USD", None, None),
    ],
)
def test_the_calendar_of_an_instrument(
    instrument: Instrument, currency: str | None, told: str | None, calendar: str | None
) -> None:
    assert calendar_of(instrument, currency=currency, exchange=told) == calendar
