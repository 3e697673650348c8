"""Builds the parts and runs their life: start, wait for a signal, stop. The only room that wires, and that holds the real clock."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import structlog

from brokers.base import Broker, BrokerPosition, Fill
from brokers.factory import BrokerFactory
from execution_service.app.clock import SystemClock
from execution_service.app.embedded import TopicPlan, embedded_store, local_pubsub, make_private, owned
from execution_service.app.settings import Account, Settings
from execution_service.app.supervisor import Supervisor
from execution_service.control.adopting import Adopting
from execution_service.control.commands import Commands
from execution_service.core import texts
from execution_service.core.messages.wire import Unusable, parse_order_fields
from execution_service.core.orders.events import Event, Filled, Rejected
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.reconcile import Outcome
from execution_service.delivery.confirmations import Confirmations
from execution_service.delivery.dispatch import Delivery
from execution_service.delivery.party import Party
from execution_service.delivery.signals import trading_order_write
from execution_service.delivery.stream import Sink
from execution_service.intake.intake import Intake
from execution_service.ownership.desks import UNASSIGNED, Desks
from execution_service.ownership.leases import Self
from execution_service.ownership.process_table import ProcessTable
from execution_service.ownership.processes import Processes
from execution_service.recording.live import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.news import News
from execution_service.runtime.reach import Reach
from execution_service.runtime.supervision import Part
from execution_service.runtime.threads import ThreadPool
from execution_service.storage.mongo.opening import connect
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.commands import DeadLetter
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.unreadable import UnreadableDocument
from execution_service.trading.reconciliation import CONNECTING_LOOKS, CONNECTING_SECONDS, Reconciliation
from execution_service.trading.trader import Trader, TradingRules
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message, Publisher, PublishFailed, TopicMissing
from execution_service.transport.pubsub import GooglePublisher, GoogleSubscriber
from notifications.base import NoNotifier, Notifier
from notifications.telegram import TelegramNotifier

log = structlog.get_logger(__name__)
T = TypeVar("T")

START_SECONDS = 60.0
DRAIN_SECONDS = 4.0
UNNAMED_ACCOUNT_IDLE_SECONDS = 120.0
"""An account that no file names (the mock broker takes any) keeps its trader so long after its last order."""
ORPHANS_GATHERED_SECONDS = 2.0
ORPHANS_AGAIN_SECONDS = 60.0
"""After which it is looked again whether somebody works the orders of accounts that another process held."""
LAST_ALERT_SECONDS = 3.0
"""So long a service that has to end waits until people have been told why."""
UNREADABLE_SECONDS = 2.0
"""How often it is looked whether documents were met that cannot be read."""
STORE_THREADS = 2
ENDPOINTS = "endpoints.json"
ORDERS_IN = "orders in"
STATES_SECONDS = 0.5
"""How often the accounts' states are looked at for the notice."""


class CannotStart(Exception):
    """Something the service needs could not be had within a minute; the message names it."""


class CannotGoOn(Exception):
    """A part of the service could not be kept alive, and the service has stopped in order; the message names it and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The outside world, real or faked."""

    store: Store
    publisher: Publisher
    notifier: Notifier
    clock: Clock
    orders: Inbox
    commands: Inbox
    account_of: Callable[[str], Account | None]
    accounts: Sequence[str] = ()
    """Those whose brokers are listened to from the start: what was finished before it may have filled since."""
    create_broker: Callable[[Mapping[str, object]], Broker]
    rules: TradingRules
    nonce: str
    shares_store: bool = False
    """Other processes may write to the store: it is asked for cancels again before each sending."""
    processes: Processes | None = None
    """By which the death of another process on this machine can be proven; None: it never is."""
    lease_seconds: float | None = None
    """The term of the leases by which processes that share the store share out the accounts; None: this process is alone."""
    uses_ordering_keys: bool = False
    more_sinks: Sequence[Sink] = ()
    """Where events of orders go besides `execution-confirmations`."""


