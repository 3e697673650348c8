"""How a stored plan goes on: ladders of orders with one alive at a time, rounds that follow one that ended short, and what a decision has come to."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import AssetClass, Instrument
from execution_service.core.messages.targets import content_of, order_of, parse_targets
from execution_service.core.planning.facts import Fees, InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import LegReason, LegState, Phase, Plan, make_plan
from execution_service.core.planning.progress import (
    Outcome,
    PlanState,
    Progress,
    Release,
    cash_needed,
    next_releases,
    progress,
    tame_releases,
    with_followers,
)
from execution_service.core.planning.records import PlanRecord, RoundKind, plan_from_document, plan_to_document
from execution_service.core.planning.rounds import (
    RETRY_PAUSE,
    ended,
    exposure,
    next_round,
    reasons_not_reached,
    settings_of_round,
    targets_of_round,
    wants_equity,
)
from execution_service.core.planning.targets import (
    Aggressiveness,
    ExpectedHolding,
    Mode,
    OnPartial,
    Target,
    TargetPositions,
    WhenShort,
    on_partial_of,
)
from execution_service.core.planning.terms import Conduct
from tests.builders import NOW

ZERO = Decimal(0)
EMERGENCY = Conduct(stance=Aggressiveness.EMERGENCY, price=Decimal(100))
REPORT, RETRY, UNWIND = OnPartial(), OnPartial(WhenShort.RETRY, 2), OnPartial(WhenShort.UNWIND)


def a_plan(
    held: dict[str, int],
    aims: dict[str, int],
    *,
    most: int | None = None,
    least: int = 0,
    lot: int = 1,
    worth: int = 0,
    fees: Fees | None = None,
    slices: int = 1,
    **changes: object,
) -> Plan:
    instruments = {symbol: Instrument(symbol=symbol) for symbol in {*held, *aims}}
    facts = {
        each.key: InstrumentFacts(
            instrument=each,
            held=Decimal(held.get(symbol, 0)),
            price=Decimal(100),
            max_quantity=None if most is None else Decimal(most),
            min_quantity=Decimal(least),
            lot=Decimal(lot),
            min_notional=Decimal(worth),
        )
        for symbol, each in instruments.items()
    }
    wanted = TargetPositions(
        decision_id="d-1",
        account_id="acc",
        strategy_id="growth",
        as_of=NOW,
        mode=Mode.PRODUCTION,
        targets=tuple(Target(instrument=instruments[s], quantity=Decimal(q)) for s, q in aims.items()),
        **changes,  # type: ignore[arg-type]
    )
    settings = PlanSettings(buffer=ZERO, guard=ZERO, fees=fees or Fees(), slices=slices)
    return make_plan(wanted, facts, Money(equity=Decimal(100_000)), settings, NOW)


class Life:
    """A plan at work: each leg by the same conduct."""

    def __init__(self, plan: Plan, conduct: Conduct, **held: int) -> None:
        self.plan, self.conduct = plan, conduct
        self.held = {Instrument(symbol=symbol).key: Decimal(quantity) for symbol, quantity in held.items()}
        self.releases: dict[str, Release] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.now: datetime = NOW
        self.cash: Decimal | None = None

    @property
    def at(self) -> Progress:
        return progress(self.plan, self.releases, self.outcomes, self.now)

    def release(self) -> list[Release]:
        conduct = dict.fromkeys(range(len(self.plan.legs)), self.conduct)
        more = next_releases(self.at, self.releases, self.cash, self.held, self.now, conduct=conduct)
        assert not {each.signal_id for each in more} & set(self.releases)
        self.releases |= {each.signal_id: each for each in more}
        return list(more)

    def alive(self) -> list[Release]:
        return [
            r
            for r in self.releases.values()
            if r.quantity
            and not r.is_void
            and not (r.signal_id in self.outcomes and self.outcomes[r.signal_id].is_final)
        ]

    def end(self, release: Release, filled: Decimal | int = 0, rejection: str | None = None) -> None:
        leg = self.plan.leg(release.leg)
        self.outcomes[release.signal_id] = Outcome(filled=Decimal(filled), is_final=True, rejection=rejection)
        key = leg.instrument.key
        self.held[key] = self.held.get(key, ZERO) + Decimal(filled) * leg.side.sign


# --- ladders --------------------------------------------------------------------------------------------------------


def test_each_rung_takes_what_the_one_before_has_left() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    climbed = []
    for filled in (30, 0, 20):
        (only,) = life.release()
        climbed.append((only.signal_id.partition(":")[2], only.rung, only.quantity, only.terms.limit_price))
        assert life.release() == []
        life.end(only, filled)
    assert climbed == [("000", 0, 100, 99), ("000.1", 1, 70, 97), ("000.2", 2, 70, 90)]
    (nothing,) = life.release()
    assert (nothing.quantity, nothing.reason) == (0, LegReason.OUTSIDE_COLLAR)
    (leg,) = life.at.legs
    assert (leg.state, leg.reason, life.at.state) == (LegState.SHORT, LegReason.OUTSIDE_COLLAR, PlanState.PARTIAL)
    assert life.at.residuals == {"A|STOCK": -50}


def test_a_rung_that_fills_whole_ends_the_leg() -> None:
    life = Life(a_plan({"A": 100}, {"A": 40}), EMERGENCY, A=100)
    life.end(life.release()[0], 60)
    assert (life.release(), life.at.state) == ([], PlanState.COMPLETED)


def test_a_refused_rung_is_followed_by_the_next() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    life.end(life.release()[0], rejection="too far from the market")
    assert [each.rung for each in life.release()] == [1]


def test_an_order_as_large_as_the_venue_allows_stays_on_its_rung_while_it_fills() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}, most=40), EMERGENCY, A=100)
    seen = []
    for filled in (40, 10, 40, 10):
        (only,) = life.release()
        seen.append((only.rung, only.quantity))
        life.end(only, filled)
    assert seen == [(0, 40), (0, 40), (1, 40), (1, 10)]
    assert (life.release(), life.at.state) == ([], PlanState.COMPLETED)


def test_a_rung_takes_no_more_than_its_part_of_what_is_usually_traded_and_the_next_slice_stays_on_it() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), replace(EMERGENCY, usual_volume=Decimal(150)), A=100)
    seen = []
    for filled in (45, 20, 35):
        (only,) = life.release()
        seen.append((only.rung, only.quantity, only.is_followed))
        assert life.release() == []
        life.end(only, filled)
    assert seen == [(0, 45, True), (0, 45, True), (1, 35, True)]
    assert (life.release(), life.at.state) == ([], PlanState.COMPLETED)


@pytest.mark.parametrize(("stance", "part"), [(Aggressiveness.PASSIVE, 15), (Aggressiveness.URGENT, 60)])
def test_a_reduction_is_sent_in_slices_of_its_stance_one_at_a_time(stance: Aggressiveness, part: int) -> None:
    calm = Conduct(stance=stance, price=Decimal(100), usual_volume=Decimal(300))
    life = Life(a_plan({"A": 100}, {"A": 0}), calm, A=100)
    left = 100
    while left:
        (only,) = life.release()
        assert (only.quantity, life.release()) == (min(part, left), [])
        left -= int(only.quantity)
        life.end(only, only.quantity)
    assert (life.release(), life.at.state) == ([], PlanState.COMPLETED)


@pytest.mark.parametrize("volume", [750, 499])
def test_a_reduction_keeps_to_its_part_of_the_volume_also_where_the_venue_takes_less_at_once(volume: int) -> None:
    urgent = Conduct(stance=Aggressiveness.URGENT, price=Decimal(100), usual_volume=Decimal(volume))
    life = Life(a_plan({"A": 1000}, {"A": 0}, most=100), urgent, A=1000)
    orders = 0
    while life.at.state is PlanState.WORKING:
        (only,) = life.release()
        life.end(only, only.quantity)
        orders += 1
    assert (life.at.state, orders) == (PlanState.COMPLETED, 10 if volume == 750 else 11)


def test_a_reduction_that_is_no_more_than_its_part_of_the_volume_is_sent_as_planned() -> None:
    urgent = Conduct(stance=Aggressiveness.URGENT, price=Decimal(100), usual_volume=Decimal(5000))
    life = Life(a_plan({"A": 1000}, {"A": 0}, most=100), urgent, A=1000)
    assert [(each.quantity, each.is_followed) for each in life.release()] == [(100, False)] * 10


def test_a_slice_that_does_not_fill_whole_ends_a_leg_that_has_no_ladder() -> None:
    urgent = Conduct(stance=Aggressiveness.URGENT, price=Decimal(100), usual_volume=Decimal(300))
    life = Life(a_plan({"A": 100}, {"A": 0}), urgent, A=100)
    life.end(life.release()[0], 59)
    (nothing,) = life.release()
    assert (nothing.quantity, nothing.reason) == (0, LegReason.SLICE_UNFILLED)
    assert life.release() == []
    (leg,) = life.at.legs
    assert (leg.state, leg.reason, life.at.residuals) == (LegState.SHORT, LegReason.SLICE_UNFILLED, {"A|STOCK": -41})


def test_a_slice_is_a_lot_at_least_and_where_no_volume_is_known_all_is_sent() -> None:
    little = Life(a_plan({"A": 100}, {"A": 0}), replace(EMERGENCY, usual_volume=Decimal(2)), A=100)
    assert [each.quantity for each in little.release()] == [1]
    unknown = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    assert [each.quantity for each in unknown.release()] == [100]
    as_planned = Life(a_plan({"A": 100}, {"A": 0}), Conduct(usual_volume=Decimal(2)), A=100)
    assert [each.quantity for each in as_planned.release()] == [100]


def test_a_slice_is_the_smallest_order_of_the_venue_at_least_and_leaves_no_less_than_that() -> None:
    little = replace(EMERGENCY, usual_volume=Decimal(30))
    life = Life(a_plan({"A": 100}, {"A": 0}, least=30), little, A=100)
    assert (sent(life), life.at.state) == ([30, 30, 40], PlanState.COMPLETED)


def test_what_would_leave_too_little_for_an_order_is_not_sent_at_once_where_the_venue_takes_less() -> None:
    little = replace(EMERGENCY, usual_volume=Decimal(30))
    life = Life(a_plan({"A": 50}, {"A": 0}, least=30, most=40), little, A=50)
    assert [each.quantity for each in life.release()] == [30]


def test_a_leg_takes_no_more_orders_than_it_may_however_little_is_traded() -> None:
    thin = replace(EMERGENCY, usual_volume=Decimal(1), most_orders_by_volume=100)
    life = Life(a_plan({"A": 12_345}, {"A": 0}), thin, A=12_345)
    seen = sent(life)
    assert (len(seen), seen[0], sum(seen)) == (100, 124, 12_345)


def sent(life: Life) -> list[Decimal]:
    """All of a leg's orders, each filled whole before the next one."""
    seen = []
    while life.at.state is PlanState.WORKING:
        (only,) = life.release()
        if only.quantity:
            seen.append(only.quantity)
            life.end(only, only.quantity)
    return seen


