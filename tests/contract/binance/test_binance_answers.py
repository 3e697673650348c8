"""What Binance's answers to an order mean: clear ones, unclear ones that are never sent again, and those that do not come."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal

import pytest

from brokers.base import OrderRef, ReportStatus
from brokers.binance import calls, codes
from brokers.binance.adapter import BinanceBroker, create
from brokers.binance.calls import CircuitBreaker
from brokers.errors import (
    AuthRequired,
    BrokerUnavailable,
    HeldBack,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
)
from simulators.binance.server import BinanceFault, FaultKind, SimulatedBinance
from simulators.stage_binance import config_for
from tests.contract.binance.stage import PRICE, TAG, found, hold, limit, ticket

ORDER = "POST /fapi/v1/order"


def error(status: int, code: int | None = None, text: str = "Something", **more: object) -> BinanceFault:
    return BinanceFault(kind=FaultKind.ERROR, route=ORDER, status=status, code=code, text=text, **more)


@pytest.mark.parametrize(
    "fault",
    [
        error(503, None, "Unknown error, please check your request or try again later.", accepted=True),
        error(500, None, accepted=True),
        error(502, -1000, accepted=True),
        error(504, None, accepted=True),
        error(408, -1007, "Timeout waiting for response from backend server.", accepted=True),
        error(400, -1000, accepted=True),
        error(400, -1001, accepted=True),
        error(400, -1006, accepted=True),
        error(400, -1007, accepted=True),
        error(400, None, accepted=True),
        BinanceFault(kind=FaultKind.HTML, route=ORDER, status=502, accepted=True),
        BinanceFault(kind=FaultKind.HTML, route=ORDER, status=200, accepted=True),
        BinanceFault(kind=FaultKind.EMPTY, route=ORDER, status=301, accepted=True),
        BinanceFault(kind=FaultKind.NO_ID, route=ORDER, accepted=True),
        BinanceFault(kind=FaultKind.TRUNCATED, route=ORDER),
        BinanceFault(kind=FaultKind.DROP, route=ORDER, accepted=True),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.code}",
)
async def test_an_unclear_answer_is_an_unknown_outcome_and_is_not_sent_again(
    server: SimulatedBinance, broker: BinanceBroker, fault: BinanceFault
) -> None:
    server.add_fault(fault)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket())
    assert len(server.calls(ORDER)) == 1
    assert (await found(broker)).broker_order_id == server.book.orders()[0].broker_order_id
    assert len(server.book.orders()) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, -2011),
        (400, -2013),
        (400, -2019),
        (400, -2021),
        (400, -2022),
        (400, -4131),
        (400, -4411),
        (400, -9999),
        (404, -4000),
    ],
)
async def test_a_refusal_with_a_code_is_one_in_its_words(
    server: SimulatedBinance, broker: BinanceBroker, status: int, code: int
) -> None:
    server.add_fault(error(status, code, "Words that nobody knows"))
    with pytest.raises(OrderRefused, match=f"Words that nobody knows \\({code}\\)"):
        await broker.place_order(ticket())


@pytest.mark.parametrize("fault", [error(503, -1008, "Request throttled"), error(503, None, "Service Unavailable.")])
async def test_an_overload_that_says_so_is_certainly_not_sent(
    server: SimulatedBinance, broker: BinanceBroker, fault: BinanceFault
) -> None:
    server.add_fault(fault)
    with pytest.raises(HeldBack, match="did not carry it out"):
        await broker.place_order(ticket())
    await broker.place_order(ticket())
    assert len(server.book.orders()) == 1


async def test_a_second_open_order_under_one_id_is_told_as_existing(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    await broker.place_order(limit())
    with pytest.raises(OrderAlreadyExists):
        await broker.place_order(limit())
    assert len(server.book.orders()) == 1


async def test_a_filled_orders_id_is_taken_again_so_both_orders_are_told(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    """The venue's trap; nothing of ours sends again."""
    assert not broker.capabilities.refuses_repeated_client_id
    first = await broker.place_order(ticket())
    await found(broker, lambda report: report.status is ReportStatus.FILLED)
    second = await broker.place_order(ticket())
    reports = (await broker.reports()).reports
    both = (first.broker_order_id, second.broker_order_id)
    assert [report.orders_under_tag for report in reports] == [both, both]


