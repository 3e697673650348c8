"""What we hold by our records, all strategies of an account: the ledger, and the fills that are recorded and not booked yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import structlog

from brokers.base import Instrument
from execution_service.core.adoption.records import is_half_recorded
from execution_service.core.errors import UnreadableRecord
from execution_service.core.exact import ZERO
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of, with_unbooked
from execution_service.core.reconcile.positions import Holding, by_product
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.storage.ports.ledger import LedgerStore
from execution_service.storage.ports.orders import OrderStore

log = structlog.get_logger(__name__)


async def holdings(
    live_orders: LiveOrders,
    store: LedgerStore,
    account_id: str,
    symbols: Iterable[str],
    products_of: Callable[[Instrument], Sequence[str]],
) -> list[Holding]:
    """What is held now, and what was once of these symbols and is flat; by product where the broker holds these apart (`products_of`, the
    usual one first). Raises StoreUnavailable."""
    entries, unclear = await entries_with_unbooked(live_orders, store, account_id, symbols)
    return [
        *(each for entry in entries.values() for each in by_product(entry, products_of(entry.instrument))),
        *(Holding(instrument=each, quantity=ZERO, is_unclear=True) for each in unclear if each.symbol),
    ]


async def entries_with_unbooked(
    live_orders: LiveOrders, store: LedgerStore, account_id: str, symbols: Iterable[str]
) -> tuple[dict[LedgerKey, LedgerEntry], Sequence[Instrument]]:
    """The ledger's entries of what is held now, and of what was once held of these symbols, with the fills that are recorded and not booked
    yet; and the instruments of which nothing is known. Raises StoreUnavailable."""
    in_hand = told_before(live_orders, account_id)
    entries = {e.key: e for e in await store.ledgers_of_account(account_id, sorted(set(symbols)))}
    recorded = [(live, world) for live, world in in_hand if has_moved(live.order)]
    unread = {key for live, _ in recorded if (key := booked_to(live.order)) not in entries and key is not None}
    for key in sorted(unread, key=lambda key: key.ledger_id):
        with contextlib.suppress(UnreadableRecord):  # which the store has said, and tells below
            entries |= await store.ledgers([key])
    unclear = store.unreadable_ledgers(account_id)
    for live, world in recorded:
        try:
            key = key_of(live.order)
            entry = entries.get(key) or LedgerEntry(key=key, instrument=live.order.accepted_request.instrument)
            entries[key] = with_unbooked(entry, [(live.order, applied_events(live.order, world), live.told.lines)])
        except Exception as exc:
            # Nothing is concluded of this one's instrument; about the others all is known.
            log.exception(
                f"What an order has filled cannot be worked out: {exc}",
                action="holding_unknown",
                signal_id=live.order.signal_id,
            )
            unclear = [*unclear, *(() if live.order.instrument is None else (live.order.instrument,))]
    return entries, unclear


async def entry_with_unbooked(
    live_orders: LiveOrders, store: LedgerStore, key: LedgerKey, instrument: Instrument
) -> LedgerEntry | None:
    """One of them, with a new one of this instrument where there is none; None: nothing is known of it. Raises StoreUnavailable."""
    in_hand = told_before(live_orders, key.account_id)
    try:
        entry = (await store.ledgers([key])).get(key) or LedgerEntry(key=key, instrument=instrument)
    except UnreadableRecord:  # which the store has said
        return None
    recorded = [
        (live.order, applied_events(live.order, world), live.told.lines)
        for live, world in in_hand
        if has_moved(live.order) and is_booked_to(live.order, key)
    ]
    try:
        return with_unbooked(entry, recorded)
    except Exception as exc:
        log.exception(f"What is held of {key.ledger_id} is not known: {exc}", action="holding_unknown")
        return None


def held_in(entry: LedgerEntry, product: str | None, products: Sequence[str]) -> Decimal:
    """What the entry holds in the product, with what may be of it; negative: short. `products`: as of `by_product`."""
    return sum((each.quantity for each in by_product(entry, products) if each.product in (None, product)), ZERO)


async def half_recorded(live_orders: LiveOrders, store: OrderStore, some: Iterable[Order]) -> str | None:
    """The name of an adoption among these orders that is recorded in part only; None: there is none. Raises StoreUnavailable."""
    names = sorted({order.signal_id for order in some if order.adoption is not None})
    stored = await store.find([f"signal:{name}" for name in names]) if names else []
    records = [order for order in map(live_orders.latest, stored) if order.adoption is not None]
    return next((name for name in names if is_half_recorded([r for r in records if r.signal_id == name])), None)


def told_before(live_orders: LiveOrders, account_id: str) -> list[tuple[LiveOrder, int]]:
    """The orders in hand and how far each is told, from before the ledger is asked: while that answers an order may fill, be booked, told and let
    go of, and what was booked since is not in the answer."""
    return [
        (live, live.told.world)
        for live in live_orders.by_id.values()
        if isinstance(live.order.request, OrderRequest) and live.order.request.account_id == account_id
    ]


def has_moved(order: Order) -> bool:
    """Whether it has ever filled, though all of that may have been annulled."""
    return bool(order.fills or order.busted_fill_ids)


def is_booked_to(order: Order, key: LedgerKey) -> bool:
    """Whether the order's fills are booked to this entry; False too where that is not known."""
    return booked_to(order) == key


def booked_to(order: Order) -> LedgerKey | None:
    """The entry that the order's fills are booked to; None where that is not known."""
    try:
        return key_of(order)
    except Exception as exc:
        log.exception(
            f"Where an order is booked cannot be told: {exc}", action="holding_unknown", signal_id=order.signal_id
        )
        return None
