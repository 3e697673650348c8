"""`risk.toml` read again while the service runs: what changes, what is said, and what stays in force when the file is wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from execution_service.app.risk_reload import RiskReload
from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.problems import ConfigurationError
from execution_service.core.orders.status import Status
from execution_service.core.risk.limits import LimitType, Scope
from tests.fakes import World, world_of


def settings_of(root: Path, text: str | None, **environ: str) -> Settings:
    if text is not None:
        (root / "risk.toml").write_text(text, encoding="utf-8")
    return load_settings(environ, use_mock_broker=True, root=root)


def reload_of(world: World, settings: Settings) -> RiskReload:
    world.risk_rules.limits = settings.risk_limits
    return RiskReload(
        source=settings, rules=world.risk_rules, alerts=world.service.delivery.alerts, name=settings.risk_file.name
    )


def logged(world: World, action: str) -> list[str]:
    return [line["event"] for line in world.logs if line.get("action") == action]


async def test_what_the_file_says_now_binds_the_next_order_and_the_log_has_the_difference(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[defaults]\nmax_order_quantity = 100\n")
    async with world_of(tmp_path) as world:
        reload = reload_of(world, settings)
        world.send("before")
        await world.run(5)
        settings_of(tmp_path, "[defaults]\nmax_order_quantity = 50\n")
        await reload.read_again()
        world.send("after")
        await world.run(5)
        assert world.record("before").status is Status.FILLED
        assert world.record("after").status is Status.REJECTED
        assert logged(world, "risk_limit_changed") == [
            "Limit of risk changed: [defaults] max_order_quantity: 100 -> 50"
        ]


async def test_a_file_that_is_wrong_leaves_the_old_limits_in_force_and_people_are_told(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[defaults]\nmax_order_quantity = 100\n")
    async with world_of(tmp_path) as world:
        reload = reload_of(world, settings)
        (tmp_path / "risk.toml").write_text("[defaults]\nmax_order_quantity = -1\nmax_order_vale = 5\n")
        await reload.read_again()
        await world.run(5)
        assert world.risk_rules.limits is settings.risk_limits
        assert len(logged(world, "risk_file_refused")) == 2
        assert len(world.notifier.titled("Risk File Not Taken")) == 1


async def test_limits_do_not_vanish_with_their_file(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[defaults]\nmax_order_quantity = 100\n")
    async with world_of(tmp_path) as world:
        reload = reload_of(world, settings)
        (tmp_path / "risk.toml").unlink()
        await reload.read_again()
        assert world.risk_rules.limits is settings.risk_limits


def test_without_a_file_what_is_built_in_holds(tmp_path: Path) -> None:
    assert not settings_of(tmp_path, None).risk_limits.tables


def test_a_named_file_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings_of(tmp_path, None, RISK_FILE="mine.toml")
    assert "RISK_FILE names" in raised.value.problems[0]


def test_all_problems_of_the_file_and_of_other_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings_of(tmp_path, "[defaults]\nmax_order_quantity = -1\nnonsense = 1\n", LOG_LEVEL="LOUD")
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize("name", ["TRADING_SYMBOLS", "DEFAULT_SYMBOLS"])
def test_symbols_that_may_be_traded_come_from_either_name(tmp_path: Path, name: str) -> None:
    limits = settings_of(tmp_path, None, **{name: "aapl, MSFT"}).risk_limits
    assert limits.tables[Scope()].of(LimitType.ALLOWED_SYMBOLS) == {"AAPL", "MSFT"}


def test_two_names_that_say_different_things_are_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        settings_of(tmp_path, None, TRADING_SYMBOLS="AAPL", DEFAULT_SYMBOLS="MSFT")


@pytest.mark.parametrize(("name", "value"), [("TRADE_RISK_PER_TRADE", "0.01"), ("RISK_LIMIT_PERCENT", "1")])
def test_what_one_trade_may_lose_is_said_as_a_part_or_in_per_cent(tmp_path: Path, name: str, value: str) -> None:
    assert settings_of(tmp_path, None, **{name: value}).risk_per_trade == Decimal("0.01")
    assert settings_of(tmp_path, None).risk_per_trade is None


@pytest.mark.parametrize(("part", "percent"), [("0.01", "2"), ("0", "0"), ("1.5", ""), ("", "101"), ("NaN", "")])
def test_a_part_that_is_none_or_that_its_two_names_contradict_is_a_problem(
    tmp_path: Path, part: str, percent: str
) -> None:
    with pytest.raises(ConfigurationError):
        settings_of(tmp_path, None, TRADE_RISK_PER_TRADE=part, RISK_LIMIT_PERCENT=percent)


def test_a_file_s_figures_are_exact(tmp_path: Path) -> None:
    limits = settings_of(tmp_path, "[defaults]\nmax_order_value = 0.1\n").risk_limits
    assert limits.tables[Scope()].max_order_value == Decimal("0.1")
