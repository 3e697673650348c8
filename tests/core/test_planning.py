"""Targets to orders: worked examples of every rule, and what holds for every list of targets and every sequence of fills."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import AssetClass, Instrument, OptionRight, Side
from execution_service.core.planning.facts import Fees, InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import (
    AHEAD,
    MOST_ORDERS,
    Leg,
    LegReason,
    LegState,
    Phase,
    Plan,
    make_plan,
    refusals_of_list,
)
from execution_service.core.planning.progress import (
    Outcome,
    PlanState,
    Progress,
    Release,
    cash_needed,
    next_releases,
    progress,
)
from execution_service.core.planning.quantities import Increase, affordable, slices_of, whole_lots
from execution_service.core.planning.targets import (
    Aggressiveness,
    ExpectedHolding,
    Mode,
    PlanRefused,
    Refusal,
    RefusalCode,
    Target,
    TargetPositions,
    on_partial_of,
    plan_id_of,
)
from tests.builders import NOW
from tests.growth import LINEAR, calls

ZERO = Decimal(0)
PLAIN = PlanSettings(buffer=ZERO, guard=ZERO)


def D(text: str | int) -> Decimal:
    return Decimal(text)


def instrument(symbol: str) -> Instrument:
    return Instrument(symbol=symbol)


def key(symbol: str) -> str:
    return instrument(symbol).key


def facts(symbol: str = "A", **changes: Any) -> InstrumentFacts:
    given_facts: dict[str, Any] = {"instrument": instrument(symbol), "price": D(100)}
    return InstrumentFacts(**given_facts | changes)


def targets(*wanted: tuple[str, str | int], **changes: Any) -> TargetPositions:
    known: dict[str, Any] = {
        "decision_id": "d-1",
        "account_id": "acc",
        "strategy_id": "growth",
        "as_of": NOW,
        "mode": Mode.PRODUCTION,
        "targets": tuple(Target(instrument=instrument(symbol), quantity=D(q)) for symbol, q in wanted),
    }
    return TargetPositions(**known | changes)


def weights(*wanted: tuple[str, str], **changes: Any) -> TargetPositions:
    these = tuple(Target(instrument=instrument(symbol), weight=D(w)) for symbol, w in wanted)
    return targets(**{"targets": these} | changes)


def planned(
    wanted: TargetPositions, *known: InstrumentFacts, equity: str | int = 100_000, settings: PlanSettings = PLAIN
) -> Plan:
    return make_plan(wanted, {each.instrument.key: each for each in known}, Money(equity=D(equity)), settings, NOW)


def the_leg(plan: Plan) -> Leg:
    (leg,) = plan.legs
    return leg


def orders(plan: Plan) -> list[tuple[str, Side, Decimal]]:
    return [(leg.instrument.symbol, leg.side, leg.quantity) for leg in plan.in_sequence() if leg.quantity]


class Run:
    """A plan at work: what is released, filled and held."""

    def __init__(self, plan: Plan, cash: str | int | None, **held: str | int) -> None:
        self.plan = plan
        self.cash = None if cash is None else D(cash)
        self.held = {key(symbol): D(q) for symbol, q in held.items()}
        self.releases: dict[str, Release] = {}
        self.outcomes: dict[str, Outcome] = {}

    @property
    def now(self) -> Progress:
        return progress(self.plan, self.releases, self.outcomes, NOW)

    def release(self) -> list[tuple[str, Side, Decimal]]:
        more = next_releases(self.now, self.releases, self.cash, self.held, NOW)
        assert not {each.signal_id for each in more} & set(self.releases)
        self.releases |= {each.signal_id: each for each in more}
        legs = self.plan.legs
        return [(legs[r.leg].instrument.symbol, legs[r.leg].side, r.quantity) for r in more if r.quantity]

    def end(self, symbol: str, filled: str | int, **how: Any) -> None:
        """The newest order of the symbol ends with so much filled."""
        open_ones = [r for r in self.releases.values() if r.signal_id not in self.outcomes and r.quantity]
        mine = [r for r in open_ones if self.plan.legs[r.leg].instrument.symbol == symbol]
        leg = self.plan.legs[mine[-1].leg]
        self.outcomes[mine[-1].signal_id] = Outcome(filled=D(filled), is_final=True, **how)
        self.held[key(symbol)] = self.held.get(key(symbol), ZERO) + D(filled) * leg.side.sign


# --- quantities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lot", "quantity"), [(1, 299), (100, 200)])
def test_a_weight_is_rounded_towards_zero_to_the_lot(lot: int, quantity: int) -> None:
    """100,000 less a buffer of 0.25 %, a tenth of it, at 33.33: 299.28."""
    plan = planned(weights(("A", "0.10")), facts(price=D("33.33"), lot=D(lot)), settings=PlanSettings())
    assert orders(plan) == [("A", Side.BUY, quantity)]


def test_a_short_weight_is_rounded_towards_zero_too() -> None:
    plan = planned(weights(("A", "-0.10")), facts(price=D("33.33")), settings=PlanSettings())
    assert orders(plan) == [("A", Side.SELL, 299)]


def test_a_weight_counts_multiplier_and_exchange_rate() -> None:
    assert orders(planned(weights(("A", "0.5")), facts(price=D(10), unit_value=D("50")))) == [("A", Side.BUY, 100)]


@pytest.mark.parametrize(("total", "count", "lot", "parts"), [
    ("10", 3, "1", ["4", "3", "3"]),
    ("2", 5, "1", ["1", "1"]),
    ("1.0", 3, "0.1", ["0.4", "0.3", "0.3"]),
    ("101", 1, "100", ["101"]),
    ("0", 3, "1", []),
])  # fmt: skip
def test_slices_are_in_lots_and_add_up(total: str, count: int, lot: str, parts: list[str]) -> None:
    assert list(slices_of(D(total), count, D(lot))) == [D(part) for part in parts]


@given(
    st.integers(0, 2_000), st.integers(1, 50), st.sampled_from(["1", "0.1", "0.001", "25"]),
    st.one_of(st.none(), st.integers(1, 10**4)),
)  # fmt: skip
def test_slices_always_add_up_and_keep_to_the_largest_order(units: int, count: int, lot: str, most: int | None) -> None:
    step = D(lot)
    largest = None if most is None else most * step
    parts = slices_of(units * step, count, step, largest)
    assert sum(parts, ZERO) == units * step
    assert all(part > 0 and part % step == 0 for part in parts)
    assert largest is None or all(part <= largest for part in parts)
    assert len(parts) <= max(count, -(-units // (most or units or 1)))


def test_more_than_the_largest_order_is_sent_as_several() -> None:
    assert the_leg(planned(targets(("A", 250)), facts(max_quantity=D(100)))).slices == (84, 83, 83)


def test_three_tenths_at_a_step_of_a_tenth_are_three_tenths() -> None:
    assert whole_lots(D("0.3"), D("0.1")) == D("0.3")
    assert orders(planned(targets(("A", "0.3")), facts(lot=D("0.1")))) == [("A", Side.BUY, D("0.3"))]


# --- what is traded -------------------------------------------------------------------------------------------------


def test_a_small_change_within_the_band_is_left_and_said() -> None:
    plan = planned(targets(("A", 100)), facts(held=D(101), price=D(50)), settings=replace(PLAIN, band=D("0.001")))
    leg = the_leg(plan)
    assert (leg.state, leg.reason, orders(plan)) == (LegState.SKIPPED, LegReason.IN_BAND, [])


def test_the_band_never_stops_a_close() -> None:
    plan = planned(targets(("A", 0)), facts(held=D(1), price=D(50)), settings=replace(PLAIN, band=D("0.001")))
    assert orders(plan) == [("A", Side.SELL, 1)]


def test_the_band_is_measured_against_what_is_held_so_that_drift_does_not_add_up() -> None:
    settings = replace(PLAIN, band=D("0.001"))
    assert orders(planned(targets(("A", 102)), facts(held=D(100), price=D(49)), settings=settings)) == []
    assert orders(planned(targets(("A", 103)), facts(held=D(100), price=D(49)), settings=settings)) == [
        ("A", Side.BUY, 3)
    ]


def test_a_close_is_exactly_the_holding_whatever_the_lot() -> None:
    plan = planned(targets(("A", 0)), facts(held=D("150.5"), lot=D(100), min_quantity=D(200), min_notional=D(10**6)))
    assert orders(plan) == [("A", Side.SELL, D("150.5"))]


def test_dust_is_left_and_named() -> None:
    leg = the_leg(planned(targets(("A", 100)), facts(held=D(150), lot=D(100))))
    assert (leg.reason, leg.wanted, leg.quantity) == (LegReason.DUST, 50, 0)
    assert (
        the_leg(planned(targets(("A", 1)), facts(min_notional=D(101)))).note
        == "worth 100, less than the smallest order, 101"
    )


@pytest.mark.parametrize(("change", "note"), [
    ({"min_quantity": D(10)}, None),
    ({"min_quantity": D(11)}, "10 is less than the smallest order, 11"),
    ({"lot": D(20), "min_quantity": D(5)}, "10 is less than the smallest order, 20"),
    ({"min_notional": D(1000)}, None),
    ({"min_notional": D(1001)}, "worth 1000, less than the smallest order, 1001"),
])  # fmt: skip
def test_an_order_of_the_smallest_size_is_one(change: dict[str, Any], note: str | None) -> None:
    leg = the_leg(planned(targets(("A", 10)), facts(**change)))
    assert (leg.note or None, bool(leg.quantity)) == (note, note is None)


def test_a_change_that_is_worth_the_band_is_traded() -> None:
    assert orders(planned(targets(("A", 10)), facts(), settings=replace(PLAIN, band=D("0.01")))) == [
        ("A", Side.BUY, 10)
    ]


def test_without_a_price_a_change_is_traded_but_for_an_increase_under_a_limit_of_turnover() -> None:
    known = facts("A", held=D(10), price=None), facts("B", price=None)
    limited = replace(PLAIN, max_turnover=D(1))
    for rules, wanted in ((PLAIN, [("A", 4), ("B", 5)]), (limited, [("A", 4)])):
        plan = planned(targets(("A", 6), ("B", 5)), *known, settings=rules)
        assert [(symbol, int(quantity)) for symbol, _, quantity in orders(plan)] == wanted
    assert orders(planned(targets(("A", 6)), facts("A", held=D(10)), settings=limited)) == [("A", Side.SELL, 4)]


def test_what_is_not_mentioned_is_left_alone() -> None:
    assert orders(planned(targets(("A", 10)), facts("A"), facts("B", held=D(5)))) == [("A", Side.BUY, 10)]


def test_a_complete_list_closes_what_it_does_not_mention() -> None:
    plan = planned(targets(("A", 10), complete=True), facts("A"), facts("B", held=D(5)), facts("C"))
    assert orders(plan) == [("B", Side.SELL, 5), ("A", Side.BUY, 10)]


def test_crossing_zero_is_a_close_and_an_opening_after_it() -> None:
    close, opening = planned(targets(("A", -200)), facts(held=D(300))).legs
    assert (close.side, close.quantity, close.phase, close.is_exit) == (Side.SELL, 300, Phase.REDUCE, True)
    assert (opening.side, opening.quantity, opening.phase, opening.after) == (
        Side.SELL,
        200,
        Phase.INCREASE,
        close.number,
    )


def test_a_close_that_ends_short_opens_nothing() -> None:
    run = Run(planned(targets(("A", -200)), facts(held=D(300))), None, A=300)
    assert run.release() == [("A", Side.SELL, 300)]
    assert run.release() == []
    run.end("A", 280)
    assert run.release() == []
    assert [leg.reason for leg in run.now.legs] == [None, LegReason.CLOSE_INCOMPLETE]
    assert (run.now.state, run.now.residuals) == (PlanState.PARTIAL, {key("A"): -220})


def test_an_opening_waits_until_the_ledger_is_flat() -> None:
    run = Run(planned(targets(("A", -200)), facts(held=D(300))), None, A=300)
    run.release()
    run.end("A", 300)
    run.held[key("A")] = D(300)
    assert run.release() == []
    run.held[key("A")] = ZERO
    assert run.release() == [("A", Side.SELL, 200)]
    run.end("A", 200)
    assert (run.now.state, run.now.residuals) == (PlanState.COMPLETED, {})


def test_increases_wait_for_the_reductions_and_spend_what_those_brought() -> None:
    plan = planned(
        targets(("A", 0), ("B", 100)), facts("A", held=D(100), price=D(10)), facts("B", price=D(10)),
        settings=replace(PLAIN, fees=Fees(per_order=D(1))),
    )  # fmt: skip
    run = Run(plan, 0, A=100)
    assert run.release() == [("A", Side.SELL, 100)]
    assert run.release() == []
    run.end("A", 60)
    run.cash = D(599)
    assert run.release() == [("B", Side.BUY, 59)]
    run.end("B", 59)
    assert (run.now.state, run.now.residuals) == (PlanState.PARTIAL, {key("A"): -40, key("B"): 41})


def test_open_orders_of_our_own_count_as_held() -> None:
    assert orders(planned(targets(("A", 100)), facts(held=D(40), working=D(60)))) == []
    assert orders(planned(targets(("A", 100)), facts(held=D(50)))) == [("A", Side.BUY, 50)]


def test_an_open_order_that_goes_the_other_way_holds_its_instrument_alone_up() -> None:
    plan = planned(targets(("A", 0), ("B", 0)), facts("A", held=D(10), working=D(20)), facts("B", held=D(1)))
    assert orders(plan) == [("B", Side.SELL, 1)]
    assert (plan.legs[0].state, plan.legs[0].reason) == (LegState.BLOCKED, LegReason.OPEN_ORDERS)


def test_an_instrument_in_doubt_blocks_itself_only() -> None:
    plan = planned(targets(("A", 5), ("B", 5)), facts("A", blocked="an order is in doubt"), facts("B"))
    assert orders(plan) == [("B", Side.BUY, 5)]
    assert (plan.legs[0].state, plan.legs[0].note) == (LegState.BLOCKED, "an order is in doubt")


def test_a_weight_without_a_price_has_no_leg() -> None:
    plan = planned(weights(("A", "0.1"), ("B", "0.1")), facts("A", price=None), facts("B"))
    assert orders(plan) == [("B", Side.BUY, 100)]
    assert (plan.legs[0].state, plan.legs[0].reason) == (LegState.BLOCKED, LegReason.NO_PRICE)


def test_what_a_leg_is_worth_counts_the_value_of_a_point() -> None:
    assert the_leg(planned(targets(("A", 3)), facts(unit_value=D(50)))).notional == 15_000
    assert the_leg(planned(targets(("A", 3)), facts(unit_value=None))).notional == 0
    assert the_leg(planned(targets(("A", 3)), facts(price=None))).notional == 0


def test_orders_of_one_value_go_by_their_instruments() -> None:
    plan = planned(targets(("C", 1), ("A", 1), ("B", 1)), facts("A"), facts("B"), facts("C"))
    assert [symbol for symbol, _, _ in orders(plan)] == ["A", "B", "C"]


@pytest.mark.parametrize("kind", AssetClass)
def test_only_of_some_kinds_an_increase_costs_a_margin(kind: AssetClass) -> None:
    named = Instrument(symbol="A", asset_class=kind)
    wanted = targets(targets=(Target(instrument=named, quantity=D(1)),))
    leg = the_leg(planned(wanted, InstrumentFacts(instrument=named, price=D(1))))
    assert leg.is_paid_in_full is (kind not in (AssetClass.FUTURE, AssetClass.FOREX, AssetClass.CFD))


def test_the_stance_of_an_instrument_counts_before_the_lists() -> None:
    plan = planned(targets(("A", 5), ("B", 5)), facts("A", stance=Aggressiveness.EMERGENCY), facts("B"))
    assert orders(plan) == [("B", Side.BUY, 5)]
    hurried = targets(("A", 5), ("B", 5), aggressiveness=Aggressiveness.EMERGENCY)
    assert orders(planned(hurried, facts("A", stance=Aggressiveness.NORMAL), facts("B"))) == [("A", Side.BUY, 5)]


def test_a_complete_list_knows_what_may_still_be_bought_and_leaves_what_is_flat() -> None:
    plan = planned(
        targets(("A", 1), complete=True), facts("A"), facts("B", working=D(5)), facts("C", blocked="books differ")
    )
    assert [(leg.instrument.symbol, leg.reason) for leg in plan.legs] == [("A", None), ("B", LegReason.OPEN_ORDERS)]


def test_a_weight_of_zero_closes_without_a_price() -> None:
    assert orders(planned(weights(("A", "0")), facts("A", price=None, held=D(7)))) == [("A", Side.SELL, 7)]


def test_in_an_emergency_nothing_grows_and_no_band_holds_a_reduction() -> None:
    plan = planned(
        targets(("A", 99), ("B", 10), aggressiveness=Aggressiveness.EMERGENCY), facts("A", held=D(100)), facts("B"),
        settings=replace(PLAIN, band=D("0.5"), max_turnover=ZERO),
    )  # fmt: skip
    assert orders(plan) == [("A", Side.SELL, 1)]
    assert plan.legs[1].reason is LegReason.EMERGENCY_REDUCE_ONLY


def test_turnover_makes_increases_smaller_and_no_reduction() -> None:
    plan = planned(
        targets(("A", 0), ("B", 100), ("C", 300)), facts("A", held=D(100)), facts("B"), facts("C"),
        settings=replace(PLAIN, max_turnover=D("0.3")),
    )  # fmt: skip
    assert orders(plan) == [("A", Side.SELL, 100), ("C", Side.BUY, 150), ("B", Side.BUY, 50)]
    assert plan.legs[1].reason is LegReason.TURNOVER


@pytest.mark.parametrize(("limit", "orders_of", "reason"), [
    ("0.15", {"A": 100, "B": 50}, None),  # exactly what is wanted
    ("1", {"A": 100, "B": 50}, None),
    ("0.03", {"A": 20, "B": 10}, LegReason.TURNOVER),
])  # fmt: skip
def test_a_limit_of_turnover_scales_only_what_is_more(
    limit: str, orders_of: dict[str, int], reason: LegReason | None
) -> None:
    plan = planned(
        targets(("A", 100), ("B", 50)), facts("A"), facts("B"),
        settings=replace(PLAIN, max_turnover=D(limit), slices=2), equity=100_000,
    )  # fmt: skip
    assert {symbol: quantity for symbol, _, quantity in orders(plan)} == orders_of
    assert {leg.reason for leg in plan.legs} == {reason}
    assert [sum(leg.slices) for leg in plan.legs] == [leg.quantity for leg in plan.legs]


@pytest.mark.parametrize(("change", "is_sent"), [
    ({"min_quantity": D(10)}, True), ({"min_quantity": D(11)}, False), ({"lot": D(20)}, False),
    ({"min_notional": D(1000)}, True), ({"min_notional": D(1001)}, False),
])  # fmt: skip
def test_what_the_limit_of_turnover_makes_too_small_is_left_for_that_reason(
    change: dict[str, Any], is_sent: bool
) -> None:
    # Of 100 a tenth.
    leg = the_leg(planned(targets(("A", 100)), facts(**change), settings=replace(PLAIN, max_turnover=D("0.01"))))
    assert (leg.reason, leg.note) == (LegReason.TURNOVER, "the plan may trade 1000.00 in all")
    if is_sent:
        assert (leg.state, leg.quantity, leg.slices) == (LegState.WAITING, 10, (10,))
    else:
        assert (leg.state, leg.quantity, leg.slices) == (LegState.SKIPPED, 0, ())


def test_a_limit_of_turnover_knows_a_holding_by_its_own_name() -> None:
    listed = Instrument(symbol="A", exchange="NYSE")
    wanted = targets(targets=(Target(instrument=listed, quantity=D(100)),))
    known = {listed.key: facts("A", held=D(10))}
    plan = make_plan(wanted, known, Money(equity=D(100_000)), replace(PLAIN, max_turnover=D("0.01")), NOW)
    assert orders(plan) == [("A", Side.BUY, 10)]


def test_what_is_too_small_anyway_keeps_its_own_reason_under_a_limit_of_turnover() -> None:
    plan = planned(
        targets(("A", 5), ("B", 100)),
        facts("A", lot=D(10)),
        facts("B"),
        settings=replace(PLAIN, max_turnover=D("0.01")),
    )
    assert [leg.reason for leg in plan.legs] == [LegReason.DUST, LegReason.TURNOVER]


def test_the_largest_reduction_goes_first() -> None:
    plan = planned(targets(("A", 0), ("B", 0), ("C", 9)), facts("A", held=D(1)), facts("B", held=D(-2)), facts("C"))
    assert orders(plan) == [("B", Side.BUY, 2), ("A", Side.SELL, 1), ("C", Side.BUY, 9)]


# --- refused as a whole ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "codes"), [
    (targets(), [RefusalCode.EMPTY]),
    (targets(complete=True), [RefusalCode.FLATTEN_NOT_ALLOWED]),
    (targets(("A", 0), complete=True), [RefusalCode.FLATTEN_NOT_ALLOWED]),
    (targets(("A", 1), ("A", 2)), [RefusalCode.DUPLICATE_INSTRUMENT]),
    (targets(("Z", 1)), [RefusalCode.UNKNOWN_INSTRUMENT]),
    (weights(("A", "0.6"), ("B", "-0.5")), [RefusalCode.WEIGHTS_OVER_LIMIT]),
    (targets(("A", 1), valid_until=NOW), [RefusalCode.NO_LONGER_VALID]),
    (targets(("A", 1), expected_positions=(ExpectedHolding(key=key("A"), quantity=D(9)),)), [RefusalCode.STALE_POSITIONS]),
    (targets(targets=(Target(instrument=instrument("A")),)), [RefusalCode.QUANTITY_OR_WEIGHT]),
    (weights(("Z", "2")), [RefusalCode.WEIGHTS_OVER_LIMIT, RefusalCode.UNKNOWN_INSTRUMENT]),
])  # fmt: skip
def test_a_bad_list_is_refused_with_every_reason(wanted: TargetPositions, codes: list[RefusalCode]) -> None:
    with pytest.raises(PlanRefused) as refused:
        planned(wanted, facts("A"), facts("B"))
    assert [each.code for each in refused.value.refusals] == codes


@pytest.mark.parametrize("equity", [None, "0", "-1"])
def test_weights_need_equity(equity: str | None) -> None:
    money = Money(equity=None if equity is None else D(equity))
    both = replace(weights(("A", "0.1")), targets=(*weights(("A", "0.1")).targets, *targets(("B", 1)).targets))
    with pytest.raises(PlanRefused, match="NO_EQUITY"):
        make_plan(both, {key("A"): facts(), key("B"): facts("B")}, money, PLAIN, NOW)
    assert make_plan(weights(("A", "0")), {key("A"): facts(held=D(1))}, money, PLAIN, NOW).legs


def test_a_little_equity_is_one() -> None:
    assert orders(planned(weights(("A", "1")), facts(price=D("0.01")), equity="0.5")) == [("A", Side.BUY, 50)]


@pytest.mark.parametrize(("why", "words"), [
    ("its broker does not trade this kind", "A|STOCK is not known: its broker does not trade this kind"),
    ("", "A|STOCK is not known"),
])  # fmt: skip
def test_an_instrument_that_is_not_traded_is_refused_with_the_reason(why: str, words: str) -> None:
    with pytest.raises(PlanRefused) as caught:
        planned(targets(("A", 1)), facts(unknown=why))
    assert [each.message for each in caught.value.refusals] == [words]


def test_what_was_expected_is_compared_with_what_is_held_also_of_what_is_not_held_at_all() -> None:
    def expecting(**held: str) -> TargetPositions:
        named = tuple(ExpectedHolding(key=key(symbol), quantity=D(q)) for symbol, q in held.items())
        return targets(("A", 1), expected_positions=named)

    assert planned(expecting(A="5", Z="0"), facts(held=D(5))).legs
    for wrong in (expecting(A="0"), expecting(A="5", Z="1")):
        assert refused(wrong, facts(held=D(5))) == [RefusalCode.STALE_POSITIONS]


@pytest.mark.parametrize(("change", "why"), [
    ({"price": None}, "a weight needs a fresh price"),
    ({"unit_value": None, "currency": "JPY"}, "a weight needs what JPY is worth in the account's currency"),
    ({"unit_value": None}, "a weight needs what its currency is worth in the account's currency"),
])  # fmt: skip
def test_a_weight_that_cannot_be_sized_says_what_is_missing(change: dict[str, Any], why: str) -> None:
    leg = the_leg(planned(weights(("A", "0.1")), facts(**change)))
    assert (leg.reason, leg.note, leg.quantity, leg.target) == (LegReason.NO_PRICE, why, 0, 0)


def test_an_empty_complete_list_that_is_confirmed_closes_everything() -> None:
    plan = planned(targets(complete=True, allow_flatten=True), facts("A", held=D(3)), facts("B", held=D(-2)))
    assert orders(plan) == [("A", Side.SELL, 3), ("B", Side.BUY, 2)]


def test_a_plans_id_is_of_account_strategy_and_decision_alone() -> None:
    first = targets(("A", 1))
    assert first.plan_id == targets(("B", 2), as_of=NOW + timedelta(days=1)).plan_id
    ids = {replace(first, account_id=a, strategy_id=s).plan_id for a, s in [("a|1:b", "c"), ("a", "b|1:c"), ("a", "b")]}
    assert len(ids) == 3


# --- cash -----------------------------------------------------------------------------------------------------------


def increase(name: str, wanted: int, cost: str = "100") -> Increase:
    return Increase(key=name, wanted=D(wanted), unit_cost=D(cost), lot=D(1))


def test_too_little_cash_scales_all_increases_by_one_factor() -> None:
    wishes = (increase("a", 50), increase("b", 30), increase("c", 20))
    assert affordable(wishes, D(7_000), Fees()) == (35, 21, 14)


def test_no_slice_is_smaller_than_the_venues_smallest_order_also_where_cash_cuts_it() -> None:
    settings = replace(PLAIN, slices=4)
    worth_400 = facts("A", price=D(100), min_notional=D(400))
    (leg,) = planned(targets(("A", 10)), worth_400, settings=settings).legs
    assert leg.slices == (5, 5)
    at_least_three = facts("A", price=D(100), min_quantity=D(3))
    plan = planned(targets(("A", 12)), at_least_three, settings=settings)
    assert plan.legs[0].slices == (3, 3, 3, 3)
    assert [quantity for _, _, quantity in Run(plan, 700).release()] == [4, 3]
    (nothing,) = next_releases(
        progress(planned(targets(("A", 10)), worth_400, settings=settings), {}, {}, NOW), {}, D(300), {}, NOW
    )
    assert nothing.quantity == 0


def test_of_a_future_only_a_margin_is_paid_so_that_cash_is_no_bound() -> None:
    future = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202612")
    wanted = targets(("A", 100), targets=(
        Target(instrument=instrument("A"), quantity=D(100)), Target(instrument=future, quantity=D(2))
    ))  # fmt: skip
    plan = planned(wanted, facts("A"), facts("ES", instrument=future, price=D(5000), unit_value=D(50)))
    run = Run(plan, 5_000)
    assert sorted(run.release()) == [("A", Side.BUY, 50), ("ES", Side.BUY, 2)]
    assert cash_needed(progress(plan, {}, {}, NOW), {}) == 10_000


def test_what_rounding_leaves_goes_to_the_largest_remainder_then_by_key() -> None:
    assert affordable((increase("a", 10), increase("b", 10)), D(1_100), Fees()) == (6, 5)
    assert affordable((increase("a", 10, "60"), increase("b", 9, "70")), D(600), Fees()) == (5, 4)


def test_no_cash_is_said_and_ends_the_plan() -> None:
    run = Run(planned(targets(("A", 10)), facts("A")), 50)
    assert run.release() == []
    assert (run.now.state, run.now.legs[0].reason) == (PlanState.FAILED, LegReason.INSUFFICIENT_CASH)
    assert run.release() == []


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 9_999), st.sampled_from(["1", "0.1", "10"])), max_size=6),
    st.integers(-10, 10**6), st.sampled_from(["0", "1", "17.3"]), st.sampled_from(["0", "0.001"]),
)  # fmt: skip
def test_increases_never_cost_more_than_there_is_nor_exceed_what_is_wanted(
    asked: list[tuple[int, int, str]], cash: int, fee: str, rate: str
) -> None:
    wishes = [
        Increase(key=str(n), wanted=q * D(lot), unit_cost=D(cents) / 100, lot=D(lot))
        for n, (q, cents, lot) in enumerate(asked)
    ]
    fees = Fees(per_order=D(fee), rate=D(rate))
    got = affordable(wishes, D(cash), fees)
    assert all(0 <= q <= wish.wanted and q % wish.lot == 0 for q, wish in zip(got, wishes, strict=True))
    cost = sum(
        (q * w.unit_cost * (1 + fees.rate) + fees.per_order for q, w in zip(got, wishes, strict=True) if q), ZERO
    )
    assert cost <= max(D(cash), ZERO)


# --- for every sequence of fills ------------------------------------------------------------------------------------

POSITIONS = st.integers(-50, 50).map(Decimal)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("ABCDE"), st.tuples(POSITIONS, POSITIONS, st.sampled_from([1, 5])), min_size=1),
    st.one_of(st.none(), st.integers(0, 20_000)), st.data(),
)  # fmt: skip
def test_a_plan_never_passes_its_target_and_its_residuals_are_exactly_what_is_missing(
    wanted: dict[str, tuple[Decimal, Decimal, int]], cash: int | None, data: st.DataObject
) -> None:
    plan = planned(
        targets(*((symbol, str(aim)) for symbol, (_, aim, _) in wanted.items())),
        *(facts(symbol, held=held, lot=D(lot)) for symbol, (held, _, lot) in wanted.items()),
    )
    run = Run(plan, cash, **{symbol: str(held) for symbol, (held, _, _) in wanted.items()})
    for _ in range(20):
        for symbol, _side, quantity in run.release():
            filled = data.draw(st.sampled_from([quantity, quantity, 0, quantity // 2]))
            run.end(symbol, str(filled))
            held, aim, _ = wanted[symbol]
            assert min(held, aim) <= run.held[key(symbol)] <= max(held, aim)
        if run.now.state is not PlanState.WORKING:
            break
    assert run.now.state is not PlanState.WORKING
    assert run.release() == []
    for symbol, (_, aim, _) in wanted.items():
        assert aim - run.held[key(symbol)] == run.now.residuals.get(key(symbol), 0)


def test_twice_the_instruments_are_twice_the_work() -> None:
    """How long 5,000 take is a row of the bench."""

    def work(number: int) -> int:
        names = [f"S{n:05d}" for n in range(number)]
        known = {key(name): facts(name, held=D(n % 7), price=D(20 + n % 50)) for n, name in enumerate(names)}
        wanted = weights(*((name, "0.0002") for name in names), complete=True)
        plans = []
        counted = calls(lambda: plans.append(make_plan(wanted, known, Money(equity=D(10**8)), PlanSettings(), NOW)))
        assert len(plans[0].legs) == number
        return counted

    assert work(2_000) < LINEAR * work(1_000)


# --- odd lists ------------------------------------------------------------------------------------------------------


def refused(wanted: TargetPositions, *known: InstrumentFacts, settings: PlanSettings = PLAIN) -> list[RefusalCode]:
    with pytest.raises(PlanRefused) as caught:
        planned(wanted, *known, settings=settings)
    return [each.code for each in caught.value.refusals]


def test_weights_may_not_pass_the_limit_by_a_hair() -> None:
    over = weights(("A", "0.5"), ("B", "-0.5000001"))
    assert refused(over, facts("A"), facts("B")) == [RefusalCode.WEIGHTS_OVER_LIMIT]
    assert planned(weights(("A", "0.5"), ("B", "-0.5")), facts("A"), facts("B")).legs


SPELLINGS = [
    ({}, {"exchange": "NASDAQ"}),
    ({}, {"currency": "USD"}),
    ({}, {"con_id": 265598}),
    ({"isin": "US0378331005"}, {"con_id": 265598}),
    ({"currency": "USD"}, {"exchange": "NASDAQ"}),
    ({"multiplier": D(1)}, {}),
    ({"con_id": 265598}, {}),
    ({"con_id": 265598}, {"con_id": 265598, "exchange": "NASDAQ"}),
    ({"con_id": 265598}, {"con_id": 265598, "symbol": "AAPL US"}),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_an_instrument_that_is_named_in_two_ways_is_named_twice(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Else both would be reached: twice of what is wanted."""
    named = [Instrument(**{"symbol": "AAPL"} | fields) for fields in (one, other)]
    wanted = targets(targets=tuple(Target(instrument=each, quantity=D(10)) for each in named))
    known = [InstrumentFacts(instrument=each, price=D(100)) for each in named]
    assert refused(wanted, *known) == [RefusalCode.DUPLICATE_INSTRUMENT]


