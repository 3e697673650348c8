"""The world outside the service, faked: a hand-moved clock, a store, Pub/Sub, people and brokers that outlive a service that dies; no assertions."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import mongomock
import structlog
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError
from pymongo.results import BulkWriteResult

from brokers.base import Balance, BrokerPosition, Capabilities, OrderRef, Report, Reports, Ticket, Unreadable
from brokers.errors import AnswerUnclear, BrokerUnavailable, ReservationLost
from brokers.paper.adapter import MockBroker, Venue
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Fault, Market, PaperOrder
from execution_service.app.service import ExecutionService
from execution_service.app.settings import Account
from execution_service.app.wiring import Parts
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.views.record import order_from_document
from execution_service.delivery.stream import Sink
from execution_service.ownership.processes import Processes
from execution_service.runtime.threads import InPlace
from execution_service.storage.mongo.store import MongoStore
from execution_service.trading.trader import TradingRules
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message, PublishFailed
from notifications.base import NotificationFailed
from tests.builders import NOW

T = TypeVar("T")
DATABASE = "trading"
ACCOUNT = "acct-1"
LEAST_MOVE_SECONDS = 1e-6
MOST_ROUNDS = 50_000


class HandClock:
    """A clock that stands still until it is moved; whoever sleeps on it wakes when it is."""

    def __init__(self, start: datetime = NOW) -> None:
        self._wall_offset = start - timedelta(seconds=1000)
        self._steady = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> datetime:
        moment = self._wall_offset + timedelta(seconds=self._steady)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        return self._steady

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._steady + seconds, next(self._count), wake))
        await wake

    def next_wake(self) -> float | None:
        """When the first sleeper is to be woken, by the monotonic clock."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def move_to(self, moment: float) -> None:
        self._steady = max(self._steady, moment)
        while (wake := self.next_wake()) is not None and wake <= self._steady:
            heapq.heappop(self._sleepers)[2].set_result(None)

    def move(self, seconds: float) -> None:
        self.move_to(self._steady + seconds)

    def jump_wall(self, seconds: float) -> None:
        """What happens when a person or a time server sets the wall clock: nobody wakes, no time has passed."""
        self._wall_offset += timedelta(seconds=seconds)


class Died(BaseException):
    """Comes out of every call to the outside world once the process is dead."""


class Moment(StrEnum):
    BEFORE = "before"
    HALFWAY = "halfway"
    """Of a bulk write, only the first half has arrived."""
    AFTER = "after"


