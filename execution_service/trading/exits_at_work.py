"""Exits of one account that work at the broker while what they close becomes smaller: when they are looked at, and that those which may take too much
are cancelled, and those which took too much are told of; which these are is decided in core/orders/exits_at_work.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import structlog

from brokers.base import Instrument
from execution_service.core import backoff
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import may_be_of_one_contract
from execution_service.core.orders.events import Event, Noted
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.exits import entries_of, takers_of
from execution_service.core.orders.exits_at_work import (
    OPENED,
    Left,
    excess_exits,
    is_measured,
    is_own_exit,
    is_told,
    left_of_entries,
    left_of_position,
    taken_beyond,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import product_of
from execution_service.core.orders.report_events import was_noted
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import AT_WORK, Reason, ReasonCode
from execution_service.core.positions.position import Position
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import exits_not_measured
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.trading.connection import Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.holdings import booked_to, entry_with_unbooked, half_recorded, has_moved, held_in

log = structlog.get_logger(__name__)

REQUESTED_BY = "execution-service"
FAILURES_UNTIL_ALERT = 3
"""Looks at one exit in succession that have failed, before people are alerted: what mends itself is told to nobody."""


class NotMeasured(Exception):
    """What an exit may still take is not known now. The message says why."""


@dataclass(slots=True)
class _Trouble:
    """Of an exit that could not be measured."""

    failures: int = 0
    """In succession."""
    not_before: float = 0.0
    """By the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _Share:
    """Exits that take of the same, and what is left to them."""

    exits: Sequence[Order]
    left: Left
    held: Decimal | None
    """What the strategy holds on the side that they close; None: not known."""
    counted: Sequence[Order] = ()
    """The orders that it is counted from, adoptions among them."""
    is_of_position: bool = False

    @property
    def is_exceeded(self) -> bool:
        """Whether they have taken more than there was, or those at work may."""
        at_work = [each for each in self.exits if is_measured(each)]
        return self.left.quantity < 0 or bool(excess_exits(at_work, self.left))


@dataclass(slots=True)
class _Measured:
    """What was found at one look."""

    shares: list[_Share] = field(default_factory=list)
    unknown: str = ""
    """Why not all of it could be; empty: it could."""


class Conversation(Protocol):
    """The account's trader, as far as exits at work need it."""

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        """Records the wish; the broker is asked next."""

    def products_of(self, instrument: Instrument) -> Sequence[str]: ...

    @property
    def exits_in_turn(self) -> asyncio.Lock:
        """While it is held, no exit is between its last look and its sending, and nothing is adopted."""


