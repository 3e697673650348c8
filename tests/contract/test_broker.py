"""What every adapter must show, whatever its broker; the truth is read from the venue's book, never from the adapter."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Broker, OrderRef, OrderType, Report, ReportStatus, Side, Ticket, Tif
from brokers.errors import BrokerUnavailable, OrderAlreadyExists, OrderRefused, OutcomeUnknown
from brokers.factory import BrokerFactory
from brokers.manifest import Fact
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.simulator import Stage
from tests.contract.broker_adapters import ACCOUNT, ADAPTERS, Adapter
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PRICE = Decimal("100.25")
CHILD = """
import asyncio, json, sys
from decimal import Decimal
from brokers.base import AssetClass, Instrument, OrderType, Side, Ticket
from brokers.errors import OrderAlreadyExists
from brokers.factory import BrokerFactory
from brokers.manifest import Fact

async def main(config, symbol, asset_class, product, ids):
    broker = BrokerFactory.create_broker(config)
    await broker.connect()
    print("connected", flush=True)
    sys.stdin.readline()
    for client_id in ids:
        ticket = Ticket(client_order_id=client_id, instrument=Instrument(symbol=symbol, asset_class=AssetClass(asset_class)), side=Side.BUY,
                        quantity=Decimal(10), order_type=OrderType.MARKET, reference_price=Decimal("100.25"), product=product)
        try:
            await broker.place_order(ticket)
            print("placed", client_id, flush=True)
        except OrderAlreadyExists:
            print("exists", client_id, flush=True)
    await broker.close()
    print("done", flush=True)

asyncio.run(main(*json.loads(sys.argv[1])))
"""


class Bench:
    """One adapter on its stage, with the shorthands of the tests."""

    def __init__(self, adapter: Adapter, stage: Stage, stack: AsyncExitStack) -> None:
        self.adapter = adapter
        self.stage = stage
        self._stack = stack
        self._numbers = itertools.count(1)

    async def connect(self) -> Broker:
        """One more adapter on the same account."""
        broker = BrokerFactory.create_broker(self.stage.config)
        self._stack.push_async_callback(broker.close)
        await broker.connect()
        return broker

    def needs(self, fact: Fact) -> None:
        if fact not in self.adapter.facts:
            pytest.skip(f"{self.adapter.name}: not a venue where {fact}")

    def ticket(self, order_type: OrderType = OrderType.MARKET, **changes: object) -> Ticket:
        ticket = Ticket(
            client_order_id=f"t{next(self._numbers):018d}",
            instrument=self.adapter.instrument,
            side=Side.BUY,
            quantity=Decimal(10),
            order_type=order_type,
            limit_price=PRICE if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            stop_price=PRICE if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
            reference_price=PRICE,
            product=self.adapter.product,
        )
        return replace(ticket, **changes)

    def arm(self, operation: Operation, action: Action, **fields: object) -> None:
        self.stage.exchange.add_fault(Fault(operation=operation, action=action, **fields))

    def hold(self) -> None:
        """From now on nothing is filled by itself."""
        self.arm(Operation.PLACE, Action.HOLD, times=None)

    def truth(self, ticket: Ticket) -> PaperOrder:
        (order,) = self.stage.exchange.orders(ticket.client_order_id)
        return order

    def count(self) -> Counter[str]:
        return Counter(order.ticket.client_order_id for order in self.stage.exchange.orders())


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return request.param


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
async def bench(adapter: Adapter, market: Market, tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(adapter.open_stage(tmp_path, market))
        yield Bench(adapter, stage, stack)


async def place(broker: Broker, ticket: Ticket) -> Report:
    reserved = await broker.reserve(ticket)
    return await broker.place_order(replace(ticket, reserved_order_id=reserved))


async def until(probe: Callable[[], Awaitable[Report | None]], holds: Callable[[Report], bool]) -> Report:
    """The first report that holds; asked again and again, since a venue takes its time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            report = await probe()
            if report is not None and holds(report):
                return report
            await asyncio.sleep(0.01)


async def reported(broker: Broker, ticket: Ticket, holds: Callable[[Report], bool] = lambda report: True) -> Report:
    """What `reports` says about the order, as soon as it holds."""

    async def probe() -> Report | None:
        answer = await broker.reports()
        return next((each for each in answer.reports if each.client_order_id == ticket.client_order_id), None)

    return await until(probe, holds)


def is_now(status: ReportStatus) -> Callable[[Report], bool]:
    return lambda report: report.status is status


