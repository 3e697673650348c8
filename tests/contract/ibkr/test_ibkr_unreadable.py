"""One odd message of a gateway: what it is about is unclear, and everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import AssetClass, Instrument, OrderRef, OrderType, Report, ReportStatus, Ticket
from brokers.errors import AnswerUnclear, NotAnswered
from brokers.ibkr.adapter import IbkrBroker
from brokers.paper.model import Action, Market, Operation
from simulators.ibkr import wire
from simulators.stage_ibkr import serving_tws
from tests.contract.ibkr.stage import NEVER, IbkrStage, place, reported
from tests.waits import until

OPEN_ORDER, ORDER_STATUS, EXECUTION, COMPLETED, POSITION, CONTRACT, COMMISSION, VALUE = 5, 3, 11, 101, 61, 10, 59, 73


@pytest.fixture
async def stage(tmp_path: Path, unread_messages: list[str]) -> AsyncIterator[IbkrStage]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(serving_tws(tmp_path, "DU000001", Market()))
        yield IbkrStage(gateway, stack)
    unread_messages.clear()


def spoil(
    stage: IbkrStage, message: int, field: int, text: str = "nonsense", *, named: str = "", times: int | None = None
) -> None:
    stage.gateway.garbles.append(wire.Garble(message=message, field=field, text=text, named=named, times=times))


async def of(broker: IbkrBroker, ticket: Ticket) -> Report | None:
    told = (await broker.reports()).reports
    return next((report for report in told if report.client_order_id == ticket.client_order_id), None)


async def unclear(broker: IbkrBroker) -> set[str]:
    return {each.client_order_id for each in (await broker.reports()).unreadable}


# (message, field, text): what makes the message unreadable, without touching what names the order.
OF_ORDERS = [
    (OPEN_ORDER, 14, "nonsense"),
    (OPEN_ORDER, 16, "1,5"),
    (ORDER_STATUS, 3, "nonsense"),
    (ORDER_STATUS, 3, "nan"),
    (EXECUTION, 19, "nonsense"),
    (EXECUTION, 19, "-3"),
    (EXECUTION, 20, "nan"),
    (EXECUTION, 20, "1e40"),
    (EXECUTION, 21, "x"),
    (COMPLETED, 13, "nonsense"),
]


@pytest.mark.parametrize(("message", "field", "text"), OF_ORDERS)
async def test_an_odd_row_makes_one_order_unclear_and_the_others_go_on(
    stage: IbkrStage, message: int, field: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await stage.connect()
    odd, resting, filled = stage.ticket(), stage.ticket(OrderType.LIMIT), stage.ticket()
    stage.arm(Operation.PLACE, Action.HOLD)
    await place(broker, resting)
    for ticket in (odd, filled):
        await place(broker, ticket)
        await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    spoiled = resting if message in (OPEN_ORDER, ORDER_STATUS) else odd
    perm_id = str(stage.gateway.row(stage.truth(spoiled)).perm_id)
    spoil(stage, message, field, text, named=perm_id if message == ORDER_STATUS else spoiled.client_order_id)
    await stage.gateway.restart()
    again = await stage.connect()
    for _ in range(4):
        report = await of(again, spoiled)
        assert report is None or report.is_unclear
    assert await unclear(again) <= {spoiled.client_order_id}
    assert not (report is None and not await unclear(again))
    if report is None:
        with pytest.raises(AnswerUnclear, match="cannot be read"):
            await again.find(spoiled.client_order_id)
    for ticket in {odd, resting, filled} - {spoiled}:
        other = await of(again, ticket)
        assert other is not None
        assert not other.is_unclear
    assert await again.find("x" + "a" * 18) is None
    new = stage.ticket()
    await place(again, new)
    await reported(again, new, lambda report: report.status is ReportStatus.FILLED)
    told = [each for each in caplog.records if "cannot be read" in each.getMessage()]
    assert len(told) == 1
    stage.gateway.garbles.clear()
    cleared = await reported(again, spoiled, lambda report: not report.is_unclear)
    assert cleared.filled_quantity == (0 if spoiled is resting else 10)
    assert await unclear(again) == set()


@pytest.mark.parametrize("field", [3, 7, 23, 24, 25, 28, 30])
async def test_a_field_that_nothing_heeds_loses_no_fill(stage: IbkrStage, field: int) -> None:
    broker = await stage.connect()
    spoil(stage, EXECUTION, field)
    ticket = stage.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert (report.filled_quantity, report.is_unclear) == (10, False)


async def test_a_push_that_cannot_be_read_is_made_good_by_the_lists(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    spoil(stage, EXECUTION, 19, times=1)
    ticket = stage.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert report.filled_quantity == 10


async def test_an_odd_row_that_stays_is_not_asked_for_again_and_again(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: bool(report.fills))
    await stage.gateway.restart()
    spoil(stage, EXECUTION, 19)
    again = await stage.connect(poll_seconds=NEVER)
    asked = len(stage.gateway.heard)
    for _ in range(20):
        await again.reports()
    assert len(stage.gateway.heard) == asked


async def test_a_flood_of_odd_messages_is_not_answered_by_a_flood_of_questions(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    asked = len(stage.gateway.heard)
    for _ in range(50):
        stage.gateway.sessions[0].send(wire.frame("garbage"))
        await asyncio.sleep(0.005)
        await broker.reports()
    assert len(stage.gateway.heard) - asked <= 6
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


async def test_an_order_whose_row_names_nobody_may_be_any_that_is_not_found(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.hold()
    ticket, other = stage.ticket(OrderType.LIMIT), stage.ticket(OrderType.LIMIT)
    await place(broker, other)
    stage.gateway.sessions[0].send(wire.frame(OPEN_ORDER, "nonsense"))
    await until(lambda: broker._must_read_lists)
    found = await broker.find(other.client_order_id)
    assert found is not None
    assert not found.is_unclear
    # The lists that were read for it were whole: it was a push that could not be read, and nothing of it is left.
    assert await broker.find(ticket.client_order_id) is None
    spoil(stage, OPEN_ORDER, 20)
    stage.gateway.garbles.append(wire.Garble(message=OPEN_ORDER, field=23, text=""))
    spoil(stage, OPEN_ORDER, 14)
    await stage.gateway.restart()
    again = await stage.connect()
    with pytest.raises(AnswerUnclear):
        await again.find(ticket.client_order_id)


async def test_the_row_of_a_stranger_that_cannot_be_read_says_nothing_of_ours(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.hold()
    stranger = stage.ticket(OrderType.LIMIT, client_order_id="by hand")
    await place(broker, stranger)
    spoil(stage, OPEN_ORDER, 14)
    await stage.gateway.restart()
    again = await stage.connect()
    assert await unclear(again) == set()
    assert await again.find("x" + "a" * 18) is None


async def test_an_unclear_order_can_be_cancelled(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.hold()
    ticket = stage.ticket(OrderType.LIMIT)
    report = await place(broker, ticket)
    spoil(stage, OPEN_ORDER, 14)
    await until(lambda: True)
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id, broker_order_id=report.broker_order_id))
    assert stage.truth(ticket).status is ReportStatus.CANCELLED


@pytest.mark.parametrize("frame", [wire.frame(999, "x"), wire.frame(108, 1, 2, 3)])
async def test_messages_of_unknown_kinds_are_nobodys_trouble(stage: IbkrStage, frame: bytes) -> None:
    broker = await stage.connect()
    stage.gateway.sessions[0].send(frame)
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert await unclear(broker) == set()
    assert await broker.find("x" + "a" * 18) is None


@pytest.mark.parametrize("frame", [wire.frame("", ""), wire.frame("garbage", "5"), b"\0\0\0\1\0"])
async def test_a_message_without_a_number_may_have_been_about_anything_until_the_lists_are_read(
    stage: IbkrStage, frame: bytes
) -> None:
    broker = await stage.connect()
    stage.gateway.sessions[0].send(frame)
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert await unclear(broker) == set()


async def test_two_sessions_do_not_hear_of_each_others_oddities(stage: IbkrStage) -> None:
    one, other = await stage.connect(poll_seconds=NEVER), await stage.connect(poll_seconds=NEVER)
    stage.gateway.sessions[0].send(wire.frame(OPEN_ORDER, "nonsense"))
    await until(lambda: one._must_read_lists)
    assert not other._must_read_lists


async def test_a_contract_that_cannot_be_read_holds_up_the_orders_for_it_alone(stage: IbkrStage) -> None:
    broker = await stage.connect()
    spoil(stage, CONTRACT, 12, named="AAPL")
    with pytest.raises(NotAnswered, match="could not be read"):
        await broker.reserve(stage.ticket(instrument=Instrument(symbol="AAPL")))
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


@pytest.mark.parametrize(("field", "text"), [(13, "nan"), (13, "-inf"), (40, "nan"), (40, "1e40")])
async def test_a_contract_of_odd_figures_is_asked_for_again_and_not_traded(
    stage: IbkrStage, field: int, text: str
) -> None:
    broker = await stage.connect()
    spoil(stage, CONTRACT, field, text, named="AAPL")
    spoil(stage, CONTRACT, 36, "", named="AAPL")  # behind the one security id, as the size increment is
    ticket = stage.ticket(OrderType.LIMIT, instrument=Instrument(symbol="AAPL"))
    with pytest.raises(NotAnswered, match="cannot be read"):
        await broker.reserve(ticket)
    stage.gateway.garbles.clear()
    await place(broker, ticket)


async def test_a_commission_that_cannot_be_read_is_not_told(stage: IbkrStage) -> None:
    broker = await stage.connect()
    spoil(stage, COMMISSION, 3)
    ticket = stage.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert (report.fills[0].commission, report.is_unclear) == (None, False)


@pytest.mark.parametrize("message", [OPEN_ORDER, ORDER_STATUS])
async def test_an_order_id_that_can_be_none_does_not_use_up_the_ids(stage: IbkrStage, message: int) -> None:
    broker = await stage.connect()
    stage.hold()
    await place(broker, stage.ticket(OrderType.LIMIT))
    spoil(stage, message, 1, str(2**40))
    await stage.gateway.restart()
    again = await stage.connect()
    assert await again.reserve(stage.ticket()) == "1:2"


@pytest.mark.parametrize(
    "exec_id", ["0000e0d5.1.1000000000", "0000e0d5.²", "1000000000000", "a.b.", ".01", "x.000000001"]
)
async def test_an_execution_is_taken_whatever_its_id_looks_like(stage: IbkrStage, exec_id: str) -> None:
    broker = await stage.connect()
    spoil(stage, EXECUTION, 14, exec_id)
    spoil(stage, COMMISSION, 2, exec_id)
    ticket = stage.ticket()
    await place(broker, ticket)
    report = await reported(
        broker, ticket, lambda report: bool(report.fills) and report.fills[0].commission is not None
    )
    assert (report.fills[0].fill_id, report.busted_fill_ids, report.filled_quantity) == (exec_id, frozenset(), 10)


@pytest.mark.parametrize(("field", "text"), [(4, "nan"), (4, "0"), (4, "-1"), (3, "nan"), (4, "x"), (2, "x"), (2, "7")])
async def test_a_market_rule_that_cannot_be_read_leaves_the_contracts_own_tick(
    stage: IbkrStage, field: int, text: str
) -> None:
    broker = await stage.connect()
    spoil(stage, 93, field, text)
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


# Positions and money


@pytest.mark.parametrize(
    ("field", "text"), [(14, "nonsense"), (14, "nan"), (14, "1e40"), (15, "x"), (3, "x"), (7, "x")]
)
async def test_a_position_that_cannot_be_read_is_unclear_and_the_others_are_told(
    stage: IbkrStage, field: int, text: str
) -> None:
    broker = await stage.connect()
    for symbol in ("SPY", "AAPL"):
        ticket = stage.ticket(instrument=Instrument(symbol=symbol))
        await place(broker, ticket)
        await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    spoil(stage, POSITION, field, text, named="AAPL")
    await stage.gateway.restart()
    again = await stage.connect()
    held = {each.instrument.symbol: each for each in await again.positions()}
    assert (held["SPY"].quantity, held["SPY"].is_unclear) == (10, False)
    assert held["AAPL"].is_unclear
    assert held["AAPL"].instrument.asset_class is AssetClass.STOCK


async def test_a_position_of_unreadable_cost_is_held_all_the_same(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    spoil(stage, POSITION, 15, "nan")
    (held,) = await broker.positions()
    assert (held.quantity, held.average_price, held.is_unclear) == (10, None, False)


async def test_a_row_that_names_no_position_is_told_as_one_that_may_be_any(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = stage.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    spoil(stage, POSITION, 2, "??")
    spoil(stage, POSITION, 14)
    (held,) = await broker.positions()
    assert held.is_unclear
    assert held.is_unnamed


async def test_money_that_cannot_be_read_is_left_out(stage: IbkrStage) -> None:
    broker = await stage.connect()
    spoil(stage, VALUE, 6, "n/a", named="CashBalance")
    assert await broker.balances() == []
    stage.gateway.garbles.clear()
    (balance,) = await broker.balances()
    assert balance.cash > Decimal(0)


# Whatever a field says

ODD_TEXTS = ["", "x", "nan", "-1", "1e400", "1,5", "0x10", "\ufffd\ufffd", "20261124 09:00:12 XYZ", "9" * 40, " "]


def messages_of(stage: IbkrStage, ticket: Ticket) -> list[list[str]]:
    """One of each kind that is about an order, a position or an account."""
    order = stage.truth(ticket)
    row = stage.gateway.row(order)
    frames = [
        wire.order_status(row),
        wire.open_order(row),
        wire.completed_order(row),
        *stage.gateway.executions(order, 7),
        wire.position(row.account, row.listing, Decimal(10), Decimal(1)),
        wire.error(row.order_id, 202, "Order Canceled"),
        wire.contract_details(7, row.listing),
        wire.market_rule(26, [("0", "0.01")]),
        wire.frame(73, 1, 7, row.account, "", "CashBalance", "1", "USD"),
    ]
    return [each[4:].decode().removesuffix("\0").split("\0") for each in frames]


async def test_no_field_of_any_message_can_make_the_adapter_stumble(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    stage.hold()
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    stage.book.fill_order(OrderRef(client_order_id=ticket.client_order_id), Decimal(4))
    await reported(broker, ticket, lambda report: bool(report.fills))
    session = broker._session
    assert session is not None
    for message in messages_of(stage, ticket):
        for place_of_field in range(len(message)):
            for text in ODD_TEXTS:
                session._interpret([*message[:place_of_field], text, *message[place_of_field + 1 :]])
        for length in range(len(message)):
            session._interpret(message[:length])
            session._interpret([*message[:length], "one more", *message[length:]])
        for report in broker._blotter.reports(None):
            amounts = [report.filled_quantity, *(n for fill in report.fills for n in (fill.quantity, fill.price))]
            assert all(amount.is_finite() and 0 <= amount < 10**18 for amount in amounts)
            assert all(fill.time.tzinfo is not None for fill in report.fills)
        assert session.is_open
    assert await broker.positions() != []
    other = stage.ticket()
    stage.book.clear_faults()
    await place(broker, other)
    await reported(broker, other, lambda report: report.status is ReportStatus.FILLED)
