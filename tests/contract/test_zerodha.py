"""What the Zerodha adapter alone must show: Kite's traps, its words, its limits, its token and its feed, against the simulated Kite."""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors
from twisted.logger import LogLevel, globalLogPublisher

from brokers.base import (
    AssetClass,
    FillsShown,
    Instrument,
    OptionRight,
    OrderRef,
    OrderType,
    Report,
    ReportStatus,
    Side,
    Ticket,
    Tif,
)
from brokers.errors import BrokerError, BrokerUnavailable, HeldBack, OrderRefused, OutcomeUnknown, RateLimited
from brokers.paper.model import Action, Fault, Market, Operation
from brokers.zerodha import codes, dialect, rows
from brokers.zerodha.adapter import SettledTracker, ZerodhaBroker, create
from brokers.zerodha.calls import Access, CallKind, KiteCalls
from brokers.zerodha.feed import reactor
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.stage_zerodha import config_for, serving_kite
from simulators.zerodha.market import LISTINGS
from simulators.zerodha.server import FaultKind, HttpFault, SimulatedKite

PATIENCE_SECONDS = 10.0
ACCOUNT = "AB1234"
INFY = Instrument(symbol="INFY")
TAG = "t000000000000000001"


@pytest.fixture(autouse=True)
def no_error_in_the_reactor() -> Iterator[None]:
    """The library's feed decodes in the reactor's thread, where an error is only logged."""
    errors: list[object] = []

    def observe(event: Mapping[str, Any]) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            errors.append(event.get("log_failure") or event.get("log_format"))

    globalLogPublisher.addObserver(observe)
    yield
    globalLogPublisher.removeObserver(observe)
    assert errors == []


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SimulatedKite]:
    async with serving_kite(tmp_path, ACCOUNT, Market()) as server:
        yield server


@pytest.fixture
async def broker(server: SimulatedKite) -> AsyncIterator[ZerodhaBroker]:
    broker = create(config_for(server))
    await broker.connect()
    yield broker
    await broker.close()


def ticket(order_type: OrderType = OrderType.MARKET, **changes: Any) -> Ticket:
    plain = Ticket(
        client_order_id=TAG, instrument=INFY, side=Side.BUY, quantity=Decimal(10), order_type=order_type
    )  # fmt: skip
    return replace(plain, **changes)


def limit(price: str = "99.50", **changes: Any) -> Ticket:
    return ticket(OrderType.LIMIT, **({"limit_price": Decimal(price)} | changes))


def hold(server: SimulatedKite) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, times=None))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def found(broker: ZerodhaBroker, holds: Callable[[Report], bool] = lambda _: True, tag: str = TAG) -> Report:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            report = await broker.find(tag)
            if report is not None and holds(report):
                return report
            await asyncio.sleep(0.005)


def last_form(server: SimulatedKite) -> Mapping[str, str]:
    return server.calls("POST /orders/*")[-1].form


# Unclear outcomes: never sent again, looked for by tag


@pytest.mark.parametrize(
    "fault",
    [
        HttpFault(kind=FaultKind.CHECK_ORDER_BOOK, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=500, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=503, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=408, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=409, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=499, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=502, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=504, accepted=True),
        HttpFault(kind=FaultKind.HTML, status=502, accepted=True),
        HttpFault(kind=FaultKind.HTML, status=403, accepted=True),
        HttpFault(kind=FaultKind.HTML, status=200, accepted=True),
        HttpFault(kind=FaultKind.NO_CONTENT_TYPE, status=200, accepted=True),
        HttpFault(kind=FaultKind.NO_DATA, accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=400, error="NetworkException", accepted=True),
        HttpFault(kind=FaultKind.SERVER_ERROR, status=500, error="OrderException", text="No margin", accepted=True),
        HttpFault(kind=FaultKind.DROP, accepted=True),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.error}",
)
async def test_an_unclear_answer_is_an_unknown_outcome_and_is_not_sent_again(
    server: SimulatedKite, broker: ZerodhaBroker, fault: HttpFault
) -> None:
    server.add_fault(fault)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket())
    assert len(server.calls("POST /orders/*")) == 1
    assert (await found(broker)).broker_order_id == server.book.orders()[0].broker_order_id
    assert len(server.book.orders()) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "OrderException"), (400, "HoldingException"), (400, "NobodyKnowsItException"), (403, "PermissionException"),
     (404, "GeneralException"), (405, "GeneralException"), (410, "GeneralException")],
)  # fmt: skip
async def test_a_no_of_kite_is_one_in_its_words_whatever_they_are(
    server: SimulatedKite, broker: ZerodhaBroker, status: int, error: str
) -> None:
    server.add_fault(HttpFault(kind=FaultKind.SERVER_ERROR, status=status, error=error, text="Words that nobody knows"))
    with pytest.raises(OrderRefused, match="Words that nobody knows"):
        await broker.place_order(ticket())


@pytest.mark.parametrize(
    ("status", "error", "text", "meaning"),
    [
        (400, "InputException", "Missing `quantity`", codes.Meaning.REFUSED),
        (400, "OrderException", "Words that nobody knows", codes.Meaning.REFUSED),
        (400, "GeneralException", "Insufficient funds", codes.Meaning.REFUSED),
        (400, "OrderException", "Order request timed out. Check the order book", codes.Meaning.UNKNOWN),
        (400, "NetworkException", "Couldn't reach the OMS", codes.Meaning.UNKNOWN),
        (400, "DataException", "Couldn't parse the response of the OMS", codes.Meaning.UNKNOWN),
        (403, "PermissionException", "Insufficient permission for that call", codes.Meaning.REFUSED),
        (404, "GeneralException", "Route not found", codes.Meaning.REFUSED),
        (405, "GeneralException", "Method not allowed", codes.Meaning.REFUSED),
        (410, "GeneralException", "Gone", codes.Meaning.REFUSED),
        (429, "NetworkException", "Too many requests", codes.Meaning.NOT_TAKEN),
        (500, "OrderException", "Insufficient funds", codes.Meaning.UNKNOWN),
        (502, "DataException", "Unknown Content-Type (text/html)", codes.Meaning.UNKNOWN),
        (503, "NetworkException", "Gateway", codes.Meaning.UNKNOWN),
        (401, "GeneralException", "?", codes.Meaning.UNKNOWN),
        (418, "SomethingNewException", "?", codes.Meaning.UNKNOWN),
        (None, "ConnectionError", "reset by peer", codes.Meaning.UNKNOWN),
        ("400", "InputException", "?", codes.Meaning.UNKNOWN),
    ],
)
def test_an_error_answer_says_no_only_where_kite_says_that_it_does(
    status: object, error: str, text: str, meaning: codes.Meaning
) -> None:
    assert codes.meaning(status, error, text) is meaning


async def test_an_answer_that_does_not_come_is_an_unknown_outcome_within_the_read_time_out(
    server: SimulatedKite,
) -> None:
    broker = create(config_for(server) | {"read_timeout_seconds": 0.3})
    await broker.connect()
    server.add_fault(HttpFault(kind=FaultKind.NEVER_ANSWER, accepted=True))
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket())
    assert time.monotonic() - begun < 5
    assert len(server.calls("POST /orders/*")) == len(server.book.orders()) == 1
    await broker.close()


