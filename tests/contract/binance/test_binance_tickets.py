"""What leaves for an order: the contract that was named, prices on the tick, quantities on the step, and what is refused before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, OrderRef, OrderType, ReportStatus, Side, Ticket, Tif
from brokers.binance.adapter import BinanceBroker, create
from brokers.errors import AuthRequired, BrokerUnavailable, HeldBack, OrderRefused
from execution_service.app.check import account_finding
from execution_service.app.settings.accounts import Account
from simulators.binance.server import BinanceFault, FaultKind, SimulatedBinance
from simulators.stage_binance import config_for
from tests.contract.binance.stage import SOL, TAG, hold, last_form, limit, reported, stop, ticket
from tests.contract.test_check_accounts import says


def crypto(symbol: str, **more: Any) -> Instrument:
    return Instrument(symbol=symbol, asset_class=AssetClass.CRYPTO, **more)


async def test_the_check_of_an_account_tells_its_position_mode_and_where_that_is_another(
    server: SimulatedBinance,
) -> None:
    def account(**more: object) -> Account:
        return Account(account_id="acc", name="A", broker="binance", live=False, config={**config_for(server), **more})

    works = await account_finding(account())
    assert works.works
    says(works, "Position mode one_way", "reduce-only")
    differs = await account_finding(account(position_mode="hedge"))
    assert not differs.works
    says(differs, "is one_way, but position_mode is hedge", "Change one of the two")
    assert "key" not in differs.detail.lower()
    server.is_hedged = True
    says(await account_finding(account(position_mode="hedge")), "Position mode hedge", "LONG or SHORT")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "btcusdt", "BTC/USDT", "BTC-USDT"])
async def test_a_pair_is_known_by_the_ways_in_which_people_write_it(
    server: SimulatedBinance, broker: BinanceBroker, symbol: str
) -> None:
    await broker.place_order(ticket(instrument=crypto(symbol), quantity=Decimal("0.01")))
    assert last_form(server)["symbol"] == "BTCUSDT"


@pytest.mark.parametrize(
    ("instrument", "words"),
    [
        (crypto("BTC"), "not in Binance's list"),
        (crypto("BTCUSD"), "not in Binance's list"),
        (crypto("BTCUSDT_300329"), "delivered on 20300329"),
        (crypto("BTCUSDT", currency="USD"), "priced in USDT, not in USD"),
        (crypto("BTCUSDT", multiplier=Decimal(100)), "is one BTC, not 100"),
        (Instrument(symbol="BTCUSDT"), "not STOCK"),
        (Instrument(symbol="BTCUSDT", asset_class=AssetClass.FUTURE), "needs an expiry"),
        (Instrument(symbol="BTCUSDT", asset_class=AssetClass.FUTURE, expiry="20300628"), "not in Binance's list"),
        (crypto("OLDUSDT"), "does not trade OLDUSDT now"),
    ],
)
async def test_what_was_not_named_is_not_traded(
    server: SimulatedBinance, broker: BinanceBroker, instrument: Instrument, words: str
) -> None:
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(ticket(instrument=instrument))
    assert server.calls("POST /fapi/v1/*rder") == []


@pytest.mark.parametrize("expiry", ["20300329", "203003"])
@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTCUSDT_300329"])
async def test_a_delivery_contract_is_known_by_its_expiry(
    server: SimulatedBinance, broker: BinanceBroker, symbol: str, expiry: str
) -> None:
    named = Instrument(symbol=symbol, asset_class=AssetClass.FUTURE, expiry=expiry)
    await broker.place_order(ticket(instrument=named, quantity=Decimal("0.01")))
    assert last_form(server)["symbol"] == "BTCUSDT_300329"


@pytest.mark.parametrize(
    ("ordered", "limit_price", "stop_price"),
    [
        (limit("99.507"), "99.50", None),
        (limit("99.501", side=Side.SELL), "99.51", None),
        (stop("90.009"), None, "90.00"),
        (stop("90.001", side=Side.BUY), None, "90.01"),
        (stop("90.009", order_type=OrderType.STOP_LIMIT, limit_price=Decimal("89.991")), "90.00", "90.00"),
    ],
)
async def test_prices_are_put_on_the_tick_and_never_to_the_orders_disadvantage(
    broker: BinanceBroker, ordered: Ticket, limit_price: str | None, stop_price: str | None
) -> None:
    fitted = await broker.fitted(ordered)
    assert fitted.limit_price == (None if limit_price is None else Decimal(limit_price))
    assert fitted.stop_price == (None if stop_price is None else Decimal(stop_price))


async def test_a_perpetual_contract_on_metal_is_one_too(server: SimulatedBinance, broker: BinanceBroker) -> None:
    """Binance has several words for perpetual contracts."""
    await broker.place_order(await broker.fitted(ticket(instrument=crypto("XAUUSDT"))))
    assert last_form(server)["symbol"] == "XAUUSDT"
    (position,) = await broker.positions()
    assert position.instrument.asset_class is AssetClass.CRYPTO


async def test_a_step_of_0_for_orders_at_the_market_means_that_the_ordinary_one_holds(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    fitted = await broker.fitted(ticket(instrument=crypto("EOSUSDT"), quantity=Decimal("1.23456")))
    assert fitted.quantity == Decimal("1.234")


async def test_a_quantity_is_rounded_down_and_recorded_so(server: SimulatedBinance, broker: BinanceBroker) -> None:
    fitted = await broker.fitted(ticket(quantity=Decimal("1.23456")))
    assert fitted.quantity == Decimal("1.234")
    await broker.place_order(fitted)
    assert last_form(server)["quantity"] == "1.234"


@pytest.mark.parametrize(
    ("ordered", "words"),
    [
        (ticket(quantity=Decimal("0.0009")), "less than the smallest order"),
        (ticket(quantity=Decimal(1001)), "more than the largest order of 1000"),
        (limit(quantity=Decimal(10_001)), "more than the largest order of 10000"),
        (limit("4", quantity=Decimal(1)), "smallest value of 5 USDT"),
        (limit(tif=Tif.DAY), "no orders for the day"),
        (limit(limit_price=None), "no limit price"),
        (limit("0.001"), "below the tick"),
        (stop(stop_price=None), "no stop price"),
        (limit(limit_price=Decimal("NaN")), "no limit price"),
    ],
)
async def test_what_binance_does_not_take_is_refused_before_it_is_sent(
    server: SimulatedBinance, broker: BinanceBroker, ordered: Ticket, words: str
) -> None:
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(ordered)
    assert server.calls("POST /fapi/v1/*rder") == []


async def test_an_exit_leaves_as_reduce_only_whatever_its_value(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket())
    await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    exit_ticket = limit("4", quantity=Decimal(1), side=Side.SELL, is_exit=True, client_order_id="t000000000000000002")
    await broker.place_order(await broker.fitted(exit_ticket))
    assert last_form(server)["reduceOnly"] == "true"


async def test_an_exit_never_opens_a_position(server: SimulatedBinance, broker: BinanceBroker) -> None:
    exit_ticket = ticket(side=Side.SELL, is_exit=True)
    with pytest.raises(OrderRefused, match="ReduceOnly"):
        await broker.place_order(exit_ticket)
    await broker.place_order(ticket(quantity=Decimal(4)))
    await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    await broker.place_order(replace(exit_ticket, client_order_id="t000000000000000002"))
    assert await broker.positions() == []


async def test_an_exit_whose_position_another_order_would_close_waits_and_says_which(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket())
    await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    hold(server)
    resting = limit("110", side=Side.SELL, is_exit=True, client_order_id="t000000000000000002")
    placed = await broker.place_order(resting)
    leaving = ticket(side=Side.SELL, is_exit=True, client_order_id="t000000000000000003")
    with pytest.raises(HeldBack, match=f"{placed.broker_order_id} would take it first"):
        await broker.place_order(leaving)
    server.book.cancel(OrderRef(client_order_id="", broker_order_id=placed.broker_order_id))
    await broker.place_order(leaving)


async def test_an_exit_of_nothing_is_refused_for_good(server: SimulatedBinance, broker: BinanceBroker) -> None:
    hold(server)
    await broker.place_order(limit("90", client_order_id="t000000000000000002"))  # an entry takes nothing off
    with pytest.raises(OrderRefused, match="ReduceOnly"):
        await broker.place_order(ticket(side=Side.SELL, is_exit=True))


async def test_an_exit_that_is_refused_while_binance_shows_its_position_waits(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket())
    await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    refused = BinanceFault(
        kind=FaultKind.ERROR, route="POST /fapi/v1/order", status=400, code=-2022, text="ReduceOnly Order is rejected."
    )
    server.add_fault(refused)
    leaving = ticket(side=Side.SELL, is_exit=True, client_order_id="t000000000000000002")
    with pytest.raises(HeldBack, match="shows 10 of SOLUSDT"):
        await broker.place_order(leaving)
    await broker.place_order(leaving)
    await reported(broker, lambda report: report.status is ReportStatus.FILLED, tag=leaving.client_order_id)
    # Of the other side there is nothing to close.
    with pytest.raises(OrderRefused, match="ReduceOnly"):
        await broker.place_order(ticket(side=Side.SELL, is_exit=True, client_order_id="t000000000000000003"))


@pytest.mark.parametrize("route", ["GET /fapi/v1/openOrders", "GET /fapi/v3/positionRisk"])
async def test_while_it_is_not_told_what_rests_or_is_held_a_refused_exit_waits(
    server: SimulatedBinance, broker: BinanceBroker, route: str
) -> None:
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route=route, status=500))
    with pytest.raises(HeldBack):
        await broker.place_order(ticket(side=Side.SELL, is_exit=True))


async def test_an_exit_at_a_price_too_far_from_the_mark_waits_for_it(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    words = "The counterparty's best price does not meet the PERCENT_PRICE filter limit."
    far = BinanceFault(kind=FaultKind.ERROR, route="POST /fapi/v1/order", status=400, code=-4131, text=words, times=2)
    server.add_fault(far)
    with pytest.raises(HeldBack, match="PERCENT_PRICE"):
        await broker.place_order(ticket(side=Side.SELL, is_exit=True))
    with pytest.raises(OrderRefused, match="PERCENT_PRICE"):
        await broker.place_order(ticket())


async def test_an_entry_is_never_reduce_only(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await broker.place_order(ticket())
    assert "reduceOnly" not in last_form(server)


async def test_a_stop_leaves_for_the_conditional_orders(server: SimulatedBinance, broker: BinanceBroker) -> None:
    report = await broker.place_order(stop())
    form = last_form(server, "/fapi/v1/algoOrder")
    assert form["algoType"] == "CONDITIONAL"
    assert (form["type"], form["triggerPrice"], form["clientAlgoId"]) == ("STOP_MARKET", "90", TAG)
    assert form["workingType"] == "CONTRACT_PRICE"
    assert report.broker_order_id.startswith("SOLUSDT:algo:")


async def test_a_stop_that_protects_goes_by_the_mark_price(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await broker.place_order(stop(is_exit=True, is_protective=True))
    form = last_form(server, "/fapi/v1/algoOrder")
    assert (form["workingType"], form["reduceOnly"]) == ("MARK_PRICE", "true")


async def test_a_price_on_another_tick_makes_the_list_be_read_again(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    refused = BinanceFault(kind=FaultKind.ERROR, route="POST /fapi/v1/order", status=400, code=-4014, text="tick size")
    server.add_fault(refused)
    with pytest.raises(OrderRefused):
        await broker.place_order(limit())
    read = len(server.calls("GET /fapi/v1/exchangeInfo"))
    await broker.fitted(limit())
    assert len(server.calls("GET /fapi/v1/exchangeInfo")) == read + 1


async def test_an_account_that_keeps_positions_otherwise_than_configured_is_refused(server: SimulatedBinance) -> None:
    server.is_hedged = True
    broker = create(config_for(server))
    with pytest.raises(AuthRequired, match="position mode at Binance is hedge, but position_mode is one_way"):
        await broker.connect()
    with pytest.raises(BrokerUnavailable):
        await broker.place_order(ticket())
    await broker.close()


async def test_a_position_mode_that_a_person_changed_meanwhile_is_a_matter_for_people(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    server.is_hedged = True
    with pytest.raises(AuthRequired, match="position mode"):
        await broker.place_order(ticket())
    with pytest.raises(AuthRequired, match="position mode at Binance is hedge"):
        await broker.connect()
    assert server.book.orders() == []


# Long and short positions kept apart


@pytest.fixture
async def hedged(server: SimulatedBinance) -> AsyncIterator[BinanceBroker]:
    server.is_hedged = True
    broker = create({**config_for(server), "position_mode": "hedge"})
    await broker.connect()
    yield broker
    await broker.close()


async def test_orders_name_the_side_of_the_position_and_positions_are_told_by_side(
    server: SimulatedBinance, hedged: BinanceBroker
) -> None:
    assert hedged.capabilities.products_of(SOL) == ("LONG", "SHORT")
    await hedged.place_order(ticket(client_order_id="t000000000000000001"))
    assert last_form(server)["positionSide"] == "LONG"
    await hedged.place_order(
        ticket(side=Side.SELL, product="SHORT", quantity=Decimal(4), client_order_id="t000000000000000002")
    )
    assert last_form(server)["positionSide"] == "SHORT"
    held = {position.product: position.quantity for position in await hedged.positions()}
    assert held == {"LONG": Decimal(10), "SHORT": Decimal(-4)}
    for number, side, product in ((3, Side.SELL, None), (4, Side.BUY, "SHORT")):
        leaving = ticket(side=side, product=product, is_exit=True, client_order_id=f"t{number:018d}")
        quantity = abs(held[product or "LONG"])
        await hedged.place_order(await hedged.fitted(replace(leaving, quantity=quantity)))
        assert "reduceOnly" not in last_form(server)
    assert await hedged.positions() == []


async def test_an_exit_that_buys_and_names_no_side_closes_the_short_position_and_opens_nothing(
    server: SimulatedBinance, hedged: BinanceBroker
) -> None:
    await hedged.place_order(ticket(quantity=Decimal(10)))
    leaving = ticket(side=Side.BUY, is_exit=True, quantity=Decimal(4), client_order_id="t000000000000000002")
    with pytest.raises(OrderRefused, match="ReduceOnly"):
        await hedged.place_order(await hedged.fitted(leaving))
    await hedged.place_order(
        ticket(side=Side.SELL, product="SHORT", quantity=Decimal(4), client_order_id="t000000000000000003")
    )
    await hedged.place_order(replace(leaving, client_order_id="t000000000000000004"))
    (position,) = await hedged.positions()
    assert (position.product, position.quantity) == ("LONG", Decimal(10))


@pytest.mark.parametrize(
    ("side", "is_exit", "product", "words"),
    [
        (Side.SELL, False, None, "names SHORT as its product"),
        (Side.BUY, True, "LONG", "An exit of the LONG position does not buy"),
        (Side.SELL, True, "SHORT", "An exit of the SHORT position does not sell"),
        (Side.BUY, False, "MIS", "by LONG and SHORT, not by MIS"),
    ],
)
async def test_an_order_that_might_be_meant_for_either_side_is_refused_before_it_is_sent(
    server: SimulatedBinance, hedged: BinanceBroker, side: Side, is_exit: bool, product: str | None, words: str
) -> None:
    with pytest.raises(OrderRefused, match=words):
        await hedged.fitted(ticket(side=side, is_exit=is_exit, product=product))
    assert server.calls("POST /fapi/v1/*rder") == []


async def test_an_account_with_one_position_a_contract_knows_no_sides(broker: BinanceBroker) -> None:
    assert broker.capabilities.products_of(SOL) == ()
    with pytest.raises(OrderRefused, match="keeps no sides apart"):
        await broker.fitted(ticket(product="LONG"))


async def test_an_exit_of_more_than_its_side_holds_is_refused_and_the_other_side_stays(
    server: SimulatedBinance, hedged: BinanceBroker
) -> None:
    await hedged.place_order(ticket(quantity=Decimal(4)))
    with pytest.raises(OrderRefused, match="ReduceOnly"):
        await hedged.place_order(ticket(side=Side.SELL, is_exit=True, client_order_id="t000000000000000002"))
    (position,) = await hedged.positions()
    assert (position.product, position.quantity) == ("LONG", Decimal(4))


async def test_a_stop_protects_its_side(server: SimulatedBinance, hedged: BinanceBroker) -> None:
    await hedged.place_order(
        ticket(side=Side.SELL, product="SHORT", quantity=Decimal(4), client_order_id="t000000000000000002")
    )
    protective = stop("120", side=Side.BUY, product="SHORT", quantity=Decimal(4), is_exit=True, is_protective=True)
    await hedged.place_order(await hedged.fitted(protective))
    form = last_form(server, "/fapi/v1/algoOrder")
    assert (form["positionSide"], form["side"]) == ("SHORT", "BUY")


async def test_it_is_told_that_a_stop_was_triggered_and_rests(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await broker.place_order(ticket(client_order_id="t000000000000000001"))
    protective = stop("90", side=Side.SELL, is_exit=True, is_protective=True, client_order_id="t000000000000000002")
    await broker.place_order(await broker.fitted(protective))

    async def is_triggered() -> bool:
        found = await broker.find("t000000000000000002")
        assert found is not None
        assert found.status is ReportStatus.WORKING
        return found.is_triggered

    assert not await is_triggered()
    server.book.fill_order(OrderRef(client_order_id="t000000000000000002"), Decimal(4))
    assert await is_triggered()


async def test_leverage_and_margin_are_set_once_before_a_contracts_first_entry(server: SimulatedBinance) -> None:
    config = {**config_for(server), "leverage": 3, "margin_type": "CROSSED"}  # already crossed: -4046
    broker = create(config)
    await broker.connect()
    for number in (1, 2):
        await broker.place_order(await broker.fitted(ticket(client_order_id=f"t{number:018d}")))
    assert server.state()["leverage"] == {"SOLUSDT": 3}
    assert len(server.calls("POST /fapi/v1/leverage")) == 1
    await broker.close()


@pytest.mark.parametrize(
    ("margin_type", "leverage", "refused", "code"),
    [("CROSSED", 20, "marginType", -4067), ("CROSSED", 20, "leverage", -4161), ("ISOLATED", 20, "marginType", -4067)],
)
async def test_what_binance_does_not_set_counts_by_what_it_shows(
    server: SimulatedBinance, margin_type: str, leverage: int, refused: str, code: int
) -> None:
    # -4067 is said of a contract without orders or position whose margin is as wanted (binance-connector-python issue 538).
    words = "Position side cannot be changed if there exists open orders."
    route = f"POST /fapi/v1/{refused}"
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route=route, times=None, status=400, code=code, text=words))
    broker = create({**config_for(server), "leverage": leverage, "margin_type": margin_type})
    await broker.connect()
    if margin_type == "CROSSED":
        await broker.place_order(await broker.fitted(ticket()))
    else:
        with pytest.raises(OrderRefused, match="margin ISOLATED"):
            await broker.fitted(ticket())
    await broker.close()


async def test_an_entry_is_refused_where_its_leverage_cannot_be_set_and_an_exit_is_not(
    server: SimulatedBinance,
) -> None:
    broker = create({**config_for(server), "leverage": 3})
    await broker.connect()
    refused = BinanceFault(
        kind=FaultKind.ERROR, route="POST /fapi/v1/leverage", times=None, status=400, code=-4161, text="no"
    )
    server.add_fault(refused)
    with pytest.raises(OrderRefused, match="leverage 3"):
        await broker.fitted(ticket())
    untold = BinanceFault(kind=FaultKind.ERROR, route="GET /fapi/v1/symbolConfig", status=404, code=-5000, text="no")
    server.add_fault(untold)
    with pytest.raises(OrderRefused, match="leverage 3"):
        await broker.fitted(ticket())
    await broker.fitted(ticket(is_exit=True))
    await broker.close()


async def test_positions_are_called_as_orders_may_have_called_them(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket(instrument=crypto("SOL/USDT")))
    (position,) = await broker.positions()
    assert position.instrument == replace(SOL, currency="USDT")
    assert "SOL/USDT" in position.also_called


async def test_a_symbol_of_another_pair_in_dollars_is_not_mixed_up(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket(instrument=crypto("ETHUSDC"), quantity=Decimal(1)))
    (position,) = await broker.positions()
    assert (position.instrument.symbol, position.instrument.currency) == ("ETHUSDC", "USDC")
