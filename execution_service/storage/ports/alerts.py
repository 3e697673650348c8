"""Alerts that belong to no order, as they are kept until they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alert that belongs to no order; alarms of one kind within a minute are one, with a count."""

    alarm_id: str
    kind: str
    text: str
    count: int
    first_at: datetime


class AlertStore(Protocol):
    """Alerts that belong to no order."""

    async def raise_alarm(self, alarm: Alarm) -> None:
        """Adds to the alarm of this id, or makes it."""

    async def unsent_alarms(self) -> list[Alarm]:
        """The oldest first."""

    async def alarm_sent(self, alarm: Alarm, at: datetime) -> None:
        """People have been told of it, as often as it counts now."""
