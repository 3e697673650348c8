"""The only room that builds parts: the real world's from the settings, and the service's own around them; starts none of what the service
keeps alive."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from brokers.base import Broker
from brokers.factory import BrokerFactory
from brokers.registry import manifests, stand_in
from execution_service.app.clock import SystemClock
from execution_service.app.embedded import NewTables
from execution_service.app.endings import CannotStart
from execution_service.app.events import (
    NO_EVENTS,
    EventSources,
    EventsUnusable,
    event_sinks,
    event_sources,
)
from execution_service.app.own_servers import PUBSUB, STORE, OwnServers, own_servers
from execution_service.app.settings.accounts import Account
from execution_service.app.settings.loading import Settings
from execution_service.app.supervisor import Supervisor
from execution_service.app.topics import PLAN_RESULTS_TOPIC, TARGETS_SUBSCRIPTION
from execution_service.calendars.hours import ExchangeHours
from execution_service.control.adopt import AdoptPositions
from execution_service.control.allow import AllowOrder
from execution_service.control.ask_broker import CompareBooks, ShowPositions
from execution_service.control.background import Background
from execution_service.control.broker_exits import BrokerExits
from execution_service.control.cancel import CancelOrders
from execution_service.control.commands import Commands
from execution_service.control.dead_man import DeadMan
from execution_service.control.flatten import FlattenPositions
from execution_service.control.kill import ArmTrading, KillTrading
from execution_service.control.kill_key import KillKey
from execution_service.control.plan import PlanPositions
from execution_service.control.remembered_cancels import RememberedCancels
from execution_service.control.replay import ReplayDeadLetter
from execution_service.control.resolve import ResolveOrder
from execution_service.control.runner import CommandRunner
from execution_service.control.stances import SetStance, StanceWriter
from execution_service.control.switches import Switches
from execution_service.control.verbs import Verbs
from execution_service.core.orders.decisions import VerifyDecisions
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.planning.rules import PlanRules
from execution_service.core.planning.targets import Mode
from execution_service.core.texts.notices import ALL_NOTICES, NoticeKind
from execution_service.delivery.account_names import AccountNames
from execution_service.delivery.confirmations import Confirmations
from execution_service.delivery.dispatch import Delivery
from execution_service.delivery.position_marks import PositionMarks
from execution_service.delivery.stream import Sink
from execution_service.delivery.unreadable import UnreadableRecords
from execution_service.intake.decisions import Decisions
from execution_service.intake.events import EventReader
from execution_service.intake.intake import Intake
from execution_service.ownership.account_ownership import AccountOwnership
from execution_service.ownership.alone import Alone
from execution_service.ownership.leases import Self
from execution_service.ownership.orphans import Orphans
from execution_service.ownership.ownership import Ownership
from execution_service.ownership.process_table import ProcessTable
from execution_service.ownership.processes import Processes
from execution_service.planning.holdings import Holdings
from execution_service.planning.order_records import OrderRecords
from execution_service.planning.plans import Plans
from execution_service.planning.stances import StancesInForce
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.supervision import Part
from execution_service.runtime.threads import ThreadPool
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.mongo.store import mongo_store
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.trading.accounts import Accounts
from execution_service.trading.kill_switches import KillSwitches
from execution_service.trading.market_turns import MarketTurns
from execution_service.trading.risk_rules import RiskRules
from execution_service.trading.safety_service import AsksSafetyService, SafetyService
from execution_service.trading.trader import TradingRules
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Publisher, PublishFailed
from execution_service.transport.pubsub import GooglePublisher, GoogleSubscriber
from execution_service.transport.safety_http import SafetyOverHttp
from notifications.base import NoNotifier, Notifier
from notifications.telegram import TelegramNotifier

ACCOUNTS_REMEMBERED = 4096
"""More than anybody configures; of accounts that somebody made up no more are kept in memory."""
NOBODY = AccountNames(None, "NONE", None)


class AccountsOfSettings(Protocol):
    """The accounts as they are configured."""

    @property
    def accounts(self) -> Collection[str]:
        """The ids of those whose brokers are connected from the start: what was finished before it may have filled since."""

    def account(self, account_id: str) -> Account | None:
        """None: it is not configured."""


class MakesBrokers(Protocol):
    """Where adapters come from."""

    def create_broker(self, config: Mapping[str, object]) -> Broker:
        """A new adapter for an account of that configuration, not connected yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The outside world, real or faked."""

    store: Store
    publisher: Publisher
    notifier: Notifier
    clock: Clock
    orders: Inbox
    commands: Inbox
    accounts: AccountsOfSettings
    brokers: MakesBrokers
    rules: TradingRules
    nonce: str
    processes: Processes | None = None
    """By which the death of another process on this machine can be proven; None: it never is."""
    lease_seconds: float | None = None
    """The term of the leases by which processes that share the store share out the accounts; None: this process is alone."""
    uses_ordering_keys: bool = False
    is_traced: bool = False
    """Confirmations carry the trace of their order."""
    risk_rules: RiskRules = field(default_factory=RiskRules)
    more_sinks: Sequence[Sink] = ()
    """Where events of orders go besides `execution-confirmations`."""
    safety: AsksSafetyService | None = None
    """The outside safety service; None: there is none."""
    is_safety_fail_open: bool = False
    dead_man_seconds: float | None = None
    """So long nobody outside may be silent; None: nobody has to say that all is well."""
    books_broker_exits: bool = False
    """Exits that a broker made without us are booked without a person where its executions or records prove them."""
    position_marks_seconds: float = 0.0
    """How often open positions are told with their marks; 0: never."""
    events: EventSources = NO_EVENTS
    """Where events of the systems around us come from, and go to."""
    notices: Collection[NoticeKind] = ALL_NOTICES
    """What people want to be told."""
    targets: Inbox | None = None
    """Lists of target positions; None: none come as messages."""
    plan_results: Publisher | None = None
    """Where the results of plans are published."""
    verify_decisions: VerifyDecisions = VerifyDecisions.OFF
    plan_rules: PlanRules = field(default_factory=PlanRules)
    """How plans are made and carried out."""


class ConfiguredAccounts:
    """The accounts of the settings, as the other rooms ask about them, several times for each order."""

    def __init__(self, parts: Parts) -> None:
        self.named: Sequence[str] = tuple(parts.accounts.accounts)
        """Those whose brokers are connected from the start."""
        self.has_bars = any(
            account is not None and manifests()[account.broker].is_for_training_alone
            for account in map(parts.accounts.account, self.named)
        )
        """Whether the market of any of them is one of the past."""
        self._parts = parts
        self.account = lru_cache(ACCOUNTS_REMEMBERED)(self._account)
        """By its id; None: it is not configured."""

    def _account(self, account_id: str) -> ConfiguredAccount | None:
        account = self._parts.accounts.account(account_id)
        return None if account is None else ConfiguredAccount(account, self._parts.brokers)

    def is_known(self, account_id: str) -> bool:
        """Whether it is configured."""
        return self.account(account_id) is not None

    def mode_of(self, account_id: str) -> Mode | None:
        """None: it is not configured."""
        account = self.account(account_id)
        return None if account is None else account.mode

    def account_names_of(self, account_id: str | None) -> AccountNames:
        """Of an account that is not configured: nobody, at no broker."""
        account = None if account_id is None else self.account(account_id)
        return NOBODY if account is None else account.account_names


class ConfiguredAccount:
    """One of them."""

    def __init__(self, account: Account, brokers: MakesBrokers) -> None:
        self.account_id = account.account_id
        self.name = account.name
        self.broker_name = account.broker.upper()
        self.is_live = account.live
        self.mode = account.mode
        self.is_on_bars = manifests()[account.broker].is_for_training_alone
        self.makes_up_prices = account.broker == stand_in().name
        self.account_names = AccountNames(self.name, self.broker_name, account.mode.value)
        self._config = account.config
        self._brokers = brokers

    def create_broker(self) -> Broker:
        return self._brokers.create_broker(self._config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The service's own parts, each handed those that it calls; nothing runs yet."""

    live_orders: LiveOrders
    ownership: Ownership
    delivery: Delivery
    supervisor: Supervisor
    accounts: Accounts
    kill_switches: KillSwitches
    commands: Commands
    intake: Intake
    orphans: Orphans
    unreadable: UnreadableRecords
    event_reader: EventReader
    safety: SafetyService | None
    kill_key: KillKey | None
    dead_man: DeadMan | None
    broker_exits: BrokerExits | None
    position_marks: PositionMarks | None
    confirmations: Confirmations
    plans: Plans
    market_turns: MarketTurns | None


