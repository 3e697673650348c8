"""What a broker can take at all, and what is recorded of what the market made of a ticket."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from brokers.base import OrderType
from execution_service.core.orders.events import Fitted
from execution_service.core.orders.order import apply
from execution_service.core.orders.tickets import fitting
from tests.builders import NOW, order


def test_what_fits_as_it_is_needs_no_record() -> None:
    about = order(order_type=OrderType.LIMIT, limit_price=Decimal("9.95"))
    assert fitting(about, replace(about.ticket(), limit_price=Decimal("9.950"), reserved_order_id="1:1"), NOW) == ()


def test_what_was_changed_to_fit_is_recorded_and_what_was_not_is_not() -> None:
    about = order(quantity=Decimal("99.5"), order_type=OrderType.LIMIT, limit_price=Decimal("9.957"))
    ticket = replace(about.ticket(), quantity=Decimal(99), limit_price=Decimal("9.95"))
    (event,) = fitting(about, ticket, NOW)
    assert event == Fitted(
        at=NOW,
        message="sent with quantity 99 for 99.5, limit price 9.95 for 9.957, as the market takes it",
        quantity=Decimal(99),
        limit_price=Decimal("9.95"),
    )
    assert fitting(apply(about, event), ticket, NOW) == ()


def test_a_stop_price_that_was_changed_to_fit_is_recorded() -> None:
    about = order(order_type=OrderType.STOP, stop_price=Decimal("9.957"))
    (event,) = fitting(about, replace(about.ticket(), stop_price=Decimal("9.95")), NOW)
    words = "sent with stop price 9.95 for 9.957, as the market takes it"
    assert event == Fitted(at=NOW, message=words, stop_price=Decimal("9.95"))
