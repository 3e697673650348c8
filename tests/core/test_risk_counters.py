"""What is counted over time: windows, days, repetitions, runs of rejections and results, and that a clock set back frees nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import OrderType, Side
from execution_service.core.risk.counters import (
    OUTCOMES_KEPT,
    Answered,
    CancelSent,
    Counters,
    Enabled,
    Executed,
    Happened,
    Measured,
    Rebased,
    Sent,
    Trip,
    content_of,
    day_of,
    fold,
    fold_all,
    rolled,
    sent,
)
from execution_service.core.risk.documents import from_document, to_document
from execution_service.core.risk.limits import LimitType, Scope
from tests.builders import NOW, amount, at, identity, order
from tests.core.risk_cases import ACCOUNT, STRATEGY, SYMBOL, WHERE, buying

NEW_YORK = ZoneInfo("America/New_York")
KEEP = Decimal(60)
OF_ACCOUNT = Scope(account_id=ACCOUNT)
NONE = Counters(account_id=ACCOUNT)
MINUTE = Decimal(60)


def order_sent(name: str, seconds: float = 0.0, *, attempt: int = 1, **changes: str) -> Sent:
    usual = Sent(
        at=at(seconds),
        order_id=name,
        attempt=attempt,
        signal_id=f"signal of {name}",
        strategy=STRATEGY,
        symbol=SYMBOL,
        content="same",
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def after(*events: Happened, seconds: float = 0.0, of: Counters = NONE, keep: Decimal = KEEP) -> Counters:
    return fold_all(of, events, now=at(seconds), zone=UTC, keep_seconds=keep)


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_is_open_at_its_far_end() -> None:
    counters = after(order_sent("a"))
    assert counters.orders_within(OF_ACCOUNT, MINUTE, at(59.999)) == 1
    assert counters.orders_within(OF_ACCOUNT, MINUTE, at(60)) == 0


def test_orders_cancels_and_executions_are_counted_apart_and_by_scope() -> None:
    counters = after(
        order_sent("a"),
        order_sent("b", strategy="other"),
        order_sent("c", symbol="MSFT"),
        CancelSent(at=NOW, strategy=STRATEGY, symbol=SYMBOL),
        Executed(at=NOW, fill_id="f1", order_id="a", strategy=STRATEGY, symbol=SYMBOL),
        Executed(at=NOW, fill_id="f1", order_id="b", strategy="other", symbol=SYMBOL),
    )
    scopes = (OF_ACCOUNT, Scope(account_id=ACCOUNT, strategy=STRATEGY), Scope(account_id=ACCOUNT, symbol=SYMBOL), WHERE)
    assert [counters.orders_within(scope, MINUTE, NOW) for scope in scopes] == [3, 2, 2, 1]
    assert [counters.cancels_within(scope, MINUTE, NOW) for scope in scopes] == [1, 1, 1, 1]
    assert [counters.executions_within(scope, MINUTE, NOW) for scope in scopes] == [2, 1, 2, 1]
    assert [counters.orders_today(scope) for scope in scopes] == [3, 2, 2, 1]
    assert counters.orders_within(Scope(account_id="acct-2"), MINUTE, NOW) == 0


def test_an_event_that_is_told_again_counts_once() -> None:
    told = (
        order_sent("a"),
        Executed(at=NOW, fill_id="f1", order_id="a", strategy=STRATEGY, symbol=SYMBOL),
    )
    counters = after(*told, *told)
    assert counters.orders_today(OF_ACCOUNT) == 1
    assert counters.orders_within(OF_ACCOUNT, MINUTE, NOW) == 1
    assert counters.executions_within(OF_ACCOUNT, MINUTE, NOW) == 1
    assert after(order_sent("a", attempt=2), of=counters).orders_today(OF_ACCOUNT) == 2


def test_what_no_window_reaches_is_forgotten() -> None:
    counters = after(
        order_sent("a"),
        CancelSent(at=NOW, strategy=STRATEGY, symbol=SYMBOL),
        Executed(at=NOW, fill_id="f1", order_id="a", strategy=STRATEGY, symbol=SYMBOL),
    )
    later = after(order_sent("b", 61), seconds=61, of=counters)
    assert ([e.order_id for e in later.sent], later.cancels, later.executions) == (["b"], (), ())
    assert later.orders_today(OF_ACCOUNT) == 2


def test_the_first_of_a_window_tells_when_the_next_may_leave() -> None:
    counters = after(order_sent("a", 10), CancelSent(at=at(5), strategy=STRATEGY, symbol=SYMBOL), seconds=10)
    assert counters.earliest_within(OF_ACCOUNT, MINUTE, at(20)) == at(5)
    assert counters.earliest_within(OF_ACCOUNT, MINUTE, at(66)) == at(10)
    assert counters.earliest_within(OF_ACCOUNT, MINUTE, at(70)) is None
    assert counters.earliest_within(OF_ACCOUNT, MINUTE, at(-100)) == at(-100)


def test_a_moment_ahead_of_the_clock_lasts_one_window_from_when_that_is_seen() -> None:
    counters = after(order_sent("a", 0), seconds=0)
    back = after(CancelSent(at=at(-3000), strategy=STRATEGY, symbol=SYMBOL), seconds=-3000, of=counters)
    assert back.orders_within(OF_ACCOUNT, MINUTE, at(-2941)) == 1
    assert back.orders_within(OF_ACCOUNT, MINUTE, at(-2940)) == 0


def test_an_event_that_says_it_is_to_come_counts_from_now() -> None:
    counters = after(
        order_sent("a", 500),
        CancelSent(at=at(500), strategy=STRATEGY, symbol=SYMBOL),
        Executed(at=at(500), fill_id="f1", order_id="a", strategy=STRATEGY, symbol=SYMBOL),
    )
    assert (counters.sent[0].at, counters.cancels[0].at, counters.executions[0].at) == (NOW, NOW, NOW)


# --- repeated content ------------------------------------------------------------------------------------------------


def test_the_same_content_of_another_signal_is_a_repetition() -> None:
    counters = after(order_sent("a"), order_sent("b", 1, content="else"), order_sent("c", 2), seconds=2)
    found = counters.like("same", Decimal(10), at(5), signal_id="new")
    assert found is not None
    assert found.order_id == "c"
    assert counters.like("same", Decimal(10), at(5), signal_id="signal of c") == counters.sent[0]
    assert counters.like("same", Decimal(3), at(5), signal_id="new") is None
    assert counters.like("other", Decimal(10), at(5), signal_id="new") is None


def test_content_is_account_instrument_side_and_quantity() -> None:
    same = content_of(buying(100))
    assert (
        content_of(buying("100.00", signal_id="b", strategy="other", order_type=OrderType.LIMIT, limit_price=amount(9)))
        == same
    )
    others = (buying(99), buying(100, side=Side.SELL), buying(100, account_id="acct-2"))
    assert all(content_of(each) != same for each in others)


def test_what_is_counted_of_an_order() -> None:
    about = order(of=identity("sig-9"))
    assert sent(about, NOW) == Sent(
        at=NOW,
        order_id=about.order_id,
        attempt=1,
        signal_id="sig-9",
        strategy=STRATEGY,
        symbol=SYMBOL,
        content=content_of(about),
    )


# --- days ------------------------------------------------------------------------------------------------------------


def test_a_day_is_that_of_the_accounts_zone() -> None:
    before, behind = datetime(2025, 3, 4, 4, 59, tzinfo=UTC), datetime(2025, 3, 4, 5, 0, tzinfo=UTC)
    assert day_of(before, NEW_YORK) == date(2025, 3, 3)
    assert day_of(behind, NEW_YORK) == date(2025, 3, 4)
    counters = fold(NONE, order_sent("a"), now=before, zone=NEW_YORK, keep_seconds=KEEP)
    assert rolled(counters, before, NEW_YORK).orders_today(OF_ACCOUNT) == 1
    assert rolled(counters, behind, NEW_YORK).orders_today(OF_ACCOUNT) == 0


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2025, 3, 9), 23), (date(2025, 11, 2), 25), (date(2025, 6, 1), 24)],
    ids=["clocks forward", "clocks back", "usual"],
)
def test_a_day_lasts_from_midnight_to_midnight_on_the_days_when_clocks_change(day: date, hours: int) -> None:
    begins = datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).astimezone(UTC)
    counters = rolled(NONE, begins, NEW_YORK)
    last = begins + timedelta(hours=hours) - timedelta(seconds=1)
    assert rolled(counters, last, NEW_YORK).day == day
    assert rolled(counters, last + timedelta(seconds=1), NEW_YORK).day == day + timedelta(days=1)


def test_counters_and_baselines_survive_a_restart() -> None:
    events = (order_sent("a"), Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal("100000.10")))
    counters = after(*events, Trip(scope=WHERE, limit=LimitType.REPEATED_EXECUTIONS, value="9", at=NOW))
    restarted = from_document(Counters, to_document(counters))
    assert restarted == counters
    assert after(order_sent("b", 5), seconds=5, of=restarted) == after(order_sent("b", 5), seconds=5, of=counters)


def test_a_clock_set_back_over_midnight_keeps_the_day_until_the_next_one() -> None:
    midnight = datetime(2025, 3, 4, tzinfo=UTC)
    counters = fold(NONE, order_sent("a"), now=midnight, zone=UTC, keep_seconds=KEEP)
    back = midnight - timedelta(hours=3)
    counters = fold(counters, order_sent("b"), now=back, zone=UTC, keep_seconds=KEEP)
    assert (counters.day, counters.orders_today(OF_ACCOUNT)) == (date(2025, 3, 4), 2)
    assert counters.is_day_ahead(back, UTC)
    again = rolled(counters, midnight + timedelta(hours=5), UTC)
    assert (again.orders_today(OF_ACCOUNT), again.is_day_ahead(midnight, UTC)) == (2, False)
    assert rolled(counters, midnight + timedelta(days=1), UTC).orders_today(OF_ACCOUNT) == 0
    assert not NONE.is_day_ahead(back, UTC)


def rebased(scope: Scope, seconds: float = 0.0) -> Rebased:
    return Rebased(at=at(seconds), scope=scope, by="bob", reason="the clock was wrong")


def test_a_clock_that_ran_ahead_is_put_right_by_a_person_and_frees_nothing() -> None:
    ahead = fold(NONE, order_sent("a"), now=NOW + timedelta(days=365), zone=UTC, keep_seconds=KEEP)
    assert rolled(ahead, NOW + timedelta(days=1), UTC).orders_today(OF_ACCOUNT) == 1
    right = after(rebased(OF_ACCOUNT), of=ahead)
    assert (right.day, right.orders_today(OF_ACCOUNT)) == (NOW.date(), 1)
    assert rolled(right, NOW + timedelta(days=1), UTC).orders_today(OF_ACCOUNT) == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-200_000, 400), st.booleans()), max_size=25))
def test_a_clock_that_jumps_back_never_frees_budget(steps: list[tuple[int, bool]]) -> None:
    """Against a reckoning by the time that really passed: `steps` are jumps back of the clock, or true seconds; never jumps ahead."""
    true_now, clock, counters = 0.0, 0.0, NONE
    orders: list[float] = []
    for number, (seconds, is_order) in enumerate(steps):
        clock += seconds
        true_now += max(0, seconds)
        if is_order:
            counters = after(order_sent(f"o{number}", clock), seconds=clock, of=counters)
            orders.append(true_now)
        really = sum(true_now - moment < 60 for moment in orders)
        assert counters.orders_within(OF_ACCOUNT, MINUTE, at(clock)) >= really
        day = timedelta(days=1).total_seconds()
        same_day = sum(int((15 * 3600 + m) // day) == int((15 * 3600 + true_now) // day) for m in orders)
        assert rolled(counters, at(clock), UTC).orders_today(OF_ACCOUNT) >= same_day


# --- rejections in a row ---------------------------------------------------------------------------------------------


def answered(name: str, is_rejected: bool = True, **changes: object) -> Answered:
    usual = Answered(at=NOW, order_id=name, attempt=1, strategy=STRATEGY, symbol=SYMBOL, is_rejected=is_rejected)
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_rejections_in_a_row_are_counted_for_each_scope_and_end_with_an_acceptance_there() -> None:
    counters = after(answered("a"), answered("b", symbol="MSFT"), answered("c", strategy="other"))
    of_strategy, of_symbol = Scope(account_id=ACCOUNT, strategy=STRATEGY), Scope(account_id=ACCOUNT, symbol=SYMBOL)
    scopes = (OF_ACCOUNT, of_strategy, of_symbol, WHERE)
    assert [counters.rejections(scope) for scope in scopes] == [3, 2, 2, 1]
    better = after(answered("d", is_rejected=False, symbol="MSFT"), of=counters)
    assert [better.rejections(scope) for scope in scopes] == [0, 0, 2, 1]


def test_an_answer_that_is_told_again_counts_once() -> None:
    assert after(answered("a"), answered("a"), answered("a", attempt=2)).rejections(OF_ACCOUNT) == 2


def test_no_more_answers_are_remembered_than_needed() -> None:
    many = after(*(answered(f"o{n}") for n in range(OUTCOMES_KEPT + 10)))
    assert (len(many.answered), many.rejections(OF_ACCOUNT)) == (OUTCOMES_KEPT, OUTCOMES_KEPT + 10)
    assert many.answered[-1] == f"o{OUTCOMES_KEPT + 9}:1:True"


def test_what_is_broken_stays_so_until_a_named_person_enables_it() -> None:
    trip = Trip(scope=WHERE, limit=LimitType.REPEATED_EXECUTIONS, value="5", at=NOW)
    counters = after(answered("a"), trip, replace(trip, value="6", at=at(9)))
    assert counters.tripped(WHERE) == (trip,)
    assert counters.tripped(replace(WHERE, symbol="MSFT")) == ()
    later = after(order_sent("z", 90_000), seconds=90_000, of=counters)
    assert later.tripped(WHERE) == (trip,)
    other = after(Enabled(at=NOW, scope=Scope(account_id="acct-2"), by="bob", reason="ok"), of=later)
    assert (other.tripped(WHERE), other.rejections(OF_ACCOUNT)) == ((trip,), 1)
    narrow = after(Enabled(at=NOW, scope=WHERE, by="bob", reason="ok"), of=later)
    assert (narrow.tripped(WHERE), narrow.rejections(WHERE), narrow.rejections(OF_ACCOUNT)) == ((), 0, 1)
    whole = after(Enabled(at=NOW, scope=OF_ACCOUNT, by="bob", reason="ok"), of=later)
    assert (whole.tripped(WHERE), whole.rejections(OF_ACCOUNT)) == ((), 0)


# --- results ---------------------------------------------------------------------------------------------------------

DAY = 86_400.0


def measured(value: int, seconds: float = 0.0) -> Measured:
    return Measured(at=at(seconds), scope=OF_ACCOUNT, value=Decimal(value))


def reading(value: int, seconds: float, of: Counters) -> Counters:
    return after(measured(value, seconds), seconds=seconds, of=of)


def test_the_days_loss_is_measured_from_the_first_reading_and_the_drawdown_from_the_peak() -> None:
    counters = reading(95, 30, reading(120, 20, reading(90, 10, reading(100, 0, NONE))))
    result = counters.result(OF_ACCOUNT)
    assert result is not None
    assert (result.baseline, result.peak, result.latest, result.loss, result.at) == (100, 120, 95, 5, at(30))
    assert result.drawdown_pct is not None
    assert result.drawdown_pct.quantize(Decimal("0.001")) == Decimal("20.833")


@pytest.mark.parametrize(("opening", "baseline"), [(90, 95), (97, 97)])
def test_a_new_days_baseline_is_the_higher_of_the_last_close_and_the_first_reading(opening: int, baseline: int) -> None:
    counters = reading(95, 10, reading(100, 0, NONE))
    next_day = reading(80, DAY + 5, reading(opening, DAY, counters))
    result = next_day.result(OF_ACCOUNT)
    assert result is not None
    assert (result.baseline, result.peak, result.loss) == (baseline, 100, baseline - 80)


def test_a_day_that_begins_without_a_reading_measures_from_the_last_one() -> None:
    result = rolled(reading(95, 10, reading(100, 0, NONE)), at(DAY), UTC).result(OF_ACCOUNT)
    assert result is not None
    assert (result.baseline, result.loss) == (95, 0)


def test_a_second_reading_of_the_day_leaves_the_baseline() -> None:
    result = reading(130, 20, reading(110, 10, reading(100, 0, NONE))).result(OF_ACCOUNT)
    assert result is not None
    assert (result.baseline, result.loss) == (100, -30)


def test_a_reading_that_comes_late_changes_nothing() -> None:
    counters = reading(100, 50, NONE)
    assert after(measured(10, 20), seconds=60, of=counters).results == counters.results


def test_a_clock_set_back_does_not_make_readings_late_for_ever() -> None:
    counters = reading(100, 50, NONE)
    result = after(measured(70, -500), seconds=-500, of=counters).result(OF_ACCOUNT)
    assert result is not None
    assert (result.latest, result.loss, result.at) == (70, 30, at(-500))


@pytest.mark.parametrize("value", [60, 150])
def test_after_money_was_paid_in_or_out_a_person_has_losses_measured_from_the_next_reading_on(value: int) -> None:
    of_strategy = Scope(account_id=ACCOUNT, strategy=STRATEGY)
    other = Measured(at=NOW, scope=of_strategy, value=Decimal(7))
    counters = after(other, measured(value, 5), seconds=5, of=reading(100, 0, NONE))
    counters = after(Measured(at=at(6), scope=of_strategy, value=Decimal(4)), seconds=6, of=counters)
    before = counters.result(OF_ACCOUNT)
    counters = after(rebased(OF_ACCOUNT, 9), seconds=9, of=counters)
    counters = after(measured(value, 8), seconds=10, of=counters)  # asked for before, and told late
    result = counters.result(OF_ACCOUNT)
    assert before is not None
    assert result is not None
    assert (result.baseline, result.peak) == (before.baseline, before.peak)  # applies until then
    result = after(measured(value + 1, 10), seconds=10, of=counters).result(OF_ACCOUNT)
    assert result is not None
    assert (result.baseline, result.peak, result.latest) == (value + 1, value + 1, value + 1)
    assert (result.loss, result.drawdown, result.anew_after) == (0, 0, None)


def test_a_payment_that_no_reading_has_shown_yet_hides_no_loss() -> None:
    counters = after(rebased(OF_ACCOUNT, 20), seconds=20, of=reading(100_000, 0, NONE))
    result = reading(105_000, 1800, reading(150_000, 30, counters)).result(OF_ACCOUNT)
    assert result is not None
    assert (result.loss, result.drawdown) == (45_000, 45_000)


def test_a_person_whose_clock_is_ahead_has_losses_measured_anew_soon() -> None:
    counters = after(rebased(OF_ACCOUNT, 9 * DAY), of=reading(100, 0, NONE))
    result = reading(80, 3, reading(90, 2, reading(95, 1, counters))).result(OF_ACCOUNT)
    assert result is not None
    assert (result.baseline, result.loss) == (90, 10)


def test_of_one_strategy_a_person_has_its_own_losses_measured_anew_and_no_others() -> None:
    of_strategy = Scope(account_id=ACCOUNT, strategy=STRATEGY)
    readings = [Measured(at=NOW, scope=of_strategy, value=Decimal(value)) for value in (7, 4)]
    counters = after(*readings, of=reading(90, 1, reading(100, 0, NONE)))
    ahead = replace(counters, day=NOW.date() + timedelta(days=9))
    made = after(rebased(of_strategy), of=ahead)
    made = after(measured(90, 2), Measured(at=at(2), scope=of_strategy, value=Decimal(4)), seconds=2, of=made)
    losses = [result.loss for scope in (OF_ACCOUNT, of_strategy) if (result := made.result(scope)) is not None]
    assert (losses, made.day) == ([10, 0], ahead.day)


def test_a_day_that_was_put_right_measures_from_the_first_reading_of_the_next_one() -> None:
    ahead = fold(NONE, measured(100, 300 * DAY), now=at(300 * DAY), zone=UTC, keep_seconds=KEEP)
    right = after(rebased(OF_ACCOUNT), of=ahead)
    result = reading(120, DAY, right).result(OF_ACCOUNT)
    assert result is not None
    assert result.baseline == 120


def test_without_a_reading_there_is_no_result_and_without_a_peak_no_drawdown() -> None:
    assert NONE.result(OF_ACCOUNT) is None
    result = reading(0, 0, NONE).result(OF_ACCOUNT)
    assert result is not None
    assert result.drawdown_pct is None


def test_the_zone_may_be_any_that_python_has() -> None:
    assert day_of(datetime(2025, 1, 1, 20, tzinfo=UTC), timezone(timedelta(hours=5, minutes=30))) == date(2025, 1, 2)
