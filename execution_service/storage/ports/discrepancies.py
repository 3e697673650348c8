"""How the differences between our books and a broker's are kept and asked for."""

from __future__ import annotations

from typing import Protocol

from execution_service.core.reconcile.discrepancies import Discrepancy


class DiscrepancyStore(Protocol):
    """Where our books and a broker's differ."""

    async def open_discrepancies(self, account_id: str) -> list[Discrepancy]:
        """The oldest first."""

    async def discrepancy(self, discrepancy_id: str) -> Discrepancy | None:
        """Raises UnreadableRecord."""

    async def insert_discrepancy(self, discrepancy: Discrepancy) -> bool:
        """False if the same one of this account is open already."""

    async def save_discrepancy(self, discrepancy: Discrepancy) -> None:
        """Brings the stored one of this id up to date, unless it is closed: what is closed stays as it was."""
