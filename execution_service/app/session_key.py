"""The key that signs the page's sessions, kept beside the data so that a restart logs nobody out."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

FILE = "session.key"
KEY_BYTES = 32


def session_key(data_dir: Path) -> bytes:
    """Read, or made where there is none yet; only the service's user may read it. Where it can be neither, one for this life alone: then people
    have to log in again after a restart."""
    path = data_dir / FILE
    try:
        return _read(path) if path.exists() else _made(path)
    except (OSError, ValueError) as exc:
        log.warning(f"The key of sessions is for this life only: {exc}", action="session_key_not_kept")
        return secrets.token_bytes(KEY_BYTES)


def _read(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} has {len(key)} bytes, not {KEY_BYTES}; remove it, and another one is made")
    return key


def _made(path: Path) -> bytes:
    """Complete under its name, or not there at all. Services that share the folder and begin together have one key: the first one's."""
    key = secrets.token_bytes(KEY_BYTES)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        return _read(path)
    finally:
        unfinished.unlink()
    return key
