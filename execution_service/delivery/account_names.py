"""What an order's record does not hold about its account, and those who speak of the order need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Party:
    account_name: str | None
    broker: str


class Parties(Protocol):
    """Who knows the accounts."""

    def party_of(self, account_id: str | None) -> Party:
        """Of an account that is not configured: nobody, at no broker."""
