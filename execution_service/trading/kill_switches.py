"""The kill switches as this process knows them: read each second, asked before an order leaves, every change told to people; engages none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Protocol

import structlog

from execution_service.core.risk.kill import KillLevel, KillState, Switch, strictest
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import Change, SwitchRecord
from execution_service.core.texts.switches import switch_changed, switch_unreadable
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.switches import KeptSwitch, SwitchStore, UnreadableSwitch

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.75
KNOWN_SECONDS = 1.0
TOLD_SECONDS = 10.0
"""So old may be what `/health` tells as so."""
"""What was read so long ago is not known any more, and is read again before an order leaves."""
SHOWN = 5
"""So many engaged switches are told one by one."""
TOLD_WITHIN = timedelta(hours=1)
"""Changes older than this are no news at a start."""


class KnownSource(Protocol):
    """Another place that may say that trade is to stop."""

    @property
    def is_known(self) -> bool:
        """Whether what it says is known, and done."""


class KillSwitches:
    """One look serves all accounts and all orders. A switch that this process engages or arms counts from that moment on; what others change, within
    a second. What they let pass is decided by the risk gate (core/risk/gate.py)."""

    def __init__(self, *, store: SwitchStore, clock: Clock, alerts: RaisesAlerts) -> None:
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._wake = WakeUp(clock)
        self._reading = asyncio.Lock()
        self._known: dict[Scope, Switch] = {}
        self._read_at: float | None = None
        """When the last look that succeeded was begun."""
        self._learnt: dict[Scope, tuple[SwitchRecord, float]] = {}
        """What this process has written since, and when."""
        self._state = KillState()
        """The same for whoever asks, before each order."""
        self._told: dict[Scope, int] = {}
        """The version up to which people were told."""
        self._told_marks: set[str] = set()
        self.sources: list[KnownSource] = []
        """Who else may engage one: while any of them is not known, the state of the switches is not."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("kill switches", self.watch),)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._tell(await self._look())
            except StoreUnavailable as exc:
                log.debug(f"Kill switches wait for the store: {exc}", action="switches_waiting")
            await self._wake.wait(LOOK_SECONDS)

    def learn(self, record: SwitchRecord) -> None:
        """This process has written it: it counts from now on, also where a look that began before ends after it."""
        scope = record.switch.scope
        self._learnt[scope] = record, self._clock.monotonic()
        self._know({**self._known, scope: record.switch})
        self._wake.tell()

    # --- before an order leaves -----------------------------------------------------------------------------------

    async def state(self) -> KillState:
        """All switches, as they were within the last second; where they cannot be read now, those that are known last, and told as such."""
        if not self._is_known():
            try:
                async with self._reading:
                    if not self._is_known():  # somebody before us may have looked
                        await self._read()
            except StoreUnavailable as exc:
                log.warning(f"The state of the kill switches is not known: {exc}", action="kill_switch_unknown")
                return KillState(tuple(self._known.values()), is_known=False)
        if not all(source.is_known for source in self.sources):
            return replace(self._state, is_known=False)
        return self._state

    def component(self) -> dict[str, str | None]:
        """For `/health`, from memory: what is engaged, the widest first. A stop that somebody has engaged is no trouble of the service: `status` is
        DEGRADED only where that is not known."""
        if self._read_at is None:
            return {"status": "DEGRADED", "message": "not known yet; new risk waits"}
        seconds = self._clock.monotonic() - self._read_at
        if seconds > TOLD_SECONDS:
            return {"status": "DEGRADED", "message": f"not known for {seconds:.0f} s; new risk waits"}
        if not all(source.is_known for source in self.sources):
            return {"status": "DEGRADED", "message": "not known of all that may engage them; new risk waits"}
        engaged = sorted(
            (switch for switch in self._known.values() if switch.level is not None),
            key=lambda switch: (len(str(switch.scope).split("+")), switch.scope != Scope(), str(switch.scope)),
        )
        told = [f"{switch.scope}: {switch.level}, by {switch.by}" for switch in engaged[:SHOWN]]
        more = [f"{len(engaged) - SHOWN} more"] if len(engaged) > SHOWN else []
        return {"status": "OK", "message": "engaged for " + "; ".join(told + more) if engaged else "none is engaged"}

    # --- looking --------------------------------------------------------------------------------------------------

    def _is_known(self) -> bool:
        return self._read_at is not None and self._clock.monotonic() - self._read_at <= KNOWN_SECONDS

    async def _look(self) -> Sequence[KeptSwitch]:
        async with self._reading:
            return await self._read()

    async def _read(self) -> Sequence[KeptSwitch]:
        begun_at = self._clock.monotonic()
        kept = await self._store.switches()
        known: dict[Scope, Switch] = {}
        for each in kept:
            switch = each.switch if isinstance(each, SwitchRecord) else self._of_unreadable(each)
            there = known.get(switch.scope)
            known[switch.scope] = switch if there is None else _stricter(there, switch)
        for scope, (record, at) in tuple(self._learnt.items()):
            there = known.get(scope)
            if at >= begun_at and (there is None or there.version < record.switch.version):
                known[scope] = record.switch  # the look began before it was written
            elif at < begun_at:
                del self._learnt[scope]
        self._know(known)
        self._read_at = begun_at
        return kept

    def _know(self, known: dict[Scope, Switch]) -> None:
        self._known = known
        self._state = KillState(tuple(known.values()))

    def _of_unreadable(self, kept: UnreadableSwitch) -> Switch:
        """Engaged at reduce only, or at what it is known to have been engaged before."""
        scope = kept.scope or Scope()
        before = self._known.get(scope)
        level = strictest((KillLevel.REDUCE_ONLY, None if before is None else before.level))
        return Switch(scope=scope, level=level, reason=f"its document cannot be read: {kept.reason}", by="nobody known")

    # --- telling --------------------------------------------------------------------------------------------------

    async def _tell(self, kept: Iterable[KeptSwitch]) -> None:
        """Each change once, whichever process sees it first. Raises StoreUnavailable: what is not told by then is told at the next look."""
        for each in kept:
            if isinstance(each, UnreadableSwitch):
                mark = sha256(f"{each.key!r}{each.content}".encode("utf-8", "backslashreplace")).hexdigest()[:16]
                await self._tell_once(mark, switch_unreadable(place=str(each.key), reason=each.reason))
                continue
            scope = each.switch.scope
            for change in each.history:
                if change.version > self._told.get(scope, 0) and self._is_news(scope, change):
                    mark = f"{sha256(str(scope).encode()).hexdigest()[:16]}:{change.version}"
                    await self._tell_once(mark, switch_changed(scope=str(scope), change=change, switch=each.switch))
                    self._told[scope] = change.version
            self._told[scope] = each.switch.version

    def _is_news(self, scope: Scope, change: Change) -> bool:
        return scope in self._told or self._clock.now() - change.at < TOLD_WITHIN

    async def _tell_once(self, mark: str, text: str) -> None:
        """A kind of its own for each, so that it waits behind no other; once for each, so that two processes tell it once."""
        if mark not in self._told_marks:
            await self._alerts.raise_alert_once(f"kill_switch:{mark}", f"kill_switch:{mark}", text)
            self._told_marks.add(mark)


def _stricter(one: Switch, other: Switch) -> Switch:
    level = strictest((one.level, other.level))
    return one if level is one.level else replace(other, level=level)