def ref(report: Report) -> OrderRef:
    return OrderRef(client_order_id=report.client_order_id, broker_order_id=report.broker_order_id)


def filled(report: Report) -> Decimal:
    return sum((fill.quantity for fill in report.fills), Decimal(0))


def charged(bench: Bench, ticket: Ticket) -> Decimal:
    """The commission of the order by the venue's book."""
    return sum((fill.commission for fill in bench.truth(ticket).fills), Decimal(0))


async def give_up(bench: Bench, broker: Broker, ticket: Ticket, *, accepted: bool) -> None:
    """Places into an armed NEVER_ANSWER and stops waiting once the book is as far as it will get."""
    placement = asyncio.create_task(place(broker, ticket))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            spent = not bench.stage.exchange.armed_faults(Operation.PLACE)
            if spent and bench.count()[ticket.client_order_id] == accepted:
                break
            await asyncio.sleep(0.01)
    assert not placement.done()
    placement.cancel()
    with pytest.raises((asyncio.CancelledError, OutcomeUnknown)):
        await placement


# Placing


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("order_type", OrderType)
async def test_each_order_type_is_placed_as_written_and_filled(bench: Bench, order_type: OrderType, side: Side) -> None:
    broker = await bench.connect()
    if order_type not in broker.capabilities.order_types:
        pytest.skip(f"{bench.adapter.name} has no {order_type} orders")
    ticket = bench.ticket(order_type, side=side)
    answer = await place(broker, ticket)
    report = await reported(broker, ticket, is_now(ReportStatus.FILLED))
    order = bench.truth(ticket)
    assert answer.client_order_id == ticket.client_order_id
    assert report.broker_order_id == answer.broker_order_id == order.broker_order_id
    assert (order.ticket.side, order.ticket.quantity, order.ticket.order_type) == (side, Decimal(10), order_type)
    assert (order.ticket.limit_price, order.ticket.stop_price) == (ticket.limit_price, ticket.stop_price)
    assert filled(report) == report.filled_quantity == Decimal(10)
    assert [fill.price for fill in report.fills] == [PRICE]
    assert report.fills[0].fill_id == order.fills[0].fill_id
    assert report.fills[0].time.tzinfo is not None
    assert bench.count() == {ticket.client_order_id: 1}


async def test_the_answer_to_placing_carries_an_immediate_fill(bench: Bench) -> None:
    bench.needs(Fact.FILLS_AT_ONCE)
    broker = await bench.connect()
    report = await place(broker, bench.ticket())
    assert report.status is ReportStatus.FILLED
    assert filled(report) == Decimal(10)
    assert report.fills[0].commission == Decimal("1.00")


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.05, partial_fill_rate=1.0, seed=4)])
async def test_a_part_is_reported_before_the_rest(bench: Bench) -> None:
    broker = await bench.connect()
    ticket = bench.ticket()
    first = await place(broker, ticket)
    assert first.status is ReportStatus.WORKING
    part = await reported(broker, ticket, lambda report: len(report.fills) >= 1)
    whole = await reported(broker, ticket, is_now(ReportStatus.FILLED))
    assert part.fills[0] == whole.fills[0]
    assert len(whole.fills) == 2
    assert filled(whole) == Decimal(10)
    assert whole.fills[0].time <= whole.fills[1].time
    assert sum(fill.commission for fill in whole.fills) == charged(bench, ticket)


async def test_an_order_of_which_a_part_is_shown_is_one_order(bench: Bench) -> None:
    broker = await bench.connect()
    if not broker.capabilities.takes_display_quantity:
        pytest.skip(f"{bench.adapter.name} shows every order whole")
    bench.hold()
    bench.arm(Operation.PLACE, Action.ACCEPT_THEN_DROP)
    ticket = bench.ticket(OrderType.LIMIT, display_quantity=Decimal(4))
    with pytest.raises(OutcomeUnknown):
        await place(broker, ticket)
    broker = await bench.connect()
    found = await until(lambda: broker.find(ticket.client_order_id), lambda report: True)
    assert bench.truth(ticket).ticket.display_quantity == 4
    bench.stage.exchange.fill_order(ref(found), Decimal(5))
    part = await reported(broker, ticket, lambda report: report.filled_quantity == Decimal(5))
    assert (part.status, filled(part), part.broker_order_id) == (
        ReportStatus.WORKING, Decimal(5), found.broker_order_id
    )  # fmt: skip
    await broker.cancel_order(ref(found))
    ended = await reported(broker, ticket, is_now(ReportStatus.CANCELLED))
    assert (ended.filled_quantity, filled(ended)) == (Decimal(5), Decimal(5))
    assert bench.truth(ticket).status is ReportStatus.CANCELLED
    assert bench.count() == {ticket.client_order_id: 1}


