"""Pub/Sub as the service sees it: subscriptions that outlive it, and a publisher that keeps what was published."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from execution_service.core.messages.events_out import OutEvent
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message, PublishFailed
from tests.fakes.process import Gate


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

    def __init__(self, name: str, gate: Gate, *, first: int = 1) -> None:
        """`first`: the number of its first message. No two messages of a topic have one id, whichever process gets them."""
        self._name, self._gate = name, gate
        self._messages: dict[str, tuple[bytes, datetime, Mapping[str, str], str | None]] = {}
        self._count = itertools.count(first)
        self.handed_back: list[str] = []
        """Ids of messages that came back unacknowledged because no more were wanted."""
        self.queue: Inbox = _FakeInbox(self)

    @property
    def unacknowledged(self) -> list[str]:
        return list(self._messages)

    def publish(
        self, data: bytes, at: datetime, attributes: Mapping[str, str] | None = None, event_type: str | None = None
    ) -> str:
        message_id = f"{self._name}-{next(self._count)}"
        self._messages[message_id] = (data, at, attributes or {}, event_type)
        self._deliver(message_id)
        return message_id

    def deliver_elsewhere(self, other: Subscription) -> None:
        """What nobody has acknowledged goes to somebody else."""
        left, self._messages = self._messages, {}
        for data, at, attributes, event_type in left.values():
            other.publish(data, at, attributes, event_type)

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
        data, at, attributes, event_type = self._messages[message_id]

        def ack() -> None:
            number = self._gate.enter(f"{self._name}.ack")
            self._messages.pop(message_id, None)
            self._gate.leave(number)

        self.queue.put_nowait(
            Message(
                message_id=message_id,
                data=data,
                publish_time=at,
                attributes=attributes,
                event_type=event_type,
                ack=ack,
            )
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


class RecordingEvents:
    """Keeps the events that were published; fails while `is_away`."""

    def __init__(self) -> None:
        self.is_away = False
        self.told: list[OutEvent] = []

    async def publish_events(self, events: Sequence[OutEvent]) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise PublishFailed("no route to Redis")
        self.told += events

    @property
    def types(self) -> list[str]:
        return [event.event_type for event in self.told]

    def of(self, event_type: str) -> list[Mapping[str, object]]:
        """The bodies of one type, as they were published."""
        return [event.body for event in self.told if event.event_type == event_type]
