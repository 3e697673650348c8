"""Unfinished orders of accounts that are not configured here: people learn of them, unless another process works them."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from execution_service.core.orders.order import Order
from execution_service.core.texts.orders import account_not_configured
from execution_service.ownership.ownership import Ownership
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)

GATHERED_SECONDS = 2.0
AGAIN_SECONDS = 60.0
"""After which it is looked again whether somebody works the orders of accounts that another process held."""


class Orphans:
    """Nobody here can say what became of such an order at its broker: it is left alone, and people are alerted once."""

    def __init__(self, *, store: Store, clock: Clock, ownership: Ownership, alerts: RaisesAlerts) -> None:
        self._store = store
        self._clock = clock
        self._ownership = ownership
        self._alerts = alerts
        self._wake_up = WakeUp(clock)
        self.by_account: dict[str, dict[str, str]] = {}
        """The signals of the unfinished orders of which people have not learned yet, by our id, by account."""

    def parts(self) -> tuple[Part, ...]:
        """What runs for as long as the process."""
        return (Part("orders that nobody works", self.run),)

    def met(self, order: Order) -> None:
        """An unfinished order was taken in hand whose account was configured once, and is no longer."""
        log.error(
            f"Order {order.order_id} is {order.status} for account "
            f"{order.request.account_id}, which is not configured any more; it is left alone",
            action="orphaned_order",
            signal_id=order.signal_id,
        )
        orphans = self.by_account.setdefault(str(order.request.account_id), {})
        orphans[order.order_id] = order.signal_id
        self._wake_up.tell()

    async def run(self) -> None:
        """Until cancelled. Of all that are met at the same moment people learn at once."""
        while True:
            await self._clock.sleep(GATHERED_SECONDS)
            try:
                await self._forget_ended()
                worked = await self._ownership.held_by_the_living() if self.by_account else set[str]()
            except StoreUnavailable as exc:
                log.warning(f"Who works unfinished orders waits for the store: {exc}", action="orphans_waiting")
                continue
            for account_id in sorted(self.by_account.keys() - worked):
                about = dict(self.by_account[account_id])
                words = account_not_configured(account_id, tuple(about.values()))
                await self._alerts.raise_alert(f"not_configured:{account_id}", words)
                self._forget(about)  # not before: who fails in between says it when begun anew
            await self._wake_up.wait(AGAIN_SECONDS if self.by_account else None)

    async def _forget_ended(self) -> None:
        """Those that another process, which knew their account, has brought to their end. Raises StoreUnavailable."""
        order_ids = [order_id for orphans in self.by_account.values() for order_id in orphans]
        found = await self._store.load(order_ids) if order_ids else []
        self._forget({stored.order.order_id for stored in found if stored.order.status.is_final})

    def _forget(self, order_ids: Iterable[str]) -> None:
        gone = set(order_ids)
        kept = {
            account_id: {order_id: signal for order_id, signal in orphans.items() if order_id not in gone}
            for account_id, orphans in self.by_account.items()
        }
        self.by_account = {account_id: orphans for account_id, orphans in kept.items() if orphans}
