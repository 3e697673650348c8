"""All ports of the store in one, with its life: for wiring and tests."""

from __future__ import annotations

from typing import Protocol

from execution_service.runtime.supervision import Keeper
from execution_service.storage.ports.alerts import AlertStore
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.storage.ports.commands import CommandStore
from execution_service.storage.ports.discrepancies import DiscrepancyStore
from execution_service.storage.ports.leases import LeaseStore
from execution_service.storage.ports.ledger import LedgerStore
from execution_service.storage.ports.orders import OrderStore
from execution_service.storage.ports.plans import PlanStore
from execution_service.storage.ports.queries import QueryStore
from execution_service.storage.ports.risk import RiskStore
from execution_service.storage.ports.stances import StanceStore
from execution_service.storage.ports.switches import SwitchStore
from execution_service.storage.ports.tokens import TokenStore
from execution_service.storage.ports.unreadable import UnreadableStore
from execution_service.storage.ports.views import ViewStore


class Store(
    OrderStore,
    LedgerStore,
    CommandStore,
    AlertStore,
    DiscrepancyStore,
    LeaseStore,
    RiskStore,
    ViewStore,
    SwitchStore,
    UnreadableStore,
    BookmarkStore,
    QueryStore,
    TokenStore,
    PlanStore,
    StanceStore,
    Protocol,
):
    """All that is kept, for whoever opens it and hands it on; a part asks for no more of it than it needs.

    Every write is durable when its coroutine returns. While the store is away the records' updates wait and go on by themselves; reads and
    the other writes raise StoreUnavailable."""

    async def open(self) -> None:
        """Raises StoreUnavailable where the server cannot be reached, or is not fit to be used."""

    async def be_kept(self, keeper: Keeper) -> None:
        """What the store runs is the keeper's from now on; to be called once it is open, and to be ended before it is closed."""

    async def close(self) -> None:
        """Ends after the write under way."""

    async def check(self) -> None:
        """A question that costs next to nothing. Raises StoreUnavailable."""

    def silent_seconds(self) -> float:
        """How long the server has not been reached; 0: it answers, or was not asked."""
