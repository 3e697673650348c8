"""The accounts that this process trades, a trader each: opened, asked, let go and closed here; which accounts are ours is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from brokers.base import BrokerPosition, Instrument, PositionEnding
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.planning.targets import Mode
from execution_service.core.reconcile.discrepancies import ReconciliationOutcome
from execution_service.core.risk.prices import ReferencePrice
from execution_service.ownership.ownership import Ownership
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper, Part
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.trading.reconciliation import CONNECTING_LOOKS, CONNECTING_SECONDS, Reconciliation
from execution_service.trading.risk_rules import RiskRules
from execution_service.trading.traded_account import AccountDirectory, TradedAccount
from execution_service.trading.trader import Trader, TradingRules

log = structlog.get_logger(__name__)

UNNAMED_ACCOUNT_IDLE_SECONDS = 120.0
"""An account that no file names (the mock broker takes any) keeps its trader so long after its last order."""


class Delivers(Protocol):
    """Who delivers what is recorded of orders, finished ones too."""

    def wake(self, live: LiveOrder) -> None:
        """The order may owe something."""

    def has_taken(self, order_id: str, version: int) -> bool:
        """The order is finished, and all that is still to be delivered of it up to that version is known there."""

    def let_go(self, is_theirs: Callable[[str | None], bool]) -> None:
        """Others deliver for those accounts from now on."""

    @property
    def accounts_in_hand(self) -> set[str | None]:
        """Accounts for which something is still to be delivered."""


class MeetsOrphans(Protocol):
    def met(self, order: Order) -> None:
        """An unfinished order was taken in hand whose account is not configured."""


class Accounts:
    """An order in hand is given to its account's trader and to the delivery, whoever brought it: a message, an earlier life, another process."""

    def __init__(
        self,
        *,
        directory: AccountDirectory,
        ownership: Ownership,
        delivery: Delivers,
        cancels: Cancels,
        orphans: MeetsOrphans,
        alerts: RaisesAlerts,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        rules: TradingRules,
        nonce: str,
        keeper: Keeper,
        risk_rules: RiskRules,
    ) -> None:
        """`nonce`: this process's, by which it knows its own intents. `keeper` keeps the traders alive."""
        self._directory = directory
        self._ownership = ownership
        self._delivery = delivery
        self._cancels = cancels
        self._orphans = orphans
        self._alerts = alerts
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._rules = rules
        self._nonce = nonce
        self._keeper = keeper
        self._risk_rules = risk_rules
        self._has_begun = False
        self._last_seen_busy: dict[str, float] = {}
        self.traders: dict[str, Trader] = {}

    # --- an order's way -----------------------------------------------------------------------------------------

    def take(self, stored: Stored) -> None:
        """Takes an order in hand: what it owes is delivered, and its trader brings it to its end. Waits for nothing."""
        if self._delivery.has_taken(stored.order.order_id, stored.order.version):
            return
        live = self._live.adopt(stored)
        self._delivery.wake(live)
        if live.order.status.is_final:
            return
        trader = self.trader_of(live.order.request.account_id)
        if trader is not None:
            trader.take(live)
        else:
            # Configured once, and no longer: nobody can say what became of it there.
            self._orphans.met(live.order)

    def look_again(self, live: LiveOrder) -> None:
        """Somebody else has changed the record of an order in hand."""
        self._delivery.wake(live)  # which lets go of it again if nothing is owed
        trader = self.trader_of(live.order.request.account_id)
        if trader is not None and isinstance(live.order.request, OrderRequest):
            trader.look_again(live)

    def booked(self, order: Order) -> None:
        """All fills of the order, as it is here, are in the ledger."""
        trader = self.traders.get(order.request.account_id or "")
        if trader is not None:
            trader.risk_gate.booked(order)

    def has_taken(self, order_id: str, version: int) -> bool:
        """The order is finished, and needs no reading up to that version."""
        return self._delivery.has_taken(order_id, version)

    def trader_of(self, account_id: str | None) -> Trader | None:
        """The account's trader; None for an account that is not configured, or that another process works. One that is alone makes it when it
        is first needed, one that shares its store when it opens the account."""
        if account_id is None:
            return None
        trader = self.traders.get(account_id)
        account = None if trader is not None or self._ownership.has_others else self._directory.account(account_id)
        if account is not None:
            trader = self.traders[account_id] = self._new_trader(account)
            if self._has_begun:
                self._keep(trader)
        return trader

    # --- what is asked of an account ----------------------------------------------------------------------------

    def is_known(self, account_id: str) -> bool:
        """Whether it is configured."""
        return self._directory.is_known(account_id)

    def mode_of(self, account_id: str) -> Mode | None:
        """None: it is not configured."""
        return self._directory.mode_of(account_id)

    async def positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
        """By its broker; None where that does not tell them now."""
        trader = self.trader_of(account_id)
        if trader is None:
            return None
        for _ in range(CONNECTING_LOOKS):
            if trader.is_connected:
                break
            await self._clock.sleep(CONNECTING_SECONDS / CONNECTING_LOOKS)
        if not trader.is_connected:
            return None
        try:
            return await trader.read_positions()
        except Exception as exc:  # noqa: BLE001  whatever it was, positions are not known
            log.warning(
                f"The broker does not tell positions: {str(exc) or type(exc).__name__}",
                action="positions_not_told",
                account_id=account_id,
            )
            return None

    async def prices_of(
        self, account_id: str, wanted: Mapping[str, Instrument]
    ) -> Mapping[str, Sequence[ReferencePrice]]:
        """Of instruments by their keys in the ledger, all that is known, however old; the broker is asked for its quotes first, and waited for a
        second at most."""
        trader = self.traders.get(account_id)
        if trader is None:
            return {}
        await trader.ask_prices(wanted)
        return {key: trader.known_prices(key) for key in wanted}

    async def endings_of(self, account_id: str, since: datetime) -> Sequence[PositionEnding]:
        """What its broker recorded from then on of options that ended; none where it records nothing, or does not tell it now."""
        trader = self.trader_of(account_id)
        if trader is None or not trader.is_connected:
            return ()
        try:
            return await trader.read_endings(since)
        except Exception as exc:  # noqa: BLE001  whatever it was, nothing is known
            log.info(
                f"The broker does not tell how options ended: {str(exc) or type(exc).__name__}",
                action="endings_not_told",
                account_id=account_id,
            )
            return ()

    async def compare_now(self, account_id: str) -> ReconciliationOutcome | None:
        """What a comparison with the broker shows; None: the account is not configured."""
        trader = self.trader_of(account_id)
        if trader is not None:
            return await trader.reconciliation.compare_now()
        if not self.is_known(account_id):
            return None
        return ReconciliationOutcome(
            is_compared=False, words="Not compared: whoever trades the account has not answered"
        )

    def compared(self) -> Mapping[str, Reconciliation]:
        """Of each account that has a trader: whoever compares its books with the broker's."""
        return {account_id: trader.reconciliation for account_id, trader in self.traders.items()}

    def compare_soon(self, account_id: str) -> None:
        """What was adopted is to be seen in the comparison now, and not only at the next that is due."""
        trader = self.traders.get(account_id)
        if trader is not None:
            trader.reconciliation.connected()

    @property
    def on_bars(self) -> Mapping[str, Trader]:
        """By their ids, those whose market is one of the past."""
        return {account_id: trader for account_id, trader in self.traders.items() if trader.is_on_bars}

    def states(self) -> Mapping[str, Mapping[str, str]]:
        """Of each account that has a trader: its broker, its state there, and what the trouble is."""
        return {
            account_id: {"broker": trader.broker_name, "state": trader.state.value, "trouble": trader.trouble}
            for account_id, trader in self.traders.items()
        }

    def paused(self) -> Mapping[str, bool]:
        """Of each account that has a trader: whether its broker has said that it is away for a time that is known beforehand."""
        return {account_id: trader.is_paused for account_id, trader in self.traders.items()}

    def unprotected(self) -> Mapping[str, int]:
        """Of each account that has a trader: how many entries are held without the protection that they ask for, or it is in doubt."""
        return {account_id: len(trader.protection.unprotected) for account_id, trader in self.traders.items()}

    def calls_left(self) -> Mapping[tuple[str, str, str], float]:
        """By account, kind of call and period in seconds: how many may leave now, where the account's broker limits its calls."""
        return {
            (account_id, kind, f"{seconds:g}"): left
            for account_id, trader in self.traders.items()
            for (kind, seconds), left in trader.calls_left().items()
        }

    # --- life ---------------------------------------------------------------------------------------------------

    def open_named(self) -> None:
        """Has a trader for each account that is to be listened to from the start."""
        for account_id in self._directory.named:
            self.trader_of(account_id)

    def begin(self) -> None:
        """The traders run from now on, those that are made later as soon as they are made."""
        if not self._has_begun:
            self._has_begun = True
            for trader in self.traders.values():
                self._keep(trader)

    def begin_no_more(self) -> None:
        """Traders that are made from now on do not run: the service stops."""
        self._has_begun = False

    async def drain(self) -> None:
        """Sends nothing new, and returns when no order is on its way to a broker any more."""
        for trader in tuple(self.traders.values()):
            await trader.drain()

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process, beside the traders."""
        return [Part("traders without orders", self._let_idle_traders_go)]

    def open(self, partition: str, unsettled: Sequence[Stored]) -> None:
        """Begins the work of a partition that is ours from now on, with the orders that were found."""
        account = self._directory.account(partition)
        if account is not None:
            self.traders[partition] = self._new_trader(account)
        for stored in unsettled:
            live = self._live.by_id.get(stored.order.order_id)
            if live is not None:
                live.begin_anew()  # in hand by a try that failed halfway: what its trader was about to do nobody will
            self.take(stored)
        if account is not None:
            self._keep(self.traders[partition])

    def let_go(self, partition: str) -> None:
        """Takes all of a partition's orders out of our hands, at once: another process may work them from now on."""

        def is_theirs(account_id: str | None) -> bool:
            return self._ownership.partition_of(account_id) == partition

        for live in tuple(self._live.by_id.values()):
            if is_theirs(live.order.request.account_id):
                self._live.let_go(live)
        self._delivery.let_go(is_theirs)

    async def close(self, partition: str) -> None:
        """Ends the work of a partition; returns when its trader has ended."""
        self.traders.pop(partition, None)
        await self._keeper.end(_part_name(partition))

    async def _let_idle_traders_go(self) -> None:
        """So that a thousand accounts that somebody made up are not asked about for ever; who sends them an order again finds a new trader."""
        while True:
            await self._clock.sleep(UNNAMED_ACCOUNT_IDLE_SECONDS / 4)
            now = self._clock.monotonic()
            in_hand = {live.order.request.account_id for live in self._live.by_id.values()}
            in_hand |= self._delivery.accounts_in_hand
            for account_id in self.traders.keys() - set(self._directory.named):
                since = self._last_seen_busy.setdefault(account_id, now)
                if account_id in in_hand:
                    self._last_seen_busy[account_id] = now
                elif now - since >= UNNAMED_ACCOUNT_IDLE_SECONDS:
                    del self._last_seen_busy[account_id]
                    await self._ownership.give_back(account_id)

    # --- one trader ---------------------------------------------------------------------------------------------

    def _new_trader(self, account: TradedAccount) -> Trader:
        return Trader(
            account=account,
            live_orders=self._live,
            store=self._store,
            clock=self._clock,
            rules=self._rules,
            nonce=self._nonce,
            alerts=self._alerts,
            cancels=self._cancels,
            ownership=self._ownership,
            keeper=self._keeper,
            risk_rules=self._risk_rules,
            orders=self,
        )

    def _keep(self, trader: Trader) -> None:
        self._keeper.keep(Part(_part_name(trader.account_id), trader.run, trader.account_id))


def _part_name(account_id: str) -> str:
    return f"trader {account_id}"
