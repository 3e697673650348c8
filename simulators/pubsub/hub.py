"""Topics and subscriptions of the local Pub/Sub server: who is owed what, who waits for it, what is written when.

It joins the memory of each subscription to the ledger file on one event loop. gRPC is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from simulators.pubsub import ledger as ledger_work
from simulators.pubsub import rules
from simulators.pubsub.backlog import Backlog, Owed, Receiver
from simulators.pubsub.ledger import Contents, Ledger, OwedRow

log = logging.getLogger(__name__)

_LARGEST_BATCH_MESSAGES = 100
_LARGEST_BATCH_BYTES = 3_000_000
_JANITOR_SECONDS = 60.0
_MICROSECONDS = 1_000_000


class Delivery(NamedTuple):
    """One message on its way out, under the id by which it is acknowledged."""

    owed: Owed
    ack_id: str


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
        if self.backlog.peek() is None:
            return
        able = [receiver for receiver in self.idle if receiver.has_room]
        for receiver in able[: self.backlog.ready_estimate]:
            self.stir(receiver)

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

    `now_us` is the wall clock in microseconds since 1970 UTC, for publish times and retention only. Methods raise
    `RefusedError` for requests that are answered with an error, `LedgerWriteError` when the file cannot be written.
    """

    def __init__(self, ledger: Ledger, *, now_us: Callable[[], int]) -> None:
        self._ledger = ledger
        self._now_us = now_us
        self._topics: dict[str, _Topic] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._last_subscription_id = 0
        self._changes = asyncio.Lock()
        """Topics and subscriptions are created and deleted one after the other."""
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
        by_id: dict[int, _Subscription] = {}
        for identifier, serialized in contents.subscriptions:
            resource = rules.Subscription.FromString(serialized)
            if missing := rules.unsupported_fields(resource):
                log.warning("%s is served without its %s, which this server does not have.", resource.name, missing)
            by_id[identifier] = _Subscription(identifier, resource)
            self._enter(by_id[identifier])
        self._last_subscription_id = max(by_id, default=0)
        # Starting at the clock keeps ids of messages that nobody was owed from being given out twice.
        self._last_message_id = self._now_us()
        for subscription_id, message_id, published_us, body in contents.owed:
            by_id[subscription_id].backlog.add(Owed(message_id, published_us, body))
            self._last_message_id = max(self._last_message_id, message_id)
        self.drop_expired()

    async def stop(self) -> None:
        """Send all receivers away and end the background work."""
        self._stopping = True
        if self._janitor is not None:
            self._janitor.cancel()
        for subscription in self._subscriptions.values():
            subscription.close()

    # What is created or deleted is so here as soon as it is in the file, also where the caller has hung up meanwhile.

    async def create_topic(self, given: Any) -> Any:
        """Create a topic and return it as kept."""
        topic = rules.settled_topic(given)
        work = partial(ledger_work.create_topic, name=topic.name, resource=topic.SerializeToString())
        async with self._changes:
            if topic.name in self._topics:
                raise rules.already_exists(topic.name)
            await self._ledger.run(work, on_commit=lambda: self._topics.setdefault(topic.name, _Topic(topic)))
        return topic

    def topic(self, name: str) -> Any:
        """The Topic of that name."""
        return self._topic(name).resource

    async def create_subscription(self, given: Any) -> Any:
        """Create a subscription, owed everything published from now on, and return it as kept."""
        resource = rules.settled_subscription(given)
        work = partial(ledger_work.create_subscription, name=resource.name, resource=resource.SerializeToString())
        async with self._changes:
            if resource.name in self._subscriptions:
                raise rules.already_exists(resource.name)
            self._topic(resource.topic)
            self._last_subscription_id += 1
            subscription = _Subscription(self._last_subscription_id, resource)
            await self._ledger.run(
                partial(work, identifier=subscription.id), on_commit=lambda: self._enter(subscription)
            )
        return resource

    async def delete_subscription(self, name: str) -> None:
        """Delete a subscription with all it is owed; its streams end with NOT_FOUND."""
        async with self._changes:
            subscription = self._subscription(name)
            work = partial(ledger_work.delete_subscription, identifier=subscription.id)
            await self._ledger.run(work, on_commit=lambda: self._leave(subscription))

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

    def receiver(self, name: str, *, max_messages: int = 0) -> Receiver:
        """Enrol a stream or pull of a subscription; `dismiss` it at its end."""
        subscription = self._subscription(name)
        receiver = Receiver(max_messages=max_messages, owner=subscription)
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
            if subscription.backlog.peek() is None or not receiver.has_room:
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
        return [Delivery(owed, f"{prefix}-{owed.message_id}-{owed.generation}") for owed in taken]

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
        topic = self._topics.get(subscription.resource.topic)
        if topic is not None:
            topic.subscriptions[subscription.id] = subscription

    def _leave(self, subscription: _Subscription) -> None:
        if self._subscriptions.get(subscription.resource.name) is subscription:
            del self._subscriptions[subscription.resource.name]
        topic = self._topics.get(subscription.resource.topic)
        if topic is not None:
            topic.subscriptions.pop(subscription.id, None)
        subscription.close()

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
