"""The risk document of each account: read, changed by compare-and-set on its version, and fenced by whoever engages a kill switch."""

from __future__ import annotations

from typing import Protocol

from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.limits import Scope


class RiskStore(Protocol):
    """What orders reserve and what is counted, one document for each account (ADR 0036). All raise StoreUnavailable."""

    async def risk_book(self, account_id: str) -> RiskBook:
        """The account's document; where there is none, one is made and stored: from then on a fence can be raised in it. Raises UnreadableRecord
        for one that cannot be understood, which is left alone."""

    async def read_risk_book(self, account_id: str) -> RiskBook | None:
        """As `risk_book`, for those who only look: where there is none, None."""

    async def risk_books(self) -> list[RiskBook]:
        """Of all accounts, by their ids; without those that cannot be understood."""

    async def save_risk_book(self, book: RiskBook) -> bool:
        """Puts it in the place of the version before; False if that is not stored any more, and the caller has to read and decide anew. Where the
        answer is lost it may be stored nevertheless."""

    async def raise_fences(self, scope: Scope) -> int:
        """A new version of the document of every account that the scope may concern (one that names no account: all), so that no write that was
        judged before succeeds; to be called when the kill switch is stored. How many there were. May be called again at will."""
