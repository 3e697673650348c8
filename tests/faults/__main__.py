"""`python -m tests.faults`: plays the matrix, some of it or all, and prints one table; status 1 if anything disagrees."""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from rich.console import Console

from brokers.registry import manifests
from tests.external.long_run import ending_with_all
from tests.external.venues import BROKERS
from tests.faults import combinations as combinations  # enters its scenarios into the table, and so do the next four
from tests.faults import historical as historical
from tests.faults import icebergs as icebergs
from tests.faults import priced as priced
from tests.faults import protected as protected
from tests.faults import table
from tests.faults.crashes import (
    HAND_TRADE_CROSSINGS,
    LEASE_KILLS,
    MultipartJourney,
    play_hand_trade_kills,
    play_kills,
    play_lease_kills,
)
from tests.faults.icebergs import SHOWING_PARTS
from tests.faults.outages import Extent, chosen_outages, play_outages
from tests.faults.replicas import fleets_at, play_replicas
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.stage import Outcome, Play, Stage, loop_outcome, play_side_by_side, run_play, set_stage
from tests.faults.stops import AT_TWO_PROCESSES, STOPS, play_stops

LANES = 6
CRASHES = 40
ROUNDS = 200
REPLICA_ROUNDS = 10
AT_ONCE = 3
"""Jobs side by side: a service under test waits more than it works, so there is one more than the usual two cores."""


