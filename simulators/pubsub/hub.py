"""Topics and subscriptions of the local Pub/Sub server: who is owed what, who waits for it, what is written when.

It joins the memory of each subscription to the ledger file on one event loop. gRPC is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from simulators.pubsub import ledger as ledger_work
from simulators.pubsub import rules
from simulators.pubsub.backlog import Backlog, Owed, Receiver
from simulators.pubsub.ledger import Contents, Ledger, OwedRow

log = logging.getLogger(__name__)

T = TypeVar("T")

_LARGEST_BATCH_MESSAGES = 100
_LARGEST_BATCH_BYTES = 3_000_000
_JANITOR_SECONDS = 60.0
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message on its way out; `body` is a serialized PubsubMessage."""

    owed: Owed
    ack_id: str
    body: bytes


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

    def __init__(self, identifier: int, resource: Any) -> None:
        self.id = identifier
        self.resource = resource
        self.backlog = Backlog()
        self.receivers: set[Receiver] = set()
        self.idle: dict[Receiver, asyncio.Future[None]] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.closed = False

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


def _administration(method: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    """One change at a time, carried through even when its caller hangs up half-way."""

    @wraps(method)
    async def administer(hub: Hub, *arguments: Any) -> T:
        async def carry_through() -> T:
            async with hub.administration:
                return await method(hub, *arguments)

        task = asyncio.create_task(carry_through())
        hub.tasks.add(task)
        task.add_done_callback(hub.tasks.discard)
        return await asyncio.shield(task)

    return administer


class Hub:
    """Everything the two gRPC services ask for. One event loop; not thread-safe.

    `now_us` is the wall clock in microseconds since 1970 UTC, for publish times and retention only. Methods raise
    `RefusedError` for requests that are answered with an error, `LedgerWriteError` when the file cannot be written.
    """

    def __init__(self, ledger: Ledger, *, now_us: Callable[[], int]) -> None:
        self._ledger = ledger
        self._now_us = now_us
        self._topics: dict[str, _Topic] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._by_id: dict[int, _Subscription] = {}
        self.administration = asyncio.Lock()
        self.tasks: set[asyncio.Task[Any]] = set()
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
            resource = rules.Subscription.FromString(stored.resource)
            if missing := rules.unsupported_fields(resource):
                log.warning("%s is served without its %s, which this server does not have.", resource.name, missing)
            self._enter(_Subscription(stored.id, resource))
        for owed in contents.owed:
            self._by_id[owed.subscription_id].backlog.add(Owed(owed.message_id, owed.published_us, owed.body))
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
        if self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)

    @_administration
    async def create_topic(self, given: Any) -> Any:
        """Create a topic and return it as kept."""
        topic = rules.settled_topic(given)
        if topic.name in self._topics:
            raise rules.already_exists(topic.name)
        row = (topic.name, topic.SerializeToString())
        await self._ledger.run(lambda connection: connection.execute("INSERT INTO topics VALUES(?, ?)", row))
        self._topics[topic.name] = _Topic(topic)
        return topic

    def topic(self, name: str) -> Any:
        """The Topic of that name."""
        return self._topic(name).resource

    @_administration
    async def create_subscription(self, given: Any) -> Any:
        """Create a subscription, owed everything published from now on, and return it as kept."""
        resource = rules.settled_subscription(given)
        if resource.name in self._subscriptions:
            raise rules.already_exists(resource.name)
        self._topic(resource.topic)
        identifier = await self._ledger.run(
            lambda connection: ledger_work.create_subscription(connection, resource.name, resource.SerializeToString())
        )
        self._enter(_Subscription(identifier, resource))
        return resource

    @_administration
    async def delete_subscription(self, name: str) -> None:
        """Delete a subscription with all it is owed; its streams end with NOT_FOUND."""
        subscription = self._subscription(name)
        await self._ledger.run(lambda connection: ledger_work.delete_subscription(connection, subscription.id))
        del self._subscriptions[name], self._by_id[subscription.id]
        topic = self._topics.get(subscription.resource.topic)
        if topic is not None:
            del topic.subscriptions[subscription.id]
        subscription.close()

    def subscription(self, name: str) -> Any:
        """The Subscription of that name."""
        return self._subscription(name).resource

    def subscriptions(self, project: str) -> list[Any]:
        """The subscriptions of a project (projects/NAME), by name."""
        rules.check_project(project)
        prefix = f"{project}/"
        return [each.resource for name, each in sorted(self._subscriptions.items()) if name.startswith(prefix)]

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
        receipts: list[tuple[_Subscription, list[Owed]]] = [(each, []) for each in topic.subscriptions.values()]
        rows: list[OwedRow] = []
        ids: list[str] = []
        for message in messages:
            self._last_message_id += 1
            message_id = self._last_message_id
            message.message_id = str(message_id)
            message.publish_time.seconds = seconds
            message.publish_time.nanos = microseconds * 1000
            ids.append(message.message_id)
            body = message.SerializeToString() if receipts else b""
            for subscription, owed in receipts:
                rows.append((subscription.id, message_id, published_us, message.ordering_key, len(body), body))
                owed.append(Owed(message_id, published_us, body))
        return rows, receipts, ids

    def _offer(self, receipts: list[tuple[_Subscription, list[Owed]]]) -> None:
        for subscription, messages in receipts:
            if not subscription.closed:
                for owed in messages:
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
            batch = self._take(subscription, receiver, deadline_seconds, max_messages)
            if batch:
                return batch
            first = subscription.backlog.peek()
            if first is None or not receiver.fits(first.size):
                await self._wait(subscription, receiver)

    def take_now(self, name: str, receiver: Receiver, *, max_messages: int) -> list[Delivery]:
        """Lease what is ready at this moment, perhaps nothing."""
        return self._take(self._subscription(name), receiver, None, max_messages)

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

    def _take(
        self, subscription: _Subscription, receiver: Receiver, deadline_seconds: float | None, max_messages: int
    ) -> list[Delivery]:
        if deadline_seconds is None:
            deadline_seconds = subscription.resource.ack_deadline_seconds
        share = -(-subscription.backlog.ready_estimate // max(1, len(subscription.receivers)))
        taken = subscription.backlog.take(
            receiver,
            now=self._loop.time(),
            deadline_seconds=deadline_seconds,
            max_messages=max(1, min(max_messages, _LARGEST_BATCH_MESSAGES, share)),
            max_bytes=_LARGEST_BATCH_BYTES,
        )
        if taken:
            self._set_timer(subscription)
        prefix = f"{self._run}-{subscription.id}"
        return [
            Delivery(owed=owed, ack_id=f"{prefix}-{owed.message_id}-{owed.generation}", body=owed.body)
            for owed in taken
        ]

    def put_back(self, name: str, messages: Iterable[Owed]) -> None:
        """Make messages ready again that were leased but never left the server."""
        subscription = self._subscriptions.get(name)
        if subscription is None:
            return
        for owed in messages:
            subscription.backlog.put_back(owed)
        self._attend(subscription)

    def acknowledge(self, name: str, ack_ids: Sequence[str]) -> None:
        """Settle deliveries; ids whose lease was taken over or lost are passed over, as Google does."""
        subscription = self._subscription(name)
        tickets = [ticket for ticket in self._parse(subscription, ack_ids) if ticket is not None]
        self._ledger.forget(
            subscription.id, [ticket[0] for ticket in tickets if subscription.backlog.acknowledge(*ticket)]
        )

    def modify_deadlines(self, name: str, changes: Sequence[tuple[str, int]]) -> None:
        """Set the leases of (ack id, seconds) pairs; 0 is a nack and makes the message available at once."""
        subscription = self._subscription(name)
        for seconds in {seconds for _, seconds in changes}:
            rules.check_modified_deadline(seconds)
        parsed = self._parse(subscription, [ack_id for ack_id, _ in changes])
        now = self._loop.time()
        nacked = shortened = False
        for ticket, (_, seconds) in zip(parsed, changes, strict=True):
            if ticket is None:
                continue
            if seconds == 0:
                subscription.backlog.refuse(*ticket)
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
            for owed in expired:
                subscription.backlog.discard(owed)
            self._ledger.forget(subscription.id, [owed.message_id for owed in expired])
        self._janitor = self._loop.call_later(_JANITOR_SECONDS, self.drop_expired)

    def _parse(self, subscription: _Subscription, ack_ids: Sequence[str]) -> list[tuple[int, int] | None]:
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
        """After a nack or an expiry: wake receivers, set the timer."""
        subscription.backlog.expire(self._loop.time())
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

    def _enter(self, subscription: _Subscription) -> None:
        self._subscriptions[subscription.resource.name] = subscription
        self._by_id[subscription.id] = subscription
        topic = self._topics.get(subscription.resource.topic)
        if topic is not None:
            topic.subscriptions[subscription.id] = subscription

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
