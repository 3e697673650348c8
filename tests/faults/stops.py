"""What stops trading, while what it stands on fails: the kill switch, the safety service, the kill key in Redis; at each broker, and with two
processes at the one that stands in for all."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.contract.redis_servers import RedisServer, redis_server
from tests.external.proxy import Mood, Proxy
from tests.external.service_process import COMMANDS_TOPIC, store_server
from tests.faults.judgement import Placed
from tests.faults.stage import LOOK_SECONDS, Outcome, Play, Signal, Stage, loop_outcome, run_play, set_stage
from tests.faults.stopped_replicas import flattened_after_a_kill_under_load_at_two_processes
from tests.waits import wait_until

ARMED = {"state": "ARMED", "can_execute": True, "trip_time": None, "trip_reason": None}
KILL_KEY = "quantum:kill"
NOT_KNOWN_SECONDS = 8.0
"""After so long without an answer neither the safety service nor the kill key is known any more, however they failed."""
BURST = 60
STOPS_WITHIN_SECONDS = 1.0
"""After a switch is engaged nothing that it stops leaves any more."""
CROSSINGS_OF_A_KILL = (
    "before store.insert_command",
    "after store.insert_command",
    "before store.put_switch",
    "after store.put_switch",
    "before store.raise_fences",
    "after store.raise_fences",
    "before store.first_count",
    "after store.first_count",
    "before store.finish_command",
    "after store.finish_command",
    "before ack",
    "after ack",
)


class SafetyService:
    """Over HTTP on loopback, in the written layout; says what it is told to."""

    def __init__(self) -> None:
        self.says: bytes = json.dumps(ARMED).encode()
        self.status = 200
        around = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_status = self.path == "/api/risk/ess/status"
                body = around.says if is_status else b'{"policies": {}, "count": 0}'
                self.send_response(around.status if is_status else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Not on the console."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def be_well(self) -> None:
        self.says, self.status = json.dumps(ARMED).encode(), 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """All that a stop stands on, and what can be done to it."""

    stage: Stage
    safety: SafetyService
    before_safety: Proxy
    redis: RedisServer
    before_redis: Proxy
    before_store: Proxy
    kill_file: Path

    def restore(self) -> None:
        for proxy in (self.before_safety, self.before_redis, self.before_store):
            proxy.be(Mood.OPEN)
        self.safety.be_well()
        self.kill_file.write_text("")


AT_TWO_PROCESSES = flattened_after_a_kill_under_load_at_two_processes.__name__
"""Played on a place of its own."""
Steps = Callable[[Around, Play], None]
STOPS: dict[str, Steps] = {}


def stop(steps: Steps) -> Steps:
    """Enters the steps into the table under their own name."""
    STOPS[steps.__name__] = steps
    return steps


# --- what is done and looked at -------------------------------------------------------------------------------------


def held(play: Play) -> Signal:
    """A position, whose entry is over."""
    entry = play.sent()
    play.until_placed(entry)
    play.until(entry, "FILLED")
    return entry


def leaves(play: Play, entry: Signal) -> Signal:
    """An exit of part of it."""
    return play.sent(side="SELL", quantity=2, signal_type="EXIT", entry_signal_id=entry.signal_id)


def refused(play: Play, code: str, **more: Any) -> None:
    """The next entry is."""
    entry = play.sent(expects=Placed.NEVER, **more)
    play.until(entry, "REJECTED")
    reason = (play.record(entry) or {}).get("events", [{}])[-1].get("reason", {})
    assert code in str(reason), f"refused, but not by {code}: {reason}"


def say(play: Play, command: str, **fields: Any) -> None:
    body = {"command": command, "scope": f"strategy:{play.strategy}", "by": "ann", "reason": "a drill", **fields}
    play.stage.publish(body, topic=COMMANDS_TOPIC)


def switch(play: Play, scope: str | None = None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = play.stage.db["execution_kill_switches"].find_one(
        {"_id": scope or f"strategy:{play.strategy}"}
    )
    return found


def until_engaged(play: Play, scope: str | None = None, within: float = 60.0) -> dict[str, Any]:
    wait_until(lambda: switch(play, scope), "the switch is engaged", within=within, pause=LOOK_SECONDS)
    found = switch(play, scope)
    assert found is not None
    return found


def until_known(around: Around, words: str, within: float = 45.0) -> None:
    wait_until(lambda: words in around.stage.service.log(), f"the log says {words!r}", within=within)


def safety_not_known(around: Around, play: Play, strike: Callable[[], None]) -> None:
    """However it came to be so: no new risk, exits leave, and all goes on when it is known again."""
    entry = held(play)
    strike()
    play.pause(NOT_KNOWN_SECONDS)
    refused(play, "SAFETY_SERVICE")
    play.until(leaves(play, entry), "FILLED")
    around.restore()
    play.pause(NOT_KNOWN_SECONDS)
    play.until(play.sent(), "FILLED")


# --- the safety service ---------------------------------------------------------------------------------------------


@stop
def the_safety_service_is_gone(around: Around, play: Play) -> None:
    """Connections are broken as soon as they are made."""
    safety_not_known(around, play, lambda: around.before_safety.be(Mood.CUT_OFF))


@stop
def the_safety_service_is_slow(around: Around, play: Play) -> None:
    """Each answer comes five seconds late."""
    safety_not_known(around, play, lambda: around.before_safety.be(Mood.SLOW))


@stop
def the_safety_service_is_half_open(around: Around, play: Play) -> None:
    """Connections are taken, and nothing ever comes back."""
    safety_not_known(around, play, lambda: around.before_safety.be(Mood.HALF_OPEN))


@stop
def the_safety_service_answers_with_an_error_inside_a_good_answer(around: Around, play: Play) -> None:
    """HTTP 200, and a body that says that it is not ready."""

    def strike() -> None:
        around.safety.says = b'{"error": "ESS not initialized", "healthy": false}'

    safety_not_known(around, play, strike)


@stop
def the_safety_service_answers_with_nonsense(around: Around, play: Play) -> None:
    """HTTP 500 and no JSON."""

    def strike() -> None:
        around.safety.says, around.safety.status = b"<html>", 500

    safety_not_known(around, play, strike)


@stop
def the_safety_service_stops_and_falls_silent(around: Around, play: Play) -> None:
    """It trips, and is gone before it says anything else: nothing is let through by its silence."""
    entry = held(play)
    around.safety.says = json.dumps({"state": "TRIPPED", "can_execute": False, "trip_reason": "drawdown"}).encode()
    play.pause(3.0)
    refused(play, "SAFETY_SERVICE")
    around.before_safety.be(Mood.CUT_OFF)
    play.pause(NOT_KNOWN_SECONDS)
    refused(play, "SAFETY_SERVICE")
    play.until(leaves(play, entry), "FILLED")


# --- the kill switch ------------------------------------------------------------------------------------------------


@stop
def killed_under_a_burst(around: Around, play: Play) -> None:
    """Sixty orders in a burst, and a kill in the middle: none leaves a second after it is engaged."""
    orders = [play.order(expects=Placed.ONCE_OR_REFUSED) for _ in range(BURST)]
    play.send(*orders[: BURST // 2])
    play.until_placed(orders[0])
    say(play, "KILL")
    play.send(*orders[BURST // 2 :])
    document = until_engaged(play)
    refused(play, "KILL_SWITCH")
    for order in orders:
        play.until(order)
    engaged_at = document["history"][0]["at"]
    engaged_at = datetime.fromisoformat(engaged_at) if isinstance(engaged_at, str) else engaged_at
    counts = play.placed()
    assert 0 < sum(counts) < BURST, f"the kill came in the middle: {sum(counts)} left"
    for order in orders:
        for placed in play.at_broker(order):
            late = (datetime.fromisoformat(placed["placed_at"]) - engaged_at).total_seconds()
            assert late <= STOPS_WITHIN_SECONDS, f"{order.signal_id} left {late:.2f} s after the switch was engaged"


@stop
def killed_while_the_store_is_away(around: Around, play: Play) -> None:
    """The kill comes while the store is cut off: it is engaged when that is back, once, and an exit leaves."""
    entry = held(play)
    around.before_store.be(Mood.CUT_OFF)
    say(play, "KILL")
    play.pause(4.0)
    assert switch(play) is None, "nobody said that it was engaged"
    around.before_store.be(Mood.OPEN)
    assert until_engaged(play)["version"] == 1
    refused(play, "KILL_SWITCH")
    play.until(leaves(play, entry), "FILLED")


@stop
def killed_while_the_store_is_half_open(around: Around, play: Play) -> None:
    """The same, and nobody is told that the store is away."""
    around.before_store.be(Mood.HALF_OPEN)
    say(play, "KILL")
    play.pause(4.0)
    around.before_store.be(Mood.OPEN)
    assert until_engaged(play)["version"] == 1
    refused(play, "KILL_SWITCH")


def dies_at(crossing: str) -> Steps:
    def steps(around: Around, play: Play) -> None:
        entry = held(play)
        around.kill_file.write_text(f"{play.strategy} {crossing}#1")
        say(play, "KILL")
        wait_until(lambda: around.stage.service.exit_status() is not None, f"it dies {crossing}", within=30)
        around.kill_file.write_text("")
        around.stage.service.start()
        document = until_engaged(play)
        assert (document["version"], len(document["history"])) == (1, 1), "one change, and the audit agrees"
        refused(play, "KILL_SWITCH")
        play.until(leaves(play, entry), "FILLED")

    steps.__name__ = f"killed_by_a_person_and_dead_{crossing.replace(' ', '_').replace('store.', '')}"
    steps.__doc__ = f"The process dies {crossing} of a kill: the next life ends killed, by one change."
    return steps


for _crossing in CROSSINGS_OF_A_KILL:
    stop(dies_at(_crossing))


# --- the kill key: last, since it stops all -------------------------------------------------------------------------


def key_not_known(around: Around, play: Play, mood: Mood) -> None:
    """New risk waits, exits leave, and what waited leaves when it is known again."""
    entry = held(play)
    around.before_redis.be(mood)
    play.pause(NOT_KNOWN_SECONDS)
    waits = play.sent()
    play.until(leaves(play, entry), "FILLED")
    play.stays(waits, "PENDING", seconds=2.0)
    around.before_redis.be(Mood.OPEN)
    play.until(waits, "FILLED")


@stop
def redis_is_gone(around: Around, play: Play) -> None:
    """Connections are broken as soon as they are made."""
    key_not_known(around, play, Mood.CUT_OFF)


@stop
def redis_is_slow(around: Around, play: Play) -> None:
    """Each answer comes five seconds late: too late to be one."""
    key_not_known(around, play, Mood.SLOW)


@stop
def redis_is_half_open(around: Around, play: Play) -> None:
    """Connections are taken, and nothing ever comes back."""
    key_not_known(around, play, Mood.HALF_OPEN)


@stop
def redis_is_flushed_before_and_after_a_hostile_kill(around: Around, play: Play) -> None:
    """A flush of what says nothing changes nothing; a key that is no text stops all; a flush after that lets nothing trade."""
    around.redis.client.flushall()
    play.pause(3.0)
    play.until(play.sent(), "FILLED")
    around.redis.client.hset(KILL_KEY, "kill", "0")
    document = until_engaged(play, "all")
    assert document["version"] == 1
    around.redis.client.flushall()
    play.pause(3.0)
    refused(play, "KILL_SWITCH")
    for text in ("1", "0", "1"):
        around.redis.client.set(KILL_KEY, text)
        play.pause(2.0)
    found = switch(play, "all")
    assert found is not None
    assert found["version"] == 1, "what is engaged is not engaged again"


# --- playing --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def around_of(broker: str, folder: Path) -> Iterator[Around]:
    folder.mkdir(parents=True, exist_ok=True)
    kill_file = folder / "kill"
    kill_file.write_text("")
    with contextlib.ExitStack() as stack:
        safety = SafetyService()
        stack.callback(safety.close)
        redis = stack.enter_context(redis_server(folder))
        store = stack.enter_context(store_server(folder))
        before_safety, before_redis, before_store = (
            stack.enter_context(Proxy(port)) for port in (safety.port, redis.port, store.port)
        )
        stage = stack.enter_context(
            set_stage(
                broker,
                folder / "service",
                lanes=1,
                own_store=f"mongodb://127.0.0.1:{store.port}/?directConnection=true",
                MONGODB_URI=f"mongodb://127.0.0.1:{before_store.port}/?directConnection=true",
                RISK_SAFETY_SERVICE_URL=f"http://127.0.0.1:{before_safety.port}",
                REDIS_HOST="127.0.0.1",
                REDIS_PORT=str(before_redis.port),
                REDIS_KILL_KEY=KILL_KEY,
                MAX_ORDER_AGE_SECONDS="600",
                ORDER_TIMEOUT_SECONDS="0",
                LEASE_SECONDS="2",
                FAULTS_KILL=str(kill_file),
                FAULTS_CROSSINGS=str(folder / "crossings"),
            )
        )
        yield Around(
            stage=stage,
            safety=safety,
            before_safety=before_safety,
            redis=redis,
            before_redis=before_redis,
            before_store=before_store,
            kill_file=kill_file,
        )


def _at_two_processes(broker: str, folder: Path) -> Outcome:
    folder.mkdir(parents=True)
    outcome = Outcome(AT_TWO_PROCESSES, broker)
    try:
        flattened_after_a_kill_under_load_at_two_processes(folder)
    except Exception as exc:  # noqa: BLE001  whatever stopped the play is its outcome
        outcome.wrong = [f"{type(exc).__name__}: {exc}"[:1500]]
    return outcome


def play_stops(
    broker: str, folder: Path, wanted: Sequence[str], *, done: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """One after the other on one place, in the sequence of the table."""
    outcomes: list[Outcome] = []
    with around_of(broker, folder) as around:
        stage = around.stage
        for name in (each for each in STOPS if each in wanted):
            steps = STOPS[name]
            play = Play(stage, stage.lanes[0], name)
            outcome = run_play(play, name, lambda play, steps=steps: steps(around, play), within=60.0)  # type: ignore[misc]
            around.restore()
            if stage.service.exit_status() is not None:
                outcome.wrong.append(f"the service ended with {stage.service.exit_status()}")
                stage.service.start()
            time.sleep(NOT_KNOWN_SECONDS / 4)
            outcomes.append(outcome)
            done(outcome)
    if AT_TWO_PROCESSES in wanted:
        outcomes.append(_at_two_processes(broker, folder / "replicas"))
        done(outcomes[-1])
    outcomes.append(loop_outcome(broker, "event_loop in stops", folder))
    done(outcomes[-1])
    return outcomes
