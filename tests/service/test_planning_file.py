"""`planning.toml`: what it says is what counts, everything wrong with it is said at once, and the example is what is built in."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from execution_service.app.planning_file import load_plan_rules
from execution_service.app.settings.problems import ConfigurationError
from execution_service.core.planning.facts import Fees, PlanSettings
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.planning.targets import OnPartial, WhenShort
from execution_service.core.risk.limits import Scope

EXAMPLE = Path(__file__).resolve().parents[2] / "planning.example.toml"
HERE = Scope(account_id="a", strategy="s", symbol="AAPL")


def read(tmp_path: Path, text: str, accounts: tuple[str, ...] | None = None) -> PlanRules:
    path = tmp_path / "planning.toml"
    path.write_text(text, encoding="utf-8")
    return load_plan_rules(path, accounts=accounts)


def test_without_a_file_what_is_built_in_counts(tmp_path: Path) -> None:
    rule = load_plan_rules(tmp_path / "none.toml").of(HERE)
    assert (rule, rule.settings, rule.when_short) == (PlanRule(), PlanSettings(), OnPartial())
    assert rule.is_bounded_by_cash


def test_the_example_says_what_is_built_in() -> None:
    rule = load_plan_rules(EXAMPLE).of(HERE)
    assert (rule.settings, rule.when_short) == (PlanSettings(), OnPartial())
    assert (rule.is_bounded_by_cash, rule.phases_together, rule.market_in_emergency) == (True, False, False)
    assert (rule.lot, rule.max_quantity, rule.min_quantity, rule.min_value) == (None, None, 0, 0)


def test_every_word_that_there_is_stands_in_the_example() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for name in PlanRule.__dataclass_fields__:
        assert f"{name} =" in text.replace("#", "").replace("  ", " "), name


def test_of_each_word_the_narrowest_table_counts(tmp_path: Path) -> None:
    rules = read(
        tmp_path,
        """
        [defaults]
        band = 0.01
        guard = 0.02
        lot = 1
        [accounts.a]
        band = 0.03
        fee_rate = 0.001
        [strategies.s]
        on_partial = "RETRY 2"
        slices = 3
        [symbols.aapl]
        lot = 100
        """,
    )
    rule = rules.of(HERE)
    assert (rule.band, rule.guard, rule.lot) == (Decimal("0.03"), Decimal("0.02"), 100)
    assert rule.when_short == OnPartial(WhenShort.RETRY, 2)
    assert (rule.settings.slices, rule.settings.fees) == (3, Fees(rate=Decimal("0.001")))
    other = rules.of(Scope(account_id="b", strategy="t", symbol="MSFT"))
    assert (other.band, other.lot, other.when_short) == (Decimal("0.01"), 1, OnPartial())


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(
            tmp_path,
            """
            [default]
            [defaults]
            bufer = 0.1
            band = 1.5
            slices = 0
            guard = "much"
            phases_together = 1
            on_partial = "RETRY 0"
            lot = nan
            min_quantity = 5
            max_quantity = 2
            [accounts.b]
            [symbols.AAPL]
            band = 0.1
            """,
            accounts=("a",),
        )
    words = "\n".join(refused.value.problems)
    expected = (
        "default is not known; was defaults meant?", "bufer is not known; was buffer meant?", "band is 1.5; allowed",
        "slices is 0", "guard is 'much'", "phases_together is 1", "on_partial is 'RETRY 0'", "lot is NaN",
        "min_quantity 5 is more than max_quantity 2", "[accounts.b]: there is no such account",
        "[symbols.AAPL]: band is of a plan as a whole",
    )  # fmt: skip
    for each in expected:
        assert each in words, each
    assert len(refused.value.problems) == len(expected)
