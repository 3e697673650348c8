"""`make kills`: kill -9 of the service with its embedded store over and over, from its first moment on and in steady work; every start has to
succeed, and in the end nothing is lost and nothing was placed twice."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from tests.external.long_run import ending_with_all
from tests.external.service_process import (
    Listener,
    Service,
    assert_everything_agrees,
    embedded_address,
    make_orders,
    wait_until_settled,
)

KILLS = 150
KILLS_OF_A_PLACE = 15
"""Then a new one is begun, so that stores that are being made are killed too."""
SEED = 1
NEW_STORE_SHARE = 0.4
"""So many of a place's kills come first, before it has ever been ready."""
START_SHARE = 0.4
"""So many of the others strike a start on data that are there."""
WORK_SECONDS = 3.0
ORDERS_OF_A_LIFE = 12
LONGER_THAN_A_START = 1.15
SETTLED_SECONDS = 180.0
TOLD_SECONDS = 1.0
"""For the listener's last pull."""


class Victim(StrEnum):
    SERVICE = "the service"
    """Its guardian then ends the store."""
    ALL = "all at once"
    """The service, its store, its Pub/Sub, its guardian: as when the power fails, but for what the operating system still has to write."""


class While(StrEnum):
    MAKING = "while the store is made"
    STARTING = "in a start"
    WORKING = "at work"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    while_: While
    victim: Victim
    share: float
    """Of a start, or of the time at work, that has passed: 0 to 1."""


@dataclass(slots=True)
class Outcome:
    kills: Counter[str] = field(default_factory=Counter)
    orders: int = 0
    starts: int = 0
    longest_start_seconds: float = 0.0
    troubles: list[str] = field(default_factory=list)


def planned(count: int, seed: str) -> Iterator[Kill]:
    """Of one place; the same for the same seed."""
    luck = random.Random(seed)
    first = round(count * NEW_STORE_SHARE)
    for number in range(count):
        is_start = number < first or luck.random() < START_SHARE
        while_ = While.MAKING if number < first else While.STARTING if is_start else While.WORKING
        yield Kill(while_=while_, victim=luck.choice(list(Victim)), share=luck.random())


class Place:
    """One data folder, and the lives of the service in it."""

    def __init__(self, service: Service, listener: Listener, seed: int, outcome: Outcome, start_seconds: float) -> None:
        """`start_seconds`: about so long a start takes here."""
        self._service = service
        self._listener = listener
        self._seed = seed
        self._outcome = outcome
        self._start_seconds = start_seconds
        self._asked: list[dict[str, Any]] = []

    def die(self, kill: Kill) -> None:
        """One life, to its end. Raises AssertionError where it ended by itself, or did not get ready."""
        service = self._service
        if kill.while_ is While.WORKING:
            self._start()
            self._publish(ORDERS_OF_A_LIFE)
            self._wait(kill.share * WORK_SECONDS)
        else:
            service.launch()
            self._wait(kill.share * self._start_seconds * LONGER_THAN_A_START)
        _kill(service, kill.victim)
        self._outcome.kills[f"{kill.while_}, {kill.victim}"] += 1

    def judge(self) -> None:
        """A last life, that ends in peace. Raises AssertionError for what is lost, doubled, or told otherwise."""
        self._start()
        self._publish(ORDERS_OF_A_LIFE)
        wait_until_settled(self._service, len(self._asked), within=SETTLED_SECONDS)
        time.sleep(TOLD_SECONDS)
        assert_everything_agrees(self._service, self._asked, self._listener.received)
        status, _ = self._service.stop()
        assert status == 0, f"it ended with {status}"
        self._outcome.orders += len(self._asked)

    def _start(self) -> None:
        began = time.monotonic()
        self._service.start()
        self._outcome.starts += 1
        self._outcome.longest_start_seconds = max(self._outcome.longest_start_seconds, time.monotonic() - began)

    def _publish(self, count: int) -> None:
        fresh = make_orders(count, seed=self._seed, first=len(self._asked))
        self._asked += fresh
        with self._service.pubsub() as pubsub:
            pubsub.publish(fresh)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self._service.exit_status()
            assert status is None, f"it ended by itself with {status}\n{self._service.console()[-3000:]}"
            time.sleep(0.005)


def _kill(service: Service, victim: Victim) -> None:
    others: Sequence[psutil.Process] = service.family() if victim is Victim.ALL else ()
    for process in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    service.kill()


def seconds_to_start(folder: Path) -> float:
    """Of a service with a new store, at this machine's present load."""
    with Service(folder, by_its_path=True) as service:
        began = time.monotonic()
        service.start()
        return time.monotonic() - began


def kill_loop(folder: Path, *, kills: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """A place after the other. One that is not well is left, and told of."""
    outcome = Outcome()
    start_seconds = seconds_to_start(folder / "first")
    say(f"a start takes {start_seconds:.1f} s")
    settings: Mapping[str, str] = {
        "MOCK_FILL_DELAY_SECONDS": "0.3",
        "MOCK_PARTIAL_FILL_RATE": "0.5",
        "MOCK_SEED": "7",
        "MAX_ORDER_AGE_SECONDS": "0",
        "ORDER_TIMEOUT_SECONDS": "0",
    }
    number = 0
    while kills > 0:
        number += 1
        plan = list(planned(min(kills, KILLS_OF_A_PLACE), f"{seed}:{number}"))
        kills -= len(plan)
        with (
            Service(folder / str(number), by_its_path=True, **settings) as service,
            Listener(embedded_address(service)) as listener,
        ):
            place = Place(service, listener, seed * 1000 + number, outcome, start_seconds)
            try:
                for kill in plan:
                    place.die(kill)
                place.judge()
            except AssertionError as exc:
                outcome.troubles.append(
                    f"place {number}, after {sum(outcome.kills.values())} kills in all: {exc}"[:4000]
                )
                say(f"place {number} is NOT WELL")
            say(
                f"{sum(outcome.kills.values())} kills, {outcome.starts} starts to the end, {outcome.orders} orders judged"
            )
    return outcome


def print_outcome(outcome: Outcome) -> None:
    for what, count in sorted(outcome.kills.items()):
        print(f"{count:6}  {what}")
    verdict = "every start succeeded and every order is accounted for" if not outcome.troubles else "NOT WELL"
    print(
        f"{sum(outcome.kills.values())} kills, {outcome.starts} starts waited for (the longest {outcome.longest_start_seconds:.1f} s), "
        f"{outcome.orders} orders: {verdict}"
    )
    for trouble in outcome.troubles:
        print(trouble)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.external.kill_loop", description=__doc__)
    parser.add_argument("--kills", type=int, default=int(os.environ.get("KILLS") or KILLS))
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {sentence}", flush=True)

    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as name, ending_with_all(Path(name)):
        outcome = kill_loop(Path(name), kills=options.kills, seed=options.seed, say=say)
    print_outcome(outcome)
    print(f"seed {options.seed}")
    return 1 if outcome.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
