"""How much of its entry's position an exit may close, and which instrument it takes from its entry. Pure decisions,
no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from brokers.base import (
    Instrument,
)
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import may_be_of_one_contract
from execution_service.core.orders.events import (
    Capped,
    Event,
    InstrumentMatched,
    Rejected,
)
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.protective import ProtectiveRole
from execution_service.core.orders.request import Identity, OrderRequest, Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status

T = TypeVar("T")

UNKNOWN_ENTRY_SECONDS = 5.0
"""How long an exit waits for an entry that has not arrived: Pub/Sub may deliver the two in either order."""


@dataclass(frozen=True, slots=True)
class ExitAllowance:
    """What to record before an exit is sent: nothing, its instrument, a reduction, or its rejection."""

    events: tuple[Event, ...] = ()
    is_unbound: bool = False
    """The entry that it names is not one of ours, so no entry limits it."""
    products: frozenset[str | None] = frozenset()
    """The products of its entries that differ from the exit's own. None in it: the default product."""


def exit_allowance(
    order: Order, entries: Sequence[Order], exits: Sequence[Order], now: datetime, *, may_entry_come: bool = False
) -> ExitAllowance | None:
    """How much the exit may take: what its entry filled and other exits have not taken. None: not known yet, because
    the entry has not finished or has not arrived.

    `entries` are the orders that bear a name by which the exit refers to its entry, `exits` those that refer to the
    same. `may_entry_come`: the entry may still arrive; once it may not, an entry that is not ours sets no limit.
    """
    named = [e for e in entries if e.identity.purpose is Purpose.ENTRY]
    if not named:
        return None if may_entry_come else ExitAllowance(is_unbound=True)
    own = entries_of(order, named)
    if not own and len(named) < max(e.request.total_legs for e in named):
        return None  # the leg that it closes may still arrive
    if not all(e.status.is_final for e in own):
        return None
    wanted = order.ticket().quantity
    filled = sum((e.filled_quantity for e in own), ZERO)
    takers = [x for x in takers_of(order, exits) if x.order_id != order.order_id]
    taken = sum((_taken(each, yields=True) for each in takers), ZERO)
    left = max(ZERO, filled - taken)
    matched = _matched(order, own, now)
    products = frozenset(e.accepted_request.product for e in own) - {apply_all(order, matched).accepted_request.product}
    if left >= wanted:
        return ExitAllowance(matched, products=products)
    words = f"the entry filled {filled}, other exits have taken {taken}{_of_that_adopted(takers)}"
    if not own:
        words = "the entry that it names was refused, or is of another account, instrument or side"
    if not left:
        return ExitAllowance((Rejected(at=now, reason=Reason(ReasonCode.NOTHING_TO_EXIT, words)),))
    capped = Capped(at=now, quantity=left, message=f"reduced from {wanted} to {left}: {words}")
    return ExitAllowance((*matched, capped), products=products)


def _of_that_adopted(takers: Sequence[Order]) -> str:
    reported = [
        (x.filled_quantity, x.adoption.occasion, x.signal_id) for x in takers if x.adoption and x.filled_quantity
    ]
    return "".join(f", of that {quantity} by {occasion} ({name})" for quantity, occasion, name in reported)


def with_instrument_of_entry(order: Order, entries: Sequence[Order], now: datetime) -> Order:
    """The exit with the instrument and product that it would be sent with now."""
    return apply_all(order, _matched(order, entries_of(order, entries), now))


def _matched(order: Order, own: Sequence[Order], now: datetime) -> tuple[Event, ...]:
    """The exit takes its entry's name for the instrument, since it is booked against that position, and the entry's
    product if it names none. Nothing if its entries differ."""
    request = order.accepted_request
    instruments = {e.accepted_request.instrument for e in own}
    products = {e.accepted_request.product for e in own}
    named = request.instrument
    instrument = _most_complete(instruments.pop(), named) if len(instruments) == 1 else named
    product = products.pop() if request.product is None and len(products) == 1 else None
    if instrument == named and product is None:
        return ()
    return (InstrumentMatched(at=now, instrument=instrument, product=product),)


def _most_complete(entrys: Instrument, named: Instrument) -> Instrument:
    """The entry's instrument, with the contract facts that only the exit names: the broker has to confirm those."""
    return replace(
        entrys,
        multiplier=entrys.multiplier or named.multiplier,
        trading_class=entrys.trading_class or named.trading_class,
        isin=entrys.isin or named.isin,
    )


def entries_of(order: Order, some: Iterable[Order]) -> list[Order]:
    """Those that the exit closes, of orders that bear a name by which it refers to its entry."""
    return [each for each in some if _is_entry_of(order, each)]


def takers_of(order: Order, exits: Iterable[Order]) -> list[Order]:
    """Those that take from the same entries, of orders that refer to them; the exit itself where it is among them."""
    return [each for each in exits if _takes_from_same(order, each)]


def fewest_for(
    excess: Decimal, some: Iterable[T], size: Callable[[T], tuple[Decimal, *tuple[Any, ...]]]
) -> Iterator[T]:
    """As few of these as come to the excess at least: the smallest that does alone, else the largest first. `size`: how much each comes to, and
    what decides between those of one size."""
    left = sorted(some, key=size)
    while excess > 0 and left:
        chosen = next((each for each in left if size(each)[0] >= excess), left[-1])
        left.remove(chosen)
        excess -= size(chosen)[0]
        yield chosen