async def test_an_answer_that_trickles_for_ever_is_given_up(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"answer_timeout_seconds": 0.3})
    await broker.connect()
    server.add_fault(HttpFault(kind=FaultKind.TRICKLE, accepted=True))
    server.add_fault(HttpFault(kind=FaultKind.TRICKLE, route="GET /orders"))
    async with asyncio.timeout(5.0):
        with pytest.raises(OutcomeUnknown):
            await broker.place_order(ticket())
        with pytest.raises(BrokerUnavailable):
            await broker.find(TAG)
    await found(broker)
    await broker.close()


@pytest.mark.parametrize("kind", [FaultKind.TRICKLE, FaultKind.NEVER_ANSWER])
async def test_answers_that_never_end_take_no_thread_for_good(server: SimulatedKite, kind: FaultKind) -> None:
    impatient = create(config_for(server) | {"answer_timeout_seconds": 0.3, "read_timeout_seconds": 60})
    await impatient.connect()
    server.add_fault(HttpFault(kind=kind, route="GET /orders", times=6))
    async with asyncio.timeout(PATIENCE_SECONDS):
        answers = await asyncio.gather(*(impatient.find(TAG) for _ in range(6)), return_exceptions=True)
        assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
        assert await impatient.find(TAG) is None
    await until(lambda: impatient._calls._pools[CallKind.QUERY]._free._value == 2)
    await impatient.close()


async def test_a_cut_placing_call_is_an_unknown_outcome_and_later_calls_have_lines_of_their_own(
    server: SimulatedKite,
) -> None:
    impatient = create(config_for(server) | {"answer_timeout_seconds": 0.3, "read_timeout_seconds": 60})
    await impatient.connect()
    server.add_fault(HttpFault(kind=FaultKind.TRICKLE, accepted=True))
    with pytest.raises(OutcomeUnknown):
        await impatient.place_order(ticket())
    assert (await found(impatient)).broker_order_id == server.book.orders()[0].broker_order_id
    assert len(server.book.orders()) == 1
    await impatient.close()


