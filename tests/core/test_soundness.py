"""What is unclear ends nothing, differs from nothing and is said once; what can be no value is taken out of a report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import UNNAMED_POSITION, BrokerPosition, Fill, FillsShown, Instrument, Report, ReportStatus
from execution_service.core.messages.confirmation import fill_body
from execution_service.core.orders.events import Accepted, Filled, Noted
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.report_events import is_short, new_events, unreadable_note
from execution_service.core.orders.sanitize import sanitized, sanitized_position
from execution_service.core.reconcile.positions import Holding, compare_positions
from execution_service.core.views.record import event_from_document, event_to_document, instrument_of_ledger
from execution_service.core.views.shared import fill_fields
from tests.builders import NOW, fill, order, submit_started

LATER = NOW + timedelta(seconds=5)


def at_work() -> Order:
    return apply_all(order(), [submit_started(), Accepted(at=NOW, broker_order_id="1:1")])


def report(about: Order, status: ReportStatus = ReportStatus.CANCELLED, **changes: Any) -> Report:
    said = Report(
        client_order_id=about.client_order_id, broker_order_id="1:1", status=status, filled_quantity=Decimal(0)
    )
    return replace(said, **changes)


@pytest.mark.parametrize("status", [ReportStatus.CANCELLED, ReportStatus.EXPIRED, ReportStatus.REJECTED])
def test_an_unclear_report_ends_no_order(status: ReportStatus) -> None:
    about = at_work()
    assert new_events(about, report(about, status), LATER)
    assert new_events(about, report(about, status, is_unclear=True), LATER) == []


def test_the_fills_of_an_unclear_report_count() -> None:
    about = at_work()
    told = report(about, fills=(fill("f", 3),), filled_quantity=Decimal(3), is_unclear=True)
    assert [type(event) for event in new_events(about, told, LATER)] == [Filled]


def test_an_unclear_report_of_an_order_that_was_perhaps_sent_shows_that_it_arrived() -> None:
    about = apply_all(order(), [submit_started()])
    (event,) = new_events(about, report(about, is_unclear=True), LATER)
    assert isinstance(event, Accepted)


def test_an_unclear_order_that_is_complete_with_too_little_is_not_settled() -> None:
    about = apply_all(at_work(), [Filled(at=NOW, fill=fill("f", 3))])
    told = report(about, ReportStatus.FILLED, fills=about.fills, filled_quantity=Decimal(3))
    assert is_short(about, told)
    assert not is_short(about, replace(told, is_unclear=True))


def test_that_something_cannot_be_read_is_noted_once() -> None:
    about = at_work()
    (event,) = unreadable_note(about, "an execution", LATER)
    assert isinstance(event, Noted)
    assert event.alert
    assert unreadable_note(apply_all(about, [event]), "another execution", LATER) == ()


def test_a_sound_report_is_the_same_report() -> None:
    told = report(at_work(), fills=(fill("f", 3),), filled_quantity=Decimal(3))
    assert sanitized(told, LATER) == (told, None)


def test_what_can_be_no_execution_is_taken_out_and_the_count_with_it() -> None:
    told = report(at_work(), fills=(fill("a", 3), fill("b", Decimal("NaN"))), filled_quantity=Decimal("NaN"))
    left, problem = sanitized(told, LATER)
    assert (left.fills, left.filled_quantity, left.is_unclear) == ((fill("a", 3),), Decimal(3), True)
    assert problem is not None
    assert "b" in problem


def test_a_commission_that_can_be_none_is_not_told_yet() -> None:
    odd = replace(fill("a", 3), commission=Decimal("NaN"), commission_currency="USD")
    left, problem = sanitized(report(at_work(), fills=(odd,), filled_quantity=Decimal(3)), LATER)
    assert (left.fills[0].commission, left.fills[0].commission_currency, problem) == (None, None, None)


SPY, AAPL = Instrument(symbol="SPY"), Instrument(symbol="AAPL")
OURS = [Holding(instrument=SPY, quantity=Decimal(10)), Holding(instrument=AAPL, quantity=Decimal(5))]


def held(instrument: Instrument, quantity: str, **changes: Any) -> BrokerPosition:
    return sanitized_position(BrokerPosition(instrument=instrument, quantity=Decimal(quantity), **changes))


def test_a_position_that_is_unclear_on_either_side_is_neither_a_difference_nor_an_agreement() -> None:
    theirs = [held(SPY, "NaN"), held(AAPL, "5")]
    compared = compare_positions(OURS, theirs)
    assert (compared.findings, compared.agreeing, compared.unclear) == ((), 1, {SPY.key})
    ours = [Holding(instrument=SPY, quantity=Decimal(0), is_unclear=True), OURS[1]]
    compared = compare_positions(ours, [held(SPY, "10"), held(AAPL, "5")])
    assert (compared.findings, compared.agreeing, compared.unclear, compared.not_ours) == ((), 1, {SPY.key}, ())


def test_an_unnamed_row_may_be_whatever_is_not_shown_and_nothing_that_is() -> None:
    compared = compare_positions(OURS, [UNNAMED_POSITION, held(AAPL, "4")])
    assert [finding.subject for finding in compared.findings] == [AAPL.key]
    assert compared.unclear == {SPY.key}
    assert compared.not_ours == ()


def test_an_average_price_that_can_be_none_is_left_out() -> None:
    assert held(SPY, "10", average_price=Decimal("Infinity")).average_price is None


def test_the_mark_of_an_estimated_time_is_kept_and_shown_and_records_without_it_are_read() -> None:
    marked = replace(fill("f", 3), is_time_estimated=True)
    document = event_to_document(Filled(at=NOW, fill=marked))
    assert event_from_document(document) == Filled(at=NOW, fill=marked)
    del document["fill"]["is_time_estimated"]
    assert event_from_document(document) == Filled(at=NOW, fill=fill("f", 3))
    assert fill_body(marked)["is_time_estimated"] is True
    assert fill_fields(marked)["is_time_estimated"] is True
    assert "is_time_estimated" not in fill_body(fill("f", 3)) | fill_fields(fill("f", 3))


@pytest.mark.parametrize(
    ("document", "symbol"),
    [
        ({"instrument": {"symbol": "SPY", "asset_class": "STOCK"}}, "SPY"),
        ({"instrument": 5, "instrument_key": "SPY|STOCK"}, "SPY"),
        ({"instrument_key": "SPY|MOON"}, "SPY"),
        ({}, ""),
    ],
)
def test_a_ledger_entry_that_cannot_be_read_tells_what_it_is_about_as_far_as_it_does(
    document: dict[str, Any], symbol: str
) -> None:
    assert instrument_of_ledger(document).symbol == symbol


def test_times_beyond_all_reason_are_estimated() -> None:
    for moment in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC), datetime(2026, 1, 1)):  # noqa: DTZ001
        odd = Fill(fill_id="f", quantity=Decimal(1), price=Decimal(1), time=moment)
        left, _ = sanitized(report(at_work(), fills=(odd,), filled_quantity=Decimal(1)), LATER)
        assert (left.fills[0].time, left.fills[0].is_time_estimated) == (LATER, True)


@pytest.mark.parametrize("shown", [FillsShown.ALL, FillsShown.SETTLED])
def test_a_fill_that_cannot_be_read_any_more_is_not_annulled(shown: FillsShown) -> None:
    about = apply_all(at_work(), [Filled(at=NOW, fill=fill("f", 3)), Filled(at=NOW, fill=fill("g", 2))])
    odd = replace(fill("g", 2), price=Decimal("NaN"))
    told = report(about, ReportStatus.WORKING, fills=(fill("f", 3), odd), filled_quantity=Decimal(5), fills_shown=shown)
    left, problem = sanitized(told, LATER)
    assert problem is not None
    assert new_events(about, left, LATER) == []
