"""Several processes on one store, one subscription and one broker's book, killed and frozen by seed while orders flow; no judgement here."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from brokers.manifest import Fact
from brokers.registry import manifests
from simulators.catalogue import simulator_of
from tests.external.service_process import Listener, Service, pubsub_server, store_server
from tests.faults.combinations import COMBINING, combined
from tests.faults.judgement import Placed
from tests.faults.people import Person, Phone, telegram_server, telegram_settings
from tests.faults.stage import (
    ENTRY,
    LOOK_SECONDS,
    Lane,
    LaneOfBook,
    Outcome,
    Play,
    Signal,
    Stage,
    keeps_its_book,
    lanes_of_book,
    loop_outcome,
    service_settings,
    set_gateway,
    tells,
)
from tests.waits import wait_until

TAKE_OVER_SECONDS = 15.0
UNTIL_HELD_SECONDS = 40.0
AGREE_SECONDS = 90.0


def fleets_at(broker: str) -> Sequence[int]:
    """How many processes are played."""
    return (2, 3) if manifests()[broker].is_stand_in else (2,)


ACCOUNTS = 2
LONGEST_WRITE_SECONDS = 3.0
AWAKE_SECONDS = 5.0
"""So long after its return nobody decides: what a frozen process was about to send leaves as soon as it wakes."""


class Deed(StrEnum):
    KILLED = "killed"
    FROZEN = "frozen past its lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is done to one process, and when."""

    deed: Deed
    delay_seconds: float
    account: int
    """By its number; the victim is who holds it."""
    after_seconds: float
    """Between the take-over and the victim's return."""


def rounds_of(count: int, seed: str) -> list[Round]:
    """Kills and freezes by turns, their moments by luck; the same for the same seed."""
    luck = random.Random(seed)
    return [
        Round(
            deed=deed,
            delay_seconds=luck.uniform(0.0, 1.2),
            account=luck.randrange(ACCOUNTS),
            after_seconds=luck.uniform(0.0, 2.0),
        )
        for deed in itertools.islice(itertools.cycle(Deed), count)
    ]


class Fleet:
    """The processes, and what they share."""

    def __init__(self, stage: Stage, replicas: Sequence[Service], phone: Phone | None) -> None:
        self.stage = stage
        self.replicas = replicas
        self.phone = phone
        """Where a doubt is played that people have to hear of by Telegram."""
        self.woken: Service | None = None
        """The one that was frozen in the round before."""

    def holders(self) -> dict[str, int]:
        """The process that holds each account; 0 for one that was given back."""
        leases = self.stage.db["execution_leases"].find()
        return {lease["_id"]: lease["pid"] if lease["holder"] else 0 for lease in leases}

    def holder(self, account_id: str) -> Service:
        pids = {replica.pid: replica for replica in self.replicas if replica.exit_status() is None}
        wait_until(lambda: self.holders().get(account_id) in pids, f"{account_id} is held", within=UNTIL_HELD_SECONDS)
        return pids[self.holders()[account_id]]

    def is_left_by(self, pid: int) -> bool:
        held = self.holders()
        return all(holder not in (0, pid) for holder in held.values())


