"""Binance's quotes: the best bid and ask of any number of contracts by one call, with the venue's time, of weight that orders can spare."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, NoQuote, Quote, TellsQuotes
from brokers.binance.adapter import BinanceBroker, create
from brokers.binance.quotes import quotes_in
from brokers.binance.rows import Malformed
from brokers.errors import BrokerUnavailable, HeldBack, RateLimited
from execution_service.core.risk.prices import price_of_quote
from simulators.binance.server import BinanceFault, FaultKind, SimulatedBinance
from simulators.control import quote_of
from simulators.stage_binance import config_for
from tests.contract.binance.stage import SOL, hold, limit

BTC = Instrument(symbol="BTC/USDT", asset_class=AssetClass.CRYPTO)
QUARTERLY = Instrument(symbol="BTCUSDT", asset_class=AssetClass.FUTURE, expiry="20300329")
UNKNOWN = Instrument(symbol="NOSUCHUSDT", asset_class=AssetClass.CRYPTO)
ROUTE = "GET /fapi/v1/ticker/bookTicker"


def set_quote(server: SimulatedBinance, symbol: str, **fields: object) -> None:
    server.book.set_quote(quote_of({"symbol": symbol} | fields))


def asked(server: SimulatedBinance) -> list[str]:
    return [call.query for call in server.calls(ROUTE)]


async def test_one_contract_is_asked_about_by_itself_and_more_by_one_call_for_all(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    assert isinstance(broker, TellsQuotes)
    set_quote(server, "BTCUSDT", bid="60000", ask="60000.2")
    set_quote(server, "BTCUSDT_300329", bid="61000", ask="61000.2")
    alone = await broker.quotes([SOL])
    assert asked(server) == ["symbol=SOLUSDT"]
    found = await broker.quotes([SOL, BTC, QUARTERLY, UNKNOWN])
    assert asked(server) == ["symbol=SOLUSDT", ""]
    assert isinstance(alone[SOL], Quote)
    prices = {each: (quote.bid, quote.ask) for each, quote in found.items() if isinstance(quote, Quote)}
    assert prices[BTC] == (Decimal(60000), Decimal("60000.2"))
    assert prices[QUARTERLY] == (Decimal(61000), Decimal("61000.2"))
    assert isinstance(found[UNKNOWN], NoQuote)


async def test_a_quote_has_the_venue_s_time_by_our_clock(server: SimulatedBinance) -> None:
    server.set_clock(900)
    set_quote(server, "SOLUSDT", bid="100", ask="100.5", age_seconds=30)
    broker = create(config_for(server))
    await broker.connect()
    quote = (await broker.quotes([SOL]))[SOL]
    assert isinstance(quote, Quote)
    assert timedelta(seconds=28) < datetime.now(UTC) - quote.at < timedelta(seconds=50)
    await broker.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bid": "101", "ask": "100"}, "a bid of 101 above the ask of 100"),
        ({"bid": "100"}, "has no price"),
        ({"ask": "100"}, "has no price"),
        ({"bid": "0", "ask": "0"}, "has no price"),
        ({"refusal": "not told"}, "has no price"),
        ({"bid": "100", "ask": "105.01"}, "has no price"),
    ],
)
async def test_crossed_one_sided_empty_and_wide_books_are_no_price(
    server: SimulatedBinance, broker: BinanceBroker, fields: dict[str, object], words: str
) -> None:
    set_quote(server, "SOLUSDT", **fields)
    quote = (await broker.quotes([SOL]))[SOL]
    assert isinstance(quote, Quote)
    price = price_of_quote(quote)
    assert isinstance(price, str)
    assert words in price


async def test_the_count_of_weight_in_an_answer_with_quotes_is_not_believed(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    """Binance says that it is not accurate there; the simulator tells nonsense."""
    before = broker.calls_left()["weight", 60.0]
    await broker.quotes([SOL])
    await broker.quotes([SOL, BTC])
    assert before - broker.calls_left()["weight", 60.0] == 7


async def test_quotes_leave_half_of_the_weight_to_others(server: SimulatedBinance) -> None:
    broker = create({**config_for(server), "rate_limit_rpm": 400})
    await broker.connect()

    async def ask_for_ever() -> None:
        while True:
            await broker.quotes([SOL, BTC])

    with pytest.raises(RateLimited):
        await ask_for_ever()
    assert broker.calls_left()["weight", 60.0] > 150
    hold(server)
    await broker.place_order(limit())
    await broker.close()


@pytest.mark.parametrize(
    "fault",
    [
        BinanceFault(kind=FaultKind.ERROR, route=ROUTE, status=401, code=-2015, text="Invalid API-key"),
        BinanceFault(kind=FaultKind.ERROR, route=ROUTE, status=503, code=-1001, text="Internal error", times=20),
        BinanceFault(kind=FaultKind.HTML, route=ROUTE, status=403),
        BinanceFault(kind=FaultKind.DROP, route=ROUTE, times=20),
        BinanceFault(kind=FaultKind.TRUNCATED, route=ROUTE),
        BinanceFault(kind=FaultKind.NO_ID, route=ROUTE),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_call_that_fails_says_nothing_about_orders(
    server: SimulatedBinance, broker: BinanceBroker, fault: BinanceFault
) -> None:
    server.add_fault(fault)
    for _ in range(min(fault.times or 1, 8)):
        with pytest.raises(BrokerUnavailable) as failed:
            await broker.quotes([SOL, BTC])
        assert type(failed.value) is BrokerUnavailable
    hold(server)
    await broker.place_order(limit())
    assert len((await broker.reports()).reports) == 1


async def test_while_binance_answers_no_calls_it_is_asked_for_no_quotes(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    """Not even as the call that tries again, which is left to whoever has to know."""
    server.add_fault(BinanceFault(kind=FaultKind.DROP, route="GET /fapi/v3/balance", times=5))
    for _ in range(5):
        with pytest.raises(BrokerUnavailable):
            await broker.balances()
    with pytest.raises(BrokerUnavailable):
        await broker.quotes([SOL])
    assert asked(server) == []


async def test_too_many_calls_pause_quotes_for_as_long_as_binance_says(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    server.add_fault(
        BinanceFault(kind=FaultKind.ERROR, route=ROUTE, status=429, code=-1003, text="Too many", retry_after=30)
    )
    with pytest.raises(RateLimited) as refused:
        await broker.quotes([SOL])
    assert refused.value.wait_seconds == 30
    with pytest.raises(HeldBack):
        await broker.quotes([SOL])
    assert len(asked(server)) == 1


async def test_a_call_that_hangs_holds_up_no_other(server: SimulatedBinance, broker: BinanceBroker) -> None:
    server.add_fault(BinanceFault(kind=FaultKind.NEVER_ANSWER, route=ROUTE))
    waiting = asyncio.ensure_future(broker.quotes([SOL]))
    hold(server)
    await broker.place_order(limit())
    await broker.reports()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_odd_row_spoils_no_other(server: SimulatedBinance, broker: BinanceBroker) -> None:
    set_quote(server, "BTCUSDT", bid="60000", ask="60000.2")
    server.show_oddly(ROUTE, "BTCUSDT", {"bidPrice": "much"})
    found = await broker.quotes([SOL, BTC])
    assert isinstance(found[SOL], Quote)
    odd = found[BTC]
    assert isinstance(odd, NoQuote)
    assert "cannot be read" in odd.reason


ROW: dict[str, Any] = {"symbol": "SOLUSDT", "bidPrice": "100", "askPrice": "100.5", "time": 1796000000000}


@pytest.mark.parametrize(
    "changes",
    [
        *({"time": value} for value in (None, "soon", -5, 0, 10**30, True)),
        *({"bidPrice": value} for value in (None, "NaN", "Infinity", "-1", 1.5, True, [])),
        {"symbol": "OTHER"},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_or_has_no_time_is_none(changes: dict[str, Any]) -> None:
    rows = [ROW | changes, ROW | {"symbol": "ETHUSDT"}]
    found = quotes_in(rows, ["SOLUSDT", "ETHUSDT"], lambda moment_ms: moment_ms)
    assert isinstance(found["SOLUSDT"], NoQuote)
    assert isinstance(found["ETHUSDT"], Quote)


@pytest.mark.parametrize("answer", [None, {}, "x", [None], [ROW, 3]], ids=str)
def test_what_is_no_list_of_quotes_is_no_answer(answer: object) -> None:
    with pytest.raises(Malformed):
        quotes_in(answer, ["SOLUSDT", "ETHUSDT"], lambda moment_ms: moment_ms)
