"""IBKR's quotes: snapshots of what the account subscribes to, delayed ones known as such, and calls left to orders."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokers.base import AssetClass, Instrument, NoQuote, Quote, TellsQuotes
from brokers.errors import BrokerUnavailable, RateLimited
from brokers.ibkr import adapter as ibkr
from brokers.ibkr.quotes import DATA_TYPE, MarketDataType, MarketTick, quote_in
from execution_service.core.risk.prices import price_of_quote
from simulators.control import quote_of
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import LAST_PRICE
from tests.contract.ibkr.stage import IbkrStage, place
from tests.waits import until

SPY, AAPL = Instrument(symbol="SPY"), Instrument(symbol="AAPL")
FUTURE = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202703")
NOW = datetime(2026, 11, 30, 15, tzinfo=UTC)


def set_quote(stage: IbkrStage, symbol: str, **fields: object) -> None:
    stage.book.set_quote(quote_of({"symbol": symbol} | fields))


async def test_several_instruments_are_told_at_once_by_free_snapshots(stage: IbkrStage) -> None:
    broker = await stage.connect(order_calls_per_second=15, other_calls_per_second=30)
    assert isinstance(broker, TellsQuotes)
    set_quote(stage, "AAPL", bid="199.5", ask="200.5", last="200", close="190", last_age_seconds=7)
    set_quote(stage, "ES", bid="5000", ask="5000.25")
    found = await broker.quotes([SPY, AAPL, FUTURE])
    quote = found[AAPL]
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask, quote.last, quote.is_delayed) == (
        Decimal("199.5"),
        Decimal("200.5"),
        Decimal(200),
        False,
    )
    assert quote.last_at is not None
    assert timedelta(seconds=6) < datetime.now(UTC) - quote.last_at < timedelta(seconds=30)
    prices = {each.symbol: price_of_quote(told) for each, told in found.items() if isinstance(told, Quote)}
    assert {symbol: getattr(price, "price", price) for symbol, price in prices.items()} == {
        "SPY": LAST_PRICE,
        "AAPL": 200,
        "ES": Decimal("5000.125"),
    }
    asked = stage.heard(Ask.MARKET_DATA)
    assert len(asked) == 3
    assert {(fields[17], fields[18]) for fields in asked} == {("1", "0")}
    assert [fields[2] for fields in stage.heard(Ask.MARKET_DATA_TYPE)] == ["1"]


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("Requested market data is not subscribed.", "not subscribed. (code 354)"),
        ("10197 No market data during competing live session", "competing live session (code 10197)"),
        ("10089 Requested market data requires additional subscription for API.", "(code 10089)"),
    ],
)
async def test_an_account_without_data_has_no_quote_and_the_reason(stage: IbkrStage, refusal: str, words: str) -> None:
    broker = await stage.connect()
    set_quote(stage, "AAPL", refusal=refusal)
    found = (await broker.quotes([AAPL]))[AAPL]
    assert isinstance(found, NoQuote)
    assert words in found.reason
    assert len((await broker.reports()).reports) == 0


async def test_delayed_data_are_known_as_delayed(stage: IbkrStage) -> None:
    broker = await stage.connect()
    set_quote(stage, "AAPL", bid="199", ask="201", last="200", last_age_seconds=0, is_delayed=True)
    found = (await broker.quotes([AAPL]))[AAPL]
    assert isinstance(found, Quote)
    assert (found.last, found.is_delayed) == (Decimal(200), True)
    assert price_of_quote(found) == "the broker's quote is delayed"


async def test_a_market_that_says_nothing_is_left_out(stage: IbkrStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ibkr, "_QUOTE_SECONDS", 0.2)
    broker = await stage.connect()
    stage.gateway.silent = {Ask.MARKET_DATA}
    assert await broker.quotes([SPY]) == {}
    stage.gateway.silent = set()
    assert isinstance((await broker.quotes([SPY]))[SPY], Quote)


async def test_an_instrument_that_does_not_exist_has_no_quote(stage: IbkrStage) -> None:
    broker = await stage.connect()
    nothing = Instrument(symbol="ZZNONE")
    assert isinstance((await broker.quotes([nothing]))[nothing], NoQuote)


async def test_quotes_leave_half_of_the_calls_to_others(stage: IbkrStage) -> None:
    broker = await stage.connect(other_calls_per_second=15)
    await broker.quotes([SPY])
    many = [Instrument(symbol=f"SYM{number}") for number in range(20)]

    async def ask_for_ever() -> None:
        while True:
            assert len(await broker.quotes(many)) < len(many)

    with pytest.raises(RateLimited):
        await ask_for_ever()
    assert min(broker._other_calls.left().values()) > 0, "the next call of another kind would have to wait"
    await broker.balances()


async def test_an_order_goes_its_way_while_quotes_are_not_answered(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.gateway.silent = {Ask.MARKET_DATA}
    asked = asyncio.ensure_future(broker.quotes([SPY]))
    await until(lambda: bool(stage.heard(Ask.MARKET_DATA)))
    await place(broker, stage.ticket())
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def test_a_lost_connection_gives_no_quote(stage: IbkrStage) -> None:
    broker = await stage.connect()
    await broker.quotes([SPY])
    stage.gateway.lose_link()

    async def ask_for_ever() -> None:
        while True:
            await broker.quotes([SPY])
            await asyncio.sleep(0.01)

    with pytest.raises(BrokerUnavailable):
        await ask_for_ever()


@pytest.mark.parametrize(
    ("ticks", "quote"),
    [
        ([(1, 99.0), (2, 101.0), (4, 100.0), (45, "1764514795")], (99, 101, 100)),
        ([(1, -1.0), (2, -1.0), (4, 100.0)], (None, None, 100)),
        ([(9, 98.0)], (None, None, None)),
        ([(1, float("nan")), (2, float("inf")), (4, 1.7976931348623157e308)], (None, None, None)),
    ],
)
def test_prices_that_are_none_are_none(
    ticks: list[tuple[int, float | str]], quote: tuple[Decimal | None, Decimal | None, Decimal | None]
) -> None:
    found = quote_in([MarketTick(DATA_TYPE, 1), *(MarketTick(*tick) for tick in ticks)], NOW)
    assert isinstance(found, Quote)
    assert (found.bid, found.ask, found.last, found.is_delayed) == (*quote, False)


@pytest.mark.parametrize("text", ["", "soon", "-5", "9" * 30, "12", "१२३४५६७८९०"])
def test_a_time_that_is_none_is_not_told(text: str) -> None:
    found = quote_in([MarketTick(4, 100.0), MarketTick(45, text)], NOW)
    assert isinstance(found, Quote)
    assert found.last_at is None


def test_how_the_market_stood_at_its_close_is_no_quote() -> None:
    found = quote_in([MarketTick(DATA_TYPE, MarketDataType.FROZEN), MarketTick(1, 99.0)], NOW)
    assert isinstance(found, NoQuote)


def test_delayed_prices_are_delayed_whatever_type_of_data_is_told() -> None:
    found = quote_in([MarketTick(66, 99.0), MarketTick(67, 101.0)], NOW)
    assert isinstance(found, Quote)
    assert (found.bid, found.ask, found.is_delayed) == (99, 101, True)


def test_nothing_told_is_no_answer() -> None:
    assert quote_in([MarketTick(DATA_TYPE, 1)], NOW) is None
