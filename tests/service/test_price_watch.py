"""Prices are asked for while somebody waits for one, and whoever waits is woken when it has come, and not over and over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

import pytest

from brokers.base import Instrument, Side
from execution_service.core.protection.plan import PriceBand
from execution_service.core.risk.prices import PriceSource, ReferencePrice
from execution_service.trading.price_watch import PriceWatch
from tests.fakes import HandClock

AAPL = Instrument(symbol="AAPL")
BAND = PriceBand(low=Decimal(9), high=Decimal(11))


@dataclass
class Market:
    """Of one instrument."""

    clock: HandClock
    price: Decimal | None = None
    is_answering: bool = True
    """False: the broker gives no new answer, and the last one stays known."""
    asked_at: datetime | None = None
    asked: list[str] = field(default_factory=list)
    woken: int = 0

    def of(self, instrument_key: str) -> tuple[ReferencePrice, ...]:
        if self.price is None:
            return ()
        if self.is_answering or self.asked_at is None:
            self.asked_at = self.clock.now()
        return (ReferencePrice(price=self.price, source=PriceSource.QUOTE, at=self.asked_at),)

    def missing(self, wanted: Mapping[str, Instrument], good_for_seconds: Decimal) -> dict[str, Instrument]:
        return dict(wanted)

    def ask_for(self, wanted: Mapping[str, Instrument]) -> None:
        self.asked += wanted

    async def ask_now(self, wanted: Mapping[str, Instrument]) -> None:
        self.asked += wanted

    def price_left_band(self) -> None:
        self.woken += 1


async def passes(clock: HandClock, looks: int) -> None:
    for _ in range(looks):
        clock.move_to(clock.monotonic() + 2.0)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def market() -> Market:
    return Market(HandClock())


async def watching(market: Market, band: PriceBand = BAND) -> tuple[PriceWatch, asyncio.Task[None]]:
    watch = PriceWatch(prices=market, quotes=market, clock=market.clock, listener=market)
    watch.watch("line", "AAPL|STOCK", AAPL, band)
    task = asyncio.create_task(watch.run())
    await passes(market.clock, 1)
    return watch, task


async def test_nobody_is_woken_within_the_band_and_everybody_at_its_edge(market: Market) -> None:
    market.price = Decimal(10)
    _, task = await watching(market)
    assert (market.woken, set(market.asked)) == (0, {"AAPL|STOCK"})
    market.price = Decimal(11)
    await passes(market.clock, 1)
    assert market.woken == 1
    task.cancel()


async def test_a_price_that_stays_outside_wakes_more_and_more_rarely(market: Market) -> None:
    market.price = Decimal(8)
    _, task = await watching(market)
    await passes(market.clock, 100)
    assert 20 <= market.woken <= 25
    task.cancel()


async def test_nothing_is_asked_when_nothing_is_watched_any_more(market: Market) -> None:
    watch, task = await watching(market)
    watch.watch("line", "AAPL|STOCK", AAPL, None)
    await passes(market.clock, 1)
    asked = len(market.asked)
    await passes(market.clock, 10)
    assert len(market.asked) == asked
    task.cancel()


async def test_what_two_looks_have_shown_is_kept_and_what_one_has_is_not(market: Market) -> None:
    market.price = Decimal(10)
    watch, task = await watching(market)
    await passes(market.clock, 1)
    market.price = Decimal(15)
    await passes(market.clock, 1)
    assert (watch.kept("AAPL|STOCK", Side.BUY), watch.kept("AAPL|STOCK", Side.SELL)) == (10, 15)
    await passes(market.clock, 1)
    assert watch.kept("AAPL|STOCK", Side.BUY) == 15
    task.cancel()


async def test_one_wrong_price_is_nothing_that_the_market_has_passed(market: Market) -> None:
    market.price = Decimal(10)
    watch, task = await watching(market)
    assert watch.passed("AAPL|STOCK", Side.BUY) is None
    await passes(market.clock, 1)
    for price, long, short in ((8, 10, 8), (10, 10, 8), (8, 10, 8), (8, 8, 8), (7, 8, 7)):
        market.price = Decimal(price)
        await passes(market.clock, 1)
        assert (watch.passed("AAPL|STOCK", Side.BUY), watch.passed("AAPL|STOCK", Side.SELL)) == (long, short)
    task.cancel()


async def test_where_the_market_has_been_for_two_looks_is_known_of_one_answer_too(market: Market) -> None:
    market.price = Decimal(10)
    watch, task = await watching(market)
    assert watch.span("AAPL|STOCK") is None
    await passes(market.clock, 1)
    market.is_answering = False
    for price, low, high in ((8, 8, 10), (10, 8, 10), (8, 8, 10), (8, 8, 8)):
        market.price = Decimal(price)
        await passes(market.clock, 1)
        assert watch.span("AAPL|STOCK") == (low, high)
    market.price = Decimal(9)
    assert watch.span("AAPL|STOCK") == (8, 9)  # where it is now counts too
    market.price = None
    assert watch.span("AAPL|STOCK") is None
    task.cancel()


async def test_two_looks_close_together_are_one(market: Market) -> None:
    market.price = Decimal(10)
    watch, task = await watching(market)
    await passes(market.clock, 1)
    for number in range(3):  # each new line is looked at once at once
        market.price = Decimal(8)
        watch.watch(number, "AAPL|STOCK", AAPL, BAND)
        for _ in range(5):
            await asyncio.sleep(0)
    assert watch.span("AAPL|STOCK") == (8, 10)
    task.cancel()


async def test_one_answer_that_several_looks_find_is_one_price(market: Market) -> None:
    market.price = Decimal(10)
    watch, task = await watching(market)
    await passes(market.clock, 1)
    market.price = Decimal(15)
    await passes(market.clock, 1)
    market.is_answering = False
    await passes(market.clock, 5)
    assert watch.kept("AAPL|STOCK", Side.BUY) == 10
    task.cancel()


async def test_a_market_of_the_past_is_looked_at_bar_by_bar_and_not_by_our_clock(market: Market) -> None:
    watch = PriceWatch(prices=market, quotes=market, clock=market.clock, listener=market, is_on_bars=True)
    watch.watch("line", "AAPL|STOCK", AAPL, BAND)
    task = asyncio.create_task(watch.run())
    market.price = Decimal(12)
    await passes(market.clock, 50)
    assert (market.asked, market.woken, watch.span("AAPL|STOCK")) == ([], 0, None)
    for number in range(1, 9):
        await watch.look_at_bar()
        assert (market.woken, watch.span("AAPL|STOCK"), watch.kept("AAPL|STOCK", Side.BUY)) == (number, (12, 12), 12)
        watch.bar_is_over()
        assert (watch.span("AAPL|STOCK"), watch.kept("AAPL|STOCK", Side.BUY)) == (None, None)
    task.cancel()
