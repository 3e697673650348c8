"""Rows of `trades` as writes, and those that are missing since earlier versions kept none: written once, beside the ordinary delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from execution_service.core.orders.effects import AppliedEvent, applied_events
from execution_service.core.trades.documents import trade_to_document
from execution_service.core.trades.rows import TradeRow, rows_of
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.views import View, ViewWrite

log = structlog.get_logger(__name__)

BOOKMARK, DONE = "trades of earlier versions", "done"
START_SECONDS = 20.0
"""After the start: what was under way comes first."""
IDS_AT_ONCE, ORDERS_AT_ONCE = 2000, 100
BETWEEN_SECONDS = 0.05
"""Left to the orders of the day."""
AFTER_FAILURE_SECONDS = 5.0


def trade_writes(events: Iterable[AppliedEvent], mode: str | None) -> list[ViewWrite]:
    """Of these events of one order, in their sequence. `mode`: the account's."""
    return [trade_write(row) for event in events for row in rows_of(event, mode)]


def trade_write(row: TradeRow) -> ViewWrite:
    """May be made again without harm."""
    return ViewWrite(View.TRADES, row.trade_id, trade_to_document(row), is_probably_new=True, is_for_ever=True)


def booked_trades(stored: Stored, mode: str | None) -> list[TradeRow]:
    """Of all that the ledger has of the order: what came after is delivered in the ordinary way."""
    if not stored.order.fills and not stored.order.busted_fill_ids:
        return []
    booked = (each for each in applied_events(stored.order) if each.number <= stored.told.ledger)
    return [row for event in booked for row in rows_of(event, mode)]


class PastTrades:
    """Writes the rows of what was booked before `trades` was kept. How far that has come is kept, and a later life goes on from there; whatever
    is written twice is there once."""

    def __init__(self, *, store: Store, clock: Clock, parties: NamesOfAccounts) -> None:
        self._store = store
        self._clock = clock
        self._parties = parties

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("trades of earlier versions", self.run, is_vital=False),)

    async def run(self) -> None:
        """Until cancelled; once all are written it does nothing."""
        while True:
            try:
                await self._write_missing()
                await asyncio.get_running_loop().create_future()
            except StoreUnavailable as exc:
                log.debug(f"Trades of earlier versions wait for the store: {exc}", action="past_trades_waiting")
                await self._clock.sleep(AFTER_FAILURE_SECONDS)

    async def _write_missing(self) -> None:
        """Raises StoreUnavailable."""
        after = await self._store.bookmark(BOOKMARK)
        if after == DONE:
            return
        if after is None and not await self._store.order_ids_after("", 1):
            after = DONE  # a new installation: what comes from now on is delivered in the ordinary way
        await self._clock.sleep(START_SECONDS)
        if after == DONE:
            await self._store.set_bookmark(BOOKMARK, DONE)
            return
        orders = trades = 0
        while order_ids := await self._store.order_ids_after(after or "", IDS_AT_ONCE):
            for first in range(0, len(order_ids), ORDERS_AT_ONCE):
                trades += await self._write(order_ids[first : first + ORDERS_AT_ONCE])
                await self._clock.sleep(BETWEEN_SECONDS)
            orders, after = orders + len(order_ids), order_ids[-1]
            await self._store.set_bookmark(BOOKMARK, after)
        await self._store.set_bookmark(BOOKMARK, DONE)
        if trades:
            log.info(
                f"Trades of earlier versions are written: {trades} of {orders} orders", action="past_trades_written"
            )

    async def _write(self, order_ids: Sequence[str]) -> int:
        writes: list[ViewWrite] = []
        for stored in await self._store.load(order_ids):
            mode = self._parties.account_names_of(stored.order.request.account_id).mode
            writes += map(trade_write, booked_trades(stored, mode))
        if writes:
            await self._store.write_views(writes)
        return len(writes)