@pytest.mark.parametrize("market", [Market(partial_fill_rate=1.0, seed=4)])
async def test_an_ioc_order_takes_what_there_is_and_ends(bench: Bench) -> None:
    broker = await bench.connect()
    if Tif.IOC not in broker.capabilities.tifs:
        pytest.skip(f"{bench.adapter.name} has no IOC orders")
    ticket = bench.ticket(OrderType.LIMIT, tif=Tif.IOC)
    await place(broker, ticket)
    report = await reported(broker, ticket, is_now(ReportStatus.CANCELLED))
    assert 0 < filled(report) == report.filled_quantity < 10


async def test_a_rejection_is_told_with_its_reason(bench: Bench) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.REJECT, reason="Insufficient margin")
    ticket = bench.ticket()
    try:
        report = await place(broker, ticket)
        if Fact.REJECTS_AT_ONCE not in bench.adapter.facts:
            report = await reported(broker, ticket, is_now(ReportStatus.REJECTED))
    except OrderRefused as refusal:
        status, reason = ReportStatus.REJECTED, refusal.reason
    else:
        status, reason = report.status, report.reason
    assert status is ReportStatus.REJECTED
    assert reason
    if Fact.SILENT_ENDINGS not in bench.adapter.facts:
        assert "Insufficient margin" in reason
    assert all(not order.fills for order in bench.stage.exchange.orders())


async def test_a_refusal_leaves_nothing_in_the_book(bench: Bench) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.REFUSE, reason="Market closed")
    ticket = bench.ticket()
    with pytest.raises(OrderRefused, match="Market closed"):
        await place(broker, ticket)
    assert bench.count() == {}
    assert await broker.find(ticket.client_order_id) is None


async def test_a_ticket_without_its_price_is_refused_before_it_is_sent(bench: Bench) -> None:
    broker = await bench.connect()
    with pytest.raises(OrderRefused, match="price"):
        await place(broker, bench.ticket(OrderType.LIMIT, limit_price=None))
    assert bench.count() == {}


async def test_a_repeated_client_id_is_refused_for_ever(bench: Bench) -> None:
    broker = await bench.connect()
    if not broker.capabilities.refuses_repeated_client_id:
        pytest.skip(f"{bench.adapter.name} takes a client id twice")
    ticket = bench.ticket()
    first = await place(broker, ticket)
    again = replace(ticket, quantity=Decimal(99), reserved_order_id=first.broker_order_id)
    with pytest.raises(OrderAlreadyExists):
        await broker.place_order(again)
    with pytest.raises(OrderAlreadyExists):
        await (await bench.connect()).place_order(again)
    assert bench.count() == {ticket.client_order_id: 1}
    assert bench.truth(ticket).ticket.quantity == Decimal(10)


async def test_many_orders_at_once_are_each_placed_once(bench: Bench) -> None:
    broker = await bench.connect()
    tickets = [bench.ticket() for _ in range(40)]
    await asyncio.gather(*(place(broker, ticket) for ticket in tickets))
    assert bench.count() == {ticket.client_order_id: 1 for ticket in tickets}


async def test_before_connecting_nothing_is_sent(bench: Bench) -> None:
    broker = BrokerFactory.create_broker(bench.stage.config)
    with pytest.raises(BrokerUnavailable):
        await broker.place_order(bench.ticket())
    with pytest.raises(BrokerUnavailable):
        await broker.reports()
    await broker.close()
    assert bench.count() == {}


async def test_a_refused_session_is_no_session(bench: Bench) -> None:
    bench.arm(Operation.CONNECT, Action.UNAVAILABLE)
    broker = BrokerFactory.create_broker(bench.stage.config)
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    with pytest.raises(BrokerUnavailable):
        await broker.place_order(bench.ticket())
    await broker.connect()
    await place(broker, bench.ticket())
    await broker.close()


async def test_a_closed_adapter_can_be_connected_again(bench: Bench) -> None:
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await broker.find(ticket.client_order_id)
    await broker.connect()
    assert await broker.find(ticket.client_order_id) is not None


# Cancelling


