"""Delivery cursors: how far each sink has come with each order, and the one place that commits that to the record; delivers nothing itself."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from execution_service.core.orders.effects import AppliedEvent, applied_events_since
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerKey, Line
from execution_service.core.texts.service import delivery_failing
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import LEDGER, PEOPLE, SIGNALS, WORLD, CursorCommit, OrderStore, Told

log = structlog.get_logger(__name__)

TOGETHER_SECONDS = 0.25
"""What the outside has seen of an order is committed at once, or after so long where another sink still has something of that order in hand:
two cursors that advance at about the same time are one write."""
LAZY_SECONDS = 5.0
"""What nobody notices when it is done again (views that are written once more) waits so long for something to be committed with."""
LINES_SECONDS = 1.0
"""As long where the ledger's entry carries lines that the order has to have of its own."""
AFTER_FAILURE_SECONDS = 1.0
SLOW_PACE_SECONDS = 30.0
"""Between two attempts of what has failed for reasons of its own."""


class Progress:
    """Of one order, how far each sink is. It holds numbers, not the order: what waits for a sink that is away keeps no order in memory.

    Two numbers for each cursor: up to `taken` the sink needs the order no more (it has its messages, or there are none), up to `delivered`
    it is done.
    """

    __slots__ = (
        "_alive",
        "_begun",
        "_story",
        "account_id",
        "booked",
        "delivered",
        "due",
        "has_document",
        "is_committing",
        "is_final",
        "is_let_go",
        "is_seen",
        "is_shown",
        "live",
        "new_lines",
        "order_id",
        "signal_id",
        "since",
        "taken",
        "told",
        "version",
    )

    def __init__(self, live: LiveOrder, cursors: Iterable[str]) -> None:
        order = live.order
        self.order_id, self.signal_id, self.account_id = order.order_id, order.signal_id, order.request.account_id
        self.version, self.is_final = order.version, order.status.is_final
        self.live: LiveOrder | None = live
        """None once every sink has taken what it needs of a finished order."""
        self._alive = weakref.ref(live)
        self._begun: Order | None = None
        self._story: list[AppliedEvent] = []
        self.told = live.told
        self.delivered = {name: live.told.at(name) for name in cursors}
        self.taken = dict(self.delivered)
        self._follow_documents_of_signals(live.told)
        self.booked = live.told.ledger
        """The last event up to which the ledger's lines are known, and durable in the ledger."""
        self.has_document = live.told.ledger > 0
        """The views probably have documents of it already."""
        self.new_lines: LedgerKey | None = None
        """The ledger has lines of this order that it does not have of its own yet."""
        self.is_let_go = False
        """Another process delivers for it, or may."""
        self.due: float | None = None
        self.since: float | None = None
        """Since when there is something to be committed."""
        self.is_seen = self.is_shown = self.is_committing = False

    @property
    def is_done(self) -> bool:
        """Finished, and everything about it delivered."""
        return self.is_final and min(self.delivered.values()) >= self.version

    @property
    def shown(self) -> int:
        """The last event that all views reflect."""
        return min(self.delivered[LEDGER], self.delivered.get(SIGNALS, self.version))

    def keep_signals_apart(self) -> None:
        """The signals' documents stay behind ledger and other views: they have a cursor of their own from now on."""
        for numbers in (self.delivered, self.taken):
            numbers.setdefault(SIGNALS, self.delivered[LEDGER])

    def _follow_documents_of_signals(self, told: Told) -> None:
        if SIGNALS in told.others:
            for numbers in (self.delivered, self.taken):
                numbers.setdefault(SIGNALS, told.at(SIGNALS))

    @property
    def is_all_taken(self) -> bool:
        return min(self.taken.values()) >= self.version

    @property
    def is_in_work(self) -> bool:
        """A sink has something of it still to deliver."""
        return min(self.delivered.values()) < self.version

    @property
    def is_uncommitted(self) -> bool:
        return self.since is not None or self.is_committing

    def see(self, live: LiveOrder) -> None:
        """The order as it is now, and what the record says somebody else has delivered."""
        self.version, self.is_final = live.order.version, live.order.status.is_final
        self.live = live
        if live.told is not self.told:
            self._alive = weakref.ref(live)
            theirs = live.told
            self.told = replace(theirs, lines={**theirs.lines, **self.told.lines})
            self._follow_documents_of_signals(theirs)
            for name, number in self.delivered.items():
                self.delivered[name] = max(number, theirs.at(name))
                self.taken[name] = max(self.taken[name], self.delivered[name])
            self.booked = max(self.booked, theirs.ledger)
            self.tell_order()

    def applied_events(self, order: Order, after: int) -> Sequence[AppliedEvent]:
        """The story of the order, as it is in hand, from event `after` + 1 on: worked out once for all sinks."""
        if self._begun is None or self._begun.version > after:
            self._begun, self._story = order.as_of(after), []
        last = self._story[-1].after if self._story else self._begun
        self._story += applied_events_since(last, order)
        return self._story[after - self._begun.version :]

    def forget_story(self) -> None:
        """Every sink has taken all of it: the next begins where it ends."""
        self._begun = None if self.live is None else self.live.order
        self._story = []

    def knows(self, lines: Mapping[int, Line]) -> None:
        """The ledger's lines of this order, as far as they are known now."""
        self.told = replace(self.told, lines=lines)
        self.tell_order()

    def tell_order(self) -> None:
        """Whoever asks the order how far it was delivered gets the same answer."""
        others = {name: number for name, number in self.delivered.items() if name not in (WORLD, PEOPLE)}
        world, people = self.delivered[WORLD], self.delivered[PEOPLE]
        self.told = Told(world=world, people=people, lines=self.told.lines, others={**self.told.others, **others})
        live = self._alive()
        if live is not None:
            live.told = self.told


