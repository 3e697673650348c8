"""PRODUCTION and TRAINING: one setting of an account, and no door by which a TRAINING account comes to a broker that may be a real one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brokers.registry import manifests
from execution_service.app.check import account_finding
from execution_service.app.settings.accounts import Account
from execution_service.app.settings.loading import load_settings
from execution_service.app.settings.problems import ConfigurationError
from execution_service.control.requests import Kind
from execution_service.core.planning.targets import Mode
from execution_service.storage.ports.commands import Command
from tests.fakes import ACCOUNT, World, world_of
from tests.service.http_calls import http_world

REAL = ACCOUNT
"""An account in PRODUCTION; its broker stands for a real one."""
PAST = "training"
NOT_SIMULATED = [name for name, manifest in manifests().items() if not manifest.is_simulated]


def targets(mode: str, account_id: str = PAST, decision: str = "d-1", quantity: int = 10) -> dict[str, Any]:
    return {
        "decision_id": decision,
        "account_id": account_id,
        "strategy_id": "momentum",
        "as_of": "2025-03-03T15:00:00Z",
        "mode": mode,
        "targets": [{"symbol": "AAPL", "quantity": quantity}],
    }


def order(**more: Any) -> dict[str, Any]:
    fields = {"signal_id": "sig", "account_id": PAST, "strategy_name": "momentum", "symbol": "AAPL", "side": "BUY"}
    return fields | {"quantity": 10, "order_type": "MARKET", "price": 10} | more


async def command(world: World, kind: Kind, **body: Any) -> None:
    now = world.clock.now()
    await world.service.commands.give(
        Command(command_id=f"c-{kind}", kind=kind, body=body, published_at=now, received_at=now)
    )


async def by_pubsub(world: World, http: Any, mode: str) -> None:
    world.send_raw(json.dumps(order(mode=mode)).encode())


async def by_http(world: World, http: Any, mode: str) -> None:
    body = {"symbol": "AAPL", "side": "buy", "quantity": 10, "order_type": "market", "account_id": PAST}
    answer = await http.post("/api/execution/order", json=body | {"strategy_id": "momentum"})
    assert answer.status_code < 300, answer.text


async def by_program(world: World, http: Any, mode: str) -> None:
    await world.service.process_order(order())


async def by_trading_signal(world: World, http: Any, mode: str) -> None:
    await world.service.execute_signal(
        {
            "signal_id": "s-1",
            "symbol": "AAPL",
            "action": "buy",
            "metadata": {"quantity": 10, "price": 10, "account_id": PAST},
        }
    )


async def by_targets_topic(world: World, http: Any, mode: str) -> None:
    world.targets.publish(json.dumps(targets(mode)).encode(), world.clock.now())


async def by_targets_http(world: World, http: Any, mode: str) -> None:
    await http.post("/api/execution/targets", json=targets(mode))


async def by_command(world: World, http: Any, mode: str) -> None:
    """As `execctl plan` gives it."""
    await command(world, Kind.PLAN, targets=json.dumps(targets(mode)), dry_run=False)


async def by_apply_execution_plan(world: World, http: Any, mode: str) -> None:
    with contextlib.suppress(ValueError):  # what was refused is seen by what was placed
        await world.service.apply_execution_plan(targets(mode), mode)


ORDERS = [by_pubsub, by_http, by_program, by_trading_signal]
PLANS = [by_targets_topic, by_targets_http, by_command, by_apply_execution_plan]
Door = Callable[[World, Any, str], Awaitable[None]]


def placed(world: World) -> dict[str, list[str]]:
    return {account: [p.ticket.instrument.symbol for p in world.placed(account)] for account in (PAST, REAL)}


@pytest.mark.parametrize("door", [*ORDERS, *PLANS])
async def test_by_every_door_what_is_for_training_comes_to_its_own_broker_and_no_other(
    tmp_path: Path, door: Door
) -> None:
    async with http_world(tmp_path, accounts=(REAL, PAST), in_training=(PAST,)) as (world, http):
        await door(world, http, "TRAINING")
        await world.run(5)
        assert placed(world) == {PAST: ["AAPL"], REAL: []}


@pytest.mark.parametrize("door", PLANS)
async def test_by_every_door_a_plan_of_another_mode_than_its_account_s_is_refused(tmp_path: Path, door: Door) -> None:
    async with http_world(tmp_path, accounts=(REAL, PAST), in_training=(PAST,)) as (world, http):
        await door(world, http, "PRODUCTION")
        await world.run(5)
        assert placed(world) == {PAST: [], REAL: []}
        assert f"account {PAST} is in mode TRAINING, the plan in PRODUCTION" in world.notifier.texts[-1]


async def test_a_plan_in_training_for_an_account_in_production_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path, accounts=(REAL, PAST), in_training=(PAST,)) as world:
        with pytest.raises(ValueError, match="acct-1 is in mode PRODUCTION, the plan in TRAINING"):
            await world.service.apply_execution_plan(targets("TRAINING", REAL), "TRAINING")
        assert placed(world) == {PAST: [], REAL: []}


async def test_flattening_closes_each_holding_at_its_own_account(tmp_path: Path) -> None:
    async with world_of(tmp_path, accounts=(REAL, PAST), in_training=(PAST,)) as world:
        world.send_raw(json.dumps(order()).encode())
        await world.run(5)
        await command(world, Kind.FLATTEN, scope=f"account:{PAST}", person="bob", by="ann", reason="enough")
        await world.run(5)
        assert placed(world) == {PAST: ["AAPL", "AAPL"], REAL: []}


@pytest.mark.parametrize("broker", [*NOT_SIMULATED, "nobody"])
def test_an_account_in_training_at_a_broker_that_may_be_real_cannot_be_made(broker: str) -> None:
    with pytest.raises(ValueError, match="may be a real broker"):
        Account(account_id="a", name="a", broker=broker, live=False, config={}, mode=Mode.TRAINING)
    if broker in manifests():
        real = Account(account_id="a", name="a", broker=broker, live=False, config={})
        with pytest.raises(ValueError, match="may be a real broker"):
            replace(real, mode=Mode.TRAINING)


def problems(root: Path, table: str, **environ: str) -> tuple[str, ...]:
    (root / "accounts.toml").write_text(table, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ, root=root)
    return caught.value.problems


@pytest.mark.parametrize("broker", NOT_SIMULATED)
def test_training_at_a_broker_that_may_be_real_is_refused_at_start(tmp_path: Path, broker: str) -> None:
    told = problems(tmp_path, f'[accounts.a]\nbroker = "{broker}"\nmode = "TRAINING"\nlive = false\n')
    assert any("mode is TRAINING, but" in words and "allowed: mock, simulated." in words for words in told)


def test_a_market_of_the_past_is_for_training_alone(tmp_path: Path) -> None:
    table = '[accounts.a]\nbroker = "simulated"\nbars = "b.csv"\nsimulation = "s.toml"\n'
    told = problems(tmp_path, table + 'mode = "PRODUCTION"\n')
    assert told == ("Account 'a': mode is PRODUCTION, but the broker on historical bars is for TRAINING alone.",)
    assert problems(tmp_path, table + 'mode = "LIVE"\n') == ("Account 'a': mode must be PRODUCTION or TRAINING.",)
    assert "has no live account" in problems(tmp_path, table + "live = true\n")[0]


def test_an_account_on_bars_names_its_files_and_is_in_training(tmp_path: Path) -> None:
    (tmp_path / "accounts.toml").write_text(
        '[accounts.a]\nbroker = "simulated"\nbars = "b.csv"\nsimulation = "s.toml"\n'
    )
    account = load_settings({"SIMULATED_PACE": "command"}, root=tmp_path).accounts["a"]
    assert (account.mode, account.live, account.config["pace"]) == (Mode.TRAINING, False, "command")
    assert (account.config["bars"], account.config["simulation"]) == (str(tmp_path / "b.csv"), str(tmp_path / "s.toml"))
    told = problems(tmp_path, '[accounts.a]\nbroker = "simulated"\npace = "fast"\n')
    assert told == (
        "Account 'a': bars is missing.",
        "Account 'a': simulation is missing.",
        "Account 'a': pace must be settled, command, or how many bars a second, at most 1000, not 'fast'.",
    )


async def test_check_names_what_is_wrong_with_bars_by_file_row_and_rule(tmp_path: Path) -> None:
    (tmp_path / "accounts.toml").write_text(
        '[accounts.a]\nbroker = "simulated"\nbars = "b.csv"\nsimulation = "s.toml"\n'
    )
    (tmp_path / "s.toml").write_text('stamp = "open"\ninterval = "1d"\n')
    rows = "A,2024-01-02,10,9,8,9,5\nA,2024-01-03,10,11,8,9.001,5\n"
    (tmp_path / "b.csv").write_text("symbol,time,open,high,low,close,volume\n" + rows)
    account = load_settings({}, root=tmp_path).accounts["a"]
    found = await account_finding(account)
    assert not found.works
    assert "b.csv, row 2: CROSSED: " in found.detail
    assert "; b.csv, row 3: TICK: close '9.001'" in found.detail
    (tmp_path / "b.csv").write_text("symbol,time,open,high,low,close,volume\nA,2024-01-02,10,11,8,9,5\n")
    found = await account_finding(account)
    assert (found.works, found.detail.startswith("SIMULATED, TRAINING, a: 0.00 USD.")) == (True, True)


def test_with_the_mock_broker_for_all_an_account_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "accounts.toml").write_text('[accounts.a]\nbroker = "simulated"\n[accounts.b]\nbroker = "mock"\n')
    accounts = load_settings({"USE_MOCK_BROKER": "true"}, root=tmp_path).accounts
    assert {a.account_id: (a.broker, a.mode) for a in accounts.values()} == {
        "a": ("mock", Mode.TRAINING),
        "b": ("mock", Mode.PRODUCTION),
    }
