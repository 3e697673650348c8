"""Whether a broker supports an order, and the event that records how a ticket was rounded to the market."""

from __future__ import annotations

from datetime import datetime

from brokers.base import (
    AssetClass,
    Capabilities,
    Ticket,
)
from execution_service.core.orders.events import (
    Event,
    Fitted,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose


def fitting(order: Order, ticket: Ticket, now: datetime) -> tuple[Event, ...]:
    """The event that records how `ticket`, which will be sent, differs from the order's own; none if it does not
    differ."""
    asked = order.ticket()
    values = {
        name: getattr(ticket, name)
        for name in ("quantity", "limit_price", "stop_price", "cash_quantity", "display_quantity")
        if getattr(ticket, name) != getattr(asked, name)
    }
    if not values:
        return ()
    words = [
        f"{name.replace('_', ' ')} {value}" + ("" if getattr(asked, name) is None else f" for {getattr(asked, name)}")
        for name, value in values.items()
    ]
    return (Fitted(at=now, message=f"sent with {', '.join(words)}, as the market takes it", **values),)


def unsupported_reason(order: Order, capabilities: Capabilities, broker: str) -> str | None:
    """Why the broker cannot take this kind of order; None: it can."""
    request = order.accepted_request
    problems = []
    if request.order_type not in capabilities.order_types:
        problems.append(f"{request.order_type} orders")
    if request.tif is not None and request.tif not in capabilities.tifs:
        problems.append(f"time in force {request.tif}")
    if request.instrument.asset_class not in capabilities.asset_classes:
        problems.append(f"{request.instrument.asset_class} instruments")
    variety = request.variety
    if (
        variety not in (None, "regular")
        and capabilities.varieties is not None
        and variety not in capabilities.varieties
    ):
        problems.append(f"the variety {variety}")
    if request.display_quantity is not None and not capabilities.takes_display_quantity:
        problems.append("orders of which only a part is shown (display_quantity)")
    is_leg = request.total_legs > 1 and order.identity.purpose is Purpose.ENTRY
    takes_legs = capabilities.splits_option_combinations or capabilities.combines_option_legs
    if is_leg and request.instrument.asset_class is AssetClass.OPTION and not takes_legs:
        problems.append(f"an option alone that is one of {request.total_legs} legs: it would stand naked")
    return f"{broker} does not take {' or '.join(problems)}" if problems else None
