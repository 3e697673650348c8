"""What an order that was not sent yet is said to wait for."""

from __future__ import annotations

import pytest

from brokers.base import Side
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from scripts.waits import waits_for
from tests.builders import NOW, identity, instrument, order, order_in
from tests.service.script_records import Records


@pytest.fixture
def records() -> Records:
    return Records()


def pending(records: Records, **changes: object) -> Order:
    return records.keep(order(of=identity("waiting"), **changes))  # type: ignore[arg-type]


def test_an_order_waits_for_one_of_its_instrument_that_was_perhaps_sent(records: Records) -> None:
    ahead = records.keep(order_in(Status.SUBMITTING, of=identity("ahead")))
    records.keep(order_in(Status.SUBMITTING, of=identity("other-account"), account_id="acct-2"))
    records.keep(order_in(Status.SUBMITTING, of=identity("other-symbol"), instrument=instrument("GLD")))
    records.keep(order_in(Status.SUBMITTED, of=identity("working")))
    found = waits_for(records.view, pending(records), NOW)
    assert found == [f"{ahead.order_id} SUBMITTING (signal ahead), perhaps sent and being looked for"]


def test_an_order_in_doubt_holds_up_no_other(records: Records) -> None:
    records.keep(order_in(Status.IN_DOUBT, of=identity("doubted")))
    assert waits_for(records.view, pending(records), NOW) == []


@pytest.mark.parametrize("status", [Status.PENDING, Status.SUBMITTED, Status.IN_DOUBT])
def test_an_exit_waits_for_its_unfinished_entry(records: Records, status: Status) -> None:
    entry = records.keep(order_in(status, of=identity("entry")))
    leaving = order(of=identity("exit", purpose=Purpose.EXIT), side=Side.SELL, entry_refs=("entry",))
    records.keep(leaving)
    found = waits_for(records.view, leaving, NOW)
    assert found == [f"its entry {entry.order_id} {status.value} (signal entry)"]


def test_an_exit_waits_no_more_once_its_entry_has_ended(records: Records) -> None:
    records.keep(order_in(Status.FILLED, of=identity("entry")))
    leaving = records.keep(order(of=identity("exit", purpose=Purpose.EXIT), side=Side.SELL, entry_refs=("entry",)))
    assert waits_for(records.view, leaving, NOW) == []


def test_only_what_was_not_sent_waits(records: Records) -> None:
    records.keep(order_in(Status.SUBMITTING, of=identity("ahead")))
    assert waits_for(records.view, records.keep(order_in(Status.SUBMITTED, of=identity("working"))), NOW) == []
