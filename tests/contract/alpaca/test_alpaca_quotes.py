"""Alpaca's quotes: from another host within a limit of its own, of the feed that the account has, and what is no quote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.alpaca.adapter import AlpacaBroker, Configuration, create
from brokers.alpaca.rows import Malformed, read_snapshot
from brokers.base import AssetClass, Instrument, NoQuote, OptionRight, Quote, TellsQuotes
from brokers.errors import BrokerUnavailable, HeldBack, RateLimited
from execution_service.core.risk.prices import ReferencePrice, price_of_quote
from simulators.alpaca.server import AlpacaFault, FaultKind, SimulatedAlpaca
from simulators.control import quote_of
from simulators.http_gateway import serving
from simulators.stage_alpaca import LAST_PRICE, config_for
from tests.contract.alpaca.stage import ticket

AAPL, SPY, UNKNOWN = Instrument(symbol="AAPL"), Instrument(symbol="SPY"), Instrument(symbol="NOSUCH")
CALL = Instrument(
    symbol="AAPL",
    asset_class=AssetClass.OPTION,
    expiry="20261218",
    strike=Decimal(200),
    right=OptionRight.CALL,
)
BTC, ETH = (Instrument(symbol=symbol, asset_class=AssetClass.CRYPTO) for symbol in ("BTC/USD", "ETHUSD"))
SHARES, OPTIONS, COINS = (f"GET {path}/snapshots" for path in ("/v2/stocks", "/v1beta1/options", "/v1beta3/crypto/us"))


def set_quote(server: SimulatedAlpaca, symbol: str, **fields: object) -> None:
    server.book.set_quote(quote_of({"symbol": symbol} | fields))


def asked(server: SimulatedAlpaca, route: str = SHARES) -> list[tuple[str, str | None]]:
    """Feed and symbols of each call."""
    return [(call.query["symbols"], call.query.get("feed")) for call in server.calls(route)]


@asynccontextmanager
async def connected(server: SimulatedAlpaca, **settings: object) -> AsyncIterator[AlpacaBroker]:
    broker = create({**config_for(server), **settings})
    await broker.connect()
    yield broker
    await broker.close()


async def quoted(broker: AlpacaBroker, instrument: Instrument = AAPL) -> Quote:
    quote = (await broker.quotes([instrument]))[instrument]
    assert isinstance(quote, Quote)
    return quote


async def test_each_class_of_assets_costs_one_call_and_none_of_other_calls(server: SimulatedAlpaca) -> None:
    server.subscribe()
    set_quote(server, "AAPL", bid="199.5", ask="200.5", last="200", last_age_seconds=7)
    set_quote(server, "AAPL261218C00200000", bid="3.1", ask="3.2")
    async with connected(server) as broker:
        assert isinstance(broker, TellsQuotes)
        before, left = len(server.calls()), broker.calls_left()
        found = await broker.quotes([AAPL, SPY, CALL, BTC, ETH, UNKNOWN])
        assert sorted(call.route for call in server.calls()[before:]) == sorted([SHARES, OPTIONS, COINS])
        after = broker.calls_left()
    prices = {each: price_of_quote(quote) for each, quote in found.items() if isinstance(quote, Quote)}
    assert {
        each.symbol: price.price for each, price in prices.items() if isinstance(price, ReferencePrice) and each != CALL
    } == {
        "AAPL": 200,
        "SPY": Decimal("590.25"),
        "BTC/USD": 60000,
        "ETHUSD": 2100,
    }
    assert getattr(prices[CALL], "price", None) == Decimal("3.15")
    assert isinstance(found[UNKNOWN], NoQuote)
    assert left["quotes", 60.0] - after["quotes", 60.0] == 3
    assert {kind: n for kind, n in after.items() if kind[0] != "quotes"} == {
        kind: n for kind, n in left.items() if kind[0] != "quotes"
    }


async def test_a_quote_has_the_market_s_times(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    set_quote(server, "AAPL", bid="99.95", ask="100.05", last="100", age_seconds=120, last_age_seconds=300)
    found, now = await quoted(broker), datetime.now(UTC)
    assert (found.bid, found.ask, found.last) == (Decimal("99.95"), Decimal("100.05"), Decimal(100))
    assert timedelta(seconds=119) < now - found.at < timedelta(seconds=140)
    assert found.last_at is not None
    assert timedelta(seconds=299) < now - found.last_at < timedelta(seconds=320)


async def test_an_account_without_the_tape_gets_iex_and_is_asked_for_the_tape_once_a_session(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    assert (await quoted(broker)).last == LAST_PRICE
    await quoted(broker, SPY)
    assert asked(server) == [("AAPL", "sip"), ("AAPL", "iex"), ("SPY", "iex")]
    server.subscribe()
    await broker.connect()
    await quoted(broker)
    assert asked(server)[3:] == [("AAPL", "sip")]


async def test_a_subscription_that_has_ended_is_noticed(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.subscribe()
    await quoted(broker)
    server.subscribe(plus=False)
    await quoted(broker)
    assert [feed for _, feed in asked(server)] == ["sip", "sip", "iex"]


async def test_a_wide_or_one_sided_quote_says_nothing_of_the_market(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    set_quote(server, "AAPL", bid="90", ask="110", last="99", last_age_seconds=3)
    set_quote(server, "SPY", bid="90", ask="110")
    found = await quoted(broker)
    assert (found.bid, found.ask, found.last) == (None, None, 99)
    assert price_of_quote(await quoted(broker, SPY)) == "the broker's quote has no price"
    server.subscribe()
    await broker.connect()
    tape = await quoted(broker)
    assert (tape.bid, tape.ask, tape.last) == (None, None, 99), "a trade of any age may lie between them"
    set_quote(server, "AAPL", bid="98.8", ask="99.1", last="99", last_age_seconds=3000)
    near = await quoted(broker)
    assert (near.bid, near.ask) == (Decimal("98.8"), Decimal("99.1"))
    set_quote(server, "AAPL", bid="101", last="99", last_age_seconds=3000)
    alone = await quoted(broker)
    assert (alone.bid, alone.ask, alone.last) == (None, None, 99)


async def test_a_feed_with_a_delay_is_known_as_delayed(server: SimulatedAlpaca) -> None:
    async with connected(server, quote_feed="delayed_sip") as broker:
        found = await quoted(broker)
        assert price_of_quote(found) == "the broker's quote is delayed"
        assert datetime.now(UTC) - found.at > timedelta(minutes=14)


async def test_a_feed_that_was_named_and_is_not_had_is_no_quote_and_no_other_is_taken(server: SimulatedAlpaca) -> None:
    async with connected(server, quote_feed="sip") as broker:
        found = (await broker.quotes([AAPL]))[AAPL]
        assert isinstance(found, NoQuote)
        assert "subscription does not permit querying recent SIP data" in found.reason
        assert [feed for _, feed in asked(server)] == ["sip"]


async def test_indications_of_options_are_no_quotes(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    found = await broker.quotes([CALL, AAPL])
    none = found[CALL]
    assert isinstance(none, NoQuote)
    assert "OPRA agreement is not signed" in none.reason
    assert isinstance(found[AAPL], Quote)


async def test_a_symbol_that_is_none_fails_itself_and_no_other(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    """Alpaca refuses the whole call: the others are left out, and are asked about again without it."""
    bad = Instrument(symbol="BAD-X")
    first = await broker.quotes([AAPL, bad])
    assert set(first) == {bad}
    assert isinstance(first[bad], NoQuote)
    assert "invalid symbol: BAD-X" in first[bad].reason
    assert isinstance((await broker.quotes([AAPL]))[AAPL], Quote)


@pytest.mark.parametrize("symbol", ["A,B", "A B\n", "", "Ä", "X" * 40])
async def test_what_could_be_taken_for_another_symbol_is_never_asked(
    server: SimulatedAlpaca, broker: AlpacaBroker, symbol: str
) -> None:
    odd = Instrument(symbol=symbol, asset_class=AssetClass.CRYPTO)
    found = await broker.quotes([odd, AAPL])
    assert isinstance(found[odd], NoQuote)
    assert asked(server, COINS) == []


async def test_what_alpaca_does_not_trade_has_no_quote(broker: AlpacaBroker) -> None:
    future = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202703")
    abroad = Instrument(symbol="SAP", currency="EUR")
    found = await broker.quotes([future, abroad])
    assert all(isinstance(quote, NoQuote) for quote in found.values())
    assert set(found) == {future, abroad}


async def test_of_more_than_a_hundred_the_rest_is_left_out(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    many = [Instrument(symbol=f"H{number:07X}") for number in range(130)]
    found = await broker.quotes(many)
    assert len(found) == 100
    assert all(isinstance(quote, Quote) for quote in found.values())
    assert len(await broker.quotes([each for each in many if each not in found])) == 30


@pytest.mark.parametrize(
    "fault",
    [
        AlpacaFault(kind=FaultKind.FORBIDDEN, route=SHARES),
        AlpacaFault(kind=FaultKind.SERVER_ERROR, route=SHARES),
        AlpacaFault(kind=FaultKind.HTML, route=SHARES, status=400),
        AlpacaFault(kind=FaultKind.MOVED, route=SHARES),
        AlpacaFault(kind=FaultKind.DROP, route=SHARES),
        AlpacaFault(kind=FaultKind.TRUNCATED, route=SHARES),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_call_that_fails_says_nothing_about_orders(
    server: SimulatedAlpaca, broker: AlpacaBroker, fault: AlpacaFault
) -> None:
    server.subscribe()
    server.add_fault(fault)
    with pytest.raises(BrokerUnavailable) as failed:
        await broker.quotes([AAPL, BTC])
    assert type(failed.value) is BrokerUnavailable
    await broker.place_order(ticket())
    assert len((await broker.reports()).reports) == 1


async def test_too_many_calls_for_quotes_pause_quotes_alone(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.RATE_LIMITED, route=SHARES))
    with pytest.raises(RateLimited):
        await broker.quotes([AAPL])
    assert broker.calls_left()["quotes", 60.0] == 0
    await broker.place_order(ticket())
    await broker.balances()


async def test_quotes_stay_within_a_limit_of_their_own(server: SimulatedAlpaca) -> None:
    server.subscribe()
    async with connected(server, quote_calls_per_minute=3) as broker:
        for _ in range(3):
            await broker.quotes([AAPL])
        with pytest.raises(HeldBack):
            await broker.quotes([AAPL])
        assert len(asked(server)) == 3
        await broker.place_order(ticket())


async def test_the_last_call_of_the_minute_by_alpaca_s_own_count_is_the_last(tmp_path: Path) -> None:
    """Other programs of the account are counted too. Orders and other queries are counted elsewhere."""
    async with (
        serving(SimulatedAlpaca(tmp_path / "alpaca.db", calls_per_minute=50, data_calls_per_minute=3)) as server,
        connected(server) as broker,
    ):
        await broker.quotes([AAPL])
        await broker.quotes([AAPL])
        with pytest.raises(HeldBack):
            await broker.quotes([AAPL])
        assert [feed for _, feed in asked(server)] == ["sip", "iex", "iex"]
        await broker.place_order(ticket())


async def test_a_call_that_hangs_holds_up_no_other(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.NEVER_ANSWER, route=SHARES))
    waiting = asyncio.ensure_future(broker.quotes([AAPL]))
    await broker.place_order(ticket())
    await broker.reports()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_odd_row_spoils_no_other(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.show_oddly(SHARES, "SPY", {"latestQuote": {"t": "soon", "bp": 1, "ap": 2}})
    found = await broker.quotes([AAPL, SPY])
    assert isinstance(found[AAPL], Quote)
    odd = found[SPY]
    assert isinstance(odd, NoQuote)
    assert "cannot be read" in odd.reason


@pytest.mark.parametrize(
    ("base_url", "data_url", "address"),
    [
        (None, None, "https://data.alpaca.markets"),
        ("https://paper-api.alpaca.markets", None, "https://data.alpaca.markets"),
        ("https://proxy.example", None, "https://proxy.example"),
        ("https://proxy.example", "https://data.example/", "https://data.example"),
        (None, "https://data.sandbox.alpaca.markets", "https://data.sandbox.alpaca.markets"),
    ],
)
def test_the_keys_go_to_no_host_that_nobody_has_named(base_url: str | None, data_url: str | None, address: str) -> None:
    named = {"account_id": "a", "api_key": "k", "secret_key": "s", "base_url": base_url, "data_url": data_url}
    assert Configuration.of(named, broker="Alpaca").data_access.base_url == address


AT = "2026-11-30T15:00:00.123456789Z"
ROW: dict[str, Any] = {"latestQuote": {"t": AT, "bp": 99, "ap": 101}, "latestTrade": {"t": AT, "p": Decimal("100.5")}}


@pytest.mark.parametrize(
    "changes",
    [
        {"latestQuote": None, "latestTrade": None},
        {"latestQuote": {"t": None, "bp": 99, "ap": 101}},
        {"latestQuote": {"t": AT, "bp": -1, "ap": 101}},
        {"latestQuote": {"t": AT, "bp": "much", "ap": 101}},
        {"latestQuote": "x"},
        {"latestTrade": {"t": AT, "p": float("nan")}},
        {"latestQuote": None, "latestTrade": {"t": "soon", "p": 100}},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_or_has_no_time_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read_snapshot(ROW | changes)


def test_a_side_on_which_nobody_stands_is_no_price() -> None:
    read = read_snapshot(ROW | {"latestQuote": {"t": AT, "bp": 0, "ap": 0}})
    assert (read.bid, read.ask, read.last) == (None, None, Decimal("100.5"))


def test_without_a_quote_there_is_the_last_trade_alone_as_old_as_it_is() -> None:
    read = read_snapshot(ROW | {"latestQuote": None})
    assert (read.bid, read.ask, read.last) == (None, None, Decimal("100.5"))
    assert read.at == read.last_at == datetime(2026, 11, 30, 15, 0, 0, 123456, tzinfo=UTC)
