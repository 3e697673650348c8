"""The events that others are told: what is published of each on Pub/Sub topics or Redis streams; when and how often is the stream's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from execution_service.core.messages.events_out import OutEvent, events_of
from execution_service.core.orders.order import Order
from execution_service.core.texts.service import events_failing
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.delivery.cursor import Progress
from execution_service.delivery.stream import NotDelivered, Owed
from execution_service.transport.ports import EventPublisher, PublishFailed

log = structlog.get_logger(__name__)


class Events:
    """One sink for each place where events are published. As a confirmation, an event waits for the line in the ledger where it moves a
    position, and for nothing else."""

    def __init__(
        self, *, place: str, cursor: str, publisher: EventPublisher, parties: NamesOfAccounts, types: Collection[str]
    ) -> None:
        """`place`, for people; `cursor`: the delivery cursor's name in the record; `types`: those that are published there."""
        self.name = f"events on {place}"
        self.cursor = cursor
        self._place = place
        self._publisher = publisher
        self._parties = parties
        self._types = frozenset(types)

    def owed(self, order: Order, progress: Progress, after: int) -> tuple[Sequence[Owed], int]:
        broker = self._parties.account_names_of(order.request.account_id).broker
        messages: list[Owed] = []
        for applied in progress.applied_events(order, after):
            if applied.moves_position and applied.number > progress.booked:
                return messages, applied.number - 1
            lines = progress.told.lines
            told = events_of(applied, lines.get(applied.number), lines, broker=broker)
            wanted = tuple(event for event in told if event.event_type in self._types)
            if wanted:
                messages.append(Owed(applied.number, wanted))
        return messages, order.version

    async def deliver(self, body: Sequence[OutEvent]) -> None:
        try:
            await self._publisher.publish_events(body)
        except PublishFailed as exc:
            raise NotDelivered(str(exc)) from exc

    def outage_words(self, waiting: int, attempts: int, reason: str) -> tuple[str, str]:
        words = events_failing(place=self._place, waiting=waiting, attempts=attempts, reason=reason)
        return f"events_failing:{self.cursor}", words
