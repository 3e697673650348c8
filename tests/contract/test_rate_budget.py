"""How the rate budget lets calls go: never too many, in their order, urgent ones first."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.rate import BudgetSpent, CallPriority, RateBudget, RateLimit, limits


class HandClock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def budget(clock: HandClock, *limits: RateLimit) -> RateBudget:
    return RateBudget(limits, clock=clock, sleep=clock.sleep)


async def test_calls_within_the_limit_leave_at_once() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=3, seconds=1.0))
    for _ in range(3):
        await calls.take()
    assert clock.now == 0.0
    await calls.take()
    assert clock.now == pytest.approx(1.0)


@given(
    st.lists(st.floats(min_value=0, max_value=3), min_size=1, max_size=60),
    st.integers(min_value=1, max_value=5),
    st.integers(min_value=5, max_value=12),
)
async def test_no_window_ever_holds_more_than_its_limit(pauses: list[float], per_second: int, per_ten: int) -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=per_second, seconds=1.0), RateLimit(calls=per_ten, seconds=10.0))
    left = []
    for pause in pauses:
        clock.now += pause
        await calls.take()
        left.append(clock.now)
    for limit, seconds in ((per_second, 1.0), (per_ten, 10.0)):
        for first, later in zip(left, left[limit:], strict=False):
            assert later - first >= seconds - 1e-9


async def test_waiting_calls_keep_their_order() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=1, seconds=1.0))
    gone: list[int] = []

    async def call(number: int) -> None:
        await calls.take()
        gone.append(number)

    await asyncio.gather(*(call(number) for number in range(20)))
    assert gone == list(range(20))
    assert clock.now == pytest.approx(19.0)


async def test_the_reserve_is_for_urgent_calls_alone() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=4, seconds=1.0, reserve=2))
    for _ in range(2):
        await calls.take()
    with pytest.raises(BudgetSpent):
        await calls.take(patience_seconds=0.5)
    for _ in range(2):
        await calls.take(CallPriority.CANCEL)
    assert clock.now == 0.0
    with pytest.raises(BudgetSpent):
        await calls.take(CallPriority.EXIT, patience_seconds=0.5)


async def test_exits_have_the_last_call() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=6, seconds=1.0, reserve=3, for_exits=2))
    for claim, most in (
        (CallPriority.REPEATED, 3),
        (CallPriority.ORDINARY, 0),
        (CallPriority.CANCEL, 1),
        (CallPriority.EXIT, 2),
    ):
        for _ in range(most):
            await calls.take(claim, patience_seconds=0.5)
        with pytest.raises(BudgetSpent):
            await calls.take(claim, patience_seconds=0.5)


async def test_repetitions_have_a_share_of_their_own_and_no_more() -> None:
    clock = HandClock()
    (second, day) = limits(per_second=100, per_day=45, reserve_percent=20)
    assert (day.reserve, day.for_exits, day.repeated) == (9, 5, 9)
    calls = budget(clock, second, day)
    for claim, rest in (
        (CallPriority.REPEATED, 9),
        (CallPriority.ORDINARY, 36 - 9),
        (CallPriority.CANCEL, 4),
        (CallPriority.EXIT, 5),
    ):
        for _ in range(rest):
            await calls.take(claim, patience_seconds=1.0)
        with pytest.raises(BudgetSpent):
            await calls.take(claim, patience_seconds=1.0)


@pytest.mark.parametrize("per_day", [1, 2, 3, 5, 45])
def test_however_few_calls_there_are_an_exit_may_have_the_last(per_day: int) -> None:
    (_, day) = limits(per_second=8, per_day=per_day, reserve_percent=20)
    allowed = [day.allowed(claim) for claim in CallPriority]
    assert allowed == sorted(allowed, reverse=True)
    assert day.allowed(CallPriority.EXIT) == per_day
    assert day.allowed(CallPriority.ORDINARY) >= 1
    assert per_day == 1 or day.allowed(CallPriority.CANCEL) < per_day


async def test_a_call_may_wait_for_those_before_it_for_a_limited_time_only() -> None:
    calls = RateBudget([RateLimit(calls=1, seconds=5.0)])
    await calls.take(CallPriority.CANCEL)
    before = asyncio.create_task(calls.take(CallPriority.CANCEL))
    await asyncio.sleep(0)
    with pytest.raises(BudgetSpent):
        await calls.take(CallPriority.CANCEL, patience_seconds=60.0, queues_seconds=0.05)
    before.cancel()
    await asyncio.gather(before, return_exceptions=True)


async def test_an_urgent_call_overtakes_those_that_wait() -> None:
    calls = RateBudget([RateLimit(calls=2, seconds=0.3, reserve=1)])
    await calls.take()
    gone: list[str] = []

    async def call(name: str, claim: CallPriority) -> None:
        await calls.take(claim)
        gone.append(name)

    waiting = [asyncio.create_task(call(name, CallPriority.ORDINARY)) for name in ("first", "second")]
    await asyncio.sleep(0)
    await call("cancel", CallPriority.CANCEL)
    assert gone == ["cancel"]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_call_without_patience_is_told_how_long_it_would_take_and_is_not_counted() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=1, seconds=10.0))
    await calls.take()
    for _ in range(3):
        with pytest.raises(BudgetSpent) as spent:
            await calls.take(patience_seconds=5.0)
        assert spent.value.wait_seconds == pytest.approx(10.0)
    clock.now = 10.0
    await calls.take(patience_seconds=0.0)


async def test_a_call_given_up_while_waiting_lets_the_next_one_go() -> None:
    calls = RateBudget([RateLimit(calls=1, seconds=0.2)])
    await calls.take()
    given_up = asyncio.create_task(calls.take())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(calls.take())
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait_for(waiting, 5.0)
    assert given_up.cancelled()


async def test_a_pause_holds_all_calls_back() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=100, seconds=1.0))
    calls.pause(3.0)
    await calls.take(CallPriority.EXIT)
    assert clock.now == pytest.approx(3.0)


def test_more_for_exits_than_is_kept_back_is_refused() -> None:
    with pytest.raises(ValueError, match="for_exits"):
        RateLimit(calls=5, seconds=1.0, reserve=1, for_exits=2)
    with pytest.raises(ValueError, match="repeated"):
        RateLimit(calls=5, seconds=1.0, repeated=0)


@pytest.mark.parametrize(("count", "seconds", "reserve"), [(0, 1.0, 0), (1, 0.0, 0), (2, 1.0, 2), (2, 1.0, -1)])
def test_a_limit_that_lets_nothing_go_is_refused(count: int, seconds: float, reserve: int) -> None:
    with pytest.raises(ValueError, match="rate limit"):
        RateLimit(calls=count, seconds=seconds, reserve=reserve)


def test_limits_may_be_given_in_any_number() -> None:
    for some in itertools.combinations([RateLimit(calls=1, seconds=1.0), RateLimit(calls=2, seconds=60.0)], 2):
        assert isinstance(RateBudget(some), RateBudget)


async def test_calls_of_an_earlier_process_count_until_they_have_left_the_window() -> None:
    clock = HandClock()
    calls = budget(clock, RateLimit(calls=2, seconds=1.0), RateLimit(calls=4, seconds=60.0, reserve=1))
    await calls.take()
    clock.now = 100.0
    calls.remember([59.0, 0.5, 70.0, -5.0])
    assert calls.wait_seconds(CallPriority.EXIT) == pytest.approx(0.5)
    assert calls.wait_seconds() == pytest.approx(1.0)
    await calls.take()
    assert clock.now == pytest.approx(101.0)
