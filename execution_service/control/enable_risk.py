"""What a named person says of the risk that is counted: that what a broken limit has switched off may trade again, or that losses are measured anew;
straight in the store, whether a service runs or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from execution_service.core.risk.counters import Counters, Enabled, Rebased, Zones, fold, rolled
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.service import risk_enabled, risk_rebased
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
    event = Enabled(at=now, scope=scope, by=by, reason=reason)
    ended = [len(before.trips) - len(after.trips) async for before, after in _changed(store, event, zones)]
    if not ended:
        return 0
    text = risk_enabled(scope=str(scope), by=by, reason=reason, count=sum(ended))
    alert_id = f"risk-enabled:{scope}:{now.isoformat()}"
    await store.raise_alert(Alert(alert_id=alert_id, kind="risk_enabled", text=text, count=1, first_at=now))
    return sum(ended)


async def rebase(store: RiskAndAlertStore, scope: Scope, *, by: str, reason: str, now: datetime, zones: Zones) -> int:
    """Has losses and drawdowns within the scope measured from the first readings after `now` on; until then what was measured applies. Puts right
    the day of accounts that it has as a whole. In how many accounts that has changed something. People are told who did it and why, and that
    stays in the store. `zones` as above. Raises StoreUnavailable."""
    event = Rebased(at=now, scope=scope, by=by, reason=reason)
    count = len([after async for _, after in _changed(store, event, zones)])
    if count:
        text = risk_rebased(scope=str(scope), by=by, reason=reason, count=count)
        alert_id = f"risk-rebased:{scope}:{now.isoformat()}"
        await store.raise_alert(Alert(alert_id=alert_id, kind="risk_rebased", text=text, count=1, first_at=now))
    return count


async def _changed(
    store: RiskStore, event: Enabled | Rebased, zones: Zones
) -> AsyncIterator[tuple[Counters, Counters]]:
    """Folds the event into what is counted of each account; before and after, of those in which that has changed something, once it is durable.
    Raises StoreUnavailable."""
    for account_id in [book.account_id for book in await store.risk_books()]:
        while True:
            book = await store.risk_book(account_id)
            before = rolled(book.counters, event.at, zones.of(account_id))
            after = fold(before, event, now=event.at, zone=zones.of(account_id), keep_seconds=LONGEST_WINDOW_SECONDS)
            if (after.day, after.trips, after.runs, after.results) == (
                before.day,
                before.trips,
                before.runs,
                before.results,
            ):
                break
            if await store.save_risk_book(replace(book, version=book.version + 1, counters=after)):
                yield before, after
                break
