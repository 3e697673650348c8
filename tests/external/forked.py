"""Programs as processes of their own that begin with their libraries loaded: forked from one that has them, which saves most of what a start
costs. How the programs start without that, `test_own_python.py`, `test_process.py` and `test_scripts.py` show."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.waits import wait_until

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LOADED = ("execution_service.execution_main", "scripts.execctl", "scripts.mvp_demo_status", "scripts.send_test_signal")
READ_EARLY = ("GRPC_", "LC_", "MALLOC_", "PYTHON", "TZ")
"""What variables begin with that a process reads as it begins, or as it loads its libraries."""
WITHOUT_EFFECT = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}


class Forked:
    """A program that was started in this environment and no other, in a session of its own; what of subprocess.Popen is needed of one."""

    def __init__(
        self,
        program: Path,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        out: Path,
        err: Path,
    ) -> None:
        asked = {
            "program": str(program),
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
            "out": str(out),
            "err": str(err),
        }
        self._lock = threading.Lock()
        self._said = b""
        self.args = [str(program), *arguments]
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_server())
        self._connection.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = int(json.loads(self._line(None))["pid"])

    def poll(self) -> int | None:
        """Its exit status, -N if signal N has ended it; None while it runs."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises TimeoutExpired."""
        with self._lock:
            if self.returncode is None:
                try:
                    self.returncode = int(json.loads(self._line(timeout))["status"])
                except (TimeoutError, BlockingIOError):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
                self._connection.close()
            return self.returncode

    def kill(self) -> None:
        """kill -9; nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _line(self, timeout: float | None) -> bytes:
        """Raises TimeoutError; what has come of a line until then is kept."""
        self._connection.settimeout(timeout)
        while b"\n" not in self._said:
            received = self._connection.recv(4096)
            assert received, "what has started the program has ended"
            self._said += received
        line, _, self._said = self._said.partition(b"\n")
        return line


def can_be_forked(environment: Mapping[str, str]) -> bool:
    """Whether a program begins in this environment as in ours: what a process reads early is the same in both."""
    return _read_early(environment) == _read_early(os.environ)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {n: v for n, v in environment.items() if n.startswith(READ_EARLY) and n not in WITHOUT_EFFECT}


@functools.cache
def _server() -> str:
    """The address of the one of this process; it is started when first needed."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    address = str(Path(folder.name) / "programs")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.external.fork_server", address, *LOADED],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
    )
    atexit.register(server.kill)
    wait_until(lambda: _listens(address) or server.poll() is not None, "programs can be forked", within=60)
    assert server.poll() is None, "it has ended"
    return address


def _listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(address) == 0
