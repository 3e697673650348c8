"""Topics and subscriptions of the local Pub/Sub server: who is owed what, who waits for it, what is written when.

It joins the memory of each subscription to the ledger file on one event loop. gRPC is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from simulators.pubsub import ledger as ledger_work
from simulators.pubsub import rules
from simulators.pubsub.backlog import Backlog, Owed, Receiver
from simulators.pubsub.ledger import Contents, Ledger, OwedRow, StoredOwed

log = logging.getLogger(__name__)

T = TypeVar("T")

_LARGEST_BATCH_MESSAGES = 100
_LARGEST_BATCH_BYTES = 3_000_000
_JANITOR_SECONDS = 60.0
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message on its way out; `body` is a serialized PubsubMessage, `attempt` 0 without a dead-letter policy."""

    owed: Owed
    ack_id: str
    body: bytes
    attempt: int


class StreamClosedError(Exception):
    """A waiting receiver is sent away because its subscription is gone or the server stops."""

    def __init__(self, reason: rules.RefusedError | None) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Topic:
    def __init__(self, resource: Any) -> None:
        self.resource = resource
        self.subscriptions: dict[int, _Subscription] = {}


class _Subscription:
    """A subscription's resource, its backlog and those who wait for its messages."""

    def __init__(self, identifier: int, resource: Any, discard_before_us: int) -> None:
        self.id = identifier
        self.resource = resource
        self.discard_before_us = discard_before_us
        self.backlog = Backlog(rules.terms_of(resource))
        self.receivers: set[Receiver] = set()
        self.idle: dict[Receiver, asyncio.Future[None]] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.closed = False

    @property
    def keeps_acknowledged(self) -> bool:
        return bool(self.resource.retain_acked_messages)

    def wake(self) -> None:
        """Wake as many waiting receivers, longest waiting first, as there may be messages for."""
        if not self.idle:
            return
        first = self.backlog.peek()
        if first is None:
            return
        chances = self.backlog.ready_estimate
        for receiver in list(self.idle):
            if chances <= 0:
                break
            if receiver.fits(first.size):
                self.stir(receiver)
                chances -= 1

    def stir(self, receiver: Receiver) -> None:
        """Let one waiting receiver look again."""
        waiter = self.idle.pop(receiver, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def close(self) -> None:
        """Send every receiver away."""
        self.closed = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for receiver in list(self.idle):
            self.stir(receiver)


class Hub:
    """Everything the two gRPC services ask for. One event loop; not thread-safe.

    `now_us` is the wall clock in microseconds since 1970 UTC, for publish times and retention only. At most
    `payload_cache_bytes` of unacknowledged payloads stay in memory, the rest is read from the file when it is sent.
    Methods raise `RefusedError` for requests that are answered with an error, `LedgerWriteError` when the file
    cannot be written.
    """

    def __init__(self, ledger: Ledger, *, now_us: Callable[[], int], payload_cache_bytes: int) -> None:
        self._ledger = ledger
        self._now_us = now_us
        self._cache_room = payload_cache_bytes
        self._topics: dict[str, _Topic] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._by_id: dict[int, _Subscription] = {}
        self._administration = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        # Acknowledgement ids of an earlier run must mean nothing to this one: its leases are gone.
        self._run = secrets.token_hex(4)
        self._last_message_id = 0
        self._stopping = False
        self._janitor: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def load(self, contents: Contents) -> None:
        """Start from what the file holds: everything unacknowledged is ready to be delivered."""
        for serialized in contents.topics:
            resource = rules.Topic.FromString(serialized)
            self._topics[resource.name] = _Topic(resource)
        for stored in contents.subscriptions:
            self._enter(
                _Subscription(stored.id, rules.Subscription.FromString(stored.resource), stored.discard_before_us)
            )
        for owed in contents.owed:
            self._by_id[owed.subscription_id].backlog.add(_reloaded(owed))
        # Starting at the clock keeps ids of messages that nobody was owed from being given out twice.
        self._last_message_id = max(contents.last_message_id, self._now_us())
        self.drop_expired()

    async def stop(self) -> None:
        """Send all receivers away and end the background work."""
        self._stopping = True
        if self._janitor is not None:
            self._janitor.cancel()
        for subscription in self._subscriptions.values():
            subscription.close()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def create_topic(self, given: Any) -> Any:
        """Create a topic and return it as kept."""
        return await self._administer(self._create_topic(given))

    async def _create_topic(self, given: Any) -> Any:
        topic = rules.settled_topic(given)
        if topic.name in self._topics:
            raise rules.already_exists(topic.name)
        await self._execute("INSERT INTO topics(name, resource) VALUES(?, ?)", topic.name, topic.SerializeToString())
        self._topics[topic.name] = _Topic(topic)
        return topic

    async def update_topic(self, given: Any, paths: list[str]) -> Any:
        """Change the named fields of a topic."""
        return await self._administer(self._update_topic(given, paths))

    async def _update_topic(self, given: Any, paths: list[str]) -> Any:
        topic = self._topic(given.name)
        resource = rules.updated_topic(topic.resource, given, paths)
        await self._execute("UPDATE topics SET resource = ? WHERE name = ?", resource.SerializeToString(), given.name)
        topic.resource = resource
        return resource

    async def delete_topic(self, name: str) -> None:
        """Delete a topic; its subscriptions stay, with what they are owed."""
        await self._administer(self._delete_topic(name))

    async def _delete_topic(self, name: str) -> None:
        topic = self._topic(name)
        orphans: dict[int, Any] = {}
        for subscription in topic.subscriptions.values():
            orphans[subscription.id] = rules.Subscription()
            orphans[subscription.id].CopyFrom(subscription.resource)
            orphans[subscription.id].topic = rules.DELETED_TOPIC

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM topics WHERE name = ?", (name,))
            for identifier, resource in orphans.items():
                connection.execute(
                    "UPDATE subscriptions SET resource = ? WHERE id = ?", (resource.SerializeToString(), identifier)
                )

        await self._ledger.run(work)
        del self._topics[name]
        for identifier, resource in orphans.items():
            self._by_id[identifier].resource = resource

    def topic(self, name: str) -> Any:
        """The Topic of that name."""
        return self._topic(name).resource

    def topics(self, project: str) -> list[Any]:
        """The topics of a project (projects/NAME), by name."""
        rules.check_project(project)
        return _of_project(project, (topic.resource for topic in self._topics.values()))

    def subscriptions_of(self, topic_name: str) -> list[str]:
        """The names of a topic's subscriptions, sorted."""
        return sorted(each.resource.name for each in self._topic(topic_name).subscriptions.values())

    async def create_subscription(self, given: Any) -> Any:
        """Create a subscription, owed everything published from now on, and return it as kept."""
        return await self._administer(self._create_subscription(given))

    async def _create_subscription(self, given: Any) -> Any:
        resource = rules.settled_subscription(given)
        if resource.name in self._subscriptions:
            raise rules.already_exists(resource.name)
        self._topic(resource.topic)
        self._check_dead_letter_topic(resource)
        identifier = await self._ledger.run(
            lambda connection: ledger_work.create_subscription(connection, resource.name, resource.SerializeToString())
        )
        self._enter(_Subscription(identifier, resource, 0))
        return resource

    async def update_subscription(self, given: Any, paths: list[str]) -> Any:
        """Change the named fields of a subscription."""
        return await self._administer(self._update_subscription(given, paths))

    async def _update_subscription(self, given: Any, paths: list[str]) -> Any:
        subscription = self._subscription(given.name)
        kept = subscription.keeps_acknowledged
        resource = rules.updated_subscription(subscription.resource, given, paths)
        self._check_dead_letter_topic(resource)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE subscriptions SET resource = ? WHERE id = ?", (resource.SerializeToString(), subscription.id)
            )
            if kept and not resource.retain_acked_messages:
                ledger_work.delete_acknowledged(connection, subscription.id)

        await self._ledger.run(work)
        subscription.resource = resource
        subscription.backlog.terms = rules.terms_of(resource)
        return resource

    async def delete_subscription(self, name: str) -> None:
        """Delete a subscription with all it is owed; its streams end with NOT_FOUND."""
        await self._administer(self._delete_subscription(name))

    async def _delete_subscription(self, name: str) -> None:
        subscription = self._subscription(name)
        await self._ledger.run(lambda connection: ledger_work.delete_subscription(connection, subscription.id))
        del self._subscriptions[name], self._by_id[subscription.id]
        topic = self._topics.get(subscription.resource.topic)
        if topic is not None:
            del topic.subscriptions[subscription.id]
        for owed in subscription.backlog.published_before(1 << 62):
            self._uncache(owed)
        subscription.backlog.clear()
        subscription.close()

    def subscription(self, name: str) -> Any:
        """The Subscription of that name."""
        return self._subscription(name).resource

    def subscriptions(self, project: str) -> list[Any]:
        """The subscriptions of a project (projects/NAME), by name."""
        rules.check_project(project)
        return _of_project(project, (each.resource for each in self._subscriptions.values()))

    async def seek(self, name: str, moment_us: int) -> None:
        """Acknowledge everything published before a moment, and bring back what was kept from it on."""
        await self._administer(self._seek(name, moment_us))

    async def _seek(self, name: str, moment_us: int) -> None:
        subscription = self._subscription(name)
        previous, subscription.discard_before_us = subscription.discard_before_us, moment_us
        keep = subscription.keeps_acknowledged
        try:
            replayed = await self._ledger.run(
                lambda connection: ledger_work.seek(connection, subscription.id, moment_us, keep=keep)
            )
        except ledger_work.LedgerWriteError:
            subscription.discard_before_us = previous
            raise
        self._drop(subscription, subscription.backlog.published_before(moment_us))
        subscription.backlog.rebuild(_reloaded(stored) for stored in replayed)
        self._attend(subscription)

    async def publish(self, topic_name: str, messages: Sequence[Any]) -> list[str]:
        """Commit PubsubMessages (already checked), then offer them to the topic's subscriptions; returns their ids."""
        topic = self._topic(topic_name)
        rows, receipts, ids = self._enrol(topic, messages)
        if rows:
            await self._ledger.insert(rows, on_commit=lambda: self._offer(receipts))
        return ids

    def _enrol(
        self, topic: _Topic, messages: Sequence[Any]
    ) -> tuple[list[OwedRow], list[tuple[_Subscription, list[Owed]]], list[str]]:
        """Number and date the messages, and write out what each subscription will be owed."""
        published_us = self._now_us()
        seconds, microseconds = divmod(published_us, _MICROSECONDS)
        receipts: list[tuple[_Subscription, list[Owed]]] = [
            (each, []) for each in topic.subscriptions.values() if published_us >= each.discard_before_us
        ]
        rows: list[OwedRow] = []
        ids: list[str] = []
        for message in messages:
            self._last_message_id += 1
            message_id = self._last_message_id
            message.message_id = str(message_id)
            message.publish_time.seconds = seconds
            message.publish_time.nanos = microseconds * 1000
            ids.append(message.message_id)
            if not receipts:
                continue
            body = message.SerializeToString()
            key = message.ordering_key
            size = len(body)
            for subscription, owed in receipts:
                rows.append((subscription.id, message_id, published_us, key, size, body))
                owed.append(Owed(message_id, published_us, size, key, body))
        return rows, receipts, ids

    def _offer(self, receipts: list[tuple[_Subscription, list[Owed]]]) -> None:
        for subscription, messages in receipts:
            if subscription.closed:
                continue
            for owed in messages:
                if owed.size <= self._cache_room:
                    self._cache_room -= owed.size
                else:
                    owed.body = None
                subscription.backlog.add(owed)
            subscription.wake()

    def receiver(self, name: str, *, max_messages: int = 0, max_bytes: int = 0) -> Receiver:
        """Enrol a stream or pull of a subscription; `dismiss` it at its end."""
        subscription = self._subscription(name)
        receiver = Receiver(max_messages=max_messages, max_bytes=max_bytes, on_room=subscription.stir)
        subscription.receivers.add(receiver)
        return receiver

    def dismiss(self, name: str, receiver: Receiver) -> None:
        """End a receiver. What it holds stays leased until its deadline, as the client may still work on it."""
        subscription = self._subscriptions.get(name)
        if subscription is not None:
            subscription.receivers.discard(receiver)
            subscription.stir(receiver)

    async def next_batch(
        self,
        name: str,
        receiver: Receiver,
        *,
        deadline_seconds: float | None,
        max_messages: int = _LARGEST_BATCH_MESSAGES,
    ) -> list[Delivery]:
        """Wait until the receiver may have something, and lease it to it.

        Raises StreamClosedError when there will be nothing any more: the subscription is gone (`reason` says so),
        the receiver was dismissed, or the server stops (`reason` None).
        """
        subscription = self._subscription(name)
        while True:
            if self._stopping:
                raise StreamClosedError(None)
            if subscription.closed:
                raise StreamClosedError(rules.not_found(name))
            if receiver not in subscription.receivers:
                raise StreamClosedError(None)
            batch = await self._take(subscription, receiver, deadline_seconds, max_messages)
            if batch:
                return batch
            first = subscription.backlog.peek()
            if first is None or not receiver.fits(first.size):
                await self._wait(subscription, receiver)

    async def take_now(self, name: str, receiver: Receiver, *, max_messages: int) -> list[Delivery]:
        """Lease what is ready at this moment, perhaps nothing."""
        return await self._take(self._subscription(name), receiver, None, max_messages)

    async def _wait(self, subscription: _Subscription, receiver: Receiver) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        subscription.idle[receiver] = waiter
        try:
            await waiter
        except asyncio.CancelledError:
            subscription.idle.pop(receiver, None)
            # It may have been woken for a message that it now leaves to the others.
            subscription.wake()
            raise

    async def _take(
        self, subscription: _Subscription, receiver: Receiver, deadline_seconds: float | None, max_messages: int
    ) -> list[Delivery]:
        backlog = subscription.backlog
        if deadline_seconds is None:
            deadline_seconds = backlog.terms.ack_deadline_seconds
        share = -(-backlog.ready_estimate // max(1, len(subscription.receivers)))
        taken = backlog.take(
            receiver,
            now=self._loop.time(),
            deadline_seconds=deadline_seconds,
            max_messages=max(1, min(max_messages, _LARGEST_BATCH_MESSAGES, share)),
            max_bytes=_LARGEST_BATCH_BYTES,
        )
        if not taken:
            return []
        self._set_timer(subscription)
        has_attempts = backlog.terms.max_attempts is not None
        tickets = [(owed, owed.generation, owed.body) for owed in taken]
        on_disk = [owed.message_id for owed in taken if owed.body is None]
        read: dict[int, bytes] = {}
        if on_disk:
            try:
                read = await self._ledger.payloads(subscription.id, on_disk)
            except BaseException:
                self.put_back(subscription.resource.name, taken)
                raise
        deliveries: list[Delivery] = []
        for owed, generation, body in tickets:
            payload = body if body is not None else read.get(owed.message_id)
            # A message without payload was acknowledged or purged while it was read.
            if payload is not None:
                ack_id = f"{self._run}-{subscription.id}-{owed.message_id}-{generation}"
                deliveries.append(
                    Delivery(owed=owed, ack_id=ack_id, body=payload, attempt=owed.failures + 1 if has_attempts else 0)
                )
        return deliveries

    def put_back(self, name: str, messages: Iterable[Owed]) -> None:
        """Make messages ready again that were leased but never left the server."""
        subscription = self._subscriptions.get(name)
        if subscription is None:
            return
        now = self._loop.time()
        for owed in messages:
            subscription.backlog.put_back(owed, now=now)
        self._attend(subscription)

    def acknowledge(self, name: str, ack_ids: Sequence[str]) -> None:
        """Settle deliveries; ids whose lease was taken over or lost are passed over, as Google does."""
        subscription = self._subscription(name)
        done: list[int] = []
        for message_id, generation in self._parse(subscription, ack_ids):
            for owed in subscription.backlog.acknowledge(message_id, generation):
                self._uncache(owed)
                done.append(owed.message_id)
        self._ledger.forget(subscription.id, done, keep=subscription.keeps_acknowledged)
        if subscription.backlog.terms.ordered:
            self._attend(subscription)

    def modify_deadlines(self, name: str, changes: Sequence[tuple[str, int]]) -> None:
        """Set the leases of (ack id, seconds) pairs; 0 is a nack and makes the message available at once."""
        subscription = self._subscription(name)
        for seconds in {seconds for _, seconds in changes}:
            rules.check_modified_deadline(seconds)
        parsed = self._parse_all(subscription, [ack_id for ack_id, _ in changes])
        now = self._loop.time()
        nacked = shortened = False
        for ticket, (_, seconds) in zip(parsed, changes, strict=True):
            if ticket is None:
                continue
            if seconds == 0:
                subscription.backlog.refuse(*ticket, now=now)
                nacked = True
            else:
                subscription.backlog.extend(*ticket, now=now, seconds=seconds)
                shortened = True
        if nacked:
            self._attend(subscription)
        elif shortened:
            self._set_timer(subscription)

    def drop_expired(self) -> None:
        """Let go of messages past their subscription's retention, and look again in a minute."""
        for subscription in self._subscriptions.values():
            retention = subscription.resource.message_retention_duration
            limit = self._now_us() - retention.seconds * _MICROSECONDS
            expired = subscription.backlog.published_before(limit)
            self._drop(subscription, expired)
            if expired or subscription.keeps_acknowledged:
                self._background(self._delete_older(subscription.id, limit))
        self._janitor = self._loop.call_later(_JANITOR_SECONDS, self.drop_expired)

    async def _delete_older(self, subscription_id: int, limit_us: int) -> None:
        await self._ledger.run(lambda connection: ledger_work.delete_older(connection, subscription_id, limit_us))

    def _parse(self, subscription: _Subscription, ack_ids: Sequence[str]) -> list[tuple[int, int]]:
        return [ticket for ticket in self._parse_all(subscription, ack_ids) if ticket is not None]

    def _parse_all(self, subscription: _Subscription, ack_ids: Sequence[str]) -> list[tuple[int, int] | None]:
        """(message id, generation) of each id, None for one of another run or subscription."""
        tickets: list[tuple[int, int] | None] = []
        ours, number = self._run, str(subscription.id)
        for ack_id in ack_ids:
            try:
                run, owner, message_id, generation = ack_id.split("-")
                ticket = int(message_id), int(generation)
            except ValueError:
                raise rules.invalid(f"You have passed an invalid ack ID to the service (ack_id={ack_id}).") from None
            tickets.append(ticket if run == ours and owner == number else None)
        return tickets

    def _attend(self, subscription: _Subscription) -> None:
        """After a failure, an expiry or a reorder: forward what is exhausted, wake receivers, set the timer."""
        subscription.backlog.expire(self._loop.time())
        for owed in subscription.backlog.drain_failed():
            self._ledger.note_failures(subscription.id, owed.message_id, owed.failures)
        exhausted = subscription.backlog.drain_exhausted()
        if exhausted:
            self._background(self._forward(subscription, exhausted))
        subscription.wake()
        self._set_timer(subscription)

    def _set_timer(self, subscription: _Subscription) -> None:
        due = subscription.backlog.next_event()
        timer = subscription.timer
        if subscription.closed or due is None or (timer is not None and timer.when() <= due):
            return
        if timer is not None:
            timer.cancel()
        subscription.timer = self._loop.call_at(due, self._on_timer, subscription)

    def _on_timer(self, subscription: _Subscription) -> None:
        subscription.timer = None
        self._attend(subscription)

    async def _forward(self, subscription: _Subscription, exhausted: list[Owed]) -> None:
        """Move messages to the dead-letter topic in one commit; without such a topic they go on being delivered."""
        policy = subscription.resource.dead_letter_policy
        topic = self._topics.get(policy.dead_letter_topic)
        if topic is None:
            log.warning("Dead-letter topic %s does not exist; delivering on.", policy.dead_letter_topic)
            self._give_up_forwarding(subscription, exhausted)
            return
        try:
            bodies = await self._ledger.payloads(subscription.id, [owed.message_id for owed in exhausted])
            moved = [owed for owed in exhausted if owed.message_id in bodies]
            messages = [_dead_letter(subscription.resource, owed, bodies[owed.message_id]) for owed in moved]
            rows, receipts, _ = self._enrol(topic, messages)
            keep = subscription.keeps_acknowledged

            def work(connection: sqlite3.Connection) -> None:
                ledger_work.insert_owed(connection, rows)
                ledger_work.acknowledge(connection, subscription.id, [owed.message_id for owed in exhausted], keep=keep)

            await self._ledger.run(work, on_commit=lambda: self._offer(receipts))
        except ledger_work.LedgerWriteError:
            self._give_up_forwarding(subscription, exhausted)
            raise
        self._drop(subscription, exhausted)
        self._attend(subscription)

    def _give_up_forwarding(self, subscription: _Subscription, exhausted: list[Owed]) -> None:
        now = self._loop.time()
        for owed in exhausted:
            subscription.backlog.retry_exhausted(owed, now=now)
        subscription.wake()
        self._set_timer(subscription)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Background work of the local Pub/Sub server failed.", exc_info=error)

    def _drop(self, subscription: _Subscription, messages: Iterable[Owed]) -> None:
        """Settle messages whatever their standing."""
        done = [done for owed in messages for done in subscription.backlog.discard(owed)]
        for owed in done:
            self._uncache(owed)
        self._ledger.forget(subscription.id, [owed.message_id for owed in done], keep=subscription.keeps_acknowledged)

    def _uncache(self, owed: Owed) -> None:
        if owed.body is not None:
            owed.body = None
            self._cache_room += owed.size

    async def _administer(self, work: Coroutine[Any, Any, T]) -> T:
        """One change at a time, carried through even when its caller hangs up half-way."""

        async def carry_through() -> T:
            async with self._administration:
                return await work

        task = self._loop.create_task(carry_through())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _execute(self, statement: str, *values: str | bytes) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        await self._ledger.run(work)

    def _enter(self, subscription: _Subscription) -> None:
        self._subscriptions[subscription.resource.name] = subscription
        self._by_id[subscription.id] = subscription
        topic = self._topics.get(subscription.resource.topic)
        if topic is not None:
            topic.subscriptions[subscription.id] = subscription

    def _check_dead_letter_topic(self, resource: Any) -> None:
        if resource.HasField("dead_letter_policy"):
            self._topic(resource.dead_letter_policy.dead_letter_topic)

    def _topic(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            rules.check_name(name, "topics")
            raise rules.not_found(name)
        return topic

    def _subscription(self, name: str) -> _Subscription:
        subscription = self._subscriptions.get(name)
        if subscription is None:
            rules.check_name(name, "subscriptions")
            raise rules.not_found(name)
        return subscription


def _of_project(project: str, resources: Iterable[Any]) -> list[Any]:
    prefix = f"{project}/"
    return sorted((each for each in resources if each.name.startswith(prefix)), key=lambda each: str(each.name))


def _reloaded(stored: StoredOwed) -> Owed:
    return Owed(
        message_id=stored.message_id,
        published_us=stored.published_us,
        size=stored.size,
        ordering_key=stored.ordering_key,
        failures=stored.failures,
    )


def _dead_letter(source: Any, owed: Owed, body: bytes) -> Any:
    """The message to forward: the original and the attributes by which Google tells where it came from."""
    message = rules.PubsubMessage.FromString(body)
    project, identifier = rules.short_name(source.name)
    published = datetime.fromtimestamp(owed.published_us / _MICROSECONDS, tz=UTC)
    message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(owed.failures)
    message.attributes["CloudPubSubDeadLetterSourceSubscription"] = identifier
    message.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
    message.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = published.isoformat(timespec="milliseconds")
    return message
