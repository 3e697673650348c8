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
from execution_service.delivery.notifications import Notifications
from tests.simulation import judge
from tests.simulation.known import NOT_MENDED
from tests.simulation.life import replay
from tests.simulation.steps import STEPS, draw

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


def test_people_who_are_told_nothing_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notifications, "wake", lambda *args, **kwargs: None)
    assert any("people were not told" in complaint for complaint in complaints(range(4)))
