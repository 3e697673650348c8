"""Documents of the store that cannot be read: people learn of them; who meets them is the store."""

from __future__ import annotations

from execution_service.core import texts
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports import Spoilt, Store

LOOK_SECONDS = 2.0
"""How often it is looked whether documents were met that cannot be read."""


class UnreadableRecords:
    """Those met in the same seconds are said at once, by account."""

    def __init__(self, *, store: Store, clock: Clock, alerts: RaisesAlerts) -> None:
        self._store = store
        self._clock = clock
        self._alerts = alerts

    def parts(self) -> tuple[Part, ...]:
        """What runs for as long as the process."""
        return (Part("records that cannot be read", self.run),)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            by_account: dict[str | None, list[Spoilt]] = {}
            for spoilt in self._store.newly_spoilt():
                by_account.setdefault(spoilt.account_id, []).append(spoilt)
            for account_id, some in by_account.items():
                words = texts.record_cannot_be_read(account_name=account_id, what=[spoilt.words for spoilt in some])
                await self._alerts.raise_alarm(f"record_cannot_be_read:{account_id or ''}", words)
                self._store.spoilt_told(some)
