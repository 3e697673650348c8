"""The matcher compiled by numba, where that is installed: the very functions of `kernel`, over arrays. Loaded by name, and only when it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from types import FunctionType
from typing import Any

import numba
import numpy

from simulation.matching import kernel
from simulation.matching.kernel import Bars, Fills, Orders, Rules

_FUNCTIONS = (
    "end", "take", "at_open", "is_due_at", "level_of", "path_key", "path_of", "inside", "begin_bar", "end_bar", "arrived", "match",
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


_MATCH = _compiled()["match"]


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
    """As `kernel.match`, from lists to lists: what it changes is written back."""
    changed: list[Any] = [active, reached, keys, held, state, *orders, *fills]
    arrays: dict[int, Any] = {id(column): numpy.array(column, dtype=numpy.int64) for column in changed}
    fixed: list[Any] = [numpy.array(column, dtype=numpy.int64) for column in bars]
    stopped = _MATCH(
        first, last, arrays[id(active)], arrays[id(reached)], arrays[id(keys)], Bars(*fixed),
        Orders(*(arrays[id(column)] for column in orders)), arrays[id(held)], rules,
        Fills(*(arrays[id(column)] for column in fills)), arrays[id(state)], None, None,
    )  # fmt: skip
    for column in changed:
        column[:] = arrays[id(column)].tolist()
    return int(stopped)
