"""The IBKR adapter against the simulated gateway: each trap of the protocol and of its libraries, contracts, sessions and pauses."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brokers.base import (
    AssetClass,
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
from brokers.errors import (
    BrokerError,
    BrokerUnavailable,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
    ReservationLost,
    UndocumentedAnswer,
)
from brokers.ibkr import adapter as ibkr
from brokers.ibkr import codes
from brokers.ibkr import unacknowledged as ibkr_unacknowledged
from brokers.ibkr.adapter import Configuration, IbkrBroker, create
from brokers.ibkr.blotter import Blotter, Commission, Entry, Execution
from brokers.ibkr.library import NAMES, choose
from brokers.ibkr.times import Moment
from brokers.ibkr.unacknowledged import Unacknowledged
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.ibkr import wire
from simulators.ibkr.contracts import TWIN, Query, listed
from simulators.ibkr.gateway import COIN_TIFS, OrderMessage, TwsSimulator
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import LAST_PRICE, config_for, serving_tws

PATIENCE_SECONDS = 10.0
NEVER = 3600.0


class Desk:
    """A gateway and adapters of it."""

    def __init__(self, gateway: TwsSimulator, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self.book = gateway.book
        self.brokers: list[IbkrBroker] = []
        self._stack = stack
        self._number = 0

    def broker(self, clock: Callable[[], datetime] | None = None, **settings: object) -> IbkrBroker:
        config = {**config_for(self.gateway), **settings}
        broker = create(config)
        if clock is not None:
            configuration = Configuration(
                account_id="acc",
                port=self.gateway.port,
                ibkr_account=self.book.account_id,
                connect_seconds=2,
                restart_from=time(23, 40),
                restart_until=time(0, 50),
            )
            broker = IbkrBroker(configuration, choose("auto"), clock=clock)
        self._stack.push_async_callback(broker.close)
        self.brokers.append(broker)
        return broker

    async def connect(self, **settings: object) -> IbkrBroker:
        broker = self.broker(**settings)
        await broker.connect()
        return broker

    def ticket(self, order_type: OrderType = OrderType.MARKET, **changes: object) -> Ticket:
        self._number += 1
        ticket = Ticket(
            client_order_id=f"i{self._number:018d}",
            instrument=Instrument(symbol="SPY"),
            side=Side.BUY,
            quantity=Decimal(10),
            order_type=order_type,
            limit_price=LAST_PRICE if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            stop_price=LAST_PRICE if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
            reference_price=LAST_PRICE,
        )
        return replace(ticket, **changes)

    def truth(self, ticket: Ticket) -> PaperOrder:
        (order,) = self.book.orders(ticket.client_order_id)
        return order

    def arm(self, operation: Operation, action: Action, **fields: object) -> None:
        self.book.add_fault(Fault(operation=operation, action=action, **fields))

    def hold(self) -> None:
        self.arm(Operation.PLACE, Action.HOLD, times=None)

    def heard(self, ask: Ask) -> list[list[str]]:
        return [fields for _, fields in self.gateway.heard if fields[0] == str(ask.value)]


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
async def desk(market: Market, tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(serving_tws(tmp_path, "DU000001", market))
        yield Desk(gateway, stack)


async def place(broker: IbkrBroker, ticket: Ticket) -> Report:
    return await broker.place_order(await reserved(broker, ticket))


async def reserved(broker: IbkrBroker, ticket: Ticket) -> Ticket:
    return replace(ticket, reserved_order_id=await broker.reserve(ticket))


async def reported(broker: IbkrBroker, ticket: Ticket, holds: Callable[[Report], bool] = lambda report: True) -> Report:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for report in (await broker.reports()).reports:
                if report.client_order_id == ticket.client_order_id and holds(report):
                    return report
            await asyncio.sleep(0.01)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def unavailable(broker: IbkrBroker) -> None:
    """Until the adapter knows that its session is gone."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await broker.reports()
            except BrokerUnavailable:
                return
            await asyncio.sleep(0.01)