class Gate:
    """Counts the calls by which the service changes the outside world, and lets the process die at one of them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.dies_at: tuple[int, Moment] | None = None
        self.is_dead = False

    def enter(self, name: str) -> int:
        self._raise_if_dead()
        self.names.append(name)
        number = len(self.names)
        self.dies_if((number, Moment.BEFORE))
        return number

    def leave(self, number: int) -> None:
        self._raise_if_dead()
        self.dies_if((number, Moment.AFTER))

    def is_halved(self, number: int) -> bool:
        return self.dies_at == (number, Moment.HALFWAY)

    def dies_if(self, here: tuple[int, Moment]) -> None:
        if self.dies_at == here:
            self.is_dead = True
        self._raise_if_dead()

    def revive(self) -> None:
        self.is_dead, self.dies_at = False, None

    def _raise_if_dead(self) -> None:
        if self.is_dead:
            raise Died


# --- the store ------------------------------------------------------------------------------------------------------


class StoreFaults:
    """How the database server behaves."""

    def __init__(self) -> None:
        self.is_away = False
        self.lost_answers: Counter[str] = Counter()
        """By `collection.method`: so many of the next such calls are carried out, and then the connection breaks."""
        self.refused: set[str] = set()
        """Collections that take no write."""
        self.writes: Counter[str] = Counter()
        """By collection: updates of one document each, so far; also those that matched none."""
        self.reads: Counter[str] = Counter()
        """By `collection.method`, so far."""
        self.documents_read: Counter[str] = Counter()
        """By collection: how many came back from `find` and were looked at."""
        self.breaks: dict[str, list[BaseException]] = {}
        """By `collection.method`: raised by the next calls, one after the other, before they are carried out."""
        self.breaks_after: dict[str, list[BaseException]] = {}
        """The same of writes, when they have been carried out."""

    def pass_or_break(self, name: str) -> None:
        if self.breaks.get(name):
            raise self.breaks[name].pop(0)


class _Collection:
    """A collection whose every call passes the gate and may meet a fault."""

    WRITES = frozenset({"insert_one", "insert_many", "update_one", "replace_one", "update_many", "bulk_write"})

    def __init__(self, inner: Any, gate: Gate, faults: StoreFaults) -> None:
        self._inner, self._gate, self._faults = inner, gate, faults

    def __getattr__(self, method: str) -> Any:
        call = self._bulk_write if method == "bulk_write" else getattr(self._inner, method)
        name = f"{self._inner.name}.{method}"
        if method == "create_index":
            return self._create_index
        if method not in self.WRITES:
            self._faults.reads[name] += 1

            def read(*args: Any, **kwargs: Any) -> Any:
                self._faults.pass_or_break(name)
                return self._counted(self._reachable(call)(*args, **kwargs))

            return read

        def write(*args: Any, **kwargs: Any) -> Any:
            number = self._gate.enter(name)
            if self._inner.name in self._faults.refused:
                raise AutoReconnect("not writable")
            self._faults.writes[self._inner.name] += _documents_in(method, args[0])
            if method == "bulk_write" and self._gate.is_halved(number):
                call(args[0][: len(args[0]) // 2], **kwargs)
                self._gate.is_dead = True
                raise Died
            self._faults.pass_or_break(name)
            answer = self._reachable(call)(*args, **kwargs)
            self._gate.leave(number)
            if self._faults.breaks_after.get(name):
                raise self._faults.breaks_after[name].pop(0)
            if self._faults.lost_answers[name]:
                self._faults.lost_answers[name] -= 1
                raise AutoReconnect("connection closed before the answer")
            return answer

        return write

    def _counted(self, answer: Any) -> Any:
        if not isinstance(answer, mongomock.collection.Cursor):
            return answer

        def documents() -> Iterator[Any]:
            for document in answer:
                self._faults.documents_read[self._inner.name] += 1
                yield document

        return documents()

    def _create_index(self, keys: Any, **options: Any) -> None:
        """Once: mongomock forgets the filter of a partial index when it looks whether an existing one still holds."""
        have = {tuple(index["key"]) for index in self._inner.index_information().values()}
        if tuple([(keys, 1)] if isinstance(keys, str) else keys) not in have:
            self._reachable(self._inner.create_index)(keys, **options)

    def _bulk_write(self, requests: Sequence[UpdateOne | UpdateMany], ordered: bool = True) -> BulkWriteResult:
        """Mongomock's own does not know the pymongo of today."""
        matched, errors = 0, []
        for index, request in enumerate(requests):
            try:
                update = self._inner.update_many if isinstance(request, UpdateMany) else self._inner.update_one
                result = update(request._filter, request._doc, upsert=bool(request._upsert))
                matched += result.matched_count
            except DuplicateKeyError as exc:
                errors.append({"index": index, "code": 11000, "errmsg": str(exc)})
                if ordered:
                    break
        if errors:
            raise BulkWriteError({"writeErrors": errors, "nMatched": matched, "nInserted": 0})
        return BulkWriteResult({"nMatched": matched}, acknowledged=True)

    def _reachable(self, call: Callable[..., T]) -> Callable[..., T]:
        if self._gate.is_dead:
            raise Died
        if self._faults.is_away:
            raise AutoReconnect("connection refused")
        return call


def _documents_in(method: str, written: Any) -> int:
    if method == "insert_many":
        return len(written)
    if method != "bulk_write":
        return 1
    ids = [request._filter.get("_id") for request in written]
    return sum(len(each["$in"]) if isinstance(each, dict) and "$in" in each else 1 for each in ids)


class _Database:
    def __init__(self, inner: Any, gate: Gate, faults: StoreFaults) -> None:
        self._inner, self._gate, self._faults = inner, gate, faults

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self._inner[name], self._gate, self._faults)

    def command(self, name: str) -> Mapping[str, Any]:
        return {"ok": 1.0}


class _Client:
    """As much of a MongoClient as the store uses, on a mongomock that survives."""

    def __init__(self, inner: Any, gate: Gate, faults: StoreFaults) -> None:
        self._inner, self._gate, self._faults = inner, gate, faults
        self.admin = _Database(inner["admin"], gate, faults)

    def __getitem__(self, name: str) -> _Database:
        return _Database(self._inner[name], self._gate, self._faults)

    def close(self) -> None:
        """The data stay."""


