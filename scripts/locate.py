"""Finds the running service, its store and its Pub/Sub: by the service's notice, else by the settings. Contacts none
of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pymongo.errors import PyMongoError

from execution_service.app.embedded import EmbeddedPartFailed, embedded_store, has_stored, owned
from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.problems import ConfigurationError
from execution_service.storage.mongo.opening import connect
from execution_service.storage.reader import StoreReader

HOW_TO_START = "start it: python scripts/mvp_demo_start.py"
LOCK_SECONDS = 15.0
EXIT_CONFIGURATION = 2


class NotFound(Exception):
    """Something that the script needs is missing. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a running service writes about itself in `DATA_DIR/endpoints.json`."""

    pid: int
    mongodb_uri: str | None
    mongodb_database: str
    pubsub_emulator_host: str | None
    google_cloud_project: str
    accounts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Each account's broker, state and trouble."""
    safety: Mapping[str, str | None] | None = None
    """How the outside safety service stands: `status` and `message`; None where there is none."""
    parts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Each long-running part's state, restarts, last_failure and since; empty if the service does not report them."""


def settings_or_exit() -> Settings:
    """The settings. If they are invalid, prints every problem and exits with status 2."""
    try:
        return load_settings()
    except ConfigurationError as exc:
        for problem in exc.problems:
            print(f"Configuration: {problem}", file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)


def running_service(settings: Settings) -> Notice | None:
    """The notice of the service running with this DATA_DIR. None if none is running; a notice left by a killed one
    does not count."""
    try:
        body = json.loads((settings.data_dir / "endpoints.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    notice = Notice(
        pid=int(body["pid"]),
        mongodb_uri=body["mongodb_uri"],
        mongodb_database=body["mongodb_database"],
        pubsub_emulator_host=body["pubsub_emulator_host"],
        google_cloud_project=body["google_cloud_project"],
        accounts=body.get("accounts", {}),
        parts=body.get("parts", {}),
        safety=body.get("safety"),
    )
    return notice if is_service(notice.pid) else None


def is_service(pid: int) -> bool:
    """Whether the process is running and is an execution service, not another process with a reused id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    command = Path(f"/proc/{pid}/cmdline")
    if not command.parent.parent.joinpath("self").exists():
        return True  # without /proc the process id must suffice
    try:
        return b"execution" in command.read_bytes()
    except OSError:
        return False


def pubsub_host(settings: Settings, notice: Notice | None) -> str | None:
    """host:port of the local Pub/Sub or an emulator. None: Google's own, or none."""
    return settings.pubsub_emulator_host if notice is None else notice.pubsub_emulator_host


def use_pubsub(settings: Settings, notice: Notice | None) -> str:
    """Makes Google's client use the service's Pub/Sub, and returns the project. Raises NotFound if none is known."""
    host = pubsub_host(settings, notice)
    if host is not None:
        os.environ["PUBSUB_EMULATOR_HOST"] = host
    elif not settings.has_google_credentials:
        raise NotFound(
            f"No execution service runs on {settings.data_dir}, and neither PUBSUB_EMULATOR_HOST nor Google credentials "
            f"are set: {HOW_TO_START}, or set DATA_DIR to that of the running one"
        )
    return settings.google_cloud_project if notice is None else notice.google_cloud_project


def store_of(settings: Settings, notice: Notice | None) -> tuple[str, str] | None:
    """The store's address and database. None: it is the embedded store, which is not running."""
    if notice is not None and notice.mongodb_uri is not None:
        return notice.mongodb_uri, notice.mongodb_database
    if settings.mongodb_uri is not None:
        return settings.mongodb_uri.get_secret_value(), settings.mongodb_database
    return None


def view_of(store: tuple[str, str]) -> StoreReader:
    """A reader of the store with this address and database, not yet connected. Raises NotFound for an invalid
    address."""
    try:
        return StoreReader(connect(store[0]), store[1])
    except PyMongoError as exc:
        # The error's own text may contain the address with its password.
        raise NotFound(
            f"MONGODB_URI cannot be used ({type(exc).__name__}); look for a misspelt host or option"
        ) from exc


@contextlib.asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """The store's address and database, whether the service runs or not: an embedded store that is not running is
    started for as long as needed.

    Raises NotFound if there is no store yet, EmbeddedPartFailed if it cannot be started.
    """
    found = store_of(settings, running_service(settings))
    if found is not None:
        yield found
        return
    if not has_stored(settings.data_dir):
        raise NotFound(f"Nothing has been stored under {settings.data_dir} yet: {HOW_TO_START}")
    async with contextlib.AsyncExitStack() as stack:
        end = asyncio.get_running_loop().time() + LOCK_SECONDS
        while found is None:
            try:
                stack.enter_context(owned(settings.data_dir))
                found = await stack.enter_async_context(embedded_store(settings.data_dir)), settings.mongodb_database
            except EmbeddedPartFailed:
                # The service, or another such script, is starting or stopping: wait for it.
                await asyncio.sleep(0.3)
                found = store_of(settings, running_service(settings))
                if found is None and asyncio.get_running_loop().time() > end:
                    raise
        yield found
