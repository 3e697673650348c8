"""The verb to replay: a message that could not be taken for an order is taken once more, as if it had come again."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from execution_service.control.requests import Replay
from execution_service.control.results import Done, Refused
from execution_service.storage.ports.store import Store
from execution_service.transport.ports import RECEIVED_AS, Message


class TakesOrders(Protocol):
    """Who takes orders in."""

    async def take(self, messages: Sequence[Message]) -> object:
        """Stores what the messages mean. Raises StoreUnavailable; may then be called again."""


class ReplayDeadLetter:
    """May be asked for again: an order that it brings has its identity, and is placed once."""

    def __init__(self, *, intake: TakesOrders, store: Store) -> None:
        self._intake = intake
        self._store = store

    async def carry_out(self, asked: Replay) -> Done | Refused:
        """Done when there is a durable order. Raises StoreUnavailable."""
        letter = await self._store.dead_letter(asked.message_id)
        if letter is None:
            return Refused(f"there is no dead letter {asked.message_id!r}")
        marker = sha256(f"{asked.command_id}:{asked.message_id}".encode()).hexdigest()[:16]
        message = Message(
            message_id=f"replay-{marker}",
            data=letter.payload,
            publish_time=letter.publish_time,
            attributes=letter.attributes,
            event_type=letter.attributes.get(RECEIVED_AS),
        )
        await self._intake.take([message])
        again = await self._store.dead_letter(message.message_id)
        if again is not None:
            return Refused(f"dead letter {asked.message_id} was taken again and is a dead letter again: {again.reason}")
        return Done(f"dead letter {asked.message_id} taken again, and there is an order now")
