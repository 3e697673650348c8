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
from tests.simulation.many import all_of, found_by, played
from tests.simulation.shrink import smallest
from tests.simulation.steps import History, draw

SAID_EVERY_SECONDS = 10.0
SHOWN_SEEDS = 8


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", "1000")), help="how many lives")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shortest", type=int, default=2, metavar="N", help="shorten a history of N kinds of failures")
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
    """1 if a life failed. What was found before an interrupt is said, too."""
    failures: dict[str, list[int]] = defaultdict(list)
    done, failed, processor_seconds = 0, 0, 0.0
    began = said = time.monotonic()
    try:
        for lived in all_of(seeds, processes):
            done += 1
            failed += bool(lived.complaints)
            processor_seconds += lived.processor_seconds
            for kind in sorted({without_numbers(c) for c in lived.complaints}):
                if kind not in failures:  # at once, for the rest takes its time
                    print(f"seed {lived.seed}: {kind}", flush=True)
                failures[kind].append(lived.seed)
            if time.monotonic() - said > SAID_EVERY_SECONDS:
                said = time.monotonic()
                print(
                    f"{done} of {len(seeds)} lives, {done / (said - began):.1f} a second, {failed} failed", flush=True
                )
    except KeyboardInterrupt:
        print(f"interrupted after {done} of {len(seeds)} lives")
    took = max(time.monotonic() - began, 1e-9)
    by_processor = done / max(processor_seconds, 1e-9)
    print(
        f"{done} lives in {took:.0f} s: {done / took:.1f} a second, {by_processor:.1f} for each second of processor time"
    )
    for kind, some in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"{len(some):6} {kind}")
        print(f"       {sys.executable} -m tests.simulation --replay N, with N of {sorted(some)[:SHOWN_SEEDS]}")
    for kind in [*failures][:shortest]:
        seed = min(failures[kind])
        print(f"\n{kind}\nthe smallest history of seed {seed} that goes wrong so (for --history):", flush=True)
        print(smallest(draw(seed), play=played).to_json())
    if not failures:
        print("None failed.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
