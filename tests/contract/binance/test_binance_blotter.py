"""How the account's orders are read: few calls, whole answers, conditional orders and what they become, rows that cannot be read."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import FillsShown, OrderRef, OrderType, Report, ReportStatus, Side
from brokers.binance import blotter
from brokers.binance.adapter import BinanceBroker, create
from brokers.errors import AnswerUnclear
from brokers.paper.model import Action, Fault, Operation
from simulators.binance.book import events_of
from simulators.binance.server import BinanceFault, FaultKind, SimulatedBinance
from simulators.stage_binance import config_for
from tests.contract.binance.stage import TAG, found, hold, limit, reported, stop, ticket
from tests.waits import until


def ref(report: Report) -> OrderRef:
    return OrderRef(client_order_id=report.client_order_id, broker_order_id=report.broker_order_id)


async def test_a_turn_without_open_orders_costs_one_call(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await broker.place_order(ticket())
    await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    await broker.reports()
    asked = len(server.calls())
    await broker.reports()
    assert [call.route for call in server.calls()[asked:]] == ["GET /fapi/v1/allOrders"]


async def test_orders_that_the_stream_named_and_the_list_shows_are_not_asked_for_one_by_one(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await until(lambda: server.listeners == 1)
    await broker.reports()
    hold(server)
    for number in range(5):
        await broker.place_order(limit(client_order_id=f"t{number:018d}"))
        server.show_oddly("GET /fapi/v1/allOrders", f"t{number:018d}", {"executedQty": "0.000"})  # where events say "0"
    await until(lambda: len(broker._blotter._changed) == 5)
    asked = len(server.calls())
    assert len((await broker.reports()).reports) == 5
    assert [call.route for call in server.calls()[asked:]] == ["GET /fapi/v1/allOrders"]


async def test_an_order_that_the_list_shows_as_it_was_before_is_asked_for_by_itself(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    await broker.reports()
    server.show_oddly("GET /fapi/v1/allOrders", TAG, {"status": "NEW"})
    server.book.cancel(ref(placed))
    server.push(json.dumps(events_of(server.book.orders()[0])[0]))
    assert (await reported(broker, lambda report: report.status is not ReportStatus.WORKING)).said == "CANCELED"


async def test_ten_turns_with_orders_and_stops_stay_far_below_the_limit_of_a_minute(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    await broker.place_order(limit())
    await broker.place_order(stop(client_order_id="t000000000000000002"))
    await broker.reports()
    before = server.weight()
    for _ in range(10):
        await broker.reports()
    assert server.weight() - before <= 10 * 6


async def test_a_page_that_is_full_is_read_in_halves(
    server: SimulatedBinance, broker: BinanceBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.binance.blotter._PAGE", 4)
    for number in range(9):
        await broker.place_order(ticket(client_order_id=f"t{number:018d}"))
        await asyncio.sleep(0.005)
    reports = (await broker.reports()).reports
    assert sorted(report.client_order_id for report in reports) == [f"t{number:018d}" for number in range(9)]
    assert all(report.fills_shown is FillsShown.ALL for report in reports)


async def test_a_host_that_wants_a_symbol_is_asked_for_each(server: SimulatedBinance, broker: BinanceBroker) -> None:
    server.answers_without_symbol = False
    await broker.place_order(ticket())
    report = await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    assert sum(fill.quantity for fill in report.fills) == 10


async def test_an_order_of_days_ago_that_ends_is_told(server: SimulatedBinance, broker: BinanceBroker) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=3)
    hold(server)
    server.book._clock = lambda: long_ago
    await broker.place_order(limit())
    server.book._clock = lambda: datetime.now(UTC)
    assert (await reported(broker)).status is ReportStatus.WORKING
    server.book.fill_order(OrderRef(client_order_id=TAG), Decimal(4))
    part = await reported(broker, lambda report: report.filled_quantity == 4 and len(report.fills) == 1)
    server.book.cancel_unasked(ref(part), "gone")
    await reported(broker, lambda report: report.status is ReportStatus.CANCELLED)


async def test_an_execution_that_the_trades_do_not_show_yet_is_no_fill_yet(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route="GET /fapi/v1/userTrades", status=200, code=0))
    await broker.place_order(ticket())
    with pytest.raises(Exception, match="trades"):
        await broker.reports()
    report = await reported(broker)
    assert (report.fills_shown, report.filled_quantity) == (FillsShown.ALL, Decimal(10))


async def test_the_commission_is_that_of_the_execution_in_its_asset(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    server.show_oddly("GET /fapi/v1/userTrades", TAG, {"commission": "-0.002", "commissionAsset": "BNB"})
    await broker.place_order(ticket())
    report = await reported(broker, lambda report: bool(report.fills))
    assert (report.fills[0].commission, report.fills[0].commission_currency) == (Decimal("-0.002"), "BNB")


@pytest.mark.parametrize(
    "fields", [{"commissionAsset": ""}, {"commissionAsset": 0}, {"commission": "free"}, {"commission": ""}], ids=str
)
async def test_a_commission_that_cannot_be_read_costs_no_execution(
    server: SimulatedBinance, broker: BinanceBroker, fields: dict[str, object]
) -> None:
    server.show_oddly("GET /fapi/v1/userTrades", TAG, fields)
    await broker.place_order(ticket())
    answer = await broker.reports()
    (report,) = answer.reports
    assert (report.fills_shown, report.filled_quantity, answer.unreadable) == (FillsShown.ALL, Decimal(10), [])
    assert (report.fills[0].commission, report.fills[0].commission_currency) == (None, None)


async def test_an_execution_that_is_listed_after_a_later_one_is_not_lost(
    server: SimulatedBinance, broker: BinanceBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hide_trade(1)
    await broker.place_order(ticket())
    await broker.place_order(ticket(client_order_id="t000000000000000002"))
    await reported(broker, lambda report: bool(report.fills), tag="t000000000000000002")
    late = await reported(broker)
    assert (late.filled_quantity, late.fills, late.fills_shown) == (Decimal(10), (), FillsShown.SOME)
    server.hide_trade(None)
    monkeypatch.setattr(blotter, "_BY_ITSELF_SECONDS", 0.0)
    late = await reported(broker, lambda report: bool(report.fills))
    assert late.fills_shown is FillsShown.ALL


async def test_what_expires_with_its_contract_is_told_as_expired_and_a_late_fill_of_it_too(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    await broker.place_order(limit())
    await broker.reports()
    assert server.book.expire_day() == 1
    await reported(broker, lambda report: report.status is ReportStatus.EXPIRED)
    server.book.fill_order(OrderRef(client_order_id=TAG), Decimal(10), force=True)
    late = await reported(broker, lambda report: bool(report.fills))
    assert late.filled_quantity == 10


# Conditional orders


@pytest.mark.parametrize(
    "shown", [{"origType": "MARKET"}, {"clientOrderId": "web_child"}, {"origType": "MARKET", "clientOrderId": "x"}]
)
async def test_a_stop_is_one_order_however_the_order_that_it_becomes_is_shown(
    server: SimulatedBinance, broker: BinanceBroker, shown: dict[str, str]
) -> None:
    for route in ("GET /fapi/v1/allOrders", "GET /fapi/v1/order", "GET /fapi/v1/openOrders"):
        server.show_oddly(route, TAG, shown)
    hold(server)
    placed = await broker.place_order(stop())
    server.book.fill_order(OrderRef(client_order_id=TAG), Decimal(4))
    later = create(config_for(server))
    await later.connect()
    for each in (broker, later):
        asked = await each.find(TAG)
        (told,) = (await each.reports()).reports
        for report in (asked, told, await each.find(TAG)):
            assert report is not None
            assert (report.client_order_id, report.broker_order_id) == (TAG, placed.broker_order_id)
            assert (report.filled_quantity, len(report.fills), report.orders_under_tag) == (Decimal(4), 1, ())
    await later.close()


async def test_a_stop_is_followed_through_the_order_that_it_becomes(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    placed = await broker.place_order(stop())
    waiting = await reported(broker)
    assert (waiting.status, waiting.said) == (ReportStatus.WORKING, "NEW")
    server.book.fill_order(OrderRef(client_order_id=TAG), Decimal(4))
    part = await reported(broker, lambda report: bool(report.fills))
    assert (part.status, part.filled_quantity, part.broker_order_id) == (
        ReportStatus.WORKING,
        Decimal(4),
        placed.broker_order_id,
    )
    server.book.fill_order(OrderRef(client_order_id=TAG))
    whole = await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    assert sum(fill.quantity for fill in whole.fills) == whole.filled_quantity == 10
    assert whole.broker_order_id == placed.broker_order_id
    reports = (await broker.reports()).reports
    assert [report.broker_order_id for report in reports] == [placed.broker_order_id]


async def test_a_stop_that_has_ended_and_does_not_name_its_order_yet_is_asked_for_again(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    def under_another_id() -> None:
        for route in ("GET /fapi/v1/allOrders", "GET /fapi/v1/order"):
            server.show_oddly(route, TAG, {"clientOrderId": "web_child"})

    under_another_id()
    server.show_oddly("GET /fapi/v1/algoOrder", TAG, {"actualOrderId": ""})
    hold(server)
    await broker.place_order(stop())
    server.book.fill_order(OrderRef(client_order_id=TAG))
    assert (await reported(broker, lambda report: report.said == "FINISHED")).status is ReportStatus.WORKING
    server.clear_faults()
    under_another_id()
    assert len((await reported(broker, lambda report: report.status is ReportStatus.FILLED)).fills) == 1


async def test_another_life_knows_a_triggered_stop_as_one_order(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    placed = await broker.place_order(stop())
    server.book.fill_order(OrderRef(client_order_id=TAG))
    later = create(config_for(server))
    await later.connect()
    (told,) = (await later.reports()).reports
    asked = await later.find(TAG)
    await later.close()
    assert asked is not None
    for report in (told, asked):
        assert report.broker_order_id == placed.broker_order_id
        assert (report.status, len(report.fills)) == (ReportStatus.FILLED, 1)
        assert report.orders_under_tag == ()


async def test_a_stop_is_cancelled_before_and_after_it_is_triggered(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    await broker.cancel_order(ref(await broker.place_order(stop())))
    await reported(broker, lambda report: report.status is ReportStatus.CANCELLED)
    other = "t000000000000000002"
    placed = await broker.place_order(stop(client_order_id=other))
    server.book.fill_order(OrderRef(client_order_id=other), Decimal(4))
    await broker.cancel_order(ref(placed))
    report = await reported(broker, lambda report: report.status is ReportStatus.CANCELLED, tag=other)
    assert report.filled_quantity == 4


async def test_a_stop_that_is_rejected_when_it_triggers_is_told_with_its_reason(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    placed = await broker.place_order(stop())
    await reported(broker)
    await until(lambda: server.listeners)
    server.book.reject_order(ref(placed), "Reduce Only reject")
    report = await reported(broker, lambda report: "Reduce Only reject" in (report.reason or ""))
    assert report.status is ReportStatus.REJECTED


async def test_a_stop_limit_that_rests_after_its_trigger_is_working(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    await broker.place_order(stop(order_type=OrderType.STOP_LIMIT, limit_price=Decimal(89)))
    server.book.fill_order(OrderRef(client_order_id=TAG), Decimal(1))
    report = await found(broker, lambda report: bool(report.fills))
    assert (report.status, report.said) == (ReportStatus.WORKING, "TRIGGERED, PARTIALLY_FILLED")


# What cannot be read


async def test_an_order_that_cannot_be_read_spoils_no_other(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await broker.place_order(ticket())
    await broker.place_order(ticket(client_order_id="t000000000000000002"))
    server.show_oddly("GET /fapi/v1/allOrders", TAG, {"executedQty": "many"})
    answer = await broker.reports()
    assert [report.client_order_id for report in answer.reports] == ["t000000000000000002"]
    assert [odd.client_order_id for odd in answer.unreadable] == [TAG]
    assert "executedQty" in answer.unreadable[0].words


async def test_an_order_that_may_be_the_unreadable_one_is_not_told_as_absent(server: SimulatedBinance) -> None:
    broker = create(config_for(server))
    await broker.connect()
    await broker.place_order(ticket())
    server.show_oddly("GET /fapi/v1/allOrders", TAG, {"clientOrderId": None})
    later = create(config_for(server))
    await later.connect()
    with pytest.raises(AnswerUnclear):
        await later.find(TAG)
    assert await later.find_all(["t000000000000000009"]) == {}
    for each in (broker, later):
        await each.close()


async def test_a_position_that_cannot_be_read_makes_the_comparison_unclear(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket())
    server.show_oddly("GET /fapi/v3/positionRisk", "SOLUSDT", {"positionAmt": None})
    (position,) = await broker.positions()
    assert position.is_unclear


@pytest.mark.parametrize("hidden_seconds", [0.3])
async def test_an_order_that_binance_does_not_know_yet_is_none_for_now_only(
    server: SimulatedBinance, broker: BinanceBroker, hidden_seconds: float
) -> None:
    await broker.place_order(ticket())
    lag = Fault(operation=Operation.FIND, action=Action.HIDE, times=None, seconds=hidden_seconds)
    server.book.add_fault(lag)
    assert await broker.find(TAG) is None
    assert broker.capabilities.find_window_seconds >= 120
    await found(broker)


async def test_other_peoples_orders_and_liquidations_have_no_tag(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    await broker.place_order(ticket())
    (placed,) = server.book.orders()
    server.book.trade_by_hand(placed.ticket.instrument, Decimal(-10))
    server.show_oddly("GET /fapi/v1/allOrders", "2", {"clientOrderId": "autoclose-123"})
    reports = (await broker.reports()).reports
    assert sorted(report.client_order_id for report in reports) == ["", TAG]
    assert await broker.positions() == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [("liquidation", "liquidated"), ("deleveraging", "auto-deleveraging"), ("settlement", "settled")],
)
async def test_what_binance_itself_closes_is_told_with_its_executions_and_why(
    server: SimulatedBinance, broker: BinanceBroker, kind: str, words: str
) -> None:
    await broker.place_order(ticket())
    (placed,) = server.book.orders()
    server.force_close(placed.ticket.instrument.symbol, kind, price="90.5")
    reports = (await broker.reports()).reports
    (forced,) = [report for report in reports if not report.client_order_id]
    assert (forced.side, [(fill.quantity, fill.price) for fill in forced.fills]) == (Side.SELL, [(10, Decimal("90.5"))])
    assert words in str(forced.reason)
    assert [report.reason for report in reports if report.client_order_id] == [None]


@pytest.mark.parametrize(("side", "sign"), [(Side.BUY, 1), (Side.SELL, -1)])
async def test_positions_are_signed(server: SimulatedBinance, broker: BinanceBroker, side: Side, sign: int) -> None:
    await broker.place_order(ticket(side=side))
    (position,) = await broker.positions()
    assert (position.quantity, position.average_price) == (10 * sign, Decimal("100.25"))


async def test_readings_slow_down_before_the_weight_of_the_minute_is_used_up(server: SimulatedBinance) -> None:
    broker = create({**config_for(server), "rate_limit_rpm": 400})
    await broker.connect()
    begun = asyncio.get_running_loop().time()
    turns = 0
    while asyncio.get_running_loop().time() - begun < 1.5:
        await broker.reports()
        turns += 1
    await broker.reserve(ticket())
    await broker.close()
    assert turns < 60  # a turn weighs 5
    assert server.weight() < 400 * 0.8


async def test_binances_own_limits_are_kept_where_they_are_lower(tmp_path: Path) -> None:
    server = SimulatedBinance(tmp_path / "x.db", weight_per_minute=500)
    with server:
        broker = create({**config_for(server), "rate_limit_rpm": 5000})
        await broker.connect()
        assert broker.calls_left()["weight", 60.0] < 500
        await broker.close()


async def test_what_other_programs_used_up_counts(server: SimulatedBinance, broker: BinanceBroker) -> None:
    before = broker.calls_left()["weight", 60.0]
    other = create(config_for(server))
    await other.connect()
    await other.reports()
    await broker.balances()
    assert before - broker.calls_left()["weight", 60.0] >= 90
    await other.close()


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
async def test_orders_are_found_by_binances_clock_and_not_by_ours(server: SimulatedBinance, ahead: float) -> None:
    server.clock_ahead_seconds = ahead
    server.book._clock = lambda: datetime.now(UTC) + timedelta(seconds=ahead)
    broker = create(config_for(server))
    await broker.connect()
    await broker.reports()
    await broker.place_order(ticket())
    await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    await broker.close()


async def test_a_stop_that_cannot_be_read_spoils_no_other(server: SimulatedBinance, broker: BinanceBroker) -> None:
    hold(server)
    other = "t000000000000000002"
    await broker.place_order(stop())
    await broker.place_order(limit(client_order_id=other))
    await reported(broker)
    server.show_oddly("GET /fapi/v1/algoOrder", TAG, {"algoStatus": None})
    server.book.cancel_unasked(OrderRef(client_order_id=TAG), "gone")
    answer = await broker.reports()
    assert {report.client_order_id for report in answer.reports} == {TAG, other}
    assert [odd.client_order_id for odd in answer.unreadable] == [TAG]


async def test_a_stop_waits_for_its_price_and_is_filled_when_that_comes(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    entry = "t000000000000000009"
    await broker.place_order(ticket(client_order_id=entry))
    await reported(broker, lambda report: report.status is ReportStatus.FILLED, tag=entry)
    await broker.place_order(stop("95", is_exit=True))
    assert (await reported(broker)).status is ReportStatus.WORKING
    (bought,) = server.book.orders(entry)
    server.book.trade_by_hand(bought.ticket.instrument, Decimal(1), Decimal(94))
    report = await reported(broker, lambda report: report.status is ReportStatus.FILLED)
    assert [fill.price for fill in report.fills] == [Decimal(94)]