def test_every_order_is_of_whole_lots_where_the_smallest_or_the_largest_of_the_venue_is_not() -> None:
    thin = replace(EMERGENCY, usual_volume=Decimal(1))
    assert sent(Life(a_plan({"A": 100}, {"A": 0}, least=15, lot=10), thin, A=100)) == [20] * 5
    assert sent(Life(a_plan({"A": 100}, {"A": 0}, most=35, lot=10), EMERGENCY, A=100)) == [30, 30, 30, 10]


def test_an_order_takes_less_where_it_would_leave_too_little_for_another() -> None:
    plan = a_plan({"A": 105}, {"A": 0}, least=10, most=100)
    assert sent(Life(plan, EMERGENCY, A=105)) == [95, 10]
    urgent = replace(EMERGENCY, stance=Aggressiveness.URGENT, usual_volume=Decimal(500))
    assert sent(Life(plan, urgent, A=105)) == [95, 10]
    in_lots = a_plan({"A": 105}, {"A": 0}, least=15, most=100, lot=10)
    assert sent(Life(in_lots, EMERGENCY, A=105)) == [90, 15]


@settings(max_examples=200)
@given(
    lot=st.integers(1, 12),
    lots=st.integers(1, 60),
    least=st.integers(0, 60),
    room=st.none() | st.integers(0, 60),
    volume=st.none() | st.integers(1, 2000),
    by_volume=st.none() | st.integers(1, 20),
)
def test_where_the_venue_has_room_for_two_of_its_smallest_orders_every_order_is_one_that_it_takes(
    lot: int, lots: int, least: int, room: int | None, volume: int | None, by_volume: int | None
) -> None:
    held, smallest = lot * lots, -(-max(least, 1) // lot) * lot
    most = None if room is None else 2 * smallest + room
    conduct = replace(
        EMERGENCY, usual_volume=None if volume is None else Decimal(volume), most_orders_by_volume=by_volume
    )
    seen = sent(Life(a_plan({"A": held}, {"A": 0}, least=least, most=most, lot=lot), conduct, A=held))
    assert sum(seen) == held
    assert all(quantity % lot == 0 and (most is None or quantity <= most) for quantity in seen)
    assert min(seen) >= min(least, held)


def test_the_first_order_goes_by_what_is_held_where_that_is_less_than_the_leg() -> None:
    little = replace(EMERGENCY, usual_volume=Decimal(30))
    assert sent(Life(a_plan({"A": 100}, {"A": 0}, least=30), little, A=40)) == [40]


def test_no_part_of_a_reduction_is_worth_less_than_the_smallest_order_by_the_present_price() -> None:
    thin = replace(EMERGENCY, usual_volume=Decimal(1), most_orders_by_volume=100)
    plan = a_plan({"A": 100}, {"A": 0}, worth=1000)  # at 100
    assert sent(Life(plan, thin, A=100)) == [10] * 10
    assert sent(Life(plan, replace(thin, price=Decimal(40)), A=100)) == [25] * 4
    assert sent(Life(plan, replace(thin, price=Decimal(30)), A=100)) == [34, 66]
    assert sent(Life(plan, EMERGENCY, A=5)) == [5]  # a close is never too small


def test_the_largest_order_of_the_venue_may_take_more_orders_than_the_volume_may() -> None:
    thin = replace(EMERGENCY, usual_volume=Decimal(1), most_orders_by_volume=100)
    assert sent(Life(a_plan({"A": 5000}, {"A": 0}, most=10), thin, A=5000)) == [10] * 500


def test_a_late_fill_of_the_order_before_makes_the_next_one_smaller() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    life.end(life.release()[0], 0)
    life.held["A|STOCK"] = Decimal(25)  # something else has sold
    assert [each.quantity for each in life.release()] == [25]


def test_what_is_not_held_any_more_ends_the_ladder() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    life.end(life.release()[0], 0)
    life.held["A|STOCK"] = ZERO
    (nothing,) = life.release()
    assert (nothing.quantity, nothing.reason) == (0, LegReason.NOTHING_HELD)
    assert life.release() == []
    assert life.at.state is PlanState.FAILED


def test_a_ladder_ends_with_the_validity_of_its_plan_also_while_the_broker_is_away() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}, valid_until=NOW + timedelta(seconds=60)), EMERGENCY, A=100)
    life.end(life.release()[0], 0)
    life.conduct = replace(EMERGENCY, not_now="its broker is away")
    assert life.release() == []
    assert life.at.state is PlanState.WORKING
    life.now = NOW + timedelta(seconds=60)
    (leg,) = life.at.legs
    assert (leg.state, leg.reason, life.at.to_follow) == (LegState.SHORT, LegReason.NO_LONGER_VALID, {})
    assert (life.release(), life.at.state) == ([], PlanState.FAILED)


