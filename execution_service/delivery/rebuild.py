"""Writes the shared collections anew from the service's own; the words of each document are made elsewhere, as for the delivery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line, key_of
from execution_service.core.views.refold import OrderWithLines, as_last_shown, refolded
from execution_service.core.views.shared import (
    BookedOrder,
    confirmation_fields,
    confirmation_id,
    open_position_element,
    position_documents,
    signal_document_id,
)
from execution_service.delivery.past_trades import booked_trades, trade_write
from execution_service.delivery.signals import Relations, trading_order_write
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.views import View, ViewWrite

CHUNK = 200
ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What was done: how many orders and positions were shown again, and what a person should look at."""

    orders: int
    positions: int
    accounts: int
    trades: int
    """Rows of `trades` that are there, those that were missing among them."""
    never_told: int
    """Orders that nobody has been told of yet: the service shows them when it tells."""
    unknown_brokers: tuple[str, ...]
    """Accounts of which neither a document nor anybody tells the broker: documents that were made again name none."""
    contradictions: tuple[str, ...]
    signals_left: tuple[str, ...]
    """Signals whose documents stay as they are: a record that belongs to them cannot be read, and a part would pass for the whole."""


class BrokersOfAccounts(Protocol):
    """At which broker an account is, or was."""

    def broker_of(self, account_id: str) -> str | None:
        """The account's now, for documents that are lost; None: nobody knows."""

    def mode_of(self, account_id: str | None) -> str | None:
        """PRODUCTION or TRAINING; None: nobody knows."""

    def broker_shown(self, document_id: str) -> str | None:
        """What the confirmation of that id names, which is kept, since the account may have been at another broker then."""