async def test_a_cancelled_order_is_reported_so(bench: Bench) -> None:
    broker = await bench.connect()
    bench.hold()
    ticket = bench.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    await broker.cancel_order(ref(answer))
    report = await reported(broker, ticket, is_now(ReportStatus.CANCELLED))
    assert report.fills == ()
    assert bench.truth(ticket).status is ReportStatus.CANCELLED


async def test_an_order_of_an_earlier_session_is_cancelled_too(bench: Bench) -> None:
    bench.hold()
    earlier = await bench.connect()
    ticket = bench.ticket(OrderType.LIMIT)
    answer = await place(earlier, ticket)
    await earlier.close()
    broker = await bench.connect()
    await broker.cancel_order(ref(answer))
    await reported(broker, ticket, is_now(ReportStatus.CANCELLED))


async def test_a_cancel_after_the_fill_is_refused(bench: Bench) -> None:
    broker = await bench.connect()
    ticket = bench.ticket()
    answer = await place(broker, ticket)
    await reported(broker, ticket, is_now(ReportStatus.FILLED))
    with pytest.raises(OrderRefused):
        await broker.cancel_order(ref(answer))
    assert bench.truth(ticket).status is ReportStatus.FILLED


async def test_a_cancel_of_an_unknown_order_is_refused(bench: Bench) -> None:
    broker = await bench.connect()
    with pytest.raises(OrderRefused):
        await broker.cancel_order(OrderRef(client_order_id="t999999999999999999", broker_order_id="999999999"))


async def test_a_fill_that_overtakes_the_cancel_is_reported(bench: Bench) -> None:
    broker = await bench.connect()
    bench.hold()
    bench.arm(Operation.CANCEL, Action.CANCEL_RACE)
    ticket = bench.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    await broker.cancel_order(ref(answer))
    report = await reported(broker, ticket, is_now(ReportStatus.FILLED))
    assert filled(report) == Decimal(10)


async def test_a_fill_after_the_cancel_is_reported(bench: Bench) -> None:
    broker = await bench.connect()
    bench.hold()
    bench.arm(Operation.CANCEL, Action.LATE_FILL_AFTER_CANCEL, quantity=Decimal(3), seconds=0.05)
    ticket = bench.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    await broker.cancel_order(ref(answer))
    report = await reported(broker, ticket, lambda report: bool(report.fills))
    assert filled(report) == Decimal(3)
    assert bench.truth(ticket).status is ReportStatus.CANCELLED


async def test_an_ignored_cancel_leaves_the_order_working(bench: Bench) -> None:
    broker = await bench.connect()
    bench.hold()
    bench.arm(Operation.CANCEL, Action.IGNORE_CANCEL)
    ticket = bench.ticket(OrderType.LIMIT)
    wish = ref(await place(broker, ticket))
    await broker.cancel_order(wish)
    assert (await reported(broker, ticket)).status is ReportStatus.WORKING
    await broker.cancel_order(wish)
    await reported(broker, ticket, is_now(ReportStatus.CANCELLED))


# Unclear outcomes


@pytest.mark.parametrize("action", [Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT])
async def test_a_lost_answer_is_an_unknown_outcome_and_the_order_is_found_where_it_exists(
    bench: Bench, action: Action
) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, action)
    ticket = bench.ticket()
    with pytest.raises(OutcomeUnknown):
        await place(broker, ticket)
    successor = await bench.connect()
    if action is Action.ACCEPT_THEN_DROP:
        found = await until(lambda: successor.find(ticket.client_order_id), lambda report: True)
        assert found.broker_order_id == bench.truth(ticket).broker_order_id
    else:
        assert await successor.find(ticket.client_order_id) is None
        assert bench.count() == {}


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_call_without_answer_can_be_given_up_and_the_order_looked_for(bench: Bench, accepted: bool) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.NEVER_ANSWER, accepted=accepted)
    ticket = bench.ticket()
    await give_up(bench, broker, ticket, accepted=accepted)
    assert bench.count()[ticket.client_order_id] == accepted
    assert (await broker.find(ticket.client_order_id) is not None) is accepted


async def test_a_slow_answer_is_still_the_answer(bench: Bench) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.SLOW, seconds=0.1)
    ticket = bench.ticket()
    report = await place(broker, ticket)
    assert report.client_order_id == ticket.client_order_id
    assert bench.count() == {ticket.client_order_id: 1}


async def test_unavailable_means_that_nothing_was_sent(bench: Bench) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.UNAVAILABLE)
    ticket = bench.ticket()
    with pytest.raises(BrokerUnavailable):
        await place(broker, ticket)
    assert bench.count() == {}
    await place(broker, ticket)
    assert bench.count() == {ticket.client_order_id: 1}


