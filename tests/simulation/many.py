"""Many lives, by several processes."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator

from tests.simulation.life import replay

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
