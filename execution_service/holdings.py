"""What we hold by our records, all strategies of an account: the ledger, and the fills that are recorded and not booked yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from brokers.base import Instrument
from execution_service.core.effects import happenings
from execution_service.core.errors import UnreadableRecord
from execution_service.core.ledger import LedgerEntry, key_of, with_unbooked
from execution_service.core.order import ZERO, OrderRequest
from execution_service.core.reconcile import Holding, by_product
from execution_service.live import LiveOrders
from execution_service.ports import Store


async def holdings(
    live_orders: LiveOrders,
    store: Store,
    account_id: str,
    symbols: Iterable[str],
    products_of: Callable[[Instrument], Sequence[str]],
) -> list[Holding]:
    """What is held now, and what was once of these symbols and is flat; by product where the broker holds these apart (`products_of`, the
    usual one first). Raises StoreUnavailable."""
    # From before the question: an order may be booked, told and let go of while the store answers.
    recorded = [
        (live, live.told.world)
        for live in live_orders.by_id.values()
        if isinstance(live.order.request, OrderRequest)
        and live.order.request.account_id == account_id
        and live.order.fills
    ]
    entries = {e.key: e for e in await store.ledgers_of_account(account_id, sorted(set(symbols)))}
    unread = {key for live, _ in recorded if (key := key_of(live.order)) not in entries}
    for key in sorted(unread, key=lambda key: key.ledger_id):
        with contextlib.suppress(UnreadableRecord):  # which the store has said, and tells below
            entries |= await store.ledgers([key])
    for live, world in recorded:
        key = key_of(live.order)
        entry = entries.get(key) or LedgerEntry(key=key, instrument=live.order.accepted_request.instrument)
        entries[key] = with_unbooked(entry, [(live.order, happenings(live.order, world), live.told.lines)])
    unclear = store.spoilt_ledgers(account_id)
    return [
        *(each for entry in entries.values() for each in by_product(entry, products_of(entry.instrument))),
        *(Holding(instrument=each, quantity=ZERO, is_unclear=True) for each in unclear if each.symbol),
    ]
