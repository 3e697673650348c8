"""The service as the fault tests start it: the product's own program, with its clock, its ports and its loop watched or struck from outside.

The environment says what for; without any of it nothing is changed but the watch over the loop:

    FAULTS_HEARTBEATS   folder: there each process keeps a file with the pauses of its event loop, as JSON
    FAULTS_CLOCK        file: seconds by which the wall clock is wrong, read at every look
    FAULTS_KILL         file: "SERIES WHERE"; the process ends by SIGKILL at that crossing of a port, e.g. `before store.append#3`, the third
                        since that series was written there, or `any#7`; read at every crossing
    FAULTS_CROSSINGS    file: each crossing is noted there, one a line, with its series
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from brokers.factory import BrokerFactory
from execution_service import execution_main
from execution_service.app import events, process, wiring
from execution_service.app.clock import SystemClock
from execution_service.delivery.events import Events
from execution_service.storage.mongo.ledger_lines import LedgerLines
from execution_service.storage.mongo.store import MongoStore
from execution_service.transport import pubsub
from execution_service.transport.pubsub import GooglePublisher

BEAT_SECONDS = 0.02
WRITE_SECONDS = 0.5
LIMIT_MS = 100.0
FIGURES = ("beats", "over_100_ms", "work_over_100_ms", "longest_ms", "longest_work_ms")
STORE_WRITES = (
    "insert_orders",
    "append",
    "commit_cursors",
    "insert_command",
    "finish_command",
    "insert_dead_letters",
    "raise_alert",
    "alert_sent",
    "save_ledgers",
    "keep_lines",
    "write_views",
    "insert_discrepancy",
    "save_discrepancy",
    "take_lease",
    "renew_leases",
    "release_leases",
    "leave",
    "picked_up",
    "set_bookmark",
    "put_switch",
    "raise_fences",
    "first_count",
)
"""Each before and after; and the ledger's lines of single orders, which are kept by themselves before the cursors of a delivery are."""
BROKER_CALLS = ("reserve", "place_order", "cancel_order", "find")
"""The calls that concern one order. How often the lists are asked for depends on the moment; random kills hit those."""
CALLS_OF_SOME_BROKERS = ("place_combined", "move_on")
"""Where options of one signal are one order; where the market is one of the past, and goes on by that."""


class Crossings:
    """Counts what goes through the ports, before and after each call, and kills the process at the one that it was told."""

    def __init__(self, orders: Path, notes: Path) -> None:
        self._orders = orders
        self._told = ""
        self._counts: Counter[str] = Counter()
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def cross(self, what: str) -> None:
        told = self._orders.read_text()
        if told != self._told:
            self._told = told
            self._counts.clear()
        self._counts.update((what, "any"))
        series, _, where = told.partition(" ")
        os.write(self._notes, f"{series} {what}#{self._counts[what]}\n".encode())
        if where in (f"{what}#{self._counts[what]}", f"any#{self._counts['any']}"):
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, names: Iterable[str], room: str, *, only_with_arguments: bool = False) -> None:
        """Puts itself around these coroutine methods of a class, or of one object; with `only_with_arguments` around those calls alone
        whose last argument is not empty."""
        for name in names:
            plain = getattr(owner, name)
            if plain is not None:
                setattr(owner, name, self._around(plain, f"{room}.{name}", only_with_arguments))

    def _around(self, plain: Callable[..., Any], what: str, only_with_arguments: bool) -> Callable[..., Any]:
        @functools.wraps(plain)
        async def call(*arguments: Any, **named: Any) -> Any:
            if only_with_arguments and not arguments[-1]:
                return await plain(*arguments, **named)
            self.cross(f"before {what}")
            answer = await plain(*arguments, **named)
            self.cross(f"after {what}")
            return answer

        return call


def put(owner: Any, name: str, value: Any) -> None:
    """In the place of what the owner has under this name. Raises AttributeError where it has none: then nobody would meet the new one."""
    getattr(owner, name)
    setattr(owner, name, value)


