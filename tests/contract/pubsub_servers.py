"""Pub/Sub servers as child processes for the tests: ours and, where it is found, Google's emulator. No tests here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.waits import wait_until_listening

EMULATOR_VARIABLE = "PUBSUB_EMULATOR_BIN"
EMULATOR_MISSING = (
    "Google's Pub/Sub emulator was not found: install Java and the Google Cloud SDK with it "
    f"(gcloud components install pubsub-emulator), or set {EMULATOR_VARIABLE} to its start script"
)
_READY_SECONDS = 30.0


def emulator_script() -> str | None:
    """The start script of Google's emulator: the one named in the environment, else the one of the installed Google Cloud SDK."""
    named = os.environ.get(EMULATOR_VARIABLE)
    if named:
        return named
    gcloud = shutil.which("gcloud")
    if gcloud is None or shutil.which("java") is None:
        return None
    script = Path(gcloud).resolve().parents[1] / "platform" / "pubsub-emulator" / "bin" / "cloud-pubsub-emulator"
    return str(script) if script.exists() else None


class ChildServer:
    """Our server as a real child process on one file."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "simulators.pubsub", "--port", "0", "--data", str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdin: IO[str] = _there(self.process.stdin)
        self.stdout: IO[str] = _there(self.process.stdout)
        self.stderr: IO[str] = _there(self.process.stderr)
        self.first_line = self.stdout.readline().rstrip("\n")

    @property
    def address(self) -> str:
        """host:port, as PUBSUB_EMULATOR_HOST takes it."""
        return self.first_line.rpartition(" ")[2]

    def kill(self) -> None:
        """End it with no chance to write anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def terminate(self) -> int:
        """Ask it to end; returns its exit status."""
        self.process.terminate()
        self.process.communicate(timeout=20)
        return self.process.returncode

    def __enter__(self) -> ChildServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


@contextmanager
def google_emulator(script: str) -> Iterator[str]:
    """Google's emulator on a free loopback port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Its own process group: the script starts Java, and both must end.
    process = subprocess.Popen(
        [script, "--host=127.0.0.1", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_listening(port, process, "Google's emulator", within=_READY_SECONDS)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _there(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
