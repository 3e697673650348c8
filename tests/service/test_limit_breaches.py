"""A broken limit engages a kill switch where the file says so: once, with the limit in its history; a person arms it; deaths lose nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from brokers.base import Balance
from brokers.paper.model import Market
from execution_service.control.requests import Kind
from execution_service.control.results import Done
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.limits import BreachRule
from execution_service.storage.ports.commands import Command
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
        return [Balance(currency="USD", cash=self.equity, equity=self.equity)]


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