def test_a_ladder_whose_order_still_works_ends_with_that_and_not_before() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}, valid_until=NOW + timedelta(seconds=60)), EMERGENCY, A=100)
    (only,) = life.release()
    life.now = NOW + timedelta(seconds=60)
    assert (life.at.legs[0].state, life.release()) == (LegState.RELEASED, [])
    life.end(only, 30, rejection="BROKER_REJECTED: too far")
    (leg,) = life.at.legs
    assert (leg.state, leg.reason, leg.note) == (
        LegState.SHORT,
        LegReason.NO_LONGER_VALID,
        "BROKER_REJECTED: too far",
    )
    assert (life.at.state, life.at.residuals) == (PlanState.PARTIAL, {"A|STOCK": -70})


def test_while_the_broker_is_away_nothing_is_released() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0, "B": 5}), replace(EMERGENCY, not_now="its broker is away"), A=100)
    assert life.release() == []
    assert life.at.state is PlanState.WORKING


def test_a_ladder_that_is_no_longer_needed_goes_on_as_the_plan_says() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    life.end(life.release()[0], 0)
    life.conduct = Conduct()
    (only,) = life.release()
    assert (only.rung, only.terms.limit_price, only.is_followed) == (0, None, False)


def test_only_working_reductions_that_are_too_tame_make_way() -> None:
    passive = Conduct(stance=Aggressiveness.PASSIVE, price=Decimal(100))
    life = Life(a_plan({"A": 100, "B": 100}, {"A": 0, "B": 0, "C": 5}), passive, A=100, B=100)
    first, second = life.release()
    life.outcomes[first.signal_id] = Outcome(filled=Decimal(10))
    now = dict.fromkeys(range(3), EMERGENCY)
    # The second one is not known to be anywhere yet.
    assert tame_releases(life.at, life.releases, life.outcomes, now) == (first,)
    assert tame_releases(life.at, life.releases, life.outcomes, dict.fromkeys(range(3), passive)) == ()
    marked = with_followers(tuple(life.releases.values()), [first])
    assert [(r.leg, r.is_followed) for r in marked] == [(first.leg, True), (second.leg, False)]
    life.releases = {r.signal_id: r for r in marked}
    life.conduct = EMERGENCY
    assert life.release() == []
    life.held["A|STOCK"] = Decimal(90)
    life.outcomes[first.signal_id] = Outcome(filled=Decimal(10), is_final=True)
    (only,) = life.release()
    assert (only.child, only.quantity, only.rung) == (1, 90, 0)


def test_an_increase_never_makes_way_for_a_bolder_one() -> None:
    """The verb that sets an EMERGENCY cancels it, and nothing follows it."""
    life = Life(a_plan({}, {"A": 100}), Conduct(stance=Aggressiveness.PASSIVE, price=Decimal(100)))
    (only,) = life.release()
    life.outcomes[only.signal_id] = Outcome()
    assert tame_releases(life.at, life.releases, life.outcomes, {0: EMERGENCY}) == ()


def test_of_several_orders_of_a_leg_those_at_work_make_way_and_the_last_is_followed() -> None:
    passive = Conduct(stance=Aggressiveness.PASSIVE, price=Decimal(100))
    life = Life(a_plan({"A": 100, "B": 50}, {"A": 0, "B": 0}, most=40), passive, A=100, B=50)
    first, second, third, *others = life.release()
    life.end(first, first.quantity)
    life.outcomes |= {each.signal_id: Outcome() for each in (second, third, *others)}
    life.end(others[0], others[0].quantity)
    life.end(others[1], others[1].quantity)
    tame = tame_releases(life.at, life.releases, life.outcomes, dict.fromkeys(range(2), EMERGENCY))
    assert tame == (second, third)
    marked = with_followers(tuple(life.releases.values()), tame)
    assert [r.signal_id for r in marked if r.is_followed] == [third.signal_id]


