"""Stances as they are kept: one versioned document for each scope, with its history."""

from __future__ import annotations

from typing import Protocol

from execution_service.core.planning.stances import StanceRecord, Stances
from execution_service.core.risk.limits import Scope


class StanceStore(Protocol):
    """The stances. Each raises StoreUnavailable: a write may have been done."""

    async def stances(self) -> Stances:
        """All, as they are now; one that cannot be read is doubtful."""

    async def put_stance(self, record: StanceRecord) -> bool:
        """In the place of the version before it, of what cannot be read there, or of nothing; durable when it returns. False, and nothing is
        written: somebody has changed it since."""

    async def raise_fences(self, scope: Scope) -> int:
        """Orders within the scope that were judged before and have not left are judged anew; how many accounts that concerns."""
