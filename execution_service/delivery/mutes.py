"""Which kinds of notice are left out for a time: known to every process that tells people, kept in the store, ended by themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import structlog

from execution_service.core.texts.mutes import Mute, mute_ended, muted, mutes_as_text, mutes_from_text
from execution_service.core.texts.notices import NoticeKind
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.storage.ports.errors import StoreUnavailable

log = structlog.get_logger(__name__)

NOTE = "notices:muted"
LOOK_SECONDS = 2.0
TOLD_WITHIN = timedelta(hours=24)
"""An end from before that is no news."""


class Mutes:
    """What cannot be read mutes nothing; while the store is away what was read last goes on to its end."""

    def __init__(self, *, store: BookmarkStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: tuple[Mute, ...] = ()
        self._ended: set[Mute] = set()
        """Those of whose end people were told."""

    def is_muted(self, kind: NoticeKind) -> bool:
        """At this moment, from memory."""
        now = self._clock.now()
        return any(mute.kind is kind and now < mute.until for mute in self._known)

    async def read(self) -> Sequence[Mute]:
        """Those that have not ended. Raises StoreUnavailable."""
        self._known = mutes_from_text(await self._store.bookmark(NOTE))
        now = self._clock.now()
        return [mute for mute in self._known if now < mute.until]

    async def mute(self, kinds: Collection[NoticeKind], *, until: datetime, by: str) -> Sequence[Mute]:
        """From now on; of a kind that is muted already the new end counts alone. All that are muted then. Raises StoreUnavailable: it may be stored,
        and is to be asked for again."""
        return await self._keep(muted(await self.read(), kinds, until=until, by=by))

    async def unmute(self, kinds: Collection[NoticeKind]) -> Sequence[Mute]:
        """From now on they are told again, of which no message tells. All that are muted then. Raises StoreUnavailable."""
        return await self._keep(tuple(mute for mute in await self.read() if mute.kind not in kinds))

    async def _keep(self, mutes: tuple[Mute, ...]) -> Sequence[Mute]:
        await self._store.set_bookmark(NOTE, mutes_as_text(mutes))
        self._known = mutes
        now = self._clock.now()
        return [mute for mute in mutes if now < mute.until]

    async def watch(self, alerts: RaisesAlerts) -> None:
        """Until cancelled: learns what others have changed, and has people told of each that has ended, once."""
        while True:
            try:
                await self._look(alerts)
            except StoreUnavailable as exc:
                log.debug(f"Muted notices wait for the store: {exc}", action="mutes_waiting")
            await self._clock.sleep(LOOK_SECONDS)

    async def _look(self, alerts: RaisesAlerts) -> None:
        """One that has ended stays in the store until kinds are muted or told again the next time: only a chat's command writes there."""
        left = await self.read()
        for mute in self._known:
            if mute not in left and mute not in self._ended and self._clock.now() - mute.until < TOLD_WITHIN:
                name = f"mute_ended:{mute.kind.value}"
                await alerts.raise_alert_once(f"{name}:{mute.until.isoformat()}", name, mute_ended(mute))
                self._ended.add(mute)
