"""Plans as they are kept: stored before any of their orders, and changed only where nobody else has."""

from __future__ import annotations

from typing import Protocol

from execution_service.core.planning.records import PlanRecord


class PlanStore(Protocol):
    """Each raises StoreUnavailable: a write may have been done."""

    async def insert_plan(self, record: PlanRecord) -> PlanRecord:
        """Durable when it returns; what is kept under its id: this one, or the one that was there. Raises UnreadableRecord where that cannot be
        read."""

    async def plan_named(self, plan_id: str) -> PlanRecord | None:
        """Raises UnreadableRecord."""

    async def open_plans(self) -> list[PlanRecord]:
        """Those whose result is not told yet, the oldest decision first; without those that cannot be read, which are said."""

    async def latest_plan(self, account_id: str, strategy_id: str) -> PlanRecord | None:
        """By when it was decided. Raises UnreadableRecord."""

    async def put_plan(self, record: PlanRecord) -> bool:
        """In the place of the version before. False: it is not that one any more, or the write had arrived before; it is to be read anew."""