@contextlib.contextmanager
def fleet_of(broker: str, folder: Path, count: int) -> Iterator[Fleet]:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(store_server(folder))
        pubsub = stack.enter_context(pubsub_server(folder))
        # Elsewhere nobody is told by Telegram: it takes a message a second, for which each round would have to wait.
        telegram = stack.enter_context(telegram_server(folder)) if tells(broker, Fact.IDS_OF_A_CONNECTION) else None
        account_ids = [f"{broker}_{number}" for number in range(1, ACCOUNTS + 1)]
        venues, port = set_gateway(stack, broker, folder)
        shared = folder / "shared"
        chosen = service_settings(broker, folder, account_ids, port, simulator_of(broker).short_search) | {
            "MONGODB_URI": f"mongodb://127.0.0.1:{store.port}/?directConnection=true",
            "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{pubsub.port}",
            "MAX_ORDER_AGE_SECONDS": "600",
            "ORDER_TIMEOUT_SECONDS": "0",
            **({} if telegram is None else telegram_settings(telegram.port)),
        }
        replicas = []
        for number in range(1, count + 1):
            replica = stack.enter_context(Service(folder / f"replica-{number}", program=ENTRY, **chosen))
            replica.data_dir = shared  # a book that the adapter keeps is everybody's
            replicas.append(replica)
        listener = stack.enter_context(Listener(lambda: f"127.0.0.1:{pubsub.port}"))
        for replica in replicas:
            replica.start()
        if keeps_its_book(broker):
            venues = lanes_of_book(stack, broker, shared, account_ids)
        pairs = zip(account_ids, itertools.cycle(venues), strict=False)
        stage = Stage(broker, replicas[0], [Lane(account_id, venue) for account_id, venue in pairs], listener, folder)
        stage.pubsub_address = f"127.0.0.1:{pubsub.port}"
        stage.mongodb_uri = chosen["MONGODB_URI"]
        stack.callback(stage.close)
        yield Fleet(stage, replicas, None if telegram is None else Phone(telegram.port))