def build(parts: Parts) -> Rooms:
    """An order goes from the intake to the accounts, to its trader and to the broker; what is recorded goes to the delivery."""
    store, clock, directory = parts.store, parts.clock, ConfiguredAccounts(parts)
    live_orders = LiveOrders(store, clock)
    ownership = _ownership(parts, directory, live_orders)
    confirmations = Confirmations(
        publisher=parts.publisher,
        parties=directory,
        uses_ordering_keys=parts.uses_ordering_keys,
        is_traced=parts.is_traced,
    )
    delivery = Delivery(
        live_orders=live_orders,
        store=store,
        notifier=parts.notifier,
        clock=clock,
        sinks=[confirmations, *event_sinks(parts.events, directory), *parts.more_sinks],
        parties=directory,
        max_attempts=parts.rules.max_retry_attempts,
        ownership=ownership,
        notices=parts.notices,
    )
    alerts = delivery.alerts
    supervisor = Supervisor(clock, alerts)
    orphans = Orphans(store=store, clock=clock, ownership=ownership, alerts=alerts)
    commands_wake = WakeUp(clock)
    cancels = RememberedCancels(
        store=store,
        live_orders=live_orders,
        clock=clock,
        ownership=ownership,
        commands_wake=commands_wake,
        max_order_age_seconds=parts.rules.max_order_age_seconds,
    )
    kill_switches = KillSwitches(store=store, clock=clock, alerts=alerts)
    stances = StancesInForce(store=store, switches=kill_switches, clock=clock)
    parts.risk_rules.look_at(stances)
    accounts = Accounts(
        directory=directory,
        ownership=ownership,
        delivery=delivery,
        cancels=cancels,
        orphans=orphans,
        alerts=alerts,
        live_orders=live_orders,
        store=store,
        clock=clock,
        rules=parts.rules,
        nonce=parts.nonce,
        keeper=supervisor,
        risk_rules=parts.risk_rules,
    )
    takes_sized = parts.rules.risk_per_trade is not None
    event_reader = EventReader(
        clock,
        parts.events.account_id,
        max_age_seconds=parts.events.max_signal_age_seconds,
        takes_sized=takes_sized,
    )
    safety = _safety(parts, alerts, event_reader)
    delivery.books.reservations = accounts  # who trades the account is told what is booked
    intake = Intake(
        store=store,
        live_orders=live_orders,
        clock=clock,
        accounts=accounts,
        cancels=cancels,
        alerts=alerts,
        ownership=ownership,
        events=event_reader,
        takes_sized=takes_sized,
        decisions=Decisions(store, parts.verify_decisions),
    )
    commands, plans = _commands(
        parts,
        live_orders=live_orders,
        ownership=ownership,
        delivery=delivery,
        accounts=accounts,
        kill_switches=kill_switches,
        stances=stances,
        intake=intake,
        cancels=cancels,
        wake=commands_wake,
    )
    # It is asked by those that it calls.
    ownership.serve(accounts, alerts, supervisor)
    return Rooms(
        live_orders=live_orders,
        ownership=ownership,
        delivery=delivery,
        supervisor=supervisor,
        accounts=accounts,
        kill_switches=kill_switches,
        commands=commands,
        intake=intake,
        orphans=orphans,
        unreadable=UnreadableRecords(store=store, clock=clock, alerts=alerts),
        event_reader=event_reader,
        safety=safety,
        kill_key=_kill_key(parts, kill_switches, commands, alerts),
        dead_man=_dead_man(parts, kill_switches, commands, alerts),
        broker_exits=BrokerExits(accounts=accounts, commands=commands, store=store, clock=clock)
        if parts.books_broker_exits
        else None,
        position_marks=_position_marks(parts, accounts, live_orders),
        confirmations=confirmations,
        plans=plans,
        market_turns=MarketTurns(accounts=accounts, live_orders=live_orders, plans=plans, clock=clock)
        if directory.has_bars
        else None,
    )