class Failures:
    """What went wrong with one order: said each time, and told to people once for each order."""

    def __init__(self, alerts: RaisesAlerts) -> None:
        self._alerts = alerts
        self._told: set[str] = set()

    async def report(self, progress: Progress, exc: BaseException) -> None:
        log.error(
            f"Delivery failed, tried again in {SLOW_PACE_SECONDS:g} s: {exc}",
            action="delivery_failed",
            signal_id=progress.signal_id,
            exc_info=exc,
        )
        if progress.order_id not in self._told:
            self._told.add(progress.order_id)
            words = delivery_failing(signal_id=progress.signal_id, reason=str(exc) or type(exc).__name__)
            await self._alerts.raise_alert("delivery_failing", words)

    def are_over(self, order_id: str) -> None:
        self._told.discard(order_id)


class KeptLines(Protocol):
    """Who needs to know which ledger lines the orders durably have of their own."""

    def are_kept(self, key: LedgerKey, order_id: str, number: int) -> None:
        """The order has its lines up to the event of that number."""


class Cursors:
    """The cursors of all orders in hand. Each commit states all cursors of an order as they are at that moment: so it can be made again,
    made late or overtaken without a cursor going back, and the record is settled by the commit that finds all of them at its version."""

    def __init__(
        self,
        *,
        names: Sequence[str],
        live_orders: LiveOrders,
        store: OrderStore,
        clock: Clock,
        failures: Failures,
        kept_lines: KeptLines,
    ) -> None:
        """`kept_lines` learns when an order durably has its ledger lines of its own."""
        self._names = names
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._failures = failures
        self._kept_lines = kept_lines
        self._by_order: dict[str, Progress] = {}
        self._due: list[tuple[float, int, Progress]] = []
        self._count = itertools.count()
        self._wake_up = WakeUp(clock)
        self._moved = asyncio.Event()
        self._is_draining = False

    # --- questions ----------------------------------------------------------------------------------------------

    def get(self, order_id: str) -> Progress | None:
        return self._by_order.get(order_id)

    @property
    def in_hand(self) -> Sequence[Progress]:
        return tuple(self._by_order.values())

    def of(self, live: LiveOrder) -> Progress:
        """The order's progress, brought up to what the order is now."""
        progress = self._by_order.get(live.order.order_id)
        if progress is None:
            progress = self._by_order[live.order.order_id] = Progress(live, self._names)
        else:
            progress.see(live)
        return progress

    def has_taken(self, order_id: str, version: int) -> bool:
        """The order is finished, and the sinks hold all that is still to be delivered of it up to that version."""
        progress = self._by_order.get(order_id)
        return progress is not None and progress.live is None and progress.version >= version

    @property
    def accounts_in_hand(self) -> set[str | None]:
        """Of which something is still to be delivered or committed."""
        return {p.account_id for p in self._by_order.values() if p.is_in_work or p.is_uncommitted}

    @property
    def waiting(self) -> int:
        """Orders of which something is on its way to others than people."""
        return sum(map(_owes_programs, self._by_order.values()))

    # --- advancing ----------------------------------------------------------------------------------------------

    def advance(self, progress: Progress, cursor: str, number: int, *, is_seen: bool, is_shown: bool = False) -> None:
        """The sink has delivered all events up to that number. `is_seen`: somebody would notice it a second time, so that it is to be
        committed soon; `is_shown`: it is committed with the next such, or a little later."""
        if number > progress.delivered[cursor]:
            progress.delivered[cursor] = number
            progress.tell_order()
        progress.is_seen |= is_seen
        progress.is_shown |= is_shown
        self.take(progress, cursor, number)
        self.reckon(progress)

    def take(self, progress: Progress, cursor: str, number: int) -> None:
        """The sink needs nothing more of the order for the events up to that number."""
        progress.taken[cursor] = max(progress.taken[cursor], number)
        self.let_out(progress)

    def let_out(self, progress: Progress) -> None:
        """A finished order that every sink has taken leaves memory."""
        if not progress.is_all_taken:
            return
        live = progress.live
        if live is not None and progress.is_final and live.order.version == progress.version:
            progress.live = None
            self._live.forget(live)
        progress.forget_story()

    def booked(self, progress: Progress, number: int, lines: Mapping[int, Line], key: LedgerKey) -> None:
        """The ledger durably has all that moves a position up to that event; these are all its lines of the order."""
        progress.booked = max(progress.booked, number)
        progress.new_lines = key
        progress.knows(lines)

    def reckon(self, progress: Progress) -> None:
        """When it is to be committed."""
        self._moved.set()
        if progress.is_let_go or not (progress.is_done or progress.is_seen or progress.is_shown):
            return
        now = self._clock.monotonic()
        if progress.since is None:
            progress.since = now
        if progress.is_done or self._is_draining or (progress.is_seen and not progress.is_in_work):
            due = now
        else:
            wait = LAZY_SECONDS if progress.new_lines is None else LINES_SECONDS
            due = progress.since + (TOGETHER_SECONDS if progress.is_seen else wait)
        self._commit_at(progress, due)

    def _commit_at(self, progress: Progress, due: float) -> None:
        if not progress.is_committing and (progress.due is None or due < progress.due):
            progress.due = due
            heapq.heappush(self._due, (due, next(self._count), progress))
            if self._due[0][2] is progress:
                self._wake_up.tell()

    def let_go(self, is_theirs: Callable[[str | None], bool]) -> None:
        """Others deliver for those accounts from now on."""
        for progress in [p for p in self._by_order.values() if is_theirs(p.account_id)]:
            progress.is_let_go = True
            progress.due = None
            del self._by_order[progress.order_id]
        self._moved.set()

    async def drain(self) -> None:
        """Returns when nothing is on its way any more but to people, and all of that is committed."""
        self._is_draining = True
        try:
            while owing := [p for p in self._by_order.values() if _owes_programs(p) or p.is_uncommitted]:
                for progress in owing:
                    self.reckon(progress)
                self._moved.clear()
                await self._moved.wait()
        finally:
            self._is_draining = False

    # --- committing ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; what is not committed by then is when it runs again, or delivered again after the next start."""
        for progress in self._by_order.values():
            progress.is_committing, progress.due = False, None
            self.reckon(progress)
        while True:
            now = self._clock.monotonic()
            batch = self._take_due(now)
            if batch:
                await self._commit_all(batch)
            else:
                await self._wake_up.wait(self._due[0][0] - now if self._due else None)

    def _take_due(self, now: float) -> list[Progress]:
        batch = []
        while self._due and self._due[0][0] <= now:
            due, _, progress = heapq.heappop(self._due)
            if progress.due == due and not progress.is_let_go:
                progress.due = None
                batch.append(progress)
        return batch

    async def _commit_all(self, batch: Sequence[Progress]) -> None:
        try:
            await self._commit(batch)
        except StoreUnavailable as exc:
            log.warning(f"Delivery cursors are not committed yet: {exc}", action="cursors_waiting")
            await self._clock.sleep(AFTER_FAILURE_SECONDS)
            for progress in batch:
                self._commit_at(progress, self._clock.monotonic())
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            if len(batch) > 1:
                for progress in batch:
                    await self._commit_all([progress])
            else:
                await self._failures.report(batch[0], exc)
                self._commit_at(batch[0], self._clock.monotonic() + SLOW_PACE_SECONDS)

    async def _commit(self, batch: Sequence[Progress]) -> None:
        """All or none of it counts as made; what was not is to be committed still."""
        commits = [self._commit_of(progress) for progress in batch]
        keys = [progress.new_lines for progress in batch]
        for progress in batch:
            # What comes while this is under way is another commit's.
            progress.is_committing, progress.since = True, None
            progress.is_seen, progress.is_shown, progress.new_lines = False, False, None
        is_made = False
        try:
            await self._store.commit_cursors(commits)
            is_made = True
        finally:
            for progress, commit, key in zip(batch, commits, keys, strict=True):
                progress.is_committing = False
                if is_made:
                    self._committed(progress, commit, key)
                else:
                    progress.is_seen, progress.new_lines = True, progress.new_lines or key
                    progress.since = progress.since or self._clock.monotonic()

    def _commit_of(self, progress: Progress) -> CursorCommit:
        numbers = dict(progress.delivered)
        return CursorCommit(
            order_id=progress.order_id,
            version=progress.version,
            is_settled=progress.is_final,
            world=numbers.pop(WORLD),
            people=numbers.pop(PEOPLE),
            others=numbers,
            lines=progress.told.lines if progress.new_lines is not None else {},
        )

    def _committed(self, progress: Progress, commit: CursorCommit, key: LedgerKey | None) -> None:
        if key is not None and commit.lines:
            self._kept_lines.are_kept(key, progress.order_id, max(commit.lines))
        is_settled = commit.is_settled and min(commit.cursors.values()) >= commit.version
        if is_settled and commit.version == progress.version:
            self._failures.are_over(progress.order_id)
            if self._by_order.get(progress.order_id) is progress:
                del self._by_order[progress.order_id]
            self._moved.set()
        else:
            self.reckon(progress)


def _owes_programs(progress: Progress) -> bool:
    """But for the signals' documents that wait for somebody to mend a record."""
    return any(
        number < progress.version for name, number in progress.delivered.items() if name not in (PEOPLE, SIGNALS)
    )