class Rebuild:
    """One pass over all records. Safe beside a running service: a document is never taken back to an older state for good, because
    orders that moved meanwhile are shown once more."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        brokers: BrokersOfAccounts,
    ) -> None:
        self._store = store
        self._clock = clock
        self._brokers = brokers
        self._unknown: set[str] = set()
        self._never_told: set[str] = set()
        self._trades: set[str] = set()
        self._signals_left: set[str] = set()
        self._contradicted: dict[str, str] = {}

    async def run(self, order_ids: Sequence[str], entries: Sequence[LedgerEntry]) -> Rebuilt:
        """`entries`: the whole ledger; `order_ids`: all orders, oldest first, read after it. Raises StoreUnavailable; may then be run
        again."""
        applied = {order_id: lines for entry in entries for order_id, lines in entry.applied.items()}
        by_key: dict[LedgerKey, list[OrderWithLines]] = {entry.key: [] for entry in entries}
        shown = 0
        for chunk in _chunks(order_ids):
            booked: dict[str, OrderWithLines] = {}
            moved = list(chunk)
            for _ in range(ROUNDS):
                stored = await self._store.load(moved)
                booked.update((s.order.order_id, _booking(s, applied)) for s in stored)
                await self._show(stored, applied)
                moved = await self._moved(stored)
                if not moved:
                    break
            shown += len(booked)
            for booking in booked.values():
                if booking.lines and isinstance(booking.order.request, OrderRequest):
                    by_key.setdefault(key_of(booking.order), []).append(booking)
        contradictions = await self._show_positions(entries, by_key)
        accounts = await self._show_accounts({entry.key.account_id for entry in entries})
        return Rebuilt(
            orders=shown - len(self._never_told),
            positions=len(entries),
            accounts=accounts,
            trades=len(self._trades),
            never_told=len(self._never_told),
            unknown_brokers=tuple(sorted(self._unknown)),
            contradictions=(*contradictions, *self._contradicted.values()),
            signals_left=tuple(sorted(self._signals_left)),
        )

    async def _moved(self, stored: Sequence[Stored]) -> list[str]:
        before = {s.order.order_id: (s.order.version, s.told.ledger) for s in stored}
        now = await self._store.load(list(before))
        return [s.order.order_id for s in now if before[s.order.order_id] != (s.order.version, s.told.ledger)]

    async def _show(self, stored: Sequence[Stored], applied: Mapping[str, Iterable[Line]]) -> None:
        told = [b for s in stored if (b := _as_told(s, applied)) is not None]
        self._never_told |= {s.order.order_id for s in stored}
        self._never_told -= {b.order.order_id for b in told}
        if not told:
            return
        now = self._clock.now()
        names = {booked.order.order_id: _names_around(booked.order) for booked in told}
        relations = await self._relations(told, applied, set().union(*names.values()))
        writes = []
        for booked in told:
            writes.append(self._confirmation(booked, now))
            if booked.order.request.request_order_id is not None:
                writes.append(trading_order_write(booked.order, now))
            if self._store.unreadable(names[booked.order.order_id]):
                self._signals_left.add(booked.order.signal_id)
            else:
                writes += relations.signal_writes(booked.order, now)
        await self._store.write_views([replace(write, rewrites=True, is_probably_new=False) for write in writes])
        await self._show_trades(stored)

    async def _show_trades(self, stored: Sequence[Stored]) -> None:
        """Writes the rows that are missing. Those that are there stay, as they never change; one that is not what the record gives is told of."""
        rows = [r for s in stored for r in booked_trades(s, self._brokers.mode_of(s.order.request.account_id))]
        if not rows:
            return
        await self._store.write_views(list(map(trade_write, rows)))
        kept = {row.trade_id: row for row in await self._store.trades_named([row.trade_id for row in rows])}
        for row in rows:
            self._trades.add(row.trade_id)
            found = kept.get(row.trade_id)
            if found is None or replace(found, mode=row.mode) != row:
                words = "is not as its record gives it" if found else "cannot be read"
                self._contradicted[row.trade_id] = f"{row.trade_id}: the row of order {row.order_id} {words}"

    def _confirmation(self, booked: BookedOrder, now: datetime) -> ViewWrite:
        account_id = booked.order.request.account_id
        document_id = confirmation_id(booked.order)
        broker = self._brokers.broker_shown(document_id)
        if not broker:
            broker = "NONE" if account_id is None else self._brokers.broker_of(account_id)
        fields = confirmation_fields(booked.order, broker=broker or "", realized_pnl=booked.realized_pnl, now=now)
        if broker is None:
            self._unknown.add(str(account_id))
            del fields["broker"]
        return ViewWrite(View.CONFIRMATIONS, document_id, fields, "event_number", booked.order.version)

    async def _relations(
        self, told: Sequence[BookedOrder], applied: Mapping[str, Iterable[Line]], names: Iterable[str]
    ) -> Relations:
        """The orders that these and their signals' documents speak of, as they are now."""
        around = {
            s.order.order_id: as_last_shown(_booking(s, applied), s.order.version)
            for s in await self._store.find(sorted(names))
        }
        found: dict[str, BookedOrder] = {order_id: booked for order_id, booked in around.items() if booked is not None}
        found.update((booked.order.order_id, booked) for booked in told)
        unnamed = {b.order.signal_id for b in found.values() if signal_document_id(b.order) is None}
        documents: dict[str, Any] = await self._store.signal_documents(sorted(unnamed)) if unnamed else {}
        return Relations(found.values(), documents)

    async def _show_positions(
        self, entries: Sequence[LedgerEntry], by_key: Mapping[LedgerKey, Sequence[OrderWithLines]]
    ) -> tuple[str, ...]:
        contradictions: list[str] = []
        for entry in entries:
            whole, found = refolded(entry, by_key[entry.key])
            contradictions += found
            writes = [
                ViewWrite(View.POSITIONS, document_id, fields, "sequence", entry.sequence, rewrites=True)
                for _, (document_id, fields) in position_documents(whole)
            ]
            for chunk in _chunks(writes):
                await self._store.write_views(chunk)
        return tuple(contradictions)

    async def _show_accounts(self, account_ids: Iterable[str]) -> int:
        """How many accounts have a document, which is brought up to date; none is made."""
        shown = 0
        for account_id in sorted(account_ids):
            if await self._store.has_trading_account(account_id):
                shown += await self._show_account(account_id)
        return shown

    async def _show_account(self, account_id: str) -> bool:
        """False: its positions cannot all be read, which the store says, and its document stays as it is."""
        for _ in range(ROUNDS):
            found = await self._store.open_ledgers(account_id)
            if found is None:
                return False
            entries = sorted(found, key=lambda e: e.key.ledger_id)
            elements = {"open_positions": [open_position_element(entry) for entry in entries]}
            await self._store.write_views([ViewWrite(View.TRADING_ACCOUNTS, account_id, elements, creates=False)])
            now = await self._store.open_ledgers(account_id)
            if {(e.key, e.version) for e in now or ()} == {(e.key, e.version) for e in entries}:
                break
        return True


def _names_around(order: Order) -> set[str]:
    """What the order and its signals' documents speak of may be called."""
    refs = order.request.entry_refs if isinstance(order.request, OrderRequest) else ()
    return {f"{kind}:{name}" for kind in ("signal", "exit_of") for name in (*order.names, *refs)}


def _as_told(stored: Stored, applied: Mapping[str, Iterable[Line]]) -> BookedOrder | None:
    """As the world was last told of it, but for what its contract is worth: that is as is known now."""
    told = as_last_shown(_booking(stored, applied), stored.told.ledger)
    terms = stored.order.terms
    return told if told is None or terms is None else replace(told, order=replace(told.order, terms=terms))


def _booking(stored: Stored, applied: Mapping[str, Iterable[Line]]) -> OrderWithLines:
    """With the lines that the ledger still holds for the order."""
    order_id = stored.order.order_id
    return OrderWithLines(
        stored.order, {line.event_number: line for line in applied.get(order_id, ())} | dict(stored.told.lines)
    )


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