@pytest.mark.parametrize("action", [Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT])
async def test_a_lost_answer_to_a_cancel_is_an_unknown_outcome(bench: Bench, action: Action) -> None:
    broker = await bench.connect()
    bench.hold()
    bench.arm(Operation.CANCEL, action)
    ticket = bench.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    with pytest.raises(OutcomeUnknown):
        await broker.cancel_order(ref(answer))
    expected = ReportStatus.CANCELLED if action is Action.ACCEPT_THEN_DROP else ReportStatus.WORKING
    assert bench.truth(ticket).status is expected


@pytest.mark.parametrize("operation", [Operation.REPORTS, Operation.FIND])
async def test_a_failed_query_is_an_error_and_never_an_empty_answer(bench: Bench, operation: Operation) -> None:
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    bench.arm(operation, Action.UNAVAILABLE)
    with pytest.raises(BrokerUnavailable):
        await (broker.reports() if operation is Operation.REPORTS else broker.find(ticket.client_order_id))
    await reported(broker, ticket)


async def test_a_placing_given_up_half_way_leaves_the_book_whole(bench: Bench) -> None:
    broker = await bench.connect()
    tickets = [bench.ticket() for _ in range(30)]
    tasks = [asyncio.create_task(place(broker, ticket)) for ticket in tickets]
    await tasks[0]
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    # A call that is asked after them comes back when whatever they had begun is done.
    await broker.positions()
    counts = bench.count()
    assert max(counts.values()) == 1
    for ticket, outcome in zip(tickets, outcomes, strict=True):
        assert counts[ticket.client_order_id] == 1 or isinstance(outcome, asyncio.CancelledError)
    await place(broker, bench.ticket())


# Looking for orders


async def test_find_tells_an_order_with_its_fills_and_none_for_an_unknown_one(bench: Bench) -> None:
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    report = await until(lambda: broker.find(ticket.client_order_id), is_now(ReportStatus.FILLED))
    assert report.client_order_id == ticket.client_order_id
    assert filled(report) == Decimal(10)
    assert await broker.find("t000000000000000000") is None


async def test_an_order_hidden_for_a_while_is_found_later(bench: Bench) -> None:
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    bench.arm(Operation.FIND, Action.HIDE, times=2)
    seen = [await broker.find(ticket.client_order_id) is not None for _ in range(3)]
    assert seen == [False, False, True]


async def test_reports_since_a_mark_tell_what_changed_and_no_more(bench: Bench) -> None:
    broker = await bench.connect()
    old = bench.ticket()
    await place(broker, old)
    await reported(broker, old, is_now(ReportStatus.FILLED))
    mark = (await broker.reports()).mark
    if mark is None:
        pytest.skip(f"{bench.adapter.name} always tells all")
    assert (await broker.reports(mark)).reports == []
    new = bench.ticket()
    await place(broker, new)
    await reported(broker, new, is_now(ReportStatus.FILLED))
    changed = await broker.reports(mark)
    assert [report.client_order_id for report in changed.reports] == [new.client_order_id]
    assert changed.mark is not None
    assert changed.mark > mark
    assert (await broker.reports(changed.mark)).reports == []


async def test_an_order_hidden_from_reports_is_reported_later(bench: Bench) -> None:
    broker = await bench.connect()
    first, second = bench.ticket(), bench.ticket()
    mark = (await broker.reports()).mark
    await place(broker, first)
    await place(broker, second)
    bench.arm(Operation.REPORTS, Action.HIDE, client_order_id=first.client_order_id)
    without = await broker.reports(mark)
    assert [report.client_order_id for report in without.reports] == [second.client_order_id]
    later = await broker.reports(without.mark)
    assert first.client_order_id in {report.client_order_id for report in later.reports}


async def test_repeated_and_reordered_reports_say_the_same(bench: Bench) -> None:
    broker = await bench.connect()
    tickets = [bench.ticket() for _ in range(3)]
    for ticket in tickets:
        await place(broker, ticket)
        await reported(broker, ticket, is_now(ReportStatus.FILLED))
    plain = (await broker.reports()).reports
    bench.arm(Operation.REPORTS, Action.DUPLICATE)
    bench.arm(Operation.REPORTS, Action.REORDER)
    distorted = (await broker.reports()).reports
    assert {report.client_order_id: report for report in distorted} == {
        report.client_order_id: report for report in plain
    }


