"""The worked example of the documentation: its figures are what the code gives, and its four strategies want the same."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import pytest

from scripts.simulation_example import BEGIN, END, PAGE, PICTURE, STANCES, figures, main, run, targets

needs_prices = pytest.mark.skipif(
    find_spec("bokeh_sampledata") is None, reason="bokeh-sampledata is not installed (make setup)"
)


@needs_prices
def test_the_figures_of_the_page_are_what_the_example_gives(tmp_path: Path) -> None:
    results = run(tmp_path)
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == figures(results), "make example ARGS=--write-docs"
    assert "Slippage by stance" in (results / "report.html").read_text(encoding="utf-8")


def test_the_four_strategies_have_the_same_targets() -> None:
    rows = list(targets())[1:]
    by_strategy = {
        name: [(day, symbol, quantity) for day, _, symbol, quantity, _, _ in mine]
        for name, mine in groupby(sorted(rows, key=lambda row: row[4]), key=lambda row: row[4])
    }
    assert len(by_strategy) == len(STANCES)
    first, *others = by_strategy.values()
    assert all(each == first for each in others)


def test_the_page_shows_the_picture() -> None:
    assert PICTURE.name in PAGE.read_text(encoding="utf-8")
    assert PICTURE.read_bytes().startswith(b"\x89PNG")


def test_without_the_prices_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.simulation_example.find_spec", lambda name: None)
    assert main(["--folder", str(tmp_path)]) == 1
    assert "bokeh-sampledata" in capsys.readouterr().err
