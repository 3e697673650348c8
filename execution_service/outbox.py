"""Tells the world what was recorded: position ledger and views, then `execution-confirmations`; and people, by Telegram."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog

from execution_service.core import alerts
from execution_service.core.confirmation import attributes, confirmation_json
from execution_service.core.effects import Happening, happenings
from execution_service.core.ledger import LedgerEntry, LedgerKey, Line, fold, key_of, settled
from execution_service.core.order import Filled, Order, OrderRequest, Purpose
from execution_service.core.views import (
    Booked,
    confirmation_fields,
    confirmation_id,
    open_position_element,
    position_documents,
    signal_document_id,
)
from execution_service.letters import ALERT_LIFETIME, Channel, Letters
from execution_service.live import LiveOrder, LiveOrders
from execution_service.news import News
from execution_service.ports import (
    Alarm,
    Clock,
    Publisher,
    PublishFailed,
    Store,
    Stored,
    StoreUnavailable,
    Strike,
    View,
    ViewWrite,
)
from execution_service.signals import Relations, related_names, trading_order_write
from execution_service.supervision import Part
from notifications.base import Notifier

log = structlog.get_logger(__name__)

BATCH = 64
BATCHES_UNDER_WAY = 8
BUSY_SECONDS = 0.02
LINGER_SECONDS = 0.01
SLOW_PACE_SECONDS = 30.0
AFTER_FAILURE_SECONDS = 1.0
ALARM_PAUSE_SECONDS = 60.0
ALARM_POLL_SECONDS = 2.0
DISCREPANCY_ALARMS = "discrepancy:"
"""What the kinds of alarms about discrepancies begin with: of many each is named."""
REMEMBERED_ABSENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Party:
    """What an order's record does not hold about its account."""

    account_name: str | None
    broker: str


