"""What can go wrong inside the pure core; nothing about stores, brokers or networks."""

from __future__ import annotations


class CoreError(Exception):
    """Base of the core's errors."""


class InvalidTransition(CoreError):
    """The event is not allowed in the order's present status. It is a defect of whoever produced the event."""

    def __init__(self, order_id: str, status: str, event: str) -> None:
        super().__init__(f"order {order_id}: {event} cannot happen in status {status}")
        self.order_id = order_id
        self.status = status
        self.event = event


class FillsDoNotAddUp(CoreError):
    """A final status was claimed, but our fills do not add up to the quantity that the broker says it filled."""

    def __init__(self, order_id: str, held: str, claimed: str) -> None:
        super().__init__(f"order {order_id}: fills held add up to {held}, the broker says {claimed}")
        self.order_id = order_id


class UnreadableRecord(CoreError):
    """A stored document is malformed or of an unknown version. The message names the document and the field."""
