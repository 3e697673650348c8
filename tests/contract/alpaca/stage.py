"""What the tests of the Alpaca adapter share: tickets, and shorthands for what they do again and again; no test."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal

from brokers.alpaca.adapter import AlpacaBroker
from brokers.base import Instrument, OrderRef, OrderType, Report, Side, Ticket

ACCOUNT = "PA3TEST"
PRICE = Decimal("100.25")
_NUMBERS = itertools.count(1)


def ticket(order_type: OrderType = OrderType.LIMIT, **changes: object) -> Ticket:
    """A purchase of 10 AAPL at 100.25, under an id of its own."""
    made = Ticket(
        client_order_id=f"a{next(_NUMBERS):018d}",
        instrument=Instrument(symbol="AAPL"),
        side=Side.BUY,
        quantity=Decimal(10),
        order_type=order_type,
        limit_price=PRICE if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
        stop_price=PRICE if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
        reference_price=PRICE,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def ref(order: Ticket | Report) -> OrderRef:
    return OrderRef(client_order_id=order.client_order_id, broker_order_id=getattr(order, "broker_order_id", None))


async def report_of(broker: AlpacaBroker, order: Ticket) -> Report:
    """What the lists say of the order now."""
    (report,) = [r for r in (await broker.reports()).reports if r.client_order_id == order.client_order_id]
    return report
