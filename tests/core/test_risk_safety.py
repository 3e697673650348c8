"""What the safety service's answers mean: which are permissions, which are stops, and which are neither; and that policies only ever tighten."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_service.core.risk.limits import OFF, LimitSet, LimitType, Scope, combined
from execution_service.core.risk.safety import (
    LARGEST_ANSWER_BYTES,
    MAPPED,
    Policy,
    UnclearAnswer,
    read_policies,
    read_status,
    tightened,
)
from tests.core.risk_cases import written


def said(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# --- status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        said(state="ARMED", can_execute=True, trip_time=None, trip_reason=None, metrics={}, statistics={}),
        said(state="ARMED", enabled=True, can_execute_orders=True, metrics={}, note="stub"),
        said(state="DISABLED", can_execute=True),
        said(state="NORMAL"),
        said(state="caution"),
    ],
)
def test_a_clear_permission_in_either_layout_stops_nothing(body: bytes) -> None:
    assert read_status(body).stops is None


@pytest.mark.parametrize("state", ["TRIPPED", "COOLING_DOWN", "COOLING", "CRITICAL", "critical"])
@pytest.mark.parametrize("permission", [{}, {"can_execute": False}, {"can_execute_orders": False}])
def test_a_stop_is_a_stop_with_its_reason(state: str, permission: dict[str, bool]) -> None:
    read = read_status(said(state=state, trip_reason="daily drawdown", **permission))
    assert read.stops == f"the safety service says {state.upper()}: daily drawdown"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (said(error="ESS not initialized", healthy=False), "it reports an error: ESS not initialized"),
        (said(state="ARMED", can_execute=True, error="stale"), "it reports an error: stale"),
        (said(state="ARMED", can_execute=True, healthy=False), "it says that it is not healthy"),
        (said(state="PANIC"), "it says PANIC, a state that is not known here"),
        (said(state="UNKNOWN", can_execute=True), "it says UNKNOWN, a state that is not known here"),
        (said(can_execute=True), "its answer names no state"),
        (said(state=None, can_execute=True), "its answer names no state"),
        (said(state="ARMED", can_execute=False), "it says ARMED, and that no orders may be executed"),
        (said(state="TRIPPED", can_execute=True), "it says TRIPPED, and that orders may be executed"),
        (said(state="ARMED", can_execute="true"), "can_execute is true, neither true nor false"),
        (said(state="ARMED", can_execute_orders=1), "can_execute_orders is 1, neither true nor false"),
        (
            said(state="ARMED", can_execute=True, can_execute_orders=False),
            "can_execute and can_execute_orders contradict each other",
        ),
        (b'{"state": "TRIPPED", "state": "ARMED"}', "its answer is no JSON that can be read"),
        (b"<html>Bad Gateway</html>", "its answer is no JSON that can be read"),
        (b"", "its answer is no JSON that can be read"),
        (b"\xff\xfe", "its answer is no JSON that can be read"),
        (b'{"state": NaN}', "its answer is no JSON that can be read"),
        (b'{"state": "ARMED"', "its answer is no JSON that can be read"),
        (b"[" * 100_000, "its answer is no JSON that can be read"),
        (b'["ARMED"]', "its answer is no object"),
        (b" " * (LARGEST_ANSWER_BYTES + 1), f"its answer is longer than {LARGEST_ANSWER_BYTES} bytes"),
    ],
)
def test_what_is_no_clear_permission_is_unclear(body: bytes, why: str) -> None:
    with pytest.raises(UnclearAnswer) as caught:
        read_status(body)
    assert str(caught.value) == why


@given(st.binary(max_size=200))
def test_no_bytes_at_all_are_a_permission_by_accident(body: bytes) -> None:
    with pytest.raises(UnclearAnswer):
        read_status(body)


def test_a_hostile_reason_is_one_line_of_bounded_length() -> None:
    stops = read_status(said(state="TRIPPED", trip_reason="a\nb\x1b[31m" + "x" * 5000)).stops
    assert stops is not None
    assert "\n" not in stops
    assert "\x1b" not in stops
    assert len(stops) < 200


# --- policies ---------------------------------------------------------------------------------------------------------

THEIRS = {
    "execution.max_slippage_pct": 0.005,
    "execution.max_sl_distance_pct": 0.10,
    "execution.min_sl_buffer_pct": 0.001,
    "execution.max_tp_distance_pct": 0.50,
    "rl.max_leverage": 5,
    "rl.min_confidence": 0.65,
    "execution.max_order_retries": 5,
    "ess.max_daily_drawdown_pct": 5,
}
OURS = {
    LimitType.MAX_SLIPPAGE_PCT: Decimal("0.5"),
    LimitType.MAX_STOP_DISTANCE_PCT: Decimal(10),
    LimitType.MIN_STOP_DISTANCE_PCT: Decimal("0.1"),
    LimitType.MAX_TARGET_DISTANCE_PCT: Decimal(50),
    LimitType.MAX_LEVERAGE: Decimal(5),
    LimitType.MIN_CONFIDENCE: Decimal("0.65"),
}


@pytest.mark.parametrize(
    "body",
    [
        said(policies=THEIRS, count=8),
        said(
            policies={
                "execution": {k[10:]: v for k, v in THEIRS.items() if k.startswith("execution.")},
                "rl": {"max_leverage": 5, "min_confidence": 0.65},
            }
        ),
        said(**{k: str(v) for k, v in THEIRS.items()}),
    ],
    ids=["by full names", "by groups", "as texts"],
)
def test_fractions_become_per_cent_and_other_keys_are_left_out(body: bytes) -> None:
    assert {p.limit: p.value for p in read_policies(body)} == OURS


def test_the_stub_s_policies_have_nothing_that_we_go_by() -> None:
    assert read_policies(said(ess={"enabled": True, "max_daily_drawdown_pct": 5}, risk={"max_position": 3})) == ()


def test_a_policy_that_is_not_set_is_none() -> None:
    assert read_policies(said(policies={"rl.max_leverage": None}, count=1)) == ()


@pytest.mark.parametrize("key", sorted(MAPPED))
@pytest.mark.parametrize("value", ["abc", True, -1, "NaN", "Infinity", [], 1e9, "9" * 41, ""])
def test_a_senseless_value_is_unclear_and_named(key: str, value: object) -> None:
    with pytest.raises(UnclearAnswer, match=key):
        read_policies(said(policies={key: value}))


def test_per_cent_where_a_fraction_belongs_is_senseless() -> None:
    with pytest.raises(UnclearAnswer, match="max_slippage_pct is 5,"):
        read_policies(said(policies={"execution.max_slippage_pct": 5}))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (said(error="no store"), "it reports an error"),
        (said(policies=[1]), "no object"),
        (said(**{"rl.max_leverage": 5, "rl": {"max_leverage": 7}}), "stands there twice"),
        (
            said(**{"execution.min_sl_buffer_pct": 0.2, "execution.max_sl_distance_pct": 0.1}),
            "farther away than they allow",
        ),
    ],
)
def test_policies_that_contradict_themselves_are_unclear(body: bytes, why: str) -> None:
    with pytest.raises(UnclearAnswer, match=why):
        read_policies(body)


def slippage(value: str) -> tuple[Policy, ...]:
    return (Policy(key="execution.max_slippage_pct", limit=LimitType.MAX_SLIPPAGE_PCT, value=Decimal(value)),)


def test_a_policy_tightens_every_table_that_is_looser_and_no_other() -> None:
    a, b, c = (Scope(symbol=name) for name in "ABC")
    ours = combined(
        [
            (a, LimitSet(max_slippage_pct=Decimal(3))),
            (b, LimitSet(max_slippage_pct=OFF)),
            (c, LimitSet(max_slippage_pct=Decimal("0.1"), max_leverage=Decimal(2))),
        ]
    )
    tables = tightened(ours, slippage("0.5")).tables
    assert {scope: tables[scope].max_slippage_pct for scope in (Scope(), a, b, c)} == {
        Scope(): Decimal("0.5"),
        a: Decimal("0.5"),
        b: Decimal("0.5"),
        c: Decimal("0.1"),
    }
    assert tables[c].max_leverage == Decimal(2)


def test_no_policy_changes_nothing() -> None:
    ours = written(max_slippage_pct=1)
    assert tightened(ours, ()) is ours
    assert tightened(ours, slippage("2")) is ours


@given(
    mine=st.one_of(st.none(), st.just(OFF), st.decimals(min_value="0.001", max_value=100, places=3)),
    narrow=st.one_of(st.none(), st.just(OFF), st.decimals(min_value="0.001", max_value=100, places=3)),
    theirs=st.decimals(min_value="0.001", max_value=100, places=3),
    policy=st.sampled_from(sorted(MAPPED.items())),
)
def test_no_policy_ever_loosens_what_binds_an_order(mine: Any, narrow: Any, theirs: Decimal, policy: Any) -> None:
    key, meaning = policy
    limit = meaning.limit
    where = Scope(account_id="a", strategy="s", symbol="X")
    ours = combined([(Scope(), LimitSet(**{limit: mine})), (Scope(account_id="a"), LimitSet(**{limit: narrow}))])
    after = tightened(ours, [Policy(key=key, limit=limit, value=theirs)])
    (bound,) = after.of(where).bounds(limit)
    before = [each.number for each in ours.of(where).bounds(limit)]
    strictest = max if limit in (LimitType.MIN_STOP_DISTANCE_PCT, LimitType.MIN_CONFIDENCE) else min
    assert bound.number == strictest([*before, theirs])