async def test_a_call_that_does_not_end_when_it_is_cut_leaves_its_thread_to_others(
    server: SimulatedKite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.zerodha.calls._ENDING_SECONDS", 0.02)
    calls = KiteCalls(
        Access(
            api_key=server.api_key,
            access_token=server.access_token,
            root_url=server.root_url,
            answer_timeout_seconds=0.2,
        )
    )
    calls.open()
    never = threading.Event()
    try:
        for _ in range(3):
            hanging = [calls.ask(lambda kite: never.wait()) for _ in range(2)]
            answers = await asyncio.gather(*hanging, return_exceptions=True)
            assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await calls.ask(lambda kite: kite.orders()) == []
    finally:
        never.set()
        calls.close()


async def test_an_order_that_comes_into_the_book_late_is_found_later(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(HttpFault(kind=FaultKind.CHECK_ORDER_BOOK, accepted=True, late_seconds=0.3))
    with pytest.raises(OutcomeUnknown, match="check the order book"):
        await broker.place_order(ticket())
    assert await broker.find(TAG) is None
    await found(broker, lambda report: report.status is ReportStatus.FILLED)
    assert broker.capabilities.find_window_seconds >= 60
    assert broker.capabilities.refuses_repeated_client_id is False


async def test_of_two_orders_with_one_tag_both_are_reported_and_the_older_is_found(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    first = await broker.place_order(ticket())
    second = await broker.place_order(ticket())
    reports = (await broker.reports()).reports
    assert {report.broker_order_id for report in reports} == {first.broker_order_id, second.broker_order_id}
    assert {report.client_order_id for report in reports} == {TAG}
    both = (first.broker_order_id, second.broker_order_id)
    assert [report.orders_under_tag for report in reports] == [both, both]
    assert (await found(broker)).broker_order_id == first.broker_order_id


@pytest.mark.parametrize("status", [500, 503])
async def test_a_cancel_without_a_clear_answer_is_an_unknown_outcome(
    server: SimulatedKite, broker: ZerodhaBroker, status: int
) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    server.add_fault(HttpFault(kind=FaultKind.SERVER_ERROR, route="DELETE /orders/*", status=status))
    with pytest.raises(OutcomeUnknown):
        await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))


# Clear answers


async def test_a_kind_of_error_that_the_library_does_not_know_is_a_refusal_with_its_words(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(HttpFault(kind=FaultKind.MARGIN))
    with pytest.raises(OrderRefused, match="Insufficient funds"):
        await broker.place_order(ticket())
    assert server.book.orders() == []


async def test_too_many_calls_is_a_pause_in_which_nothing_was_sent(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(HttpFault(kind=FaultKind.RATE_LIMITED))
    with pytest.raises(BrokerUnavailable) as unavailable:
        await broker.place_order(ticket())
    assert unavailable.value.known_pause
    assert server.book.orders() == []
    begun = time.monotonic()
    await broker.place_order(ticket())
    assert time.monotonic() - begun >= 0.8


async def test_a_server_that_is_not_there_is_unavailable_and_never_an_unknown_outcome(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    await broker.place_order(ticket())
    await asyncio.to_thread(server.stop)
    with pytest.raises(BrokerUnavailable, match="cannot be reached") as unavailable:
        await broker.place_order(ticket())
    assert not unavailable.value.known_pause


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.NO_CONTENT_TYPE, FaultKind.DROP, FaultKind.SERVER_ERROR])
async def test_a_query_that_fails_is_never_an_empty_answer(
    server: SimulatedKite, broker: ZerodhaBroker, kind: FaultKind
) -> None:
    await broker.place_order(ticket())
    for route in ("GET /orders", "GET /trades"):
        server.add_fault(HttpFault(kind=kind, route=route))
        with pytest.raises(BrokerUnavailable):
            await broker.reports()
    server.add_fault(HttpFault(kind=kind, route="GET /portfolio/*"))
    with pytest.raises(BrokerUnavailable):
        await broker.positions()


async def test_a_route_before_the_routes_is_kept(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"root_url": f"{server.root_url}/oms"})
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    assert [call.route for call in server.calls("*profile")] == ["GET /oms/user/profile"]
    await broker.close()


async def test_a_redirected_order_is_not_sent_to_the_new_place(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 307 Elsewhere\r\nLocation: {server.root_url}/orders/regular\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        writer.close()

    await broker.place_order(ticket())
    elsewhere = await asyncio.start_server(redirect, "127.0.0.1", 0)
    port = elsewhere.sockets[0].getsockname()[1]
    broker._calls._client = lambda: _redirected(broker, port)  # type: ignore[method-assign]
    while not broker._calls._idle.empty():
        broker._calls._idle.get_nowait()
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket())
    assert len(server.calls("POST /orders/*")) == 1
    elsewhere.close()


def _redirected(broker: ZerodhaBroker, port: int) -> KiteConnect:
    kite = type(broker._calls)._client(broker._calls)
    kite.root = f"http://127.0.0.1:{port}/"
    return kite


# The access token


async def test_a_dead_token_is_a_state_of_the_account_with_words_on_what_to_do(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    before = len(server.calls())
    server.kill_token()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match=r"AUTH_REQUIRED.*log in") as unavailable:
            await broker.place_order(ticket())
        assert unavailable.value.known_pause
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED"):
        await broker.connect()
    # The dead token is not tried with every call.
    assert len(server.calls()) - before == 1
    assert server.book.orders() == []


async def test_a_token_that_was_refused_by_mistake_is_tried_again_after_a_while(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_fault(HttpFault(kind=FaultKind.TOKEN_EXPIRED, route="GET /orders"))
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED"):
        await broker.reports()
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED"):
        await broker.connect()
    monkeypatch.setattr("brokers.zerodha.calls._SAME_TOKEN_AGAIN_SECONDS", 0.0)
    await broker.connect()
    assert (await broker.reports()).reports == []


async def test_a_new_token_in_the_file_is_used_without_a_restart(server: SimulatedKite, tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = {key: value for key, value in config_for(server).items() if key != "access_token"}
    broker = create(config | {"access_token_file": str(path)})
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED") as unavailable:
        await broker.connect()
    assert unavailable.value.known_pause
    path.write_text(f"{server.access_token}\n")
    await broker.connect()
    await until(lambda: server.listeners == 1)
    fresh = server.new_token()
    server.drop_feed()
    with pytest.raises(BrokerUnavailable, match=r"AUTH_REQUIRED.*token"):
        await broker.place_order(ticket())
    written = path.with_suffix(".new")
    written.write_text(fresh)
    os.replace(written, path)
    await broker.connect()
    await broker.place_order(ticket())
    await until(lambda: server.listeners == 1)
    await broker.close()


async def test_the_token_of_somebody_else_is_no_session(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"user_id": "ZZ9999"})
    with pytest.raises(BrokerUnavailable, match=r"AUTH_REQUIRED.*AB1234.*ZZ9999"):
        await broker.connect()
    with pytest.raises(BrokerUnavailable):
        await broker.place_order(ticket())
    await broker.close()


async def test_neither_settings_nor_errors_show_a_secret(
    server: SimulatedKite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = server.new_token()
    broker = create(config_for(server) | {"api_secret": "so-secret"})
    await broker.connect()
    await until(lambda: server.listeners == 1)
    server.kill_token()
    with pytest.raises(BrokerUnavailable) as unavailable:
        await broker.balances()
    await broker.close()
    await until(lambda: server.listeners == 0)
    told = f"{broker._configuration!r} {unavailable.value} {caplog.text}"
    assert token not in told
    assert "so-secret" not in told


# Orders as Kite wants them


async def test_a_market_order_carries_market_protection_and_our_tag(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    await broker.place_order(ticket())
    assert dict(last_form(server)) == {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": "10",
        "product": "CNC",
        "order_type": "MARKET",
        "validity": "DAY",
        "tag": TAG,
        "market_protection": "-1",
    }
    await broker.place_order(ticket(OrderType.STOP, stop_price=Decimal(101)))
    assert last_form(server)["market_protection"] == "-1"
    await broker.place_order(limit())
    assert "market_protection" not in last_form(server)


async def test_market_protection_can_be_configured(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"market_protection": "2.5"})
    await broker.connect()
    await broker.place_order(ticket())
    assert last_form(server)["market_protection"] == "2.5"
    await broker.close()


@pytest.mark.parametrize(
    ("side", "wished", "sent"),
    [
        # A limit is never worse than it was named, a stop never earlier.
        (Side.BUY, ("100.1237", "100.0237"), ("100.10", "100.05")),
        (Side.SELL, ("100.0237", "100.1237"), ("100.05", "100.10")),
        # Kite takes no purchase with the trigger above the limit: where the two would cross, the limit stands.
        (Side.BUY, ("100.03", "100.02"), ("100.00", "100.00")),
        (Side.BUY, ("100.02", "100.02"), ("100.00", "100.00")),
        (Side.BUY, ("100.05", "100.02"), ("100.05", "100.05")),
        (Side.SELL, ("100.02", "100.03"), ("100.05", "100.05")),
        (Side.SELL, ("100.00", "100.00"), ("100.00", "100.00")),
    ],
)
async def test_prices_are_rounded_to_the_tick_to_the_side_that_risks_less(
    server: SimulatedKite, broker: ZerodhaBroker, side: Side, wished: tuple[str, str], sent: tuple[str, str]
) -> None:
    hold(server)
    limit_price, stop_price = map(Decimal, wished)
    asked = ticket(OrderType.STOP_LIMIT, side=side, limit_price=limit_price, stop_price=stop_price)
    fitted = await broker.fitted(asked)
    await broker.place_order(fitted)
    (order,) = server.book.orders()
    assert (order.ticket.limit_price, order.ticket.stop_price) == tuple(map(Decimal, sent))
    assert (fitted.limit_price, fitted.stop_price) == (order.ticket.limit_price, order.ticket.stop_price)
    assert last_form(server)["order_type"] == "SL"


@pytest.mark.parametrize(("side", "sent"), [(Side.BUY, "100.05"), (Side.SELL, "100.00")])
async def test_a_stop_never_triggers_before_the_price_that_was_named(
    server: SimulatedKite, broker: ZerodhaBroker, side: Side, sent: str
) -> None:
    hold(server)
    await broker.place_order(ticket(OrderType.STOP, side=side, stop_price=Decimal("100.0237")))
    assert last_form(server)["trigger_price"] == sent


async def test_a_trigger_on_the_wrong_side_of_its_limit_is_left_to_kite_to_refuse(broker: ZerodhaBroker) -> None:
    with pytest.raises(OrderRefused, match="cannot be above the limit"):
        await broker.place_order(
            ticket(OrderType.STOP_LIMIT, limit_price=Decimal("100.00"), stop_price=Decimal("105.00"))
        )


NIFTY = Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE)
GOLD = Instrument(symbol="GOLDM26DECFUT", asset_class=AssetClass.FUTURE, exchange="MCX")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"multiplier": Decimal(50)}, r"multiplier 50, where it is 1, in lots of 75"),
        ({"con_id": 4711}, r"con_id 4711, where Kite's number of it is 13568258"),
        ({"trading_class": "NIFTY"}, "trading_class NIFTY"),
        ({"isin": "INE009A01021"}, "isin INE009A01021"),
        ({"currency": "USD"}, "not in USD"),
        ({"expiry": "20270128"}, "is not the FUTURE"),
    ],
)
async def test_what_is_said_of_a_contract_and_is_not_so_or_cannot_be_looked_up_is_refused_by_name(
    server: SimulatedKite, broker: ZerodhaBroker, said: dict[str, Any], words: str
) -> None:
    named = ticket(instrument=replace(NIFTY, **said), quantity=Decimal(75))
    for ask in (broker.fitted, broker.place_order):
        with pytest.raises(OrderRefused, match=words):
            await ask(named)
    assert server.calls("POST /orders/*") == []


@pytest.mark.parametrize("said", [{"multiplier": Decimal(1)}, {"multiplier": Decimal(75)}, {"con_id": 13568258}])
async def test_what_is_said_of_a_contract_and_is_so_is_taken(broker: ZerodhaBroker, said: dict[str, Any]) -> None:
    fitted = await broker.fitted(ticket(instrument=replace(NIFTY, **said), quantity=Decimal(75)))
    assert fitted.terms is not None
    assert (fitted.terms.money_per_point, fitted.terms.currency) == (1, "INR")


