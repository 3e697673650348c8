"""The stances as this process knows them: read each second at most, asked before an order is released and before any leaves; sets none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

import structlog

from execution_service.core.planning.stances import StanceRecord, Stances
from execution_service.core.risk.kill import KillState
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.stances import StanceStore

log = structlog.get_logger(__name__)

KNOWN_SECONDS = 1.0
"""What was read so long ago is read again before anything goes by it."""


class KnowsSwitches(Protocol):
    """Who knows the kill switches."""

    async def state(self) -> KillState:
        """All of them, as they were within the last second; where they cannot be read now, those that are known last, and told as such."""


class StancesInForce:
    """A stance that this process sets counts from that moment on; what others set, within a second. To the risk gate it is who knows the kill
    switches: an EMERGENCY stops what a switch at reduce only stops, whoever sent the order."""

    def __init__(self, *, store: StanceStore, switches: KnowsSwitches, clock: Clock) -> None:
        self._store = store
        self._switches = switches
        self._clock = clock
        self._known = Stances(is_known=False)
        self._read_at = float("-inf")
        self._sets = 0
        """How often this process has set one: a look that was begun before shows less."""
        self._reading = asyncio.Lock()

    def learn(self, record: StanceRecord) -> None:
        """This process has written it: it is read anew before anything goes by it."""
        self._sets += 1
        self._read_at = float("-inf")

    async def now(self) -> Stances:
        """As they were within the last second; where they cannot be read, the last that were known, and told as such."""
        if self._is_fresh():
            return self._known
        try:
            async with self._reading:
                if not self._is_fresh():  # somebody before us may have looked
                    await self._read()
        except StoreUnavailable as exc:
            log.warning(f"The stances are not known: {exc}", action="stances_unknown")
            return replace(self._known, is_known=False)
        return self._known

    async def state(self) -> KillState:
        """The kill switches, and what the stances add to them."""
        kill, stances = await self._switches.state(), await self.now()
        added = stances.switches(self._clock.now())
        if not added and stances.is_known:
            return kill
        return KillState((*kill.switches, *added), is_known=kill.is_known and stances.is_known)

    def _is_fresh(self) -> bool:
        return self._clock.monotonic() - self._read_at <= KNOWN_SECONDS

    async def _read(self) -> None:
        begun_at, sets = self._clock.monotonic(), self._sets
        self._known = await self._store.stances()
        if sets == self._sets:
            self._read_at = begun_at
