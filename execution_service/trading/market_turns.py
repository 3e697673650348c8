"""When the market of a TRAINING account on historical bars goes on: settle, then step. Of no account whose market is the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import structlog

from brokers.errors import BrokerError
from execution_service.core.orders.status import Status
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable

log = structlog.get_logger(__name__)

SETTLING_SECONDS, STILL_SECONDS = 0.05, 0.5
"""Between two looks at an account: while something is under way, and while nothing is, when who is recorded wakes us, and a person's command
does not."""
PATIENCE_SECONDS = 5.0
"""An order that has not left after so long, or is not cancelled, waits for something else than for us, perhaps for what only the market brings."""
_ON_THE_WAY = frozenset({Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT})


class MovesMarket(Protocol):
    """A trader whose broker's market is one of the past."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def is_protecting(self) -> bool:
        """Whether there is news of a position whose protective orders are not on their way yet."""

    async def read_book(self, *, whole: bool) -> None:
        """Records all that the broker has to tell. Raises BrokerError, TimeoutError, StoreUnavailable."""

    async def look_at_bar(self) -> None:
        """Takes note of the prices that are waited for, as the last bar left them. Raises BrokerError, TimeoutError."""

    async def wants_market_to_move(self) -> bool:
        """Whether an order waits for the next bar, or a person has asked for it. Raises BrokerError, TimeoutError."""

    async def move_market(self) -> bool:
        """Lets the market go on by a bar, if that is wanted; whether it did. Raises BrokerError, TimeoutError."""


class KnowsTrainingAccounts(Protocol):
    """The accounts that are traded here."""

    @property
    def on_bars(self) -> Mapping[str, MovesMarket]:
        """By their ids, those at a market of the past."""


class WorksPlans(Protocol):
    """Who releases the orders of plans."""

    async def work(self) -> object:
        """Takes every open plan one step further. Raises StoreUnavailable."""


class _Found(Enum):
    """How a look at an account has ended."""

    MOVED = 0
    SETTLING = 1
    STILL = 2


_PAUSES = {_Found.MOVED: 0.0, _Found.SETTLING: SETTLING_SECONDS, _Found.STILL: STILL_SECONDS}


class MarketTurns:
    """A bar comes when everything that the last one brought is recorded and booked, every price that is waited for was looked at, and every order
    that it allows to be sent is at the broker:
    so what an order misses or meets does not hang on how fast this machine is."""

    def __init__(
        self, *, accounts: KnowsTrainingAccounts, live_orders: LiveOrders, plans: WorksPlans, clock: Clock
    ) -> None:
        self._accounts = accounts
        self._live = live_orders
        self._plans = plans
        self._clock = clock
        self._wake = WakeUp(clock)

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("markets of the past", self.run),)

    async def run(self) -> None:
        """Until cancelled."""
        self._live.on_recorded.append(self._note_record)
        try:
            while True:
                found = [await self._turn(*each) for each in tuple(self._accounts.on_bars.items())]
                pause = min((_PAUSES[each] for each in found), default=STILL_SECONDS)
                await (self._wake.wait(pause) if pause else self._clock.sleep(0))
        finally:
            self._live.on_recorded.remove(self._note_record)

    def _note_record(self, live: LiveOrder) -> None:
        if live.order.request.account_id in self._accounts.on_bars:
            self._wake.tell()

    async def _turn(self, account_id: str, trader: MovesMarket) -> _Found:
        try:
            return await self._settle_and_step(account_id, trader) if trader.is_connected else _Found.STILL
        except (BrokerError, TimeoutError, StoreUnavailable) as exc:
            # Whether it has gone on or not: the next look goes by what the broker and the store say then.
            log.debug(f"The market stands still: {exc}", action="market_waits", account_id=account_id)
            return _Found.STILL

    async def _settle_and_step(self, account_id: str, trader: MovesMarket) -> _Found:
        if not self._has_settled(account_id, trader):
            return _Found.SETTLING
        await trader.read_book(whole=False)
        if not self._has_settled(account_id, trader):
            return _Found.SETTLING
        await trader.look_at_bar()
        if not self._has_settled(account_id, trader):
            return _Found.SETTLING
        if not await trader.wants_market_to_move():
            return _Found.STILL
        await self._plans.work()  # what the last bar allows leaves before the next one
        if not self._has_settled(account_id, trader):
            return _Found.SETTLING
        return _Found.MOVED if await trader.move_market() else _Found.STILL

    def _has_settled(self, account_id: str, trader: MovesMarket) -> bool:
        if trader.is_protecting:
            return False
        mine = (live for live in self._live.by_id.values() if live.order.request.account_id == account_id)
        return not any(self._is_under_way(live) for live in mine)

    def _is_under_way(self, live: LiveOrder) -> bool:
        order = live.order
        if order.fills and live.owes_world:
            return True
        if order.status in _ON_THE_WAY:
            return self._clock.monotonic() - live.known_from < PATIENCE_SECONDS
        if order.status.is_final or order.cancel_request is None:
            return False
        asked = live.elapsed(self._clock.monotonic()).cancel_sent
        return asked is None or asked < PATIENCE_SECONDS
