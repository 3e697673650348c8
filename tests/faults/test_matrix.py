"""The quick cut of the fault matrix at each broker; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.external.venues import BROKERS, PLAYED_EACH_TIME
from tests.faults.__main__ import play_matrix
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import said

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.timeout(600),
]
SEED = 1


@pytest.mark.parametrize("broker", PLAYED_EACH_TIME)
def test_the_service_agrees_with_the_brokers_book_whatever_goes_wrong(tmp_path: Path, broker: str) -> None:
    quick = [each for each in SCENARIOS.values() if each.is_quick]
    outcomes = play_matrix(broker, tmp_path, quick, runs=1, seed=SEED)
    assert len(outcomes) > 15
    assert not said(outcomes), said(outcomes)


def test_the_table_has_what_a_reader_expects() -> None:
    assert len(SCENARIOS) >= 60
    assert all(each.says.endswith(".") and any(map(each.is_for, BROKERS)) for each in SCENARIOS.values())
