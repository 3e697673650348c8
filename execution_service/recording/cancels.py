"""What is asked about cancels before an order is recorded, and again before it is sent; carrying cancels out is no part of the answer."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason


class Cancels(Protocol):
    """The cancels that are stored, as far as they bear on an order that has not been sent."""

    async def named_by_cancels(self, orders: Sequence[Order]) -> Set[str]:
        """Our ids of those orders that a cancel names which is stored and not carried out yet. They must not be sent: when the cancel has been
        carried out, which begins at once and elsewhere, they have ended, or are not named here any more. Of every cancel that was carried out
        before this call, by whichever process, `is_cancelled` knows when it returns. Changes nothing in the store. Raises StoreUnavailable:
        nothing is known, and nothing may be sent."""

    def is_cancelled(self, order: Order) -> Reason | None:
        """The reason of a cancel that was carried out and means this order too, which came after it; None: the order may go on."""
