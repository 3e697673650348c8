"""What Alpaca's lists say of orders: pages, statuses, executions that come late, replaced orders, rows without sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.alpaca import orders as orders_module
from brokers.alpaca.adapter import AlpacaBroker, Configuration, create
from brokers.base import AssetClass, FillsShown, Instrument, OptionRight, OrderRef, ReportStatus, Tif
from brokers.errors import AnswerUnclear, BrokerUnavailable
from brokers.paper.model import Market
from brokers.settled_reports import SettledTracker
from simulators.alpaca.server import AlpacaFault, FaultKind, SimulatedAlpaca
from simulators.stage_alpaca import config_for
from tests.contract.alpaca.stage import PRICE, ref, report_of, ticket

BTC = Instrument(symbol="BTC/USD", asset_class=AssetClass.CRYPTO)

WORKING_WORDS = (
    *("new", "accepted", "pending_new", "accepted_for_bidding", "stopped", "held", "pending_review", "suspended"),
    *("pending_cancel", "pending_replace", "done_for_day", "calculated", "something_new"),
)


def quiet(server: SimulatedAlpaca) -> int:
    return len(server.calls("GET *"))


async def test_a_look_without_news_is_one_call(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await broker.place_order(ticket())
    await broker.reports()
    before = quiet(server)
    await broker.reports()
    assert quiet(server) - before == 1


async def test_more_orders_than_a_page_are_all_read(
    server: SimulatedAlpaca, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "_ORDERS_A_PAGE", 3)
    tags = {(await broker.place_order(ticket())).client_order_id for _ in range(7)}
    assert {report.client_order_id for report in (await broker.reports()).reports} == tags


async def test_whole_pages_of_orders_that_are_over_are_not_read_again_until_something_happens_to_one(
    server: SimulatedAlpaca, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "_ORDERS_A_PAGE", 3)
    over = [ticket() for _ in range(7)]
    placed = [await broker.place_order(each) for each in over]
    for each in placed:
        server.book.cancel(ref(each))
    working = ticket()
    await broker.place_order(working)
    await broker.reports()
    before = quiet(server)
    reports = {report.client_order_id: report for report in (await broker.reports()).reports}
    assert quiet(server) - before == 1
    assert set(reports) == {each.client_order_id for each in (*over, working)}
    server.book.fill_order(ref(placed[0]), Decimal(4), force=True)
    broker._take_event(placed[0].broker_order_id)
    assert [fill.quantity for fill in (await report_of(broker, over[0])).fills] == [4]


async def test_a_late_execution_of_an_order_that_is_over_is_seen_without_the_stream_too(
    server: SimulatedAlpaca, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "_ORDERS_A_PAGE", 1)
    monkeypatch.setattr(orders_module, "_WHOLE_SECONDS", 0.0)
    server.drop_feed()
    order = ticket()
    placed = await broker.place_order(order)
    server.book.cancel(ref(placed))
    await broker.reports()
    server.book.fill_order(ref(placed), Decimal(4), force=True)
    assert [fill.quantity for fill in (await report_of(broker, order)).fills] == [4]


async def test_more_executions_than_a_page_are_all_read(
    server: SimulatedAlpaca, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "_FILLS_A_PAGE", 2)
    order = ticket()
    placed = await broker.place_order(order)
    for _ in range(5):
        server.book.fill_order(ref(placed), Decimal(2))
    report = await report_of(broker, order)
    assert [fill.quantity for fill in report.fills] == [2] * 5
    assert report.fills_shown is FillsShown.ALL


async def test_executions_that_come_late_leave_the_end_open_until_they_add_up(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    server.set_lag(fills=3600)
    server.book.fill_order(ref(await broker.place_order(order)))
    report = await report_of(broker, order)
    assert (report.status, report.filled_quantity, report.fills) == (ReportStatus.FILLED, Decimal(10), ())
    assert report.fills_shown is FillsShown.SOME
    server.set_lag()
    report = await report_of(broker, order)
    assert (len(report.fills), report.fills_shown) == (1, FillsShown.ALL)


async def test_an_execution_that_appears_behind_newer_ones_is_not_missed(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    early, late = ticket(), ticket()
    placed = [await broker.place_order(each) for each in (early, late)]
    first = server.book.fill_order(ref(placed[0]), now=datetime.now(UTC) - timedelta(minutes=10))
    server.show_oddly("GET /v2/account/activities/FILL", placed[0].broker_order_id, {"order_id": "hidden"})
    server.book.fill_order(ref(placed[1]))
    assert (await report_of(broker, early)).fills == ()
    server.clear_faults()
    report = await report_of(broker, early)
    assert [fill.fill_id for fill in report.fills] == [first.fill_id]


async def test_an_order_that_the_list_does_not_show_yet_is_found_by_its_id(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    server.set_lag(orders=3600)
    order, never = ticket(), ticket()
    await broker.place_order(order)
    assert (await broker.reports()).reports == []
    found = await broker.find_all([order.client_order_id, never.client_order_id])
    assert found[order.client_order_id] is not None
    assert found[never.client_order_id] is None


@pytest.mark.parametrize("word", WORKING_WORDS)
async def test_a_word_that_does_not_end_an_order_leaves_it_working(
    server: SimulatedAlpaca, broker: AlpacaBroker, word: str
) -> None:
    order = ticket()
    server.show_as((await broker.place_order(order)).broker_order_id, word)
    report = await report_of(broker, order)
    assert report.status is ReportStatus.WORKING
    assert word in (report.said or "")
    assert report.is_held is {"new": False}.get(word)


@pytest.mark.parametrize("written", ["BTC/USD", "BTCUSD"])
async def test_the_fee_of_coins_is_not_told_as_none_however_they_are_written(
    server: SimulatedAlpaca, broker: AlpacaBroker, written: str
) -> None:
    shares, coin = ticket(), ticket(instrument=Instrument(symbol="BTC/USD", asset_class=AssetClass.CRYPTO))
    for each in (shares, coin):
        placed = await broker.place_order(each)
        server.book.fill_order(ref(placed))
    server.show_oddly("GET /v2/account/activities/FILL", placed.broker_order_id, {"symbol": written})
    (fill,) = (await report_of(broker, coin)).fills
    assert (fill.commission, fill.commission_currency) == (None, None)
    (fill,) = (await report_of(broker, shares)).fills
    assert (fill.commission, fill.commission_currency) == (0, "USD")


@pytest.mark.parametrize("said", [None, "", "crypto_perp"])
@pytest.mark.parametrize(("symbol", "held"), [("BTC/USD", BTC), ("BTCUSD", None)])
async def test_a_fee_is_told_as_none_only_of_what_is_known_to_have_none(
    server: SimulatedAlpaca, broker: AlpacaBroker, said: str | None, symbol: str, held: Instrument | None
) -> None:
    coin = ticket(instrument=BTC)
    placed = await broker.place_order(coin)
    server.book.fill_order(ref(placed))
    server.show_oddly("GET /v2/orders", coin.client_order_id, {"asset_class": said, "symbol": symbol})
    report = await report_of(broker, coin)
    (fill,) = report.fills
    assert (fill.commission, fill.commission_currency, report.instrument) == (None, None, held)


@pytest.mark.parametrize("said", [None, "crypto"])
async def test_coins_wait_for_no_opening_whether_the_order_names_their_class_or_not(
    server: SimulatedAlpaca, broker: AlpacaBroker, said: str | None
) -> None:
    server.set_market(opens_in_seconds=3600)
    coin = ticket(instrument=BTC)
    await broker.place_order(coin)
    server.show_oddly("GET /v2/orders", coin.client_order_id, {"status": "accepted", "asset_class": said})
    assert (await report_of(broker, coin)).is_held is not True


async def test_an_order_waits_for_the_opening_and_until_when_is_told(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    server.set_market(opens_in_seconds=3600)
    order, coin = ticket(), ticket(instrument=Instrument(symbol="BTC/USD", asset_class=AssetClass.CRYPTO))
    for each in (order, coin):
        await broker.place_order(each)
    # As orders, positions and fees write it, which differs (alpaca-py issue 374).
    server.show_oddly("GET /v2/orders", coin.client_order_id, {"symbol": "BTCUSD", "status": "accepted"})
    report = await report_of(broker, order)
    assert (report.is_held, report.held_until) == (True, server.opens_at)
    assert (await report_of(broker, coin)).is_held is not True
    for _ in range(3):
        await broker.reports()
    assert len(server.calls("GET /v2/clock")) == 1
    server.set_market()
    report = await report_of(broker, order)
    assert (report.is_held, report.held_until) == (False, None)


async def test_a_rejection_after_the_order_was_taken_has_no_reason_and_says_so(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    server.book.reject_order(ref(placed), "unknown to the API")
    report = await report_of(broker, order)
    assert report.status is ReportStatus.REJECTED
    assert "tells no reason" in (report.reason or "")


# Annulled executions


async def test_a_corrected_price_is_a_new_execution_in_the_place_of_the_old_one_without_the_stream_too(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    old = server.book.fill_order(ref(await broker.place_order(order)))
    assert [fill.fill_id for fill in (await report_of(broker, order)).fills] == [old.fill_id]
    server.drop_feed()
    new = server.book.correct_fill(old.fill_id, price=Decimal("99.50"))
    report = await report_of(broker, order)
    assert [(fill.fill_id, fill.price) for fill in report.fills] == [(new.fill_id, Decimal("99.50"))]


async def test_an_annulled_execution_counts_as_such_once_the_lists_have_agreed_for_a_while(
    server: SimulatedAlpaca, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ticket()
    fill = server.book.fill_order(ref(await broker.place_order(order)))
    await report_of(broker, order)
    server.book.bust_fill(fill.fill_id)
    assert (await report_of(broker, order)).fills_shown is FillsShown.ALL
    monkeypatch.setattr(broker._orders, "_settled_tracker", SettledTracker(0.0))
    report = await report_of(broker, order)
    assert (report.fills, report.fills_shown) == ((), FillsShown.SETTLED)


async def test_an_annulled_execution_that_the_activities_go_on_showing_is_never_taken_for_annulled(
    server: SimulatedAlpaca, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker._orders, "_settled_tracker", SettledTracker(0.0))
    order = ticket()
    placed = await broker.place_order(order)
    server.book.fill_order(ref(placed))
    await report_of(broker, order)
    server.show_oddly("GET /v2/orders", placed.broker_order_id, {"filled_qty": "0", "filled_avg_price": None})
    for _ in range(3):
        report = await report_of(broker, order)
    assert (len(report.fills), report.filled_quantity, report.fills_shown) == (1, Decimal(10), FillsShown.SOME)


# Replaced orders


async def test_a_replaced_order_is_one_order_with_the_executions_of_all(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    server.book.fill_order(ref(placed), Decimal(3))
    second = server.replace(placed.broker_order_id, limit_price="101")
    third = server.replace(second.broker_order_id, limit_price="102")
    report = await report_of(broker, order)
    assert (report.broker_order_id, report.status) == (placed.broker_order_id, ReportStatus.WORKING)
    assert (report.filled_quantity, report.fills_shown) == (Decimal(3), FillsShown.ALL)
    server.book.fill_order(OrderRef(client_order_id="", broker_order_id=third.broker_order_id))
    for report in (await report_of(broker, order), await broker.find(order.client_order_id)):
        assert report is not None
        assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(10))
        assert [fill.quantity for fill in report.fills] == [3, 7]
        assert third.broker_order_id in (report.said or "")


async def test_what_a_successor_of_the_whole_quantity_fills_too_much_is_told(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    server.book.fill_order(ref(placed), Decimal(4))
    second = server.replace(placed.broker_order_id, limit_price="101", of_the_whole=True)
    server.book.fill_order(OrderRef(client_order_id="", broker_order_id=second.broker_order_id))
    report = await report_of(broker, order)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(14))
    assert [fill.quantity for fill in report.fills] == [4, 10]
    assert report.fills_shown is FillsShown.ALL


async def test_those_that_replaced_an_order_are_nobody_elses_orders(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    placed = await broker.place_order(ticket())
    server.replace(placed.broker_order_id, limit_price="101")
    assert [report.broker_order_id for report in (await broker.reports()).reports] == [placed.broker_order_id]


async def test_while_the_successor_is_not_known_nothing_is_concluded(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    server.show_as(placed.broker_order_id, "replaced")
    report = await report_of(broker, order)
    assert (report.status, report.is_unclear) == (ReportStatus.WORKING, True)


async def test_a_successor_that_the_list_leaves_out_is_asked_for(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    new = server.replace(placed.broker_order_id, limit_price="101")
    server.show_oddly("GET /v2/orders", new.broker_order_id, {"id": "elsewhere", "replaces": None})
    report = await report_of(broker, order)
    assert new.broker_order_id in (report.said or "")


# Orders from before the window


async def test_an_order_that_rests_for_days_is_followed_to_its_end(server: SimulatedAlpaca) -> None:
    order = ticket(tif=Tif.GTC)
    days_ago = datetime.now(UTC) - timedelta(days=5)
    server.book.place(order, now=days_ago)
    broker = create(config_for(server))
    await broker.connect()
    report = await report_of(broker, order)
    assert report.status is ReportStatus.WORKING
    server.book.fill_order(ref(order))
    report = await report_of(broker, order)
    assert (report.status, len(report.fills)) == (ReportStatus.FILLED, 1)
    await broker.close()


async def test_what_left_the_window_while_nobody_looked_is_read_again(server: SimulatedAlpaca, tmp_path: Path) -> None:
    now = [datetime.now(UTC) - timedelta(days=3)]
    broker = AlpacaBroker(Configuration.of(config_for(server), broker="Alpaca"), clock=lambda: now[0])
    await broker.connect()
    await broker.reports()
    order = ticket(tif=Tif.GTC)
    server.book.place(order, now=now[0] + timedelta(minutes=5))
    now[0] = datetime.now(UTC)
    assert (await report_of(broker, order)).status is ReportStatus.WORKING
    await broker.close()


async def test_what_ended_before_the_window_is_found_by_its_id(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    order = ticket()
    then = datetime.now(UTC) - timedelta(days=5)
    server.book.place(order, now=then)
    server.book.fill_order(ref(order), now=then)
    found = await broker.find(order.client_order_id)
    assert found is not None
    assert (found.status, [fill.price for fill in found.fills]) == (ReportStatus.FILLED, [PRICE])


# Rows without sense


@pytest.mark.parametrize(
    "fields",
    [
        {"filled_qty": "ten"},
        {"filled_qty": None},
        {"filled_qty": "NaN"},
        {"filled_qty": "-1"},
        {"status": None},
        {"id": 5},
    ],
    ids=str,
)
async def test_a_row_without_sense_is_said_and_spoils_no_other(
    server: SimulatedAlpaca, broker: AlpacaBroker, fields: dict[str, object]
) -> None:
    odd, good = ticket(), ticket()
    placed = await broker.place_order(odd)
    await broker.place_order(good)
    server.show_oddly("GET /v2/orders", placed.broker_order_id, fields)
    answer = await broker.reports()
    assert [report.client_order_id for report in answer.reports] == [good.client_order_id]
    assert [each.client_order_id for each in answer.unreadable] == [odd.client_order_id]


async def test_a_tag_that_cannot_be_read_may_be_any(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    placed = await broker.place_order(ticket())
    server.show_oddly("GET /v2/orders", placed.broker_order_id, {"client_order_id": 5})
    (unreadable,) = (await broker.reports()).unreadable
    assert unreadable.client_order_id == ""


@pytest.mark.parametrize(
    "fields", [{"qty": "0"}, {"price": "much"}, {"price": "0"}, {"qty": None}, {"price": "Infinity"}], ids=str
)
async def test_an_execution_without_sense_makes_its_order_unclear_and_no_other(
    server: SimulatedAlpaca, broker: AlpacaBroker, fields: dict[str, object]
) -> None:
    odd, good = ticket(), ticket()
    placed = [await broker.place_order(each) for each in (odd, good)]
    for each in placed:
        server.book.fill_order(ref(each))
    server.show_oddly("GET /v2/account/activities/FILL", placed[0].broker_order_id, fields)
    report = await report_of(broker, odd)
    assert (report.is_unclear, report.fills_shown, report.fills) == (True, FillsShown.SOME, ())
    assert len((await report_of(broker, good)).fills) == 1


async def test_an_execution_without_a_legible_time_is_of_when_it_was_received(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    server.book.fill_order(ref(placed))
    server.show_oddly("GET /v2/account/activities/FILL", placed.broker_order_id, {"transaction_time": "yesterday"})
    (fill,) = (await report_of(broker, order)).fills
    assert fill.is_time_estimated
    assert datetime.now(UTC) - fill.time < timedelta(minutes=1)


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.TRUNCATED, FaultKind.MOVED, FaultKind.NO_ID])
async def test_a_list_that_is_no_list_is_no_statement_about_any_order(
    server: SimulatedAlpaca, broker: AlpacaBroker, kind: FaultKind
) -> None:
    await broker.place_order(ticket())
    await broker.reports()
    server.add_fault(AlpacaFault(kind=kind, status=502, route="GET /v2/orders"))
    with pytest.raises((BrokerUnavailable, AnswerUnclear)):
        await broker.reports()


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.MOVED, FaultKind.NO_ID])
async def test_an_order_is_absent_only_by_alpacas_own_word(
    server: SimulatedAlpaca, broker: AlpacaBroker, kind: FaultKind
) -> None:
    server.add_fault(AlpacaFault(kind=kind, status=404, route="GET /v2/orders:*"))
    with pytest.raises((BrokerUnavailable, AnswerUnclear)):
        await broker.find("a000000000000000000")
    assert await broker.find("a000000000000000000") is None


# Positions


async def test_positions_of_every_class_and_shorts(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    coin = Instrument(symbol="BTC/USD", asset_class=AssetClass.CRYPTO)
    option = Instrument(
        symbol="AAPL261218C00200000",
        asset_class=AssetClass.OPTION,
        expiry="20261218",
        strike=Decimal(200),
        right=OptionRight.CALL,
    )
    for instrument, quantity in ((coin, 2), (option, 1), (Instrument(symbol="AAPL"), -3)):
        server.book.trade_by_hand(instrument, Decimal(quantity), PRICE)
    held = [(each.instrument.asset_class, each.instrument.symbol, each.quantity) for each in await broker.positions()]
    assert sorted(held) == [
        (AssetClass.CRYPTO, "BTC/USD", Decimal("1.995")),
        (AssetClass.OPTION, "AAPL", Decimal(1)),
        (AssetClass.STOCK, "AAPL", Decimal(-3)),
    ]


@pytest.mark.parametrize(
    ("fields", "is_unnamed"), [({"qty": "many"}, False), ({"symbol": None}, True), ({"qty": None}, False)], ids=str
)
async def test_a_position_without_sense_is_unclear(
    server: SimulatedAlpaca, broker: AlpacaBroker, fields: dict[str, object], is_unnamed: bool
) -> None:
    server.book.trade_by_hand(Instrument(symbol="AAPL"), Decimal(3), PRICE)
    server.show_oddly("GET /v2/positions", "AAPL", fields)
    (position,) = await broker.positions()
    assert (position.is_unclear, position.is_unnamed) == (True, is_unnamed)


async def test_what_bars_the_account_is_a_concern(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    assert broker.capabilities.concern is None
    server.add_fault()
    server.account_fields = {"trading_blocked": True}
    await broker.connect()
    assert "trading_blocked" in (broker.capabilities.concern or "")
    server.account_fields = {"status": "ACCOUNT_CLOSED"}
    await broker.balances()  # as at Alpaca-API issue 168, between two connections
    assert "ACCOUNT_CLOSED" in (broker.capabilities.concern or "")


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.0)])
async def test_a_paper_account_is_known_by_its_host(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    assert broker.capabilities.is_paper is True
    option = Instrument(symbol="AAPL261218C00200000", asset_class=AssetClass.OPTION)
    for instrument, can in ((option, False), (Instrument(symbol="AAPL"), True)):
        assert (broker.capabilities.rests_stops(instrument), broker.capabilities.keeps_overnight(instrument)) == (
            can,
            can,
        )
