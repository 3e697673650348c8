"""The budget of calls at IBKR: how fast orders leave, whose calls are kept back, and what the gateway's own complaint does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from brokers.base import OrderRef, OrderType, ReportStatus, Side
from brokers.errors import RateLimited
from brokers.ibkr.adapter import create
from simulators.ibkr import wire
from simulators.ibkr.wire import Ask
from tests.contract.ibkr.stage import IbkrStage, place, reported, reserved
from tests.waits import until


async def test_orders_leave_no_faster_than_the_budget_and_in_their_sequence(stage: IbkrStage) -> None:
    broker = await stage.connect(order_calls_per_second=4, order_reserve_percent=25)
    stage.hold()
    tickets = [stage.ticket(OrderType.LIMIT) for _ in range(5)]
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(place(broker, ticket) for ticket in tickets))
    assert asyncio.get_running_loop().time() - began >= 1.0
    sent = [fields[26] for fields in stage.heard(Ask.PLACE_ORDER)]
    assert sent == [ticket.client_order_id for ticket in tickets]


async def test_cancels_and_exits_have_calls_of_their_own(stage: IbkrStage) -> None:
    broker = await stage.connect(order_calls_per_day=6, order_reserve_percent=50)
    stage.hold()
    entries = [stage.ticket(OrderType.LIMIT) for _ in range(3)]
    for ticket in entries:
        await place(broker, ticket)
    with pytest.raises(RateLimited, match="rate budget") as spent:
        await broker.reserve(stage.ticket(OrderType.LIMIT))
    assert spent.value.known_pause
    assert spent.value.wait_seconds > 86_000
    with pytest.raises(RateLimited):
        await broker.place_order(replace(stage.ticket(OrderType.LIMIT), reserved_order_id="1:9"))
    await broker.cancel_order(OrderRef(client_order_id=entries[0].client_order_id))
    for again in (True, False):
        with pytest.raises(RateLimited):
            await broker.cancel_order(OrderRef(client_order_id=entries[1].client_order_id), again=again)
    for _ in range(2):
        await place(broker, stage.ticket(side=Side.SELL, is_exit=True))
    assert len(stage.heard(Ask.PLACE_ORDER)) == 5
    assert len(stage.heard(Ask.CANCEL_ORDER)) == 1
    assert len((await broker.reports()).reports) == 5


async def test_an_order_that_waits_for_the_opening_is_held_until_the_market_has_it(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.hold()
    stage.gateway.close_market("2026-11-30 09:30:00 US/Eastern")
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.is_held is not None)
    assert report.is_held is True
    assert report.held_until == datetime(2026, 11, 30, 14, 30, tzinfo=UTC)
    assert report.said == "will not be placed at the exchange until 2026-11-30 09:30:00 US/Eastern"
    stage.gateway.open_market()
    report = await reported(broker, ticket, lambda report: report.is_held is False)
    assert (report.status, report.said, report.held_until) == (ReportStatus.WORKING, "Submitted", None)


async def test_a_stop_that_rests_is_shown_like_an_order_that_waits_and_is_not_said_to_be_held(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.hold()
    ticket = stage.ticket(OrderType.STOP)
    placed = await place(broker, ticket)
    assert (placed.said, placed.is_held) == ("PreSubmitted", None)


async def test_another_connection_does_not_hear_that_an_order_is_held_and_says_nothing_of_it(stage: IbkrStage) -> None:
    first = await stage.connect()
    stage.hold()
    stage.gateway.close_market("2026-11-30 09:30:00 US/Eastern")
    ticket = stage.ticket(OrderType.LIMIT)
    await place(first, ticket)
    await reported(first, ticket, lambda report: report.is_held is True)
    await first.close()
    second = await stage.connect()
    report = await second.find(ticket.client_order_id)
    assert report is not None
    assert (report.said, report.is_held) == ("PreSubmitted", None)


async def test_one_reading_of_the_lists_finds_many_orders(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.hold()
    tickets = [stage.ticket(OrderType.LIMIT) for _ in range(5)]
    for ticket in tickets:
        await place(broker, ticket)
    before = len(stage.heard(Ask.ALL_OPEN_ORDERS))
    found = await broker.find_all([*(ticket.client_order_id for ticket in tickets), "x" * 19])
    assert len(stage.heard(Ask.ALL_OPEN_ORDERS)) == before + 1
    assert found.pop("x" * 19) is None
    assert {tag for tag, report in found.items() if report is not None} == {t.client_order_id for t in tickets}


async def test_questions_have_a_budget_of_their_own_and_lose_no_session(stage: IbkrStage) -> None:
    broker = await stage.connect(other_calls_per_minute=6)
    await broker.reports()
    with pytest.raises(RateLimited):
        await broker.reports()
    with pytest.raises(RateLimited):
        await broker.reserve(stage.ticket())
    with pytest.raises(RateLimited):
        await broker.connect()
    assert len(stage.heard(Ask.START_API)) == 1
    assert len(stage.gateway.sessions) == 1


@pytest.mark.parametrize("names_the_order", [True, False])
async def test_the_gateways_word_of_too_many_messages_holds_all_calls_back(
    stage: IbkrStage, names_the_order: bool
) -> None:
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    text = "Max rate of messages per second has been exceeded"
    began = asyncio.get_running_loop().time()
    if names_the_order:
        stage.gateway.silent.add(Ask.PLACE_ORDER)
        placement = asyncio.create_task(broker.place_order(ticket))
        await until(lambda: bool(stage.heard(Ask.PLACE_ORDER)))
        stage.gateway.sessions[0].send(wire.error(1, 100, text))
        with pytest.raises(RateLimited):
            await placement
        stage.gateway.silent.clear()
    else:
        stage.gateway.sessions[0].send(wire.error(-1, 100, text))
        await broker.reports()  # answered after it
    await broker.place_order(ticket)
    assert asyncio.get_running_loop().time() - began >= 0.99
    assert len(stage.book.orders()) == 1


async def test_a_budget_beyond_what_the_library_lets_through_is_refused() -> None:
    with pytest.raises(ValueError, match="may come to 45, not to 61"):
        create({"account_id": "a", "order_calls_per_second": 46})
