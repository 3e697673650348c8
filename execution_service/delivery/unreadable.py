"""Documents of the store that cannot be read: people learn of them; who meets them is the store."""

from __future__ import annotations

from execution_service.core.texts.service import record_cannot_be_read
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.unreadable import UnreadableDocument

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
            by_account: dict[str | None, list[UnreadableDocument]] = {}
            for unreadable in self._store.newly_unreadable():
                by_account.setdefault(unreadable.account_id, []).append(unreadable)
            for account_id, some in by_account.items():
                words = record_cannot_be_read(account_name=account_id, what=[unreadable.words for unreadable in some])
                await self._alerts.raise_alert(f"record_cannot_be_read:{account_id or ''}", words)
                self._store.unreadable_reported(some)
