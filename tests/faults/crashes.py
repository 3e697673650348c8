"""kill -9 of the real process at each crossing of a port, at random moments and in the middle of a recovery, while a small journey goes on."""

from __future__ import annotations

import contextlib
import random
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from simulators.catalogue import simulator_of
from tests.external.service_process import COMMANDS_TOPIC, READY, START_SECONDS, pubsub_server, store_server
from tests.external.venues import FINAL
from tests.faults.combinations import COMBINING, SPREAD, combined
from tests.faults.icebergs import in_parts
from tests.faults.judgement import Placed
from tests.faults.people import Person
from tests.faults.scenarios import once_where_ids_are_refused_twice
from tests.faults.stage import (
    LOOK_SECONDS,
    PRICE,
    NotPublished,
    Outcome,
    Play,
    Signal,
    Stage,
    loop_outcome,
    set_stage,
)
from tests.waits import wait_until

JOURNEY_SECONDS = 30.0
AGREE_SECONDS = 90.0
"""Longer than a broker is asked for an order that nobody knows to have arrived, and a person then takes to decide."""
LONGEST_DELAY_SECONDS = 1.5
MOST_DISAGREEMENTS = 5
"""Each costs minutes, and after so many there is enough to mend."""
SECOND_SHARE = 0.3
"""So many of the kills are followed by a second one while the service recovers."""
SECOND_LATEST = 25
HAND_QUANTITY = 50
HAND_TRADE_CROSSINGS = tuple(
    f"{when} store.{write}"
    for write in ("insert_discrepancy#1", "save_discrepancy#1", "save_discrepancy#2")
    for when in ("before", "after")
)
"""A row is opened, marked as told, and closed."""


class While(StrEnum):
    """What the service does when it is killed at a crossing."""

    STARTING = "starting"
    WORKING = "working"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """When the process dies: at a crossing (`before store.append#3`), or so long after the journey began; and perhaps again at a
    crossing of the recovery (`any#7`)."""

    crossing: str | None = None
    while_: While = While.WORKING
    is_waited_for: bool = False
    """That crossing comes by the clock, perhaps after the journey's end."""
    delay_seconds: float = 0.0
    again: str | None = None

    @property
    def name(self) -> str:
        where = "at a random moment" if self.crossing is None else self.crossing.partition("#")[0]
        return f"killed {where}" + (" and in the recovery" if self.again else "")


LEASE_KILLS = tuple(
    Kill(crossing=f"{when} store.{write}#1", while_=while_, is_waited_for=True)
    for write, while_ in (
        ("take_lease", While.STARTING),
        ("renew_leases", While.WORKING),
        ("release_leases", While.STOPPING),
    )
    for when in ("before", "after")
)


@dataclass(slots=True)
class Part:
    """What the broker holds, and what happens to it there, each once what was before is recorded; one order, or all legs of one. At last upstream
    cancels what is left, where that is wanted."""

    signals: Sequence[Signal]
    happens: Sequence[Callable[[], None]]
    is_cancelled_then: bool = True
    happened: int = 0
    is_over: bool = False


