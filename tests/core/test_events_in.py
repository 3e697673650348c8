"""Events of the systems around us, in the shapes that they really have, as orders."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import AssetClass, OrderType, Side
from execution_service.core.messages.events_in import (
    DECISION,
    INTENT,
    MANUAL,
    EventOrder,
    Hint,
    NoTrade,
    entry_data,
    read_event,
)
from execution_service.core.messages.inbound import ParsedOrder, Unusable, parse_order
from execution_service.core.orders.request import OrderRequest, Purpose

DECIDED: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "side": "buy",
    "confidence": 0.82,
    "entry_price": 100000.0,
    "quantity": 200.0,
    "leverage": 5,
    "stop_loss": 98000.0,
    "take_profit": 104000.0,
    "trail_percent": None,
    "model": "ensemble",
    "strategy": "trend",
    "position_size_usd": 200.0,
    "timestamp": "2026-03-01T10:00:00.250000+00:00",
}
"""As the AI engine publishes it: its quantity is the same amount of dollars."""
OF_THE_ENGINE = {**DECIDED, "side": "BUY", "meta_strategy": "m", "regime": "trending"}
OF_THE_ROUTER = {
    "symbol": "BTCUSDT",
    "action": "BUY",
    "confidence": 0.82,
    "position_size_usd": 200.0,
    "leverage": 5,
    "timestamp": "2026-03-01T10:00:01",
    "source": "ai_strategy_router",
    "stop_loss_pct": 2.0,
    "take_profit_pct": 4.0,
    "entry_price": 100000.0,
    "stop_loss": None,
    "take_profit": None,
    "quantity": 200.0,
}
AUTONOMOUS = {
    "intent_type": "AUTONOMOUS_ENTRY",
    "symbol": "ETHUSDT",
    "action": "SELL",
    "side": "SHORT",
    "position_size_usd": "150.0",
    "leverage": "2.0",
    "take_profit": "2.0",
    "stop_loss": "1.0",
    "confidence": "0.7",
    "reduceOnly": "false",
    "timestamp": "1772359200",
    "entry_price": "3000",
}


def read(event_type: str, body: dict[str, Any] | bytes, *, account: str | None = "acct", message_id: str = "m1") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_event(event_type, data, account_id=account, message_id=message_id)


def order_of(event_type: str, body: dict[str, Any], **how: Any) -> tuple[ParsedOrder, OrderRequest]:
    found = read(event_type, body, **how)
    assert isinstance(found, EventOrder), found
    parsed = parse_order(found.data)
    assert isinstance(parsed, ParsedOrder)
    assert isinstance(parsed.request, OrderRequest), parsed.problems
    return parsed, parsed.request


def reason_of(event_type: str, body: dict[str, Any] | bytes, **how: Any) -> str:
    found = read(event_type, body, **how)
    assert isinstance(found, Unusable), found
    return found.reason


def test_quantity_of_a_decision_is_its_dollars_by_its_price_and_never_its_quantity() -> None:
    _, request = order_of(DECISION, DECIDED)
    assert request.quantity == Decimal("0.002")
    assert (request.side, request.order_type, request.reference_price) == (Side.BUY, OrderType.MARKET, 100000)
    assert (request.stop_loss, request.take_profit) == (98000, 104000)
    assert request.instrument.asset_class is AssetClass.CRYPTO
    assert (request.account_id, request.strategy) == ("acct", "trend")


def test_a_quantity_is_rounded_down() -> None:
    _, request = order_of(DECISION, DECIDED | {"entry_price": 90000, "position_size_usd": 100})
    assert request.quantity == Decimal("0.00111111")


@pytest.mark.parametrize(
    ("side", "expected"), [("buy", Side.BUY), ("long", Side.BUY), ("sell", Side.SELL), ("SHORT", Side.SELL)]
)
def test_sides_in_either_word(side: str, expected: Side) -> None:
    changes = {"side": side, "stop_loss": None, "take_profit": None}
    assert order_of(DECISION, DECIDED | changes)[1].side is expected


def test_hold_is_no_trade() -> None:
    assert isinstance(read(DECISION, DECIDED | {"side": "hold", "entry_price": None, "position_size_usd": 0}), NoTrade)


def test_decision_its_intent_and_their_replays_are_one_order() -> None:
    ids = {
        order_of(event_type, body)[0].identity.order_id
        for event_type, body in (
            (DECISION, DECIDED),
            (DECISION, DECIDED | {"timestamp": "2026-03-01T11:00:00.25+01:00"}),
            (INTENT, OF_THE_ENGINE),
        )
        for _ in range(2)
    }
    assert len(ids) == 1


@pytest.mark.parametrize("changes", [{"side": "sell"}, {"symbol": "ETHUSDT"}, {"timestamp": "2026-03-01T10:00:01Z"}])
def test_another_side_symbol_or_time_is_another_order(changes: dict[str, Any]) -> None:
    changes = changes | {"stop_loss": None, "take_profit": None}
    assert order_of(DECISION, DECIDED | changes)[0].identity != order_of(DECISION, DECIDED)[0].identity


def test_time_of_a_decision_is_utc_where_it_names_no_zone_and_may_be_seconds() -> None:
    at = datetime(2026, 3, 1, 10, tzinfo=UTC)
    for timestamp in ("2026-03-01T10:00:00", "2026-03-01T12:00:00+02:00", 1772359200, "1772359200.0", 1772359200000):
        assert read(DECISION, DECIDED | {"timestamp": timestamp}).decided_at == at


def test_router_gives_its_stops_in_percent() -> None:
    _, request = order_of(INTENT, OF_THE_ROUTER)
    assert (request.quantity, request.stop_loss, request.take_profit) == (Decimal("0.002"), 98000, 104000)


def test_autonomous_trader_gives_stop_loss_and_take_profit_in_percent() -> None:
    _, request = order_of(INTENT, AUTONOMOUS)
    assert request.side is Side.SELL
    assert (request.quantity, request.stop_loss, request.take_profit) == (Decimal("0.05"), 3030, 2940)


def test_absolute_stop_that_looks_like_a_percentage_is_refused() -> None:
    assert "more than 50 percent away" in reason_of(INTENT, OF_THE_ENGINE | {"stop_loss": 1.0})


def test_percentage_that_looks_like_a_fraction_is_refused() -> None:
    assert "is no distance" in reason_of(INTENT, OF_THE_ROUTER | {"stop_loss_pct": 0.02})


def test_reduce_only_is_an_exit_and_its_side_may_name_the_position() -> None:
    body = AUTONOMOUS | {"reduceOnly": "true", "action": "SELL", "side": "LONG", "stop_loss": 0, "take_profit": 0}
    parsed, request = order_of(INTENT, body)
    assert (parsed.identity.purpose, request.side) == (Purpose.EXIT, Side.SELL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entry_price": None}, "entry_price is missing"),
        ({"position_size_usd": None}, "position_size_usd is missing"),
        ({"position_size_usd": 0}, "position_size_usd must be greater than zero"),
        ({"entry_price": -1}, "entry_price must be greater than zero"),
        ({"position_size_usd": 1e-6}, "buys nothing"),
        ({"position_size_usd": 1e17, "entry_price": 1e-17}, "more than can be meant"),
        ({"timestamp": None}, "timestamp (or signal_id) is missing"),
        ({"timestamp": "yesterday"}, "timestamp must be"),
        ({"timestamp": 1e300}, "timestamp must be"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp must be"),
        ({"side": "up"}, "side must be"),
        ({"side": None}, "side (or action) is missing"),
        ({"symbol": None}, "symbol is missing"),
        ({"symbol": {"a": 1}}, "symbol must be text"),
        ({"action": "SELL"}, "contradicts"),
    ],
)
def test_what_is_wrong_with_a_decision_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in reason_of(DECISION, DECIDED | changes)


def test_without_an_account_nothing_is_traded() -> None:
    assert "EVENTS_ACCOUNT" in reason_of(DECISION, DECIDED, account=None)
    assert order_of(DECISION, DECIDED | {"account_id": "mine"}, account=None)[1].account_id == "mine"


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"{" * 5000, b'{"a":' * 200 + b"1" + b"}" * 200, b"null"])
def test_what_is_no_object_is_unusable(data: bytes) -> None:
    for event_type in (DECISION, INTENT, MANUAL, "ess.tripped"):
        assert isinstance(read(event_type, data), Unusable)


def test_manual_order_is_the_body_of_the_http_call() -> None:
    body = {"symbol": "BTCUSDT", "side": "long", "quantity": 0.001, "price": 50000, "leverage": 10, "stop_loss": 49000}
    parsed, request = order_of(MANUAL, body)
    assert (request.quantity, request.order_type, request.limit_price) == (Decimal("0.001"), OrderType.LIMIT, 50000)
    assert parsed.identity == order_of(MANUAL, body)[0].identity
    assert parsed.identity != order_of(MANUAL, body, message_id="m2")[0].identity


def test_manual_order_keeps_the_words_of_orders_and_its_own_id() -> None:
    body = {
        "symbol": "AAPL",
        "side": "sell",
        "quantity": "5",
        "metadata": {"signal_id": "mine"},
        "account_id": "other",
        "strategy_name": "s",
        "order_type": "STOP",
        "stop_price": 90,
        "tif": "GTC",
    }
    parsed, request = order_of(MANUAL, body)
    assert parsed.identity.signal_id == "mine"
    assert (request.account_id, request.strategy, request.order_type, request.stop_price) == ("other", "s", "STOP", 90)
    assert request.instrument.asset_class is AssetClass.STOCK
    assert request.tif is not None


def test_whole_event_is_kept_with_the_order() -> None:
    parsed, _ = order_of(DECISION, DECIDED)
    assert json.loads(parsed.raw)["event"] == DECIDED


@pytest.mark.parametrize("event_type", ["ess.tripped", "policy.updated", "model.promoted"])
def test_hints_make_no_order(event_type: str) -> None:
    found = read(event_type, DECIDED | {"reason": "drawdown"})
    assert found == Hint(event_type=event_type, summary="reason 'drawdown'")


def test_event_that_nobody_knows_is_unusable() -> None:
    assert "no event that makes an order" in reason_of("trade.opened", DECIDED)


@pytest.mark.parametrize(
    "fields",
    [
        {b"event_type": b"x", b"payload": json.dumps(DECIDED).encode()},
        {b"data": json.dumps(DECIDED).encode()},
        {name.encode(): str(value).encode() for name, value in DECIDED.items() if value is not None},
    ],
    ids=["wrapper", "data", "flat"],
)
def test_entry_of_a_stream_has_its_event_in_one_of_three_places(fields: dict[bytes, bytes]) -> None:
    found = read(DECISION, entry_data(fields))
    assert isinstance(found, EventOrder)
    parsed = parse_order(found.data)
    assert isinstance(parsed, ParsedOrder)
    assert parsed.identity == order_of(DECISION, DECIDED)[0].identity


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=60), max_size=6))
def test_no_entry_of_a_stream_raises(fields: dict[bytes, bytes]) -> None:
    for event_type in (DECISION, INTENT, MANUAL, "policy.updated"):
        read(event_type, entry_data(fields))


NAMES = sorted({*DECIDED, *OF_THE_ROUTER, *AUTONOMOUS, "metadata", "price"})
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.lists(st.integers(), max_size=2)),
    st.sampled_from(["buy", "SHORT", "hold", "1e400", "-0", "1e-17", "99999999999999999", "2026-03-01T10:00:00"]),
)


@given(
    st.sampled_from([DECISION, INTENT, MANUAL]),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
)
def test_no_value_of_a_field_raises_or_trades_a_quantity_that_is_none(event_type: str, changes: dict[str, Any]) -> None:
    found = read(event_type, DECIDED | changes)
    if isinstance(found, EventOrder):
        parsed = parse_order(found.data)
        if isinstance(parsed, ParsedOrder) and isinstance(parsed.request, OrderRequest):
            assert parsed.request.quantity > 0
