"""The scripts for people, each call a process of its own that begins with its libraries loaded (`forked.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.external.forked import REPOSITORY, Forked
from tests.external.service_process import Service

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
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept) / "out", Path(kept) / ("out" if goes_one_way else "err")
        process = Forked(script, arguments, environment=environment, folder=folder, out=out, err=err)
        try:
            status = process.wait(within)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return Said(status, _text(out), "" if goes_one_way else _text(err))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
