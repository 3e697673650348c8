"""How much of each limit of risk is used, and which kill switches are engaged, as figures; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from execution_service.core.orders.order import Order
from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.kill import KillLevel, Switch
from execution_service.core.risk.limits import LimitType, RiskLimits, Scope
from execution_service.core.risk.usage import counted, last_judged

Use = tuple[str, str, str]
"""Account, limit, and where the limit is written, as a person names it."""


class HoldsLimits(Protocol):
    """Who knows the limits that hold now."""

    @property
    def limits(self) -> RiskLimits: ...


class KnowsSwitches(Protocol):
    """Who knows the kill switches."""

    async def current(self) -> Iterable[Switch]:
        """Raises StoreUnavailable: they are not known."""


class ReadsRiskBooks(Protocol):
    """Who keeps the accounts' risk documents."""

    async def risk_books(self) -> list[RiskBook]:
        """Raises StoreUnavailable."""


class JudgedLimits:
    """What the latest verdicts said of limits that can be compared only where there is an order. Remembered from what is recorded, for an account
    no more than there are limits written."""

    def __init__(self) -> None:
        self._uses: dict[Use, dict[str, tuple[Decimal, Decimal]]] = {}

    def note(self, order: Order, limits: RiskLimits) -> None:
        """With each record of an order, whatever it is."""
        for (account, limit, total), (actual, value, _) in last_judged((order,)).items():
            for table, values in limits.tables.items():
                if table.account_id in (None, account) and values.of(LimitType(limit)) == value:
                    totals = self._uses.setdefault((account, limit, str(table)), {})
                    totals.pop(total, None)
                    totals[total] = (actual, value)
                    if len(totals) > TOTALS_REMEMBERED:
                        del totals[next(iter(totals))]
                    break

    def ratios(self) -> dict[Use, float]:
        """The largest of each, of the totals judged last."""
        return {use: max(_ratio(a, v) for a, v in totals.values()) for use, totals in self._uses.items()}


TOTALS_REMEMBERED = 200
"""Of one limit: of so many symbols or strategies it is remembered how much of it was used."""


def risk_use(limits: RiskLimits, books: Iterable[RiskBook], judged: JudgedLimits, now: datetime) -> Mapping[Use, float]:
    """By account, limit and where it is written; 1: used up. What the accounts' documents tell is so now, and outweighs what verdicts said."""
    found: dict[Use, float] = {}
    for book in books:
        for usage in counted(limits, book, now, UTC):
            use = (book.account_id, str(usage.limit), str(usage.table))
            found[use] = max(found.get(use, 0.0), _ratio(usage.actual_value, usage.limit_value))
    return judged.ratios() | found


def engaged(switches: Iterable[Switch]) -> Mapping[tuple[str, str], float]:
    """By scope and level; 1: engaged. A scope that was engaged once stays with 0, so that whoever watches sees it end."""
    found = {(str(Scope()), str(level)): 0.0 for level in KillLevel}
    for switch in switches:
        for level in KillLevel:
            found[str(switch.scope), str(level)] = float(switch.level is level)
    return found


def _ratio(actual: Decimal, limit: Decimal) -> float:
    """Of a limit of 0: nothing, or all of it, is used."""
    return float(actual / limit) if limit else float(actual > 0)
