"""How urgently a plan is carried out: which stance counts where, and how orders are sent under each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from brokers.base import OrderType, Side, Tif
from execution_service.core.planning import stances
from execution_service.core.planning.plan import LegReason, Phase
from execution_service.core.planning.stances import (
    StanceChange,
    StanceRecord,
    StanceRefused,
    Stances,
    stance_from_document,
    stance_to_document,
    stances_of,
    with_stance,
)
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.planning.terms import Chosen, Conduct, choose, is_too_tame
from execution_service.core.risk.kill import KillLevel, Switch
from execution_service.core.risk.limits import Scope
from tests.builders import NOW

PASSIVE, NORMAL, URGENT, EMERGENCY = Aggressiveness
HERE = Scope(account_id="acc", strategy="growth", symbol="AAPL")
ALL, ACCOUNT, STRATEGY = Scope(), Scope(account_id="acc"), Scope(strategy="growth")
MARKET = Conduct(price=Decimal(100), bid=Decimal("99.9"), ask=Decimal("100.1"))


def stance(
    scope: Scope,
    word: Aggressiveness,
    *,
    before: StanceRecord | None = None,
    after_seconds: int = 0,
    lasts_seconds: int | None = None,
    comes_after_seconds: int | None = None,
    command_id: str | None = None,
    by: str = "Ada",
    reason: str = "the model says so",
) -> StanceRecord:
    at = NOW + timedelta(seconds=after_seconds)
    return with_stance(
        before,
        scope,
        word,
        by=by,
        reason=reason,
        asked_at=at,
        now=at if comes_after_seconds is None else NOW + timedelta(seconds=comes_after_seconds),
        until=None if lasts_seconds is None else at + timedelta(seconds=lasts_seconds),
        command_id=command_id or f"{scope}-{word}-{after_seconds}",
    )


def counts(*records: StanceRecord, planned: Aggressiveness = NORMAL, after_seconds: int = 0) -> Aggressiveness:
    return Stances(records=records).of(HERE, planned, NOW + timedelta(seconds=after_seconds))


# --- which one counts -----------------------------------------------------------------------------------------------


def test_without_a_stance_the_plan_is_carried_out_as_it_says() -> None:
    assert [counts(planned=each) for each in Aggressiveness] == list(Aggressiveness)


def test_the_narrowest_scope_counts_before_the_plan() -> None:
    assert counts(stance(ALL, PASSIVE), stance(STRATEGY, URGENT), planned=PASSIVE) is URGENT
    assert counts(stance(Scope(account_id="other"), URGENT)) is NORMAL


def test_normal_in_a_narrow_scope_leaves_the_wider_ones_in_force() -> None:
    assert counts(stance(ALL, URGENT), stance(STRATEGY, NORMAL)) is URGENT


def test_an_emergency_anywhere_wins() -> None:
    assert counts(stance(ALL, EMERGENCY), stance(STRATEGY, PASSIVE)) is EMERGENCY
    assert counts(stance(STRATEGY, PASSIVE), planned=EMERGENCY) is EMERGENCY


def test_of_two_as_narrow_ones_the_later_counts() -> None:
    one, other = stance(ACCOUNT, PASSIVE), stance(ACCOUNT, URGENT, after_seconds=5)
    assert counts(one, other) is counts(other, one) is URGENT


def test_a_stance_that_has_run_out_says_nothing() -> None:
    record = stance(ALL, EMERGENCY, lasts_seconds=60)
    assert counts(record, after_seconds=59) is EMERGENCY
    assert counts(record, after_seconds=60) is NORMAL


def test_in_doubt_about_the_stance_only_reductions_pass() -> None:
    assert Stances(is_known=False).of(HERE, URGENT, NOW) is EMERGENCY
    assert Stances(doubtful=(ACCOUNT,)).of(HERE, NORMAL, NOW) is EMERGENCY
    assert Stances(doubtful=(Scope(account_id="other"),)).of(HERE, NORMAL, NOW) is NORMAL


def test_an_emergency_elsewhere_stops_nothing_here() -> None:
    assert not Stances(records=(stance(Scope(account_id="other"), EMERGENCY),)).is_emergency(HERE, NOW)


def test_an_emergency_is_reduce_only_to_whoever_sends_orders() -> None:
    known = Stances(records=(stance(ACCOUNT, EMERGENCY), stance(ALL, URGENT)), doubtful=(STRATEGY,))
    assert known.switches(NOW) == (
        Switch(
            scope=ACCOUNT,
            version=1,
            level=KillLevel.REDUCE_ONLY,
            engaged_at=NOW,
            by="Ada",
            reason="stance EMERGENCY: the model says so",
        ),
        Switch(scope=STRATEGY, level=KillLevel.REDUCE_ONLY, by="nobody known", reason="its stance cannot be read"),
    )


# --- setting one ----------------------------------------------------------------------------------------------------


def test_one_command_sets_a_stance_once() -> None:
    first = stance(ALL, URGENT, command_id="c")
    assert stance(ALL, URGENT, before=first, command_id="c", after_seconds=9) is first
    second = stance(ALL, NORMAL, before=first, after_seconds=9)
    assert (second.version, [change.stance for change in second.history]) == (2, [URGENT, NORMAL])


def test_a_wish_that_comes_late_does_not_undo_what_was_said_after_it() -> None:
    emergency = stance(ALL, EMERGENCY, after_seconds=10)
    with pytest.raises(StanceRefused, match="after this was asked for"):
        stance(ALL, NORMAL, before=emergency, after_seconds=9)
    lifted = stance(ALL, NORMAL, before=emergency, after_seconds=20)
    assert stance(ALL, EMERGENCY, before=lifted, after_seconds=19).at(NOW + timedelta(seconds=20)) is EMERGENCY


@pytest.mark.parametrize("missing", ["by", "reason"])
def test_only_an_emergency_needs_neither_person_nor_reason(missing: str) -> None:
    nothing = {missing: " "}
    with pytest.raises(StanceRefused, match="must be named"):
        stance(ALL, NORMAL, **nothing)  # type: ignore[arg-type]
    assert stance(ALL, EMERGENCY, **nothing).at(NOW) is EMERGENCY  # type: ignore[arg-type]


def test_an_emergency_that_comes_late_does_not_shorten_the_one_that_holds() -> None:
    without_end = stance(ALL, EMERGENCY, after_seconds=300)
    assert stance(ALL, EMERGENCY, before=without_end, lasts_seconds=600).latest.until is None
    longer = stance(ALL, EMERGENCY, after_seconds=300, lasts_seconds=900)
    assert stance(ALL, EMERGENCY, before=longer, lasts_seconds=600).latest.until == longer.latest.until


def test_an_emergency_that_is_said_later_counts_as_it_is_said() -> None:
    without_end = stance(ALL, EMERGENCY)
    for seconds in (0, 5):
        shorter = stance(ALL, EMERGENCY, before=without_end, after_seconds=seconds, lasts_seconds=60, command_id="c")
        assert shorter.latest.until == NOW + timedelta(seconds=seconds + 60)


def test_an_emergency_without_an_end_that_comes_late_has_none() -> None:
    with_end = stance(ALL, EMERGENCY, after_seconds=300, lasts_seconds=900)
    assert stance(ALL, EMERGENCY, before=with_end).latest.until is None
    urgent = stance(ALL, URGENT, after_seconds=300)
    assert stance(ALL, EMERGENCY, before=urgent, lasts_seconds=900).latest.until == NOW + timedelta(seconds=900)


def test_a_wish_of_the_same_moment_is_taken() -> None:
    assert stance(ALL, NORMAL, before=stance(ALL, EMERGENCY)).latest.stance is NORMAL


def test_a_change_says_who_why_and_when_and_none_is_before_the_one_that_it_follows() -> None:
    first = stance(ALL, URGENT, after_seconds=10, by=" Ada ", reason=" gaps ", command_id="c-1")
    assert first.latest == StanceChange(
        version=1, stance=URGENT, at=NOW + timedelta(seconds=10), by="Ada", reason="gaps", command_id="c-1"
    )
    late = stance(ALL, EMERGENCY, before=first, after_seconds=5)
    assert (late.version, late.latest.at) == (2, NOW + timedelta(seconds=10))


def test_of_many_changes_the_latest_hundred_are_kept() -> None:
    record = stance(ALL, URGENT)
    for n in range(1, 102):
        record = stance(ALL, URGENT, before=record, after_seconds=n)
    assert (len(record.history), record.version, record.history[0].version) == (100, 102, 3)


def test_the_words_by_which_one_is_set() -> None:
    assert [*Aggressiveness, stances.HALT] == ["PASSIVE", "NORMAL", "URGENT", "EMERGENCY", "HALT"]


def test_a_stance_that_is_over_already_is_refused() -> None:
    with pytest.raises(StanceRefused, match="over already"):
        stance(ALL, EMERGENCY, lasts_seconds=0)


@pytest.mark.parametrize("word", list(Aggressiveness))
def test_a_stance_that_comes_when_it_is_over_is_refused_whatever_it_says(word: Aggressiveness) -> None:
    standing = stance(ALL, URGENT, after_seconds=-10)
    assert stance(ALL, word, before=standing, lasts_seconds=60, comes_after_seconds=59).latest.stance is word
    with pytest.raises(StanceRefused, match="over already"):
        stance(ALL, word, before=standing, lasts_seconds=60, comes_after_seconds=60)


def test_a_stance_that_was_set_in_time_is_set_when_its_command_comes_again_after_its_end() -> None:
    first = stance(ALL, EMERGENCY, lasts_seconds=60, command_id="c")
    assert stance(ALL, EMERGENCY, before=first, lasts_seconds=60, comes_after_seconds=90, command_id="c") is first


def test_a_stance_is_read_as_it_was_written() -> None:
    record = stance(HERE, EMERGENCY, lasts_seconds=60)
    document = stance_to_document(record)
    assert stance_from_document(document) == record
    assert stances_of([document, {"_id": "symbol:X"}]) == Stances(records=(record,), doubtful=(Scope(symbol="X"),))


@pytest.mark.parametrize("document", [
    {"_id": "account:acc"},
    {"_id": "account:acc", "version": 1, "record": {"scope": {"account_id": "acc"}, "history": []}},
    stance_to_document(stance(ACCOUNT, NORMAL)) | {"version": 2},
    stance_to_document(stance(STRATEGY, NORMAL)) | {"_id": "account:acc"},
    {"_id": "account:acc", "version": 1, "record": 7},
    {"_id": "account:acc", "version": 1, "record": {"scope": {}, "history": [{"version": 1, "stance": "?", "at": NOW}]}},
])  # fmt: skip
def test_one_that_cannot_be_read_is_in_doubt_for_its_scope(document: dict[str, object]) -> None:
    assert stances_of([document]).doubtful == (ACCOUNT,)
    assert stances_of([document | {"_id": "nonsense"}]).doubtful == (ALL,)
    assert stances_of([document | {"_id": 7}]).doubtful == (ALL,)


# --- the table ------------------------------------------------------------------------------------------------------


def sent(
    word: Aggressiveness, side: Side = Side.SELL, *, phase: Phase = Phase.REDUCE, rung: int = 0
) -> tuple[object, ...] | LegReason:
    chosen = choose(replace(MARKET, stance=word), side, phase, rung)
    if isinstance(chosen, LegReason):
        return chosen
    terms = chosen.terms
    return (
        terms.order_type.value,
        terms.limit_price and str(terms.limit_price),
        terms.tif.value,
        terms.timeout_seconds,
    )


def test_how_orders_are_sent_under_each_stance() -> None:
    assert sent(PASSIVE) == ("LIMIT", "100.1", "DAY", None)
    assert sent(PASSIVE, Side.BUY) == ("LIMIT", "99.9", "DAY", None)
    assert sent(NORMAL) == ("MARKET", None, "DAY", None)
    assert sent(URGENT) == ("LIMIT", "99.401", "IOC", None)
    assert sent(URGENT, Side.BUY, phase=Phase.INCREASE) == ("LIMIT", "100.60", "IOC", None)
    assert sent(EMERGENCY) == ("LIMIT", "98.901", "DAY", 15)
    assert sent(EMERGENCY, rung=1) == ("LIMIT", "96.903", "DAY", 15)
    assert sent(EMERGENCY, Side.BUY, rung=2) == ("LIMIT", "110.11", "DAY", 15)


def test_an_emergency_increases_nothing() -> None:
    assert sent(EMERGENCY, phase=Phase.INCREASE) is LegReason.EMERGENCY_REDUCE_ONLY


def test_a_halt_beats_every_stance() -> None:
    for word in Aggressiveness:
        for phase in Phase:
            assert choose(replace(MARKET, stance=word, is_halted=True), Side.SELL, phase, 0) is LegReason.HALTED


def test_the_ladder_ends_without_a_market_order_unless_that_is_allowed() -> None:
    assert sent(EMERGENCY, rung=3) is LegReason.OUTSIDE_COLLAR
    allowing = replace(MARKET, stance=EMERGENCY, may_use_market=True)
    last = choose(allowing, Side.SELL, Phase.REDUCE, 3)
    assert isinstance(last, Chosen)
    assert (last.terms.order_type, last.is_followed) == (OrderType.MARKET, False)
    assert choose(allowing, Side.SELL, Phase.REDUCE, 4) is LegReason.OUTSIDE_COLLAR


def test_each_rung_but_a_market_order_is_followed_by_the_next() -> None:
    for rung in range(3):
        chosen = choose(replace(MARKET, stance=EMERGENCY), Side.SELL, Phase.REDUCE, rung)
        assert isinstance(chosen, Chosen)
        assert chosen.is_followed
    assert choose(MARKET, Side.SELL, Phase.REDUCE, 0) == Chosen(terms=chosen.terms.__class__())


@pytest.mark.parametrize("word", [PASSIVE, URGENT, EMERGENCY])
def test_without_a_price_no_limit_is_made_up(word: Aggressiveness) -> None:
    blind = Conduct(stance=word)
    assert choose(blind, Side.SELL, Phase.REDUCE, 0) is LegReason.NO_PRICE
    market = choose(replace(blind, may_use_market=True), Side.SELL, Phase.REDUCE, 0)
    is_market = isinstance(market, Chosen) and market.terms.order_type is OrderType.MARKET
    assert is_market is (word is EMERGENCY)


def test_where_the_broker_knows_no_immediate_or_cancel_a_time_out_takes_its_place() -> None:
    chosen = choose(replace(MARKET, stance=URGENT, takes_at_once=False), Side.SELL, Phase.REDUCE, 0)
    assert isinstance(chosen, Chosen)
    terms = chosen.terms
    assert (terms.order_type, terms.tif, terms.timeout_seconds) == (OrderType.LIMIT, Tif.DAY, 5)
    assert terms.limit_price == Decimal("99.401")


@pytest.mark.parametrize(("price", "side", "limit"), [
    ("150.25", Side.BUY, "151.00"), ("150.25", Side.SELL, "149.50"), ("0.012345", Side.BUY, "0.012406"),
    ("0.012345", Side.SELL, "0.012284"), ("43210.5", Side.BUY, "43426.55"),
])  # fmt: skip
def test_a_collar_is_never_passed_by_rounding(price: str, side: Side, limit: str) -> None:
    chosen = choose(Conduct(stance=URGENT, price=Decimal(price)), side, Phase.REDUCE, 0)
    assert isinstance(chosen, Chosen)
    assert chosen.terms.limit_price == Decimal(limit)
    assert (chosen.terms.limit_price - Decimal(price)) * side.sign <= Decimal(price) * Decimal("0.005")


def test_what_is_too_tame_for_the_present_makes_way() -> None:
    tame = {(one, other) for one in Aggressiveness for other in Aggressiveness if is_too_tame(one, other)}
    assert tame == {(PASSIVE, URGENT), (PASSIVE, EMERGENCY), (URGENT, EMERGENCY)}
