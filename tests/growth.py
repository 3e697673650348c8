"""How much work something is, without asking a clock that others on the machine move."""

from __future__ import annotations

import cProfile
import gc
import time
from collections.abc import Callable

LINEAR = 2.3
"""Twice as much to do is at most so many times the calls: twice, and what sorting and chance add. With the square of it there are four times."""


def calls(work: Callable[[], object]) -> int:
    """How many calls, of Python and of C, the work makes: the same in each run. What one call into C does by itself it does not see."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())


def least_processor_seconds(work: Callable[[], object], times: int = 3) -> float:
    """The best of some runs, while nobody tidies up after the tests before."""
    gc.disable()
    try:
        return min(_processor_seconds(work) for _ in range(times))
    finally:
        gc.enable()


def _processor_seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
