"""The position ledger: fills folded in and written, each exactly once, whoever else writes to it; when and for whom is told elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter

from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.effects import AppliedEvent
from execution_service.core.orders.events import Busted, Filled
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line, fold, key_of, settled
from execution_service.delivery.cursor import Cursors, Progress
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.ports.ledger import LedgerStore

ROUNDS_AT_MOST = 20
"""So often an entry is read and folded anew because another process has written it meanwhile."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One order as it was when its delivery began, with what has happened since the ledger and the views last knew it."""

    live: LiveOrder
    progress: Progress
    order: Order
    applied_events: tuple[AppliedEvent, ...]

    @property
    def moves_position(self) -> bool:
        return any(applied_event.moves_position for applied_event in self.applied_events)


ENTRIES_REMEMBERED = 4096


class LinesOfOrders:
    """By the ledger's entries, of the orders that an entry still has lines of: the last event whose line the order durably has of its own."""

    def __init__(self) -> None:
        self._last: dict[LedgerKey, dict[str, int]] = {}

    def are_kept(self, key: LedgerKey, order_id: str, number: int) -> None:
        """The order has its lines up to that event: the entry may forget them. Of an entry that is not remembered it is found out when that
        is read again."""
        if key in self._last:
            self._last[key][order_id] = number

    def remember(self, keys: Iterable[LedgerKey]) -> None:
        """These entries are about to be read: what is kept from now on counts."""
        for key in keys:
            self._last.setdefault(key, {})

    def forget(self, key: LedgerKey) -> None:
        """The entry is not remembered any more."""
        self._last.pop(key, None)

    def of(self, key: LedgerKey) -> Mapping[str, int]:
        """By the orders of one entry."""
        return self._last.get(key, {})

    def restrict(self, entry: LedgerEntry) -> None:
        """To the orders that the entry still has lines of."""
        self._last[entry.key] = {o: number for o, number in self.of(entry.key).items() if o in entry.applied}

    def read(self, entry: LedgerEntry, lines: Mapping[str, Mapping[int, Line]]) -> None:
        """The entry was read, and after it the lines that its orders have; what was kept meanwhile counts more."""
        found = {o: max(lines.get(o, ()), default=0) for o in entry.applied}
        self._last[entry.key] = found | dict(self.of(entry.key))


