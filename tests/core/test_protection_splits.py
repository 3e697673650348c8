"""What may be a split, and not a move of the market: quantity and price have changed together, in the directions in which a split moves them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from brokers.base import Side
from execution_service.core.adoption.protecting import after_split
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.protection.plan import Ending, ProtectionPlan
from execution_service.core.protection.splits import Level, may_be_split
from tests.builders import order as an_order
from tests.core.test_protection_plan import CLOSE, NOW, STOP, TARGET, entry, order, placed, planned, state

LATER = NOW + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("side", "role", "price", "now", "more", "expected"),
    [
        (Side.BUY, STOP, 90, 50, 10, True),
        (Side.BUY, STOP, 90, 50, -5, False),  # fewer shares have a higher price
        (Side.BUY, STOP, 90, 50, 0, False),
        (Side.BUY, STOP, 90, 95, 10, False),  # it is not reached
        (Side.BUY, STOP, 90, None, 10, True),
        (Side.BUY, TARGET, 110, 200, -5, True),
        (Side.BUY, TARGET, 110, 200, 10, False),
        (Side.SELL, STOP, 110, 200, -5, True),
        (Side.SELL, STOP, 110, 200, 10, False),
        (Side.SELL, TARGET, 90, 50, 10, True),
        (Side.SELL, TARGET, 90, 50, -5, False),
    ],
)
def test_more_units_explain_a_lower_price_and_fewer_a_higher_one(
    side: Side, role: object, price: int, now: int | None, more: int, expected: bool
) -> None:
    level = Level(price=Decimal(price), side=side, role=role)  # type: ignore[arg-type]
    span = None if now is None else (Decimal(now), Decimal(now))
    assert may_be_split(level, more=Decimal(more), held=Decimal(10), span=span, before=None) is expected


@pytest.mark.parametrize(
    ("side", "held", "more", "expected"),
    [
        (Side.BUY, 100, 10, True),  # one for each ten
        (Side.BUY, 100, 9, False),
        (Side.BUY, -100, 1, True),  # the strategies hold opposite sides
        (Side.BUY, 0, 1, True),
        (Side.SELL, 100, -10, True),
        (Side.SELL, 100, -9, False),
    ],
)
def test_a_split_changes_a_part_of_all_that_is_held(side: Side, held: int, more: int, expected: bool) -> None:
    level = Level(price=Decimal(90 if side is Side.BUY else 110), side=side, role=STOP)
    split = may_be_split(level, more=Decimal(more), held=Decimal(held), span=None, before=None)
    assert split is expected


@pytest.mark.parametrize(("before", "expected"), [(100, True), (98, True), (97, False), (91, False)])
def test_a_price_that_came_without_a_jump_is_no_split(before: int, expected: bool) -> None:
    level = Level(price=Decimal(90), side=Side.BUY, role=STOP)
    span = Decimal(86), Decimal("87.5")
    assert may_be_split(level, more=Decimal(10), held=Decimal(10), span=span, before=Decimal(before)) is expected


def after(ending: Ending, price: str | None = None, **fields: object) -> ProtectionPlan:
    """An entry of 100 at a stop of 9 that is gone."""
    more = Decimal(str(fields.pop("more", 0)))
    return planned(entry(order(ending=ending)), more=more, now=LATER, price=price, **fields)


@pytest.mark.parametrize("price", [None, "5"])
@pytest.mark.parametrize("ending", [Ending.REMOVED, Ending.EXPIRED, Ending.REFUSED, Ending.PASSED])
def test_neither_a_stop_nor_a_close_follows_one_that_is_gone_where_more_is_shown(
    ending: Ending, price: str | None
) -> None:
    plan = after(ending, price, more=100)
    assert (placed(plan), state(plan)) == ([], ProtectionState.UNPROTECTED)
    assert (
        "the broker shows 100 more than all our records together, 100 of them this strategy's, and its stop at 9"
        in plan.standing["ord_e"].reason
    )
    assert plan.band is not None
    assert plan.band.low == 9


@pytest.mark.parametrize("ending", [Ending.EXPIRED, Ending.PASSED])
def test_without_a_difference_it_closes_as_ever(ending: Ending) -> None:
    assert placed(after(ending, "5")) == [(CLOSE, 2, 100)]


def test_where_more_is_shown_and_the_price_has_not_reached_the_stop_it_is_placed_again() -> None:
    assert placed(after(Ending.REMOVED, "9.5", more=100)) == [(STOP, 2, 100)]


@pytest.mark.parametrize(("price", "expected"), [("7.2", []), ("7.3", [(CLOSE, 2, 100)])])
def test_behind_a_stop_that_was_taken_down_a_gap_alone_is_enough(price: str, expected: list[object]) -> None:
    assert placed(after(Ending.REMOVED, price)) == expected


def test_one_that_was_taken_down_waits_for_what_the_positions_and_the_market_say() -> None:
    gone = entry(order(ending=Ending.REMOVED))
    soon, known = NOW + timedelta(seconds=3), NOW + timedelta(seconds=1)
    assert placed(planned(gone, now=soon)) == []
    assert placed(planned(gone, now=soon, compared_at=known)) == []
    assert placed(planned(gone, now=soon, compared_at=known, priced_at=known, price="9.5")) == [(STOP, 2, 100)]
    assert placed(planned(gone, now=NOW + timedelta(seconds=10))) == [(STOP, 2, 100)]


def test_one_that_was_taken_down_in_the_night_waits_for_what_the_new_day_says() -> None:
    gone = entry(order(ending=Ending.REMOVED))
    opening = NOW + timedelta(hours=15)
    night = NOW + timedelta(hours=1)
    plan = planned(gone, now=night, compared_at=night, opens_at=opening)
    assert (placed(plan), state(plan)) == ([], ProtectionState.UNPROTECTED)
    assert "the market is closed" in plan.standing["ord_e"].reason
    assert plan.look_again_at == opening + timedelta(seconds=10)
    assert placed(planned(gone, now=night, compared_at=night, priced_at=night, price="9.5", opens_at=opening)) == [
        (STOP, 2, 100)
    ]
    soon, known = opening + timedelta(seconds=3), opening + timedelta(seconds=1)
    day = {"market_opened_at": opening}
    assert placed(planned(gone, now=soon, compared_at=night, priced_at=night, price="9.5", **day)) == []
    assert placed(planned(gone, now=soon, compared_at=known, priced_at=known, price="9.5", **day)) == [(STOP, 2, 100)]
    assert placed(planned(gone, now=opening + timedelta(seconds=10), **day)) == [(STOP, 2, 100)]


@pytest.mark.parametrize(
    ("side", "stop", "target"), [(Side.BUY, "33.33333333", "40.33333334"), (Side.SELL, "33.33333334", "40.33333333")]
)
def test_prices_after_a_split_are_rounded_so_that_none_is_reached_sooner(side: Side, stop: str, target: str) -> None:
    done = an_order(side=side, quantity=10, stop_loss=Decimal(100), take_profit=Decimal(121))
    protection = after_split(done, Decimal(1), Decimal(3))
    assert protection is not None
    assert (protection.stop_loss, protection.take_profit) == (Decimal(stop), Decimal(target))
    assert protection.words == f", stop {stop}, target {target}"
    assert after_split(an_order(side=side, quantity=10), Decimal(1), Decimal(3)) is None


def test_what_stands_for_another_waits_until_the_orders_of_that_have_ended() -> None:
    stop = replace(order(), is_asked_to_end=True)
    before = entry(stop, filled=0)
    stands = entry(order_id="ord_s", filled=200, is_stand_in=True)
    assert placed(planned(before, stands)) == []
    ended = entry(order(ending=Ending.TAKEN_BACK), filled=0)
    assert placed(planned(ended, stands)) == [(STOP, 1, 200)]
