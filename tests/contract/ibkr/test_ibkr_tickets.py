"""What the IBKR adapter makes of a ticket: the contract, the tick, the increment, coins, time in force, references and accounts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, OptionRight, OrderRef, OrderType, ReportStatus, Side, Tif
from brokers.errors import BrokerError, BrokerUnavailable, NotAnswered, OrderRefused, RateLimited, UndocumentedAnswer
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.ibkr.contracts import TWIN, Query, listed
from simulators.ibkr.gateway import COIN_TIFS
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import LAST_PRICE
from tests.contract.ibkr.stage import IbkrStage, filled, found, place, reported


@pytest.mark.parametrize(
    ("instrument", "sec_type", "exchange"),
    [
        (Instrument(symbol="AAPL"), "STK", "SMART"),
        (Instrument(symbol="QQQ", asset_class=AssetClass.ETF), "STK", "SMART"),
        (
            Instrument(
                symbol="AAPL",
                asset_class=AssetClass.OPTION,
                expiry="20270115",
                strike=Decimal("210"),
                right=OptionRight.CALL,
            ),
            "OPT",
            "SMART",
        ),
        (Instrument(symbol="EURUSD", asset_class=AssetClass.FOREX), "CASH", "IDEALPRO"),
        (Instrument(symbol="GC", asset_class=AssetClass.FUTURE, expiry="202706"), "FUT", "COMEX"),
        (Instrument(symbol="ETH", asset_class=AssetClass.CRYPTO), "CRYPTO", "PAXOS"),
        (Instrument(symbol="ETH", asset_class=AssetClass.CRYPTO, exchange="ZEROHASH"), "CRYPTO", "ZEROHASH"),
        (Instrument(symbol="AAPL", asset_class=AssetClass.CFD), "CFD", "SMART"),
        (Instrument(symbol="VTSAX", asset_class=AssetClass.FUND), "FUND", "FUNDSERV"),
        (Instrument(symbol="912828C57", asset_class=AssetClass.BOND), "BOND", "SMART"),
    ],
    ids=lambda value: value.asset_class.value if isinstance(value, Instrument) else str(value),
)
async def test_each_kind_of_instrument_is_traded(
    stage: IbkrStage, instrument: Instrument, sec_type: str, exchange: str
) -> None:
    stage.gateway.prices[instrument.symbol[:3]] = stage.gateway.prices[instrument.symbol] = Decimal("2.5")
    broker = await stage.connect()
    ticket = stage.ticket(instrument=instrument, reference_price=Decimal("2.5"))
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.status is not ReportStatus.WORKING)
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[4], sent[9]) == (sec_type, exchange)
    assert filled(report) == 10
    (held,) = await broker.positions()
    assert (held.instrument, held.quantity, held.average_price) == (instrument, Decimal(10), Decimal("2.5"))
    later = await stage.connect(client_id=7)
    (told,) = await later.positions()
    assert compare_positions([Holding(instrument=instrument, quantity=Decimal(10))], [told]).agreeing == 1, told
    by_number = Instrument(symbol="ANYTHING", con_id=told.con_id)
    assert compare_positions([Holding(instrument=by_number, quantity=Decimal(10))], [told]).agreeing == 1


@pytest.mark.parametrize(
    ("instrument", "words"),
    [
        (Instrument(symbol="ZZNONE"), "no contract"),
        (Instrument(symbol=TWIN), "NYSE.*NASDAQ"),
        (Instrument(symbol="ES", asset_class=AssetClass.FUTURE), "expiry"),
        (Instrument(symbol="GC", asset_class=AssetClass.FUTURE, expiry="202706", exchange="NYMEX"), "no contract"),
        (
            Instrument(
                symbol="SPY", asset_class=AssetClass.OPTION, expiry="202706", strike=Decimal(5), right=OptionRight.PUT
            ),
            "fits 4 contracts.*20270606",
        ),
        (Instrument(symbol="SPY", asset_class=AssetClass.OPTION), "expiry and strike and right"),
        (Instrument(symbol="SPX", asset_class=AssetClass.INDEX), "cannot trade"),
    ],
)
async def test_an_unknown_or_ambiguous_instrument_is_refused_with_the_candidates(
    stage: IbkrStage, instrument: Instrument, words: str
) -> None:
    broker = await stage.connect()
    with pytest.raises(OrderRefused, match=words):
        await broker.reserve(stage.ticket(instrument=instrument))
    assert stage.heard(Ask.PLACE_ORDER) == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (321, OrderRefused),
        (203, OrderRefused),
        (100, RateLimited),
        (504, BrokerUnavailable),
        (322, NotAnswered),
        (99999, NotAnswered),
    ],
)
async def test_an_error_on_a_question_for_a_contract_is_sorted_by_what_the_order_learns(
    stage: IbkrStage, code: int, error: type[Exception]
) -> None:
    stage.gateway.contract_errors["SPY"] = (code, "words of the gateway")
    broker = await stage.connect()
    with pytest.raises(BrokerError, match=f"words of the gateway .code {code}.") as raised:
        await broker.fitted(stage.ticket())
    assert type(raised.value) is error
    del stage.gateway.contract_errors["SPY"]
    await broker.fitted(stage.ticket())
    assert len(stage.heard(Ask.START_API)) == 1


async def test_a_question_for_a_contract_without_an_answer_costs_no_session(stage: IbkrStage) -> None:
    stage.gateway.silent = {Ask.CONTRACT_DETAILS}
    broker = await stage.connect(query_seconds=0.2)
    with pytest.raises(NotAnswered, match="no answer in time"):
        await broker.fitted(stage.ticket())
    stage.gateway.silent = set()
    assert (await place(broker, stage.ticket())).status is ReportStatus.FILLED
    assert len(stage.heard(Ask.START_API)) == 1


async def test_an_exchange_tells_two_shares_of_one_name_apart(stage: IbkrStage) -> None:
    broker = await stage.connect()
    await place(broker, stage.ticket(instrument=Instrument(symbol=TWIN, exchange="NYSE")))
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[9], sent[10]) == ("SMART", "NYSE")


async def test_a_contract_is_looked_up_once(stage: IbkrStage) -> None:
    broker = await stage.connect()
    await asyncio.gather(*(place(broker, stage.ticket()) for _ in range(5)))
    assert len(stage.heard(Ask.CONTRACT_DETAILS)) == 1


@pytest.mark.parametrize(
    ("side", "limit", "stop", "sent_limit", "sent_stop"),
    [
        (Side.BUY, "100.257", "100.251", "100.25", "100.26"),
        (Side.SELL, "100.253", "100.259", "100.26", "100.25"),
        (Side.BUY, "100.25", "100.25", "100.25", "100.25"),
    ],
)
async def test_prices_are_put_on_the_tick_and_never_to_the_orders_disadvantage(
    stage: IbkrStage, side: Side, limit: str, stop: str, sent_limit: str, sent_stop: str
) -> None:
    broker = await stage.connect()
    ticket = stage.ticket(OrderType.STOP_LIMIT, side=side, limit_price=Decimal(limit), stop_price=Decimal(stop))
    await place(broker, ticket)
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[19], sent[20]) == (sent_limit, sent_stop)


async def test_the_tick_follows_the_price_where_the_market_says_so(stage: IbkrStage) -> None:
    broker = await stage.connect()
    option = Instrument(
        symbol="SPY", asset_class=AssetClass.OPTION, expiry="20270115", strike=Decimal(500), right=OptionRight.CALL
    )
    for price in ("2.987", "3.087"):
        await place(broker, stage.ticket(OrderType.LIMIT, instrument=option, limit_price=Decimal(price)))
    assert [sent[19] for sent in stage.heard(Ask.PLACE_ORDER)] == ["2.98", "3.05"]


async def test_a_quantity_is_rounded_down_to_the_increment_and_never_up(stage: IbkrStage) -> None:
    broker = await stage.connect()
    future = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202706")
    asked = stage.ticket(instrument=future, quantity=Decimal("2.9999"))
    ticket = await broker.fitted(asked)
    assert (ticket.quantity, replace(ticket, quantity=asked.quantity, terms=None)) == (Decimal(2), asked)
    assert await broker.fitted(ticket) == ticket
    await place(broker, asked)
    assert stage.truth(asked).ticket.quantity == 2
    with pytest.raises(OrderRefused, match="less than 1, the increment of ES"):
        await broker.reserve(stage.ticket(instrument=future, quantity=Decimal("0.9")))
    assert (await broker.fitted(stage.ticket(quantity=Decimal("0.50009")))).quantity == Decimal("0.5000")


async def test_what_was_fitted_is_what_is_sent(stage: IbkrStage) -> None:
    broker = await stage.connect()
    asked = stage.ticket(OrderType.LIMIT, limit_price=Decimal("100.257"), quantity=Decimal("10.00005"))
    ticket = await broker.fitted(asked)
    assert (ticket.limit_price, ticket.quantity) == (Decimal("100.25"), Decimal(10))
    await place(broker, ticket)
    sent = stage.truth(ticket).ticket
    assert (sent.limit_price, sent.quantity) == (ticket.limit_price, ticket.quantity)


async def test_a_price_of_less_than_one_tick_is_refused(stage: IbkrStage) -> None:
    broker = await stage.connect()
    with pytest.raises(OrderRefused, match="less than one tick"):
        await broker.reserve(stage.ticket(OrderType.LIMIT, limit_price=Decimal("0.009")))


async def test_crypto_is_bought_at_the_market_for_money_and_sold_by_quantity(stage: IbkrStage) -> None:
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    stage.gateway.prices["BTC"] = Decimal(51_000)
    broker = await stage.connect()
    bought = stage.ticket(instrument=coin, quantity=Decimal("0.001"), reference_price=Decimal("50000.555"), tif=Tif.DAY)
    assert (await broker.fitted(bought)).cash_quantity == Decimal("50.00")
    await place(broker, bought)
    report = await reported(broker, bought, lambda report: report.status is not ReportStatus.WORKING)
    sold = stage.ticket(instrument=coin, quantity=Decimal("0.0005"), side=Side.SELL)
    await place(broker, sold)
    first, second = stage.heard(Ask.PLACE_ORDER)
    assert (first[17], first[101], first[21]) == ("0", "50", "IOC")
    assert (second[17], second[101], second[21]) == ("0.0005", "", "IOC")
    # Less than was expected, and filled: the money is spent.
    assert (report.status, filled(report)) == (ReportStatus.FILLED, Decimal("0.00098039"))
    assert report.reason is None


async def test_money_that_found_too_few_coins_is_an_order_cancelled_with_what_it_bought(stage: IbkrStage) -> None:
    stage.book.market = replace(stage.book.market, partial_fill_rate=1.0, seed=4)
    stage.gateway.prices["BTC"] = Decimal(50_000)
    broker = await stage.connect()
    ticket = stage.ticket(instrument=Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO), quantity=Decimal("0.001"))
    await place(broker, replace(ticket, reference_price=Decimal(50_000)))
    report = await reported(broker, ticket, lambda report: report.status is not ReportStatus.WORKING)
    assert report.status is ReportStatus.CANCELLED
    assert 0 < filled(report) == report.filled_quantity < Decimal("0.001")


@pytest.mark.parametrize(
    ("setting", "tif", "sent"),
    [
        ("Minutes", None, "Minutes"),
        ("Minutes", Tif.IOC, "IOC"),
        ("Minutes", Tif.GTC, None),
        ("Minutes", Tif.DAY, None),
        ("IOC", None, "IOC"),
        ("IOC", Tif.GTC, None),
        ("DAY", None, "DAY"),
        ("DAY", Tif.GTC, "GTC"),
        ("GTC", None, "GTC"),
        ("GTC", Tif.IOC, "IOC"),
    ],
)
async def test_coins_with_a_limit_have_a_time_in_force_that_the_account_gives_them(
    stage: IbkrStage, setting: str, tif: Tif | None, sent: str | None
) -> None:
    stage.gateway.coin_tifs = COIN_TIFS if setting in COIN_TIFS else None
    broker = await stage.connect(crypto_tif=setting)
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    ticket = stage.ticket(OrderType.LIMIT, instrument=coin, limit_price=Decimal(50_000), tif=tif)
    if sent is None:
        for refuses in (broker.fitted, broker.reserve):
            with pytest.raises(OrderRefused, match=f"not {tif}.*crypto_tif") as refused:
                await refuses(ticket)
            assert refused.value.unsupported
        assert stage.heard(Ask.PLACE_ORDER) == []
    else:
        await place(broker, ticket)
        assert [fields[21] for fields in stage.heard(Ask.PLACE_ORDER)] == [sent]


async def test_a_time_in_force_that_the_account_does_not_give_coins_is_refused_in_ibkrs_words(stage: IbkrStage) -> None:
    broker = await stage.connect(crypto_tif="GTC")
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    with pytest.raises(OrderRefused, match="must be Minutes or IOC"):
        await place(broker, stage.ticket(OrderType.LIMIT, instrument=coin, limit_price=Decimal(50_000)))


@pytest.mark.parametrize("order_type", [OrderType.STOP, OrderType.STOP_LIMIT])
async def test_coins_are_refused_as_stops_before_they_are_sent(stage: IbkrStage, order_type: OrderType) -> None:
    broker = await stage.connect()
    with pytest.raises(OrderRefused, match="at the market or with a limit"):
        await place(
            broker, stage.ticket(order_type, instrument=Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO))
        )


async def test_coins_limited_far_from_the_market_end_in_ibkrs_words(stage: IbkrStage, soon: None) -> None:
    stage.gateway.prices["BTC"] = Decimal(50_000)
    broker = await stage.connect()
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    ticket = stage.ticket(OrderType.LIMIT, instrument=coin, quantity=Decimal("0.001"), limit_price=Decimal(49_000))
    with pytest.raises(UndocumentedAnswer, match="code 202"):
        await place(broker, ticket)
    report = await found(broker, ticket)
    assert report.status is ReportStatus.REJECTED
    assert "0.25%" in (report.reason or "")


async def test_coins_bought_with_a_limit_are_bought_by_quantity(stage: IbkrStage) -> None:
    stage.gateway.prices["BTC"] = Decimal(50_000)
    broker = await stage.connect()
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    ticket = stage.ticket(OrderType.LIMIT, instrument=coin, quantity=Decimal("0.001"), limit_price=Decimal(50_000))
    assert (await broker.fitted(ticket)).cash_quantity is None
    await place(broker, ticket)
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[17], sent[101], sent[21]) == ("0.001", "", "Minutes")


NUMBERED = (
    (Query(symbol="912828C57", sec_type="BOND"), Instrument(symbol="US-T 2.75 2044", asset_class=AssetClass.BOND)),
    (Query(symbol="AAPL", sec_type="CFD"), Instrument(symbol="AAPL", asset_class=AssetClass.CFD)),
    (Query(symbol="VTSAX", sec_type="FUND"), Instrument(symbol="ANYTHING", asset_class=AssetClass.FUND)),
    (Query(symbol="SPY", sec_type="STK"), Instrument(symbol="SPY", asset_class=AssetClass.ETF)),
    (
        Query(symbol="SPY", sec_type="OPT", expiry="20270115", strike="500", right="P"),
        Instrument(symbol="SPY", asset_class=AssetClass.OPTION, right=OptionRight.PUT),
    ),
    (Query(symbol="GC", sec_type="FUT", expiry="202706"), Instrument(symbol="GC", asset_class=AssetClass.FUTURE)),
)


@pytest.mark.parametrize(("query", "instrument"), NUMBERED, ids=lambda value: getattr(value, "sec_type", ""))
async def test_a_contract_is_found_by_its_number(stage: IbkrStage, query: Query, instrument: Instrument) -> None:
    (listing,) = listed(query)
    stage.gateway.prices[listing.symbol] = Decimal("2.5")
    broker = await stage.connect()
    numbered = replace(instrument, con_id=listing.con_id)
    ticket = stage.ticket(instrument=numbered)
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[2], sent[4]) == (str(listing.con_id), query.sec_type)
    (held,) = await broker.positions()
    assert held.instrument == numbered


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"asset_class": AssetClass.STOCK}, "is SPY 20270115 P 500 OPT SMART USD .*: not a STOCK"),
        ({"symbol": "QQQ"}, "not named QQQ"),
        ({"expiry": "20270116"}, "not the expiry 20270116"),
        ({"strike": Decimal(501)}, "not the strike 501"),
        ({"right": OptionRight.CALL}, "not the right CALL"),
        ({"currency": "EUR"}, "not in EUR"),
        ({"con_id": 4711}, "no contract for"),
    ],
)
async def test_a_contract_number_that_contradicts_the_rest_is_refused(
    stage: IbkrStage, changes: dict[str, object], words: str
) -> None:
    (listing,) = listed(Query(symbol="SPY", sec_type="OPT", expiry="20270115", strike="500", right="P"))
    option = Instrument(symbol="SPY", asset_class=AssetClass.OPTION, con_id=listing.con_id)
    broker = await stage.connect()
    with pytest.raises(OrderRefused, match=words):
        await broker.reserve(stage.ticket(instrument=replace(option, **changes)))
    agreed = replace(
        option, expiry="202701", strike=Decimal("500.0"), right=OptionRight.PUT, currency="USD", multiplier=Decimal(100)
    )
    await broker.reserve(stage.ticket(instrument=agreed))


async def test_a_symbol_of_digits_is_a_symbol_and_no_contract_number(stage: IbkrStage) -> None:
    (listing,) = listed(Query(symbol="SPY", sec_type="STK"))
    broker = await stage.connect()
    with pytest.raises(OrderRefused, match="no contract"):
        await broker.reserve(stage.ticket(instrument=Instrument(symbol=str(listing.con_id))))


async def test_account_reference_and_terms_are_on_every_order(stage: IbkrStage) -> None:
    broker = await stage.connect(outside_rth=True)
    ticket = stage.ticket(OrderType.LIMIT, tif=Tif.GTC)
    await place(broker, ticket)
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[23], sent[26], sent[21], sent[33]) == ("DU000001", ticket.client_order_id, "GTC", "1")


async def test_linked_exits_are_one_group_and_what_one_fills_is_taken_off_the_other(stage: IbkrStage) -> None:
    broker = await stage.connect()
    link = {"side": Side.SELL, "tif": Tif.GTC, "is_protective": True, "link": "ord_1-1"}
    stop = stage.ticket(OrderType.STOP, stop_price=LAST_PRICE - 5, **link)
    target = stage.ticket(OrderType.LIMIT, limit_price=LAST_PRICE + 5, **link)
    await place(broker, stop)
    await place(broker, target)
    for sent in stage.heard(Ask.PLACE_ORDER):
        assert sent[22] == "ord_1-1"
        assert "2" in sent[44:50], "reduced, with block"
    assert {stage.truth(each).status for each in (stop, target)} == {ReportStatus.WORKING}
    stage.book.fill_order(OrderRef(client_order_id=target.client_order_id), Decimal(4))
    assert stage.truth(stop).open_quantity == 6
    stage.book.fill_order(OrderRef(client_order_id=target.client_order_id))
    assert stage.truth(stop).status is ReportStatus.CANCELLED
    late = stage.ticket(OrderType.STOP, stop_price=LAST_PRICE - 5, **link)
    with pytest.raises(OrderRefused, match="linked to is done"):
        await place(broker, late)
    assert stage.truth(late).status is ReportStatus.REJECTED


# Icebergs


async def test_a_part_is_shown_by_the_brokers_own_field(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = stage.ticket(
        order_type=OrderType.LIMIT,
        limit_price=Decimal(LAST_PRICE),
        quantity=Decimal(25),
        display_quantity=Decimal("10.9"),
    )
    fitted = await broker.fitted(ticket)
    assert (fitted.quantity, fitted.display_quantity) == (25, 10)
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert (sent[17], sent[31]) == ("25", "10")
    # However many parts the market saw, it is one order with one id.
    assert [fill.quantity for fill in report.fills] == [10, 10, 5]
    assert report.filled_quantity == 25
    assert stage.book.orders()[0].ticket.display_quantity == 10


async def test_an_order_that_shows_all_names_no_part(stage: IbkrStage) -> None:
    broker = await stage.connect()
    await place(broker, stage.ticket())
    (sent,) = stage.heard(Ask.PLACE_ORDER)
    assert sent[31] == "0"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instrument": Instrument(symbol="EURUSD", asset_class=AssetClass.FOREX)}, "not of FOREX"),
        ({"instrument": Instrument(symbol="ETH", asset_class=AssetClass.CRYPTO)}, "not of CRYPTO"),
        ({"order_type": OrderType.STOP_LIMIT, "stop_price": Decimal(2)}, "rests with a limit"),
        ({"order_type": OrderType.MARKET, "limit_price": None}, "rests with a limit"),
        ({"tif": Tif.IOC}, "rests with a limit"),
        ({"display_quantity": Decimal("0.5")}, "less than 1"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_ibkr_shows_whole_is_refused_before_it_is_sent(
    stage: IbkrStage, changes: dict[str, Any], words: str
) -> None:
    broker = await stage.connect()
    iceberg = {"order_type": OrderType.LIMIT, "limit_price": Decimal("2.5"), "display_quantity": Decimal(5)}
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(stage.ticket(**(iceberg | {"quantity": Decimal(25)} | changes)))
    assert stage.heard(Ask.PLACE_ORDER) == []
