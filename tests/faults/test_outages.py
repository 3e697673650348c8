"""The quick cut of the outages at each broker; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.external.venues import PLAYED_EACH_TIME
from tests.faults.outages import play_outages, quick_outages
from tests.faults.stage import said

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("broker", [broker for broker in PLAYED_EACH_TIME if quick_outages(broker)])
def test_an_outage_loses_nothing_and_doubles_nothing(tmp_path: Path, broker: str) -> None:
    outcomes = play_outages(broker, tmp_path, quick_outages(broker))
    assert len(outcomes) == len(quick_outages(broker)) + 1
    assert not said(outcomes), said(outcomes)