# --- Pub/Sub and people ---------------------------------------------------------------------------------------------


class _FakeInbox(Inbox):
    """Filled as if by a stream that is ended and opened at once."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__()
        self._subscription = subscription

    def refuse(self) -> None:
        super().refuse()
        self.discard()
        self._subscription.take_back()

    def accept(self) -> None:
        super().accept()
        self._subscription.deliver_again()


class Subscription:
    """Keeps a message until it is acknowledged, and delivers what is left again to the next life."""

    def __init__(self, name: str, gate: Gate) -> None:
        self._name, self._gate = name, gate
        self._messages: dict[str, tuple[bytes, datetime, Mapping[str, str]]] = {}
        self._count = itertools.count(1)
        self.handed_back: list[str] = []
        """Ids of messages that came back unacknowledged because no more were wanted."""
        self.queue: Inbox = _FakeInbox(self)

    @property
    def unacknowledged(self) -> list[str]:
        return list(self._messages)

    def publish(self, data: bytes, at: datetime, attributes: Mapping[str, str] | None = None) -> str:
        message_id = f"{self._name}-{next(self._count)}"
        self._messages[message_id] = (data, at, attributes or {})
        self._deliver(message_id)
        return message_id

    def deliver_elsewhere(self, other: Subscription) -> None:
        """What nobody has acknowledged goes to somebody else."""
        left, self._messages = self._messages, {}
        for data, at, attributes in left.values():
            other.publish(data, at, attributes)

    def redeliver(self) -> None:
        """A new life gets everything that nobody has acknowledged, and no queue of the old."""
        self.queue = _FakeInbox(self)
        for message_id in self._messages:
            self._deliver(message_id)

    def take_back(self) -> None:
        self.handed_back += self._messages

    def deliver_again(self) -> None:
        """To the same inbox."""
        for message_id in self._messages:
            self._deliver(message_id)

    def _deliver(self, message_id: str) -> None:
        if self.queue.is_refusing:
            return
        data, at, attributes = self._messages[message_id]

        def ack() -> None:
            number = self._gate.enter(f"{self._name}.ack")
            self._messages.pop(message_id, None)
            self._gate.leave(number)

        self.queue.put_nowait(
            Message(message_id=message_id, data=data, publish_time=at, attributes=attributes, ack=ack)
        )


class RecordingPublisher:
    """Keeps what was published; fails while `is_away`, and with an error of nobody's making where `breaks_on` finds its text; does not answer
    while `hold` is there and not set."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.is_away = False
        self.hold: asyncio.Event | None = None
        self.breaks_on: str | None = None
        self.tries = 0
        self.messages: list[tuple[dict[str, Any], Mapping[str, str], str]] = []

    async def publish(self, data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
        number = self._gate.enter("publish")
        await asyncio.sleep(0)
        self.tries += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.is_away:
            raise PublishFailed("no route to Pub/Sub")
        if self.breaks_on is not None and self.breaks_on in data.decode():
            raise RuntimeError("the publisher broke")
        self.messages.append((json.loads(data), dict(attributes), ordering_key))
        self._gate.leave(number)

    def of(self, signal_id: str) -> list[dict[str, Any]]:
        """The bodies about one signal, as they were published."""
        return [body for body, _, _ in self.messages if body["signal_id"] == signal_id]

    def statuses(self, signal_id: str) -> list[str]:
        return [body["status"] for body in self.of(signal_id)]


class RecordingNotifier:
    """Keeps what people were told, with the time; fails while `is_away`, does not answer while `hold` is there and not set."""

    def __init__(self, gate: Gate, clock: HandClock) -> None:
        self._gate, self._clock = gate, clock
        self.enabled = True
        self.is_away = False
        self.breaks: list[BaseException] = []
        """Raised by the next calls, one after the other; nothing is sent by them."""
        self.hold: asyncio.Event | None = None
        self.sent: list[tuple[datetime, str]] = []

    async def start(self) -> None:
        return None

    async def send(self, text: str) -> None:
        number = self._gate.enter("telegram")
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        if self.is_away:
            raise NotificationFailed("no route to Telegram")
        if self.breaks:
            raise self.breaks.pop(0)
        self.sent.append((self._clock.now(), text))
        self._gate.leave(number)

    async def close(self) -> None:
        return None

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.sent]

    def titled(self, title: str) -> list[str]:
        return [text for text in self.texts if title in text.partition("\n")[0]]


