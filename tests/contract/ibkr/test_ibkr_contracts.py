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

from brokers.base import AssetClass, Instrument, OptionRight, OrderType, Ticket
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
from tests.contract.ibkr.stage import IbkrStage

SILVER = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, expiry="202706")
CORN = Instrument(symbol="ZC", asset_class=AssetClass.FUTURE, expiry="202706")
INDEX = Instrument(
    symbol="SPX", asset_class=AssetClass.OPTION, expiry="20270620", strike=Decimal(6000), right=OptionRight.PUT
)
SHARE = Instrument(symbol="SPY")
IN_PENCE = Instrument(symbol="VOD", currency="GBP")


class ContractStage(IbkrStage):
    """One by whose clock, moved by hand, days pass."""

    def __init__(self, gateway: TwsSimulator, stack: AsyncExitStack) -> None:
        super().__init__(gateway, stack)
        self.now = datetime(2026, 11, 27, 12, tzinfo=UTC)

    async def connect(self, **settings: object) -> IbkrBroker:
        config = {name: value for name, value in config_for(self.gateway).items() if name != "broker"}
        configuration = Configuration.of({**config, **settings}, broker="ibkr")
        broker = IbkrBroker(configuration, choose("auto"), clock=lambda: self.now)
        self._stack.push_async_callback(broker.close)
        await broker.connect()
        return broker

    def ticket_for(self, instrument: Instrument, price: str = "30", **changes: Any) -> Ticket:
        usual = {"instrument": instrument, "quantity": Decimal(1), "limit_price": Decimal(price)}
        return self.ticket(OrderType.LIMIT, **usual | {"reference_price": None} | changes)

    async def asked(self, ask: Ask, before: int) -> None:
        """Until one more question of the kind has been heard."""
        while sum(1 for _, fields in self.gateway.heard if fields[0] == str(ask.value)) <= before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def questions(self) -> int:
        return sum(1 for _, fields in self.gateway.heard if fields[0] == str(Ask.CONTRACT_DETAILS.value))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[ContractStage]:
    async with AsyncExitStack() as stack:
        yield ContractStage(await stack.enter_async_context(serving_tws(tmp_path, "DU000001", Market())), stack)


def sized(instrument: Instrument, multiplier: int) -> Instrument:
    return replace(instrument, multiplier=Decimal(multiplier))


async def test_nothing_is_taken_from_an_order_of_before(stage: ContractStage) -> None:
    broker = await stage.connect()
    for _ in range(2):
        with pytest.raises(OrderRefused, match=r"fits 2 contracts.*multiplier 5000.*multiplier 1000"):
            await broker.fitted(stage.ticket_for(SILVER))
        for multiplier, trading_class in ((1000, "SIL"), (5000, "SI")):
            by_size = await broker.fitted(stage.ticket_for(sized(SILVER, multiplier)))
            by_class = await broker.fitted(stage.ticket_for(replace(SILVER, trading_class=trading_class)))
            assert by_size.terms == by_class.terms
            assert by_size.terms is not None
            assert (by_size.terms.multiplier, by_size.terms.trading_class) == (multiplier, trading_class)


async def test_a_contract_is_asked_for_once_a_day(stage: ContractStage) -> None:
    broker = await stage.connect()
    for _ in range(3):
        await broker.fitted(stage.ticket_for(CORN, "450.25"))
    assert stage.questions() == 1
    stage.now += timedelta(days=1)
    await broker.fitted(stage.ticket_for(CORN, "450.25"))
    assert stage.questions() == 2


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
async def test_what_is_not_so_is_refused_by_its_name(stage: ContractStage, instrument: Instrument, words: str) -> None:
    broker = await stage.connect()
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(stage.ticket_for(instrument))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"multiplier": Decimal(1000)}, "not the multiplier 1000"),
        ({"trading_class": "SIL"}, "not the trading class SIL"),
        ({"exchange": "CBOT"}, r"no contract for SI\|FUTURE\|exchange=CBOT"),
        ({"isin": "US0378331005"}, "not the ISIN US0378331005, which IBKR does not tell"),
    ],
)
async def test_what_is_said_beside_a_number_must_be_so(stage: ContractStage, said: dict[str, Any], words: str) -> None:
    (large,) = (
        each for each in listed(Query(symbol="SI", sec_type="FUT", expiry="202706")) if each.multiplier == "5000"
    )
    broker = await stage.connect()
    numbered = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, con_id=large.con_id)
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(stage.ticket_for(replace(numbered, **said)))
    agreed = replace(numbered, multiplier=Decimal(5000), trading_class="SI", exchange="COMEX", expiry="202706")
    fitted = await broker.fitted(stage.ticket_for(agreed))
    assert fitted.terms is not None
    assert fitted.terms.con_id == large.con_id


@pytest.mark.parametrize("said", [{"isin": ISINS["SPY"]}, {"trading_class": "SPY"}, {"multiplier": Decimal(1)}])
async def test_what_is_so_is_taken(stage: ContractStage, said: dict[str, Any]) -> None:
    broker = await stage.connect()
    fitted = await broker.fitted(stage.ticket_for(replace(SHARE, **said), "100.25"))
    assert fitted.terms is not None
    assert (fitted.terms.isin, fitted.terms.money_per_point) == (ISINS["SPY"], 1)