async def test_what_one_lot_of_a_commodity_is_of_is_known_once_kite_shows_a_position_in_it(
    broker: ZerodhaBroker,
) -> None:
    first = await broker.fitted(limit("121500", instrument=GOLD, quantity=Decimal(1)))
    assert first.terms is not None
    assert first.terms.money_per_point is None
    with pytest.raises(OrderRefused, match="the multiplier 10 cannot be checked"):
        await broker.fitted(limit("121500", instrument=replace(GOLD, multiplier=Decimal(10)), quantity=Decimal(1)))
    await broker.place_order(first)
    await found(broker)
    then = await broker.fitted(limit("121500", instrument=replace(GOLD, multiplier=Decimal(10)), quantity=Decimal(1)))
    assert then.terms is not None
    assert then.terms.money_per_point == 10
    (position,) = await broker.positions()
    assert position.terms == then.terms
    with pytest.raises(OrderRefused, match="the multiplier 100, where it is 10"):
        await broker.fitted(limit("121500", instrument=replace(GOLD, multiplier=Decimal(100)), quantity=Decimal(1)))


def test_an_odd_multiplier_beside_a_position_is_not_learned() -> None:
    rows = [
        {"exchange": "MCX", "tradingsymbol": "GOLDM26DECFUT", "multiplier": malformed}
        for malformed in (None, 0, -1, "None", Decimal("NaN"))
    ]
    assert dialect.lot_sizes([*rows, "no row", {"exchange": "NFO", "tradingsymbol": "X", "multiplier": 5}]) == {}


async def test_a_price_below_one_tick_is_refused(broker: ZerodhaBroker) -> None:
    with pytest.raises(OrderRefused, match="tick"):
        await broker.place_order(limit("0.03"))


@pytest.mark.parametrize("quantity", ["10.5", "0", "-1"])
async def test_a_quantity_that_is_no_whole_number_is_refused_and_not_cut(
    server: SimulatedKite, broker: ZerodhaBroker, quantity: str
) -> None:
    with pytest.raises(OrderRefused, match="lots"):
        await broker.place_order(ticket(quantity=Decimal(quantity)))
    assert server.calls("POST /orders/*") == []


async def test_a_quantity_that_is_no_whole_lot_is_refused_and_not_cut(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    future = Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE)
    with pytest.raises(OrderRefused, match=r"100 of NIFTY26DECFUT.*75"):
        await broker.place_order(ticket(instrument=future, quantity=Decimal(100)))
    await broker.place_order(ticket(instrument=future, quantity=Decimal(150)))
    assert (last_form(server)["exchange"], last_form(server)["product"]) == ("NFO", "NRML")


@pytest.mark.parametrize(
    ("instrument", "quantity", "expected"),
    [
        (Instrument(symbol="INFY", exchange="BSE"), 1, ("BSE", "INFY", "CNC")),
        (Instrument(symbol="BSE:INFY"), 1, ("BSE", "INFY", "CNC")),
        (Instrument(symbol="NIFTYBEES", asset_class=AssetClass.ETF), 1, ("NSE", "NIFTYBEES", "CNC")),
        (
            Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX, currency="INR"),
            1,
            ("CDS", "USDINR26DECFUT", "NRML"),
        ),
        (
            Instrument(symbol="GOLDM", asset_class=AssetClass.FUTURE, exchange="MCX", expiry="202612"),
            1,
            ("MCX", "GOLDM26DECFUT", "NRML"),
        ),
        (
            Instrument(symbol="SENSEX", asset_class=AssetClass.FUTURE, exchange="bfo", expiry="20261224"),
            20,
            ("BFO", "SENSEX26DECFUT", "NRML"),
        ),
        (
            Instrument(
                symbol="INFY",
                asset_class=AssetClass.OPTION,
                expiry="20261229",
                strike=Decimal(1500),
                right=OptionRight.CALL,
            ),
            400,
            ("NFO", "INFY26DEC1500CE", "NRML"),
        ),
        (
            Instrument(
                symbol="INFY put", asset_class=AssetClass.OPTION, underlying="INFY", right=OptionRight.PUT, strike=None
            ),
            400,
            ("NFO", "INFY26DEC1500PE", "NRML"),
        ),
    ],
    ids=lambda value: value.key if isinstance(value, Instrument) else "",
)
async def test_instruments_are_found_in_the_lists_of_their_exchanges(
    server: SimulatedKite, broker: ZerodhaBroker, instrument: Instrument, quantity: int, expected: tuple[str, str, str]
) -> None:
    await broker.place_order(ticket(instrument=instrument, quantity=Decimal(quantity)))
    form = last_form(server)
    assert (form["exchange"], form["tradingsymbol"], form["product"]) == expected
    report = await found(broker)
    ours = [Holding(instrument=instrument, quantity=report.filled_quantity)]
    is_told_whole = instrument.asset_class is not AssetClass.OPTION or instrument.strike is not None
    assert report.filled_quantity == quantity
    assert compare_positions(ours, await broker.positions()).agreeing == is_told_whole


@pytest.mark.parametrize(
    ("instrument", "why"),
    [
        (Instrument(symbol="NOSUCH"), "not in the instruments list of NSE"),
        (Instrument(symbol="NIFTY 50"), "index"),
        (Instrument(symbol="INFY", exchange="SMART"), "does not trade on SMART"),
        (Instrument(symbol="INFY", currency="USD"), "not in USD"),
        (Instrument(symbol="NIFTY26DECFUT", exchange="NFO"), "not the STOCK"),
        (
            Instrument(symbol="INFY", asset_class=AssetClass.OPTION, strike=Decimal(1500), right=OptionRight.CALL),
            "any of 2 instruments: INFY26D081500CE, INFY26DEC1500CE",
        ),
        (
            Instrument(symbol="INFY", asset_class=AssetClass.OPTION, strike=Decimal(1), right=OptionRight.CALL),
            "not in the instruments list of NFO",
        ),
    ],
    ids=lambda value: value.key if isinstance(value, Instrument) else "",
)
async def test_an_instrument_that_is_not_clear_or_not_there_is_refused_before_it_is_sent(
    server: SimulatedKite, broker: ZerodhaBroker, instrument: Instrument, why: str
) -> None:
    with pytest.raises(OrderRefused, match=why):
        await broker.place_order(ticket(instrument=instrument, quantity=Decimal(400)))
    assert server.calls("POST /orders/*") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"product": "MTF"},
        {"variety": "co"},
        {"tif": Tif.GTC},
        {"variety": "iceberg"},
        {
            "product": "CNC",
            "instrument": Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE),
            "quantity": Decimal(75),
        },
    ],
    ids=str,
)
async def test_what_zerodha_does_not_do_is_refused_before_it_is_sent(
    server: SimulatedKite, broker: ZerodhaBroker, changes: dict[str, Any]
) -> None:
    with pytest.raises(OrderRefused):
        await broker.place_order(ticket(**changes))
    assert server.calls("POST /orders/*") == []


async def test_product_variety_and_tif_are_passed_on(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    hold(server)
    placed = await broker.place_order(limit(product="MIS", variety="amo", tif=Tif.IOC))
    form = last_form(server)
    assert (form["product"], form["variety"], form["validity"]) == ("MIS", "amo", "IOC")
    assert (await found(broker)).status is ReportStatus.WORKING
    # A cancel names the variety, even of an order that another session placed.
    other = create(config_for(server))
    await other.connect()
    await other.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    assert (await found(other)).status is ReportStatus.CANCELLED
    await other.close()


async def test_the_legs_of_an_iceberg_order_are_one_order(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    hold(server)
    placed = await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    assert (last_form(server)["iceberg_legs"], last_form(server)["iceberg_quantity"]) == ("5", "5")
    order = OrderRef(client_order_id="", broker_order_id=placed.broker_order_id)
    server.book.fill_order(order, Decimal(5))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(5))
    server.book.fill_order(order, Decimal(7))
    (report,) = (await broker.reports()).reports
    assert report.broker_order_id == placed.broker_order_id
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(12))
    await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.CANCELLED, Decimal(12))
    assert sum(fill.quantity for fill in report.fills) == Decimal(12)
    assert server.book.orders()[0].status is ReportStatus.CANCELLED