def strike_ports(crossings: Crossings) -> None:
    crossings.watch(MongoStore, STORE_WRITES, "store")
    crossings.watch(LedgerLines, ("keep",), "ledger_lines", only_with_arguments=True)
    crossings.watch(GooglePublisher, ("publish",), "publisher")
    crossings.watch(Events, ("deliver",), "events")
    strike_redis(crossings)
    made = BrokerFactory.create_broker

    def create_broker(config: Any) -> Any:
        broker = made(config)
        crossings.watch(broker, BROKER_CALLS, "broker")
        crossings.watch(broker, [name for name in CALLS_OF_SOME_BROKERS if hasattr(broker, name)], "broker")
        return broker

    put(BrokerFactory, "create_broker", staticmethod(create_broker))
    notifier_made = wiring.notifier_of

    def notifier_of(settings: Any) -> Any:
        notifier = notifier_made(settings)
        crossings.watch(notifier, ("send",), "notifier")
        return notifier

    put(wiring, "notifier_of", notifier_of)
    received = pubsub._message

    def message_of(message: Any, held: Any) -> Any:
        taken = received(message, held)

        def ack() -> None:
            crossings.cross("before ack")
            taken.ack()
            crossings.cross("after ack")

        return replace(taken, ack=ack)

    put(pubsub, "_message", message_of)


def strike_redis(crossings: Crossings) -> None:
    """Where its module is loaded at all. Told of an acknowledgement, the server is not told yet."""
    loaded = events._redis_streams

    def redis_streams() -> Any:
        module = loaded()
        plain = module.RedisSubscriber._acknowledge

        def acknowledge(subscriber: Any, key: Any) -> None:
            crossings.cross("before event.ack")
            plain(subscriber, key)
            crossings.cross("after event.ack")

        put(module.RedisSubscriber, "_acknowledge", acknowledge)
        return module

    put(events, "_redis_streams", redis_streams)


class WrongClock(SystemClock):
    """Wrong by what a file says at the moment."""

    path = Path()

    def now(self) -> datetime:
        try:
            return super().now() + timedelta(seconds=float(self.path.read_text()))
        except (OSError, ValueError):
            return super().now()


async def beat(path: Path, is_started: Callable[[], bool]) -> None:
    """Notes by how much the loop came late: the longest, and how often over 100 ms; and the same of the loop's own work, for
    which the thread's processor time stands: a busy machine adds little to it. Told apart is what is before `is_started`: nobody waits for
    anything yet."""
    phases = {"start": dict.fromkeys(FIGURES, 0.0), "after": dict.fromkeys(FIGURES, 0.0)}
    written = time.monotonic()
    writing: asyncio.Task[None] | None = None
    while True:
        told = phases["after" if is_started() else "start"]
        due, used = time.monotonic() + BEAT_SECONDS, time.thread_time()
        await asyncio.sleep(BEAT_SECONDS)
        now = time.monotonic()
        late, worked = (now - due) * 1000, (time.thread_time() - used) * 1000
        told["beats"] += 1
        told["over_100_ms"] += late > LIMIT_MS
        told["work_over_100_ms"] += worked > LIMIT_MS
        told["longest_ms"] = round(max(told["longest_ms"], late), 1)
        told["longest_work_ms"] = round(max(told["longest_work_ms"], worked), 1)
        is_due = now - written > WRITE_SECONDS or worked > LIMIT_MS
        if is_due and (writing is None or writing.done()):
            # Not awaited: what the loop does meanwhile is looked at, too.
            writing = asyncio.create_task(asyncio.to_thread(_write, path, json.dumps(phases)))
            written = now


def _write(path: Path, text: str) -> None:
    """Whole or not at all: the process may be killed at any moment."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def main() -> int:
    heartbeats = os.environ.get("FAULTS_HEARTBEATS")
    if heartbeats:
        served, set_aside = process.serve, process._set_start_aside
        started = threading.Event()

        def set_start_aside() -> None:
            set_aside()
            started.set()

        async def serve(*arguments: Any) -> None:
            path = Path(heartbeats) / f"{os.getpid()}-{time.monotonic_ns()}.json"
            watch = asyncio.create_task(beat(path, started.is_set))
            try:
                await served(*arguments)
            finally:
                watch.cancel()

        put(process, "_set_start_aside", set_start_aside)
        put(process, "serve", serve)
    wrong = os.environ.get("FAULTS_CLOCK")
    if wrong:
        WrongClock.path = Path(wrong)
        put(wiring, "SystemClock", WrongClock)
    orders, notes = os.environ.get("FAULTS_KILL"), os.environ.get("FAULTS_CROSSINGS")
    if orders and notes:
        strike_ports(Crossings(Path(orders), Path(notes)))
    return execution_main.main()


if __name__ == "__main__":
    sys.exit(main())
