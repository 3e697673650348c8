"""Orders that IBKR answers by words alone: what its codes mean, what proves that an order was refused, and what does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from brokers.base import OrderRef, OrderType, ReportStatus
from brokers.errors import BrokerUnavailable, OrderAlreadyExists, OrderRefused, OutcomeUnknown, UndocumentedAnswer
from brokers.ibkr import adapter as ibkr
from brokers.ibkr import codes
from brokers.ibkr.unacknowledged import Unacknowledged
from brokers.paper.model import Action, Operation
from simulators.ibkr import wire
from simulators.ibkr.wire import Ask
from tests.contract.ibkr.stage import NEVER, IbkrStage, answer, connected, filled, found, place, reported, reserved
from tests.waits import PATIENCE_SECONDS, until


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


async def test_a_code_that_nobody_knows_is_no_refusal_and_the_order_is_looked_for(stage: IbkrStage) -> None:
    broker = await stage.connect(answer_seconds=0.3)
    ticket = await reserved(broker, stage.ticket())
    stage.gateway.silent.add(Ask.PLACE_ORDER)
    placement = asyncio.create_task(broker.place_order(ticket))
    await until(lambda: bool(stage.heard(Ask.PLACE_ORDER)))
    stage.gateway.sessions[0].send(wire.error(1, 99999, "Something new"))
    with pytest.raises(OutcomeUnknown):
        await placement


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


@pytest.mark.parametrize(("code", "text"), [*ALONE, *REMARKS, (133, "Submit new order failed")])
async def test_words_alone_and_two_whole_looks_are_a_refusal_in_those_words(
    stage: IbkrStage, soon: None, code: int, text: str
) -> None:
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    answer(stage, code, text)
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
    assert len(stage.heard(Ask.PLACE_ORDER)) == 1
    assert (await place(broker, stage.ticket())).broker_order_id == "1:2"


@pytest.mark.parametrize(("code", "text"), [*ALONE, *REMARKS, *REFUSALS, *NOTHING_TAKEN])
@pytest.mark.parametrize("is_taken_first", [True, False])
async def test_words_beside_an_order_that_works_end_nothing(
    stage: IbkrStage, soon: None, code: int, text: str, is_taken_first: bool
) -> None:
    stage.hold()
    answer(stage, code, text, taken_after=0.05, is_taken_first=is_taken_first)
    broker = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    assert (await place(broker, ticket)).status is ReportStatus.WORKING
    stage.gateway.send_order_error("1:1", code, text)
    for _ in range(3):
        report = await broker.find(ticket.client_order_id)
        assert report is not None
        assert report.status is ReportStatus.WORKING
        await asyncio.sleep(0.3)
    stage.book.fill_order(OrderRef(client_order_id="", broker_order_id="1:1"))
    await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)


async def test_an_order_that_is_acknowledged_after_the_words_works(stage: IbkrStage, soon: None) -> None:
    stage.hold()
    answer(stage, 31999, "?", taken_after=0.5)
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket(OrderType.LIMIT))
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    await reported(broker, ticket, lambda report: report.status is ReportStatus.WORKING)
    await asyncio.sleep(0.5)
    assert (await found(broker, ticket)).status is ReportStatus.WORKING


async def test_a_status_alone_acknowledges_an_order_that_was_answered_by_words(stage: IbkrStage, soon: None) -> None:
    answer(stage, 31999, "?")
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket(OrderType.LIMIT))
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    broker.on_order_status(1, "PreSubmitted", 0.0, 77, 1)
    await asyncio.sleep(0.5)
    assert [await broker.find(ticket.client_order_id) for _ in range(3)][2] is None


async def test_an_order_that_fills_after_it_was_found_refused_is_told_with_its_fill(
    stage: IbkrStage, soon: None
) -> None:
    answer(stage, 31999, "?", taken_after=1.5)
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    assert (await found(broker, ticket)).status is ReportStatus.REJECTED
    report = await reported(broker, ticket, lambda report: report.status is ReportStatus.FILLED)
    assert filled(report) == 10


async def test_a_look_that_is_not_whole_is_no_evidence(stage: IbkrStage, soon: None) -> None:
    answer(stage, 31999, "?")
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    stage.arm(Operation.REPORTS, Action.UNAVAILABLE, times=3)
    for _ in range(3):
        await asyncio.sleep(0.2)
        with pytest.raises(BrokerUnavailable):
            await broker.find(ticket.client_order_id)
    await broker.connect()
    assert (await found(broker, ticket)).status is ReportStatus.REJECTED


async def test_the_words_outlive_the_session_in_which_they_were_said(stage: IbkrStage, soon: None) -> None:
    answer(stage, 10311, "Directly routed", times=None)
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    placement = asyncio.create_task(broker.place_order(ticket))
    await until(lambda: bool(stage.heard(Ask.PLACE_ORDER)))
    await asyncio.sleep(0.05)
    stage.gateway.drop_sessions()
    with pytest.raises(UndocumentedAnswer, match="10311"):
        await placement
    await connected(broker)
    with pytest.raises(UndocumentedAnswer, match="10311"):
        await broker.place_order(ticket)
    assert (await found(broker, ticket)).reason == "Directly routed (code 10311)"
    assert len(stage.heard(Ask.PLACE_ORDER)) == 1


async def test_words_that_come_after_the_wait_for_an_answer_are_heard_too(stage: IbkrStage, soon: None) -> None:
    broker = await stage.connect(answer_seconds=0.2)
    ticket = await reserved(broker, stage.ticket())
    stage.gateway.silent.add(Ask.PLACE_ORDER)
    with pytest.raises(OutcomeUnknown, match="No answer"):
        await broker.place_order(ticket)
    stage.gateway.sessions[0].send(wire.error(1, 10311, "Directly routed"))
    stage.gateway.sessions[0].send(wire.error(1, 201, "Order was discarded"))
    report = await found(broker, ticket)
    assert report.status is ReportStatus.REJECTED
    assert report.reason == "Directly routed (code 10311); Order was discarded (code 201)"


async def test_words_on_a_repeated_sending_prove_nothing_of_the_first(stage: IbkrStage, soon: None) -> None:
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    answer(stage, 31999, "?")
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(replace(ticket, is_repetition=True))
    await asyncio.sleep(0.5)
    assert [await broker.find(ticket.client_order_id) for _ in range(4)] == [None] * 4


@pytest.mark.parametrize("code", [103, 105, 134, 2102])
@pytest.mark.parametrize("is_repetition", [True, False])
async def test_words_of_an_order_under_the_id_refuse_only_what_has_never_left_before(
    stage: IbkrStage, soon: None, code: int, is_repetition: bool
) -> None:
    broker = await stage.connect()
    ticket = replace(await reserved(broker, stage.ticket()), is_repetition=is_repetition)
    answer(stage, code, "Something is there")
    with pytest.raises(OrderAlreadyExists):
        await broker.place_order(ticket)
    assert await broker.find(ticket.client_order_id) is None
    await asyncio.sleep(0.9)
    report = [await broker.find(ticket.client_order_id) for _ in range(2)][1]
    assert (report is None) is is_repetition


async def test_a_repetition_without_an_answer_is_waited_for_less(
    stage: IbkrStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibkr, "_REPEATED_SECONDS", 0.1)
    broker = await stage.connect(answer_seconds=NEVER)
    ticket = replace(await reserved(broker, stage.ticket()), is_repetition=True)
    stage.gateway.silent.add(Ask.PLACE_ORDER)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(OutcomeUnknown, match="No answer"):
            await broker.place_order(ticket)


async def test_a_ticket_that_has_left_in_this_process_is_a_repetition_though_it_does_not_say_so(
    stage: IbkrStage, soon: None
) -> None:
    stage.arm(Operation.PLACE, Action.NEVER_ANSWER, accepted=False)
    broker = await stage.connect(answer_seconds=0.2)
    ticket = await reserved(broker, stage.ticket())
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket)
    answer(stage, 31999, "?")
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    await asyncio.sleep(0.5)
    assert [await broker.find(ticket.client_order_id) for _ in range(3)] == [None] * 3


async def test_a_refusal_before_the_order_is_shown_as_inactive_is_its_reason(stage: IbkrStage) -> None:
    stage.hold()
    stage.gateway.held.append("1:1")
    answer(stage, 201, "Order rejected - reason:No margin", taken_after=0.6)
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket(OrderType.LIMIT))
    with pytest.raises(OrderRefused, match="No margin"):
        await broker.place_order(ticket)
    report = await reported(broker, ticket)
    assert report.status is ReportStatus.REJECTED
    assert "No margin" in (report.reason or "")


async def test_a_text_without_end_and_in_lines_is_cut_and_put_on_one(stage: IbkrStage) -> None:
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket())
    answer(stage, 201, "Order rejected\n" + "x" * 100_000)
    with pytest.raises(OrderRefused, match=r"^Order rejected x+… .code 201.$") as refused:
        await broker.place_order(ticket)
    assert len(refused.value.reason) < 600


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