def test_what_is_named_twice_is_told_by_both_names() -> None:
    listed = Instrument(symbol="A", exchange="NYSE")
    said = [
        str(each.message)
        for other in (instrument("A"), listed)
        for each in refusals_of_list(
            targets(targets=tuple(Target(instrument=i, quantity=D(1)) for i in (instrument("A"), other))), PLAIN, NOW
        )
    ]
    assert said == ["A|STOCK is named more than once", "A|STOCK|exchange=NYSE may be A|STOCK, which is named too"]


def test_instruments_that_are_told_apart_are_not_the_same() -> None:
    option = {"symbol": "SPX", "asset_class": AssetClass.OPTION, "expiry": "20261218", "right": OptionRight.CALL}
    named = [
        Instrument(symbol="AAPL", con_id=1),
        Instrument(symbol="AAPL", con_id=2),
        Instrument(symbol="VOD", exchange="LSE"),
        Instrument(symbol="VOD", exchange="NASDAQ"),
        Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202612"),
        Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202703", con_id=3),
        *(Instrument(**option, strike=D(strike)) for strike in (5000, 5010)),  # type: ignore[arg-type]
        Instrument(**option | {"right": OptionRight.PUT}, strike=D(5000)),  # type: ignore[arg-type]
        Instrument(**option | {"expiry": "20270115"}, strike=D(5000)),  # type: ignore[arg-type]
    ]
    wanted = targets(targets=tuple(Target(instrument=each, quantity=D(10)) for each in named))
    assert len(planned(wanted, *(InstrumentFacts(instrument=each, price=D(1)) for each in named)).legs) == len(named)


