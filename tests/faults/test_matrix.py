"""The quick cut of the fault matrix at each broker; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.external.venues import BROKERS, PLAYED_EACH_TIME
from tests.faults.__main__ import play_matrix
from tests.faults.scenarios import LEFT_OUT, SCENARIOS
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


def test_what_is_left_out_somewhere_is_left_out_by_name_and_with_its_reason() -> None:
    for broker in BROKERS:
        left_out = {each.name: each.why_not(broker) for each in SCENARIOS.values() if not each.is_for(broker)}
        assert all(left_out.values())
        assert LEFT_OUT.get(broker, {}).keys() <= left_out.keys()
        assert len(left_out) < len(SCENARIOS) / 2, f"at {broker} little is played: {sorted(left_out)}"
