"""How much of each limit is used: by which table, of what is counted now, and of positions as of the last order that passed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from typing import Any

import pytest

from execution_service.core.orders.order import Order
from execution_service.core.risk.book import USES_KEPT, LastUse, RiskBook, admitted, new_book
from execution_service.core.risk.counters import Executed, Measured, fold_all
from execution_service.core.risk.documents import from_document, to_document
from execution_service.core.risk.exposure import Exposure, Line, exposure
from execution_service.core.risk.gate import judge
from execution_service.core.risk.limits import OFF, LimitType, Repetition, RiskLimits, Scope
from execution_service.core.risk.usage import Usage, recounted, usages
from tests.builders import NOW, at
from tests.core.risk_cases import ACCOUNT, STRATEGY, SYMBOL, buying, facts, holding, tables, works, written
from tests.growth import LINEAR, calls

OF_ACCOUNT = Scope(account_id=ACCOUNT)
OF_POSITION = Scope(account_id=ACCOUNT, symbol=SYMBOL)


def after(limits: RiskLimits, *orders: Order, **changes: Any) -> RiskBook:
    """The account's document after these were let pass."""
    book = new_book(ACCOUNT)
    for each in orders:
        known = facts(working=book.reservations, counters=book.counters, **changes)
        book = admitted(book, each, judge(each, known, limits), limits, UTC)
    return book


def shown(limits: RiskLimits, book: RiskBook, seconds: float = 0) -> dict[tuple[str, Scope], Usage]:
    return {(use.limit_type.value, use.scope): use for use in usages(limits, book, at(seconds), UTC)}


def test_positions_and_exposure_are_shown_as_of_the_last_order_that_passed() -> None:
    limits = written(max_position_quantity=400, max_gross_exposure=5_000)
    found = shown(limits, after(limits, buying(100, signal_id="a"), buying(200, signal_id="b")), 60)
    position, gross = found["max_position_quantity", OF_POSITION], found["max_gross_exposure", OF_ACCOUNT]
    assert (position.used, position.value, position.percent, position.at) == (300, 400, 75, NOW)
    assert (gross.used, gross.percent) == (3_000, 60)
    assert not position.is_near


@pytest.mark.parametrize(
    ("used", "of", "two_places", "whole"),
    [
        ("1", "3", "33.33", "33"),
        ("2", "3", "66.66", "66"),
        ("0", "3", "0", "0"),
        ("79.99999", "100", "79.99", "79"),  # not near yet
        ("80.00001", "100", "80", "80"),
        ("99.999", "100", "99.99", "99"),  # not all of it
        ("100", "100", "100", "100"),
        ("100.00001", "100", "100.01", "101"),  # more than all of it
        ("-1", "3", "-33.34", "-34"),
        ("1e30", "7", "14285714285714285714285714285714.29", "14285714285714285714285714285715"),
    ],
)
def test_a_shown_percentage_hides_no_breach_and_makes_none(used: str, of: str, two_places: str, whole: str) -> None:
    scope = OF_ACCOUNT
    usage = Usage(
        account_id=ACCOUNT,
        scope=scope,
        limit_type=LimitType.MAX_GROSS_EXPOSURE,
        value=Decimal(of),
        used=Decimal(used),
        at=NOW,
        table=scope,
    )
    assert [str(usage.shown_percent(places)) for places in (2, 0)] == [two_places, whole]


def test_what_is_counted_is_shown_as_it_is_now() -> None:
    limits = written(max_orders_per_minute=10, max_orders_per_day=10, max_open_orders=10)
    book = after(limits, buying(1, signal_id="a"), buying(1, signal_id="b"))
    soon, later = shown(limits, book, 1), shown(limits, book, 61)
    of = OF_ACCOUNT
    assert [soon[name, of].used for name in ("max_orders_per_minute", "max_orders_per_day", "max_open_orders")] == [
        2,
        2,
        2,
    ]
    assert (later["max_orders_per_minute", of].used, later["max_orders_per_day", of].used) == (0, 2)
    assert later["max_orders_per_minute", of].at == at(61)


