"""The short cut of `make soak`: twenty seconds of steady orders and faults, and what its judgement of growth is worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.external.soak import Sample, judged, made_up_accounts, slope, soak

pytestmark = [
    # What is ready at this moment, and no waiting, is just what these tests ask for.
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(240),
]


def test_twenty_seconds_of_orders_and_faults_leave_every_order_accounted_for(tmp_path: Path) -> None:
    outcome = soak(tmp_path, seconds=20, rate=10, seed=5, say=print)
    assert not outcome.troubles, outcome.troubles
    assert outcome.orders >= 190
    assert sum(outcome.faults.values()) >= 3
    # Queue ages need a longer run on a machine of one's own: they are judged by `make soak`.
    grown = [line for line in outcome.lines if not line.is_flat and not line.name.startswith("oldest")]
    assert not grown


def test_made_up_accounts_share_a_thread_and_a_file(tmp_path: Path) -> None:
    outcome = made_up_accounts(tmp_path, count=100, seed=6, say=print, watch_seconds=0.0)
    assert outcome.is_well, (outcome.lines, outcome.troubles)


def samples(memory_per_second: float = 0.0, threads_per_second: float = 0.0) -> list[Sample]:
    return [Sample(t, 100 + t * memory_per_second, 50, 20, int(30 + t * threads_per_second), 0.1) for t in range(600)]


def test_a_leak_is_seen_and_a_spike_is_not() -> None:
    assert all(line.is_flat for line in judged(samples()))
    assert [line.name for line in judged(samples(memory_per_second=0.1)) if not line.is_flat] == ["memory, MiB"]
    assert [line.name for line in judged(samples(threads_per_second=0.02)) if not line.is_flat] == ["threads"]
    spiked = samples()
    spiked[450] = Sample(450, 900, 50, 400, 90, 30.0)
    assert all(line.is_flat for line in judged(spiked))


def test_the_slope_is_that_of_most_points() -> None:
    assert slope([(x, 2.0 * x) for x in range(100)]) == 2.0
    assert slope([]) == 0.0
