"""A protective order's record as the plan sees it, and the record of a new one; from values alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

from brokers.base import Capabilities, Instrument, OrderType, Tif
from execution_service.core.exact import ZERO
from execution_service.core.orders.exits import open_quantity
from execution_service.core.orders.order import Order, new_order
from execution_service.core.orders.protective import Protective, ProtectiveRole
from execution_service.core.orders.request import Identity, OrderRequest, Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.positions.ledger import key_of
from execution_service.core.positions.position import Position
from execution_service.core.protection.plan import Abilities, Ending, Place, ProtectedEntry, ProtectiveOrder, Stage
from execution_service.core.protection.present import average_price, begins_after, present_fills
from execution_service.core.protection.trailing import Trail, tightest

TRIGGERED_AFTER_SECONDS = 10.0
"""Where the broker does not say whether it was triggered: a stop that it had taken for so long, and that is then rejected, was, and the market
refused what that made of it."""
_STAGES = {
    Status.PENDING: Stage.UNSENT,
    Status.SUBMITTING: Stage.UNCERTAIN,
    Status.IN_DOUBT: Stage.UNCERTAIN,
    Status.SUBMITTED: Stage.WORKING,
    Status.PARTIALLY_FILLED: Stage.WORKING,
}


def abilities_of(capabilities: Capabilities, instrument: Instrument, *, tells_quotes: bool) -> Abilities:
    """What the broker can do for a position in this instrument."""
    return Abilities(
        rests_stops=capabilities.rests_stops(instrument),
        rests_targets=OrderType.LIMIT in capabilities.order_types,
        links=capabilities.links_exits,
        tells_quotes=tells_quotes,
        keeps_overnight=capabilities.keeps_overnight(instrument),
    )


def is_of_an_earlier_position(entry: Order, position: Position) -> bool:
    """Whether what the entry bought or sold was closed before the present position of its strategy began, as far as that position shows: it names all
    orders that have traded in it, the entry is not among them, and all its executions are older. Where an execution was annulled since, it may have
    been given back all the same."""
    names_all = position.order_count == len(position.order_ids) > 0
    opened_at = position.opened_at
    if not names_all or opened_at is None or {entry.order_id, entry.broker_order_id} & set(position.order_ids):
        return False
    return all(fill.time < opened_at for fill in entry.fills)


def are_all_that_traded(orders: Iterable[Order], entry: Order, position: Position) -> bool:
    """Whether every order that the position of the entry's strategy names is among these, and no execution of it was annulled. Legs of one order at
    the broker share its id: one that is booked elsewhere stands for nothing."""
    own = [each for each in orders if isinstance(each.request, OrderRequest) and key_of(each) == key_of(entry)]
    known = {name for each in own for name in (each.order_id, each.broker_order_id)}
    return known.issuperset(position.order_ids) and not any(each.busted_fill_ids for each in own)


def protected_entry(
    entry: Order,
    exits: Iterable[Order],
    capabilities: Capabilities,
    *,
    leaving: Decimal = ZERO,
    before: Iterable[Order] = (),
    is_over: bool = False,
    rests_for: Mapping[str, Decimal] = MappingProxyType({}),
) -> ProtectedEntry:
    """`exits` are the orders that refer to the entry, protective ones among them. `before`: those that
    it stands for, if any. `is_over`: nothing of it is held any more, whatever these say.
    `rests_for`: by our id of a stop, the price nearest to the market of which the market's ticks make the price at which it rests."""
    some = tuple(exits)
    request = entry.accepted_request
    trail = trail_of(request)
    begins = ZERO if entry.adoption is not None else begins_after(entry, some)
    after = begins or None
    present = present_fills(entry, begins)
    known = entry.protection
    own = [x for x in some if (found := x.protective) is not None and found.entry_order_id == entry.order_id]
    return ProtectedEntry(
        order_id=entry.order_id,
        open_quantity=ZERO if is_over else open_quantity(entry, some, before),
        stop=request.stop_loss,
        target=request.take_profit,
        orders=tuple(_protective_order(x, capabilities, rests_for.get(x.order_id)) for x in own),
        leaving=leaving,
        is_working=not entry.status.is_final,
        is_stand_in=bool(request.stands_for),
        trail=trail,
        average_price=average_price(present),
        trailed_to=None if known is None or known.begins_after != after else known.stop_price,
        begins_after=after,
        held_since=min((fill.time for fill in present), default=None),
    )


