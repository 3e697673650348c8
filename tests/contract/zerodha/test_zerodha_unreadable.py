"""One odd row in Kite's lists: it is told, its order is unknown and not absent, and every other order is read as if it were not there."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import Fill, Instrument, OrderRef, OrderType, Report, ReportStatus, Side, Ticket
from brokers.errors import AnswerUnclear, OrderRefused
from brokers.paper.model import Action, Fault, Operation
from brokers.zerodha import dialect, rows
from brokers.zerodha.adapter import ContractNotes, ZerodhaBroker, create
from simulators.stage_zerodha import config_for
from simulators.zerodha.server import SimulatedKite

ONE, OTHER = "t000000000000000001", "t000000000000000002"
TICKET = Ticket(
    client_order_id=ONE,
    instrument=Instrument(symbol="INFY"),
    side=Side.BUY,
    quantity=Decimal(10),
    order_type=OrderType.LIMIT,
    limit_price=Decimal("101.00"),
)
ORDER = {
    "order_id": "261121000000001",
    "parent_order_id": None,
    "status": "COMPLETE",
    "status_message": None,
    "status_message_raw": None,
    "order_timestamp": "2026-11-23 09:16:38",
    "variety": "regular",
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "product": "CNC",
    "order_type": "LIMIT",
    "quantity": 10,
    "disclosed_quantity": 0,
    "filled_quantity": 10,
    "meta": {},
    "tag": ONE,
    "tags": [ONE],
}
TRADE = {
    "trade_id": "10000001",
    "order_id": "261121000000001",
    "exchange": "NSE",
    "quantity": 10,
    "average_price": Decimal("100.25"),
    "fill_timestamp": "2026-11-23 09:16:39",
    "order_timestamp": "09:16:38",
    "exchange_timestamp": "2026-11-23 09:16:39",
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals()
    | st.floats()
    | st.text(max_size=25)
    | st.sampled_from([ONE, OTHER, "2026-11-23 09:16:39", "09:16:39", "iceberg", "COMPLETE", "9999-12-31 23:59:59"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ORDER, "iceberg", "leg"]), inner),
    max_leaves=6,
)


def leg(place: int, order_id: str, **changes: Any) -> dict[str, Any]:
    iceberg = {"leg": place, "legs": 2, "leg_quantity": 10, "total_quantity": 20, "remaining_quantity": 20 - 10 * place}
    return ORDER | {"variety": "iceberg", "order_id": order_id, "meta": {"iceberg": iceberg}} | changes


def reports_of(told: list[dict[str, Any]]) -> list[Report]:
    return dialect.reports(*(lambda read, malformed: (read, {}, malformed))(*rows.read_orders(told)))


# Which rows are odd


@pytest.mark.parametrize(
    "changes",
    [
        {"disclosed_quantity": None, "iceberg": None},
        {"meta": None},
        {"meta": [1]},
        {"meta": "{}"},
        {"meta": {"iceberg": None}},
        {"tags": None},
        {"tag": None},
        {"status": "SOMETHING NEW"},
        {"order_timestamp": None},
        {"order_timestamp": "09:15:01"},
        {"product": None},
        {"variety": None},
        {"parent_order_id": 7},
        {"filled_quantity": "10"},
        {"order_id": 261121000000001},
        {"status": "REJECTED", "filled_quantity": None},
    ],
)
def test_what_an_order_can_be_read_without_does_not_make_it_odd(changes: dict[str, Any]) -> None:
    read, malformed = rows.read_orders([ORDER | changes])
    assert (len(read), malformed) == (1, [])
    assert (read[0].order_id, read[0].tag) == ("261121000000001", ONE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"order_id": None}, "order_id"),
        ({"order_id": ""}, "order_id"),
        ({"status": None}, "status"),
        ({"status": ["OPEN"]}, "status"),
        ({"filled_quantity": None}, "filled_quantity"),
        ({"filled_quantity": "ten"}, "filled_quantity"),
        ({"filled_quantity": -1}, "filled_quantity"),
        ({"filled_quantity": float("nan")}, "filled_quantity"),
        ({"filled_quantity": Decimal("Infinity")}, "filled_quantity"),
        ({"filled_quantity": True}, "filled_quantity"),
        ({"variety": "iceberg", "meta": None}, "meta"),
        ({"variety": "iceberg", "meta": [1]}, "meta"),
        ({"variety": "iceberg", "meta": "{}"}, "meta"),
        ({"variety": "iceberg", "meta": {"iceberg": None}}, "meta"),
        ({"variety": "iceberg", "meta": {"iceberg": {"leg": 1, "total_quantity": None}}}, "total_quantity"),
        ({"variety": "iceberg", "meta": {"iceberg": {"leg": Decimal("1.5"), "total_quantity": 20}}}, "leg"),
    ],
)
def test_an_order_that_cannot_be_read_is_set_aside_with_what_is_odd(changes: dict[str, Any], says: str) -> None:
    other = ORDER | {"order_id": "261121000000002", "tag": OTHER, "tags": [OTHER]}
    read, (malformed,) = rows.read_orders([ORDER | changes, other])
    assert [row.tag for row in read] == [OTHER]
    assert says in malformed.words
    assert ONE in malformed.words
    assert malformed.may_concern(ONE)
    assert not malformed.may_concern(OTHER)


@pytest.mark.parametrize(
    "row", [None, [], "COMPLETE", 7, ORDER | {"tag": 7, "tags": []}, ORDER | {"tags": {"a": ONE}, "tag": None}]
)
def test_a_row_that_does_not_say_whose_it_is_may_be_anybodys(row: object) -> None:
    read, (malformed,) = rows.read_orders([row])
    assert read == []
    assert malformed.may_concern(ONE)
    assert malformed.may_concern(OTHER)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": None}, "quantity"),
        ({"average_price": None}, "average_price"),
        ({"average_price": 0}, "average_price"),
        ({"average_price": Decimal("NaN")}, "average_price"),
        ({"trade_id": None}, "trade_id"),
        ({"order_id": []}, "order_id"),
    ],
)
def test_a_trade_that_cannot_be_read_is_set_aside_with_what_is_odd(changes: dict[str, Any], says: str) -> None:
    read, (malformed,) = rows.read_trades([TRADE | changes, TRADE | {"trade_id": "10000002"}])
    assert [trade.trade_id for trade in read] == ["10000002"]
    assert says in malformed.words


def test_a_trades_time_is_the_first_that_is_told_with_its_day() -> None:
    (trade,), _ = rows.read_trades(
        [TRADE | {"fill_timestamp": "09:15:01", "exchange_timestamp": "2026-11-23 09:16:40"}]
    )
    assert trade.time == datetime(2026, 11, 23, 3, 46, 40, tzinfo=UTC)


@pytest.mark.parametrize("told", [None, {}, "", {"orders": []}])
def test_an_answer_that_is_no_list_is_no_empty_list(told: object) -> None:
    with pytest.raises(rows.Malformed):
        rows.read_orders(told)
    with pytest.raises(rows.Malformed):
        rows.read_trades(told)


@given(told=st.lists(JSON | st.dictionaries(st.sampled_from([*ORDER]), JSON).map(lambda changes: ORDER | changes)))
def test_whatever_the_order_list_holds_the_good_rows_are_read_and_all_others_named(told: list[Any]) -> None:
    good = [ORDER | {"order_id": f"26112199999999{n}", "tag": OTHER, "tags": [OTHER]} for n in range(3)]
    read, malformed = rows.read_orders([good[0], *told, *good[1:]])
    assert [row.order_id for row in read if row.order_id.startswith("26112199999999")] == [g["order_id"] for g in good]
    assert len({row.order_id for row in read}) == len(read)
    assert all(row.words for row in malformed)
    fills = dialect.fills_by_order([], heard)
    for report in dialect.reports(read, fills, malformed):
        assert report.filled_quantity >= 0
    dialect.working_legs(read, ONE, None)


def heard(trade: rows.TradeRow) -> datetime:
    return datetime(2026, 11, 24, tzinfo=UTC)


@given(told=st.lists(JSON | st.dictionaries(st.sampled_from([*TRADE]), JSON).map(lambda changes: TRADE | changes)))
def test_whatever_the_trade_list_holds_the_good_rows_are_read_and_all_others_named(told: list[Any]) -> None:
    read, malformed = rows.read_trades([*told, TRADE | {"order_id": "good"}])
    assert len(read) + len(malformed) == len(told) + 1
    assert len(dialect.fills_by_order(read, heard)["good"]) >= 1


POSITION = {"exchange": "NSE", "tradingsymbol": "INFY", "quantity": 5, "average_price": Decimal(100)}


@given(told=st.lists(st.dictionaries(st.sampled_from([*POSITION]), JSON).map(lambda changes: POSITION | changes)))
def test_whatever_the_positions_hold_they_are_read_or_unclear(told: list[Any]) -> None:
    found = dialect.positions([*told, POSITION | {"tradingsymbol": "SBIN"}], [], {})
    (good,) = (position for position in found if position.instrument == Instrument(symbol="SBIN", exchange="NSE"))
    assert good.is_unclear or good.quantity >= 5


@pytest.mark.parametrize("changes", [{"quantity": None}, {"quantity": "five"}])
def test_a_position_of_unreadable_quantity_is_unclear_and_not_flat(changes: dict[str, Any]) -> None:
    (position,) = dialect.positions([POSITION | changes], [], {})
    assert position.is_unclear
    (position,) = dialect.positions([POSITION], [POSITION | changes], {})
    assert position.is_unclear


def test_a_position_of_unreadable_price_is_held_all_the_same() -> None:
    (position,) = dialect.positions([POSITION | {"average_price": None}], [], {})
    assert (position.quantity, position.average_price, position.is_unclear) == (Decimal(5), None, False)


# Two orders under one tag


def test_two_iceberg_orders_under_one_tag_are_told_apart_by_their_legs() -> None:
    told = [
        leg(1, "261121000000001"),
        leg(1, "261121000000002"),
        leg(2, "261121000000003", status="OPEN", filled_quantity=4),
        leg(2, "261121000000004", status="OPEN", filled_quantity=0),
    ]
    reports = reports_of(told)
    ids = ("261121000000001", "261121000000002")
    assert [(r.broker_order_id, r.filled_quantity) for r in reports] == [(ids[0], Decimal(14)), (ids[1], Decimal(10))]
    assert all(report.orders_under_tag == ids for report in reports)


def test_the_next_leg_is_of_the_order_whose_leg_is_done() -> None:
    told = [
        leg(1, "261121000000001", status="CANCELLED", filled_quantity=3),
        leg(1, "261121000000002"),
        leg(2, "261121000000003", status="OPEN", filled_quantity=4),
    ]
    assert [r.filled_quantity for r in reports_of(told)] == [Decimal(3), Decimal(14)]


def test_a_leg_that_names_its_parent_is_that_ones() -> None:
    told = [
        leg(1, "261121000000001"),
        leg(1, "261121000000002"),
        leg(2, "261121000000003", parent_order_id="261121000000002", filled_quantity=5),
    ]
    assert [r.filled_quantity for r in reports_of(told)] == [Decimal(10), Decimal(15)]


def test_an_iceberg_order_with_a_leg_at_work_is_working_whatever_another_leg_says() -> None:
    told = [leg(1, "261121000000001", status="OPEN", filled_quantity=0), leg(2, "261121000000002", status="CANCELLED")]
    (report,) = reports_of(told)
    assert report.status is ReportStatus.WORKING


def test_an_order_with_an_unreadable_leg_is_not_reported() -> None:
    assert reports_of([leg(1, "261121000000001"), leg(2, "261121000000002", filled_quantity=None)]) == []


# Through the adapter


async def test_an_odd_order_blinds_nobody_and_is_not_absent(
    server: SimulatedKite, broker: ZerodhaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.place_order(TICKET)
    await broker.place_order(replace(TICKET, client_order_id=OTHER))
    server.show_oddly("GET /orders", ONE, {"filled_quantity": None, "order_timestamp": 1234567890123456789})
    with caplog.at_level(logging.WARNING, logger="brokers.zerodha.adapter"):
        for _ in range(3):
            assert [report.client_order_id for report in (await broker.reports()).reports] == [OTHER]
    assert len([record for record in caplog.records if "filled_quantity" in record.getMessage()]) == 1
    with pytest.raises(AnswerUnclear, match="filled_quantity"):
        await broker.find(ONE)
    other = await broker.find(OTHER)
    assert other is not None
    assert other.status is ReportStatus.FILLED
    assert await broker.find("t000000000000000003") is None
    server.clear_faults()
    assert await broker.find(ONE) is not None


async def test_while_a_row_does_not_say_whose_it_is_no_order_is_absent(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    await broker.place_order(TICKET)
    server.show_oddly("GET /orders", ONE, {"tag": 5, "tags": [5]})
    with pytest.raises(AnswerUnclear):
        await broker.find(ONE)
    with pytest.raises(AnswerUnclear):
        await broker.find(OTHER)


async def test_an_order_shown_oddly_is_cancelled_by_its_id(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, times=None))
    placed = await broker.place_order(TICKET)
    server.show_oddly("GET /orders", ONE, {"filled_quantity": None})
    other = create(config_for(server))
    await other.connect()
    await other.cancel_order(OrderRef(client_order_id=ONE, broker_order_id=placed.broker_order_id))
    with pytest.raises(AnswerUnclear):
        await other.cancel_order(OrderRef(client_order_id=ONE))
    with pytest.raises(OrderRefused):
        await other.cancel_order(OrderRef(client_order_id=OTHER))
    assert server.book.orders()[0].status is ReportStatus.CANCELLED
    await other.close()


@pytest.mark.parametrize("fields", [{"quantity": None}, {"average_price": "free"}, {"quantity": "1e999999"}])
async def test_an_odd_trade_leaves_its_order_with_a_count_that_its_executions_do_not_reach(
    server: SimulatedKite, broker: ZerodhaBroker, fields: dict[str, Any]
) -> None:
    await broker.place_order(TICKET)
    await broker.place_order(replace(TICKET, client_order_id=OTHER))
    server.show_oddly("GET /trades", ONE, fields)
    malformed, other = (await broker.reports()).reports
    assert (malformed.filled_quantity, malformed.fills, malformed.is_unclear, other.is_unclear) == (
        Decimal(10),
        (),
        True,
        False,
    )
    found = await broker.find(ONE)
    assert found is not None
    assert found.is_unclear
    assert sum(fill.quantity for fill in other.fills) == Decimal(10)
    (told,) = (await broker.reports()).unreadable
    assert told.client_order_id == ONE


ODD_TIMES: list[object] = [None, "", "09:15:01", "0001-01-01 00:00:00", "2026-13-45 99:99:99", 1764000000, [], "x" * 19]


@pytest.mark.parametrize("told", ODD_TIMES)
async def test_a_trade_of_unreadable_time_is_a_fill_of_the_time_of_hearing(
    server: SimulatedKite, broker: ZerodhaBroker, told: object, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.place_order(TICKET)
    await broker.place_order(replace(TICKET, client_order_id=OTHER))
    names = ("fill_timestamp", "exchange_timestamp", "order_timestamp")
    server.show_oddly("GET /trades", ONE, dict.fromkeys(names, told))
    before = datetime.now(UTC)
    answer = await broker.reports()
    malformed, other = answer.reports
    (fill,) = malformed.fills
    assert (fill.quantity, fill.is_time_estimated) == (Decimal(10), True)
    assert before <= fill.time <= datetime.now(UTC)
    assert not other.fills[0].is_time_estimated
    assert answer.unreadable == []
    assert (await broker.reports()).reports[0].fills[0].time == fill.time
    found = await broker.find(ONE)
    assert found is not None
    assert found.fills[0].time == fill.time
    assert len([each for each in caplog.records if fill.fill_id in each.getMessage()]) == 1


async def test_an_odd_order_row_is_told_with_its_tag_or_without(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await broker.place_order(TICKET)
    server.show_oddly("GET /orders", ONE, {"filled_quantity": None})
    assert [each.client_order_id for each in (await broker.reports()).unreadable] == [ONE]
    server.show_oddly("GET /orders", ONE, {"tag": 5, "tags": [5]})
    assert [each.client_order_id for each in (await broker.reports()).unreadable] == [""]
    server.clear_faults()
    server.show_oddly("GET /orders", ONE, {"tag": None, "tags": None, "filled_quantity": None})
    assert (await broker.reports()).unreadable == []


def test_one_note_that_cannot_be_read_leaves_the_other_orders_their_costs() -> None:
    notes = ContractNotes()
    keys = [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]
    notes.learn(keys, [Decimal(1), None, Decimal(3), None], 100.0)

    def of(order_id: str, fill_id: str) -> Decimal | None:
        moment = datetime(2026, 11, 24, tzinfo=UTC)
        fill = Fill(fill_id=fill_id, quantity=Decimal(1), price=Decimal(1), time=moment)
        return notes.priced(order_id, [fill])[0].commission

    assert [of(*key) for key in keys] == [Decimal(1), None, Decimal(3), None]
    assert notes.wanted([], {}, 100.1) == []


@pytest.mark.parametrize(
    "line", ['1,1,A"B,X,0,,0,0.05,1,EQ,NSE,NSE', "1,1,A\0B,X,0,,0,0.05,1,EQ,NSE,NSE", "1,1", '"', ""]
)
def test_one_line_of_an_instruments_list_spoils_none_but_itself(line: str) -> None:
    head = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange"
    good = [f"1,1,{symbol},{symbol},0,,0,0.05,1,EQ,NSE,NSE" for symbol in ("ONE", "TWO", "THREE")]
    read, _ = rows.read_listing("\n".join([head, good[0], line, *good[1:], ""]))
    assert {"ONE", "TWO", "THREE"} <= {each.symbol for each in read}


@pytest.mark.parametrize(
    "margins", [None, [], {"equity": None}, {"equity": {}}, {"equity": {"available": {"cash": "x"}}}]
)
def test_margins_that_cannot_be_read_are_no_sum(margins: Any) -> None:
    with pytest.raises(rows.Malformed):
        dialect.balances(margins)


@pytest.mark.parametrize(
    "told", [{}, {"exchanges": None}, {"exchanges": "NSE", "meta": []}, {"exchanges": [1, None], "meta": 5}]
)
def test_a_profile_is_read_as_far_as_it_goes(told: Any) -> None:
    dialect.account_notes(rows.read_profile(told))


async def test_an_order_whose_row_is_too_poor_for_a_contract_note_is_told_without_costs(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    await broker.place_order(TICKET)
    await broker.place_order(replace(TICKET, client_order_id=OTHER))
    server.show_oddly("GET /orders", ONE, {"product": None})
    poor, other = (await broker.reports()).reports
    assert poor.fills[0].commission is None
    assert other.fills[0].commission is not None


async def test_an_odd_position_is_unclear_and_the_others_are_told(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await broker.place_order(TICKET)
    await broker.place_order(replace(TICKET, client_order_id=OTHER, instrument=Instrument(symbol="RELIANCE")))
    server.show_oddly("GET /portfolio/positions", "INFY", {"quantity": None})
    told = {position.instrument.symbol: position for position in await broker.positions()}
    assert told["INFY"].is_unclear
    assert (told["RELIANCE"].quantity, told["RELIANCE"].is_unclear) == (Decimal(10), False)
    server.show_oddly("GET /portfolio/positions", "INFY", {"exchange": "MOON"})
    assert {position.instrument.symbol for position in await broker.positions()} == {"INFY", "RELIANCE"}
    server.show_oddly("GET /portfolio/positions", "INFY", {"tradingsymbol": None})
    unnamed, named = sorted(await broker.positions(), key=lambda position: position.instrument.symbol)
    assert unnamed.is_unnamed
    assert (named.instrument.symbol, named.quantity) == ("RELIANCE", Decimal(10))


async def test_a_list_that_is_none_is_not_an_empty_one(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    broker._calls.ask = _no_list  # type: ignore[method-assign, assignment]
    with pytest.raises(Exception, match="no list of orders"):
        await broker.reports()
    with pytest.raises(AnswerUnclear, match="no list of positions"):
        await broker.positions()


async def _no_list(*_: object) -> None:
    return None