def test_twice_the_contracts_of_one_symbol_are_twice_the_work() -> None:
    def work(strikes: int) -> int:
        named = [
            Instrument(symbol="SPX", asset_class=AssetClass.OPTION, expiry="20261218", strike=D(n), right=right)
            for n in range(1, strikes + 1)
            for right in OptionRight
        ]
        wanted = targets(targets=tuple(Target(instrument=each, quantity=D(1)) for each in named))
        refusals: list[object] = []
        counted = calls(lambda: refusals.extend(refusals_of_list(wanted, PLAIN, NOW)))
        assert refusals == []
        return counted

    assert work(1_000) < LINEAR * work(500)


def test_a_list_from_the_future_is_refused() -> None:
    """It would make every later one stale."""
    late = targets(("A", 1), as_of=NOW + AHEAD + timedelta(seconds=1))
    assert refused(late, facts("A")) == [RefusalCode.FUTURE_PLAN]
    assert planned(targets(("A", 1), as_of=NOW + AHEAD), facts("A")).legs
    assert planned(replace(late, mode=Mode.TRAINING), facts("A")).legs


def test_weights_that_come_to_nothing_close_everything_only_where_that_is_allowed() -> None:
    tiny = weights(("A", "0.0000001"), ("B", "0"), complete=True)
    known = facts("A", held=D(50)), facts("B", held=D(50)), facts("C", held=D(50))
    assert refused(tiny, *known) == [RefusalCode.FLATTEN_NOT_ALLOWED]
    nothing = targets(("A", 0), complete=True)
    assert [each.code for each in refusals_of_list(nothing, PLAIN, NOW)] == [RefusalCode.FLATTEN_NOT_ALLOWED]
    assert list(refusals_of_list(targets(("A", 0), ("B", 1), complete=True), PLAIN, NOW)) == []
    unpriced = weights(("A", "0.5"), complete=True)
    assert orders(planned(unpriced, facts("A", price=None), facts("B", held=D(5)))) == [("B", Side.SELL, 5)]
    assert len(planned(replace(tiny, allow_flatten=True), *known).legs) == 3
    assert planned(replace(tiny, complete=False), *known).legs