def _safety(parts: Parts, alerts: RaisesAlerts, event_reader: EventReader) -> SafetyService | None:
    """The gates of all accounts go by it, and events have it asked at once."""
    if parts.safety is None:
        return None
    safety = SafetyService(asked=parts.safety, clock=parts.clock, alerts=alerts, is_fail_open=parts.is_safety_fail_open)
    parts.risk_rules.safety = safety
    event_reader.listeners.append(safety)
    return safety


def _position_marks(parts: Parts, accounts: Accounts, live_orders: LiveOrders) -> PositionMarks | None:
    """None: nobody is told of them."""
    publishers = [out.publisher for out in parts.events.out if out.takes_marks]
    if not publishers or not parts.position_marks_seconds:
        return None
    return PositionMarks(
        seconds=parts.position_marks_seconds,
        accounts=accounts,
        live_orders=live_orders,
        publishers=publishers,
        store=parts.store,
        clock=parts.clock,
    )


def _kill_key(parts: Parts, switches: KillSwitches, commands: Commands, alerts: RaisesAlerts) -> KillKey | None:
    """No new risk passes while it is not known what it says."""
    key = parts.events.kill_key
    if key is None:
        return None
    kill_key = KillKey(
        key=key, commands=commands, switches=switches, bookmarks=parts.store, alerts=alerts, clock=parts.clock
    )
    switches.sources.append(kill_key)
    return kill_key