def play_replicas(
    broker: str,
    folder: Path,
    count: int,
    *,
    rounds: int,
    seed: int,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """After a disagreement the rest is played on a fresh fleet, so that one defect is told once."""
    outcomes: list[Outcome] = []
    waiting = rounds_of(rounds, f"{seed}:{broker}:{count}")
    fleets = 0
    while waiting:
        fleets += 1
        with fleet_of(broker, folder / str(fleets), count) as fleet:
            while waiting:
                round_ = waiting.pop(0)
                outcome = Outcome(f"replicas: one of {count} {round_.deed}", broker)
                try:
                    _play(fleet, round_, outcome)
                except Exception as exc:  # noqa: BLE001  the other rounds go on
                    outcome.wrong.append(f"{type(exc).__name__}: {exc}"[:1500])
                if not outcome.agrees:
                    outcome.wrong.append(str(round_))
                outcomes.append(outcome)
                done(outcome)
                if not outcome.agrees:
                    break
    outcomes.append(loop_outcome(broker, f"event_loop of {count} replicas", folder))
    done(outcomes[-1])
    return outcomes


def _play(fleet: Fleet, round_: Round, outcome: Outcome) -> None:
    stage = fleet.stage
    if tells(stage.broker, Fact.IDS_OF_A_CONNECTION) and fleet.woken is not None:
        _end_limited_sessions(fleet, fleet.woken)
    plays = [Play(stage, lane, "replicas") for lane in stage.lanes]
    persons = [Person(play, fleet.phone) for play in plays]
    expects = expected(stage.broker, round_.deed)
    resting = [_orders(play, expects) for play in plays]
    victim = fleet.holder(stage.lanes[round_.account].account_id)
    pid = victim.pid
    for play in plays:
        play.send(*play.signals)
    time.sleep(round_.delay_seconds)
    later = [play.order(side, expects=expects) for play in plays for side in ("SELL", "BUY")]
    if round_.deed is Deed.KILLED:
        victim.kill()
    else:
        victim.send(signal.SIGSTOP)
    struck = time.monotonic()
    try:
        stage.publish(*(order.body for order in later))
        wait_until(
            lambda: fleet.is_left_by(pid), "others hold what the victim held", within=UNTIL_HELD_SECONDS, pause=0.05
        )
        outcome.take_over_seconds = time.monotonic() - struck
        for play, order in zip(plays, resting, strict=True):
            if wait_until(
                lambda p=play, o=order: p.at_broker(o) or _is_doubted(p, o) or is_locked(p),  # type: ignore[misc]
                "it is placed",
                within=60.0,
            ) and not is_locked(play):
                _fill(play, order)
        time.sleep(round_.after_seconds)
    finally:
        if round_.deed is Deed.FROZEN:
            victim.send(signal.SIGCONT)
    if round_.deed is Deed.KILLED:
        victim.start()
    back = time.monotonic()
    while True:
        outcome.wrong = [sentence for play in plays for sentence in play.judge()]
        outcome.wrong += undecided(persons, may_decide=time.monotonic() > back + AWAKE_SECONDS)
        if not outcome.wrong or time.monotonic() > back + AGREE_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    outcome.recovery_seconds = time.monotonic() - back
    outcome.placed = [count for play in plays for count in play.placed()]
    outcome.doubts = sum(len(person.decided) for person in persons)
    if outcome.take_over_seconds > TAKE_OVER_SECONDS:
        outcome.wrong.append(f"taken over only after {outcome.take_over_seconds:.1f} s")
    ended = [replica.folder.name for replica in fleet.replicas if replica.exit_status() is not None]
    outcome.wrong += [f"{name} has ended" for name in ended]
    fleet.woken = victim if round_.deed is Deed.FROZEN else None


def _end_limited_sessions(fleet: Fleet, woken: Service) -> None:
    """As docs/operations.md asks people to: whoever took over has the next client ids, until it is stopped and the first ones are taken again."""
    for replica in fleet.replicas:
        if replica is not woken:
            replica.stop()
            replica.start()


def undecided(persons: Sequence[Person], *, may_decide: bool) -> list[str]:
    """Has them decide what they can; what is wrong with the doubts, those that wait for a decision among it. In an account one order of an
    instrument leaves at a time, so that one may have been on its way: with all its legs, where it has some."""
    found = []
    for person in persons:
        doubted = person.doubted()
        for order in doubted if may_decide else ():
            if order.expects is not Placed.ONCE:
                person.decide(order)
        found += person.wrong
        found += [f"{order.signal_id}: its doubt was not settled, or people were not told of it" for order in doubted]
        perhaps_sent = {(each.body.get("symbol"), each.signal_id) for each in (*person.decided.values(), *doubted)}
        if len({symbol for symbol, _ in perhaps_sent}) < len(perhaps_sent):
            found.append("more orders are in doubt than can have been on their way")
    return found


def _orders(play: Play, expects: Placed) -> Signal:
    """Four of them, and a combination where the broker takes such; the last is held by the broker, and returned."""
    for side in ("BUY", "SELL", "BUY"):
        play.order(side, expects=expects)
    if play.broker in COMBINING:
        # Refused where the victim was struck before each leg was written down; in doubt where all were, and nothing shows that it left.
        combined(play, expects=Placed.ONCE_OR_REFUSED)
    held = play.order(expects=expects)
    play.fault("place", "hold", held)
    return held


def expected(broker: str, deed: Deed) -> Placed:
    """What was perhaps sent by the process that died is in doubt where ids may repeat; and where that process is only frozen, if
    its order may still leave under an id that belongs to its connection, and to nobody else's."""
    is_doubtful = not tells(broker, Fact.REFUSES_REPEATED_IDS) or (
        tells(broker, Fact.IDS_OF_A_CONNECTION) and deed is Deed.FROZEN
    )
    return Placed.ONCE_OR_DOUBTED if is_doubtful else Placed.ONCE


def is_locked(play: Play) -> bool:
    """Whether the book is a file that the victim was frozen in the midst of writing to: then nobody trades the account until it wakes, and nothing
    can be demanded before. Who lives holds the lock for milliseconds."""
    if not isinstance(play.venue, LaneOfBook):
        return False
    with contextlib.closing(
        sqlite3.connect(play.venue.path, timeout=LONGEST_WRITE_SECONDS, isolation_level=None)
    ) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        db.execute("ROLLBACK")
    return False


def _is_doubted(play: Play, order: Signal) -> bool:
    record = play.record(order)
    return record is not None and record["status"] == "IN_DOUBT"


def _fill(play: Play, order: Signal) -> None:
    if play.at_broker(order):
        play.fill(order)
