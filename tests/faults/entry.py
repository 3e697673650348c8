"""The service as the fault tests start it: the product's own program, with its clock, its ports and its loop watched or struck from outside.

The environment says what for; without any of it nothing is changed but the watch over the loop:

    FAULTS_HEARTBEAT    file: the longest pauses of the event loop, in milliseconds, as JSON
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
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from brokers.factory import BrokerFactory
from execution_service import execution_main, pubsub, service
from execution_service.clock import SystemClock
from execution_service.pubsub import GooglePublisher
from execution_service.store import MongoStore

BEAT_SECONDS = 0.02
WRITE_SECONDS = 0.5
START_SECONDS = 5.0
LIMIT_SECONDS = 0.1
STORE_WRITES = (
    "insert_orders",
    "append",
    "strike",
    "insert_command",
    "finish_command",
    "insert_dead_letters",
    "raise_alarm",
    "alarm_sent",
    "save_ledgers",
    "write_views",
)
BROKER_CALLS = ("reserve", "place_order", "cancel_order", "find")
"""The calls that concern one order. How often the lists are asked for depends on the moment; random kills hit those."""


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

    def watch(self, owner: Any, names: Iterable[str], room: str) -> None:
        """Puts itself around these coroutine methods of a class, or of one object."""
        for name in names:
            plain = getattr(owner, name)
            if plain is not None:
                setattr(owner, name, self._around(plain, f"{room}.{name}"))

    def _around(self, plain: Callable[..., Any], what: str) -> Callable[..., Any]:
        @functools.wraps(plain)
        async def call(*arguments: Any, **named: Any) -> Any:
            self.cross(f"before {what}")
            answer = await plain(*arguments, **named)
            self.cross(f"after {what}")
            return answer

        return call


def strike_ports(crossings: Crossings) -> None:
    crossings.watch(MongoStore, STORE_WRITES, "store")
    crossings.watch(GooglePublisher, ("publish",), "publisher")
    made = BrokerFactory.create_broker

    def create_broker(config: Any) -> Any:
        broker = made(config)
        crossings.watch(broker, BROKER_CALLS, "broker")
        return broker

    BrokerFactory.create_broker = staticmethod(create_broker)  # type: ignore[method-assign]
    notifier_made = service.notifier_of

    def notifier_of(settings: Any) -> Any:
        notifier = notifier_made(settings)
        crossings.watch(notifier, ("send",), "notifier")
        return notifier

    service.notifier_of = notifier_of
    received = pubsub._message

    def message_of(message: Any) -> Any:
        taken = received(message)

        def ack() -> None:
            crossings.cross("before ack")
            taken.ack()
            crossings.cross("after ack")

        return replace(taken, ack=ack)

    pubsub._message = message_of


class WrongClock(SystemClock):
    """Wrong by what a file says at the moment."""

    path = Path()

    def now(self) -> datetime:
        try:
            return super().now() + timedelta(seconds=float(self.path.read_text()))
        except (OSError, ValueError):
            return super().now()


async def beat(path: Path) -> None:
    """Notes by how much the loop came late: the longest, and how often over 100 ms; and the same of the loop's own work, for
    which the thread's processor time stands: a busy machine adds little to it. The start is told apart."""
    longest = work = 0.0
    over = over_by_work = beats = 0
    began = written = time.monotonic()
    start: dict[str, float] | None = None
    while True:
        due, used = time.monotonic() + BEAT_SECONDS, time.thread_time()
        await asyncio.sleep(BEAT_SECONDS)
        late, worked = time.monotonic() - due, time.thread_time() - used
        beats += 1
        over += late > LIMIT_SECONDS
        over_by_work += worked > LIMIT_SECONDS
        longest, work = max(longest, late), max(work, worked)
        if time.monotonic() - written > WRITE_SECONDS:
            written = time.monotonic()
            told = {
                "longest_ms": round(longest * 1000, 1),
                "longest_work_ms": round(work * 1000, 1),
                "over_100_ms": over,
                "work_over_100_ms": over_by_work,
                "beats": beats,
            }
            if start is None and written - began > START_SECONDS:
                start, longest, work, over, over_by_work = dict(told), 0.0, 0.0, 0, 0
            await asyncio.to_thread(path.write_text, json.dumps({**told, "start": start}))


def main() -> int:
    heartbeat = os.environ.get("FAULTS_HEARTBEAT")
    if heartbeat:
        served = service.serve

        async def serve(*arguments: Any) -> None:
            watch = asyncio.create_task(beat(Path(heartbeat)))
            try:
                await served(*arguments)
            finally:
                watch.cancel()

        execution_main.serve = serve  # type: ignore[assignment]
    wrong = os.environ.get("FAULTS_CLOCK")
    if wrong:
        WrongClock.path = Path(wrong)
        service.SystemClock = WrongClock  # type: ignore[misc]
    orders, notes = os.environ.get("FAULTS_KILL"), os.environ.get("FAULTS_CROSSINGS")
    if orders and notes:
        strike_ports(Crossings(Path(orders), Path(notes)))
    return execution_main.main()


if __name__ == "__main__":
    sys.exit(main())