# --- brokers --------------------------------------------------------------------------------------------------------


class _InlineExecutor(ThreadPoolExecutor):
    """Makes each call on the spot, so that a run is the same each time."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001  whatever it was belongs to the caller, as with a thread
            done.set_exception(exc)
        return done


class BookInPlace(MockBroker):
    """The mock broker without its thread; with `is_unique` false its book takes a repeated client id, as venues do where it is only a tag."""

    def __init__(self, *, is_unique: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_unique = is_unique

    async def connect(self) -> None:
        if self._venue is None:
            self._venue = Venue(self._path, _InlineExecutor())
            self._venue.accounts = 1
        await super().connect()

    def _open(self, venue: Venue) -> PaperExchange:
        return PaperExchange(
            self._path,
            account_id=self._account_id,
            market=self._market,
            faults=self._faults,
            clock=self._clock,
            unique_client_order_ids=self._is_unique,
        )


class BrokerFaults:
    """How the connection to the brokers behaves."""

    def __init__(self) -> None:
        self.unavailable: BrokerUnavailable | None = None
        """Raised by every call while it is set."""
        self.errors: dict[str, list[BaseException]] = {}
        """By operation: raised by the next calls, one after the other, before the book hears of them."""
        self.unfitting: dict[str, list[Exception]] = {}
        """By symbol: raised by the next calls that fit a ticket to its market."""
        self.holds: dict[str, asyncio.Event] = {}
        """By operation: calls wait here before they reach the book."""
        self.holds_answer: dict[str, asyncio.Event] = {}
        """By operation: the book has done it, the answer waits here."""
        self.found: dict[str, Report] = {}
        """By client order id: what `find` tells of an order that the book does not have."""
        self.retold: Callable[[Sequence[Report]], Sequence[Report]] | None = None
        """What is told of the orders instead, by lists and by `find`, which tells the first."""
        self.unreadable: Sequence[Unreadable] = ()
        """What of the lists cannot be read."""
        self.held: Callable[[Sequence[BrokerPosition]], Sequence[BrokerPosition]] | None = None
        """What is told of the positions instead."""
        self.retells_changes = False
        """Whether that is made of what has changed only, as at brokers that push."""


class Reservations:
    """The broker's ids, given beforehand and taken in their sequence only, as IBKR does it; they outlive every life of the service."""

    def __init__(self) -> None:
        self._highest_given = 0
        self._highest_sent = 0

    def give(self, taken: Collection[str]) -> str:
        """As after a restart: what was given and never sent is given again, unless it is said to be taken."""
        numbers = [int(each.removeprefix("R-")) for each in taken]
        self._highest_given = max(self._highest_given, *numbers, 0) + 1
        return f"R-{self._highest_given}"

    def begin_life(self) -> None:
        """A new connection knows of ids what was sent."""
        self._highest_given = self._highest_sent

    def pass_over(self) -> None:
        """Another program sends under the next id."""
        self.send(self.give(()))

    def send(self, reserved: str) -> None:
        number = int(reserved.removeprefix("R-"))
        if number < self._highest_sent:
            raise ReservationLost(f"The id {reserved} was passed over by a later one; nothing was sent")
        self._highest_sent = number
        self._highest_given = max(self._highest_given, number)