def _dead_man(parts: Parts, switches: KillSwitches, commands: Commands, alerts: RaisesAlerts) -> DeadMan | None:
    if parts.dead_man_seconds is None:
        return None
    return DeadMan(
        seconds=parts.dead_man_seconds,
        commands=commands,
        switches=switches,
        bookmarks=parts.store,
        alerts=alerts,
        clock=parts.clock,
    )


def _commands(
    parts: Parts,
    *,
    live_orders: LiveOrders,
    ownership: Ownership,
    delivery: Delivery,
    accounts: Accounts,
    kill_switches: KillSwitches,
    stances: StancesInForce,
    intake: Intake,
    cancels: RememberedCancels,
    wake: WakeUp,
) -> tuple[Commands, Plans]:
    store, clock = parts.store, parts.clock
    background = Background()
    cancel = CancelOrders(
        accounts=accounts,
        cancels=cancels,
        ownership=ownership,
        views=delivery,
        live_orders=live_orders,
        store=store,
        clock=clock,
        background=background,
    )
    switches = Switches(store=store, clock=clock, fences=store, learner=kill_switches)
    parts.risk_rules.engages = switches
    holdings = Holdings(store=store, live_orders=live_orders, accounts=accounts, stances=stances, clock=clock)
    writer = StanceWriter(store=store, learner=stances, clock=clock)
    plans = Plans(
        store=store,
        intake=intake,
        cancels=cancel,
        holdings=holdings,
        records=OrderRecords(store=store, live_orders=live_orders),
        ownership=ownership,
        alerts=delivery.alerts,
        clock=clock,
        results=parts.plan_results,
        rules=parts.plan_rules,
    )
    verbs = Verbs(
        cancel=cancel,
        resolve=ResolveOrder(accounts=accounts, ownership=ownership, live_orders=live_orders, store=store),
        replay=ReplayDeadLetter(intake=intake, store=store),
        compare=CompareBooks(accounts=accounts, ownership=ownership, store=store, clock=clock),
        positions=ShowPositions(accounts=accounts, ownership=ownership, live_orders=live_orders),
        adopt=AdoptPositions(accounts=accounts, ownership=ownership, live_orders=live_orders, store=store, clock=clock),
        kill=KillTrading(switches=switches, cancel=cancel, store=store, clock=clock),
        arm=ArmTrading(switches=switches),
        flatten=FlattenPositions(store=store, intake=intake, alerts=delivery.alerts, clock=clock),
        allow=AllowOrder(store=store, alerts=delivery.alerts, clock=clock),
        plan=PlanPositions(
            store=store,
            accounts=accounts,
            holdings=holdings,
            plans=plans,
            ownership=ownership,
            alerts=delivery.alerts,
            clock=clock,
            rules=parts.plan_rules,
        ),
        stance=SetStance(writer=writer, cancel=cancel, store=store, alerts=delivery.alerts, clock=clock),
    )
    runner = CommandRunner(store=store, verbs=verbs, cancels=cancels, background=background, alerts=delivery.alerts)
    commands = Commands(
        store=store,
        clock=clock,
        runner=runner,
        cancels=cancels,
        background=background,
        wake=wake,
        alerts=delivery.alerts,
    )
    return commands, plans


