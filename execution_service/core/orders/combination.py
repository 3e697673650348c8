"""When options that are legs of one signal are one order at the broker, and which one. Pure decisions; how that order is sent is not here."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from math import gcd

from brokers.base import AssetClass, Capabilities, Combination, CombinationLeg, OrderType, Ticket
from execution_service.core.orders.events import NothingSent, SubmitStarted
from execution_service.core.orders.exits import is_of_same_account
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status

COMBINED_TYPES = (OrderType.MARKET, OrderType.LIMIT)
MOST_LEGS = 16
"""No exchange of options trades more as one order; each leg costs calls before it can be refused."""


def is_combined(order: Order, capabilities: Capabilities) -> bool:
    """Whether the order leaves only together with the other legs of its signal, as one order. Exits leave by themselves: each is bounded by what
    is held of its own leg."""
    request = order.request
    return (
        capabilities.combines_option_legs
        and request.total_legs > 1
        and order.identity.purpose is Purpose.ENTRY
        and order.instrument is not None
        and order.instrument.asset_class is AssetClass.OPTION
    )


def uncombinable(legs: Sequence[Order]) -> Reason | None:
    """Why these, which are all legs of a signal, cannot be one order. None: nothing that they say is against it."""
    first = legs[0]
    requests = [leg.accepted_request for leg in legs]
    words = None
    if len(legs) > MOST_LEGS:
        words = f"{len(legs)} are more than {MOST_LEGS}"
    elif any(request.instrument.asset_class is not AssetClass.OPTION for request in requests):
        words = "some are options and some are not"
    elif not all(is_of_same_account(first, leg) for leg in legs):
        words = "they name different accounts"
    elif any(request.order_type not in COMBINED_TYPES for request in requests):
        words = f"only {' and '.join(COMBINED_TYPES)} orders are combined"
    elif len({(request.order_type, request.tif, request.timeout_seconds) for request in requests}) > 1:
        words = "their types, times in force or time-outs differ"
    elif any(leg.quantity is None or leg.quantity % 1 for leg in legs):
        words = "each has to name a whole number of contracts"
    elif any(request.display_quantity is not None for request in requests):
        words = "of none can only a part be shown (display_quantity)"
    elif any(
        one.instrument.could_be(other.instrument) for place, one in enumerate(requests) for other in requests[:place]
    ):
        words = "two of them may be one contract"
    if words is None:
        return None
    return Reason(ReasonCode.UNSUPPORTED_ORDER, f"options that are legs of one signal leave as one order: {words}")


def has_missed(order: Order, legs: Sequence[Order]) -> Reason | None:
    """Why a leg that has not left will not any more: the other legs have left, or it was to leave with them when a process died, before every leg
    had that in its record. Only then did nothing leave, and its end is the proof."""
    for leg in legs:
        whole = leg.combination
        is_named = whole is not None and any(each.client_order_id == order.client_order_id for each in whole.legs)
        if is_named and leg.status in (Status.SUBMITTING, Status.IN_DOUBT):
            return Reason(ReasonCode.UNSUPPORTED_ORDER, "its combination was given up before all of its legs had left")
        if leg.filled_quantity or leg.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED):
            return Reason(ReasonCode.UNSUPPORTED_ORDER, "other legs of its signal have left without it")
    return None


def was_never_sent(order: Order, legs: Sequence[Order]) -> bool:
    """Whether the records prove that the order's combination did not leave: a leg of it has ended without the event that all of them need first,
    which it cannot get any more, whatever a process does that was frozen meanwhile; or has it recorded that this very sending was none.
    `legs`: the other legs."""
    whole = order.combination
    if whole is None:
        return False
    tags = {leg.client_order_id for leg in whole.legs}
    started = next(event for event in reversed(order.events) if isinstance(event, SubmitStarted))
    return any(
        leg.client_order_id in tags
        and not leg.fills
        and (_ended_before(leg, whole) or _was_recorded_as_unsent(leg, started))
        for leg in legs
    )


def _ended_before(leg: Order, whole: Combination) -> bool:
    return leg.status.is_final and not any(
        isinstance(event, SubmitStarted) and event.combination == whole for event in leg.events
    )


def _was_recorded_as_unsent(leg: Order, started: SubmitStarted) -> bool:
    """Whether the sending that began with this event of another leg stands in the leg's record too, and after it that nothing was sent. An earlier
    sending of the same legs proves nothing: the later one may yet be written down for this leg, and leave."""
    if leg.broker_order_id is not None:
        return False
    begins_and_failures = [event for event in leg.events if isinstance(event, SubmitStarted | NothingSent)]
    return any(
        isinstance(event, SubmitStarted) and _is_same_sending(event, started) and isinstance(following, NothingSent)
        for event, following in pairwise(begins_and_failures)
    )


def _is_same_sending(one: SubmitStarted, other: SubmitStarted) -> bool:
    """Of two legs: one process begins it for all of them at one moment."""
    return (one.at, one.nonce, one.reserved_order_id, one.combination) == (
        other.at,
        other.nonce,
        other.reserved_order_id,
        other.combination,
    )


def combination_of(tickets: Sequence[Ticket]) -> Combination | Reason:
    """The order that all of these are, as they were fitted to the market; why there is none. Its first leg's tag is its own. The limits of the legs
    become one of the whole: their sum, what is sold taken off."""
    counts = [int(ticket.quantity) for ticket in tickets]
    units = gcd(*counts)
    legs: list[CombinationLeg] = []
    for ticket, count in zip(tickets, counts, strict=True):
        con_id = None if ticket.terms is None else ticket.terms.con_id
        if con_id is None or any(leg.con_id == con_id for leg in legs):
            words = "the broker does not say which contract it is" if con_id is None else "two legs are one contract"
            return Reason(ReasonCode.UNSUPPORTED_ORDER, f"{ticket.instrument.symbol} cannot be a leg: {words}")
        legs.append(
            CombinationLeg(
                client_order_id=ticket.client_order_id, con_id=con_id, side=ticket.side, ratio=count // units
            )
        )
    limits = [
        ticket.limit_price * ticket.side.sign * leg.ratio
        for ticket, leg in zip(tickets, legs, strict=True)
        if ticket.limit_price is not None
    ]
    return Combination(
        client_order_id=tickets[0].client_order_id,
        legs=tuple(legs),
        quantity=Decimal(units),
        limit_price=sum(limits, Decimal(0)) if limits else None,
    )