async def connected(broker: IbkrBroker) -> None:
    """As soon as the gateway lets it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await broker.connect()
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


def filled(report: Report) -> Decimal:
    return sum((fill.quantity for fill in report.fills), Decimal(0))


# Traps of the protocol and the libraries


@pytest.mark.parametrize(
    ("code", "text"),
    [(10349, "Order TIF was set to DAY based on order preset."), (404, "Held for locate"), (110, "Price")],
)
async def test_an_error_on_a_live_order_is_no_end_of_it(desk: Desk, code: int, text: str) -> None:
    desk.hold()
    broker = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    desk.gateway.send_order_error(answer.broker_order_id, code, text)
    await broker.positions()  # asked after it, and so answered after it
    assert (await reported(broker, ticket)).status is ReportStatus.WORKING
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.CANCELLED)


async def test_an_error_on_a_live_order_makes_the_lists_be_read_again(desk: Desk) -> None:
    desk.hold()
    broker = await desk.connect(poll_seconds=NEVER)
    answer = await place(broker, desk.ticket(OrderType.LIMIT))
    before = len(desk.heard(Ask.ALL_OPEN_ORDERS))
    desk.gateway.send_order_error(answer.broker_order_id, 404, "Held for locate")
    await broker.positions()
    await broker.reports()
    assert len(desk.heard(Ask.ALL_OPEN_ORDERS)) == before + 1


async def test_the_word_that_an_order_is_cancelled_costs_no_look_where_its_status_has_said_so(desk: Desk) -> None:
    desk.hold()
    broker = await desk.connect(poll_seconds=NEVER)
    ticket = desk.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    before = len(desk.heard(Ask.ALL_OPEN_ORDERS))
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.CANCELLED)
    await broker.positions()
    await broker.reports()
    assert len(desk.heard(Ask.ALL_OPEN_ORDERS)) == before


async def test_fills_while_away_are_reported_after_connecting_again(desk: Desk) -> None:
    desk.hold()
    broker = await desk.connect(poll_seconds=NEVER)
    ticket = desk.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    ref = OrderRef(client_order_id="", broker_order_id=answer.broker_order_id)
    desk.book.fill_order(ref, Decimal(2))
    part = await reported(broker, ticket, lambda report: filled(report) == 2)
    mark = (await broker.reports()).mark
    desk.gateway.drop_sessions()
    await unavailable(broker)
    desk.book.fill_order(ref, Decimal(3))
    desk.book.fill_order(ref, Decimal(5))
    await broker.connect()
    (report,) = (await broker.reports(mark)).reports
    assert (report.status, filled(report), len(report.fills)) == (ReportStatus.FILLED, Decimal(10), 3)
    assert report.fills[0] == part.fills[0]
    assert report.broker_order_id == answer.broker_order_id
    assert all(fill.commission is not None for fill in report.fills)


async def test_what_is_told_again_after_connecting_is_no_news(desk: Desk) -> None:
    broker = await desk.connect()
    ticket = desk.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    mark = (await broker.reports()).mark
    desk.gateway.drop_sessions()
    await unavailable(broker)
    await broker.connect()
    assert (await broker.reports(mark)).reports == []


async def test_completed_orders_without_ids_are_found_by_their_tag(desk: Desk) -> None:
    desk.hold()
    earlier = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    answer = await place(earlier, ticket)
    await earlier.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    await earlier.close()
    await until(lambda: desk.truth(ticket).status is ReportStatus.CANCELLED)
    found = await (await desk.connect()).find(ticket.client_order_id)
    assert found is not None
    assert (found.status, found.broker_order_id[0]) == (ReportStatus.CANCELLED, "p")
    with pytest.raises(OrderAlreadyExists):
        await (await desk.connect()).place_order(replace(ticket, reserved_order_id=answer.broker_order_id))
    assert len(desk.book.orders()) == 1


@pytest.mark.parametrize("question", [Ask.ALL_OPEN_ORDERS, Ask.COMPLETED_ORDERS, Ask.EXECUTIONS])
async def test_a_list_that_is_not_answered_is_no_empty_list(desk: Desk, question: Ask) -> None:
    ticket = desk.ticket()
    await place(await desk.connect(), ticket)
    desk.gateway.silent.add(question)
    broker = desk.broker(query_seconds=0.2)
    with pytest.raises(BrokerUnavailable, match="no answer in time"):
        await broker.connect()
    with pytest.raises(BrokerUnavailable):
        await broker.find("i999999999999999999")
    with pytest.raises(BrokerUnavailable):
        await place(broker, desk.ticket())
    desk.gateway.silent.clear()
    await broker.connect()
    assert await broker.find(ticket.client_order_id) is not None


@pytest.mark.parametrize("question", [Ask.ALL_OPEN_ORDERS, Ask.COMPLETED_ORDERS])
async def test_a_late_answer_about_orders_is_not_taken_for_that_to_a_later_question(desk: Desk, question: Ask) -> None:
    desk.hold()
    broker = await desk.connect(query_seconds=0.3)
    ticket = desk.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    late = desk.gateway.late[question] = asyncio.Event()
    with pytest.raises(BrokerUnavailable, match="orders"):
        await broker.find(ticket.client_order_id)
    del desk.gateway.late[question]
    desk.gateway.silent.add(question)
    asked = len(desk.heard(question))
    again = asyncio.create_task(broker.connect())
    await until(lambda: len(desk.heard(question)) > asked)
    late.set()
    with pytest.raises(BrokerUnavailable):
        await again
    desk.gateway.silent.clear()
    await connected(broker)
    assert (await broker.find(ticket.client_order_id)).status is ReportStatus.WORKING


async def test_a_late_answer_about_positions_is_not_taken_for_that_to_a_later_question(desk: Desk) -> None:
    broker = await desk.connect(query_seconds=0.3)
    await place(broker, desk.ticket())
    late = desk.gateway.late[Ask.POSITIONS] = asyncio.Event()
    with pytest.raises(BrokerUnavailable, match="no answer in time"):
        await broker.positions()
    del desk.gateway.late[Ask.POSITIONS]
    with pytest.raises(BrokerUnavailable, match="may still be answered"):
        await broker.positions()
    assert len(desk.heard(Ask.POSITIONS)) == 1
    late.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                (held,) = await broker.positions()
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.01)
    assert held.quantity == 10
    assert len(desk.heard(Ask.START_API)) == 1


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_what_the_client_library_logs_of_a_connection_is_for_debugging(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    caplog.set_level(level)
    broker = create({"account_id": "acc", "port": port, "client_id_tries": 1})
    with pytest.raises(BrokerUnavailable, match=str(port)):
        await broker.connect()
    await broker.close()
    told = [record.levelname for record in caplog.records if record.name.partition(".")[0] in NAMES]
    assert set(told) == ({"DEBUG"} if level == logging.DEBUG else set())


async def test_handing_an_order_over_proves_nothing_without_the_servers_word(desk: Desk) -> None:
    broker = await desk.connect(answer_seconds=0.2)
    ticket = await reserved(broker, desk.ticket())
    desk.gateway.silent.add(Ask.PLACE_ORDER)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    assert await broker.find(ticket.client_order_id) is None
    desk.gateway.silent.clear()
    report = await broker.place_order(ticket)
    assert report.broker_order_id == ticket.reserved_order_id == desk.truth(ticket).broker_order_id


@pytest.mark.parametrize("action", [Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT])
@pytest.mark.parametrize("anew", [True, False])
async def test_a_ticket_sent_again_under_its_order_id_makes_one_order(desk: Desk, action: Action, anew: bool) -> None:
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    desk.arm(Operation.PLACE, action)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    if anew:
        await broker.close()
        broker = desk.broker()
    await broker.connect()
    if action is Action.ACCEPT_THEN_DROP:
        with pytest.raises(OrderAlreadyExists):
            await broker.place_order(ticket)
    else:
        await broker.place_order(ticket)
    assert desk.truth(ticket).broker_order_id == ticket.reserved_order_id


@pytest.mark.parametrize("is_done", [True, False])
async def test_the_same_order_id_again_is_no_second_order_even_where_the_lists_hid_the_first(
    desk: Desk, is_done: bool
) -> None:
    if not is_done:
        desk.hold()
    broker = await desk.connect(answer_seconds=0.3)
    ticket = await reserved(broker, desk.ticket(OrderType.LIMIT))
    desk.arm(Operation.PLACE, Action.NEVER_ANSWER)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    if is_done:
        with pytest.raises(OrderAlreadyExists, match="104"):
            await broker.place_order(ticket)
    else:
        assert (await broker.place_order(ticket)).status is ReportStatus.WORKING
    assert desk.truth(ticket).ticket.quantity == 10


async def test_an_order_id_that_a_later_order_passed_over_is_not_sent(desk: Desk) -> None:
    broker = await desk.connect()
    first, second = await reserved(broker, desk.ticket()), await reserved(broker, desk.ticket())
    await broker.place_order(second)
    with pytest.raises(ReservationLost, match="passed over"):
        await broker.place_order(first)
    await broker.close()
    successor = await desk.connect()
    with pytest.raises(ReservationLost, match="passed over"):
        await successor.place_order(first)
    assert len(desk.heard(Ask.PLACE_ORDER)) == 1
    await place(successor, first)
    assert len(desk.book.orders()) == 2


async def test_an_order_id_that_another_order_was_given_since_is_not_sent(desk: Desk) -> None:
    broker = await desk.connect()
    lost = await reserved(broker, desk.ticket())
    await broker.close()
    successor = await desk.connect()
    other = await place(successor, desk.ticket())
    assert other.broker_order_id == lost.reserved_order_id
    with pytest.raises(ReservationLost, match="another order's"):
        await successor.place_order(lost)
    assert len(desk.heard(Ask.PLACE_ORDER)) == 1


async def test_an_order_id_that_an_order_was_perhaps_sent_under_is_not_given_again(desk: Desk) -> None:
    lost = await reserved(await desk.connect(), desk.ticket())
    await asyncio.gather(*(broker.close() for broker in desk.brokers))
    successor = await desk.connect()
    taken = [str(lost.reserved_order_id), "2:9"]
    assert await successor.reserve(desk.ticket(), taken=taken) == "1:2"
    assert (await successor.place_order(lost)).broker_order_id == "1:1"


async def test_an_order_id_sent_by_a_successor_is_not_given_again(desk: Desk) -> None:
    lost = await reserved(await desk.connect(), desk.ticket())
    await asyncio.gather(*(broker.close() for broker in desk.brokers))
    successor = await desk.connect()
    await successor.place_order(lost)
    assert await successor.reserve(desk.ticket()) == "1:2"


async def test_order_ids_go_on_after_a_restart_of_the_gateway(desk: Desk) -> None:
    broker = await desk.connect()
    first = await place(broker, desk.ticket())
    await desk.gateway.restart()
    await unavailable(broker)
    await broker.connect()
    second = await place(broker, desk.ticket())
    assert (first.broker_order_id, second.broker_order_id) == ("1:1", "1:2")
    assert {report.status for report in (await broker.reports()).reports} == {ReportStatus.FILLED}


async def test_errors_on_questions_are_not_taken_for_errors_on_orders(desk: Desk) -> None:
    """Both are told under numbers of one counter in the libraries."""
    desk.hold()
    broker = await desk.connect()
    tickets = [desk.ticket(OrderType.LIMIT) for _ in range(8)]
    for ticket in tickets:
        await place(broker, ticket)
        with pytest.raises(OrderRefused, match="no contract"):
            await broker.reserve(desk.ticket(instrument=Instrument(symbol="ZZNONE")))
    reports = (await broker.reports()).reports
    assert {(report.status, report.reason) for report in reports} == {(ReportStatus.WORKING, None)}
    assert [report.broker_order_id for report in reports] == [f"1:{number}" for number in range(1, 9)]


async def test_an_order_id_that_the_gateway_has_forgotten_is_not_given_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway told to begin its ids anew says 1, while its lists know higher ones."""
    desk.hold()
    first = await place(await desk.connect(), desk.ticket(OrderType.LIMIT))
    monkeypatch.setattr(desk.book, "next_order_id", lambda client_id: 1)
    await desk.gateway.restart()
    broker = await desk.connect()
    assert await broker.reserve(desk.ticket()) == "1:2"
    assert (await broker.reports()).reports[0].broker_order_id == first.broker_order_id == "1:1"


async def test_a_time_without_a_zone_is_one_of_the_zone_that_the_account_names(desk: Desk) -> None:
    broker = await desk.connect(timezone="Asia/Tokyo", poll_seconds=NEVER)
    desk.hold()
    ticket = desk.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    row = desk.gateway.row(desk.truth(ticket))
    zoned = wire.execution(
        -1, row, exec_id="a.01", quantity=Decimal(1), price=LAST_PRICE, moment=datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    )
    desk.gateway.sessions[0].send(_without_zone(zoned))
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert report.fills[0].time == datetime(2026, 11, 21, 0, 30, tzinfo=UTC)


def _without_zone(message: bytes) -> bytes:
    fields = message[4:].replace(b"20261121 09:30:00 UTC", b"20261121  09:30:00")
    return len(fields).to_bytes(4, "big") + fields


async def test_times_are_those_of_the_venue_in_utc(desk: Desk) -> None:
    broker = await desk.connect()
    ticket = desk.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert report.fills[0].time == desk.truth(ticket).fills[0].time.replace(microsecond=0)
    assert report.fills[0].time.utcoffset() == timedelta(0)


async def test_without_a_link_to_its_servers_an_open_socket_is_no_connection(desk: Desk) -> None:
    broker = await desk.connect(poll_seconds=NEVER)
    desk.hold()
    ticket = desk.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    desk.gateway.lose_link()
    await unavailable(broker)
    with pytest.raises(BrokerUnavailable, match="no connection to IBKR"):
        await place(broker, desk.ticket())
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    assert len(desk.heard(Ask.PLACE_ORDER)) == 1
    desk.book.fill_order(OrderRef(client_order_id="", broker_order_id=answer.broker_order_id))


