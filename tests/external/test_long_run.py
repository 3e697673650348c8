"""A long run that is told to end leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.external.forked import REPOSITORY
from tests.external.service_process import descendants, end, is_alive
from tests.waits import wait_until

MATRIX = ("tests.faults", "--only", "replicas", "--broker", "mock", "--at-once", "2")
SOAK = ("tests.external.soak", "--seconds", "600", "--calm")


@pytest.mark.parametrize(
    ("number", "program"), [(signal.SIGTERM, MATRIX), (signal.SIGINT, MATRIX), (signal.SIGTERM, SOAK)]
)
def test_a_signal_ends_the_run_and_all_that_it_started(
    tmp_path: Path, number: signal.Signals, program: Sequence[str]
) -> None:
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *program],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    family: list[psutil.Process] = []
    try:
        wait_until(lambda: len(descendants(psutil.Process(run.pid))) >= 2, "it has started two processes", within=60.0)
        family = descendants(psutil.Process(run.pid))
        run.send_signal(number)
        assert run.wait(30) == -number
        wait_until(lambda: not any(is_alive(each) for each in family), "all that it started has ended")
        assert list(tmp_path.glob("[fs]*-*")) == []
        assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]
    finally:
        run.kill()
        run.wait()
        end(family)


def test_a_process_whose_number_is_given_away_meanwhile_is_looked_at_again() -> None:
    answers = iter([FileNotFoundError("/proc/7/stat"), []])

    def children(*, recursive: bool) -> list[psutil.Process]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    process: Any = SimpleNamespace(children=children)
    assert descendants(process) == []
    assert next(answers, None) is None
