"""The smallest history that still goes wrong in the same way: steps are left out, halves first (delta debugging), then the world is made plainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.simulation.life import Verdict, replay
from tests.simulation.steps import History, Step

PLAINER: tuple[dict[str, Any], ...] = (
    {"passes_over": 0.0},
    {"shuffles": 0.0},
    {"uses_ordering_keys": False},
    {"is_unique": True},
    {"replicas": 1},
    {"has_leases": False, "replicas": 1},
)
"""Changes of the options, each of which makes a life easier to read."""


def smallest(history: History, *, lives: int = 400, play: Callable[[History], Verdict] = replay) -> History:
    """No step of it can be left out alone without the complaint changing its kind, unless `lives` were not enough. Raises ValueError for a
    history that is sound."""
    kind = play(history).kind
    if not kind:
        raise ValueError("nothing is wrong with this history")
    left = lives

    def is_the_same(candidate: History) -> bool:
        nonlocal left
        if left <= 0:
            return False
        left -= 1
        return play(candidate).kind == kind

    history = _fewer_steps(history, is_the_same)
    for changes in PLAINER:
        plainer = replace(history, options={**history.options, **changes})
        if plainer.options != history.options and is_the_same(plainer):
            history = plainer
    return _fewer_steps(history, is_the_same)


def _fewer_steps(history: History, is_the_same: Callable[[History], bool]) -> History:
    """By Zeller's ddmin, on complements only: what is left out is a run of steps, shorter and shorter."""
    steps: tuple[Step, ...] = history.steps
    size = max(1, len(steps) // 2)
    while steps:
        place, has_shrunk = 0, False
        while place < len(steps):
            fewer = steps[:place] + steps[place + size :]
            if is_the_same(replace(history, steps=fewer)):
                steps, has_shrunk = fewer, True
            else:
                place += size
        if size == 1 and not has_shrunk:
            break
        size = max(1, size // 2)
    return replace(history, steps=steps)