@pytest.mark.parametrize("data_kept", [True, False])
async def test_what_happened_without_the_link_is_reported_once_it_is_back(desk: Desk, data_kept: bool) -> None:
    broker = await desk.connect(poll_seconds=NEVER)
    desk.hold()
    ticket = desk.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    hinted = asyncio.Event()
    desk.gateway.lose_link()
    await unavailable(broker)
    desk.book.fill_order(OrderRef(client_order_id="", broker_order_id=answer.broker_order_id))
    broker.on_hint(hinted.set)
    desk.gateway.restore_link(data_kept=data_kept)
    await asyncio.wait_for(hinted.wait(), PATIENCE_SECONDS)
    await broker.connect()
    assert (await reported(broker, ticket)).status is ReportStatus.FILLED


async def test_a_client_id_in_use_is_noticed_at_once_and_the_next_one_taken(desk: Desk) -> None:
    desk.hold()
    first = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    await place(first, ticket)
    async with asyncio.timeout(2.0):
        second = await desk.connect()
    assert any("Client id 1 is in use" in note for note in second.capabilities.notes)
    assert (await place(second, desk.ticket(OrderType.LIMIT))).broker_order_id == "2:1"
    with pytest.raises(OrderRefused, match="client id 1"):
        await second.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    with pytest.raises(ReservationLost, match="not reserved under client id 2"):
        await second.place_order(replace(desk.ticket(), reserved_order_id="1:77"))


async def test_a_socket_that_the_gateway_gives_up_late_costs_no_other_client_id(desk: Desk) -> None:
    first = await desk.connect()
    taking_over = asyncio.create_task(desk.connect())
    await until(lambda: len(desk.heard(Ask.START_API)) == 2)
    await first.close()
    second = await taking_over
    assert not any("in use" in note for note in second.capabilities.notes)
    assert (await place(second, desk.ticket())).broker_order_id == "1:1"


async def test_a_lost_session_waits_for_its_own_client_id_and_can_cancel_what_it_placed(desk: Desk) -> None:
    desk.hold()
    broker = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    await broker.close()
    stale = await desk.connect()
    again = asyncio.create_task(broker.connect())
    await until(lambda: len(desk.heard(Ask.START_API)) == 5)  # longer than a stranger would wait
    await stale.close()
    await again
    assert not any("in use" in note for note in broker.capabilities.notes)
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))


async def test_client_id_0_is_told_to_receive_what_is_entered_by_hand(desk: Desk) -> None:
    broker = await desk.connect(client_id=0)
    assert any("by hand" in note for note in broker.capabilities.notes)
    desk.book.place(replace(_listed_ticket(desk, 1), client_order_id="", reserved_order_id=None))
    (report,) = (await broker.reports()).reports
    assert (report.client_order_id, report.broker_order_id[0]) == ("", "p")


async def test_when_all_client_ids_are_in_use_there_is_no_session(desk: Desk) -> None:
    await desk.connect()
    with pytest.raises(BrokerUnavailable, match="in use"):
        await desk.connect(client_id_tries=1)


async def test_messages_in_pieces_and_repeated_statuses_change_nothing(desk: Desk) -> None:
    desk.gateway.bytes_per_chunk, desk.gateway.repeats_statuses = 7, True
    broker = await desk.connect()
    ticket = desk.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert filled(report) == 10


async def test_an_inactive_order_without_a_rejection_is_alive(desk: Desk) -> None:
    desk.hold()
    desk.gateway.held.append("1:1")
    broker = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    assert (await place(broker, ticket)).status is ReportStatus.WORKING
    desk.gateway.held.clear()
    desk.book.fill_order(OrderRef(client_order_id="", broker_order_id="1:1"))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


async def test_a_late_rejection_is_told_with_its_reason(desk: Desk) -> None:
    desk.hold()
    broker = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    desk.book.reject_order(OrderRef(client_order_id="", broker_order_id=answer.broker_order_id), "Margin call")
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.REJECTED)
    assert "Margin call" in (report.reason or "")


async def test_a_cancel_without_an_answer_is_an_unknown_outcome(desk: Desk) -> None:
    desk.hold()
    broker = await desk.connect(answer_seconds=0.2)
    ticket = desk.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    desk.gateway.silent.add(Ask.CANCEL_ORDER)
    with pytest.raises(OutcomeUnknown):
        await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))


# What it costs


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.05)])
async def test_a_fill_is_pushed_and_reported_without_a_question(desk: Desk) -> None:
    broker = await desk.connect(poll_seconds=NEVER)
    hinted = asyncio.Event()
    broker.on_hint(hinted.set)
    ticket = desk.ticket()
    await place(broker, ticket)
    asked = len(desk.gateway.heard)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (report := (await broker.reports()).reports[0]).fills or report.fills[0].commission is None:
            hinted.clear()
            await hinted.wait()
    assert filled(report) == 10
    assert len(desk.gateway.heard) == asked


async def test_a_commission_that_changes_is_pushed_and_reported_without_a_question(desk: Desk) -> None:
    broker = await desk.connect(poll_seconds=NEVER)
    ticket = desk.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.fills[0].commission is not None)
    asked = len(desk.heard(Ask.EXECUTIONS))
    desk.book.set_commission(desk.truth(ticket).fills[0].fill_id, Decimal("2.35"))
    changed = await reported(broker, ticket, lambda report: report.fills[0].commission == Decimal("2.35"))
    assert filled(changed) == 10
    assert len(desk.heard(Ask.EXECUTIONS)) == asked


async def test_a_turn_over_many_open_orders_asks_three_questions(desk: Desk) -> None:
    desk.hold()
    for number in range(500):
        desk.book.place(_listed_ticket(desk, number))
    broker = await desk.connect(query_seconds=30)
    before = len(desk.gateway.heard)
    assert len((await broker.reports()).reports) == 500
    assert len(desk.gateway.heard) - before == 3


def _listed_ticket(desk: Desk, number: int) -> Ticket:
    instrument = Instrument(symbol="SPY", asset_class=AssetClass.ETF, exchange="ARCA", currency="USD")
    return replace(desk.ticket(OrderType.LIMIT), instrument=instrument, reserved_order_id=f"9:{number + 1}")


async def test_many_questions_at_once_are_answered_by_few_rounds(desk: Desk) -> None:
    broker = await desk.connect()
    tickets = [desk.ticket() for _ in range(3)]
    for ticket in tickets:
        await place(broker, ticket)
    before = len(desk.heard(Ask.ALL_OPEN_ORDERS))
    found = await asyncio.gather(*(broker.find(ticket.client_order_id) for ticket in tickets * 20))
    assert all(report is not None for report in found)
    assert len(desk.heard(Ask.ALL_OPEN_ORDERS)) - before <= 2


async def test_a_question_is_not_answered_by_a_round_that_began_before_it(desk: Desk) -> None:
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    desk.gateway.silent.add(Ask.COMPLETED_ORDERS)
    asking = asyncio.create_task(broker.find(ticket.client_order_id))
    await until(lambda: len(desk.heard(Ask.EXECUTIONS)) == 2)
    await broker.place_order(ticket)
    later = asyncio.create_task(broker.find(ticket.client_order_id))
    await asyncio.sleep(0)
    desk.gateway.silent.clear()
    desk.gateway.sessions[0].send(wire.frame(102))
    await asking
    assert await later is not None


# The rate budget


async def test_orders_leave_no_faster_than_the_budget_and_in_their_sequence(desk: Desk) -> None:
    broker = await desk.connect(order_calls_per_second=4, order_reserve_percent=25)
    desk.hold()
    tickets = [desk.ticket(OrderType.LIMIT) for _ in range(5)]
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(place(broker, ticket) for ticket in tickets))
    assert asyncio.get_running_loop().time() - began >= 1.0
    sent = [fields[26] for fields in desk.heard(Ask.PLACE_ORDER)]
    assert sent == [ticket.client_order_id for ticket in tickets]


async def test_cancels_and_exits_have_calls_of_their_own(desk: Desk) -> None:
    broker = await desk.connect(order_calls_per_day=6, order_reserve_percent=50)
    desk.hold()
    entries = [desk.ticket(OrderType.LIMIT) for _ in range(3)]
    for ticket in entries:
        await place(broker, ticket)
    with pytest.raises(RateLimited, match="rate budget") as spent:
        await broker.reserve(desk.ticket(OrderType.LIMIT))
    assert spent.value.known_pause
    assert spent.value.wait_seconds > 86_000
    with pytest.raises(RateLimited):
        await broker.place_order(replace(desk.ticket(OrderType.LIMIT), reserved_order_id="1:9"))
    await broker.cancel_order(OrderRef(client_order_id=entries[0].client_order_id))
    for again in (True, False):
        with pytest.raises(RateLimited):
            await broker.cancel_order(OrderRef(client_order_id=entries[1].client_order_id), again=again)
    for _ in range(2):
        await place(broker, desk.ticket(side=Side.SELL, is_exit=True))
    assert len(desk.heard(Ask.PLACE_ORDER)) == 5
    assert len(desk.heard(Ask.CANCEL_ORDER)) == 1
    assert len((await broker.reports()).reports) == 5


