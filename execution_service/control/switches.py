"""Changes a kill switch: engages it, arms it in two steps; each change is stored with its audit in one write. Cancels and alerts are others'."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from execution_service.control.requests import Arm, Kill
from execution_service.core.risk.breaches import EngagingBreach
from execution_service.core.risk.kill import ArmingRefused, Switch
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import (
    SwitchRecord,
    with_armed,
    with_arming_asked,
    with_engaged,
)
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.switches import KeptSwitch, SwitchStore, UnreadableSwitch

NONCE_BYTES = 6
MOST_TRIES = 50
"""So often in succession somebody else may be first to change a switch."""


class Fences(Protocol):
    """Who keeps the accounts' risk documents (ADR 0036, point 6)."""

    async def raise_fences(self, scope: Scope) -> int:
        """Raises the fence of each risk document that the scope concerns, so that nothing that was judged before is written any more. May be
        called again. Raises StoreUnavailable."""


class LearnsSwitches(Protocol):
    """Who looks at the switches before an order leaves."""

    def learn(self, record: SwitchRecord) -> None:
        """This process has written it: it counts from now on, and is not waited for."""


class NobodyLearns:
    """In a process that sends no orders."""

    def learn(self, record: SwitchRecord) -> None:
        """Nothing leaves here."""


class Switches:
    """Engages and arms, for whoever asks: the service, and execctl where no service runs. Every call may be made again for the same command, by
    several processes at once: it changes the switch once."""

    def __init__(self, *, store: SwitchStore, clock: Clock, fences: Fences, learner: LearnsSwitches) -> None:
        self._store = store
        self._clock = clock
        self._fences = fences
        self._learner = learner

    async def engage(self, asked: Kill) -> SwitchRecord:
        """Engaged, durable, and fenced when it returns; a level is never lowered. Raises StoreUnavailable: it may be engaged, and is to be asked for
        again."""

        def change(kept: KeptSwitch | None) -> SwitchRecord:
            replaced = ""
            record = _new(asked.scope)
            if isinstance(kept, SwitchRecord):
                record = kept
            elif kept is not None:
                # Above whatever version anybody remembers of it.
                replaced = kept.content
                record = _new(asked.scope, version=int(self._clock.now().timestamp() * 1000))
            return with_engaged(
                record,
                asked.level,
                by=asked.by,
                reason=asked.reason,
                now=self._clock.now(),
                command_id=asked.command_id,
                cancel_entries=asked.cancel_entries,
                replaced=replaced,
            )

        record = await self._write(asked.scope, change)
        await self._fences.raise_fences(asked.scope)
        return record

    async def engage_for_breach(self, breach: EngagingBreach) -> None:
        """As `engage`, by a limit that was broken. A switch that a person has armed since is not engaged again by the same breach."""
        asked = Kill(
            command_id=breach.mark,
            scope=breach.scope,
            level=breach.level,
            by=f"the limit {breach.limit}",
            reason=breach.reason,
            cancel_entries=False,
            asked_at=self._clock.now(),
        )
        await self.engage(asked)

    async def arm(self, asked: Arm) -> SwitchRecord:
        """The first step where no nonce is brought, else the second: then the switch stops nothing any more. Raises ArmingRefused, StoreUnavailable:
        it may be written, and is to be asked for again."""
        nonce = secrets.token_hex(NONCE_BYTES)

        def change(kept: KeptSwitch | None) -> SwitchRecord:
            if isinstance(kept, UnreadableSwitch):
                raise ArmingRefused(
                    f"its document cannot be read ({kept.reason}): engage {asked.scope} first, that puts a new one in its place"
                )
            record = kept or _new(asked.scope)
            if record.change_by(asked.command_id) is not None:
                return record
            words = {"person": asked.person, "reason": asked.reason, "command_id": asked.command_id}
            now = self._clock.now()
            if asked.nonce is None:
                return with_arming_asked(record, nonce=nonce, now=now, **words)
            return with_armed(record, nonce=asked.nonce, now=now, **words)

        return await self._write(asked.scope, change)

    async def _write(self, scope: Scope, change: Callable[[KeptSwitch | None], SwitchRecord]) -> SwitchRecord:
        """By compare-and-set: whoever is overtaken looks again and changes what stands there by then."""
        for _ in range(MOST_TRIES):
            kept = next((each for each in await self._store.switches() if _is_of(each, scope)), None)
            record = change(kept)
            if record is kept or await self._store.put_switch(record, kept):
                self._learner.learn(record)
                return record
        raise StoreUnavailable(f"the kill switch of {scope} could not be written: it is changed by others all the time")


def _new(scope: Scope, version: int = 0) -> SwitchRecord:
    return SwitchRecord(switch=Switch(scope=scope, version=version))


def _is_of(kept: KeptSwitch, scope: Scope) -> bool:
    """By its key: the document of a scope is the one that stands under the scope's name, whatever is in it."""
    return (kept.switch.scope if isinstance(kept, SwitchRecord) else kept.scope) == scope