def _ownership(parts: Parts, directory: ConfiguredAccounts, live_orders: LiveOrders) -> Ownership:
    if parts.lease_seconds is None:
        return Alone(parts.store, live_orders, parts.clock)
    identity = None if parts.processes is None else parts.processes.own
    return AccountOwnership(
        store=parts.store,
        live_orders=live_orders,
        clock=parts.clock,
        me=Self(parts.nonce, socket.gethostname(), os.getpid(), identity),
        term_seconds=parts.lease_seconds,
        accounts=directory,
        processes=parts.processes,
    )


# --- the real world ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """The real parts, connected."""

    parts: Parts
    orders: GoogleSubscriber
    commands: GoogleSubscriber
    publisher: GooglePublisher
    targets: GoogleSubscriber | None
    plan_results: GooglePublisher | None
    connectivity: Connectivity
    """Whether Pub/Sub answers."""
    mongodb_uri: str
    pubsub_host: str | None
    revivals: Sequence[Part]
    """What starts the embedded parts again, should they end."""


@contextlib.asynccontextmanager
async def real_world(settings: Settings, servers: OwnServers | None = None) -> AsyncIterator[World]:
    """Opens what is outside, and connects nothing that is not ours yet; `servers`: of our own, begun already. Raises EmbeddedPartFailed,
    CannotStart."""
    async with contextlib.AsyncExitStack() as stack:
        if servers is None:
            servers = await stack.enter_async_context(own_servers(settings))
        is_embedded = settings.mongodb_uri is None
        addresses = await servers.addresses()
        pubsub_host = addresses.get(PUBSUB, settings.pubsub_emulator_host)
        if pubsub_host is not None:
            os.environ["PUBSUB_EMULATOR_HOST"] = pubsub_host  # Google's client looks there and nowhere else
        uri = addresses[STORE] if settings.mongodb_uri is None else settings.mongodb_uri.get_secret_value()
        clock = SystemClock()
        nonce = secrets.token_hex(6)
        with _usable():
            tables = NewTables(settings.data_dir) if is_embedded else None
            store = mongo_store(uri, settings.mongodb_database, nonce=nonce, clock=clock, private_tables=tables)
        stack.push_async_callback(store.close)
        connectivity = Connectivity("Pub/Sub", clock)
        with _usable():
            pubsub = _google_pubsub(settings, stack, emulator_host=pubsub_host, clock=clock, connectivity=connectivity)
            events = await stack.enter_async_context(
                event_sources(settings, emulator_host=pubsub_host, store=store, clock=clock, pubsub=connectivity)
            )
        risk_rules = RiskRules(settings.risk_limits, zones=settings.zones)
        hours = ExchangeHours(clock=clock, blocking=ThreadPool("calendars", 1))
        stack.callback(hours.close)
        risk_rules.hours = hours
        notifier = notifier_of(settings)
        stack.push_async_callback(notifier.close)
        safety = None
        if settings.risk_safety_service_url is not None:
            safety = SafetyOverHttp(settings.risk_safety_service_url)
            stack.push_async_callback(safety.close)
        parts = Parts(
            store=store,
            publisher=pubsub.publisher,
            notifier=notifier,
            clock=clock,
            orders=pubsub.orders.messages,
            commands=pubsub.commands.messages,
            accounts=settings,
            brokers=BrokerFactory,
            rules=TradingRules(
                order_timeout_seconds=settings.order_timeout_seconds,
                counts_while_held=settings.order_timeout_while_held,
                max_order_age_seconds=settings.max_order_age_seconds,
                max_retry_attempts=settings.max_retry_attempts,
                reconcile_interval_seconds=settings.reconcile_interval_seconds,
                exit_position_check=ExitPositionCheck(settings.exit_position_check.value),
                risk_per_trade=settings.risk_per_trade,
                position_monitor_seconds=settings.position_monitor_interval_sec,
            ),
            nonce=nonce,
            processes=ProcessTable(),
            risk_rules=risk_rules,
            plan_rules=settings.plan_rules,
            lease_seconds=None if is_embedded else settings.lease_seconds,
            uses_ordering_keys=settings.publish_ordering_keys,
            is_traced=settings.enable_opentelemetry,
            events=events,
            safety=safety,
            is_safety_fail_open=settings.ess_fail_open,
            dead_man_seconds=settings.dead_man_seconds,
            books_broker_exits=settings.book_broker_exits,
            position_marks_seconds=settings.position_marks_sec,
            notices=settings.notices,
            targets=None if pubsub.targets is None else pubsub.targets.messages,
            plan_results=pubsub.plan_results,
            verify_decisions=settings.verify_decisions,
        )
        yield World(
            parts=parts,
            orders=pubsub.orders,
            commands=pubsub.commands,
            publisher=pubsub.publisher,
            targets=pubsub.targets,
            plan_results=pubsub.plan_results,
            connectivity=connectivity,
            mongodb_uri=uri,
            pubsub_host=pubsub_host,
            revivals=servers.revivals,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _GooglePubSub:
    """Google's clients, one for each subscription and topic of our own; targets and what comes of them only where they are taken."""

    publisher: GooglePublisher
    orders: GoogleSubscriber
    commands: GoogleSubscriber
    targets: GoogleSubscriber | None
    plan_results: GooglePublisher | None


def _google_pubsub(
    settings: Settings,
    at_end: contextlib.AsyncExitStack,
    *,
    emulator_host: str | None,
    clock: Clock,
    connectivity: Connectivity,
) -> _GooglePubSub:
    """Connects nothing yet; `at_end` closes each. Raises PublishFailed for credentials that can never work."""
    project = settings.google_cloud_project

    def publisher(topic: str, *, uses_ordering_keys: bool) -> GooglePublisher:
        made = GooglePublisher(
            project,
            topic,
            emulator_host=emulator_host,
            connectivity=connectivity,
            uses_ordering_keys=uses_ordering_keys,
        )
        at_end.push_async_callback(made.close)
        return made

    def subscriber(subscription: str) -> GoogleSubscriber:
        made = GoogleSubscriber(
            project, subscription, emulator_host=emulator_host, clock=clock, connectivity=connectivity
        )
        at_end.push_async_callback(made.close)
        return made

    takes_targets = settings.takes_targets
    return _GooglePubSub(
        publisher=publisher(settings.execution_confirmations_topic, uses_ordering_keys=settings.publish_ordering_keys),
        orders=subscriber(settings.trading_orders_subscription),
        commands=subscriber(settings.order_commands_subscription),
        targets=subscriber(TARGETS_SUBSCRIPTION) if takes_targets else None,
        plan_results=publisher(PLAN_RESULTS_TOPIC, uses_ordering_keys=False) if takes_targets else None,
    )


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Addresses and credentials that can never work end the start with a sentence."""
    try:
        yield
    except (StoreUnavailable, PublishFailed, EventsUnusable) as exc:
        raise CannotStart(str(exc)) from exc


def notifier_of(settings: Settings) -> Notifier:
    token, chat_id = settings.telegram_bot_token, settings.telegram_chat_id
    if not settings.telegram_enabled or token is None or chat_id is None:
        return NoNotifier()
    return TelegramNotifier(token.get_secret_value(), chat_id, settings.telegram_api_base_url)
