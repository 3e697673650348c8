"""What the service needs of a transport: messages in, a publisher, and what can go wrong with either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from execution_service.core.messages.events_out import OutEvent

RECEIVED_AS, RECEIVED_ID = "received_as", "received_id"
"""Attributes of a dead letter that was an event: its type, and the id of its message."""


class PublishFailed(Exception):
    """The message may or may not have been published; publishing again is harmless."""


class TopicMissing(Exception):
    """A topic or subscription does not exist, or we may not use it; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as Pub/Sub or a Redis stream delivered it; it is delivered again until `ack` is called."""

    message_id: str
    data: bytes
    publish_time: datetime
    attributes: Mapping[str, str] = field(default_factory=dict)
    event_type: str | None = None
    """The event that it is, where it came as one; None: an order or a command, by the subscription that it came from."""
    ack: Callable[[], None] = lambda: None
    nack: Callable[[], None] = lambda: None


class Publisher(Protocol):
    async def publish(self, data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
        """Returns when Pub/Sub has the message. Raises PublishFailed."""


class EventPublisher(Protocol):
    """Publishes events of several types, each where its readers look for it."""

    async def publish_events(self, events: Sequence[OutEvent]) -> None:
        """Returns when all of them are there. Raises PublishFailed: some may be."""


class KeyNotRead(Exception):
    """What a key says is not known; the message says why."""


class ReadsKey(Protocol):
    """A key in a store of others. Each call ends within a bounded time."""

    name: str
    """For people."""

    async def read(self) -> str | None:
        """The beginning of its text; None: it is not there. Raises KeyNotRead."""