def test_of_two_tables_for_one_figure_the_one_that_counts_is_shown() -> None:
    limits = tables((Scope(), {"max_open_orders": 2}), (OF_ACCOUNT, {"max_open_orders": 5}))
    found = shown(limits, after(limits, buying(1)))
    use = found["max_open_orders", OF_ACCOUNT]
    assert (use.value, use.table) == (5, OF_ACCOUNT)
    assert len([each for each in found if each[0] == "max_open_orders"]) == 1


def test_each_total_that_is_bound_is_shown_by_itself() -> None:
    mine, other = Scope(strategy=STRATEGY), Scope(strategy="another")
    limits = tables((Scope(), {"max_open_orders": 9}), (mine, {"max_open_orders": 3}), (other, {"max_open_orders": 3}))
    found = shown(limits, after(limits, buying(1)))
    assert found["max_open_orders", OF_ACCOUNT].used == 1
    assert found["max_open_orders", replace(mine, account_id=ACCOUNT)].used == 1
    assert found["max_open_orders", replace(other, account_id=ACCOUNT)].used == 0


def test_a_limit_that_was_changed_is_shown_with_its_new_value_and_one_that_is_off_no_more() -> None:
    limits = written(max_position_quantity=400)
    book = after(limits, buying(100))
    assert shown(written(max_position_quantity=110), book)["max_position_quantity", OF_POSITION].is_near
    assert not [name for name, _ in shown(written(max_position_quantity=OFF), book) if name == "max_position_quantity"]


def test_tables_of_another_account_say_nothing_here() -> None:
    limits = tables((Scope(account_id="other"), {"max_open_orders": 5}))
    assert [name for name, _ in shown(limits, after(limits, buying(1)))] == ["max_consecutive_rejections"]


def test_a_day_that_has_begun_has_used_nothing_of_the_last() -> None:
    limits = written(max_orders_per_day=10, max_daily_loss=100)
    readings = [Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(value)) for value in (1_000, 950)]
    book = after(written(max_orders_per_day=10), buying(1))
    counters = fold_all(book.counters, readings, now=NOW, zone=UTC, keep_seconds=Decimal(0))
    today, tomorrow = (shown(limits, replace(book, counters=counters), seconds) for seconds in (1, 86_400))
    assert (today["max_orders_per_day", OF_ACCOUNT].used, today["max_daily_loss", OF_ACCOUNT].percent) == (1, 50)
    assert (tomorrow["max_orders_per_day", OF_ACCOUNT].used, tomorrow["max_daily_loss", OF_ACCOUNT].used) == (0, 0)


def test_executions_of_one_strategy_in_one_symbol_leave_the_window_by_themselves() -> None:
    limits = written(repeated_executions=Repetition(count=4, window_seconds=Decimal(60)))
    book = after(limits, buying(1))
    fill = Executed(at=NOW, fill_id="f", order_id="o", strategy=STRATEGY, symbol=SYMBOL)
    book = replace(book, counters=fold_all(book.counters, [fill], now=NOW, zone=UTC, keep_seconds=Decimal(60)))
    key = ("repeated_executions", Scope(account_id=ACCOUNT, strategy=STRATEGY, symbol=SYMBOL))
    assert (shown(limits, book)[key].percent, shown(limits, book, 61)[key].used) == (25, 0)


def test_the_account_s_leverage_is_one_figure_whatever_is_traded() -> None:
    limits = written(max_leverage=2)
    found = shown(limits, after(limits, buying(100)))
    assert found["max_leverage", OF_ACCOUNT].used == Decimal("0.001")


def test_of_a_limit_of_zero_nothing_is_left_and_anything_is_too_much() -> None:
    limits = written(max_open_orders=0)
    assert shown(limits, new_book(ACCOUNT))["max_open_orders", OF_ACCOUNT].percent == 100
    book = replace(new_book(ACCOUNT), reservations=after(written(max_open_orders=5), buying(1)).reservations)
    assert shown(limits, book)["max_open_orders", OF_ACCOUNT].percent == 200


