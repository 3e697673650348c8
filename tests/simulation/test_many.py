"""A run of many lives says what it found: how fast, which seeds, how each is lived again, and the smallest history of a kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation import __main__ as program
from tests.simulation.many import Lived, played
from tests.simulation.planted import PLANTED
from tests.simulation.steps import History, Step
from tests.simulation.test_found import FOUND


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = program.main([*arguments, "--processes", "1"])
    return status, capsys.readouterr().out


def test_sound_lives_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    status, words = said(capsys, "--seeds", "2")
    assert status == 0
    assert "2 lives in " in words
    assert "for each second of processor time" in words
    assert "None failed." in words


def test_a_failure_is_said_with_its_seed_how_to_live_it_again_and_its_smallest_history(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "an exception out of one order's step restarts the account"
    PLANTED[fault](monkeypatch)
    options, steps = FOUND[fault]
    longer = [*steps, (20.0, "cancel", {"signal": "s0", "by": "signal"})]
    drawn = History(7, options, tuple(Step(*step) for step in longer))
    monkeypatch.setattr(program, "draw", lambda seed: drawn)
    monkeypatch.setattr(program, "all_of", lambda seeds, processes: [Lived(7, played(drawn).complaints)])
    status, words = said(capsys, "--seeds", "1", "--shortest", "1")
    assert status == 1
    assert "seed 7: account restarted" in words
    assert "-m tests.simulation --replay N, with N of [7]" in words
    smallest = History.from_json(words[words.index('{"seed"') :])
    assert [step.do for step in smallest.steps] == ["fault", "order"]
    assert played(smallest).kind == "account restarted"


def test_what_breaks_the_simulation_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tests.simulation.life.Life.__init__", broken)
    assert played(3).complaints[0].startswith("simulation broke: ZeroDivisionError")


def test_an_interrupt_leaves_what_was_found_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(seeds: range, processes: int) -> Iterator[Lived]:
        yield Lived(5, ("lost: s1/0",), 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "all_of", two)
    status, words = said(capsys, "--seeds", "9", "--shortest", "0")
    assert status == 1
    assert "interrupted after 1 of 9 lives" in words
    assert "--replay N, with N of [5]" in words
