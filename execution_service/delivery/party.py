"""What an order's record does not hold about its account, and those who speak of the order need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Party:
    account_name: str | None
    broker: str
