"""Whether the decisions that orders name exist, asked once for those that come together; what follows is decided elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from execution_service.core.orders.decisions import VerifyDecisions, decision_of
from execution_service.core.orders.order import Order
from execution_service.storage.ports.decisions import DecisionStore

REMEMBERED = 4096


class Decisions:
    """Asks the collection of decisions, which others write. One that exists is remembered; one that does not may come later."""

    def __init__(self, store: DecisionStore, verify: VerifyDecisions) -> None:
        self._store = store
        self.verify = verify
        self._known: OrderedDict[str, None] = OrderedDict()

    async def unknown(self, orders: Iterable[Order]) -> frozenset[str]:
        """Those that the orders name and that do not exist; none where nobody wants to know. Raises StoreUnavailable where that cannot be told."""
        if self.verify is VerifyDecisions.OFF:
            return frozenset()
        named = {name for order in orders if (name := decision_of(order)) is not None} - self._known.keys()
        known = await self._store.known_decisions(sorted(named)) if named else frozenset()
        self._known.update(dict.fromkeys(sorted(known)))
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return frozenset(named - known)