def test_the_sequence_in_which_releases_are_kept_changes_nothing() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    life.end(life.release()[0], 30)
    life.end(life.release()[0], 20)
    backwards = dict(reversed(life.releases.items()))
    assert progress(life.plan, backwards, life.outcomes, NOW) == life.at
    assert next_releases(life.at, backwards, None, life.held, NOW, conduct={0: EMERGENCY})[0].rung == 2


def test_what_is_void_beside_what_was_sent_ends_with_that() -> None:
    life = Life(a_plan({"A": 80}, {"A": 0}, most=40), Conduct(), A=80)
    sent, unsent = life.release()
    life.releases[unsent.signal_id] = replace(unsent, is_void=True)
    life.end(sent, 40)
    at = progress(life.plan, life.releases, life.outcomes, NOW, is_superseded=True)
    assert (at.state, at.legs[0].state, at.residuals) == (PlanState.SUPERSEDED, LegState.SHORT, {"A|STOCK": -40})


def test_on_a_margin_account_increases_wait_for_their_own_close_alone() -> None:
    life = Life(a_plan({"A": 100, "B": 30}, {"A": 0, "B": -20, "C": 5}), Conduct(), A=100, B=30)

    def together() -> list[tuple[str, Phase, Decimal]]:
        more = next_releases(life.at, life.releases, None, life.held, NOW, phases_together=True)
        life.releases |= {each.signal_id: each for each in more}
        legs = life.plan.legs
        return [(legs[r.leg].instrument.symbol, legs[r.leg].phase, r.quantity) for r in more]

    assert together() == [("A", Phase.REDUCE, 100), ("B", Phase.REDUCE, 30), ("C", Phase.INCREASE, 5)]
    assert together() == []
    close = next(r for r in life.releases.values() if r.quantity == 30)
    life.end(close, 30)
    assert together() == [("B", Phase.INCREASE, 20)]


def test_a_superseded_plan_climbs_no_further() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    life.end(life.release()[0], 0)
    at = progress(life.plan, life.releases, life.outcomes, NOW, is_superseded=True)
    assert (at.state, at.to_follow) == (PlanState.SUPERSEDED, {})


def test_what_is_void_was_never_sent() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), Conduct(), A=100)
    (only,) = life.release()
    void = {only.signal_id: replace(only, is_void=True)}
    at = progress(life.plan, void, {}, NOW, is_superseded=True)
    assert (at.state, at.legs[0].state, at.residuals) == (PlanState.SUPERSEDED, LegState.SUPERSEDED, {"A|STOCK": -100})


BY_VOLUME = Conduct(stance=Aggressiveness.URGENT, price=Decimal(100), usual_volume=Decimal(200))
"""By which 40 leave at once."""


def test_an_increase_takes_no_more_at_once_than_its_part_of_the_volume() -> None:
    life = Life(a_plan({}, {"A": 100}), BY_VOLUME)
    seen = []
    for _ in range(3):
        (only,) = life.release()
        seen.append((only.signal_id.partition(":")[2], only.quantity))
        assert life.release() == []
        life.end(only, only.quantity)
    assert seen == [("000", 40), ("000.1", 40), ("000.2", 20)]
    assert (life.release(), life.at.state) == ([], PlanState.COMPLETED)


def test_an_increase_whose_part_does_not_fill_whole_ends() -> None:
    life = Life(a_plan({}, {"A": 100}), BY_VOLUME)
    life.end(life.release()[0], 30)
    (nothing,) = life.release()
    assert (nothing.quantity, nothing.reason) == (0, LegReason.SLICE_UNFILLED)
    assert (life.release(), life.at.residuals) == ([], {"A|STOCK": 70})


def test_the_parts_of_an_increase_are_never_more_than_cash_was_found_for_or_is_there() -> None:
    life = Life(a_plan({}, {"A": 100, "B": 100}), BY_VOLUME)
    life.cash = Decimal(12_000)  # for 60 of each
    for quantity in (40, 20):
        parts = life.release()
        assert [each.quantity for each in parts] == [quantity, quantity]
        for each in parts:
            life.end(each, quantity)
        # A broker that still shows what has been spent.
    assert life.release() == []
    assert [(leg.state, leg.reason) for leg in life.at.legs] == [(LegState.SHORT, LegReason.INSUFFICIENT_CASH)] * 2

    less = Life(a_plan({}, {"A": 100}), BY_VOLUME)
    less.cash = Decimal(10_000)
    less.end(less.release()[0], 40)
    less.cash = Decimal(1_000)  # somebody else has spent the rest
    (part,) = less.release()
    assert (part.quantity, part.is_followed) == (10, False)
    less.end(part, 10)
    assert (less.release(), less.at.residuals) == ([], {"A|STOCK": 50})

    none = Life(a_plan({}, {"A": 100}), BY_VOLUME)
    none.cash = Decimal(10_000)
    none.end(none.release()[0], 40)
    none.cash = ZERO
    (nothing,) = none.release()
    assert (nothing.quantity, nothing.reason) == (0, LegReason.INSUFFICIENT_CASH)
    assert none.release() == []


def test_cash_for_what_follows_a_working_part_is_not_spent_by_another_increase() -> None:
    plan = a_plan({"A": -100}, {"A": 100, "B": 100})
    life = Life(plan, BY_VOLUME, A=-100)
    life.cash = Decimal(10_000)

    def release() -> list[tuple[str, int]]:
        conduct = dict.fromkeys(range(len(plan.legs)), life.conduct)
        more = next_releases(life.at, life.releases, life.cash, life.held, NOW, conduct=conduct, phases_together=True)
        life.releases |= {each.signal_id: each for each in more}
        return [(plan.leg(each.leg).instrument.symbol, int(each.quantity)) for each in more]

    assert release() == [("A", 40), ("B", 40)]  # the close of A, and the first of B, for which all cash was found
    for n in range(3):
        (close,) = [each for each in life.alive() if plan.leg(each.leg).is_exit]
        life.end(close, close.quantity)
        if n < 2:
            release()
    life.cash = Decimal(6_000)  # the broker's, less what the working order of B may spend
    assert cash_needed(life.at, life.releases) == 16_000
    assert [each for each in release() if each[1]] == []


