"""What placing an order feels of those who read the API: one order at a time, with and without boards that read at a steady rate."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from benchmarks.figures import Figure, Say, median, milliseconds, percentile
from benchmarks.traffic import MANY_LANES, ONE_LANE, MeasurementFailed, order_messages
from benchmarks.worlds import REPOSITORY, Service

READS_A_SECOND = 200
MOST_TIMES_WITHOUT = 1.2
_SINGLES_A_PAIR = 20
_LEAST_PAIRS = 5
_WARM_UP_ORDERS = 100
_WARM_UP_SINGLES = 5
_SETTLING_SECONDS = 1.5
_LEAST_SHARE_ANSWERED = 0.75


def measure_api_reads(folder: Path, pairs: int, say: Say) -> list[Figure]:
    """Publish call to confirmation, by turns without and with the readers. Raises MeasurementFailed."""
    turns = max(pairs, _LEAST_PAIRS)
    without: list[list[float]] = []
    beside: list[list[float]] = []
    reads = 0.0
    with Service(folder) as service:
        service.start()
        service.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        _singles(service, _WARM_UP_SINGLES)
        time.sleep(_SETTLING_SECONDS)
        for turn in range(turns):
            say(f"placing beside {READS_A_SECOND} reads a second, pair {turn + 1} of {turns}")
            without.append(_singles(service, _SINGLES_A_PAIR))
            with _readers(service) as readers:
                time.sleep(_SETTLING_SECONDS)
                before = service.processor_time()
                began, answered = time.perf_counter(), readers.answered()
                time.sleep(_SETTLING_SECONDS)
                used = service.processor_time().since(before)
                reads += used.total / max(1, readers.answered() - answered)
                beside.append(_singles(service, _SINGLES_A_PAIR))
                rate = (readers.answered() - answered) / (time.perf_counter() - began)
            if rate < READS_A_SECOND * _LEAST_SHARE_ANSWERED:
                raise MeasurementFailed(f"only {rate:.0f} reads a second were answered: too little to tell anything")
    ratios = tuple(median(one) / median(other) for one, other in zip(beside, without, strict=True))
    all_beside, all_without = list(chain(*beside)), list(chain(*without))
    return [
        Figure(
            name=f"one order beside {READS_A_SECOND} reads of the API a second, publish to confirmation",
            ours=f"{milliseconds(median(all_beside))}, p95 {milliseconds(percentile(all_beside, 0.95))}",
            base=f"without {milliseconds(median(all_without))}, p95 {milliseconds(percentile(all_without, 0.95))}",
            pairs=ratios,
            target=f"at most {MOST_TIMES_WITHOUT} times the median without",
            is_met=median(ratios) <= MOST_TIMES_WITHOUT,
            note=f"{len(all_beside)} orders each, by turns; a read costs the service's process {milliseconds(reads / turns)} of processor time",
            raw={"seconds": beside, "seconds_without": without},
        )
    ]


def _singles(service: Service, count: int) -> list[float]:
    return [service.traffic.one(message) for message in order_messages(count, ONE_LANE)]


class _Readers:
    """The process that reads, and what it says of itself."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self._process = process
        self._said = said

    def answered(self) -> int:
        """How many reads were answered so far. Raises MeasurementFailed."""
        whole = self._said.read_text().rpartition("\n")[0].splitlines()
        if self._process.poll() is not None:
            raise MeasurementFailed("the readers of the API have ended")
        if not whole:
            return 0
        answered, failed, _ = whole[-1].split()
        if int(failed):
            raise MeasurementFailed(f"{failed} reads were not answered with 200")
        return int(answered)


@contextlib.contextmanager
def _readers(service: Service) -> Iterator[_Readers]:
    said = service.folder / "readers.txt"
    command = [sys.executable, "-m", "benchmarks.readers", service.api, str(READS_A_SECOND)]
    with open(said, "wb") as sink:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=sink, start_new_session=True
        )
    try:
        yield _Readers(process, said)
    finally:
        process.kill()
        process.wait()
