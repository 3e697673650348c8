"""A MemoryService's folder: one file for each entry, written aside, then renamed into `new`, so that no reader ever sees half of one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from execution_service.core.messages.events_out import OutEvent
from execution_service.core.messages.memory_entries import MemoryEntry, memory_entry
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.threads import Blocking
from execution_service.transport.ports import PublishFailed

WRITE_SECONDS = 10.0
"""A folder on another machine may hang."""
MODE = 0o640


class FolderUnusable(Exception):
    """Entries cannot be written there; the message says why."""


class MemoryFiles:
    """An entry is durable in `new` when it counts as published. The same entry again has the same name: whoever has taken it away meanwhile meets it
    once more, under the same `entry_id`."""

    def __init__(self, folder: Path, *, threads: Blocking, connectivity: Connectivity) -> None:
        self._aside, self._new = folder / "tmp", folder / "new"
        self._threads = threads
        self._connectivity = connectivity

    def prepare(self) -> None:
        """Makes the folders. Raises FolderUnusable."""
        try:
            self._make_folders()
        except OSError as exc:
            raise FolderUnusable(f"MEMORY_DIR cannot be used: {exc.strerror or exc}: {exc.filename}") from exc

    async def publish_events(self, events: Sequence[OutEvent]) -> None:
        entries = [memory_entry(event) for event in events]
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._threads.run(lambda: self._write(entries))
        except (OSError, TimeoutError) as exc:
            why = f"no answer within {WRITE_SECONDS:g} s" if isinstance(exc, TimeoutError) else str(exc)
            self._connectivity.fails(why)
            raise PublishFailed(f"the memory's folder: {why}") from exc
        self._connectivity.answers()

    def _write(self, entries: Sequence[MemoryEntry]) -> None:
        self._make_folders()  # somebody may have cleaned up
        for entry in entries:
            aside = self._aside / f"{entry.entry_id}.{os.getpid()}"
            handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(entry.text)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._new / f"{entry.entry_id}.json")
        folder = os.open(self._new, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _make_folders(self) -> None:
        for folder in (self._aside, self._new):
            folder.mkdir(parents=True, exist_ok=True)