async def test_a_late_commission_is_told_with_the_same_fill(bench: Bench) -> None:
    bench.needs(Fact.LATE_COMMISSIONS)
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.LATE_COMMISSION, seconds=3600)
    ticket = bench.ticket()
    await place(broker, ticket)
    before = await reported(broker, ticket, lambda report: bool(report.fills))
    (fill,) = bench.truth(ticket).fills
    bench.stage.exchange.set_commission(fill.fill_id, Decimal("1.00"))
    after = await reported(broker, ticket, lambda report: report.fills[0].commission is not None)
    assert before.fills[0].commission is None
    assert after.fills[0].commission == Decimal("1.00")
    assert after.fills[0].commission_currency == bench.truth(ticket).fills[0].commission_currency
    assert (after.fills[0].fill_id, filled(after)) == (before.fills[0].fill_id, Decimal(10))


async def test_a_busted_fill_is_told_and_counts_no_more(bench: Bench) -> None:
    bench.needs(Fact.BUSTS)
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, is_now(ReportStatus.FILLED))
    fill = bench.truth(ticket).fills[0]
    bench.stage.exchange.bust_fill(fill.fill_id)
    report = await reported(broker, ticket, lambda report: bool(report.busted_fill_ids))
    assert report.busted_fill_ids == {fill.fill_id}
    assert report.filled_quantity == 0


async def test_a_corrected_fill_is_its_old_id_busted_and_a_new_fill(bench: Bench) -> None:
    bench.needs(Fact.BUSTS)
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    await reported(broker, ticket, is_now(ReportStatus.FILLED))
    old = bench.truth(ticket).fills[0]
    new = bench.stage.exchange.correct_fill(old.fill_id, price=Decimal("99.75"))
    report = await reported(broker, ticket, lambda report: bool(report.busted_fill_ids))
    assert report.busted_fill_ids == {old.fill_id}
    assert [(fill.fill_id, fill.price) for fill in report.fills if fill.fill_id != old.fill_id] == [
        (new.fill_id, Decimal("99.75"))
    ]
    assert report.filled_quantity == Decimal(10)


async def test_an_overfill_is_told_as_it_is(bench: Bench) -> None:
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.OVERFILL, quantity=Decimal(5))
    ticket = bench.ticket()
    await place(broker, ticket)
    report = await reported(broker, ticket, lambda report: len(report.fills) == 2)
    assert filled(report) == report.filled_quantity == Decimal(15)


async def test_an_order_cancelled_or_expired_by_the_venue_is_reported(bench: Bench) -> None:
    broker = await bench.connect()
    bench.hold()
    cancelled, expired = bench.ticket(OrderType.LIMIT), bench.ticket(OrderType.LIMIT, tif=Tif.DAY)
    has_days = Tif.DAY in broker.capabilities.tifs
    for ticket in (cancelled, expired) if has_days else (cancelled,):
        await place(broker, ticket)
    bench.stage.exchange.cancel_unasked(OrderRef(client_order_id=cancelled.client_order_id), "Instrument halted")
    report = await reported(broker, cancelled, is_now(ReportStatus.CANCELLED))
    if Fact.SILENT_ENDINGS not in bench.adapter.facts:
        assert "Instrument halted" in (report.reason or "")
    if has_days:
        bench.stage.exchange.expire_day()
        await reported(broker, expired, lambda report: report.status in (ReportStatus.EXPIRED, ReportStatus.CANCELLED))


async def test_somebody_elses_order_carries_no_tag_of_ours(bench: Bench) -> None:
    bench.needs(Fact.EXTERNAL_ORDERS)
    broker = await bench.connect()
    theirs = bench.stage.exchange.place(bench.ticket(client_order_id=""))
    reports = (await broker.reports()).reports
    assert [report.client_order_id for report in reports if report.broker_order_id == theirs.broker_order_id] == [""]


async def test_what_somebody_else_has_traded_is_told_with_its_instrument_and_side(bench: Bench) -> None:
    bench.needs(Fact.EXTERNAL_ORDERS)
    broker = await bench.connect()
    ours = bench.ticket()
    await place(broker, ours)
    await reported(broker, ours, is_now(ReportStatus.FILLED))
    exchange = bench.stage.exchange
    (placed,) = exchange.orders(ours.client_order_id)
    theirs = exchange.trade_by_hand(placed.ticket.instrument, Decimal(-4), PRICE, product=placed.ticket.product)
    report = await reported_under(broker, theirs.broker_order_id)
    assert report.instrument is not None
    assert report.instrument.could_be(replace(ours.instrument, exchange=None, currency=None))
    assert (report.side, report.filled_quantity) == (Side.SELL, 4)
    assert [fill.quantity for fill in report.fills] == [4]


