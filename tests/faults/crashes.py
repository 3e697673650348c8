"""kill -9 of the real process at each crossing of a port, and at random moments, in the middle of a small journey; no judgement here."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from pathlib import Path

from pymongo.errors import PyMongoError

from tests.external.service_process import COMMANDS_TOPIC, READY, START_SECONDS, wait_until
from tests.external.venues import FINAL
from tests.faults.judgement import Placed
from tests.faults.stage import LOOK_SECONDS, NotPublished, Outcome, Play, Signal, Stage

JOURNEY_SECONDS = 30.0
AGREE_SECONDS = 110.0
"""Longer than a broker is asked for an order that nobody knows to have arrived."""


class Journey:
    """An entry that fills, its exit, an order that is filled in part and cancelled, and one that is rejected. Each step is taken once,
    whichever life of the service sees it."""

    def __init__(self, stage: Stage) -> None:
        self.play = play = Play(stage, stage.lanes[0], "crash")
        self.stage = stage
        # Perhaps sent when the process died: where ids may repeat at the broker, it is left in doubt. Refused where an entry is in doubt.
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
            return self._is_cancelled and all(self._has_ended(signal) for signal in play.signals)
        return False

    def is_stuck(self) -> bool:
        """The part's order is in doubt and not at the broker: nothing will ever fill of it."""
        record = self.play.record(self.part)
        return record is not None and record["status"] == "IN_DOUBT" and not self.play.at_broker(self.part)

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


def crash_at(stage: Stage, number: int) -> Outcome:
    """The process ends itself at this crossing of the journey."""
    notes = stage.folder / f"calls-{number}"
    _begin(stage, number, notes)
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


def _begin(stage: Stage, kill_at: int, notes: Path | None) -> None:
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
            is_over = journey.step() or journey.is_stuck()
            outcome.wrong = journey.play.judge() if is_over else ["the journey has not ended"]
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
