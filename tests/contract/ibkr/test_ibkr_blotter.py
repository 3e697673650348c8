"""What the IBKR adapter remembers of orders, by itself: executions, corrections, commissions, ids, several orders under one tag."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from brokers.base import OrderType, ReportStatus
from brokers.errors import UndocumentedAnswer
from brokers.ibkr import codes
from brokers.ibkr.blotter import Blotter, Commission, Entry, Execution
from brokers.ibkr.times import Moment
from simulators.ibkr.gateway import OrderMessage
from tests.contract.ibkr.stage import IbkrStage, answer, reported, reserved


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


def nameless(blotter: Blotter, number: int, tag: str = "", *, version: int = 1, quantity: int = 10, **ids: int) -> None:
    """An execution that names no order, or by `ids` the one with that permanent or other id."""
    blotter.note_execution(
        **{"client_id": 0, "order_id": 0, "perm_id": 0} | ids,
        client_order_id=tag,
        execution=Execution(
            exec_id=f"0000e0d5.{number:02}.{version:02}",
            quantity=Decimal(quantity),
            price=Decimal(5),
            time=datetime.now(UTC),
        ),
    )


def shown(blotter: Blotter) -> dict[str, tuple[str, Decimal, list[str]]]:
    """By the broker's id of the order: its tag, what it has filled, and by which executions."""
    reports = blotter.reports(None)
    told = {
        report.broker_order_id: (
            report.client_order_id,
            report.filled_quantity,
            [fill.fill_id for fill in report.fills],
        )
        for report in reports
    }
    assert len(told) == len(reports)
    return told


@pytest.mark.parametrize("order_id", [-1, 0])
def test_an_execution_that_names_no_order_is_one_of_its_own_however_often_it_is_told(order_id: int) -> None:
    blotter = Blotter()
    for _ in range(3):
        blotter.begin_round()
        for number in (1, 2):
            nameless(blotter, number, order_id=order_id)
        blotter.end_round()
    assert shown(blotter) == {
        "x0000e0d5.01": ("", 10, ["0000e0d5.01.01"]),
        "x0000e0d5.02": ("", 10, ["0000e0d5.02.01"]),
    }
    assert {report.status for report in blotter.reports(None)} == {ReportStatus.FILLED}
    assert len(blotter.entries) == 2
    found = blotter.named("x0000e0d5.02")
    assert found is not None
    assert found.broker_order_id == "x0000e0d5.02"
    assert blotter.named("x0000e0d5.03") is None
    # Of an earlier day, once the lists have it no more.
    blotter.begin_round()
    blotter.end_round()
    blotter.forget_old()
    assert blotter.entries == []


def test_an_execution_that_names_no_order_and_is_annulled_has_filled_nothing() -> None:
    blotter = Blotter()
    nameless(blotter, 1)
    nameless(blotter, 1, version=2, quantity=0)
    assert shown(blotter) == {"x0000e0d5.01": ("", 0, [])}
    assert blotter.reports(None)[0].status is ReportStatus.CANCELLED


@pytest.mark.parametrize("numbers", [(1,), (1, 2)])
def test_an_execution_moves_to_the_order_that_it_names_later(numbers: tuple[int, ...]) -> None:
    blotter = Blotter()
    blotter.note_commission("0000e0d5.01.01", Commission(amount=Decimal(1), currency="USD"))
    for number in numbers:
        nameless(blotter, number)
    nameless(blotter, 3)
    mark = blotter.mark
    for number in numbers:
        nameless(blotter, number, perm_id=77)
    of_77 = [f"0000e0d5.0{number}.01" for number in numbers]
    told = {"x0000e0d5.03": ("", 10, ["0000e0d5.03.01"]), "p77": ("", 10 * len(numbers), of_77)}
    assert shown(blotter) == told
    (report,) = blotter.reports(mark)
    assert report.fills[0].commission == 1
    # It may have been booked under that name.
    assert report.earlier_ids == {f"0000e0d5.0{number}.01": f"x0000e0d5.0{number}" for number in numbers}
    # And back: it is of the order that is known.
    nameless(blotter, 1)
    nameless(blotter, 1, version=2, quantity=4)
    assert shown(blotter)["p77"][2][-1] == "0000e0d5.01.02"
    assert len(blotter.entries) == 2


