"""What an order's record does not hold about its account, and those who speak of the order need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AccountNames:
    account_name: str | None
    broker: str
    mode: str | None = "PRODUCTION"
    """PRODUCTION or TRAINING; None: nobody knows."""


class NamesOfAccounts(Protocol):
    """Who knows the accounts."""

    def account_names_of(self, account_id: str | None) -> AccountNames:
        """Of an account that is not configured: nobody, at no broker."""
