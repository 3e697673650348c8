"""A session of very many orders at IBKR: each costs the same work as the first, what is remembered is bounded, and late words are understood."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import FrameType

import pytest

import brokers.ibkr.adapter as adapter_module
from brokers.base import Instrument, OrderRef, OrderType, ReportStatus, Side, Ticket
from brokers.ibkr.adapter import IbkrBroker, create
from brokers.ibkr.blotter import Blotter, Commission, Execution
from brokers.paper.model import Action, Fault, Market, Operation
from simulators.ibkr.gateway import TwsSimulator
from simulators.stage_ibkr import LAST_PRICE, config_for, serving_tws
from tests.waits import until

MANY = 100_000
OF_THE_ADAPTER = str(Path(adapter_module.__file__).parent)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[TwsSimulator]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(serving_tws(tmp_path, "DU000001", Market()))


def ticket(tag: str, order_type: OrderType = OrderType.MARKET) -> Ticket:
    return Ticket(
        client_order_id=tag,
        instrument=Instrument(symbol="SPY"),
        side=Side.BUY,
        quantity=Decimal(10),
        order_type=order_type,
        limit_price=LAST_PRICE if order_type is OrderType.LIMIT else None,
        reference_price=LAST_PRICE,
    )


class Work:
    """Counts what the interpreter does in the adapter's own modules: every step, those of loops among them."""

    def __init__(self) -> None:
        self.steps = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if not frame.f_code.co_filename.startswith(OF_THE_ADAPTER):
            return None
        frame.f_trace_opcodes = True
        self.steps += event == "opcode"
        return self._trace


def fill_up(blotter: Blotter, number: int) -> None:
    """So many orders of the day, filled, with an execution and its commission each."""
    for order in range(1, number + 1):
        tag, exec_id = f"o{order:018d}", f"x{order}.01"
        ids = {"client_id": 90, "order_id": order, "perm_id": 10_000_000 + order}
        blotter.note_order(**ids, client_order_id=tag, status="Filled")
        blotter.note_execution(
            **ids,
            client_order_id=tag,
            execution=Execution(exec_id=exec_id, quantity=Decimal(1), price=Decimal(5), time=NOON),
        )
        blotter.note_commission(exec_id, Commission(amount=Decimal(1), currency="USD"))


async def steps_of_two_orders(gateway: TwsSimulator, after: int, prefix: str) -> int:
    """One that fills, one that is cancelled, each asked about by the mark, after so many others of the same session."""
    broker = create({**config_for(gateway), "poll_seconds": 3600})
    assert isinstance(broker, IbkrBroker)
    await broker.connect()
    fill_up(broker._blotter, after)
    await broker.fitted(ticket(f"{prefix}0"))  # the contract is known from here on
    mark = broker._blotter.mark
    work = Work()
    filled, resting = ticket(f"{prefix}1"), ticket(f"{prefix}2", OrderType.LIMIT)
    try:
        with work.counted():
            answer = await broker.place_order(replace(filled, reserved_order_id=await broker.reserve(filled)))
        await until(lambda: broker._blotter.with_tag(filled.client_order_id)[0].is_final)
        gateway.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
        with work.counted():
            resting_answer = await broker.place_order(replace(resting, reserved_order_id=await broker.reserve(resting)))
            await broker.cancel_order(OrderRef(client_order_id=resting.client_order_id))
            told = await broker.reports(mark)
            execution = Execution(exec_id=f"{prefix}9.01", quantity=Decimal(1), price=Decimal(5), time=NOON)
            broker._blotter.note_execution(
                client_id=90, order_id=1, perm_id=10_000_001, client_order_id="", execution=execution
            )
            late = Commission(amount=Decimal(2), currency="USD")
            broker._blotter.note_commission(execution.exec_id, late)
        assert {report.broker_order_id for report in told.reports} == {
            answer.broker_order_id,
            resting_answer.broker_order_id,
        }
        assert broker._blotter.named(answer.broker_order_id) is not None
    finally:
        await broker.close()
    return work.steps


async def test_an_order_costs_as_much_work_after_a_hundred_thousand_as_after_ten(gateway: TwsSimulator) -> None:
    """Steps are counted and no seconds; a look at each of the others would be hundreds of times as many."""
    few = await steps_of_two_orders(gateway, 10, "a")
    many = await steps_of_two_orders(gateway, MANY, "b")
    assert 500 < many < 2 * few


def test_late_words_about_any_order_of_the_day_are_understood() -> None:
    blotter = Blotter()
    blotter.begin_round()
    fill_up(blotter, MANY)
    blotter.end_round()
    mark = blotter.mark
    late = Execution(exec_id="x1.02", quantity=Decimal(2), price=Decimal(6), time=NOON)
    blotter.note_execution(client_id=90, order_id=1, perm_id=10_000_001, client_order_id="", execution=late)
    blotter.note_commission("x2.01", Commission(amount=Decimal(7), currency="USD"))
    corrected, charged = blotter.reports(mark)
    assert (corrected.client_order_id, corrected.busted_fill_ids) == (f"o{1:018d}", {"x1.01"})
    assert [(fill.fill_id, fill.quantity) for fill in corrected.fills] == [("x1.02", 2)]
    assert [(fill.fill_id, fill.commission) for fill in charged.fills] == [("x2.01", 7)]
    assert len(blotter.entries) == MANY


def test_what_belongs_to_another_day_is_forgotten_with_all_that_hangs_on_it() -> None:
    blotter = Blotter()
    blotter.begin_round()
    fill_up(blotter, 100)
    working = {"client_id": 90, "order_id": 500, "perm_id": 500, "client_order_id": "working"}
    blotter.note_order(**working, status="Submitted")
    blotter.end_round()
    blotter.begin_round()
    blotter.note_order(**working, status="Submitted")
    blotter.end_round()
    blotter.forget_old()
    assert [entry.client_order_id for entry in blotter.entries] == ["working"]
    assert blotter.with_tag(f"o{1:018d}") == []
    assert blotter.named("90:1") is None
    assert blotter._commissions == {}
    assert [report.client_order_id for report in blotter.reports(None)] == ["working"]


async def test_a_session_that_lasts_forgets_the_orders_of_the_day_before(gateway: TwsSimulator) -> None:
    now = NOON
    broker = create({**config_for(gateway), "poll_seconds": 0})
    assert isinstance(broker, IbkrBroker)
    broker._clock = lambda: now
    await broker.connect()
    try:
        fill_up(broker._blotter, 50)
        await broker.reports()
        assert len(broker._blotter.entries) == 50, "the same day: they may only be missing"
        now = datetime(2026, 11, 28, 0, 5, tzinfo=UTC)
        await broker.reports()
        assert broker._blotter.entries == []
    finally:
        await broker.close()


async def test_no_more_than_so_many_sent_orders_are_remembered(
    gateway: TwsSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_module, "_SENT_REMEMBERED", 3)
    broker = create(config_for(gateway))
    assert isinstance(broker, IbkrBroker)
    await broker.connect()
    try:
        for number in range(6):
            each = ticket(f"s{number}")
            answer = await broker.place_order(replace(each, reserved_order_id=await broker.reserve(each)))
            assert answer.status in (ReportStatus.WORKING, ReportStatus.FILLED)
        assert list(broker._sent) == ["s3", "s4", "s5"]
    finally:
        await broker.close()
