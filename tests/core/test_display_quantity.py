"""An order may name how much of it the market sees at once: read, kept, sent, and refused where a broker shows all."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from brokers.base import Capabilities, OrderType
from execution_service.core.codec import decode, encode
from execution_service.core.messages.events_in import MANUAL, EventOrder, read_event
from execution_service.core.messages.inbound import ParsedOrder, parse_order, parse_order_fields
from execution_service.core.orders.events import Capped, Fitted, Sized
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.tickets import fitting, unsupported_reason
from tests.builders import NOW, order, request

ICEBERG = {
    "signal_id": "sig",
    "account_id": "acct-1",
    "strategy_name": "momentum",
    "symbol": "AAPL",
    "side": "BUY",
    "quantity": 100,
    "order_type": "LIMIT",
    "limit_price": "10.50",
    "display_quantity": 10,
}


def parsed(**changes: object) -> ParsedOrder:
    found = parse_order_fields({name: value for name, value in (ICEBERG | changes).items() if value is not None})
    assert isinstance(found, ParsedOrder)
    return found


def accepted(**changes: object) -> OrderRequest:
    found = parsed(**changes)
    assert found.problems == ()
    assert isinstance(found.request, OrderRequest)
    return found.request


def iceberg(quantity: int | None = 100, shown: int = 10) -> Order:
    usual = request(order_type=OrderType.LIMIT, limit_price=Decimal(10), display_quantity=Decimal(shown))
    return order(asked=replace(usual, quantity=None if quantity is None else Decimal(quantity)))


def test_how_much_is_shown_is_read_and_sent() -> None:
    assert accepted().display_quantity == 10
    assert accepted(display_quantity=0).display_quantity is None
    assert accepted(display_quantity=None).display_quantity is None
    ticket = iceberg().ticket()
    assert (ticket.quantity, ticket.display_quantity) == (100, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"display_quantity": -1}, "display_quantity must be"),
        ({"display_quantity": 100}, "display_quantity must be less than quantity"),
        ({"display_quantity": "100.5"}, "display_quantity must be less than quantity"),
        ({"order_type": "MARKET", "limit_price": None}, "display_quantity goes with a LIMIT order, not with MARKET"),
        ({"order_type": "STOP", "stop_price": 11}, "display_quantity goes with a LIMIT order, not with STOP"),
        ({"order_type": "STOP_LIMIT", "stop_price": 11}, "goes with a LIMIT order, not with STOP_LIMIT"),
        ({"tif": "IOC"}, "display_quantity does not go with tif IOC"),
        ({"variety": "amo"}, "display_quantity does not go with variety amo"),
    ],
)
def test_what_cannot_be_shown_in_part_is_refused(changes: dict[str, object], words: str) -> None:
    assert words in "; ".join(parsed(**changes).problems)


def test_a_repetition_that_shows_more_is_another_order() -> None:
    contents = {accepted().content, accepted(display_quantity=20).content, accepted(display_quantity=None).content}
    assert len(contents) == 3
    assert accepted(display_quantity="10.0").content == accepted().content


def test_a_manual_event_may_name_it() -> None:
    body = b'{"symbol":"AAPL","side":"buy","quantity":100,"price":10.5,"display_quantity":10,"timestamp":"2026-11-20T10:00:00Z"}'
    read = read_event(MANUAL, body, account_id="acct-1", message_id="m1")
    assert isinstance(read, EventOrder)
    found = parse_order(read.data)
    assert isinstance(found, ParsedOrder)
    assert isinstance(found.request, OrderRequest)
    assert found.request.display_quantity == 10


def test_it_is_kept_and_records_of_before_show_all() -> None:
    kept = encode(accepted())
    assert decode(OrderRequest, kept) == accepted()
    del kept["display_quantity"]
    assert decode(OrderRequest, kept).display_quantity is None
    assert decode(Fitted, {"at": NOW, "message": "of before"}).display_quantity is None


def test_what_the_broker_makes_of_it_is_recorded() -> None:
    asked = iceberg()
    (fitted,) = fitting(asked, replace(asked.ticket(), display_quantity=Decimal(9)), NOW)
    assert isinstance(fitted, Fitted)
    assert fitted.message == "sent with display quantity 9 for 10, as the market takes it"
    after = apply(asked, fitted)
    assert after.ticket().display_quantity == 9
    on_a_tick = apply(after, Fitted(at=NOW, message="on a tick", limit_price=Decimal("10.05")))
    assert on_a_tick.ticket().display_quantity == 9


def test_an_order_that_became_smaller_than_what_was_to_be_shown_is_shown_whole() -> None:
    capped = apply(iceberg(), Capped(at=NOW, quantity=Decimal(10), message="that is held"))
    assert (capped.ticket().quantity, capped.ticket().display_quantity) == (10, None)
    sized = apply(iceberg(None), Sized(at=NOW, quantity=Decimal(11), arithmetic="by its stop"))
    assert (sized.ticket().quantity, sized.ticket().display_quantity) == (11, 10)


def test_a_broker_that_shows_all_of_an_order_is_not_given_it() -> None:
    words = "BINANCE does not take orders of which only a part is shown (display_quantity)"
    assert unsupported_reason(iceberg(), Capabilities(), "BINANCE") == words
    assert unsupported_reason(iceberg(), Capabilities(takes_display_quantity=True), "IBKR") is None
    assert unsupported_reason(order(), Capabilities(), "BINANCE") is None
