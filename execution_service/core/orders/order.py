"""An order as the fold of its events. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from functools import reduce
from itertools import takewhile
from operator import attrgetter
from typing import Any

from brokers.base import ONE, Combination, ContractTerms, Fill, Instrument, Ticket
from execution_service.core.errors import FillsDoNotAddUp, InvalidTransition
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.orders.events import (
    Accepted,
    Adopted,
    AdoptionUndone,
    AwaitsOpening,
    Busted,
    Cancelled,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractDeclared,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Held,
    InstrumentMatched,
    Noted,
    NothingSent,
    ProtectionChanged,
    Rejected,
    Released,
    SendAgainOrdered,
    Sized,
    SubmitStarted,
    Triggered,
    stored_name,
)
from execution_service.core.orders.protective import ProtectionState, Protective
from execution_service.core.orders.request import Identity, OrderRequest, Purpose, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.transitions import TRANSITIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The broker holds the order for the opening of the market. `message` is in the broker's words; `until` None: it
    gave no time."""

    since: datetime
    until: datetime | None
    message: str

    def lasts(self, now: datetime) -> bool:
        """Whether it is still held, by the time that the broker named; without one, until a Released event."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order: the result of applying its events in turn. `version` is their number; event n (from 1) made version
    n."""

    identity: Identity
    request: OrderRequest | RefusedRequest
    received_at: datetime
    published_at: datetime
    message_id: str = ""
    raw: str = ""
    """The message's text as received."""
    traceparent: str | None = field(default=None, compare=False)
    """The trace that the message came in, by the W3C's Trace Context. None: in none, or it came before this was kept."""
    status: Status = Status.PENDING
    events: tuple[Event, ...] = ()
    quantity: Decimal | None = None
    """What is to be traded: as requested, reduced if capped or rounded, or what an amount of money bought. None: of a
    refused message without a readable quantity, and of an order that is sized as it leaves, until then."""
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    """As requested, or rounded to the market's ticks."""
    cash_quantity: Decimal | None = None
    """Not None: the order is for this amount of money; until it is done, `quantity` is only what that is expected to
    buy."""
    display_quantity: Decimal | None = None
    """How much of it the market sees at once: as requested, or rounded to what the broker takes. None: all of it."""
    fills: tuple[Fill, ...] = ()
    busted_fill_ids: frozenset[str] = frozenset()
    filled_quantity: Decimal = ZERO
    attempt: int = 1
    broker_order_id: str | None = None
    reserved_order_id: str | None = None
    combination: Combination | None = None
    """Not None: at the broker it is a leg of this order, or was to be."""
    submitted_at: datetime | None = None
    filled_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_request: Reason | None = None
    reason: Reason | None = None
    client_order_id: str = field(default="")
    matched_instrument: Instrument | None = None
    """The instrument that is traded, if the request names it less fully than its entry does."""
    matched_product: str | None = None
    hold: Hold | None = None
    """Not None: the broker holds the order for the opening."""
    opens_at: datetime | None = None
    """Until when we kept it for the opening of its market; its age counts from there."""
    released_at: datetime | None = None
    """When the market got the order after it was held."""
    terms: ContractTerms | None = None
    """The contract's facts as the broker reported them. None: it was not asked, or reports none."""
    booked_as: str | None = None
    """The ledger key that its fills are booked under. None: the instrument's own."""
    triggered_at: datetime | None = field(default=None, repr=False, compare=False)
    """Of a stop that protects a position: when it was known first that it was triggered."""
    protection: ProtectionChanged | None = None
    """How it is protected, as was last recorded. None: nothing was, since it asks for no protection, has not filled, or is from before there were
    protective orders."""
    # Derived from the events, and carried along so that no step has to read the whole history.
    paid: Decimal = field(default=ZERO, repr=False, compare=False)
    """Sum of price times quantity over the fills that are not busted, exact."""
    commission: Decimal = field(default=ZERO, repr=False, compare=False)
    """The known commissions of the fills that are not busted; currencies are not converted."""
    commission_currency: str | None = field(default=None, repr=False, compare=False)
    """The currency of the first of these fills that names one."""
    declared_at: datetime | None = field(default=None, repr=False, compare=False)
    """When a person last declared the order placed."""
    is_named_by_person: bool = field(default=False, repr=False, compare=False)
    """`broker_order_id` was entered by a person."""
    notes: tuple[Noted, ...] = field(default=(), repr=False, compare=False)
    """The Noted events, in order."""
    places: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """Index of `fills` by fill id. The dict is shared between this order and its earlier and later versions and is
    only ever added to; an id whose place differs makes a new one (`__post_init__`), and a hit is verified before
    use."""
    checkpoints: tuple[Order, ...] = field(default=(), repr=False, compare=False)
    """About ten earlier versions of the order, the older the sparser, from which `as_of` starts."""

    def __post_init__(self) -> None:
        last = len(self.fills) - 1
        if last >= 0 and self.places.get(self.fills[last].fill_id) != last:
            object.__setattr__(self, "places", {fill.fill_id: place for place, fill in enumerate(self.fills)})

    @property
    def undocumented_answer(self) -> str | None:
        """The broker's answer to the present sending, if that was neither a documented acceptance nor a documented
        refusal, and nothing else was heard since. Otherwise None."""
        if self.status is not Status.SUBMITTING:
            return None
        since = takewhile(lambda event: not isinstance(event, SubmitStarted), reversed(self.events))
        return next((event.answer for event in since if isinstance(event, Noted) and event.answer), None)

    @property
    def order_id(self) -> str:
        return self.identity.order_id

    @property
    def signal_id(self) -> str:
        return self.identity.signal_id

    @property
    def version(self) -> int:
        return len(self.events)

    @property
    def client_order_ids(self) -> tuple[str, ...]:
        """Every tag this order was ever sent under, the present one last; all stay watched."""
        if self.attempt == 1:  # nearly always, and asked for often
            return (self.identity.client_order_id(1),)
        return tuple(self.identity.client_order_id(n) for n in range(1, self.attempt + 1))

    @property
    def tag_at_broker(self) -> str:
        """The tag of its present sending that the broker knows: of a leg that of the whole."""
        return self.client_order_id if self.combination is None else self.combination.client_order_id

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Every order at the broker of which it ever was, or was to be, a leg; what they fill stays its own. Of several
        under one tag only the last: before it was written down, it was known that nothing of the others was sent."""
        if self.request.total_legs == 1:  # nearly always, and asked for often
            return ()
        started = (event.combination for event in self.events if isinstance(event, SubmitStarted))
        return tuple({whole.client_order_id: whole for whole in started if whole is not None}.values())

    @property
    def remaining_quantity(self) -> Decimal:
        """Never negative: after an overfill it is 0."""
        return max(ZERO, (self.quantity or ZERO) - self.filled_quantity)

    @property
    def average_price(self) -> Decimal | None:
        """Weighted by quantity, over the fills that are not busted; None without one."""
        if not self.filled_quantity:
            return None
        return self.paid / self.filled_quantity

    @property
    def symbol(self) -> str | None:
        return self.request.instrument.symbol if isinstance(self.request, OrderRequest) else self.request.symbol

    @property
    def instrument(self) -> Instrument | None:
        """What is traded; None for a refused message."""
        return self.matched_instrument or (self.request.instrument if isinstance(self.request, OrderRequest) else None)

    @property
    def adoption(self) -> Adopted | None:
        """The person's report, if this record is an adoption; None for an order."""
        first = self.events[0] if self.events else None
        return first if isinstance(first, Adopted) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The ids by which an exit may refer to this order: its signal id, its `signal_store` id, and those of the
        entry whose place it takes."""
        request = self.request
        named = (self.signal_id, request.mathematricks_signal_id)
        stands_for = request.stands_for if isinstance(request, OrderRequest) else ()
        return tuple(dict.fromkeys(name for name in (*named, *stands_for) if name is not None))

    @property
    def money_per_point(self) -> Decimal | None:
        """Money per point of the quoted price and unit of quantity, in the contract's currency: every amount is
        price x quantity x this. From the broker's facts, else the order's multiplier, else 1. None: the broker does
        not say, and no amount can be computed."""
        if self.terms is not None:
            return self.terms.money_per_point
        named = None if self.instrument is None else self.instrument.multiplier
        return named or ONE

    @property
    def value(self) -> Decimal | None:
        """The money that changed hands, without commissions, in the contract's currency. None without a fill, or if
        no amount can be computed."""
        worth = self.money_per_point
        if not self.fills or worth is None:
            return None
        return EXACT.multiply(self.paid, worth)

    @property
    def working_since(self) -> datetime | None:
        """The moment from which its time-out counts: when a person declared it placed, else when it was sent, and
        not before its release if it was held."""
        since = self.submitted_at if self.declared_at is None else self.declared_at
        return since if since is None or self.released_at is None else max(since, self.released_at)

    @property
    def accepted_request(self) -> OrderRequest:
        """The request of an accepted order. Raises TypeError for a refused message, for which nothing may be traded."""
        if isinstance(self.request, OrderRequest):
            if self.matched_instrument is None:
                return self.request
            return replace(
                self.request,
                instrument=self.matched_instrument,
                product=self.request.product or self.matched_product,
            )
        raise TypeError(f"order {self.order_id} was refused as unreadable")

    @property
    def protective(self) -> Protective | None:
        """What makes it a protective order; None: it is none."""
        return self.request.protective if isinstance(self.request, OrderRequest) else None

    @property
    def wants_protection(self) -> bool:
        """It is an entry, or stands for one, that names a stop, fixed or trailing, or a target, and never was a leg of a combination, which
        may fill whatever became of it since: what closes one leg would leave the others alone."""
        request = self.request
        return (
            isinstance(request, OrderRequest)
            and any(
                named is not None
                for named in (request.stop_loss, request.take_profit, request.trail_percent, request.trail_amount)
            )
            and self.identity.purpose is Purpose.ENTRY
            and not self.combinations
        )

    @property
    def is_protection_open(self) -> bool:
        """Whether it wants protection, has filled, and something of that may still have to be protected, or to be ended of what protected it."""
        if not self.fills or not self.wants_protection:
            return self.protection is not None and self.protection.state is not ProtectionState.CLOSED
        known = self.protection
        return (
            known is None or known.state is not ProtectionState.CLOSED or known.filled_quantity != self.filled_quantity
        )

    def fill_of(self, fill_id: str) -> Fill | None:
        place = self.places.get(fill_id)
        if place is None or place >= len(self.fills):
            return None
        fill = self.fills[place]
        return fill if fill.fill_id == fill_id else None

    def as_of(self, number: int) -> Order:
        """The order as it was after its event of this number (from 1; 0: before its first). Costs some steps for each event that lies
        between, and a few more."""
        if number == self.version:
            return self
        begun = next((kept for kept in reversed(self.checkpoints) if kept.version <= number), None) or bare(self)
        return apply_all(begun, self.events[begun.version : number])

    def ticket(self) -> Ticket:
        """What is sent to the broker. Raises ValueError for an order whose quantity is not worked out yet."""
        request = self.accepted_request
        quantity = self.quantity if self.quantity is not None else request.quantity
        if quantity is None:
            raise ValueError(f"order {self.order_id} has no quantity yet")
        shown = self.display_quantity
        return Ticket(
            client_order_id=self.client_order_id,
            instrument=request.instrument,
            side=request.side,
            quantity=quantity,
            order_type=request.order_type,
            limit_price=self.limit_price,
            stop_price=self.stop_price,
            cash_quantity=self.cash_quantity,
            reference_price=request.reference_price,
            tif=request.tif,
            product=request.product,
            variety=request.variety,
            # Of an order that was sized or capped to less than that, all of it may be seen.
            display_quantity=shown if shown is not None and shown < quantity else None,
            reserved_order_id=self.reserved_order_id,
            terms=self.terms,
            is_exit=self.identity.purpose is Purpose.EXIT,
            is_protective=request.protective is not None,
            link=None if request.protective is None else request.protective.link,
        )


def new_order(
    identity: Identity,
    request: OrderRequest | RefusedRequest,
    *,
    received_at: datetime,
    published_at: datetime,
    message_id: str = "",
    raw: str = "",
    traceparent: str | None = None,
) -> Order:
    """A PENDING order without events."""
    return Order(
        identity=identity,
        request=request,
        received_at=received_at,
        published_at=published_at,
        message_id=message_id,
        raw=raw,
        traceparent=traceparent,
        quantity=request.quantity,
        limit_price=request.limit_price if isinstance(request, OrderRequest) else None,
        stop_price=request.stop_price if isinstance(request, OrderRequest) else None,
        display_quantity=request.display_quantity if isinstance(request, OrderRequest) else None,
        client_order_id=identity.client_order_id(1),
    )


def bare(order: Order) -> Order:
    """The order before its first event."""
    return new_order(
        order.identity,
        order.request,
        received_at=order.received_at,
        published_at=order.published_at,
        message_id=order.message_id,
        raw=order.raw,
        traceparent=order.traceparent,
    )


CHECKPOINT = 16
"""An earlier version is kept every so many events; `_kept` decides for how long."""


def apply(order: Order, event: Event) -> Order:
    """The order after the event. Raises InvalidTransition if the event is not allowed in the present status,
    FillsDoNotAddUp if a final status does not match the fills.

    The cost does not grow with the history, except for copying the tuple of events.
    """
    after = _applied(order, event)
    return after if after.version % CHECKPOINT else replace(after, checkpoints=_kept(after))


def _kept(order: Order) -> tuple[Order, ...]:
    """The checkpoints including this version. A version divisible by a larger power is kept longer, so that every
    event has a checkpoint within a distance proportional to its age."""
    states = (*order.checkpoints, replace(order, checkpoints=()))
    return tuple(state for state in states if order.version - state.version <= 2 * _roundness(state.version))


def _roundness(version: int) -> int:
    """The largest of 16, 128, 1024, ... that divides the version."""
    step = CHECKPOINT
    while version % (step * 8) == 0:
        step *= 8
    return step


def _applied(order: Order, event: Event) -> Order:
    """With a single copy of the order per event: this is the hot path."""
    values = dict(zip(_NAMES, _values_of(order), strict=True))
    return Order(**values | _changes(order, event) | {"events": (*order.events, event)})


_NAMES = tuple(each.name for each in fields(Order))
_values_of = attrgetter(*_NAMES)
"""`dataclasses.replace` asks each field whether it may be replaced, for every event of every order anew."""


def _changes(order: Order, event: Event) -> dict[str, Any]:
    """The fields that the event changes, besides the list of events."""
    match event:
        case Filled():
            return _with_fill(order, event)
        case Busted():
            return _without_fill(order, event)
        case CommissionReported():
            return _with_commission(order, event)
        case ContractDeclared():
            return {"terms": event.terms}
        case Noted():
            return {"notes": (*order.notes, event)}
        case ProtectionChanged():
            return {"protection": event}
    target = TRANSITIONS.get((order.status, type(event)))
    if (isinstance(event, AdoptionUndone) and order.adoption is None) or (isinstance(event, Adopted) and order.events):
        target = None
    if target is None:
        raise InvalidTransition(order.order_id, order.status, stored_name(type(event)))
    if isinstance(event, Rejected | Cancelled | Expired | Completed) and event.filled_quantity != order.filled_quantity:
        raise FillsDoNotAddUp(order.order_id, str(order.filled_quantity), str(event.filled_quantity))
    is_final = target.is_final
    moved = {
        "status": target,
        "finished_at": event.at if is_final else None,
        "hold": None if is_final else order.hold,
    }
    return moved | _by_move(order, event, target)


def apply_all(order: Order, events: Iterable[Event]) -> Order:
    """The order after all these events, in turn."""
    for event in events:
        order = apply(order, event)
    return order


def _by_move(order: Order, event: Event, target: Status) -> dict[str, Any]:
    """The fields that the event changes, besides the status and what always goes with it."""
    match event:
        case SubmitStarted():
            return {
                "reserved_order_id": event.reserved_order_id,
                "submitted_at": event.at,
                "combination": event.combination,
            }
        case NothingSent():
            return {"reserved_order_id": None, "submitted_at": None, "combination": None}
        case Accepted():
            return {"broker_order_id": event.broker_order_id, "reason": None, "is_named_by_person": False}
        case DeclaredPlaced():
            return {
                "broker_order_id": event.broker_order_id,
                "is_named_by_person": True,
                "declared_at": event.at,
                "reason": None,
            }
        case Doubted():
            return {"reason": Reason(ReasonCode.OUTCOME_UNKNOWN, event.message)}
        case AwaitsOpening():
            return {"opens_at": event.until}
        case Sized() | Capped():
            return {"quantity": event.quantity}
        case InstrumentMatched():
            return {"matched_instrument": event.instrument, "matched_product": event.product}
        case ContractResolved():
            return {"terms": event.terms, "booked_as": event.booked_as}
        case Fitted():
            return {
                "quantity": order.quantity if event.quantity is None else event.quantity,
                "limit_price": order.limit_price if event.limit_price is None else event.limit_price,
                "stop_price": order.stop_price if event.stop_price is None else event.stop_price,
                "cash_quantity": order.cash_quantity if event.cash_quantity is None else event.cash_quantity,
                "display_quantity": event.display_quantity or order.display_quantity,
            }
        case Held():
            since = event.at if order.hold is None else order.hold.since
            return {"hold": Hold(since=since, until=event.until, message=event.message)}
        case Released():
            return {"hold": None, "released_at": event.at}
        case Triggered():
            return {"triggered_at": order.triggered_at or event.at}
        case Completed():
            return {"quantity": event.filled_quantity}
        case CancelRequested():
            reason = event.reason if target.is_final else order.reason
            return {"cancel_request": order.cancel_request or event.reason, "reason": reason}
        case Rejected() | Cancelled() | Expired():
            return {"reason": event.reason}
        case DeclaredNotPlaced() | DeclaredCancelled() | AdoptionUndone():
            return {"reason": Reason(ReasonCode.RESOLVED_BY_PERSON, event.message)}
        case SendAgainOrdered():
            attempt = order.attempt + 1
            return {
                "attempt": attempt,
                "client_order_id": order.identity.client_order_id(attempt),
                "reserved_order_id": None,
                "combination": None,
                "broker_order_id": None,
                "submitted_at": None,
                "cancel_request": None,
                "reason": None,
                "hold": None,
                "released_at": None,
            }
    return {}


def _with_fill(order: Order, event: Filled) -> dict[str, Any]:
    fill = event.fill
    if fill.fill_id in order.busted_fill_ids or order.fill_of(fill.fill_id) is not None:
        return {}
    filled = order.filled_quantity + fill.quantity
    order.places.setdefault(fill.fill_id, len(order.fills))
    return {
        "fills": (*order.fills, fill),
        "filled_quantity": filled,
        "paid": _paid(order.paid, fill),
        "commission": order.commission if fill.commission is None else order.commission + fill.commission,
        "commission_currency": order.commission_currency or fill.commission_currency or None,
        "filled_at": fill.time if order.filled_at is None else max(order.filled_at, fill.time),
        "status": (status := _status_by_quantity(order, filled)),
        "finished_at": (order.finished_at or event.at) if status.is_final else None,
        "reason": None if status is Status.FILLED or not status.is_final else order.reason,
        "hold": None,
        "released_at": order.released_at if order.hold is None else event.at,
    }


def _without_fill(order: Order, event: Busted) -> dict[str, Any]:
    fills = tuple(f for f in order.fills if f.fill_id != event.fill_id)
    filled = sum((f.quantity for f in fills), ZERO)
    status = order.status
    if status in (Status.FILLED, Status.PARTIALLY_FILLED) and (order.quantity is None or filled < order.quantity):
        status = Status.PARTIALLY_FILLED if filled else Status.SUBMITTED
    return {
        "fills": fills,
        "busted_fill_ids": order.busted_fill_ids | {event.fill_id},
        "filled_quantity": filled,
        "paid": reduce(_paid, fills, ZERO),
        "commission": _commission(fills),
        "commission_currency": _commission_currency(fills),
        "filled_at": max((f.time for f in fills), default=None),
        "status": status,
        "finished_at": order.finished_at if status.is_final else None,
    }


def _status_by_quantity(order: Order, filled: Decimal) -> Status:
    """A fill that completes the quantity makes any order FILLED, except one for an amount of money, which only the
    broker can call done. A smaller fill leaves CANCELLED and EXPIRED as they are (it crossed the end on its way to
    us), but shows that an order believed rejected, unsent or in doubt is alive."""
    if order.quantity is not None and filled >= order.quantity and order.cash_quantity is None:
        return Status.FILLED
    if order.status in (Status.CANCELLED, Status.EXPIRED, Status.FILLED):
        return order.status
    return Status.PARTIALLY_FILLED


def _paid(before: Decimal, fill: Fill) -> Decimal:
    return EXACT.add(before, EXACT.multiply(fill.price, fill.quantity))


def _commission(fills: Iterable[Fill]) -> Decimal:
    return sum((fill.commission for fill in fills if fill.commission is not None), ZERO)


def _commission_currency(fills: Iterable[Fill]) -> str | None:
    return next((fill.commission_currency for fill in fills if fill.commission_currency), None)


def _with_commission(order: Order, event: CommissionReported) -> dict[str, Any]:
    before = order.fill_of(event.fill_id)
    if before is None:
        return {}
    fill = replace(before, commission=event.commission, commission_currency=event.currency)
    place = order.places[event.fill_id]
    fills = (*order.fills[:place], fill, *order.fills[place + 1 :])
    is_first = before.commission is None
    return {
        "fills": fills,
        "commission": order.commission + event.commission if is_first else _commission(fills),
        "commission_currency": _commission_currency(fills) if order.commission_currency else event.currency or None,
    }
