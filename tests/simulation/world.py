"""The whole outside of one or two replicas, on the project's fakes, with every answer's time drawn and every call open to a fault."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sqlite3
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pymongo.errors import AutoReconnect

from brokers.base import Capabilities, Combination, OrderRef, Report, Ticket
from brokers.errors import BrokerError, BrokerUnavailable, OutcomeUnknown
from brokers.paper.broker import Venue
from brokers.paper.exchange import PaperExchange
from brokers.paper.file import BookFile
from brokers.paper.model import Market, Operation
from execution_service.app.settings.accounts import Account
from execution_service.storage.mongo.store import MongoStore
from execution_service.trading.trader import TradingRules
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message, PublishFailed
from notifications.base import NotificationFailed
from tests.core.risk_cases import written
from tests.fakes import ACCOUNT, DATABASE, Died, GatedBroker, RecordingNotifier, RecordingPublisher, World
from tests.fakes.broker import BookInPlace, Reservations
from tests.fakes.mongo import Collection, Mongo
from tests.service.option_spreads import COMBINING
from tests.simulation.combinations import CombinedBook
from tests.simulation.faults import Action, Armed, Broken, Plan
from tests.simulation.loop import OWNER, LoopClock, SimulatedLoop, SimulatedTask

T = TypeVar("T")
WRITES = frozenset({"insert_one", "insert_many", "update_one", "replace_one", "update_many", "bulk_write"})
READS = frozenset({"find", "find_one", "list_indexes"})
REDELIVERY_SECONDS = 15.0
"""After a puller has died Pub/Sub waits so long before it delivers again."""
HANDED_BACK_SECONDS = 0.1
"""What was handed back Pub/Sub delivers again so soon."""
LEASE_SECONDS = 8.0


class Trace:
    """What happened, a line each; the same lines for the same seed, in every process."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.lines: list[str] = []

    def say(self, words: str) -> None:
        self.lines.append(f"{self._loop.time():.6f} {words}")


class Outside:
    """What all replicas share."""

    def __init__(self, loop: SimulatedLoop, luck: random.Random, folder: Path, options: Mapping[str, Any]) -> None:
        self.loop = loop
        self.luck = luck
        self.folder = folder
        self.options = options
        self.clock = LoopClock(loop)
        self.mongo = Mongo()
        self.book = _Book(folder)
        self.plan = Plan()
        self.trace = Trace(loop)
        self.troubles: dict[str, float] = {}
        """When something last went wrong, by the first word of the port, and with the replica's number after it."""
        self.combined: list[Combination] = []
        """What the venue has accepted as one order of several legs."""
        self.reservations = defaultdict[str, Reservations](Reservations)
        """Each account's ids, where they are given beforehand."""
        self.orders = Topic("orders", self)
        self.commands = Topic("commands", self)
        self.handed: list[tuple[float, str]] = []
        """When which order, by its tag, was handed to a broker's adapter."""
        self.sent: dict[str, dict[str, Any]] = {}
        """By signal id: the first order published under it, as fields."""
        self.complaints: list[str] = []
        """What the watch over the running life found."""
        self._on_their_way = 0
        self.past: frozenset[tuple[str, Any]] = frozenset()
        """Documents that were over and told before the life began, by collection and id."""
        self.work: Counter[str] = Counter()
        """Calls of the store, documents that it has read and written, and from which collection it has read documents of the past."""

    def latency(self) -> float:
        return LATENCIES[int(self.luck.random() * len(LATENCIES))]

    @property
    def events(self) -> int:
        """Of all orders, and of all deliveries of messages."""
        records = self.mongo[DATABASE]["execution_orders"].documents
        versions = (d.get("version") for key, d in records.items() if ("execution_orders", key) not in self.past)
        return self.orders.deliveries + self.commands.deliveries + sum(v for v in versions if isinstance(v, int))

    @property
    def is_nothing_on_its_way(self) -> bool:
        """No call that somebody has given up is still to arrive."""
        return not self._on_their_way

    async def arrives_later(self, call: Callable[[], Awaitable[Any]], seconds: float) -> None:
        self._on_their_way += 1
        try:
            await asyncio.sleep(seconds)
            await call()
        except (BrokerError, PublishFailed, NotificationFailed, Died):
            return  # it arrived where nobody was
        finally:
            self._on_their_way -= 1

    def trouble(self, port: str, replica: int) -> None:
        self.troubles[port] = self.troubles[f"{port}{replica}"] = self.loop.time()

    def quiet_for(self, *ports: str) -> float:
        """Seconds since anything went wrong there."""
        return self.loop.time() - max((self.troubles.get(port, 0.0) for port in ports), default=0.0)


