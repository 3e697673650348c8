"""Which partitions this process holds, by leases that it renews in the store; not what is done at a partition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from execution_service.ownership.processes import Processes
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.leases import Lease, LeaseStore, ProcessIdentity

log = structlog.get_logger(__name__)

RENEWALS = 4
"""A lease is renewed so many times in its term."""
CERTAIN_PART = 0.75
"""The holder gives up after this part of the term without a renewal, so that it has stopped before anybody else may begin."""
LEAST_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Self:
    """This process as others see it. `holder` is of this life alone; host and pid are for people."""

    holder: str
    host: str
    pid: int
    process: ProcessIdentity | None = None
    """By which others may prove that it is dead."""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The process whose lease was taken over."""

    lease: Lease
    has_died: bool
    """Provably; else it was silent for its term."""


class Holder(Protocol):
    """Who works the partitions that are held."""

    def is_wanted(self, lease: Lease) -> bool:
        """Whether this process would work the partition of a lease that somebody has left."""

    def taken(self, lease: Lease, before: Predecessor | None) -> None:
        """The lease is held now; `before` held the one that it replaced, if anybody did."""

    def lost(self, partition: str) -> None:
        """It is not held any more, and its work ends at once."""


class Leases:
    """Takes, renews and gives back.

    No two machines' clocks are compared: a contender takes a lease over when that has not moved for its term by the contender's own monotonic clock,
    or at once when its holder is provably dead. Either way by compare-and-set on what it saw: of two contenders one has it.
    """

    def __init__(
        self,
        *,
        store: LeaseStore,
        clock: Clock,
        me: Self,
        term_seconds: float,
        holder: Holder,
        processes: Processes | None = None,
    ) -> None:
        """Without `processes` nobody is ever proven dead."""
        self._store = store
        self._clock = clock
        self._me = me
        self._term = term_seconds
        self._holder = holder
        self._processes = processes
        self._wanted: set[str] = set()
        self._held: dict[str, Lease] = {}
        self._renewed_at: dict[str, float] = {}
        """By the monotonic clock, before the write left: nobody can have begun to count later than that and be early."""
        self._seen: dict[str, tuple[Lease, float]] = {}
        self._wake_up = WakeUp(clock)
        self.is_leaving = False
        """Nothing is taken any more."""

    # --- questions ----------------------------------------------------------------------------------------------

    def has(self, lease: Lease) -> bool:
        """Whether the lease was not lost since it was taken."""
        return self._held.get(lease.partition) is lease

    def holds(self, partition: str) -> bool:
        """Whether it is held for certain at this moment: no other process can have taken it yet."""
        renewed_at = self._renewed_at.get(partition)
        return renewed_at is not None and self._clock.monotonic() < renewed_at + self._term * CERTAIN_PART

    def want(self, partitions: Iterable[str]) -> None:
        """There is work for these partitions: contends for them from now on, and takes at once those that nobody holds."""
        fresh = set(partitions) - self._wanted
        if fresh:
            self._wanted |= fresh
            self._wake_up.tell()

    # --- life ---------------------------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process. The watch is one of its own: it lets go in time, whatever becomes of the renewals."""
        return Part("leases", self.run), Part("lease watch", self._watch)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake_up.wait(self._pause())
            try:
                await self.renew()
            except StoreUnavailable as exc:
                log.warning(f"Leases wait for the store: {exc}", action="leases_waiting")

    async def renew(self) -> None:
        """Renews what is held, and takes what is wanted and free. Raises StoreUnavailable."""
        began = self._clock.monotonic()
        if self._held:
            await self._store.renew_leases(self._me.holder, list(self._held), self._clock.now())
        leases = {lease.partition: lease for lease in await self._store.leases()}
        for partition, mine in tuple(self._held.items()):
            found = leases.get(partition)
            if found is not None and (found.holder, found.epoch) == (mine.holder, mine.epoch):
                self._renewed_at[partition] = began
            else:
                who = "nobody" if found is None else f"{found.host} (process {found.pid})"
                self._lose(partition, f"it is held by {who} now")
        if self.is_leaving:
            return
        wanted = self._wanted | {
            lease.partition for lease in leases.values() if lease.holder and self._holder.is_wanted(lease)
        }
        for partition in sorted(wanted - self._held.keys()):
            found = leases.get(partition)
            if self._is_free(found):
                await self._take(partition, found)

    async def release_all(self) -> None:
        """Gives everything back, for others to take at once. Raises StoreUnavailable: then it runs out by itself."""
        await self._release(list(self._held))

    async def release(self, partition: str) -> None:
        """Gives this one back, until it is wanted again. Raises StoreUnavailable: then it runs out by itself."""
        await self._release([partition])

    async def _release(self, partitions: Sequence[str]) -> None:
        for partition in partitions:
            self._wanted.discard(partition)
            self._held.pop(partition, None)
            self._renewed_at.pop(partition, None)
        await self._store.release_leases(self._me.holder, partitions)

    # --- the parts ----------------------------------------------------------------------------------------------

    def _is_free(self, found: Lease | None) -> bool:
        """Given back, or our own (the answer to our taking was lost), or a dead process's, or still for the whole term by our own clock."""
        if found is None or found.holder in ("", self._me.holder) or self._has_died(found):
            return True
        now = self._clock.monotonic()
        seen = self._seen.get(found.partition)
        if seen is None or seen[0].mark != found.mark:
            self._seen[found.partition] = (found, now)
            if seen is None or (seen[0].holder, seen[0].epoch) != (found.holder, found.epoch):
                log.info(
                    f"{found.partition}: held by {found.host} (process {found.pid})",
                    action="lease_elsewhere",
                    account_id=found.partition,
                )
            return False
        return now - seen[1] >= found.term_seconds

    def _has_died(self, found: Lease) -> bool:
        """Provably. What was proven of this holder stays true: its name is of one life of one process."""
        return (
            self._processes is not None
            and found.process is not None
            and found.host == self._me.host
            and self._processes.is_gone(found.process)
        )

    async def _take(self, partition: str, found: Lease | None) -> None:
        began, now = self._clock.monotonic(), self._clock.now()
        lease = Lease(
            partition=partition,
            holder=self._me.holder,
            epoch=1 if found is None else found.epoch + 1,
            beat=0,
            term_seconds=self._term,
            host=self._me.host,
            pid=self._me.pid,
            taken_at=now,
            renewed_at=now,
            process=self._me.process,
        )
        if not await self._store.take_lease(lease, found):
            return
        self._seen.pop(partition, None)
        self._held[partition], self._renewed_at[partition] = lease, began
        before, words = None, "taken"
        if found is not None and found.holder not in ("", self._me.holder):
            before = Predecessor(found, self._has_died(found))
            why = "has died" if before.has_died else "is silent"
            words = f"taken over from {found.host} (process {found.pid}), which {why}"
        log.info(f"{partition}: {words}", action="lease_taken", account_id=partition, epoch=lease.epoch)
        self._holder.taken(lease, before)

    def _lose(self, partition: str, why: str) -> None:
        self._held.pop(partition, None)
        self._renewed_at.pop(partition, None)
        log.warning(f"{partition}: let go, {why}", action="lease_lost", account_id=partition)
        self._holder.lost(partition)

    async def _watch(self) -> None:
        """Lets go what could not be renewed in time, whatever the store is doing."""
        while True:
            for partition in tuple(self._held):
                if not self.holds(partition):
                    self._lose(partition, f"it could not be renewed for {self._term * CERTAIN_PART:g} s")
            now = self._clock.monotonic()
            ends = [at + self._term * CERTAIN_PART for partition, at in self._renewed_at.items()]
            await self._clock.sleep(max(LEAST_PAUSE_SECONDS, min(ends, default=now + self._term / RENEWALS) - now))

    def _pause(self) -> float:
        """Seconds to the next renewal, or to the moment when a silent lease may be taken, if that is sooner."""
        now = self._clock.monotonic()
        ends = [at + seen.term_seconds - now for seen, at in self._seen.values()]
        return min([self._term / RENEWALS, *(max(LEAST_PAUSE_SECONDS, left) for left in ends if left > 0)])
