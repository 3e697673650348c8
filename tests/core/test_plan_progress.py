"""What of a stored plan is released next, and what its legs and orders have come to, one case each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, OrderType
from execution_service.core.planning.facts import Fees, InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import Leg, LegReason, LegState, Plan, make_plan
from execution_service.core.planning.progress import (
    Outcome,
    PlanState,
    Progress,
    Release,
    next_releases,
    progress,
    with_followers,
)
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.planning.terms import Conduct
from tests.builders import NOW
from tests.core.test_plan_rounds import EMERGENCY, Life, a_plan

D = Decimal
NORMAL = Conduct()
BLIND = Conduct(stance=Aggressiveness.EMERGENCY, may_use_market=True)
"""An EMERGENCY without any price, where a market order is allowed."""


def cut_plan(held: int, target: int, *, lot: int = 1, **settings: object) -> Plan:
    """One instrument, with lots or a limit of turnover of an equity of 1000, at a price of 1."""
    wanted = a_plan({}, {"A": target}).targets
    known = InstrumentFacts(instrument=Instrument(symbol="A"), held=D(held), price=D(1), lot=D(lot))
    usual = PlanSettings(buffer=D(0), guard=D(0))
    return make_plan(wanted, {"A|STOCK": known}, Money(equity=D(1000)), replace(usual, **settings), NOW)  # type: ignore[arg-type]


def the_leg(life: Life) -> Leg:
    (leg,) = life.at.legs
    return leg


def told(releases: list[Release]) -> list[tuple[str, Decimal, bool]]:
    return [(r.signal_id.partition(":")[2], r.quantity, r.is_followed) for r in releases]


# --- what a leg has come to -------------------------------------------------------------------------------------------


def test_a_leg_that_filled_whole_is_done_without_a_reason() -> None:
    life = Life(a_plan({}, {"A": 100}), NORMAL)
    life.end(life.release()[0], 100)
    assert (the_leg(life).state, the_leg(life).reason, life.at.state) == (LegState.DONE, None, PlanState.COMPLETED)


@pytest.mark.parametrize("conduct", [NORMAL, EMERGENCY])
def test_all_that_was_ordered_is_done_and_what_is_less_than_a_lot_is_named(conduct: Conduct) -> None:
    life = Life(cut_plan(150, 45, lot=10), conduct, A=150)
    life.end(life.release()[0], 100)
    assert life.release() == []
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.DONE, LegReason.DUST)
    assert (life.at.state, life.at.residuals) == (PlanState.COMPLETED, {"A|STOCK": -5})


def test_a_leg_that_was_made_smaller_on_purpose_is_short_for_that_reason() -> None:
    life = Life(cut_plan(0, 500, max_turnover=D("0.2")), NORMAL)
    life.end(life.release()[0], 200)
    leg = the_leg(life)
    assert (leg.state, leg.reason, leg.note) == (LegState.SHORT, LegReason.TURNOVER, "the plan may trade 200.0 in all")


def test_an_order_that_is_refused_makes_its_leg_refused_where_nothing_filled() -> None:
    life = Life(replace(a_plan({}, {"A": 100}), settings=PlanSettings(slices=2)), NORMAL)
    life.end(life.release()[0], 0, rejection="no such symbol")
    assert (the_leg(life).state, the_leg(life).reason, the_leg(life).note) == (
        LegState.REJECTED,
        None,
        "no such symbol",
    )


def test_an_order_that_is_refused_beside_one_that_filled_leaves_its_leg_short() -> None:
    life = Life(a_plan({"A": 80}, {"A": 0}, most=40), NORMAL, A=80)
    first, second = life.release()
    life.end(first, 40)
    life.end(second, 0, rejection="the venue is closed")
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.SHORT, None)
    assert the_leg(life).note == "the venue is closed"


def test_a_ladder_whose_rungs_were_refused_ended_for_its_own_reason() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    for _ in range(3):
        life.end(life.release()[0], 0, rejection="too far from the market")
    life.release()
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.SHORT, LegReason.OUTSIDE_COLLAR)


def test_a_ladder_that_ran_out_of_time_says_so_also_where_less_was_held() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}, valid_until=NOW + timedelta(seconds=20)), EMERGENCY, A=60)
    life.end(life.release()[0], 10)
    life.now = NOW + timedelta(seconds=20)
    life.release()
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.SHORT, LegReason.NO_LONGER_VALID)


def test_what_was_not_held_any_more_is_the_reason_of_a_reduction_that_was_cut() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), NORMAL, A=60)
    life.end(life.release()[0], 60)
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.SHORT, LegReason.NOTHING_HELD)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, LegReason.INSUFFICIENT_CASH),
        ({"price": None}, LegReason.NO_PRICE),
        ({"unit_value": None}, LegReason.NO_PRICE),
    ],
)
def test_an_increase_that_was_not_sent_says_whether_cash_or_a_price_was_missing(
    change: dict[str, None], reason: LegReason
) -> None:
    plan = cut_plan(0, 100)
    life = Life(replace(plan, legs=(replace(plan.legs[0], **change),)), NORMAL)  # type: ignore[arg-type]
    (nothing,) = next_releases(life.at, {}, D(0), {}, NOW)
    life.releases = {nothing.signal_id: nothing}
    assert (told([nothing]), the_leg(life).state) == ([("000", D(0), False)], LegState.SKIPPED)
    assert the_leg(life).reason is reason


def test_an_increase_that_cash_has_cut_is_short_of_cash() -> None:
    life = Life(cut_plan(0, 100), NORMAL)
    (some,) = next_releases(life.at, {}, D(30), {}, NOW)
    life.releases = {some.signal_id: some}
    life.end(some, 30)
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.SHORT, LegReason.INSUFFICIENT_CASH)


# --- what is released -------------------------------------------------------------------------------------------------


def test_the_largest_goes_first_and_of_one_value_the_first_by_name() -> None:
    life = Life(a_plan({"A": 1, "B": 9, "C": 9}, {"A": 0, "B": 0, "C": 0}), NORMAL, A=1, B=9, C=9)
    assert [life.plan.leg(r.leg).instrument.symbol for r in life.release()] == ["B", "C", "A"]
    more = Life(a_plan({}, {"A": 1, "B": 9, "C": 9}), NORMAL)
    assert [more.plan.leg(r.leg).instrument.symbol for r in more.release()] == ["B", "C", "A"]


@pytest.mark.parametrize(("held", "released"), [
    (250, [("000", 84, False), ("000.1", 83, False), ("000.2", 83, False)]),
    (100, [("000", 84, False), ("000.1", 16, False)]),
    (0, [("000", 0, False)]),
])  # fmt: skip
def test_a_reduction_takes_slice_by_slice_no_more_than_is_held(
    held: int, released: list[tuple[str, int, bool]]
) -> None:
    life = Life(a_plan({"A": 250}, {"A": 0}, most=100), NORMAL, A=held)
    assert told(life.release()) == released


@pytest.mark.parametrize(("most", "held", "released"), [
    (None, 100, ("000", 100, False)),  # one order takes all of it
    (40, 100, ("000", 40, True)),  # the next takes what the venue did not allow in one
    (None, 0, ("000", 0, False)),
])  # fmt: skip
def test_a_market_order_in_an_emergency_is_followed_only_where_it_cannot_take_all(
    most: int | None, held: int, released: tuple[str, int, bool]
) -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}, most=most), BLIND, A=held)
    assert told(life.release()) == [released]


def test_an_order_that_was_to_be_replaced_is_sent_anew_though_the_stricter_stance_is_over() -> None:
    """Nobody gave the exit up: it was cancelled so that it leaves sooner."""
    calm = Conduct(stance=Aggressiveness.PASSIVE, price=D(100))
    life = Life(a_plan({"A": 100}, {"A": 0}), calm, A=100)
    (first,) = life.release()
    life.releases = {r.signal_id: r for r in with_followers(tuple(life.releases.values()), [first])}
    life.end(first, 30)
    (again,) = life.release()
    assert (again.quantity, again.stance, again.reason) == (70, Aggressiveness.PASSIVE, None)
    life.end(again, 0)
    assert life.release() == []
    assert (the_leg(life).state, the_leg(life).reason) == (LegState.SHORT, None)


def test_a_slice_that_was_to_be_replaced_is_sent_anew_too() -> None:
    calm = Conduct(stance=Aggressiveness.PASSIVE, price=D(100), usual_volume=D(800))
    life = Life(a_plan({"A": 100}, {"A": 0}), calm, A=100)
    (first,) = life.release()
    assert first.is_followed
    life.releases = {r.signal_id: r for r in with_followers(tuple(life.releases.values()), [first])}
    life.end(first, 0)
    (again,) = life.release()
    assert (again.quantity, again.reason) == (40, None)
    life.end(again, 39)
    assert [each.reason for each in life.release()] == [LegReason.SLICE_UNFILLED]


def test_a_rung_of_which_nothing_is_held_is_followed_by_nothing() -> None:
    assert told(Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=0).release()) == [("000", D(0), False)]


def test_the_market_order_at_the_ladders_end_is_followed_while_the_venue_allows_no_more() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}, most=40), replace(EMERGENCY, may_use_market=True), A=100)
    for _ in range(3):
        life.end(life.release()[0], 0)
    (market,) = life.release()
    assert (market.terms.order_type, market.quantity, market.is_followed) == (OrderType.MARKET, 40, True)


def test_a_halt_is_a_release_of_nothing_with_its_reason() -> None:
    for plan, held in ((a_plan({"A": 100}, {"A": 0}), 100), (a_plan({}, {"A": 100}), 0)):
        life = Life(plan, Conduct(is_halted=True), A=held)
        (nothing,) = life.release()
        assert (told([nothing]), nothing.reason) == ([("000", D(0), False)], LegReason.HALTED)


def test_a_close_at_work_holds_its_opening_up_though_others_have_made_it_flat() -> None:
    life = Life(a_plan({"A": 300}, {"A": -200}), NORMAL, A=300)
    life.release()
    life.held["A|STOCK"] = D(0)
    assert next_releases(life.at, life.releases, None, life.held, NOW, phases_together=True) == ()


def test_increases_are_sent_by_the_terms_of_their_stance_each() -> None:
    life = Life(a_plan({}, {"A": 2, "B": 1}), NORMAL)
    conduct = {0: Conduct(stance=Aggressiveness.URGENT, price=D(100)), 1: NORMAL}
    for cash in (None, D(1000)):
        urgent, usual = next_releases(life.at, {}, cash, {}, NOW, conduct=conduct)
        assert (urgent.stance, urgent.terms.limit_price) == (Aggressiveness.URGENT, D("100.5"))
        assert (usual.stance, usual.terms.order_type) == (Aggressiveness.NORMAL, OrderType.MARKET)


# --- what ends a leg that waits ---------------------------------------------------------------------------------------


def waiting() -> Life:
    """A close at work, with an opening that waits for it, and an increase that waits for the reductions."""
    until = NOW + timedelta(seconds=60)
    life = Life(a_plan({"A": 100}, {"A": -50, "B": 5}, valid_until=until), NORMAL, A=100)
    life.release()
    return life


def states(at: Progress) -> list[tuple[LegState, LegReason | None]]:
    return [(leg.state, leg.reason) for leg in at.legs]


def test_a_leg_waits_for_as_long_as_the_plan_is_valid() -> None:
    life = waiting()
    left, over = (LegState.WAITING, None), (LegState.SKIPPED, LegReason.NO_LONGER_VALID)
    life.now = NOW + timedelta(seconds=59)
    assert states(life.at) == [(LegState.RELEASED, None), left, left]
    life.now = NOW + timedelta(seconds=60)
    assert states(life.at) == [(LegState.RELEASED, None), over, over]
    assert life.at.state is PlanState.WORKING


def test_what_waits_when_a_plan_is_superseded_is_not_sent() -> None:
    life = waiting()
    at = progress(life.plan, life.releases, life.outcomes, NOW, is_superseded=True)
    never = (LegState.SUPERSEDED, LegReason.SUPERSEDED)
    assert (states(at), at.state) == ([(LegState.RELEASED, None), never, never], PlanState.WORKING)


def test_an_opening_is_skipped_when_its_close_has_ended_short_and_not_before() -> None:
    life = waiting()
    (close,) = life.releases.values()
    life.outcomes[close.signal_id] = Outcome(filled=D(30))
    assert states(life.at)[1] == (LegState.WAITING, None)
    life.end(close, 30, rejection="halted at the venue")
    assert states(life.at)[1] == (LegState.SKIPPED, LegReason.CLOSE_INCOMPLETE)
    assert life.at.legs[1].note == "the close before it filled 30 of 100"


def test_an_opening_is_skipped_when_its_close_was_refused() -> None:
    life = waiting()
    life.end(next(iter(life.releases.values())), 0, rejection="no")
    assert states(life.at)[:2] == [(LegState.REJECTED, None), (LegState.SKIPPED, LegReason.CLOSE_INCOMPLETE)]
    life.end(life.release()[0], 5)
    assert life.at.state is PlanState.PARTIAL


@pytest.mark.parametrize(("target", "settings"), [(105, {"band": D("0.5")}), (105, {"lot": 10})])
def test_what_is_left_on_purpose_is_no_failure(target: int, settings: dict[str, Any]) -> None:
    life = Life(cut_plan(100, target, **settings), NORMAL)
    assert (the_leg(life).state, life.at.state) == (LegState.SKIPPED, PlanState.COMPLETED)
    assert life.release() == []


def test_what_was_superseded_is_so_whatever_it_has_come_to() -> None:
    life = Life(a_plan({}, {"A": 5}), NORMAL)
    life.end(life.release()[0], 5)
    assert progress(life.plan, life.releases, life.outcomes, NOW, is_superseded=True).state is PlanState.SUPERSEDED


# --- cash -------------------------------------------------------------------------------------------------------------


def bought(plan: Plan, cash: int) -> list[tuple[str, Decimal]]:
    at = progress(plan, {}, {}, NOW)
    more = next_releases(at, {}, D(cash), {}, NOW)
    return [(plan.leg(r.leg).instrument.symbol + r.signal_id.partition(":")[2][3:], r.quantity) for r in more]


def test_an_increase_costs_its_price_the_value_of_a_point_the_guard_and_the_fees() -> None:
    plan = cut_plan(0, 100)
    leg = replace(plan.legs[0], price=D(2), unit_value=D(5))
    for settings, cash, quantity in (
        (PlanSettings(guard=D(0)), 1000, 100),
        (PlanSettings(guard=D(0)), 999, 99),
        (PlanSettings(guard=D("0.1")), 1000, 90),
        (PlanSettings(guard=D(0), fees=Fees(per_order=D(10))), 1000, 99),
    ):
        assert bought(replace(plan, legs=(leg,), settings=settings), cash) == [("A", D(quantity))]


def test_what_is_bought_keeps_to_the_smallest_order() -> None:
    plan = cut_plan(0, 100)
    assert bought(replace(plan, legs=(replace(plan.legs[0], min_quantity=D(50)),)), 49) == [("A", D(0))]


def test_what_cash_has_cut_is_sliced_anew_and_no_slice_is_larger_than_planned() -> None:
    plan = replace(a_plan({}, {"A": 250}, most=100))
    assert [len(plan.legs[0].slices), max(plan.legs[0].slices)] == [3, 84]
    assert bought(plan, 16_800) == [("A", D(56)), ("A.1", D(56)), ("A.2", D(56))]
    assert bought(plan, 200) == [("A", D(1)), ("A.1", D(1))]


def test_what_is_blocked_is_not_released_as_nothing() -> None:
    plan = a_plan({}, {"A": 10, "B": 10})
    blocked = replace(plan.legs[0], quantity=D(0), slices=(), state=LegState.BLOCKED, reason=LegReason.BLOCKED)
    assert bought(replace(plan, legs=(blocked, plan.legs[1])), 5000) == [("B", D(10))]


def test_of_several_increases_only_those_that_are_paid_whole_share_the_cash() -> None:
    plan = a_plan({}, {"A": 10, "B": 10, "C": 10})
    future = replace(plan.legs[1].instrument, asset_class=AssetClass.FUTURE)
    legs = (plan.legs[0], replace(plan.legs[1], instrument=future), replace(plan.legs[2], price=None))
    assert sorted(bought(replace(plan, legs=legs), 500)) == [("A", D(5)), ("B", D(10)), ("C", D(0))]