class ExitsAtWork:
    """Looks at an exit when something else has moved what it closes, when it has filled what others were not measured with, and once when it comes
    in hand and is at work or has filled already. What it does follows from the records alone, so that a death in between changes nothing. One that
    cannot be measured is looked at again, with growing pauses."""

    def __init__(
        self,
        *,
        connection: Connection,
        conversation: Conversation,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        ownership: Ownership,
        grouped_alerts: GroupedAlerts,
        mode: ExitPositionCheck,
    ) -> None:
        """`mode`: with OFF an exit whose entry is none of ours is measured by nothing, as before it is sent."""
        self._connection = connection
        self._conversation = conversation
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._ownership = ownership
        self._grouped_alerts = grouped_alerts
        self._mode = mode
        self._wake_up = WakeUp(clock)
        self._is_looking = False
        self._exits: dict[str, LiveOrder] = {}
        """By our id, exits that have not ended."""
        self._due: dict[str, LiveOrder] = {}
        """By our id, those that are to be looked at."""
        self._troubles: dict[str, _Trouble] = {}
        """By our id, those of them that could not be measured."""
        self._filled: WeakKeyDictionary[LiveOrder, tuple[int, int]] = WeakKeyDictionary()
        """How many fills, and how many annulled ones, each order had when it was last seen."""
        self._has_asked_held = False
        """Whether what is held was asked for those exits that opened it."""
        self._only_for_a_look: set[str] = set()
        """Our ids of settled orders that are in hand since they were taken for a look."""
        self._moves = 0
        """Counts what has filled, or was annulled, in the account."""

    @property
    def has_settled(self) -> bool:
        """Whether everything that it was told is dealt with."""
        return not self._is_looking and not self._wake_up.is_pending

    def note_record(self, live: LiveOrder) -> None:
        """Called after each record, and for each order that comes in hand."""
        order, request = live.order, live.order.request
        if not isinstance(request, OrderRequest) or request.account_id != self._connection.account_id:
            return
        filled = (len(order.fills), len(order.busted_fill_ids))
        is_moved = has_moved(order) and self._filled.get(live) != filled
        if is_moved:
            self._filled[live] = filled
            self._moves += 1
        was_counted = order.order_id in self._exits
        is_counted = was_counted and self._is_as_counted(order)
        if is_measured(order):
            self._note_exit(live, was_counted=was_counted)
        if is_moved and not is_counted:
            if is_own_exit(order):
                self._due[order.order_id] = live
            self._note_move(order)
        if order.order_id in self._due:
            self._wake_up.tell()

    def _note_exit(self, live: LiveOrder, *, was_counted: bool) -> None:
        order = live.order
        if order.status.is_final:
            self._exits.pop(order.order_id, None)
        else:
            self._exits[order.order_id] = live
        if order.status in AT_WORK and not was_counted:
            self._due[order.order_id] = live

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
        self._troubles.clear()
        self._filled.clear()
        self._has_asked_held = False

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
        """Looks at all that are due; the seconds until the next look, None: only when there is news. Raises StoreUnavailable."""
        if self._has_asked_held and not self._due:
            return None
        if not self._ownership.holds(self._connection.account_id):
            return 1.0
        if not self._has_asked_held:
            await self._take_openers()
            self._has_asked_held = True
        waits: list[float] = []
        for order_id, live in tuple(self._due.items()):
            order, trouble = live.order, self._troubles.get(order_id)
            if live.is_let_go or (order.status.is_final and not has_moved(order)):
                self._forget(order_id)
                continue
            if order.status not in AT_WORK and not has_moved(order):
                continue  # it has not left, and is looked at when it has
            seconds = 0.0 if trouble is None else trouble.not_before - self._clock.monotonic()
            if seconds > 0:
                waits.append(seconds)
                continue
            try:
                is_done = await self._look(live)
            except StoreUnavailable:
                raise
            except Exception as exc:  # noqa: BLE001  the others are looked at, and this one again
                waits.append(self._failed(live, exc))
                continue
            if is_done:
                self._forget(order_id)
            else:
                waits.append(0.0)
        return min(waits, default=None)

    async def _take_openers(self) -> None:
        """In hand, exits that opened what is held now, where an earlier life has ended before it said so. Raises StoreUnavailable."""
        held = [e.position for e in await self._store.ledgers_of_account(self._connection.account_id, ())]
        names = [each.order_ids[0] for each in held if each.is_open and each.order_count == len(each.order_ids)]
        found = [*await self._store.load(names), *await self._store.find([f"broker:{name}" for name in names])]
        for stored in found:
            order = self._live.latest(stored)
            account_id = order.request.account_id
            if is_own_exit(order) and account_id == self._connection.account_id and not is_told(order):
                if order.order_id not in self._live.by_id:
                    self._only_for_a_look.add(order.order_id)
                self._live.adopt(stored)
                if order.order_id not in self._due:
                    self._forget(order.order_id)

    def _forget(self, order_id: str) -> None:
        self._due.pop(order_id, None)
        self._troubles.pop(order_id, None)
        live = self._live.by_id.get(order_id)
        if order_id in self._only_for_a_look and live is not None and not Stored(live.order, live.told).is_unsettled:
            self._live.forget(live)  # whatever is still to be told of it, delivery lets go of
        self._only_for_a_look.discard(order_id)

    def _failed(self, live: LiveOrder, why: Exception) -> float:
        """The seconds until it is looked at again. People are alerted once, until it has been measured."""
        trouble = self._troubles.setdefault(live.order.order_id, _Trouble())
        trouble.failures += 1
        pause = backoff.DEFAULT_BACKOFF.pause_seconds(trouble.failures)
        trouble.not_before = self._clock.monotonic() + pause
        reason = str(why) if isinstance(why, NotMeasured) else f"{type(why).__name__}: {why}"
        log.warning(
            f"Whether an exit takes too much cannot be told, it is looked at again in {pause:g} s: {reason}",
            action="exit_not_measured",
            signal_id=live.order.signal_id,
            exc_info=None if isinstance(why, NotMeasured) else why,
        )
        if trouble.failures == FAILURES_UNTIL_ALERT:
            words = partial(exits_not_measured, account_name=self._connection.account_name)
            self._grouped_alerts.mention("exit_not_measured", MentionedOrder(live.order, None, reason), words)
        return pause

    # --- one exit -----------------------------------------------------------------------------------------------

    async def _look(self, live: LiveOrder) -> bool:
        """Whether it was: something may have filled while the records were read, and then what was read does not belong together. What something
        follows from is read once more where no adoption is between its records and no exit is just leaving. Raises StoreUnavailable, NotMeasured."""
        measured = await self._measure(live)
        if measured is not None and any(share.is_exceeded for share in measured.shares):
            async with self._conversation.exits_in_turn:
                measured = await self._measure(live)
                if measured is not None:
                    await self._conclude(measured)
        if measured is not None and measured.unknown:
            raise NotMeasured(measured.unknown)
        return measured is not None

    async def _measure(self, live: LiveOrder) -> _Measured | None:
        """None: something has filled meanwhile. Raises StoreUnavailable."""
        moves, order, found = self._moves, live.order, _Measured()
        refs = order.accepted_request.entry_refs
        entries = await self._store.find([f"signal:{ref}" for ref in refs])
        stored = await self._store.find([f"exit_of:{ref}" for ref in refs])
        unread = self._store.unreadable([f"{kind}:{ref}" for kind in ("signal", "exit_of") for ref in refs])
        own = entries_of(order, map(self._live.latest, entries))
        held = await self._of_position(order, own, found)
        if moves != self._moves:
            return None
        order = live.order
        if unread:
            found.unknown = f"a record cannot be read: {'; '.join(unread)}"
        else:
            exits = takers_of(order, map(self._live.latest, stored))
            own = entries_of(order, map(self._live.latest, entries))
            left = left_of_entries(order, own, exits)
            if left is not None:
                found.shares.insert(0, _Share(exits, left, held, (*own, *exits)))
        return found

    async def _conclude(self, measured: _Measured) -> None:
        """Cancels what may take more than is left, and says what has. Raises StoreUnavailable, NotMeasured."""
        exceeded = [share for share in measured.shares if share.is_exceeded]
        for share in exceeded:
            name = await half_recorded(self._live, self._store, share.counted)
            if name is not None:
                raise NotMeasured(f"{name} is recorded in part only")
            await self._hold_to([each for each in share.exits if is_measured(each)], share.left)
        beyond = next((share for share in exceeded if share.left.quantity < 0), None)  # one message about it
        if beyond is not None:
            said = taken_beyond([self._latest(each) for each in beyond.exits], beyond.left, beyond.held)
            if said is not None:
                last, words = said
                for other in beyond.exits if beyond.is_of_position else ():
                    if other.order_id != last.order_id and other.fills and not is_told(other):
                        # By the ledger it may be this one that has opened the position: then it is known to be told.
                        await self._note(
                            other, f"{OPENED} together with {last.signal_id}, which people were told of", alert=False
                        )
                await self._note(last, words, alert=True)

    def _latest(self, order: Order) -> Order:
        live = self._live.by_id.get(order.order_id)
        return order if live is None or live.order.version < order.version else live.order

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

    async def _note(self, order: Order, words: str, *, alert: bool) -> None:
        """In its record, once; an alert tells people."""

        def note(now: Order) -> Sequence[Event]:
            return () if was_noted(now, words) else (Noted(at=self._clock.now(), message=words, alert=alert),)

        live = self._live.by_id.get(order.order_id)
        if live is None:  # all of it has been told meanwhile
            (stored,) = await self._store.load([order.order_id])
            if was_noted(stored.order, words):
                return
            live = self._live.by_id.get(order.order_id) or self._live.adopt(stored)
        await self._live.record(live, note)

    def _beside(self, order: Order) -> list[Order]:
        """The exits at work, itself among them, that take of the same holding."""
        return [live.order for live in self._exits.values() if self._takes_beside(live.order, order)]

    def _takes_beside(self, exit_order: Order, order: Order) -> bool:
        return (
            is_own_exit(exit_order)
            and exit_order.accepted_request.side is order.accepted_request.side
            and booked_to(exit_order) == booked_to(order)
            and self._product(exit_order) == self._product(order)
        )

    def _product(self, order: Order) -> str | None:
        return product_of(order, self._conversation.products_of(order.accepted_request.instrument))

    async def _of_position(self, order: Order, own: Sequence[Order], found: _Measured) -> Decimal | None:
        """What its strategy holds on the side that the exit closes, None where that is not known; to `found` what follows from it, where it limits
        the exit. Of an exit that names entries of ours it does where these are all that the strategy has opened: who holds the other side too, by
        entries of its own, is measured by entries alone, as before it was sent."""
        key, instrument = booked_to(order), order.accepted_request.instrument
        if not own and self._mode is ExitPositionCheck.OFF:
            return None
        booked = None if key is None else await entry_with_unbooked(self._live, self._store, key, instrument)
        if key is None or booked is None:
            found.unknown = "what its strategy holds cannot be worked out"
            return None
        position, side = booked.position, order.accepted_request.side
        held = held_in(booked, self._product(order), self._conversation.products_of(instrument)) * -side.sign
        if any(booked_to(entry) != key or self._product(entry) != self._product(order) for entry in own):
            return None
        beside = self._beside(order)
        if sum((each.remaining_quantity for each in beside), ZERO) <= held:
            return held
        if not own and held <= 0 and not self._has_ended_under(order, position):
            return held  # it takes of what our books never held
        orders = await self._orders_of(order, position)
        if (not own and held > 0) or not self._has_opened_other_side(order, position, orders):
            in_hand = [live.order for live in self._live.by_id.values() if isinstance(live.order.request, OrderRequest)]
            takers = [each for each in (*orders, *in_hand) if each.fills and self._takes_beside(each, order)]
            shared = {each.order_id: each for each in (*takers, *beside)}
            found.shares.append(
                _Share(list(shared.values()), left_of_position(held), held, orders, is_of_position=True)
            )
        return held

    @staticmethod
    def _has_ended_under(order: Order, position: Position) -> bool:
        """Whether what the strategy held was closed after the exit had left; it has held nothing before its first position."""
        ended = position.opened_at if position.is_open and position.episode > 1 else position.closed_at
        return ended is not None and order.submitted_at is not None and ended >= order.submitted_at

    async def _orders_of(self, order: Order, position: Position) -> list[Order]:
        """Of the latest orders of the position those that are booked where this one is. Raises StoreUnavailable."""
        stored = await self._store.find([f"broker:{shown}" for shown in position.order_ids])
        found = [self._live.latest(each) for each in [*stored, *await self._store.load(position.order_ids)]]
        key = booked_to(order)
        own = [each for each in found if isinstance(each.request, OrderRequest) and booked_to(each) == key]
        return list({each.order_id: each for each in own}.values())

    @staticmethod
    def _has_opened_other_side(order: Order, position: Position, orders: Sequence[Order]) -> bool:
        """Whether an entry on the exit's side is among the orders of the position, or may be."""
        known = {name for each in orders for name in (each.order_id, each.broker_order_id)}
        return (
            position.order_count != len(position.order_ids)
            or not known.issuperset(position.order_ids)
            or any(
                each.identity.purpose is Purpose.ENTRY
                and each.adoption is None
                and each.request.side is order.request.side
                for each in orders
            )
        )