class GatedBroker:
    """The Broker that the service speaks to: a mock broker behind the gate, with faults and other capabilities where wanted."""

    def __init__(
        self,
        inner: BookInPlace,
        gate: Gate,
        faults: BrokerFaults,
        calls: list[tuple[str, str]],
        capabilities: Capabilities | None,
        ids: Reservations,
    ) -> None:
        self.inner = inner
        self._gate = gate
        self._faults = faults
        self._calls = calls
        self._capabilities = capabilities
        self._ids = ids
        self.repetitions = 0
        """Of the requests to cancel: how many said that they were made before."""

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities or self.inner.capabilities

    async def connect(self) -> None:
        await self._pass("connect", "", self.inner.connect)
        self._ids.begin_life()

    async def fitted(self, ticket: Ticket) -> Ticket:
        wrong = self._faults.unfitting.get(ticket.instrument.symbol)
        if wrong:
            raise wrong.pop(0)
        return await self.inner.fitted(ticket)

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        async def next_id() -> str | None:
            return self._ids.give(taken) if self.capabilities.needs_reservation else None

        return await self._pass("reserve", ticket.client_order_id, next_id)

    async def place_order(self, ticket: Ticket) -> Report:
        async def place() -> Report:
            if ticket.reserved_order_id is not None:
                self._ids.send(ticket.reserved_order_id)
            return await self.inner.place_order(ticket)

        return await self._pass("place_order", ticket.client_order_id, place)

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        self.repetitions += again
        await self._pass("cancel_order", ref.client_order_id, lambda: self.inner.cancel_order(ref, again=again))

    async def reports(self, since: int | None = None) -> Reports:
        is_mark = self._faults.retold is None or self._faults.retells_changes
        answer = await self._pass("reports", "", lambda: self.inner.reports(since if is_mark else None))
        if self._faults.retold is None:
            return replace(answer, unreadable=self._faults.unreadable)
        mark = answer.mark if is_mark else None
        return Reports(self._faults.retold(answer.reports), mark, unreadable=self._faults.unreadable)

    async def find(self, client_order_id: str) -> Report | None:
        report = await self._pass("find", client_order_id, lambda: self.inner.find(client_order_id))
        report = report or self._faults.found.get(client_order_id)
        return report if report is None or self._faults.retold is None else self._faults.retold([report])[0]

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        async def look() -> dict[str, Report | None]:
            found = dict(await self.inner.find_all(client_order_ids))
            for tag in client_order_ids:
                for error in self._next_error("find"):
                    if not isinstance(error, AnswerUnclear):
                        raise error
                    del found[tag]
            for tag in found:
                found[tag] = found[tag] or self._faults.found.get(tag)
            return found

        found = await self._pass("find_all", "", look)
        if self._faults.retold is None:
            return found
        return {
            tag: None if report is None else next(iter(self._faults.retold([report])), None)
            for tag, report in found.items()
        }

    def _next_error(self, operation: str) -> list[Exception]:
        errors = self._faults.errors.get(operation)
        return [errors.pop(0)] if errors else []

    async def positions(self) -> Sequence[BrokerPosition]:
        told = await self._pass("positions", "", self.inner.positions)
        return told if self._faults.held is None else self._faults.held(told)

    async def balances(self) -> Sequence[Balance]:
        return await self.inner.balances()

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        self.inner.on_hint(callback)

    async def close(self) -> None:
        await self.inner.close()

    async def _pass(self, operation: str, about: str, call: Callable[[], Awaitable[T]]) -> T:
        number = self._gate.enter(f"broker.{operation}")
        self._calls.append((operation, about))
        hold = self._faults.holds.get(operation)
        if hold is not None:
            await hold.wait()
        if self._faults.unavailable is not None:
            raise self._faults.unavailable
        if self._faults.errors.get(operation):
            raise self._faults.errors[operation].pop(0)
        answer = await call()
        self._gate.leave(number)
        hold = self._faults.holds_answer.get(operation)
        if hold is not None:
            await hold.wait()
        return answer