class Outbox:
    """Delivers what the events owe, in order per order; each delivery may be repeated without harm.

    Two stages: ledger and views in batches, then publication; Telegram goes its own way and delays neither.
    """

    def __init__(
        self,
        *,
        live_orders: LiveOrders,
        store: Store,
        publisher: Publisher,
        notifier: Notifier,
        clock: Clock,
        party_of: Callable[[str | None], Party],
        max_publish_attempts: int,
        uses_ordering_keys: bool = False,
        is_ours: Callable[[Order], bool] = lambda order: True,
        sends_alarms: Callable[[], bool] | None = None,
    ) -> None:
        """`is_ours`: whether an order is surely this process's to tell of at this moment. `sends_alarms`: whether it is the one that sends
        the alarms of all that share the store; None: it is alone."""
        self._live = live_orders
        self._store = store
        self._publisher = publisher
        self._notifier = notifier
        self._alarm_channel = Channel(notifier, clock)
        self._clock = clock
        self._party_of = party_of
        self._max_attempts = max_publish_attempts
        self._uses_ordering_keys = uses_ordering_keys
        self._is_ours = is_ours
        self._sends_alarms = sends_alarms
        self._queue: deque[LiveOrder] = deque()
        self._news = asyncio.Event()
        self._under_way = asyncio.Semaphore(BATCHES_UNDER_WAY)
        self._delivered_at = float("-inf")
        self._progress = asyncio.Event()
        self._letters = Letters(notifier=notifier, clock=clock, strike_out=self._strike_out)
        self._alarm_news = News(clock)
        self._alarm_generation = 0
        self._alarm_series = secrets.token_hex(4)
        self._unstored_alarms: dict[str, Alarm] = {}
        """Raised while the store was away, one of each kind for all of it."""
        self._ledgers: dict[LedgerKey, LedgerEntry] = {}
        self._kept: dict[LedgerKey, dict[str, int]] = {}
        """Of orders that the ledger's entry still has lines of: the last event whose line they durably have of their own."""
        self._shown_ledgers: dict[LedgerKey, int] = {}
        self._shown_episodes: dict[LedgerKey, int] = {}
        self._absent_accounts: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._failures_told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        live_orders.on_recorded.append(self.wake)

    # --- life ---------------------------------------------------------------------------------------------------

    def wake(self, live: LiveOrder) -> None:
        """The order has news, or may owe something from before."""
        if not live.waits_in_outbox and not live.is_let_go:
            live.waits_in_outbox = True
            self._queue.append(live)
            self._news.set()

    @property
    def waiting(self) -> int:
        """Orders that still owe the world something."""
        return sum(live.owes_world for live in self._live.by_id.values())

    async def drain(self) -> None:
        """Returns when nothing is on its way to the world any more."""
        while any(live.waits_in_outbox and live.owes_world for live in self._live.by_id.values()):
            self._progress.clear()
            await self._progress.wait()

    @property
    def unsent_letters(self) -> int:
        """Orders of which people are still to be told something."""
        return len(self._letters)

    def let_go(self, is_theirs: Callable[[str | None], bool]) -> None:
        """Others tell people of the orders of those accounts from now on."""
        self._letters.let_go(is_theirs)

    def is_written(self, stored: Stored) -> bool:
        """All that the order owes is a letter which is waiting to be sent."""
        is_told = stored.order.status.is_final and stored.told.world >= stored.order.version
        return is_told and self._letters.awaits(stored.order.order_id)

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        parts = [
            Part("ledger, views and confirmations", self.run),
            Part("notifications of orders", self._letters.run),
            Part("notifications of alerts", self._send_alarms),
        ]
        return parts if self._sends_alarms is None else [*parts, Part("alerts of others", self._look_for_alarms)]

    async def run(self) -> None:
        """Until cancelled; what has not been delivered by then is delivered after the next start."""
        self._begin_anew()
        try:
            while True:
                await self._news.wait()
                if len(self._queue) < BATCH and self._clock.monotonic() - self._delivered_at < BUSY_SECONDS:
                    # More is coming: one larger batch costs the store less than two small ones.
                    await self._clock.sleep(LINGER_SECONDS)
                batch = self._next_batch()
                if not self._queue:
                    self._news.clear()
                await self._deliver(batch)
                self._delivered_at = self._clock.monotonic()
                await asyncio.sleep(0)  # thousands of orders at a start owe nothing, and then nothing above waits
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin_anew(self) -> None:
        """Everything in hand is looked at: what an earlier run that stumbled had under way is in nobody's queue."""
        self._queue.clear()
        for live in self._live.by_id.values():
            live.waits_in_outbox = False
            self.wake(live)

    def _next_batch(self) -> list[LiveOrder]:
        """The oldest news, and with an exit that of its entry: the ledger must not book the way out before the way in."""
        batch = [
            live
            for _ in range(min(BATCH, len(self._queue)))
            if not (live := self._queue.popleft()).is_let_go  # whoever works it now delivers it
        ]
        refs = {
            ref
            for live in batch
            if isinstance(live.order.request, OrderRequest) and live.order.identity.purpose is Purpose.EXIT
            for ref in live.order.request.entry_refs
        }
        if refs and self._queue:
            entries = [
                live
                for live in self._queue
                if not live.is_let_go and refs & {live.order.signal_id, live.order.request.mathematricks_signal_id}
            ]
            for live in entries:
                self._queue.remove(live)
            batch += entries
        return batch

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _deliver(self, batch: Sequence[LiveOrder]) -> None:
        """Ledger and views now; the rest of the way in a task of its own."""
        try:
            parcels = await self._bring_up_to_date(batch)
        except StoreUnavailable as exc:
            log.warning(f"Views wait for the store: {exc}", action="views_waiting")
            await self._clock.sleep(AFTER_FAILURE_SECONDS)
            # In front, so that what came first is told first; but none that is not owed anything, or has queued again since.
            waiting = set(map(id, self._queue))
            self._queue.extendleft(live for live in reversed(batch) if live.waits_in_outbox and id(live) not in waiting)
            self._news.set()
            return
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            if len(batch) > 1:
                for live in batch:
                    await self._deliver([live])
            else:
                await self._report_failure(batch[0], exc)
                self._spawn(self._again(batch[0], SLOW_PACE_SECONDS))
            return
        if parcels:
            for parcel in parcels:
                self._write_letter(parcel)
            self._spawn(self._publish_all(parcels))

    async def _report_failure(self, live: LiveOrder, exc: BaseException) -> None:
        """Said each time, and told to people once for each order."""
        log.error(
            f"Delivery failed, tried again in {SLOW_PACE_SECONDS:g} s: {exc}",
            action="delivery_failed",
            signal_id=live.order.signal_id,
            exc_info=exc,
        )
        if live.order.order_id not in self._failures_told:
            self._failures_told.add(live.order.order_id)
            words = alerts.delivery_failing(signal_id=live.order.signal_id, reason=str(exc) or type(exc).__name__)
            await self.raise_alarm("delivery_failing", words)

    async def _again(self, live: LiveOrder, after_seconds: float) -> None:
        await self._clock.sleep(after_seconds)
        if not live.is_let_go:
            self._queue.append(live)
            self._news.set()

    # --- first stage: ledger and views --------------------------------------------------------------------------

    async def _bring_up_to_date(self, batch: Sequence[LiveOrder]) -> list[_Parcel]:
        parcels = []
        for live in batch:
            parcel = _Parcel(live, live.order, tuple(happenings(live.order, live.told.world)))
            if self._is_worth_telling(parcel):
                parcels.append(parcel)
            else:
                live.waits_in_outbox = False
                self._progress.set()
        unseen = [p for p in parcels if p.live.viewed < p.order.version]
        if unseen:
            touched = await self._book(unseen)
            writes = await self._view_writes(unseen, touched)
            if not all(self._is_ours(parcel.order) for parcel in unseen):
                # Frozen meanwhile, perhaps: not every view knows which of two writers is behind.
                return await self._bring_up_to_date([p.live for p in parcels if self._is_ours(p.order)])
            await self._store.write_views(writes)
            for entry in touched:
                self._shown_ledgers[entry.key] = entry.version
                self._shown_episodes[entry.key] = entry.position.episode
            for parcel in unseen:
                parcel.live.viewed = parcel.order.version
        return parcels

    def _is_worth_telling(self, parcel: _Parcel) -> bool:
        """An order that is merely being sent owes nobody anything yet."""
        if parcel.order.status.is_final or any(h.is_shown for h in parcel.happenings):
            return True
        return self._letters.has_words(parcel.order, parcel.live.lettered)

    async def _book(self, parcels: Sequence[_Parcel]) -> list[LedgerEntry]:
        """Applies the fills to the ledger; returns the entries that these orders touch, as stored."""
        groups: dict[LedgerKey, list[_Parcel]] = {}
        for parcel in parcels:
            if any(h.moves_position for h in parcel.happenings):
                groups.setdefault(key_of(parcel.order), []).append(parcel)
        await self._read_lines([p.live for group in groups.values() for p in group if p.live.must_read_lines])
        touched: dict[LedgerKey, LedgerEntry] = {}
        while len(touched) < len(groups):
            left = [key for key in groups if key not in touched]
            unknown = [key for key in left if key not in self._ledgers]
            if unknown:
                await self._read_ledgers(unknown, [p.live for key in unknown for p in groups[key]])
            changed: dict[LedgerKey, LedgerEntry] = {}
            lines: dict[LedgerKey, list[Mapping[int, Line]]] = {}
            for key in left:
                changed[key], lines[key] = self._folded(key, groups[key])
            to_save = [entry for key, entry in changed.items() if entry.version != self._version_of(key)]
            for key in left:
                # Not trusted again before the write is known to have arrived.
                self._ledgers.pop(key, None)
            saved = await self._store.save_ledgers(to_save)
            lost = {entry.key for entry, was_saved in zip(to_save, saved, strict=True) if not was_saved}
            for key, entry in changed.items():
                if key not in lost:
                    self._ledgers[key] = touched[key] = entry
                    kept = self._kept.get(key, {})
                    self._kept[key] = {o: number for o, number in kept.items() if o in entry.applied}
                    for parcel, known in zip(groups[key], lines[key], strict=True):
                        parcel.live.told = replace(parcel.live.told, lines=known)
        return list(touched.values())

    async def _read_lines(self, lives: Sequence[LiveOrder]) -> None:
        """What was booked of orders that were taken in hand with fills, by a reading that may be older than that."""
        if not lives:
            return
        lines = await self._store.ledger_lines(sorted(live.order.order_id for live in lives))
        for live in lives:
            live.told = replace(live.told, lines={**lines.get(live.order.order_id, {}), **live.told.lines})
            live.must_read_lines = False

    async def _read_ledgers(self, keys: Sequence[LedgerKey], booking: Sequence[LiveOrder]) -> None:
        """The entries, and after them the lines that the orders have of their own: an entry loses a line only when its order has it, so
        that nothing is missed, whoever else writes to either. `booking`: orders that may have been let go while they were being booked, by
        a process that was frozen meanwhile; others have booked them since."""
        entries = await self._store.ledgers(keys)
        if not entries:
            return
        all_hands = {id(live): live for live in (*self._live.by_id.values(), *booking)}.values()
        in_hand = [live for live in all_hands if live.order.fills and key_of(live.order) in entries]
        names = {live.order.order_id for live in in_hand} | {o for entry in entries.values() for o in entry.applied}
        lines = await self._store.ledger_lines(sorted(names))
        for live in in_hand:
            own = lines.get(live.order.order_id, {})
            if not own.keys() <= live.told.lines.keys():
                live.told = replace(live.told, lines={**live.told.lines, **own})
        for key, entry in entries.items():
            self._ledgers[key] = entry
            kept = self._kept.get(key, {})
            self._kept[key] = {o: max(lines.get(o, ()), default=0) for o in entry.applied} | kept

    def _version_of(self, key: LedgerKey) -> int:
        entry = self._ledgers.get(key)
        return 0 if entry is None else entry.version

    def _folded(self, key: LedgerKey, parcels: Sequence[_Parcel]) -> tuple[LedgerEntry, list[Mapping[int, Line]]]:
        """The entry with these orders' fills, one version on if that changes it, and each order's lines."""
        before = self._ledgers.get(key)
        entry = before or LedgerEntry(key=key, instrument=parcels[0].order.accepted_request.instrument)
        is_shown = self._shown_ledgers.get(key) == entry.version
        entry = settled(entry, self._kept.get(key, {}), ended_are_shown=is_shown)
        sequence = entry.sequence
        known: dict[str, Mapping[int, Line]] = {p.order.order_id: p.live.told.lines for p in parcels}
        for parcel, happening in _in_order_of_execution(parcels):
            order_id = parcel.order.order_id
            entry, known[order_id] = fold(entry, parcel.order, (happening,), known[order_id])
        lines = [known[p.order.order_id] for p in parcels]
        if entry.sequence == sequence and before is not None:
            return before, lines
        return replace(entry, version=entry.version + 1), lines

    async def _view_writes(self, parcels: Sequence[_Parcel], touched: Sequence[LedgerEntry]) -> list[ViewWrite]:
        now = self._clock.now()
        relations = await self._relations(parcels)
        writes = []
        for parcel in parcels:
            order = parcel.order
            fields = confirmation_fields(
                order,
                broker=self._party_of(order.request.account_id).broker,
                realized_pnl=parcel.live.told.realized_pnl,
                now=now,
            )
            writes.append(
                ViewWrite(
                    View.CONFIRMATIONS,
                    confirmation_id(order),
                    fields,
                    "event_number",
                    order.version,
                    is_probably_new=not parcel.live.viewed,
                )
            )
            if order.request.request_order_id is not None:
                writes.append(trading_order_write(order, now))
            writes += relations.signal_writes(parcel.order, now)
        for entry in touched:
            shown = self._shown_episodes.get(entry.key)
            for episode, (document_id, fields) in position_documents(entry):
                is_new = shown is not None and episode > shown
                writes.append(
                    ViewWrite(View.POSITIONS, document_id, fields, "sequence", entry.sequence, is_probably_new=is_new)
                )
        for account_id in {entry.key.account_id for entry in touched}:
            writes += await self._account_write(account_id)
        return writes

    async def _account_write(self, account_id: str) -> list[ViewWrite]:
        """The whole array of open positions, if the account has a document; that it has none is remembered for a while."""
        now = self._clock.monotonic()
        absent_since = self._absent_accounts.get(account_id)
        if absent_since is not None and now - absent_since < REMEMBERED_ABSENCE_SECONDS:
            return []
        if not await self._store.has_trading_account(account_id):
            self._absent_accounts[account_id] = now
            return []
        self._absent_accounts.pop(account_id, None)
        entries = await self._store.open_ledgers(account_id)
        if entries is None:
            return []  # what is shown stays as it is: a part would pass for the whole
        elements = [open_position_element(e) for e in sorted(entries, key=lambda e: e.key.ledger_id)]
        return [ViewWrite(View.TRADING_ACCOUNTS, account_id, {"open_positions": elements}, creates=False)]

    async def _relations(self, parcels: Sequence[_Parcel]) -> Relations:
        """Reads what the signals' documents need beyond the orders at hand: other legs, entries of exits, exits of entries."""
        names = sorted({n for p in parcels for n in related_names(p.order, was_told=bool(p.live.told.world))})
        found = (
            {s.order.order_id: Booked(s.order, s.told.realized_pnl) for s in await self._store.find(names)}
            if names
            else {}
        )
        for order_id in found:
            live = self._live.by_id.get(order_id)
            if live is not None:
                found[order_id] = Booked(live.order, live.told.realized_pnl)
        for parcel in parcels:
            found[parcel.order.order_id] = Booked(parcel.order, parcel.live.told.realized_pnl)
        unnamed = {b.order.signal_id for b in found.values() if signal_document_id(b.order) is None}
        documents = await self._store.signal_documents(sorted(unnamed)) if unnamed else {}
        return Relations(found.values(), documents)

    # --- second stage: publication ------------------------------------------------------------------------------

    async def _publish_all(self, parcels: Sequence[_Parcel]) -> None:
        # Only here, so that a Pub/Sub that hangs holds up neither the ledger nor the views.
        async with self._under_way:
            try:
                results = await asyncio.gather(*(self._publish(p) for p in parcels))
                told = [parcel for parcel, is_told in zip(parcels, results, strict=True) if is_told]
                strikes = [self._strike(parcel) for parcel in told]
                await self._strike_out(strikes)
                for parcel, strike in zip(told, strikes, strict=True):
                    if strike.lines:
                        self._kept.setdefault(key_of(parcel.order), {})[strike.order_id] = strike.version
                    self._done(parcel)
            except Exception as exc:  # noqa: BLE001  what could not be struck out is delivered again
                for parcel in parcels:
                    if parcel.live.waits_in_outbox:
                        await self._report_failure(parcel.live, exc)
                        self._spawn(self._again(parcel.live, SLOW_PACE_SECONDS))

    async def _strike_out(self, strikes: Sequence[Strike]) -> None:
        """Tries on while the store is away: what has been delivered must be struck out, or it is delivered again."""
        while True:
            try:
                await self._store.strike(strikes)
                return
            except StoreUnavailable as exc:
                log.warning(f"Deliveries are not struck out yet: {exc}", action="strikes_waiting")
                await self._clock.sleep(AFTER_FAILURE_SECONDS)

    async def _publish(self, parcel: _Parcel) -> bool:
        """Publishes what the order owes, one after the other; False: put off, and tried again by itself."""
        order_id = parcel.order.order_id
        broker = self._party_of(parcel.order.request.account_id).broker
        key = order_id if self._uses_ordering_keys else ""
        for happening in parcel.happenings:
            if not happening.is_published:
                continue
            body = confirmation_json(
                happening.after,
                event=happening.event,
                broker=broker,
                realized_pnl=_realized_until(parcel.live, happening),
                correction=happening.is_correction,
            )
            try:
                await self._publisher.publish(body, attributes(happening.after), key)
            except PublishFailed as exc:
                await self._put_off(parcel.live, exc)
                return False
            except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                await self._report_failure(parcel.live, exc)
                self._spawn(self._again(parcel.live, SLOW_PACE_SECONDS))
                return False
            log.info(
                alerts.CONFIRMATION_PUBLISHED,
                action="confirmation_published",
                signal_id=parcel.order.signal_id,
                status=happening.after.status.value,
            )
        self._failures.pop(order_id, None)
        return True

    async def _put_off(self, live: LiveOrder, exc: PublishFailed) -> None:
        order_id = live.order.order_id
        failures = self._failures[order_id] = self._failures.get(order_id, 0) + 1
        is_slow = failures >= self._max_attempts
        log.warning(
            f"Execution confirmation not published (attempt {failures}): {exc}",
            action="publish_failed",
            signal_id=live.order.signal_id,
        )
        self._spawn(self._again(live, SLOW_PACE_SECONDS if is_slow else 0.5 * 2**failures))
        if failures == self._max_attempts:
            words = alerts.publish_failing(waiting=self.waiting, attempts=failures, reason=str(exc))
            await self.raise_alarm("publish_failing", words)

    def _strike(self, parcel: _Parcel) -> Strike:
        has_unsent = self._letters.awaits(parcel.order.order_id) or parcel.live.is_let_go
        return Strike(
            order_id=parcel.order.order_id,
            version=parcel.order.version,
            is_settled=parcel.order.status.is_final,
            world=parcel.order.version,
            people=None if has_unsent else parcel.order.version,
            lines=parcel.live.told.lines if any(h.moves_position for h in parcel.happenings) else {},
        )

    def _done(self, parcel: _Parcel) -> None:
        live, order = parcel.live, parcel.order
        live.told = replace(live.told, world=order.version, people=order.version)
        live.waits_in_outbox = False
        self._failures_told.discard(order.order_id)
        self._progress.set()
        if live.order.version > order.version:
            self.wake(live)
        elif order.status.is_final:
            self._live.forget(live)

    # --- people -------------------------------------------------------------------------------------------------

    def _write_letter(self, parcel: _Parcel) -> None:
        """What people are owed, whatever becomes of the publication."""
        live, order = parcel.live, parcel.order
        if not self._notifier.enabled or live.lettered >= order.version or live.is_let_go:
            return
        party = self._party_of(order.request.account_id)
        self._letters.write(order, live.lettered, account_name=party.account_name, broker=party.broker)
        live.lettered = order.version

    async def _send(self, text: str, at: datetime, is_ours: Callable[[], bool]) -> None:
        """Sends one text, trying on for an hour after what it tells of, and for as long as telling it is ours."""
        while is_ours():
            if self._clock.now() - at >= ALERT_LIFETIME:
                log.error("Telegram message given up after an hour", action="telegram_given_up")
                return
            if await self._alarm_channel.is_sent(text):
                return

    async def raise_alarm(self, kind: str, text: str, count: int = 1) -> None:
        """An alert that belongs to no order: stored, then sent at most once a minute for each kind, with a count. While the store is away
        it is kept in memory, and stored as soon as that is back."""
        await self._store_alarm(self._alarm(kind, text, count))
        self._alarm_news.tell()

    async def raise_alarm_durably(self, kind: str, text: str, count: int = 1) -> None:
        """The same, durable when it returns. Raises StoreUnavailable: it may not be stored, and is to be raised again."""
        await self._store.raise_alarm(self._alarm(kind, text, count))
        self._alarm_news.tell()

    def _alarm(self, kind: str, text: str, count: int) -> Alarm:
        log.warning(alerts.one_line(text), action="alarm", kind=kind)
        now = self._clock.now()
        if self._sends_alarms is not None:
            self._alarm_generation += 1  # another process may be sending the last one at this moment
        # With a series of each life: one that was sent in an earlier life must not be added to.
        alarm_id = f"{kind}:{now:%Y%m%dT%H%M}:{self._alarm_series}:{self._alarm_generation}"
        return Alarm(alarm_id=alarm_id, kind=kind, text=text, count=count, first_at=now)

    async def _store_alarm(self, alarm: Alarm) -> None:
        try:
            await self._store.raise_alarm(alarm)
        except StoreUnavailable as exc:
            log.warning(f"Alarm waits for the store: {exc}", action="alarm_waiting", kind=alarm.kind)
            self._keep_unstored(alarm)

    def _keep_unstored(self, alarm: Alarm) -> None:
        earlier = self._unstored_alarms.get(alarm.kind)
        if earlier is not None:
            first, last = sorted((earlier, alarm), key=lambda a: a.first_at)
            alarm = replace(last, first_at=first.first_at, count=first.count + last.count)
        self._unstored_alarms[alarm.kind] = alarm

    async def _store_waiting_alarms(self) -> bool:
        """False: the store is still away."""
        for kind in tuple(self._unstored_alarms):
            alarm = self._unstored_alarms.pop(kind)
            try:
                await self._store_alarm(alarm)
            except BaseException:
                self._keep_unstored(alarm)  # its turn comes again, after the others'
                raise
        return not self._unstored_alarms

    async def raise_alarm_once(self, alarm_id: str, kind: str, text: str) -> None:
        """An alarm that is never sent twice, however often it is raised under its id. Raises StoreUnavailable: it may not be stored."""
        log.warning(alerts.one_line(text), action="alarm", kind=kind)
        alarm = Alarm(alarm_id=alarm_id, kind=kind, text=text, count=1, first_at=self._clock.now())
        await self._store.raise_alarm(alarm)
        self._alarm_news.tell()

    async def _send_alarms(self) -> None:
        last_sent: dict[str, float] = {}
        self._alarm_news.tell()  # those of before the start
        pause: float | None = None
        while True:
            await self._alarm_news.wait(pause)
            if not await self._store_waiting_alarms():
                pause = AFTER_FAILURE_SECONDS
            elif self._sends_alarms is None or self._sends_alarms():
                pause = await self._send_stored_alarms(last_sent)
            else:
                pause = None

    async def _send_stored_alarms(self, last_sent: dict[str, float]) -> float | None:
        self._alarm_generation += 1
        try:
            return await self._send_due_alarms(await self._store.unsent_alarms(), last_sent)
        except StoreUnavailable as exc:
            log.warning(f"Alarms wait for the store: {exc}", action="alarms_waiting")
            return AFTER_FAILURE_SECONDS

    async def _look_for_alarms(self) -> None:
        """Other processes store theirs without a word."""
        while True:
            await self._clock.sleep(ALARM_POLL_SECONDS)
            self._alarm_news.tell()

    async def _send_due_alarms(self, alarms: Sequence[Alarm], last_sent: dict[str, float]) -> float | None:
        """Sends one message a kind, for all its alarms; returns the seconds until a held-back kind may be sent."""
        by_kind: dict[str, list[Alarm]] = {}
        for alarm in alarms:
            by_kind.setdefault(alarm.kind, []).append(alarm)
        waits = []
        for kind, some in by_kind.items():
            since = self._clock.monotonic() - last_sent.get(kind, float("-inf"))
            if since < ALARM_PAUSE_SECONDS:
                waits.append(ALARM_PAUSE_SECONDS - since)
                continue
            count = sum(alarm.count for alarm in some)
            if kind.startswith(DISCREPANCY_ALARMS):
                text = alerts.discrepancies([alarm.text for alarm in some], count)
            else:
                text = alerts.with_count(some[-1].text, count)
            await self._send(text, some[-1].first_at, self._sends_alarms or _always)
            if self._sends_alarms is not None and not self._sends_alarms():
                return None
            last_sent[kind] = self._clock.monotonic()
            for alarm in some:
                await self._store.alarm_sent(alarm, self._clock.now())
        return min(waits, default=None)


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Parcel:
    """One order as it was when its delivery began, with what has happened since the world was last told."""

    live: LiveOrder
    order: Order
    happenings: tuple[Happening, ...]


def _in_order_of_execution(parcels: Sequence[_Parcel]) -> list[tuple[_Parcel, Happening]]:
    """What moves a position, by the broker's time, so that profit is booked to the order that closed and not to the one it closed; at the
    same moment entries come first. What happened to one order stays in its sequence."""
    moments: list[tuple[datetime, bool, _Parcel, Happening]] = []
    for parcel in parcels:
        is_exit, latest = parcel.order.identity.purpose is Purpose.EXIT, None
        for happening in parcel.happenings:
            if happening.moves_position:
                event = happening.event
                moment = event.fill.time if isinstance(event, Filled) else event.at
                latest = moment if latest is None else max(latest, moment)
                moments.append((latest, is_exit, parcel, happening))
    return [(parcel, happening) for _, _, parcel, happening in sorted(moments, key=lambda m: m[:2])]


def _realized_until(live: LiveOrder, happening: Happening) -> Decimal | None:
    """The order's booked profit as it was after the event; None while nothing has filled."""
    lines = [line for number, line in live.told.lines.items() if number <= happening.number]
    return sum((line.realized for line in lines), Decimal(0)) if lines else None