async def test_an_order_that_waits_for_the_opening_is_held_until_the_market_has_it(desk: Desk) -> None:
    broker = await desk.connect()
    desk.hold()
    desk.gateway.close_market("2026-11-30 09:30:00 US/Eastern")
    ticket = desk.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.is_held is not None)
    assert report.is_held is True
    assert report.held_until == datetime(2026, 11, 30, 14, 30, tzinfo=UTC)
    assert report.said == "will not be placed at the exchange until 2026-11-30 09:30:00 US/Eastern"
    desk.gateway.open_market()
    report = await reported(broker, ticket, lambda report: report.is_held is False)
    assert (report.status, report.said, report.held_until) == (ReportStatus.WORKING, "Submitted", None)


async def test_a_stop_that_rests_is_shown_like_an_order_that_waits_and_is_not_said_to_be_held(desk: Desk) -> None:
    broker = await desk.connect()
    desk.hold()
    ticket = desk.ticket(OrderType.STOP)
    placed = await place(broker, ticket)
    assert (placed.said, placed.is_held) == ("PreSubmitted", None)


async def test_another_connection_does_not_hear_that_an_order_is_held_and_says_nothing_of_it(desk: Desk) -> None:
    first = await desk.connect()
    desk.hold()
    desk.gateway.close_market("2026-11-30 09:30:00 US/Eastern")
    ticket = desk.ticket(OrderType.LIMIT)
    await place(first, ticket)
    await reported(first, ticket, lambda report: report.is_held is True)
    await first.close()
    second = await desk.connect()
    report = await second.find(ticket.client_order_id)
    assert report is not None
    assert (report.said, report.is_held) == ("PreSubmitted", None)


async def test_one_reading_of_the_lists_finds_many_orders(desk: Desk) -> None:
    broker = await desk.connect()
    desk.hold()
    tickets = [desk.ticket(OrderType.LIMIT) for _ in range(5)]
    for ticket in tickets:
        await place(broker, ticket)
    before = len(desk.heard(Ask.ALL_OPEN_ORDERS))
    found = await broker.find_all([*(ticket.client_order_id for ticket in tickets), "x" * 19])
    assert len(desk.heard(Ask.ALL_OPEN_ORDERS)) == before + 1
    assert found.pop("x" * 19) is None
    assert {tag for tag, report in found.items() if report is not None} == {t.client_order_id for t in tickets}


async def test_questions_have_a_budget_of_their_own_and_lose_no_session(desk: Desk) -> None:
    broker = await desk.connect(other_calls_per_minute=6)
    await broker.reports()
    with pytest.raises(RateLimited):
        await broker.reports()
    with pytest.raises(RateLimited):
        await broker.reserve(desk.ticket())
    with pytest.raises(RateLimited):
        await broker.connect()
    assert len(desk.heard(Ask.START_API)) == 1
    assert len(desk.gateway.sessions) == 1


@pytest.mark.parametrize("names_the_order", [True, False])
async def test_the_gateways_word_of_too_many_messages_holds_all_calls_back(desk: Desk, names_the_order: bool) -> None:
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    text = "Max rate of messages per second has been exceeded"
    began = asyncio.get_running_loop().time()
    if names_the_order:
        desk.gateway.silent.add(Ask.PLACE_ORDER)
        placement = asyncio.create_task(broker.place_order(ticket))
        await until(lambda: bool(desk.heard(Ask.PLACE_ORDER)))
        desk.gateway.sessions[0].send(wire.error(1, 100, text))
        with pytest.raises(RateLimited):
            await placement
        desk.gateway.silent.clear()
    else:
        desk.gateway.sessions[0].send(wire.error(-1, 100, text))
        await broker.reports()  # answered after it
    await broker.place_order(ticket)
    assert asyncio.get_running_loop().time() - began >= 0.99
    assert len(desk.book.orders()) == 1


async def test_a_budget_beyond_what_the_library_lets_through_is_refused() -> None:
    with pytest.raises(ValueError, match="may come to 45, not to 61"):
        create({"account_id": "a", "order_calls_per_second": 46})


# Contracts


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
    desk: Desk, instrument: Instrument, sec_type: str, exchange: str
) -> None:
    desk.gateway.prices[instrument.symbol[:3]] = desk.gateway.prices[instrument.symbol] = Decimal("2.5")
    broker = await desk.connect()
    ticket = desk.ticket(instrument=instrument, reference_price=Decimal("2.5"))
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.status is not ReportStatus.WORKING)
    (sent,) = desk.heard(Ask.PLACE_ORDER)
    assert (sent[4], sent[9]) == (sec_type, exchange)
    assert filled(report) == 10
    (held,) = await broker.positions()
    assert (held.instrument, held.quantity, held.average_price) == (instrument, Decimal(10), Decimal("2.5"))
    later = await desk.connect(client_id=7)
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
    desk: Desk, instrument: Instrument, words: str
) -> None:
    broker = await desk.connect()
    with pytest.raises(OrderRefused, match=words):
        await broker.reserve(desk.ticket(instrument=instrument))
    assert desk.heard(Ask.PLACE_ORDER) == []


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
    desk: Desk, code: int, error: type[Exception]
) -> None:
    desk.gateway.contract_errors["SPY"] = (code, "words of the gateway")
    broker = await desk.connect()
    with pytest.raises(BrokerError, match=f"words of the gateway .code {code}.") as raised:
        await broker.fitted(desk.ticket())
    assert type(raised.value) is error
    del desk.gateway.contract_errors["SPY"]
    await broker.fitted(desk.ticket())
    assert len(desk.heard(Ask.START_API)) == 1


async def test_a_question_for_a_contract_without_an_answer_costs_no_session(desk: Desk) -> None:
    desk.gateway.silent = {Ask.CONTRACT_DETAILS}
    broker = await desk.connect(query_seconds=0.2)
    with pytest.raises(NotAnswered, match="no answer in time"):
        await broker.fitted(desk.ticket())
    desk.gateway.silent = set()
    assert (await place(broker, desk.ticket())).status is ReportStatus.FILLED
    assert len(desk.heard(Ask.START_API)) == 1


async def test_an_exchange_tells_two_shares_of_one_name_apart(desk: Desk) -> None:
    broker = await desk.connect()
    await place(broker, desk.ticket(instrument=Instrument(symbol=TWIN, exchange="NYSE")))
    (sent,) = desk.heard(Ask.PLACE_ORDER)
    assert (sent[9], sent[10]) == ("SMART", "NYSE")


async def test_a_contract_is_looked_up_once(desk: Desk) -> None:
    broker = await desk.connect()
    await asyncio.gather(*(place(broker, desk.ticket()) for _ in range(5)))
    assert len(desk.heard(Ask.CONTRACT_DETAILS)) == 1


@pytest.mark.parametrize(
    ("side", "limit", "stop", "sent_limit", "sent_stop"),
    [
        (Side.BUY, "100.257", "100.251", "100.25", "100.26"),
        (Side.SELL, "100.253", "100.259", "100.26", "100.25"),
        (Side.BUY, "100.25", "100.25", "100.25", "100.25"),
    ],
)
async def test_prices_are_put_on_the_tick_and_never_to_the_orders_disadvantage(
    desk: Desk, side: Side, limit: str, stop: str, sent_limit: str, sent_stop: str
) -> None:
    broker = await desk.connect()
    ticket = desk.ticket(OrderType.STOP_LIMIT, side=side, limit_price=Decimal(limit), stop_price=Decimal(stop))
    await place(broker, ticket)
    (sent,) = desk.heard(Ask.PLACE_ORDER)
    assert (sent[19], sent[20]) == (sent_limit, sent_stop)


async def test_the_tick_follows_the_price_where_the_market_says_so(desk: Desk) -> None:
    broker = await desk.connect()
    option = Instrument(
        symbol="SPY", asset_class=AssetClass.OPTION, expiry="20270115", strike=Decimal(500), right=OptionRight.CALL
    )
    for price in ("2.987", "3.087"):
        await place(broker, desk.ticket(OrderType.LIMIT, instrument=option, limit_price=Decimal(price)))
    assert [sent[19] for sent in desk.heard(Ask.PLACE_ORDER)] == ["2.98", "3.05"]