class Topic:
    """A subscription that the replicas share: each message goes to one of them, and to another one if that hands it back or dies."""

    def __init__(self, name: str, outside: Outside) -> None:
        self.name = name
        self._outside = outside
        self._count = 0
        self.deliveries = 0
        self.messages: dict[str, tuple[bytes, datetime, Mapping[str, str]]] = {}
        """Those that nobody has acknowledged."""
        self.waits_since: dict[str, float] = {}
        """Since when each could be heard of: since it was published, or was delivered again after something that Pub/Sub or a death had done."""
        self.holder: dict[str, Pull] = {}
        self.pulls: list[Pull] = []

    def publish(self, data: bytes, at: datetime, attributes: Mapping[str, str] | None = None) -> str:
        self._count += 1
        message_id = f"{self.name}-{self._count}"
        self.messages[message_id] = (data, at, attributes or {})
        self.waits_since[message_id] = self._outside.loop.time()
        self.deliver(message_id)
        return message_id

    def deliver(self, message_id: str) -> None:
        if message_id not in self.messages:
            return
        self.holder.pop(message_id, None)
        ready = [pull for pull in self.pulls if pull.is_ready]
        if ready:
            self.deliveries += 1
            pull = self._outside.luck.choice(ready)
            self.holder[message_id] = pull
            delay = self._outside.luck.choice((0.0, 0.005, 0.3))
            self._outside.loop.call_later(delay, pull.receive, message_id, pull.stream)

    def deliver_waiting(self) -> None:
        for message_id in list(self.messages):
            self.deliver_if_free(message_id)

    def deliver_if_free(self, message_id: str) -> None:
        if message_id not in self.holder:
            self.deliver(message_id)

    def deliver_again(self, pull: Pull, after_seconds: float) -> None:
        """What that one had received and neither acknowledged nor handed back."""
        for message_id in [m for m, holder in self.holder.items() if holder is pull]:
            self.waits_since[message_id] = self._outside.loop.time() + after_seconds
            self._outside.loop.call_later(after_seconds, self._if_still, message_id, pull)

    def loses_acknowledgement(self, message_id: str) -> None:
        """It is delivered again, since Pub/Sub has never heard of that."""
        self.waits_since[message_id] = self._outside.loop.time() + REDELIVERY_SECONDS
        self._outside.loop.call_later(REDELIVERY_SECONDS, self.deliver, message_id)

    def _if_still(self, message_id: str, pull: Pull) -> None:
        if self.holder.get(message_id) is pull:
            self.deliver(message_id)

    def acknowledged(self, message_id: str) -> None:
        self.messages.pop(message_id, None)
        self.holder.pop(message_id, None)


class _Inbox(Inbox):
    """Tells its stream whether more is wanted."""

    def __init__(self, pull: Pull) -> None:
        super().__init__()
        self._pull = pull

    def refuse(self) -> None:
        super().refuse()
        self._pull.hand_back()

    def accept(self) -> None:
        super().accept()
        self._pull.topic.deliver_waiting()


