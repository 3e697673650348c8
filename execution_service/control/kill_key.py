"""A key in a store of others that says whether trade is to stop: read each second, and engages the kill switch by the verb; arms nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import structlog

from execution_service.control.commands import Commands
from execution_service.control.requests import stop_all
from execution_service.control.results import Done
from execution_service.core.risk.kill_key import means_kill
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.kill_key import kill_key_left, kill_key_read, kill_key_unread
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.kill_switches import KillSwitches
from execution_service.transport.ports import KeyNotRead, ReadsKey

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
KNOWN_SECONDS = 5.0
"""What was read so long ago is not known any more."""
TOLD_AFTER_SECONDS = 10.0
"""So long it is not known until people are told: the pause of a restart over there is no news."""
_KILLED, _CLEAR = "killed ", "clear "
"""What the note in the store begins with: then the name of the stop that was seen last, or of the next one, the same for every process."""


class KillKey:
    """One stop over there is one command of ours, whichever process sees it first and however often it is read: what a person arms afterwards stays
    armed, also over a restart, until the key has said otherwise and says stop again. Which stop it is stands in the store before the command
    is given, so that a death in between gives the same command again."""

    def __init__(
        self,
        *,
        key: ReadsKey,
        commands: Commands,
        switches: KillSwitches,
        bookmarks: BookmarkStore,
        alerts: RaisesAlerts,
        clock: Clock,
    ) -> None:
        self._key = key
        self._commands = commands
        self._switches = switches
        self._bookmarks = bookmarks
        self._alerts = alerts
        self._clock = clock
        self._note = f"kill_key:{key.name}"
        self._known_at: float | None = None
        """When the last look was begun whose answer was dealt with."""
        self._said: bool | None = None
        """What it said then. None: this life has dealt with nothing yet."""
        self._trouble = "it was not read yet"
        self._unknown_since: float | None = clock.monotonic()
        self._is_told = False
        """People know that it is not known."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process. Without it new risk waits; the service goes on."""
        return (Part("kill key", self.watch, is_vital=False),)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Reads it once and does what it says; people are told of what has changed. Raises nothing for what cannot be read or stored."""
        begun_at = self._clock.monotonic()
        try:
            text = await self._key.read()
            await self._deal_with(text)
        except (KeyNotRead, StoreUnavailable) as exc:
            self._trouble = str(exc)
            await self._is_unknown()
        else:
            self._known_at, self._unknown_since, self._trouble = begun_at, None, ""
            if self._is_told:
                self._is_told = False
                words = kill_key_read(name=self._key.name, says_kill=means_kill(text))
                await self._alerts.raise_alert("kill_key_read", words)

    # --- what is known ------------------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Whether what it says is known, and done; else no new risk may pass."""
        return self._known_at is not None and self._clock.monotonic() - self._known_at <= KNOWN_SECONDS

    def silent_seconds(self) -> float:
        """How long it has not been known; 0: it is."""
        return 0.0 if self._unknown_since is None else self._clock.monotonic() - self._unknown_since

    def component(self) -> dict[str, str | None]:
        """For `/health`: `status` is OK or DEGRADED."""
        if self.is_known:
            return {"status": "OK", "message": "says stop" if self._said else "says nothing"}
        return {"status": "DEGRADED", "message": f"{self._trouble}; new risk waits"}

    # --- doing what it says -------------------------------------------------------------------------------------

    async def _deal_with(self, text: str | None) -> None:
        """Raises StoreUnavailable: it is not done, and is done at the next look."""
        says_kill = means_kill(text)
        if says_kill == self._said:
            return
        note = await self._bookmarks.bookmark(self._note) or ""
        if not says_kill:
            if not note.startswith(_CLEAR):
                await self._bookmarks.set_bookmark(self._note, f"{_CLEAR}{secrets.token_hex(8)}")
        else:
            is_noted = note.startswith(_KILLED)
            stop = note.removeprefix(_KILLED).removeprefix(_CLEAR) or secrets.token_hex(8)
            if not is_noted:
                await self._bookmarks.set_bookmark(self._note, f"{_KILLED}{stop}")
            await self._engage(stop, text or "")
            if is_noted and self._said is None and (await self._switches.state()).level(Scope()) is None:
                await self._alerts.raise_alert("kill_key_left", kill_key_left(name=self._key.name, text=text or ""))
        self._said = says_kill

    async def _engage(self, stop: str, text: str) -> None:
        command = stop_all(
            f"kill-key-{stop}", by=self._key.name, reason=f"the key says {text!r}", now=self._clock.now()
        )
        if not isinstance(await self._commands.give(command), Done):
            raise StoreUnavailable("the kill that it asks for is not carried out yet")

    async def _is_unknown(self) -> None:
        now = self._clock.monotonic()
        if self._unknown_since is None:
            self._unknown_since = now if self._known_at is None else self._known_at
        if not self._is_told and now - self._unknown_since >= TOLD_AFTER_SECONDS:
            self._is_told = True
            words = kill_key_unread(name=self._key.name, reason=self._trouble)
            await self._alerts.raise_alert("kill_key_unread", words)
