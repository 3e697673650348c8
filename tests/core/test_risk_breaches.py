"""Which broken limits engage a kill switch, at which level and scope, and that one breach is one however often it is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from execution_service.core.risk.book import RiskBook, new_book
from execution_service.core.risk.breaches import EngagingBreach, engaging_breaches
from execution_service.core.risk.counters import Answered, Enabled, Executed, Happened, Measured, fold_all
from execution_service.core.risk.kill import KillLevel
from execution_service.core.risk.limits import OFF, BreachRule, LimitType, Repetition, RiskLimits, Scope
from tests.builders import NOW, at
from tests.core.risk_cases import ACCOUNT, STRATEGY, SYMBOL, WHERE, tables, written

OF_ACCOUNT = Scope(account_id=ACCOUNT)
REDUCE, HALT = BreachRule.REDUCE_ONLY, BreachRule.HALT


def after(*events: Happened, book: RiskBook | None = None, seconds: float = 0) -> RiskBook:
    before = book or new_book(ACCOUNT)
    counters = fold_all(before.counters, events, now=at(seconds), zone=UTC, keep_seconds=Decimal(60))
    return replace(before, counters=counters)


def worth(*values: int, seconds: float = 0) -> list[Happened]:
    return [Measured(at=at(seconds), scope=OF_ACCOUNT, value=Decimal(value)) for value in values]


def rejected(count: int) -> list[Happened]:
    return [
        Answered(at=NOW, order_id=f"o{n}", attempt=1, strategy=STRATEGY, symbol=SYMBOL, is_rejected=True)
        for n in range(count)
    ]


def found(limits: RiskLimits, book: RiskBook, seconds: float = 0) -> list[EngagingBreach]:
    return list(engaging_breaches(limits, book, at(seconds), UTC))


@pytest.mark.parametrize(("equity", "is_broken"), [(901, False), (900, True), (899, True)])
def test_a_daily_loss_engages_the_account_s_switch_from_the_limit_on(equity: int, is_broken: bool) -> None:
    book = after(*worth(1_000, equity))
    breaches = found(written(max_daily_loss=100, on_breach=REDUCE), book)
    assert [(each.limit, each.scope, each.level) for each in breaches] == [
        (LimitType.MAX_DAILY_LOSS, OF_ACCOUNT, KillLevel.REDUCE_ONLY)
    ] * is_broken
    if is_broken:
        assert breaches[0].reason == f"max_daily_loss of account:acct-1 is broken: {1_000 - equity}, the limit is 100"
        assert breaches[0].new_trip is None


@pytest.mark.parametrize("rule", [None, BreachRule.REFUSE])
def test_it_is_off_unless_it_is_written(rule: BreachRule | None) -> None:
    limits = written(max_daily_loss=100, max_drawdown_pct=1, max_consecutive_rejections=1, on_breach=rule)
    assert found(limits, after(*worth(1_000, 1), *rejected(3))) == []


def test_a_limit_that_is_off_is_not_broken() -> None:
    limits = written(max_daily_loss=OFF, max_consecutive_rejections=OFF, on_breach=HALT)
    assert found(limits, after(*worth(1_000, 1), *rejected(30))) == []


def test_the_narrowest_table_that_is_for_the_limit_or_for_more_says_what_becomes_of_it() -> None:
    mine = Scope(strategy=STRATEGY)
    limits = tables(
        (Scope(), {"on_breach": REDUCE}),
        (OF_ACCOUNT, {"max_daily_loss": 100, "on_breach": HALT}),
        (mine, {"max_consecutive_rejections": 2}),
        (Scope(symbol=SYMBOL), {"on_breach": HALT}),
    )
    levels = {each.scope: each.level for each in found(limits, after(*worth(1_000, 1), *rejected(2)))}
    assert levels == {OF_ACCOUNT: KillLevel.HALT, replace(mine, account_id=ACCOUNT): KillLevel.REDUCE_ONLY}


def test_one_loss_is_one_breach_and_that_of_another_day_another() -> None:
    limits = written(max_daily_loss=100, on_breach=REDUCE)
    first = found(limits, after(*worth(1_000, 890)))
    deeper = found(limits, after(*worth(1_000, 700), seconds=60), 60)
    tomorrow = found(
        limits, after(*worth(700, 500, seconds=86_400), book=after(*worth(1_000, 700)), seconds=86_400), 86_400
    )
    assert first[0].mark == deeper[0].mark != tomorrow[0].mark


def test_the_day_of_a_loss_is_that_of_the_account_s_zone() -> None:
    limits, far = written(max_daily_loss=100, on_breach=REDUCE), ZoneInfo("Pacific/Kiritimati")
    counters = fold_all(new_book(ACCOUNT).counters, worth(1_000, 890), now=NOW, zone=far, keep_seconds=Decimal(0))
    (here,) = engaging_breaches(limits, replace(new_book(ACCOUNT), counters=counters), NOW, far)
    assert here.mark.endswith(":2025-03-04")


def test_a_drawdown_is_one_breach_until_there_is_another_peak() -> None:
    limits = written(max_drawdown_pct=10, on_breach=REDUCE)
    fallen = after(*worth(1_000, 900))
    (first,), (later,) = (
        found(limits, fallen),
        found(limits, after(*worth(850, seconds=86_400), book=fallen, seconds=86_400), 86_400),
    )
    (again,) = found(limits, after(*worth(1_200, 1_000), book=fallen))
    assert first.mark == later.mark != again.mark


def test_rejections_in_a_row_stay_a_breach_until_they_are_enabled_and_are_another_after_it() -> None:
    limits = written(max_consecutive_rejections=2, on_breach=REDUCE)
    assert found(limits, after(*rejected(1))) == []
    book = after(*rejected(2))
    (first,) = found(limits, book)
    assert first.new_trip is not None
    kept = after(first.new_trip, book=book, seconds=5)
    (known,) = found(limits, kept, 5)
    assert (known.mark, known.reason, known.new_trip) == (first.mark, first.reason, None)
    enabled = after(Enabled(at=at(9), scope=Scope(), by="ann", reason="mended"), book=kept, seconds=9)
    assert found(limits, enabled, 9) == []
    others = [replace(each, order_id=f"later-{n}") for n, each in enumerate(rejected(2)) if isinstance(each, Answered)]
    (second,) = found(limits, after(*others, book=enabled, seconds=10), 10)
    assert second.mark != first.mark


def test_executions_of_one_strategy_in_one_symbol_engage_its_switch_there_and_it_outlasts_the_window() -> None:
    limits = written(repeated_executions=Repetition(count=2, window_seconds=Decimal(60)), on_breach=HALT)
    fills = [Executed(at=NOW, fill_id=f"f{n}", order_id="o", strategy=STRATEGY, symbol=SYMBOL) for n in range(2)]
    book = after(*fills)
    (first,) = found(limits, book)
    assert (first.scope, first.level) == (WHERE, KillLevel.HALT)
    assert first.new_trip is not None
    kept = after(first.new_trip, book=book)
    later = after(*worth(1, seconds=120), book=kept, seconds=120)
    assert not later.counters.executions
    assert [each.mark for each in found(limits, later, 120)] == [first.mark]


def test_limits_of_positions_and_orders_engage_nothing() -> None:
    limits = written(max_open_orders=0, max_orders_per_day=0, on_breach=HALT)
    assert found(limits, new_book(ACCOUNT)) == []
