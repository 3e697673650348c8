"""Spec 002's safety guard with its own example, and the mistakes of that guard: a wrong stop moved to where it is hit, a check skipped for want of a
price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from execution_service.core.orders.status import Status
from execution_service.core.risk.limits import StopRule
from tests.core.risk_cases import written
from tests.fakes import World, world_of
from tests.fakes.safety import FakeSafetyService

THEIR_POLICIES = {
    "execution.max_slippage_pct": 0.005,
    "execution.max_sl_distance_pct": 0.10,
    "execution.min_sl_buffer_pct": 0.001,
    "execution.max_tp_distance_pct": 0.50,
}
EXAMPLE = {
    "symbol": "BTCUSDT",
    "quantity": 1,
    "order_type": "LIMIT",
    "limit_price": 50000,
    "price": 50000,
    "stop_loss": 49000,
    "take_profit": 52000,
}


async def outcome(world: World, signal_id: str = "sig", **changes: Any) -> str:
    """Of the spec's example with these changes: why it is refused, empty where it is not."""
    world.send(signal_id, **{**EXAMPLE, **changes})
    await world.run(3)
    order = world.record(signal_id)
    if order.status is not Status.REJECTED:
        return ""
    assert order.reason is not None
    return order.reason.message


async def test_the_example_of_the_spec_passes(tmp_path: Path) -> None:
    async with world_of(tmp_path, safety=FakeSafetyService(policies=THEIR_POLICIES)) as world:
        assert await outcome(world) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stop_loss": 51000}, "the stop 51000"),
        ({"stop_loss": 50000}, "the stop 50000"),
        ({"stop_loss": 49990}, "the stop 49990 is 0.02 per cent"),
        ({"stop_loss": 44000}, "the stop 44000 is 12 per cent"),
        ({"take_profit": 49500}, "the target 49500 is on the wrong side"),
        ({"take_profit": 80000}, "the distance of the target, in per cent, would be 60"),
        ({"side": "SELL", "stop_loss": 49000, "take_profit": 48000}, "the stop 49000"),
        ({"side": "SELL", "stop_loss": 51000, "take_profit": 52000}, "the target 52000 is on the wrong side"),
    ],
)
async def test_stops_and_targets_on_the_wrong_side_or_out_of_range_are_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    async with world_of(tmp_path, safety=FakeSafetyService(policies=THEIR_POLICIES)) as world:
        assert why in await outcome(world, **changes)


async def test_a_stop_on_the_wrong_side_is_never_moved_even_where_stops_are_adjusted(tmp_path: Path) -> None:
    limits = written(stop_out_of_range=StopRule.ADJUST)
    async with world_of(tmp_path, limits=limits, safety=FakeSafetyService(policies=THEIR_POLICIES)) as world:
        assert "the stop 51000" in await outcome(world, stop_loss=51000)


async def test_an_order_at_the_market_without_a_price_is_not_let_through_for_that(tmp_path: Path) -> None:
    async with world_of(tmp_path, safety=FakeSafetyService(policies=THEIR_POLICIES)) as world:
        why = await outcome(world, order_type="MARKET", limit_price=None, price=None, stop_loss=None, take_profit=None)
        assert "max_slippage_pct: the market's price, or the price that the order's author saw, is not known" in why
