"""Store, Pub/Sub, broker and Telegram go away behind proxies, at the start and in flight, alone and in pairs; no judgement of orders here."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from tests.external.service_process import REPOSITORY, Server, free_port, pubsub_server, store_server, wait_until
from tests.faults.judgement import Placed
from tests.faults.proxy import Mood, Proxy
from tests.faults.stage import LOOK_SECONDS, Outcome, Play, Stage, loop_outcome, set_stage

AWAY_SECONDS = 4.0
AGREE_SECONDS = 120.0
GROWTH_LIMIT_BYTES = 100 * 1024 * 1024
SAID = ("WARNING", "ERROR")


class Part(StrEnum):
    STORE = "store"
    PUBSUB = "Pub/Sub"
    BROKER = "broker"
    TELEGRAM = "Telegram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    parts: tuple[Part, ...]
    mood: Mood
    at_start: bool = False

    @property
    def name(self) -> str:
        return f"outage: {' and '.join(self.parts)} {self.mood}, {'at start' if self.at_start else 'in flight'}"


def all_outages(broker: str) -> list[Outage]:
    """Each part in each mood, in flight and at start, and each pair cut off and half-open. The mock broker has no connection to cut."""
    parts = [part for part in Part if part is not Part.BROKER or broker != "mock"]
    moods = [mood for mood in Mood if mood is not Mood.OPEN]
    alone = [
        Outage(parts=(part,), mood=mood, at_start=start) for part in parts for mood in moods for start in (False, True)
    ]
    pairs = itertools.combinations(parts, 2)
    return alone + [Outage(parts=pair, mood=mood) for pair in pairs for mood in (Mood.CUT_OFF, Mood.HALF_OPEN)]


QUICK_OUTAGES: Mapping[str, Sequence[Outage]] = {
    "mock": (
        Outage(parts=(Part.STORE,), mood=Mood.FLAPPING),
        Outage(parts=(Part.PUBSUB,), mood=Mood.CUT_OFF),
        Outage(parts=(Part.STORE, Part.PUBSUB), mood=Mood.HALF_OPEN),
    ),
    "ibkr": (Outage(parts=(Part.BROKER,), mood=Mood.HALF_OPEN),),
    "zerodha": (Outage(parts=(Part.BROKER, Part.STORE), mood=Mood.CUT_OFF),),
}


@contextlib.contextmanager
def between_proxies(broker: str, folder: Path) -> Iterator[tuple[Stage, Mapping[Part, Proxy]]]:
    """The service with a proxy before everything that it talks to."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(store_server(folder))
        pubsub = stack.enter_context(pubsub_server(folder))
        telegram_port = free_port()
        command = [sys.executable, "-m", "simulators.telegram", "--port", str(telegram_port)]
        stack.enter_context(Server("the simulated Telegram", command, telegram_port, folder / "telegram.log"))
        targets = {Part.STORE: store.port, Part.PUBSUB: pubsub.port, Part.TELEGRAM: telegram_port}
        proxies = {part: stack.enter_context(Proxy(port)) for part, port in targets.items()}

        def before_gateway(port: int) -> int:
            proxies[Part.BROKER] = stack.enter_context(Proxy(port))
            return proxies[Part.BROKER].port

        stage = stack.enter_context(
            set_stage(
                broker,
                folder,
                lanes=1,
                through=before_gateway,
                own_pubsub=f"127.0.0.1:{pubsub.port}",
                own_store=f"mongodb://127.0.0.1:{store.port}/?directConnection=true",
                MONGODB_URI=f"mongodb://127.0.0.1:{proxies[Part.STORE].port}/?directConnection=true",
                PUBSUB_EMULATOR_HOST=f"127.0.0.1:{proxies[Part.PUBSUB].port}",
                TELEGRAM_ENABLED="true",
                TELEGRAM_BOT_TOKEN="1:simulated",
                TELEGRAM_CHAT_ID="7",
                TELEGRAM_API_BASE_URL=f"http://127.0.0.1:{proxies[Part.TELEGRAM].port}",
                MAX_ORDER_AGE_SECONDS="600",
                ORDER_TIMEOUT_SECONDS="0",
                PYTHONPATH=str(REPOSITORY),
            )
        )
        yield stage, proxies


def play_outages(broker: str, folder: Path, outages: Sequence[Outage]) -> list[Outcome]:
    """One after the other on one place. A service that has ended is started again, and that is said."""
    outcomes = []
    with between_proxies(broker, folder) as (stage, proxies):
        for outage in outages:
            try:
                outcomes.append(_play(stage, [proxies[part] for part in outage.parts], outage))
            except Exception as exc:  # noqa: BLE001  the other outages go on
                outcomes.append(Outcome(outage.name, broker, wrong=[f"{type(exc).__name__}: {exc}"[:1500]]))
            finally:
                for proxy in proxies.values():
                    proxy.be(Mood.OPEN)
                if stage.service.exit_status() is not None:
                    outcomes[-1].wrong.append(f"the service ended with {stage.service.exit_status()}")
                    stage.service.start()
        outcomes.append(loop_outcome(stage, "event_loop in outages"))
    return outcomes


def _play(stage: Stage, proxies: Sequence[Proxy], outage: Outage) -> Outcome:
    outcome = Outcome(outage.name, stage.broker)
    play = Play(stage, stage.lanes[0], "outage")
    # An order that was on its way when the broker went may never have arrived: then it is in doubt where ids may repeat.
    doubtful = stage.broker == "zerodha" and Part.BROKER in outage.parts
    expects = Placed.ONCE_OR_DOUBTED if doubtful else Placed.ONCE
    orders = [play.order(side, expects=expects) for side in ("BUY", "SELL", "BUY", "BUY", "SELL", "BUY")]
    if outage.at_start:
        stage.service.stop()
    said_before = _troubles(stage)
    memory_before = 0 if outage.at_start else _memory(stage)
    if not outage.at_start:
        play.send(*orders[:3])
    for proxy in proxies:
        proxy.be(outage.mood)
    if outage.at_start:
        stage.service.launch()
        play.send(*orders[:3])
    play.send(*orders[3:])
    time.sleep(AWAY_SECONDS * (3 if outage.mood is Mood.SLOW else 1))
    if outage.at_start and _must_say(outage):
        wait_until(lambda: _troubles(stage) > said_before, "the log says what is missing at the start", within=30.0)
    for proxy in proxies:
        proxy.be(Mood.OPEN)
    back = time.monotonic()
    while True:
        outcome.wrong = play.judge()
        if not outcome.wrong or time.monotonic() > back + AGREE_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    outcome.recovery_seconds = time.monotonic() - back
    outcome.placed = play.placed()
    if _must_say(outage) and _troubles(stage) == said_before:
        outcome.wrong.append("no line of the log says that anything was lost")
    if memory_before and _memory(stage) - memory_before > GROWTH_LIMIT_BYTES:
        outcome.wrong.append(f"its memory grew by {(_memory(stage) - memory_before) >> 20} MiB")
    return outcome


def _must_say(outage: Outage) -> bool:
    """A short silence of Pub/Sub or of an idle broker is not to be told from quiet times; the others are asked all the time."""
    return outage.mood is Mood.CUT_OFF and bool({Part.STORE} & set(outage.parts))


def _troubles(stage: Stage) -> int:
    return sum(stage.service.console().count(word) for word in SAID)


def _memory(stage: Stage) -> int:
    return int(psutil.Process(stage.service.pid).memory_info().rss)
