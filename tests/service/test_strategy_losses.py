"""The daily loss and drawdown of strategies and symbols: by the ledger and present prices, through midnight, restarts and deaths; exits leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from execution_service.control.limit_uses import limit_uses
from execution_service.core.orders.status import Status
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.limits import BreachRule, LimitType, RiskLimits, Scope
from tests.core.risk_cases import tables
from tests.fakes import BY_HAND, RESTING, World, world_of

S, T = Scope(strategy="momentum"), Scope(strategy="other")


def loss(amount: int = 100, scope: Scope = S, **more: object) -> RiskLimits:
    return tables((scope, {"max_daily_loss": amount, **more}))


async def trade(world: World, name: str, side: str, price: str, *, quantity: int = 100, **changes: object) -> None:
    world.send(name, side=side, quantity=quantity, price=float(price), **changes)
    await world.run(1)
    assert world.record(name).status is Status.SUBMITTED, world.record(name).reason
    world.fill(name, price=price)
    await world.run(1)


async def lose(world: World, name: str, amount: int, **changes: object) -> None:
    """100 are bought at 20 and sold for so much less in all."""
    await trade(world, f"{name}-in", "BUY", "20", **changes)
    await trade(world, f"{name}-out", "SELL", str(20 - Decimal(amount) / 100), **changes)


async def status_of(world: World, name: str, **changes: object) -> Status:
    world.send(name, price=20, **changes)
    await world.run(2)
    return world.record(name).status


async def used(world: World, limit: LimitType = LimitType.MAX_DAILY_LOSS) -> dict[str, Decimal]:
    rules = world.risk_rules
    found = await limit_uses(world.store_beside(), rules.limits, rules.zones, world.clock.now())
    return {str(use.scope): use.used for use in found.usages if use.limit_type is limit}


async def test_a_strategy_that_has_lost_its_limit_takes_no_new_risk_and_others_do(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=loss()) as world:
        await lose(world, "first", 99)
        assert await status_of(world, "still") is Status.SUBMITTED
        world.cancel(signal_id="still")
        await lose(world, "second", 2)
        assert await used(world) == {"account:acct-1+strategy:momentum": 101}
        assert await status_of(world, "no-more") is Status.REJECTED
        assert await status_of(world, "of-other", strategy_name="other") is Status.SUBMITTED


async def test_what_is_held_counts_at_its_present_price_and_its_exit_leaves(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=loss()) as world:
        world.quote(bid="20", ask="20", last="20")
        await trade(world, "in", "BUY", "20")
        assert await status_of(world, "more", quantity=1) is Status.SUBMITTED
        world.quote(bid="18.9", ask="19", last="18.9")
        await world.run(25)
        assert await used(world) == {"account:acct-1+strategy:momentum": 110}
        assert await status_of(world, "no-more", quantity=1) is Status.REJECTED
        assert await status_of(world, "out", side="SELL") is Status.SUBMITTED


async def test_a_held_position_without_a_price_makes_the_result_unknown_and_refuses(tmp_path: Path) -> None:
    async with world_of(
        tmp_path, market=BY_HAND, rules=RESTING, limits=loss(10_000, balance_max_age_seconds=60)
    ) as world:
        await trade(world, "in", "BUY", "20")
        await world.run(200)
        world.send("more", price=20, quantity=1, symbol="MSFT")
        await world.run(2)
        refused = world.record("more")
        assert refused.status is Status.REJECTED
        assert refused.reason is not None
        assert "is not known, or too old" in refused.reason.message
        world.quote(bid="20", ask="20", last="20")
        await world.run(90)
        assert await status_of(world, "again", quantity=1, symbol="MSFT") is Status.SUBMITTED


@pytest.mark.parametrize("dies", [False, True])
async def test_a_loss_is_the_same_after_a_restart(tmp_path: Path, *, dies: bool) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=loss()) as world:
        assert await status_of(world, "first", quantity=1) is Status.SUBMITTED
        world.cancel(signal_id="first")
        await lose(world, "one", 60)
        if dies:
            await world.kill()
            await world.start()
        else:
            await world.stop()
            await world.start()
        await world.run(2)
        assert await used(world) == {"account:acct-1+strategy:momentum": 60}
        await lose(world, "two", 40)
        assert await status_of(world, "no-more") is Status.REJECTED


@pytest.mark.parametrize(
    ("zone", "evening"),
    [
        ("UTC", datetime(2025, 3, 3, 23, 50, tzinfo=UTC)),
        # The clocks go forward in the night after, and back.
        ("America/New_York", datetime(2025, 3, 9, 4, 50, tzinfo=UTC)),
        ("America/New_York", datetime(2025, 11, 2, 3, 50, tzinfo=UTC)),
    ],
)
async def test_a_day_begins_at_midnight_of_the_account_s_zone_and_measures_from_where_the_last_ended(
    tmp_path: Path, zone: str, evening: datetime
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=loss(), starts=False) as world:
        world.risk_rules.zones = Zones({"acct-1": ZoneInfo(zone)})
        world.clock.jump_wall((evening - world.clock.now()).total_seconds())
        await world.start()
        await lose(world, "today", 100)
        assert await status_of(world, "no-more") is Status.REJECTED
        await world.run(9 * 60)
        assert await used(world) == {"account:acct-1+strategy:momentum": 100}
        await world.run(2 * 60)
        await lose(world, "tomorrow", 99)
        assert await used(world) == {"account:acct-1+strategy:momentum": 99}
        assert await status_of(world, "goes", quantity=1) is Status.SUBMITTED


async def test_the_loss_of_a_symbol_is_that_of_all_strategies(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=loss(scope=Scope(symbol="AAPL"))) as world:
        await lose(world, "one", 60)
        await lose(world, "other", 60, strategy_name="other")
        assert await used(world) == {"account:acct-1+symbol:AAPL": 120}
        assert await status_of(world, "no-more", strategy_name="third") is Status.REJECTED
        assert await status_of(world, "elsewhere", symbol="MSFT") is Status.SUBMITTED


async def test_the_drawdown_of_a_strategy_lasts_over_days(tmp_path: Path) -> None:
    limits = tables((S, {"max_drawdown": 150}))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=limits) as world:
        await lose(world, "won", -500)
        await lose(world, "lost", 100)
        world.clock.move(timedelta(days=1).total_seconds())
        await world.run(30)
        await lose(world, "again", 50)
        assert await used(world, LimitType.MAX_DRAWDOWN) == {"account:acct-1+strategy:momentum": 150}
        assert await status_of(world, "no-more") is Status.REJECTED


async def test_a_strategy_s_loss_engages_its_switch_where_the_file_says_so(tmp_path: Path) -> None:
    limits = loss(on_breach=BreachRule.REDUCE_ONLY)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=limits) as world:
        await lose(world, "first", 100)
        await world.run(5)
        (switch,) = world.documents("execution_kill_switches")
        assert switch["_id"] == "account:acct-1+strategy:momentum"
        assert [change["level"] for change in switch["history"]] == ["reduce_only"]


async def test_a_loss_that_the_venue_annuls_is_none(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=loss()) as world:
        world.quote(bid="20", ask="20", last="20")
        await trade(world, "in", "BUY", "20")
        world.send("out", side="SELL", price=20)
        await world.run(1)
        fill_id = world.fill("out", price="18.90")
        await world.run(3)
        assert await used(world) == {"account:acct-1+strategy:momentum": 110}
        world.book().bust_fill(fill_id)
        await world.run(30)
        assert await used(world) == {"account:acct-1+strategy:momentum": 0}
