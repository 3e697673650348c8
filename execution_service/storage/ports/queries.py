"""What people and programs that watch ask of the store: pages of records and positions, counts; nothing that trades waits for the answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.trades.rows import TradeRow
from execution_service.storage.ports.commands import Command, DeadLetter
from execution_service.storage.ports.orders import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page ended: the moment and the id of its last row. The next page begins behind it, whatever was added meanwhile."""

    moment: datetime
    row_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFilter:
    """Which orders are asked for; None: any."""

    statuses: Collection[Status] | None = None
    account_id: str | None = None
    strategy: str | None = None
    symbol: str | None = None
    is_unsettled: bool = False
    """Only those that are unfinished, or of which something is still to be delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionRow:
    """One holding from flat to flat, as the collection `positions` shows it."""

    document_id: str
    ledger_id: str
    episode: int
    account_id: str
    strategy: str
    symbol: str
    is_long: bool
    is_open: bool
    quantity: float
    average_price: float | None
    realized_pnl: float | None
    """None: the money per point of the price is not known."""
    currency: str | None
    opened_at: datetime
    closed_at: datetime | None
    shown_order_ids: Sequence[str]
    """The latest orders, by the ids that the collection shows: the broker's, else ours."""
    order_count: int


@dataclass(frozen=True, slots=True)
class PageOfTrades:
    """Rows of `trades`, the latest first. Where others have written there, it has fewer than were asked for, and is not the last for that."""

    rows: Sequence[TradeRow]
    following: Place | None
    """Behind which the next page begins; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cash:
    """What trading has changed of the money of one account in one currency, exactly."""

    account_id: str
    currency: str
    traded: Decimal
    """Had for what was sold, less what was paid; without commissions."""
    commissions: Decimal
    """Paid."""
    unknown: int
    """Executions that stand and of which it is not known what a unit is worth: as long as there are any, `traded` is not all."""

    @property
    def change(self) -> Decimal:
        return self.traded - self.commissions


class QueryStore(Protocol):
    """Questions, answered in threads of their own. Each raises StoreUnavailable."""

    async def page_of_orders(self, chosen: OrderFilter, after: Place | None, limit: int) -> list[Stored]:
        """The latest first, by when they were received. Their ledger lines come with them."""

    async def orders_named(self, name: str) -> list[Stored]:
        """By a signal's id, our order id, upstream's, the broker's, or our tag at the broker; the oldest first."""

    async def orders_shown_as(self, shown_ids: Collection[str]) -> list[Stored]:
        """By the ids that the shared collections show: the broker's, else ours."""

    async def order_by_id(self, order_id: str) -> Order | None:
        """By our id."""

    async def counts_of_orders(self) -> Mapping[tuple[str, str], int]:
        """How many records there are, by status and account."""

    async def held_positions(self) -> list[LedgerEntry]:
        """All that is held, exactly."""

    async def page_of_positions(self, is_open: bool | None, after: Place | None, limit: int) -> list[PositionRow]:
        """The latest first, by when they were opened."""

    async def position_row(self, document_id: str) -> PositionRow | None: ...

    async def counts_of_positions(self) -> Mapping[str, int]:
        """How many there are OPEN and CLOSED."""

    async def latest_trades(self, after: Place | None, limit: int) -> PageOfTrades:
        """Without what others have written there."""

    async def trades_named(self, trade_ids: Collection[str]) -> list[TradeRow]:
        """In no order; without those that are not there, or cannot be read."""

    async def cash_by_trades(self) -> Sequence[Cash]:
        """Of all rows of `trades`, by account and currency."""

    async def unprotected_entries(self) -> list[Stored]:
        """Entries that are held without the protection that they ask for, or it is in doubt; the oldest first."""

    async def discrepancies(self) -> list[Discrepancy]:
        """Those that are open, of all accounts, the oldest first."""

    async def page_of_discrepancies(
        self, *, is_open: bool, account_id: str | None, after: Place | None, limit: int
    ) -> list[Discrepancy]:
        """Those that are open, or all that ever were, the latest first, by when they were opened. `account_id` None: of all accounts."""

    async def adoptions_closing(self, discrepancy_ids: Collection[str]) -> Mapping[str, Sequence[str]]:
        """The adoptions that are to close these differences, by the signals of their records."""

    async def latest_dead_letters(self, limit: int, after: Place | None = None) -> list[DeadLetter]:
        """The latest first, by when they were received."""

    async def unfinished_commands(self) -> list[Command]:
        """Those that nobody has carried out yet, the oldest first."""

    async def sizes(self) -> Mapping[str, int]:
        """How many dead letters, new commands, unsent alerts, open discrepancies, and orders that a broker has taken there are."""
