"""The records of a plan's orders, looked up again and again while it is open: in hand, remembered, or from the store; writes none."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from execution_service.core.errors import UnreadableRecord
from execution_service.recording.live_orders import LiveOrders
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store


class OrderRecords:
    """A look costs the store nothing but for orders that were never met: those at work are in hand, and one that is settled changes only by coming
    back in hand."""

    def __init__(self, *, store: Store, live_orders: LiveOrders) -> None:
        self._store = store
        self._live = live_orders
        self._settled: dict[str, Stored] = {}

    async def of(self, order_ids: Collection[str]) -> Mapping[str, Stored]:
        """Those that are recorded, by id. Raises StoreUnavailable; UnreadableRecord where one is there and cannot be read: what became of it is not
        known then."""
        found: dict[str, Stored] = {}
        for order_id in order_ids:
            live = self._live.by_id.get(order_id)
            if live is not None:
                self._settled.pop(order_id, None)
                found[order_id] = Stored(order=live.order, told=live.told)
            elif order_id in self._settled:
                found[order_id] = self._settled[order_id]
        missing = [order_id for order_id in order_ids if order_id not in found]
        for stored in await self._store.load(missing) if missing else ():
            found[stored.order.order_id] = stored
            if not stored.is_unsettled:
                self._settled[stored.order.order_id] = stored
        if len(found) < len(order_ids) and (words := self._store.unreadable(missing)):
            raise UnreadableRecord(f"what became of its orders cannot be read: {'; '.join(words)}")
        return found

    def forget(self, order_ids: Collection[str]) -> None:
        """Their plan has ended."""
        for order_id in order_ids:
            self._settled.pop(order_id, None)
