"""The quick cut of the fault matrix and of the crash matrix, at each broker; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.external.venues import BROKERS
from tests.faults.__main__ import play_crashes, play_matrix
from tests.faults.outages import QUICK_OUTAGES, play_outages
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Outcome

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.timeout(600),
]
CRASH_POINTS = {"mock": 8, "ibkr": 3, "zerodha": 3}
SEED = 1


def said(outcomes: list[Outcome]) -> str:
    return "\n".join(f"{each.scenario} at {each.broker}: {'; '.join(each.wrong)}" for each in outcomes if each.wrong)


@pytest.mark.parametrize("broker", BROKERS)
def test_the_service_agrees_with_the_brokers_book_whatever_goes_wrong(tmp_path: Path, broker: str) -> None:
    quick = [each for each in SCENARIOS.values() if each.is_quick]
    outcomes = play_matrix(broker, tmp_path, quick, runs=1, seed=SEED)
    assert len(outcomes) > 15
    assert not said(outcomes), said(outcomes)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_kill_at_any_crossing_of_a_port_leaves_one_order_a_signal(tmp_path: Path, broker: str) -> None:
    outcomes = play_crashes(broker, tmp_path, wanted=CRASH_POINTS[broker], rounds=0, seed=SEED)
    assert len(outcomes) == CRASH_POINTS[broker]
    assert all(each.scenario.startswith("killed ") for each in outcomes)
    assert not said(outcomes), said(outcomes)


@pytest.mark.parametrize("broker", BROKERS)
def test_an_outage_loses_nothing_and_doubles_nothing(tmp_path: Path, broker: str) -> None:
    outcomes = play_outages(broker, tmp_path, QUICK_OUTAGES[broker])
    assert len(outcomes) == len(QUICK_OUTAGES[broker]) + 1
    assert not said(outcomes), said(outcomes)


def test_the_table_has_what_a_reader_expects() -> None:
    assert len(SCENARIOS) >= 60
    assert all(each.says.endswith(".") and each.brokers for each in SCENARIOS.values())