@pytest.mark.parametrize("is_first", [True, False])
def test_an_execution_with_a_tag_and_no_id_is_of_the_order_with_that_tag(is_first: bool) -> None:
    blotter = Blotter()
    if is_first:
        nameless(blotter, 1, "a")
        assert blotter.reports(None)[0].status is ReportStatus.WORKING, "how much was ordered is not known"
    blotter.note_order(client_id=9, order_id=5, perm_id=900, client_order_id="a", status="Submitted")
    for _ in range(2):
        nameless(blotter, 1, "a")
    assert shown(blotter) == {"9:5": ("a", 10, ["0000e0d5.01.01"])}
    assert len(blotter.entries) == len(blotter.with_tag("a")) == 1
    assert blotter.reports(None)[0].earlier_ids == {}


@pytest.mark.parametrize("how", [{"tag": "a"}, {"perm_id": 900}, {"tag": "a", "perm_id": 900}])
@pytest.mark.parametrize("before", ["", "a"])
def test_an_execution_that_said_nothing_of_an_order_of_ours_moves_to_it(before: str, how: dict[str, Any]) -> None:
    blotter = Blotter()
    blotter.note_order(client_id=9, order_id=5, perm_id=900, client_order_id="a", status="Submitted")
    nameless(blotter, 1, before)
    nameless(blotter, 1, **how)
    nameless(blotter, 1, version=2, quantity=7)
    assert shown(blotter) == {"9:5": ("a", 7, ["0000e0d5.01.02"])}
    assert len(blotter.entries) == 1


def test_the_tag_of_an_execution_goes_with_it_to_the_order_that_it_names_later() -> None:
    blotter = Blotter()
    nameless(blotter, 1, "a")
    nameless(blotter, 1, perm_id=900)
    assert shown(blotter) == {"p900": ("a", 10, ["0000e0d5.01.01"])}
    assert blotter.with_tag("a") == blotter.entries


def test_which_of_several_orders_under_a_tag_an_execution_without_an_id_is_of_is_not_guessed() -> None:
    blotter = Blotter()
    for number in (5, 6):
        blotter.note_order(client_id=9, order_id=number, perm_id=number, client_order_id="a", status="Submitted")
    nameless(blotter, 1, "a")
    blotter.note_completed(perm_id=0, client_order_id="a", status="Filled", filled=Decimal(10), words="")
    assert shown(blotter) == {"9:5": ("a", 0, []), "9:6": ("a", 0, []), "x0000e0d5.01": ("a", 10, ["0000e0d5.01.01"])}
    assert {report.status for report in blotter.reports(None)} == {ReportStatus.WORKING}


def test_a_finished_order_without_a_permanent_id_is_the_one_with_its_tag() -> None:
    blotter = Blotter()
    blotter.note_order(client_id=9, order_id=5, perm_id=900, client_order_id="a", status="Submitted")
    for _ in range(3):
        blotter.begin_round()
        for tag in ("a", "b", ""):
            blotter.note_completed(perm_id=0, client_order_id=tag, status="Filled", filled=Decimal(10), words="")
        blotter.end_round()
    assert [(each.client_order_id, each.report_status) for each in blotter.entries] == [
        ("a", ReportStatus.FILLED),
        ("b", ReportStatus.FILLED),
    ]
    blotter.note_order(client_id=9, order_id=6, perm_id=0, client_order_id="b", status="Submitted")
    assert set(shown(blotter)) == {"9:5", "9:6"}


def test_an_open_order_that_names_nothing_is_no_order_anew_in_each_round() -> None:
    blotter = Blotter()
    for _ in range(3):
        blotter.begin_round()
        assert blotter.note_order(client_id=0, order_id=0, perm_id=0, client_order_id="", status="Submitted") is None
        blotter.end_round()
    assert blotter.entries == []


