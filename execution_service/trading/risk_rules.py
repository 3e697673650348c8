"""What the risk gates of all accounts go by: the limits that hold now, and the kill switches; both are changed while the service runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from execution_service.core.risk.kill import Switch
from execution_service.core.risk.limits import RiskLimits
from execution_service.trading.market_hours import MarketHours, NoHours


class Switches(Protocol):
    """Who knows the kill switches."""

    async def current(self) -> Sequence[Switch]:
        """All of them, as they were at no earlier moment than that of the call, or as they are kept fresh. Raises StoreUnavailable: their state is
        not known, and no new risk passes."""


class NoSwitches:
    """Where there are none."""

    async def current(self) -> Sequence[Switch]:
        return ()


class RiskRules:
    """One for all accounts of the process."""

    def __init__(self, limits: RiskLimits | None = None, switches: Switches | None = None) -> None:
        """Without limits those that are built in hold, without switches nothing is stopped until somebody is named who knows them."""
        self.limits = RiskLimits() if limits is None else limits
        """Those that hold for the next order that is judged."""
        self._given = switches
        self.switches: Switches = NoSwitches() if switches is None else switches
        self.hours: MarketHours = NoHours()
        """Who knows when markets are open."""

    def look_at(self, switches: Switches) -> None:
        """Who knows the kill switches in this process, where none was given."""
        if self._given is None:
            self.switches = switches
