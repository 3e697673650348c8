"""Which exits at work may take more than is left to exit, since what they close has become smaller under them. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from execution_service.core.exact import ZERO
from execution_service.core.orders.events import Filled, Noted
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


def is_own_exit(order: Order) -> bool:
    """Whether it is an exit that was sent, and not one that somebody told of."""
    return order.identity.purpose is Purpose.EXIT and order.adoption is None


def is_measured(order: Order) -> bool:
    """Whether the order is an exit that is measured here: stops and targets are fitted to what is held by the plan of protection."""
    own = order.protective
    return is_own_exit(order) and (own is None or own.role is ProtectiveRole.CLOSE)


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


OPENED = "this exit has opened a position"
OVERTAKEN = "this exit has taken what other entries hold"
_BEGINNINGS = (OPENED, OVERTAKEN)


def taken_beyond(exits: Iterable[Order], left: Left, held: Decimal | None) -> tuple[Order, str] | None:
    """Which of the exits that share what was left has filled last, so that together they have taken more than there was, and the words for people;
    None: they have not, none of them is ours, or people have been told since it filled. `held`: what the strategy holds on the side that they close,
    negative: the other side; None: not known."""
    filled = [each for each in exits if each.filled_quantity and each.adoption is None]
    if left.quantity >= 0 or not filled:
        return None
    last = max(filled, key=lambda each: (_last_filled_at(each), each.order_id))
    if is_told(last):
        return None
    beginning = OVERTAKEN if held is not None and held >= 0 else OPENED
    late = "it filled before its cancel took effect; " if was_in_excess(last) else ""
    return last, (
        f"{beginning}: {late}{left.why}, so {-left.quantity:f} too much. Nothing makes up for that by itself: trade it back in the broker's own "
        "screen and adopt that, or send an order"
    )


def _last_filled_at(order: Order) -> datetime:
    return max(event.at for event in order.events if isinstance(event, Filled))


def is_told(order: Order) -> bool:
    """Whether the record says since its latest fill that it took more than there was."""
    for event in reversed(order.events):
        if isinstance(event, Filled):
            return False
        if isinstance(event, Noted) and event.message.startswith(_BEGINNINGS):
            return True
    return False