class Pull:
    """One replica's way to a topic; as much of `tests.fakes.Subscription` as a world uses."""

    def __init__(self, topic: Topic, replica: Replica) -> None:
        self.topic = topic
        self._replica = replica
        self.queue: Inbox = _Inbox(self)
        self.is_pulling = False
        self.stream = 0
        topic.pulls.append(self)

    @property
    def unacknowledged(self) -> list[str]:
        return list(self.topic.messages)

    @property
    def is_ready(self) -> bool:
        return self.is_pulling and not self.queue.is_refusing

    def publish(self, data: bytes, at: datetime, attributes: Mapping[str, str] | None = None) -> str:
        return self.topic.publish(data, at, attributes)

    def redeliver(self) -> None:
        """A new life pulls."""
        self.queue = _Inbox(self)
        self.is_pulling = True
        self.stream += 1
        self.topic.deliver_waiting()

    def end(self, *, redelivered_after: float) -> None:
        self.is_pulling = False
        self.stream += 1
        self.topic.deliver_again(self, redelivered_after)

    def hand_back(self) -> None:
        """Ends the stream. What it had brought and nobody has acknowledged goes to whoever is ready; to acknowledge that is of no use any more."""
        self.stream += 1
        self.queue.discard()
        for message_id in self.kept:
            self.topic.holder.pop(message_id)
            self.topic._outside.loop.call_later(HANDED_BACK_SECONDS, self.topic.deliver_if_free, message_id)

    @property
    def kept(self) -> list[str]:
        """Received, and neither acknowledged nor handed back."""
        return [m for m, holder in self.topic.holder.items() if holder is self and m in self.topic.messages]

    def receive(self, message_id: str, stream: int) -> None:
        if stream != self.stream:
            self.topic._if_still(message_id, self)
            return
        entry = self.topic.messages.get(message_id)
        if entry is None:
            return
        data, at, attributes = entry
        name = f"{self.topic.name}.ack"

        def ack() -> None:
            armed = self._replica.enters(name, message_id)
            if armed is not None and armed.action is Action.DIE_BEFORE:
                self._replica.dies()
            if stream != self.stream:
                self._replica.say(f"{name} {message_id} after it was handed back")
            elif armed is None or armed.action is not Action.LOST:
                self.topic.acknowledged(message_id)
            else:
                self.topic.loses_acknowledgement(message_id)
            if armed is not None and armed.action is Action.DIE_AFTER:
                self._replica.dies()

        def nack() -> None:
            self._replica.enters(f"{self.topic.name}.nack", message_id)
            if self.topic.holder.get(message_id) is self:
                self.topic.holder.pop(message_id)
                self.topic._outside.loop.call_later(HANDED_BACK_SECONDS, self.topic.deliver_if_free, message_id)

        self.queue.put_nowait(
            Message(message_id=message_id, data=data, publish_time=at, attributes=attributes, ack=ack, nack=nack)
        )


