"""`python -m tests.faults`: plays the whole matrix and prints one table; status 1 if anything disagrees."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.external.venues import BROKERS
from tests.faults.crashes import crash_after, crash_at, crossings, points, random_delays
from tests.faults.outages import all_outages, play_outages
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.stage import Outcome, Play, Stage, loop_outcome, play_side_by_side, run_play, set_stage

LANES = {"mock": 6, "ibkr": 6, "zerodha": 6}


def play_matrix(broker: str, folder: Path, wanted: Sequence[Scenario], *, runs: int, seed: int) -> list[Outcome]:
    """All of them at one broker, `runs` times: what may be side by side first, then one after the other. The seed shuffles."""
    order = [each for each in wanted if broker in each.brokers for _ in range(runs)]
    random.Random(f"{seed}:{broker}").shuffle(order)
    outcomes: list[Outcome] = []
    with set_stage(
        broker, folder, lanes=LANES[broker], MAX_ORDER_AGE_SECONDS="600", ORDER_TIMEOUT_SECONDS="0"
    ) as stage:
        together = [(s.name, s.steps, s.within_seconds) for s in order if broker not in s.alone]
        play_side_by_side(stage, together, outcomes.append)
        for each in (s for s in order if broker in s.alone):
            outcomes.append(
                run_play(Play(stage, stage.lanes[0], each.name), each.name, each.steps, each.within_seconds)
            )
            stage.lanes[0].venue.do("clear_faults")
        outcomes += _whole(stage, broker)
    return outcomes


def play_crashes(broker: str, folder: Path, *, wanted: int | None, rounds: int, seed: int) -> list[Outcome]:
    """`wanted` points of the crash matrix, evenly spread (None: all), and `rounds` random kills."""
    with set_stage(
        broker, folder, lanes=1, starts=False, MAX_ORDER_AGE_SECONDS="600", ORDER_TIMEOUT_SECONDS="0"
    ) as stage:
        outcomes = [crash_at(stage, number) for number in points(crossings(stage), wanted, seed)] if wanted != 0 else []
        return outcomes + [crash_after(stage, delay) for delay in random_delays(rounds, seed)]


def play_kill(broker: str, folder: Path, crossing: str) -> Outcome:
    """A kill at the first crossing of that name."""
    with set_stage(
        broker, folder, lanes=1, starts=False, MAX_ORDER_AGE_SECONDS="600", ORDER_TIMEOUT_SECONDS="0"
    ) as stage:
        return crash_at(stage, crossing)


def _whole(stage: Stage, broker: str) -> list[Outcome]:
    """What no single scenario can tell: no order of the book is unknown to the records, and the loop was never held up."""
    known = {str(r["client_order_id"]) for r in stage.db["execution_orders"].find({}, {"client_order_id": 1})}
    book = {
        str(order["client_order_id"])
        for venue in {id(lane.venue): lane.venue for lane in stage.lanes}.values()
        for order in venue.orders()
    }
    strangers = Outcome("no_order_at_the_broker_is_unknown", broker)
    strangers.wrong = [f"unknown: {sorted(book - known)}"] if book - known else []
    return [strangers, loop_outcome(stage, "event_loop")]


def show(outcomes: Sequence[Outcome]) -> tuple[Table, str]:
    """The table for the eye, and as Markdown."""
    table = Table(title="Faults")
    heads = ("Scenario", "Broker", "Runs", "Agrees", "Orders per signal", "Seconds to recover")
    for head in heads:
        table.add_column(head)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    grouped: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault((outcome.scenario, outcome.broker), []).append(outcome)
    for (name, broker), group in sorted(grouped.items()):
        if name.startswith("event_loop"):
            over, own_over = group[0].placed
            figures = f"longest {group[0].recovery_seconds:.2f}, own {group[0].figure:.2f}"
            held = "yes" if group[0].agrees else "NO"
            row = (name, broker, "-", held, f"pauses over 100 ms: {over}, own {own_over}", figures)
        else:
            agreed = sum(outcome.agrees for outcome in group)
            counts = sorted({count for outcome in group for count in outcome.placed})
            said = "yes" if agreed == len(group) else f"NO ({len(group) - agreed} of {len(group)})"
            longest = max(outcome.recovery_seconds for outcome in group)
            row = (name, broker, str(len(group)), said, ", ".join(map(str, counts)) or "-", f"{longest:.1f}")
        table.add_row(*row)
        lines.append("| " + " | ".join(row) + " |")
    return table, "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", default="*", help="a pattern of scenarios' names")
    parser.add_argument("--broker", choices=BROKERS, action="append")
    parser.add_argument(
        "--crashes", type=int, help="so many points of the crash matrix at each broker (default: all; 0: none)"
    )
    parser.add_argument("--rounds", type=int, default=0, help="so many kills at random moments at each broker")
    parser.add_argument("--no-outages", action="store_true", help="leave out the outages")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    wanted = [each for each in SCENARIOS.values() if fnmatchcase(each.name, options.only)]
    crashes = options.crashes if fnmatchcase("killed", options.only) else 0
    brokers = options.broker or list(BROKERS)
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:

        def work(broker: str) -> None:
            try:
                play(broker)
            except Exception as exc:  # noqa: BLE001  the other brokers go on
                outcomes.append(Outcome("the_run_itself", broker, wrong=[f"{type(exc).__name__}: {exc}"[:2000]]))

        def play(broker: str) -> None:
            place = Path(folder) / broker
            if any(broker in each.brokers for each in wanted):
                outcomes.extend(play_matrix(broker, place, wanted, runs=options.runs, seed=options.seed))
            if crashes != 0 or options.rounds:
                chosen = {"wanted": crashes, "rounds": options.rounds, "seed": options.seed}
                outcomes.extend(play_crashes(broker, place / "crashes", **chosen))
            gone = [each for each in all_outages(broker) if fnmatchcase(each.name, options.only)]
            if gone and not options.no_outages:
                outcomes.extend(play_outages(broker, place / "outages", gone))

        threads = [threading.Thread(target=work, args=(broker,), name=broker) for broker in brokers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    table, markdown = show(outcomes)
    console = Console(width=140)
    console.print(table)
    wrong = [outcome for outcome in outcomes if not outcome.agrees]
    for outcome in wrong:
        console.print(f"[bold]{outcome.scenario} at {outcome.broker}[/bold]")
        for sentence in outcome.wrong:
            console.print(f"  {sentence}", markup=False)
    ran = sum(
        outcome.scenario in SCENARIOS or outcome.scenario.startswith(("killed", "outage")) for outcome in outcomes
    )
    console.print(f"{ran} runs, {len(wrong)} disagree, seed {options.seed}, {time.monotonic() - began:.0f} s")
    if options.markdown is not None:
        options.markdown.write_text(markdown, encoding="utf-8")
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
