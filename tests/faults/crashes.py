"""kill -9 of the real process at each crossing of a port, and at random moments, in the middle of a small journey; no judgement here."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pymongo.errors import PyMongoError

from tests.external.service_process import COMMANDS_TOPIC, READY, REPOSITORY, START_SECONDS, wait_until
from tests.external.venues import FINAL
from tests.faults.judgement import Placed
from tests.faults.stage import LOOK_SECONDS, NotPublished, Outcome, Play, Signal, Stage

JOURNEY_SECONDS = 30.0
AGREE_SECONDS = 200.0
"""Longer than a broker is asked for an order that nobody knows to have arrived, and a person then takes to decide."""
DECIDE_SECONDS = 40.0


class Journey:
    """An entry that fills, its exit, an order that is filled in part and cancelled, and one that is rejected. Each step is taken once,
    whichever life of the service sees it."""

    def __init__(self, stage: Stage) -> None:
        self.play = play = Play(stage, stage.lanes[0], "crash")
        self.stage = stage
        # Perhaps sent when the process died: where ids may repeat at the broker, it is left in doubt until a person decides. The exit waits
        # for that, and is refused if its entry never came to be.
        once = Placed.ONCE_OR_DOUBTED if stage.broker == "zerodha" else Placed.ONCE
        after_doubt = Placed.ONCE_OR_REFUSED if stage.broker == "zerodha" else Placed.ONCE
        self.entry = play.order(expects=once)
        self.leave = play.order(
            "SELL", 6, signal_type="EXIT", entry_signal_id=self.entry.signal_id, expects=after_doubt
        )
        self.part = play.order(expects=once)
        self.rejected = play.order(expects=once)
        play.fault("place", "hold", self.part)
        play.fault("place", "reject", self.rejected)
        self._is_published = self._is_filled = self._is_cancelled = False
        self.wrong: list[str] = []
        self._decided: set[str] = set()

    def step(self) -> bool:
        """Does what is next; true when all has ended. A service that has just died answers nothing: then it is tried in the next life."""
        stage, play = self.stage, self.play
        with contextlib.suppress(NotPublished, OSError, PyMongoError):
            if stage.service.exit_status() is not None:
                return False
            if not self._is_published:
                stage.publish(*(signal.body for signal in play.signals))
                self._is_published = True
            if not self._is_filled and play.at_broker(self.part):
                play.fill(self.part, 4)
                self._is_filled = True
            if self._is_filled and not self._is_cancelled:
                command = {"command": "CANCEL", "signal_id": self.part.signal_id, "reason": "asked by the test"}
                stage.publish(command, topic=COMMANDS_TOPIC)
                self._is_cancelled = True
            doubted = [signal for signal in play.signals if self._is_doubted(signal)]
            for signal in doubted:
                self._decide(signal)
            is_done = self._is_cancelled or self._was_never_placed(self.part)
            return is_done and not doubted and all(self._has_ended(signal) for signal in play.signals)
        return False

    def _is_doubted(self, signal: Signal) -> bool:
        record = self.play.record(signal)
        return record is not None and record["status"] == "IN_DOUBT" and not self.play.at_broker(signal)

    def _was_never_placed(self, signal: Signal) -> bool:
        return signal.client_order_id in self._decided and self._has_ended(signal)

    def _decide(self, signal: Signal) -> None:
        """As a person does who was told of the doubt and looked at the broker. One order leaves at a time, so one may be in doubt."""
        if signal.client_order_id in self._decided:
            return
        if self._decided:
            self.wrong.append("more than one order is in doubt")
        if not any(
            each.body["status"] == "IN_DOUBT" and each.body["client_order_id"] == signal.client_order_id
            for each in self.stage.told({signal.signal_id})
        ):
            return  # it may be on its way; the journey does not end before it has come
        record = self.play.record(signal)
        assert record is not None
        arguments = ("--as", "not-placed", "--by", "the test", "--note", "not in the order book")
        command = [sys.executable, "-W", "ignore", str(REPOSITORY / "scripts" / "execctl.py"), "resolve"]
        said = subprocess.run(
            [*command, str(record["_id"]), *arguments],
            # The service is started by the tests' own program here, so its notice is not taken for a service's.
            env=self.stage.service.environment() | {"MONGODB_URI": str(self.stage.service.endpoints()["mongodb_uri"])},
            cwd=self.stage.folder,
            capture_output=True,
            text=True,
            timeout=DECIDE_SECONDS,
            check=False,
        )
        if said.returncode != 0:
            self.wrong.append(f"the decision was not taken: {said.stdout}{said.stderr}")
        self._decided.add(signal.client_order_id)

    def where(self) -> str:
        """How far it has come, for whoever waits for its end."""
        found = [self.play.record(signal) for signal in self.play.signals]
        statuses = ", ".join("not stored" if record is None else str(record["status"]) for record in found)
        return f"the journey has not ended: entry, exit, part, rejected: {statuses}"

    def _has_ended(self, signal: Signal) -> bool:
        record = self.play.record(signal)
        return record is not None and record["status"] in FINAL and "unsettled" not in record["lookup"]


def crossings(stage: Stage) -> int:
    """How many crossings an undisturbed journey has."""
    notes = stage.folder / "calls"
    _begin(stage, 0, notes)
    journey = Journey(stage)
    wait_until(journey.step, "an undisturbed journey ends", within=2 * JOURNEY_SECONDS, pause=0.03)
    stage.service.stop()
    return len(notes.read_text(encoding="utf-8").splitlines())


def crash_at(stage: Stage, crossing: int | str) -> Outcome:
    """The process ends itself at this crossing of the journey: by its number, or the first one of that name."""
    notes = stage.folder / f"calls-{str(crossing).replace(' ', '-')}"
    _begin(stage, crossing, notes)
    journey = Journey(stage)
    end = time.monotonic() + JOURNEY_SECONDS
    while stage.service.exit_status() is None and time.monotonic() < end and not journey.step():
        time.sleep(0.02)
    if stage.service.exit_status() is None:
        # This life took fewer calls than the measured one: it is killed where it is.
        stage.service.kill()
    last = notes.read_text(encoding="utf-8").splitlines()[-1:] if notes.exists() else []
    return _next_life(journey, f"killed {last[0].partition(' ')[2]}" if last else "killed at start")


def crash_after(stage: Stage, delay_seconds: float) -> Outcome:
    """kill -9 so long after the journey's messages were published."""
    _begin(stage, 0, None)
    journey = Journey(stage)
    journey.step()
    end = time.monotonic() + delay_seconds
    while time.monotonic() < end:
        journey.step()
        time.sleep(0.01)
    stage.service.kill()
    return _next_life(journey, "killed at a random moment")


