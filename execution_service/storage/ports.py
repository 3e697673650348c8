"""What the service keeps and how it asks for it: the store's protocol, its values and its errors; names no database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from brokers.base import Instrument
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line
from execution_service.core.reconcile import Discrepancy
from execution_service.runtime.supervision import Keeper

NOTHING_LEFT: Mapping[str, str] = MappingProxyType({})


class StoreUnavailable(Exception):
    """The store could not be reached; whether a write arrived is not known."""


class VersionConflict(Exception):
    """Somebody else wrote the record first. `current` is what is stored now."""

    def __init__(self, current: Stored) -> None:
        super().__init__(f"order {current.order.order_id} is at version {current.order.version} already")
        self.current = current


WORLD, PEOPLE, LEDGER = "world", "people", "ledger"
"""The delivery cursors of confirmations, of notifications, and of ledger and views, by their names in the record. Earlier versions had no
`ledger`, and moved `world` when all three of ledger, views and confirmations were done: so one of them that takes an order over delivers
again what it does not know of, and loses nothing."""


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
        """One that is not in the record stands where `world` does: the record was last delivered by a version that did not have it."""
        return self.people if cursor == PEOPLE else self.others.get(cursor, self.world)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
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


class CommandStatus(StrEnum):
    NEW = "NEW"
    DONE = "DONE"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A wish about orders from outside: cancel, resolve, replay. `_id` makes a repeated delivery the same command."""

    command_id: str
    kind: str
    body: Mapping[str, Any]
    published_at: datetime
    received_at: datetime
    status: CommandStatus = CommandStatus.NEW
    outcome: str = ""
    active_until: datetime | None = None
    """Until then a cancel also holds for orders that have not arrived yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    message_id: str
    payload: bytes
    reason: str
    publish_time: datetime
    attributes: Mapping[str, str]
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alert that belongs to no order; alarms of one kind within a minute are one, with a count."""

    alarm_id: str
    kind: str
    text: str
    count: int
    first_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """Tells a process from every other that ever was, on any machine."""

    boot_id: str
    """Of one run of one kernel; containers share it."""
    pid_namespace: str
    """In which the process has its number: containers have their own, and each may have a process 7."""
    time_namespace: str
    """By whose clock its start is shown; empty where the kernel has none."""
    pid: int
    start_ticks: int
    """Since the kernel's start: one number is given to many processes in turn."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Where its number and its start mean what they mean."""
        return (self.boot_id, self.pid_namespace, self.time_namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who works a desk: an account's orders, or what belongs to no account. `holder` is empty where it was given back."""

    desk: str
    holder: str
    epoch: int
    """Rises with each taking."""
    beat: int
    """Rises with each renewal: what a contender watches, for the clocks of two machines cannot be compared."""
    term_seconds: float
    """Its holder's: after so long without a beat it may be taken over."""
    host: str
    pid: int
    taken_at: datetime
    renewed_at: datetime
    process: ProcessIdentity | None = None
    """The holder, where it can be told whether that is dead; None of one that could not say so, or of an earlier version."""

    @property
    def mark(self) -> tuple[str, int, int]:
        """Differs from any other state that this lease was ever in."""
        return (self.holder, self.epoch, self.beat)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """As much of an unsettled record as tells whether somebody has to read it."""

    order_id: str
    version: int
    account_id: str | None


class View(StrEnum):
    """The collections that others read."""

    CONFIRMATIONS = "CONFIRMATIONS"
    SIGNALS = "SIGNALS"
    POSITIONS = "POSITIONS"
    TRADING_ORDERS = "TRADING_ORDERS"
    TRADING_ACCOUNTS = "TRADING_ACCOUNTS"


@dataclass(frozen=True, slots=True)
class ViewWrite:
    """One document of a shared collection brought up to date. With `number`, it only moves forward: an older number changes nothing."""

    view: View
    document_id: Any
    changes: Mapping[str, Any]
    number_field: str | None = None
    number: int = 0
    creates: bool = True
    """False: updated only if it is there."""
    match_field: str = "_id"
    adds_to_sets: Mapping[str, Any] = field(default_factory=dict)
    is_probably_new: bool = False
    """Tried as an insert first, which costs the store a fraction of an upsert."""
    rewrites: bool = False
    """A document of the same number is written again, too: for repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """A document of ours that cannot be read: it is left alone, and everything else goes on."""

    account_id: str | None
    """Whose it is, as far as it tells."""
    words: str


class Store(Protocol):
    """Every write is durable when its coroutine returns. While the store is away the record's writes wait and go on by themselves;
    reads and the other writes raise StoreUnavailable."""

    async def open(self) -> None: ...

    async def be_kept(self, keeper: Keeper) -> None:
        """What the store runs is the keeper's from now on; to be called once it is open, and to be ended before it is closed."""

    async def close(self) -> None: ...

    async def check(self) -> None:
        """A question that costs next to nothing. Raises StoreUnavailable."""

    def silent_seconds(self) -> float:
        """How long the server has been asked in vain, whether calls fail or hang; 0 while it answers, or nobody asks."""

    async def insert_orders(
        self, orders: Sequence[Order], left: Mapping[str, str] = NOTHING_LEFT
    ) -> list[Order | UnreadableRecord | None]:
        """Stores new orders; for each: None if it is new, else the order that has its identity already, or why that cannot be read. `left`:
        the desk, by our id, of those that are left for its holder to find."""

    async def append(self, order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
        """Adds events to the record, if nobody else has; an urgent one does not wait for others to be written with it.
        Raises VersionConflict; InvalidTransition before anything is written."""

    async def strike(self, strikes: Sequence[Strike]) -> None:
        """Raises what any one of them meets, once all have ended; each may be made again."""

    async def open_orders(self) -> list[Stored]:
        """All records that are unfinished or owe the world something, oldest first."""

    async def unsettled(self, account_id: str | None = None) -> list[Unsettled]:
        """The same records in brief, all or one account's."""

    async def leave(self, left: Mapping[str, str]) -> None:
        """Leaves records, by our id, for the holder of a desk to look at."""

    async def left_for(self, desks: Sequence[str]) -> list[Unsettled]:
        """Records left for these desks, in brief, oldest first."""

    async def picked_up(self, looked_at: Sequence[Unsettled], desks: Sequence[str]) -> None:
        """These were looked at, as they were in brief; what was written since stays left."""

    async def load(self, order_ids: Sequence[str]) -> list[Stored]: ...

    async def find(self, names: Sequence[str]) -> list[Stored]:
        """Records by what they may be called: `client:…`, `broker:…`, `request:…`, `signal:…` (what was adopted in the place of that
        signal's entry too), `exit_of:…`, `discrepancy:…` (adoptions that are to close it). Those that cannot be read are left out, as
        everywhere."""

    def spoilt(self, names: Collection[str], *, may_be_at_work: bool = False) -> list[str]:
        """What cannot be read of the records so called, as far as they have been met: to be asked after `find` or `load`. `may_be_at_work`:
        only of those of which it is not known that they have ended and everything was delivered."""

    def newly_spoilt(self) -> list[Spoilt]:
        """Documents that cannot be read, and of which people have not been told."""

    def spoilt_told(self, some: Collection[Spoilt]) -> None:
        """People will be told of these, whatever happens to the process now."""

    async def insert_command(self, command: Command) -> bool:
        """False if it is there already."""

    async def finish_command(
        self, command_id: str, status: CommandStatus, outcome: str, active_until: datetime | None
    ) -> None: ...

    async def commands(self, *, now: datetime) -> list[Command]:
        """Those that are NEW, or still active."""

    async def new_commands(self) -> list[Command]:
        """Those that nobody has carried out yet, oldest first."""

    async def cancels_naming(self, names: Collection[str]) -> list[Command]:
        """Cancels that name an order or a signal so and are NEW, or held for a while when they were carried out. No clock is asked: whoever
        asks compares the times."""

    async def insert_dead_letters(self, letters: Sequence[DeadLetter]) -> None: ...

    async def dead_letter(self, message_id: str) -> DeadLetter | None: ...

    async def raise_alarm(self, alarm: Alarm) -> None:
        """Adds to the alarm of this id, or makes it."""

    async def unsent_alarms(self) -> list[Alarm]: ...

    async def alarm_sent(self, alarm: Alarm, at: datetime) -> None: ...

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]: ...

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        """The ledger's lines that these orders have of their own, by our id."""

    async def keep_lines(self, lines: Mapping[str, Mapping[int, Line]]) -> None:
        """Lines of the ledger by our order id, in place of those of the same numbers."""

    async def open_ledgers(self, account_id: str) -> list[LedgerEntry] | None:
        """None: they cannot all be read, and those that can are not the whole."""

    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        """The open ones, and those of these symbols that are flat; without those that cannot be read, which `spoilt_ledgers` tells then."""

    def spoilt_ledgers(self, account_id: str) -> list[Instrument]:
        """What the ledger entries are about that have been met and cannot be read, as far as they tell."""

    async def save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        """Each entry replaces the stored one of the version before; False where that was no longer the one."""

    async def open_discrepancies(self, account_id: str) -> list[Discrepancy]: ...

    async def discrepancy(self, discrepancy_id: str) -> Discrepancy | None: ...

    async def insert_discrepancy(self, discrepancy: Discrepancy) -> bool:
        """False if the same one of this account is open already."""

    async def save_discrepancy(self, discrepancy: Discrepancy) -> None:
        """Brings the stored one of this id up to date, unless it is closed: what is closed stays as it was."""

    async def write_views(self, writes: Sequence[ViewWrite]) -> None: ...

    async def leases(self) -> list[Lease]: ...

    async def take_lease(self, lease: Lease, seen: Lease | None) -> bool:
        """Puts this lease in the place of the one that was seen; False if somebody has moved that since."""

    async def renew_leases(self, holder: str, desks: Sequence[str], at: datetime) -> None:
        """Moves the beat of those of these that the holder still has."""

    async def release_leases(self, holder: str, desks: Sequence[str]) -> None:
        """Gives back those of these that the holder has."""

    async def signal_documents(self, signal_ids: Sequence[str]) -> dict[str, Any]:
        """The `_id` of the `signal_store` document of each signal that has one."""

    async def has_trading_account(self, account_id: str) -> bool: ...
