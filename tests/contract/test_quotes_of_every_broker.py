"""What every broker that tells quotes must show: the market's own prices and times, a reason where there is no price, and calls that nobody
misses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Broker, DescribesQuotes, Instrument, NoQuote, Quote, TellsQuotes
from brokers.errors import BrokerUnavailable, RateLimited
from brokers.factory import BrokerFactory
from brokers.paper.model import Action, Fault, Market, Operation, ScriptedQuote
from execution_service.core.risk.prices import PriceSource, ReferencePrice, price_of_quote
from simulators.simulator import Stage
from tests.contract.broker_adapters import ADAPTERS, Adapter
from tests.waits import PATIENCE_SECONDS

BID, ASK = Decimal("100.24"), Decimal("100.26")
IN_A_HURRY = {"order_calls_per_second": 5, "other_calls_per_second": 40}
OWN_TIMES = frozenset({"mock", "alpaca", "binance", "zerodha"})
"""Those whose quotes have the market's own times; of the others they are as of when they came."""


class Telling:
    """One adapter that tells quotes, on its stage."""

    def __init__(self, adapter: Adapter, stage: Stage, broker: Broker) -> None:
        self.adapter = adapter
        self.stage = stage
        self.broker = broker

    def set(self, **fields: object) -> None:
        symbol = self.adapter.instrument.symbol
        self.stage.exchange.set_quote(ScriptedQuote(symbol=symbol, **fields))  # type: ignore[arg-type]

    async def told(self, instrument: Instrument | None = None) -> Quote | NoQuote:
        """Kite answers one call a second."""
        assert isinstance(self.broker, TellsQuotes)
        about = instrument or self.adapter.instrument
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return (await self.broker.quotes([about]))[about]
                except RateLimited as held:
                    await asyncio.sleep(held.wait_seconds)

    async def price(self) -> ReferencePrice | str:
        return price_in(await self.told())


def price_in(told: Quote | NoQuote) -> ReferencePrice | str:
    """As the risk gate and the price watch take it."""
    return told.reason if isinstance(told, NoQuote) else price_of_quote(told)


@pytest.fixture(
    params=[each for each in ADAPTERS if each.name != "simulated"],  # whose market is made of bars
    ids=lambda adapter: adapter.name,
)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return request.param


@pytest.fixture
async def telling(adapter: Adapter, tmp_path: Path) -> AsyncIterator[Telling]:
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(adapter.open_stage(tmp_path, Market()))
        broker = BrokerFactory.create_broker({**stage.config, **IN_A_HURRY})
        stack.push_async_callback(broker.close)
        await broker.connect()
        yield Telling(adapter, stage, broker)


async def test_bid_and_ask_are_the_market_s_and_the_price_is_between_them(telling: Telling) -> None:
    telling.set(bid=BID, ask=ASK)
    told = await telling.told()
    assert isinstance(told, Quote)
    assert (told.bid, told.ask, told.is_delayed) == (BID, ASK, False)
    assert abs(datetime.now(UTC) - told.at) < timedelta(seconds=30)
    price = price_in(told)
    assert isinstance(price, ReferencePrice)
    assert (price.price, price.source) == (Decimal("100.25"), PriceSource.QUOTE)


async def test_what_is_crossed_one_sided_or_zero_is_no_price_and_says_why(telling: Telling) -> None:
    for fields in ({"bid": ASK, "ask": BID}, {"bid": BID}, {"ask": ASK}, {"bid": Decimal(0), "ask": Decimal(0)}):
        telling.set(**fields)
        assert isinstance(await telling.price(), str), fields


async def test_a_quote_of_long_ago_is_as_old_as_it_is(telling: Telling) -> None:
    if telling.adapter.name not in OWN_TIMES:
        pytest.skip(f"{telling.adapter.name} tells no time of its quotes")
    telling.set(bid=BID, ask=ASK, age_seconds=3600.0)
    price = await telling.price()
    assert isinstance(price, ReferencePrice)
    assert timedelta(minutes=59) < datetime.now(UTC) - price.at < timedelta(minutes=62)


async def test_what_the_broker_does_not_tell_has_no_price(telling: Telling) -> None:
    telling.set(refusal="354 Requested market data is not subscribed.")
    assert isinstance(await telling.price(), str)
    nothing = replace(telling.adapter.instrument, symbol="ZZNONE")
    assert isinstance(await telling.told(nothing), NoQuote)


async def test_a_failure_says_nothing_about_the_session(telling: Telling) -> None:
    if telling.adapter.name == "ibkr":
        pytest.skip("a snapshot that fails is left out: test_ibkr_quotes.py")
    telling.set(bid=BID, ask=ASK)
    fault = Fault(operation=Operation.QUOTES, action=Action.UNAVAILABLE, reason="no quotes now")
    telling.stage.exchange.add_fault(fault)
    with pytest.raises(BrokerUnavailable):
        await telling.told()
    await telling.broker.balances()
    assert isinstance(await telling.price(), ReferencePrice)


async def test_which_quotes_the_account_is_given_can_be_told(telling: Telling) -> None:
    if telling.adapter.name == "mock":
        pytest.skip("it is given what a script says")
    assert isinstance(telling.broker, DescribesQuotes)
    assert (await telling.broker.quotes_in_words()).startswith("Quotes")
