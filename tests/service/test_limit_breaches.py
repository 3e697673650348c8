"""A broken limit engages a kill switch where the file says so: once, with the limit in its history; a person arms it; deaths lose nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pymongo.errors import AutoReconnect

from brokers.base import Balance
from brokers.paper.model import Market
from execution_service.control.requests import Kind
from execution_service.control.results import Done
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.limits import BreachRule
from execution_service.storage.ports.commands import Command
from execution_service.trading import risk_gate
from tests.core.risk_cases import written
from tests.fakes import World, world_of
from tests.fakes.broker import GatedBroker

SWITCHES = "execution_kill_switches"
LOSS = written(max_daily_loss=100, on_breach=BreachRule.REDUCE_ONLY)


class Money:
    """What the broker tells of the account's money."""

    def __init__(self) -> None:
        self.equity = Decimal(1_000)

    async def balances(self) -> list[Balance]:
        return [Balance(currency="USD", cash=Decimal(1_000_000), equity=self.equity)]


@pytest.fixture
def money(monkeypatch: pytest.MonkeyPatch) -> Money:
    told = Money()
    monkeypatch.setattr(GatedBroker, "balances", lambda _: told.balances())
    return told


async def tell(world: World, money: Money, value: int) -> None:
    """The account is worth so much, and is asked."""
    money.equity = Decimal(value)
    await world.run(31)


def changes(world: World, scope: str = "account:acct-1") -> list[dict[str, Any]]:
    return [change for document in world.documents(SWITCHES, _id=scope) for change in document["history"]]


async def arm(world: World, scope: str = "account:acct-1") -> None:
    nonce = None
    for step in ("first", "second"):
        body = {"scope": scope, "person": "ann", "reason": "seen to"} | ({"nonce": nonce} if nonce else {})
        now = world.clock.now()
        given = Command(command_id=f"arm-{step}", kind=Kind.ARM, body=body, published_at=now, received_at=now)
        done = await world.service.commands.give(given)
        assert isinstance(done, Done), done
        nonce = json.loads(done.words).get("nonce")
        await world.run(61)


async def test_a_daily_loss_engages_the_switch_without_any_order_and_people_read_which_limit(
    tmp_path: Path, money: Money
) -> None:
    async with world_of(tmp_path, limits=LOSS) as world:
        world.send()
        await world.run(5)
        await tell(world, money, 880)
        (change,) = changes(world)
        assert (change["deed"], change["level"], change["by"]) == ("engaged", "reduce_only", "the limit max_daily_loss")
        assert change["reason"] == "max_daily_loss of account:acct-1 is broken: 120, the limit is 100"
        world.send("in")
        world.exit("out", "sig")
        await world.run(5)
        reason = world.record("in").reason
        assert reason is not None
        assert reason.code is ReasonCode.KILL_SWITCH
        assert world.exit_record("out").status is Status.FILLED
        for value in (870, 860):
            await tell(world, money, value)
            await world.run(2)
        assert len(changes(world)) == 1
        assert len(world.notifier.titled("Kill Switch Engaged")) == 1


async def test_a_switch_that_a_person_has_armed_is_not_engaged_again_by_the_same_breach_also_after_a_start(
    tmp_path: Path,
    money: Money,
) -> None:
    async with world_of(tmp_path, limits=LOSS) as world:
        await tell(world, money, 1_000)
        await tell(world, money, 880)
        await world.run(60)
        await arm(world)
        assert changes(world)[-1]["deed"] == "armed"
        await tell(world, money, 870)
        await world.run(5)
        await world.restart()
        await tell(world, money, 860)
        await world.run(5)
        assert [change["deed"] for change in changes(world)] == ["engaged", "arming_asked", "armed"]
        world.send("in")
        await world.run(5)
        reason = world.record("in").reason
        assert reason is not None
        assert reason.code is ReasonCode.RISK_LIMIT  # the limit itself is as broken as before