@pytest.mark.parametrize("order_id", [-1, 0])
def test_liquidations_which_all_have_the_same_order_id_are_orders_of_their_own(order_id: int) -> None:
    # Lean.Brokerages.InteractiveBrokers issue 156: client id 0 and order id -1, and a permanent id beyond 32 bits.
    blotter = Blotter()
    for number in (1, 2):
        execution = Execution(
            exec_id=f"00025b45.67f26a7{number}.01.01",
            quantity=Decimal(500),
            price=Decimal(21),
            time=datetime.now(UTC),
        )
        blotter.note_execution(
            client_id=0, order_id=order_id, perm_id=17437899455 + number, client_order_id="", execution=execution
        )
    # A status that names no permanent id is of none of them.
    assert blotter.note_status(client_id=0, order_id=order_id, perm_id=0, status="Filled", filled=Decimal(9)) is None
    reports = blotter.reports(None)
    assert [report.broker_order_id for report in reports] == ["p17437899456", "p17437899457"]
    assert [report.filled_quantity for report in reports] == [500, 500]


@pytest.mark.parametrize("order_id", [77, -3, 0])
def test_an_execution_under_another_order_id_is_of_the_order_with_its_permanent_id(order_id: int) -> None:
    # nautilus_trader issues 4970 and 3465: executions and open orders are told under ids that were not sent, or 0.
    blotter = Blotter()
    execution = Execution(exec_id="0000e0d5.01.01", quantity=Decimal(10), price=Decimal(5), time=datetime.now(UTC))
    blotter.note_order(client_id=9, order_id=5, perm_id=900, client_order_id="a", status="Submitted")
    blotter.note_execution(client_id=0, order_id=order_id, perm_id=900, client_order_id="a", execution=execution)
    blotter.note_order(client_id=0, order_id=order_id, perm_id=900, client_order_id="a", status="Submitted")
    blotter.note_status(client_id=0, order_id=order_id, perm_id=900, status="Filled", filled=Decimal(10))
    (report,) = blotter.reports(None)
    assert (report.broker_order_id, report.status, len(report.fills)) == ("9:5", ReportStatus.FILLED, 1)


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


async def test_a_filled_order_whose_count_is_not_told_is_filled_with_what_was_ordered(stage: IbkrStage) -> None:
    """Its executions of other days are not shown: what is shown is not all that there was."""
    broker = await stage.connect()
    state = SimpleNamespace(status="Filled", completedStatus="Filled")
    done = SimpleNamespace(
        account=stage.book.account_id, permId=77, orderRef="tag", filledQuantity=None, totalQuantity=100.0
    )
    broker.on_completed_order(done, state)
    assert [e.filled_quantity for e in broker._blotter.with_tag("tag")] == [100]


async def test_an_execution_that_names_no_tag_acknowledges_the_order_of_its_id(stage: IbkrStage, soon: None) -> None:
    """What was said on that id before is then no refusal of it."""
    broker = await stage.connect()
    stage.gateway.answer_orders_with(
        OrderMessage(code=10268, text="The 'EtradeOnly' order attribute is not supported.")
    )
    ticket = await reserved(broker, stage.ticket())
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    client_id, _, order_id = (ticket.reserved_order_id or "").partition(":")
    execution = SimpleNamespace(
        acctNumber=stage.book.account_id,
        clientId=int(client_id),
        orderId=int(order_id),
        permId=0,
        orderRef="",
        execId="0000e0d5.01.01",
        shares=10.0,
        price=100.25,
    )
    broker.on_execution(
        execution, Moment(at=datetime(2026, 11, 27, 15, tzinfo=UTC)), SimpleNamespace(secType="STK", conId=0)
    )
    for _ in range(5):
        assert await broker.find(ticket.client_order_id) is None  # the lists do not have it, which alone is no refusal
        await asyncio.sleep(0.2)


async def test_what_is_said_of_the_opening_before_a_late_acknowledgement_is_kept(stage: IbkrStage, soon: None) -> None:
    """It is said once. A stop is shown like an order that is held, and here says nothing of it."""
    words = "Warning: your order will not be placed at the exchange until 2026-11-30 09:30:00 US/Eastern"
    stage.hold()
    answer(stage, codes.ORDER_MESSAGE, words, taken_after=0.6)
    broker = await stage.connect()
    ticket = await reserved(broker, stage.ticket(OrderType.STOP))
    with pytest.raises(UndocumentedAnswer):
        await broker.place_order(ticket)
    report = await reported(broker, ticket)
    assert (report.status, report.is_held) == (ReportStatus.WORKING, True)
    assert report.held_until == datetime(2026, 11, 30, 14, 30, tzinfo=UTC)
