"""The quick cut of kills and freezes among several processes, at the brokers with a gateway; the whole is `make faults`, and at the mock broker more
of it is in `tests/external/test_replica_processes.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.replicas import Deed, play_replicas, rounds_of
from tests.faults.stage import said

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.timeout(400),
]
SEED = 1


@pytest.mark.parametrize("broker", ["ibkr", "zerodha"])
def test_one_placement_a_signal_when_the_holder_is_killed_or_frozen(tmp_path: Path, broker: str) -> None:
    outcomes = play_replicas(broker, tmp_path, 2, rounds=2, seed=SEED)
    assert len(outcomes) == 3
    assert not said(outcomes), said(outcomes)
    assert all(each.take_over_seconds > 0 for each in outcomes if each.is_run)


def test_the_same_seed_gives_the_same_rounds_and_every_deed() -> None:
    assert rounds_of(6, "1") == rounds_of(6, "1") != rounds_of(6, "2")
    assert {each.deed for each in rounds_of(2, "1")} == set(Deed)
