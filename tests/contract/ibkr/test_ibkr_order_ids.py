"""Order ids at IBKR: given beforehand, sent under once, in their sequence, and given to no other order."""

from __future__ import annotations

import asyncio

import pytest

from brokers.base import OrderType, ReportStatus
from brokers.errors import OrderAlreadyExists, OutcomeUnknown, ReservationLost
from brokers.paper.model import Action, Operation
from simulators.ibkr.wire import Ask
from tests.contract.ibkr.stage import IbkrStage, place, reserved, unavailable


async def test_handing_an_order_over_proves_nothing_without_the_servers_word(stage: IbkrStage) -> None:
    broker = await stage.connect(answer_seconds=0.2)
    ticket = await reserved(broker, stage.ticket())
    stage.gateway.silent.add(Ask.PLACE_ORDER)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    assert await broker.find(ticket.client_order_id) is None
    stage.gateway.silent.clear()
    report = await broker.place_order(ticket)
    assert report.broker_order_id == ticket.reserved_order_id == stage.truth(ticket).broker_order_id


@pytest.mark.parametrize("action", [Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT])
@pytest.mark.parametrize("anew", [True, False])
async def test_a_ticket_sent_again_under_its_order_id_makes_one_order(
    stage: IbkrStage, action: Action, anew: bool
) -> None:
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    stage.arm(Operation.PLACE, action)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    if anew:
        await broker.close()
        broker = stage.broker()
    await broker.connect()
    if action is Action.ACCEPT_THEN_DROP:
        with pytest.raises(OrderAlreadyExists):
            await broker.place_order(ticket)
    else:
        await broker.place_order(ticket)
    assert stage.truth(ticket).broker_order_id == ticket.reserved_order_id


@pytest.mark.parametrize("is_done", [True, False])
async def test_the_same_order_id_again_is_no_second_order_even_where_the_lists_hid_the_first(
    stage: IbkrStage, is_done: bool
) -> None:
    if not is_done:
        stage.hold()
    broker = await stage.connect(answer_seconds=0.3)
    ticket = await reserved(broker, stage.ticket(OrderType.LIMIT))
    stage.arm(Operation.PLACE, Action.NEVER_ANSWER)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    if is_done:
        with pytest.raises(OrderAlreadyExists, match="104"):
            await broker.place_order(ticket)
    else:
        assert (await broker.place_order(ticket)).status is ReportStatus.WORKING
    assert stage.truth(ticket).ticket.quantity == 10


async def test_an_order_id_that_a_later_order_passed_over_is_not_sent(stage: IbkrStage) -> None:
    broker = await stage.connect()
    first, second = await reserved(broker, stage.ticket()), await reserved(broker, stage.ticket())
    await broker.place_order(second)
    with pytest.raises(ReservationLost, match="passed over"):
        await broker.place_order(first)
    await broker.close()
    successor = await stage.connect()
    with pytest.raises(ReservationLost, match="passed over"):
        await successor.place_order(first)
    assert len(stage.heard(Ask.PLACE_ORDER)) == 1
    await place(successor, first)
    assert len(stage.book.orders()) == 2


async def test_an_order_id_that_another_order_was_given_since_is_not_sent(stage: IbkrStage) -> None:
    broker = await stage.connect()
    lost = await reserved(broker, stage.ticket())
    await broker.close()
    successor = await stage.connect()
    other = await place(successor, stage.ticket())
    assert other.broker_order_id == lost.reserved_order_id
    with pytest.raises(ReservationLost, match="another order's"):
        await successor.place_order(lost)
    assert len(stage.heard(Ask.PLACE_ORDER)) == 1


async def test_an_order_id_that_an_order_was_perhaps_sent_under_is_not_given_again(stage: IbkrStage) -> None:
    lost = await reserved(await stage.connect(), stage.ticket())
    await asyncio.gather(*(broker.close() for broker in stage.brokers))
    successor = await stage.connect()
    taken = [str(lost.reserved_order_id), "2:9"]
    assert await successor.reserve(stage.ticket(), taken=taken) == "1:2"
    assert (await successor.place_order(lost)).broker_order_id == "1:1"


async def test_an_order_id_sent_by_a_successor_is_not_given_again(stage: IbkrStage) -> None:
    lost = await reserved(await stage.connect(), stage.ticket())
    await asyncio.gather(*(broker.close() for broker in stage.brokers))
    successor = await stage.connect()
    await successor.place_order(lost)
    assert await successor.reserve(stage.ticket()) == "1:2"


async def test_order_ids_go_on_after_a_restart_of_the_gateway(stage: IbkrStage) -> None:
    broker = await stage.connect()
    first = await place(broker, stage.ticket())
    await stage.gateway.restart()
    await unavailable(broker)
    await broker.connect()
    second = await place(broker, stage.ticket())
    assert (first.broker_order_id, second.broker_order_id) == ("1:1", "1:2")
    assert {report.status for report in (await broker.reports()).reports} == {ReportStatus.FILLED}


async def test_an_order_id_that_the_gateway_has_forgotten_is_not_given_again(
    stage: IbkrStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway told to begin its ids anew says 1, while its lists know higher ones."""
    stage.hold()
    first = await place(await stage.connect(), stage.ticket(OrderType.LIMIT))
    monkeypatch.setattr(stage.book, "next_order_id", lambda client_id: 1)
    await stage.gateway.restart()
    broker = await stage.connect()
    assert await broker.reserve(stage.ticket()) == "1:2"
    assert (await broker.reports()).reports[0].broker_order_id == first.broker_order_id == "1:1"