class Journey:
    """An entry that fills, its exit, an order that is filled in part and cancelled, one that is rejected, one whose acknowledgement is lost,
    and a message that nobody can read. Each step is taken once, whichever life of the service sees it."""

    among = ""
    """What the kills of it are called besides."""
    instruments = 2

    def __init__(self, stage: Stage) -> None:
        self.play = Play(stage, stage.lanes[0], "crash")
        self.stage = stage
        self.parts: list[Part] = []
        self.plan(self.play)
        self.poison = f"no order {uuid.uuid4().hex}".encode()
        self._is_published = False
        self.deaths = 0
        self._wrong: list[str] = []
        self.person = Person(self.play)

    def plan(self, play: Play) -> None:
        """Its orders, and what the broker does to them."""
        # Perhaps sent when the process died: where ids may repeat at the broker, it is left in doubt until a person decides. The exit waits
        # for that, and is refused if its entry never came to be.
        once = once_where_ids_are_refused_twice(play)
        after_doubt = Placed.ONCE if once is Placed.ONCE else Placed.ONCE_OR_REFUSED
        entry = play.order(expects=once)
        play.order("SELL", 6, signal_type="EXIT", entry_signal_id=entry.signal_id, expects=after_doubt)
        part, rejected = play.order(expects=once), play.order(expects=once)
        unanswered = play.order(symbol=simulator_of(play.broker).symbols[1], expects=once)
        play.fault("place", "hold", part)
        play.fault("place", "reject", rejected)
        play.fault("place", "accept_then_drop", unanswered)
        self.parts.append(Part([part], [lambda: play.fill(part, 4)]))

    def step(self) -> bool:
        """Does what is next; true when all has ended. A service that has just died answers nothing: then it is tried in the next life."""
        stage, play = self.stage, self.play
        with contextlib.suppress(NotPublished, OSError, PyMongoError):
            if stage.service.exit_status() is not None:
                return False
            if not self._is_published:
                stage.publish(*(signal.body for signal in play.signals))
                stage.publish_raw([self.poison])
                self._is_published = True
            for part in self.parts:
                self._go_on(part)
            doubted = self.person.doubted()
            for signal in doubted:
                self._decide(signal)
            is_done = all(part.is_over or self._was_never_placed(part) for part in self.parts)
            return is_done and not doubted and all(self._has_ended(signal) for signal in play.signals)
        return False

    def _go_on(self, part: Part) -> None:
        if part.is_over or not self.play.at_broker(part.signals[0]) or not all(map(self._is_recorded, part.signals)):
            return
        if part.happened < len(part.happens):
            part.happens[part.happened]()
            part.happened += 1
            return
        if part.is_cancelled_then:
            command = {"command": "CANCEL", "signal_id": part.signals[0].signal_id, "reason": "asked by the test"}
            self.stage.publish(command, topic=COMMANDS_TOPIC)
        part.is_over = True

    def _is_recorded(self, signal: Signal) -> bool:
        """Whether the record has what the broker has filled of it."""
        record = self.play.record(signal)
        filled = sum(Decimal(str(fill["quantity"])) for each in self.play.at_broker(signal) for fill in each["fills"])
        return record is not None and Decimal(str(record.get("filled_quantity", 0))) == filled

    def _was_never_placed(self, part: Part) -> bool:
        return all(self._has_ended(each) and not self.play.at_broker(each) for each in part.signals)

    def _decide(self, signal: Signal) -> None:
        """As a person does who was told of the doubt and looked at the broker; before that the journey does not end. In an instrument one
        order leaves at a time: so many may be in doubt for each death."""
        if signal.client_order_id in self.person.decided:
            return
        if len(self.person.decided) >= self.instruments * self.deaths:
            self._wrong.append("more orders are in doubt than can have been on their way")
        self.person.decide(signal)

    def where(self) -> str:
        """How far it has come, for whoever waits for its end."""
        found = [self.play.record(signal) for signal in self.play.signals]
        statuses = ", ".join("not stored" if record is None else str(record["status"]) for record in found)
        return f"the journey has not ended: its orders, as they were planned: {statuses}"

    def judge(self) -> list[str]:
        found = self.play.judge() + self._wrong + self.person.wrong
        letters = self.stage.db["execution_dead_letters"].count_documents({"payload": self.poison})
        return found if letters else [*found, "the unreadable message is not kept"]

    def _has_ended(self, signal: Signal) -> bool:
        record = self.play.record(signal)
        return record is not None and record["status"] in FINAL and "unsettled" not in record["lookup"]