def test_cash_for_the_fee_of_each_order_that_follows_is_enough_whatever_the_slices() -> None:
    life = Life(a_plan({}, {"A": 100}, fees=Fees(per_order=Decimal(10)), slices=9, most=30), BY_VOLUME)
    life.cash, bought = Decimal(10_040), []
    for _ in range(4):
        (only,) = life.release()
        life.end(only, only.quantity)
        bought.append(only.quantity)
        life.cash -= only.quantity * 100 + 10
    assert (bought, life.cash, life.at.state) == ([30, 30, 30, 10], 0, PlanState.COMPLETED)


@pytest.mark.parametrize("cash", [None, Decimal(1_000)])
def test_nothing_follows_a_part_of_which_the_broker_has_filled_more_than_was_found_for_all(
    cash: Decimal | None,
) -> None:
    life = Life(a_plan({}, {"A": 100}), BY_VOLUME)
    life.cash = Decimal(5_000)
    life.end(life.release()[0], 50)
    life.cash = cash
    assert [each.quantity for each in life.release()] == [0]
    assert (life.release(), life.at.residuals) == ([], {"A|STOCK": 50})


def test_an_emergency_ends_an_increase_between_two_parts() -> None:
    life = Life(a_plan({}, {"A": 100}), BY_VOLUME)
    life.end(life.release()[0], 40)
    life.conduct = EMERGENCY
    (nothing,) = life.release()
    assert (nothing.quantity, nothing.reason) == (0, LegReason.EMERGENCY_REDUCE_ONLY)
    assert life.release() == []


def test_what_follows_a_part_under_a_stance_without_a_bound_is_no_more_than_the_venue_takes() -> None:
    life = Life(a_plan({}, {"A": 100}, most=50), BY_VOLUME)
    life.end(life.release()[0], 40)
    life.conduct = Conduct(price=Decimal(100))
    seen = []
    for _ in range(2):
        (only,) = life.release()
        seen.append(only.quantity)
        life.end(only, only.quantity)
    assert (seen, life.release()) == ([50, 10], [])


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=4), st.integers(0, 12_000),
       st.integers(1, 300), st.data())  # fmt: skip
def test_the_parts_of_increases_never_cost_more_than_the_cash(
    aims: list[tuple[int, bool]], cash: int, volume: int, data: st.DataObject
) -> None:
    wanted = {f"S{n}": aim for n, (aim, _) in enumerate(aims)}
    fees = Fees(per_order=Decimal(3), rate=Decimal("0.001"))
    life = Life(
        a_plan({}, wanted, fees=fees),
        replace(BY_VOLUME, usual_volume=Decimal(volume)),
    )
    life.cash, spent = Decimal(cash), ZERO
    for _ in range(300):
        made = life.release()
        if not made:
            break
        for each in made:
            if each.quantity:
                filled = each.quantity if data.draw(st.integers(0, 9)) else each.quantity // 2
                spent += filled * 100 * (1 + fees.rate) + fees.per_order
                life.end(each, filled)
        if data.draw(st.booleans()):
            life.cash = Decimal(cash) - spent
    assert spent <= cash
    assert life.at.state is not PlanState.WORKING
    for leg in life.at.legs:
        assert life.at.filled[leg.number] <= leg.quantity


def test_the_cash_that_is_needed_is_that_of_increases_that_wait() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0, "B": 5, "C": 7}), Conduct(), A=100)
    assert cash_needed(life.at, life.releases) == 1200
    guarded = replace(life.plan, settings=replace(life.plan.settings, guard=Decimal("0.1")))
    assert cash_needed(replace(life.at, plan=guarded), {}) == 1320
    future = replace(life.plan.legs[2].instrument, asset_class=AssetClass.FUTURE)
    on_margin = (*life.at.legs[:2], replace(life.at.legs[2], instrument=future))
    assert cash_needed(replace(life.at, legs=on_margin), {}) == 500
    blocked = (*life.at.legs[:2], replace(life.at.legs[2], state=LegState.BLOCKED))
    assert cash_needed(replace(life.at, legs=blocked), {}) == 500
    life.end(life.release()[0], 100)
    life.release()
    assert cash_needed(life.at, life.releases) == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_fills_one_order_of_a_leg_is_alive_and_no_target_is_passed(data: st.DataObject) -> None:
    held, aim = data.draw(st.integers(-60, 60)), data.draw(st.integers(-60, 60))
    most = data.draw(st.sampled_from([None, 7, 40]))
    life = Life(a_plan({"A": held}, {"A": aim}, most=most), Conduct(), A=held)
    for _ in range(60):
        if life.at.state is not PlanState.WORKING:
            break
        stance = data.draw(
            st.sampled_from([Aggressiveness.EMERGENCY, Aggressiveness.EMERGENCY, Aggressiveness.PASSIVE])
        )
        life.conduct = Conduct(stance=stance, price=Decimal(100), is_halted=data.draw(st.integers(0, 9)) == 0)
        life.release()
        alive = life.alive()
        if stance is Aggressiveness.EMERGENCY and all(r.stance is stance for r in alive):
            assert len(alive) <= 1
        for each in alive:
            life.end(each, data.draw(st.integers(0, int(each.quantity))))
            now = life.held["A|STOCK"]
            assert min(held, aim) <= now <= max(held, aim)
    assert life.at.state is not PlanState.WORKING
    assert life.release() == []
    assert life.held["A|STOCK"] + life.at.residuals.get("A|STOCK", ZERO) == aim


# --- rounds ---------------------------------------------------------------------------------------------------------


def a_record(plan: Plan, life: Life | None = None) -> PlanRecord:
    releases = () if life is None else tuple(life.releases.values())
    return PlanRecord(plan=plan, content="c", releases=releases)


def short(**changes: object) -> tuple[PlanRecord, Progress]:
    """A plan for 100 of A and 50 of B sold short, of which 40 and nothing came."""
    life = Life(a_plan({}, {"A": 100, "B": -50}, **changes), Conduct())
    for each in life.release():
        life.end(each, 40 if life.plan.leg(each.leg).instrument.symbol == "A" else 0)
    return a_record(life.plan, life), life.at


@pytest.mark.parametrize(("text", "wish"), [("REPORT", REPORT), ("RETRY 2", RETRY), ("UNWIND", UNWIND)])
def test_a_wish_is_read_as_it_is_written(text: str, wish: OnPartial) -> None:
    assert on_partial_of(text) == wish
    assert str(wish) == text


def test_what_follows_is_the_plans_wish_or_else_the_accounts() -> None:
    record, at = short()
    assert next_round(record, at, REPORT, NOW) is None
    retried = next_round(record, at, RETRY, NOW)
    assert retried is not None
    assert (retried.kind, retried.at) == (RoundKind.RETRY, NOW + RETRY_PAUSE)
    back = next_round(record, at, UNWIND, NOW)
    assert back is not None
    assert (back.kind, back.at) == (RoundKind.UNWIND, NOW)
    own, same = short(on_partial=REPORT)
    assert next_round(own, same, RETRY, NOW) is None


