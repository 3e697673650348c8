"""Events to Pub/Sub topics of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from execution_service.core.messages.events_out import OutEvent, payload_json
from execution_service.transport.ports import Publisher


class TopicPublisher:
    """Publishes each event to the topic of its type."""

    def __init__(self, publishers: Mapping[str, Publisher], *, uses_ordering_keys: bool = False) -> None:
        """`publishers`: by event type."""
        self._publishers = publishers
        self._uses_ordering_keys = uses_ordering_keys

    async def publish_events(self, events: Sequence[OutEvent]) -> None:
        for event in events:
            attributes = {
                "event_id": event.event_id,
                "event_type": event.event_type,
                "signal_id": event.signal_id.encode()[:1024].decode(errors="ignore"),
                "event_number": str(event.number),
            }
            key = event.event_id.partition("-")[0] if self._uses_ordering_keys else ""
            await self._publishers[event.event_type].publish(payload_json(event), attributes, key)
