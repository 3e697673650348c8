"""The ownership of a process that shares its store with nobody: every account is its own, for as long as it lives."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from execution_service.core.orders.order import Order
from execution_service.ownership.ownership import UNASSIGNED, Work, say_recovered
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper, Part
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)

LOOK_SECONDS = 10.0
READ_AT_ONCE = 200


class Alone:
    """There is nobody to share the accounts with, so everything is held and nothing is asked of the store but what an earlier life left."""

    has_others = False

    def __init__(self, store: Store, live_orders: LiveOrders, clock: Clock) -> None:
        self._store = store
        self._live = live_orders
        self._clock = clock
        self._work: Work
        self._found: Sequence[Stored] = ()

    def partition_of(self, account_id: str | None) -> str:
        return UNASSIGNED if account_id is None else account_id

    def holds(self, partition: str) -> bool:
        return True

    def is_ours(self, account_id: str | None) -> bool:
        return True

    def elsewhere(self, order: Order) -> str | None:
        return None

    def is_worked_elsewhere(self, account_id: str) -> bool:
        return False

    def belongs_elsewhere(self, account_id: str) -> bool:
        return False

    async def held_by_the_living(self) -> set[str]:
        return set()

    async def leave_to_holder(self, order: Order) -> None:
        """Nothing to do: no other process works orders."""

    def serve(self, work: Work, alerts: RaisesAlerts, keeper: Keeper) -> None:
        self._work = work

    async def take_up(self) -> None:
        self._found = await self._store.open_orders()
        for stored in self._found:
            self._work.take(stored)
        self._work.open_named()

    async def start(self) -> None:
        self._work.begin()
        say_recovered(self._found)
        self._found = ()

    def parts(self) -> Sequence[Part]:
        return (Part("records set aside", self._look_again_for_ever),)

    async def _look_again_for_ever(self) -> None:
        """Takes records in hand that could not be read and have been mended since, until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self._look_again()
            except StoreUnavailable as exc:
                log.debug(f"The look at records set aside waits for the store: {exc}", action="set_aside_waiting")

    async def _look_again(self) -> None:
        set_aside = self._store.set_aside()
        for start in range(0, len(set_aside), READ_AT_ONCE):
            found = await self._store.load(set_aside[start : start + READ_AT_ONCE])
            mended = [s for s in found if s.is_unsettled and s.order.order_id not in self._live.by_id]
            for stored in mended:
                self._work.take(stored)
            say_recovered(mended)

    async def give_back(self, partition: str) -> None:
        await self._work.close(partition)

    def take_no_more(self) -> None:
        """What comes in the last moments is stored, and taken up by the next life."""

    async def end(self) -> None:
        """Nothing to do: no other process waits for the accounts."""
