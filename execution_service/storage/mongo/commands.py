"""Commands and dead letters on MongoDB."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial

from execution_service.core.views.record import (
    Document,
)
from execution_service.storage.mongo.documents import (
    command_from_document,
    command_to_document,
    dead_letter_from_document,
    dead_letter_to_document,
)
from execution_service.storage.mongo.names import COMMANDS, DEAD_LETTERS
from execution_service.storage.mongo.port import MongoPort
from execution_service.storage.ports.commands import Command, CommandStatus, DeadLetter


class MongoCommands(MongoPort):
    """Commands and dead letters."""

    async def insert_command(self, command: Command) -> bool:
        return await self._calls.urgent(partial(self._insert_new, COMMANDS, [command_to_document(command)])) == 1

    async def finish_command(
        self, command_id: str, status: CommandStatus, outcome: str, active_until: datetime | None
    ) -> None:
        changes = {"status": status.value, "outcome": outcome, "active_until": active_until}
        # Several processes may carry out one command at once: the first to finish says what came of it.
        match = {"_id": command_id, "status": CommandStatus.NEW.value}
        await self._calls.urgent(lambda: self._db[COMMANDS].update_one(match, {"$set": changes}))

    async def first_count(self, command_id: str, count: int) -> int:
        def write() -> int:
            self._db[COMMANDS].update_one({"_id": command_id, "count": None}, {"$set": {"count": count}})
            kept = self._db[COMMANDS].find_one({"_id": command_id}, {"count": 1})
            number = None if kept is None else kept.get("count")
            return number if isinstance(number, int) else count

        return await self._calls.urgent(write)

    async def command(self, command_id: str) -> Command | None:
        def read() -> list[Command]:
            return self._readable(COMMANDS, self._db[COMMANDS].find({"_id": command_id}), command_from_document)

        return next(iter(await self._calls.ask(read)), None)

    async def commands(self, *, now: datetime) -> list[Command]:
        def read() -> list[Command]:
            fresh = self._db[COMMANDS].find({"status": CommandStatus.NEW.value})
            active = self._db[COMMANDS].find({"active_until": {"$gt": now}})
            by_id = {d["_id"]: d for d in (*fresh, *active)}
            return self._readable(COMMANDS, by_id.values(), command_from_document)

        return sorted(await self._calls.ask(read), key=lambda c: (c.received_at, c.command_id))

    async def new_commands(self) -> list[Command]:
        def read() -> list[Command]:
            found = self._db[COMMANDS].find({"status": CommandStatus.NEW.value})
            return self._readable(COMMANDS, found, command_from_document)

        return sorted(await self._calls.ask(read), key=lambda c: (c.received_at, c.command_id))

    async def cancels_naming(self, names: Collection[str]) -> list[Command]:
        # One question for each field, so that each is answered by one index.
        holding = [{"status": CommandStatus.NEW.value}, {"active_until": {"$ne": None}}]
        questions: list[Document] = [
            {field: {"$in": list(names)}, "kind": "CANCEL", "$or": holding}
            for field in ("body.order_id", "body.signal_id")
        ]

        def read() -> list[Command]:
            by_id = {d["_id"]: d for question in questions for d in self._db[COMMANDS].find(question)}
            return self._readable(COMMANDS, by_id.values(), command_from_document)

        return sorted(await self._calls.ask(read), key=lambda c: (c.received_at, c.command_id))

    async def insert_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        documents = [dead_letter_to_document(letter) for letter in letters]
        await self._calls.write(partial(self._insert_new, DEAD_LETTERS, documents))

    async def dead_letter(self, message_id: str) -> DeadLetter | None:
        document = await self._calls.ask(lambda: self._db[DEAD_LETTERS].find_one({"_id": message_id}))
        return None if document is None else dead_letter_from_document(document)
