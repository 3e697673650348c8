"""What is asked about cancels before an order is recorded, and again before it is sent; answered by whoever carries cancels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason


class Cancels(Protocol):
    """The cancels that also hold for orders which came after them."""

    async def look_for_cancels(self, orders: Sequence[Order]) -> None:
        """Learns what other processes stored about these orders; `is_cancelled` knows it when this returns. Raises StoreUnavailable."""

    def is_cancelled(self, order: Order) -> Reason | None:
        """The reason of a cancel that this order is meant by; None: it may go on."""
