"""What the gate says of one order: each limit by an example on either side of it, what is not known, exits, the stops, and overrides."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, ContractTerms, Instrument, OrderType, Side
from execution_service.core.orders.order import Order, apply
from execution_service.core.risk.counters import (
    Answered,
    CancelSent,
    Counters,
    Enabled,
    Executed,
    Happened,
    Measured,
    Trip,
    fold_all,
    sent,
)
from execution_service.core.risk.gate import Facts, Reading, Session, judge
from execution_service.core.risk.kill import KillLevel, KillState, Switch
from execution_service.core.risk.limits import OFF, LimitType, Repetition, RiskLimits, Scope, SessionRule, StopRule
from execution_service.core.risk.prices import PriceSource, Rate
from execution_service.core.risk.verdict import Breach, Decision, Override, Verdict, exact_content
from tests.builders import NOW, Amount, amount, at, fitted, identity, order
from tests.core.risk_cases import (
    ACCOUNT,
    KEY,
    STRATEGY,
    SYMBOL,
    WHERE,
    buying,
    facts,
    holding,
    limited,
    quote,
    selling,
    tables,
    works,
    written,
)

BUY, SELL = Side.BUY, Side.SELL
PASS, HOLD, REFUSE = Decision.PASS, Decision.HOLD, Decision.REFUSE
OF_ACCOUNT = Scope(account_id=ACCOUNT)


def refused_for(verdict: Verdict) -> list[str]:
    assert (verdict.decision is REFUSE) == bool(verdict.breaches)
    return [breach.limit_type for breach in verdict.breaches]


def told(verdict: Verdict, limit: str) -> tuple[str, str | None]:
    """Limit and actual value of the one reason of that kind."""
    (found,) = (breach for breach in verdict.breaches if breach.limit_type == limit)
    return found.limit_value, found.actual_value


def counted(*events: Happened, seconds: float = 0.0) -> Counters:
    start = Counters(account_id=ACCOUNT)
    known = facts().zone
    return fold_all(start, events, now=at(seconds), zone=known, keep_seconds=Decimal(3600))


# --- the whole verdict -----------------------------------------------------------------------------------------------


def test_an_order_within_all_limits_passes_and_says_what_it_reserves() -> None:
    about = buying(100)
    verdict = judge(about, facts(), written(max_order_value=2_000, price_collar_pct=OFF))
    assert verdict.decision is PASS
    assert (verdict.breaches, verdict.waits, verdict.unjudged, verdict.hold_until) == ((), (), (), None)
    assert verdict.reservation == works(100, name=about.order_id)
    assert [(use.limit, use.total, use.limit_value, use.actual_value) for use in verdict.uses] == [
        (LimitType.MAX_ORDER_VALUE, WHERE, 2_000, 1_000),
        (LimitType.MAX_CONSECUTIVE_REJECTIONS, OF_ACCOUNT, 20, 0),
    ]
    assert (verdict.order_id, verdict.at, verdict.is_exit, verdict.exit_room) == (about.order_id, NOW, False, 0)


def test_all_reasons_are_given_at_once_in_the_form_that_is_told_outside() -> None:
    limits = written(
        max_order_quantity=50, max_order_value=100, allowed_symbols=frozenset({"MSFT"}), max_gross_exposure=10
    )
    verdict = judge(buying(100), facts(safety=("it does not answer",)), limits)
    assert refused_for(verdict) == [
        "safety_service",
        "allowed_symbols",
        "max_order_quantity",
        "max_order_value",
        "max_gross_exposure",
    ]
    assert verdict.breaches[2].told == {
        "limit_type": "max_order_quantity",
        "limit_value": "50",
        "actual_value": "100",
        "message": "the order's quantity would be 100, the limit is 50 (all)",
    }
    assert verdict.reservation is None


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (("max_order_value",), "RISK_LIMIT"),
        (("safety_service", "max_order_value"), "SAFETY_SERVICE"),
        (("max_order_value", "safety_service", "kill_switch"), "KILL_SWITCH"),
    ],
)
def test_the_code_of_a_refusal_is_the_gravest_reasons(kinds: tuple[str, ...], code: str) -> None:
    breaches = tuple(Breach(limit_type=kind, limit_value="", message="") for kind in kinds)
    verdict = Verdict(order_id="o", at=NOW, decision=REFUSE, is_exit=False, exit_room=Decimal(0), breaches=breaches)
    assert verdict.code == code


@pytest.mark.parametrize(("value", "near"), [(1_251, []), (1_250, ["max_order_value"]), (1_000, ["max_order_value"])])
def test_people_are_warned_from_80_per_cent_of_a_limit_on(value: int, near: list[str]) -> None:
    verdict = judge(buying(100), facts(), written(max_order_value=value))
    assert verdict.decision is PASS
    assert [use.limit.value for use in verdict.near] == near


def test_of_a_limit_of_nothing_anything_is_too_much() -> None:
    verdict = judge(buying(100), facts(), written(max_open_orders=0))
    assert refused_for(verdict) == ["max_open_orders"]
    (use,) = (use for use in verdict.uses if use.limit is LimitType.MAX_OPEN_ORDERS)
    assert (use.part, use.is_near) == (2, True)
    assert replace(use, actual_value=Decimal(0)).part == 1


def test_without_a_file_a_market_order_without_any_price_passes_and_that_is_said() -> None:
    verdict = judge(buying(100), facts(prices=(), buying_power=None), RiskLimits())
    assert verdict.decision is PASS
    assert [each.limit.value for each in verdict.unjudged] == ["max_order_value", "check_buying_power"]
    assert "only built in" in verdict.unjudged[0].message


EVERYTHING_OFF: dict[str, Any] = {
    limit.value: OFF
    for limit in LimitType
    if limit.value not in ("session", "allow_short", "check_buying_power", "stop_out_of_range")
}


@pytest.mark.parametrize(
    "about",
    [
        buying(100),
        limited(100, 10),
        limited(100, 10, SELL, reference_price=amount(90)),
        buying(1, order_type=OrderType.STOP, stop_price=amount(12)),
        buying(1, order_type=OrderType.STOP_LIMIT, stop_price=amount(12), limit_price=amount(99)),
        limited(1, 100, stop_loss=amount(1), take_profit=amount(1000)),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"prices": (), "equity": None, "holdings": None, "account_currency": None}])
def test_where_everything_is_switched_off_nothing_is_judged(about: Order, changes: dict[str, Any]) -> None:
    verdict = judge(about, facts(**changes), written(check_buying_power=False, **EVERYTHING_OFF))
    assert verdict.decision is PASS
    assert (verdict.uses, verdict.unjudged, verdict.breaches, verdict.waits) == ((), (), (), ())


# --- size and value --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "about", "reasons"),
    [
        ({"max_order_quantity": 100}, buying(100), []),
        ({"max_order_quantity": 99}, buying(100), ["max_order_quantity"]),
        ({"max_order_value": 1_000}, buying(100), []),
        ({"max_order_value": "999.99"}, buying(100), ["max_order_value"]),
        ({"max_order_value": 1_000}, limited(100, "10.01"), ["max_order_value"]),
        ({"max_order_value": 1_000}, limited(100, "8"), []),
        ({"max_order_value": 900}, limited(100, "9", SELL), ["max_order_value"]),  # it may sell at the market's 10
        ({"max_order_value": 1_100}, limited(100, "11", SELL), []),
        (
            {"max_order_value": 1_200},
            buying(100, order_type=OrderType.STOP, stop_price=amount(12)),
            [],
        ),
        (
            {"max_order_value": 999},
            buying(100, order_type=OrderType.STOP, stop_price=amount(8)),
            ["max_order_value"],
        ),
        (
            {"max_order_value": 999},
            selling(100, order_type=OrderType.STOP, stop_price=amount(8)),
            ["max_order_value"],
        ),
        (
            {"max_order_value": 1_250},
            buying(100, order_type=OrderType.STOP_LIMIT, stop_price=amount(12), limit_price=amount("12.5")),
            [],
        ),
        (
            {"max_order_value": 900},
            selling(100, order_type=OrderType.STOP_LIMIT, stop_price=amount(9), limit_price=amount("8.5")),
            [],
        ),
    ],
)
def test_quantity_and_value_of_an_order(limits: dict[str, Any], about: Order, reasons: list[str]) -> None:
    assert refused_for(judge(about, facts(), written(price_collar_pct=OFF, **limits))) == reasons


@pytest.mark.parametrize(
    ("about", "reasons"),
    [
        (buying(100), ["max_order_value"]),
        (limited(100, 10), []),
        (limited(100, 1, SELL), ["max_order_value"]),  # the limit is the least that it brings
        (buying(100, order_type=OrderType.STOP, stop_price=amount(5)), ["max_order_value"]),
        (selling(100, order_type=OrderType.STOP, stop_price=amount(5)), []),
        (
            selling(100, order_type=OrderType.STOP_LIMIT, stop_price=amount(5), limit_price=amount(4)),
            [],
        ),
    ],
)
def test_an_order_whose_cost_has_no_bound_without_a_price_is_refused(about: Order, reasons: list[str]) -> None:
    limits = written(max_order_value=1_000, price_collar_pct=OFF, check_buying_power=False)
    verdict = judge(about, facts(prices=()), limits)
    assert refused_for(verdict) == reasons
    if reasons:
        assert told(verdict, "max_order_value") == ("1000", None)


def test_an_order_that_costs_too_much_at_the_least_is_refused_for_that_even_by_what_is_built_in() -> None:
    verdict = judge(limited(200_000, 10, SELL), facts(prices=()), RiskLimits())
    assert told(verdict, "max_order_value") == ("1000000", "2000000")
    stop = judge(buying(200_000, order_type=OrderType.STOP, stop_price=amount(10)), facts(prices=()), RiskLimits())
    assert told(stop, "max_order_value") == ("1000000", "2000000")


def test_the_value_is_the_most_that_it_may_cost_where_that_is_known() -> None:
    verdict = judge(limited(100, 10, SELL), facts(prices=(quote(12),)), written(max_order_value=900))
    assert told(verdict, "max_order_value") == ("900", "1200")


def test_an_order_that_costs_just_the_limit_at_the_least_may_cost_more() -> None:
    verdict = judge(limited(100, 10, SELL), facts(prices=()), written(max_order_value=1_000, price_collar_pct=OFF))
    assert told(verdict, "max_order_value") == ("1000", None)


def test_a_price_that_an_orders_type_does_not_use_is_not_judged() -> None:
    assert judge(buying(1, limit_price=amount(99)), facts(), written(price_collar_pct=5)).decision is PASS


def test_contracts_count_by_their_size() -> None:
    future = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202612")
    terms = ContractTerms(multiplier=Decimal(50), currency="USD", price_magnifier=Decimal(1))
    about = replace(buying(2, instrument=future), terms=terms)
    limits = written(max_order_value=999)
    assert told(judge(about, facts(), limits), "max_order_value") == ("999", "1000")
    named = buying(2, instrument=replace(future, multiplier=Decimal(50)))
    assert told(judge(named, facts(), limits), "max_order_value") == ("999", "1000")
    unknown = replace(about, terms=replace(terms, is_size_unknown=True))
    assert told(judge(unknown, facts(), limits), "max_order_value") == ("999", None)


def test_an_order_for_an_amount_of_money_costs_that_amount_and_is_never_an_exit() -> None:
    about = apply(buying(100), replace(fitted(), cash_quantity=Decimal(5_000), quantity=Decimal(99), limit_price=None))
    verdict = judge(about, facts(holdings=[holding(-500)]), written(max_order_value=4_999))
    assert told(verdict, "max_order_value") == ("4999", "5000")
    assert not verdict.is_exit
    foreign = judge(about, facts(order_currency="EUR"), written(max_order_value=4_999))
    assert told(foreign, "max_order_value") == ("4999", None)


def test_what_has_filled_already_is_not_asked_for_again() -> None:
    about = replace(buying(100), filled_quantity=Decimal(40))
    verdict = judge(about, facts(), written(max_order_quantity=60))
    assert verdict.reservation is not None
    assert verdict.reservation.quantity == 60


def test_an_order_of_which_nothing_is_left_costs_nothing_and_is_no_exit() -> None:
    over = replace(buying(100), filled_quantity=Decimal(100))
    verdict = judge(over, facts(holdings=[holding(-100)]), RiskLimits())
    assert (verdict.is_exit, verdict.exit_room) == (False, 100)
    spent = replace(over, cash_quantity=Decimal(5))
    assert told(judge(spent, facts(), written(max_order_value=1)), "max_order_value") == ("1", None)


def test_a_reason_says_where_its_limit_stands_and_writes_figures_out() -> None:
    built_in = judge(buying(200_000), facts(), RiskLimits())
    assert built_in.breaches[0].message == "the order's value would be 2000000, the limit is 1000000 (built in)"
    limits = tables((Scope(symbol=SYMBOL), {"max_order_value": Decimal("1E+3")}))
    (unknown,) = judge(buying(1), facts(prices=()), limits).breaches
    assert unknown.limit_value == "1000"
    assert unknown.message.startswith("max_order_value: what the order costs cannot be told")
    assert unknown.message.endswith("(symbol:AAPL)")


# --- currencies ------------------------------------------------------------------------------------------------------


def rate(value: str = "1.1", *, seconds: float = 0.0, base: str = "EUR", quoted: str = "USD") -> Rate:
    return Rate(base=base, quoted=quoted, rate=Decimal(value), source="broker", at=at(seconds))


@pytest.mark.parametrize(
    ("rates", "actual"),
    [
        ((), None),
        ((rate(),), "1100"),
        ((rate("1.1", seconds=-50), rate("1.2", seconds=-1)), "1200"),
        ((rate("1.2", seconds=-1), rate("1.1", seconds=-50)), "1200"),
        ((rate(seconds=-60),), "1100"),
        ((rate(seconds=-61),), None),
        ((rate(base="INR"),), None),
        ((rate(quoted="GBP"),), None),
        ((rate("0"),), None),
        ((rate("0.6"),), "600"),
    ],
)
def test_amounts_in_another_currency_need_a_fresh_rate(rates: tuple[Rate, ...], actual: str | None) -> None:
    verdict = judge(buying(100), facts(order_currency="EUR", rates=rates), written(max_order_value=500))
    assert told(verdict, "max_order_value") == ("500", actual)


@pytest.mark.parametrize("changes", [{"order_currency": None}, {"account_currency": None}])
def test_a_currency_that_is_not_known_is_no_currency(changes: dict[str, Any]) -> None:
    assert refused_for(judge(buying(100), facts(**changes), written(max_order_value=10_000))) == ["max_order_value"]


# --- prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "reasons"),
    [
        (limited(1, "10.5"), []),
        (limited(1, "10.51"), ["price_collar_pct"]),
        (limited(1, "9.5"), []),
        (limited(1, "9.49"), ["price_collar_pct"]),
        (limited(1, "9.49", SELL), ["price_collar_pct"]),
        (buying(1), []),
        (buying(1, order_type=OrderType.STOP, stop_price=amount(50)), []),
        (
            buying(1, order_type=OrderType.STOP_LIMIT, stop_price=amount(50), limit_price=amount(52)),
            [],
        ),
        (
            buying(1, order_type=OrderType.STOP_LIMIT, stop_price=amount(50), limit_price=amount(53)),
            ["price_collar_pct"],
        ),
    ],
)
def test_the_price_collar(about: Order, reasons: list[str]) -> None:
    assert refused_for(judge(about, facts(), written(price_collar_pct=5))) == reasons


def test_the_collar_that_is_built_in_is_twenty_per_cent() -> None:
    assert judge(limited(1, 12), facts(), RiskLimits()).decision is PASS
    assert refused_for(judge(limited(1, "12.01"), facts(), RiskLimits())) == ["price_collar_pct"]


@pytest.mark.parametrize(
    ("prices", "reasons"),
    [
        ((quote(10, at(-60)),), []),
        ((quote(10, at(-61)),), ["price_collar_pct"]),
        ((quote(10, at(61)),), ["price_collar_pct"]),
        ((), ["price_collar_pct"]),
        ((quote(0), quote("NaN")), ["price_collar_pct"]),
        ((quote(50, source=PriceSource.EXECUTION), quote(10)), []),
        ((quote(10, at(-9)), quote(50, at(-20))), []),
        ((quote(10, at(-61)), quote(50, source=PriceSource.EXECUTION)), ["price_collar_pct"]),
    ],
)
def test_a_stale_or_missing_price_refuses_and_the_most_trusted_fresh_one_counts(
    prices: tuple[Any, ...], reasons: list[str]
) -> None:
    assert refused_for(judge(limited(1, 10), facts(prices=prices), written(price_collar_pct=5))) == reasons


def test_the_messages_own_price_serves_where_there_is_no_other_as_long_as_it_is_fresh() -> None:
    about = limited(1, 10, reference_price=amount(10))
    limits = written(price_collar_pct=5)
    assert judge(about, facts(prices=()), limits).decision is PASS
    assert refused_for(judge(about, facts(prices=(), now=at(61)), limits)) == ["price_collar_pct"]
    assert refused_for(judge(about, facts(prices=(quote(20),)), limits)) == ["price_collar_pct"]
    assert judge(about, facts(prices=(), now=at(61)), tables((Scope(), {"reference_price_max_age_seconds": OFF}))).uses


@pytest.mark.parametrize(
    ("about", "prices", "reasons"),
    [
        (buying(1, reference_price=amount(10)), (quote("10.2"),), []),
        (buying(1, reference_price=amount(10)), (quote("10.21"),), ["max_slippage_pct"]),
        (buying(1, reference_price=amount(10)), (quote(5),), []),
        (selling(1, reference_price=amount(10)), (quote("9.79"),), ["max_slippage_pct"]),
        (selling(1, reference_price=amount(10)), (quote(15),), []),
        (buying(1, reference_price=amount(10)), (), ["max_slippage_pct"]),
        (buying(1), (quote(10),), ["max_slippage_pct"]),
        (buying(1), (), ["max_slippage_pct"]),
        (buying(1, reference_price=amount(10)), (quote(11, source=PriceSource.EXECUTION),), ["max_slippage_pct"]),
        (limited(1, 10, reference_price=amount(10)), (quote(11),), []),
    ],
)
def test_the_slippage_guard_of_market_orders(about: Order, prices: tuple[Any, ...], reasons: list[str]) -> None:
    assert refused_for(judge(about, facts(prices=prices), written(max_slippage_pct=2))) == reasons


def protected(stop: Amount | None = None, target: Amount | None = None, side: Side = BUY, price: Amount = 100) -> Order:
    stop_loss, take_profit = (None if each is None else amount(each) for each in (stop, target))
    return limited(1, price, side, stop_loss=stop_loss, take_profit=take_profit)


@pytest.mark.parametrize(
    ("about", "reasons"),
    [
        (protected(95, 110), []),
        (protected(95, "100.5"), []),
        (protected(100), ["stop_loss"]),
        (protected(101), ["stop_loss"]),
        (protected(None, 100), ["take_profit"]),
        (protected(None, 99), ["take_profit"]),
        (protected(99), []),
        (protected("99.01"), ["min_stop_distance_pct"]),
        (protected(90), []),
        (protected("89.99"), ["max_stop_distance_pct"]),
        (protected(105, 90, SELL), []),
        (protected(99, 90, SELL), ["stop_loss"]),
        (protected(None, 101, SELL), ["take_profit"]),
        (protected("100.99", None, SELL), ["min_stop_distance_pct"]),
    ],
)
def test_stop_and_target_are_on_their_sides_and_the_stop_far_enough(about: Order, reasons: list[str]) -> None:
    limits = written(min_stop_distance_pct=1, max_stop_distance_pct=10, price_collar_pct=OFF)
    assert refused_for(judge(about, facts(), limits)) == reasons


@pytest.mark.parametrize(
    ("about", "stop", "reasons"),
    [
        (protected("99.5"), Decimal(99), []),
        (protected(80), Decimal(90), []),
        (protected("100.5", side=SELL), Decimal(101), []),
        (protected(120, side=SELL), Decimal(110), []),
        (protected(95), None, []),
        (protected(101), None, ["stop_loss"]),
        (protected(100), None, ["stop_loss"]),
    ],
)
def test_a_stop_may_be_adjusted_by_setting_and_never_from_the_wrong_side(
    about: Order, stop: Decimal | None, reasons: list[str]
) -> None:
    limits = written(
        min_stop_distance_pct=1, max_stop_distance_pct=10, stop_out_of_range=StopRule.ADJUST, price_collar_pct=OFF
    )
    verdict = judge(about, facts(), limits)
    assert (verdict.adjusted_stop, refused_for(verdict)) == (stop, reasons)


@pytest.mark.parametrize(
    ("about", "actual"),
    [(protected(95), None), (protected(100), "0"), (protected(101), "-1"), (protected(99, side=SELL), "-1")],
)
def test_a_stop_on_the_wrong_side_is_refused_whatever_is_written(about: Order, actual: str | None) -> None:
    for limits in (RiskLimits(), written(max_stop_distance_pct=10)):
        verdict = judge(about, facts(prices=(quote(100),)), limits)
        assert refused_for(verdict) == ([] if actual is None else ["stop_loss"])
        if actual is not None:
            assert told(verdict, "stop_loss") == ("0", actual)


@pytest.mark.parametrize(
    ("trail", "refused"),
    [
        ({"trail_percent": Decimal(5)}, []),
        ({"trail_percent": Decimal(50)}, ["max_stop_distance_pct"]),
        ({"trail_amount": Decimal(30)}, ["max_stop_distance_pct"]),
        ({"trail_amount": Decimal(150)}, ["max_stop_distance_pct"]),
    ],
)
def test_where_a_trailing_stop_begins_is_judged_as_a_stop_is(trail: dict[str, Decimal], refused: list[str]) -> None:
    limits = written(max_stop_distance_pct=10, stop_out_of_range=StopRule.ADJUST, price_collar_pct=OFF)
    trailing = limited(1, 100, BUY, **trail)
    verdict = judge(trailing, facts(prices=(quote(100),)), limits)
    assert (refused_for(verdict), verdict.adjusted_stop) == (refused, None)


def test_a_trailing_stop_below_zero_is_refused_whatever_is_written() -> None:
    trailing = limited(1, 100, BUY, trail_amount=Decimal(150))
    assert refused_for(judge(trailing, facts(prices=(quote(100),)), RiskLimits())) == ["stop_loss"]


def test_what_stop_and_target_are_is_told() -> None:
    limits = written(max_stop_distance_pct=10, price_collar_pct=OFF)
    assert told(judge(protected(80), facts(), limits), "max_stop_distance_pct") == ("10", "20")
    assert told(judge(protected(None, 99), facts(), limits), "take_profit") == ("100", "99")


def test_a_stop_of_an_order_without_a_price_is_measured_from_the_reference() -> None:
    limits = written(min_stop_distance_pct=1)
    about = buying(1, stop_loss=amount("9.95"))
    assert told(judge(about, facts(), limits), "min_stop_distance_pct") == ("1", "0.5")
    assert told(judge(about, facts(prices=()), limits), "min_stop_distance_pct") == ("1", None)
    high = written(max_stop_distance_pct=1)
    assert told(judge(about, facts(prices=()), high), "max_stop_distance_pct") == ("1", None)
    assert judge(about, facts(prices=()), RiskLimits()).decision is PASS
    stop = buying(1, order_type=OrderType.STOP, stop_price=amount(20), stop_loss=amount(19))
    assert judge(stop, facts(), limits).decision is PASS
    assert judge(buying(1, take_profit=amount(5)), facts(prices=()), limits).decision is PASS


# --- what is allowed -------------------------------------------------------------------------------------------------


def test_allowed_symbols_and_order_types() -> None:
    limits = written(allowed_symbols=frozenset({"AAPL", "MSFT"}), allowed_order_types=frozenset({OrderType.LIMIT}))
    assert judge(limited(1, 10), facts(), limits).decision is PASS
    verdict = judge(buying(1, instrument=Instrument(symbol="TSLA")), facts(), limits)
    assert told(verdict, "allowed_symbols") == ("AAPL, MSFT", "TSLA")
    assert told(verdict, "allowed_order_types") == ("LIMIT", "MARKET")
    many = written(allowed_symbols=frozenset("QWERTYUIOPASDFGHJKL"))
    assert told(judge(buying(1), facts(), many), "allowed_symbols")[0] == ", ".join(sorted("QWERTYUIOPASDFGHJKL"))
    nothing = judge(buying(1), facts(), written(allowed_symbols=frozenset()))
    assert told(nothing, "allowed_symbols") == ("none", "AAPL")


@pytest.mark.parametrize(
    ("confidence", "reasons"), [("0.75", []), ("0.74", ["min_confidence"]), (None, ["min_confidence"])]
)
def test_confidence(confidence: str | None, reasons: list[str]) -> None:
    known = None if confidence is None else Decimal(confidence)
    verdict = judge(buying(1), facts(confidence=known), written(min_confidence="0.75"))
    assert refused_for(verdict) == reasons
    assert [breach.actual_value for breach in verdict.breaches] == [confidence] * len(reasons)


# --- positions and exposure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "works_too", "about", "reasons"),
    [
        (50, [], buying(50), []),
        (50, [], buying(51), ["max_position_quantity"]),
        (0, [works(60)], buying(41), ["max_position_quantity"]),
        (0, [works(60, SELL)], buying(100), []),  # those sales may never fill, but they make no purchase worse
        (0, [works(60, SELL)], selling(41), ["max_position_quantity"]),
        (-50, [], selling(50), []),
        (-50, [], selling(51), ["max_position_quantity"]),
        (500, [], selling(700), ["max_position_quantity"]),
        (500, [], selling(600), []),  # past zero, and no exit, but within the limit on the other side
        (60, [works(60, strategy="other")], buying(1), ["max_position_quantity"]),
        (60, [works(60, instrument_key="other")], buying(1), []),
    ],
)
def test_the_position_is_that_which_may_come_of_all_that_works(
    held: int, works_too: list[Any], about: Order, reasons: list[str]
) -> None:
    limits = written(max_position_quantity=100)
    verdict = judge(about, facts(holdings=[holding(held)], working=works_too), limits)
    assert refused_for(verdict) == reasons


def test_a_position_beyond_its_limit_stops_only_what_takes_it_further() -> None:
    known = facts(holdings=[holding(500)])
    limits = written(max_position_quantity=100, max_gross_exposure=1_000, max_net_exposure=1_000)
    assert "max_position_quantity" in refused_for(judge(buying(1), known, limits))
    assert judge(selling(550), known, limits).decision is PASS


def test_the_strategys_position_and_the_accounts_are_bound_apart() -> None:
    limits = tables(
        (Scope(), {"max_position_quantity": 100}), (Scope(strategy=STRATEGY), {"max_position_quantity": 20})
    )
    known = facts(holdings=[holding(10), holding(70, strategy="other")])
    assert [use.actual_value for use in judge(buying(10), known, limits).uses if "position" in use.limit] == [90, 20]
    verdict = judge(buying(11), known, limits)
    assert told(verdict, "max_position_quantity") == ("20", "21")
    both = judge(buying(21), known, limits)
    assert refused_for(both) == ["max_position_quantity", "max_position_quantity"]


def test_which_side_of_a_position_is_too_large_is_told() -> None:
    limits = written(max_position_quantity=1, max_position_value=1)
    for about, way in ((buying(5), "long"), (selling(5), "short")):
        assert [breach.message.partition(" would")[0] for breach in judge(about, facts(), limits).breaches] == [
            f"the {way} position",
            f"the value of the {way} position",
        ]


def test_the_value_of_a_position() -> None:
    limits = written(max_position_value=1_000)
    known = facts(holdings=[holding(50, price=11)])
    assert judge(limited(45, 10), known, limits).decision is PASS
    assert told(judge(limited(46, 10), known, limits), "max_position_value") == ("1000", "1010")
    other = facts(holdings=[holding(50, price=11, strategy="other")])
    assert told(judge(limited(46, 10), other, limits), "max_position_value") == ("1000", "1010")


@pytest.mark.parametrize(
    ("limits", "holdings", "reasons"),
    [
        ({"max_position_quantity": 100}, None, ["max_position_quantity"]),
        ({"max_position_quantity": 100}, [holding(None)], ["max_position_quantity"]),
        ({"max_position_value": 5_000}, [holding(None)], ["max_position_value"]),
        ({"max_position_value": 5_000}, [holding(5, price=None)], ["max_position_value"]),
        ({"max_gross_exposure": 5_000}, [holding(5, price=None, strategy="other")], ["max_gross_exposure"]),
        ({"max_net_exposure": 5_000}, [holding(None, instrument_key="other")], ["max_net_exposure"]),
        ({"max_net_exposure": 5_000}, None, ["max_net_exposure"]),
        ({"max_leverage": 5}, None, ["max_leverage"]),
        ({"max_order_value": 5_000}, None, []),
        ({}, None, []),
    ],
)
def test_an_unknown_position_refuses_what_a_written_limit_needs_it_for(
    limits: dict[str, Any], holdings: Any, reasons: list[str]
) -> None:
    assert refused_for(judge(buying(1), facts(holdings=holdings), written(**limits))) == reasons


def test_gross_and_net_exposure_of_account_strategy_and_symbol() -> None:
    limits = tables(
        (Scope(), {"max_gross_exposure": 5_000, "max_net_exposure": 2_000}),
        (Scope(strategy=STRATEGY), {"max_gross_exposure": 2_500}),
        (Scope(symbol=SYMBOL), {"max_gross_exposure": 1_500}),
    )
    known = facts(
        holdings=[
            holding(50),
            holding(-200, strategy="other", instrument_key="MSFT|STOCK", symbol="MSFT"),
            holding(100, instrument_key="TSLA|STOCK", symbol="TSLA"),
        ]
    )
    verdict = judge(buying(100), known, limits)
    figures = {(use.limit.value, str(use.total)): use.actual_value for use in verdict.uses if "exposure" in use.limit}
    assert figures == {
        ("max_gross_exposure", "account:acct-1"): 4_500,
        ("max_gross_exposure", "account:acct-1+strategy:momentum"): 2_500,
        ("max_gross_exposure", "account:acct-1+symbol:AAPL"): 1_500,
        ("max_net_exposure", "account:acct-1"): 500,
    }
    assert verdict.decision is PASS
    more = judge(buying(151), known, limits)
    assert [b.limit_value for b in more.breaches] == ["5000", "2500", "1500"]


def test_an_order_that_lowers_the_net_exposure_passes_where_that_is_too_high_already() -> None:
    known = facts(holdings=[holding(300, instrument_key="MSFT|STOCK", symbol="MSFT")])
    limits = written(max_net_exposure=2_000)
    assert judge(selling(100), known, limits).decision is PASS
    assert refused_for(judge(buying(1), known, limits)) == ["max_net_exposure"]


@pytest.mark.parametrize(
    ("equity", "reasons"),
    [
        (Reading(value=Decimal(500), at=NOW), []),
        (Reading(value=Decimal("499.99"), at=NOW), ["max_leverage"]),
        (Reading(value=Decimal(500), at=at(-300)), []),
        (Reading(value=Decimal(500), at=at(-301)), ["max_leverage"]),
        (Reading(value=Decimal(0), at=NOW), ["max_leverage"]),
        (None, ["max_leverage"]),
    ],
)
def test_leverage(equity: Reading | None, reasons: list[str]) -> None:
    known = facts(holdings=[holding(50)], equity=equity)
    assert refused_for(judge(buying(50), known, written(max_leverage=2))) == reasons


def test_an_equity_below_one_is_one() -> None:
    poor = facts(equity=Reading(value=Decimal("0.5"), at=NOW))
    assert told(judge(buying(1), poor, written(max_leverage=10)), "max_leverage") == ("10", "20")


def test_where_no_age_is_too_old_any_balance_is_taken() -> None:
    old = Reading(value=Decimal(500), at=at(-900_000))
    limits = written(max_leverage=2, balance_max_age_seconds=OFF, check_buying_power=True)
    verdict = judge(buying(60), facts(equity=old, buying_power=old), limits)
    assert told(verdict, "check_buying_power") == ("500", "600")
    assert refused_for(verdict) == ["check_buying_power"]


def test_a_leverage_without_end_of_digits_is_compared_exactly_and_shown_as_a_breach() -> None:
    known = facts(equity=Reading(value=Decimal("333.333333"), at=NOW))
    verdict = judge(buying(100), known, written(max_leverage=3))  # 1,000 by it are 3.000000003
    assert told(verdict, "max_leverage") == ("3", "3.000001")
    assert "the gross exposure by the equity would be 3.000001, the limit is 3 " in verdict.breaches[0].message


def test_a_hedge_raises_no_leverage_that_is_too_high_already() -> None:
    poor = facts(holdings=[holding(50)], equity=Reading(value=Decimal(100), at=NOW))
    assert judge(selling(60), poor, written(max_leverage=2)).decision is PASS


@pytest.mark.parametrize(
    ("working", "power", "reasons"),
    [
        ([], Reading(value=Decimal(1_000), at=NOW), []),
        ([], Reading(value=Decimal("999.99"), at=NOW), ["check_buying_power"]),
        ([works(50)], Reading(value=Decimal(1_499), at=NOW), ["check_buying_power"]),
        ([works(50)], Reading(value=Decimal(1_500), at=NOW), []),
        ([works(50, is_exit=True)], Reading(value=Decimal(1_000), at=NOW), []),
        ([works(50, price=None)], Reading(value=Decimal(90_000), at=NOW), ["check_buying_power"]),
        ([works(50, is_paid_in_full=False)], Reading(value=Decimal(90_000), at=NOW), ["check_buying_power"]),
        ([], Reading(value=Decimal(90_000), at=at(-301)), ["check_buying_power"]),
        ([], None, ["check_buying_power"]),
    ],
)
def test_buying_power_less_what_is_reserved(working: list[Any], power: Reading | None, reasons: list[str]) -> None:
    known = facts(working=working, buying_power=power)
    assert refused_for(judge(buying(100), known, written(check_buying_power=True))) == reasons
    assert judge(buying(100), known, written(check_buying_power=False)).decision is PASS


@pytest.mark.parametrize("kind", [AssetClass.FUTURE, AssetClass.CFD, AssetClass.FOREX])
def test_what_is_traded_on_margin_takes_an_unknown_part_of_the_buying_power(kind: AssetClass) -> None:
    traded = Instrument(symbol="ES", asset_class=kind)
    verdict = judge(buying(1, instrument=traded), facts(buying_power=Reading(value=Decimal(1), at=NOW)), RiskLimits())
    assert verdict.decision is PASS
    assert [each.limit.value for each in verdict.unjudged] == ["check_buying_power"]
    assert verdict.reservation is not None
    assert not verdict.reservation.is_paid_in_full


@pytest.mark.parametrize(
    ("holdings", "working", "about", "reasons"),
    [
        ([holding(100)], [], selling(101), ["allow_short"]),
        ([holding(100)], [works(1, SELL)], selling(100), ["allow_short"]),
        ([], [], selling(1), ["allow_short"]),
        ([holding(100, strategy="other")], [], selling(1), ["allow_short"]),
        ([holding(100)], [], selling(100), []),
        ([], [], buying(1), []),
        (None, [], selling(1), ["allow_short"]),
        (None, [], buying(1), []),
    ],
)
def test_without_short_permission_nothing_is_sold_that_is_not_held(
    holdings: Any, working: list[Any], about: Order, reasons: list[str]
) -> None:
    verdict = judge(about, facts(holdings=holdings, working=working), written(allow_short=False))
    assert refused_for(verdict) == reasons
    if reasons:
        short = None if holdings is None else "100" if holdings and holdings[0].quantity == 0 else "1"
        assert told(verdict, "allow_short") == ("false", short)


# --- exits -----------------------------------------------------------------------------------------------------------

EVERYTHING_BROKEN = {
    "max_order_quantity": 1,
    "max_order_value": 1,
    "max_position_quantity": 1,
    "max_position_value": 1,
    "max_gross_exposure": 1,
    "max_net_exposure": 1,
    "max_open_orders": 0,
    "max_orders_per_minute": 1,
    "max_orders_per_day": 0,
    "max_daily_loss": 1,
    "max_drawdown_pct": 1,
    "price_collar_pct": "0.01",
    "duplicate_window_seconds": 3600,
    "repeated_executions": Repetition(count=1, window_seconds=Decimal(3600)),
    "max_consecutive_rejections": 1,
    "allowed_symbols": frozenset[str](),
    "allowed_order_types": frozenset[OrderType](),
    "session": SessionRule.HOLD,
    "max_leverage": "0.001",
    "check_buying_power": True,
    "allow_short": False,
    "min_confidence": 1,
    "max_slippage_pct": "0.01",
    "min_stop_distance_pct": 50,
}


def everything_known(holdings: Any, working: Any = (), **changes: Any) -> Facts:
    """A closed market, a spent account, a run of rejections, an unsafe world."""
    trade = {"strategy": STRATEGY, "symbol": SYMBOL}
    twin = order(of=identity("twin"), side=SELL)
    counters = counted(
        sent(twin, NOW),
        sent(order(of=identity("twin-2"), side=SELL), NOW),
        Executed(at=NOW, fill_id="f", order_id="o", **trade),
        Answered(at=NOW, order_id="o", attempt=1, is_rejected=True, **trade),
        Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(100)),
        Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(50)),
        Trip(scope=OF_ACCOUNT, limit=LimitType.MAX_CONSECUTIVE_REJECTIONS, value="9", at=NOW),
    )
    usual = facts(
        holdings=holdings,
        working=working,
        counters=counters,
        session=Session(is_open=False, opens_at=at(3600)),
        safety=("it does not answer",),
        buying_power=None,
        equity=None,
        kill=KillState((Switch(scope=Scope(), level=KillLevel.REDUCE_ONLY, by="ann", reason="r"),)),
    )
    return replace(usual, **changes)


def test_an_exit_passes_every_limit_at_once_whatever_is_known() -> None:
    about = limited(100, 20, SELL, stop_loss=amount(21))
    limits = written(**EVERYTHING_BROKEN)
    blocked = judge(about, everything_known([]), limits)
    assert set(refused_for(blocked)) == {
        "kill_switch",
        "safety_service",
        *EVERYTHING_BROKEN.keys() - {"session", "max_orders_per_minute", "max_slippage_pct"},
    }
    verdict = judge(about, everything_known([holding(100)]), limits)
    assert (verdict.decision, verdict.is_exit, verdict.breaches, verdict.waits) == (PASS, True, (), ())
    assert verdict.unjudged == ()
    assert verdict.reservation == works(100, SELL, price=20, name=about.order_id, is_exit=True)
    blind = judge(
        about,
        everything_known([holding(100)], kill=KillState(is_known=False), prices=(), account_currency=None),
        limits,
    )
    assert blind.decision is PASS


@pytest.mark.parametrize(
    ("held", "working", "about", "is_exit", "room"),
    [
        (100, [], selling(100), True, 100),
        (100, [], selling(101), False, 100),
        (100, [works(1, SELL)], selling(100), False, 99),
        (100, [works(500)], selling(100), True, 100),
        (-100, [], buying(100), True, 100),
        (-100, [], buying(100, signal_type="ENTRY"), True, 100),
        (-100, [works(40)], buying(61), False, 60),
        (0, [], selling(1, signal_type="EXIT"), False, 0),
        (0, [works(100)], selling(100), False, 0),
        (100, [works(100, SELL, strategy="other")], selling(100), True, 100),
        (100, [works(100, SELL, instrument_key="other")], selling(100), True, 100),
    ],
)
def test_an_exit_is_decided_by_projected_exposure(
    held: int, working: list[Any], about: Order, is_exit: bool, room: int
) -> None:
    verdict = judge(about, facts(holdings=[holding(held)], working=working), RiskLimits())
    assert (verdict.is_exit, verdict.exit_room) == (is_exit, room)


@pytest.mark.parametrize(
    ("holdings", "changes"),
    [
        (None, {}),
        ([holding(None)], {}),
        ([], {}),
        ([holding(100, strategy="other")], {}),
        ([holding(100)], {"exit_cap": Decimal(99)}),
        ([holding(100)], {"exit_cap": Decimal(0)}),
    ],
)
def test_what_is_not_known_or_not_there_makes_no_exit(holdings: Any, changes: dict[str, Any]) -> None:
    limits = written(max_order_quantity=1)
    verdict = judge(selling(100), facts(holdings=holdings, **changes), limits)
    assert not verdict.is_exit
    assert refused_for(verdict) == ["max_order_quantity"]


def test_a_comparison_that_lets_enough_leave_changes_nothing() -> None:
    assert judge(selling(100), facts(holdings=[holding(100)], exit_cap=Decimal(100)), RiskLimits()).is_exit


def test_an_order_that_reserves_already_is_judged_as_if_it_did_not() -> None:
    about = selling(100)
    known = facts(holdings=[holding(100)], working=[works(100, SELL, name=about.order_id)])
    assert judge(about, known, RiskLimits()).is_exit
    entry = buying(100)
    again = facts(working=[works(100, name=entry.order_id)], buying_power=Reading(value=Decimal(1_000), at=NOW))
    limits = written(max_open_orders=1, max_position_quantity=100, check_buying_power=True)
    assert judge(entry, again, limits).decision is PASS


# --- the stops -------------------------------------------------------------------------------------------------------


EVERYBODY = Scope()


def killed(level: KillLevel | None, scope: Scope = EVERYBODY) -> KillState:
    return KillState((Switch(scope=scope, level=level, by="ann", reason="too many losses"),))


@pytest.mark.parametrize(
    ("kill", "holdings", "reasons"),
    [
        (killed(KillLevel.REDUCE_ONLY), [], ["kill_switch"]),
        (killed(KillLevel.REDUCE_ONLY), [holding(100)], []),
        (killed(KillLevel.REDUCE_ONLY), [holding(99)], ["kill_switch"]),
        (killed(KillLevel.HALT), [holding(100)], ["kill_switch"]),
        (killed(KillLevel.HALT), [], ["kill_switch"]),
        (killed(KillLevel.HALT, Scope(symbol="MSFT")), [], []),
        (killed(KillLevel.HALT, Scope(strategy=STRATEGY, symbol=SYMBOL)), [], ["kill_switch"]),
        (killed(None), [], []),
    ],
)
def test_the_kill_switch(kill: KillState, holdings: list[Any], reasons: list[str]) -> None:
    verdict = judge(selling(100), facts(holdings=holdings, kill=kill), RiskLimits())
    assert refused_for(verdict) == reasons
    assert all(breach.limit_value == "armed" for breach in verdict.breaches)
    if reasons:
        assert "engaged" in verdict.breaches[0].message
        assert "too many losses" in verdict.breaches[0].message
        assert verdict.breaches[0].actual_value == kill.switches[0].level


def test_beside_a_halt_no_switch_says_that_something_could_leave_as_an_exit() -> None:
    both = (*killed(KillLevel.REDUCE_ONLY).switches, *killed(KillLevel.HALT, Scope(symbol=SYMBOL)).switches)
    verdict = judge(selling(100), facts(holdings=[holding(99)], kill=KillState(both)), RiskLimits())
    assert len(verdict.breaches) == 2
    assert not any("could leave" in breach.message for breach in verdict.breaches)


@pytest.mark.parametrize(
    ("level", "held", "told"),
    [
        (KillLevel.REDUCE_ONLY, 99, "; as an exit 99 could leave"),
        (KillLevel.REDUCE_ONLY, 0, None),
        (KillLevel.REDUCE_ONLY, -5, None),
        (KillLevel.HALT, 99, None),
    ],
)
def test_a_flip_that_a_kill_switch_refuses_is_told_how_much_could_leave(
    level: KillLevel, held: int, told: str | None
) -> None:
    verdict = judge(selling(100), facts(holdings=[holding(held)], kill=killed(level)), RiskLimits())
    (breach,) = verdict.breaches
    assert verdict.decision is REFUSE
    assert ("could leave" in breach.message) is (told is not None)
    assert breach.message.endswith(told or "too many losses")


@pytest.mark.parametrize(
    ("last_known", "holdings", "decision"),
    [
        (KillState(), [], HOLD),
        (KillState(), [holding(99)], HOLD),
        (KillState(), [holding(100)], PASS),
        (killed(KillLevel.REDUCE_ONLY), [], HOLD),
        (killed(KillLevel.REDUCE_ONLY), [holding(100)], PASS),
        (killed(KillLevel.HALT), [], HOLD),
        (killed(KillLevel.HALT), [holding(100)], REFUSE),
        (killed(KillLevel.HALT, Scope(symbol="MSFT")), [holding(100)], PASS),
    ],
)
def test_while_the_switches_cannot_be_read_new_risk_waits_and_exits_go_by_what_was_known(
    last_known: KillState, holdings: list[Any], decision: Decision
) -> None:
    verdict = judge(selling(100), facts(holdings=holdings, kill=replace(last_known, is_known=False)), RiskLimits())
    assert verdict.decision is decision
    if decision is HOLD:
        assert [(wait.limit_type, wait.limit_value) for wait in verdict.waits] == [("kill_switch", "known")]
        assert "not known" in verdict.waits[0].message
        assert (verdict.hold_until, verdict.reservation) == (None, None)


@pytest.mark.parametrize(
    ("rule", "session", "holdings", "decision"),
    [
        (SessionRule.IGNORE, None, [], PASS),
        (SessionRule.IGNORE, Session(is_open=False), [], PASS),
        (SessionRule.HOLD, Session(is_open=True), [], PASS),
        (SessionRule.REFUSE, Session(is_open=True), [], PASS),
        (SessionRule.HOLD, Session(is_open=False, opens_at=at(60)), [], HOLD),
        (SessionRule.REFUSE, Session(is_open=False, opens_at=at(60)), [], REFUSE),
        (SessionRule.HOLD, None, [], REFUSE),
        (SessionRule.REFUSE, None, [], REFUSE),
        (SessionRule.HOLD, Session(is_open=False), [holding(100)], PASS),
        (SessionRule.REFUSE, Session(is_open=False), [holding(100)], REFUSE),
        (SessionRule.HOLD, None, [holding(100)], PASS),
        (SessionRule.REFUSE, None, [holding(100)], PASS),
    ],
)
def test_a_closed_market(rule: SessionRule, session: Session | None, holdings: list[Any], decision: Decision) -> None:
    verdict = judge(selling(100), facts(holdings=holdings, session=session), written(session=rule))
    assert verdict.decision is decision
    if decision is HOLD:
        assert verdict.hold_until == at(60)
        assert verdict.waits[0].message == "the market is closed, it opens at 2025-03-03 15:01 UTC (all)"
        assert verdict.reservation is None


def test_a_closed_market_is_told_in_full() -> None:
    refuse = written(session=SessionRule.REFUSE)
    (closed,) = judge(buying(1), facts(session=Session(is_open=False)), refuse).breaches
    assert (closed.limit_type, closed.limit_value, closed.actual_value) == ("session", "refuse", "closed")
    assert closed.message == "the market is closed, it opens nobody knows when (all)"
    (unknown,) = judge(buying(1), facts(), refuse).breaches
    assert (unknown.limit_type, unknown.limit_value, unknown.actual_value) == ("session", "refuse", None)
    assert unknown.message == "it cannot be told whether the market is open (all)"
    about = buying(1)
    assert judge(about, facts(overrides=(override(about),)), refuse).decision is PASS


def test_what_stops_new_risk_is_told_in_full() -> None:
    trip = Trip(scope=OF_ACCOUNT, limit=LimitType.MAX_CONSECUTIVE_REJECTIONS, value="9", at=NOW)
    verdict = judge(
        buying(1),
        facts(counters=counted(trip), safety=("it does not answer",), kill=killed(KillLevel.REDUCE_ONLY)),
        RiskLimits(),
    )
    assert told(verdict, "max_consecutive_rejections") == ("enabled", "9")
    assert told(verdict, "safety_service") == ("normal", None)
    assert told(verdict, "kill_switch") == ("armed", "reduce_only")
    assert [breach.message for breach in verdict.breaches] == [
        "the kill switch of all is engaged (reduce_only, by ann): too many losses",
        "it does not answer",
        "max_consecutive_rejections was broken by account:acct-1 (9); off until a named person enables it again",
    ]


def test_an_opening_that_nobody_knows_is_waited_for_without_a_moment() -> None:
    limits = written(session=SessionRule.HOLD, max_orders_per_minute=1)
    counters = counted(sent(order(of=identity("o")), NOW))
    verdict = judge(buying(1), facts(session=Session(is_open=False), counters=counters), limits)
    assert (verdict.decision, verdict.hold_until) == (HOLD, None)
    known = judge(buying(1), facts(session=Session(is_open=False, opens_at=at(5)), counters=counters), limits)
    assert (known.hold_until, len(known.waits)) == (at(60), 2)


def test_who_breaks_a_limit_does_not_wait_for_another() -> None:
    limits = written(session=SessionRule.HOLD, max_order_quantity=1)
    verdict = judge(buying(2), facts(session=Session(is_open=False, opens_at=at(5))), limits)
    assert (verdict.decision, verdict.hold_until) == (REFUSE, None)
    assert [wait.limit_type for wait in verdict.waits] == ["session"]


# --- what is counted -------------------------------------------------------------------------------------------------


def test_open_orders_by_scope() -> None:
    limits = tables((Scope(), {"max_open_orders": 3}), (Scope(strategy=STRATEGY), {"max_open_orders": 2}))
    some = [works(name="a"), works(name="b", strategy="other")]
    assert judge(buying(1), facts(working=some), limits).decision is PASS
    own = judge(buying(1), facts(working=[*some, works(name="c")]), limits)
    assert [(b.limit_value, b.actual_value) for b in own.breaches] == [("3", "4"), ("2", "3")]
    others = judge(buying(1), facts(working=[*some, works(name="c", strategy="other")]), limits)
    assert [(b.limit_value, b.actual_value) for b in others.breaches] == [("3", "4")]


def orders_sent(count: int, seconds: float = 0.0, **changes: Any) -> list[Happened]:
    return [sent(order(of=identity(f"sent-{seconds}-{n}"), **changes), at(seconds)) for n in range(count)]


def test_orders_a_minute_wait_and_cancels_have_a_reserve() -> None:
    limits = written(max_orders_per_minute=10)
    cancels = [CancelSent(at=NOW, strategy=STRATEGY, symbol=SYMBOL)] * 2
    last = judge(buying(1), facts(counters=counted(*orders_sent(9))), limits)
    assert last.decision is PASS
    assert [u.actual_value for u in last.uses if u.limit is LimitType.MAX_ORDERS_PER_MINUTE] == [10]
    full = judge(buying(1), facts(counters=counted(*orders_sent(9, -5), *orders_sent(1, -30)), now=at(1)), limits)
    assert (full.decision, full.hold_until) == (HOLD, at(30))
    assert full.waits[0].limit_type == "max_orders_per_minute"
    assert (full.waits[0].limit_value, full.waits[0].actual_value) == ("10", "11")
    assert judge(buying(1), facts(counters=counted(*orders_sent(9), *cancels)), limits).decision is PASS
    storm = judge(buying(1), facts(counters=counted(*orders_sent(9), *cancels, cancels[0])), limits)
    assert storm.decision is HOLD
    assert "9 orders and 3 cancels" in storm.waits[0].message
    few = facts(counters=counted(*orders_sent(1), cancels[0]))
    assert (
        judge(buying(1), few, written(max_orders_per_minute=2)).decision is PASS
    )  # a part of a message is a whole one
    unreserved = written(max_orders_per_minute=10, cancel_reserve_pct=OFF)
    assert judge(buying(1), facts(counters=counted(*orders_sent(9), cancels[0])), unreserved).decision is HOLD


def test_orders_a_day_are_those_of_the_accounts_day() -> None:
    limits = written(max_orders_per_day=2)
    assert judge(buying(1), facts(counters=counted(*orders_sent(1))), limits).decision is PASS
    many = facts(counters=counted(*orders_sent(2)))
    assert told(judge(buying(1), many, limits), "max_orders_per_day") == ("2", "3")
    next_day = replace(many, now=NOW + timedelta(days=1), prices=())
    assert judge(buying(1), next_day, limits).decision is PASS


@pytest.mark.parametrize("limits", [{"max_orders_per_day": 2}, {"max_orders_per_minute": 2, "cancel_reserve_pct": OFF}])
def test_an_order_that_is_counted_already_does_not_count_against_itself(limits: dict[str, Any]) -> None:
    """It was reserved and counted, nothing was sent, and it is judged again."""
    about = buying(1)
    counters = counted(*orders_sent(1), sent(about, NOW))
    again = judge(about, facts(counters=counters, working=[works(1, name=about.order_id)]), written(**limits))
    assert again.decision is PASS
    other = judge(buying(1, signal_id="c"), facts(counters=counters), written(**limits))
    assert other.decision is not PASS


def test_the_same_content_within_the_window_is_refused() -> None:
    limits = written(duplicate_window_seconds=10)
    twin = order(of=identity("twin"), quantity=5, strategy="other")
    known = facts(counters=counted(sent(twin, NOW)), now=at(9))
    assert told(judge(buying(5), known, limits), "duplicate_window_seconds") == ("10", twin.order_id)
    assert judge(buying(6), known, limits).decision is PASS
    assert judge(buying(5, signal_id="twin"), known, limits).decision is PASS
    assert judge(buying(5), replace(known, now=at(10)), limits).decision is PASS


def test_a_run_of_rejections_stops_until_a_named_person_enables_the_scope() -> None:
    limits = written(max_consecutive_rejections=2)
    answers = [
        Answered(at=NOW, order_id=f"o{n}", attempt=1, strategy=STRATEGY, symbol=SYMBOL, is_rejected=True)
        for n in range(2)
    ]
    assert judge(buying(1), facts(counters=counted(answers[0])), limits).decision is PASS
    verdict = judge(buying(1), facts(counters=counted(*answers)), limits)
    assert told(verdict, "max_consecutive_rejections") == ("2", "2")
    assert verdict.trips == (Trip(scope=OF_ACCOUNT, limit=LimitType.MAX_CONSECUTIVE_REJECTIONS, value="2", at=NOW),)
    enabled = counted(*answers, verdict.trips[0], Enabled(at=NOW, scope=OF_ACCOUNT, by="bob", reason="mended"))
    assert judge(buying(1), facts(counters=enabled), limits).decision is PASS


def test_what_tripped_stays_off_when_the_window_has_passed() -> None:
    limits = written(repeated_executions=Repetition(count=3, window_seconds=Decimal(60)))
    fills = [Executed(at=NOW, fill_id=f"f{n}", order_id="o", strategy=STRATEGY, symbol=SYMBOL) for n in range(3)]
    assert judge(buying(1), facts(counters=counted(*fills[:2])), limits).decision is PASS
    verdict = judge(buying(1), facts(counters=counted(*fills)), limits)
    assert told(verdict, "repeated_executions") == ("3 in 60 s", "3")
    (trip,) = verdict.trips
    assert trip.scope == WHERE
    assert [use.actual_value for use in verdict.uses if use.limit is LimitType.REPEATED_EXECUTIONS] == [3]
    later = replace(facts(counters=counted(*fills, trip)), now=at(7200), prices=(quote(10, at(7200)),))
    assert refused_for(judge(buying(1), later, limits)) == ["repeated_executions"]
    other = buying(1, instrument=Instrument(symbol="MSFT"))
    assert judge(other, later, limits).decision is PASS


def test_a_stale_run_of_others_is_not_this_strategys() -> None:
    limits = tables((Scope(strategy=STRATEGY), {"max_consecutive_rejections": 1}))
    other = Answered(at=NOW, order_id="o", attempt=1, strategy="other", symbol=SYMBOL, is_rejected=True)
    assert judge(buying(1), facts(counters=counted(other)), limits).decision is PASS


@pytest.mark.parametrize(
    ("readings", "seconds", "reasons"),
    [
        ((1_000, 901), 0, []),
        ((1_000, 900), 0, ["max_daily_loss"]),
        ((1_000, 1_500, 950), 0, []),
        ((), 0, ["max_daily_loss"]),
        ((1_000, 990), 300, []),
        ((1_000, 990), 301, ["max_daily_loss"]),
    ],
)
def test_the_daily_loss(readings: tuple[int, ...], seconds: int, reasons: list[str]) -> None:
    events = [Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(value)) for value in readings]
    known = facts(counters=counted(*events), now=at(seconds), prices=())
    assert refused_for(judge(buying(1), known, written(max_daily_loss=100))) == reasons


def test_a_strategys_daily_loss_is_measured_by_its_own_result() -> None:
    own = Scope(account_id=ACCOUNT, strategy=STRATEGY)
    events = [Measured(at=NOW, scope=own, value=Decimal(value)) for value in (0, -50)]
    limits = tables((Scope(strategy=STRATEGY), {"max_daily_loss": 50}))
    verdict = judge(buying(1), facts(counters=counted(*events)), limits)
    assert told(verdict, "max_daily_loss") == ("50", "50")
    other = judge(buying(1, strategy="other"), facts(counters=counted(*events)), limits)
    assert other.decision is PASS


@pytest.mark.parametrize(
    ("readings", "seconds", "reasons"),
    [
        ((1_000, 2_000, 1_801), 0, []),
        ((1_000, 2_000, 1_800), 0, ["max_drawdown_pct"]),
        ((0,), 0, ["max_drawdown_pct"]),
        ((), 0, ["max_drawdown_pct"]),
        ((1_000,), 301, ["max_drawdown_pct"]),
    ],
)
def test_the_drawdown_from_the_peak(readings: tuple[int, ...], seconds: int, reasons: list[str]) -> None:
    events = [Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(value)) for value in readings]
    known = facts(counters=counted(*events), now=at(seconds), prices=())
    verdict = judge(buying(1), known, written(max_drawdown_pct=10))
    assert refused_for(verdict) == reasons
    figures = [use.actual_value for use in verdict.uses if use.limit is LimitType.MAX_DRAWDOWN_PCT]
    known_figure = {1_801: Decimal("9.95"), 1_800: Decimal(10)}.get(readings[-1] if readings else 0)
    assert figures == ([] if known_figure is None else [known_figure])
    if reasons:
        assert told(verdict, "max_drawdown_pct") == ("10", "10" if known_figure else None)


def test_a_profit_never_stops_anybody() -> None:
    events = [Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(value)) for value in (1_000, 9_000)]
    verdict = judge(buying(1), facts(counters=counted(*events)), written(max_daily_loss=1, max_drawdown_pct=1))
    assert verdict.decision is PASS
    assert [use.actual_value for use in verdict.uses if use.limit is LimitType.MAX_DAILY_LOSS] == [0]


# --- overrides -------------------------------------------------------------------------------------------------------


def override(about: Order, **changes: Any) -> Override:
    usual = Override(
        override_id="ovr-1",
        content=exact_content(about),
        by="ann",
        reason="agreed with the desk",
        at=NOW,
        expires_at=at(600),
    )
    return replace(usual, **changes)


def test_an_override_lets_one_order_of_that_content_through_and_keeps_its_reasons() -> None:
    refused, again = buying(100, signal_id="first"), buying(100, signal_id="second")
    limits = written(max_order_quantity=50)
    verdict = judge(again, facts(overrides=(override(refused),)), limits)
    assert (verdict.decision, verdict.override_id) == (PASS, "ovr-1")
    assert [breach.limit_type for breach in verdict.breaches] == ["max_order_quantity"]
    assert verdict.reservation is not None


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"used_by": "ord_another"}, 0),
        ({}, 600),
        ({}, -1),
        ({"content": "else"}, 0),
    ],
)
def test_an_override_that_is_used_over_or_for_another_content_lets_nothing_through(
    changes: dict[str, Any], seconds: int
) -> None:
    about = buying(100)
    known = facts(overrides=(override(about, **changes),), now=at(seconds))
    assert judge(about, known, written(max_order_quantity=50)).decision is REFUSE


def test_an_override_serves_the_order_that_used_it_once_more() -> None:
    about = buying(100)
    used = override(about).used(about)
    assert used.used_by == about.order_id
    verdict = judge(about, facts(overrides=(used,), now=at(599)), written(max_order_quantity=50))
    assert verdict.decision is PASS


def test_no_override_gets_past_a_stop_or_what_is_off() -> None:
    about = buying(100)
    one = (override(about),)
    trip = Trip(scope=OF_ACCOUNT, limit=LimitType.MAX_CONSECUTIVE_REJECTIONS, value="9", at=NOW)
    run = [
        Answered(at=NOW, order_id=f"o{n}", attempt=1, strategy=STRATEGY, symbol=SYMBOL, is_rejected=True)
        for n in range(20)
    ]
    closed = Session(is_open=False)
    for known, limits in (
        (facts(kill=killed(KillLevel.REDUCE_ONLY)), RiskLimits()),
        (facts(safety=("no",)), RiskLimits()),
        (facts(safety=("no",)), written(max_order_quantity=50)),
        (facts(counters=counted(trip)), RiskLimits()),
        (facts(counters=counted(*run)), RiskLimits()),
        (facts(session=closed), written(session=SessionRule.REFUSE)),
    ):
        verdict = judge(about, replace(known, overrides=one), limits)
        assert (verdict.decision, verdict.override_id) == (REFUSE, None)


def test_an_override_does_not_make_an_order_leave_before_its_time() -> None:
    about = buying(100)
    limits = written(max_order_quantity=50, session=SessionRule.HOLD)
    known = facts(overrides=(override(about),), session=Session(is_open=False, opens_at=at(9)))
    verdict = judge(about, known, limits)
    assert (verdict.decision, verdict.hold_until, verdict.reservation) == (HOLD, at(9), None)


def test_an_override_does_not_let_an_order_leave_while_the_switches_cannot_be_read() -> None:
    about = buying(100)
    known = facts(overrides=(override(about),), kill=KillState(is_known=False))
    assert judge(about, known, written(max_order_quantity=50)).decision is HOLD


def test_an_order_that_needs_no_override_uses_none() -> None:
    about = buying(100)
    assert judge(about, facts(overrides=(override(about),)), RiskLimits()).override_id is None


@pytest.mark.parametrize(
    "other",
    [
        buying(101),
        selling(100),
        buying(100, strategy="other"),
        buying(100, account_id="acct-2"),
        buying(100, instrument=Instrument(symbol="MSFT")),
        limited(100, 10),
    ],
)
def test_other_content_is_another_order(other: Order) -> None:
    assert exact_content(other) != exact_content(buying(100))
    assert exact_content(buying(100, signal_id="x")) == exact_content(buying(100))


def test_the_key_of_the_holding_is_the_ledgers() -> None:
    booked = replace(buying(100), booked_as="AAPL|STOCK|con_id=1")
    verdict = judge(booked, facts(), RiskLimits())
    assert verdict.reservation is not None
    assert verdict.reservation.instrument_key == "AAPL|STOCK|con_id=1"
    usual = judge(buying(100), facts(), RiskLimits()).reservation
    assert usual is not None
    assert usual.instrument_key == KEY


# --- what is built in for futures -------------------------------------------------------------------------------------


def gold(quantity: int, asset_class: AssetClass = AssetClass.FUTURE) -> Order:
    """At the market; one contract is worth 1,000."""
    return buying(quantity, instrument=Instrument(symbol="GC", asset_class=asset_class, multiplier=Decimal(100)))


@pytest.mark.parametrize(
    ("about", "reasons"),
    [
        (gold(10_000), []),
        (gold(10_001), ["max_order_value"]),
        (gold(1_000, AssetClass.OPTION), []),
        (gold(1_001, AssetClass.OPTION), ["max_order_value"]),
    ],
)
def test_ten_times_as_much_is_built_in_for_futures(about: Order, reasons: list[str]) -> None:
    verdict = judge(about, facts(buying_power=None), RiskLimits())
    assert refused_for(verdict) == reasons


def test_what_somebody_has_written_counts_for_futures_too() -> None:
    assert refused_for(judge(gold(2), facts(), written(max_order_value=1_999, check_buying_power=False))) == [
        "max_order_value"
    ]
    assert refused_for(judge(gold(20_000), facts(), written(max_order_value=OFF, check_buying_power=False))) == []


def test_an_amount_is_carried_over_by_a_rate_that_is_turned_around() -> None:
    rate = Rate(base="USD", quoted="EUR", rate=Decimal("0.8"), source="risk.toml", at=NOW)
    euros = facts(order_currency="EUR", rates=(rate,))
    assert refused_for(judge(buying(100), euros, written(max_order_value=1_250))) == []
    assert refused_for(judge(buying(100), euros, written(max_order_value=1_249))) == ["max_order_value"]
    other = replace(rate, base="GBP")
    assert refused_for(judge(buying(100), replace(euros, rates=(other,)), written(max_order_value=9_999))) == [
        "max_order_value"
    ]
