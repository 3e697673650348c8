"""How much of each limit of risk is used, and which kill switches are engaged, as figures; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from execution_service.core.risk.counters import Zones
from execution_service.core.risk.kill import KillLevel, KillState, Switch
from execution_service.core.risk.limits import RiskLimits, Scope
from execution_service.core.risk.usage import Usage

Use = tuple[str, str, str]
"""Account, limit, and where the limit is written, as a person names it."""


class HoldsLimits(Protocol):
    """Who knows the limits that hold now."""

    @property
    def limits(self) -> RiskLimits: ...

    @property
    def zones(self) -> Zones:
        """Of the accounts' trading days."""


class KnowsSwitches(Protocol):
    """Who knows the kill switches."""

    async def state(self) -> KillState:
        """As they are now, or as they were last."""


def risk_use(usages: Iterable[Usage]) -> Mapping[Use, float]:
    """By account, limit and where it is written; 1: used up. The largest, where one limit binds several totals."""
    found: dict[Use, float] = {}
    for usage in usages:
        use = (usage.account_id, str(usage.limit_type), str(usage.table))
        found[use] = max(found.get(use, 0.0), float(usage.percent) / 100)
    return found


def engaged(switches: Iterable[Switch]) -> Mapping[tuple[str, str], float]:
    """By scope and level; 1: engaged. A scope that was engaged once stays with 0, so that whoever watches sees it end."""
    found = {(str(Scope()), str(level)): 0.0 for level in KillLevel}
    for switch in switches:
        for level in KillLevel:
            found[str(switch.scope), str(level)] = float(switch.level is level)
    return found