class MultipartJourney(Journey):
    """Orders of which the market sees a part at a time: one that fills, one that fills across its parts, fill by fill, one that upstream cancels in
    its second part, and one of which the exchange does; and where the broker takes
    options as one order, four combinations: one that fills, one of which a unit fills before it is cancelled, one that is rejected, and one
    whose acknowledgement is lost."""

    among = " among orders of several parts"
    instruments = 1 + len(SPREAD)

    def __init__(self, stage: Stage) -> None:
        self._combinations: Sequence[Sequence[Signal]] = ()
        super().__init__(stage)

    def plan(self, play: Play) -> None:
        once = once_where_ids_are_refused_twice(play)
        in_parts(play, expects=once)
        by_upstream, one_by_one, by_exchange = held = [in_parts(play, expects=once) for _ in range(3)]
        for each in held:
            play.fault("place", "hold", each)
        across = [partial(play.fill, one_by_one, quantity) for quantity in (3, 3, 3, None)]
        cancel = partial(play.do, "cancel", order=by_exchange.client_order_id)
        self.parts += [
            Part([by_upstream], [partial(play.fill, by_upstream, 3), partial(play.fill, by_upstream, 3)]),
            Part([one_by_one], across, is_cancelled_then=False),
            Part([by_exchange], [partial(play.fill, by_exchange, 6), cancel], is_cancelled_then=False),
        ]
        if play.broker not in COMBINING:
            return
        # Refused where a process died before each leg was written down; in doubt where all were, and nothing shows that it left.
        self._combinations = [combined(play, expects=Placed.ONCE_OR_REFUSED) for _ in range(4)]
        _, some, rejected, unanswered = self._combinations
        for legs, action in ((some, "hold"), (rejected, "reject")):
            play.fault("place", action, legs[0], times=len(legs))
        play.fault("place", "accept_then_drop", unanswered[0])
        self.parts.append(Part(some, [lambda: play.fill_units(some, 1)]))

    def judge(self) -> list[str]:
        """Beside all else: of combinations in the same options one leaves at a time, so that a death can keep no more than one from the broker."""
        unplaced = sum(not self.play.at_broker(legs[0]) for legs in self._combinations)
        found = (
            [f"{unplaced} combinations were never placed, after {self.deaths} deaths"] if unplaced > self.deaths else []
        )
        return super().judge() + found


class HandTradeJourney:
    """An entry that fills; then somebody trades in its instrument past the service, and takes that back once people were told of the
    difference. Each step is taken once, whichever life of the service sees it."""

    among = ""

    def __init__(self, stage: Stage) -> None:
        self.play = play = Play(stage, stage.lanes[0], "hand")
        self.stage = stage
        self.entry = play.order()
        self.deaths = 0
        self.person = Person(play)
        self._is_published = self._is_traded = self._is_restored = False
        self._seen = {row["_id"] for row in self._all_rows()}

    def step(self) -> bool:
        stage = self.stage
        with contextlib.suppress(NotPublished, OSError, PyMongoError):
            if stage.service.exit_status() is not None:
                return False
            if not self._is_published:
                stage.publish(self.entry.body)
                self._is_published = True
            for signal in self.person.doubted():
                self.person.decide(signal)
            record = self.play.record(self.entry)
            if record is None or record["status"] not in FINAL or "unsettled" in record["lookup"]:
                return False
            if not self._is_traded:
                self._trade(HAND_QUANTITY)
                self._is_traded = True
            rows = self._rows()
            if not self._is_restored and any(row["is_alerted"] for row in rows):
                self._trade(-HAND_QUANTITY)
                self._is_restored = True
            return self._is_restored and all(row["state"] == "CLOSED" for row in rows)
        return False

    def where(self) -> str:
        return f"the difference is not opened, told and closed: {[(row['state'], row['is_alerted']) for row in self._rows()]}"

    def judge(self) -> list[str]:
        """Beside the order: one row for one difference, however often it was written, and people were told of it once."""
        found = self.play.judge() + self.person.wrong
        rows = self._rows()
        if [row["state"] for row in rows] != ["CLOSED"]:
            found.append(f"one difference has the rows {[row['state'] for row in rows]}")
        for row in rows:
            told = self.stage.db["execution_alerts"].count_documents({"_id": f"discrepancy:{row['_id']}"})
            if told != 1:
                found.append(f"people were told {told} times of one difference")
        return found

    def _trade(self, quantity: int) -> None:
        symbol = str(self.entry.body["symbol"])
        product = self.entry.body.get("product")
        self.play.do("trade_by_hand", instrument=symbol, quantity=quantity, price=PRICE, product=product)

    def _all_rows(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError, PyMongoError):
            return list(self.stage.db["execution_discrepancies"].find({"account_id": self.play.lane.account_id}))
        return []

    def _rows(self) -> list[dict[str, Any]]:
        return [row for row in self._all_rows() if row["_id"] not in self._seen]


