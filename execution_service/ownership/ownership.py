"""Which of the processes that share a store works an account: the questions about that, and the protocol by which the work begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from execution_service.core.orders.order import Order
from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.supervision import Keeper, Part
from execution_service.storage.ports.orders import Stored

log = structlog.get_logger(__name__)

UNASSIGNED = "(unassigned)"
"""The partition of everything that belongs to no account: what was refused at the door, alerts."""


class Work(Protocol):
    """What is done for the accounts that are this process's."""

    def open_named(self) -> None:
        """Makes a trader for each account whose broker is to be connected from the start."""

    def begin(self) -> None:
        """The traders run from now on, those that are made later as soon as they are made."""

    def open(self, partition: str, unsettled: Sequence[Stored]) -> None:
        """Begins the work of a partition with the orders that were found."""

    def take(self, stored: Stored) -> None:
        """Takes one order in hand."""

    def look_again(self, live: LiveOrder) -> None:
        """Somebody else has changed the record of an order in hand."""

    def has_taken(self, order_id: str, version: int) -> bool:
        """The order of that id is finished, and all that is still to be delivered of it up to that version needs no reading."""

    def let_go(self, partition: str) -> None:
        """Takes all of a partition's orders out of our hands, at once."""

    async def close(self, partition: str) -> None:
        """Ends the work of a partition."""


class Ownership(Protocol):
    """Each account is a partition; what belongs to no account that is known here is UNASSIGNED. A process works the partitions that it holds."""

    # --- questions ----------------------------------------------------------------------------------------------

    @property
    def has_others(self) -> bool:
        """Whether other processes may share the store, and work what this one does not."""

    def partition_of(self, account_id: str | None) -> str: ...

    def holds(self, partition: str) -> bool:
        """Whether this process holds it, for certain, at this moment."""

    def is_ours(self, account_id: str | None) -> bool:
        """Whether the account's partition is surely held at this moment."""

    def elsewhere(self, order: Order) -> str | None:
        """The partition of an order that is not ours to work; None if it is. One that nobody holds is contended for from now on."""

    def is_worked_elsewhere(self, account_id: str) -> bool:
        """A known account that another process works, or nobody yet: then it is contended for from now on."""

    def belongs_elsewhere(self, account_id: str) -> bool:
        """As `is_worked_elsewhere`, also for an account that is not configured: what is recorded of it is delivered by its partition's holder."""

    async def held_by_the_living(self) -> set[str]:
        """Partitions whose holder has not been silent for the term of its lease. Raises StoreUnavailable."""

    async def leave_to_holder(self, order: Order) -> None:
        """Has the process that works the order look at what was written to its record. Raises StoreUnavailable."""

    # --- life ---------------------------------------------------------------------------------------------------

    def serve(self, work: Work, alerts: RaisesAlerts, keeper: Keeper) -> None:
        """`work` is what is done for the accounts that are ours; `alerts` says that one was taken over; `keeper` sees its opening through. To
        be called once, before anything else: all three ask about ownership."""

    async def take_up(self) -> None:
        """Takes in hand what commands left by an earlier life may be about. Raises StoreUnavailable; may then be called again."""

    async def start(self) -> None:
        """Begins the work of what is ours. Raises StoreUnavailable; may then be called again."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""

    async def give_back(self, partition: str) -> None:
        """There is nothing to do in the partition: its lease is given back until there is an order for it."""

    def take_no_more(self) -> None:
        """Takes no further partition; keeps those that are held."""

    async def end(self) -> None:
        """Gives every partition back. To be called when their work has ended."""


def say_recovered(unsettled: Sequence[Stored]) -> None:
    if unsettled:
        log.info(f"Took up {len(unsettled)} unsettled orders", action="recovered", count=len(unsettled))
