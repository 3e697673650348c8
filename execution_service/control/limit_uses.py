"""Shows how near each limit is, in every account that has traded: one read of the store, whichever process asks; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.counters import Trip, Zones
from execution_service.core.risk.limits import RiskLimits
from execution_service.core.risk.usage import Usage, usages


class KeepsRiskBooks(Protocol):
    """Who has what orders reserve and what is counted."""

    async def risk_books(self) -> list[RiskBook]:
        """Of all accounts, by their ids. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenLimit:
    """It lets no new risk pass until a named person enables it again."""

    account_id: str
    trip: Trip


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUses:
    """What was read in one moment."""

    usages: tuple[Usage, ...]
    """Of limits that compare more than one order; what nothing is known of yet is left out."""
    broken: tuple[BrokenLimit, ...]


async def limit_uses(store: KeepsRiskBooks, limits: RiskLimits, zones: Zones, now: datetime) -> LimitUses:
    """By the limits of now. Raises StoreUnavailable."""
    books = await store.risk_books()
    return LimitUses(
        usages=tuple(usage for book in books for usage in usages(limits, book, now, zones.of(book.account_id))),
        broken=tuple(BrokenLimit(account_id=b.account_id, trip=trip) for b in books for trip in b.counters.trips),
    )
