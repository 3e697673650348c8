"""What is held, told with what the market says it is worth: seldom, beside everything else, and not kept, since the next round tells it anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import structlog

from brokers.base import Instrument
from execution_service.core.messages.events_out import Mark, OutEvent, marked_position
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import LedgerEntry, key_of
from execution_service.core.risk.prices import PriceSource, ReferencePrice, best_reference
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.transport.ports import EventPublisher, PublishFailed

log = structlog.get_logger(__name__)

FRESH_SECONDS = Decimal(60)
"""An older price says nothing of where the market is."""
POSITIONS_AT_ONCE = 500
"""So many of an account are told in one round at most: the others come first in the next."""
PUBLISH_SECONDS = 10.0

_Said = tuple[Decimal, Decimal, Decimal | None]
"""Quantity, cost and mark."""


class PricedAccounts(Protocol):
    """The accounts that are traded here, and the prices that are known of what they hold."""

    @property
    def traders(self) -> Mapping[str, object]:
        """By account."""

    async def prices_of(
        self, account_id: str, wanted: Mapping[str, Instrument]
    ) -> Mapping[str, Sequence[ReferencePrice]]:
        """Of instruments by their keys in the ledger, all that is known, however old; the broker is asked for its quotes first, and waited for a
        second at most."""


class PositionMarks:
    """Each open position is told once a round at most, and only when its mark, or whether there is one, has changed. What could not be published
    is told in the next round as it is then.

    A mark never contradicts what is recorded: it bears the moment before the ledger was read, so that whatever is recorded later has a later one,
    and nothing is told in a round of a position that has changed during it, or of which a fill is being recorded or waits to be booked."""

    def __init__(
        self,
        *,
        seconds: float,
        accounts: PricedAccounts,
        live_orders: LiveOrders,
        publishers: Sequence[EventPublisher],
        store: Store,
        clock: Clock,
    ) -> None:
        """`seconds`: from one round to the next."""
        self._seconds = seconds
        self._accounts = accounts
        self._live = live_orders
        self._publishers = publishers
        self._store = store
        self._clock = clock
        self._said: dict[str, dict[str, _Said]] = {}
        """By account and ledger entry, what was told of it last; those looked at last stand last."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("marks of positions", self.run, is_vital=False),)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(self._seconds)
            accounts = tuple(self._accounts.traders)
            self._said = {account_id: self._said.get(account_id, {}) for account_id in accounts}
            for account_id in accounts:
                try:
                    await self._tell(account_id)
                except StoreUnavailable as exc:
                    log.debug(f"Marks of positions wait for the store: {exc}", action="marks_waiting")

    async def _tell(self, account_id: str) -> None:
        """Raises StoreUnavailable."""
        at, moving = self._clock.now(), self._moving(account_id)
        held = await self._held(account_id)
        said = {name: each for name, each in self._said[account_id].items() if name in held}
        self._said[account_id] = said
        looked_at = [*(name for name in held if name not in said), *said][:POSITIONS_AT_ONCE]
        wanted = {held[name].key.instrument_key: held[name].instrument for name in looked_at}
        prices = await self._accounts.prices_of(account_id, wanted)
        now = self._clock.now()
        events: dict[str, tuple[_Said, OutEvent]] = {}
        for name in looked_at:
            entry = held[name]
            mark = _mark(prices.get(entry.key.instrument_key, ()), now)
            saying = (entry.position.quantity, entry.position.cost, None if mark is None else mark.price)
            known = said.pop(name, None)
            if known is not None:
                said[name] = known
            if known != saying:
                events[name] = saying, marked_position(entry, mark, at)
        if events:
            moving |= self._moving(account_id)
            still = await self._held(account_id)
            events = {
                name: event
                for name, event in events.items()
                if name in still and name not in moving and still[name].position == held[name].position
            }
        if events and await self._publish(account_id, [event for _, event in events.values()]):
            for name, (saying, _) in events.items():
                said.pop(name, None)
                said[name] = saying

    async def _held(self, account_id: str) -> dict[str, LedgerEntry]:
        """What is held by the ledger, by the entries' names. Raises StoreUnavailable."""
        return {e.key.ledger_id: e for e in await self._store.ledgers_of_account(account_id, ()) if e.position.is_open}

    def _moving(self, account_id: str) -> set[str]:
        """The ledger entries of which the ledger may not know all that has happened."""
        return {
            key_of(live.order).ledger_id
            for live in self._live.by_id.values()
            if isinstance(live.order.request, OrderRequest)
            and live.order.request.account_id == account_id
            and _may_owe_a_fill(live)
        }

    async def _publish(self, account_id: str, events: Sequence[OutEvent]) -> bool:
        """Whether all who are told have them."""
        are_told = True
        for publisher in self._publishers:
            try:
                async with asyncio.timeout(PUBLISH_SECONDS):
                    await publisher.publish_events(events)
            except (PublishFailed, TimeoutError) as exc:
                are_told = False
                log.info(
                    f"Marks of positions were not published: {str(exc) or type(exc).__name__}",
                    action="marks_not_published",
                    account_id=account_id,
                )
        return are_told


def _may_owe_a_fill(live: LiveOrder) -> bool:
    """Whether something is being recorded of it now, or it has filled and the ledger may not know all of that."""
    order = live.order
    return live.lock.locked() or (live.owes_world and bool(order.fills or order.busted_fill_ids))


def _mark(known: Sequence[ReferencePrice], now: datetime) -> Mark | None:
    """By the broker's quote or an execution of ours; what an order's author saw is no mark."""
    told = [price for price in known if price.source is not PriceSource.MESSAGE]
    best = best_reference(told, now, FRESH_SECONDS)
    return None if best is None else Mark(price=best.price, source=best.source.value, at=best.at)
