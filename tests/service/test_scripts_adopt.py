"""What `execctl adopt` makes of its options, by the examples that docs/operations.md gives."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import AssetClass, BrokerPosition, Instrument, OptionRight
from execution_service.core.adoption.records import AdoptionRequest, read_adoption_request
from execution_service.core.orders.events import Occasion
from scripts import adopt, execctl

OPERATIONS = Path(__file__).resolve().parent.parent.parent / "docs" / "operations.md"
SAID = ["--account", "A", "--strategy", "S", "--by", "Ann", "--reason", "note"]


def examples() -> list[str]:
    text = OPERATIONS.read_text(encoding="utf-8").partition("## When our book and the broker's differ")[2]
    found = re.findall(r"`(adopt [a-z-]+ [^`…]*)`", text.partition("\n## ")[0])
    return [example for example in found if "--" in example]


def options(line: str) -> argparse.Namespace:
    return execctl._options(shlex.split(line) + SAID)


@pytest.mark.parametrize("line", examples())
def test_each_example_of_the_page_is_a_wish(line: str) -> None:
    wish = read_adoption_request(adopt.command_body(options(line)))
    assert isinstance(wish, AdoptionRequest), wish


def test_the_page_has_an_example_of_each_occasion() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert {occasion for occasion in Occasion if f"adopt {occasion} " not in text} == set()


def test_all_fields_of_both_instruments_reach_the_wish() -> None:
    fields = {"symbol": "X", "instrument_type": "OPTION", "expiry": "20261218", "strike": "5", "right": "C"}
    fields |= {"exchange": "NSE", "currency": "INR", "multiplier": "2", "underlying": "Y", "con_id": "7"}
    line = "adopt rename " + " ".join(
        f"--{prefix}{name.replace('_', '-')} {value}" for prefix in ("", "new-") for name, value in fields.items()
    )
    body = adopt.command_body(options(line))
    assert body["instrument"] == body["successor"] == fields


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("adopt", "say what happened, or --undo ADOPTION"),
        ("adopt expiry", "an adoption needs --symbol"),
        ("adopt expiry --undo adopt-1", "--undo goes without an occasion"),
        ("adopt theft --symbol X", "invalid choice"),
        ("adopt expiry --symbol X --by ' '", "must not be blank"),
    ],
)
def test_what_does_not_go_together_ends_with_2(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(line)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_the_brokers_side_of_each_row_is_of_that_very_instrument() -> None:
    """IBKR's own symbol of a share is that of its options, and of two sizes of one future one."""
    put = Instrument(
        symbol="XYZ", asset_class=AssetClass.OPTION, expiry="20261218", strike=Decimal(50), right=OptionRight.PUT
    )
    shares = Instrument(symbol="XYZ")
    silver = [
        Instrument(
            symbol="SI", asset_class=AssetClass.FUTURE, expiry="202612", multiplier=Decimal(size), trading_class=name
        )
        for size, name in ((5000, "SI"), (1000, "SIL"))
    ]
    came = BrokerPosition(
        instrument=replace(shares, currency="USD"), quantity=Decimal(100), also_called=frozenset({"XYZ"})
    )
    large = BrokerPosition(
        instrument=replace(silver[0], expiry="20261220"), quantity=Decimal(2), also_called=frozenset({"SIZ6"})
    )
    small = BrokerPosition(
        instrument=replace(silver[1], expiry="20261220"), quantity=Decimal(3), also_called=frozenset({"SILZ6"})
    )
    seen = [adopt.at_the_broker([came, large, small], each) for each in (put, shares, *silver)]
    assert seen == [0, 100, 2, 3]


def test_what_the_broker_shows_by_its_own_symbol_or_unreadably_is_said_so() -> None:
    future = Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE)
    shown = BrokerPosition(
        instrument=replace(future, symbol="NIFTY", expiry="20261231"),
        quantity=Decimal(75),
        also_called=frozenset({future.symbol}),
    )
    assert adopt.at_the_broker([shown], future) == 75
    assert adopt.at_the_broker([replace(shown, is_unclear=True)], future) == "unclear"
