"""Which contract the IBKR adapter trades for what an order says of it, and what it tells of that; against the simulated gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, OptionRight, OrderType, Side, Ticket
from brokers.errors import NotAnswered, OrderRefused
from brokers.ibkr import adapter as ibkr
from brokers.ibkr.adapter import Configuration, IbkrBroker
from brokers.ibkr.library import choose
from brokers.paper.model import Market
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.ibkr.contracts import ISINS, Query, listed
from simulators.ibkr.gateway import TwsSimulator
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import config_for, serving_tws

SILVER = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, expiry="202706")
CORN = Instrument(symbol="ZC", asset_class=AssetClass.FUTURE, expiry="202706")
INDEX = Instrument(
    symbol="SPX", asset_class=AssetClass.OPTION, expiry="20270620", strike=Decimal(6000), right=OptionRight.PUT
)
SHARE = Instrument(symbol="SPY")


class Desk:
    def __init__(self, gateway: TwsSimulator, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self.now = datetime(2026, 11, 27, 12, tzinfo=UTC)
        self._stack = stack
        self._number = 0

    async def connect(self, **settings: object) -> IbkrBroker:
        config = {name: value for name, value in config_for(self.gateway).items() if name != "broker"}
        configuration = Configuration.of({**config, **settings}, broker="ibkr")
        broker = IbkrBroker(configuration, choose("auto"), clock=lambda: self.now)
        self._stack.push_async_callback(broker.close)
        await broker.connect()
        return broker

    def ticket(self, instrument: Instrument, price: str = "30", **changes: Any) -> Ticket:
        self._number += 1
        usual = Ticket(
            client_order_id=f"i{self._number:018d}",
            instrument=instrument,
            side=Side.BUY,
            quantity=Decimal(1),
            order_type=OrderType.LIMIT,
            limit_price=Decimal(price),
        )
        return replace(usual, **changes)

    async def asked(self, ask: Ask, before: int) -> None:
        """Until one more question of the kind has been heard."""
        while sum(1 for _, fields in self.gateway.heard if fields[0] == str(ask.value)) <= before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def questions(self) -> int:
        return sum(1 for _, fields in self.gateway.heard if fields[0] == str(Ask.CONTRACT_DETAILS.value))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(await stack.enter_async_context(serving_tws(tmp_path, "DU000001", Market())), stack)


def sized(instrument: Instrument, multiplier: int) -> Instrument:
    return replace(instrument, multiplier=Decimal(multiplier))


async def test_nothing_is_taken_from_an_order_of_before(desk: Desk) -> None:
    broker = await desk.connect()
    for _ in range(2):
        with pytest.raises(OrderRefused, match=r"fits 2 contracts.*multiplier 5000.*multiplier 1000"):
            await broker.fitted(desk.ticket(SILVER))
        for multiplier, trading_class in ((1000, "SIL"), (5000, "SI")):
            by_size = await broker.fitted(desk.ticket(sized(SILVER, multiplier)))
            by_class = await broker.fitted(desk.ticket(replace(SILVER, trading_class=trading_class)))
            assert by_size.terms == by_class.terms
            assert by_size.terms is not None
            assert (by_size.terms.multiplier, by_size.terms.trading_class) == (multiplier, trading_class)


async def test_a_contract_is_asked_for_once_a_day(desk: Desk) -> None:
    broker = await desk.connect()
    for _ in range(3):
        await broker.fitted(desk.ticket(CORN, "450.25"))
    assert desk.questions() == 1
    desk.now += timedelta(days=1)
    await broker.fitted(desk.ticket(CORN, "450.25"))
    assert desk.questions() == 2


@pytest.mark.parametrize(
    ("instrument", "words"),
    [
        (sized(SILVER, 2500), r"not the multiplier 2500; it has .*multiplier 5000.*multiplier 1000"),
        (replace(SILVER, trading_class="GC"), "not the trading class GC"),
        (replace(SILVER, multiplier=Decimal(5000), trading_class="SIL"), "not the trading class SIL"),
        (sized(CORN, 500), "not the multiplier 500; it has .*multiplier 5000"),
        (sized(SHARE, 100), "not the multiplier 100"),
        (replace(SHARE, isin="US0378331005"), "not the ISIN US0378331005"),
        (replace(SHARE, symbol="QQQ", isin="US46090E1038"), "not the ISIN US46090E1038, which IBKR does not tell"),
        (replace(INDEX, trading_class="SPY"), "not the trading class SPY"),
        (INDEX, r"fits 2 contracts.*class SPX.*class SPXW"),
        (replace(SILVER, currency="EUR"), "no contract for"),
        (replace(SILVER, exchange="CBOT"), "no contract for"),
    ],
)
async def test_what_is_not_so_is_refused_by_its_name(desk: Desk, instrument: Instrument, words: str) -> None:
    broker = await desk.connect()
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(desk.ticket(instrument))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"multiplier": Decimal(1000)}, "not the multiplier 1000"),
        ({"trading_class": "SIL"}, "not the trading class SIL"),
        ({"exchange": "CBOT"}, r"no contract for SI\|FUTURE\|exchange=CBOT"),
        ({"isin": "US0378331005"}, "not the ISIN US0378331005, which IBKR does not tell"),
    ],
)
async def test_what_is_said_beside_a_number_must_be_so(desk: Desk, said: dict[str, Any], words: str) -> None:
    (large,) = (
        each for each in listed(Query(symbol="SI", sec_type="FUT", expiry="202706")) if each.multiplier == "5000"
    )
    broker = await desk.connect()
    numbered = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, con_id=large.con_id)
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(desk.ticket(replace(numbered, **said)))
    agreed = replace(numbered, multiplier=Decimal(5000), trading_class="SI", exchange="COMEX", expiry="202706")
    fitted = await broker.fitted(desk.ticket(agreed))
    assert fitted.terms is not None
    assert fitted.terms.con_id == large.con_id


@pytest.mark.parametrize("said", [{"isin": ISINS["SPY"]}, {"trading_class": "SPY"}, {"multiplier": Decimal(1)}])
async def test_what_is_so_is_taken(desk: Desk, said: dict[str, Any]) -> None:
    broker = await desk.connect()
    fitted = await broker.fitted(desk.ticket(replace(SHARE, **said), "100.25"))
    assert fitted.terms is not None
    assert (fitted.terms.isin, fitted.terms.money_per_point) == (ISINS["SPY"], 1)


async def test_a_contract_of_another_currency_is_found_where_an_order_names_none(desk: Desk) -> None:
    broker = await desk.connect()
    bund = Instrument(symbol="BUND", asset_class=AssetClass.FUTURE, expiry="202706")
    fitted = await broker.fitted(desk.ticket(bund, "130.25"))
    assert fitted.terms is not None
    assert fitted.terms.currency == "EUR"
    with pytest.raises(OrderRefused, match="no contract"):
        await broker.fitted(desk.ticket(replace(bund, currency="USD"), "130.25"))


async def test_an_order_is_not_sent_for_another_contract_than_it_was_recorded_with(desk: Desk) -> None:
    broker = await desk.connect()
    fitted = await broker.fitted(desk.ticket(sized(SILVER, 1000)))
    assert fitted.terms is not None
    recorded = replace(fitted, terms=replace(fitted.terms, con_id=4711))
    with pytest.raises(OrderRefused, match="contract number 4711 when it was recorded"):
        await broker.place_order(replace(recorded, reserved_order_id=await broker.reserve(fitted)))
    assert not desk.gateway.book.orders()


async def test_average_prices_are_as_quoted_also_of_what_no_order_has_asked_for(desk: Desk) -> None:
    broker = await desk.connect()
    bought = {CORN: "450.25", sized(SILVER, 1000): "30", sized(SILVER, 5000): "31", SHARE: "100.25"}
    for instrument, price in bought.items():
        ticket = desk.ticket(instrument, price)
        await broker.place_order(replace(ticket, reserved_order_id=await broker.reserve(ticket)))
    for own in (broker, await desk.connect(client_id=7)):
        held = await own.positions()
        assert sorted(str(each.average_price) for each in held) == ["100.25", "30", "31", "450.25"]
        holdings = [Holding(instrument=each, quantity=Decimal(1)) for each in bought]
        assert compare_positions(holdings, held).agreeing == 4


async def test_an_average_price_is_not_told_where_the_contract_cannot_be_asked_for(desk: Desk) -> None:
    broker = await desk.connect()
    ticket = desk.ticket(CORN, "450.25")
    await broker.place_order(replace(ticket, reserved_order_id=await broker.reserve(ticket)))
    later = await desk.connect(client_id=7)
    desk.gateway.contract_changes["ZC"] = {"magnifier": "0"}
    before = desk.questions()
    for _ in range(3):
        (held,) = await later.positions()
        assert (held.quantity, held.average_price, held.is_unclear) == (1, None, False)
    assert desk.questions() == before + 1


async def test_positions_and_orders_do_not_wait_for_a_contract_that_is_not_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibkr, "_LEARNING_SECONDS", 0.5)
    broker = await desk.connect()
    for instrument, price in ((CORN, "450.25"), (sized(SILVER, 1000), "30")):
        ticket = desk.ticket(instrument, price)
        await broker.place_order(replace(ticket, reserved_order_id=await broker.reserve(ticket)))
    later = await desk.connect(client_id=7, query_seconds=15)
    desk.gateway.silent.add(Ask.CONTRACT_DETAILS)
    async with asyncio.timeout(8):
        told = asyncio.ensure_future(later.positions())
        await desk.asked(Ask.CONTRACT_DETAILS, desk.questions())
        desk.gateway.silent.clear()
        await later.fitted(desk.ticket(SHARE, "100.25"))
        first = await told
        second = await later.positions()
    assert sorted(each.instrument.symbol for each in first) == ["SI", "ZC"]
    assert {each.average_price for each in first} == {None}
    assert sorted(str(each.average_price) for each in second) in (["450.25", "None"], ["30", "None"])
    third = await later.positions()
    assert third == second  # it is not asked for again at once


async def test_a_figure_that_the_library_cannot_read_leaves_the_question_without_an_answer(
    desk: Desk, unread_messages: list[str]
) -> None:
    broker = await desk.connect()
    desk.gateway.contract_changes["ZC"] = {"magnifier": "None"}
    with pytest.raises(NotAnswered, match="could not be read"):
        await broker.fitted(desk.ticket(CORN, "450.25"))
    await broker.fitted(desk.ticket(sized(SILVER, 1000)))
    unread_messages.clear()
