"""The first sink: brings ledger and views up to date with what was recorded, many orders at once; what is written is told in its parts."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from typing import Protocol

import structlog

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.delivery.cursor import (
    AFTER_FAILURE_SECONDS,
    SLOW_PACE_SECONDS,
    Cursors,
    Failures,
    Progress,
)
from execution_service.delivery.ledger import Ledger, Parcel
from execution_service.delivery.views import Views
from execution_service.ownership.ownership import Ownership
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import LEDGER, SIGNALS

log = structlog.get_logger(__name__)

BATCH = 64
BUSY_SECONDS = 0.02
LINGER_SECONDS = 0.01


class FollowsBooks(Protocol):
    """Who delivers of an order only what ledger and views have."""

    def wake(self, progress: Progress) -> None: ...


class HoldsReservations(Protocol):
    """Who has reserved for orders what they may still fill."""

    def booked(self, order: Order) -> None:
        """All fills of the order, as it is here, are in the ledger. Waits for nothing and raises nothing; may be told again."""


class LedgerAndViews:
    """Ledger first, then views, in batches. While the ledger cannot be written, the views of orders that move no position go on."""

    name = "ledger and views"

    def __init__(
        self,
        *,
        ledger: Ledger,
        views: Views,
        cursors: Cursors,
        clock: Clock,
        failures: Failures,
        ownership: Ownership,
        followers: Sequence[FollowsBooks],
    ) -> None:
        """`followers` are woken when an order's lines are known."""
        self._ledger = ledger
        self._views = views
        self._cursors = cursors
        self._clock = clock
        self._failures = failures
        self._ownership = ownership
        self._followers = followers
        self.reservations: HoldsReservations | None = None
        self._wake_up = WakeUp(clock)
        self._queue: dict[str, Progress] = {}
        self._later: list[tuple[float, int, Progress]] = []
        self._count = itertools.count()
        self._delivered_at = float("-inf")
        """When something was last written: what merely passes by (an order that is being sent) is no sign that more is coming."""

    def wake(self, progress: Progress) -> None:
        """The order has events. One that was let go must not stand in the way of itself, should it have come back in hand since."""
        if progress.shown < progress.version and not progress.is_let_go:
            self._queue[progress.order_id] = progress
            self._wake_up.tell()

    def _wake_followers(self, progress: Progress) -> None:
        for follower in self._followers:
            follower.wake(progress)

    async def run(self) -> None:
        """Until cancelled; what is under way then is done again."""
        self._queue.clear()
        self._later.clear()
        for progress in self._cursors.in_hand:
            self.wake(progress)
        while True:
            now = self._clock.monotonic()
            while self._later and self._later[0][0] <= now:
                self.wake(heapq.heappop(self._later)[2])
            if not self._queue:
                await self._wake_up.wait(self._later[0][0] - now if self._later else None)
                continue
            if len(self._queue) < BATCH and now - self._delivered_at < BUSY_SECONDS:
                # More is coming: one larger batch costs the store less than two small ones.
                await self._clock.sleep(LINGER_SECONDS)
            await self._deliver(self._next_batch())
            await asyncio.sleep(0)  # thousands of orders at a start owe nothing, and then nothing above waits

    def _next_batch(self) -> list[Progress]:
        """The oldest news, and with an exit that of its entry: the ledger must not book the way out before the way in."""
        batch = [self._queue.pop(order_id) for order_id in list(itertools.islice(self._queue, BATCH))]
        batch = [progress for progress in batch if not progress.is_let_go and progress.live is not None]
        refs = {ref for progress in batch for ref in _entries_of_exit(progress)}
        if refs and self._queue:
            for progress in [p for p in self._queue.values() if not p.is_let_go and refs & _names(p)]:
                batch.append(self._queue.pop(progress.order_id))
        return batch

    async def _deliver(self, batch: Sequence[Progress]) -> None:
        try:
            await self._bring_up_to_date(batch)
        except StoreUnavailable as exc:
            log.warning(f"Views wait for the store: {exc}", action="views_waiting")
            self._again(batch, AFTER_FAILURE_SECONDS)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            if len(batch) > 1:
                for progress in batch:
                    await self._deliver([progress])
            else:
                if batch[0].live is not None:
                    batch[0].live.must_read_lines = True  # they may not have been as they are now, or as they should be
                self._again(batch, SLOW_PACE_SECONDS)
                await self._failures.report(batch[0], exc)

    def _again(self, batch: Sequence[Progress], after_seconds: float) -> None:
        for progress in batch:
            heapq.heappush(self._later, (self._clock.monotonic() + after_seconds, next(self._count), progress))

    def _try_when_readable(self, progress: Progress) -> None:
        """Its signal's document stays as it is until the records around it can be read: it keeps being tried, once at a time, also after a new
        start, since the record says how far that document is."""
        if all(each is not progress for _, _, each in self._later):
            self._again([progress], SLOW_PACE_SECONDS)

    async def _bring_up_to_date(self, batch: Sequence[Progress]) -> None:
        parcels = [parcel for progress in batch if (parcel := self._parcel(progress)) is not None]
        moving = [parcel for parcel in parcels if parcel.moves_position]
        if not parcels:
            return
        # At the same time, since neither needs the other; and both to their end, since a booking must not go on behind the next try.
        booked, around = await asyncio.gather(
            self._ledger.book(moving), self._views.look_around(parcels), return_exceptions=True
        )
        touched = self._booked(moving, booked)
        if touched is None:
            parcels, touched = [parcel for parcel in parcels if not parcel.moves_position], []
        if not parcels:
            return
        if isinstance(around, BaseException):
            raise around
        writes = await self._views.prepare(parcels, touched, around)
        theirs = [p.progress for p in parcels if not self._ownership.is_ours(p.progress.account_id)]
        if theirs:
            # Frozen meanwhile, perhaps: not every view knows which of two writers is behind.
            self._again([progress for progress in theirs if not progress.is_let_go], AFTER_FAILURE_SECONDS)
            await self._bring_up_to_date(
                [p.progress for p in parcels if self._ownership.is_ours(p.progress.account_id)]
            )
            return
        await self._views.write(writes, touched)
        self._delivered_at = self._clock.monotonic()
        self._ledger.shown(touched)
        for parcel in parcels:
            parcel.progress.has_document = True
            if self.reservations is not None:
                self.reservations.booked(parcel.order)
            if parcel.order.order_id in around.beside_unreadable:
                parcel.progress.keep_signals_apart()
                self._advance(parcel.progress, LEDGER, parcel.order.version)
                self._try_when_readable(parcel.progress)
                continue
            self._are_shown(parcel.progress, parcel.order.version)
            self.wake(parcel.progress)  # if it has moved on meanwhile

    def _are_shown(self, progress: Progress, number: int, *, is_shown: bool = True) -> None:
        """Ledger and all views have the events up to that number."""
        if SIGNALS in progress.delivered:
            self._advance(progress, SIGNALS, number, is_shown=is_shown)
        self._advance(progress, LEDGER, number, is_shown=is_shown)

    def _advance(self, progress: Progress, cursor: str, number: int, *, is_shown: bool = True) -> None:
        """What is there already is not committed again."""
        is_new = number > progress.delivered[cursor]
        self._cursors.advance(progress, cursor, number, is_seen=False, is_shown=is_shown and is_new)

    def _booked(
        self, moving: Sequence[Parcel], outcome: list[LedgerEntry] | BaseException
    ) -> Sequence[LedgerEntry] | None:
        """The entries that were touched; None where the store was away, and it is tried again. Raises whatever else the booking raised."""
        if isinstance(outcome, BaseException) and not isinstance(outcome, StoreUnavailable):
            raise outcome
        if not isinstance(outcome, BaseException):
            for parcel in moving:
                self._wake_followers(parcel.progress)
            return outcome
        log.warning(f"Bookings wait for the store: {outcome}", action="bookings_waiting")
        self._again([parcel.progress for parcel in moving], AFTER_FAILURE_SECONDS)
        return None

    def _parcel(self, progress: Progress) -> Parcel | None:
        """None: an order that is merely being sent is shown to nobody yet."""
        live = progress.live
        if live is None or progress.is_let_go:
            return None
        order = live.order
        if progress.shown >= order.version:
            return None
        parcel = Parcel(live, progress, order, tuple(progress.applied_events(order, progress.shown)))
        if order.status.is_final or any(applied_event.is_shown for applied_event in parcel.applied_events):
            return parcel
        self._are_shown(progress, order.version, is_shown=False)
        return None


def _entries_of_exit(progress: Progress) -> Sequence[str]:
    if progress.live is None:
        return ()
    order = progress.live.order
    is_exit = isinstance(order.request, OrderRequest) and order.identity.purpose is Purpose.EXIT
    return order.request.entry_refs if is_exit and isinstance(order.request, OrderRequest) else ()


def _names(progress: Progress) -> set[str | None]:
    request = None if progress.live is None else progress.live.order.request
    return set() if request is None else {progress.signal_id, request.mathematricks_signal_id}