async def reported_under(broker: Broker, broker_order_id: str) -> Report:
    """The report of this order once its execution is told."""

    async def look() -> Report | None:
        answer = await broker.reports()
        return next((each for each in answer.reports if each.broker_order_id == broker_order_id), None)

    return await until(look, lambda report: bool(report.fills))


async def test_positions_and_cash_follow_the_fills(bench: Bench) -> None:
    pays_the_price = Fact.PAYS_THE_PRICE in bench.adapter.facts
    broker = await bench.connect()
    before = {balance.currency: balance.cash for balance in await broker.balances()}
    bought, sold = bench.ticket(), bench.ticket(side=Side.SELL, quantity=Decimal(4))
    for ticket in (bought, sold):
        await place(broker, ticket)
        await reported(broker, ticket, is_now(ReportStatus.FILLED))
    (position,) = [each for each in await broker.positions() if each.instrument.symbol == bought.instrument.symbol]
    after = {balance.currency: balance.cash for balance in await broker.balances()}
    currency = bought.instrument.currency or broker.capabilities.commission_currency
    assert position.quantity == Decimal(6)
    price = 6 * PRICE if pays_the_price else 0
    assert after[currency] - before[currency] == -price - charged(bench, bought) - charged(bench, sold)


async def test_positions_are_recognised_as_what_the_orders_asked_for_by_another_life_too(bench: Bench) -> None:
    broker = await bench.connect()
    bought = bench.ticket()
    await place(broker, bought)
    await reported(broker, bought, is_now(ReportStatus.FILLED))
    later = await bench.connect()
    ours = [Holding(instrument=bought.instrument, quantity=bought.quantity)]
    for each in (broker, later):
        compared = compare_positions(ours, await each.positions())
        assert (compared.agreeing, compared.findings, compared.not_ours) == (1, (), ())


async def test_positions_change_by_trades_of_others_and_without_any(bench: Bench) -> None:
    broker = await bench.connect()
    bought = bench.ticket()
    await place(broker, bought)
    await reported(broker, bought, is_now(ReportStatus.FILLED))

    async def held() -> Decimal:
        positions = await broker.positions()
        return sum((p.quantity for p in positions if p.instrument.symbol == bought.instrument.symbol), Decimal(0))

    exchange = bench.stage.exchange
    (placed,) = exchange.orders(bought.client_order_id)
    by_hand = exchange.trade_by_hand(placed.ticket.instrument, Decimal(-13), PRICE, product=placed.ticket.product)
    assert by_hand.status is ReportStatus.FILLED
    assert await held() == -3
    exchange.move_position(placed.ticket.instrument, Decimal(7), product=placed.ticket.product)
    assert await held() == 4
    reports = (await broker.reports()).reports
    assert [r.filled_quantity for r in reports if r.client_order_id == bought.client_order_id] == [10]


# Hints


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.05, partial_fill_rate=1.0, seed=4)])
async def test_hints_come_on_the_loop_when_something_happens(bench: Bench) -> None:
    bench.needs(Fact.HINTS)
    broker = await bench.connect()
    hinted = asyncio.Event()
    loops = set()

    def hint() -> None:
        loops.add(asyncio.get_running_loop())
        hinted.set()

    broker.on_hint(hint)
    ticket = bench.ticket()
    await place(broker, ticket)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await hinted.wait()
            hinted.clear()
            (report,) = (await broker.reports()).reports
            if report.status is ReportStatus.FILLED:
                break
    assert loops == {asyncio.get_running_loop()}


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.05)])
async def test_a_hint_comes_for_an_order_whose_placing_was_given_up(bench: Bench) -> None:
    bench.needs(Fact.HINTS)
    broker = await bench.connect()
    bench.arm(Operation.PLACE, Action.NEVER_ANSWER)
    hinted = asyncio.Event()
    broker.on_hint(hinted.set)
    ticket = bench.ticket()
    await give_up(bench, broker, ticket, accepted=True)
    await asyncio.wait_for(hinted.wait(), PATIENCE_SECONDS)
    await reported(broker, ticket, is_now(ReportStatus.FILLED))


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.2)])
@pytest.mark.parametrize("anew", [True, False])
async def test_hints_come_for_what_an_earlier_session_placed(bench: Bench, anew: bool) -> None:
    bench.needs(Fact.HINTS)
    broker = await bench.connect()
    ticket = bench.ticket()
    await place(broker, ticket)
    await broker.close()
    if anew:
        broker = BrokerFactory.create_broker(bench.stage.config)
    hinted = asyncio.Event()
    broker.on_hint(hinted.set)
    await broker.connect()
    await asyncio.wait_for(hinted.wait(), PATIENCE_SECONDS)
    await reported(broker, ticket, is_now(ReportStatus.FILLED))
    await broker.close()


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.05)])
async def test_no_hint_comes_after_closing(bench: Bench) -> None:
    broker, other = await bench.connect(), await bench.connect()
    hints: list[int] = []
    broker.on_hint(lambda: hints.append(1))
    ticket = bench.ticket()
    await place(broker, ticket)
    await broker.close()
    hints.clear()
    await reported(other, ticket, is_now(ReportStatus.FILLED))
    assert hints == []


