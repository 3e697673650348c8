"""The quick cut of kills around single writes of the store: leases, differences, the ledger's lines; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.registry import manifests
from tests.faults.crashes import LEASE_KILLS, play_hand_trade_kills, play_kills_at, play_lease_kills
from tests.faults.stage import said

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.timeout(600),
]
STAND_IN = next(name for name, manifest in manifests().items() if manifest.is_stand_in)


def test_a_kill_between_keeping_the_ledgers_lines_and_the_cursors_books_each_fill_once(tmp_path: Path) -> None:
    outcomes = play_kills_at(STAND_IN, tmp_path, "after ledger_lines.keep#1")
    assert not said(outcomes), said(outcomes)


def test_a_kill_around_the_writing_of_a_difference_leaves_one_row_and_one_alert(tmp_path: Path) -> None:
    crossings = ("after store.insert_discrepancy#1", "before store.save_discrepancy#1")
    outcomes = play_hand_trade_kills(STAND_IN, tmp_path, crossings)
    assert len(outcomes) == len(crossings)
    assert not said(outcomes), said(outcomes)


def test_a_kill_around_the_taking_renewing_and_giving_back_of_leases_leaves_all_with_the_next_process(
    tmp_path: Path,
) -> None:
    kills = [kill for kill in LEASE_KILLS if kill.crossing is not None and kill.crossing.startswith("after")]
    assert len(kills) == 3
    outcomes = play_lease_kills(STAND_IN, tmp_path, kills)
    assert len(outcomes) == 3
    assert not said(outcomes), said(outcomes)
