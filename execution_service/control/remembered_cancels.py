"""Which cancels hold for orders that have not come yet, or have not been sent; answers what is asked about cancels, and carries none out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from execution_service.control.requests import read_cancel
from execution_service.core.orders.cancel import Cancel, names_of
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.commands import CommandStatus
from execution_service.storage.ports.store import Store

NONE_MET: Mapping[Purpose, datetime] = MappingProxyType({})
FORGOTTEN_AFTER_SECONDS = 24 * 3600.0
"""How long a cancel is remembered for orders that have not come, where no order is ever too old."""
REMEMBERED_SECONDS = 600.0
"""The least otherwise: after an outage messages come in any sequence, and an exit is executed however old it is."""
KNOWN_BEFORE = datetime.min.replace(tzinfo=UTC)
"""When an order was received that was known when a cancel was carried out: before whatever comes after that, by whichever clock."""


@dataclass(slots=True)
class _Remembered:
    """A cancel that also holds for orders which have not come yet."""

    cancel: Cancel
    until: float
    """Forgotten then (monotonic)."""
    holds_until: datetime
    """It means no order that was published later. By the times of Pub/Sub or, where that is later, of whoever stored the command: no
    process's own clock shortens it."""
    met: dict[Purpose, datetime]
    """Of the orders that were known by its name: when the first of each purpose was received."""

    def stops(self, order: Order) -> bool:
        """One that names a whole signal stops what was published before it. One that names an order by its own id stops that order whichever
        was published first. But some senders give an exit its entry's id: where the other of the two came before, only the time can tell."""
        purpose = order.identity.purpose
        if not self.cancel.names(order) or order.published_at > self.holds_until:
            return False
        others = [_sequence(at, of) for of, at in self.met.items() if of is not purpose]
        names_it_alone = self.cancel.order_id is not None and not any(
            other < _sequence(order.received_at, purpose) for other in others
        )
        return names_it_alone or not self.cancel.was_published_before(order)

    def meets(self, purpose: Purpose, received_at: datetime) -> None:
        self.met[purpose] = min(received_at, self.met.get(purpose, received_at))


