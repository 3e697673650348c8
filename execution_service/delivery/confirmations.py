"""Confirmations: what is published of each event on `execution-confirmations`; when and how often it is tried is the stream's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog

from execution_service.core.messages.confirmation import attributes, confirmation_json
from execution_service.core.messages.trace import confirmation_attributes
from execution_service.core.orders.effects import AppliedEvent
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import Line
from execution_service.core.texts.log import CONFIRMATION_PUBLISHED
from execution_service.core.texts.service import publish_failing
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.delivery.cursor import Progress
from execution_service.delivery.stream import NotDelivered, Owed
from execution_service.storage.ports.orders import WORLD
from execution_service.transport.ports import Publisher, PublishFailed

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One message, ready to be published."""

    data: bytes
    attributes: Mapping[str, str]
    ordering_key: str
    signal_id: str
    status: str
    broker: str
    recorded_at: datetime
    """When the event that it tells was recorded."""
    order_id: str
    number: int
    """Of that event, from 1."""
    traceparent: str | None
    """Of the order."""


class Confirmations:
    """The sink. A confirmation waits for what it tells, and for nothing else: of the other sinks for one thing, the line in the ledger of an
    event that moves a position, for the profit stands there. The events after it keep their sequence behind it. The views are written
    meanwhile."""

    name = "confirmations"
    cursor = WORLD

    def __init__(
        self,
        *,
        publisher: Publisher,
        parties: NamesOfAccounts,
        uses_ordering_keys: bool = False,
        is_traced: bool = False,
    ) -> None:
        """`is_traced`: each carries by which its readers find the order's trace."""
        self._publisher = publisher
        self._parties = parties
        self._uses_ordering_keys = uses_ordering_keys
        self._is_traced = is_traced
        self.on_published: list[Callable[[Confirmation], None]] = []
        """Called with each that Pub/Sub has taken."""

    def owed(self, order: Order, progress: Progress, after: int) -> tuple[Sequence[Owed], int]:
        broker = self._parties.account_names_of(order.request.account_id).broker
        key = order.order_id if self._uses_ordering_keys else ""
        messages: list[Owed] = []
        for applied_event in progress.applied_events(order, after):
            if applied_event.moves_position and applied_event.number > progress.booked:
                return messages, applied_event.number - 1
            if applied_event.is_published:
                body = confirmation_json(
                    applied_event.after,
                    event=applied_event.event,
                    broker=broker,
                    realized_pnl=_realized_until(progress.told.lines, applied_event),
                    correction=applied_event.is_correction,
                )
                confirmation = Confirmation(
                    body,
                    attributes(applied_event.after) | self._trace(order, applied_event.number),
                    key,
                    order.signal_id,
                    applied_event.after.status.value,
                    broker,
                    applied_event.event.at,
                    order.order_id,
                    applied_event.number,
                    order.traceparent,
                )
                messages.append(Owed(applied_event.number, confirmation))
        return messages, order.version

    def _trace(self, order: Order, number: int) -> dict[str, str]:
        return confirmation_attributes(order, number) if self._is_traced else {}

    async def deliver(self, body: Confirmation) -> None:
        try:
            await self._publisher.publish(body.data, body.attributes, body.ordering_key)
        except PublishFailed as exc:
            raise NotDelivered(str(exc)) from exc
        log.info(
            CONFIRMATION_PUBLISHED,
            action="confirmation_published",
            signal_id=body.signal_id,
            status=body.status,
        )
        for callback in self.on_published:
            try:
                callback(body)
            except Exception as exc:
                # It is published; who only watches must not have it published again.
                log.exception(f"A confirmation could not be heeded by a part: {exc}", action="confirmation_not_heeded")

    def outage_words(self, waiting: int, attempts: int, reason: str) -> tuple[str, str]:
        return "publish_failing", publish_failing(waiting=waiting, attempts=attempts, reason=reason)


def _realized_until(lines: Mapping[int, Line], applied_event: AppliedEvent) -> Decimal | None:
    """The order's booked profit as it was after the event; None while nothing has filled."""
    until = [line for number, line in lines.items() if number <= applied_event.number]
    return sum((line.realized for line in until), Decimal(0)) if until else None