def test_nothing_follows_what_is_superseded_late_over_or_done() -> None:
    record, at = short()
    for changed in (replace(record, superseded_by="other"), replace(record, is_over=True)):
        assert next_round(changed, at, RETRY, NOW) is None
    late, its = short(valid_until=NOW + timedelta(seconds=5))
    assert next_round(late, its, RETRY, NOW + timedelta(seconds=5)) is None
    assert next_round(late, its, RETRY, NOW + timedelta(seconds=4)) is not None
    # What was filled does not stay because the time is over.
    assert next_round(late, its, UNWIND, NOW + timedelta(seconds=5)) is not None
    life = Life(a_plan({}, {"A": 1}), Conduct())
    life.end(life.release()[0], 1)
    for wish in (RETRY, UNWIND):
        assert next_round(a_record(life.plan, life), life.at, wish, NOW) is None


def test_there_is_no_way_back_from_nothing_and_none_from_a_way_back() -> None:
    life = Life(a_plan({}, {"A": 100}), Conduct())
    life.end(life.release()[0], 0)
    assert next_round(a_record(life.plan, life), life.at, UNWIND, NOW) is None
    record, at = short()
    back = replace(record, kind=RoundKind.UNWIND)
    assert next_round(back, at, UNWIND, NOW) is None


def test_retries_are_counted() -> None:
    record, at = short()
    for _ in range(2):
        assert next_round(record, at, RETRY, NOW) is not None
        record = record.with_round(RoundKind.RETRY, record.first_plan)
    assert next_round(record, at, RETRY, NOW) is None


def test_a_retry_aims_at_what_the_plan_aimed_at_where_something_is_missing() -> None:
    until = NOW + timedelta(days=1)
    expected = (ExpectedHolding(key="A|STOCK", quantity=ZERO),)
    life = Life(
        a_plan({}, {"A": 100, "B": -50, "C": 7}, complete=True, valid_until=until, expected_positions=expected),
        Conduct(),
    )
    for each in life.release():
        symbol = life.plan.leg(each.leg).instrument.symbol
        life.end(each, {"A": 40, "B": 0, "C": 7}[symbol])
    again = targets_of_round(a_record(life.plan, life), life.at, RoundKind.RETRY, {})
    assert [(t.instrument.symbol, t.quantity) for t in again.targets] == [("A", 100), ("B", -50)]
    assert (again.complete, again.decision_id, again.expected_positions) == (False, "d-1", ())
    assert again.valid_until == until


def test_a_retry_of_a_weight_that_had_a_price_aims_at_the_quantity_that_it_was() -> None:
    instrument = Instrument(symbol="A")
    wanted = replace(a_plan({}, {"B": 1}).targets, targets=(Target(instrument=instrument, weight=Decimal("0.1")),))
    facts = {instrument.key: InstrumentFacts(instrument=instrument, price=Decimal(10))}
    life = Life(make_plan(wanted, facts, Money(equity=Decimal(1000)), PlanSettings(buffer=ZERO), NOW), Conduct())
    life.end(life.release()[0], 4)
    (again,) = targets_of_round(a_record(life.plan, life), life.at, RoundKind.RETRY, {}).targets
    assert (again.quantity, again.weight) == (10, None)


def test_a_retry_of_a_quantity_without_a_price_asks_for_the_quantity() -> None:
    instrument = Instrument(symbol="A")
    plan = make_plan(
        a_plan({}, {"A": 5}).targets, {instrument.key: InstrumentFacts(instrument=instrument)}, Money(equity=Decimal(100)),
        PlanSettings(max_turnover=Decimal(1)), NOW,
    )  # fmt: skip
    assert plan.legs[0].reason is LegReason.NO_PRICE
    (again,) = targets_of_round(a_record(plan), progress(plan, {}, {}, NOW), RoundKind.RETRY, {}).targets
    assert again.quantity == 5


def test_a_retry_of_a_weight_without_a_price_asks_for_the_weight_again() -> None:
    instrument = Instrument(symbol="A")
    wanted = replace(a_plan({}, {"B": 1}).targets, targets=(Target(instrument=instrument, weight=Decimal("0.1")),))
    plan = make_plan(
        wanted,
        {instrument.key: InstrumentFacts(instrument=instrument)},
        Money(equity=Decimal(100)),
        PlanSettings(),
        NOW,
    )
    at = progress(plan, {}, {}, NOW)
    assert next_round(a_record(plan), at, RETRY, NOW) is not None
    assert targets_of_round(a_record(plan), at, RoundKind.RETRY, {}).targets == wanted.targets


def test_a_weight_without_a_price_is_asked_for_again_also_where_its_holding_has_another_name() -> None:
    named, holding, other = Instrument(symbol="A", exchange="NYSE"), Instrument(symbol="A"), Instrument(symbol="B")
    parts = (Target(instrument=named, weight=Decimal("0.1")), Target(instrument=other, weight=Decimal("0.2")))
    wanted = replace(a_plan({}, {"B": 1}).targets, targets=parts)
    facts = {
        named.key: InstrumentFacts(instrument=holding, held=Decimal(5)),
        other.key: InstrumentFacts(instrument=other),
    }
    plan = make_plan(wanted, facts, Money(equity=Decimal(100)), PlanSettings(), NOW)
    again = targets_of_round(a_record(plan), progress(plan, {}, {}, NOW), RoundKind.RETRY, {})
    assert again.targets == wanted.targets


def test_the_way_back_aims_at_what_was_held() -> None:
    life = Life(
        a_plan({"A": 30, "B": 5}, {"A": -20, "B": 9}, valid_until=NOW + timedelta(days=1)), Conduct(), A=30, B=5
    )
    life.end(life.release()[0], 30)
    for each in life.release():
        life.end(each, 7 if life.plan.leg(each.leg).instrument.symbol == "A" else 0)
    back = targets_of_round(
        a_record(life.plan, life), life.at, RoundKind.UNWIND, {"A|STOCK": Decimal(-7), "B|STOCK": Decimal(5)}
    )
    assert [(t.instrument.symbol, t.quantity) for t in back.targets] == [("A", 30)]
    assert back.valid_until is None


