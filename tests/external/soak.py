"""`make soak`: the real service under steady orders and random faults for as long as one likes; judged are its growth and every single order."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Operation
from tests.external.long_run import ending_with_all
from tests.external.service_process import (
    Listener,
    Service,
    assert_everything_agrees,
    embedded_address,
    make_orders,
    wait_until_settled,
)

SEED = 11
MOST_SAMPLES = 200
"""Judged; more are thinned out. The slope is the median over all pairs of them."""
REPEATED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment; children are judged by nobody, the store's memory grows with what it holds."""

    at: float
    memory_mebibytes: float
    children_mebibytes: float
    handles: int
    threads: int
    oldest_seconds: float
    """How long the oldest unsettled order has been in hand."""
    unsettled: int = 0
    cpu_seconds: float = 0.0
    """Used by the service since it began."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. `growth`: over the second half of the run, by the median slope."""

    name: str
    first: float
    last: float
    most: float
    growth: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.allowed


@dataclass(slots=True)
class Outcome:
    orders: int = 0
    seconds: float = 0.0
    settled_seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not self.troubles and all(line.is_flat for line in self.lines)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs, so that single spikes do not count."""
    step = max(1, len(points) // MOST_SAMPLES)
    thinned = points[::step]
    slopes = [(y2 - y1) / (x2 - x1) for n, (x1, y1) in enumerate(thinned) for x2, y2 in thinned[n + 1 :] if x2 > x1]
    return statistics.median(slopes) if slopes else 0.0


def judged(samples: Sequence[Sample]) -> list[Line]:
    """Flat is: over the second half memory grows by at most 16 MiB or a tenth, handles by 4, threads by 2, the oldest order by 2 s."""
    half = samples[len(samples) // 2 :]
    seconds = half[-1].at - half[0].at if half else 0.0

    def line(name: str, value: Callable[[Sample], float], allowed: float) -> Line:
        values = [value(sample) for sample in samples]
        growth = slope([(sample.at, value(sample)) for sample in half]) * seconds
        return Line(name, values[0], values[-1], max(values), growth, allowed)

    memory = statistics.median(s.memory_mebibytes for s in half)
    return [
        line("memory, MiB", lambda s: s.memory_mebibytes, max(16.0, memory / 10)),
        line("file handles", lambda s: s.handles, 4.0),
        line("threads", lambda s: s.threads, 2.0),
        line("oldest unsettled order, s", lambda s: s.oldest_seconds, 2.0),
    ]


class Weather:
    """Random faults, by seed: at the broker, and a store or Pub/Sub that stands still for a moment. Not at Telegram: at one message a second
    it cannot follow this rate, and what it is owed counts as unsettled."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._luck = random.Random(seed)
        self._book = PaperExchange(service.data_dir / "mock_broker.db", account_id="weather")
        self.count: dict[str, int] = {}

    def change(self) -> None:
        """One more thing goes wrong. Standing still lasts half a second at most and happens here and now."""
        kind = self._luck.choice(("place", "place", "reports", "find", "slow", "standstill"))
        match kind:
            case "place":
                action = self._luck.choice((Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT, Action.UNAVAILABLE))
                self._arm(Fault(operation=Operation.PLACE, action=action, times=self._luck.randint(1, 3)))
            case "slow":
                self._arm(Fault(operation=Operation.PLACE, action=Action.SLOW, seconds=0.3, times=3))
            case "reports":
                action = self._luck.choice(
                    (Action.DUPLICATE, Action.REORDER, Action.UNAVAILABLE, Action.DROP_BEFORE_ACCEPT)
                )
                self._arm(Fault(operation=Operation.REPORTS, action=action, times=2))
            case "find":
                self._arm(Fault(operation=Operation.FIND, action=Action.UNAVAILABLE))
            case "standstill":
                children = [c for c in self._service.family() if c.is_running()]
                if children:
                    child = self._luck.choice(children)
                    self._told(f"standstill of {_role(child)}")
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.suspend()
                        time.sleep(self._luck.uniform(0.1, 0.5))
                        child.resume()

    def close(self) -> None:
        self._book.clear_faults()
        self._book.close()

    def _arm(self, fault: Fault) -> None:
        self._book.add_fault(fault)
        self._told(f"{fault.operation} {fault.action}")

    def _told(self, what: str) -> None:
        self.count[what] = self.count.get(what, 0) + 1


