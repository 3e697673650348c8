"""How a part has people told of what belongs to no order, for those that may not import the delivery; raises nothing itself."""

from __future__ import annotations

from typing import Protocol


class RaisesAlerts(Protocol):
    """Who stores alerts and has them sent: one message a minute for each kind, with a count."""

    async def raise_alert(self, kind: str, text: str, count: int = 1) -> None:
        """Stored as soon as the store is there; until then it is kept in memory. Raises nothing for a store that is away."""

    async def raise_alert_durably(self, kind: str, text: str, count: int = 1) -> None:
        """Durable when it returns. Raises StoreUnavailable: it may not be stored, and is to be raised again."""

    async def raise_alert_once(self, alert_id: str, kind: str, text: str) -> None:
        """Never sent twice, however often it is raised under its id. Raises StoreUnavailable: it may not be stored."""
