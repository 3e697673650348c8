"""The words of a message about many orders."""

from __future__ import annotations

from dataclasses import replace

from execution_service.core import alerts
from execution_service.core.order import Event, Order, Reason, ReasonCode, Rejected, Status, apply
from tests.builders import NOW, cancelled, doubted, filled_by, noted, order_in, rejected


def line_of(event: Event, before: Order) -> str | None:
    return alerts.outcome_line(before, event, apply(before, event), account_name="Main & Co")


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
    assert alerts.digest(["one", "two"], waiting=0) == "📋 2 Orders\n\none\ntwo"
    assert alerts.digest(["one"], waiting=7).startswith("📋 1 Order (7 more to come)\n\none")