# The book outlives the adapter


async def test_a_new_adapter_sees_what_an_earlier_one_placed(bench: Bench) -> None:
    earlier = await bench.connect()
    ticket = bench.ticket()
    await place(earlier, ticket)
    told = await reported(earlier, ticket, is_now(ReportStatus.FILLED))
    await earlier.close()
    assert await reported(await bench.connect(), ticket, is_now(ReportStatus.FILLED)) == told


class Child:
    """A process that connects an adapter of its own, waits to be let go, and places orders."""

    def __init__(self, bench: Bench, ids: list[str]) -> None:
        instrument = bench.adapter.instrument
        arguments = json.dumps(
            [bench.stage.config, instrument.symbol, instrument.asset_class, bench.adapter.product, ids]
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "connected"

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def lines(self, count: int | None = None) -> list[str]:
        """So many of its lines, or all until it ends."""
        return list(itertools.islice(iter(self._line, ""), count))

    def end(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.mark.parametrize("market", [Market(fill_delay_seconds=0.2, partial_fill_rate=1.0, seed=7)])
async def test_what_a_killed_process_had_placed_is_found_and_goes_on(bench: Bench) -> None:
    if Fact.SHARED_VOLUME in bench.adapter.facts:
        pytest.skip(f"{bench.adapter.name}: {Fact.SHARED_VOLUME}")
    ids = [f"k{number:018d}" for number in range(4000)]
    child = await asyncio.to_thread(Child, bench, ids)
    try:
        child.go()
        placed = await asyncio.to_thread(child.lines, 25)
        os.kill(child.process.pid, signal.SIGKILL)
        placed += await asyncio.to_thread(child.lines)
    finally:
        await asyncio.to_thread(child.end)
    broker = await bench.connect()
    acknowledged = [line.split()[1] for line in placed]
    assert 25 <= len(acknowledged) < len(ids)
    for client_id in acknowledged:
        report = await until(lambda: broker.find(client_id), is_now(ReportStatus.FILLED))  # noqa: B023
        assert filled(report) == Decimal(10)
        assert len(report.fills) == 2
    counts = bench.count()
    assert set(acknowledged) <= set(counts)
    # One order may have been accepted without the child having lived to say so.
    assert len(counts) <= len(acknowledged) + 1
    assert max(counts.values()) == 1


async def test_several_processes_place_each_order_once_between_them(bench: Bench) -> None:
    bench.needs(Fact.SHARED_BOOK)
    ids = [f"s{number:018d}" for number in range(60)]
    children = await asyncio.gather(*(asyncio.to_thread(Child, bench, ids) for _ in range(3)))
    try:
        for child in children:
            child.go()
        lines = [line for child in children for line in await asyncio.to_thread(child.lines)]
    finally:
        for child in children:
            await asyncio.to_thread(child.end)
    tally = Counter(lines)
    assert tally["done"] == 3
    assert {line: times for line, times in tally.items() if line.startswith("placed")} == {
        f"placed {each}": 1 for each in ids
    }
    assert sum(times for line, times in tally.items() if line.startswith("exists")) == 2 * len(ids)
    assert bench.count() == dict.fromkeys(ids, 1)


async def test_the_account_of_the_stage_is_the_one_that_trades(bench: Bench) -> None:
    broker = await bench.connect()
    await place(broker, bench.ticket())
    assert {order.account_id for order in bench.stage.exchange.orders()} == {ACCOUNT}
