"""Many lives, by several processes."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.pool
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest

from tests.simulation.life import Verdict, replay
from tests.simulation.planted import PLANTED
from tests.simulation.steps import History

AT_ONCE = 5


class Lived(NamedTuple):
    """What came of one life of many."""

    seed: int
    complaints: tuple[str, ...]
    processor_seconds: float = 0.0


def played(life: int | History) -> Verdict:
    """As `replay`; what breaks the simulation is a finding like any other."""
    logging.disable(logging.CRITICAL)
    try:
        return replay(life)
    except Exception as exc:  # noqa: BLE001  whatever it was
        seed = life if isinstance(life, int) else life.seed
        return Verdict(seed, (f"simulation broke: {type(exc).__name__}: {exc}",), (), 0)


def live_of(seed: int) -> Lived:
    began = time.process_time()
    complaints = played(seed).complaints
    return Lived(seed, complaints, time.process_time() - began)


def all_of(seeds: range, processes: int) -> Iterator[Lived]:
    """As they come."""
    if processes == 1:
        yield from map(live_of, seeds)
        return
    with _pool(processes, lives_each=2000) as pool:
        yield from pool.imap_unordered(live_of, seeds, chunksize=AT_ONCE)


def _pool(processes: int, *, lives_each: int) -> multiprocessing.pool.Pool:
    """An interrupt from the keyboard ends them from here, after what was found has been said."""
    context = multiprocessing.get_context("spawn")
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return context.Pool(processes, initializer=ignore, maxtasksperchild=lives_each)


def first_that_finds(name: str, seeds: range) -> tuple[str, tuple[int, str] | None]:
    """The planted fault's name, and the first of these lives that complains while it is there, with what it says."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name](patch)
        for seed in seeds:
            complaints = played(seed).complaints
            if complaints:
                return name, (seed, complaints[0])
    return name, None


def found_by(seeds: range, processes: int) -> Iterator[tuple[str, tuple[int, str] | None]]:
    """For each planted fault, as they come."""
    with _pool(processes, lives_each=1) as pool:
        yield from pool.imap_unordered(partial(first_that_finds, seeds=seeds), PLANTED, chunksize=1)