class Family(StrEnum):
    SCENARIOS = "scenarios"
    CRASHES = "crashes"
    KILLS = "kills"
    MULTIPART = "orders of several parts"
    HAND_TRADES = "hand trades"
    LEASES = "leases"
    OUTAGES = "outages"
    REPLICAS = "replicas"
    STOPS = "stops"


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker plays without a break, in a `folder` of its own, telling each run to `done` as it ends."""

    name: str
    play: Callable[..., object]


def play_matrix(
    broker: str,
    folder: Path,
    wanted: Sequence[Scenario],
    *,
    runs: int,
    seed: int,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """All of them at one broker, `runs` times: what may be side by side first, then one after the other. The seed shuffles."""
    order = [each for each in wanted if each.is_for(broker) for _ in range(runs)]
    random.Random(f"{seed}:{broker}").shuffle(order)
    outcomes: list[Outcome] = []

    def take(outcome: Outcome) -> None:
        outcomes.append(outcome)
        done(outcome)

    settings = {"MAX_ORDER_AGE_SECONDS": "600", "ORDER_TIMEOUT_SECONDS": "0", "POSITION_MONITOR_INTERVAL_SEC": "2"}
    with set_stage(broker, folder, lanes=LANES, **settings) as stage:
        together = [(s.name, s.steps, s.within_seconds) for s in order if not s.is_alone(broker)]
        play_side_by_side(stage, together, take)
        for each in (s for s in order if s.is_alone(broker)):
            take(run_play(Play(stage, stage.lanes[0], each.name), each.name, each.steps, each.within_seconds))
            stage.lanes[0].venue.do("clear_faults")
        take(_strangers(stage))
    take(loop_outcome(broker, "event_loop", folder))
    return outcomes


def _strangers(stage: Stage) -> Outcome:
    """What no single scenario can tell: no order of the book is unknown to the records."""
    known = {str(r["client_order_id"]) for r in stage.db["execution_orders"].find({}, {"client_order_id": 1})}
    book = {
        str(order["client_order_id"])
        for venue in {id(lane.venue): lane.venue for lane in stage.lanes}.values()
        for order in venue.orders()
        if order["client_order_id"]  # without a tag it is somebody else's by the scenario's wish
    }
    strangers = Outcome("no_order_at_the_broker_is_unknown", stage.broker, is_run=False)
    strangers.wrong = [f"unknown: {sorted(book - known)}"] if book - known else []
    return strangers


def jobs(options: argparse.Namespace) -> list[Job]:
    """What is asked for, the longest first."""
    found: list[Job] = []
    brokers: list[str] = options.broker or list(BROKERS)
    patterns: list[str] = options.only or ["*"]

    def is_wanted(family: Family, name: str = "") -> bool:
        return any(fnmatchcase(family, each) or (bool(name) and fnmatchcase(name, each)) for each in patterns)

    def add(family: Family, place: str, play: Callable[..., object]) -> None:
        found.append(Job(f"{family} at {place}", play))

    for broker in brokers:
        gone = [o for o in chosen_outages(broker, options.outages) if is_wanted(Family.OUTAGES, o.name)]
        if gone:
            add(Family.OUTAGES, broker, partial(play_outages, broker, outages=gone))
    for broker in brokers:
        some = [s for s in SCENARIOS.values() if s.is_for(broker) and is_wanted(Family.SCENARIOS, s.name)]
        if some and options.runs:
            add(
                Family.SCENARIOS,
                broker,
                partial(play_matrix, broker, wanted=some, runs=options.runs, seed=options.seed),
            )
    for broker in brokers:
        for count in fleets_at(broker) if is_wanted(Family.REPLICAS) and options.replicas else ():
            play = partial(play_replicas, broker, count=count, rounds=options.replicas, seed=options.seed)
            add(Family.REPLICAS, f"{broker}, {count} processes", play)
    for broker in brokers:
        with_two = (AT_TWO_PROCESSES,) if manifests()[broker].is_stand_in else ()
        stops = [name for name in (*STOPS, *with_two) if is_wanted(Family.STOPS, name)]
        if stops:
            add(Family.STOPS, broker, partial(play_stops, broker, wanted=stops))
    for number, broker in enumerate(brokers):
        if is_wanted(Family.CRASHES) and options.crashes != 0:
            add(
                Family.CRASHES,
                broker,
                partial(play_kills, broker, points=options.crashes, rounds=0, seed=options.seed),
            )
        if is_wanted(Family.MULTIPART) and options.crashes != 0 and broker in SHOWING_PARTS:
            play = partial(play_kills, broker, points=options.crashes, rounds=0, journey=MultipartJourney)
            add(Family.MULTIPART, broker, partial(play, seed=options.seed))
        if is_wanted(Family.HAND_TRADES) and options.crashes != 0:
            add(
                Family.HAND_TRADES,
                broker,
                partial(play_hand_trade_kills, broker, crossings=HAND_TRADE_CROSSINGS),
            )
        if is_wanted(Family.LEASES) and options.crashes != 0:
            add(Family.LEASES, broker, partial(play_lease_kills, broker, kills=LEASE_KILLS))
        rounds = options.rounds // len(brokers) + (number < options.rounds % len(brokers))
        if is_wanted(Family.KILLS) and rounds:
            add(Family.KILLS, broker, partial(play_kills, broker, points=0, rounds=rounds, seed=options.seed))
    return found


def number_or_all(text: str) -> int | None:
    return None if text == "all" else int(text)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the sequence, the points and the moments of the kills")
    parser.add_argument(
        "--only", action="append", help=f"a family ({', '.join(Family)}) or a pattern of scenarios' and outages' names"
    )
    parser.add_argument("--broker", choices=BROKERS, action="append")
    parser.add_argument("--runs", type=int, default=1, help="how often each scenario is played; default 1")
    parser.add_argument(
        "--crashes",
        type=number_or_all,
        default=CRASHES,
        help=f"points of the crash matrix at each broker, each kind before any comes twice, or 'all'; default {CRASHES}",
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"kills at random moments over all brokers; default {ROUNDS}"
    )
    parser.add_argument(
        "--outages",
        type=Extent,
        choices=list(Extent),
        default=Extent.USUAL,
        help=f"how many; default {Extent.USUAL}",
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=REPLICA_ROUNDS,
        help=f"kills and freezes for each number of processes at each broker; default {REPLICA_ROUNDS}",
    )
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help=f"jobs side by side; default {AT_ONCE}")
    parser.add_argument(
        "--left-out", action="store_true", help="only say which scenarios are not played at which broker, and why"
    )
    parser.add_argument("--markdown", type=Path, help="a file for the table")
    parser.add_argument("--table", type=Path, help="a page that has a place for the table, such as docs/reliability.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    console = Console(width=140)
    if options.left_out:
        for broker in options.broker or BROKERS:
            for each in SCENARIOS.values():
                why = each.why_not(broker)
                if why is not None:
                    console.print(f"{broker:10} {each.name}: {why}", markup=False, highlight=False)
        return 0
    outcomes: list[Outcome] = []
    telling = threading.Lock()
    began = time.monotonic()

    def tell(outcome: Outcome) -> None:
        with telling:
            outcomes.append(outcome)
            minutes, seconds = divmod(int(time.monotonic() - began), 60)
            said = f"{outcome.recovery_seconds:.1f} s" if outcome.agrees else f"DISAGREES: {'; '.join(outcome.wrong)}"
            console.print(
                f"{minutes:3}:{seconds:02} {outcome.broker:8} {outcome.scenario}: {said}", markup=False, highlight=False
            )

    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        ending_with_all(Path(folder)),
        ThreadPoolExecutor(options.at_once) as pool,
    ):

        def work(number: int, job: Job) -> None:
            try:
                job.play(folder=Path(folder) / str(number), done=tell)
            except Exception:  # noqa: BLE001  the other jobs go on
                tell(Outcome(job.name, "-", wrong=[traceback.format_exc()[-3000:]]))

        left = {pool.submit(work, number, job) for number, job in enumerate(jobs(options))}
        while left:
            # Not for ever at a time: a signal that another thread was given is looked at when this one wakes.
            done, left = wait(left, timeout=1.0)
            for future in done:
                future.result()
    took = time.monotonic() - began
    console.print(table.for_the_eye(outcomes))
    console.print(f"{table.summary(outcomes)}, seed {options.seed}, {took:.0f} s, commit {table.commit()}")
    if options.markdown is not None:
        options.markdown.write_text(table.as_markdown(outcomes), encoding="utf-8")
    if options.table is not None:
        given = shlex.join(sys.argv[1:] if arguments is None else arguments)
        table.write_between_markers(
            options.table, outcomes, command=f"python -m tests.faults {given}".strip(), seconds=took
        )
    return 1 if any(not each.agrees for each in outcomes) or not any(each.is_run for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
