"""Lives many seeds on all cores, says how fast and which went wrong, and shortens one failing history of each kind.

python -m tests.simulation                        the seeds from 0 on
python -m tests.simulation --replay 4711          one life, with what happened in it
python -m tests.simulation --history FILE         a history that was written down
python -m tests.simulation --shrink 4711          its smallest history
python -m tests.simulation --planted              within how many seeds each fault is found that the service once had
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

from tests.simulation.judge import without_numbers
from tests.simulation.life import replay
from tests.simulation.many import all_of, found_by
from tests.simulation.shrink import smallest
from tests.simulation.steps import History, draw

SAID_EVERY_SECONDS = 10.0
SHOWN_SEEDS = 8


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "1000")), help="how many lives")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shortest", type=int, default=0, metavar="N", help="shorten a history of N kinds of failures")
    parser.add_argument("--replay", type=int, metavar="SEED")
    parser.add_argument("--shrink", type=int, metavar="SEED")
    parser.add_argument("--history", type=Path, metavar="FILE")
    parser.add_argument("--planted", action="store_true")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if chosen.shrink is not None:
        print(smallest(draw(chosen.shrink)).to_json())
        return 0
    if chosen.history is not None:
        return _show(History.from_json(chosen.history.read_text(encoding="utf-8")))
    if chosen.replay is not None:
        return _show(draw(chosen.replay))
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    return _planted(seeds, chosen.processes) if chosen.planted else _many(seeds, chosen.processes, chosen.shortest)


def _planted(seeds: range, processes: int) -> int:
    """1 if one of the faults is not found."""
    missed = 0
    for name, found in found_by(seeds, processes):
        missed += found is None
        words = "found by none" if found is None else f"found by the {found[0] - seeds.start + 1}. seed: {found[1]}"
        print(f"{name}: {words}", flush=True)
    return 1 if missed else 0


def _show(history: History) -> int:
    verdict = replay(history)
    print(history.to_json())
    print("\n".join(verdict.trace))
    for complaint in verdict.complaints:
        print(f"!! {complaint}")
    print(f"{len(verdict.trace)} lines, {verdict.steps} steps of the loop, {verdict.fingerprint}")
    return 0 if verdict.is_sound else 1


def _many(seeds: range, processes: int, shortest: int) -> int:
    failures: dict[str, list[int]] = defaultdict(list)
    failed = 0
    began = said = time.monotonic()
    done = 0
    for seed, complaints, _ in all_of(
        seeds, processes
    ):  # each kind is said when it is met first, for the rest takes its time
        done += 1
        failed += bool(complaints)
        for kind in sorted({without_numbers(c) for c in complaints}):
            if kind not in failures:
                print(f"seed {seed}: {kind}", flush=True)
            failures[kind].append(seed)
        if time.monotonic() - said > SAID_EVERY_SECONDS:
            said = time.monotonic()
            print(f"{done} of {len(seeds)} lives, {done / (said - began):.1f} a second, {failed} failed", flush=True)
    print(f"{done} lives in {time.monotonic() - began:.0f} s, {done / (time.monotonic() - began):.1f} a second")
    for kind, some in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"{len(some):6} {kind}")
        print(f"       {sys.executable} -m tests.simulation --replay N, with N of {sorted(some)[:SHOWN_SEEDS]}")
    for kind in [*failures][:shortest]:
        history = smallest(draw(min(failures[kind])))
        print(f"\n{kind}\n{history.to_json()}")
    if not failures:
        print("None failed.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