def _takes_from_same(order: Order, other: Order) -> bool:
    """Whether the other exit takes from the same position. An order that adds to it refers to the entry too, but is
    on the other side."""
    return _same_line(order, other) and other.request.side is order.request.side


def _same_line(order: Order, other: Order) -> bool:
    """Same account, and possibly the same instrument: some senders name the exchange or currency in the entry only."""
    is_taken = isinstance(other.request, OrderRequest)
    return is_taken and is_of_same_account(order, other) and may_be_of_one_contract(order, other)


def _is_entry_of(order: Order, other: Order) -> bool:
    return (
        other.identity.purpose is Purpose.ENTRY
        and _same_line(order, other)
        and other.accepted_request.side is order.accepted_request.side.opposite
    )


def open_quantity(entry: Order, exits: Iterable[Order], before: Iterable[Order] = ()) -> Decimal:
    """What the entry has filled less what the exits that refer to it have filled of it; not below 0. `before`: of one that stands for others, those:
    exits name them all alike, and have closed the oldest first."""
    exited = sum((x.filled_quantity for x in exits if is_exit_of(x, entry)), ZERO)
    earlier = sum((each.filled_quantity for each in before if _is_stood_for(each, entry)), ZERO)
    return max(ZERO, entry.filled_quantity - max(ZERO, exited - earlier))


def _is_stood_for(order: Order, entry: Order) -> bool:
    """Whether the entry has taken the order's place, in the same contract: a split."""
    return (
        order.identity.purpose is Purpose.ENTRY
        and order.order_id != entry.order_id
        and order.received_at < entry.received_at
        and not set(order.names).isdisjoint(entry.accepted_request.stands_for)
        and _same_line(entry, order)
        and order.request.side is entry.request.side
    )


def protective_room(order: Order, entry: Order, exits: Iterable[Order], before: Iterable[Order] = ()) -> Decimal:
    """The most that this protective order may fill: what its entry has filled, less what all other exits of it have taken or may still take. The one
    that the broker links to it counts by what it has filled. `before`: as of `open_quantity`."""
    linked = linked_order_id(order)
    others = [x for x in exits if x.order_id != order.order_id and is_exit_of(x, entry)]
    at_work = [x for x in others if x.order_id != linked and x.status is not Status.PENDING and not x.status.is_final]
    working = sum((x.remaining_quantity for x in without_linked(at_work)), ZERO)
    return max(ZERO, open_quantity(entry, others, before) - working)


def linked_order_id(order: Order) -> str | None:
    """Our id of the order that the broker links to this one, whether it exists or not; None: it links none to it."""
    own = order.protective
    if own is None or not own.is_linked:
        return None
    other = ProtectiveRole.TARGET if own.role is ProtectiveRole.STOP else ProtectiveRole.STOP
    return Identity(signal_id=replace(own, role=other).signal_id, purpose=Purpose.EXIT).order_id


def linked_stop_id(order: Order) -> str | None:
    """Our id of the stop that the broker links to this target; None: it is none, or the broker links nothing to it."""
    return linked_order_id(order) if _is_target(order) else None


def may_stand_beside(stop: Order) -> bool:
    """Whether a target may be placed that the broker links to this stop: the broker has it, and it has not begun to fill. What fills before the
    broker has the target is not taken off that."""
    return stop.status is Status.SUBMITTED and not stop.filled_quantity and stop.triggered_at is None


def without_linked(some: Iterable[Order]) -> list[Order]:
    """Of orders that the broker links only one, with what both together may still fill: what the target has filled is taken off the stop, which was
    there before it. Of what the stop has filled it is not known whether the target was there."""
    orders = list(some)
    present = {order.order_id: order for order in orders if order.protective is not None}
    found: list[Order] = []
    for order in orders:
        linked = present.get(linked_order_id(order) or "")
        if linked is None:
            found.append(order)
        elif not _is_target(order):
            left = order.remaining_quantity - linked.filled_quantity
            left = max(left, linked.remaining_quantity) if order.filled_quantity else left
            found.append(replace(order, quantity=order.filled_quantity + left))
    return found


def _is_target(order: Order) -> bool:
    return order.protective is not None and order.protective.role is ProtectiveRole.TARGET


def is_exit_of(order: Order, entry: Order) -> bool:
    """Whether the exit names the entry, and may close what that has filled."""
    request = order.request
    return (
        order.identity.purpose is Purpose.EXIT
        and isinstance(request, OrderRequest)
        and not set(request.entry_refs).isdisjoint(entry.names)
        and _same_line(entry, order)
        and request.side is not entry.request.side
    )


def _taken(order: Order, *, yields: bool = False) -> Decimal:
    """What an exit has filled, plus what it may still fill if it was sent. One that is still pending is limited when
    its turn comes. `yields`: a protective one makes way, and counts by what it has filled."""
    if yields and order.protective is not None and order.protective.role is not ProtectiveRole.CLOSE:
        return order.filled_quantity
    is_at_work = order.status is not Status.PENDING and not order.status.is_final
    return order.filled_quantity + (order.remaining_quantity if is_at_work else ZERO)


def is_of_same_account(order: Order, other: Order) -> bool:
    return order.request.account_id == other.request.account_id
