"""The scripts for people, each call a process of its own. It begins with its libraries loaded, by `script_server.py`, which saves most of what a
call costs; how a script starts without that, `test_own_python.py` and `test_scripts.py` show."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.external.service_process import REPOSITORY, Service
from tests.waits import wait_until

EXECCTL = REPOSITORY / "scripts" / "execctl.py"
SEND = REPOSITORY / "tests" / "signals_testing" / "send_test_signal.py"
STATUS = REPOSITORY / "scripts" / "mvp_demo_status.py"


@dataclass(frozen=True, slots=True)
class Said:
    """What a script that has ended has said; `err` is empty where both went one way."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def execctl(service: Service, *arguments: str, within: float = 90.0, **settings: str) -> Said:
    """`execctl` at this service, from its folder. Raises TimeoutExpired."""
    environment = service.environment() | settings
    return run_script(EXECCTL, *arguments, environment=environment, folder=service.folder, within=within)


def run_script(
    script: Path,
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path,
    within: float = 90.0,
    goes_one_way: bool = False,
) -> Said:
    """From that folder, in that environment and no other. With `goes_one_way` both streams come as one, in their sequence. Raises
    TimeoutExpired, and then the script has been killed with all that it has started in its session."""
    with tempfile.TemporaryDirectory() as kept, socket.socket(socket.AF_UNIX) as connection:
        out, err = Path(kept) / "out", Path(kept) / ("out" if goes_one_way else "err")
        asked = {
            "script": str(script),
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
            "out": str(out),
            "err": str(err),
        }
        connection.settimeout(within)
        connection.connect(_server())
        connection.sendall(json.dumps(asked).encode() + b"\n")
        answers = connection.makefile("rb")
        process = int(json.loads(answers.readline())["pid"])
        try:
            ended = answers.readline()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired([str(script), *arguments], within) from None
        status = int(json.loads(ended)["status"]) if ended else -signal.SIGKILL
        return Said(status, _text(out), "" if goes_one_way else _text(err))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


@functools.cache
def _server() -> str:
    """The address of the one of this process; it is started when first needed."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    address = str(Path(folder.name) / "scripts")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.external.script_server", address], cwd=REPOSITORY, stdin=subprocess.DEVNULL
    )
    atexit.register(server.kill)
    wait_until(lambda: _listens(address) or server.poll() is not None, "scripts can be run", within=60)
    assert server.poll() is None, "it has ended"
    return address


def _listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(address) == 0
