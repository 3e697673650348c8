"""The notice for scripts: where the parts of a running service are found, and how they stand."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog

from execution_service.app.settings.loading import Settings
from execution_service.app.wiring import World

log = structlog.get_logger(__name__)

ENDPOINTS = "endpoints.json"
STATES_SECONDS = 0.5
"""How often the accounts' states are looked at for the notice."""


class Service(Protocol):
    """What the notice shows of the service."""

    def account_states(self) -> Mapping[str, Mapping[str, str]]: ...

    def part_states(self) -> Mapping[str, Mapping[str, str | int]]: ...

    def safety_state(self) -> Mapping[str, str | None] | None: ...


async def keep_endpoints(path: Path, settings: Settings, world: World, service: Service, *, api: str) -> None:
    """Writes them anew whenever the state of an account or of a part has changed."""
    written: object = None
    while True:
        await asyncio.sleep(STATES_SECONDS)
        states = service.account_states(), service.part_states(), service.safety_state()
        if states != written:
            try:
                write_endpoints(path, settings, world, service, api=api)
            except OSError as exc:
                log.warning(f"{path} could not be written: {exc}", action="notice_not_written")
                continue
            written = states


def write_endpoints(path: Path, settings: Settings, world: World, service: Service, *, api: str | None = None) -> None:
    """Where scripts find the parts, and how the accounts stand; without credentials, for a configured URI is known to whoever configured it."""
    is_embedded = settings.mongodb_uri is None
    body = {
        "pid": os.getpid(),
        "mongodb_uri": world.mongodb_uri if is_embedded else None,
        "mongodb_database": settings.mongodb_database,
        "pubsub_emulator_host": world.pubsub_host,
        "google_cloud_project": settings.google_cloud_project,
        "api": api,
        "accounts": service.account_states(),
        "parts": service.part_states(),
        "safety": service.safety_state(),
    }
    # Services that share the folder write theirs at the same time.
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(body, indent=1), encoding="utf-8")
    temporary.chmod(0o600)
    temporary.replace(path)


def withdraw_endpoints(path: Path) -> None:
    """Removes what this process wrote or a dead one left; a living service that shares the folder keeps its own."""
    writer = endpoints_writer(path)
    if writer is None or writer == os.getpid() or not _is_alive(writer):
        path.unlink(missing_ok=True)


def endpoints_writer(path: Path) -> int | None:
    """The process that the file names; None where there is no file, or nothing that can be read."""
    try:
        writer = json.loads(path.read_text(encoding="utf-8")).get("pid")
    except (OSError, ValueError, AttributeError):
        return None
    return writer if isinstance(writer, int) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
