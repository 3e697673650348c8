"""Alerts that belong to no order, as they are kept until they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert that belongs to no order; alerts of one kind within a minute are one, with a count."""

    alert_id: str
    kind: str
    text: str
    count: int
    first_at: datetime


class AlertStore(Protocol):
    """Alerts that belong to no order."""

    async def raise_alert(self, alert: Alert) -> bool:
        """Makes the alert of this id, or adds to it. False, and nothing is written: people have been told of that one already."""

    async def unsent_alerts(self) -> list[Alert]:
        """The oldest first."""

    async def alert_sent(self, alert: Alert, at: datetime) -> None:
        """People have been told of it as it is here; one that counts more by now stays to be told."""
