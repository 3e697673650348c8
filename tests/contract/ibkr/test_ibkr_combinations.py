"""Options as legs of one order (BAG): what leaves, what comes back of it leg by leg, and what one leg's name means to the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from brokers.base import (
    AssetClass,
    Combination,
    CombinationLeg,
    Instrument,
    OptionRight,
    OrderRef,
    OrderType,
    Report,
    ReportStatus,
    Side,
    Ticket,
)
from brokers.errors import OrderAlreadyExists, OrderRefused, OutcomeUnknown
from brokers.ibkr.adapter import IbkrBroker
from brokers.ibkr.blotter import Blotter, Execution
from brokers.paper.model import Action, Market, Operation
from simulators.ibkr import wire
from simulators.ibkr.wire import Ask, place_request
from tests.contract.ibkr.stage import IbkrStage
from tests.waits import PATIENCE_SECONDS

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
BY_HAND = Market(fill_delay_seconds=None)


def option(strike: int, symbol: str = "SPY", **changes: object) -> Instrument:
    call = Instrument(
        symbol=symbol,
        asset_class=AssetClass.OPTION,
        expiry="20270115",
        strike=Decimal(strike),
        right=OptionRight.CALL,
        currency="USD",
    )
    return replace(call, **changes)  # type: ignore[arg-type]


async def spread(
    stage: IbkrStage,
    broker: IbkrBroker,
    *legs: tuple[Side, int, int],
    limit: str | None = None,
    instruments: Sequence[Instrument] = (),
) -> tuple[Combination, list[Ticket]]:
    """Tickets and the whole, of (side, ratio, strike), two units of it, with the id that the broker gives it."""
    legs = legs or ((Side.BUY, 1, 500), (Side.SELL, 1, 510))
    order_type = OrderType.MARKET if limit is None else OrderType.LIMIT
    options = instruments or [option(strike) for _, _, strike in legs]
    plain = [
        stage.ticket(order_type, instrument=named, side=side, quantity=Decimal(2 * ratio))
        for named, (side, ratio, _) in zip(options, legs, strict=True)
    ]
    tickets = [await broker.fitted(ticket) for ticket in plain]
    reserved = await broker.reserve(tickets[0])
    whole = Combination(
        client_order_id=tickets[0].client_order_id,
        legs=tuple(
            CombinationLeg(
                client_order_id=ticket.client_order_id,
                con_id=(ticket.terms.con_id if ticket.terms else None) or 0,
                side=ticket.side,
                ratio=ratio,
            )
            for ticket, (_, ratio, _) in zip(tickets, legs, strict=True)
        ),
        quantity=Decimal(2),
        limit_price=None if limit is None else Decimal(limit),
    )
    return whole, [replace(ticket, reserved_order_id=reserved) for ticket in tickets]


async def shown(broker: IbkrBroker, tickets: Sequence[Ticket], *statuses: ReportStatus) -> list[Report]:
    """What is reported of each, as soon as they stand so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            latest = {each.client_order_id: each for each in (await broker.reports()).reports}
            found = [latest.get(ticket.client_order_id) for ticket in tickets]
            reports = [each for each in found if each is not None]
            if [each.status for each in reports] == list(statuses):
                return reports
            await asyncio.sleep(0.01)


async def shown_untagged(broker: IbkrBroker) -> Sequence[Report]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            reports = (await broker.reports()).reports
            if reports and len(reports[0].fills) == 2:
                return reports
            await asyncio.sleep(0.01)


def fill(stage: IbkrStage, whole_id: str, leg: int, quantity: int, price: str) -> str:
    named = whole_id if leg == 0 else f"{whole_id}+{leg}"
    ref = OrderRef(client_order_id="", broker_order_id=named)
    return stage.book.fill_order(ref, Decimal(quantity), Decimal(price)).fill_id


async def test_one_order_of_all_legs_leaves(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker, limit="-1.25")
    reports = await broker.place_combined(whole, tickets)
    (sent,) = map(place_request, stage.heard(Ask.PLACE_ORDER))
    assert (sent.contract.sec_type, sent.contract.symbol, sent.contract.exchange) == ("BAG", "SPY", "SMART")
    assert [(leg.con_id, leg.ratio, leg.action) for leg in sent.legs] == [
        (leg.con_id, leg.ratio, leg.side.value) for leg in whole.legs
    ]
    assert (sent.action, sent.quantity, sent.order_type, sent.limit_price) == ("BUY", 2, "LMT", Decimal("-1.25"))
    assert sent.order_ref == whole.client_order_id
    assert not sent.routing  # without NonGuaranteed it is a guaranteed one
    assert [each.client_order_id for each in reports] == [each.client_order_id for each in tickets]
    assert len({each.broker_order_id for each in reports}) == 1