async def test_rejections_in_a_row_engage_it_before_the_next_order_comes(tmp_path: Path) -> None:
    limits = written(max_consecutive_rejections=2, on_breach=BreachRule.HALT)
    async with world_of(tmp_path, market=Market(rejection_rate=1.0), limits=limits) as world:
        for number in range(2):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(5)
        (change,) = changes(world)
        assert (change["level"], change["by"]) == ("halt", "the limit max_consecutive_rejections")
        assert len(world.notifier.titled("Risk Limit Broken")) == 1


async def test_what_dies_between_the_breach_and_the_switch_engages_it_in_the_next_life(tmp_path: Path) -> None:
    limits = written(max_consecutive_rejections=2, on_breach=BreachRule.REDUCE_ONLY)
    async with world_of(tmp_path, market=Market(rejection_rate=1.0), limits=limits) as world:
        world.store_faults.breaks[f"{SWITCHES}.insert_one"] = [AutoReconnect("not for you") for _ in range(20)]
        for number in range(2):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(1)
        await world.run(5)
        (document,) = world.documents("execution_risk", _id="acct-1")
        assert document["counters"]["trips"]
        assert not changes(world)
        await world.kill()
        world.store_faults.breaks.clear()
        await world.start()
        await world.run(5)
        assert len(changes(world)) == 1


async def test_a_breach_engages_nothing_unless_the_file_says_so(tmp_path: Path, money: Money) -> None:
    async with world_of(tmp_path, limits=written(max_daily_loss=100)) as world:
        await tell(world, money, 1_000)
        await tell(world, money, 880)
        await world.run(60)
        assert not world.documents(SWITCHES)


async def test_people_are_warned_of_a_loss_that_comes_near_its_limit_without_any_order_once_a_day(
    tmp_path: Path,
    money: Money,
) -> None:
    async with world_of(tmp_path, limits=written(max_daily_loss=100)) as world:
        await tell(world, money, 1_000)
        for value in (921, 920, 915):
            await tell(world, money, value)
            await world.run(1)
        (text,) = world.notifier.titled("Risk Limit Near")
        assert "80 of 100" in text


async def test_a_day_s_loss_lasts_through_restarts_until_midnight_where_the_account_is(
    tmp_path: Path, money: Money
) -> None:
    async with world_of(tmp_path, limits=written(max_daily_loss=100)) as world:
        world.risk_rules.zones = Zones({"acct-1": ZoneInfo("America/New_York")})
        await tell(world, money, 1_000)
        await tell(world, money, 880)
        midnight = datetime(2025, 3, 4, 5, tzinfo=UTC)  # there; in London it was five hours before
        for name, seconds, is_over in (("same-day", -600, False), ("next-day", 60, True)):
            until = midnight + timedelta(seconds=seconds)
            await world.restart(after_seconds=(until - world.clock.now()).total_seconds())
            await world.run(1)
            world.send(name)
            await world.run(5)
            assert (world.record(name).status is Status.FILLED) is is_over
        await tell(world, money, 780)  # the new day has a baseline of its own, and loses as much again
        world.send("later")
        await world.run(5)
        reason = world.record("later").reason
        assert reason is not None
        assert [breach.limit_type for breach in reason.breaches or ()] == ["max_daily_loss"]


async def test_an_error_while_an_order_is_judged_lets_nothing_pass_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = risk_gate.judge

    def judge(order: Order, *rest: Any) -> Any:
        if order.signal_id == "odd":
            raise ArithmeticError("a figure that nobody foresaw")
        return inner(order, *rest)

    monkeypatch.setattr(risk_gate, "judge", judge)
    async with world_of(tmp_path, limits=written(max_open_orders=5)) as world:
        world.send("odd")
        world.send("good", symbol="MSFT")
        await world.run(60)
        assert world.record("good").status is Status.FILLED
        assert world.record("odd").status is not Status.FILLED
        assert len(world.placed()) == 1