@pytest.mark.parametrize(("before", "target", "filled", "held", "aim"), [
    (0, 100, ["20"], "20", "0"),  # as the plan left it
    (0, 100, ["20"], "120", "100"),  # others have bought since: theirs is left alone
    (0, 100, ["20"], "5", "0"),  # others have sold of it: the way back opens no short position
    (0, 100, ["20"], "0", "0"),  # others have sold all of it
    (0, 100, ["20"], "-30", "-50"),  # others have gone short by more
    (0, 100, ["0.2"], "0.9", "0.7"),
    (30, -20, ["30", "7"], "-7", "30"),
    (30, -20, ["30", "7"], "-20", "17"),  # others have sold since
    (30, -20, ["30", "7"], "0", "0"),  # others have bought it back: more than was held before opens nothing
    (30, -20, ["30", "7"], "5", "42"),
    (30, 90, ["20"], "0", "0"),  # others have closed it: there is no way back to the other side
    (1, -1, ["0.5", "0"], "0", "0.5"),
])  # fmt: skip
def test_the_way_back_trades_back_what_filled_and_nothing_else(
    before: int, target: int, filled: list[str], held: str, aim: str
) -> None:
    plan = a_plan({"A": before} if before else {}, {"A": target})
    at = replace(progress(plan, {}, {}, NOW), filled=tuple(map(Decimal, filled)))
    (back,) = targets_of_round(a_record(plan), at, RoundKind.UNWIND, {"A|STOCK": Decimal(held)}).targets
    assert back.quantity == Decimal(aim)


def test_a_way_back_is_gone_to_its_end_only_when_it_has_ended_and_nothing_is_left() -> None:
    record, first = short()
    back = record.with_round(RoundKind.UNWIND, record.first_plan)
    done = Life(a_plan({"A": 40}, {"A": 0}), Conduct(), A=40)
    done.end(done.release()[0], 40)
    assert ended(back, [first, done.at]).is_unwound is True
    rest = replace(done.at, filled=(Decimal(39),))
    for last in (rest, replace(done.at, state=PlanState.FAILED), replace(rest, state=PlanState.PARTIAL)):
        assert (ended(back, [first, last]).is_unwound, ended(back, [first, last]).state) == (False, PlanState.PARTIAL)


def test_what_filled_in_any_leg_of_any_round_makes_it_partial() -> None:
    record, first = short()
    again = Life(a_plan({"A": 40}, {"A": 100}), Conduct(), A=40)
    again.end(again.release()[0], 0)
    assert again.at.state is PlanState.FAILED
    assert ended(record.with_round(RoundKind.RETRY, record.first_plan), [first, again.at]).state is PlanState.PARTIAL


def test_a_plan_at_work_is_followed_by_nothing() -> None:
    life = Life(a_plan({}, {"A": 100}), Conduct())
    life.release()
    assert next_round(a_record(life.plan, life), life.at, RETRY, NOW) is None


def test_what_is_done_beside_what_was_left_on_purpose_starts_no_other_round() -> None:
    life = Life(a_plan({}, {"A": 100, "B": 50}), Conduct())
    for each in life.release():
        life.end(each, 100 if life.plan.leg(each.leg).instrument.symbol == "A" else 0)
    left = replace(life.at, legs=(life.at.legs[0], replace(life.at.legs[1], reason=LegReason.HALTED)))
    assert (left.legs[0].state, left.state) == (LegState.DONE, PlanState.PARTIAL)
    assert next_round(a_record(life.plan, life), left, RETRY, NOW) is None
    both = a_record(life.plan, life)
    assert [t.instrument.symbol for t in targets_of_round(both, left, RoundKind.RETRY, {}).targets] == []


def test_the_way_back_is_planned_whole_and_a_retry_as_the_account_plans() -> None:
    usual = PlanSettings(band=Decimal("0.1"), max_turnover=Decimal(1), slices=3)
    for kind in (RoundKind.RETRY, RoundKind.TARGETS):
        assert settings_of_round(usual, kind) == usual
    assert settings_of_round(usual, RoundKind.UNWIND) == PlanSettings(slices=3, is_whole=True)


def test_only_a_retry_waits_for_an_equity_and_only_for_one_that_was_known() -> None:
    record, _ = short()
    weight = Target(instrument=Instrument(symbol="A"), weight=Decimal("0.1"))
    targets, usual = replace(record.plan.targets, targets=(weight,)), PlanSettings()
    assert wants_equity(record, RoundKind.RETRY, targets, usual, Money())
    assert not wants_equity(record, RoundKind.RETRY, targets, usual, Money(equity=Decimal(1)))
    assert not wants_equity(record, RoundKind.UNWIND, targets, usual, Money())
    without = replace(record, plan=replace(record.plan, money=Money()))
    assert not wants_equity(without, RoundKind.RETRY, targets, usual, Money())


def test_a_retry_of_quantities_waits_for_an_equity_only_where_a_band_or_the_turnover_needs_it() -> None:
    record, at = short()
    targets = targets_of_round(record, at, RoundKind.RETRY, {})
    for own, waits in (
        (PlanSettings(), False),
        (PlanSettings(band=Decimal("0.001")), True),
        (PlanSettings(max_turnover=Decimal(1)), True),
    ):
        assert wants_equity(record, RoundKind.RETRY, targets, own, Money()) is waits


def test_an_instrument_that_is_blocked_and_fits_starts_no_other_round() -> None:
    """Nothing of it is missing: what was bought whole beside it is no half of anything."""
    life = Life(a_plan({"B": 50}, {"A": 100}), Conduct(), B=50)
    facts = {
        "A|STOCK": InstrumentFacts(instrument=Instrument(symbol="A"), price=Decimal(100)),
        "B|STOCK": InstrumentFacts(instrument=Instrument(symbol="B"), held=Decimal(50), blocked="in doubt"),
    }
    wanted = a_plan({}, {"A": 100, "B": 50}).targets
    life.plan = make_plan(wanted, facts, Money(), PlanSettings(), NOW)
    for each in life.release():
        life.end(each, each.quantity)
    assert [(leg.state, leg.wanted) for leg in life.at.legs] == [(LegState.DONE, 100), (LegState.BLOCKED, 0)]
    assert life.at.state is PlanState.PARTIAL
    for wish in (RETRY, UNWIND):
        assert next_round(a_record(life.plan, life), life.at, wish, NOW) is None


@pytest.mark.parametrize("reason", [LegReason.TURNOVER, LegReason.HALTED, LegReason.IN_BAND, LegReason.DUST])
def test_what_was_left_on_purpose_starts_no_other_round(reason: LegReason) -> None:
    record, at = short()
    left = replace(at, legs=tuple(replace(leg, reason=reason) for leg in at.legs))
    assert next_round(record, left, RETRY, NOW) is None
    assert next_round(record, left, UNWIND, NOW) is None


