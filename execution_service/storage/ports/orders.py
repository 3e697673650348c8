"""The order records: what is kept of an order, how far each sink has delivered it, and how that is asked for and written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Protocol

from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import Line

NOTHING_LEFT: Mapping[str, str] = MappingProxyType({})


class VersionConflict(Exception):
    """Somebody else wrote the record first. `current` is what is stored now."""

    def __init__(self, current: Stored) -> None:
        super().__init__(f"order {current.order.order_id} is at version {current.order.version} already")
        self.current = current


WORLD, PEOPLE, LEDGER = "world", "people", "ledger"
"""The delivery cursors of confirmations, of notifications, and of ledger and views, by their names in the record. Earlier versions had no
`ledger`, and moved `world` when all three of ledger, views and confirmations were done: so one of them that takes an order over delivers
again what it does not know of, and loses nothing."""
SIGNALS = "signals"
"""The cursor of the signals' documents. Only a record has it that was once booked beside one that cannot be read: else they are up to date where
ledger and views are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How far an order was delivered: for each sink's cursor the number of the last event delivered."""

    world: int = 0
    """`execution-confirmations`."""
    people: int = 0
    """Telegram."""
    lines: Mapping[int, Line] = field(default_factory=dict)
    """The ledger's lines for this order's events."""
    others: Mapping[str, int] = field(default_factory=dict)
    """The cursors of the other sinks, by name."""

    def at(self, cursor: str) -> int:
        """One that is not in the record stands where `world` does: the record was last delivered by a version that did not have it. But that of
        the signals' documents stands where that of ledger and views does."""
        if cursor == PEOPLE:
            return self.people
        if cursor == SIGNALS and SIGNALS not in self.others:
            return self.ledger
        return self.others.get(cursor, self.world)

    @property
    def ledger(self) -> int:
        """Ledger and views."""
        return self.at(LEDGER)

    @property
    def lowest(self) -> int:
        """Up to here every sink is done."""
        return min(self.world, self.people, *self.others.values())

    @property
    def realized_pnl(self) -> Decimal:
        return sum((line.realized for line in self.lines.values()), Decimal(0))


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it is in the store."""

    order: Order
    told: Told

    @property
    def is_unsettled(self) -> bool:
        """Unfinished, or something about it is still to be delivered."""
        return not self.order.status.is_final or self.told.lowest < self.order.version

    @property
    def realized_pnl(self) -> Decimal | None:
        """What its fills have realised by the ledger, in its currency, before fees. None where nothing has filled, what a point is worth is not
        known, or the record does not have all of it from the ledger yet."""
        order = self.order
        is_known = order.fills and order.money_per_point is not None and self.told.ledger >= order.version
        return self.told.realized_pnl if is_known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorCommit:
    """Moves the delivery cursors of one order. `version` is the order's at that time: if it is still the same and final (`is_settled`), and all
    cursors have reached it, the record is settled. A cursor that is not stated stays where it is; none goes back."""

    order_id: str
    version: int
    is_settled: bool
    world: int | None = None
    people: int | None = None
    others: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[int, Line] = field(default_factory=dict)
    """Kept before any cursor moves."""

    @property
    def cursors(self) -> Mapping[str, int]:
        """Those stated, by their names in the record."""
        stated = {WORLD: self.world, PEOPLE: self.people, **self.others}
        return {name: number for name, number in stated.items() if number is not None}


@dataclass(frozen=True, slots=True)
class Unsettled:
    """As much of an unsettled record as tells whether somebody has to read it."""

    order_id: str
    version: int
    account_id: str | None


class OrderStore(Protocol):
    """The order records, with the delivery cursors of each."""

    async def insert_orders(
        self, orders: Sequence[Order], left: Mapping[str, str] = NOTHING_LEFT
    ) -> list[Order | UnreadableRecord | None]:
        """Stores new orders; for each: None if it is new, else the order that has its identity already, or why that cannot be read. `left`:
        the desk, by our id, of those that are left for its holder to find."""

    async def append(self, order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
        """Adds events to the record, if nobody else has; an urgent one does not wait for others to be written with it. While the store is
        away it waits, and goes on by itself. Raises VersionConflict; InvalidTransition before anything is written."""

    async def commit_cursors(self, commits: Sequence[CursorCommit]) -> None:
        """Raises what any one of them meets, once all have ended; each may be made again. While the store is away it waits, and goes on by
        itself."""

    async def open_orders(self, account_id: str | None = None) -> list[Stored]:
        """The records that are unfinished or owe the world something, all or one account's, oldest first."""

    async def unsettled(self, account_id: str | None = None) -> list[Unsettled]:
        """The same records in brief, all or one account's."""

    async def leave(self, left: Mapping[str, str]) -> None:
        """Leaves records, by our id, for the holder of a desk to look at."""

    async def left_for(self, partitions: Sequence[str]) -> list[Unsettled]:
        """Records left for these desks, in brief, oldest first."""

    async def picked_up(self, looked_at: Sequence[Unsettled], partitions: Sequence[str]) -> None:
        """These were looked at, as they were in brief; what was written since stays left."""

    async def load(self, order_ids: Sequence[str]) -> list[Stored]:
        """Records by our id, oldest first; without those that cannot be read."""

    async def order_ids_after(self, order_id: str, limit: int) -> list[str]:
        """Of all records, sorted, those behind this one."""

    async def find(self, names: Sequence[str]) -> list[Stored]:
        """Records by what they may be called: `client:…`, `broker:…`, `request:…`, `signal:…` (what was adopted in the place of that
        signal's entry too), `exit_of:…`, `discrepancy:…` (adoptions that are to close it). Those that cannot be read are left out, as
        everywhere."""

    def set_aside(self) -> list[str]:
        """Our ids of the records that were met and could not be read when they were last read. Asks nobody."""

    def unreadable(self, names: Collection[str], *, may_be_at_work: bool = False) -> list[str]:
        """What cannot be read of the records so called, as far as they have been met: to be asked after `find` or `load`. `may_be_at_work`:
        only of those of which it is not known that they have ended and everything was delivered."""