class Ledger:
    """Entries that were read or written are trusted until a write of theirs fails; then they are read anew."""

    def __init__(self, *, store: LedgerStore, cursors: Cursors, lines_of_orders: LinesOfOrders) -> None:
        self._store = store
        self._cursors = cursors
        self._entries: dict[LedgerKey, LedgerEntry] = {}
        self._lines_of_orders = lines_of_orders
        self._shown: dict[LedgerKey, int] = {}
        """The versions of entries that the views are known to show."""

    def shown(self, entries: Sequence[LedgerEntry]) -> None:
        """The views show these: they may forget the episodes that have ended."""
        for entry in entries:
            if entry.key in self._entries:
                self._shown[entry.key] = entry.version

    async def book(self, parcels: Sequence[Parcel]) -> list[LedgerEntry]:
        """Applies the fills; returns the entries that these orders touch, as stored. The orders' lines are known then. Raises StoreUnavailable,
        UnreadableRecord; what was booked until then is found again."""
        groups: dict[LedgerKey, list[Parcel]] = {}
        for parcel in parcels:
            if parcel.moves_position:
                groups.setdefault(key_of(parcel.order), []).append(parcel)
        await self._read_lines([p for group in groups.values() for p in group if p.live.must_read_lines])
        touched: dict[LedgerKey, LedgerEntry] = {}
        rounds = 0
        while len(touched) < len(groups):
            rounds += 1
            if rounds > ROUNDS_AT_MOST:
                names = ", ".join(sorted(key.ledger_id for key in groups if key not in touched))
                raise UnreadableRecord(f"others have written it each time that it was to be booked: {names}")
            left = [key for key in groups if key not in touched]
            unknown = [key for key in left if key not in self._entries]
            if unknown:
                await self._read_entries(unknown, [p for key in unknown for p in groups[key]])
            changed: dict[LedgerKey, LedgerEntry] = {}
            lines: dict[LedgerKey, list[Mapping[int, Line]]] = {}
            for key in left:
                changed[key], lines[key] = self._folded(key, groups[key])
            to_save = [entry for key, entry in changed.items() if entry.version != self._version_of(key)]
            for key in left:
                # Not trusted again before the write is known to have arrived.
                self._entries.pop(key, None)
            saved = await self._store.save_ledgers(to_save)
            lost = {entry.key for entry, was_saved in zip(to_save, saved, strict=True) if not was_saved}
            for key, entry in changed.items():
                if key not in lost:
                    self._entries[key] = touched[key] = entry
                    self._lines_of_orders.restrict(entry)
                    for parcel, known in zip(groups[key], lines[key], strict=True):
                        self._cursors.booked(parcel.progress, parcel.order.version, known, key)
        self._forget_oldest()
        return list(touched.values())

    def _forget_oldest(self) -> None:
        """Those that were booked least lately: there is no end of instruments."""
        for key in list(itertools.islice(self._entries, max(0, len(self._entries) - ENTRIES_REMEMBERED))):
            self._entries.pop(key)
            self._shown.pop(key, None)
            self._lines_of_orders.forget(key)

    async def _read_lines(self, parcels: Sequence[Parcel]) -> None:
        """What was booked of orders that were taken in hand with fills, by a reading that may be older than that."""
        if not parcels:
            return
        lines = await self._store.ledger_lines(sorted(p.order.order_id for p in parcels))
        for parcel in parcels:
            progress = parcel.progress
            progress.knows({**lines.get(progress.order_id, {}), **progress.told.lines})
            parcel.live.must_read_lines = False

    async def _read_entries(self, keys: Sequence[LedgerKey], booking: Sequence[Parcel]) -> None:
        """The entries, and after them the lines that the orders have of their own: an entry loses a line only when its order has it, so
        that nothing is missed, whoever else writes to either. `booking`: orders that may have been let go while they were being booked, by
        a process that was frozen meanwhile; others have booked them since."""
        self._lines_of_orders.remember(keys)
        entries = await self._store.ledgers(keys)
        if not entries:
            return
        in_hand = [p for p in self._cursors.in_hand if p.live is not None]
        all_hands = {id(p): p for p in (*in_hand, *(parcel.progress for parcel in booking))}.values()
        ours = [p for p in all_hands if (o := _order_of(p)) is not None and o.fills and key_of(o) in entries]
        names = {p.order_id for p in ours} | {o for entry in entries.values() for o in entry.applied}
        lines = await self._store.ledger_lines(sorted(names))
        for progress in ours:
            own = lines.get(progress.order_id, {})
            if not own.keys() <= progress.told.lines.keys():
                progress.knows({**progress.told.lines, **own})
        for key, entry in entries.items():
            self._entries[key] = entry
            self._lines_of_orders.read(entry, lines)

    def _version_of(self, key: LedgerKey) -> int:
        entry = self._entries.get(key)
        return 0 if entry is None else entry.version

    def _folded(self, key: LedgerKey, parcels: Sequence[Parcel]) -> tuple[LedgerEntry, list[Mapping[int, Line]]]:
        """The entry with these orders' fills, one version on if that changes it, and each order's lines."""
        before = self._entries.get(key)
        entry = before or LedgerEntry(key=key, instrument=parcels[0].order.accepted_request.instrument)
        is_shown = self._shown.get(key) == entry.version
        entry = settled(entry, self._lines_of_orders.of(key), ended_are_shown=is_shown)
        sequence = entry.sequence
        known: dict[str, Mapping[int, Line]] = {p.order.order_id: p.progress.told.lines for p in parcels}
        for parcel, applied_event in _in_order_of_execution(parcels):
            order_id = parcel.order.order_id
            entry, known[order_id] = fold(entry, parcel.order, (applied_event,), known[order_id])
        lines = [known[p.order.order_id] for p in parcels]
        if entry.sequence == sequence and before is not None:
            return before, lines
        return replace(entry, version=entry.version + 1), lines


def _order_of(progress: Progress) -> Order | None:
    return None if progress.live is None else progress.live.order


def _in_order_of_execution(parcels: Sequence[Parcel]) -> list[tuple[Parcel, AppliedEvent]]:
    """What moves a position, by the broker's time, so that profit is booked to the order that closed and not to the one it closed; at the
    same moment entries come first, and then the lower execution id, since brokers count them up. What happened to one order stays in its
    sequence."""
    moments: list[tuple[tuple[datetime, bool, int, str], Parcel, AppliedEvent]] = []
    for parcel in parcels:
        is_exit, latest = parcel.order.identity.purpose is Purpose.EXIT, None
        for applied_event in parcel.applied_events:
            event = applied_event.event
            if applied_event.moves_position and isinstance(event, Filled | Busted):
                at, name = (
                    (event.fill.time, event.fill.fill_id) if isinstance(event, Filled) else (event.at, event.fill_id)
                )
                this = (at, is_exit, len(name), name)
                latest = this if latest is None else max(latest, this)
                moments.append((latest, parcel, applied_event))
    return [(parcel, applied_event) for _, parcel, applied_event in sorted(moments, key=itemgetter(0))]
