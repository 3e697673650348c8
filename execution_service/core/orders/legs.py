"""How the legs of one signal depend on each other: which are missing, which wait, and when one leg's refusal refuses
all. Pure decisions."""

from __future__ import annotations

from collections.abc import Sequence

from brokers.base import (
    Capabilities,
)
from execution_service.core.orders.exits import is_of_same_account
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.tickets import unsupported_reason

UNKNOWN_LEG_SECONDS = 30.0
"""How long a leg waits for the other legs of its signal, where none may be placed alone; then it is refused."""


def refusing_leg(order: Order, legs: Sequence[Order], capabilities: Capabilities, broker: str) -> Reason | None:
    """Why the order's signal cannot be executed as a whole: another leg ended without a fill, has a cancel
    requested, or is not supported by the broker. None: nothing in the records of `legs` is against it."""
    for leg in other_legs(order, legs):
        why: Reason | None = None
        if leg.status.is_final and not leg.filled_quantity:
            why = leg.reason or Reason(ReasonCode.BROKER_REJECTED, f"it is {leg.status}")
        elif leg.status is Status.PENDING:
            why = leg.cancel_request
            unsupported = unsupported_reason(leg, capabilities, broker) if is_of_same_account(order, leg) else None
            if unsupported is not None:
                why = Reason(ReasonCode.UNSUPPORTED_ORDER, unsupported)
        if why is not None:
            return about_leg(leg, why)
    return None


def about_leg(leg: Order, why: Reason) -> Reason:
    """A leg's reason, worded for the other legs of its signal."""
    return Reason(why.code, f"not placed without {name_of(leg)}: {why.message}")


def cancelled_with(leg: Order, why: Reason) -> Reason:
    """A leg's cancellation, worded for the other legs of its combination, which end with it."""
    return Reason(why.code, f"cancelled with {name_of(leg)}, one order at the broker: {why.message}")


def name_of(leg: Order) -> str:
    """Its place among the legs of its signal, for people."""
    return f"leg {leg.identity.leg_index + 1} of {leg.request.total_legs}"


def other_legs(order: Order, legs: Sequence[Order]) -> list[Order]:
    """The entries among `legs` that are other legs of the order's signal."""
    mine = order.identity
    return [
        leg
        for leg in legs
        if (leg.signal_id, leg.identity.purpose) == (mine.signal_id, mine.purpose)
        and leg.identity.leg_index != mine.leg_index
    ]


def pending_legs(order: Order, legs: Sequence[Order]) -> list[Order]:
    """The other legs of the same account that have not been sent yet."""
    return [leg for leg in other_legs(order, legs) if leg.status is Status.PENDING and is_of_same_account(order, leg)]


def missing_legs(order: Order, legs: Sequence[Order]) -> list[int]:
    """The numbers, from 1, of the legs that have not arrived."""
    present = {order.identity.leg_index, *(leg.identity.leg_index for leg in other_legs(order, legs))}
    return [number + 1 for number in range(order.request.total_legs) if number not in present]