def _role(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        words = " ".join(process.cmdline())
        return next((name for name in ("secantusd", "pubsub", "guardian") if name in words), "a child")
    return "a child"


def sample(service: Service, db: Any, began: float) -> Sample:
    process = psutil.Process(service.pid)
    oldest = next(iter(db["execution_orders"].find({"lookup": "unsettled"}).sort("received_at", 1).limit(1)), None)
    waited = 0.0 if oldest is None else (datetime.now(UTC) - oldest["received_at"]).total_seconds()
    with process.oneshot():
        memory, handles, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
        cpu = process.cpu_times()
    children = 0
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            children += child.memory_info().rss
    return Sample(
        time.monotonic() - began,
        memory / 2**20,
        children / 2**20,
        handles,
        threads,
        max(0.0, waited),
        db["execution_orders"].count_documents({"lookup": "unsettled"}),
        cpu.user + cpu.system,
    )


@contextlib.contextmanager
def soaked_service(folder: Path, seed: int) -> Iterator[Service]:
    service = Service(
        folder,
        by_its_path=True,
        MOCK_FILL_DELAY_SECONDS="0.3",
        MOCK_PARTIAL_FILL_RATE="0.3",
        MOCK_SLIPPAGE_BPS="3",
        MOCK_SEED=str(seed),
        MAX_ORDER_AGE_SECONDS="0",
        ORDER_TIMEOUT_SECONDS="0",
        MAX_RETRY_ATTEMPTS="1000",
    )
    with service:
        service.start()
        yield service


def soak(
    folder: Path, *, seconds: float, rate: float, seed: int, say: Callable[[str], None], calm: bool = False
) -> Outcome:
    """`rate` orders a second for `seconds`, a twentieth of them published twice; then all of them must be settled and agree."""
    outcome = Outcome()
    luck = random.Random(seed)
    with soaked_service(folder, seed) as service, Listener(embedded_address(service)) as listener:
        weather = Weather(service, seed)
        asked: list[dict[str, Any]] = []
        samples: list[Sample] = []
        ended = threading.Event()
        began = time.monotonic()

        def bad_weather() -> None:
            while not ended.wait(luck.uniform(0.5, 3.0)):
                weather.change()

        storm = threading.Thread(target=bad_weather, name="weather")
        if not calm:
            storm.start()
        try:
            with service.database() as db, service.pubsub() as pubsub:
                while (now := time.monotonic() - began) < seconds:
                    due = int(now * rate) + 1 - len(asked)
                    if due > 0:
                        fresh = make_orders(due, seed=seed * 1_000_003 + len(asked), first=len(asked))
                        repeated = [order for order in fresh if luck.random() < REPEATED_SHARE]
                        pubsub.publish([*fresh, *repeated])
                        asked += fresh
                    if not samples or now >= samples[-1].at + max(0.25, seconds / 1000):
                        samples.append(sample(service, db, began))
                        if len(samples) % 100 == 0:
                            say(_progress(len(asked), samples[-100], samples[-1]))
                    time.sleep(0.02)
        finally:
            ended.set()
            if storm.is_alive():
                storm.join()
            weather.close()
        outcome.orders, outcome.seconds, outcome.faults = len(asked), time.monotonic() - began, weather.count
        try:
            wait_until_settled(service, len(asked), within=60 + seconds / 4)
            outcome.settled_seconds = time.monotonic() - began - outcome.seconds
            time.sleep(1.0)  # for the listener's last pull
            assert_everything_agrees(service, asked, listener.received)
        except AssertionError as exc:
            outcome.troubles.append(str(exc)[:2000])
        outcome.lines = judged(samples)
        status, _ = service.stop()
        if status:
            outcome.troubles.append(f"the service ended with {status}")
    return outcome


def _progress(orders: int, before: Sample, now: Sample) -> str:
    busy = (now.cpu_seconds - before.cpu_seconds) / (now.at - before.at)
    queue = f"{now.unsettled} unsettled, the oldest for {now.oldest_seconds:.1f} s"
    return (
        f"{orders} orders, {queue}, {now.memory_mebibytes:.0f} MiB, {busy:.0%} of a core, load {os.getloadavg()[0]:.1f}"
    )


def burst(folder: Path, *, count: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """`count` messages at once; judged is that every one is settled and agrees, not how much memory it took meanwhile."""
    outcome = Outcome()
    with soaked_service(folder, seed) as service, Listener(embedded_address(service)) as listener:
        asked = make_orders(count, seed=seed)
        before = psutil.Process(service.pid).memory_info().rss / 2**20
        most = before
        began = time.monotonic()
        with service.pubsub() as pubsub:
            for start in range(0, count, 1000):
                pubsub.publish(asked[start : start + 1000])
        published = time.monotonic() - began
        say(f"{count} published in {published:.1f} s")
        settled = threading.Event()

        def watch() -> None:
            nonlocal most
            while not settled.wait(0.5):
                most = max(most, psutil.Process(service.pid).memory_info().rss / 2**20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            wait_until_settled(service, count, within=120 + count / 20)
            outcome.seconds = time.monotonic() - began
            time.sleep(1.0)
            assert_everything_agrees(service, asked, listener.received)
        except AssertionError as exc:
            outcome.troubles.append(str(exc)[:2000])
        finally:
            settled.set()
            watcher.join()
        outcome.orders = count
        say(
            f"{count} orders settled {outcome.seconds:.1f} s after the first was published ({count / max(outcome.seconds, 0.001):.0f}/s)"
        )
        say(f"memory {before:.0f} MiB before, {most:.0f} at most")
    return outcome


def made_up_accounts(
    folder: Path, *, count: int, seed: int, say: Callable[[str], None], watch_seconds: float = 10.0
) -> Outcome:
    """One order each for `count` accounts that nobody ever named; judged are the threads and handles that they leave behind, and said how
    busy the service is with them in the `watch_seconds` afterwards."""
    outcome = Outcome(orders=count)
    with soaked_service(folder, seed) as service, Listener(embedded_address(service)) as listener:
        process = psutil.Process(service.pid)
        asked = [order | {"account_id": f"made-up-{n}"} for n, order in enumerate(make_orders(count, seed=seed))]
        with service.pubsub() as pubsub:
            first = asked[:1]
            pubsub.publish(first)
            wait_until_settled(service, 1)
            before = (process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
            began = time.monotonic()
            pubsub.publish(asked[1:])
            try:
                wait_until_settled(service, count, within=120 + count / 10)
                outcome.seconds = time.monotonic() - began
                after = (process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
                used = process.cpu_times()
                time.sleep(watch_seconds)
                idle = process.cpu_times()
                share = (idle.user + idle.system - used.user - used.system) / max(watch_seconds, 0.001)
                time.sleep(1.0)  # for the listener's last pull
                assert_everything_agrees(service, asked, listener.received)
            except AssertionError as exc:
                outcome.troubles.append(str(exc)[:2000])
                return outcome
        for name, one, all_of_them, allowed in zip(
            ("memory, MiB", "file handles", "threads"), before, after, (count / 4, 16.0, 8.0), strict=True
        ):
            outcome.lines.append(Line(name, one, all_of_them, all_of_them, all_of_them - one, allowed))
        say(f"{count} accounts served in {outcome.seconds:.1f} s")
        if watch_seconds:
            say(f"idle afterwards it uses {share:.0%} of a core")
    return outcome


def print_table(outcome: Outcome) -> None:
    print(f"{'':<28}{'first':>10}{'last':>10}{'most':>10}{'growth':>10}{'allowed':>10}")
    for line in outcome.lines:
        verdict = "flat" if line.is_flat else "GROWS"
        print(
            f"{line.name:<28}{line.first:>10.1f}{line.last:>10.1f}{line.most:>10.1f}{line.growth:>10.2f}{line.allowed:>10.1f}  {verdict}"
        )
    if outcome.faults:
        print("faults: " + ", ".join(f"{n} {what}" for what, n in sorted(outcome.faults.items())))
    agree = "every one accounted for" if not outcome.troubles else "NOT WELL"
    print(f"{outcome.orders} orders in {outcome.seconds:.0f} s, settled {outcome.settled_seconds:.1f} s later: {agree}")
    for trouble in outcome.troubles:
        print(trouble)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.external.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS") or 600))
    parser.add_argument("--rate", type=float, default=20.0, help="orders a second (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--calm", action="store_true", help="without faults")
    parser.add_argument("--burst", type=int, metavar="COUNT", help="instead: so many messages at once")
    parser.add_argument("--accounts", type=int, metavar="COUNT", help="instead: so many made-up accounts")
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {sentence}", flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name, ending_with_all(Path(name)):
        folder = Path(name)
        if options.burst:
            outcome = burst(folder, count=options.burst, seed=options.seed, say=say)
        elif options.accounts:
            outcome = made_up_accounts(folder, count=options.accounts, seed=options.seed, say=say)
        else:
            outcome = soak(
                folder, seconds=options.seconds, rate=options.rate, seed=options.seed, say=say, calm=options.calm
            )
    print_table(outcome)
    print(f"seed {options.seed}")
    return 0 if outcome.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
