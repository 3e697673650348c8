"""What readers of `execution-confirmations` are told, field by field."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from brokers.base import Fill, Instrument, OrderType, Side
from execution_service.core.messages.confirmation import (
    attributes,
    confirmation,
    confirmation_json,
    iso_time,
    json_number,
)
from execution_service.core.orders.events import (
    Accepted,
    Busted,
    Cancelled,
    CommissionReported,
    Doubted,
    Event,
    Filled,
    Rejected,
    SubmitStarted,
)
from execution_service.core.orders.order import Order, apply_all, new_order
from execution_service.core.orders.request import Identity, OrderRequest, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode

AT = datetime(2024, 11, 24, 10, 30, 10, tzinfo=UTC)
AGREED = (
    "signal_id leg_index order_id request_order_id client_order_id status symbol instrument side order_type quantity filled_quantity "
    "remaining_quantity avg_fill_price commission commission_currency realized_pnl account_id account strategy_name strategy_id broker "
    "submitted_at filled_at timestamp reason last_fill"
)
FIELDS = AGREED.split()
REQUEST = OrderRequest(
    account_id="acc_abc123",
    strategy="SPX 1-Day Options",
    instrument=Instrument(symbol="SPY"),
    side=Side.BUY,
    quantity=Decimal(100),
    order_type=OrderType.MARKET,
    request_order_id="sig_1_ORD",
)
SENT: tuple[Event, ...] = (
    SubmitStarted(at=AT, nonce="n"),
    Accepted(at=AT + timedelta(milliseconds=500), broker_order_id="ord_broker_12345"),
)


def filled(amount: str, price: str, number: int = 1, commission: str | None = "1.00") -> Filled:
    fill = Fill(
        fill_id=f"f{number}",
        quantity=Decimal(amount),
        price=Decimal(price),
        time=AT + timedelta(seconds=2),
        commission=None if commission is None else Decimal(commission),
        commission_currency=None if commission is None else "USD",
    )
    return Filled(at=AT + timedelta(seconds=2, microseconds=345678), fill=fill)


def order_after(*events: Event, request: OrderRequest | RefusedRequest = REQUEST, signal_id: str = "sig_1") -> Order:
    return apply_all(new_order(Identity(signal_id=signal_id), request, received_at=AT, published_at=AT), events)


def told(*events: Event, pnl: str | None = None, correction: bool = False, **of_order: object) -> dict[str, object]:
    order = order_after(*events, **of_order)  # type: ignore[arg-type]
    realized = None if pnl is None else Decimal(pnl)
    return confirmation(order, event=events[-1], broker="IBKR", realized_pnl=realized, correction=correction)


def test_fill_is_told_whole_and_in_the_agreed_order() -> None:
    body = told(*SENT, filled("100", "235.15"), pnl="-20.5")
    assert list(body) == FIELDS
    assert body == {
        "signal_id": "sig_1",
        "leg_index": 0,
        "order_id": "ord_broker_12345",
        "request_order_id": "sig_1_ORD",
        "client_order_id": Identity(signal_id="sig_1").client_order_id(1),
        "status": "FILLED",
        "symbol": "SPY",
        "instrument": "SPY",
        "side": "BUY",
        "order_type": "MARKET",
        "quantity": 100,
        "filled_quantity": 100,
        "remaining_quantity": 0,
        "avg_fill_price": 235.15,
        "commission": 1,
        "commission_currency": "USD",
        "realized_pnl": -20.5,
        "account_id": "acc_abc123",
        "account": "acc_abc123",
        "strategy_name": "SPX 1-Day Options",
        "strategy_id": "SPX 1-Day Options",
        "broker": "IBKR",
        "submitted_at": "2024-11-24T10:30:10.000Z",
        "filled_at": "2024-11-24T10:30:12.000Z",
        "timestamp": "2024-11-24T10:30:12.345Z",
        "reason": None,
        "last_fill": {
            "fill_id": "f1",
            "quantity": 100,
            "price": 235.15,
            "commission": 1,
            "commission_currency": "USD",
            "time": "2024-11-24T10:30:12.000Z",
        },
    }


def test_partial_fill_tells_what_remains() -> None:
    body = told(*SENT, filled("40", "10"), filled("20", "13", 2, commission=None))
    assert (body["status"], body["filled_quantity"], body["remaining_quantity"]) == ("PARTIALLY_FILLED", 60, 40)
    assert (body["avg_fill_price"], body["commission"]) == (11, 1)
    assert body["last_fill"] == {
        "fill_id": "f2",
        "quantity": 20,
        "price": 13,
        "commission": None,
        "commission_currency": None,
        "time": "2024-11-24T10:30:12.000Z",
    }


def test_rejection_before_any_sending_has_nulls_for_what_there_is_not() -> None:
    body = told(Rejected(at=AT, reason=Reason(ReasonCode.STALE_ORDER, "too old")))
    assert (body["order_id"], body["submitted_at"], body["filled_at"], body["last_fill"]) == (None, None, None, None)
    assert (body["avg_fill_price"], body["commission_currency"], body["realized_pnl"]) == (None, None, None)
    assert (body["status"], body["reason"]) == ("REJECTED", {"code": "STALE_ORDER", "message": "too old"})


def test_unreadable_fields_of_a_refused_message_are_null() -> None:
    rejected = Rejected(at=AT, reason=Reason(ReasonCode.INVALID_ORDER, "quantity is missing"))
    body = told(rejected, request=RefusedRequest())
    assert list(body) == FIELDS
    unknown = ("symbol", "instrument", "side", "order_type", "quantity", "remaining_quantity", "account", "strategy_id")
    assert [body[name] for name in unknown] == [None] * len(unknown)
    assert body["filled_quantity"] == 0


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (Cancelled(at=AT, reason=Reason(ReasonCode.TIMEOUT, "late"), filled_quantity=Decimal(0)), "CANCELLED"),
        (Rejected(at=AT, reason=Reason(ReasonCode.BROKER_REJECTED, "no")), "REJECTED"),
    ],
)
def test_end_tells_its_reason(event: Event, status: str) -> None:
    body = told(*SENT, event)
    assert body["status"] == status
    assert body["reason"] is not None


def test_doubt_is_told() -> None:
    body = told(SENT[0], Doubted(at=AT, message="no answer"))
    assert (body["status"], body["reason"]) == ("IN_DOUBT", {"code": "OUTCOME_UNKNOWN", "message": "no answer"})


def test_only_a_correction_says_that_it_is_one() -> None:
    assert "correction" not in told(*SENT, filled("100", "235.15"))
    body = told(*SENT, filled("100", "235.15"), correction=True)
    assert list(body) == [*FIELDS, "correction"]
    assert body["correction"] is True


def test_annulled_only_fill_is_told_with_a_status_that_readers_know() -> None:
    events = (*SENT, filled("100", "235.15"), Busted(at=AT, fill_id="f1"))
    body = told(*events, correction=True)
    assert (body["status"], body["filled_quantity"], body["last_fill"]) == ("PARTIALLY_FILLED", 0, None)
    assert attributes(order_after(*events))["status"] == "PARTIALLY_FILLED"


def test_late_commission_is_in_the_sum_and_not_a_fill() -> None:
    late = CommissionReported(at=AT, fill_id="f1", commission=Decimal("2.35"), currency="INR")
    body = told(*SENT, filled("100", "5", commission=None), late, correction=True)
    assert (body["commission"], body["commission_currency"], body["last_fill"]) == (2.35, "INR", None)


def test_attributes_name_the_event_and_grow_with_it() -> None:
    partial, full = order_after(*SENT, filled("40", "1")), order_after(*SENT, filled("40", "1"), filled("60", "1", 2))
    assert attributes(partial) == {
        "event_id": f"{partial.order_id}-3",
        "signal_id": "sig_1",
        "status": "PARTIALLY_FILLED",
        "event_number": "3",
        "schema_version": "1",
    }
    assert attributes(full)["event_id"] == f"{partial.order_id}-4"
    assert attributes(full)["status"] == "FILLED"


def test_attribute_values_keep_within_the_limit_of_pubsub_at_a_whole_character() -> None:
    long = attributes(order_after(*SENT, signal_id="a" + "€" * 400))["signal_id"]
    assert len(long.encode()) == 1024
    assert long == "a" + "€" * 341
    assert attributes(order_after(*SENT, signal_id="€" * 256))["signal_id"] == "€" * 256


def test_json_is_compact_and_readable_whatever_the_broker_says() -> None:
    event = Rejected(at=AT, reason=Reason(ReasonCode.BROKER_REJECTED, 'no "€" \ud800 \n here'))
    data = confirmation_json(order_after(*SENT, event), event=event, broker="X", realized_pnl=None, correction=False)
    body = json.loads(data.decode("utf-8"))
    assert body["reason"]["message"] == 'no "€" \ud800 \n here'
    assert b'"leg_index":0,"order_id":' in data
    assert "€".encode() in data


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("100", "100"),
        ("1E+5", "100000"),
        ("100.00", "100"),
        ("0.25", "0.25"),
        ("235.15", "235.15"),
        ("-3.10", "-3.1"),
        ("1E-8", "1e-08"),
    ],
)
def test_numbers_are_written_as_json_numbers(value: str, written: str) -> None:
    assert json.dumps(json_number(Decimal(value))) == written


def test_times_are_told_in_utc() -> None:
    moment = datetime(2025, 1, 1, 5, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert iso_time(moment) == "2025-01-01T00:00:00.999Z"