async def test_a_quantity_is_rounded_down_to_the_increment_and_never_up(desk: Desk) -> None:
    broker = await desk.connect()
    future = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202706")
    asked = desk.ticket(instrument=future, quantity=Decimal("2.9999"))
    ticket = await broker.fitted(asked)
    assert (ticket.quantity, replace(ticket, quantity=asked.quantity, terms=None)) == (Decimal(2), asked)
    assert await broker.fitted(ticket) == ticket
    await place(broker, asked)
    assert desk.truth(asked).ticket.quantity == 2
    with pytest.raises(OrderRefused, match="less than 1, the increment of ES"):
        await broker.reserve(desk.ticket(instrument=future, quantity=Decimal("0.9")))
    assert (await broker.fitted(desk.ticket(quantity=Decimal("0.50009")))).quantity == Decimal("0.5000")


async def test_what_was_fitted_is_what_is_sent(desk: Desk) -> None:
    broker = await desk.connect()
    asked = desk.ticket(OrderType.LIMIT, limit_price=Decimal("100.257"), quantity=Decimal("10.00005"))
    ticket = await broker.fitted(asked)
    assert (ticket.limit_price, ticket.quantity) == (Decimal("100.25"), Decimal(10))
    await place(broker, ticket)
    sent = desk.truth(ticket).ticket
    assert (sent.limit_price, sent.quantity) == (ticket.limit_price, ticket.quantity)


async def test_a_price_of_less_than_one_tick_is_refused(desk: Desk) -> None:
    broker = await desk.connect()
    with pytest.raises(OrderRefused, match="less than one tick"):
        await broker.reserve(desk.ticket(OrderType.LIMIT, limit_price=Decimal("0.009")))


async def test_crypto_is_bought_at_the_market_for_money_and_sold_by_quantity(desk: Desk) -> None:
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    desk.gateway.prices["BTC"] = Decimal(51_000)
    broker = await desk.connect()
    bought = desk.ticket(instrument=coin, quantity=Decimal("0.001"), reference_price=Decimal("50000.555"), tif=Tif.DAY)
    assert (await broker.fitted(bought)).cash_quantity == Decimal("50.00")
    await place(broker, bought)
    report = await reported(broker, bought, lambda report: report.status is not ReportStatus.WORKING)
    sold = desk.ticket(instrument=coin, quantity=Decimal("0.0005"), side=Side.SELL)
    await place(broker, sold)
    first, second = desk.heard(Ask.PLACE_ORDER)
    assert (first[17], first[101], first[21]) == ("0", "50", "IOC")
    assert (second[17], second[101], second[21]) == ("0.0005", "", "IOC")
    # Less than was expected, and filled: the money is spent.
    assert (report.status, filled(report)) == (ReportStatus.FILLED, Decimal("0.00098039"))
    assert report.reason is None


async def test_money_that_found_too_few_coins_is_an_order_cancelled_with_what_it_bought(desk: Desk) -> None:
    desk.book.market = replace(desk.book.market, partial_fill_rate=1.0, seed=4)
    desk.gateway.prices["BTC"] = Decimal(50_000)
    broker = await desk.connect()
    ticket = desk.ticket(instrument=Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO), quantity=Decimal("0.001"))
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
    desk: Desk, setting: str, tif: Tif | None, sent: str | None
) -> None:
    desk.gateway.coin_tifs = COIN_TIFS if setting in COIN_TIFS else None
    broker = await desk.connect(crypto_tif=setting)
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    ticket = desk.ticket(OrderType.LIMIT, instrument=coin, limit_price=Decimal(50_000), tif=tif)
    if sent is None:
        for refuses in (broker.fitted, broker.reserve):
            with pytest.raises(OrderRefused, match=f"not {tif}.*crypto_tif") as refused:
                await refuses(ticket)
            assert refused.value.unsupported
        assert desk.heard(Ask.PLACE_ORDER) == []
    else:
        await place(broker, ticket)
        assert [fields[21] for fields in desk.heard(Ask.PLACE_ORDER)] == [sent]


async def test_a_time_in_force_that_the_account_does_not_give_coins_is_refused_in_ibkrs_words(desk: Desk) -> None:
    broker = await desk.connect(crypto_tif="GTC")
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    with pytest.raises(OrderRefused, match="must be Minutes or IOC"):
        await place(broker, desk.ticket(OrderType.LIMIT, instrument=coin, limit_price=Decimal(50_000)))


@pytest.mark.parametrize("order_type", [OrderType.STOP, OrderType.STOP_LIMIT])
async def test_coins_are_refused_as_stops_before_they_are_sent(desk: Desk, order_type: OrderType) -> None:
    broker = await desk.connect()
    with pytest.raises(OrderRefused, match="at the market or with a limit"):
        await place(broker, desk.ticket(order_type, instrument=Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)))


async def test_coins_limited_far_from_the_market_end_in_ibkrs_words(desk: Desk, soon: None) -> None:
    desk.gateway.prices["BTC"] = Decimal(50_000)
    broker = await desk.connect()
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    ticket = desk.ticket(OrderType.LIMIT, instrument=coin, quantity=Decimal("0.001"), limit_price=Decimal(49_000))
    with pytest.raises(UndocumentedAnswer, match="code 202"):
        await place(broker, ticket)
    report = await found(broker, ticket)
    assert report.status is ReportStatus.REJECTED
    assert "0.25%" in (report.reason or "")


async def test_coins_bought_with_a_limit_are_bought_by_quantity(desk: Desk) -> None:
    desk.gateway.prices["BTC"] = Decimal(50_000)
    broker = await desk.connect()
    coin = Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO)
    ticket = desk.ticket(OrderType.LIMIT, instrument=coin, quantity=Decimal("0.001"), limit_price=Decimal(50_000))
    assert (await broker.fitted(ticket)).cash_quantity is None
    await place(broker, ticket)
    (sent,) = desk.heard(Ask.PLACE_ORDER)
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
async def test_a_contract_is_found_by_its_number(desk: Desk, query: Query, instrument: Instrument) -> None:
    (listing,) = listed(query)
    desk.gateway.prices[listing.symbol] = Decimal("2.5")
    broker = await desk.connect()
    numbered = replace(instrument, con_id=listing.con_id)
    ticket = desk.ticket(instrument=numbered)
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    (sent,) = desk.heard(Ask.PLACE_ORDER)
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
    desk: Desk, changes: dict[str, object], words: str
) -> None:
    (listing,) = listed(Query(symbol="SPY", sec_type="OPT", expiry="20270115", strike="500", right="P"))
    option = Instrument(symbol="SPY", asset_class=AssetClass.OPTION, con_id=listing.con_id)
    broker = await desk.connect()
    with pytest.raises(OrderRefused, match=words):
        await broker.reserve(desk.ticket(instrument=replace(option, **changes)))
    agreed = replace(
        option, expiry="202701", strike=Decimal("500.0"), right=OptionRight.PUT, currency="USD", multiplier=Decimal(100)
    )
    await broker.reserve(desk.ticket(instrument=agreed))


async def test_a_symbol_of_digits_is_a_symbol_and_no_contract_number(desk: Desk) -> None:
    (listing,) = listed(Query(symbol="SPY", sec_type="STK"))
    broker = await desk.connect()
    with pytest.raises(OrderRefused, match="no contract"):
        await broker.reserve(desk.ticket(instrument=Instrument(symbol=str(listing.con_id))))


async def test_account_reference_and_terms_are_on_every_order(desk: Desk) -> None:
    broker = await desk.connect(outside_rth=True)
    ticket = desk.ticket(OrderType.LIMIT, tif=Tif.GTC)
    await place(broker, ticket)
    (sent,) = desk.heard(Ask.PLACE_ORDER)
    assert (sent[23], sent[26], sent[21], sent[33]) == ("DU000001", ticket.client_order_id, "GTC", "1")


# Accounts and pauses


async def test_of_several_accounts_one_must_be_named_and_be_there(desk: Desk) -> None:
    desk.gateway.accounts.append("DU000002")
    with pytest.raises(BrokerUnavailable, match="DU000001, DU000002"):
        await desk.connect(ibkr_account=None)
    with pytest.raises(BrokerUnavailable, match="no account U7"):
        await desk.connect(ibkr_account="U7")
    await place(await desk.connect(), desk.ticket())


async def test_the_only_account_need_not_be_named(desk: Desk) -> None:
    broker = await desk.connect(ibkr_account=None)
    await place(broker, desk.ticket())
    assert any("DU000001" in note for note in broker.capabilities.notes)


@pytest.mark.parametrize(("clock", "is_pause"), [("2026-11-21T04:45", True), ("2026-11-21T15:00", False)])
async def test_a_gateway_away_in_its_nightly_hour_is_a_known_pause(desk: Desk, clock: str, is_pause: bool) -> None:
    broker = desk.broker(clock=lambda: datetime.fromisoformat(clock).replace(tzinfo=UTC))
    await desk.gateway.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert caught.value.known_pause is is_pause
    await desk.gateway.start()
    await broker.connect()


