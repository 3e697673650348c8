"""The words of a message about many orders."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from brokers.base import Side
from execution_service.core.orders.events import Cancelled, Event, Rejected
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.texts.orders import digest, order_alert, outcome_line
from tests.builders import (
    NOW,
    cancel_requested,
    cancelled,
    declared_not_placed,
    doubted,
    expired,
    filled_by,
    identity,
    noted,
    order,
    order_in,
    refused_request,
    rejected,
)


def line_of(event: Event, before: Order) -> str | None:
    return outcome_line(before, event, apply(before, event), account_name="Main & Co")


def test_an_outcome_is_one_line_with_order_signal_and_account() -> None:
    working = order_in(Status.SUBMITTED)
    assert line_of(filled_by("f1", 100), working) == "✅ BUY 100 AAPL @ $10.00 · signal-1 · Main &amp; Co"
    assert line_of(filled_by("f1", 40), working) == "⚠️ BUY 100 AAPL: 40/100 @ $10.00 so far · signal-1 · Main &amp; Co"
    refused = "❌ BUY 100 AAPL rejected: insufficient margin · signal-1 · Main &amp; Co"
    assert line_of(rejected(), order_in(Status.SUBMITTING)) == refused
    partly = order_in(Status.PARTIALLY_FILLED)
    ended = "🚫 BUY 100 AAPL cancelled, filled 40/100 @ $10.00: cancelled at the venue · signal-1 · Main &amp; Co"
    assert line_of(cancelled(40), partly) == ended


def test_what_a_person_should_look_at_shares_no_message() -> None:
    assert line_of(doubted(), order_in(Status.SUBMITTING)) is None
    assert line_of(filled_by("late", 10), order_in(Status.CANCELLED)) is None
    assert line_of(filled_by("more", 200), order_in(Status.SUBMITTED)) is None
    assert line_of(replace(noted(), alert=True), order_in(Status.SUBMITTED)) is None


def test_a_line_stays_one_whatever_the_broker_says_and_is_cut() -> None:
    words = Reason(ReasonCode.BROKER_REJECTED, "<b>no</b>\nreally " + "x" * 500)
    line = line_of(Rejected(at=NOW, reason=words), order_in(Status.SUBMITTING))
    assert line is not None
    assert "\n" not in line
    assert "<b>" not in line
    assert len(line) < 250


def test_a_message_about_many_counts_them_and_what_is_still_to_come() -> None:
    assert digest(["one", "two"], waiting=0) == "📋 2 Orders\n\none\ntwo"
    assert digest(["one"], waiting=7).startswith("📋 1 Order (7 more to come)\n\none")


# --- exits that fail ------------------------------------------------------------------------------------------------

EXIT = identity("signal-1", purpose=Purpose.EXIT)
TIMEOUT = Reason(ReasonCode.TIMEOUT, "not filled within 60 s")


def exit_in(status: Status) -> Order:
    working = order_in(status)
    return order(of=EXIT, side=Side.SELL, events=working.events)


@pytest.mark.parametrize(
    ("event", "status", "left"),
    [
        (Cancelled(at=NOW, reason=TIMEOUT, filled_quantity=Decimal(40)), Status.PARTIALLY_FILLED, "60"),
        (cancelled(), Status.SUBMITTED, "100"),
        (expired(40), Status.PARTIALLY_FILLED, "60"),
        (rejected(), Status.SUBMITTING, "100"),
        (Rejected(at=NOW, reason=Reason(ReasonCode.BROKER_UNAVAILABLE, "no connection")), Status.PENDING, "100"),
    ],
)
def test_exit_that_ends_with_something_left_is_told_alone_with_what_remains(
    event: Event, status: Status, left: str
) -> None:
    before = exit_in(status)
    after = apply(before, event)
    assert line_of(event, before) is None
    text = order_alert(before, event, after, account_name="Main", broker="IBKR")
    assert text is not None
    assert text.startswith("🚨 Exit Failed\n")
    assert f"Remaining: {left} not closed by it\n" in text
    assert "To do: it is not tried again by itself" in text


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (Cancelled(at=NOW, reason=Reason(ReasonCode.CANCEL_REQUESTED, "closed early"), filled_quantity=Decimal(0)), Status.SUBMITTED),
        (cancel_requested(), Status.PENDING),
        (Rejected(at=NOW, reason=Reason(ReasonCode.NOTHING_TO_EXIT, "other exits took it")), Status.PENDING),
        (declared_not_placed(), Status.SUBMITTING),
        (filled_by("f9", 100), Status.SUBMITTED),
    ],
)  # fmt: skip
def test_exit_that_somebody_ended_or_that_had_nothing_to_exit_has_not_failed(event: Event, status: Status) -> None:
    before = exit_in(status)
    text = order_alert(before, event, apply(before, event), account_name="Main", broker="IBKR")
    assert text is not None
    assert "Exit Failed" not in text
    assert line_of(event, before) is not None


def test_exit_that_could_not_even_be_read_has_failed_too_and_an_entry_never_has() -> None:
    unread = order(of=EXIT, asked=refused_request())
    event = Rejected(at=NOW, reason=Reason(ReasonCode.INVALID_ORDER, "quantity: missing"))
    text = order_alert(unread, event, apply(unread, event), account_name=None, broker="NONE")
    assert text is not None
    assert "Exit Failed" in text
    assert line_of(cancelled(40), order_in(Status.PARTIALLY_FILLED)) is not None
