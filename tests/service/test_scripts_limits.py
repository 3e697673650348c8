"""`execctl limits`: what is shown of each limit, and how a named person enables again what is off, or has losses measured anew."""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brokers.paper.model import Market
from execution_service.app.settings.loading import load_settings
from execution_service.control import enable_risk
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.kill import scope_from_text
from execution_service.core.risk.limits import LimitType, RiskLimits
from execution_service.storage.reader import StoreReader
from scripts import limits
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.fakes.broker import GatedBroker
from tests.service.test_limit_breaches import Money, tell


@dataclass
class Settings:
    risk_limits: RiskLimits
    zones: Zones = field(default_factory=Zones)


class Context:
    """As execctl makes it, on the world's store."""

    def __init__(self, world: World, *, wants_json: bool = False, **options: Any) -> None:
        self.view = StoreReader(world.mongo, "trading")
        self.store = world.store_beside()
        self.settings: Any = Settings(world.risk_rules.limits)
        self.console = Console(file=io.StringIO(), width=250)
        given: dict[str, Any] = {"enable": None, "rebase": None, "by": None, "reason": None} | options
        self.options = argparse.Namespace(**given)
        self.wants_json = wants_json

    @property
    def text(self) -> str:
        file = self.console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


async def test_each_limit_is_shown_with_its_value_its_table_and_its_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = written(max_open_orders=4, max_position_quantity=400)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=some) as world:
        world.send()
        await world.run(5)
        await limits.show(Context(world, wants_json=True))
        shown = {each["limit"]: each for each in json.loads(capsys.readouterr().out)["limits"]}
        assert len(shown) == len(LimitType)
        assert (shown["max_order_value"]["table"], shown["max_order_value"]["value"]) == ("built in", "1000000")
        (use,) = shown["max_open_orders"]["uses"]
        assert (use["total"], float(use["actual_value"]), float(use["limit_value"])) == ("account:acct-1", 1, 4)
        (use,) = shown["max_position_quantity"]["uses"]
        assert float(use["actual_value"]) == 100
        context = Context(world)
        await limits.show(context)
        assert "max_open_orders" in context.text
        assert "25 %" in context.text
        assert "For futures 10000000 is built in for max_order_value." in context.text


async def test_a_named_person_enables_again_what_rejections_in_a_row_have_switched_off(tmp_path: Path) -> None:
    refusing = Market(rejection_rate=1.0)
    async with world_of(tmp_path, market=refusing, limits=written(max_consecutive_rejections=2)) as world:
        for number in range(3):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(5)
        context = Context(world)
        await limits.show(context)
        assert "Off until enabled" in context.text
        context = Context(world, enable=scope_from_text("account:acct-1"), by="Ada", reason="the symbol was wrong")
        await limits.show(context)
        assert "1 broken limit enabled again" in context.text
        assert any("Ada" in document["text"] for document in world.documents("execution_alerts"))
        world.send("again", symbol="S9")
        await world.run(5)
        reason = world.record("again").reason
        assert world.record("again").status is Status.REJECTED
        assert reason is not None
        assert reason.code == "BROKER_REJECTED"


OF_ACCOUNT = scope_from_text("account:acct-1")


async def rebase(world: World, reason: str) -> str:
    context = Context(world, rebase=OF_ACCOUNT, by="Ada", reason=reason)
    await limits.show(context)
    return context.text


async def is_let_pass(world: World, signal_id: str) -> bool:
    world.send(signal_id)
    await world.run(5)
    order = world.record(signal_id)
    if order.reason is not None:
        assert order.reason.code is ReasonCode.RISK_LIMIT
    return order.reason is None


async def test_money_that_was_paid_out_is_no_loss_once_a_person_has_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    money = Money()
    monkeypatch.setattr(GatedBroker, "balances", lambda _: money.balances())
    some = written(max_daily_loss=100, max_drawdown_pct=20)
    async with world_of(tmp_path, limits=some) as world:
        await tell(world, money, 1_000)
        await tell(world, money, 600)
        assert not await is_let_pass(world, "before")
        assert "measured anew in 1 account" in await rebase(world, "400 paid out")
        for _ in range(2):  # the script's clock is ahead of this world's: what is read next may be of before
            await tell(world, money, 600)
        assert await is_let_pass(world, "after")
        (told,) = world.documents("execution_alerts", kind="risk_rebased")
        assert "Ada" in told["text"]
        assert "400 paid out" in told["text"]
        await tell(world, money, 490)
        assert not await is_let_pass(world, "lost")


async def test_a_clock_that_had_run_ahead_is_told_once_and_put_right_by_a_person(tmp_path: Path) -> None:
    a_year, a_day = 365 * 86_400.0, 86_400.0
    async with world_of(tmp_path, limits=written(max_orders_per_day=2)) as world:
        world.clock.jump_wall(a_year)
        assert await is_let_pass(world, "ahead")
        assert world.notifier.titled("Clock Has Run Ahead") == []
        world.clock.jump_wall(-a_year)
        assert await is_let_pass(world, "put back")
        await world.run(30)
        (told,) = world.notifier.titled("Clock Has Run Ahead")
        assert "execctl limits --rebase account:acct-1" in told
        world.clock.jump_wall(a_day)
        assert not await is_let_pass(world, "a day later")
        said: dict[str, Any] = {"by": "Ada", "reason": "the time server was wrong", "now": world.clock.now()}
        assert await enable_risk.rebase(world.store_beside(), OF_ACCOUNT, zones=Zones(), **said) == 1
        assert not await is_let_pass(world, "of the same day")  # what was counted is kept
        world.clock.jump_wall(a_day)
        assert await is_let_pass(world, "of the next")
        await world.run(30)
        assert len(world.notifier.titled("Clock Has Run Ahead")) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--rebase", "all"], "need --by and --reason"),
        (["--enable", "all", "--by", "Ada"], "need --by and --reason"),
        (["--enable", "all", "--rebase", "all", "--by", "Ada", "--reason", "why"], "one at a time"),
        (["--rebase", "all", "--by", "Ada", "--reason", "why"], None),
        ([], None),
    ],
)
def test_a_decision_needs_a_name_and_a_reason(words: list[str], problem: str | None) -> None:
    parser = argparse.ArgumentParser()
    limits.add_options(parser, str)
    said = limits.problem_with(parser.parse_args(words))
    assert said is None if problem is None else problem in (said or "")


def test_without_a_file_the_command_shows_what_is_built_in(tmp_path: Path) -> None:
    assert load_settings({}, root=tmp_path).risk_limits == RiskLimits()