async def test_what_is_shown_of_a_leg_is_not_said_of_the_whole(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker, limit="-1.25")
    await broker.place_combined(whole, [replace(ticket, display_quantity=Decimal(1)) for ticket in tickets])
    (sent,) = map(place_request, stage.heard(Ask.PLACE_ORDER))
    assert sent.display_size is None


async def test_each_leg_has_its_own_executions_and_commissions_and_no_row_of_the_whole(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker, (Side.BUY, 1, 500), (Side.SELL, 2, 510))
    await broker.place_combined(whole, tickets)
    reports = await shown(broker, tickets, ReportStatus.FILLED, ReportStatus.FILLED)
    truth = stage.book.orders(whole.client_order_id)
    for report, leg, quantity in zip(reports, truth, (2, 4), strict=True):
        assert report.filled_quantity == quantity == sum(each.quantity for each in report.fills)
        assert [each.fill_id for each in report.fills] == [each.fill_id for each in leg.fills]
        assert [each.commission for each in report.fills] == [each.commission for each in leg.fills]
    held = {each.instrument.strike: each.quantity for each in await broker.positions()}
    assert held == {Decimal(500): 2, Decimal(510): -4}


@pytest.mark.parametrize("market", [BY_HAND])
async def test_what_one_leg_fills_is_not_the_others(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker)
    reports = await broker.place_combined(whole, tickets)
    first = fill(stage, reports[0].broker_order_id, 0, 1, "3.10")
    second = fill(stage, reports[0].broker_order_id, 1, 2, "1.20")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all(each.fills for each in reports):
            reports = await shown(broker, tickets, ReportStatus.WORKING, ReportStatus.WORKING)
    assert [[(f.fill_id, f.quantity, f.price) for f in each.fills] for each in reports] == [
        [(first, 1, Decimal("3.10"))],
        [(second, 2, Decimal("1.20"))],
    ]


@pytest.mark.parametrize("market", [BY_HAND])
async def test_a_bust_is_of_its_leg_alone(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker)
    placed = await broker.place_combined(whole, tickets)
    for leg in (0, 1):
        gone = fill(stage, placed[0].broker_order_id, leg, 2, "2.00")
    reports = await shown(broker, tickets, ReportStatus.FILLED, ReportStatus.FILLED)
    stage.book.bust_fill(gone)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not reports[1].busted_fill_ids:
            latest = {each.client_order_id: each for each in (await broker.reports()).reports}
            reports = [latest[ticket.client_order_id] for ticket in tickets]
    assert reports[1].busted_fill_ids == {gone}
    assert not reports[0].busted_fill_ids
    assert [len(each.fills) for each in reports] == [1, 0]


@pytest.mark.parametrize("market", [BY_HAND])
@pytest.mark.parametrize("leg", [0, 1])
async def test_a_cancel_of_any_leg_is_one_of_the_whole_and_is_asked_once(stage: IbkrStage, leg: int) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker)
    await broker.place_combined(whole, tickets)
    refs = [OrderRef(client_order_id=ticket.client_order_id) for ticket in tickets]
    await asyncio.gather(broker.cancel_order(refs[leg]), broker.cancel_order(refs[1 - leg]))
    await shown(broker, tickets, ReportStatus.CANCELLED, ReportStatus.CANCELLED)
    await broker.cancel_order(refs[1 - leg])
    assert len(stage.heard(Ask.CANCEL_ORDER)) == 1


async def test_another_connection_is_told_the_legs_before_its_reports_are_believed(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker)
    await broker.place_combined(whole, tickets)
    before = await shown(broker, tickets, ReportStatus.FILLED, ReportStatus.FILLED)
    await broker.close()
    other = await stage.connect()
    (untold,) = (await other.reports()).reports
    mark = (await other.reports()).mark
    assert len(untold.fills) == 2
    assert other.know_combination(whole)
    assert not other.know_combination(whole)
    told = {each.client_order_id: each for each in (await other.reports(mark)).reports}
    assert [told[ticket.client_order_id].fills for ticket in tickets] == [each.fills for each in before]
    for ticket in tickets:
        found = await other.find(ticket.client_order_id)
        assert found is not None
        assert found.client_order_id == ticket.client_order_id
    everything = await other.find_all([ticket.client_order_id for ticket in tickets])
    assert all(report is not None and len(report.fills) == 1 for report in everything.values())