def test_what_is_in_doubt_is_not_reached_because_it_would_fit() -> None:
    in_doubt = facts("A", working=D(10), blocked="an order is under way or in doubt")
    for complete in (False, True):
        plan = planned(targets(("A", 10), ("B", 1), complete=complete), in_doubt, facts("B"))
        assert [(leg.instrument.symbol, leg.state) for leg in plan.legs] == [
            ("A", LegState.BLOCKED),
            ("B", LegState.WAITING),
        ]
        assert progress(plan, {}, {}, NOW).legs[0].reason is LegReason.BLOCKED


@pytest.mark.parametrize(("target", "phase"), [(0, Phase.REDUCE), (20, Phase.INCREASE)])
def test_what_is_in_doubt_is_told_as_what_it_would_be(target: int, phase: Phase) -> None:
    leg = the_leg(planned(targets(("A", target)), facts(held=D(10), blocked="an order is in doubt")))
    assert (leg.phase, leg.wanted, leg.target, leg.held) == (phase, 10, target, 10)


def test_parts_of_a_coin_are_added_to_parts_of_a_coin() -> None:
    leg = the_leg(planned(targets(("A", "0.9")), facts(held=D("0.5"), lot=D("0.1"))))
    assert (leg.side, leg.phase, leg.quantity) == (Side.BUY, Phase.INCREASE, D("0.4"))


