"""Orders, trades, positions and contract notes as Kite lists them, and what the adapter reports of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from kiteconnect import KiteConnect

from brokers.base import AssetClass, FillsShown, Instrument, OrderRef, Report, ReportStatus, Side
from brokers.call_kinds import CallKind
from brokers.errors import OrderRefused, RateLimited
from brokers.settled_reports import SettledTracker
from brokers.zerodha import dialect, rows
from brokers.zerodha.adapter import ZerodhaBroker, create
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.stage_zerodha import config_for
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.contract.zerodha.stage import INFY, TAG, found, hold, limit, never, order_row, orders_of, ticket


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
    ("order_type", "status", "is_triggered"),
    [
        ("SL-M", "TRIGGER PENDING", False),
        ("SL-M", "OPEN PENDING", False),
        ("SL-M", "OPEN", True),
        ("SL", "OPEN", True),
        ("LIMIT", "OPEN", False),
    ],
)
def test_a_stop_that_is_open_was_triggered(order_type: str, status: str, is_triggered: bool) -> None:
    (report,) = dialect.reports(orders_of([order_row(status=status, order_type=order_type)]), {})
    assert (report.status, report.is_triggered) == (ReportStatus.WORKING, is_triggered)


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


async def test_shares_sold_from_the_holdings_are_counted_once(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    server.book.move_position(replace(INFY, exchange="NSE"), Decimal(50), Decimal(90), product="CNC")
    await broker.place_order(ticket(side=Side.SELL, quantity=Decimal(20)))
    await found(broker, lambda report: report.status is ReportStatus.FILLED)
    (position,) = await broker.positions()
    assert (position.quantity, position.product, position.average_price) == (Decimal(30), "CNC", Decimal(90))
    # So the books agree, and nothing keeps the rest from being sold.
    ours = Holding(instrument=INFY, quantity=Decimal(30), product="CNC")
    assert compare_positions([ours], [position]).agreeing == 1
    await broker.place_order(ticket(side=Side.SELL, quantity=Decimal(30), client_order_id="t000000000000000002"))
    await found(broker, lambda report: report.status is ReportStatus.FILLED, "t000000000000000002")
    assert await broker.positions() == []


HELD = {"exchange": "NSE", "tradingsymbol": "INFY", "product": "CNC", "average_price": Decimal(90)}


@pytest.mark.parametrize(
    ("row", "sold", "held"),
    [
        ({"quantity": 50, "used_quantity": 0}, 0, 50),
        ({"quantity": 0, "t1_quantity": 5, "used_quantity": 0, "opening_quantity": 5}, 0, 5),
        # Pledged shares are in no other quantity (openalgo issue 1625).
        ({"quantity": 0, "collateral_quantity": 40, "opening_quantity": 40}, 0, 40),
        ({"quantity": 10, "collateral_quantity": 40, "opening_quantity": 10}, 0, 50),
        # What was sold today is a negative position, whether the row has taken it off or not.
        ({"quantity": 30, "used_quantity": 20, "opening_quantity": 50}, 20, 30),
        ({"quantity": 50, "used_quantity": 20, "opening_quantity": 50}, 20, 30),
        ({"quantity": 0, "used_quantity": 50, "opening_quantity": 50}, 50, 0),
        ({"quantity": 0, "t1_quantity": 3, "used_quantity": 2, "opening_quantity": 5}, 2, 3),
        # Whether the morning's quantity counts what is not settled or not.
        ({"quantity": 7, "t1_quantity": 5, "used_quantity": 3, "opening_quantity": 10}, 3, 12),
        ({"quantity": 7, "t1_quantity": 5, "used_quantity": 3, "opening_quantity": 15}, 3, 12),
        ({"quantity": 10, "t1_quantity": 5, "used_quantity": 3, "opening_quantity": 10}, 3, 12),
        (
            {"quantity": 7, "t1_quantity": 5, "used_quantity": 3, "collateral_quantity": 40, "opening_quantity": 50},
            3,
            52,
        ),
        ({"quantity": 50, "used_quantity": 0, "short_quantity": 0, "mtf": {}}, 0, 50),
        ({"quantity": 50, "used_quantity": 0, "short_quantity": None, "mtf": None}, 0, 50),
        ({"quantity": 30, "used_quantity": 20, "collateral_quantity": 40, "opening_quantity": 90}, 20, 70),
        ({"quantity": 30, "used_quantity": 20, "collateral_quantity": 40, "opening_quantity": 50}, 20, 70),
    ],
)
def test_a_holding_is_all_that_is_owned_however_kite_divides_it(row: dict[str, int], sold: int, held: int) -> None:
    net = [{**HELD, "quantity": -sold}] if sold else []
    found = dialect.positions(net, [{**HELD, **row}], {})
    assert [(each.quantity, each.is_unclear) for each in found] == ([(Decimal(held), False)] if held else [])


@pytest.mark.parametrize(
    "row",
    [
        {"quantity": 30, "used_quantity": 20},
        {"quantity": 30, "used_quantity": 20, "opening_quantity": 70},
        {"quantity": 30, "used_quantity": 20, "opening_quantity": None},
        # Taken off a quantity without what is not settled, or left in one with that.
        {"quantity": 5, "t1_quantity": 5, "used_quantity": 5, "opening_quantity": 10},
        {"quantity": 10, "short_quantity": 2},
        {"quantity": 10, "short_quantity": "two"},
        # Both readings fit.
        {"quantity": 30, "used_quantity": 20, "collateral_quantity": 20, "opening_quantity": 50},
        {"quantity": 30, "collateral_quantity": "some"},
    ],
)
def test_a_holding_whose_quantities_do_not_add_up_is_unclear(row: dict[str, Any]) -> None:
    (found,) = dialect.positions([], [{**HELD, **row}], {})
    assert found.is_unclear


MTF_OF_THE_DOCS = {"quantity": 1000, "used_quantity": 0, "average_price": 100, "value": 100000, "initial_margin": 0}


def by_product(row: dict[str, Any], *net: dict[str, Any]) -> dict[str | None, tuple[Decimal, Decimal | None, bool]]:
    found = dialect.positions([{**HELD, **each} for each in net], [{**HELD, **row}], {})
    return {each.product: (each.quantity, each.average_price, each.is_unclear) for each in found}


def test_shares_bought_with_margin_are_a_holding_of_that_product() -> None:
    """As the sample of Kite's page on the portfolio shows them: one share owned, and a thousand in `mtf`."""
    assert by_product({"quantity": 1, "opening_quantity": 1, "mtf": MTF_OF_THE_DOCS}) == {
        "CNC": (Decimal(1), Decimal(90), False),
        "MTF": (Decimal(1000), Decimal(100), False),
    }
    # What is bought of them today is a position of the day.
    today = {"product": "MTF", "quantity": 500, "average_price": 103}
    assert by_product({"quantity": 0, "mtf": MTF_OF_THE_DOCS}, today) == {"MTF": (Decimal(1500), Decimal(101), False)}


@pytest.mark.parametrize(
    "mtf", [{"quantity": 900, "used_quantity": 100}, {"quantity": "many"}, {"used_quantity": 0}, 7]
)
def test_shares_bought_with_margin_that_do_not_add_up_are_unclear_and_spoil_no_others(mtf: object) -> None:
    told = by_product({"quantity": 1, "mtf": mtf})
    assert told["CNC"] == (Decimal(1), Decimal(90), False)
    assert told["MTF"][2]


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
    server.add_fault(KiteFault(kind=kind, route="POST /charges/orders"))
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
