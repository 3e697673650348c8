"""A broker that is not part of this distribution is played with the same scenarios: its package is on Python's path, and that is all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.external.forked import REPOSITORY

pytestmark = pytest.mark.timeout(300)
TOY = Path(__file__).parents[1] / "contract" / "toy_broker"
SOME = ("acknowledgement_lost_and_filled", "late_rejection", "late_commission", "a_round_trip_in_three_instruments")


def test_scenarios_are_played_at_a_broker_of_another_distribution() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults", "--broker", "toy"]
    for name in SOME:
        command += ["--only", name]
    environment = {**os.environ, "PYTHONPATH": str(TOY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(SOME)} runs, 0 disagree" in done.stdout