async def test_an_iceberg_order_is_filled_when_its_last_leg_is(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(24))


def test_an_iceberg_order_between_two_legs_is_working() -> None:
    def leg(number: int, **changes: Any) -> dict[str, Any]:
        meta = {"iceberg": {"leg": number, "legs": 2, "total_quantity": 20}}
        return order_row(variety="iceberg", order_id=f"26112100000000{number}", meta=meta, **changes)

    done = {"status": "COMPLETE", "filled_quantity": 10}
    (report,) = dialect.reports(orders_of([leg(1, **done)]), {})
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(10))
    (report,) = dialect.reports(orders_of([leg(2, **done), leg(1, **done)]), {})
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(20))
    assert report.broker_order_id == "261121000000001"


async def test_instruments_are_read_once_a_day_and_exchange(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    for _ in range(5):
        await broker.place_order(ticket())
    await asyncio.gather(*(broker.place_order(ticket(instrument=replace(INFY, exchange="BSE"))) for _ in range(5)))
    assert sorted(call.path for call in server.calls("GET /instruments*")) == ["/instruments/BSE", "/instruments/NSE"]
    broker._listings["NSE"] = replace(broker._listings["NSE"], day=date(2026, 1, 1))
    await broker.place_order(ticket())
    assert len(server.calls("GET /instruments/NSE")) == 2
    with pytest.raises(OrderRefused):
        await broker.place_order(ticket(instrument=Instrument(symbol="NOSUCH")))
    assert len(server.calls("GET /instruments/NSE")) == 2


BAD_LISTS = [
    HttpFault(kind=FaultKind.SERVER_ERROR, route="GET /instruments/*", status=502, times=None),
    HttpFault(kind=FaultKind.HTML, route="GET /instruments/*", times=None),
    HttpFault(kind=FaultKind.TRUNCATED, route="GET /instruments/*", times=None),
]


@pytest.mark.parametrize("fault", BAD_LISTS, ids=lambda fault: str(fault.kind))
async def test_without_a_list_orders_are_held_with_growing_pauses_and_nothing_else_is(
    server: SimulatedKite, fault: HttpFault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.zerodha.adapter._LIST_PAUSES_SECONDS", (0.05, 0.2))
    broker = create(config_for(server))
    await broker.connect()
    server.add_fault(fault)
    future = ticket(instrument=Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX), quantity=Decimal(1))
    for pause in (0.05, 0.1, 0.2, 0.2):
        with pytest.raises(HeldBack, match="instruments list of CDS") as held:
            await broker.fitted(future)
        assert held.value.wait_seconds == pause
        with pytest.raises(HeldBack) as again:
            await broker.place_order(future)
        assert again.value.wait_seconds <= pause
        asked = len(server.calls("GET /instruments/CDS"))
        await asyncio.sleep(pause)
    assert asked == 4, "an order that comes while the failure is young asks nobody"
    await broker.fitted(ticket())
    await broker.place_order(ticket())
    assert await broker.find(TAG) is not None
    server.clear_faults()
    await broker.fitted(future)
    await broker.close()


async def test_a_symbol_that_may_be_new_is_held_and_not_refused_while_the_list_cannot_be_read_again(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    broker._listings["NSE"] = replace(broker._listings["NSE"], read_at=time.monotonic() - 601)
    server.add_fault(BAD_LISTS[2])
    with pytest.raises(HeldBack):
        await broker.fitted(ticket(instrument=Instrument(symbol="NOSUCH")))
    await broker.fitted(ticket())


async def test_a_list_that_hangs_holds_up_no_order_of_another_exchange(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(HttpFault(kind=FaultKind.NEVER_ANSWER, route="GET /instruments/BSE"))
    waiting = asyncio.create_task(broker.fitted(ticket(instrument=replace(INFY, exchange="BSE"))))
    await until(lambda: len(server.calls("GET /instruments/BSE")) == 1)
    async with asyncio.timeout(3.0):
        await broker.fitted(ticket())
        await broker.fitted(ticket(instrument=Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX)))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_a_line_that_cannot_be_read_leaves_the_list_good_for_all_others() -> None:
    header = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange"
    good = "1,1,{},,0,,0,0.05,1,EQ,NSE,NSE"
    lines = [
        header,
        good.format("AAA"),
        good.format("ODD").replace("0.05", "x"),
        good.format("ZERO").replace("0.05", "0"),
        good.format("ZZZ"),
    ]
    listing = dialect.Listing("NSE", "\n".join(lines))
    assert listing.by_symbol("AAA") is not None
    assert listing.by_symbol("ZZZ") is not None
    assert listing.odd_symbols == {"ODD", "ZERO"}
    for page in ("", header, "<html></html>", "\n".join(lines)[:-7], None, b"\xff\x00"):
        with pytest.raises(rows.Malformed):
            dialect.Listing("NSE", page)


# Lists as Kite tells them


def order_row(**changes: Any) -> dict[str, Any]:
    return {
        "order_id": "261121000000001",
        "status": "OPEN",
        "status_message": None,
        "status_message_raw": None,
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "filled_quantity": 0,
        "quantity": 10,
        "tag": TAG,
        "tags": [TAG],
        "meta": {},
    } | changes


def orders_of(told: list[dict[str, Any]]) -> list[rows.OrderRow]:
    read, malformed = rows.read_orders(told)
    assert malformed == []
    return read


def never(trade: rows.TradeRow) -> datetime:
    raise AssertionError(f"its time is told: {trade}")


def trades_of(told: list[dict[str, Any]]) -> list[rows.TradeRow]:
    read, malformed = rows.read_trades(told)
    assert malformed == []
    return read


def trade_row(**changes: Any) -> dict[str, Any]:
    return {
        "trade_id": "10000001",
        "order_id": "261121000000001",
        "exchange": "NSE",
        "quantity": 4,
        "average_price": Decimal("100.25"),
        "fill_timestamp": datetime(2026, 11, 23, 9, 16, 39),  # noqa: DTZ001
    } | changes


@pytest.mark.parametrize(
    "status",
    [
        "OPEN",
        "TRIGGER PENDING",
        "OPEN PENDING",
        "PUT ORDER REQ RECEIVED",
        "VALIDATION PENDING",
        "MODIFY VALIDATION PENDING",
        "MODIFY PENDING",
        "MODIFIED",
        "CANCEL PENDING",
        "AMO REQ RECEIVED",
        "SOMETHING NEW",
    ],
)
def test_every_status_that_is_not_final_is_working(status: str) -> None:
    (report,) = dialect.reports(orders_of([order_row(status=status)]), {})
    assert report.status is ReportStatus.WORKING


def test_a_part_filled_and_then_cancelled_order_keeps_its_fill() -> None:
    fills = dialect.fills_by_order(trades_of([trade_row()]), never)
    (report,) = dialect.reports(orders_of([order_row(status="CANCELLED", filled_quantity=4)]), fills)
    assert (report.status, report.filled_quantity, len(report.fills)) == (ReportStatus.CANCELLED, Decimal(4), 1)


@pytest.mark.parametrize(("message", "raw"), [("Halted", "RMS:17070"), (None, "Halted"), ("", "Halted")])
def test_a_rejection_has_the_brokers_words_wherever_they_stand(message: str | None, raw: str) -> None:
    (report,) = dialect.reports(
        orders_of([order_row(status="REJECTED", status_message=message, status_message_raw=raw)]), {}
    )
    assert (report.status, report.reason) == (ReportStatus.REJECTED, "Halted")


async def test_a_trade_that_was_annulled_is_gone_from_lists_that_then_settle(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    ref = OrderRef(client_order_id="", broker_order_id=placed.broker_order_id)
    first, second = (server.book.fill_order(ref, Decimal(quantity)) for quantity in (6, 3))
    (report,) = (await broker.reports()).reports
    assert [fill.fill_id for fill in report.fills] == [first.fill_id, second.fill_id]
    server.book.bust_fill(first.fill_id)
    (report,) = (await broker.reports()).reports
    assert (report.filled_quantity, report.fills_shown) == (Decimal(3), FillsShown.ALL)
    monkeypatch.setattr(broker._settled_tracker, "_settled_seconds", 0.0)
    (report,) = (await broker.reports()).reports
    assert (report.filled_quantity, report.fills_shown) == (Decimal(3), FillsShown.SETTLED)


def test_lists_settle_only_while_they_stay_as_they_are() -> None:
    plain = Report(
        client_order_id=TAG,
        broker_order_id="1",
        status=ReportStatus.WORKING,
        filled_quantity=Decimal(0),
        fills_shown=FillsShown.ALL,
    )
    moved = replace(plain, filled_quantity=Decimal(1))
    short = replace(plain, fills_shown=FillsShown.SOME)
    steadiness = SettledTracker(5.0)
    told = [
        (plain, 0.0),
        (plain, 4.9),
        (plain, 5.0),
        (moved, 6.0),
        (plain, 7.0),
        (plain, 12.0),
        (short, 13.0),
        (short, 20.0),
    ]
    judged = [steadiness.judge([report], now)[0].fills_shown for report, now in told]
    settled, fresh, some = FillsShown.SETTLED, FillsShown.ALL, FillsShown.SOME
    assert judged == [fresh, fresh, settled, fresh, fresh, settled, some, some]
    steadiness.judge([], 21.0)
    assert steadiness.judge([plain], 40.0)[0].fills_shown is fresh, "it was gone in between"


def test_a_count_that_the_trades_do_not_reach_is_no_full_list() -> None:
    (report,) = dialect.reports(
        orders_of([order_row(filled_quantity=6)]), dialect.fills_by_order(trades_of([trade_row()]), never)
    )
    assert report.fills_shown is FillsShown.SOME


def test_trades_that_run_ahead_of_the_order_list_are_counted() -> None:
    (report,) = dialect.reports(
        orders_of([order_row(filled_quantity=0)]), dialect.fills_by_order(trades_of([trade_row()]), never)
    )
    assert report.filled_quantity == Decimal(4)


def test_the_same_trade_id_on_two_exchanges_is_two_fills() -> None:
    trades = [trade_row(), trade_row(exchange="BSE", order_id="261121000000002", quantity=6)]
    fills = dialect.fills_by_order(trades_of(trades), never)
    assert [fill.quantity for own in fills.values() for fill in own] == [Decimal(4), Decimal(6)]


def test_a_trade_told_twice_is_one_fill() -> None:
    assert len(dialect.fills_by_order(trades_of([trade_row(), trade_row()]), never)["261121000000001"]) == 1


def test_times_are_indian_and_those_of_one_second_keep_their_sequence() -> None:
    trades = [trade_row(trade_id="10000002"), trade_row(trade_id="9999999"), trade_row(trade_id="10000001")]
    fills = dialect.fills_by_order(trades_of(trades), never)["261121000000001"]
    assert [fill.fill_id for fill in fills] == ["9999999", "10000001", "10000002"]
    assert fills[0].time == datetime(2026, 11, 23, 3, 46, 39, tzinfo=UTC)
    assert fills[0].time < fills[1].time < fills[2].time
    assert rows.utc("2026-11-23 09:16:39.250") == datetime(2026, 11, 23, 3, 46, 39, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tag", "tags", "ours"),
    [(TAG, [], TAG), (None, ["other", TAG], TAG), ("other", ["other"], ""), (None, None, ""), ("", [], "")],
)
def test_our_tag_is_known_wherever_it_stands_and_no_other(tag: str | None, tags: list[str] | None, ours: str) -> None:
    assert rows.tag_of(order_row(tag=tag, tags=tags)) == ours


async def test_prices_and_money_are_exact(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    instrument = Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX)
    await broker.place_order(limit("88.1225", instrument=instrument, quantity=Decimal(3)))
    report = await found(broker)
    assert [fill.price for fill in report.fills] == [Decimal("88.1225")]
    (balance,) = await broker.balances()
    assert balance.cash == Decimal(1_000_000) - 3 * Decimal("88.1225") - 1
    (position,) = await broker.positions()
    assert position.instrument.asset_class is AssetClass.FUTURE
    assert position.instrument.expiry == "20261229"
    assert position.average_price == Decimal("88.1225")


def test_positions_are_told_by_product_and_settled_shares_belong_to_delivery() -> None:
    infy = {"exchange": "NSE", "tradingsymbol": "INFY"}
    net = [
        {**infy, "product": "MIS", "quantity": -3, "average_price": Decimal(110)},
        {**infy, "product": "CNC", "quantity": 5, "average_price": Decimal(100)},
        {"exchange": "NSE", "tradingsymbol": "FLAT", "product": "MIS", "quantity": 0, "average_price": Decimal(0)},
    ]
    holdings = [{**infy, "product": "CNC", "quantity": 8, "t1_quantity": 2, "average_price": Decimal(90)}]
    found = dialect.positions(net, holdings, {})
    assert {(p.instrument.symbol, p.product, p.quantity) for p in found} == {
        ("INFY", "MIS", Decimal(-3)),
        ("INFY", "CNC", Decimal(15)),
    }


async def test_a_new_day_empties_the_lists_and_nothing_else(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    placed = await broker.place_order(ticket())
    await found(broker)
    server.new_day()
    assert (await broker.reports()).reports == []
    assert await broker.find(TAG) is None
    with pytest.raises(OrderRefused):
        await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    with pytest.raises(OrderRefused):
        await broker.cancel_order(OrderRef(client_order_id=TAG))


# Commissions


async def test_an_orders_commission_is_spread_over_its_fills_as_its_notes_grow(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    order = OrderRef(client_order_id="", broker_order_id=placed.broker_order_id)
    seen = []
    for quantity, commission in ((2, "20.50"), (3, "0.75"), (5, "1.25")):
        server.book.fill_order(order, Decimal(quantity), commission=Decimal(commission))
        seen.append([fill.commission for fill in (await found(broker)).fills])
    assert seen[-1] == [Decimal("20.50"), Decimal("0.75"), Decimal("1.25")]
    assert [each[:1] for each in seen] == [[Decimal("20.50")]] * 3
    # A session that sees all fills at once says the same.
    other = create(config_for(server))
    await other.connect()
    assert [fill.commission for fill in (await found(other)).fills] == seen[-1]
    await other.close()
    assert any("estimate" in note for note in broker.capabilities.notes)


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.HTML, FaultKind.DROP, FaultKind.RATE_LIMITED])
async def test_a_contract_note_that_fails_hides_no_fill_and_is_asked_for_again(
    server: SimulatedKite, broker: ZerodhaBroker, kind: FaultKind
) -> None:
    server.add_fault(HttpFault(kind=kind, route="POST /charges/orders"))
    await broker.place_order(ticket())
    report = await found(broker)
    assert report.filled_quantity == Decimal(10)
    assert report.fills[0].commission is None
    await found(broker, lambda report: report.fills[0].commission == Decimal("1"))
    assert len(server.calls("POST /charges/orders")) == 2


async def test_a_later_session_asks_for_the_notes_of_the_latest_orders_first(server: SimulatedKite) -> None:
    listed = replace(INFY, exchange="NSE")
    for number in range(150):
        server.book.place(ticket(client_order_id=f"t{number:018d}", instrument=listed, product="CNC"))
    broker = create(config_for(server))
    await broker.connect()
    first, second = [
        {r.client_order_id: r.fills[0].commission for r in (await broker.reports()).reports} for _ in range(2)
    ]
    await broker.close()
    assert first[f"t{149:018d}"] == Decimal(1)
    assert 0 < sum(commission is None for commission in first.values()) <= 50
    assert set(second.values()) == {Decimal(1)}


async def test_a_contract_note_that_waits_for_the_budget_of_calls_is_asked_for_with_the_next_answer(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.place_order(ticket())
    ask, asked = broker._calls.ask, 0

    async def spent(call: Callable[[KiteConnect], object], kind: CallKind = CallKind.QUERY) -> object:
        nonlocal asked
        asked += 1
        if asked == 3:  # after the lists of orders and trades
            raise RateLimited("the calls of this second are spent", wait_seconds=0.1)
        return await ask(call, kind)

    monkeypatch.setattr(broker._calls, "ask", spent)
    commissions = [(await broker.reports()).reports[0].fills[0].commission for _ in range(2)]
    assert commissions == [None, Decimal(1)]


# Limits


async def test_five_hundred_open_orders_cost_two_calls_a_turn(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    hold(server)
    for number in range(500):
        server.book.place(limit(client_order_id=f"t{number:018d}", instrument=replace(INFY, exchange="NSE")))
    before = len(server.calls())
    reports = (await broker.reports()).reports
    assert len(reports) == 500
    assert len(server.calls()) - before == 2


async def test_orders_leave_no_faster_than_zerodha_allows_unless_told_otherwise(server: SimulatedKite) -> None:
    broker = create({key: value for key, value in config_for(server).items() if "calls_per" not in key})
    await broker.connect()
    tickets = [ticket(client_order_id=f"t{number:018d}") for number in range(20)]
    await asyncio.gather(*(broker.place_order(each) for each in tickets))
    left = [call.at for call in server.calls("POST /orders/*")]
    assert len(left) == len(server.book.orders()) == 20
    # 8 a second, of which 2 are kept for cancels.
    assert left[-1] - left[0] >= 2.5
    await broker.close()


async def test_no_order_is_lost_or_doubled_by_answers_of_too_many_calls(tmp_path: Path) -> None:
    with SimulatedKite(tmp_path / "kite.db", order_calls_per_second=3) as server:
        broker = create(config_for(server))
        await broker.connect()

        async def place(number: int) -> None:
            while True:
                try:
                    await broker.place_order(ticket(client_order_id=f"t{number:018d}"))
                    return
                except BrokerUnavailable as exc:
                    if not exc.known_pause:
                        raise

        async with asyncio.timeout(PATIENCE_SECONDS * 2):
            await asyncio.gather(*(place(number) for number in range(9)))
        assert sorted(order.ticket.client_order_id for order in server.book.orders()) == [
            f"t{number:018d}" for number in range(9)
        ]
        assert len(server.calls("POST /orders/*")) > 9
        await broker.close()


async def test_a_cancel_does_not_wait_behind_orders(server: SimulatedKite) -> None:
    hold(server)
    broker = create(config_for(server) | {"order_calls_per_second": 4})
    await broker.connect()
    first = await broker.place_order(limit())
    waiting = [asyncio.create_task(broker.place_order(limit())) for _ in range(8)]
    await asyncio.sleep(0)
    await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=first.broker_order_id))
    assert sum(task.done() for task in waiting) < len(waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await broker.close()


async def test_a_day_without_calls_left_is_a_pause_and_no_order_is_lost(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"order_calls_per_day": 1})
    await broker.connect()
    await broker.place_order(ticket())
    with pytest.raises(BrokerUnavailable, match="rate budget") as unavailable:
        await broker.place_order(ticket())
    assert unavailable.value.known_pause
    assert len(server.book.orders()) == 1
    await broker.close()


async def test_the_days_budget_goes_on_over_a_restart_and_is_counted_once(server: SimulatedKite) -> None:
    hold(server)
    settings = config_for(server) | {"order_calls_per_day": 5, "order_reserve_percent": 0}
    before = create(settings)
    await before.connect()
    placed = [await before.place_order(limit()) for _ in range(2)]
    await before.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed[0].broker_order_id))
    await before.close()
    after = create(settings)
    for _ in range(3):
        await after.connect()
    await after.place_order(limit())
    await after.place_order(limit())
    with pytest.raises(RateLimited) as spent:
        await after.place_order(limit())
    assert 86_000 < spent.value.wait_seconds <= 86_400
    assert len(server.book.orders()) == 4
    await after.close()


async def test_orders_count_from_when_they_were_placed_and_odd_ones_from_now(server: SimulatedKite) -> None:
    hold(server)
    before = create(config_for(server))
    await before.connect()
    for tag in (TAG, "t000000000000000002", "t000000000000000003"):
        await before.place_order(limit(client_order_id=tag))
    await before.close()
    long_ago = datetime.now(rows.IST) - timedelta(hours=23)
    server.show_oddly("GET /orders", TAG, {"order_timestamp": long_ago.strftime("%Y-%m-%d %H:%M:%S")})
    server.show_oddly("GET /orders", "t000000000000000002", {"order_timestamp": None})
    server.show_oddly("GET /orders", "t000000000000000003", {"filled_quantity": None})
    after = create(
        config_for(server) | {"order_calls_per_day": 3, "order_calls_per_minute": 3, "order_reserve_percent": 0}
    )
    await after.connect()
    with pytest.raises(RateLimited) as spent:
        await after.reserve(limit())
    assert 3500 < spent.value.wait_seconds <= 3600
    await after.close()


async def test_a_hanging_placing_call_holds_up_neither_questions_nor_cancels(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    server.add_fault(HttpFault(kind=FaultKind.NEVER_ANSWER, times=8))
    hanging = [asyncio.create_task(broker.place_order(ticket())) for _ in range(8)]
    await until(lambda: len(server.calls("POST /orders/*")) == 9)
    async with asyncio.timeout(3.0):
        assert len((await broker.reports()).reports) == 1
        await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    await asyncio.to_thread(server.stop)
    outcomes = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}


# The order feed


async def hinted(broker: ZerodhaBroker) -> asyncio.Event:
    event = asyncio.Event()
    broker.on_hint(event.set)
    return event


async def test_a_second_account_in_the_process_has_a_feed_of_its_own(server: SimulatedKite, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    async with serving_kite(folder, "CD5678", Market()) as second:
        brokers = [create(config_for(server)), create(config_for(second))]
        await asyncio.gather(*(broker.connect() for broker in brokers))
        await until(lambda: server.listeners == second.listeners == 1)
        events = [await hinted(broker) for broker in brokers]
        await asyncio.sleep(0)
        for event in events:
            event.clear()
        await brokers[1].place_order(ticket())
        await asyncio.wait_for(events[1].wait(), PATIENCE_SECONDS)
        for broker in brokers:
            await broker.close()
        await until(lambda: server.listeners == second.listeners == 0)


async def test_a_feed_that_was_cut_comes_back_and_says_so(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await until(lambda: server.listeners == 1)
    event = await hinted(broker)
    server.drop_feed()
    await until(lambda: server.listeners == 0)
    event.clear()
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)


async def test_a_feed_that_is_silent_is_connected_anew(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"feed_silence_seconds": 1.5})
    await broker.connect()
    await until(lambda: server.listeners == 1)
    event = await hinted(broker)
    server.mute_feed()
    event.clear()
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    await broker.close()


async def test_a_feed_that_the_library_has_given_up_is_begun_anew(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.zerodha.feed._AGAIN_AFTER_SECONDS", 0.05)
    await until(lambda: server.listeners == 1)
    feed = broker._feed
    assert feed is not None
    given_up = feed._ticker
    event = await hinted(broker)
    given_up.stop_retry()
    server.drop_feed()
    await until(lambda: server.listeners == 0)
    event.clear()
    reactor.callFromThread(feed._given_up, given_up)
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    assert feed._ticker is not given_up


async def test_the_feed_is_a_hint_whatever_it_says_and_survives_nonsense(
    server: SimulatedKite, broker: ZerodhaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: server.listeners == 1)
    event = await hinted(broker)
    event.clear()
    server.push("no json at all")
    server.push('{"type": "message", "data": "Maintenance at night"}')
    server.push('{"type": "order", "data": {"order_id": "somebody else", "tag": null, "status": "COMPLETE"}}')
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    assert (await broker.reports()).reports == []
    assert server.listeners == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_feed_that_cannot_be_had_hinders_nothing(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"ticker_url": "ws://127.0.0.1:9"})
    await broker.connect()
    await broker.place_order(ticket())
    await found(broker)
    await broker.close()


# Settings and capabilities


def test_all_that_is_wrong_with_the_settings_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="Zerodha account's settings") as caught:
        create({"broker": "zerodha", "market_protection": 0, "equity_product": "XYZ", "iceberg_legs": 1})
    for sentence in (
        "account_id is missing",
        "api_key is missing",
        "access_token or access_token_file is missing",
        "market_protection must be -1 or a per cent above 0 and up to 100, not 0",
        "equity_product must be one of CNC, MIS, NRML, not 'XYZ'",
        "iceberg_legs must be 2 or more, not 1",
    ):
        assert sentence in str(caught.value)