# --- all of it ------------------------------------------------------------------------------------------------------


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
        unnamed_accounts: Sequence[str] = (),
        uses_ordering_keys: bool = False,
        lease_seconds: float | None = None,
        processes: Processes | None = None,
        beside: World | None = None,
        more_sinks: Sequence[Sink] = (),
        clock: Any = None,
        mongo: Any = None,
    ) -> None:
        """`beside`: another process's world, with which this one shares time, store and the broker's book; it has its own way to each, its
        own messages in, and what it told. With `lease_seconds` they share the accounts out. `clock` and `mongo`: others than the
        hand-moved clock and mongomock."""
        self.clock = clock or (HandClock() if beside is None else beside.clock)
        self.gate = Gate()
        self.store_faults = StoreFaults()
        self.broker_faults = BrokerFaults()
        self.mongo: Any = mongo or (mongomock.MongoClient(tz_aware=True) if beside is None else beside.mongo)
        self.orders = Subscription("orders", self.gate)
        self.commands = Subscription("commands", self.gate)
        self.publisher = RecordingPublisher(self.gate)
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
        self._is_unique = is_unique
        self._uses_ordering_keys = uses_ordering_keys
        self._lease_seconds = lease_seconds
        self.processes = processes
        self._more_sinks = more_sinks
        self._accounts = {
            a: Account(account_id=a, name=f"{a} by name", broker="mock", live=False, config={"account_id": a})
            for a in (*accounts, *unnamed_accounts)
        }
        self._named_accounts = tuple(accounts)
        self._lives = 0
        self._mark: object = id(self)
        """Tells its processes from those of other worlds."""
        self._service: ExecutionService | None = None
        self._inner: list[BookInPlace] = []
        self.brokers: dict[str, GatedBroker] = {}
        """By account id: whom the service's present life speaks to."""
        self.reservations = Reservations()
        self._books: dict[str, PaperExchange] = {}

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

    async def _begin(self) -> None:
        self.orders.redeliver()
        self.commands.redeliver()
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
                account_of=self._accounts.get,
                accounts=self._named_accounts,
                create_broker=self._create_broker,
                rules=self.rules,
                nonce=nonce,
                uses_ordering_keys=self._uses_ordering_keys,
                lease_seconds=self._lease_seconds,
                processes=self.processes,
                more_sinks=self._more_sinks,
            )
        )
        await self._service.start()

    def _make_store(self, nonce: str) -> MongoStore:
        client: Any = _Client(self.mongo, self.gate, self.store_faults)
        return MongoStore(client, DATABASE, nonce=nonce, clock=self.clock, threads=InPlace())

    async def kill(self) -> None:
        """The process is gone, whatever it was doing; what the outside world has, it has."""
        self.gate.is_dead = True
        for _ in range(20):
            tasks = [t for t in asyncio.all_tasks() if _OWNERS.get(t) is self]
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
        client: Any = _Client(self.mongo, Gate(), StoreFaults())
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

    def _create_broker(self, config: Mapping[str, object]) -> GatedBroker:
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
            inner, self.gate, self.broker_faults, self.broker_calls, self._capabilities, self.reservations
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

    def ref(self, signal_id: str, purpose: Purpose = Purpose.ENTRY) -> OrderRef:
        return OrderRef(client_order_id=self.client_id(signal_id, purpose))

    @staticmethod
    def client_id(signal_id: str, purpose: Purpose = Purpose.ENTRY, leg_index: int = 0, attempt: int = 1) -> str:
        return Identity(signal_id=signal_id, leg_index=leg_index, purpose=purpose).client_order_id(attempt)

    # --- what the outside sees ----------------------------------------------------------------------------------

    def documents(self, collection: str, **query: Any) -> list[dict[str, Any]]:
        return list(self.mongo[DATABASE][collection].find(query))

    def records(self) -> list[Order]:
        return [order_from_document(d) for d in self.documents("execution_orders")]

    def record(self, signal_id: str = "sig", purpose: Purpose = Purpose.ENTRY, leg_index: int = 0) -> Order:
        order_id = Identity(signal_id=signal_id, leg_index=leg_index, purpose=purpose).order_id
        (document,) = self.documents("execution_orders", _id=order_id)
        return order_from_document(document)

    def exit_record(self, signal_id: str) -> Order:
        return self.record(signal_id, Purpose.EXIT)

    def unsettled(self) -> list[str]:
        return [d["signal_id"] for d in self.documents("execution_orders", lookup="unsettled")]

    @property
    def account_ids(self) -> tuple[str, ...]:
        """Of all accounts that are configured."""
        return tuple(self._accounts)

    def account_name(self, account_id: str | None) -> str | None:
        account = None if account_id is None else self._accounts.get(account_id)
        return None if account is None else account.name

    def calls(self, operation: str) -> list[str]:
        return [about for name, about in self.broker_calls if name == operation]


_WORLD: ContextVar[World | None] = ContextVar("world", default=None)
_OWNERS: WeakKeyDictionary[asyncio.Task[Any], World] = WeakKeyDictionary()


def _note_whose_task(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """Whatever a service or its tasks start is that world's, and dies with it."""
    task = asyncio.Task(work, loop=loop, **kwargs)
    world = _WORLD.get()
    if world is not None:
        _OWNERS[task] = world
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
