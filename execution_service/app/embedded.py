"""The embedded store and the local Pub/Sub server, for a service of which nothing is configured: started, and stopped with this process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from execution_service.app import guardian
from execution_service.runtime.supervision import Part

log = structlog.get_logger(__name__)

START_SECONDS = 45.0
STOP_SECONDS = 6.0
LET_GO_SECONDS = 10.0
LISTENING_POLL_SECONDS = 0.01
STORE_PROGRAM = "secantusd-py"
STORE_FOLDER = "store"
"""In the DATA_DIR."""
_CHILDS_VARIABLES = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV"})
_CHILDS_PREFIXES = ("GRPC_", "LC_", "PYTHON")
REPOSITORY_ROOT = Path(__file__).resolve().parent.parent.parent


class EmbeddedPartFailed(Exception):
    """A part that this process starts for itself did not come up; the message says what to do."""


class AlreadyRunning(EmbeddedPartFailed):
    """Another service has the folder."""


@dataclass(frozen=True, slots=True)
class NewTables:
    """The files of an embedded store, which are set aside and made again if their making was broken off."""

    data_dir: Path

    def note_complete(self) -> None:
        """They are all made, and kept from now on. Raises EmbeddedPartFailed: then nothing may be stored."""
        with _writable(self.data_dir):
            guardian.note_complete(self.data_dir / STORE_FOLDER)


def has_stored(data_dir: Path) -> bool:
    """Whether there is an embedded store that the next start goes on with: what is stored in one that is unfinished is set aside with it."""
    folder = data_dir / STORE_FOLDER
    return folder.exists() and not (folder / guardian.UNFINISHED).exists()


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """The topics and subscriptions that the local Pub/Sub server is to have."""

    project: str
    topics: Sequence[str]
    subscriptions: Sequence[tuple[str, str]]
    """(subscription, topic)"""


@contextlib.contextmanager
def owned(data_dir: Path) -> Iterator[None]:
    """Holds the folder of the embedded parts for this process. Raises AlreadyRunning if another service has it, EmbeddedPartFailed if
    nothing can be written there."""
    make_private(data_dir)
    with _writable(data_dir):
        lock = open(data_dir / "service.lock", "a", encoding="ascii")  # noqa: SIM115  it is closed below
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise AlreadyRunning(
                f"another execution service is running on {data_dir}; two cannot share one embedded store: "
                "stop it, give this one another DATA_DIR, or set MONGODB_URI for replicas"
            ) from exc
        yield


def make_private(folder: Path) -> None:
    """Creates the folder for its owner only, if it is not there. Raises EmbeddedPartFailed if nothing can be written there."""
    with _writable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise EmbeddedPartFailed(f"the folder {folder} (DATA_DIR) cannot be used: {exc.strerror}") from exc


@contextlib.asynccontextmanager
async def embedded_store(data_dir: Path, revivals: list[Part] | None = None) -> AsyncIterator[str]:
    """A private MongoDB-protocol server on loopback, durable at each commit; yields its URI. To `revivals` is added what starts it again
    should it end, for a supervisor to keep; without, nobody starts it again, which is enough for scripts. Raises EmbeddedPartFailed."""
    program = shutil.which(STORE_PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(STORE_PROGRAM)
    if program is None:
        raise EmbeddedPartFailed(
            f"MONGODB_URI is not set and the embedded store ({STORE_PROGRAM}) is not installed: "
            "set MONGODB_URI, or pip install 'execution-service[embedded]'"
        )
    port, folder = _free_port(), str(data_dir / STORE_FOLDER)
    command = [
        *(program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", folder),
        *("--sync-on-commit", "--cache-size", "256M", "--log-level", "WARNING"),
    ]
    guarded = [sys.executable, guardian.__file__, str(data_dir / "store.lock"), folder, *command]
    output, name = data_dir / "store.log", "embedded store"
    async with _child(guarded, output, name) as process:
        await _until_listening(process, port, name, output)
        async with _kept_alive(process, guarded, output, name, revivals):
            yield f"mongodb://127.0.0.1:{port}/?directConnection=true"


@contextlib.asynccontextmanager
async def local_pubsub(data_dir: Path, plan: TopicPlan, revivals: list[Part] | None = None) -> AsyncIterator[str]:
    """The local Pub/Sub server with these topics and subscriptions; yields `host:port`. `revivals` as for the store. Raises EmbeddedPartFailed."""
    command = [sys.executable, "-m", "simulators.pubsub", "--data", str(data_dir / "pubsub.db")]
    command += ["--exit-with-stdin", "--project", plan.project]
    for topic in plan.topics:
        command += ["--topic", topic]
    for subscription, topic in plan.subscriptions:
        command += ["--subscription", f"{subscription}={topic}"]
    output, name = data_dir / "pubsub.log", "local Pub/Sub"
    end = asyncio.get_running_loop().time() + LET_GO_SECONDS
    while True:
        async with _child([*command, "--port", "0"], output, name, reads_output=True) as process:
            line = await _first_line(process)
            if line.startswith("Pub/Sub listening on "):
                address = line.rpartition(" ")[2]
                again = [*command, "--port", address.rpartition(":")[2]]
                async with _kept_alive(process, again, output, name, revivals):
                    yield address
                return
        # The server of a life that was just killed may still be letting go of its file.
        if asyncio.get_running_loop().time() > end:
            raise EmbeddedPartFailed(_did_not_start(name, output))
        await asyncio.sleep(0.3)


async def _first_line(process: asyncio.subprocess.Process) -> str:
    """The first line that it writes; empty if it writes none in time."""
    if process.stdout is None:
        return ""
    try:
        return (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode().strip()
    except TimeoutError:
        return ""


def _did_not_start(name: str, output: Path) -> str:
    words = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"the {name} did not start: {words[-1] if words else 'it said nothing'} (see {output})"


def childs_environment() -> dict[str, str]:
    """Ours without credentials, whatever their names: what a program needs to run."""
    return _without_credentials(os.environ)


def _without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without credentials, whatever their names: what a program needs to run."""
    return {n: v for n, v in environment.items() if n in _CHILDS_VARIABLES or n.startswith(_CHILDS_PREFIXES)}


