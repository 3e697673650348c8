"""The quick cut of the crash matrix at each broker; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.registry import manifests
from tests.external.venues import PLAYED_EACH_TIME
from tests.faults.crashes import MultipartJourney, play_kills, play_kills_at
from tests.faults.stage import said

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.timeout(600),
]
CRASH_POINTS = {True: 8, False: 3}
"""At the broker that stands in for all, and at the others."""
SEED = 1


@pytest.mark.parametrize("broker", PLAYED_EACH_TIME)
def test_a_kill_at_any_crossing_of_a_port_leaves_one_order_a_signal(tmp_path: Path, broker: str) -> None:
    outcomes = play_kills(broker, tmp_path, points=CRASH_POINTS[manifests()[broker].is_stand_in], rounds=0, seed=SEED)
    assert len(outcomes) == CRASH_POINTS[manifests()[broker].is_stand_in] + 1
    assert all(each.scenario.startswith("killed ") for each in outcomes if each.is_run)
    assert not said(outcomes), said(outcomes)


def test_a_kill_between_intent_and_sending_leaves_doubt_until_a_person_decides(tmp_path: Path) -> None:
    (outcome,) = play_kills_at("zerodha", tmp_path, "before broker.place_order#1")
    assert outcome.scenario == "killed before broker.place_order"
    assert not said([outcome]), said([outcome])
    # The entry never arrived, so its exit was refused; the others went their way once, after the doubt. That of the other instrument may have
    # been on its way like the entry.
    assert outcome.placed[:4] == [0, 0, 1, 1]


def test_a_kill_around_the_sending_at_ibkr_leaves_one_order_a_signal_though_others_wait(tmp_path: Path) -> None:
    outcomes = play_kills_at("ibkr", tmp_path, "before broker.place_order#1", "after broker.place_order#1")
    assert not said(outcomes), said(outcomes)
    assert [each.placed for each in outcomes] == [[1] * 5] * 2


def test_a_kill_around_the_sending_of_a_combination_leaves_all_of_its_legs_or_none(tmp_path: Path) -> None:
    crossings = ("before broker.place_combined#1", "after broker.place_combined#1")
    outcomes = play_kills_at("ibkr", tmp_path, *crossings, journey=MultipartJourney)
    assert not said(outcomes), said(outcomes)
    # Four icebergs, and four combinations of two legs. Which of these is the first to leave depends on which message came first.
    assert [sum(each.placed) for each in outcomes] == [4 + 2 * 3, 4 + 2 * 4]
    assert [each.doubts for each in outcomes] == [2, 0]


def test_a_kill_among_the_parts_of_an_iceberg_leaves_it_once_with_all_that_has_filled(tmp_path: Path) -> None:
    crossings = ("before store.append#4", "after store.append#6", "after broker.place_order#2")
    outcomes = play_kills_at("zerodha", tmp_path, *crossings, journey=MultipartJourney)
    assert not said(outcomes), said(outcomes)
    # What was on its way when the process died may never have arrived: a person has said so.
    assert all(4 - each.doubts <= sum(each.placed) <= 4 for each in outcomes), [each.placed for each in outcomes]
