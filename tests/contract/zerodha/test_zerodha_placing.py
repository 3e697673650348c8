"""What Kite's answers to an order mean: clear ones, unclear ones that are never sent again, and those that do not come."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from kiteconnect import KiteConnect

from brokers.base import OrderRef, ReportStatus
from brokers.call_kinds import CallKind
from brokers.errors import BrokerUnavailable, OrderRefused, OutcomeUnknown
from brokers.zerodha import codes
from brokers.zerodha.adapter import ZerodhaBroker, create
from brokers.zerodha.calls import Access, KiteCalls
from simulators.stage_zerodha import config_for
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.contract.zerodha.stage import TAG, found, hold, limit, ticket
from tests.waits import PATIENCE_SECONDS, until


@pytest.mark.parametrize(
    "fault",
    [
        KiteFault(kind=FaultKind.CHECK_ORDER_BOOK, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=500, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=503, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=408, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=409, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=499, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=502, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=504, accepted=True),
        KiteFault(kind=FaultKind.HTML, status=502, accepted=True),
        KiteFault(kind=FaultKind.HTML, status=403, accepted=True),
        KiteFault(kind=FaultKind.HTML, status=200, accepted=True),
        KiteFault(kind=FaultKind.NO_CONTENT_TYPE, status=200, accepted=True),
        KiteFault(kind=FaultKind.NO_DATA, accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=400, error="NetworkException", accepted=True),
        KiteFault(kind=FaultKind.SERVER_ERROR, status=500, error="OrderException", text="No margin", accepted=True),
        KiteFault(kind=FaultKind.DROP, accepted=True),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.error}",
)
async def test_an_unclear_answer_is_an_unknown_outcome_and_is_not_sent_again(
    server: SimulatedKite, broker: ZerodhaBroker, fault: KiteFault
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
    server.add_fault(KiteFault(kind=FaultKind.SERVER_ERROR, status=status, error=error, text="Words that nobody knows"))
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
    server.add_fault(KiteFault(kind=FaultKind.NEVER_ANSWER, accepted=True))
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket())
    assert time.monotonic() - begun < 5
    assert len(server.calls("POST /orders/*")) == len(server.book.orders()) == 1
    await broker.close()


async def test_an_answer_that_trickles_for_ever_is_given_up(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"answer_timeout_seconds": 0.3})
    await broker.connect()
    server.add_fault(KiteFault(kind=FaultKind.TRICKLE, accepted=True))
    server.add_fault(KiteFault(kind=FaultKind.TRICKLE, route="GET /orders"))
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
    server.add_fault(KiteFault(kind=kind, route="GET /orders", times=6))
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
    server.add_fault(KiteFault(kind=FaultKind.TRICKLE, accepted=True))
    with pytest.raises(OutcomeUnknown):
        await impatient.place_order(ticket())
    assert (await found(impatient)).broker_order_id == server.book.orders()[0].broker_order_id
    assert len(server.book.orders()) == 1
    await impatient.close()


async def test_a_call_that_does_not_end_when_it_is_cut_leaves_its_thread_to_others(
    server: SimulatedKite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.blocking_calls._ENDING_SECONDS", 0.02)
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
    server.add_fault(KiteFault(kind=FaultKind.CHECK_ORDER_BOOK, accepted=True, late_seconds=0.3))
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
    server.add_fault(KiteFault(kind=FaultKind.SERVER_ERROR, route="DELETE /orders/*", status=status))
    with pytest.raises(OutcomeUnknown):
        await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))


async def test_a_kind_of_error_that_the_library_does_not_know_is_a_refusal_with_its_words(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(KiteFault(kind=FaultKind.MARGIN))
    with pytest.raises(OrderRefused, match="Insufficient funds"):
        await broker.place_order(ticket())
    assert server.book.orders() == []


async def test_too_many_calls_is_a_pause_in_which_nothing_was_sent(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(KiteFault(kind=FaultKind.RATE_LIMITED))
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
        server.add_fault(KiteFault(kind=kind, route=route))
        with pytest.raises(BrokerUnavailable):
            await broker.reports()
    server.add_fault(KiteFault(kind=kind, route="GET /portfolio/*"))
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
