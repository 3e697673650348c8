"""Lives drawn from seeds: the same seed is the same life everywhere, some hundred of them are sound, and a service that did wrong would be found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from brokers.paper.exchange import PaperExchange
from execution_service.core.risk.kill import KillState
from execution_service.delivery.notifications import Notifications
from execution_service.trading.combined_submission import CombinedSubmission
from execution_service.trading.kill_switches import KillSwitches
from execution_service.trading.risk_gate import RiskGate
from tests.fakes import GatedBroker, RecordingNotifier
from tests.fakes.mongo import MISSING
from tests.service.option_spreads import SPREAD
from tests.simulation import judge
from tests.simulation.known import NOT_MENDED
from tests.simulation.life import Spoilt, replay
from tests.simulation.steps import STEPS, History, Step, draw
from tests.simulation.test_found import TWO

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("SIMULATED_LIVES", "150"))
SAME = (3, 15, 24, 57)


@pytest.mark.timeout(300)
def test_a_seed_gives_the_same_life_twice_and_in_another_process_with_other_hashes() -> None:
    program = f"from tests.simulation.life import replay\nfor seed in {SAME}: print(replay(seed).fingerprint)"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hashes in ("1", "4711")
    ]
    mine = [replay(seed).fingerprint for seed in SAME]
    assert [replay(seed).fingerprint for seed in SAME] == mine
    assert len(set(mine)) == len(mine)
    assert [other.communicate()[0].split() for other in others] == [mine, mine]


@pytest.mark.parametrize("part", range(10))
def test_lives_are_sound(part: int) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for seed in range(part, SEEDS, 10):
        for complaint in replay(seed).complaints:
            if judge.kind_of(complaint) not in NOT_MENDED:
                found[complaint].append(seed)
    assert not found, f"see: python -m tests.simulation --replay N; {dict(found)}"


def test_every_kind_of_step_is_drawn() -> None:
    drawn = {step.do for seed in range(400) for step in draw(seed).steps}
    assert drawn == set(STEPS)


# --- the world does what an outside may do, and no more -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "now", "mended"),
    [
        (MISSING, MISSING, ["a"]),
        (MISSING, {"1": "b"}, ["a", "b"]),
        ([], [], ["a"]),
        ([], [None, "b"], ["a", "b"]),
        ({}, {"1": "b", "2": "c"}, ["a", "b", "c"]),
        ("odd", "odd", ["a"]),
        ("odd", ["a", "b"], ["a", "b"]),
        (None, "whole", "whole"),
    ],
)
def test_who_mends_a_list_keeps_what_was_written_into_it_since(odd: Any, now: Any, mended: Any) -> None:
    assert Spoilt(["a"], odd).mended(now) == mended


def test_who_mends_a_document_within_a_document_keeps_what_was_written_into_it_since() -> None:
    assert Spoilt({"world": 1, "people": 1}, MISSING).mended({"world": 2}) == {"world": 2, "people": 1}
    assert Spoilt({"world": 1}, "odd").mended("odd") == {"world": 1}
    assert Spoilt(MISSING, None).mended(None) is MISSING


def test_a_message_whose_acknowledgements_pubsub_loses_has_been_heard() -> None:
    """It comes again and again to the one replica while the other is well."""
    steps = [
        Step(5.0, "fault", {"pattern": "orders.ack", "action": "lost", "times": 4, "replica": 0}),
        Step(6.0, "stop", {"replica": 1, "down": 12.0}),
        Step(7.0, "order", {"signal": "s0", "account_id": "acct-1"}),
    ]
    luckless = [seed for seed in range(8) for c in replay(History(seed, TWO, tuple(steps))).complaints]
    assert not luckless


# --- its power: what is done wrong on purpose is found ----------------------------------------------------------------


def complaints(seeds: range) -> set[str]:
    return {judge.kind_of(c) + (c if "audit" in c else "") for seed in seeds for c in replay(seed).complaints}


def test_a_broker_adapter_that_places_each_order_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    place = PaperExchange.place

    def twice(self: PaperExchange, ticket: Any, *args: Any) -> Any:
        self._unique = False
        place(self, ticket, *args)
        return place(self, ticket, *args)

    monkeypatch.setattr(PaperExchange, "place", twice)
    assert "placed twice" in complaints(range(3))


def test_notifications_that_are_never_written_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notifications, "wake", lambda *args, **kwargs: None)
    assert "owing" in complaints(range(2))


def test_people_who_are_told_nothing_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drops(self: RecordingNotifier, text: str) -> None:
        """Takes it, and nobody sees it."""

    monkeypatch.setattr(RecordingNotifier, "send", drops)
    assert any("people were not told" in complaint for complaint in complaints(range(4)))


STOPPED = History(
    3,
    {**TWO, "market": {"fill_delay_seconds": None, "partial_fill_rate": 0.0, "rejection_rate": 0.0, "seed": 1}},
    (
        Step(3.0, "order", {"signal": "rests", "account_id": "acct-1", "order_type": "LIMIT", "limit_price": 9}),
        Step(5.0, "engage", {"scope": "all", "level": "reduce_only"}),
        Step(6.0, "arm", {"scope": "all", "after": 10.0}),
        Step(7.0, "order", {"signal": "stopped", "account_id": "acct-1"}),
        Step(20.0, "kill", {"replica": 0, "down": 0.5}),
        Step(30.0, "order", {"signal": "stopped-too", "account_id": "acct-1"}),
    ),
)


def test_no_entry_leaves_after_a_kill_switch_is_engaged_whoever_dies() -> None:
    verdict = replay(STOPPED)
    assert not verdict.complaints
    assert any("execution_kill_switches" in line for line in verdict.trace)


def test_an_order_that_leaves_past_a_kill_switch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sees_none(*args: Any, **kwargs: Any) -> None:
        """As if nothing were engaged."""

    async def sees_no_switches(*args: Any) -> KillState:
        return KillState()

    monkeypatch.setattr(RiskGate, "stops", sees_none)
    monkeypatch.setattr(KillSwitches, "state", sees_no_switches)
    assert "left though stopped" in {judge.kind_of(c) for c in replay(STOPPED).complaints}


COMBINED = History(
    4,
    {**STOPPED.options, "combines": True},
    (
        Step(3.0, "order", {"signal": "c0", **SPREAD[0], "account_id": "acct-1", "leg_index": 0, "total_legs": 2}),
        Step(3.1, "order", {"signal": "c0", **SPREAD[1], "account_id": "acct-1", "leg_index": 1, "total_legs": 2}),
        Step(8.0, "kill", {"replica": 0, "down": 0.5}),
        Step(12.0, "fill", {"signal": "c0", "part": 0.5}),
        Step(15.0, "cancel", {"signal": "c0", "by": "signal", "leg": 1}),
    ),
)


def test_legs_of_one_order_are_placed_executed_and_cancelled_together_whoever_dies() -> None:
    verdict = replay(COMBINED)
    assert not verdict.complaints
    assert sum("broker.place_combined" in line for line in verdict.trace) == 1
    assert sum("broker.cancel_order" in line for line in verdict.trace) == 1


def test_a_leg_that_leaves_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CombinedSubmission, "takes", lambda *args: False)
    assert "apart" in {judge.kind_of(c) for c in replay(COMBINED).complaints}


def test_executions_of_one_leg_that_are_taken_for_the_wholes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatedBroker, "know_combination", lambda *args: False)
    assert replay(COMBINED).complaints


def test_a_gate_that_forgets_what_works_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("past a limit" in complaint for complaint in replay(10).complaints)
    monkeypatch.setattr(RiskGate, "_working", lambda self, book, limits: ())
    assert any("past a limit" in complaint for complaint in replay(10).complaints)
