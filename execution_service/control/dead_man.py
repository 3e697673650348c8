"""The dead man's switch: where nobody outside has said for a while that all is well, the kill switch is engaged, by the verb; arms nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import structlog

from execution_service.control.commands import Commands
from execution_service.control.requests import stop_all
from execution_service.control.results import Done
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.dead_man import heartbeat_again, heartbeat_missed, heartbeat_still_missed
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.kill_switches import KillSwitches

log = structlog.get_logger(__name__)

NOTE = "dead_man:heartbeat"
LOOK_SECONDS = 1.0
NOT_LOOKED_SECONDS = 5.0
"""Who has not looked for so long, being frozen or without the store, begins to count anew: what could not be seen is not held against anybody."""
BY = "the dead man's switch"


class DeadMan:
    """A heartbeat that any process is told of is in the store when it is answered, and counts for all. Time is counted by the monotonic clock, from
    the heartbeat that was seen last, at a start from there. One silence is one command, in every process and every life: what a person arms
    during it stays armed."""

    def __init__(
        self,
        *,
        seconds: float,
        commands: Commands,
        switches: KillSwitches,
        bookmarks: BookmarkStore,
        alerts: RaisesAlerts,
        clock: Clock,
    ) -> None:
        """`seconds`: the longest silence."""
        self.seconds = seconds
        self._commands = commands
        self._switches = switches
        self._bookmarks = bookmarks
        self._alerts = alerts
        self._clock = clock
        self._last: str | None = None
        """The heartbeat that was seen last, by its name; empty: there has never been one. None: nobody has looked yet."""
        self._since = 0.0
        """When it was first seen, or counting was begun anew."""
        self._looked_at = float("-inf")
        self._is_stopped = False
        """The present silence has been dealt with."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process; without it the service cannot do what it promised, and ends."""
        return (Part("dead man's switch", self.watch),)

    async def beat(self) -> None:
        """Somebody says that all is well; durable when it returns. Raises StoreUnavailable: it may not count."""
        await self._bookmarks.set_bookmark(NOTE, secrets.token_hex(8))

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._look()
            except StoreUnavailable as exc:
                log.debug(f"The dead man's switch waits for the store: {exc}", action="dead_man_waiting")
            await self._clock.sleep(LOOK_SECONDS)

    def silent_seconds(self) -> float:
        """How long no heartbeat has been seen."""
        return 0.0 if self._last is None else self._clock.monotonic() - self._since

    async def _look(self) -> None:
        """Raises StoreUnavailable: what is not done by then is done at the next look."""
        last = await self._bookmarks.bookmark(NOTE) or ""
        now = self._clock.monotonic()
        is_late = now - self._looked_at > NOT_LOOKED_SECONDS
        self._looked_at = now
        if last != self._last:
            self._last, self._since = last, now
            if self._is_stopped:
                self._is_stopped = False
                await self._alerts.raise_alert("dead_man_again", heartbeat_again())
        elif is_late:
            self._since = now
        if not self._is_stopped and now - self._since >= self.seconds:
            await self._stop(last)

    async def _stop(self, last: str) -> None:
        """Once for each silence, whichever process, and however often."""
        command_id = f"dead-man-{last or 'none'}"
        was_known = await self._commands.was_given(command_id)
        words = f"no heartbeat for {self.seconds:g} s"
        result = await self._commands.give(stop_all(command_id, by=BY, reason=words, now=self._clock.now()))
        if not isinstance(result, Done):
            raise StoreUnavailable("the kill for a missed heartbeat is not carried out yet")
        self._is_stopped = True
        is_armed = (await self._switches.state()).level(Scope()) is None
        told = heartbeat_still_missed() if was_known and is_armed else heartbeat_missed(seconds=self.seconds)
        if is_armed or not was_known:
            await self._alerts.raise_alert("dead_man_missed", told)
