"""What the risk gates of all accounts go by: the limits that hold now, and the kill switches; both are changed while the service runs."""

from __future__ import annotations

from typing import Protocol

from execution_service.core.risk.breaches import Breached
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.kill import KillState
from execution_service.core.risk.limits import RiskLimits
from execution_service.trading.market_hours import MarketHours, NoHours


class Switches(Protocol):
    """Who knows the kill switches."""

    async def state(self) -> KillState:
        """All of them, as they were within the last second; where they cannot be read now, those that are known last, and told as such."""


class EngagesSwitches(Protocol):
    """Who can engage a kill switch."""

    async def engage_for_breach(self, breach: Breached) -> None:
        """Engaged, durable, when it returns; told to people by whoever watches the switches. The same breach engages once. Raises
        StoreUnavailable: it may be engaged, and is to be asked for again."""


class EngagesNone:
    """Where there are no switches."""

    async def engage_for_breach(self, breach: Breached) -> None:
        """Nothing is stopped by it but what the limit itself refuses."""


class NoSwitches:
    """Where there are none."""

    async def state(self) -> KillState:
        return KillState()


class RiskRules:
    """One for all accounts of the process."""

    def __init__(
        self, limits: RiskLimits | None = None, switches: Switches | None = None, zones: Zones | None = None
    ) -> None:
        """Without limits those that are built in hold, without switches nothing is stopped until somebody is named who knows them."""
        self.limits = RiskLimits() if limits is None else limits
        """Those that hold for the next order that is judged."""
        self.zones = Zones() if zones is None else zones
        """Of the accounts' trading days."""
        self._given = switches
        self.switches: Switches = NoSwitches() if switches is None else switches
        self.hours: MarketHours = NoHours()
        """Who knows when markets are open."""

        self.engages: EngagesSwitches = EngagesNone()
        """Who engages the switch of a limit that was broken, where `on_breach` says so."""

    def look_at(self, switches: Switches) -> None:
        """Who knows the kill switches in this process, where none was given."""
        if self._given is None:
            self.switches = switches
