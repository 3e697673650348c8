"""What the IBKR adapter reports of orders: after errors, pauses, lists that are late or missing, pushes, and at what cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokers.base import Instrument, OrderRef, OrderType, ReportStatus, Side
from brokers.errors import BrokerUnavailable, OrderAlreadyExists, OrderRefused, OutcomeUnknown
from brokers.paper.model import Market
from execution_service.core.reconcile.instruments import may_be_the_same
from simulators.control import instrument_of
from simulators.ibkr import wire
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import LAST_PRICE
from tests.contract.ibkr.stage import (
    NEVER,
    IbkrStage,
    connected,
    filled,
    listed_ticket,
    place,
    reported,
    reserved,
    unavailable,
)
from tests.waits import PATIENCE_SECONDS, until


@pytest.mark.parametrize(
    ("code", "text"),
    [(10349, "Order TIF was set to DAY based on order preset."), (404, "Held for locate"), (110, "Price")],
)
async def test_an_error_on_a_live_order_is_no_end_of_it(stage: IbkrStage, code: int, text: str) -> None:
    stage.hold()
    broker = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    stage.gateway.send_order_error(answer.broker_order_id, code, text)
    await broker.positions()  # asked after it, and so answered after it
    assert (await reported(broker, ticket)).status is ReportStatus.WORKING
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.CANCELLED)


async def test_an_error_on_a_live_order_makes_the_lists_be_read_again(stage: IbkrStage) -> None:
    stage.hold()
    broker = await stage.connect(poll_seconds=NEVER)
    answer = await place(broker, stage.ticket(OrderType.LIMIT))
    before = len(stage.heard(Ask.ALL_OPEN_ORDERS))
    stage.gateway.send_order_error(answer.broker_order_id, 404, "Held for locate")
    await broker.positions()
    await broker.reports()
    assert len(stage.heard(Ask.ALL_OPEN_ORDERS)) == before + 1


async def test_the_word_that_an_order_is_cancelled_costs_no_look_where_its_status_has_said_so(stage: IbkrStage) -> None:
    stage.hold()
    broker = await stage.connect(poll_seconds=NEVER)
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    before = len(stage.heard(Ask.ALL_OPEN_ORDERS))
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.CANCELLED)
    await broker.positions()
    await broker.reports()
    assert len(stage.heard(Ask.ALL_OPEN_ORDERS)) == before


async def test_fills_while_away_are_reported_after_connecting_again(stage: IbkrStage) -> None:
    stage.hold()
    broker = await stage.connect(poll_seconds=NEVER)
    ticket = stage.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    ref = OrderRef(client_order_id="", broker_order_id=answer.broker_order_id)
    stage.book.fill_order(ref, Decimal(2))
    part = await reported(broker, ticket, lambda report: filled(report) == 2)
    mark = (await broker.reports()).mark
    stage.gateway.drop_sessions()
    await unavailable(broker)
    stage.book.fill_order(ref, Decimal(3))
    stage.book.fill_order(ref, Decimal(5))
    await broker.connect()
    (report,) = (await broker.reports(mark)).reports
    assert (report.status, filled(report), len(report.fills)) == (ReportStatus.FILLED, Decimal(10), 3)
    assert report.fills[0] == part.fills[0]
    assert report.broker_order_id == answer.broker_order_id
    assert all(fill.commission is not None for fill in report.fills)


async def test_what_is_told_again_after_connecting_is_no_news(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    mark = (await broker.reports()).mark
    stage.gateway.drop_sessions()
    await unavailable(broker)
    await broker.connect()
    assert (await broker.reports(mark)).reports == []


async def test_completed_orders_without_ids_are_found_by_their_tag(stage: IbkrStage) -> None:
    stage.hold()
    earlier = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    answer = await place(earlier, ticket)
    await earlier.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    await earlier.close()
    await until(lambda: stage.truth(ticket).status is ReportStatus.CANCELLED)
    found = await (await stage.connect()).find(ticket.client_order_id)
    assert found is not None
    assert (found.status, found.broker_order_id[0]) == (ReportStatus.CANCELLED, "p")
    with pytest.raises(OrderAlreadyExists):
        await (await stage.connect()).place_order(replace(ticket, reserved_order_id=answer.broker_order_id))
    assert len(stage.book.orders()) == 1


@pytest.mark.parametrize("question", [Ask.ALL_OPEN_ORDERS, Ask.COMPLETED_ORDERS, Ask.EXECUTIONS])
async def test_a_list_that_is_not_answered_is_no_empty_list(stage: IbkrStage, question: Ask) -> None:
    ticket = stage.ticket()
    await place(await stage.connect(), ticket)
    stage.gateway.silent.add(question)
    broker = stage.broker(query_seconds=0.2)
    with pytest.raises(BrokerUnavailable, match="no answer in time"):
        await broker.connect()
    with pytest.raises(BrokerUnavailable):
        await broker.find("i999999999999999999")
    with pytest.raises(BrokerUnavailable):
        await place(broker, stage.ticket())
    stage.gateway.silent.clear()
    await broker.connect()
    assert await broker.find(ticket.client_order_id) is not None


@pytest.mark.parametrize("question", [Ask.ALL_OPEN_ORDERS, Ask.COMPLETED_ORDERS])
async def test_a_late_answer_about_orders_is_not_taken_for_that_to_a_later_question(
    stage: IbkrStage, question: Ask
) -> None:
    stage.hold()
    broker = await stage.connect(query_seconds=0.3)
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    late = stage.gateway.late[question] = asyncio.Event()
    with pytest.raises(BrokerUnavailable, match="orders"):
        await broker.find(ticket.client_order_id)
    del stage.gateway.late[question]
    stage.gateway.silent.add(question)
    asked = len(stage.heard(question))
    again = asyncio.create_task(broker.connect())
    await until(lambda: len(stage.heard(question)) > asked)
    late.set()
    with pytest.raises(BrokerUnavailable):
        await again
    stage.gateway.silent.clear()
    await connected(broker)
    assert (await broker.find(ticket.client_order_id)).status is ReportStatus.WORKING


async def test_a_late_answer_about_positions_is_not_taken_for_that_to_a_later_question(stage: IbkrStage) -> None:
    broker = await stage.connect(query_seconds=0.3)
    await place(broker, stage.ticket())
    late = stage.gateway.late[Ask.POSITIONS] = asyncio.Event()
    with pytest.raises(BrokerUnavailable, match="no answer in time"):
        await broker.positions()
    del stage.gateway.late[Ask.POSITIONS]
    with pytest.raises(BrokerUnavailable, match="may still be answered"):
        await broker.positions()
    assert len(stage.heard(Ask.POSITIONS)) == 1
    late.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                (held,) = await broker.positions()
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.01)
    assert held.quantity == 10
    assert len(stage.heard(Ask.START_API)) == 1


async def test_errors_on_questions_are_not_taken_for_errors_on_orders(stage: IbkrStage) -> None:
    """Both are told under numbers of one counter in the libraries."""
    stage.hold()
    broker = await stage.connect()
    tickets = [stage.ticket(OrderType.LIMIT) for _ in range(8)]
    for ticket in tickets:
        await place(broker, ticket)
        with pytest.raises(OrderRefused, match="no contract"):
            await broker.reserve(stage.ticket(instrument=Instrument(symbol="ZZNONE")))
    reports = (await broker.reports()).reports
    assert {(report.status, report.reason) for report in reports} == {(ReportStatus.WORKING, None)}
    assert [report.broker_order_id for report in reports] == [f"1:{number}" for number in range(1, 9)]


async def test_a_time_without_a_zone_is_one_of_the_zone_that_the_account_names(stage: IbkrStage) -> None:
    broker = await stage.connect(timezone="Asia/Tokyo", poll_seconds=NEVER)
    stage.hold()
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    row = stage.gateway.row(stage.truth(ticket))
    zoned = wire.execution(
        -1, row, exec_id="a.01", quantity=Decimal(1), price=LAST_PRICE, moment=datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    )
    stage.gateway.sessions[0].send(_without_zone(zoned))
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert report.fills[0].time == datetime(2026, 11, 21, 0, 30, tzinfo=UTC)


def _without_zone(message: bytes) -> bytes:
    fields = message[4:].replace(b"20261121 09:30:00 UTC", b"20261121  09:30:00")
    return len(fields).to_bytes(4, "big") + fields


async def test_times_are_those_of_the_venue_in_utc(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = stage.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert report.fills[0].time == stage.truth(ticket).fills[0].time.replace(microsecond=0)
    assert report.fills[0].time.utcoffset() == timedelta(0)


async def test_messages_in_pieces_and_repeated_statuses_change_nothing(stage: IbkrStage) -> None:
    stage.gateway.bytes_per_chunk, stage.gateway.repeats_statuses = 7, True
    broker = await stage.connect()
    ticket = stage.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert filled(report) == 10


async def test_an_inactive_order_without_a_rejection_is_alive(stage: IbkrStage) -> None:
    stage.hold()
    stage.gateway.held.append("1:1")
    broker = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    assert (await place(broker, ticket)).status is ReportStatus.WORKING
    stage.gateway.held.clear()
    stage.book.fill_order(OrderRef(client_order_id="", broker_order_id="1:1"))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


async def test_a_late_rejection_is_told_with_its_reason(stage: IbkrStage) -> None:
    stage.hold()
    broker = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    stage.book.reject_order(OrderRef(client_order_id="", broker_order_id=answer.broker_order_id), "Margin call")
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.REJECTED)
    assert "Margin call" in (report.reason or "")


async def test_a_cancel_without_an_answer_is_an_unknown_outcome(stage: IbkrStage) -> None:
    stage.hold()
    broker = await stage.connect(answer_seconds=0.2)
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    stage.gateway.silent.add(Ask.CANCEL_ORDER)
    with pytest.raises(OutcomeUnknown):
        await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.05)])
async def test_a_fill_is_pushed_and_reported_without_a_question(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    hinted = asyncio.Event()
    broker.on_hint(hinted.set)
    ticket = stage.ticket()
    await place(broker, ticket)
    asked = len(stage.gateway.heard)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (report := (await broker.reports()).reports[0]).fills or report.fills[0].commission is None:
            hinted.clear()
            await hinted.wait()
    assert filled(report) == 10
    assert len(stage.gateway.heard) == asked


async def test_a_commission_that_changes_is_pushed_and_reported_without_a_question(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.fills[0].commission is not None)
    asked = len(stage.heard(Ask.EXECUTIONS))
    stage.book.set_commission(stage.truth(ticket).fills[0].fill_id, Decimal("2.35"))
    changed = await reported(broker, ticket, lambda report: report.fills[0].commission == Decimal("2.35"))
    assert filled(changed) == 10
    assert len(stage.heard(Ask.EXECUTIONS)) == asked


async def test_a_turn_over_many_open_orders_asks_three_questions(stage: IbkrStage) -> None:
    stage.hold()
    for number in range(500):
        stage.book.place(listed_ticket(stage, number))
    broker = await stage.connect(query_seconds=30)
    before = len(stage.gateway.heard)
    assert len((await broker.reports()).reports) == 500
    assert len(stage.gateway.heard) - before == 3


async def test_many_questions_at_once_are_answered_by_few_rounds(stage: IbkrStage) -> None:
    broker = await stage.connect()
    tickets = [stage.ticket() for _ in range(3)]
    for ticket in tickets:
        await place(broker, ticket)
    before = len(stage.heard(Ask.ALL_OPEN_ORDERS))
    found = await asyncio.gather(*(broker.find(ticket.client_order_id) for ticket in tickets * 20))
    assert all(report is not None for report in found)
    assert len(stage.heard(Ask.ALL_OPEN_ORDERS)) - before <= 2


async def test_a_question_is_not_answered_by_a_round_that_began_before_it(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    stage.gateway.silent.add(Ask.COMPLETED_ORDERS)
    asking = asyncio.create_task(broker.find(ticket.client_order_id))
    await until(lambda: len(stage.heard(Ask.EXECUTIONS)) == 2)
    await broker.place_order(ticket)
    later = asyncio.create_task(broker.find(ticket.client_order_id))
    await asyncio.sleep(0)
    stage.gateway.silent.clear()
    stage.gateway.sessions[0].send(wire.frame(102))
    await asking
    assert await later is not None


@pytest.mark.parametrize("price", [0, 3])
async def test_an_option_that_left_without_a_price_is_shown_as_an_execution_of_that_contract(
    stage: IbkrStage, price: int
) -> None:
    broker = await stage.connect()
    option = instrument_of(
        stage.book,
        {"symbol": "SPY", "asset_class": "OPTION", "expiry": "20270115", "strike": "500", "right": "CALL"},
    )
    stage.book.trade_by_hand(option, Decimal(-1), Decimal(price))
    (report,) = (await broker.reports()).reports
    assert [(fill.quantity, fill.price) for fill in report.fills] == [(1, price)]
    assert report.instrument is not None
    assert may_be_the_same(report.instrument, option)
    assert (report.side, report.client_order_id, report.is_unclear) == (Side.SELL, "", False)