async def test_connecting_twice_keeps_the_session(desk: Desk) -> None:
    broker = await desk.connect()
    await asyncio.gather(broker.connect(), broker.connect())
    assert len(desk.heard(Ask.START_API)) == 1
    assert len(desk.heard(Ask.ALL_OPEN_ORDERS)) == 3


async def test_wrong_settings_are_all_named(desk: Desk) -> None:
    config = {"port": "x", "client_id": -1, "restart_from": "25:00", "timezone": "Nowhere/Land", "library": "ib_c"}
    with pytest.raises(ValueError, match="ibkr account's settings") as caught:
        create(config)
    for words in (
        "account_id is missing",
        "port must be a whole number, not 'x'",
        "client_id must be 0 or more, not -1",
        "restart_from must be a time like 23:45, not '25:00'",
        "timezone must be a time zone like America/New_York, not 'Nowhere/Land'",
        "library must be 'auto', 'ib_insync' or 'ib_async', not 'ib_c'",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("key", ["connect_seconds", "answer_seconds", "query_seconds"])
@pytest.mark.parametrize("value", [0, "0.0", -1])
async def test_a_timeout_of_nothing_is_refused(desk: Desk, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{key} must be"):
        desk.broker(**{key: value})
    desk.broker(poll_seconds=0)


async def test_a_lost_session_does_not_wait_long_for_its_own_client_id(desk: Desk) -> None:
    broker = await desk.connect()
    await broker.close()
    await desk.connect()
    async with asyncio.timeout(8):
        await broker.connect()
    assert any("Client id 1 is in use" in note for note in broker.capabilities.notes)


async def test_a_gateway_without_its_servers_is_no_connection_until_they_are_back(desk: Desk) -> None:
    broker = desk.broker()
    desk.gateway.is_linked = False
    with pytest.raises(BrokerUnavailable, match="no connection to IBKR"):
        await broker.connect()
    desk.gateway.restore_link()
    await connected(broker)
    await place(broker, desk.ticket())
    assert len(desk.heard(Ask.START_API)) == 1


async def test_a_gateway_that_never_says_that_its_servers_are_back_is_asked_for_a_new_session(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibkr, "_LINK_PATIENCE_SECONDS", 0.1)
    broker = await desk.connect()
    desk.gateway.lose_link()
    await unavailable(broker)
    desk.gateway.is_linked = True
    await connected(broker)
    await place(broker, desk.ticket())
    assert len(desk.heard(Ask.START_API)) == 2


@pytest.mark.parametrize(
    ("window", "clock", "is_pause"),
    [
        (("23:40", "00:50", "America/New_York"), "2026-11-21T04:39:59", False),
        (("23:40", "00:50", "America/New_York"), "2026-11-21T04:40:00", True),
        (("23:40", "00:50", "America/New_York"), "2026-11-21T05:49:59", True),
        (("23:40", "00:50", "America/New_York"), "2026-11-21T05:50:00", False),
        (("23:40", "00:50", "America/New_York"), "2026-07-21T03:45:00", True),
        (("05:00", "06:00", "Europe/Zurich"), "2026-11-21T04:30:00", True),
        (("05:00", "05:00", "Europe/Zurich"), "2026-11-21T04:00:00", False),
    ],
)
async def test_the_nightly_hour_is_the_one_that_the_account_names(
    desk: Desk, window: tuple[str, str, str], clock: str, is_pause: bool
) -> None:
    start, end, zone = window
    broker = create({**config_for(desk.gateway), "restart_from": start, "restart_until": end, "restart_timezone": zone})
    broker._clock = lambda: datetime.fromisoformat(clock).replace(tzinfo=UTC)
    await desk.gateway.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert caught.value.known_pause is is_pause


# What the codes mean


@pytest.mark.parametrize(
    ("meaning", "numbers"),
    [
        (codes.Meaning.EXISTS, [103, 104, 105, 134, 329, 2102]),
        (codes.Meaning.REFUSED, [110, 200, 201, 203, 321, 353, 463]),
        (codes.Meaning.NOT_TAKEN, [100, 502, 504]),
        (codes.Meaning.INFORMATION, [399, 404, 10167, 10349, 2103, 2104, 2106, 2107, 2109, 2158, 2161]),
        (codes.Meaning.TROUBLE, [133, 322, 10328]),
        (codes.Meaning.UNKNOWN, [0, 109, 202, 354, 434, 1100, 10052, 10197, 10268, 10311, 99999]),
    ],
)
def test_codes_are_sorted_by_what_a_waiting_order_learns_from_them(meaning: codes.Meaning, numbers: list[int]) -> None:
    assert {codes.meaning_for_order(number) for number in numbers} == {meaning}


def test_each_code_is_of_one_sort_and_each_sort_says_why() -> None:
    listed = [code for sort in codes.CODE_GROUPS for code in sort.codes]
    assert len(listed) == len(set(listed))
    assert all(sort.why.endswith(".") and all(sort.codes.values()) for sort in codes.CODE_GROUPS)
    assert not set(listed) & (codes.CANCEL_REFUSED | codes.LINK_LOST)


def test_only_two_codes_reject_an_order_that_the_gateway_shows_as_inactive() -> None:
    assert [number for number in range(20_000) if codes.is_rejection(number)] == [201, 203]


async def test_a_code_that_nobody_knows_is_no_refusal_and_the_order_is_looked_for(desk: Desk) -> None:
    broker = await desk.connect(answer_seconds=0.3)
    ticket = await reserved(broker, desk.ticket())
    desk.gateway.silent.add(Ask.PLACE_ORDER)
    placement = asyncio.create_task(broker.place_order(ticket))
    await until(lambda: bool(desk.heard(Ask.PLACE_ORDER)))
    desk.gateway.sessions[0].send(wire.error(1, 99999, "Something new"))
    with pytest.raises(OutcomeUnknown):
        await placement


# Orders that are answered by words alone

ALONE = [
    (135, "Can't find order"),
    (10268, "'EtradeOnly' is not supported"),
    (10052, "Bad time in force"),
    (202, "Order Canceled"),
    (31999, "?"),
]
REMARKS = [(399, "Order Message: held until the opening"), (2161, "A cap was set"), (10349, "TIF was set to DAY")]
REFUSALS = [(110, "No tick"), (353, "No location"), (201, "Order rejected - reason:No")]
NOTHING_TAKEN = [(100, "Too many messages"), (504, "Not connected")]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes tenths of one."""
    monkeypatch.setattr(ibkr, "_REMARK_SECONDS", 0.3)
    monkeypatch.setattr(ibkr_unacknowledged, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(ibkr_unacknowledged, "LONG_SILENCE_SECONDS", 0.8)


def answer(desk: Desk, code: int, text: str, **fields: Any) -> None:
    desk.gateway.answer_orders_with(OrderMessage(code=code, text=text, **fields))


async def found(broker: IbkrBroker, ticket: Ticket) -> Report:
    """What is found of it, once anything is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            report = await broker.find(ticket.client_order_id)
            if report is not None:
                return report
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("code", "text"), [*ALONE, *REMARKS, (133, "Submit new order failed")])
async def test_words_alone_and_two_whole_looks_are_a_refusal_in_those_words(
    desk: Desk, soon: None, code: int, text: str
) -> None:
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    answer(desk, code, text)
    async with asyncio.timeout(1.5):
        with pytest.raises(UndocumentedAnswer, match=f"code {code}"):
            await broker.place_order(ticket)
    assert await broker.find(ticket.client_order_id) is None
    with pytest.raises(UndocumentedAnswer, match=f"code {code}"):
        await broker.place_order(ticket)
    report = await found(broker, ticket)
    assert (report.status, report.filled_quantity) == (ReportStatus.REJECTED, 0)
    assert report.reason == f"{text} (code {code})"
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    assert len(desk.heard(Ask.PLACE_ORDER)) == 1
    assert (await place(broker, desk.ticket())).broker_order_id == "1:2"


@pytest.mark.parametrize(("code", "text"), [*ALONE, *REMARKS, *REFUSALS, *NOTHING_TAKEN])
@pytest.mark.parametrize("is_taken_first", [True, False])
async def test_words_beside_an_order_that_works_end_nothing(
    desk: Desk, soon: None, code: int, text: str, is_taken_first: bool
) -> None:
    desk.hold()
    answer(desk, code, text, taken_after=0.05, is_taken_first=is_taken_first)
    broker = await desk.connect()
    ticket = desk.ticket(OrderType.LIMIT)
    assert (await place(broker, ticket)).status is ReportStatus.WORKING
    desk.gateway.send_order_error("1:1", code, text)
    for _ in range(3):
        report = await broker.find(ticket.client_order_id)
        assert report is not None
        assert report.status is ReportStatus.WORKING
        await asyncio.sleep(0.3)
    desk.book.fill_order(OrderRef(client_order_id="", broker_order_id="1:1"))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


async def test_an_order_that_is_acknowledged_after_the_words_works(desk: Desk, soon: None) -> None:
    desk.hold()
    answer(desk, 31999, "?", taken_after=0.5)
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket(OrderType.LIMIT))
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.WORKING)
    await asyncio.sleep(0.5)
    assert (await found(broker, ticket)).status is ReportStatus.WORKING


