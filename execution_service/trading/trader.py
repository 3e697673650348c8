"""One account's trader: its parts wired together, their life, and what others may tell it or ask of it; each part has its room in trading/."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from brokers.base import (
    Balance,
    BrokerPosition,
    HasMarketClock,
    Instrument,
    PositionEnding,
    PositionMovement,
    RecordsMovements,
    Report,
    TellsEndings,
    Tif,
)
from brokers.errors import BrokerError, NotAnswered
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.legs import cancelled_with
from execution_service.core.orders.next_step import Limits, cancel_request
from execution_service.core.orders.sanitize import sanitized_position
from execution_service.core.orders.status import Reason
from execution_service.core.risk.prices import ReferencePrice
from execution_service.ownership.ownership import Ownership
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Keeper, Part
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.trading.blocked_exits import BlockedExits
from execution_service.trading.combined_submission import CombinedSubmission
from execution_service.trading.connection import AccountState, Connection
from execution_service.trading.exit_check import ExitCheck
from execution_service.trading.exits_at_work import ExitsAtWork
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.holding_choice import HoldingChoice
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.isolation import Isolation
from execution_service.trading.order_sizing import OrderSizing
from execution_service.trading.order_steps import OrderSteps
from execution_service.trading.placement import Placement
from execution_service.trading.pre_trade_checks import PreTradeChecks
from execution_service.trading.protection import Protection, TakesStored
from execution_service.trading.reconciliation import Reconciliation
from execution_service.trading.report_poller import ReportPoller
from execution_service.trading.risk_gate import RiskGate
from execution_service.trading.risk_rules import RiskRules
from execution_service.trading.stop_news import StopNews
from execution_service.trading.submission import Submission
from execution_service.trading.tasks import Tasks
from execution_service.trading.timers import Timers
from execution_service.trading.traded_account import TradedAccount
from execution_service.trading.volumes import Volumes

LEASE_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingRules:
    """The settings that a trader obeys; times in seconds."""

    order_timeout_seconds: float = 60.0
    counts_while_held: bool = False
    """Whether an order's time-out runs while the broker holds it for the opening."""
    max_order_age_seconds: float = 300.0
    max_retry_attempts: int = 3
    reconcile_interval_seconds: float = 60.0
    """0: only after each connection and when asked."""
    exit_position_check: ExitPositionCheck = ExitPositionCheck.WHEN_DIFFERS
    risk_per_trade: Decimal | None = None
    """The part of the equity that an order may lose until its stop which names no quantity; None: each must name one."""
    position_monitor_seconds: float = 10.0
    """Between two looks at protected positions; 0: no protective order is placed."""