def test_what_was_used_is_stored_and_read_again() -> None:
    book = after(written(max_position_quantity=400), buying(100))
    assert from_document(RiskBook, to_document(book)) == book
    assert book.uses


def test_a_document_of_before_tells_no_uses_and_is_read() -> None:
    document = to_document(new_book(ACCOUNT))
    document.pop("uses", None)
    assert from_document(RiskBook, document).uses == ()


def test_figures_of_positions_follow_what_is_held_and_works_and_others_stay() -> None:
    limits = written(max_position_quantity=400, max_position_value=4_000, max_gross_exposure=5_000, max_leverage=2)
    book = after(limits, buying(300))
    now = exposure([holding(-50), holding(20, strategy="other")], [works(10)])
    found = {use.limit: (use.actual_value, use.at) for use in recounted(book.uses, now, at(9), [works(10)])}
    assert found == {
        LimitType.MAX_POSITION_QUANTITY: (50, at(9)),
        LimitType.MAX_POSITION_VALUE: (500, at(9)),
        LimitType.MAX_GROSS_EXPOSURE: (700, at(9)),
        LimitType.MAX_LEVERAGE: (Decimal("0.003"), NOW),
    }
    unknown = recounted(book.uses, exposure([holding(None)], []), at(9), [works(10)])
    assert unknown == book.uses
    flat = {use.limit: use.actual_value for use in recounted(book.uses, exposure([], []), at(9), [works(10)])}
    assert flat[LimitType.MAX_POSITION_QUANTITY] == flat[LimitType.MAX_GROSS_EXPOSURE] == 0


def test_figures_that_have_nothing_of_what_was_booked_are_not_reckoned_again() -> None:
    def kept(**total: str) -> LastUse:
        where = Scope(account_id=ACCOUNT, **total)
        return LastUse(limit=LimitType.MAX_GROSS_EXPOSURE, total=where, actual_value=Decimal(1), at=NOW)

    concerned = (kept(), kept(strategy=STRATEGY), kept(symbol=SYMBOL), kept(strategy=STRATEGY, symbol=SYMBOL))
    others = (kept(strategy="other"), kept(symbol="MSFT"), kept(strategy="other", symbol=SYMBOL))
    found = recounted((*concerned, *others), exposure([holding(5)], []), at(9), [works(10)])
    assert [(each.actual_value, each.at) for each in found[:4]] == [(50, at(9))] * 4
    assert all(after is before for after, before in zip(found[4:], others, strict=True))


def test_there_is_an_end_of_the_figures_that_are_kept_and_the_latest_stay() -> None:
    limits = written(max_position_quantity=400)
    old = tuple(
        LastUse(
            limit=LimitType.MAX_POSITION_QUANTITY,
            total=Scope(account_id=ACCOUNT, symbol=f"S{number}"),
            actual_value=Decimal(1),
            at=NOW,
        )
        for number in range(USES_KEPT)
    )
    about = buying(100)
    book = admitted(replace(new_book(ACCOUNT), uses=old), about, judge(about, facts(), limits), limits, UTC)
    assert len(book.uses) == USES_KEPT
    assert book.uses[-1].total == OF_POSITION


class CountedLines(tuple[Line, ...]):
    """Each line that is looked at is a call."""

    def __iter__(self) -> Iterator[Line]:
        yield from tuple(super().__iter__())


def test_counting_the_uses_of_many_symbols_again_costs_once_what_is_held() -> None:
    def counting(count: int) -> int:
        names = [f"S{number}" for number in range(count)]
        lines = exposure([holding(5, symbol=name, instrument_key=name) for name in names], []).lines
        held = Exposure(CountedLines(lines))
        totals = [Scope(account_id=ACCOUNT, symbol=name) for name in names]
        uses = tuple(
            LastUse(limit=LimitType.MAX_POSITION_QUANTITY, total=total, actual_value=Decimal(1), at=NOW)
            for total in totals
        )
        some = [works(1, symbol=name, instrument_key=name) for name in names]
        return calls(lambda: recounted(uses, held, at(9), some))

    assert counting(100) <= LINEAR * counting(50)