class Lives:
    """The lives of one service, one after the other: each recovers from the last death, and then walks into the next. Told through a file
    where to die, so that one start serves for both."""

    def __init__(
        self,
        stage: Stage,
        journey: Callable[[Stage], Journey | HandTradeJourney] = Journey,
        also: Callable[[Stage], list[str]] = lambda stage: [],
    ) -> None:
        """`also`: what else must hold in the end, beside what the journey is judged by."""
        self.stage = stage
        self._journey = journey
        self._also = also
        self._order = stage.folder / "kill-at"
        self._notes = stage.folder / "crossings"
        self._series = 0
        self.crossed_before_death: list[str] = []
        """Since the last kill was told of."""
        self._arm("never")
        stage.service.settings |= {"FAULTS_KILL": str(self._order), "FAULTS_CROSSINGS": str(self._notes)}

    def crossings(self) -> list[str]:
        """What an undisturbed journey crosses, in its sequence."""
        self._ready()
        series = self._arm("never")
        journey = self._journey(self.stage)
        wait_until(journey.step, "an undisturbed journey ends", within=2 * JOURNEY_SECONDS, pause=0.03)
        return list(self._crossed(series))

    def die(self, kill: Kill) -> Outcome:
        """One journey, the kill in the middle of it, and all that follows until everything agrees."""
        outcome = Outcome(kill.name, self.stage.broker)
        try:
            self._ready()
            journey = self._journey(self.stage)
            outcome.scenario += journey.among
            self._walk_to_death(journey, kill)
            journey.deaths += 1
            self.crossed_before_death = list(self._crossed(str(self._series)))
            if kill.again is not None:
                self._arm(kill.again)
                self._ready(may_die=True)
                self._until_dead(journey)
                journey.deaths += 1
            self._recover(journey, outcome)
        except Exception as exc:  # noqa: BLE001  the other rounds go on
            outcome.wrong = [f"{type(exc).__name__}: {exc}"[:1500]]
        if not outcome.agrees:
            outcome.wrong.append(str(kill))
        return outcome

    def _walk_to_death(self, journey: Journey | HandTradeJourney, kill: Kill) -> None:
        service = self.stage.service
        if kill.crossing is not None and kill.while_ is While.STARTING:
            service.stop()
            self._arm(kill.crossing)
            self._ready(may_die=True)
            self._until_dead(journey)
            return
        if kill.crossing is not None and kill.while_ is While.STOPPING:
            journey.step()  # what it has published is half done when the service is told to stop
            self._arm(kill.crossing)
            service.send(signal.SIGTERM)
            wait_until(lambda: service.exit_status() is not None, "the service is gone", within=JOURNEY_SECONDS)
            return
        if kill.crossing is not None:
            self._arm(kill.crossing)
            self._until_dead(journey, is_waited_for=kill.is_waited_for)
            return
        end = time.monotonic() + kill.delay_seconds
        while time.monotonic() < end:
            journey.step()
            time.sleep(0.01)
        self.stage.service.kill()

    def _until_dead(self, journey: Journey | HandTradeJourney, *, is_waited_for: bool = False) -> None:
        """A life that took fewer calls than the measured one is killed where it is."""
        service = self.stage.service
        end = time.monotonic() + JOURNEY_SECONDS
        while service.exit_status() is None and time.monotonic() < end:
            if journey.step() and not is_waited_for:
                break
            time.sleep(0.02)
        if service.exit_status() is None:
            service.kill()

    def _recover(self, journey: Journey | HandTradeJourney, outcome: Outcome) -> None:
        self._arm("never")
        began = time.monotonic()
        self._ready()
        end = time.monotonic() + AGREE_SECONDS
        while True:
            outcome.wrong = journey.judge() + self._also(self.stage) if journey.step() else [journey.where()]
            if not outcome.wrong or time.monotonic() > end:
                break
            time.sleep(LOOK_SECONDS)
        outcome.recovery_seconds = time.monotonic() - began
        outcome.placed = journey.play.placed()
        outcome.doubts = len(journey.person.decided)

    def _ready(self, *, may_die: bool = False) -> None:
        """Starts a life, if none is there."""
        service = self.stage.service
        if service.process is not None and service.exit_status() is None:
            return
        seen = service.console().count(READY)
        service.launch()
        wait_until(
            lambda: service.console().count(READY) > seen or service.exit_status() is not None,
            "the service is ready or dead",
            within=START_SECONDS,
            pause=0.02,
            more=service.console,
        )
        assert may_die or service.exit_status() is None, service.console()[-3000:]
        if service.exit_status() is None:
            service.family()

    def _arm(self, where: str) -> str:
        """Crossings are counted from here on; returns under what name they are noted."""
        self._series += 1
        fresh = self._order.with_suffix(".new")
        fresh.write_text(f"{self._series} {where}")
        fresh.replace(self._order)
        return str(self._series)

    def _crossed(self, series: str) -> Iterator[str]:
        for line in self._notes.read_text(encoding="utf-8").splitlines():
            number, _, what = line.partition(" ")
            if number == series:
                yield what