def test_a_complete_list_does_not_close_what_is_in_doubt() -> None:
    in_doubt = facts("A", held=D(50), blocked="an order is under way or in doubt")
    plan = planned(targets(("B", 1), complete=True), in_doubt, facts("B", held=D(3)))
    assert [(leg.instrument.symbol, leg.state, leg.quantity) for leg in plan.legs] == [
        ("A", LegState.BLOCKED, ZERO),
        ("B", LegState.WAITING, D(2)),
    ]


def test_a_target_of_more_orders_than_anybody_means_is_not_traded() -> None:
    huge = planned(targets(("A", 10**17)), facts("A", max_quantity=D(1)))
    assert (the_leg(huge).state, the_leg(huge).reason) == (LegState.BLOCKED, LegReason.BLOCKED)
    one_more = planned(targets(("A", MOST_ORDERS + 1)), facts("A", max_quantity=D(1)))
    assert the_leg(one_more).state is LegState.BLOCKED
    assert len(the_leg(planned(targets(("A", MOST_ORDERS)), facts("A", max_quantity=D(1)))).slices) == MOST_ORDERS
    assert the_leg(planned(targets(("A", 0)), facts("A", held=D(10**17), max_quantity=D(1)))).state is LegState.BLOCKED


def test_a_limit_of_turnover_lets_no_increase_pass_where_the_equity_is_not_known() -> None:
    known = {each.instrument.key: each for each in (facts("A", held=D(10)), facts("B"))}
    plan = make_plan(
        targets(("A", 4), ("B", 5)), known, Money(), replace(PLAIN, max_turnover=D("0.1")), NOW
    )  # fmt: skip
    assert [(leg.state, leg.reason) for leg in plan.legs] == [
        (LegState.WAITING, None),
        (LegState.BLOCKED, LegReason.BLOCKED),
    ]
    assert [leg.state for leg in make_plan(plan.targets, known, Money(), PLAIN, NOW).legs] == [LegState.WAITING] * 2
    unpriced = known | {key("B"): facts("B", price=None)}
    limited = make_plan(plan.targets, unpriced, Money(equity=D(1000)), replace(PLAIN, max_turnover=D(1)), NOW)
    assert (limited.legs[1].reason, limited.legs[1].note) == (LegReason.NO_PRICE, "the limit of turnover needs a price")