async def test_a_status_alone_acknowledges_an_order_that_was_answered_by_words(desk: Desk, soon: None) -> None:
    answer(desk, 31999, "?")
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket(OrderType.LIMIT))
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    broker.on_order_status(1, "PreSubmitted", 0.0, 77, 1)
    await asyncio.sleep(0.5)
    assert [await broker.find(ticket.client_order_id) for _ in range(3)][2] is None


async def test_an_order_that_fills_after_it_was_found_refused_is_told_with_its_fill(desk: Desk, soon: None) -> None:
    answer(desk, 31999, "?", taken_after=1.5)
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    assert (await found(broker, ticket)).status is ReportStatus.REJECTED
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert filled(report) == 10


async def test_a_look_that_is_not_whole_is_no_evidence(desk: Desk, soon: None) -> None:
    answer(desk, 31999, "?")
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    desk.arm(Operation.REPORTS, Action.UNAVAILABLE, times=3)
    for _ in range(3):
        await asyncio.sleep(0.2)
        with pytest.raises(BrokerUnavailable):
            await broker.find(ticket.client_order_id)
    await broker.connect()
    assert (await found(broker, ticket)).status is ReportStatus.REJECTED


async def test_the_words_outlive_the_session_in_which_they_were_said(desk: Desk, soon: None) -> None:
    answer(desk, 10311, "Directly routed", times=None)
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    placement = asyncio.create_task(broker.place_order(ticket))
    await until(lambda: bool(desk.heard(Ask.PLACE_ORDER)))
    await asyncio.sleep(0.05)
    desk.gateway.drop_sessions()
    with pytest.raises(UndocumentedAnswer, match="10311"):
        await placement
    await connected(broker)
    with pytest.raises(UndocumentedAnswer, match="10311"):
        await broker.place_order(ticket)
    assert (await found(broker, ticket)).reason == "Directly routed (code 10311)"
    assert len(desk.heard(Ask.PLACE_ORDER)) == 1


async def test_words_that_come_after_the_wait_for_an_answer_are_heard_too(desk: Desk, soon: None) -> None:
    broker = await desk.connect(answer_seconds=0.2)
    ticket = await reserved(broker, desk.ticket())
    desk.gateway.silent.add(Ask.PLACE_ORDER)
    with pytest.raises(OutcomeUnknown, match="No answer"):
        await broker.place_order(ticket)
    desk.gateway.sessions[0].send(wire.error(1, 10311, "Directly routed"))
    desk.gateway.sessions[0].send(wire.error(1, 201, "Order was discarded"))
    report = await found(broker, ticket)
    assert report.status is ReportStatus.REJECTED
    assert report.reason == "Directly routed (code 10311); Order was discarded (code 201)"


async def test_words_on_a_repeated_sending_prove_nothing_of_the_first(desk: Desk, soon: None) -> None:
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    answer(desk, 31999, "?")
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(replace(ticket, is_repetition=True))
    await asyncio.sleep(0.5)
    assert [await broker.find(ticket.client_order_id) for _ in range(4)] == [None] * 4


@pytest.mark.parametrize("code", [103, 105, 134, 2102])
@pytest.mark.parametrize("is_repetition", [True, False])
async def test_words_of_an_order_under_the_id_refuse_only_what_has_never_left_before(
    desk: Desk, soon: None, code: int, is_repetition: bool
) -> None:
    broker = await desk.connect()
    ticket = replace(await reserved(broker, desk.ticket()), is_repetition=is_repetition)
    answer(desk, code, "Something is there")
    with pytest.raises(OrderAlreadyExists):
        await broker.place_order(ticket)
    assert await broker.find(ticket.client_order_id) is None
    await asyncio.sleep(0.9)
    report = [await broker.find(ticket.client_order_id) for _ in range(2)][1]
    assert (report is None) is is_repetition


async def test_a_repetition_without_an_answer_is_waited_for_less(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ibkr, "_REPEATED_SECONDS", 0.1)
    broker = await desk.connect(answer_seconds=NEVER)
    ticket = replace(await reserved(broker, desk.ticket()), is_repetition=True)
    desk.gateway.silent.add(Ask.PLACE_ORDER)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(OutcomeUnknown, match="No answer"):
            await broker.place_order(ticket)


async def test_a_ticket_that_has_left_in_this_process_is_a_repetition_though_it_does_not_say_so(
    desk: Desk, soon: None
) -> None:
    desk.arm(Operation.PLACE, Action.NEVER_ANSWER, accepted=False)
    broker = await desk.connect(answer_seconds=0.2)
    ticket = await reserved(broker, desk.ticket())
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    answer(desk, 31999, "?")
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    await asyncio.sleep(0.5)
    assert [await broker.find(ticket.client_order_id) for _ in range(3)] == [None] * 3


async def test_a_refusal_before_the_order_is_shown_as_inactive_is_its_reason(desk: Desk) -> None:
    desk.hold()
    desk.gateway.held.append("1:1")
    answer(desk, 201, "Order rejected - reason:No margin", taken_after=0.6)
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket(OrderType.LIMIT))
    with pytest.raises(OrderRefused, match="No margin"):
        await broker.place_order(ticket)
    report = await reported(broker, ticket)
    assert report.status is ReportStatus.REJECTED
    assert "No margin" in (report.reason or "")


async def test_a_text_without_end_and_in_lines_is_cut_and_put_on_one(desk: Desk) -> None:
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket())
    answer(desk, 201, "Order rejected\n" + "x" * 100_000)
    with pytest.raises(OrderRefused, match=r"^Order rejected x+… .code 201.$") as refused:
        await broker.place_order(ticket)
    assert len(refused.value.reason) < 600


# What was said of an unacknowledged order, by itself


def said_of_one(*, is_repetition: bool = False) -> Unacknowledged:
    orders = Unacknowledged()
    orders.sent("a", "1:7", is_repetition=is_repetition, now=0.0)
    orders.said("1:7", 31999, "?", 1.0)
    return orders


def test_evidence_takes_two_looks_of_which_the_last_begins_late_enough() -> None:
    orders = said_of_one()
    orders.lists_read(3.5)
    assert orders.refusal_of("a") is None, "one look"
    orders = said_of_one()
    for begun_at in (0.9, 1.1, 1.2, 2.9):
        orders.lists_read(begun_at)
    assert orders.refusal_of("a") is None, "too early"
    orders.lists_read(3.0)
    assert orders.refusal_of("a") is not None


def test_new_words_begin_the_evidence_anew_and_the_same_do_not() -> None:
    orders = said_of_one()
    orders.lists_read(2.0)
    orders.said("1:7", 31999, "?", 2.5)
    orders.lists_read(3.1)
    assert orders.refusal_of("a") is not None
    orders.said("1:7", 10052, "Another", 3.2)
    assert orders.refusal_of("a") is None


def test_that_nothing_was_taken_is_no_word_about_the_order() -> None:
    orders = Unacknowledged()
    orders.sent("a", "1:7", is_repetition=False, now=0.0)
    for code in (100, 502, 504):
        orders.said("1:7", code, "?", 1.0)
    assert orders.messages_of("a") == ""


def test_an_id_that_a_gateway_gives_anew_is_that_of_the_later_order() -> None:
    orders = said_of_one()
    orders.sent("b", "1:7", is_repetition=False, now=5.0)
    assert (orders.tag_of("1:7"), orders.messages_of("a")) == ("b", "")


def test_orders_of_another_day_are_forgotten() -> None:
    orders = said_of_one()
    orders.forget_before(0.5)
    assert orders.messages_of("a") == ""


# The blotter by itself


def test_an_order_of_an_earlier_day_is_forgotten_and_an_open_one_is_not() -> None:
    blotter = Blotter()
    for number, status in ((1, "Filled"), (2, "Submitted")):
        blotter.begin_round()
        blotter.note_order(client_id=1, order_id=number, perm_id=number, client_order_id=f"t{number}", status=status)
        blotter.end_round()
    blotter.begin_round()
    blotter.end_round()
    assert blotter.reports(None) == []
    blotter.forget_old()
    assert [entry.client_order_id for entry in blotter.entries] == ["t2"]


def a_working_order_said_to_be_cancelled() -> tuple[Blotter, Entry]:
    blotter = Blotter()
    blotter.begin_round()
    entry = blotter.note_order(client_id=1, order_id=7, perm_id=70, client_order_id="a", status="Submitted")
    blotter.end_round()
    blotter.note_reason(entry, "Order Canceled (code 202)", rejected=False, cancelled=True)
    return blotter, entry


def read_lists(blotter: Blotter, status: str | None = None) -> None:
    blotter.begin_round()
    if status is not None:
        blotter.note_order(client_id=1, order_id=7, perm_id=70, client_order_id="a", status=status)
    blotter.end_round()