class ExecutionService:
    """The service proper: everything between the queue of messages and the ports."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self._clock = parts.clock
        self.live_orders = LiveOrders(parts.store, parts.clock)
        self.traders: dict[str, Trader] = {}
        self.reconciliations: dict[str, Reconciliation] = {}
        self._last_seen_busy: dict[str, float] = {}
        self._orphans: dict[str, dict[str, str]] = {}
        """By account that is not configured: the signals of its unfinished orders of which people have not been told, by our id."""
        self._orphan_news = News(parts.clock)
        self._leases_seen: dict[str, tuple[object, float]] = {}
        """By account: the mark of its lease when that was last seen to move, and when that was."""
        self._is_begun = False
        confirmations = Confirmations(
            publisher=parts.publisher, party_of=self._party_of, uses_ordering_keys=parts.uses_ordering_keys
        )
        self.outbox = Delivery(
            live_orders=self.live_orders,
            store=parts.store,
            notifier=parts.notifier,
            clock=parts.clock,
            sinks=[confirmations, *parts.more_sinks],
            party_of=self._party_of,
            max_attempts=parts.rules.max_retry_attempts,
            is_ours=lambda account_id: self._holds(self._desk_name(account_id)),
            sends_alerts=None if parts.lease_seconds is None else lambda: self._holds(UNASSIGNED),
        )
        self.supervisor = Supervisor(parts.clock, self.outbox.raise_alert)
        self.desks = None if parts.lease_seconds is None else self._new_desks(parts.lease_seconds)
        self.adopting = Adopting(
            store=parts.store,
            live_orders=self.live_orders,
            clock=parts.clock,
            desk_of=self._desk_of,
            positions_of=self._positions_of,
            hand_over=self._hand_over,
            look_again=self._compare_soon,
            is_known_account=lambda account_id: parts.account_of(account_id) is not None,
            foreign_desk=_nobody_elses if self.desks is None else self.desks.foreign_desk,
        )
        self.commands = Commands(
            store=parts.store,
            live_orders=self.live_orders,
            clock=parts.clock,
            desk_of=self._desk_of,
            replay=self._replay,
            show_again=self._show_again,
            reconcile=self._reconcile,
            shares_store=parts.shares_store,
            max_order_age_seconds=parts.rules.max_order_age_seconds,
            raise_alert=self.outbox.raise_alert,
            tell_holder=None if self.desks is None else self.desks.tell_holder,
            adopt=self.adopting.carry_out,
            positions_of=self._positions_of,
            is_elsewhere=_not_elsewhere if self.desks is None else self.desks.is_elsewhere,
            belongs_elsewhere=_not_elsewhere if self.desks is None else self.desks.belongs_elsewhere,
        )
        self.intake = Intake(
            store=parts.store,
            live_orders=self.live_orders,
            clock=parts.clock,
            is_known_account=lambda account_id: parts.account_of(account_id) is not None,
            is_cancelled=self.commands.is_cancelled,
            look_for_cancels=self.commands.look_for_cancels if parts.shares_store else _nothing,
            hand_over=self._hand_over,
            raise_alert=self.outbox.raise_alert,
            raise_alert_durably=self.outbox.raise_alert_durably,
            foreign_desk=_nobody_elses if self.desks is None else self.desks.foreign_desk,
        )

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Takes up what an earlier life left, then begins. Recovery is the ordinary path: the orders found are stepped as any others.

        Raises StoreUnavailable; may then be called again.
        """
        if not self._is_begun:
            await self._store.be_kept(self.supervisor)
            self._is_begun = True
        if self.desks is not None:
            await self.commands.start()
            await self.desks.start()
            self._keep(*self.desks.parts())
        else:
            unsettled = await self._store.open_orders()
            for stored in unsettled:
                self._hand_over(stored)
            for account_id in self._parts.accounts:
                self.trader_of(account_id)
            await self.commands.start()
            for trader in self.traders.values():
                self._keep_trading(trader)
            _say_recovered(unsettled)
        self._keep(Part(ORDERS_IN, lambda: self.intake.run(self._parts.orders)))
        self._keep(*self.commands.parts(self._parts.commands))
        self._keep(*self.outbox.parts())
        self._keep(Part("traders without orders", self._let_idle_traders_go))
        self._keep(Part("orders that nobody works", self._tell_of_orphans))
        self._keep(Part("records that cannot be read", self._tell_of_unreadable))

    async def take_no_more(self) -> None:
        """No message is stored any more: whoever pulls them can hand back what was not."""
        await self.supervisor.end(ORDERS_IN, *self._names_of(self.commands.parts(self._parts.commands)))

    async def stop(self) -> None:
        """Takes nothing new, lets what is on its way finish for a few seconds, and ends. Working orders stay at the broker."""
        await self.take_no_more()
        await self.commands.end()
        if self.desks is not None:
            self.desks.take_no_more()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                for trader in tuple(self.traders.values()):
                    await trader.drain()
                await self.outbox.drain()
        except TimeoutError:
            log.info(f"What was on its way has not ended within {DRAIN_SECONDS:g} s", action="drain_ended")
        except Exception as exc:
            log.error(f"What was on its way is left to the next start: {exc}", action="drain_failed", exc_info=exc)
        renewing = [] if self.desks is None else self._names_of(self.desks.parts())
        await self.supervisor.end(*(name for name in self.supervisor.names if name not in renewing))
        if self.desks is not None:
            # Renewed to the last: the others are to begin when nothing of ours is at the broker any more.
            await self.supervisor.end(*renewing)
            await self.desks.end()
        await self.supervisor.end_all()

    async def has_to_end(self) -> str:
        """Waits until a part cannot be kept alive, and people have been told as far as that can be; why. The service is then to be stopped."""
        reason = await self.supervisor.given_up()
        end = self._clock.monotonic() + LAST_ALERT_SECONDS
        try:
            async with asyncio.timeout(LAST_ALERT_SECONDS):  # a store that hangs must not keep it
                while self.supervisor.is_telling or await self._store.unsent_alerts():
                    if self._clock.monotonic() >= end:
                        break
                    await self._clock.sleep(LAST_ALERT_SECONDS / 30)
        except Exception as exc:  # noqa: BLE001  whatever it was, the service ends
            log.warning(f"Perhaps nobody was told: {str(exc) or type(exc).__name__}", action="last_alert_not_sent")
        return reason

    def _keep(self, *parts: Part) -> None:
        for part in parts:
            self.supervisor.keep(part)

    @staticmethod
    def _names_of(parts: Sequence[Part]) -> Sequence[str]:
        return [part.name for part in parts]

    def part_states(self) -> Mapping[str, Mapping[str, str | int]]:
        """How each long-running part stands, by name, as `Supervisor.states` tells it."""
        return self.supervisor.states()

    # --- wiring -------------------------------------------------------------------------------------------------

    def trader_of(self, account_id: str | None) -> Trader | None:
        """The account's trader; None for an account that is not configured. One that is alone makes it when it is first needed, one that
        shares its store when it opens the desk."""
        if account_id is None:
            return None
        trader = self.traders.get(account_id)
        account = None if trader is not None or self.desks is not None else self._parts.account_of(account_id)
        if account is not None:
            trader = self.traders[account_id] = self._new_trader(account)
            if ORDERS_IN in self.supervisor.names:
                self._keep_trading(trader)
        return trader

    async def _let_idle_traders_go(self) -> None:
        """So that a thousand accounts that somebody made up are not asked about for ever; who sends them an order again finds a new trader."""
        while True:
            await self._clock.sleep(UNNAMED_ACCOUNT_IDLE_SECONDS / 4)
            now = self._clock.monotonic()
            in_hand = {live.order.request.account_id for live in self.live_orders.by_id.values()}
            in_hand |= self.outbox.accounts_in_hand
            for account_id in self.traders.keys() - set(self._parts.accounts):
                since = self._last_seen_busy.setdefault(account_id, now)
                if account_id in in_hand:
                    self._last_seen_busy[account_id] = now
                elif now - since >= UNNAMED_ACCOUNT_IDLE_SECONDS:
                    del self._last_seen_busy[account_id]
                    if self.desks is not None:
                        self.desks.give_back(account_id)
                    else:
                        await self._close_desk(account_id)

    def _keep_trading(self, trader: Trader) -> None:
        self._keep(Part(_trader_name(trader.account_id), trader.run, trader.account_id))

    def _new_desks(self, lease_seconds: float) -> Desks:
        processes = self._parts.processes
        identity = None if processes is None else processes.own
        return Desks(
            store=self._store,
            live_orders=self.live_orders,
            clock=self._clock,
            me=Self(self._parts.nonce, socket.gethostname(), os.getpid(), identity),
            processes=processes,
            term_seconds=lease_seconds,
            accounts=self._parts.accounts,
            is_known_account=lambda account_id: self._parts.account_of(account_id) is not None,
            opens=self._open_desk,
            hand_over=self._hand_over,
            look_again=self._looked_at,
            has_taken=self.outbox.has_taken,
            lets_go=self._let_go,
            closes=self._close_desk,
            raise_alert=self.outbox.raise_alert,
            keeper=self.supervisor,
        )

    def _open_desk(self, desk: str, unsettled: Sequence[Stored]) -> None:
        account = self._parts.account_of(desk)
        if account is not None:
            self.traders[desk] = self._new_trader(account)
        for stored in unsettled:
            live = self.live_orders.by_id.get(stored.order.order_id)
            if live is not None:
                live.begin_anew()  # in hand by a try that failed halfway: what its trader was about to do nobody will
            self._hand_over(stored)
        if account is not None:
            self._keep_trading(self.traders[desk])
        _say_recovered(unsettled)

    def _let_go(self, desk: str) -> None:
        desks = self.desks
        assert desks is not None
        for live in tuple(self.live_orders.by_id.values()):
            if desks.desk_of(live.order.request.account_id) == desk:
                self.live_orders.let_go(live)
        self.outbox.let_go(lambda account_id: desks.desk_of(account_id) == desk)

    async def _close_desk(self, desk: str) -> None:
        self.traders.pop(desk, None)
        self.reconciliations.pop(desk, None)
        await self.supervisor.end(_trader_name(desk))

    def _desk_name(self, account_id: str | None) -> str:
        return UNASSIGNED if self.desks is None else self.desks.desk_of(account_id)

    def _holds(self, desk: str) -> bool:
        return self.desks is None or self.desks.holds(desk)

    def _new_trader(self, account: Account) -> Trader:
        trader = Trader(
            account_id=account.account_id,
            account_name=account.name,
            broker_name=account.broker.upper(),
            create_broker=lambda: self._parts.create_broker(account.config),
            live_orders=self.live_orders,
            store=self._store,
            clock=self._clock,
            rules=self._parts.rules,
            nonce=self._parts.nonce,
            raise_alert=self.outbox.raise_alert,
            is_cancelled=self.commands.is_cancelled,
            look_for_cancels=self.commands.look_for_cancels if self._parts.shares_store else _nothing,
            keeper=self.supervisor,
            is_live=account.live,
            holds_desk=lambda: self._holds(account.account_id),
        )
        reconciliation = self.reconciliations[account.account_id] = Reconciliation(
            account=trader,
            live_orders=self.live_orders,
            store=self._store,
            clock=self._clock,
            interval_seconds=self._parts.rules.reconcile_interval_seconds,
            raise_alert=self.outbox.raise_alert,
            raise_alert_once=self.outbox.raise_alert_once,
        )
        trader.on_connected = reconciliation.connected
        trader.on_ended = reconciliation.ended
        trader.on_traded_past_us = reconciliation.traded_past_us
        trader.binding = reconciliation.binding
        trader.alongside.append(Part(f"comparison {account.account_id}", reconciliation.run, account.account_id))
        return trader

    def account_states(self) -> dict[str, dict[str, str]]:
        """Of each account that has a trader: its broker, its state there, and what the trouble is."""
        return {
            account_id: {"broker": trader.broker_name, "state": trader.state.value, "trouble": trader.trouble}
            for account_id, trader in self.traders.items()
        }

    def _hand_over(self, stored: Stored) -> None:
        if self.outbox.has_taken(stored.order.order_id, stored.order.version):
            return
        live = self.live_orders.adopt(stored)
        self.outbox.wake(live)
        if live.order.status.is_final:
            return
        trader = self.trader_of(live.order.request.account_id)
        if trader is not None:
            trader.take(live)
        else:
            # Configured once, and no longer: nobody can say what became of it there.
            log.error(
                f"Order {live.order.order_id} is {live.order.status} for account "
                f"{live.order.request.account_id}, which is not configured any more; it is left alone",
                action="orphaned_order",
                signal_id=live.order.signal_id,
            )
            orphans = self._orphans.setdefault(str(live.order.request.account_id), {})
            orphans[live.order.order_id] = live.order.signal_id
            self._orphan_news.tell()

    async def _tell_of_orphans(self) -> None:
        """People learn of the accounts whose unfinished orders nobody works, of all that are met at the same moment at once."""
        while True:
            await self._clock.sleep(ORPHANS_GATHERED_SECONDS)
            try:
                await self._forget_ended_orphans()
                nobodys = sorted(self._orphans.keys() - await self._worked_elsewhere()) if self._orphans else []
            except StoreUnavailable as exc:
                log.warning(f"Who works unfinished orders waits for the store: {exc}", action="orphans_waiting")
                continue
            for account_id in nobodys:
                about = dict(self._orphans[account_id])
                words = texts.account_not_configured(account_id, tuple(about.values()))
                await self.outbox.raise_alert(f"not_configured:{account_id}", words)
                self._forget_orphans(about)  # not before: who fails in between tells of them when begun anew
            await self._orphan_news.wait(ORPHANS_AGAIN_SECONDS if self._orphans else None)

    async def _forget_ended_orphans(self) -> None:
        """Those that another process, which knew their account, has brought to their end. Raises StoreUnavailable."""
        order_ids = [order_id for orphans in self._orphans.values() for order_id in orphans]
        found = await self._store.load(order_ids) if order_ids else []
        self._forget_orphans({stored.order.order_id for stored in found if stored.order.status.is_final})

    def _forget_orphans(self, order_ids: Iterable[str]) -> None:
        gone = set(order_ids)
        kept = {
            account_id: {order_id: signal for order_id, signal in orphans.items() if order_id not in gone}
            for account_id, orphans in self._orphans.items()
        }
        self._orphans = {account_id: orphans for account_id, orphans in kept.items() if orphans}

    async def _tell_of_unreadable(self) -> None:
        """People learn of documents that cannot be read: those met in the same seconds at once, by account."""
        while True:
            await self._clock.sleep(UNREADABLE_SECONDS)
            by_account: dict[str | None, list[UnreadableDocument]] = {}
            for unreadable in self._store.newly_unreadable():
                by_account.setdefault(unreadable.account_id, []).append(unreadable)
            for account_id, some in by_account.items():
                words = texts.record_cannot_be_read(
                    account_name=account_id, what=[unreadable.words for unreadable in some]
                )
                await self.outbox.raise_alert(f"record_cannot_be_read:{account_id or ''}", words)
                self._store.unreadable_reported(some)

    async def _worked_elsewhere(self) -> set[str]:
        """Accounts that another process holds, and has not been silent at for its term: its settings may know what ours do not."""
        if self.desks is None:
            return set()
        now, before = self._clock.monotonic(), self._leases_seen
        held = [lease for lease in await self._store.leases() if lease.holder]
        self._leases_seen = {
            lease.desk: known if (known := before.get(lease.desk, (None, now)))[0] == lease.mark else (lease.mark, now)
            for lease in held
        }
        return {lease.desk for lease in held if now - self._leases_seen[lease.desk][1] < lease.term_seconds}

    def _desk_of(self, account_id: str | None) -> Trader | None:
        return self.trader_of(account_id)

    def _party_of(self, account_id: str | None) -> Party:
        trader = None if account_id is None else self.traders.get(account_id)
        if trader is not None:
            return Party(trader.account_name, trader.broker_name)
        account = None if account_id is None else self._parts.account_of(account_id)
        return Party(None, "NONE") if account is None else Party(account.name, account.broker.upper())

    async def _reconcile(self, account_id: str) -> Outcome | None:
        """None: the account is not configured."""
        if self.trader_of(account_id) is not None:
            return await self.reconciliations[account_id].compare_now()
        if self._parts.account_of(account_id) is None:
            return None
        return Outcome(is_compared=False, words="Not compared: whoever trades the account has not answered")

    def _compare_soon(self, account_id: str) -> None:
        """What was adopted is to be seen in the comparison now, and not only at the next that is due."""
        reconciliation = self.reconciliations.get(account_id)
        if reconciliation is not None:
            reconciliation.connected()

    async def _positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
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
        except Exception as exc:  # noqa: BLE001  whatever it was, positions are not told
            log.warning(
                f"The broker does not tell positions: {str(exc) or type(exc).__name__}",
                action="positions_not_told",
                account_id=account_id,
            )
            return None

    async def _replay(self, message: Message) -> DeadLetter | None:
        """The dead letter that it is again; None: it became an order, or was one already."""
        await self.intake.take([message])
        return await self._store.dead_letter(message.message_id)

    async def _show_again(self, order: Order) -> None:
        await self._store.write_views([trading_order_write(order, self._clock.now())])

    # --- doors for programs that use the service as a library -----------------------------------------------------

    async def process_order(self, order_data: Mapping[str, Any]) -> Order:
        """Takes one order as if it had come by Pub/Sub: stored durably, then worked. Returns it as it stands once stored.

        Raises ValueError where the data names no signal, StoreUnavailable while the store is away.
        """
        parsed = parse_order_fields(order_data)
        if isinstance(parsed, Unusable):
            raise ValueError(parsed.reason)
        message = Message(
            message_id=f"call-{secrets.token_hex(8)}",
            data=parsed.raw.encode("utf-8", "surrogatepass"),
            publish_time=self._clock.now(),
        )
        (order_id,) = await self.intake.take([message])
        return (await self._store.load([order_id]))[0].order

    async def handle_order_fill(self, order_id: str, fill_data: Mapping[str, Any]) -> Order:
        """Records a fill told by other means than the broker's adapter. `fill_data`: fill_id, quantity, price, time, and optionally
        commission, commission_currency; a known fill id changes nothing. Raises KeyError for an order that is not in the store, ValueError
        for data that is no fill."""
        fill = _told_fill(fill_data, self._clock.now())

        def fills(order: Order) -> tuple[Filled, ...]:
            return () if order.fill_of(fill.fill_id) else (Filled(at=self._clock.now(), fill=fill),)

        return await self._record_told(order_id, fills)

    async def handle_order_rejection(self, order_id: str, rejection_reason: str) -> Order:
        """Records that the broker rejected the order. Raises KeyError for an order that is not in the store, InvalidTransition where a
        rejection cannot be."""

        def rejects(order: Order) -> tuple[Rejected, ...]:
            if order.status is Status.REJECTED:
                return ()
            reason = Reason(ReasonCode.BROKER_REJECTED, rejection_reason)
            return (Rejected(at=self._clock.now(), reason=reason, filled_quantity=order.filled_quantity),)

        return await self._record_told(order_id, rejects)

    async def _record_told(self, order_id: str, decide: Callable[[Order], Sequence[Event]]) -> Order:
        """About an order named by our id or the broker's, in hand or not, or in the hands of another process."""
        live = self.live_orders.by_id.get(order_id)
        if live is None:
            found = await self._store.load([order_id]) or await self._store.find([f"broker:{order_id}"])
            if len(found) != 1:
                raise KeyError(order_id)
            if self.desks is not None and self.desks.foreign_desk(found[0].order) is not None:
                order = await self.live_orders.record_for_holder(found[0].order, decide)
                await self.desks.tell_holder(order)
                return order
            live = self.live_orders.adopt(found[0])
        await self.live_orders.record(live, decide)
        self._looked_at(live)
        return live.order

    def _looked_at(self, live: LiveOrder) -> None:
        self.outbox.wake(live)  # which lets go of it again if nothing is owed
        trader = self.trader_of(live.order.request.account_id)
        if trader is not None and isinstance(live.order.request, OrderRequest):
            trader.look_again(live)