def test_a_target_below_a_lot_is_left_and_said() -> None:
    leg = the_leg(planned(targets(("A", 7)), facts("A", lot=D(10))))
    assert (leg.state, leg.reason, leg.wanted, leg.quantity) == (LegState.SKIPPED, LegReason.DUST, 7, 0)


def test_a_change_that_is_to_be_whole_is_cut_by_nothing_but_an_emergency() -> None:
    small = facts("A", held=D(100), lot=D(10), min_quantity=D(50), min_notional=D(10**6))
    whole = replace(PLAIN, band=D(1), is_whole=True)
    assert orders(planned(targets(("A", 97)), small, settings=whole)) == [("A", Side.SELL, 3)]
    assert orders(planned(targets(("A", 103)), small, settings=whole)) == [("A", Side.BUY, 3)]
    urgent = targets(("A", 103), aggressiveness=Aggressiveness.EMERGENCY)
    assert the_leg(planned(urgent, small, settings=whole)).reason is LegReason.EMERGENCY_REDUCE_ONLY


# --- what a list is and says ----------------------------------------------------------------------------------------


def test_a_decision_has_one_id_for_ever() -> None:
    assert plan_id_of("acc", "growth", "d-1") == "plan_2c820c058a78f9ce860f4518"
    ids = {
        plan_id_of(*parts)
        for parts in [("a", "b", "c"), ("a", "c", "b"), ("ab", "", "c"), ("a", "b", "d"), ("x", "b", "c")]
    }
    assert len(ids) == 5


def test_a_refusal_says_every_reason() -> None:
    refusals = [Refusal(RefusalCode.EMPTY, "no targets"), Refusal(RefusalCode.WRONG_MODE, "TRAINING")]
    assert str(PlanRefused(refusals)) == "EMPTY: no targets; WRONG_MODE: TRAINING"


@pytest.mark.parametrize("text", ["RETRY 1", "RETRY 10", "REPORT", "UNWIND"])
def test_what_follows_is_written_as_it_is_read(text: str) -> None:
    assert str(on_partial_of(text)) == text


@pytest.mark.parametrize(
    "text", ["RETRY", "RETRY 0", "RETRY 11", "RETRY +3", "RETRY x", "RETRY \u0663", "REPORT ", "ask"]
)
def test_what_follows_is_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="RETRY"):
        on_partial_of(text)
