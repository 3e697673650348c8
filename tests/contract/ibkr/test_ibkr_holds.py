"""What IBKR says of orders that wait for the opening, and what the adapter remembers of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from brokers.ibkr.blotter import Blotter, Execution, Hold
from brokers.ibkr.hold import hold_in

HEAD = "Order Message:\nBUY 10 SPY NASDAQ.NMS\nWarning: your order will not be placed at the exchange until "


@pytest.mark.parametrize(
    ("words", "until"),
    [
        ("2026-11-30 09:30:00 US/Eastern", datetime(2026, 11, 30, 14, 30, tzinfo=UTC)),
        ("2026-07-01 09:30:00 US/Eastern.", datetime(2026, 7, 1, 13, 30, tzinfo=UTC)),
        ("2026-07-01 09:30:00 EST", datetime(2026, 7, 1, 13, 30, tzinfo=UTC)),
        ("20261130 08:30:00 US/Central", datetime(2026, 11, 30, 14, 30, tzinfo=UTC)),
        ("20261130-09:00 MET", datetime(2026, 11, 30, 8, 0, tzinfo=UTC)),
        ("2026-11-30 09:30:00 XYZ", None),
        ("2026-11-30 09:30:00", None),
        ("2026-13-45 09:30:00 US/Eastern", None),
        ("2026-11-30 09:30:00 ../../etc/passwd", None),
        ("the market opens", None),
        ("", None),
    ],
)
def test_ibkrs_message_says_that_an_order_is_held_and_perhaps_until_when(words: str, until: datetime | None) -> None:
    hold = hold_in(HEAD + words)
    assert hold is not None
    assert hold.until == until
    assert hold.words.startswith("will not be placed at the exchange until")
    assert "\n" not in hold.words


@pytest.mark.parametrize(
    "text",
    [
        "Order Message:\nBUY 1 EUR.USD\nWarning: Your order size is below the minimum and will be routed as an odd lot",
        "Order Canceled - reason:",
        "",
    ],
)
def test_other_messages_hold_nothing(text: str) -> None:
    assert hold_in(text) is None


EVENING, PRE_OPEN, TRADING = (
    datetime(2026, 11, 23, 15, 30, tzinfo=UTC),
    datetime(2026, 11, 24, 3, 31, tzinfo=UTC),
    datetime(2026, 11, 24, 3, 45, tzinfo=UTC),
)
"""21:00, 09:01 and 09:15 in India."""


def test_what_was_said_of_one_opening_holds_for_no_later_one() -> None:
    blotter = Blotter()
    entry = blotter.note_order(client_id=1, order_id=1, perm_id=9, client_order_id="t", status="PreSubmitted")
    assert blotter.report(entry).is_held is None
    before = blotter.mark
    blotter.note_hold(entry, Hold(words="not before nine", until=EVENING))
    assert (blotter.report(entry).is_held, blotter.report(entry).held_until) == (True, EVENING)
    assert blotter.mark > before, "it is told"
    blotter.note_status(client_id=1, order_id=1, perm_id=9, status="Submitted", filled=Decimal(0))
    assert blotter.report(entry).is_held is False
    blotter.note_status(client_id=1, order_id=1, perm_id=9, status="PreSubmitted", filled=Decimal(0))
    assert (blotter.report(entry).is_held, blotter.report(entry).held_until) == (None, None), "it rests over night"


def test_what_has_filled_is_not_held() -> None:
    blotter = Blotter()
    entry = blotter.note_order(client_id=1, order_id=1, perm_id=9, client_order_id="t", status="PreSubmitted")
    blotter.note_hold(entry, Hold(words="not before nine", until=None))
    execution = Execution(exec_id="a.1", quantity=Decimal(1), price=Decimal(2), time=EVENING)
    blotter.note_execution(client_id=1, order_id=1, perm_id=9, client_order_id="t", execution=execution)
    assert blotter.report(entry).is_held is False