class RememberedCancels:
    """The answers to `recording.cancels.Cancels`: from memory, and, where other processes share the store, from there."""

    def __init__(
        self,
        *,
        store: Store,
        live_orders: LiveOrders,
        clock: Clock,
        ownership: Ownership,
        commands_wake: WakeUp,
        max_order_age_seconds: float,
    ) -> None:
        """`commands_wake` wakes whoever carries out the commands that are stored."""
        self._store = store
        self._live = live_orders
        self._clock = clock
        self._ownership = ownership
        self._commands_wake = commands_wake
        self._lifetime = timedelta(
            seconds=max(max_order_age_seconds, REMEMBERED_SECONDS) if max_order_age_seconds else FORGOTTEN_AFTER_SECONDS
        )
        self._active: dict[str, _Remembered] = {}
        self._by_name: dict[str, dict[str, None]] = {}
        """The ids of the remembered commands that name an order or a signal so."""

    # --- questions ----------------------------------------------------------------------------------------------

    async def named_by_cancels(self, orders: Sequence[Order]) -> Set[str]:
        """Whatever was stored before this call, by whichever process and with whichever clock, is known when it returns: the store is asked
        by the orders' names, and so reads nothing about other orders, however many commands there are. It is not asked where this process
        is alone with it: then only `execctl` stores commands past us, and those are looked for each second."""
        if not self._ownership.has_others:
            return frozenset()
        named: set[str] = set()
        for command in await self._store.cancels_naming(sorted({name for order in orders for name in names_of(order)})):
            cancel = read_cancel(command)
            if cancel is None:
                continue
            if command.status is CommandStatus.NEW:
                named |= {order.order_id for order in orders if cancel.names(order) and not cancel.spares(order)}
            elif command.command_id not in self._active and command.active_until is not None:
                self._remember(cancel, _first_received(await self.known(cancel)), is_found=True)
        if named:
            self._commands_wake.tell()
        return named

    def is_cancelled(self, order: Order) -> Reason | None:
        """The reason of a remembered cancel that this order is meant by."""
        self._forget_old()
        named = [command_id for name in names_of(order) for command_id in self._by_name.get(name, ())]
        for command_id in dict.fromkeys(named):
            remembered = self._active[command_id]
            if remembered.until >= self._clock.monotonic() and remembered.stops(order):
                remembered.meets(order.identity.purpose, order.received_at)
                return remembered.cancel.reason
        return None

    async def known(self, cancel: Cancel) -> list[Order]:
        """The orders that a cancel means of those that are recorded, as they are in hand where they are. Raises StoreUnavailable."""
        found = await self._store.find(cancel.lookup)
        if cancel.order_id is not None:
            found += await self._store.load([cancel.order_id])
        return cancel.meant_of([self._live.latest(stored) for stored in found])

    # --- memory -------------------------------------------------------------------------------------------------

    async def recall(self) -> None:
        """Remembers what an earlier life carried out and what still holds. Raises StoreUnavailable; may then be called again."""
        if self._ownership.has_others:
            return  # the store is asked for the cancels of each order before that is stored, and before it is sent
        for command in await self._store.commands(now=self._clock.now()):
            cancel = None if command.status is CommandStatus.NEW else read_cancel(command)
            if cancel is not None:
                # Learnt before it holds: an order of its name that comes meanwhile must find the same as ever.
                known = await self.known(cancel)
                self.remember(cancel, known)

    def remember(self, cancel: Cancel, known: Iterable[Order] = ()) -> None:
        """For orders that come later; `known` are those that it means of the orders that are known now. May be said again with more of them."""
        self._remember(cancel, {order.identity.purpose: KNOWN_BEFORE for order in known})

    def active_until(self, cancel: Cancel) -> datetime:
        """Until when it also holds for orders that have not come."""
        return _later_by(cancel.received_at, self._lifetime)

    def _remember(self, cancel: Cancel, met: Mapping[Purpose, datetime] = NONE_MET, *, is_found: bool = False) -> None:
        """`is_found`: it was looked up for the sake of an order that it names."""
        # From its receipt on: what was published before it may be delivered after it, however old both are.
        left = self._lifetime.total_seconds()
        if not is_found:
            left -= self._live.age_seconds(cancel.received_at)
        if left <= 0:
            return
        self._forget_old()
        known = self._active.get(cancel.command_id)
        if known is None:
            holds_until = _later_by(max(cancel.published_at, cancel.received_at), self._lifetime)
            known = _Remembered(cancel, self._clock.monotonic() + left, holds_until, {})
            self._active[cancel.command_id] = known
            self._by_name.setdefault(cancel.name, {})[cancel.command_id] = None
        for purpose, received_at in met.items():
            known.meets(purpose, received_at)

    def _forget_old(self) -> None:
        """They end in about the sequence in which they came; one that stands behind a later one is passed over meanwhile."""
        now = self._clock.monotonic()
        while self._active:
            command_id, oldest = next(iter(self._active.items()))
            if oldest.until >= now:
                return
            del self._active[command_id]
            name = oldest.cancel.name
            self._by_name[name].pop(command_id, None)
            if not self._by_name[name]:
                del self._by_name[name]


def _sequence(received_at: datetime, purpose: Purpose) -> tuple[datetime, bool]:
    """Of what came in the same moment, the entry came first."""
    return received_at, purpose is Purpose.EXIT


def _first_received(orders: Iterable[Order]) -> dict[Purpose, datetime]:
    first: dict[Purpose, datetime] = {}
    for order in orders:
        purpose = order.identity.purpose
        first[purpose] = min(order.received_at, first.get(purpose, order.received_at))
    return first


def _later_by(moment: datetime, span: timedelta) -> datetime:
    try:
        return moment + span
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
