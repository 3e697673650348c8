"""What stands in the ledger and among the orders around a position: read for the plan of an adoption, or of taking one back; changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from brokers.base import BrokerPosition, Instrument
from execution_service.core.adoption.entries import is_entry_of, refs_to
from execution_service.core.adoption.records import AdoptionBooks, AdoptionRequest, Plan, Refused
from execution_service.core.adoption.undoing import Recorded, plan_undoing
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of, with_unbooked
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.reconcile.instruments import may_be_the_same
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store

FOUND_AT_ONCE = 100


async def records_named(store: Store, name: str) -> list[Stored]:
    """The records of one adoption, in their order."""
    found = [s for s in await store.find([f"signal:{name}"]) if s.order.signal_id == name and s.order.adoption]
    return sorted(found, key=lambda s: s.order.identity.leg_index)


async def read_holdings(
    store: Store, account_id: str, about: Sequence[Instrument]
) -> tuple[list[LedgerEntry], list[Order]]:
    """The account's holdings with every fill that is recorded, and the adoptions among the latest orders of those that may be in one of these
    instruments, held or flat. Raises StoreUnavailable."""
    entries, unsettled = await _ledgers(store, account_id, sorted({each.symbol for each in about}))
    alike = [e for e in entries.values() if any(may_be_the_same(e.instrument, each) for each in about)]
    ids = sorted({order_id for entry in alike for order_id in entry.position.order_ids})
    found = {s.order.order_id: s.order for s in unsettled}
    for start in range(0, len(ids), FOUND_AT_ONCE):
        found |= {s.order.order_id: s.order for s in await store.load(ids[start : start + FOUND_AT_ONCE])}
    keys = {entry.key for entry in alike}
    adoptions = [order for order in found.values() if order.adoption is not None and key_of(order) in keys]
    return list(entries.values()), adoptions


async def read_books(store: Store, wish: AdoptionRequest, theirs: Sequence[BrokerPosition] | None) -> AdoptionBooks:
    """What a plan for the wish is made from. Raises StoreUnavailable."""
    named = (wish.successor or {}).get("symbol")
    symbols = {str(named).strip().upper()} if named is not None else set()
    if wish.instrument is not None:
        symbols.add(wish.instrument.symbol)
    ledgers, unsettled = await _ledgers(store, wish.account_id, sorted(symbols))
    meant = [
        entry
        for entry in ledgers.values()
        if entry.key.strategy == wish.strategy and (entry.position.is_open or entry.instrument.symbol in symbols)
    ]
    orders = await _orders_around(store, meant, unsettled, wish.entries)
    discrepancy: Discrepancy | None = None
    closing: tuple[str, ...] = ()
    if wish.discrepancy_id is not None:
        discrepancy = await store.discrepancy(wish.discrepancy_id)
        claims = await store.find([f"discrepancy:{wish.discrepancy_id}"])
        closing = tuple(sorted({s.order.signal_id for s in claims if s.order.fills}))
    return AdoptionBooks(
        ledgers=tuple(ledgers.values()),
        orders=tuple(orders),
        at_work=tuple(s.order for s in unsettled if not s.order.status.is_final),
        theirs=theirs,
        discrepancy=discrepancy,
        closing_it=closing,
    )


async def plan_of_undoing(
    store: Store, found: Sequence[Stored], theirs: Sequence[BrokerPosition] | None, now: datetime
) -> Plan | Refused:
    """How the books would stand without these records of one adoption. Raises StoreUnavailable."""
    account_id = str(found[0].order.request.account_id)
    symbols = sorted({str(stored.order.symbol) for stored in found})
    ledgers, unsettled = await _ledgers(store, account_id, symbols)
    keys = {key_of(stored.order) for stored in found}
    entries = [ref for stored in found for ref in refs_to(stored.order)]
    around = await _orders_around(store, [e for key, e in ledgers.items() if key in keys], unsettled, entries)
    books = AdoptionBooks(
        ledgers=tuple(ledgers.values()),
        orders=tuple(around),
        at_work=tuple(s.order for s in unsettled if not s.order.status.is_final),
        theirs=theirs,
    )
    return plan_undoing([Recorded(stored.order, stored.told.lines) for stored in found], books, now)


async def _ledgers(
    store: Store, account_id: str, symbols: Sequence[str]
) -> tuple[dict[LedgerKey, LedgerEntry], list[Stored]]:
    """The account's holdings with every fill that is recorded, and its unsettled records."""
    brief = await store.unsettled(account_id)
    unsettled: list[Stored] = []
    for start in range(0, len(brief), FOUND_AT_ONCE):
        unsettled += await store.load([u.order_id for u in brief[start : start + FOUND_AT_ONCE]])
    unsettled = [s for s in unsettled if isinstance(s.order.request, OrderRequest)]
    entries = {e.key: e for e in await store.ledgers_of_account(account_id, symbols)}
    filled = [s for s in unsettled if s.order.fills or s.order.busted_fill_ids]
    unread = {key for s in filled if (key := key_of(s.order)) not in entries}
    if unread:
        entries |= await store.ledgers(sorted(unread, key=lambda key: key.ledger_id))
    # After the entries, for an entry loses a line only when its order has it: else what is booked meanwhile counted twice.
    lines = await store.ledger_lines(sorted(s.order.order_id for s in filled)) if filled else {}
    for s in filled:
        key, own_lines = key_of(s.order), {**s.told.lines, **lines.get(s.order.order_id, {})}
        entry = entries.get(key) or LedgerEntry(key=key, instrument=s.order.accepted_request.instrument)
        entries[key] = with_unbooked(entry, [(s.order, applied_events(s.order, s.told.world), own_lines)])
    return dict(sorted(entries.items(), key=lambda item: item[0].ledger_id)), unsettled


async def _orders_around(
    store: Store, entries: Sequence[LedgerEntry], unsettled: Sequence[Stored], names: Iterable[str]
) -> list[Order]:
    """The orders that built these holdings and those of these names, with everything that an exit's allowance is counted from."""
    ids = sorted({order_id for entry in entries for order_id in entry.position.order_ids})
    found = {s.order.order_id: s.order for s in unsettled}
    for start in range(0, len(ids), FOUND_AT_ONCE):
        some = ids[start : start + FOUND_AT_ONCE]
        for s in (*await store.load(some), *await store.find([f"broker:{order_id}" for order_id in some])):
            found[s.order.order_id] = s.order
    called = set(names)
    for entry in entries:
        called |= {ref for order in found.values() if is_entry_of(order, entry.key) for ref in refs_to(order)}
    around = sorted(called)
    for start in range(0, len(around), FOUND_AT_ONCE):
        some = around[start : start + FOUND_AT_ONCE]
        for s in await store.find([f"{kind}:{name}" for kind in ("signal", "exit_of") for name in some]):
            found[s.order.order_id] = s.order
    return list(found.values())