def _begin(stage: Stage, kill_at: int | str, notes: Path | None) -> None:
    settings = stage.service.settings
    settings["FAULTS_KILL_AT"] = str(kill_at)
    settings["FAULTS_CALLS"] = "" if notes is None else str(notes)
    seen = stage.service.console().count(READY)
    stage.service.launch()
    wait_until(
        lambda: stage.service.console().count(READY) > seen or stage.service.exit_status() is not None,
        "the service is ready or dead",
        within=START_SECONDS,
        pause=0.02,
        more=stage.service.console,
    )
    if stage.service.exit_status() is None:
        stage.service.family()


def _next_life(journey: Journey, name: str) -> Outcome:
    """The ordinary program is started again, the journey goes on, and all must agree in the end."""
    stage = journey.stage
    outcome = Outcome(name, stage.broker)
    stage.service.settings["FAULTS_KILL_AT"] = "0"
    stage.service.settings["FAULTS_CALLS"] = ""
    began = time.monotonic()
    try:
        stage.service.start()
        end = time.monotonic() + AGREE_SECONDS
        while True:
            outcome.wrong = journey.play.judge() if journey.step() else [journey.where()]
            outcome.wrong += journey.wrong
            if not outcome.wrong or time.monotonic() > end:
                break
            time.sleep(LOOK_SECONDS)
        outcome.recovery_seconds = time.monotonic() - began
        outcome.placed = journey.play.placed()
    except Exception as exc:  # noqa: BLE001  the other rounds go on
        outcome.wrong = [f"{type(exc).__name__}: {exc}"[:1500]]
    finally:
        stage.service.kill()
    return outcome


def points(total: int, wanted: int | None, seed: int) -> Sequence[int]:
    """All crossings, or as many as wanted, evenly spread from where the seed begins."""
    if wanted is None or wanted >= total:
        return range(1, total + 1)
    stride = total / wanted
    first = random.Random(seed).random() * stride
    return [1 + int(first + stride * index) for index in range(wanted)]


def random_delays(rounds: int, seed: int) -> list[float]:
    """Seconds, the same for the same seed."""
    luck = random.Random(seed)
    return [luck.uniform(0.0, 1.5) for _ in range(rounds)]
