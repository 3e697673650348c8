"""The kill switch: engaged by anybody at once, armed by a named person in two steps and no sooner than after a minute, the strictest counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_service.core.risk.documents import from_document, to_document
from execution_service.core.risk.kill import (
    ArmingRefused,
    KillLevel,
    KillState,
    Switch,
    armed,
    arming_asked,
    engaged,
    lets_pass,
    scope_from_text,
    strictest,
)
from execution_service.core.risk.limits import Scope
from tests.builders import NOW, at
from tests.core.risk_cases import WHERE

HALT, REDUCE_ONLY = KillLevel.HALT, KillLevel.REDUCE_ONLY
FRESH = Switch(scope=Scope())


def stopped(level: KillLevel = REDUCE_ONLY, seconds: float = 0.0, **changes: object) -> Switch:
    return replace(engaged(FRESH, level, by="ann", reason="too many", now=at(seconds)), **changes)  # type: ignore[arg-type]


def asked(switch: Switch, seconds: float) -> Switch:
    return arming_asked(switch, person="bob", reason="looked into", nonce="n-1", now=at(seconds))


def arm(switch: Switch, seconds: float, person: str = "bob", reason: str = "looked into", nonce: str = "n-1") -> Switch:
    return armed(switch, person=person, reason=reason, nonce=nonce, now=at(seconds))


# --- engaging --------------------------------------------------------------------------------------------------------


def test_engaging_says_who_why_when_and_how_far() -> None:
    assert engaged(FRESH, REDUCE_ONLY, by="ann", reason="too many", now=NOW, cancel_entries=True) == Switch(
        scope=Scope(),
        version=1,
        level=REDUCE_ONLY,
        engaged_at=NOW,
        by="ann",
        reason="too many",
        cancel_entries=True,
    )


@pytest.mark.parametrize(("first", "second"), [(REDUCE_ONLY, REDUCE_ONLY), (HALT, HALT), (HALT, REDUCE_ONLY)])
def test_engaging_again_writes_nothing(first: KillLevel, second: KillLevel) -> None:
    before = stopped(first)
    assert engaged(before, second, by="carl", reason="again", now=at(30)) is before


def test_engaging_more_strictly_raises_the_level_and_never_lowers_it() -> None:
    raised = engaged(stopped(REDUCE_ONLY), HALT, by="carl", reason="worse", now=at(30))
    assert (raised.level, raised.version, raised.by, raised.engaged_at) == (HALT, 2, "carl", at(30))


def test_a_wish_to_cancel_entries_is_taken_up_by_a_switch_that_is_engaged() -> None:
    wished = engaged(stopped(), REDUCE_ONLY, by="ann", reason="and cancel", now=at(5), cancel_entries=True)
    assert (wished.cancel_entries, wished.version) == (True, 2)
    assert engaged(wished, REDUCE_ONLY, by="ann", reason="again", now=at(6)) is wished


def test_engaging_while_somebody_arms_voids_the_arming_and_the_minute_begins_anew() -> None:
    pending = asked(stopped(), 61)
    again = engaged(pending, REDUCE_ONLY, by="carl", reason="no", now=at(62))
    assert (again.arming, again.engaged_at, again.version) == (None, at(62), pending.version + 1)
    with pytest.raises(ArmingRefused, match="engaged again since"):
        arm(again, 70)
    with pytest.raises(ArmingRefused, match="not before"):
        arm(asked(again, 100), 121)
    assert not arm(asked(again, 100), 122).is_engaged


def test_a_clock_that_was_set_back_does_not_shorten_the_minute() -> None:
    again = engaged(asked(stopped(), 61), REDUCE_ONLY, by="carl", reason="no", now=at(-3600))
    assert again.engaged_at == at(0)
    with pytest.raises(ArmingRefused, match="not before"):
        arm(asked(stopped(), -3600), -3500)


# --- arming ----------------------------------------------------------------------------------------------------------


def test_arming_takes_two_steps_a_named_person_a_reason_and_a_minute() -> None:
    first = asked(stopped(), 10)
    assert first.is_engaged
    assert first.arming is not None
    assert (first.arming.not_before, first.version) == (at(60), 2)
    with pytest.raises(ArmingRefused, match="not before"):
        arm(first, 59.999)
    done = arm(first, 60)
    assert done == Switch(scope=Scope(), version=3, engaged_at=NOW, by="bob", reason="looked into")


def test_what_is_asked_for_after_the_minute_can_be_done_at_once() -> None:
    assert not arm(asked(stopped(), 500), 500).is_engaged


@pytest.mark.parametrize(
    ("person", "reason"), [("", "why"), ("  ", "why"), ("bo\nb", "why"), ("bob", ""), ("bob", " ")]
)
def test_nobody_arms_without_a_name_and_a_reason(person: str, reason: str) -> None:
    with pytest.raises(ArmingRefused, match="must be"):
        arming_asked(stopped(), person=person, reason=reason, nonce="n-1", now=at(61))
    with pytest.raises(ArmingRefused, match="must be"):
        arm(asked(stopped(), 61), 62, person=person, reason=reason)


@pytest.mark.parametrize(("person", "nonce"), [("carl", "n-1"), ("bob", "n-2"), ("bob", "")])
def test_the_second_step_is_the_first_ones_person_and_nonce(person: str, nonce: str) -> None:
    with pytest.raises(ArmingRefused, match="nonce of the first step"):
        arm(asked(stopped(), 61), 62, person=person, nonce=nonce)


def test_the_second_step_needs_the_first_and_a_nonce() -> None:
    with pytest.raises(ArmingRefused, match="was not made"):
        arm(stopped(), 100)
    with pytest.raises(ArmingRefused, match="nonce"):
        arming_asked(stopped(), person="bob", reason="why", nonce="", now=at(61))


def test_a_first_step_lasts_ten_minutes() -> None:
    first = asked(stopped(), 100)
    assert not arm(first, 700).is_engaged
    with pytest.raises(ArmingRefused, match="too long ago"):
        arm(first, 700.001)


def test_what_is_not_engaged_cannot_be_armed() -> None:
    for switch in (FRESH, arm(asked(stopped(), 61), 61)):
        with pytest.raises(ArmingRefused, match="is not engaged"):
            asked(switch, 100)
        with pytest.raises(ArmingRefused, match="is not engaged"):
            arm(switch, 100)


def test_a_switch_that_does_not_say_since_when_it_is_engaged_is_not_armed() -> None:
    with pytest.raises(ArmingRefused):
        asked(Switch(scope=Scope(), version=1, level=HALT), 100)


def test_one_that_was_armed_can_be_engaged_again() -> None:
    once = arm(asked(stopped(HALT, cancel_entries=True), 61), 61)
    twice = engaged(once, REDUCE_ONLY, by="ann", reason="again", now=at(90))
    assert (twice.level, twice.version, twice.engaged_at, twice.cancel_entries) == (REDUCE_ONLY, 4, at(90), False)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["kill", "halt", "ask", "arm"]), st.integers(-100, 100)),
        max_size=30,
    )
)
def test_whatever_the_clock_does_nothing_arms_before_two_steps_and_a_minute(steps: list[tuple[str, int]]) -> None:
    """By its own clock, which jumps: the second step comes after the first, and is at least 60 s later than any engaging before it."""
    switch, now, engaged_last, has_asked = FRESH, 0, None, False
    for step, seconds in steps:
        now += seconds
        version = switch.version
        try:
            match step:
                case "kill" | "halt":
                    before = switch
                    level = HALT if step == "halt" else REDUCE_ONLY
                    switch = engaged(switch, level, by="ann", reason="r", now=at(now))
                    if switch is not before:
                        engaged_last, has_asked = now, False
                case "ask":
                    switch = asked(switch, now)
                    has_asked = True
                case _:
                    switch = arm(switch, now)
                    assert has_asked
                    assert engaged_last is not None
                    assert now - engaged_last >= 60
                    assert not switch.is_engaged
                    has_asked = False
        except ArmingRefused:
            assert switch.version == version
        assert switch.version >= version


# --- what it lets pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "is_exit", "passes"),
    [
        (None, True, True),
        (None, False, True),
        (REDUCE_ONLY, True, True),
        (REDUCE_ONLY, False, False),
        (HALT, True, False),
        (HALT, False, False),
    ],
)
def test_what_each_level_lets_pass(level: KillLevel | None, is_exit: bool, passes: bool) -> None:
    assert lets_pass(level, is_exit=is_exit) is passes


def test_the_strictest_of_all_that_cover_an_order_counts() -> None:
    state = KillState(
        (
            stopped(REDUCE_ONLY, scope=Scope(strategy="momentum")),
            stopped(HALT, scope=Scope(account_id="acct-1", symbol="AAPL")),
            stopped(HALT, scope=Scope(symbol="MSFT")),
            stopped(HALT, scope=Scope(account_id="acct-2")),
            Switch(scope=Scope(account_id="acct-1"), version=3),
        )
    )
    assert [str(s.scope) for s in state.stopping(WHERE)] == ["account:acct-1+symbol:AAPL", "strategy:momentum"]
    assert state.level(WHERE) is HALT
    assert state.level(replace(WHERE, symbol="TSLA")) is REDUCE_ONLY
    assert state.level(replace(WHERE, symbol="TSLA", strategy="other")) is None
    assert KillState().level(WHERE) is None


def test_the_strictest_of_levels() -> None:
    assert strictest([]) is None
    assert strictest([None, REDUCE_ONLY, None]) is REDUCE_ONLY
    assert strictest([HALT, REDUCE_ONLY]) is HALT


# --- scopes and documents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scope",
    [
        Scope(),
        Scope(account_id="acc:1 / x"),
        Scope(strategy="SPX 1-Day Options"),
        Scope(symbol="BRK.B"),
        Scope(strategy="a+b", symbol="EUR/USD"),
        Scope(account_id="a", strategy="s", symbol="NSE:X"),
        Scope(account_id="a", symbol="ALL"),
    ],
)
def test_a_scope_is_read_as_it_is_written(scope: Scope) -> None:
    assert scope_from_text(str(scope)) == scope


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ALL",
        "everything",
        "account:",
        "strategy:",
        "symbol:AAPL+strategy:x",
        "account",
        "all+symbol:A",
        " all",
        "x+symbol:A",
    ],
)
def test_what_is_no_scope_is_not_guessed_at(text: str) -> None:
    with pytest.raises(ValueError, match="is no scope"):
        scope_from_text(text)


def test_a_symbol_is_meant_as_orders_have_it() -> None:
    assert scope_from_text("strategy:Momentum+symbol:aapl") == Scope(strategy="Momentum", symbol="AAPL")


@pytest.mark.parametrize("switch", [FRESH, stopped(HALT), asked(stopped(), 61), arm(asked(stopped(), 61), 61)])
def test_a_switch_is_read_from_its_document_as_it_was(switch: Switch) -> None:
    assert from_document(Switch, to_document(switch)) == switch
