"""What the service needs of a transport: messages in, a publisher, and what can go wrong with either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


class PublishFailed(Exception):
    """The message may or may not have been published; publishing again is harmless."""


class TopicMissing(Exception):
    """A topic or subscription does not exist, or we may not use it; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as Pub/Sub delivered it; it is delivered again until `ack` is called."""

    message_id: str
    data: bytes
    publish_time: datetime
    attributes: Mapping[str, str] = field(default_factory=dict)
    ack: Callable[[], None] = lambda: None
    nack: Callable[[], None] = lambda: None


class Publisher(Protocol):
    async def publish(self, data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
        """Returns when Pub/Sub has the message. Raises PublishFailed."""
