"""What an order waits for, is capped by or ends by before it leaves: the other legs, its entry, its age and what we hold; not its sending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

import structlog

from brokers.errors import OrderRefused
from execution_service.core.orders.combination import has_missed, is_combined, uncombinable
from execution_service.core.orders.events import (
    Cancelled,
    CancelRequested,
    Capped,
    Event,
    InstrumentMatched,
    Noted,
    Rejected,
)
from execution_service.core.orders.exits import (
    UNKNOWN_ENTRY_SECONDS,
    ExitAllowance,
    exit_allowance,
    linked_order_id,
    linked_stop_id,
    may_stand_beside,
    protective_room,
    with_instrument_of_entry,
    without_linked,
)
from execution_service.core.orders.legs import (
    UNKNOWN_LEG_SECONDS,
    about_leg,
    missing_legs,
    other_legs,
    pending_legs,
    refusing_leg,
)
from execution_service.core.orders.next_step import is_stale, stale
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.products import product_of, unnamed_side, usual_product
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import AT_WORK, Reason, ReasonCode, Status
from execution_service.core.orders.tickets import unsupported_reason
from execution_service.core.orders.waiting import Waiting, WaitingReason, others_of
from execution_service.core.positions.ledger import LedgerKey
from execution_service.core.reconcile.positions import Holding, by_product
from execution_service.core.risk.records import refusal as refusal_by
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store
from execution_service.trading.connection import Connection, reason_of
from execution_service.trading.exit_check import ExitCheck
from execution_service.trading.holding_choice import HoldingChoice
from execution_service.trading.holdings import entry_with_unbooked, half_recorded, is_booked_to
from execution_service.trading.protection import Protection
from execution_service.trading.risk_gate import RiskGate
from execution_service.trading.stop_news import StopNews

log = structlog.get_logger(__name__)

LATE_EXIT = "late exit executed"
"""How the remark begins that an exit was looked at, found to be too old, and is executed all the same."""


class PreTradeChecks:
    """Asks the store, the orders in hand and the market what they have to say to an order that is about to be sent."""

    def __init__(
        self,
        *,
        connection: Connection,
        holding_choice: HoldingChoice,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        max_attempts: int,
        cancels: Cancels,
        exit_check: ExitCheck,
        protection: Protection,
        risk_gate: RiskGate,
        stop_news: StopNews,
    ) -> None:
        """`max_attempts`: so many times it is tried to send an order."""
        self._connection = connection
        self._holding_choice = holding_choice
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._max_attempts = max_attempts
        self._cancels = cancels
        self._exit_check = exit_check
        self._protection = protection
        self._risk_gate = risk_gate
        self._stop_news = stop_news

    async def before_leaving(self, live: LiveOrder) -> tuple[Event, ...] | Waiting:
        """What must be recorded before the order is sent: nothing, a reduction, or its end; or that it has to wait, for its entry, the
        other legs of its signal, or what the broker holds. Raises StoreUnavailable; BrokerError or TimeoutError where the broker does not
        tell what a leg needs."""
        order, now = live.order, self._clock.now()
        if order.cancel_request is not None:
            return (Cancelled(at=now, reason=order.cancel_request, filled_quantity=order.filled_quantity),)
        cancelled = self._cancels.is_cancelled(order)
        if cancelled is not None:
            return (CancelRequested(at=now, reason=cancelled, requested_by="order-commands"),)
        unsupported = unsupported_reason(order, self._connection.capabilities, self._connection.broker_name)
        if unsupported is not None:
            return (Rejected(at=now, reason=Reason(ReasonCode.UNSUPPORTED_ORDER, unsupported)),)
        tries = live.tries
        if tries.failures >= self._max_attempts:
            why = f": {tries.failure}" if tries.failure else ""
            words = f"the broker could not be reached in {tries.failures} attempts; nothing was sent{why}"
            return (Rejected(at=now, reason=Reason(ReasonCode.BROKER_UNAVAILABLE, words)),)
        if others_of(order) is WaitingReason.LEGS:
            refusal = await self._refused_for_its_legs(live)
            if refusal:
                return refusal
        if order.protective is not None:
            return await self._protective(live)
        first: tuple[Event, ...] = ()
        is_measured = is_elsewhere = False
        if others_of(order) is WaitingReason.ENTRY:
            allowed = await self._allowed_exit(live)
            if allowed is None:
                return Waiting(WaitingReason.ENTRY)
            if allowed.events and isinstance(allowed.events[-1], Rejected):
                return allowed.events
            first = allowed.events
            is_measured = not allowed.is_unbound and not await self._is_beside_an_unmeasured(apply_all(order, first))
            is_elsewhere = self._is_elsewhere(order, allowed)
        if order.identity.purpose is Purpose.EXIT and not order.accepted_request.entry_refs:
            first = await self._in_held_product(order)
        leaving = apply_all(order, first)
        if self._protection.is_beside(leaving):
            verdict = await self._risk_gate.refused_although_exit(leaving)
            if verdict is not None:
                return (*first, refusal_by(verdict, now))  # a stop makes way for what leaves, and for nothing else
        if await self._protection.must_wait(live, leaving):
            return Waiting(WaitingReason.PROTECTION)
        if order.identity.purpose is Purpose.EXIT:
            must_look = is_elsewhere or not (is_measured or await self._reduces_position(leaving))
            bound = await self._exit_check.bound(live, leaving, must_look=must_look)
            if isinstance(bound, Waiting) or (bound and isinstance(bound[-1], Rejected)):
                return bound
            first = (*first, *bound)
        elapsed = live.elapsed(self._clock.monotonic())
        if is_stale(elapsed, self._connection.limits):
            if not await self._reduces_position(apply_all(order, first)):
                return (stale(elapsed, self._connection.limits, now),)
            words = f"{LATE_EXIT}: first published {elapsed.age:.0f} s ago, and it reduces a position that we hold"
            first = (*first, Noted(at=now, message=words, alert=True))
        return (*first, *self._with_side(apply_all(order, first)))

    def _with_side(self, order: Order) -> tuple[Event, ...]:
        """The side of the position that the order means, where the broker keeps these apart: in its record, so that what it fills is booked there."""
        request = order.accepted_request
        side = unnamed_side(order, self._connection.capabilities.products_of(request.instrument))
        if side is None:
            return ()
        return (InstrumentMatched(at=self._clock.now(), instrument=request.instrument, product=side),)

    # --- protective orders --------------------------------------------------------------------------------------

    async def _protective(self, live: LiveOrder) -> tuple[Event, ...] | Waiting:
        """What a protective order may still fill, by its entry and by what its strategy holds, since it was made: it is reduced to that, or ends.
        How much protection is wanted then, is asked again when it is recorded."""
        order, own = live.order, live.order.protective
        assert own is not None
        exits_of = [f"exit_of:{name}" for name in order.accepted_request.entry_refs]
        exits = await self._store.find(exits_of)
        entries = await self._store.load([own.entry_order_id])
        room = Decimal(0)
        words = "the record of its entry, or of another exit of it, cannot be read"
        if entries and not self._store.unreadable(exits_of):
            found = [self._live.latest(stored) for stored in exits]
            entry = self._live.latest(entries[0])
            names = [f"signal:{name}" for name in entry.accepted_request.stands_for]
            stood_for = await self._store.find(names) if names else ()
            left = protective_room(order, entry, found, map(self._live.latest, stood_for))
            room = min(left, max(Decimal(0), await self._left_to_reduce(order)))
            words = "nothing is left to protect"
            stop_id = linked_stop_id(order)
            if stop_id is not None and not any(may_stand_beside(each) for each in found if each.order_id == stop_id):
                room, words = Decimal(0), "its stop has begun to fill, or has ended"
        wanted = order.ticket().quantity
        if room <= 0:
            return (Rejected(at=self._clock.now(), reason=Reason(ReasonCode.NOTHING_TO_EXIT, words)),)
        first: tuple[Event, ...] = ()
        if room < wanted:
            capped = f"reduced from {wanted:f} to {room:f}: so much is left to protect"
            first = (Capped(at=self._clock.now(), quantity=room, message=capped),)
        bound = await self._exit_check.bound(live, apply_all(order, first), must_look=False)
        if isinstance(bound, Waiting):
            return bound
        first = (*first, *bound)
        if bound and isinstance(bound[-1], Rejected):
            return first
        if linked_stop_id(order) is not None and not self._stop_news.is_told(order):
            return Waiting(WaitingReason.STOP)
        return (*first, *self._with_side(apply_all(order, first)))

    # --- legs ---------------------------------------------------------------------------------------------------

    async def _refused_for_its_legs(self, live: LiveOrder) -> tuple[Event, ...] | Waiting:
        """The rejection of a leg that would stand alone; nothing if it may leave; or that it has to wait for the others."""
        order, capabilities = live.order, self._connection.capabilities
        legs = [self._live.latest(s) for s in await self._store.find([f"signal:{order.signal_id}"])]
        reason = refusing_leg(order, legs, capabilities, self._connection.broker_name)
        missing = missing_legs(order, legs) if not capabilities.splits_option_combinations else []
        if reason is None and missing:
            if self._clock.monotonic() - live.known_from < UNKNOWN_LEG_SECONDS:
                return Waiting(WaitingReason.LEGS)
            numbers = ", ".join(str(number) for number in missing)
            words = f"of {order.request.total_legs} legs these have not come: {numbers}; none is placed alone"
            reason = Reason(ReasonCode.UNSUPPORTED_ORDER, words)
        others = other_legs(order, legs)
        if reason is None and any(is_combined(leg, capabilities) for leg in (order, *others)):
            reason = has_missed(order, others) or uncombinable((order, *others))
            if reason is None and any(leg.status in (Status.SUBMITTING, Status.IN_DOUBT) for leg in others):
                return Waiting(WaitingReason.LEGS)
        reason = reason or await self._unfitting_leg(order, legs)
        return () if reason is None else (Rejected(at=self._clock.now(), reason=reason),)

    async def _unfitting_leg(self, order: Order, legs: Sequence[Order]) -> Reason | None:
        """Why the market will not take a leg that is still to be sent. Raises BrokerError, TimeoutError where it does not tell."""
        broker = self._connection.broker
        for leg in pending_legs(order, legs) if self._connection.capabilities.fits_tickets else []:
            try:
                await self._connection.ask(broker.fitted(leg.ticket()))
            except OrderRefused as exc:
                return about_leg(leg, reason_of(exc))
        return None

    # --- exits and what we hold ---------------------------------------------------------------------------------

    async def _allowed_exit(self, live: LiveOrder) -> ExitAllowance | None:
        """What an exit may take of its entry. None: the entry is not finished, has not come yet, or what was adopted of it is half recorded."""
        order = live.order
        known_for = self._clock.monotonic() - live.known_from
        refs = order.accepted_request.entry_refs
        exits = await self._store.find([f"exit_of:{ref}" for ref in refs])
        entries = await self._store.find([f"signal:{ref}" for ref in refs])
        unknown = self._store.unreadable([f"exit_of:{ref}" for ref in refs], may_be_at_work=True)
        if unknown:
            words = f"another exit of its entry may be at work, and its record cannot be read ({'; '.join(unknown)})"
            rejected = Rejected(at=self._clock.now(), reason=Reason(ReasonCode.NOTHING_TO_EXIT, words))
            return ExitAllowance((rejected,))
        unreadable = self._store.unreadable([f"{kind}:{ref}" for kind in ("signal", "exit_of") for ref in refs])
        if unreadable:
            return await self._allowed_by_the_ledger(order, "; ".join(unreadable))
        if await half_recorded(self._live, self._store, (s.order for s in (*entries, *exits))) is not None:
            return None
        return exit_allowance(
            order,
            [self._live.latest(s) for s in entries],
            [self._live.latest(s) for s in exits],
            self._clock.now(),
            may_entry_come=known_for < UNKNOWN_ENTRY_SECONDS,
        )

    def _is_elsewhere(self, order: Order, allowed: ExitAllowance) -> bool:
        """Whether the exit is to be traded in another product than that in which the broker holds what its entry built: unless a person has moved
        it there, it would open a position."""
        products = self._connection.capabilities.products_of(order.accepted_request.instrument)
        usual = usual_product(products, order.accepted_request.side, Purpose.EXIT)
        traded_in = apply_all(order, allowed.events).accepted_request.product
        return any((product or usual) != (traded_in or usual) for product in allowed.products if products)

    async def _allowed_by_the_ledger(self, order: Order, why: str) -> ExitAllowance:
        """Of an exit that cannot be measured by its entry, since the record of that, or of an exit that took from it, cannot be read: what
        reduces a position of our ledger, beside all that is at work to reduce it already, may go, and nothing else."""
        now = self._clock.now()
        about = f"the record of its entry cannot be read, or that of another exit of it ({why})"
        if await self._reduces_position(order):
            words = f"{about}; sent, since it reduces a position that we hold"
            return ExitAllowance((Noted(at=now, message=words, alert=True),))
        words = f"{about}, and it reduces nothing that our ledger holds and no other order is about to take"
        return ExitAllowance((Rejected(at=now, reason=Reason(ReasonCode.NOTHING_TO_EXIT, words)),))

    async def may_be_late(self, order: Order) -> bool:
        """An exit that reduces what we hold, or may turn out to. One that names its entry will be capped to that, so any holding will do.
        A target that the broker links to a stop ends instead: its price is watched then."""
        if order.identity.purpose is not Purpose.EXIT or linked_stop_id(order) is not None:
            return False
        if order.accepted_request.entry_refs:
            entries = await self._store.find([f"signal:{ref}" for ref in order.accepted_request.entry_refs])
            order = with_instrument_of_entry(order, [s.order for s in entries], self._clock.now())
        request = order.accepted_request
        held = await self._held(order) * request.side.sign
        key = await self._holding_choice.key_for(order)
        if held >= 0:
            # Nothing to reduce, unless the broker, who cannot be asked now, has filled what is at work.
            return not self._connection.is_connected and any(
                live.order.status in AT_WORK
                and is_booked_to(live.order, key)
                and live.order.accepted_request.side is request.side.opposite
                for live in self._live.by_id.values()
            )
        is_capped = bool(request.entry_refs)
        return is_capped or (order.quantity or Decimal(0)) <= abs(held)

    async def _reduces_position(self, order: Order) -> bool:
        """Whether it does, and nothing else that is at work to reduce it may have done so before."""
        if order.identity.purpose is not Purpose.EXIT:
            return False
        left = await self._left_to_reduce(order)
        return left > 0 and (order.quantity or Decimal(0)) <= left

    async def _is_beside_an_unmeasured(self, order: Order) -> bool:
        """Whether an exit that names no entry is at work to take of the same holding: what this one's entry allows does not tell of that."""
        others = self._live.exits_without_entry
        return (
            bool(others) and self._may_be_taken(await self._holding_choice.key_for(order), order, others.values()) > 0
        )

    async def _left_to_reduce(self, order: Order) -> Decimal:
        """What the strategy holds on the other side, less what other orders of it may still take of that; may be negative."""
        # Before what is held: what fills while the store is being asked counts twice, and not neither way.
        key = await self._holding_choice.key_for(order)
        at_work = self._may_be_taken(key, order, self._live.by_id.values())
        return -await self._held(order) * order.accepted_request.side.sign - at_work

    @staticmethod
    def _may_be_taken(key: LedgerKey, order: Order, some: Iterable[LiveOrder]) -> Decimal:
        """What others of these, on the order's side, may still fill of what is booked there."""
        side, linked = order.accepted_request.side, linked_order_id(order)
        at_work = without_linked(
            live.order
            for live in some
            if live.order.status in AT_WORK
            and live.order.order_id not in (order.order_id, linked)
            and is_booked_to(live.order, key)
            and live.order.accepted_request.side is side
        )
        return sum((other.remaining_quantity for other in at_work), Decimal(0))

    async def _held(self, order: Order) -> Decimal:
        """The position that the order would change, in its product where the broker holds these apart; negative: short."""
        held = await self._held_by_product(order)
        products = self._connection.capabilities.products_of(order.accepted_request.instrument)
        wanted = product_of(order, products)
        return sum((each.quantity for each in held if each.product in (None, wanted)), Decimal(0))

    async def _in_held_product(self, order: Order) -> tuple[Event, ...]:
        """An exit that names neither its entry nor a product is one of the product that its strategy holds, if that is one."""
        request = order.accepted_request
        products = self._connection.capabilities.products_of(request.instrument)
        if not products or request.product is not None:
            return ()
        held = {
            each.product for each in await self._held_by_product(order) if each.quantity * request.side.sign < 0
        } - {None}
        if len(held) != 1 or held == {product_of(order, products)}:
            return ()
        return (InstrumentMatched(at=self._clock.now(), instrument=request.instrument, product=held.pop()),)

    async def _held_by_product(self, order: Order) -> Sequence[Holding]:
        """What the order's strategy holds, with the fills that are recorded and not booked yet; without a product where the broker knows none, or
        it is not known in which. Nothing where the ledger's entry cannot be read, or what was not booked yet cannot be worked out: what is not
        known reduces nothing."""
        key = await self._holding_choice.key_for(order)
        entry = await entry_with_unbooked(self._live, self._store, key, order.accepted_request.instrument)
        products = self._connection.capabilities.products_of(order.accepted_request.instrument)
        return () if entry is None else by_product(entry, products)
