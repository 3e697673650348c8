"""execctl's market: where a market of the past stands, and a person's word that lets it go on; and the demo's bars."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brokers.simulated.adapter import Configuration, read_past
from brokers.simulated.exchange import HistoricalExchange
from brokers.simulated.manifest import book_of
from execution_service.app.settings.loading import Settings, load_settings
from scripts import market
from simulators.simulator import Place
from simulators.stage_simulated import account_of


@dataclass(frozen=True)
class Context:
    settings: Settings
    options: argparse.Namespace
    console: Console
    wants_json: bool = True


def context(folder: Path, *arguments: str, **more: Any) -> Context:
    keys = account_of(Place(address="", folder=folder))
    table = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
    (folder / "accounts.toml").write_text(
        f'[accounts.past]\nbroker = "simulated"\n{table}[accounts.m]\nbroker = "mock"\n'
    )
    parser = argparse.ArgumentParser()
    market.add_options(parser, int)
    options = parser.parse_args(arguments)
    return Context(load_settings({}, root=folder), options, Console(file=StringIO()), **more)


def begin(given: Context) -> None:
    """As a service does when it opens the account."""
    configuration = Configuration.of(given.settings.accounts["past"].config, broker="simulated")
    HistoricalExchange(book_of(configuration.folder, "past"), account_id="past", past=read_past(configuration)).close()


async def test_it_shows_where_the_market_stands_and_takes_a_wish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(context(tmp_path, "past"))
    for arguments, bars, until in (
        (("past",), 0, None),
        (("past", "--bars", "3"), 3, None),
        (("past", "--until", "2024-02-01"), 3, "2024-02-01T00:00:00+00:00"),
        (("past",), 3, "2024-02-01T00:00:00+00:00"),
    ):
        assert await market.run(context(tmp_path, *arguments)) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["bars_asked"], shown["asked_until"]) == (bars, until)
        assert shown["time"] == shown["next_opening"] == "2024-01-02T00:00:00+00:00"
    table = context(tmp_path, "past", wants_json=False)
    assert await market.run(table) == 0
    assert "2024-01-02 00:00:00Z" in table.console.file.getvalue()  # type: ignore[attr-defined]


async def test_what_has_no_such_market_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (
        ("m", "m is no account on historical bars"),
        ("nobody", "nobody is no account on historical bars"),
        ("past", "The market of past has not begun"),
    ):
        assert await market.run(context(tmp_path, name, "--bars", "1")) == 1
        assert words in capsys.readouterr().err