@pytest.mark.parametrize("code", [-1002, -1022, -2014, -2015])
async def test_a_dead_key_is_a_state_and_not_an_error_of_the_order(
    server: SimulatedBinance, broker: BinanceBroker, code: int
) -> None:
    server.add_fault(error(401, code, "Invalid API-key, IP, or permissions for action"))
    with pytest.raises(AuthRequired, match="API key"):
        await broker.place_order(ticket())


async def test_a_page_of_a_firewall_means_that_nothing_was_sent(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    server.add_fault(BinanceFault(kind=FaultKind.HTML, route=ORDER, status=403))
    with pytest.raises(BrokerUnavailable):
        await broker.place_order(ticket())


async def test_too_many_calls_wait_for_as_long_as_binance_says(server: SimulatedBinance, broker: BinanceBroker) -> None:
    server.add_fault(error(429, -1003, "Too many requests", retry_after=7))
    with pytest.raises(RateLimited) as caught:
        await broker.place_order(ticket())
    assert caught.value.wait_seconds == 7
    asked = len(server.calls())
    with pytest.raises(RateLimited):
        await broker.reports()
    assert len(server.calls()) == asked


async def test_a_ban_stops_every_call_and_is_told(
    server: SimulatedBinance, broker: BinanceBroker, caplog: pytest.LogCaptureFixture
) -> None:
    server.add_fault(error(418, -1003, "Way too many requests; IP banned", retry_after=130))
    with caplog.at_level(logging.ERROR), pytest.raises(HeldBack, match="130 s") as caught:
        await broker.place_order(ticket())
    assert not isinstance(caught.value, RateLimited)
    assert "shuts this address out" in caplog.text
    with pytest.raises(RateLimited):
        await broker.reserve(ticket(is_exit=True))


@pytest.mark.parametrize("ahead", [-30.0, 30.0])
async def test_a_clock_that_is_off_is_corrected_by_binances(server: SimulatedBinance, ahead: float) -> None:
    server.clock_ahead_seconds = ahead
    broker = create(config_for(server))
    await broker.connect()
    await broker.place_order(ticket())
    await broker.close()


async def test_a_clock_that_jumps_costs_one_more_call_and_places_once(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    server.clock_ahead_seconds = 60.0
    await broker.place_order(ticket())
    assert len(server.calls(ORDER)) == 2
    assert len(server.book.orders()) == 1


async def test_an_answer_that_never_comes_is_an_unknown_outcome(server: SimulatedBinance) -> None:
    broker = create({**config_for(server), "answer_timeout_seconds": 0.3})
    await broker.connect()
    for kind in (FaultKind.NEVER_ANSWER, FaultKind.TRICKLE):
        server.add_fault(BinanceFault(kind=kind, route=ORDER))
        with pytest.raises(OutcomeUnknown):
            await broker.place_order(ticket())
    assert len(server.calls(ORDER)) == 2
    await broker.close()


async def test_where_nobody_listens_nothing_was_sent(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await asyncio.to_thread(server.stop)
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        await broker.place_order(ticket())


def test_the_circuit_opens_after_failures_and_lets_one_call_try() -> None:
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    for _ in range(5):
        breaker.check()
        breaker.failed()
    with pytest.raises(BrokerUnavailable, match="5 calls"):
        breaker.check()
    now = 2.5
    breaker.check()
    with pytest.raises(BrokerUnavailable):
        breaker.check()
    breaker.failed()
    now = 5.0
    with pytest.raises(BrokerUnavailable):
        breaker.check()
    now = 7.0
    breaker.check()
    breaker.succeeded()
    breaker.check()
    breaker.check()


async def test_an_exit_is_sent_though_the_circuit_is_open(server: SimulatedBinance, broker: BinanceBroker) -> None:
    await broker.place_order(ticket())
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route="GET *", status=500, times=5))
    for _ in range(5):
        with pytest.raises(BrokerUnavailable):
            await broker.balances()
    with pytest.raises(BrokerUnavailable, match="in succession"):
        await broker.place_order(limit(client_order_id="t000000000000000002"))
    exit_ticket = limit(client_order_id="t000000000000000003", is_exit=True, side=ticket().side.opposite)
    await broker.place_order(exit_ticket)


@pytest.mark.parametrize(
    ("status", "code", "text", "meaning"),
    [
        (418, None, "", codes.Meaning.BANNED),
        (429, None, "", codes.Meaning.TOO_MANY),
        (400, -1015, "", codes.Meaning.TOO_MANY),
        (503, None, "Service Unavailable.", codes.Meaning.FAILED),
        (503, None, "Unknown error, please check", codes.Meaning.UNKNOWN),
        (301, None, "", codes.Meaning.UNKNOWN),
        (403, None, "<html>", codes.Meaning.BLOCKED),
        (401, None, "", codes.Meaning.AUTH),
        (400, None, "", codes.Meaning.UNKNOWN),
        (400, -5028, "", codes.Meaning.CLOCK),
        (400, -2013, "", codes.Meaning.NOT_THERE),
    ],
)
def test_each_answer_means_what_the_caller_has_to_do(
    status: int, code: int | None, text: str, meaning: codes.Meaning
) -> None:
    assert codes.meaning(status, code, text) is meaning


async def test_a_cancel_that_comes_too_late_says_what_became_of_the_order(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    report = await broker.place_order(ticket())
    with pytest.raises(OrderRefused, match="Too late to cancel: the order is FILLED"):
        await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=report.broker_order_id))


