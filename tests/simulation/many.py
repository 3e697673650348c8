"""Many lives, by several processes."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from functools import partial

import pytest

from tests.simulation.life import replay
from tests.simulation.planted import PLANTED

AT_ONCE = 5


def live_of(seed: int) -> tuple[int, tuple[str, ...], int]:
    logging.disable(logging.CRITICAL)
    try:
        verdict = replay(seed)
    except Exception as exc:  # noqa: BLE001  what breaks the simulation is a finding like any other
        return seed, (f"simulation broke: {type(exc).__name__}: {exc}",), 0
    return seed, verdict.complaints, verdict.steps


def all_of(seeds: range, processes: int) -> Iterator[tuple[int, tuple[str, ...], int]]:
    """As they come: seed, complaints, steps of the loop."""
    if processes == 1:
        yield from map(live_of, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=2000) as pool:
        yield from pool.imap_unordered(live_of, seeds, chunksize=AT_ONCE)


def first_that_finds(name: str, seeds: range) -> tuple[str, tuple[int, str] | None]:
    """The planted fault's name, and the first of these lives that complains while it is there, with what it says."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name](patch)
        for seed in seeds:
            _, complaints, _ = live_of(seed)
            if complaints:
                return name, (seed, complaints[0])
    return name, None


def found_by(seeds: range, processes: int) -> Iterator[tuple[str, tuple[int, str] | None]]:
    """For each planted fault, as they come."""
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(partial(first_that_finds, seeds=seeds), PLANTED, chunksize=1)
