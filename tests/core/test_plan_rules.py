"""What the operator's file says of plans: of each word that of the narrowest table counts, and where none says it what is built in."""

from __future__ import annotations

from decimal import Decimal

from execution_service.core.planning.facts import Fees, PlanSettings
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.planning.targets import OnPartial, WhenShort
from execution_service.core.risk.limits import Scope

D = Decimal
HERE = Scope(account_id="acc", strategy="growth", symbol="AAPL")


def test_where_nothing_is_said_what_is_built_in_counts() -> None:
    rule = PlanRules().of(HERE)
    assert rule == PlanRule()
    assert rule.settings == PlanSettings()
    assert (rule.when_short, rule.is_bounded_by_cash) == (OnPartial(), True)


def test_all_that_is_said_counts_also_where_it_is_nothing() -> None:
    rule = PlanRule(
        buffer=D(0),
        band=D("0.1"),
        max_weights=D(0),
        max_turnover=D(0),
        slices=3,
        guard=D(0),
        fee_per_order=D(2),
        fee_rate=D("0.01"),
        bounded_by_cash=False,
        on_partial=OnPartial(WhenShort.UNWIND),
    )
    assert rule.settings == PlanSettings(
        buffer=D(0),
        band=D("0.1"),
        max_weights=D(0),
        max_turnover=D(0),
        slices=3,
        guard=D(0),
        fees=Fees(per_order=D(2), rate=D("0.01")),
    )
    assert (rule.when_short, rule.is_bounded_by_cash) == (OnPartial(WhenShort.UNWIND), False)
    assert PlanRule(bounded_by_cash=True).is_bounded_by_cash


def test_of_each_word_the_narrowest_table_counts_that_says_it() -> None:
    rules = PlanRules(
        {
            Scope(symbol="AAPL"): PlanRule(lot=D(10)),
            Scope(): PlanRule(band=D("0.1"), slices=2, lot=D(1)),
            Scope(account_id="acc"): PlanRule(band=D(0)),
            Scope(account_id="other"): PlanRule(slices=9),
        }
    )
    assert rules.of(HERE) == PlanRule(band=D(0), slices=2, lot=D(10))
    assert rules.of(Scope(account_id="other")) == PlanRule(band=D("0.1"), slices=9, lot=D(1))
