"""The matcher compiled by numba, where that is installed: the very functions of `kernel`, over arrays. Loaded by name, and only when it is wanted."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, MutableSequence
from types import FunctionType
from typing import Any

import numba
import numpy

from simulation.matching import kernel
from simulation.matching.kernel import Bars, Fills, Orders, Rules

_FUNCTIONS = (
    "end", "take", "at_open", "is_due_at", "level_of", "path_key", "path_of", "inside", "split", "begin_bar", "end_bar_from", "end_bar",
    "arrived", "match", "expire",
)  # fmt: skip


def _compiled() -> Mapping[str, Any]:
    """Copies whose names mean the compiled ones, so that the plain functions stay as they are."""
    names: dict[str, Any] = {k: v for k, v in vars(kernel).items() if isinstance(v, int)}
    names["__builtins__"] = __builtins__
    names["__name__"] = kernel.__name__
    for name in _FUNCTIONS:
        plain = getattr(kernel, name)
        names[name] = numba.njit(FunctionType(plain.__code__, names, name), cache=True)
    return names


_COMPILED = _compiled()
_MATCH = _COMPILED["match"]
expire = _COMPILED["expire"]
"""As `kernel.expire`."""


def largest(columns: Iterable[array[int]]) -> int:
    """Of all figures in them; 0: there are none."""
    return max((int(numpy.asarray(column).max(initial=0)) for column in columns), default=0)


def match(
    first: int,
    last: int,
    active: MutableSequence[int],
    reached: MutableSequence[int],
    keys: MutableSequence[int],
    bars: Bars,
    orders: Orders,
    held: MutableSequence[int],
    rules: Rules,
    fills: Fills,
    state: MutableSequence[int],
    money: None,
    impact: None,
) -> int:
    """As `kernel.match`. Every column is an `array("q")`, or of numpy: it is read and written where it is."""
    at: Any = numpy.asarray
    stopped = _MATCH(
        first, last, at(active), at(reached), at(keys), Bars(*map(at, bars)), Orders(*map(at, orders)), at(held), rules,
        Fills(*map(at, fills)), at(state), None, None,
    )  # fmt: skip
    return int(stopped)
