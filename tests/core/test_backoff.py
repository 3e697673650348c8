"""Pauses after failures: they double, they end growing, and nothing overflows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_service.core.backoff import Backoff

SECONDS = st.floats(min_value=1e-3, max_value=1e6)


def test_each_pause_is_twice_the_one_before_until_the_longest() -> None:
    backoff = Backoff(first_seconds=0.5, longest_seconds=30)
    pauses = [backoff.pause_seconds(failures) for failures in range(9)]
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@given(first=SECONDS, longest=SECONDS, failures=st.integers(0, 10**12))
def test_pauses_never_shrink_and_never_exceed_the_longest(first: float, longest: float, failures: int) -> None:
    first, longest = sorted((first, longest))
    backoff = Backoff(first_seconds=first, longest_seconds=longest)
    assert 0 <= backoff.pause_seconds(failures) <= backoff.pause_seconds(failures + 1) <= longest
    assert backoff.pause_seconds(failures + 1) >= first


@pytest.mark.parametrize(("first", "longest"), [(0, 1), (-1, 1), (2, 1), (float("nan"), 1), (1, float("nan"))])
def test_pauses_that_cannot_grow_are_refused(first: float, longest: float) -> None:
    with pytest.raises(ValueError, match="cannot grow"):
        Backoff(first_seconds=first, longest_seconds=longest)
