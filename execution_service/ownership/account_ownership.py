"""The ownership of a process that shares its store with others: takes partitions over by leases, notices what others left for them, lets them
go; not what is done with an order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, Protocol

import structlog

from execution_service.core.orders.order import Order
from execution_service.core.texts.service import take_over
from execution_service.ownership.leases import Leases, Predecessor, Self
from execution_service.ownership.ownership import UNASSIGNED, Work, say_recovered
from execution_service.ownership.processes import Processes
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper, Part
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.leases import Lease
from execution_service.storage.ports.orders import Stored, Unsettled
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
SWEEP_SECONDS = 10.0
SWEEP_SHARE = 20
"""A sweep is followed by a pause of so many times what it took."""
READ_AT_ONCE = 200
AFTER_FAILURE_SECONDS = 1.0
RELEASE_SECONDS = 2.0


class KnownAccounts(Protocol):
    """The accounts that this process could work."""

    @property
    def named(self) -> Collection[str]:
        """Those that are contended for from the start."""

    def is_known(self, account_id: str) -> bool: ...


class AccountOwnership:
    """An order is in hand only where its partition is open; a partition is open only where its lease is held."""

    has_others = True

    def __init__(
        self,
        *,
        store: Store,
        live_orders: LiveOrders,
        clock: Clock,
        me: Self,
        term_seconds: float,
        accounts: KnownAccounts,
        processes: Processes | None = None,
    ) -> None:
        """`term_seconds`: the term of a lease. Without `processes` nobody is ever proven dead."""
        self._store = store
        self._live = live_orders
        self._clock = clock
        self._is_known_account = accounts.is_known
        self._work: Work
        self._seen_to_move: dict[str, tuple[object, float]] = {}
        """By partition: the mark of its lease when that was last seen to move, and when that was."""
        self._open: set[str] = set()
        self._moves: dict[str, asyncio.Task[None]] = {}
        """The last opening or closing of a partition: each waits for the one before."""
        self._leases = Leases(
            store=store,
            clock=clock,
            me=me,
            term_seconds=term_seconds,
            holder=self,
            processes=processes,
        )
        self._leases.want([UNASSIGNED, *accounts.named])

    # --- questions ----------------------------------------------------------------------------------------------

    def partition_of(self, account_id: str | None) -> str:
        return account_id if account_id is not None and self._is_known_account(account_id) else UNASSIGNED

    def holds(self, partition: str) -> bool:
        """Whether this process holds it, for certain, at this moment."""
        return partition in self._open and self._leases.holds(partition)

    def is_ours(self, account_id: str | None) -> bool:
        return self.holds(self.partition_of(account_id))

    def elsewhere(self, order: Order) -> str | None:
        """The partition of an order that is not ours to work; None if it is. One that nobody holds is contended for from now on."""
        partition = self.partition_of(order.request.account_id)
        if self.holds(partition):
            return None
        self._leases.want([partition])
        return partition

    def is_worked_elsewhere(self, account_id: str) -> bool:
        """A known account that another process works, or nobody yet: then it is contended for from now on."""
        if not self._is_known_account(account_id) or self.holds(account_id):
            return False
        self._leases.want([account_id])
        return True

    def belongs_elsewhere(self, account_id: str) -> bool:
        """As `is_worked_elsewhere`, also for an account that is not configured."""
        partition = self.partition_of(account_id)
        if self.holds(partition):
            return False
        self._leases.want([partition])
        return True

    async def held_by_the_living(self) -> set[str]:
        """Partitions whose lease has moved within its term: its holder's settings may know accounts that ours do not. Raises
        StoreUnavailable."""
        now, before = self._clock.monotonic(), self._seen_to_move
        held = [lease for lease in await self._store.leases() if lease.holder]
        self._seen_to_move = {
            lease.partition: known
            if (known := before.get(lease.partition, (None, now)))[0] == lease.mark
            else (lease.mark, now)
            for lease in held
        }
        return {lease.partition for lease in held if now - self._seen_to_move[lease.partition][1] < lease.term_seconds}

    async def leave_to_holder(self, order: Order) -> None:
        """Leaves a mark for the holder, which its poll finds. Raises StoreUnavailable."""
        await self._store.leave({order.order_id: self.partition_of(order.request.account_id)})

    # --- life ---------------------------------------------------------------------------------------------------

    def serve(self, work: Work, alerts: RaisesAlerts, keeper: Keeper) -> None:
        """As `Ownership.serve`."""
        self._work, self._alerts, self._keeper = work, alerts, keeper

    async def take_up(self) -> None:
        """Nothing to do: no partition is ours before its lease is."""

    async def start(self) -> None:
        """Takes what is free, and returns when that is open. Raises StoreUnavailable; may then be called again."""
        self._work.begin()
        self._want_all(await self._store.unsettled())
        await self._leases.renew()
        await asyncio.gather(*self._moves.values())

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process. Each is begun anew by itself: whatever a look at others' records meets, leases are renewed."""
        looks = Part("records left by others", self._poll_for_ever), Part("unsettled records", self._sweep_for_ever)
        return *self._leases.parts(), *looks

    def take_no_more(self) -> None:
        """Takes and opens no further partition; keeps those that are open."""
        self._leases.is_leaving = True

    async def end(self) -> None:
        """Gives the leases back, for others to take at once; whoever worked the partitions has ended by now."""
        for move in self._moves.values():
            move.cancel()
        await asyncio.gather(*self._moves.values(), return_exceptions=True)
        self._open.clear()
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._leases.release_all()
        except (StoreUnavailable, TimeoutError) as exc:
            log.warning(f"Leases not given back, they run out by themselves: {exc}", action="leases_not_released")

    async def give_back(self, partition: str) -> None:
        """Gives the lease back; whoever gets an order for it takes it again."""
        self._open.discard(partition)
        self._work.let_go(partition)

        async def close() -> None:
            await self._work.close(partition)
            with contextlib.suppress(StoreUnavailable):
                await self._leases.release(partition)
                if await self._store.left_for([partition]):
                    self._leases.want([partition])  # one came in the meantime

        self._move(partition, close)

    # --- taking over and letting go -----------------------------------------------------------------------------

    def is_wanted(self, lease: Lease) -> bool:
        return lease.partition == UNASSIGNED or self._is_known_account(lease.partition)

    def taken(self, lease: Lease, before: Predecessor | None) -> None:
        # Else a lease that is renewed for ever would keep everybody else from an account that nobody works.
        account_id = None if lease.partition == UNASSIGNED else lease.partition
        opening = Part(f"opening of {lease.partition}", lambda: self._begin(lease, before), account_id)
        self._move(lease.partition, lambda: self._keeper.see_through(opening))

    def lost(self, partition: str) -> None:
        self._open.discard(partition)
        self._work.let_go(partition)
        self._move(partition, lambda: self._work.close(partition))

    def _move(self, partition: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        before = self._moves.get(partition)

        async def move() -> None:
            if before is not None:
                await asyncio.wait({before})
            await work()

        task = self._moves[partition] = asyncio.create_task(move(), name=f"partition-{partition}")
        task.add_done_callback(lambda done: self._moved(partition, done))

    def _moved(self, partition: str, task: asyncio.Task[None]) -> None:
        if self._moves.get(partition) is task:
            del self._moves[partition]
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error(f"{partition}: could not be taken over or closed: {exc}", action="partition_failed", exc_info=exc)

    async def _begin(self, lease: Lease, before: Predecessor | None) -> None:
        """Reads what the partition has, and opens it with that."""
        partition = lease.partition
        while self._leases.has(lease) and partition not in self._open:
            with contextlib.suppress(StoreUnavailable):
                found = await self._read_partition(partition)
                if self._leases.has(lease) and not self._leases.is_leaving:
                    self._open.add(partition)
                    try:
                        taken_up = [stored for stored in found if stored.is_unsettled]
                        self._work.open(partition, taken_up)
                        say_recovered(taken_up)
                    except BaseException:
                        self._open.discard(partition)  # opened in part: the next try opens it whole
                        raise
                break
            await self._clock.sleep(AFTER_FAILURE_SECONDS)
        if before is not None:
            held = before.lease
            words = take_over(account=partition, host=held.host, pid=held.pid, has_died=before.has_died)
            await self._alerts.raise_alert("take_over", words)

    # --- what others wrote --------------------------------------------------------------------------------------

    async def _poll_for_ever(self) -> None:
        while True:
            await self._clock.sleep(POLL_SECONDS)
            try:
                await self._poll()
            except StoreUnavailable as exc:
                log.debug(f"Orders left by others wait for the store: {exc}", action="poll_waiting")

    async def _poll(self) -> None:
        """What was left for us, by a process that took an order or a command in and does not hold its partition."""
        partitions = sorted(self._open)
        left = await self._store.left_for(partitions) if partitions else []
        for start in range(0, len(left), READ_AT_ONCE):
            await self._pick_up(left[start : start + READ_AT_ONCE], partitions)

    async def _pick_up(self, left: Sequence[Unsettled], partitions: Sequence[str]) -> None:
        elsewhere = {}
        for stored in await self._read(left):
            partition = self.partition_of(stored.order.request.account_id)
            if partition not in partitions:
                elsewhere[stored.order.order_id] = partition  # whoever left it knows other accounts than we do
            await self._look_at(stored, was_left=True)
        if elsewhere:
            self._leases.want(elsewhere.values())
            await self._store.leave(elsewhere)
        await self._store.picked_up(left, partitions)

    async def _sweep_for_ever(self) -> None:
        """Compares all unsettled records with those in hand, now and then: a mark is lost with a process that dies before it leaves it."""
        took = 0.0
        while True:
            await self._clock.sleep(max(SWEEP_SECONDS, SWEEP_SHARE * took))
            began = self._clock.monotonic()
            try:
                await self._sweep()
            except StoreUnavailable as exc:
                log.debug(f"The look at unsettled orders waits for the store: {exc}", action="sweep_waiting")
            took = self._clock.monotonic() - began

    async def _sweep(self) -> None:
        unsettled = await self._store.unsettled()
        self._want_all(unsettled)
        behind = [u for u in unsettled if self._is_at(u, self._open) and self._is_news(u)]
        for stored in await self._read(
            behind
        ):  # also those that could not be read before: somebody may have mended them
            await self._look_at(stored)

    def _want_all(self, unsettled: Iterable[Unsettled]) -> None:
        self._leases.want({self.partition_of(u.account_id) for u in unsettled})

    def _is_at(self, unsettled: Unsettled, partitions: set[str]) -> bool:
        return self.partition_of(unsettled.account_id) in partitions

    def _is_news(self, unsettled: Unsettled) -> bool:
        if self._work.has_taken(unsettled.order_id, unsettled.version):
            return False
        live = self._live.by_id.get(unsettled.order_id)
        return live is None or live.order.version < unsettled.version

    async def _read_partition(self, partition: str) -> Sequence[Stored]:
        """Its unsettled records, oldest first. An account's are asked for whole; what belongs to none is sought in brief among all there are."""
        if partition != UNASSIGNED:
            return await self._store.open_orders(partition)
        return await self._read([u for u in await self._store.unsettled() if self._is_at(u, {partition})])

    async def _read(self, unsettled: Sequence[Unsettled]) -> list[Stored]:
        """The records whole, oldest first."""
        found: list[Stored] = []
        for start in range(0, len(unsettled), READ_AT_ONCE):
            found += await self._store.load([u.order_id for u in unsettled[start : start + READ_AT_ONCE]])
        return sorted(found, key=lambda s: (s.order.received_at, s.order.order_id))

    async def _look_at(self, stored: Stored, *, was_left: bool = False) -> None:
        """`was_left`: another process left a mark. It counts although the record is the same: a repeated cancel changes nothing there."""
        live = self._live.by_id.get(stored.order.order_id)
        if live is not None:
            is_news = await self._live.catch_up(live, stored)
            if was_left:
                live.take_news()
            if is_news or was_left:
                self._work.look_again(live)
        elif self.holds(self.partition_of(stored.order.request.account_id)) and stored.is_unsettled:
            self._work.take(stored)
