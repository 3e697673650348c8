"""Store, Pub/Sub, broker and Telegram go away, at the start and in flight, alone and in pairs; no judgement of orders here."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
import pymongo

from brokers.manifest import Fact
from brokers.registry import manifests, stand_in
from simulators.catalogue import simulator_of
from tests.external.proxy import Mood, Proxy
from tests.external.service_process import READY, START_SECONDS, Server, Service, pubsub_server, store_server
from tests.external.venues import BROKERS, GatewayVenue
from tests.faults.judgement import Placed
from tests.faults.people import Phone, telegram_server, telegram_settings
from tests.faults.stage import (
    LOOK_SECONDS,
    NotPublished,
    Outcome,
    Play,
    Signal,
    Stage,
    loop_outcome,
    python_path,
    set_stage,
    tells,
)
from tests.waits import wait_until

AWAY_SECONDS = 4.0
SLOW_AWAY_SECONDS = 12.0
UNTIL_SAID_SECONDS = 45.0
"""At most so long a part stays away until the service has said that it is."""
AGREE_SECONDS = 120.0
AGREE_AFTER_LONG_SECONDS = 60.0
"""After an outage that lasted for minutes: whoever waits longer and longer between two attempts has to begin anew, or nearly."""
RETURN_SECONDS = 90.0
GROWTH_LIMIT_BYTES = 100 * 1024 * 1024
FLOOD = 3000
ENDLESS_ATTEMPTS = 100
"""Attempts to connect before waiting orders are refused, and to publish, before people are told: so many that no outage lasts as long."""
UNTIL_TOLD_SECONDS = 150.0


SIDES = ("BUY", "SELL", "BUY", "BUY", "SELL", "BUY")
CONNECTED = "CONNECTED"


class Part(StrEnum):
    STORE = "store"
    PUBSUB = "Pub/Sub"
    BROKER = "broker"
    TELEGRAM = "Telegram"


class Trouble(StrEnum):
    """What happens to a part."""

    CUT_OFF = "cut off"
    SLOW = "slow"
    HALF_OPEN = "half-open"
    FLAPPING = "flapping"
    FORGOTTEN = "forgotten"
    """Its connections are dead, and neither side is told; new ones live."""
    RESTARTED = "restarted"
    """Its process is killed, and started again on its data."""
    # The store's own fail points: its commands fail as a real server's would
    STEPPED_DOWN = "no primary any more"
    CONNECTIONS_CLOSED = "closing connections"
    WRITTEN_AND_DENIED = "writing and then denying it"
    COMMANDS_SLOW = "holding writes for 3 s"


MOODS = {Trouble(mood): mood for mood in Mood if mood is not Mood.OPEN}
NOT_SAID = (Trouble.SLOW, Trouble.FLAPPING, Trouble.FORGOTTEN, Trouble.COMMANDS_SLOW, Trouble.WRITTEN_AND_DENIED)
"""No part is gone then, or not for long enough that anybody could tell."""
WRITES = ["insert", "update", "findAndModify", "bulkWrite", "delete"]
FAIL_POINTS: Mapping[Trouble, tuple[object, Mapping[str, Any]]] = {
    Trouble.STEPPED_DOWN: ("alwaysOn", {"failCommands": [*WRITES, "find"], "errorCode": 10107}),
    Trouble.CONNECTIONS_CLOSED: ("alwaysOn", {"failCommands": WRITES, "closeConnection": True}),
    Trouble.WRITTEN_AND_DENIED: (
        "alwaysOn",
        {"failCommands": WRITES, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ),
    Trouble.COMMANDS_SLOW: ({"times": 4}, {"failCommands": WRITES, "blockConnection": True, "blockTimeMS": 3000}),
}

LOST: Mapping[Part, Sequence[str]] = {
    Part.STORE: ("The store does not answer", "Waiting for the store"),
    Part.PUBSUB: ("Pub/Sub does not answer", "Waiting for Pub/Sub"),
    Part.BROKER: ("Broker connection lost", "Broker connection failed", "Question to the broker failed"),
    Part.TELEGRAM: ("Telegram message not sent",),
}
BACK: Mapping[Part, Sequence[str]] = {
    Part.STORE: ("The store answers again",),
    Part.PUBSUB: ("Pub/Sub answers again", READY),
    Part.BROKER: ("Broker connected", "The broker answers again"),
    Part.TELEGRAM: ("Telegram message sent after all",),
}
TOLD_LOST: Mapping[Part, str] = {Part.BROKER: "Broker Down", Part.PUBSUB: "Confirmations Not Published"}
"""What people are told by Telegram. Of a store that is away only the log tells, and of Telegram nobody could be told."""
ATTEMPTS_UNTIL_TOLD: Mapping[Part, int] = {Part.BROKER: 3, Part.PUBSUB: 2}
"""The service's own default is 3; one to publish takes forty seconds."""
TOLD_BACK: Mapping[Part, str] = {Part.BROKER: "Broker Up"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    parts: tuple[Part, ...]
    trouble: Trouble
    at_start: bool = False
    flood: int = 0
    """So many repetitions of the orders wait meanwhile."""
    is_told: bool = False
    """It lasts until people have been told, which comes with the refusal of the orders that wait for a broker."""

    @property
    def name(self) -> str:
        more = f", {self.flood} messages waiting" if self.flood else ""
        more += ", until people are told" if self.is_told else ""
        when = "at start" if self.at_start else "in flight"
        return f"outage: {' and '.join(self.parts)} {self.trouble}, {when}{more}"

    @property
    def missed(self) -> Sequence[Part]:
        """Those that the service can and must notice. While something else is away there may be nothing to tell people by Telegram; and while
        the store is away, a broker that does not break the connection is not asked anything."""
        if self.trouble in NOT_SAID:
            return ()
        unnoticed = {Part.TELEGRAM} if len(self.parts) > 1 else set()
        if Part.STORE in self.parts and self.trouble is Trouble.HALF_OPEN:
            unnoticed.add(Part.BROKER)
        return [part for part in self.parts if part not in unnoticed]


class Extent(StrEnum):
    """How many outages: all; or those of a broker's own at each broker and the others only at the one that stands in for all. A broker that no
    connection leads to has none of its own: there the quick ones are played."""

    QUICK = "quick"
    USUAL = "usual"
    ALL = "all"


def all_outages(broker: str) -> list[Outage]:
    """Each part in each trouble, in flight and at start; each pair cut off and half-open; the store's fail points; and some that last. Not every
    broker's simulator has a connection to cut."""
    parts = [part for part in Part if part is not Part.BROKER or simulator_of(broker).has_connections]
    network = [*MOODS, Trouble.RESTARTED]
    alone = [
        Outage(parts=(part,), trouble=trouble, at_start=start)
        for part in parts
        for trouble in network
        for start in (False, True)
        if not (start and trouble is Trouble.FORGOTTEN)
    ]
    pairs = [
        Outage(parts=pair, trouble=trouble)
        for pair in itertools.combinations(parts, 2)
        for trouble in (Trouble.CUT_OFF, Trouble.HALF_OPEN)
    ]
    inside = [Outage(parts=(Part.STORE,), trouble=trouble) for trouble in FAIL_POINTS]
    flood = Outage(parts=(Part.STORE,), trouble=Trouble.CUT_OFF, flood=FLOOD)
    told = [
        Outage(parts=(part,), trouble=trouble, is_told=True)
        for part in parts
        for trouble in (Trouble.CUT_OFF, Trouble.HALF_OPEN)
        if part in TOLD_LOST
    ]
    return [*alone, *pairs, *inside, flood, *told]


QUICK_OUTAGES: Mapping[str, Sequence[Outage]] = {
    stand_in().name: (
        Outage(parts=(Part.STORE,), trouble=Trouble.FLAPPING),
        Outage(parts=(Part.PUBSUB,), trouble=Trouble.CUT_OFF),
        Outage(parts=(Part.STORE, Part.PUBSUB), trouble=Trouble.HALF_OPEN),
        Outage(parts=(Part.STORE,), trouble=Trouble.STEPPED_DOWN),
    ),
}
"""At the broker that stands in for all; what concerns a gateway is played at each that has one."""
QUICK_AT_GATEWAYS = (
    Outage(parts=(Part.BROKER,), trouble=Trouble.HALF_OPEN),
    Outage(parts=(Part.BROKER, Part.STORE), trouble=Trouble.CUT_OFF),
)


def quick_outages(broker: str) -> Sequence[Outage]:
    """The brokers with gateways take turns, so that each outage is played somewhere."""
    if not simulator_of(broker).has_connections:
        return QUICK_OUTAGES.get(broker, ())
    with_gateways = [name for name in BROKERS if simulator_of(name).has_connections]
    return [QUICK_AT_GATEWAYS[with_gateways.index(broker) % len(QUICK_AT_GATEWAYS)]]


def chosen_outages(broker: str, extent: Extent) -> Sequence[Outage]:
    match extent:
        case Extent.QUICK:
            return quick_outages(broker)
        case Extent.USUAL:
            if not simulator_of(broker).has_connections and not manifests()[broker].is_stand_in:
                return QUICK_OUTAGES[stand_in().name]
            return [
                each for each in all_outages(broker) if manifests()[broker].is_stand_in or Part.BROKER in each.parts
            ]
    return all_outages(broker)


class Surroundings:
    """Everything that the service talks to, and what can be done to it."""

    def __init__(
        self, stage: Stage, proxies: Mapping[Part, Proxy], servers: Mapping[Part, Server], phone: Phone
    ) -> None:
        self.stage = stage
        self.phone = phone
        self._proxies = proxies
        self._servers = servers

    def strike(self, part: Part, trouble: Trouble) -> None:
        if trouble in MOODS:
            self._proxies[part].be(MOODS[trouble])
        elif trouble is Trouble.RESTARTED:
            self._servers[part].kill()
        else:
            mode, wish = FAIL_POINTS[trouble]
            self._fail_point(mode, wish)

    def restore(self) -> None:
        """All parts as they ought to be."""
        for server in self._servers.values():
            if server.process is None:
                server.start()
        for proxy in self._proxies.values():
            proxy.be(Mood.OPEN)
        self._fail_point("off", {})

    def _fail_point(self, mode: object, wish: Mapping[str, Any]) -> None:
        """Past the proxy. An answer that the fail point itself spoils is no trouble: it is set all the same."""
        with pymongo.MongoClient[Mapping[str, Any]](self.stage.mongodb_uri, serverSelectionTimeoutMS=10000) as client:
            client.admin.command("configureFailPoint", "failCommand", mode=mode, data=dict(wish))


@contextlib.contextmanager
def surroundings(broker: str, folder: Path) -> Iterator[Surroundings]:
    """The service with a proxy before everything that it talks to."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(store_server(folder, "--enable-test-commands"))
        pubsub = stack.enter_context(pubsub_server(folder))
        telegram = stack.enter_context(telegram_server(folder))
        servers = {Part.STORE: store, Part.PUBSUB: pubsub, Part.TELEGRAM: telegram}
        proxies = {part: stack.enter_context(Proxy(server.port)) for part, server in servers.items()}

        def before_gateway(port: int) -> int:
            proxies[Part.BROKER] = stack.enter_context(Proxy(port))
            return proxies[Part.BROKER].port

        stage = stack.enter_context(
            set_stage(
                broker,
                folder,
                lanes=1,
                through=before_gateway,
                account_keys=simulator_of(broker).short_search,
                own_pubsub=f"127.0.0.1:{pubsub.port}",
                own_store=f"mongodb://127.0.0.1:{store.port}/?directConnection=true",
                MONGODB_URI=f"mongodb://127.0.0.1:{proxies[Part.STORE].port}/?directConnection=true",
                PUBSUB_EMULATOR_HOST=f"127.0.0.1:{proxies[Part.PUBSUB].port}",
                **telegram_settings(proxies[Part.TELEGRAM].port),
                MAX_ORDER_AGE_SECONDS="600",
                ORDER_TIMEOUT_SECONDS="0",
                PYTHONPATH=python_path(),
            )
        )
        venue = stage.lanes[0].venue
        if isinstance(venue, GatewayVenue):
            servers[Part.BROKER] = venue.server
        yield Surroundings(stage, proxies, servers, Phone(telegram.port))


def play_outages(
    broker: str,
    folder: Path,
    outages: Sequence[Outage],
    *,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """One after the other on one place. A service that has ended is started again, and that is said."""
    outcomes = []
    with surroundings(broker, folder) as around:
        stage = around.stage
        for outage in outages:
            outcome = Outcome(outage.name, broker)
            try:
                _play(around, outage, outcome)
            except Exception as exc:  # noqa: BLE001  the other outages go on
                outcome.wrong.append(f"{type(exc).__name__}: {exc}"[:1500])
            finally:
                around.restore()
                if stage.service.exit_status() is not None:
                    outcome.wrong.append(f"the service ended with {stage.service.exit_status()}")
                    stage.service.start()
            outcomes.append(outcome)
            done(outcome)
    outcomes.append(loop_outcome(broker, "event_loop in outages", folder))
    done(outcomes[-1])
    return outcomes


def _play(around: Surroundings, outage: Outage, outcome: Outcome) -> None:
    stage = around.stage
    service = stage.service
    if outage.is_told:
        # With a start at any rate, since people are told of one kind of trouble once a minute.
        _start_with_attempts(service, ATTEMPTS_UNTIL_TOLD[outage.parts[0]])
    elif service.settings["MAX_RETRY_ATTEMPTS"] != str(ENDLESS_ATTEMPTS):
        _start_with_attempts(service, ENDLESS_ATTEMPTS)
    play = Play(stage, stage.lanes[0], "outage")
    orders = [play.order(side, expects=_expected(stage.broker, outage)) for side in SIDES]
    if outage.at_start:
        service.stop()
    memory_before = 0 if outage.at_start else _memory(stage)
    watch = _Watch(around, outage)
    if not outage.at_start:
        play.send(*orders[:3])
    # Something has to be published while Pub/Sub is away, or nobody need be told.
    resting = play.resting() if outage.is_told and Part.PUBSUB in outage.parts else None
    for part in outage.parts:
        around.strike(part, outage.trouble)
    if resting is not None:
        play.fill(resting)
    if outage.at_start:
        service.launch()
    waiting = orders if outage.at_start else orders[3:]
    is_pubsub_dead = Part.PUBSUB in outage.parts and outage.trouble is Trouble.RESTARTED
    if not is_pubsub_dead:
        play.send(*waiting, *itertools.islice(itertools.cycle(orders), outage.flood))
    time.sleep(SLOW_AWAY_SECONDS if outage.trouble is Trouble.SLOW else AWAY_SECONDS)
    missing = _unseen(watch.of_the_loss(), within=UNTIL_TOLD_SECONDS if outage.is_told else UNTIL_SAID_SECONDS)
    memory_away = _memory(stage)
    around.restore()
    if is_pubsub_dead:
        wait_until(lambda: _is_sent(play, waiting), "Pub/Sub takes messages again", within=AGREE_SECONDS)
    back = time.monotonic()
    while True:
        found = play.judge()
        if not found or time.monotonic() > back + (AGREE_AFTER_LONG_SECONDS if outage.is_told else AGREE_SECONDS):
            break
        time.sleep(LOOK_SECONDS)
    outcome.recovery_seconds = time.monotonic() - back
    outcome.placed = play.placed()
    outcome.wrong = [*missing, *found]
    if not missing:
        outcome.wrong += _unseen(watch.of_the_return(), within=RETURN_SECONDS)
    if READY not in service.console()[watch.heard :] and outage.at_start:
        wait_until(lambda: READY in service.console()[watch.heard :], "the service is ready", within=START_SECONDS)
    grown = max(memory_away, _memory(stage)) - memory_before
    if memory_before and grown > GROWTH_LIMIT_BYTES:
        outcome.wrong.append(f"its memory grew by {grown >> 20} MiB")


def _expected(broker: str, outage: Outage) -> Placed:
    """An order that was on its way when the broker went may never have arrived: then it is in doubt where ids may repeat; and where they
    belong to a connection, if the gateway keeps them for one that is dead. One that waits for long enough is refused."""
    if Part.BROKER not in outage.parts:
        return Placed.ONCE
    if outage.is_told:
        return Placed.ONCE_OR_REFUSED
    is_doubtful = not tells(broker, Fact.REFUSES_REPEATED_IDS) or (
        tells(broker, Fact.IDS_OF_A_CONNECTION) and outage.trouble is Trouble.FORGOTTEN
    )
    return Placed.ONCE_OR_DOUBTED if is_doubtful else Placed.ONCE


def _start_with_attempts(service: Service, attempts: int) -> None:
    service.stop()
    service.settings["MAX_RETRY_ATTEMPTS"] = str(attempts)
    service.start()


class _Watch:
    """What the service has said since this was made, in its log, in its notice for scripts and to people, that it had to say of one outage."""

    def __init__(self, around: Surroundings, outage: Outage) -> None:
        self._stage = around.stage
        self._phone = around.phone
        self._outage = outage
        self.heard = len(around.stage.service.console())
        self._read = len(around.phone.messages()) if outage.is_told else 0

    def of_the_loss(self) -> dict[str, Callable[[], bool]]:
        """By what is wrong where it is missing."""
        signs = self._lines(LOST, "gone") | self._messages(TOLD_LOST, "gone")
        # While the store is away the account is let go, whatever becomes of the broker.
        if Part.BROKER in self._outage.missed and Part.STORE not in self._outage.parts:
            signs["the notice for scripts does not say that the broker is gone"] = lambda: (
                self._state() not in (None, CONNECTED)
            )
        return signs

    def of_the_return(self) -> dict[str, Callable[[], bool]]:
        signs = self._lines(BACK, "back") | self._messages(TOLD_BACK, "back")
        return signs | {"the notice for scripts does not say CONNECTED": lambda: self._state() == CONNECTED}

    def _lines(self, words: Mapping[Part, Sequence[str]], how: str) -> dict[str, Callable[[], bool]]:
        return {
            f"no line of the log says that the {part} is {how}": lambda part=part: self._is_in_log(words[part])  # type: ignore[misc]
            for part in self._outage.missed
        }

    def _is_in_log(self, words: Sequence[str]) -> bool:
        console = self._stage.service.console()[self.heard :]
        return any(word in console for word in words)

    def _messages(self, words: Mapping[Part, str], how: str) -> dict[str, Callable[[], bool]]:
        told = [part for part in self._outage.parts if self._outage.is_told and part in words]
        return {
            f"people are not told that the {part} is {how}": lambda part=part: self._is_told(words[part])
            for part in told
        }  # type: ignore[misc]

    def _is_told(self, words: str) -> bool:
        return any(words in text for text in self._phone.messages()[self._read :])

    def _state(self) -> str | None:
        """Of the account, as `mvp_demo_status.py` shows it; None while there is no notice."""
        try:
            accounts = self._stage.service.endpoints()["accounts"]
        except FileNotFoundError:
            return None
        return str(accounts.get(self._stage.lanes[0].account_id, {}).get("state"))


def _unseen(signs: Mapping[str, Callable[[], bool]], *, within: float) -> list[str]:
    """What none of these signs has shown by then."""
    end = time.monotonic() + within
    left = dict(signs)
    while left and time.monotonic() < end:
        left = {what: is_seen for what, is_seen in left.items() if not is_seen()}
        if left:
            time.sleep(LOOK_SECONDS)
    return sorted(left)


def _is_sent(play: Play, orders: Sequence[Signal]) -> bool:
    """All clients of one process share a connection, which after an outage is tried again only now and then."""
    try:
        play.send(*orders)
    except NotPublished:
        return False
    return True


def _memory(stage: Stage) -> int:
    return int(psutil.Process(stage.service.pid).memory_info().rss)
