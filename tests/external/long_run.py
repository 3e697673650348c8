"""How a long run ends when it is told to: with everything that it started, each of which is in a session of its own and would live on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Never

import psutil

from tests.external.service_process import descendants, is_alive

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36
QUIET_LOOKS = 3
LOOK_SECONDS = 0.05


@contextlib.contextmanager
def ending_with_all(folder: Path) -> Iterator[None]:
    """While entered, each of these signals ends the process by that signal, and first all that it has started, and what these have; `folder` is
    removed. To be entered in the main thread."""
    heeded = [number for number in SIGNALS if number is not signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: _end_with_all(number, folder)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_all(number: int, folder: Path) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    # Other threads go on while this one looks: they may start nothing more.
    subprocess.Popen._execute_child = _refuse  # type: ignore[attr-defined]
    _adopt_orphans()
    quiet = 0
    while quiet < QUIET_LOOKS:
        left = [process for process in descendants(psutil.Process()) if is_alive(process)]
        for process in left:
            # Not waited for one by one: an orphan that ended before it was adopted is reaped by nobody but us, at our own end.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        quiet = 0 if left else quiet + 1
        time.sleep(LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _refuse(*_: object, **__: object) -> Never:
    raise OSError("the run is being ended")


def _adopt_orphans() -> None:
    """Whoever loses its parent from now on is this process's child, and found."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
