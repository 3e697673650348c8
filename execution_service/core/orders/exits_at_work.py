"""Which exits at work may take more than is left to exit, since what they close has become smaller under them. Values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from execution_service.core.exact import ZERO
from execution_service.core.orders.exits import entries_of, fewest_for, takers_of
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectiveRole
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import AT_WORK, ReasonCode


@dataclass(frozen=True, slots=True)
class Left:
    """What exits may still take, those at work among them. Below 0: they have taken so much more than there was."""

    quantity: Decimal
    why: str
    """What it follows from, for people, without a full stop."""


@dataclass(frozen=True, slots=True)
class ExcessExit:
    """An exit at work that is to be cancelled."""

    order: Order
    why: str
    """For people: what there was, what is left, what is cancelled and what no exit at work covers then."""


def is_measured(order: Order) -> bool:
    """Whether the order is an exit that is measured here: stops and targets are fitted to what is held by the plan of protection."""
    own = order.protective
    return (
        order.identity.purpose is Purpose.EXIT
        and order.adoption is None
        and (own is None or own.role is ProtectiveRole.CLOSE)
    )


def was_in_excess(order: Order) -> bool:
    return order.cancel_request is not None and order.cancel_request.code is ReasonCode.REDUCE_ONLY


def left_of_entries(order: Order, entries: Sequence[Order], exits: Sequence[Order]) -> Left | None:
    """By what the entries that the exit names have filled, and all exits of these have taken. None: none of them is ours, so no entry limits it.

    `entries` and `exits` as of `exit_allowance`, the exit itself among the latter.
    """
    own = entries_of(order, entries)
    if not own:
        return None
    filled = sum((entry.filled_quantity for entry in own), ZERO)
    taken = sum((each.filled_quantity for each in takers_of(order, exits)), ZERO)
    return Left(filled - taken, f"the entry filled {filled:f}, exits have taken {taken:f}")


def left_of_position(held: Decimal) -> Left:
    """By what the strategy holds on the side that exits close; negative: it holds the other side."""
    return Left(held, f"the strategy holds {held:f} by our books")


def excess_exits(exits: Sequence[Order], left: Left) -> list[ExcessExit]:
    """As few as will do of the exits at work that share what is left, so that the others may not take more than that. What is asked to end already
    is counted no more. Nothing is changed at the broker, so an exit is cancelled whole."""
    lasting = [each for each in exits if each.status in AT_WORK and each.cancel_request is None]
    at_work = sum((each.remaining_quantity for each in lasting), ZERO)
    room = max(ZERO, left.quantity)
    chosen = list(
        fewest_for(at_work - room, lasting, lambda each: (each.remaining_quantity, each.received_at, each.order_id))
    )
    stays = at_work - sum((each.remaining_quantity for each in chosen), ZERO)
    return [
        ExcessExit(
            each,
            f"{left.why}: {room:f} is left, and exits at work may take {at_work:f}; cancelled with"
            f" {each.remaining_quantity:f} open, and no exit at work covers {room - stays:f} then",
        )
        for each in chosen
    ]


def opened_by_exits(order: Order, left: Left) -> str | None:
    """For people: that an exit which was to be cancelled has filled before that, and beyond what there was; None: it has not."""
    if left.quantity >= 0 or not order.filled_quantity or not was_in_excess(order):
        return None
    return (
        f"this exit has opened a position: it filled before its cancel took effect; {left.why}, so {-left.quantity:f} too much. Nothing closes that "
        "by itself: close it in the broker's own screen and adopt that, or send an order"
    )