class Trader:
    """Owns the conversation with one broker about one account."""

    def __init__(
        self,
        *,
        account: TradedAccount,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        rules: TradingRules,
        nonce: str,
        alerts: RaisesAlerts,
        cancels: Cancels,
        ownership: Ownership,
        keeper: Keeper,
        risk_rules: RiskRules,
        orders: TakesStored,
    ) -> None:
        """`orders` takes in hand what is made here. `ownership`: whether this process surely holds the account at this moment. Nothing new is begun
        at the broker otherwise."""
        account_id = account.account_id
        self.is_on_bars = account.is_on_bars
        self.makes_up_prices = account.makes_up_prices
        self._live = live_orders
        self._clock = clock
        self._ownership = ownership
        self._has_run = False
        self._is_draining = False
        self._timers: Timers[LiveOrder] = Timers(clock)
        self._tasks = Tasks(account_id, timers=self._timers)
        self._grouped_alerts = grouped_alerts = GroupedAlerts(account_id=account_id, clock=clock, alerts=alerts)
        self._connection = Connection(
            account=account,
            limits=Limits(
                order_timeout_seconds=0.0 if account.is_on_bars else rules.order_timeout_seconds,
                max_order_age_seconds=rules.max_order_age_seconds,
                counts_while_held=rules.counts_while_held,
            ),
            max_attempts=rules.max_retry_attempts,
            clock=clock,
            alerts=alerts,
            conversation=self,
        )
        self._volumes = Volumes(
            connection=self._connection, tasks=self._tasks, clock=clock, is_on_bars=account.is_on_bars
        )
        self.reconciliation = Reconciliation(
            account=self,
            live_orders=live_orders,
            store=store,
            clock=clock,
            interval_seconds=rules.reconcile_interval_seconds,
            alerts=alerts,
        )
        isolation = Isolation(
            connection=self._connection,
            timers=self._timers,
            grouped_alerts=grouped_alerts,
            clock=clock,
        )
        self._queues = InstrumentQueues(timers=self._timers, isolation=isolation, clock=clock)
        self.risk_gate = RiskGate(
            connection=self._connection,
            live_orders=live_orders,
            store=store,
            clock=clock,
            alerts=alerts,
            rules=risk_rules,
            reconciliation=self.reconciliation,
            queues=self._queues,
            makes_up_prices=account.makes_up_prices,
        )
        self._report_poller = ReportPoller(
            connection=self._connection,
            queues=self._queues,
            live_orders=live_orders,
            store=store,
            clock=clock,
            alerts=alerts,
            grouped_alerts=grouped_alerts,
            isolation=isolation,
            timers=self._timers,
            reconciliation=self.reconciliation,
            ownership=ownership,
        )
        self._exit_check = ExitCheck(
            mode=rules.exit_position_check,
            connection=self._connection,
            report_poller=self._report_poller,
            queues=self._queues,
            live_orders=live_orders,
            store=store,
            clock=clock,
            tasks=self._tasks,
            reconciliation=self.reconciliation,
        )
        holding_choice = HoldingChoice(store, live_orders)
        self.protection = Protection(
            connection=self._connection,
            conversation=self,
            orders=orders,
            market=self.risk_gate,
            live_orders=live_orders,
            store=store,
            clock=clock,
            ownership=ownership,
            interval_seconds=rules.position_monitor_seconds,
            is_on_bars=account.is_on_bars,
        )
        self._exits_at_work = ExitsAtWork(
            connection=self._connection,
            conversation=self,
            live_orders=live_orders,
            store=store,
            clock=clock,
            ownership=ownership,
            grouped_alerts=grouped_alerts,
            mode=rules.exit_position_check,
        )
        stop_news = StopNews(report_poller=self._report_poller, live_orders=live_orders, clock=clock)
        pre_trade_checks = PreTradeChecks(
            connection=self._connection,
            holding_choice=holding_choice,
            live_orders=live_orders,
            store=store,
            clock=clock,
            max_attempts=rules.max_retry_attempts,
            cancels=cancels,
            exit_check=self._exit_check,
            protection=self.protection,
            risk_gate=self.risk_gate,
            stop_news=stop_news,
        )
        placement = Placement(
            connection=self._connection,
            queues=self._queues,
            report_poller=self._report_poller,
            live_orders=live_orders,
            clock=clock,
            tasks=self._tasks,
            ownership=ownership,
            risk_gate=self.risk_gate,
            stop_news=stop_news,
        )
        self._submission = Submission(
            connection=self._connection,
            queues=self._queues,
            pre_trade_checks=pre_trade_checks,
            holding_choice=holding_choice,
            placement=placement,
            isolation=isolation,
            live_orders=live_orders,
            clock=clock,
            nonce=nonce,
            cancels=cancels,
            risk_gate=self.risk_gate,
            order_sizing=OrderSizing(
                connection=self._connection, risk_gate=self.risk_gate, risk_per_trade=rules.risk_per_trade
            ),
        )
        blocked_exits = BlockedExits(
            connection=self._connection,
            timers=self._timers,
            grouped_alerts=grouped_alerts,
            clock=clock,
        )
        combined_submission = CombinedSubmission(
            connection=self._connection,
            queues=self._queues,
            submission=self._submission,
            placement=placement,
            report_poller=self._report_poller,
            isolation=isolation,
            live_orders=live_orders,
            store=store,
            clock=clock,
            cancels=cancels,
            risk_gate=self.risk_gate,
        )
        self._isolation = isolation
        self._order_steps = OrderSteps(
            connection=self._connection,
            timers=self._timers,
            queues=self._queues,
            submission=self._submission,
            combined_submission=combined_submission,
            pre_trade_checks=pre_trade_checks,
            report_poller=self._report_poller,
            placement=placement,
            stop_news=stop_news,
            blocked_exits=blocked_exits,
            grouped_alerts=grouped_alerts,
            isolation=isolation,
            live_orders=live_orders,
            clock=clock,
            tasks=self._tasks,
            ownership=ownership,
        )
        self.alongside = [
            Part(f"connection {account_id}", self._connection.keep, account_id),
            Part(f"messages about many orders {account_id}", grouped_alerts.run, account_id),
            Part(f"comparison {account_id}", self.reconciliation.run, account_id),
            Part(f"protection {account_id}", self.protection.run, account_id),
            Part(f"exits at work {account_id}", self._exits_at_work.run, account_id),
            Part(f"watched prices {account_id}", self.protection.price_watch.run, account_id),
            Part(f"risk document {account_id}", self.risk_gate.keep_book, account_id),
            Part(f"balances {account_id}", self.risk_gate.keep_balances, account_id),
            Part(f"values {account_id}", self.risk_gate.keep_values, account_id),
            Part(f"quotes {account_id}", self.risk_gate.quotes.run, account_id),
        ]
        """What runs for as long as the account is traded here, each begun anew by itself where it fails."""
        self._keeper = keeper

    # --- who it is and how it stands ----------------------------------------------------------------------------

    @property
    def account_id(self) -> str:
        return self._connection.account_id

    @property
    def account_name(self) -> str:
        return self._connection.account_name

    @property
    def broker_name(self) -> str:
        return self._connection.broker_name

    @property
    def is_connected(self) -> bool:
        return self._connection.is_connected

    @property
    def state(self) -> AccountState:
        return self._connection.state

    @property
    def trouble(self) -> str:
        return self._connection.trouble

    @property
    def is_paused(self) -> bool:
        """The broker has said that it is away for a time that is known beforehand."""
        return self._connection.is_paused

    def calls_left(self) -> Mapping[tuple[str, float], int]:
        """By kind of call and period in seconds, how many may leave now, where the broker limits its calls."""
        return self._connection.calls_left()

    # --- what others tell the trader ----------------------------------------------------------------------------

    def take(self, live: LiveOrder) -> None:
        """An unfinished order of this account, new or found in the store at start."""
        try:
            self._submission.take(live.order)
            self.risk_gate.take(live)
            self._queues.take(live)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._isolation.failed(live, exc, doing="taking it in hand")

    def look_again(self, live: LiveOrder) -> None:
        """The order was changed by somebody else's word (a fill, a resolution): step it now."""
        self._isolation.lift(live)
        self._queues.look_again(live)

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        """Records the wish; a PENDING order ends by it at once, any other is cancelled at the broker next. Of a combination the broker cancels the
        whole, so every leg is to be cancelled."""
        await self._cancel(live, reason, requested_by)
        whole = live.order.combination
        for leg in () if whole is None else whole.legs:
            other = self._live.by_client_id.get(leg.client_order_id)
            if other is not None and other is not live:
                await self._cancel(other, cancelled_with(live.order, reason), requested_by)

    async def _cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        await self._live.record(live, lambda order: cancel_request(order, reason, requested_by, self._clock.now()))
        self._isolation.lift(live)
        live.take_news()  # asked for once more, it is asked for at the broker soon again
        live.tries = replace(live.tries, is_cancel_commanded=True)
        self._timers.make(live, 0.0)

    @property
    def exits_in_turn(self) -> asyncio.Lock:
        """While it is held, no exit is between its last look and its sending."""
        return self._submission.exits_in_turn

    # --- what the reconciliation asks ---------------------------------------------------------------------------

    async def read_book(
        self, *, whole: bool, on_part: Callable[[Sequence[Report]], Awaitable[None]] | None = None
    ) -> None:
        """Everything that the broker shows of the account's orders, or what has changed, recorded like any other answer, and then
        given to `on_part`, part by part. Raises BrokerError, TimeoutError, StoreUnavailable."""
        try:
            await self._report_poller.ask_all(whole=whole, on_part=on_part)
        except (BrokerError, TimeoutError, StoreUnavailable) as exc:
            self._connection.query_failed(exc)
            raise

    async def read_positions(self) -> Sequence[BrokerPosition]:
        """Raises BrokerError, TimeoutError, NotAnswered where the broker never tells them: the connection is not judged by it."""
        if not self.reports_positions:
            raise NotAnswered("this broker tells no positions")
        shown = await self._connection.ask(self._connection.broker.positions())
        return [sanitized_position(position) for position in shown]

    async def read_endings(self, since: datetime) -> Sequence[PositionEnding]:
        """As `TellsEndings.endings`; none where the broker records none. Raises BrokerError, TimeoutError: the connection is not judged by it."""
        broker = self._connection.broker
        return await self._connection.ask(broker.endings(since)) if isinstance(broker, TellsEndings) else ()

    async def read_movements(self, since: datetime) -> Sequence[PositionMovement]:
        """As `RecordsMovements.movements`; none where the broker records none. Raises BrokerError, TimeoutError: the connection is not judged by
        it."""
        broker = self._connection.broker
        return await self._connection.ask(broker.movements(since)) if isinstance(broker, RecordsMovements) else ()

    async def read_balances(self) -> Sequence[Balance]:
        """Raises BrokerError, TimeoutError."""
        return await self._connection.ask(self._connection.broker.balances())

    async def move_market(self) -> bool:
        """Where the market is one of the past: lets it go on by a bar, if that is wanted; whether it did. Raises BrokerError, TimeoutError."""
        broker = self._connection.broker
        has_moved = isinstance(broker, HasMarketClock) and await self._connection.ask(broker.move_on())
        if has_moved:
            self.protection.price_watch.bar_is_over()
        return has_moved

    async def look_at_bar(self) -> None:
        """Where the market is one of the past: the prices that are waited for, as its last bar left them. Raises BrokerError, TimeoutError."""
        await self.protection.price_watch.look_at_bar()

    @property
    def is_protecting(self) -> bool:
        """Whether there is news of a position for which its protective orders are not on their way yet, or its exits not asked to end."""
        return not (self.protection.has_settled and self._exits_at_work.has_settled)

    async def wants_market_to_move(self) -> bool:
        """Where the market is one of the past: whether an order waits for its next bar, or a person has asked for it. Raises BrokerError,
        TimeoutError."""
        broker = self._connection.broker
        return isinstance(broker, HasMarketClock) and await self._connection.ask(broker.wants_to_move())

    def known_prices(self, instrument_key: str) -> Sequence[ReferencePrice]:
        """Of an instrument by its key in the ledger: all that is known, however old."""
        return self.risk_gate.known_prices(instrument_key)

    async def ask_prices(self, wanted: Mapping[str, Instrument]) -> None:
        """Has the broker asked for its quotes of these, by their keys in the ledger; returns when it has answered, after a second at the latest."""
        await self.risk_gate.quotes.ask_and_wait(wanted)

    async def read_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """What the market usually trades of each in a bar, of those of which the broker has told it; returns after a second at the latest. One call
        after the other."""
        return await self._volumes.read(instruments)

    def takes(self, tif: Tif) -> bool:
        """Whether the broker knows that time in force."""
        return tif in self._connection.capabilities.tifs

    def trades(self, instrument: Instrument) -> bool:
        """Whether the broker trades that kind of instrument at all."""
        return instrument.asset_class in self._connection.capabilities.asset_classes

    @property
    def usual_currency(self) -> str | None:
        """In which instruments are priced that name no currency, where accounts have one of their own; None: in the account's, whatever that is."""
        known = self._connection.capabilities
        return known.commission_currency if known.has_base_currency else None

    @property
    def reports_positions(self) -> bool:
        return self._connection.capabilities.reports_positions

    def products_of(self, instrument: Instrument) -> Sequence[str]:
        """In which the broker holds it apart, the usual one first; none where it knows no products."""
        return self._connection.capabilities.products_of(instrument)

    async def look_for_all(self, some: Sequence[LiveOrder]) -> set[str]:
        """Our ids of those, of orders that the broker did not list, that it does not find either; what it says of the others is recorded.
        Raises BrokerError, TimeoutError."""
        return await self._report_poller.look_for_all(some)

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Working orders stay at the broker. After a failure it may be called again: then recovery is the ordinary path, all of
        the account's orders are taken in hand as after a start of the service."""
        if self._has_run:
            self._begin_anew()
        self._has_run = True
        notes = (self._exit_check.note_record, self.risk_gate.note_record)
        self._live.on_recorded.extend(notes)
        for part in self.alongside:
            self._keeper.keep(part)
        try:
            while True:
                timeout = self._turn()
                await self._timers.wait(timeout)
        finally:
            for note in notes:
                self._live.on_recorded.remove(note)
            try:
                await self._keeper.end(*(part.name for part in self.alongside))
            finally:  # also where it is ended while it puts a failure in order: nothing of it may go on
                try:
                    await self._tasks.cancel()
                finally:
                    await self._connection.close()

    def _begin_anew(self) -> None:
        """No state of a queue outlives the task that would have reset it: every queue is made from the orders in hand."""
        self._timers.clear()
        self._queues.begin_anew()
        self._report_poller.begin_anew()
        self._exit_check.begin_anew()
        self.risk_gate.begin_anew()
        self.protection.begin_anew()
        self._exits_at_work.begin_anew()
        for live in tuple(self._live.by_id.values()):
            if live.order.request.account_id == self.account_id:
                live.begin_anew()
                if not live.order.status.is_final:
                    self.take(live)

    async def drain(self) -> None:
        """Sends nothing new and returns when no order is on its way to the broker any more."""
        self._is_draining = True
        await self._order_steps.drain()
        await self._grouped_alerts.send_all()

    def _turn(self) -> float | None:
        """Starts whatever is due and can be started; returns the seconds until something is due next. Waits for nothing."""
        if not self._ownership.holds(self.account_id):
            return LEASE_PAUSE_SECONDS
        now = self._clock.monotonic()
        for live in self._timers.due(now):
            self._order_steps.step(live, now)
        self._queues.end_pauses(now)
        moments = [self._queues.next_at]
        if self._connection.is_connected:
            if self._report_poller.is_due(now):
                self._tasks.begin(self._report_poller.check(), "check")
            if not self._is_draining:
                self._order_steps.start_queues()
            moments.append(self._report_poller.next_at)
        moments.append(self._timers.next_at)
        due = [moment for moment in moments if moment is not None]
        return max(0.0, min(due) - now) if due else None

    # --- what the connection says -------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        await self._report_poller.ask_all(whole=True)

    def connected(self) -> None:
        self.reconciliation.connected()
        self.protection.connected()
        self._timers.wake()

    async def reject_pending(self, message: str) -> None:
        await self._submission.reject_pending(message)

    def hinted(self) -> None:
        self._report_poller.want()
        self._timers.wake()
