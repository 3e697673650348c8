"""What others are told of an order's events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import Instrument, Side
from execution_service.core.messages.events_out import (
    Mark,
    OutEvent,
    events_of,
    marked_position,
    payload_json,
    stream_entry,
)
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Cancelled, Event, Rejected
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.positions.ledger import LedgerEntry, Line, fold, key_of
from tests.builders import accepted, at, busted, contract_resolved, filled_by, identity, order, request, submit_started


def working(signal_id: str, side: Side, *events: Event, before: Sequence[Event] = (), **changes: Any) -> Order:
    about = order(of=identity(signal_id), asked=request(side=side, **changes))
    return apply_all(about, [*before, submit_started(), accepted(f"B-{signal_id}"), *events])


def told(*orders: Order, without_held: bool = False) -> list[OutEvent]:
    """Of these orders, booked one after the other under one key."""
    entry = LedgerEntry(key=key_of(orders[0]), instrument=orders[0].accepted_request.instrument)
    events: list[OutEvent] = []
    for about in orders:
        entry, lines = fold(entry, about, applied_events(about), {})
        if without_held:
            lines = {number: replace(line, held=None) for number, line in lines.items()}
        for applied in applied_events(about):
            events += events_of(applied, lines.get(applied.number), lines, broker="MOCK")
    return events


def of(events: Sequence[OutEvent], event_type: str) -> list[dict[str, Any]]:
    return [dict(event.body) for event in events if event.event_type == event_type]


def test_short_trade_earns_when_the_price_falls() -> None:
    short = working("in", Side.SELL, filled_by("f1", 100, "10.00"), quantity=Decimal(100))
    cover = working("out", Side.BUY, filled_by("f2", 100, "8.00"), quantity=Decimal(100))
    (closed,) = of(told(short, cover), "trade.closed")
    assert (closed["side"], closed["entry_price"], closed["exit_price"]) == ("SHORT", 10, 8)
    assert (closed["pnl"], closed["pnl_percent"]) == (200, 20)


def test_profit_counts_the_contracts_multiplier_and_percent_does_not() -> None:
    future = Instrument(symbol="GC", multiplier=Decimal(100), currency="USD")
    buy = working("in", Side.BUY, filled_by("f1", 1, "2000"), instrument=future, quantity=Decimal(1))
    sell = working("out", Side.SELL, filled_by("f2", 1, "2010"), instrument=future, quantity=Decimal(1))
    (closed,) = of(told(buy, sell), "trade.closed")
    assert (closed["pnl"], closed["pnl_usd"], closed["pnl_percent"]) == (1000, 1000, 0.5)


def test_profit_that_is_not_in_dollars_is_not_called_so() -> None:
    share = Instrument(symbol="INFY", currency="INR")
    buy = working("in", Side.BUY, filled_by("f1", 1, "100"), instrument=share, quantity=Decimal(1))
    sell = working("out", Side.SELL, filled_by("f2", 1, "110"), instrument=share, quantity=Decimal(1))
    (closed,) = of(told(buy, sell), "trade.closed")
    assert "pnl_usd" not in closed
    assert (closed["pnl"], closed["currency"]) == (10, "INR")


def test_amounts_that_cannot_be_known_are_absent() -> None:
    unknown = [contract_resolved(is_size_unknown=True)]
    buy = working("in", Side.BUY, filled_by("f1", 1, "100"), before=unknown, quantity=Decimal(1))
    sell = working("out", Side.SELL, filled_by("f2", 1, "110"), before=unknown, quantity=Decimal(1))
    events = told(buy, sell)
    (closed,) = of(events, "trade.closed")
    assert not {"pnl", "pnl_usd", "realized_pnl", "pnl_percent", "entry_price"} & set(closed)
    assert closed["exit_price"] == 110
    assert all("unrealized_pnl" not in body for body in of(events, "position.updated"))


def test_partial_exits_are_one_trade_whose_profit_is_the_whole() -> None:
    buy = working("in", Side.BUY, filled_by("f1", 100, "10.00"), quantity=Decimal(100))
    half = working("half", Side.SELL, filled_by("f2", 50, "11.00"), quantity=Decimal(50))
    rest = working("rest", Side.SELL, filled_by("f3", 20, "12.00"), filled_by("f4", 30, "13.00"), quantity=Decimal(50))
    events = told(buy, half, rest)
    (closed,) = of(events, "trade.closed")
    assert (closed["quantity"], closed["exit_price"], closed["pnl"]) == (50, 12.6, 180)
    assert [body["quantity"] for body in of(events, "position.updated")] == [100, 50, 30, 0]


def test_busted_entry_ends_its_trade_and_says_that_it_corrects() -> None:
    bought = working("in", Side.BUY, filled_by("f1", 40, "10.00"), quantity=Decimal(100))
    events = told(apply_all(bought, [busted("f1")]))
    (closed,) = of(events, "trade.closed")
    assert (closed["reason"], closed["pnl"], closed["correction"]) == ("busted", 0, True)
    assert of(events, "execution.result")[-1]["status"] == "BUSTED"


def test_busted_exit_opens_its_trade_again() -> None:
    buy = working("in", Side.BUY, filled_by("f1", 100, "10.00"), quantity=Decimal(100))
    sell = working("out", Side.SELL, filled_by("f2", 100, "11.00"), quantity=Decimal(100))
    first, again = of(told(buy, apply_all(sell, [busted("f2")])), "trade.opened")
    assert (again["trade_id"], again["quantity"], again["correction"]) == (first["trade_id"], 100, True)


@pytest.mark.parametrize(("code", "has_failed"), [(ReasonCode.TIMEOUT, True), (ReasonCode.CANCEL_REQUESTED, False)])
def test_cancelled_order_has_failed_unless_somebody_wished_it(code: ReasonCode, has_failed: bool) -> None:
    about = working("sig", Side.BUY, Cancelled(at=at(2), reason=Reason(code, "so"), filled_quantity=Decimal(0)))
    assert bool(of(told(about), "order.failed")) is has_failed


def test_lines_of_earlier_versions_tell_of_orders_alone() -> None:
    bought = working("in", Side.BUY, filled_by("f1", 100, "10.00"), quantity=Decimal(100))
    types = [event.event_type for event in told(bought, without_held=True)]
    assert types == ["order.placed", "order.filled", "execution.result"]


def test_entry_has_the_envelope_and_each_field_by_itself() -> None:
    bought = working("in", Side.BUY, filled_by("f1", 100, "10.50"), quantity=Decimal(100))
    for event in told(bought):
        entry = {name: value.decode() for name, value in stream_entry(event).items()}
        body = json.loads(payload_json(event))
        assert entry["payload"] == payload_json(event).decode()
        assert entry["event_type"] == body["event_type"] == event.event_type
        assert entry["correlation_id"] == body["event_id"] == event.event_id
        assert set(body) <= set(entry)
        assert "null" not in entry["payload"]
        for name in ("quantity", "qty", "entry_price"):
            if name in body:
                assert Decimal(entry[name]) == Decimal(str(body[name]))


def test_text_that_no_encoding_has_breaks_no_event() -> None:
    about = apply_all(order(), [Rejected(at=at(1), reason=Reason(ReasonCode.BROKER_REJECTED, "no \ud800 way"))])
    (event,) = [e for e in told_of_refusal(about) if e.event_type == "order.failed"]
    assert "no" in str(json.loads(payload_json(event))["reason"])
    assert stream_entry(event)


def told_of_refusal(about: Order) -> list[OutEvent]:
    lines: dict[int, Line] = {}
    return [event for applied in applied_events(about) for event in events_of(applied, None, lines, broker="MOCK")]


def test_a_mark_that_is_not_known_is_null_in_the_payload_and_no_field_of_a_redis_entry() -> None:
    bought = working("in", Side.BUY, filled_by("f1", 100, "10.50"), quantity=Decimal(100))
    entry, _ = fold(
        LedgerEntry(key=key_of(bought), instrument=bought.accepted_request.instrument),
        bought,
        applied_events(bought),
        {},
    )
    unknown = marked_position(entry, None, at(5))
    known = marked_position(entry, Mark(price=Decimal("11.5"), source="QUOTE", at=at(4)), at(6))
    nothing = {"mark": None, "mark_source": None, "mark_at": None, "current_price": None, "unrealized_pnl": None}
    assert {name: value for name, value in unknown.body.items() if value is None} == nothing
    assert json.loads(payload_json(unknown))["unrealized_pnl"] is None
    assert not set(nothing) & set(stream_entry(unknown))
    assert (known.body["unrealized_pnl"], known.body["mark_at"]) == (100, "2025-03-03T15:00:04.000+00:00")
    assert known.event_id != unknown.event_id
    assert known.body["trade_id"] == unknown.body["trade_id"] == of(told(bought), "trade.opened")[0]["trade_id"]


def test_the_profit_of_a_position_of_unknown_worth_is_null_beside_its_mark() -> None:
    bought = working("in", Side.BUY, filled_by("f1", 1, "100"), before=[contract_resolved(is_size_unknown=True)])
    entry, _ = fold(
        LedgerEntry(key=key_of(bought), instrument=bought.accepted_request.instrument),
        bought,
        applied_events(bought),
        {},
    )
    body = marked_position(entry, Mark(price=Decimal(110), source="QUOTE", at=at(4)), at(5)).body
    assert (body["mark"], body["unrealized_pnl"], "realized_pnl" in body) == (110, None, False)