def trail_of(request: OrderRequest) -> Trail | None:
    """How the entry's stop trails; None: it does not."""
    if request.trail_percent is None and request.trail_amount is None:
        return None
    return Trail(percent=request.trail_percent, amount=request.trail_amount)


def _protective_order(order: Order, capabilities: Capabilities, rests_for: Decimal | None) -> ProtectiveOrder:
    assert order.protective is not None
    stage = _STAGES.get(order.status, Stage.GONE)
    why = "" if order.reason is None else order.reason.message
    return ProtectiveOrder(
        order_id=order.order_id,
        protective=order.protective,
        quantity=order.quantity or ZERO,
        filled=order.filled_quantity,
        stage=stage,
        is_asked_to_end=order.cancel_request is not None,
        ending=_ending(order, capabilities) if stage is Stage.GONE else None,
        ended_at=order.finished_at,
        why=why if stage is Stage.GONE or order.status is Status.IN_DOUBT else "",
        limit_price=order.limit_price,
        triggered_at=order.triggered_at,
        stop_price=tightest([order.accepted_request.stop_price, rests_for], order.accepted_request.side.opposite),
    )


def _ending(order: Order, capabilities: Capabilities) -> Ending:
    if order.status is Status.FILLED:
        return Ending.FILLED
    if order.triggered_at is not None:
        return Ending.PASSED  # whoever has ended what it became
    match order.status:
        case Status.EXPIRED:
            return Ending.EXPIRED
        case Status.REJECTED:
            return Ending.PASSED if _is_passed(order, capabilities) else Ending.REFUSED
    asked = order.cancel_request
    return Ending.TAKEN_BACK if asked is not None and asked.code is not ReasonCode.TIMEOUT else Ending.REMOVED


def _is_passed(order: Order, capabilities: Capabilities) -> bool:
    if order.protective is None or order.protective.role is not ProtectiveRole.STOP:
        return False
    said = "" if order.reason is None else order.reason.message.lower()
    if any(words in said for words in capabilities.stop_passed_words):
        return True
    since = order.submitted_at
    has_rested = order.broker_order_id is not None and since is not None and order.finished_at is not None
    return has_rested and (order.finished_at - since).total_seconds() >= TRIGGERED_AFTER_SECONDS  # type: ignore[operator]


def protective_order(entry: Order, place: Place, capabilities: Capabilities, now: datetime) -> Order:
    """The record of the order that is to be made; its names follow from the entry and the piece."""
    request = entry.accepted_request
    protective = Protective(
        entry_order_id=entry.order_id,
        role=place.role,
        piece=place.piece,
        is_linked=place.is_linked,
        stop_loss=_first_stop(entry, place.begins_after or ZERO),
        begins_after=place.begins_after,
    )
    rests = place.role is not ProtectiveRole.CLOSE
    made = OrderRequest(
        account_id=request.account_id,
        strategy=request.strategy,
        instrument=request.instrument,
        side=request.side.opposite,
        quantity=place.quantity,
        order_type=_TYPES[place.role],
        limit_price=request.take_profit if place.role is ProtectiveRole.TARGET else None,
        stop_price=place.stop_price,
        tif=(Tif.GTC if capabilities.keeps_overnight(request.instrument) else Tif.DAY) if rests else None,
        product=request.product,
        signal_type="EXIT",
        entry_refs=entry.names,
        protective=protective,
        decision=request.decision,
    )
    identity = Identity(signal_id=protective.signal_id, purpose=Purpose.EXIT)
    return new_order(identity, made, received_at=now, published_at=now)


def _first_stop(entry: Order, after: Decimal) -> Decimal | None:
    """The entry's stop, or where that of its fills since it had filled so much began to trail: by that the result of the trade is measured."""
    request, trail = entry.accepted_request, trail_of(entry.accepted_request)
    paid = None if trail is None else average_price(present_fills(entry, after))
    begun = None if trail is None or paid is None else trail.stop_at(paid, request.side)
    return tightest([request.stop_loss, begun], request.side)


_TYPES = {
    ProtectiveRole.STOP: OrderType.STOP,
    ProtectiveRole.TARGET: OrderType.LIMIT,
    ProtectiveRole.CLOSE: OrderType.MARKET,
}
