"""How often a thing is asked again: the rhythm, its bounds, and what wakes it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_service.core.orders.repetition import (
    CANCELS,
    DAY_SECONDS,
    FINDS,
    HOUR_SECONDS,
    RepeatSchedule,
    RequestHistory,
)

NIGHT_SECONDS = 14 * HOUR_SECONDS


def asked_for(seconds: float, rhythm: RepeatSchedule, *, news_every: float | None = None) -> list[float]:
    """When it is asked, by one who asks as soon as he may."""
    asked, now, moments, next_news = RequestHistory(), 0.0, list[float](), news_every
    while now < seconds:
        wait = asked.wait_seconds(rhythm, now)
        if wait == 0:
            asked = asked.with_request(now)
            moments.append(now)
        elif next_news is not None and next_news <= now + wait:
            now, next_news = max(now, next_news), next_news + (news_every or 0.0)
            asked = asked.with_pauses_reset()
        else:
            now += wait
    return moments


def test_a_cancel_that_is_never_answered_is_asked_for_more_and_more_rarely() -> None:
    moments = asked_for(NIGHT_SECONDS, CANCELS)
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert pauses[:9] == [2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 3_600.0]
    assert len(moments) == 21


def test_a_doubtful_order_is_looked_for_more_and_more_rarely() -> None:
    moments = asked_for(NIGHT_SECONDS, FINDS)
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert pauses[:8] == [5.0, 30.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 3_600.0]
    assert len(moments) == 20


@pytest.mark.parametrize("rhythm", [CANCELS, FINDS])
@given(news_every=st.floats(20, 10_000))
def test_no_news_however_frequent_breaks_the_bounds(rhythm: RepeatSchedule, news_every: float) -> None:
    moments = asked_for(26 * HOUR_SECONDS, rhythm, news_every=news_every)
    for most, seconds in ((rhythm.an_hour, HOUR_SECONDS), (rhythm.a_day, DAY_SECONDS)):
        for first, later in zip(moments, moments[most:], strict=False):
            assert later - first >= seconds - 1e-6
    assert all(b - a >= rhythm.pauses_seconds[0] - 1e-6 for a, b in itertools.pairwise(moments))


def test_the_bounds_are_these() -> None:
    assert (CANCELS.an_hour, CANCELS.a_day) == (12, 30)
    assert (FINDS.an_hour, FINDS.a_day) == (12, 30)
    assert (HOUR_SECONDS, DAY_SECONDS) == (60 * 60, 24 * 60 * 60)


def test_after_news_it_is_asked_soon_again_and_then_rarely_again() -> None:
    asked = RequestHistory()
    for now in (0.0, 2.0, 7.0, 22.0, 82.0):
        asked = asked.with_request(now)
    assert asked.wait_seconds(CANCELS, 90.0) == 292.0
    woken = asked.with_pauses_reset()
    assert woken.wait_seconds(CANCELS, 90.0) == 0.0
    assert woken.wait_seconds(CANCELS, 83.0) == 1.0, "not at once after the last"
    again = woken.with_request(90.0)
    assert again.wait_seconds(CANCELS, 90.0) == 2.0
    assert again.with_request(92.0).wait_seconds(CANCELS, 92.0) == 5.0
    assert again.count == 6


def test_what_did_not_leave_does_not_count() -> None:
    once = RequestHistory().with_request(0.0)
    assert once.with_request(2.0).without_latest() == once
    assert RequestHistory().with_request(0.0).without_latest() == RequestHistory()
    assert once.with_request(2.0).with_pauses_reset().without_latest().since_change == 0


def test_only_the_last_day_is_remembered() -> None:
    asked = RequestHistory().with_request(0.0).with_request(DAY_SECONDS - 1.0)
    assert asked.moments == (0.0, DAY_SECONDS - 1.0)
    assert asked.with_request(DAY_SECONDS).moments == (DAY_SECONDS - 1.0, DAY_SECONDS)
    assert asked.latest == DAY_SECONDS - 1.0
    assert RequestHistory().latest is None
    assert RequestHistory().with_request(1.0).with_request(2.0).with_request(3.0).latest == 3.0
    assert RequestHistory().with_request(1.0).latest == 1.0