class _Threads:
    """A small pool of threads for blocking calls, without threads: a call is made some time after it was asked for, at most `size` are
    under way, and who is cancelled may leave a call behind that is made all the same."""

    def __init__(self, replica: Replica, size: int) -> None:
        self._replica = replica
        self._free = size
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()

    async def run(self, call: Callable[[], T]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, done))
        self._begin()
        return await done

    def close(self) -> None:
        self._waiting.clear()

    def _begin(self) -> None:
        outside = self._replica.outside
        while self._free and self._waiting:
            call, done = self._waiting.popleft()
            if done.cancelled():
                continue
            self._free -= 1
            outside.loop.call_later(outside.latency(), self._make, call, done, self._replica.life)

    def _make(self, call: Callable[[], Any], done: asyncio.Future[Any], life: int) -> None:
        replica = self._replica
        if life != replica.life or replica.gate.is_dead:
            return
        answer, error = None, None
        replica.store_seconds = 0.0
        try:
            answer = call()
        except BaseException as exc:  # noqa: BLE001  a death comes this way, too
            error = exc
        if replica.store_seconds:
            replica.outside.loop.call_later(replica.store_seconds, self._answer, done, answer, error)
        else:
            self._answer(done, answer, error)

    def _answer(self, done: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
        self._free += 1
        if not done.done():
            if error is None:
                done.set_result(answer)
            else:
                done.set_exception(error)
        self._begin()


LATENCIES = (0.0, 0.001, 0.001, 0.002, 0.003, 0.04)
"""Seconds, one of them for each call."""


class _WireCollection:
    """A replica's way to one collection."""

    def __init__(self, inner: Collection, replica: Replica) -> None:
        self._inner = inner
        self._replica = replica
        self.name = inner.name

    def create_index(self, keys: Any, **options: Any) -> None:
        self._inner.create_index(keys, **options)

    def __getattr__(self, method: str) -> Any:
        if method not in WRITES and method not in READS:
            raise AttributeError(method)
        whole = getattr(self._inner, method)
        name = f"store.{self.name}.{method}"
        replica = self._replica

        def call(*args: Any, **kwargs: Any) -> Any:
            armed = replica.enters(name)
            if replica.outside.plan.is_away(replica.number, "store", replica.outside.loop.time()):
                replica.outside.trouble("store", replica.number)
                raise AutoReconnect("connection refused")
            if armed is None:
                answer = whole(*args, **kwargs)
                if method in WRITES:
                    replica.say(name)
                self._count(method, args, answer)
                return answer
            return self._meets(armed, whole, args, kwargs)

        setattr(self, method, call)
        return call

    def _count(self, method: str, args: tuple[Any, ...], answer: Any) -> None:
        outside = self._replica.outside
        outside.work["calls"] += 1
        if method in WRITES:
            outside.work["written"] += len(args[0]) if method in ("insert_many", "bulk_write") else 1
        elif method == "find":
            outside.work["read"] += len(answer)
            if outside.past:
                outside.work[f"past {self.name}"] += sum((self.name, each["_id"]) in outside.past for each in answer)

    def _meets(self, armed: Armed, whole: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        replica = self._replica
        lost = AutoReconnect("connection closed before the answer")
        match armed.action:
            case Action.REFUSE:
                raise AutoReconnect("connection refused")
            case Action.BREAK:
                raise Broken("the driver broke")
            case Action.HANG:
                replica.store_seconds = min(armed.seconds, 20.0)
                raise AutoReconnect("timed out")
            case Action.DIE_BEFORE:
                replica.dies()
            case Action.HALF if isinstance(args[0], list | tuple):
                whole(args[0][: len(args[0]) // 2], **kwargs)
                raise lost
        answer = whole(*args, **kwargs)
        match armed.action:
            case Action.DIE_AFTER:
                replica.dies()
            case Action.LATE | Action.SLOW | Action.TWICE | Action.ODD:
                replica.store_seconds = min(armed.seconds, 19.0)
                return answer
            case Action.HANG_DONE | Action.ARRIVES_LATER:
                replica.store_seconds = min(armed.seconds, 20.0)
            case Action.BREAK_DONE:
                raise Broken("the driver broke")
        raise lost


class _WireDatabase:
    def __init__(self, name: str, replica: Replica) -> None:
        self._inner = replica.mongo[name]
        self._replica = replica
        self._collections: dict[str, _WireCollection] = {}

    def __getitem__(self, name: str) -> _WireCollection:
        if name not in self._collections:
            self._collections[name] = _WireCollection(self._inner[name], self._replica)
        return self._collections[name]

    def command(self, name: str) -> Mapping[str, Any]:
        self._replica.enters(f"store.{name}")
        return {"ok": 1.0}


class _WireClient:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.admin = _WireDatabase("admin", replica)

    def __getitem__(self, name: str) -> _WireDatabase:
        return _WireDatabase(name, self._replica)

    def close(self) -> None:
        """The data stay."""


class _Publisher(RecordingPublisher):
    replica: Replica

    async def publish(self, data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
        about = attributes.get("event_id", "")
        await self.replica.through(
            "publish",
            lambda: super(_Publisher, self).publish(data, attributes, ordering_key),
            PublishFailed,
            about=about,
        )


class _Notifier(RecordingNotifier):
    replica: Replica

    async def send(self, text: str) -> None:
        about = text.partition("\n")[0]
        await self.replica.through(
            "telegram", lambda: super(_Notifier, self).send(text), NotificationFailed, about=about
        )


class _Broker(GatedBroker):
    replica: Replica
    inner: _MockBroker
    unknown = frozenset({"place_order", "place_combined", "cancel_order"})

    async def _place_legs(self, combination: Combination, tickets: Sequence[Ticket]) -> Sequence[Report]:
        return await self.inner.place_combined(combination, tickets)

    async def _cancel(self, ref: OrderRef, *, again: bool) -> None:
        """The book knows what is one order."""
        await self.inner.cancel_order(ref, again=again)

    async def _pass(self, operation: str, about: str, call: Callable[[], Awaitable[T]]) -> T:
        self._calls.append((operation, about))
        if operation in ("place_order", "place_combined"):
            self.replica.outside.handed.append((self.replica.outside.loop.time(), about))
        lost = OutcomeUnknown if operation in self.unknown else BrokerUnavailable
        return await self.replica.through(f"broker.{operation}", call, BrokerUnavailable, lost=lost, about=about)


class _Book(BookFile):
    """The broker's book of one life, in memory. All its replicas and its judge share the one connection, since nothing here runs at once."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.deserialize(_empty_book(folder))

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Nobody writes beside it, so it takes no transaction."""
        if self._db is None:
            raise BrokerUnavailable("The paper exchange's book is closed")
        return contextlib.nullcontext(self._db)


@functools.cache
def _empty_book(folder: Path) -> bytes:
    """As the paper exchange makes it."""
    path = folder / "empty.db"
    BookFile(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # what is in memory has no log to write ahead
        return db.serialize()


class _MockBroker(BookInPlace):
    file: BookFile
    wholes: list[Combination]

    async def place_combined(self, combination: Combination, tickets: Sequence[Ticket]) -> Sequence[Report]:
        def place(book: PaperExchange) -> Sequence[Report]:
            assert isinstance(book, CombinedBook)
            return book.place_combined(combination, tickets)

        return await self._ask(Operation.PLACE, place, combination.client_order_id, tickets[0].instrument.symbol)

    def _open(self, venue: Venue) -> PaperExchange:
        return CombinedBook(
            self._path,
            wholes=self.wholes,
            account_id=self._account_id,
            market=self._market,
            clock=self._clock,
            unique_client_order_ids=self._is_unique,
            file=self.file,
        )


class Replica(World):
    """One process of the service and its ways to the outside."""

    def __init__(self, number: int, outside: Outside, first: Replica | None) -> None:
        options = outside.options
        shares = options["replicas"] > 1 or options["has_leases"]
        capabilities = None
        if not options["is_unique"]:
            capabilities = Capabilities(
                refuses_repeated_client_id=False,
                commission_currency="USD",
                concurrent_calls=16,
                find_window_seconds=0.5,
            )
        if options.get("combines"):
            capabilities = replace(COMBINING, commission_currency="USD")
        super().__init__(
            outside.folder,
            market=Market(**options["market"]),
            is_unique=options["is_unique"],
            capabilities=capabilities,
            rules=TradingRules(
                order_timeout_seconds=options["order_timeout_seconds"],
                max_order_age_seconds=options["max_order_age_seconds"],
            ),
            accounts=options["accounts"],
            uses_ordering_keys=options["uses_ordering_keys"],
            lease_seconds=LEASE_SECONDS if shares else None,
            beside=first,
            limits=written(**options["limits"]) if options.get("limits") else None,
            clock=outside.clock,
            mongo=outside.mongo,
        )
        self.number = self._mark = number
        self.outside = outside
        self.life = 0
        self.store_seconds = 0.0
        """How long the answer of the call that the store makes now takes."""
        self.publisher = _with(self, _Publisher(self.gate), first and first.publisher.messages)
        self.notifier = _with(self, _Notifier(self.gate, self.clock), first and first.notifier.sent)
        self.orders: Any = Pull(outside.orders, self)
        self.commands: Any = Pull(outside.commands, self)
        self.is_up = False
        self._is_ending = False
        self._has_died = asyncio.Event()
        self._has_to_end_at_once = asyncio.Event()

    # --- the gate of every call -----------------------------------------------------------------------------------

    def enters(self, name: str, about: str = "") -> Armed | None:
        if self.gate.is_dead:
            raise Died
        armed = self.outside.plan.meet(self.number, name, about) if self.outside.plan.armed else None
        if armed is not None:
            self.say(f"{name} {about} meets {armed.action}")
            self.outside.trouble(name.partition(".")[0], self.number)
        return armed

    def meets_inside(self, name: str, about: Callable[..., str], args: tuple[Any, ...]) -> bool:
        plan = self.outside.plan
        if not plan.armed or self.gate.is_dead:
            return False
        armed = plan.meet(self.number, name, about(*args))
        if armed is not None:
            self.say(f"{name} {about(*args)} raises")
            self.outside.trouble("inside", self.number)
        return armed is not None

    def dies(self) -> None:
        self.gate.is_dead = True
        self.say("dies")
        self.outside.trouble("process", self.number)
        self._has_died.set()
        raise Died

    def say(self, words: str) -> None:
        self.outside.trace.say(f"r{self.number} {words}")

    async def through(
        self,
        name: str,
        call: Callable[[], Awaitable[T]],
        refused: type[Exception],
        *,
        lost: type[Exception] | None = None,
        about: str = "",
    ) -> T:
        armed = self.enters(name, about)
        outside = self.outside
        if outside.plan.is_away(self.number, name.partition(".")[0], outside.loop.time()):
            outside.trouble(name.partition(".")[0], self.number)
            raise refused("no route")
        unclear = lost or refused
        await asyncio.sleep(outside.latency())
        if armed is None:
            self.say(f"{name} {about}")
            answer = await call()
            if self.gate.is_dead:
                raise Died
            return answer
        match armed.action:
            case Action.REFUSE | Action.HALF:
                raise refused("refused by the plan")
            case Action.BREAK:
                raise Broken(f"{name} broke")
            case Action.HANG:
                await asyncio.sleep(armed.seconds)
                outside.trouble(name.partition(".")[0], self.number)
                raise unclear("no answer")
            case Action.SLOW:
                await asyncio.sleep(armed.seconds)
            case Action.DIE_BEFORE:
                self.dies()
            case Action.ARRIVES_LATER:
                outside.loop.create_task(outside.arrives_later(call, armed.seconds))
                raise unclear("no answer")
        answer = await call()
        match armed.action:
            case Action.LOST:
                raise unclear("the answer was lost")
            case Action.LATE:
                await asyncio.sleep(armed.seconds)
            case Action.HANG_DONE:
                await asyncio.sleep(armed.seconds)
                outside.trouble(name.partition(".")[0], self.number)
                raise unclear("no answer")
            case Action.BREAK_DONE:
                raise Broken(f"{name} broke")
            case Action.TWICE:
                return await call()
            case Action.ODD:
                return None  # type: ignore[return-value]
            case Action.DIE_AFTER:
                self.dies()
        if self.gate.is_dead:
            raise Died
        return answer

    # --- life and death -------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Begins a life in a task of its own, and again a second after it could not."""
        token = OWNER.set(self)
        try:
            self.outside.loop.create_task(self._live())
        finally:
            OWNER.reset(token)

    async def _live(self) -> None:
        self.gate.revive()
        self.life += 1
        self._lives += 1
        self._has_died.clear()
        self._is_ending = False
        self.say(f"begins life {self.life}")
        self.outside.trouble("process", self.number)
        try:
            await self._begin()
        except Died:
            raise
        except Exception as exc:  # noqa: BLE001  whoever keeps processes running starts another
            self.say(f"could not start: {type(exc).__name__}")
            self.outside.loop.call_later(1.0, self._has_died.set)
            return
        self.is_up = True
        self.say("is up")

    async def watch_over(self, down_seconds: Callable[[], float]) -> None:
        """Until cancelled: whoever died is buried, and begins anew after some time."""
        while True:
            await self._has_died.wait()
            self._has_died.clear()
            await self.kill()
            await asyncio.sleep(down_seconds())
            await self.live()

    def shoot(self) -> None:
        """The process is killed from outside."""
        if self.life and not self._is_ending:
            self.gate.is_dead = True
            self.say("is killed")
            self.outside.trouble("process", self.number)
            self._has_died.set()

    async def kill(self) -> None:
        self.gate.is_dead = True
        self.is_up = False
        for pull in (self.orders, self.commands):
            pull.end(redelivered_after=REDELIVERY_SECONDS)
        loop = asyncio.get_running_loop()
        for _ in range(20):
            mine = [t for t in asyncio.all_tasks(loop) if isinstance(t, SimulatedTask) and t.owner is self]
            if not mine:
                break
            for task in sorted(mine, key=lambda t: t.number):
                task.cancel()
            await asyncio.wait(mine, timeout=5)
        for broker in self._inner:
            await broker.close()
        self._inner.clear()
        self._service = None

    async def end_in_order(self) -> list[str]:
        """As SIGTERM ends it; returns what was received and is kept from the others now."""
        if not self.is_up:
            return []
        self._is_ending = True
        self._has_to_end_at_once.clear()
        self.say("stops")
        self.outside.trouble("process", self.number)
        pulls = (self.orders, self.commands)
        loop = self.outside.loop
        at_once = loop.create_task(self._has_to_end_at_once.wait())
        token = OWNER.set(self)
        try:
            ending = loop.create_task(self._end(pulls))
            await asyncio.wait([ending, at_once], timeout=60.0, return_when=asyncio.FIRST_COMPLETED)
        finally:
            OWNER.reset(token)
            at_once.cancel()
        is_killed = self._has_to_end_at_once.is_set()
        kept = [] if is_killed else [message_id for pull in pulls for message_id in pull.kept]
        await self.kill()
        self.say("has stopped")
        return kept

    @property
    def is_ending(self) -> bool:
        return self.is_up and self._is_ending

    def end_at_once(self) -> None:
        """As a second SIGTERM does, while the first one is obeyed."""
        self.say("is told to stop once more")
        self._has_to_end_at_once.set()

    async def _end(self, pulls: tuple[Pull, Pull]) -> None:
        """In the sequence of `execution_service.app.process.serve`."""
        await self.service.take_no_more()
        for pull in pulls:
            pull.is_pulling = False
            pull.hand_back()
        await self.service.stop()

    def _make_store(self, nonce: str) -> MongoStore:
        client: Any = _WireClient(self)
        return MongoStore(
            client,
            DATABASE,
            nonce=nonce,
            clock=self.clock,
            threads=_Threads(self, 2),
            commit_threads=_Threads(self, 1),
            urgent_threads=_Threads(self, 1),
        )

    def create_broker(self, config: Mapping[str, object]) -> GatedBroker:
        inner = _MockBroker(
            is_unique=self._is_unique,
            account_id=str(config["account_id"]),
            path=self._path,
            market=self._market,
            clock=self.clock.now,
        )
        inner.file, inner.wholes = self.outside.book, self.outside.combined
        self._inner.append(inner)
        account_id = str(config["account_id"])
        broker = _Broker(
            inner,
            self.gate,
            self.broker_faults,
            self.broker_calls,
            self._capabilities,
            self.outside.reservations[account_id],
            self.outside.combined,
        )
        broker.replica = self
        self.brokers[account_id] = broker
        return broker

    def book(self, account_id: str = ACCOUNT) -> PaperExchange:
        if account_id not in self._books:
            self._books[account_id] = CombinedBook(
                self._path,
                wholes=self.outside.combined,
                account_id=account_id,
                market=self._market,
                clock=self.clock.now,
                unique_client_order_ids=self._is_unique,
                file=self.outside.book,
            )
        return self._books[account_id]

    def configure(self, account_id: str, *, is_there: bool) -> None:
        """From the next life on."""
        if is_there:
            self._accounts[account_id] = Account(
                account_id=account_id,
                name=f"{account_id} by name",
                broker="mock",
                live=False,
                config={"account_id": account_id},
            )
            self._named_accounts = tuple(dict.fromkeys((*self._named_accounts, account_id)))
        else:
            self._accounts.pop(account_id, None)
            self._named_accounts = tuple(a for a in self._named_accounts if a != account_id)

    def ref_of(self, client_order_id: str) -> OrderRef:
        return OrderRef(client_order_id=client_order_id)


def _with(replica: Replica, port: Any, shared: list[Any] | None) -> Any:
    """The port knows whose it is, and all replicas' words come together."""
    port.replica = replica
    if shared is not None:
        if isinstance(port, _Publisher):
            port.messages = shared
        else:
            port.sent = shared
    return port