async def test_an_order_is_cancelled_by_its_tag_alone_in_another_life(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    hold(server)
    await broker.place_order(limit())
    later = create(config_for(server))
    await later.connect()
    await later.cancel_order(OrderRef(client_order_id=TAG))
    assert server.book.orders()[0].status is ReportStatus.CANCELLED
    await later.close()


async def test_placing_makes_no_call_but_its_own(server: SimulatedBinance, broker: BinanceBroker) -> None:
    asked = len(server.calls())
    await broker.place_order(ticket(quantity=Decimal("0.1"), reference_price=PRICE))
    made = [call.route for call in server.calls()[asked:] if "listenKey" not in call.path]  # which the stream makes
    assert made == ["POST /fapi/v1/order"]


@pytest.mark.parametrize("route", ["GET /fapi/v1/allOrders", "GET /fapi/v1/openOrders", "GET /fapi/v1/openAlgoOrders"])
async def test_a_question_that_binance_refuses_is_an_error_of_the_account(
    server: SimulatedBinance, broker: BinanceBroker, route: str
) -> None:
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route=route, status=400, code=-1100, text="Illegal characters"))
    with pytest.raises(BrokerUnavailable, match="Illegal characters"):
        await broker.reports()


async def test_a_cancel_is_sent_though_the_circuit_is_open(server: SimulatedBinance, broker: BinanceBroker) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route="GET *", status=500, times=5))
    for _ in range(5):
        with pytest.raises(BrokerUnavailable):
            await broker.balances()
    await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    assert server.book.orders()[0].status is ReportStatus.CANCELLED


async def test_an_exit_does_not_wait_for_the_clock_to_be_read_again(
    server: SimulatedBinance, broker: BinanceBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.place_order(ticket())
    monkeypatch.setattr(calls, "_CLOCK_AGAIN_SECONDS", 0.0)
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route="GET /fapi/v1/time", status=500, times=None))
    await broker.place_order(ticket(side=ticket().side.opposite, is_exit=True, client_order_id="t000000000000000003"))
    assert await broker.positions() == []