def play_kills_at(
    broker: str, folder: Path, *crossings: str, journey: Callable[[Stage], Journey] = Journey
) -> list[Outcome]:
    """One kill at each of these crossings."""
    with _stage(broker, folder) as stage:
        return _played(Lives(stage, journey), [Kill(crossing=crossing) for crossing in crossings])


def play_hand_trade_kills(
    broker: str,
    folder: Path,
    crossings: Sequence[str],
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """One kill at each of these crossings while a difference from the broker's positions is opened, told and closed."""
    with _stage(broker, folder, RECONCILE_INTERVAL_SECONDS="1") as stage:
        return _played(Lives(stage, HandTradeJourney), [Kill(crossing=crossing) for crossing in crossings], done)


def play_lease_kills(
    broker: str,
    folder: Path,
    kills: Sequence[Kill],
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """These kills of a process that may share its store with others, and so has to hold a lease for what it works."""
    folder.mkdir(parents=True, exist_ok=True)
    with store_server(folder) as store, pubsub_server(folder) as pubsub:
        address, uri = f"127.0.0.1:{pubsub.port}", f"mongodb://127.0.0.1:{store.port}/?directConnection=true"
        around = {"MONGODB_URI": uri, "PUBSUB_EMULATOR_HOST": address, "LEASE_SECONDS": "2"}
        with _stage(broker, folder, own_pubsub=address, own_store=uri, **around) as stage:
            return _played(Lives(stage, also=unheld), kills, done)


def _played(
    lives: Lives, kills: Sequence[Kill], done: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Until one disagrees. Each process has to die where it was told to."""
    outcomes = []
    for kill in kills:
        outcome = lives.die(kill)
        if kill.crossing not in lives.crossed_before_death:
            last = lives.crossed_before_death[-1:]
            outcome.wrong.append(f"the process was to die {kill.crossing}, and crossed {last} last")
        outcomes.append(outcome)
        done(outcome)
        if not outcome.agrees:
            break
    return outcomes


def unheld(stage: Stage) -> list[str]:
    """What the living process does not hold though nobody else is there: an account that it should work, or a partition of nobody's."""
    leases = {lease["_id"]: lease for lease in stage.db["execution_leases"].find()}
    missing = [lane.account_id for lane in stage.lanes if lane.account_id not in leases]
    return [f"{each} has no lease" for each in missing] + [
        f"the lease of {name} is held by {lease['pid'] if lease['holder'] else 'nobody'}"
        for name, lease in leases.items()
        if not lease["holder"] or lease["pid"] != stage.service.pid
    ]


def _stage(
    broker: str, folder: Path, *, own_pubsub: str | None = None, own_store: str | None = None, **settings: str
) -> contextlib.AbstractContextManager[Stage]:
    return set_stage(
        broker,
        folder,
        lanes=1,
        starts=False,
        account_keys=simulator_of(broker).short_search,
        own_pubsub=own_pubsub,
        own_store=own_store,
        **{"MAX_ORDER_AGE_SECONDS": "600", "ORDER_TIMEOUT_SECONDS": "0"} | settings,
    )


def play_kills(
    broker: str,
    folder: Path,
    *,
    points: int | None,
    rounds: int,
    seed: int,
    journey: Callable[[Stage], Journey] = Journey,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """`points` of the crash matrix (None: all) and `rounds` random kills. After a disagreement the rest is played on a fresh stage, so that one
    defect is told once."""
    outcomes: list[Outcome] = []
    kills: list[Kill] | None = None
    stages = 0
    while kills is None or kills:
        stages += 1
        with _stage(broker, folder / str(stages)) as stage:
            lives = Lives(stage, journey)
            if kills is None:
                chosen = sample(lives.crossings(), points, seed) if points != 0 else []
                kills = list(planned(chosen, rounds, f"{seed}:{broker}"))
            while kills:
                kill = kills.pop(0)
                outcome = lives.die(kill)
                outcomes.append(outcome)
                done(outcome)
                if not outcome.agrees:
                    break
        if kills and sum(not outcome.agrees for outcome in outcomes) >= MOST_DISAGREEMENTS:
            rest = Outcome("kills_that_were_not_played", broker, is_run=False)
            rest.wrong = [f"{len(kills)}, after {MOST_DISAGREEMENTS} that disagreed"]
            outcomes.append(rest)
            done(rest)
            break
    outcomes.append(loop_outcome(broker, "event_loop between kills", folder))
    done(outcomes[-1])
    return outcomes


def sample(crossed: Sequence[str], wanted: int | None, seed: int) -> list[str]:
    """Of all crossings so many, each kind (`before store.append`) once before any comes twice; all if None is wanted."""
    if wanted is None or wanted >= len(crossed):
        return list(crossed)
    luck = random.Random(seed)
    of_kind: dict[str, list[str]] = defaultdict(list)
    for each in crossed:
        of_kind[each.partition("#")[0]].append(each)
    first = [luck.choice(each) for each in of_kind.values()]
    luck.shuffle(first)
    others = [each for each in crossed if each not in first]
    luck.shuffle(others)
    return [*first, *others][:wanted]


def planned(crossings: Sequence[str], rounds: int, seed: str) -> Iterator[Kill]:
    """The kills at these crossings, then `rounds` at random moments; the same for the same seed."""
    luck = random.Random(seed)
    for crossing in [*crossings, *[None] * rounds]:
        delay = luck.uniform(0.0, LONGEST_DELAY_SECONDS)
        again = f"any#{luck.randint(1, SECOND_LATEST)}" if luck.random() < SECOND_SHARE else None
        yield Kill(crossing=crossing, delay_seconds=delay, again=again)