async def test_a_contract_of_another_currency_is_found_where_an_order_names_none(stage: ContractStage) -> None:
    broker = await stage.connect()
    bund = Instrument(symbol="BUND", asset_class=AssetClass.FUTURE, expiry="202706")
    fitted = await broker.fitted(stage.ticket_for(bund, "130.25"))
    assert fitted.terms is not None
    assert fitted.terms.currency == "EUR"
    with pytest.raises(OrderRefused, match="no contract"):
        await broker.fitted(stage.ticket_for(replace(bund, currency="USD"), "130.25"))


async def test_an_order_is_not_sent_for_another_contract_than_it_was_recorded_with(stage: ContractStage) -> None:
    broker = await stage.connect()
    fitted = await broker.fitted(stage.ticket_for(sized(SILVER, 1000)))
    assert fitted.terms is not None
    recorded = replace(fitted, terms=replace(fitted.terms, con_id=4711))
    with pytest.raises(OrderRefused, match="contract number 4711 when it was recorded"):
        await broker.place_order(replace(recorded, reserved_order_id=await broker.reserve(fitted)))
    assert not stage.gateway.book.orders()


async def test_average_prices_are_as_quoted_also_of_what_no_order_has_asked_for(stage: ContractStage) -> None:
    broker = await stage.connect()
    bought = {CORN: "450.25", sized(SILVER, 1000): "30", sized(SILVER, 5000): "31", SHARE: "100.25", IN_PENCE: "72.5"}
    for instrument, price in bought.items():
        ticket = stage.ticket_for(instrument, price)
        await broker.place_order(replace(ticket, reserved_order_id=await broker.reserve(ticket)))
    for own in (broker, await stage.connect(client_id=7)):
        held = await own.positions()
        assert sorted(str(each.average_price) for each in held) == ["100.25", "30", "31", "450.25", "72.5"]
        holdings = [Holding(instrument=each, quantity=Decimal(1)) for each in bought]
        assert compare_positions(holdings, held).agreeing == 5


async def test_a_share_priced_in_pence_is_worth_a_hundredth_of_its_price_in_pounds(stage: ContractStage) -> None:
    broker = await stage.connect()
    fitted = await broker.fitted(stage.ticket_for(IN_PENCE, "72.5"))
    assert fitted.terms is not None
    assert (fitted.terms.currency, fitted.terms.money_per_point) == ("GBP", Decimal("0.01"))


@pytest.mark.parametrize("currency", ["USD", "GBP", "ILS", "ZAR"])
async def test_the_average_price_of_a_bond_is_told_in_every_currency_without_asking(
    stage: ContractStage, currency: str
) -> None:
    """Its facts never say how much money a point is worth."""
    broker = await stage.connect()
    contract_class = choose("auto").contract
    bond = contract_class(secType="BOND", conId=4711, symbol="UKT", currency=currency)
    assert broker._position(bond, 10.0, 99.5).average_price == Decimal("99.5")
    assert not broker._is_to_be_learned(bond)
    share = contract_class(secType="STK", conId=4712, symbol="VOD", currency=currency)
    assert broker._is_to_be_learned(share) is (currency != "USD")


async def test_an_average_price_is_not_told_where_the_contract_cannot_be_asked_for(stage: ContractStage) -> None:
    broker = await stage.connect()
    ticket = stage.ticket_for(CORN, "450.25")
    await broker.place_order(replace(ticket, reserved_order_id=await broker.reserve(ticket)))
    later = await stage.connect(client_id=7)
    stage.gateway.contract_changes["ZC"] = {"magnifier": "0"}
    before = stage.questions()
    for _ in range(3):
        (held,) = await later.positions()
        assert (held.quantity, held.average_price, held.is_unclear) == (1, None, False)
    assert stage.questions() == before + 1


async def test_positions_and_orders_do_not_wait_for_a_contract_that_is_not_answered(
    stage: ContractStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibkr, "_LEARNING_SECONDS", 0.5)
    broker = await stage.connect()
    for instrument, price in ((CORN, "450.25"), (sized(SILVER, 1000), "30")):
        ticket = stage.ticket_for(instrument, price)
        await broker.place_order(replace(ticket, reserved_order_id=await broker.reserve(ticket)))
    later = await stage.connect(client_id=7, query_seconds=15)
    stage.gateway.silent.add(Ask.CONTRACT_DETAILS)
    async with asyncio.timeout(8):
        told = asyncio.ensure_future(later.positions())
        await stage.asked(Ask.CONTRACT_DETAILS, stage.questions())
        stage.gateway.silent.clear()
        await later.fitted(stage.ticket_for(SHARE, "100.25"))
        first = await told
        second = await later.positions()
    assert sorted(each.instrument.symbol for each in first) == ["SI", "ZC"]
    assert {each.average_price for each in first} == {None}
    assert sorted(str(each.average_price) for each in second) in (["450.25", "None"], ["30", "None"])
    third = await later.positions()
    assert third == second  # it is not asked for again at once


async def test_a_figure_that_the_library_cannot_read_leaves_the_question_without_an_answer(
    stage: ContractStage, unread_messages: list[str]
) -> None:
    broker = await stage.connect()
    stage.gateway.contract_changes["ZC"] = {"magnifier": "None"}
    with pytest.raises(NotAnswered, match="could not be read"):
        await broker.fitted(stage.ticket_for(CORN, "450.25"))
    await broker.fitted(stage.ticket_for(sized(SILVER, 1000)))
    unread_messages.clear()
