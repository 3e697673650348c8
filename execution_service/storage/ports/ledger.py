"""How the exact positions and the ledger's lines of orders are kept and asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from brokers.base import Instrument
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line


class LedgerStore(Protocol):
    """The exact positions, and the ledger's lines that each order has of its own."""

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
        """Raises UnreadableRecord where one of them is there and cannot be read."""

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        """The ledger's lines that these orders have of their own, by our id."""

    async def keep_lines(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        """Lines of the ledger by our order id, in place of those of the same numbers."""

    async def open_ledgers(self, account_id: str) -> list[LedgerEntry] | None:
        """None: they cannot all be read, and those that can are not the whole."""

    async def accounts_holding(self) -> list[str]:
        """The ids of accounts that hold something, also of those whose entries cannot be read; sorted."""

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        """The open ones, and those of these symbols that are flat; without those that cannot be read, which `unreadable_ledgers` tells then."""

    async def every_ledger(self, account_id: str) -> list[LedgerEntry]:
        """Those that are flat, too: one for each instrument that a strategy ever traded. Without those that cannot be read, which
        `unreadable_ledgers` tells then."""

    def unreadable_ledgers(self, account_id: str) -> list[Instrument]:
        """What the ledger entries are about that have been met and cannot be read, as far as they tell."""

    async def save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        """Each entry replaces the stored one of the version before. False where that was no longer the one, or may not have been: of several one
        that is refused may let all seem so, and they are to be read anew."""
