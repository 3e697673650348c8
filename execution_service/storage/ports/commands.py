"""Commands and dead letters as they are kept, and how they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class CommandStatus(StrEnum):
    NEW = "NEW"
    DONE = "DONE"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A wish about orders from outside: cancel, resolve, replay. `_id` makes a repeated delivery the same command."""

    command_id: str
    kind: str
    body: Mapping[str, Any]
    published_at: datetime
    received_at: datetime
    status: CommandStatus = CommandStatus.NEW
    outcome: str = ""
    active_until: datetime | None = None
    """Until then a cancel also holds for orders that have not arrived yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    message_id: str
    payload: bytes
    reason: str
    publish_time: datetime
    attributes: Mapping[str, str]
    received_at: datetime


class CommandStore(Protocol):
    """Commands, and messages that could not be taken for anything."""

    async def insert_command(self, command: Command) -> bool:
        """False if it is there already."""

    async def finish_command(
        self, command_id: str, status: CommandStatus, outcome: str, active_until: datetime | None
    ) -> None:
        """Says what came of it, unless somebody has."""

    async def first_count(self, command_id: str, count: int) -> int:
        """Keeps a count with the command, unless one is kept already; the one that is kept. Durable when it returns."""

    async def command(self, command_id: str) -> Command | None:
        """As it is stored now; None: there is none, or it cannot be read. Raises StoreUnavailable."""

    async def commands(self, *, now: datetime) -> list[Command]:
        """Those that are NEW, or still active."""

    async def new_commands(self) -> list[Command]:
        """Those that nobody has carried out yet, oldest first."""

    async def cancels_naming(self, names: Collection[str]) -> list[Command]:
        """Cancels that name an order or a signal so and are NEW, or held for a while when they were carried out. No clock is asked: whoever
        asks compares the times."""

    async def insert_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Those that are there already stay as they are."""

    async def dead_letter(self, message_id: str) -> DeadLetter | None:
        """Raises UnreadableRecord."""