def test_a_credential_of_the_wrong_type_is_not_shown() -> None:
    with pytest.raises(ValueError, match="access_token must be text, not int") as caught:
        create({"account_id": "a", "api_key": ["so-secret"], "access_token": 271828182845})
    assert "271828182845" not in str(caught.value)
    assert "so-secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("seconds", [0, -1, "-0.5", "0.0", "1e-400", "1e999", "nan", True])
@pytest.mark.parametrize(
    "key",
    [
        "connect_timeout_seconds",
        "read_timeout_seconds",
        "answer_timeout_seconds",
        "feed_silence_seconds",
        "find_window_seconds",
    ],
)
def test_a_time_out_that_is_no_time_is_refused_with_a_sentence(key: str, seconds: object) -> None:
    with pytest.raises(ValueError, match=f"{key} must be"):
        create({"account_id": "a", "api_key": "k", "access_token": "t", key: seconds})


async def test_a_feed_that_could_not_be_started_hinders_nothing_and_is_started_at_the_next_connection(
    server: SimulatedKite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late() -> None:
        raise TimeoutError("the reactor of the order feed did not start")

    other = create(config_for(server))
    with monkeypatch.context() as broken:
        broken.setattr("brokers.zerodha.feed._run_reactor", late)
        await other.connect()
    assert await other.find(TAG) is None
    assert server.listeners == 0
    await other.connect()
    await until(lambda: server.listeners == 1)
    await other.close()
    await until(lambda: server.listeners == 0)


def test_the_feed_is_beside_the_root_unless_told_otherwise() -> None:
    plain = {"account_id": "a", "api_key": "k", "access_token": "t"}
    assert create(plain)._configuration.feed_url is None
    assert create(plain | {"root_url": "http://127.0.0.1:8083"})._configuration.feed_url == "ws://127.0.0.1:8083"
    assert create(plain | {"root_url": "https://kite.example/oms"})._configuration.feed_url == "wss://kite.example"
    assert create(plain | {"root_url": "http://h", "ticker_url": "ws://t"})._configuration.feed_url == "ws://t"


async def test_what_the_account_lacks_is_told(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    assert AssetClass.OPTION in broker.capabilities.asset_classes
    assert AssetClass.CRYPTO not in broker.capabilities.asset_classes
    assert broker.capabilities.tifs == {Tif.DAY, Tif.IOC}
    assert any("AB1234" in note for note in broker.capabilities.notes)
    broker._profile = {"user_id": "AB1234", "exchanges": ["NSE"], "meta": {"demat_consent": "physical"}}
    assert broker.capabilities.asset_classes == {AssetClass.STOCK, AssetClass.ETF}
    told = " ".join(broker.capabilities.notes)
    assert "NFO" in told
    assert "TPIN" in told


def test_the_listings_of_the_simulator_have_distinct_names() -> None:
    assert len({(each.exchange, each.symbol) for each in LISTINGS}) == len(LISTINGS)


# Speed


async def test_the_adapter_adds_little_to_what_the_simulator_takes(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    bare = KiteConnect(server.api_key, access_token=server.access_token, root=server.root_url)
    await broker.place_order(ticket())
    form = {**last_form(server), "tag": "bare"}
    alone, through = [], []
    for number in range(40):
        begun = time.perf_counter()
        await asyncio.to_thread(bare.place_order, **form)
        middle = time.perf_counter()
        await broker.place_order(ticket(client_order_id=f"t{number:018d}"))
        alone.append(middle - begun)
        through.append(time.perf_counter() - middle)
    bare_seconds, added_seconds = statistics.median(alone), statistics.median(through) - statistics.median(alone)
    print(f"placing: {bare_seconds * 1000:.2f} ms by the library alone, {added_seconds * 1000:+.2f} ms by the adapter")
    assert added_seconds < 0.05


async def test_words_that_repeat_credentials_are_told_without_them() -> None:
    calls = KiteCalls(Access(api_key="the-key-1", access_token="the-token-2"))
    calls.open()

    def refuse(kite: KiteConnect) -> None:
        raise kite_errors.InputException("you sent token the-key-1:the-token-2")

    def die(kite: KiteConnect) -> None:
        raise kite_errors.TokenException("token the-key-1:the-token-2 is dead")

    try:
        for call in (refuse, die):
            with pytest.raises(BrokerError) as raised:
                await calls.ask(call, CallKind.PLACE)
            chain = f"{raised.value} {raised.value.__cause__}"
            assert "***:***" in chain
            assert "the-key" not in chain
            assert "the-token" not in chain
    finally:
        calls.close()
