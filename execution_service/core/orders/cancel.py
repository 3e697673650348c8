"""A cancel as somebody asked for it, and which orders it means; it is carried out elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Of one order, by any id that it has; or of a signal: of one of its legs, or of all. Either `order_id` or `signal_id` is given; `order_id`
    counts where both are."""

    command_id: str
    order_id: str | None
    signal_id: str | None
    leg_index: int | None
    """Of the signal; None: all its legs."""
    reason: Reason
    requested_by: str
    published_at: datetime
    received_at: datetime
    is_message: bool
    """It came by Pub/Sub, and `published_at` is Pub/Sub's own time, as an order's is."""

    @property
    def name(self) -> str:
        """What it names: an order's id or a signal's."""
        return str(self.signal_id if self.order_id is None else self.order_id)

    @property
    def words(self) -> str:
        """What it names, for people."""
        leg = "" if self.order_id is not None or self.leg_index is None else f", leg {self.leg_index},"
        return f"{self.name}{leg}"

    @property
    def lookup(self) -> list[str]:
        """What the records of the orders that it means may be found by in the store, beside the order's own id."""
        if self.order_id is None:
            return [f"signal:{self.signal_id}"]
        return [f"request:{self.order_id}", f"broker:{self.order_id}", f"client:{self.order_id}", self.order_id]

    def names(self, order: Order) -> bool:
        """Whether one of the order's names is the one that this cancel gives."""
        if self.order_id is not None:
            own = (order.request.request_order_id, order.broker_order_id, order.order_id)
            return self.order_id in own or self.order_id in order.client_order_ids
        is_signal = self.signal_id in (order.signal_id, order.request.mathematricks_signal_id)
        return is_signal and self.leg_index in (None, order.identity.leg_index)

    def meant_of(self, orders: Sequence[Order]) -> list[Order]:
        """Which of the orders it means. Where its `order_id` is several orders' id, upstream's id counts before the broker's, and that before
        ours."""
        order_id = self.order_id
        if order_id is None:
            return [order for order in orders if self.names(order)]
        ways: tuple[Callable[[Order], bool], ...] = (
            lambda order: order.request.request_order_id == order_id,
            lambda order: order.broker_order_id == order_id,
            lambda order: order.order_id == order_id or order_id in order.client_order_ids,
        )
        return next((some for way in ways if (some := [order for order in orders if way(order)])), [])

    def spares(self, order: Order) -> bool:
        """Whether it is a signal's and older than the order: delivered late, or twice. Only Pub/Sub's own times are compared, and a cancel of
        one order means that order whatever the times."""
        return self.is_message and self.order_id is None and self.was_published_before(order)

    def was_published_before(self, order: Order) -> bool:
        """By whole milliseconds, as the store keeps them: the same whether either was read from there or not."""
        return _in_milliseconds(order.published_at) > _in_milliseconds(self.published_at)


def names_of(order: Order) -> list[str]:
    """All names by which a cancel may mean this order."""
    request = order.request
    names = (
        order.signal_id,
        request.mathematricks_signal_id,
        request.request_order_id,
        order.broker_order_id,
        order.order_id,
    )
    return [name for name in dict.fromkeys((*names, *order.client_order_ids)) if name is not None]


def _in_milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
