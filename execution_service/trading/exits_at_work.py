"""Exits of one account that work at the broker while what they close becomes smaller: when they are looked at, and that those which may take too much
are cancelled; which these are is decided in core/orders/exits_at_work.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from brokers.base import Instrument
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import may_be_of_one_contract
from execution_service.core.orders.events import Event, Noted
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.exits import entries_of, takers_of
from execution_service.core.orders.exits_at_work import (
    Left,
    excess_exits,
    is_measured,
    left_of_entries,
    left_of_position,
    opened_by_exits,
    was_in_excess,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import product_of
from execution_service.core.orders.report_events import was_noted
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import AT_WORK, Reason, ReasonCode
from execution_service.core.positions.position import Position
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.trading.connection import Connection
from execution_service.trading.holdings import booked_to, entry_with_unbooked, has_moved, held_in

log = structlog.get_logger(__name__)

REQUESTED_BY = "execution-service"


class Conversation(Protocol):
    """The account's trader, as far as exits at work need it."""

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        """Records the wish; the broker is asked next."""

    def products_of(self, instrument: Instrument) -> Sequence[str]: ...


class ExitsAtWork:
    """Looks at an exit when something else has moved what it closes, and once when it comes in hand at work already. What it does follows from the
    records alone, so that a death in between changes nothing."""

    def __init__(
        self,
        *,
        connection: Connection,
        conversation: Conversation,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        ownership: Ownership,
        mode: ExitPositionCheck,
    ) -> None:
        """`mode`: with OFF an exit whose entry is none of ours is measured by nothing, as before it is sent."""
        self._connection = connection
        self._conversation = conversation
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._ownership = ownership
        self._mode = mode
        self._wake_up = WakeUp(clock)
        self._is_looking = False
        self._exits: dict[str, LiveOrder] = {}
        """By our id, exits that have not ended."""
        self._due: dict[str, LiveOrder] = {}
        """By our id, those that are to be looked at."""
        self._moves = 0
        """Counts the records of what has filled in the account."""

    @property
    def has_settled(self) -> bool:
        """Whether everything that it was told is dealt with."""
        return not self._is_looking and not self._wake_up.is_pending

    def note_record(self, live: LiveOrder) -> None:
        """Called after each record, and for each order that comes in hand."""
        order, request = live.order, live.order.request
        if not isinstance(request, OrderRequest) or request.account_id != self._connection.account_id:
            return
        is_moved = has_moved(order)
        if is_moved:
            self._moves += 1
        was_counted = order.order_id in self._exits
        if is_measured(order):
            self._note_exit(live, was_counted=was_counted)
        if is_moved and not (was_counted and self._is_as_counted(order)):
            self._note_move(order)

    def _note_exit(self, live: LiveOrder, *, was_counted: bool) -> None:
        order = live.order
        if order.status.is_final:
            self._exits.pop(order.order_id, None)
            self._due.pop(order.order_id, None)
        else:
            self._exits[order.order_id] = live
        if (order.status in AT_WORK and not was_counted) or (was_in_excess(order) and order.fills):
            self._due[order.order_id] = live
        if order.order_id in self._due:
            self._wake_up.tell()

    @staticmethod
    def _is_as_counted(order: Order) -> bool:
        """Whether what it has filled was counted as at work when others were measured; what is asked to end was counted no more."""
        return (
            order.quantity is not None
            and order.filled_quantity <= order.quantity
            and not order.busted_fill_ids
            and order.cancel_request is None
        )

    def _note_move(self, order: Order) -> None:
        side, is_annulled = order.accepted_request.side, bool(order.busted_fill_ids)
        for live in self._exits.values():
            is_shrinking = is_annulled or live.order.accepted_request.side is side
            if is_shrinking and live.order is not order and may_be_of_one_contract(live.order, order):
                self._due[live.order.order_id] = live
                self._wake_up.tell()

    # --- life ---------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """All is looked at again."""
        self._exits.clear()
        self._due.clear()

    async def run(self) -> None:
        """Until cancelled."""
        with self._live.telling(self.note_record):
            self._wake_up.tell()
            wait: float | None = None
            while True:
                await self._wake_up.wait(wait)
                self._is_looking = True
                try:
                    wait = await self._turn()
                except StoreUnavailable as exc:
                    log.warning(f"Exits at work wait for the store: {exc}", action="exits_at_work_wait")
                    wait = 1.0
                self._is_looking = wait is not None

    async def _turn(self) -> float | None:
        """Looks at all that are due; the seconds until the next look, None: only when there is news."""
        if self._due and not self._ownership.holds(self._connection.account_id):
            return 1.0
        wait: float | None = None
        for order_id, live in tuple(self._due.items()):
            if live.order.status in AT_WORK or was_in_excess(live.order):
                try:
                    is_done = await self._look(live)
                except StoreUnavailable:
                    raise
                except Exception as exc:
                    # The others are looked at, and this one again when something moves.
                    log.exception(
                        f"Whether an exit at work takes too much cannot be told: {exc}",
                        action="exit_at_work_unknown",
                        signal_id=live.order.signal_id,
                    )
                    is_done = True
                if is_done:
                    self._due.pop(order_id, None)
                else:
                    wait = 0.0
        return wait

    # --- one exit -----------------------------------------------------------------------------------------------

    async def _look(self, live: LiveOrder) -> bool:
        """Whether it was: something may have filled while the records were read, and then what was read does not belong together. Raises
        StoreUnavailable."""
        moves, order = self._moves, live.order
        refs = order.accepted_request.entry_refs
        entries = await self._store.find([f"signal:{ref}" for ref in refs])
        stored = await self._store.find([f"exit_of:{ref}" for ref in refs])
        unread = self._store.unreadable([f"{kind}:{ref}" for kind in ("signal", "exit_of") for ref in refs])
        own = entries_of(order, map(self._live.latest, entries))
        by_position = await self._left_of_position(order, own)
        if moves != self._moves:
            return False
        order, left = live.order, None
        if not unread:
            exits = [self._live.latest(each) for each in stored]
            own = entries_of(order, map(self._live.latest, entries))
            left = left_of_entries(order, own, exits)
            if left is not None:
                await self._hold_to([each for each in takers_of(order, exits) if is_measured(each)], left)
        if by_position is not None:
            await self._hold_to(self._beside(order), by_position)
        measure = left or by_position
        if measure is not None:
            await self._say_opened(live, measure)
        return True

    async def _hold_to(self, exits: Sequence[Order], left: Left) -> None:
        """Cancels those that may take more."""
        for each in excess_exits(exits, left):
            other = self._live.by_id.get(each.order.order_id)
            if other is not None and other.order.cancel_request is None:
                log.warning(
                    f"Exit at work is cancelled: {each.why}",
                    action="exit_in_excess",
                    signal_id=each.order.signal_id,
                    order_id=each.order.order_id,
                )
                await self._conversation.cancel(other, Reason(ReasonCode.REDUCE_ONLY, each.why), REQUESTED_BY)

    async def _say_opened(self, live: LiveOrder, left: Left) -> None:
        """Where it took more than there was before its cancel took effect."""
        words = opened_by_exits(live.order, left)
        if words is not None:

            def note(order: Order) -> Sequence[Event]:
                return () if was_noted(order, words) else (Noted(at=self._clock.now(), message=words, alert=True),)

            if live.order.order_id not in self._live.by_id:  # all of it has been told meanwhile
                (stored,) = await self._store.load([live.order.order_id])
                live = self._live.by_id.get(live.order.order_id) or self._live.adopt(stored)
            await self._live.record(live, note)

    def _beside(self, order: Order) -> list[Order]:
        """The exits at work, itself among them, that take of the same holding."""
        key, side, product = booked_to(order), order.accepted_request.side, self._product(order)
        return [
            live.order
            for live in self._exits.values()
            if live.order.accepted_request.side is side
            and booked_to(live.order) == key
            and self._product(live.order) == product
        ]

    def _product(self, order: Order) -> str | None:
        return product_of(order, self._conversation.products_of(order.accepted_request.instrument))

    async def _left_of_position(self, order: Order, own: Sequence[Order]) -> Left | None:
        """By what its strategy holds; None: that is not known, or does not limit it. Of an exit that names entries of ours it does where these are
        all that the strategy has opened: who holds the other side too, by entries of its own, is measured by entries alone, as before it was sent."""
        key, instrument = booked_to(order), order.accepted_request.instrument
        if key is None or (not own and self._mode is ExitPositionCheck.OFF):
            return None
        if any(booked_to(entry) != key or self._product(entry) != self._product(order) for entry in own):
            return None
        booked = await entry_with_unbooked(self._live, self._store, key, instrument)
        if booked is None:
            return None
        position, side = booked.position, order.accepted_request.side
        held = held_in(booked, self._product(order), self._conversation.products_of(instrument)) * -side.sign
        if sum((each.remaining_quantity for each in self._beside(order)), ZERO) <= held:
            return None
        if not own and held <= 0 and not self._has_ended_under(order, position):
            return None  # it takes of what our books never held
        is_limited = (not own and held > 0) or not await self._has_opened_other_side(order, position)
        return left_of_position(held) if is_limited else None

    @staticmethod
    def _has_ended_under(order: Order, position: Position) -> bool:
        """Whether what the strategy held was closed after the exit had left."""
        ended = position.opened_at if position.is_open else position.closed_at
        return ended is not None and order.submitted_at is not None and ended >= order.submitted_at

    async def _has_opened_other_side(self, order: Order, position: Position) -> bool:
        """Whether an entry on the exit's side is among the orders of the position, or may be."""
        if position.order_count != len(position.order_ids):
            return True
        stored = await self._store.find([f"broker:{shown}" for shown in position.order_ids])
        found = [self._live.latest(each) for each in [*stored, *await self._store.load(position.order_ids)]]
        key = booked_to(order)
        own = [each for each in found if isinstance(each.request, OrderRequest) and booked_to(each) == key]
        known = {name for each in own for name in (each.order_id, each.broker_order_id)}
        return not known.issuperset(position.order_ids) or any(
            each.identity.purpose is Purpose.ENTRY and each.adoption is None and each.request.side is order.request.side
            for each in own
        )
