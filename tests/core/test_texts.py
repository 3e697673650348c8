"""The words for people: spec 004's messages exactly, and nothing from outside that could forge a line or a tag."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Fill, Instrument, OrderType, Side
from execution_service.core.orders.events import (
    Accepted,
    Busted,
    Cancelled,
    CancelRefused,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    InstrumentMatched,
    Noted,
    NothingSent,
    Rejected,
    SendAgainOrdered,
    Sized,
    SubmitStarted,
)
from execution_service.core.orders.order import Order, apply, apply_all, new_order
from execution_service.core.orders.request import Identity, OrderRequest, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.texts.discrepancies import discrepancies, discrepancy
from execution_service.core.texts.log import CONFIRMATION_PUBLISHED, log_line, order_received
from execution_service.core.texts.messages import MentionedOrder, one_line, with_count
from execution_service.core.texts.orders import (
    cancels_unconfirmed,
    conflict,
    exits_not_measured,
    exits_waiting,
    held_for_opening,
    order_alert,
    targets_waiting,
)
from execution_service.core.texts.service import (
    broker_down,
    broker_up,
    dead_letters,
    events_failing,
    orders_held,
    part_failed,
    part_failing_on,
    publish_failing,
    service_ends,
    session_concern,
)
from execution_service.core.texts.values import money, plain, price, quantity
from tests.builders import contract_resolved

AT = datetime(2024, 11, 24, 10, 30, 10, tzinfo=UTC)
SIGNAL = "sig_1732450800_5678"
REQUEST = OrderRequest(
    account_id="acc_abc123",
    strategy="SPX 1-Day Options",
    instrument=Instrument(symbol="SPY"),
    side=Side.BUY,
    quantity=Decimal(100),
    order_type=OrderType.MARKET,
)
START = SubmitStarted(at=AT, nonce="n")
FOR_MONEY = Fitted(at=AT, cash_quantity=Decimal(250), message="sent with cash quantity 250")
SENT: tuple[Event, ...] = (START, Accepted(at=AT, broker_order_id="ord_broker_12345"))


def because(code: ReasonCode, message: str) -> Reason:
    return Reason(code, message)


TIMEOUT = because(ReasonCode.TIMEOUT, "not filled within 60 s")
ASKED = because(ReasonCode.CANCEL_REQUESTED, "closed early")


def filled(
    amount: str,
    at: str,
    number: int = 1,
    *,
    commission: str | None = "1.00",
    currency: str | None = "USD",
    seconds: float = 2,
) -> Filled:
    fill = Fill(
        fill_id=f"f{number}",
        quantity=Decimal(amount),
        price=Decimal(at),
        time=AT + timedelta(seconds=seconds),
        commission=None if commission is None else Decimal(commission),
        commission_currency=currency,
    )
    return Filled(at=AT, fill=fill)


def step(
    *events: Event, request: OrderRequest | RefusedRequest = REQUEST, signal_id: str = SIGNAL
) -> tuple[Order, Event, Order]:
    """The order before the last event, that event, and the order after it."""
    order = new_order(Identity(signal_id=signal_id), request, received_at=AT, published_at=AT)
    before = apply_all(order, events[:-1])
    return before, events[-1], apply(before, events[-1])


def alert(*events: Event, request: OrderRequest | RefusedRequest = REQUEST, signal_id: str = SIGNAL) -> str | None:
    before, event, after = step(*events, request=request, signal_id=signal_id)
    return order_alert(before, event, after, account_name="IBKR Main Account", broker="IBKR")


def line(*events: Event, request: OrderRequest | RefusedRequest = REQUEST) -> tuple[str, str] | None:
    return log_line(*step(*events, request=request))


# --- spec 004's three messages -----------------------------------------------------------------------------------------


def test_filled_is_told_in_the_words_of_the_spec() -> None:
    assert alert(*SENT, filled("100", "235.15")) == (
        "✅ Order Filled\n"
        "\n"
        "Signal: sig_1732450800_5678\n"
        "Strategy: SPX 1-Day Options\n"
        "Order: BUY 100 SPY @ $235.15\n"
        "Total: $23,515.00\n"
        "Commission: $1.00\n"
        "Time: 2 seconds"
    )


def test_rejected_is_told_in_the_words_of_the_spec() -> None:
    rejected = Rejected(at=AT, reason=because(ReasonCode.BROKER_REJECTED, "Insufficient margin"))
    assert alert(*SENT, rejected) == (
        "❌ Order Rejected\n"
        "\n"
        "Signal: sig_1732450800_5678\n"
        "Strategy: SPX 1-Day Options\n"
        "Order: BUY 100 SPY\n"
        "Reason: Insufficient margin\n"
        "Account: IBKR Main Account"
    )


def test_partial_fill_is_told_in_the_words_of_the_spec() -> None:
    assert alert(*SENT, filled("50", "235.20")) == (
        "⚠️ Partial Fill\n\nSignal: sig_1732450800_5678\nOrder: BUY 100 SPY\nFilled: 50/100 @ $235.20\nRemaining: 50"
    )


# --- the others -----------------------------------------------------------------------------------------------------

NO_FILL = Decimal(0)


def test_an_order_for_money_is_told_as_filled_when_the_money_is_spent_and_never_as_overfilled() -> None:
    done = alert(FOR_MONEY, *SENT, filled("98", "2.5"), Completed(at=AT, filled_quantity=Decimal(98)))
    more = alert(FOR_MONEY, *SENT, filled("103", "2.5"))
    assert done is not None
    assert more is not None
    assert done.startswith("✅ Order Filled\n")
    assert "Order: BUY 98 SPY @ $2.50\nTotal: $245.00\n" in done
    assert more.startswith("⚠️ Partial Fill\n")


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (
            (*SENT, Cancelled(at=AT, reason=ASKED, filled_quantity=NO_FILL)),
            ("🚫 Order Cancelled", "Filled: 0/100", "Reason: closed early"),
        ),
        ((CancelRequested(at=AT, reason=ASKED, requested_by="x"),), ("🚫 Order Cancelled", "Reason: closed early")),
        (
            (*SENT, filled("50", "1"), Cancelled(at=AT, reason=TIMEOUT, filled_quantity=Decimal(50))),
            (
                "⏱️ Order Timeout",
                "Filled: 50/100 @ $1.00",
                "Reason: not filled within 60 s",
                "Account: IBKR Main Account",
            ),
        ),
        (
            (*SENT, Expired(at=AT, reason=because(ReasonCode.BROKER_EXPIRED, "end of day"), filled_quantity=NO_FILL)),
            ("⌛ Order Expired", "Reason: end of day"),
        ),
        (
            (START, Doubted(at=AT, message="no answer")),
            ("❓ Order In Doubt", "Reason: no answer", "Broker: IBKR", "execctl resolve"),
        ),
        ((*SENT, filled("120", "1")), ("🚨 Overfill", "Filled: 120/100 @ $1.00", "Too many: 20")),
        ((*SENT, filled("100", "1"), filled("5", "1", 2)), ("🚨 Overfill", "Too many: 5")),
        (
            (*SENT, Cancelled(at=AT, reason=ASKED, filled_quantity=NO_FILL), filled("30", "2.5")),
            (
                "🔧 Correction: Late Fill",
                "Late fill: 30 @ $2.50",
                "Filled now: 30/100 @ $2.50",
                "Status: CANCELLED (was CANCELLED)",
            ),
        ),
        (
            (*SENT, filled("100", "2.5"), Busted(at=AT, fill_id="f1")),
            ("🔧 Correction: Execution Annulled", "Annulled: 100 @ $2.50", "Filled now: 0/100", "Status: SUBMITTED"),
        ),
        (
            (Capped(at=AT, quantity=Decimal(60), message="the entry has 60 left"),),
            ("✂️ Exit Capped", "Executing: 60 of 100", "Reason: the entry"),
        ),
        (
            (Fitted(at=AT, quantity=Decimal(99), message="sent with quantity 99 for 99.5"),),
            ("✂️ Order Rounded", "Executing: 99 of 100", "Reason: sent with quantity 99"),
        ),
        ((Noted(at=AT, message="late exit executed", alert=True),), ("⚠️ Attention", "Note: late exit executed")),
        ((START, DeclaredNotPlaced(at=AT, by="ann", message="not there")), ("❌ Order Rejected", "Reason: not there")),
        ((*SENT, DeclaredCancelled(at=AT, by="ann", message="dead")), ("🚫 Order Cancelled", "Reason: dead")),
        (
            (
                *SENT,
                filled("50", "1"),
                Rejected(at=AT, reason=because(ReasonCode.BROKER_REJECTED, "late no"), filled_quantity=Decimal(50)),
            ),
            ("🚫 Order Cancelled", "Filled: 50/100 @ $1.00", "Reason: late no"),
        ),
    ],
)
def test_each_of_these_is_told_to_people(events: tuple[Event, ...], words: tuple[str, ...]) -> None:
    text = alert(*events)
    assert text is not None
    lines = text.split("\n")
    assert lines[0] == words[0]
    assert lines[1] == ""
    assert lines[2:5] == [f"Signal: {SIGNAL}", "Strategy: SPX 1-Day Options", "Order: BUY 100 SPY"]
    assert all(any(line.startswith(word) or word in line for line in lines) for word in words)


@pytest.mark.parametrize(
    "events",
    [
        (START,),
        SENT,
        (START, NothingSent(at=AT, message="no connection")),
        (*SENT, CancelRequested(at=AT, reason=TIMEOUT, requested_by="x")),
        (*SENT, CancelRefused(at=AT, message="too late")),
        (*SENT, filled("100", "1"), filled("100", "1")),
        (*SENT, filled("100", "1"), CommissionReported(at=AT, fill_id="f1", commission=Decimal(1), currency="USD")),
        (*SENT, Busted(at=AT, fill_id="unknown")),
        (Noted(at=AT, message="for the file"),),
        (START, DeclaredPlaced(at=AT, by="ann", broker_order_id="7", message="found")),
        (START, Doubted(at=AT, message="no answer"), SendAgainOrdered(at=AT, by="ann", message="lost")),
    ],
)
def test_people_are_not_told_of_these(events: tuple[Event, ...]) -> None:
    assert alert(*events) is None


def test_unreadable_order_is_told_with_question_marks() -> None:
    rejected = Rejected(at=AT, reason=because(ReasonCode.INVALID_ORDER, "quantity is missing; side is missing"))
    text = order_alert(*step(rejected, request=RefusedRequest()), account_name=None, broker="IBKR")
    assert text is not None
    assert "\nStrategy: ?\nOrder: ? ? ?\nReason: quantity is missing; side is missing\nAccount: ?" in text


def test_account_without_a_name_is_told_by_its_id() -> None:
    rejected = Rejected(at=AT, reason=because(ReasonCode.UNKNOWN_ACCOUNT, "no such account"))
    text = order_alert(*step(rejected), account_name=None, broker="?")
    assert text is not None
    assert text.endswith("Account: acc_abc123")


def test_legs_are_told_apart() -> None:
    text = alert(*SENT, filled("50", "1"), request=replace(REQUEST, total_legs=2))
    assert text is not None
    assert f"Signal: {SIGNAL} (leg 1 of 2)\n" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2, "2 seconds"),
        (1, "1 second"),
        (0.3, "0.3 seconds"),
        (0.04, "0.0 seconds"),
        (0.97, "1 second"),
        (1.6, "2 seconds"),
        (-5, "0.0 seconds"),
    ],
)
def test_time_taken_is_whole_seconds_from_one_on(seconds: float, words: str) -> None:
    text = alert(*SENT, filled("100", "1", seconds=seconds))
    assert text is not None
    assert text.endswith(f"\nTime: {words}")


def test_time_taken_counts_from_the_sending_or_else_from_the_arrival() -> None:
    later = replace(START, at=AT + timedelta(seconds=3))
    sent = alert(later, SENT[1], filled("100", "1", seconds=7))
    assert sent is not None
    assert sent.endswith("\nTime: 4 seconds")
    not_sent_by_us = alert(filled("100", "1", seconds=7))
    assert not_sent_by_us is not None
    assert not_sent_by_us.endswith("\nTime: 7 seconds")


def test_commission_is_told_in_its_own_currencies_or_as_missing() -> None:
    both = alert(*SENT, filled("50", "1"), filled("50", "1", 2, commission="20", currency="INR"))
    assert both is not None
    assert "\nCommission: $1.00 + ₹20.00\n" in both
    none = alert(*SENT, filled("100", "1", commission=None, currency=None))
    assert none is not None
    assert "\nCommission: not reported yet\n" in none


@pytest.mark.parametrize(
    ("request_changes", "commission_currency", "sign"),
    [
        ({"instrument": Instrument(symbol="X", currency="EUR")}, "USD", "€"),
        ({"instrument": Instrument(symbol="X", currency="CHF")}, "USD", "CHF "),
        ({}, "INR", "₹"),
        ({}, "GBP", "£"),
        ({"product": "CNC"}, None, "₹"),
        ({}, None, "$"),
    ],
)
def test_prices_are_told_in_the_orders_currency(
    request_changes: dict[str, Instrument], commission_currency: str | None, sign: str
) -> None:
    commission = None if commission_currency is None else "1"
    event = filled("100", "9.5", commission=commission, currency=commission_currency)
    text = alert(*SENT, event, request=replace(REQUEST, **request_changes))  # type: ignore[arg-type]
    assert text is not None
    assert f" @ {sign}9.50\n" in text
    assert f"\nTotal: {sign}950.00\n" in text


def told_with(told: ContractResolved, price: str, **request_changes: Any) -> str:
    text = alert(told, *SENT, filled("100", price), request=replace(REQUEST, **request_changes))
    assert text is not None
    return text


def test_a_price_in_cents_says_so_and_the_total_is_in_dollars() -> None:
    corn = Instrument(symbol="ZC", asset_class=AssetClass.FUTURE)
    cents = contract_resolved(multiplier=Decimal(5000), price_magnifier=Decimal(100), trading_class="ZC")
    text = told_with(cents, "450.25", instrument=corn)
    assert "Order: BUY 100 ZC @ 450.25 (in 1/100 USD)\nTotal: $2,251,250.00\n" in text
    assert "\nContract: multiplier 5000, quoted in 1/100 USD\n" in text


def test_amounts_are_in_the_currency_that_the_broker_told() -> None:
    text = told_with(contract_resolved(multiplier=None, currency="EUR"), "10.5", instrument=Instrument(symbol="SAP"))
    assert "@ €10.50\nTotal: €1,050.00\n" in text
    assert "Contract:" not in text


def test_no_total_is_told_where_the_broker_does_not_tell_what_a_contract_is_worth() -> None:
    unknown = contract_resolved(multiplier=None, is_size_unknown=True, currency="INR")
    assert "\nTotal: ? (the broker does not tell what one contract is worth)\n" in told_with(unknown, "88")


def test_total_of_contracts_counts_their_multiplier() -> None:
    gold = Instrument(symbol="GC", multiplier=Decimal(100))
    text = alert(*SENT, filled("100", "2650.1"), request=replace(REQUEST, instrument=gold))
    assert text is not None
    assert "\nTotal: $26,501,000.00\n" in text


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("235.15", "$235.15"),
        ("235.1", "$235.10"),
        ("235", "$235.00"),
        ("1E+5", "$100000.00"),
        ("0.9123", "$0.9123"),
        ("0.91230", "$0.9123"),
        ("0.00000012", "$0.00000012"),
        ("0.000000000123", "$0.000000000123"),
        ("235.1533333333333333333333333", "$235.15333333"),
        ("-5.5", "-$5.50"),
        ("0", "$0.00"),
    ],
)
def test_prices_have_two_decimals_and_as_many_more_as_they_need(amount: str, words: str) -> None:
    assert price(Decimal(amount), "USD") == words


def test_money_has_separators_and_is_exact_for_the_greatest_numbers() -> None:
    assert money(Decimal("23515"), "USD") == "$23,515.00"
    assert money(Decimal("-1234567.5"), "INR") == "-₹1,234,567.50"
    assert money(Decimal("123456789012345678" + "1".zfill(18)), "XAU").endswith("678,000,000,000,000,000,001.00")


@pytest.mark.parametrize(
    ("amount", "words"),
    [("100", "100"), ("100.00", "100"), ("1E+5", "100000"), ("0.250", "0.25"), ("1E-8", "0.00000001")],
)
def test_quantities_have_no_needless_zeros(amount: str, words: str) -> None:
    assert quantity(Decimal(amount)) == words


# --- what comes from outside ----------------------------------------------------------------------------------------

NASTY = "a<b>&\"'</b>\r\nFAKE: 1\x1b[31m\u202e\u2028\u200b\x00\x9b" + "z" * 5000
NASTY_ORDER = new_order(Identity(signal_id=NASTY), replace(REQUEST, strategy=NASTY), received_at=AT, published_at=AT)


def test_outside_values_can_forge_neither_tags_nor_lines_nor_terminal_commands() -> None:
    request = replace(REQUEST, strategy=NASTY)
    rejected = Rejected(at=AT, reason=because(ReasonCode.BROKER_REJECTED, NASTY))
    text = order_alert(*step(*SENT, rejected, request=request, signal_id=NASTY), account_name=NASTY, broker=NASTY)
    assert text is not None
    assert len(text.split("\n")) == 7
    assert text.replace("\n", "").replace("\ufe0f", "").isprintable()
    assert "<" not in text
    assert "a&lt;b&gt;&amp;\"'&lt;/b&gt;" in text
    assert len(text) < 4096


@pytest.mark.parametrize(
    "text",
    [
        broker_down(account_name=NASTY, broker=NASTY, reason=NASTY),
        orders_held(account_name=NASTY, broker=NASTY, reason=NASTY),
        held_for_opening([MentionedOrder(NASTY_ORDER, None)] * 9, account_name=NASTY, broker=NASTY, words=NASTY),
        exits_waiting([MentionedOrder(NASTY_ORDER, AT)], account_name=NASTY, broker=NASTY, reason=NASTY, to_do=""),
        exits_not_measured([MentionedOrder(NASTY_ORDER, None, NASTY)] * 9, account_name=NASTY),
        targets_waiting([MentionedOrder(NASTY_ORDER, AT)], account_name=NASTY, broker=NASTY),
        cancels_unconfirmed([MentionedOrder(NASTY_ORDER, None)] * 9, account_name=NASTY, broker=NASTY, times=3),
        broker_up(account_name=NASTY, broker=NASTY),
        session_concern(account_name=NASTY, broker=NASTY, concern=NASTY),
        dead_letters(count=2, reason=NASTY),
        conflict(count=2, signal_id=NASTY, detail=NASTY),
        discrepancy(count=1, account_name=NASTY, broker=NASTY, detail=NASTY),
        publish_failing(waiting=3, attempts=3, reason=NASTY),
        events_failing(place="Redis", waiting=3, attempts=3, reason=NASTY),
        part_failed(part=NASTY, reason=NASTY),
        part_failing_on(part=NASTY, account_id=NASTY, failures=10, reason=NASTY),
        service_ends(part=NASTY, failures=10, reason=NASTY),
    ],
)
def test_texts_without_an_order_are_as_safe(text: str) -> None:
    title, _, body = text.partition("\n\n")
    assert "\n" not in title
    assert all(": " in line and line.isprintable() and "<" not in line for line in body.split("\n"))
    assert "\nFAKE" not in text


def test_texts_about_parts_say_which_and_why_and_what_to_do() -> None:
    assert part_failed(part="leases", reason="odd").startswith(
        "🔧 Part Restarted\n\nPart: leases\nReason: odd\nOrders: it is begun anew by itself"
    )
    text = part_failing_on(part="trader A", account_id="A", failures=10, reason="odd")
    assert (
        "🚨 Account Not Worked\n\nAccount: A\nPart: trader A\nFailed: 10 times in succession\nReason: odd\nTo do:"
        in text
    )
    text = service_ends(part="leases", failures=10, reason="odd")
    assert (
        "🛑 Service Ends\n\nPart: leases\nFailed: 10 times in succession\nReason: odd\nOrders: those at work stay"
        in text
    )


def test_texts_without_an_order_say_what_happened() -> None:
    down = broker_down(account_name="IBKR Main Account", broker="IBKR", reason="no route", count=3)
    assert down == "🔌 Broker Down (×3)\n\nAccount: IBKR Main Account\nBroker: IBKR\nReason: no route"
    up = broker_up(account_name="A", broker="IBKR", down_seconds=Decimal("61.2"))
    assert up == "✅ Broker Up\n\nAccount: A\nBroker: IBKR\nDown for: 61 seconds"
    assert dead_letters(count=1, reason="not JSON").startswith("📭 Dead Letter\n\nReason: not JSON\n")
    assert "\nSignal: s1\nReason: quantity differs\n" in conflict(count=1, signal_id="s1", detail="quantity differs")
    assert "\nWaiting: 4\nAttempts: 3\nReason: gone\n" in publish_failing(waiting=4, attempts=3, reason="gone")
    assert discrepancy(count=2, account_name="A", broker="B", detail="SPY 5, not 6").startswith("⚠️ Discrepancy (×2)")


def test_an_alert_for_the_log_is_one_line_of_plain_words() -> None:
    text = dead_letters(count=1, reason="<b> & c")
    assert one_line(text).startswith("📭 Dead Letter | Reason: <b> & c | To do: ")


def test_a_count_is_shown_behind_the_title() -> None:
    text = broker_up(account_name="A", broker="B")
    assert with_count(text, 1) == text
    assert with_count(text, 3) == "✅ Broker Up (×3)\n\nAccount: A\nBroker: B"


def test_plain_text_is_left_alone() -> None:
    assert plain("Ünïcode ₹ 100 | fine") == "Ünïcode ₹ 100 | fine"
    assert plain("a\nb\tc\x1bd") == "a b c\ufffdd"


# --- the log --------------------------------------------------------------------------------------------------------


def test_log_has_the_five_sentences_of_the_spec() -> None:
    assert order_received(SIGNAL) == "Received order: sig_1732450800_5678"
    assert line(START) == ("Placing order: BUY 100 SPY MARKET", "order_placing")
    assert line(*SENT) == ("Order submitted: ord_broker_12345", "order_submitted")
    assert line(*SENT, filled("100", "235.15")) == ("Order filled: 100 @ $235.15", "order_filled")
    assert CONFIRMATION_PUBLISHED == "Published execution confirmation"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"order_type": OrderType.LIMIT, "limit_price": Decimal("187.5")},
            "Placing order: BUY 100 SPY LIMIT @ $187.50",
        ),
        ({"order_type": OrderType.STOP, "stop_price": Decimal("90")}, "Placing order: BUY 100 SPY STOP @ $90.00"),
        (
            {"order_type": OrderType.STOP_LIMIT, "stop_price": Decimal("90"), "limit_price": Decimal("91")},
            "Placing order: BUY 100 SPY STOP_LIMIT stop $90.00 @ $91.00",
        ),
    ],
)
def test_log_tells_the_prices_of_an_order(changes: dict[str, Decimal], sentence: str) -> None:
    told = line(START, request=replace(REQUEST, **changes))  # type: ignore[arg-type]
    assert told is not None
    assert told[0] == sentence


@pytest.mark.parametrize(
    ("events", "sentence", "action"),
    [
        ((START, NothingSent(at=AT, message="no line")), "Order not sent: no line", "order_not_sent"),
        ((*SENT, filled("50", "235.2")), "Order partially filled: 50/100 @ $235.20", "order_partially_filled"),
        ((*SENT, filled("120", "1")), "Order overfilled: 120/100 @ $1.00", "order_overfilled"),
        (
            (*SENT, Cancelled(at=AT, reason=ASKED, filled_quantity=NO_FILL), filled("100", "1")),
            "Late fill: 100 @ $1.00; 100/100 @ $1.00, now FILLED",
            "late_fill",
        ),
        (
            (*SENT, filled("100", "1"), Busted(at=AT, fill_id="f1")),
            "Execution annulled: f1; 0/100 stand",
            "fill_busted",
        ),
        (
            (*SENT, CommissionReported(at=AT, fill_id="f1", commission=Decimal("1.5"), currency=None)),
            "Commission reported: $1.50 for execution f1",
            "commission_reported",
        ),
        ((CancelRequested(at=AT, reason=ASKED, requested_by="x"),), "Order cancelled: closed early", "order_cancelled"),
        (
            (*SENT, CancelRequested(at=AT, reason=TIMEOUT, requested_by="x")),
            "Order timeout: not filled within 60 s; cancelling",
            "order_timeout",
        ),
        (
            (*SENT, CancelRequested(at=AT, reason=ASKED, requested_by="ann")),
            "Cancelling order: closed early (by ann)",
            "cancel_requested",
        ),
        ((*SENT, CancelRefused(at=AT, message="too late")), "Cancel refused: too late", "cancel_refused"),
        ((Rejected(at=AT, reason=ASKED),), "Order rejected: closed early", "order_rejected"),
        (
            (*SENT, filled("50", "1"), Rejected(at=AT, reason=ASKED, filled_quantity=Decimal(50))),
            "Order cancelled: closed early; filled 50/100 @ $1.00",
            "order_cancelled",
        ),
        (
            (*SENT, Cancelled(at=AT, reason=ASKED, filled_quantity=NO_FILL)),
            "Order cancelled: closed early; filled 0/100",
            "order_cancelled",
        ),
        (
            (*SENT, Expired(at=AT, reason=ASKED, filled_quantity=NO_FILL)),
            "Order expired: closed early; filled 0/100",
            "order_expired",
        ),
        ((START, Doubted(at=AT, message="silence")), "Order in doubt: silence", "order_in_doubt"),
        (
            (Sized(at=AT, quantity=Decimal(60), arithmetic="120 at risk"),),
            "Order sized: 60: 120 at risk",
            "order_sized",
        ),
        ((Capped(at=AT, quantity=Decimal(60), message="60 left"),), "Exit capped: 60 of 100: 60 left", "exit_capped"),
        (
            (InstrumentMatched(at=AT, instrument=Instrument(symbol="AAPL", exchange="ARCA")),),
            "Exit closes its entry's instrument: AAPL|STOCK|exchange=ARCA",
            "exit_matched",
        ),
        (
            (Fitted(at=AT, quantity=Decimal(99), message="sent with quantity 99 for 99.5"),),
            "Order fitted: sent with quantity 99 for 99.5",
            "order_fitted",
        ),
        (
            (FOR_MONEY, *SENT, filled("98", "2.5"), Completed(at=AT, filled_quantity=Decimal(98))),
            "Order filled: 98 @ $2.50",
            "order_filled",
        ),
        ((Noted(at=AT, message="hm"),), "Note: hm", "order_noted"),
        (
            (START, DeclaredNotPlaced(at=AT, by="ann", message="m")),
            "Order declared not placed by ann: m",
            "order_resolved",
        ),
        (
            (START, DeclaredPlaced(at=AT, by="ann", broker_order_id="7", message="m")),
            "Order declared placed as 7 by ann: m",
            "order_resolved",
        ),
        (
            (*SENT, DeclaredCancelled(at=AT, by="ann", message="m")),
            "Order declared cancelled by ann: m",
            "order_resolved",
        ),
        (
            (START, Doubted(at=AT, message="no answer"), SendAgainOrdered(at=AT, by="ann", message="m")),
            "Sending again ordered by ann: m; attempt 2",
            "order_resolved",
        ),
    ],
)
def test_log_tells_every_event(events: tuple[Event, ...], sentence: str, action: str) -> None:
    assert line(*events) == (sentence, action)


def test_log_is_silent_about_a_fill_that_was_known() -> None:
    assert line(*SENT, filled("100", "1"), filled("100", "1")) is None


def test_log_sentences_are_one_printable_line_whatever_the_broker_says() -> None:
    stories: list[tuple[Event, ...]] = [
        (START, Accepted(at=AT, broker_order_id=NASTY)),
        (START, NothingSent(at=AT, message=NASTY)),
        (START, Doubted(at=AT, message=NASTY)),
        (*SENT, CancelRefused(at=AT, message=NASTY)),
        (*SENT, Rejected(at=AT, reason=because(ReasonCode.BROKER_REJECTED, NASTY))),
        (*SENT, CancelRequested(at=AT, reason=because(ReasonCode.CANCEL_REQUESTED, NASTY), requested_by=NASTY)),
        (*SENT, Busted(at=AT, fill_id=NASTY)),
        (Noted(at=AT, message=NASTY),),
        (START, DeclaredPlaced(at=AT, by=NASTY, broker_order_id=NASTY, message=NASTY)),
        (*SENT, CommissionReported(at=AT, fill_id=NASTY, commission=Decimal(1), currency=NASTY)),
    ]
    for events in stories:
        told = line(*events)
        assert told is not None
        assert told[0].isprintable()
        assert len(told[0]) < 4000
    assert order_received(NASTY).isprintable()


def test_of_many_discrepancies_each_is_named() -> None:
    """As when a broker squares off all that is held intraday, or several options expire in one night."""
    messages = [
        discrepancy(count=1, account_name="A", broker="B", detail=f"{name} <differs>: ours 1", to_do="Look.")
        for name in ("INFY", "RELIANCE")
    ]
    assert discrepancies(messages[:1], 1) == messages[0]
    assert discrepancies(messages, 2) == (
        "⚠️ Discrepancy (×2)\n\nAccount: A\nBroker: B\nFound:\n"
        "- INFY &lt;differs&gt;: ours 1\n- RELIANCE &lt;differs&gt;: ours 1\nTo do: Look."
    )
    other = discrepancy(count=1, account_name="A", broker="B", detail="x was placed twice", to_do="Cancel one.")
    assert discrepancies([*messages, other], 3).endswith("\nTo do: execctl discrepancies says for each what to do")


def test_more_discrepancies_than_a_message_can_name_are_counted() -> None:
    details = [f"{number} {'x' * 400}" for number in range(20)]
    messages = [discrepancy(count=1, account_name="A", broker="B", detail=words) for words in details]
    text = discrepancies(messages, 20)
    assert len(text) < 4096
    assert "\n- 5 x" in text
    assert "\n- and 14 more: see execctl discrepancies\n" in text
