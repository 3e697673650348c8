"""The whole world outside the service, faked; the service in it lives, dies and lives again. No assertions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from weakref import WeakSet

import structlog

from brokers.base import Capabilities, Combination, OrderRef
from brokers.errors import BrokerUnavailable
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Fault, Market, PaperOrder
from execution_service.app.events import EventSources, EventsOut
from execution_service.app.service import ExecutionService
from execution_service.app.settings.accounts import Account
from execution_service.app.wiring import Parts
from execution_service.core.messages.events_out import EVENTS_OUT, EXECUTION_RESULT
from execution_service.core.orders.decisions import VerifyDecisions
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.planning.rules import PlanRules
from execution_service.core.planning.targets import Mode
from execution_service.core.risk.limits import RiskLimits
from execution_service.core.texts.notices import ALL_NOTICES, NoticeKind
from execution_service.core.views.record import order_from_document
from execution_service.delivery.stream import Sink
from execution_service.ownership.processes import Processes
from execution_service.runtime.supervision import Part
from execution_service.runtime.threads import InPlace
from execution_service.storage.mongo.store import MongoStore
from execution_service.trading.risk_rules import RiskRules, Switches
from execution_service.trading.safety_service import AsksSafetyService
from execution_service.trading.trader import TradingRules
from execution_service.transport.ports import EventPublisher, ReadsKey
from simulators.control import quote_of
from tests.fakes.broker import BookInPlace, BrokerFaults, GatedBroker, Reservations
from tests.fakes.clock import HandClock
from tests.fakes.mongo import Mongo
from tests.fakes.people import RecordingNotifier
from tests.fakes.process import Died, Gate
from tests.fakes.pubsub import RecordingPublisher, Subscription
from tests.fakes.store import DATABASE, FakeMongoClient, StoreFaults

ACCOUNT = "acct-1"

SECOND_PROCESS_FROM = 1001
"""The number of the first message that a second process gets."""
BY_HAND = Market(fill_delay_seconds=None)
"""Where nothing fills but by `World.fill`."""
ONLY_A_TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=4)
"""Of a broker that takes a second order under the same id; with `is_unique=False`, so that its book does too."""
IN_SEQUENCE = Capabilities(
    refuses_repeated_client_id=True, needs_reservation=True, find_window_seconds=10.0, send_again_seconds=2.0
)
"""Of a broker that gives its ids beforehand and takes them in their sequence only."""
RESTING = TradingRules(order_timeout_seconds=0.0)
"""By which orders may work for ever."""
UNPROTECTED = TradingRules(position_monitor_seconds=0.0)
"""By which the stops and targets of orders are kept, and no protective order is placed."""
DOWN = BrokerUnavailable("connection refused")

LEAST_MOVE_SECONDS = 1e-6


MOST_ROUNDS = 50_000


@dataclass(frozen=True)
class AllAt:
    """Every account is at one broker, as far as the settings know, and as far as confirmations show."""

    broker: str | None
    shown: str | None = None

    def broker_of(self, account_id: str) -> str | None:
        return self.broker

    def broker_shown(self, document_id: str) -> str | None:
        return self.shown

    def mode_of(self, account_id: str | None) -> str | None:
        return "PRODUCTION"

    def is_of_the_mock(self, order: Order) -> bool:
        return self.broker == "MOCK"


@dataclass(frozen=True)
class _Configured:
    """The accounts of a life of the service: those that are named from the start, and all."""

    accounts: Sequence[str]
    known: Mapping[str, Account]

    def account(self, account_id: str) -> Account | None:
        return self.known.get(account_id)


class World:
    """Everything outside the service's memory. `start` begins a life of the service, `kill` ends it as kill -9 would."""

    def __init__(
        self,
        folder: Path,
        *,
        market: Market | None = None,
        faults: Sequence[Fault] = (),
        capabilities: Capabilities | None = None,
        is_unique: bool = True,
        rules: TradingRules | None = None,
        accounts: Sequence[str] = (ACCOUNT,),
        in_training: Sequence[str] = (),
        unnamed_accounts: Sequence[str] = (),
        uses_ordering_keys: bool = False,
        lease_seconds: float | None = None,
        processes: Processes | None = None,
        beside: World | None = None,
        more_sinks: Sequence[Sink] = (),
        events_out: EventPublisher | None = None,
        events_account: str | None = ACCOUNT,
        max_signal_age_seconds: float = 60.0,
        limits: RiskLimits | None = None,
        switches: Switches | None = None,
        safety: AsksSafetyService | None = None,
        is_safety_fail_open: bool = False,
        verify_decisions: VerifyDecisions = VerifyDecisions.OFF,
        kill_key: ReadsKey | None = None,
        dead_man_seconds: float | None = None,
        books_broker_exits: bool = False,
        position_marks_seconds: float = 0.0,
        clock: Any = None,
        notices: frozenset[NoticeKind] = ALL_NOTICES,
        mongo: Any = None,
        plan_rules: PlanRules | None = None,
    ) -> None:
        """`beside`: another process's world, with which this one shares time, store and the broker's book; it has its own way to each, its
        own messages in, and what it told. `in_training`: which of the accounts are in that mode.
        `limits` are those of the risk gate (None: what is built in), `switches` its kill switches.
        With `lease_seconds` they share the accounts out. `clock` and `mongo`: others than the
        hand-moved clock and the server in memory."""
        self.clock = clock or (HandClock() if beside is None else beside.clock)
        self.gate = Gate()
        self.store_faults = StoreFaults()
        self.broker_faults = BrokerFaults()
        self.mongo: Any = mongo or (Mongo() if beside is None else beside.mongo)
        first = 1 if beside is None else SECOND_PROCESS_FROM
        self.orders = Subscription("orders", self.gate, first=first)
        self.commands = Subscription("commands", self.gate, first=first)
        self.events = Subscription("events", self.gate, first=first)
        self.publisher = RecordingPublisher(self.gate)
        self.targets = Subscription("targets", self.gate, first=first)
        self.plan_results = RecordingPublisher(self.gate)
        self.notifier = RecordingNotifier(self.gate, self.clock)
        if beside is not None:  # the world hears both
            self.publisher.messages = beside.publisher.messages
            self.notifier.sent = beside.notifier.sent
        self.broker_calls: list[tuple[str, str]] = []
        self.rules = rules or TradingRules()
        self.logs: list[Any] = []
        self._path = folder / "book.db"
        self._market = market or Market()
        self._book_faults = tuple(faults)
        self._capabilities = capabilities
        self.own_capabilities: dict[str, Capabilities] = {}
        """By account id: of brokers whose abilities are others than those of all."""
        self._is_unique = is_unique
        self._uses_ordering_keys = uses_ordering_keys
        self._lease_seconds = lease_seconds
        self.processes = processes
        self._more_sinks = more_sinks
        self._events_out, self._events_account = events_out, events_account
        self._max_signal_age_seconds = max_signal_age_seconds
        self.risk_rules = RiskRules(limits, switches)
        self.safety, self.is_safety_fail_open = safety, is_safety_fail_open
        self.verify_decisions = verify_decisions
        self.kill_key = kill_key
        self._dead_man_seconds = dead_man_seconds
        self._books_broker_exits = books_broker_exits
        self._position_marks_seconds = position_marks_seconds
        self._plan_rules = plan_rules or PlanRules()
        self._accounts = {
            a: Account(
                account_id=a,
                name=f"{a} by name",
                broker="mock",
                live=False,
                config={"account_id": a},
                mode=Mode.TRAINING if a in in_training else Mode.PRODUCTION,
            )
            for a in (*accounts, *unnamed_accounts)
        }
        self._named_accounts = tuple(accounts)
        self._notices = notices
        self._lives = 0
        self._mark: object = id(self)
        """Tells its processes from those of other worlds."""
        self._service: ExecutionService | None = None
        self._inner: list[BookInPlace] = []
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.brokers: dict[str, GatedBroker] = {}
        """By account id: whom the service's present life speaks to."""
        self.reservations = Reservations()
        self.combined: list[Combination] = []
        """What was placed as one order of several legs."""
        self._books: dict[str, PaperExchange] = {}
        self._orders_read: dict[str, tuple[dict[str, Any], Order]] = {}

    # --- life and death -----------------------------------------------------------------------------------------

    @property
    def service(self) -> ExecutionService:
        assert self._service is not None
        return self._service

    async def start(self) -> None:
        """Begins a life of the service and lets it come to rest."""
        self.gate.revive()
        self._lives += 1
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_ignore_the_dead)
        loop.set_task_factory(_note_whose_task)
        token = _WORLD.set(self)
        try:
            await self._begin()
        finally:
            _WORLD.reset(token)
        await self.settle()

    def keep(self, *parts: Part) -> None:
        """More that the service's present life runs, and that dies with it."""
        token = _WORLD.set(self)
        try:
            for part in parts:
                self.service.supervisor.keep(part)
        finally:
            _WORLD.reset(token)

    async def _begin(self) -> None:
        self.orders.redeliver()
        self.commands.redeliver()
        self.events.redeliver()
        self.targets.redeliver()
        nonce = f"life-{self._lives}-{self._mark}"
        store = self._make_store(nonce)
        await store.open()
        self._service = ExecutionService(
            Parts(
                store=store,
                publisher=self.publisher,
                notifier=self.notifier,
                clock=self.clock,
                orders=self.orders.queue,
                commands=self.commands.queue,
                accounts=_Configured(self._named_accounts, self._accounts),
                brokers=self,
                rules=self.rules,
                nonce=nonce,
                uses_ordering_keys=self._uses_ordering_keys,
                lease_seconds=self._lease_seconds,
                processes=self.processes,
                more_sinks=self._more_sinks,
                events=self._event_sources(),
                risk_rules=self.risk_rules,
                safety=self.safety,
                is_safety_fail_open=self.is_safety_fail_open,
                verify_decisions=self.verify_decisions,
                dead_man_seconds=self._dead_man_seconds,
                books_broker_exits=self._books_broker_exits,
                position_marks_seconds=self._position_marks_seconds,
                notices=self._notices,
                targets=self.targets.queue,
                plan_results=self.plan_results,
                plan_rules=self._plan_rules,
            )
        )
        await self._service.start()

    def _event_sources(self) -> EventSources:
        types = (*EVENTS_OUT, EXECUTION_RESULT)
        publisher = self._events_out
        out = [] if publisher is None else [EventsOut(place="Redis", cursor="events", types=types, publisher=publisher)]
        inboxes = {"events": self.events.queue}
        return EventSources(
            account_id=self._events_account,
            max_signal_age_seconds=self._max_signal_age_seconds,
            inboxes=inboxes,
            out=out,
            kill_key=self.kill_key,
        )

    def _make_store(self, nonce: str) -> MongoStore:
        client: Any = FakeMongoClient(self.mongo, self.gate, self.store_faults)
        return MongoStore(client, DATABASE, nonce=nonce, clock=self.clock, threads=InPlace())

    def note_task(self, task: asyncio.Task[Any]) -> None:
        """One of the service's, which dies with it."""
        self._tasks.add(task)

    async def kill(self) -> None:
        """The process is gone, whatever it was doing; what the outside world has, it has."""
        self.gate.is_dead = True
        for _ in range(20):
            tasks = [task for task in self._tasks if not task.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=5)
        for broker in self._inner:
            await broker.close()
        self._inner.clear()
        self._service = None

    async def stop(self) -> None:
        """As SIGTERM ends it."""
        await self.service.stop()
        self._service = None

    def store_beside(self) -> MongoStore:
        """Another program's way to the same database, whatever becomes of the service's."""
        client: Any = FakeMongoClient(self.mongo, Gate(), StoreFaults())
        return MongoStore(client, DATABASE, nonce="beside", clock=self.clock, threads=InPlace())

    def unname_accounts(self) -> None:
        """As if they had been taken out of the file, from the next life on."""
        self._accounts, self._named_accounts = {}, ()

    async def restart(self, after_seconds: float = 1.0) -> None:
        await self.kill()
        self.clock.move(after_seconds)
        await self.start()

    async def close(self) -> None:
        if self._service is not None:
            await self.kill()
        for book in self._books.values():
            book.close()

    def create_broker(self, config: Mapping[str, object]) -> GatedBroker:
        inner = BookInPlace(
            is_unique=self._is_unique,
            account_id=str(config["account_id"]),
            path=self._path,
            market=self._market,
            faults=self._book_faults,
            clock=self.clock.now,
        )
        self._inner.append(inner)
        broker = self.brokers[str(config["account_id"])] = GatedBroker(
            inner,
            self.gate,
            self.broker_faults,
            self.broker_calls,
            self.own_capabilities.get(str(config["account_id"]), self._capabilities),
            self.reservations,
            self.combined,
        )
        return broker

    # --- time ---------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Until the service waits for the clock or for the outside world. Nothing in the tests takes real time, so an event loop without
        anything ready has come to rest."""
        loop: Any = asyncio.get_running_loop()
        quiet = 0
        for _ in range(MOST_ROUNDS):
            await asyncio.sleep(0)
            quiet = 0 if loop._ready else quiet + 1
            if quiet == 3 or self.gate.is_dead:
                return
        raise RuntimeError("the service spins: it is busy for ever without waiting for the clock")

    async def run(self, seconds: float) -> None:
        """Lets so much time pass, everybody waking when it is due."""
        end = self.clock.monotonic() + seconds
        await self.settle()
        while not self.gate.is_dead and await self._next(end):
            pass

    async def run_until(self, condition: Callable[[], bool], limit_seconds: float = 120.0) -> None:
        """Lets time pass until it is so. Raises TimeoutError when that takes longer than `limit_seconds`."""
        end = self.clock.monotonic() + limit_seconds
        await self.settle()
        while not condition() and not self.gate.is_dead:
            if not await self._next(end):
                raise TimeoutError(f"not so after {limit_seconds} s of hand-moved time")

    async def _next(self, end: float) -> bool:
        """Moves to the next moment at which somebody wakes, at most to `end`; False at the end."""
        wake = self.clock.next_wake()
        if wake is None or wake > end:
            self.clock.move_to(end)
            await self.settle()
            return False
        self.clock.move_to(max(wake, self.clock.monotonic() + LEAST_MOVE_SECONDS))
        await self.settle()
        return True

    # --- what the outside does ----------------------------------------------------------------------------------

    def send(self, signal_id: str = "sig", *, age_seconds: float = 0.0, **changes: Any) -> str:
        """Publishes an order in the simple dialect: buy 100 AAPL at the market, seen at 10. None takes a field away."""
        fields: dict[str, Any] = {
            "signal_id": signal_id,
            "account_id": ACCOUNT,
            "strategy_name": "momentum",
            "symbol": "AAPL",
            "side": "BUY",
            "quantity": 100,
            "order_type": "MARKET",
            "price": 10,
        }
        fields |= changes
        body = {name: value for name, value in fields.items() if value is not None}
        return self.send_raw(json.dumps(body).encode(), age_seconds=age_seconds)

    def event(self, event_type: str, body: Mapping[str, Any] | bytes, *, age_seconds: float = 0.0) -> str:
        """Publishes an event; with an age it was published, not decided, so long ago."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        at = self.clock.now() - timedelta(seconds=age_seconds)
        return self.events.publish(data, at, event_type=event_type)

    def send_raw(self, data: bytes, *, age_seconds: float = 0.0, attributes: Mapping[str, str] | None = None) -> str:
        return self.orders.publish(data, self.clock.now() - timedelta(seconds=age_seconds), attributes)

    def exit(self, signal_id: str, entry: str, **changes: Any) -> str:
        fields = {"signal_type": "EXIT", "entry_signal_id": entry, "side": "SELL"} | changes
        return self.send(signal_id, **fields)

    def cancel(self, *, age_seconds: float = 0.0, **fields: Any) -> str:
        body = {"command": "CANCEL", "reason": "changed my mind", "timestamp": "2025-03-03T15:00:00"} | fields
        return self.commands.publish(json.dumps(body).encode(), self.clock.now() - timedelta(seconds=age_seconds))

    def book(self, account_id: str = ACCOUNT) -> PaperExchange:
        """The broker's plain truth, and the hand that fills its orders."""
        if account_id not in self._books:
            self._books[account_id] = PaperExchange(
                self._path,
                account_id=account_id,
                market=self._market,
                clock=self.clock.now,
                unique_client_order_ids=self._is_unique,
            )
        return self._books[account_id]

    def placed(self, account_id: str = ACCOUNT) -> list[PaperOrder]:
        return self.book(account_id).orders()

    def fill(self, signal_id: str, quantity: int | str | None = None, price: str | None = None, **kwargs: Any) -> str:
        """The venue executes (part of) a working order; returns the fill's id."""
        ref = OrderRef(client_order_id=self.client_id(signal_id, kwargs.pop("purpose", Purpose.ENTRY)))
        amount = None if quantity is None else Decimal(quantity)
        paid = None if price is None else Decimal(price)
        return self.book().fill_order(ref, amount, paid, **kwargs).fill_id

    def quote(self, symbol: str = "AAPL", **fields: Any) -> None:
        """What the broker says of the market from now on."""
        self.book().set_quote(quote_of({"symbol": symbol} | fields))

    def ref(self, signal_id: str, purpose: Purpose = Purpose.ENTRY) -> OrderRef:
        return OrderRef(client_order_id=self.client_id(signal_id, purpose))

    @staticmethod
    def client_id(signal_id: str, purpose: Purpose = Purpose.ENTRY, leg_index: int = 0, attempt: int = 1) -> str:
        return Identity(signal_id=signal_id, leg_index=leg_index, purpose=purpose).client_order_id(attempt)

    # --- what the outside sees ----------------------------------------------------------------------------------

    def documents(self, collection: str, **query: Any) -> list[dict[str, Any]]:
        return list(self.mongo[DATABASE][collection].find(query))

    def records(self) -> list[Order]:
        return [self._order_of(document) for document in self._order_documents.values()]

    def record(self, signal_id: str = "sig", purpose: Purpose = Purpose.ENTRY, leg_index: int = 0) -> Order:
        order_id = Identity(signal_id=signal_id, leg_index=leg_index, purpose=purpose).order_id
        (document,) = (self._order_documents[order_id],) if order_id in self._order_documents else ()
        return self._order_of(document)

    @property
    def _order_documents(self) -> Mapping[str, dict[str, Any]]:
        documents: Mapping[str, dict[str, Any]] = self.mongo[DATABASE]["execution_orders"].documents
        return documents

    def _order_of(self, document: dict[str, Any]) -> Order:
        """Made anew only when another document has come in its place: the server changes none."""
        read, order = self._orders_read.get(document["_id"], (None, None))
        if order is None or read is not document:
            order = order_from_document(document)
            self._orders_read[document["_id"]] = document, order
        return order

    def exit_record(self, signal_id: str) -> Order:
        return self.record(signal_id, Purpose.EXIT)

    def unsettled(self) -> list[str]:
        return [d["signal_id"] for d in self.documents("execution_orders", lookup="unsettled")]

    @property
    def account_ids(self) -> tuple[str, ...]:
        """Of all accounts that are configured."""
        return tuple(self._accounts)

    def mode_of(self, account_id: str) -> str | None:
        """None: the account is not configured."""
        return self._accounts[account_id].mode.value if account_id in self.account_ids else None

    def account_name(self, account_id: str | None) -> str | None:
        account = None if account_id is None else self._accounts.get(account_id)
        return None if account is None else account.name

    def calls(self, operation: str) -> list[str]:
        return [about for name, about in self.broker_calls if name == operation]


_WORLD: ContextVar[World | None] = ContextVar("world", default=None)


def _note_whose_task(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """Whatever a service or its tasks start is that world's, and dies with it."""
    task = asyncio.Task(work, loop=loop, **kwargs)
    world = _WORLD.get()
    if world is not None:
        world.note_task(task)
    return task


def _ignore_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Died):
        loop.default_exception_handler(context)


@contextlib.asynccontextmanager
async def two_worlds(folder: Path, **kwargs: Any) -> AsyncIterator[tuple[World, World]]:
    """Two processes on one store and book, the first of them started."""
    async with world_of(folder, lease_seconds=8.0, **kwargs) as one:
        other = World(folder, lease_seconds=8.0, beside=one, **kwargs)
        other.logs = one.logs
        try:
            yield one, other
        finally:
            await other.close()


@contextlib.asynccontextmanager
async def world_of(folder: Path, *, starts: bool = True, **kwargs: Any) -> AsyncIterator[World]:
    """A world with a living service in it, and the log caught."""
    with structlog.testing.capture_logs() as logs:
        world = World(folder, **kwargs)
        world.logs = logs
        try:
            if starts:
                await world.start()
            yield world
        finally:
            await world.close()