def _trader_name(account_id: str) -> str:
    return f"trader {account_id}"


def _say_recovered(unsettled: Sequence[Stored]) -> None:
    if unsettled:
        log.info(f"Took up {len(unsettled)} unsettled orders", action="recovered", count=len(unsettled))


def _not_elsewhere(account_id: str) -> bool:
    return False


def _nobody_elses(order: Order) -> str | None:
    return None


def _told_fill(fill_data: Mapping[str, Any], now: datetime) -> Fill:
    """`time` may be a datetime or ISO 8601 text, UTC where it names no zone. Raises ValueError, naming what is wrong."""

    def number(name: str, *, is_positive: bool) -> Decimal:
        try:
            value = Decimal(str(fill_data[name]))
        except (KeyError, ArithmeticError) as exc:
            raise ValueError(f"fill: {name} is missing or no number: {fill_data.get(name)!r}") from exc
        if not value.is_finite() or (is_positive and value <= 0):
            raise ValueError(f"fill: {name} must be a finite number{' above 0' if is_positive else ''}: {value}")
        return value

    if not fill_data.get("fill_id"):
        raise ValueError("fill: fill_id is missing")
    told = fill_data.get("time") or now
    moment = told if isinstance(told, datetime) else datetime.fromisoformat(str(told))
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    currency = fill_data.get("commission_currency")
    return Fill(
        fill_id=str(fill_data["fill_id"]),
        quantity=number("quantity", is_positive=True),
        price=number("price", is_positive=False),
        time=moment.replace(microsecond=moment.microsecond // 1000 * 1000),
        commission=None if fill_data.get("commission") is None else number("commission", is_positive=False),
        commission_currency=None if currency is None else str(currency),
    )


async def _nothing(orders: Sequence[Order]) -> None:
    return None


# --- the real world ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """The real parts, connected."""

    parts: Parts
    orders: GoogleSubscriber
    commands: GoogleSubscriber
    publisher: GooglePublisher
    mongodb_uri: str
    pubsub_host: str | None
    revivals: Sequence[Part]
    """What starts the embedded parts again, should they end."""


@contextlib.asynccontextmanager
async def real_world(settings: Settings) -> AsyncIterator[World]:
    """Starts what is embedded and opens the rest; connects nothing that is not ours yet. Raises EmbeddedPartFailed, CannotStart."""
    revivals: list[Part] = []
    async with contextlib.AsyncExitStack() as stack:
        is_embedded = settings.mongodb_uri is None
        has_local_pubsub = settings.pubsub_emulator_host is None and not settings.has_google_credentials
        if is_embedded or has_local_pubsub:
            stack.enter_context(owned(settings.data_dir))
        make_private(settings.data_dir)
        own: dict[str, Coroutine[Any, Any, str]] = {}
        if has_local_pubsub:
            own["pubsub"] = stack.enter_async_context(
                local_pubsub(settings.data_dir, _topic_plan(settings), revivals.append)
            )
        if is_embedded:
            own["store"] = stack.enter_async_context(embedded_store(settings.data_dir, revivals.append))
        addresses = dict(zip(own, await _side_by_side(*own.values()), strict=True))
        pubsub_host = addresses.get("pubsub", settings.pubsub_emulator_host)
        if pubsub_host is not None:
            os.environ["PUBSUB_EMULATOR_HOST"] = pubsub_host  # Google's client looks there and nowhere else
        uri = addresses["store"] if settings.mongodb_uri is None else settings.mongodb_uri.get_secret_value()
        clock = SystemClock()
        nonce = secrets.token_hex(6)
        with _usable():
            client = connect(uri)
        store = MongoStore(
            client,
            settings.mongodb_database,
            nonce=nonce,
            clock=clock,
            threads=ThreadPool("store", STORE_THREADS),
            commit_threads=ThreadPool("store-commits", 1),
            urgent_threads=ThreadPool("store-urgent", 1),
            is_private=is_embedded,
        )
        stack.push_async_callback(store.close)
        project = settings.google_cloud_project
        reach = Reach("Pub/Sub", clock)
        with _usable():
            publisher = GooglePublisher(
                project,
                settings.execution_confirmations_topic,
                emulator_host=pubsub_host,
                reach=reach,
                uses_ordering_keys=settings.publish_ordering_keys,
            )
            stack.push_async_callback(publisher.close)
            orders = GoogleSubscriber(
                project, settings.trading_orders_subscription, emulator_host=pubsub_host, clock=clock, reach=reach
            )
            stack.push_async_callback(orders.close)
            commands = GoogleSubscriber(
                project, settings.order_commands_subscription, emulator_host=pubsub_host, clock=clock, reach=reach
            )
            stack.push_async_callback(commands.close)
        notifier = notifier_of(settings)
        stack.push_async_callback(notifier.close)
        parts = Parts(
            store=store,
            publisher=publisher,
            notifier=notifier,
            clock=clock,
            orders=orders.messages,
            commands=commands.messages,
            account_of=settings.account,
            accounts=tuple(settings.accounts),
            create_broker=BrokerFactory.create_broker,
            rules=TradingRules(
                order_timeout_seconds=settings.order_timeout_seconds,
                counts_while_held=settings.order_timeout_while_held,
                max_order_age_seconds=settings.max_order_age_seconds,
                max_retry_attempts=settings.max_retry_attempts,
                reconcile_interval_seconds=settings.reconcile_interval_seconds,
                exit_position_check=ExitPositionCheck(settings.exit_position_check.value),
            ),
            nonce=nonce,
            shares_store=not is_embedded,
            processes=ProcessTable(),
            lease_seconds=None if is_embedded else settings.lease_seconds,
            uses_ordering_keys=settings.publish_ordering_keys,
        )
        yield World(parts, orders, commands, publisher, uri, pubsub_host, revivals)


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Addresses and credentials that can never work end the start with a sentence."""
    try:
        yield
    except (StoreUnavailable, PublishFailed) as exc:
        raise CannotStart(str(exc)) from exc


def notifier_of(settings: Settings) -> Notifier:
    token, chat_id = settings.telegram_bot_token, settings.telegram_chat_id
    if not settings.telegram_enabled or token is None or chat_id is None:
        return NoNotifier()
    return TelegramNotifier(token.get_secret_value(), chat_id, settings.telegram_api_base_url)


def _topic_plan(settings: Settings) -> TopicPlan:
    confirmations = settings.execution_confirmations_topic
    return TopicPlan(
        settings.google_cloud_project,
        ("trading-orders", "order-commands", confirmations),
        (
            (settings.trading_orders_subscription, "trading-orders"),
            (settings.order_commands_subscription, "order-commands"),
            (f"{confirmations}-sub", confirmations),
        ),
    )


async def serve(
    settings: Settings, say: Callable[[str], None], at_stop: Callable[[str], None] = lambda reason: None
) -> None:
    """Runs the service until SIGTERM or SIGINT. When it begins to stop, `at_stop` is called with why; empty: it was told to.

    Raises CannotStart, EmbeddedPartFailed, or CannotGoOn, when it has stopped in order because a part of it could not be kept alive.
    """
    stop = asyncio.Event()
    endpoints = settings.data_dir / ENDPOINTS
    with _signals(stop, at_stop):
        async with real_world(settings) as world, contextlib.AsyncExitStack() as at_end:
            _withdraw_endpoints(endpoints)
            service = ExecutionService(world.parts)
            # Whatever ends the start: nothing may revive what is stopped.
            at_end.push_async_callback(service.supervisor.end_all)
            for revival in world.revivals:
                service.supervisor.keep(revival)
            await world.parts.notifier.start()
            pubsub = (world.orders, world.commands, world.publisher)
            checks = {"the store": world.parts.store.open} | {f"Pub/Sub ({part.path})": part.check for part in pubsub}
            await _side_by_side(_patiently(checks, stop), _load_ahead(settings))
            if stop.is_set():
                return
            await _patiently({"the store": service.start}, stop)
            pulls = [
                Part("pull of orders", world.orders.run),
                Part("pull of commands", world.commands.run),
            ]
            around = [
                Part("watch over Pub/Sub", world.orders.watch),
                Part("notice for scripts", lambda: _keep_endpoints(endpoints, settings, world, service)),
            ]
            reason = ""
            try:
                for each in (*pulls, *around):
                    service.supervisor.keep(each)
                _write_endpoints(endpoints, settings, world, service)
                log.info("Execution service ready", action="ready")
                say(_what_next(settings, world))
                reason = await _until_it_ends(service, stop)
                if reason and not stop.is_set():
                    at_stop(reason)
                log.info("Execution service stops", action="stopping")
            finally:
                _withdraw_endpoints(endpoints)
                await service.supervisor.end(*(each.name for each in around))
                await service.take_no_more()
                # What was received and not stored goes back while the rest of the service ends.
                handed_back = asyncio.create_task(service.supervisor.end(*(each.name for each in pulls)))
                await service.stop()
                await handed_back
    log.info("Execution service stopped", action="stopped")
    if reason:
        raise CannotGoOn(reason)


async def _until_it_ends(service: ExecutionService, stop: asyncio.Event) -> str:
    """Why the service has to end; empty where it was told to stop."""
    told, has_to = asyncio.create_task(stop.wait()), asyncio.create_task(service.has_to_end())
    try:
        await asyncio.wait({told, has_to}, return_when=asyncio.FIRST_COMPLETED)
        return has_to.result() if has_to.done() else ""
    finally:
        told.cancel()
        has_to.cancel()
        await asyncio.gather(told, has_to, return_exceptions=True)


async def _load_ahead(settings: Settings) -> None:
    """Libraries hold everything up while they are loaded: now, while answers are waited for, and not when an account is taken over while
    others trade."""
    await asyncio.sleep(0)  # the questions go first
    BrokerFactory.load({str(account.config["broker"]) for account in settings.accounts.values()})
    _set_start_aside()


def _set_start_aside() -> None:
    """What was made until now lives as long as the process: the garbage collector, which holds the whole process up, need not walk
    through all of it each time."""
    gc.collect()
    gc.freeze()


async def _side_by_side(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """All of these at once, begun in this sequence; what they return. Raises what the first raises that fails, when the others have ended."""
    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    if first is not None:
        raise first  # out here, as it was: its cause stays what it is
    return [task.result() for task in tasks]


async def _patiently(calls: Mapping[str, Callable[[], Awaitable[None]]], stop: asyncio.Event) -> None:
    """Tries for a minute, all side by side, saying what is waited for. Raises CannotStart, naming all that could not be reached."""
    end = asyncio.get_running_loop().time() + START_SECONDS
    while calls and not stop.is_set():
        outcomes = await asyncio.gather(*(call() for call in calls.values()), return_exceptions=True)
        failures = {what: exc for what, exc in zip(calls, outcomes, strict=True) if exc is not None}
        for exc in failures.values():
            if isinstance(exc, TopicMissing):
                raise CannotStart(f"{exc}; create it, or correct the setting that names it") from exc
            if not isinstance(exc, StoreUnavailable | PublishFailed):
                raise exc
        calls = {what: call for what, call in calls.items() if what in failures}
        left = end - asyncio.get_running_loop().time()
        if failures and left <= 0:
            reasons = (
                f"{what} could not be reached for {START_SECONDS:.0f} s: {exc}" for what, exc in failures.items()
            )
            raise CannotStart("; ".join(reasons))
        for what, exc in failures.items():
            log.warning(f"Waiting for {what}, {left:.0f} s left: {exc}", action="waiting_at_start")
        if failures:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(2.0, left))


@contextlib.contextmanager
def _signals(stop: asyncio.Event, at_stop: Callable[[str], None]) -> Any:
    """SIGTERM and SIGINT set `stop`; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def received() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        at_stop("")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _keep_endpoints(path: Path, settings: Settings, world: World, service: ExecutionService) -> None:
    """Writes them anew whenever the state of an account or of a part has changed."""
    told: object = None
    while True:
        await asyncio.sleep(STATES_SECONDS)
        states = service.account_states(), service.part_states()
        if states != told:
            try:
                _write_endpoints(path, settings, world, service)
            except OSError as exc:
                log.warning(f"{path} could not be written: {exc}", action="notice_not_written")
                continue
            told = states


def _write_endpoints(path: Path, settings: Settings, world: World, service: ExecutionService) -> None:
    """Where scripts find the parts, and how the accounts stand; without credentials, for a configured URI is known to whoever configured it."""
    is_embedded = settings.mongodb_uri is None
    body = {
        "pid": os.getpid(),
        "mongodb_uri": world.mongodb_uri if is_embedded else None,
        "mongodb_database": settings.mongodb_database,
        "pubsub_emulator_host": world.pubsub_host,
        "google_cloud_project": settings.google_cloud_project,
        "accounts": service.account_states(),
        "parts": service.part_states(),
    }
    # Services that share the folder write theirs at the same time.
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(body, indent=1), encoding="utf-8")
    temporary.chmod(0o600)
    temporary.replace(path)


def _withdraw_endpoints(path: Path) -> None:
    """Removes what this process wrote or a dead one left; a living service that shares the folder keeps its own."""
    writer = endpoints_writer(path)
    if writer is None or writer == os.getpid() or not _is_alive(writer):
        path.unlink(missing_ok=True)


def endpoints_writer(path: Path) -> int | None:
    """The process that the file names, None where nothing readable is there."""
    try:
        writer = json.loads(path.read_text(encoding="utf-8")).get("pid")
    except (OSError, ValueError, AttributeError):
        return None
    return writer if isinstance(writer, int) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _what_next(settings: Settings, world: World) -> str:
    lines = [
        f"  store    {world.mongodb_uri if settings.mongodb_uri is None else '(MONGODB_URI)'}",
        f"  Pub/Sub  {world.pubsub_host or 'Google'}, project {settings.google_cloud_project}",
        "  brokers  "
        + ("mock, for every account" if settings.use_mock_broker else ", ".join(settings.accounts) or "none"),
        "Next, in another terminal:",
        "  python tests/signals_testing/send_test_signal.py --file equity_simple_signal_1.json",
        "  python scripts/execctl.py orders",
    ]
    return "\n".join(lines)
