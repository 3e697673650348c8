"""The documents of the shared collections that an order's events change; the words of each are made in core/views."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.views.shared import (
    BookedOrder,
    confirmation_fields,
    confirmation_id,
    made_up_signal_id,
    open_position_element,
    position_documents,
    signal_document_id,
)
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.delivery.cursor import Cursors, Progress
from execution_service.delivery.ledger import Parcel
from execution_service.delivery.past_trades import trade_writes
from execution_service.delivery.signals import Relations, related_names, trading_order_write
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.views import View, ViewWrite

REMEMBERED_ABSENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Around:
    """The orders around some that are to be shown, and the `_id` of each signal that is known in `signal_store` by its signal id only and has another
    than that which is made up for it; of those to be shown that one, too."""

    orders: Sequence[Stored]
    progress: Mapping[str, Progress]
    """By our order id, of those that had something to deliver or to commit when they had been read: it knows what was booked before their
    records do."""
    documents: Mapping[str, Any]
    beside_unreadable: Collection[str] = ()
    """By our id, those that are to be shown beside a record that cannot be read: what their signals have made is not known."""


class Views:
    """Each document carries the number that it reflects and only moves forward, so that writing it again does no harm."""

    def __init__(
        self, *, store: Store, live_orders: LiveOrders, cursors: Cursors, clock: Clock, parties: NamesOfAccounts
    ) -> None:
        self._store = store
        self._live = live_orders
        self._cursors = cursors
        self._clock = clock
        self._parties = parties
        self._shown_episodes: dict[LedgerKey, int] = {}
        self._absent_accounts: dict[str, float] = {}

    async def write(self, writes: Sequence[ViewWrite], touched: Sequence[LedgerEntry]) -> None:
        """Raises StoreUnavailable; some may have been written then."""
        await self._store.write_views(writes)
        for entry in touched:
            self._shown_episodes[entry.key] = entry.position.episode

    async def prepare(
        self, parcels: Sequence[Parcel], touched: Sequence[LedgerEntry], around: Around
    ) -> list[ViewWrite]:
        """What is to be written for these orders, whose lines are known, and for the entries that they touched. `around`: what `look_around`
        found for these orders, or for more. Raises StoreUnavailable."""
        now = self._clock.now()
        relations = self._relations(parcels, around)
        writes = []
        for parcel in parcels:
            order = parcel.order
            fields = confirmation_fields(
                order,
                broker=self._parties.account_names_of(order.request.account_id).broker,
                realized_pnl=parcel.progress.told.realized_pnl,
                now=now,
            )
            writes.append(
                ViewWrite(
                    View.CONFIRMATIONS,
                    confirmation_id(order),
                    fields,
                    "event_number",
                    order.version,
                    is_probably_new=not parcel.progress.has_document,
                )
            )
            if order.request.request_order_id is not None:
                writes.append(trading_order_write(order, now))
            if order.order_id not in around.beside_unreadable:  # else a part would pass for the whole
                writes += relations.signal_writes(order, now)
            writes += trade_writes(parcel.applied_events, self._parties.account_names_of(order.request.account_id).mode)
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

    async def look_around(self, parcels: Sequence[Parcel]) -> Around:
        """Reads what the signals' documents need beyond the orders at hand: other legs, entries of exits, exits of entries. It needs nothing
        of what the ledger says of them. Raises StoreUnavailable."""
        related = {p.order.order_id: related_names(p.order, was_told=p.progress.has_document) for p in parcels}
        names = sorted(set().union(*related.values()))
        orders = await self._orders_named(names) if names else []
        lacking = (
            [i for i, theirs in related.items() if self._store.unreadable(theirs)]
            if self._store.unreadable(names)
            else []
        )
        progress = {s.order.order_id: p for s in orders if (p := self._cursors.get(s.order.order_id)) is not None}
        shown = [*(parcel.order for parcel in parcels), *map(self._live.latest, orders)]
        unnamed = {order.signal_id for order in shown if signal_document_id(order) is None}
        # Of the others that were made up it is known by which id, whether they are there or not.
        others = unnamed - {parcel.order.signal_id for parcel in parcels}
        made_up = [made_up_signal_id(signal_id) for signal_id in sorted(others)]
        documents = await self._store.signal_documents(sorted(unnamed), besides=made_up) if unnamed else {}
        return Around(orders, progress, documents, lacking)

    async def _orders_named(self, names: Sequence[str]) -> Sequence[Stored]:
        """Those whose last cursors were committed while they were being read are read again: nobody here knows any more what was booked of
        them."""
        found = {s.order.order_id: s for s in await self._store.find(names)}
        behind = [
            order_id
            for order_id, stored in found.items()
            if stored.told.ledger < stored.order.version and self._cursors.get(order_id) is None
        ]
        if behind:
            found |= {s.order.order_id: s for s in await self._store.load(behind)}
        return list(found.values())

    def _relations(self, parcels: Sequence[Parcel], around: Around) -> Relations:
        """With the profit that is known now."""
        found = {}
        for stored in around.orders:
            order_id = stored.order.order_id
            progress = self._cursors.get(order_id) or around.progress.get(order_id)
            told = stored.told if progress is None else progress.told
            found[order_id] = BookedOrder(self._live.latest(stored), told.realized_pnl)
        for parcel in parcels:
            found[parcel.order.order_id] = BookedOrder(parcel.order, parcel.progress.told.realized_pnl)
        return Relations(found.values(), around.documents)