def test_rounds_have_names_of_their_own_and_are_read_as_they_were_written() -> None:
    record, _ = short()
    second = record.with_round(RoundKind.RETRY, record.first_plan)
    third = second.with_round(RoundKind.UNWIND, record.first_plan)
    base = record.plan_id
    assert [each.plan.plan_id for each in third.rounds] == [base, f"{base}.1", f"{base}.2"]
    assert [each.kind for each in third.rounds] == [RoundKind.TARGETS, RoundKind.RETRY, RoundKind.UNWIND]
    assert (third.plan_id, third.version, third.releases) == (base, 3, ())
    assert plan_from_document(plan_to_document(third)) == third


def test_a_release_of_before_is_read_as_one_that_was_not_replaced() -> None:
    record, _ = short()
    document = plan_to_document(record)
    for release in document["record"]["releases"]:
        del release["is_replaced"]
    assert plan_from_document(document) == record


def test_what_a_decision_has_come_to_over_its_rounds() -> None:
    record, first = short()
    assert (ended(record, [first]).state, ended(record, [first]).residuals) == (
        PlanState.PARTIAL,
        {"A|STOCK": 60, "B|STOCK": -50},
    )
    again = Life(a_plan({"A": 40}, {"A": 100, "B": -50}), Conduct(), A=40)
    for each in again.release():
        again.end(each, each.quantity)
    retried = record.with_round(RoundKind.RETRY, again.plan)
    assert (ended(retried, [first, again.at]).state, ended(retried, [first, again.at]).residuals) == (
        PlanState.COMPLETED,
        {},
    )
    newer = replace(retried, superseded_by="other")
    assert ended(newer, [first, again.at]).state is PlanState.SUPERSEDED
    assert ended(newer, [first, again.at]).residuals == {}


@pytest.mark.parametrize(("before", "after", "state"), [
    (40, 0, PlanState.PARTIAL), (0, 40, PlanState.PARTIAL), (0, 0, PlanState.FAILED), (0, 100, PlanState.COMPLETED),
])  # fmt: skip
def test_how_a_decision_has_ended_counts_what_any_round_has_filled(before: int, after: int, state: PlanState) -> None:
    one, other = Life(a_plan({}, {"A": 100}), Conduct()), Life(a_plan({}, {"A": 100}), Conduct())
    one.end(one.release()[0], before)
    other.end(other.release()[0], after)
    record = a_record(one.plan, one).with_round(RoundKind.RETRY, other.plan)
    assert ended(record, [one.at, other.at]).state is state


@pytest.mark.parametrize(("sold", "state", "is_back", "left"), [
    (40, PlanState.FAILED, True, {"A|STOCK": 100, "B|STOCK": -50}),
    (15, PlanState.PARTIAL, False, {"A|STOCK": 75, "B|STOCK": -50}),
])  # fmt: skip
def test_what_is_left_after_a_way_back(sold: int, state: PlanState, is_back: bool, left: dict[str, int]) -> None:
    record, first = short()
    back = Life(a_plan({"A": 40}, {"A": 0}), Conduct(), A=40)
    back.end(back.release()[0], sold)
    unwound = record.with_round(RoundKind.UNWIND, back.plan)
    end = ended(unwound, [first, back.at])
    assert (end.state, end.is_unwound, end.residuals) == (state, is_back, left)
    words = reasons_not_reached(unwound, [first, back.at])
    assert words[:2] == ["A BUY: SHORT", "B SELL: SHORT"]
    assert len(words) == (2 if is_back else 3)


def test_exposure_is_what_is_reached_against_what_was_wanted() -> None:
    _, at = short()
    told = exposure(at, at.residuals)
    assert (told.net, told.gross, told.target_net, told.target_gross) == (4000, 4000, 5000, 15000)
    blind = replace(at, legs=tuple(replace(leg, price=None) for leg in at.legs[:1]) + at.legs[1:])
    assert exposure(blind, at.residuals).unpriced == ("A|STOCK",)
    points = [replace(leg, unit_value=unit) for leg, unit in zip(at.legs, (Decimal(50), None), strict=True)]
    told = exposure(replace(at, legs=tuple(points)), at.residuals)
    assert (told.net, told.target_net, told.unpriced) == (200_000, 500_000, ("B|STOCK",))


def test_people_are_told_the_reason_of_each_leg_that_was_not_done_and_what_was_said_of_it() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0, "B": 5}), EMERGENCY, A=100)
    life.end(life.release()[0], rejection="BROKER_REJECTED: too far")
    for _ in range(2):
        life.end(life.release()[0], 10)
    life.release()
    life.release()
    assert reasons_not_reached(a_record(life.plan, life), [life.at]) == [
        "A SELL: SHORT (OUTSIDE_COLLAR), BROKER_REJECTED: too far",
        "B BUY: SKIPPED (EMERGENCY_REDUCE_ONLY)",
    ]


# --- messages -------------------------------------------------------------------------------------------------------

LIST = (
    '{"decision_id": "d", "account_id": "a", "strategy_id": "s", "as_of": "2026-01-02T00:00:00Z", "mode": "PRODUCTION",'
    ' "targets": [{"symbol": "AAPL", "quantity": 1}]'
)


def test_a_list_without_the_newer_fields_has_the_content_that_earlier_versions_stored() -> None:
    plain, wish = parse_targets(LIST + "}"), parse_targets(LIST + ', "on_partial": "UNWIND"}')
    assert isinstance(plain, TargetPositions)
    assert isinstance(wish, TargetPositions)
    assert content_of(plain) == "3397404d8ca034c9499edae3005d0df8b19358e487de0830b4e6ad9604c7a68b"
    assert content_of(wish) != content_of(plain)


def test_an_order_says_how_it_is_sent() -> None:
    life = Life(a_plan({"A": 100}, {"A": 0}), EMERGENCY, A=100)
    text = order_of(life.plan, life.release()[0]).decode()
    for each in ('"order_type": "LIMIT"', '"limit_price": "99.000"', '"tif": "DAY"', '"timeout_seconds": 15'):
        assert each in text
    plain = Life(a_plan({"A": 100}, {"A": 0}), Conduct(), A=100)
    text = order_of(plain.plan, plain.release()[0]).decode()
    assert '"order_type": "MARKET"' in text
    assert "limit_price" not in text
    assert "timeout_seconds" not in text
    assert plain.plan.leg(0).phase is Phase.REDUCE