async def test_an_answer_that_is_lost_is_found_by_any_leg(stage: IbkrStage) -> None:
    broker = await stage.connect(answer_seconds=0.3)
    stage.arm(Operation.PLACE, Action.NEVER_ANSWER)
    whole, tickets = await spread(stage, broker)
    with pytest.raises(OutcomeUnknown):
        await broker.place_combined(whole, tickets)
    assert len(stage.book.orders(whole.client_order_id)) == 2
    found = await broker.find(tickets[1].client_order_id)
    assert found is not None
    assert found.status is ReportStatus.FILLED
    with pytest.raises(OrderAlreadyExists):
        await broker.place_combined(whole, tickets)


async def test_a_refusal_leaves_nothing(stage: IbkrStage) -> None:
    broker = await stage.connect()
    stage.arm(Operation.PLACE, Action.REFUSE, reason="margin")
    whole, tickets = await spread(stage, broker)
    with pytest.raises(OrderRefused, match="margin"):
        await broker.place_combined(whole, tickets)
    assert not stage.book.orders()


async def test_legs_of_two_underlyings_are_refused_before_anything_is_sent(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker, instruments=[option(500), option(510, "QQQ")])
    with pytest.raises(OrderRefused, match="one underlying"):
        await broker.place_combined(whole, tickets)
    assert not stage.heard(Ask.PLACE_ORDER)


async def test_an_account_may_refuse_legs(stage: IbkrStage) -> None:
    together, refused = await stage.connect(), await stage.connect(client_id=20, option_legs="refused")
    assert together.capabilities.combines_option_legs
    assert not refused.capabilities.combines_option_legs
    assert any("one combination" in note for note in together.capabilities.notes)
    assert any("is refused" in note for note in refused.capabilities.notes)


async def test_a_combination_of_somebody_else_is_not_of_one_instrument(stage: IbkrStage) -> None:
    """Its executions are of two contracts: of neither is it said that all of them were."""
    broker, other = await stage.connect(), await stage.connect(client_id=20)
    whole, tickets = await spread(stage, other)
    nameless = replace(whole, client_order_id="")
    await other.place_combined(nameless, [replace(ticket, client_order_id="") for ticket in tickets])
    (report,) = await shown_untagged(broker)
    assert len(report.fills) == 2
    assert report.instrument is None


def test_an_execution_of_no_leg_is_nobodys_and_is_missing_in_the_count() -> None:
    blotter = Blotter()
    legs = tuple(
        CombinationLeg(client_order_id=f"t{n}", con_id=n, side=side, ratio=n)
        for n, side in ((1, Side.BUY), (2, Side.SELL))
    )
    assert blotter.know_combination(Combination(client_order_id="t1", legs=legs, quantity=Decimal(3)))
    ids = {"client_id": 1, "order_id": 7, "perm_id": 70}
    blotter.note_order(**ids, client_order_id="t1", status="Submitted")
    for number, con_id in (("a.01", 1), ("b.01", 0)):
        execution = Execution(exec_id=number, quantity=Decimal(1), price=Decimal(2), time=NOON, con_id=con_id)
        blotter.note_execution(**ids, client_order_id="t1", execution=execution)
    blotter.note_status(**ids, status="Submitted", filled=Decimal(1))
    first, second = blotter.reports(None)
    assert [fill.fill_id for fill in first.fills] == ["a.01"]
    assert (first.filled_quantity, second.filled_quantity, second.fills) == (1, 2, ())


def rows(data: bytes) -> list[list[str]]:
    """The fields of each message."""
    found = []
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        found.append(data[4:size].decode().split("\0"))
        data = data[size:]
    return found


async def test_the_gateway_shows_a_combination_as_one_order_with_a_row_more_than_its_legs(stage: IbkrStage) -> None:
    broker = await stage.connect()
    whole, tickets = await spread(stage, broker, limit="1.50")
    await broker.place_combined(whole, tickets)
    await shown(broker, tickets, ReportStatus.FILLED, ReportStatus.FILLED)
    (order,) = stage.book.shown(stage.book.orders())
    row = stage.gateway.row(order)
    assert (row.listing.sec_type, row.quantity, row.filled, row.average_price) == ("BAG", 2, 2, Decimal("1.50"))
    executions = rows(b"".join(stage.gateway.executions(order, 1)))
    of_trades = [fields for fields in executions if fields[0] == "11"]
    assert [(fields[5], fields[18], fields[19]) for fields in of_trades] == [
        ("BAG", "BOT", "2"),
        ("OPT", "BOT", "2"),
        ("OPT", "SLD", "2"),
    ]
    assert {fields[26] for fields in of_trades} == {whole.client_order_id}
    (fields,) = rows(wire.open_order(row))
    legs = [str(leg.con_id) for leg in whole.legs]
    assert [fields.count(number) for number in legs] == [1, 1]
