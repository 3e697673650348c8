"""Which of the limits that were written bind an order: the narrowest of those that compare the same figure, and all figures together."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal

import pytest

from execution_service.core.risk.limits import (
    BUILT_IN,
    OFF,
    Bound,
    BreachRule,
    Kind,
    LimitSet,
    LimitType,
    Repetition,
    RiskLimits,
    Scope,
    SessionRule,
    StopRule,
    combined,
    kind_of,
    loosens_nothing,
)
from tests.core.risk_cases import WHERE, tables, written

ALL, ACCOUNT, STRATEGY, SYMBOL = Scope(), Scope(account_id="acct-1"), Scope(strategy="momentum"), Scope(symbol="AAPL")
ACCOUNT_SYMBOL = Scope(account_id="acct-1", symbol="AAPL")
STRATEGY_SYMBOL = Scope(strategy="momentum", symbol="AAPL")
WIDENING = (STRATEGY_SYMBOL, ACCOUNT_SYMBOL, SYMBOL, STRATEGY, ACCOUNT, ALL)


def numbers(limits: RiskLimits, limit: LimitType, where: Scope = WHERE) -> dict[str, Decimal]:
    return {str(bound.total): bound.number for bound in limits.of(where).bounds(limit)}


def test_every_limit_has_a_field_of_its_name_and_a_value_that_is_built_in() -> None:
    assert {f.name for f in fields(LimitSet)} == {limit.value for limit in LimitType}
    assert [limit for limit in LimitType if BUILT_IN.of(limit) is None] == []


def test_what_is_on_without_a_file() -> None:
    on = {limit.value: BUILT_IN.of(limit) for limit in LimitType if BUILT_IN.of(limit) is not OFF}
    assert on == {
        "max_order_value": Decimal(1_000_000),
        "cancel_reserve_pct": Decimal(20),
        "price_collar_pct": Decimal(20),
        "reference_price_max_age_seconds": Decimal(60),
        "balance_max_age_seconds": Decimal(300),
        "max_consecutive_rejections": Decimal(20),
        "session": SessionRule.IGNORE,
        "check_buying_power": True,
        "allow_short": True,
        "stop_out_of_range": StopRule.REFUSE,
        "on_breach": BreachRule.REFUSE,
    }


@pytest.mark.parametrize("number", range(len(WIDENING)))
def test_of_an_orders_own_limits_the_narrowest_counts(number: int) -> None:
    """A symbol outweighs a strategy, and that an account; so a strategy's symbol outweighs an account's."""
    there = WIDENING[number:]
    limits = tables(*((scope, {"max_order_value": 100 + n}) for n, scope in enumerate(there)))
    assert limits.of(WHERE).bound(LimitType.MAX_ORDER_VALUE) == Bound(
        limit=LimitType.MAX_ORDER_VALUE, value=Decimal(100), scope=there[0], total=WHERE, is_written=True
    )


def test_what_nobody_wrote_is_built_in_and_says_so() -> None:
    bound = RiskLimits().of(WHERE).bound(LimitType.MAX_ORDER_VALUE)
    assert bound is not None
    assert (bound.number, bound.is_written, bound.scope) == (1_000_000, False, Scope())


def test_tables_of_others_bind_nobody_else() -> None:
    limits = tables(
        (Scope(account_id="other"), {"max_order_value": 1}),
        (Scope(strategy="other"), {"max_order_value": 2}),
        (Scope(symbol="MSFT"), {"max_order_value": 3}),
        (Scope(account_id="acct-1", symbol="MSFT"), {"max_order_value": 4}),
        (Scope(account_id="other", symbol="AAPL"), {"max_order_value": 5}),
        (Scope(strategy="other", symbol="AAPL"), {"max_order_value": 6}),
    )
    assert numbers(limits, LimitType.MAX_ORDER_VALUE) == {str(WHERE): 1_000_000}


def test_off_in_a_narrow_table_switches_off_and_absence_does_not() -> None:
    limits = tables((ALL, {"max_order_value": 100}), (SYMBOL, {"max_order_value": OFF}), (STRATEGY, {}))
    assert limits.of(WHERE).bound(LimitType.MAX_ORDER_VALUE) is None
    elsewhere = Scope(account_id="acct-1", strategy="momentum", symbol="MSFT")
    assert numbers(limits, LimitType.MAX_ORDER_VALUE, elsewhere) == {str(elsewhere): 100}


def test_totals_of_account_strategy_and_symbol_bind_together() -> None:
    limits = tables(*((scope, {"max_gross_exposure": 100 + n}) for n, scope in enumerate(WIDENING)))
    assert numbers(limits, LimitType.MAX_GROSS_EXPOSURE) == {
        "account:acct-1": 104,  # that of the account, before that of everybody
        "account:acct-1+strategy:momentum": 103,
        "account:acct-1+symbol:AAPL": 101,  # that of the symbol in the account, before that of the symbol
        "account:acct-1+strategy:momentum+symbol:AAPL": 100,
    }


def test_a_strategys_total_does_not_loosen_the_accounts() -> None:
    limits = tables((ALL, {"max_gross_exposure": 100}), (STRATEGY, {"max_gross_exposure": 1_000_000}))
    assert numbers(limits, LimitType.MAX_GROSS_EXPOSURE)["account:acct-1"] == 100


def test_positions_bind_the_account_and_the_strategy_by_the_narrowest_of_each() -> None:
    limits = tables(*((scope, {"max_position_quantity": 100 + n}) for n, scope in enumerate(WIDENING)))
    assert numbers(limits, LimitType.MAX_POSITION_QUANTITY) == {
        "account:acct-1+symbol:AAPL": 101,
        "account:acct-1+strategy:momentum+symbol:AAPL": 100,
    }
    narrower = tables((ALL, {"max_position_quantity": 5}), (SYMBOL, {"max_position_quantity": 50}))
    assert numbers(narrower, LimitType.MAX_POSITION_QUANTITY) == {"account:acct-1+symbol:AAPL": 50}


def test_the_bounds_come_the_widest_first() -> None:
    limits = tables(*((scope, {"max_open_orders": 100 + n}) for n, scope in enumerate(WIDENING)))
    assert [bound.total.rank for bound in limits.of(WHERE).bounds(LimitType.MAX_OPEN_ORDERS)] == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("limit", "scope", "is_vain"),
    [
        (LimitType.MAX_ORDER_VALUE, SYMBOL, False),
        (LimitType.MAX_POSITION_VALUE, STRATEGY, True),
        (LimitType.MAX_POSITION_VALUE, STRATEGY_SYMBOL, False),
        (LimitType.MAX_POSITION_VALUE, SYMBOL, False),
        (LimitType.MAX_POSITION_VALUE, ALL, False),
        (LimitType.MAX_DAILY_LOSS, ALL, False),
        (LimitType.MAX_DAILY_LOSS, ACCOUNT, False),
        (LimitType.MAX_DAILY_LOSS, STRATEGY, True),
        (LimitType.MAX_DAILY_LOSS, SYMBOL, True),
        (LimitType.MAX_DAILY_LOSS, ACCOUNT_SYMBOL, False),
        (LimitType.MAX_DAILY_LOSS, STRATEGY_SYMBOL, True),
    ],
)
def test_off_where_no_wider_table_has_the_figure_loosens_nothing(limit: LimitType, scope: Scope, is_vain: bool) -> None:
    assert loosens_nothing(limit, scope) is is_vain


def test_which_limits_compare_what() -> None:
    of = {kind: {limit.value for limit in LimitType if kind_of(limit) is kind} for kind in Kind}
    assert of[Kind.POSITION] == {"max_position_quantity", "max_position_value"}
    assert of[Kind.TOTAL] == {
        "max_gross_exposure",
        "max_net_exposure",
        "max_open_orders",
        "max_orders_per_minute",
        "max_orders_per_day",
        "max_daily_loss",
        "max_drawdown",
        "max_consecutive_rejections",
    }


def test_scopes_cover_what_is_within_them_and_are_named_as_people_write_them() -> None:
    assert [str(scope) for scope in WIDENING] == [
        "strategy:momentum+symbol:AAPL",
        "account:acct-1+symbol:AAPL",
        "symbol:AAPL",
        "strategy:momentum",
        "account:acct-1",
        "all",
    ]
    assert all(scope.covers(WHERE) for scope in WIDENING)
    assert not WHERE.covers(ACCOUNT)
    assert not ACCOUNT.covers(Scope(account_id="acct-2"))
    assert [scope.rank for scope in WHERE.wider()] == list(range(8))
    assert ALL.wider() == (ALL,)
    assert len(STRATEGY_SYMBOL.wider()) == 4


def test_two_tables_for_one_scope_are_put_together_and_the_later_counts() -> None:
    limits = combined(
        [
            (ALL, LimitSet(max_order_value=Decimal(1), allow_short=False)),
            (ALL, LimitSet(max_order_value=Decimal(2))),
        ]
    )
    assert limits.tables == {ALL: LimitSet(max_order_value=Decimal(2), allow_short=False)}


def test_what_was_sent_is_remembered_for_the_longest_window_that_is_on() -> None:
    assert RiskLimits().longest_window_seconds() == 0
    assert written(max_orders_per_minute=5).longest_window_seconds() == 60
    assert written(duplicate_window_seconds="7.5").longest_window_seconds() == Decimal("7.5")
    repeated = Repetition(count=3, window_seconds=Decimal(600))
    assert written(repeated_executions=repeated, max_orders_per_minute=5).longest_window_seconds() == 600
    assert written(max_orders_per_minute=OFF, duplicate_window_seconds=OFF).longest_window_seconds() == 0


def test_a_limit_that_is_no_number_has_none() -> None:
    bound = RiskLimits().of(WHERE).bound(LimitType.ALLOW_SHORT)
    assert bound is not None
    with pytest.raises(TypeError, match="allow_short is True"):
        _ = bound.number
