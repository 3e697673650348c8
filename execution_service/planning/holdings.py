"""What a plan is computed from, read at one moment: holdings by the ledger, our own open orders, differences to the broker, prices and money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from brokers.base import AssetClass, Balance, Instrument
from brokers.errors import BrokerError
from execution_service.core.exact import ZERO
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.core.planning.facts import InstrumentFacts, Money
from execution_service.core.planning.targets import TargetPositions
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyState
from execution_service.core.risk.prices import ReferencePrice, best_reference
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store

OLDEST_PRICE = timedelta(minutes=15)
"""A price that is older tells no quantity."""
SMALLEST_COIN = Decimal("0.00000001")
_UNSURE = frozenset({Status.SUBMITTING, Status.IN_DOUBT})


class KnowsMarket(Protocol):
    """An account's trader, as far as a plan asks it."""

    def known_prices(self, instrument_key: str) -> Sequence[ReferencePrice]:
        """All that is known, however old."""

    async def read_balances(self) -> Sequence[Balance]:
        """Raises BrokerError, TimeoutError."""


class TradesAccounts(Protocol):
    """Who trades each account."""

    def trader_of(self, account_id: str | None) -> KnowsMarket | None:
        """None: it is not traded here."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """The facts cannot be told yet; why, for people."""

    words: str


class Holdings:
    """Reads them for one account and strategy."""

    def __init__(self, *, store: Store, live_orders: LiveOrders, accounts: TradesAccounts, clock: Clock) -> None:
        self._store = store
        self._live = live_orders
        self._accounts = accounts
        self._clock = clock

    async def held(self, account_id: str, strategy_id: str) -> Mapping[str, Decimal] | None:
        """Signed, by instrument key: by the ledger, less what our own open orders may still take of it. None: it is not known now. Raises
        StoreUnavailable."""
        entries = await self._entries(account_id, strategy_id)
        if entries is None or self._is_lagging(account_id, strategy_id):
            return None
        orders = self._orders(account_id, strategy_id)
        return {entry.instrument.key: self._available(entry, orders) for entry in entries}

    async def facts(self, targets: TargetPositions) -> tuple[Mapping[str, InstrumentFacts], Money] | NotNow:
        """Of all that is targeted, and of all that the strategy holds or trades, by instrument key. Raises StoreUnavailable."""
        account_id, strategy_id = targets.account_id, targets.strategy_id
        entries = await self._entries(account_id, strategy_id)
        if entries is None:
            return NotNow("the positions cannot all be read")
        if self._is_lagging(account_id, strategy_id):
            return NotNow("the last fills are not booked yet")
        orders = self._orders(account_id, strategy_id)
        found = await self._store.discrepancies()
        differences = [each for each in found if each.account_id == account_id and each.state is DiscrepancyState.OPEN]
        instruments = {target.instrument.key: target.instrument for target in targets.targets}
        for other in (*(entry.instrument for entry in entries), *(o.accepted_request.instrument for o in orders)):
            if not any(other.could_be(named) for named in instruments.values()):
                instruments[other.key] = other
        facts = {
            key: self._of(instrument, entries, orders, differences, account_id)
            for key, instrument in instruments.items()
        }
        needs_equity = any(target.weight for target in targets.targets)
        return facts, await self._money(account_id) if needs_equity else Money()

    async def _entries(self, account_id: str, strategy_id: str) -> list[LedgerEntry] | None:
        entries = await self._store.open_ledgers(account_id)
        return None if entries is None else [entry for entry in entries if entry.key.strategy == strategy_id]

    def _live_of(self, account_id: str, strategy_id: str) -> list[LiveOrder]:
        return [
            live
            for live in self._live.by_id.values()
            if (live.order.request.account_id, live.order.request.strategy) == (account_id, strategy_id)
        ]

    def _is_lagging(self, account_id: str, strategy_id: str) -> bool:
        """Whether something was filled that the ledger does not have yet."""
        mine = self._live_of(account_id, strategy_id)
        return any(live.order.fills and live.told.ledger < live.order.version for live in mine)

    def _orders(self, account_id: str, strategy_id: str) -> list[Order]:
        mine = (live.order for live in self._live_of(account_id, strategy_id))
        return [order for order in mine if not order.status.is_final]

    @staticmethod
    def _available(entry: LedgerEntry, orders: Sequence[Order]) -> Decimal:
        quantity = entry.position.quantity
        for order in orders:
            if (
                order.accepted_request.instrument.could_be(entry.instrument)
                and order.accepted_request.side.sign * quantity < 0
            ):
                quantity += order.remaining_quantity * order.accepted_request.side.sign
        return quantity if quantity * entry.position.quantity > 0 else ZERO

    def _of(
        self,
        instrument: Instrument,
        entries: Sequence[LedgerEntry],
        orders: Sequence[Order],
        differences: Sequence[Discrepancy],
        account_id: str,
    ) -> InstrumentFacts:
        mine = [entry for entry in entries if entry.instrument.could_be(instrument)]
        working = [order for order in orders if order.accepted_request.instrument.could_be(instrument)]
        keys = {instrument.key, instrument.full_key, *(entry.key.instrument_key for entry in mine)}
        blocked = None
        if len(mine) > 1:
            blocked = f"{len(mine)} holdings may be meant"
        elif any(order.status in _UNSURE for order in working):
            blocked = "an order is under way or in doubt"
        elif any(each.finding.instrument in keys for each in differences):
            blocked = "our books and the broker's differ"
        key = mine[0].key.instrument_key if mine else instrument.key
        now = self._clock.now()
        trader = self._accounts.trader_of(account_id)
        prices = [] if trader is None else [p for p in trader.known_prices(key) if now - p.at <= OLDEST_PRICE]
        price = best_reference(prices, now, None)
        is_coin = instrument.asset_class is AssetClass.CRYPTO
        return InstrumentFacts(
            # The holding's own name: what closes it must mean it.
            instrument=mine[0].instrument if len(mine) == 1 else instrument,
            held=sum((entry.position.quantity for entry in mine), ZERO),
            working=sum((order.remaining_quantity * order.accepted_request.side.sign for order in working), ZERO),
            blocked=blocked,
            price=None if price is None else price.price,
            unit_value=(mine[0].money_per_point if mine else None) or instrument.multiplier or Decimal(1),
            lot=SMALLEST_COIN if is_coin else Decimal(1),
        )

    async def _money(self, account_id: str) -> Money:
        trader = self._accounts.trader_of(account_id)
        if trader is None:
            return Money()
        try:
            balances = await trader.read_balances()
        except (BrokerError, TimeoutError):
            return Money()
        known = [balance for balance in balances if balance.equity is not None]
        # Of several currencies none is the account's by itself.
        return Money(equity=known[0].equity) if len(known) == 1 else Money()