def test_an_order_said_to_be_cancelled_whose_status_was_lost_is_once_two_looks_do_not_have_it() -> None:
    blotter, entry = a_working_order_said_to_be_cancelled()
    assert entry.report_status is ReportStatus.WORKING
    read_lists(blotter)
    assert entry.report_status is ReportStatus.WORKING
    mark = blotter.mark
    read_lists(blotter)
    (report,) = blotter.reports(mark)
    assert (report.status, report.reason) == (ReportStatus.CANCELLED, "Order Canceled (code 202)")
    read_lists(blotter)
    assert entry.report_status is ReportStatus.CANCELLED


def test_an_order_said_to_be_cancelled_that_is_shown_goes_on() -> None:
    blotter, entry = a_working_order_said_to_be_cancelled()
    read_lists(blotter, "Submitted")
    for _ in range(3):
        read_lists(blotter)
    assert entry.report_status is ReportStatus.WORKING
    assert blotter.reports(None) == []


def test_one_that_was_said_to_be_cancelled_while_the_lists_were_read_needs_two_more_looks() -> None:
    blotter, entry = a_working_order_said_to_be_cancelled()
    blotter.begin_round()
    blotter.note_reason(entry, "Order Canceled (code 202)", rejected=False, cancelled=True)
    blotter.end_round()
    read_lists(blotter)
    assert entry.report_status is ReportStatus.WORKING
    read_lists(blotter)
    assert entry.report_status is ReportStatus.CANCELLED


def execution(exec_id: str, quantity: int) -> Execution:
    return Execution(
        exec_id=exec_id, quantity=Decimal(quantity), price=Decimal(5), time=datetime(2026, 11, 21, tzinfo=UTC)
    )


def hear(blotter: Blotter, exec_id: str, quantity: int, perm_id: int = 5) -> None:
    blotter.note_execution(
        client_id=1, order_id=1, perm_id=perm_id, client_order_id="tag", execution=execution(exec_id, quantity)
    )


@pytest.mark.parametrize("versions", [["a.01", "a.02"], ["a.02", "a.01"], ["a.02"], ["a.02", "a.02", "a.01"]])
def test_a_corrected_execution_counts_once_in_whatever_order_its_versions_come(versions: list[str]) -> None:
    blotter = Blotter()
    for version in versions:
        hear(blotter, version, {"a.01": 10, "a.02": 7}[version])
    (report,) = blotter.reports(None)
    assert [(fill.fill_id, fill.quantity) for fill in report.fills] == [("a.02", Decimal(7))]
    assert report.busted_fill_ids == {"a.01"}
    assert report.filled_quantity == 7


def count(blotter: Blotter, filled: int) -> Decimal:
    blotter.note_status(client_id=1, order_id=1, perm_id=5, status="Submitted", filled=Decimal(filled))
    return blotter.entries[0].filled_quantity


def test_after_an_annulment_the_servers_count_still_tells_what_it_has_not_shown() -> None:
    blotter = Blotter()
    hear(blotter, "a.01", 6)
    assert count(blotter, 6) == 6
    hear(blotter, "a.02", 0)
    assert blotter.entries[0].filled_quantity == 0  # nothing was said since that counts it
    assert count(blotter, 0) == 0
    assert count(blotter, 4) == 4  # an execution of 4 is not shown yet
    hear(blotter, "b.01", 4)
    assert count(blotter, 4) == 4
    assert count(blotter, 10) == 4  # a server that counts what was annulled
    assert count(blotter, 12) == 12


def test_where_what_a_correction_took_away_is_not_known_what_stands_is_the_count() -> None:
    blotter = Blotter()
    hear(blotter, "a.02", 3)
    assert count(blotter, 5) == 3
    hear(blotter, "a.01", 4)
    assert count(blotter, 4) == 3
    assert count(blotter, 5) == 5


def test_a_commission_may_come_before_its_execution_and_twice() -> None:
    blotter = Blotter()
    charged = Commission(amount=Decimal("1.25"), currency="USD")
    assert blotter.note_commission("a.01", charged) is None
    hear(blotter, "a.01", 10)
    mark = blotter.mark
    blotter.note_commission("a.01", charged)
    (report,) = blotter.reports(None)
    assert report.fills[0].commission == Decimal("1.25")
    assert blotter.mark == mark


def test_an_order_id_used_anew_after_a_restart_is_another_order() -> None:
    blotter = Blotter()
    for perm_id in (5, 6):
        blotter.note_order(client_id=1, order_id=1, perm_id=perm_id, client_order_id=f"t{perm_id}", status="Submitted")
    assert [report.client_order_id for report in blotter.reports(None)] == ["t5", "t6"]


def test_a_status_that_only_the_client_library_sets_is_no_status() -> None:
    blotter = Blotter()
    ids = {"client_id": 1, "order_id": 1, "perm_id": 5}
    blotter.note_order(**ids, client_order_id="tag", status="Submitted")
    for status in ("PendingSubmit", "ApiPending", "ValidationError", "ApiUpdate", ""):
        blotter.note_status(**ids, status=status, filled=Decimal(0))
    assert blotter.reports(None)[0].status is ReportStatus.WORKING
    blotter.note_status(**ids, status="Filled", filled=Decimal(10))
    blotter.note_status(**ids, status="Submitted", filled=Decimal(4))
    (report,) = blotter.reports(None)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(10))


def test_orders_that_surely_are_several_under_one_tag_are_named_with_each() -> None:
    blotter = Blotter()
    blotter.begin_round()
    blotter.note_order(client_id=1, order_id=5, perm_id=9, client_order_id="tag", status="Submitted")
    blotter.note_completed(perm_id=10, client_order_id="tag", status="Cancelled", filled=Decimal(0), words="by hand")
    blotter.note_order(client_id=1, order_id=6, perm_id=11, client_order_id="other", status="Submitted")
    blotter.end_round()
    told = {report.broker_order_id: report.orders_under_tag for report in blotter.reports(None)}
    assert told == {"1:5": ("1:5", "p10"), "p10": ("1:5", "p10"), "1:6": ()}


def test_an_order_whose_permanent_id_is_not_known_may_be_the_other_one() -> None:
    blotter = Blotter()
    blotter.begin_round()
    blotter.note_order(client_id=1, order_id=5, perm_id=0, client_order_id="tag", status="Submitted")
    blotter.note_completed(perm_id=10, client_order_id="tag", status="Cancelled", filled=Decimal(0), words="by hand")
    blotter.end_round()
    assert {report.orders_under_tag for report in blotter.reports(None)} == {()}


async def test_a_filled_order_whose_count_is_not_told_is_filled_with_what_was_ordered(desk: Desk) -> None:
    """Its executions of other days are not shown: what is shown is not all that there was."""
    broker = await desk.connect()
    state = SimpleNamespace(status="Filled", completedStatus="Filled")
    done = SimpleNamespace(
        account=desk.book.account_id, permId=77, orderRef="tag", filledQuantity=None, totalQuantity=100.0
    )
    broker.on_completed_order(done, state)
    assert [e.filled_quantity for e in broker._blotter.with_tag("tag")] == [100]


async def test_an_execution_that_names_no_tag_acknowledges_the_order_of_its_id(desk: Desk, soon: None) -> None:
    """What was said on that id before is then no refusal of it."""
    broker = await desk.connect()
    desk.gateway.answer_orders_with(OrderMessage(code=10268, text="The 'EtradeOnly' order attribute is not supported."))
    ticket = await reserved(broker, desk.ticket())
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    client_id, _, order_id = (ticket.reserved_order_id or "").partition(":")
    execution = SimpleNamespace(
        acctNumber=desk.book.account_id,
        clientId=int(client_id),
        orderId=int(order_id),
        permId=0,
        orderRef="",
        execId="0000e0d5.01.01",
        shares=10.0,
        price=100.25,
    )
    broker.on_execution(execution, Moment(at=datetime(2026, 11, 27, 15, tzinfo=UTC)))
    for _ in range(5):
        assert await broker.find(ticket.client_order_id) is None  # the lists do not have it, which alone is no refusal
        await asyncio.sleep(0.2)


async def test_what_is_said_of_the_opening_before_a_late_acknowledgement_is_kept(desk: Desk, soon: None) -> None:
    """It is said once. A stop is shown like an order that is held, and here says nothing of it."""
    words = "Warning: your order will not be placed at the exchange until 2026-11-30 09:30:00 US/Eastern"
    desk.hold()
    answer(desk, codes.ORDER_MESSAGE, words, taken_after=0.6)
    broker = await desk.connect()
    ticket = await reserved(broker, desk.ticket(OrderType.STOP))
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    report = await reported(broker, ticket)
    assert (report.status, report.is_held) == (ReportStatus.WORKING, True)
    assert report.held_until == datetime(2026, 11, 30, 14, 30, tzinfo=UTC)
