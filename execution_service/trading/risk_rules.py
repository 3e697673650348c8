"""What the risk gates of all accounts go by: the limits that hold now, and the kill switches; both are changed while the service runs."""

from __future__ import annotations

from typing import Protocol

from execution_service.core.risk.breaches import EngagingBreach
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.kill import KillState
from execution_service.core.risk.limits import RiskLimits
from execution_service.core.risk.safety import Policy, tightened
from execution_service.trading.market_hours import MarketHours, NoHours


class Switches(Protocol):
    """Who knows the kill switches."""

    async def state(self) -> KillState:
        """All of them, as they were within the last second; where they cannot be read now, those that are known last, and told as such."""


class EngagesSwitches(Protocol):
    """Who can engage a kill switch."""

    async def engage_for_breach(self, breach: EngagingBreach) -> None:
        """Engaged, durable, when it returns; told to people by whoever watches the switches. The same breach engages once. Raises
        StoreUnavailable: it may be engaged, and is to be asked for again."""


class EngagesNone:
    """Where there are no switches."""

    async def engage_for_breach(self, breach: EngagingBreach) -> None:
        """Nothing is stopped by it but what the limit itself refuses."""


class NoSwitches:
    """Where there are none."""

    async def state(self) -> KillState:
        return KillState()


class Safety(Protocol):
    """Who knows what the outside safety service says, from memory."""

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The last that could be read."""

    def reasons(self) -> tuple[str, ...]:
        """Why no new risk may pass at this moment, in words; empty: it may."""


class NoSafety:
    """Where there is no such service."""

    policies: tuple[Policy, ...] = ()

    def reasons(self) -> tuple[str, ...]:
        return ()


class RiskRules:
    """One for all accounts of the process."""

    def __init__(
        self, limits: RiskLimits | None = None, switches: Switches | None = None, zones: Zones | None = None
    ) -> None:
        """Without limits those that are built in hold, without switches nothing is stopped until somebody is named who knows them."""
        self._written = RiskLimits() if limits is None else limits
        self._in_force: tuple[RiskLimits, tuple[Policy, ...], RiskLimits] = (self._written, (), self._written)
        """What was worked out last: the written limits, the policies, and both together."""
        self.zones = Zones() if zones is None else zones
        """Of the accounts' trading days."""
        self.safety: Safety = NoSafety()
        self._given = switches
        self.switches: Switches = NoSwitches() if switches is None else switches
        self.hours: MarketHours = NoHours()
        """Who knows when markets are open."""

        self.engages: EngagesSwitches = EngagesNone()
        """Who engages the switch of a limit that was broken, where `on_breach` says so."""

    @property
    def written(self) -> RiskLimits:
        """Those of the file, with nothing of the safety service in them."""
        return self._written

    @property
    def limits(self) -> RiskLimits:
        """Those that hold for the next order that is judged: the written ones, tightened by the policies of the safety service."""
        written, policies, limits = self._in_force
        if written is not self._written or policies is not self.safety.policies:
            policies = self.safety.policies
            limits = tightened(self._written, policies)
            self._in_force = (self._written, policies, limits)
        return limits

    @limits.setter
    def limits(self, written: RiskLimits) -> None:
        self._written = written

    def look_at(self, switches: Switches) -> None:
        """Who knows the kill switches in this process, where none was given."""
        if self._given is None:
            self.switches = switches
