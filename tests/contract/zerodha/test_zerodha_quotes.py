"""Zerodha's quotes: many instruments by one call of a budget of its own, with the exchange's times; and what is no quote."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, NoQuote, Quote, TellsQuotes
from brokers.errors import BrokerUnavailable
from brokers.zerodha.adapter import ZerodhaBroker
from brokers.zerodha.rows import Malformed, read_quote
from execution_service.core.risk.prices import ReferencePrice, price_of_quote
from simulators.control import quote_of
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.contract.zerodha.stage import INFY, hold, ticket

RELIANCE = Instrument(symbol="RELIANCE", exchange="NSE")
FUND = Instrument(symbol="NIFTYBEES", asset_class=AssetClass.ETF)
"""Nothing was set of it: the simulator quotes it around its last price."""
UNKNOWN = Instrument(symbol="NOSUCH")


async def test_many_instruments_cost_one_call_and_none_of_other_calls(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    assert isinstance(broker, TellsQuotes)
    for symbol, last in (("INFY", "1500"), ("RELIANCE", "2900")):
        server.book.set_quote(
            quote_of({"symbol": symbol, "bid": last, "ask": last, "last": last, "last_age_seconds": 2})
        )
    before, left = len(server.calls()), broker.calls_left()
    found = await broker.quotes([INFY, RELIANCE, FUND, UNKNOWN])
    assert [call.route for call in server.calls()[before:]] == ["GET /quote"]
    after = broker.calls_left()
    assert {kind: after[kind] for kind in after if kind[0] != "quotes"} == {
        kind: left[kind] for kind in left if kind[0] != "quotes"
    }
    prices = {each: price_of_quote(quote) for each, quote in found.items() if isinstance(quote, Quote)}
    assert {each.symbol: price.price for each, price in prices.items() if isinstance(price, ReferencePrice)} == {
        "INFY": 1500,
        "RELIANCE": 2900,
        "NIFTYBEES": 100,
    }
    assert isinstance(found[UNKNOWN], NoQuote)


async def test_a_quote_has_the_exchange_s_times(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    server.book.set_quote(
        quote_of({"symbol": "INFY", "bid": "99.95", "last": "100", "age_seconds": 120, "last_age_seconds": 300})
    )
    found = (await broker.quotes([INFY]))[INFY]
    now = datetime.now(UTC)
    assert isinstance(found, Quote)
    assert (found.bid, found.ask, found.last) == (Decimal("99.95"), None, Decimal(100))
    assert timedelta(seconds=119) < now - found.at < timedelta(seconds=140)
    assert found.last_at is not None
    assert timedelta(seconds=299) < now - found.last_at < timedelta(seconds=320)


@pytest.mark.parametrize(
    "fault",
    [
        KiteFault(
            kind=FaultKind.SERVER_ERROR,
            route="GET /quote",
            status=403,
            error="PermissionException",
            text="Insufficient permission for that call.",
        ),
        KiteFault(kind=FaultKind.RATE_LIMITED, route="GET /quote"),
        KiteFault(kind=FaultKind.HTML, route="GET /quote"),
        KiteFault(kind=FaultKind.DROP, route="GET /quote"),
        KiteFault(kind=FaultKind.TRUNCATED, route="GET /quote"),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_call_that_fails_says_nothing_about_orders(
    server: SimulatedKite, broker: ZerodhaBroker, fault: KiteFault
) -> None:
    server.add_fault(fault)
    with pytest.raises(BrokerUnavailable):
        await broker.quotes([INFY])
    hold(server)
    await broker.place_order(ticket())
    assert len((await broker.reports()).reports) == 1


async def test_a_call_that_hangs_holds_up_no_other(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    server.add_fault(KiteFault(kind=FaultKind.NEVER_ANSWER, route="GET /quote"))
    asked = asyncio.ensure_future(broker.quotes([INFY]))
    hold(server)
    await broker.place_order(ticket())
    await broker.reports()
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


AT = "2026-11-23 09:16:01"
ROW: dict[str, Any] = {"timestamp": AT, "last_trade_time": AT, "last_price": Decimal("100.5")}


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamp": None, "last_trade_time": None},
        {"timestamp": "soon", "last_trade_time": 7},
        {"last_price": "much"},
        {"last_price": -1},
        {"depth": {"buy": [{"price": "x"}], "sell": []}},
        {"depth": {"buy": ["x"], "sell": []}},
    ],
)
def test_a_quote_that_cannot_be_read_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read_quote(ROW | changes)


@pytest.mark.parametrize("row", [None, "x", [], 3])
def test_what_is_no_quote_at_all_is_none(row: object) -> None:
    with pytest.raises(Malformed):
        read_quote(row)


@pytest.mark.parametrize("depth", [None, "x", {}, {"buy": None, "sell": "x"}])
def test_without_depth_there_is_the_last_trade_alone(depth: object) -> None:
    read = read_quote(ROW | {"depth": depth})
    assert (read.bid, read.ask, read.last) == (None, None, Decimal("100.5"))


def test_the_best_of_several_levels_counts_and_empty_ones_do_not() -> None:
    levels = {
        "buy": [{"price": 0}, {"price": 99}, {"price": 98}],
        "sell": [{"price": 102}, {"price": 101}, {"price": 0}],
    }
    read = read_quote(ROW | {"depth": levels, "last_price": 0})
    assert (read.bid, read.ask, read.last) == (99, 101, None)
