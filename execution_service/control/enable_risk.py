"""A named person lets trade again what a broken limit has switched off; straight in the store, whether a service runs or not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from execution_service.core.risk.counters import Enabled, Zones, fold
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.service import risk_enabled
from execution_service.storage.ports.alerts import Alert, AlertStore
from execution_service.storage.ports.risk import RiskStore

LONGEST_WINDOW_SECONDS = Decimal(86_400)
"""No limit has a longer one: nothing is forgotten here that the service still counts."""


class RiskAndAlertStore(RiskStore, AlertStore, Protocol):
    """What it writes to."""


async def enable_again(
    store: RiskAndAlertStore, scope: Scope, *, by: str, reason: str, now: datetime, zones: Zones
) -> int:
    """Ends what is broken for good within the scope, and the runs of rejections, in every account that it names; how many limits were broken.
    People are told who did it and why, and that stays in the store. `zones`: of the accounts' trading days, which begin and end as for the service.
    Raises StoreUnavailable."""
    ended, has_changed = 0, False
    for account_id in [book.account_id for book in await store.risk_books()]:
        while True:
            book = await store.risk_book(account_id)
            event = Enabled(at=now, scope=scope, by=by, reason=reason)
            zone = zones.of(account_id)
            counters = fold(book.counters, event, now=now, zone=zone, keep_seconds=LONGEST_WINDOW_SECONDS)
            broken = len(book.counters.trips) - len(counters.trips)
            if not broken and counters.runs == book.counters.runs:
                break
            if await store.save_risk_book(replace(book, version=book.version + 1, counters=counters)):
                ended, has_changed = ended + broken, True
                break
    if not has_changed:
        return 0
    text = risk_enabled(scope=str(scope), by=by, reason=reason, count=ended)
    alert_id = f"risk-enabled:{scope}:{now.isoformat()}"
    await store.raise_alert(Alert(alert_id=alert_id, kind="risk_enabled", text=text, count=1, first_at=now))
    return ended