@contextlib.asynccontextmanager
async def _child(
    command: Sequence[str], output: Path, name: str, *, reads_output: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that lives as long as its standard input is open, which is as long as this process lives. Where this process ends it, and
    was not killed, a line on that input announces it beforehand."""
    with _writable(output.parent):
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if reads_output else sink,
            stderr=sink,
            start_new_session=True,
            cwd=REPOSITORY_ROOT,
            env=childs_environment(),
        )
    finally:
        os.close(sink)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.write(guardian.LEAVE)
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning(f"The {name} did not end in time and is killed", action="embedded_killed")
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def _kept_alive(
    process: asyncio.subprocess.Process,
    command: Sequence[str],
    output: Path,
    name: str,
    revivals: list[Part] | None,
) -> AsyncIterator[None]:
    """Should the process end by itself, the part that is added to `revivals` fails, and runs the command in its place when it is begun anew, as
    often as that happens. It is to be ended before this is left."""
    was_first = False

    async def revive() -> None:
        nonlocal was_first
        if not was_first:
            await process.wait()
            was_first = True
        else:
            log.warning(f"The {name} is started again", action="embedded_restarted")
            async with _child(command, output, name) as another:
                await another.wait()
        raise EmbeddedPartFailed(f"the {name} has ended by itself; see {output}")

    if revivals is not None:
        revivals.append(Part(name, revive))
    yield


async def _until_listening(process: asyncio.subprocess.Process, port: int, name: str, output: Path) -> None:
    end = asyncio.get_running_loop().time() + START_SECONDS
    while asyncio.get_running_loop().time() < end:
        if process.returncode is not None:
            break
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(LISTENING_POLL_SECONDS)
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return
    raise EmbeddedPartFailed(_did_not_start(name, output))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
