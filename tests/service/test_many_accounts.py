"""Accounts side by side: one whose broker hangs, and those that nobody ever named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities, Report
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.recording.live_orders import LiveOrder
from execution_service.trading.accounts import UNNAMED_ACCOUNT_IDLE_SECONDS
from tests.fakes import ACCOUNT, World, world_of
from tests.service.audit import audit

HANGING = "acct-hangs"
OTHER = "acct-other"


@pytest.mark.parametrize("operation", [Operation.CONNECT, Operation.REPORTS, Operation.PLACE])
async def test_a_broker_that_hangs_for_ever_delays_no_other_account(tmp_path: Path, operation: Operation) -> None:
    hang = Fault(operation=operation, action=Action.NEVER_ANSWER, account_id=HANGING, times=None, accepted=False)
    async with world_of(tmp_path, accounts=(ACCOUNT, HANGING), faults=(hang,)) as world:
        for number in range(50):
            world.send(f"hangs-{number}", account_id=HANGING, symbol=f"SYM{number}")
        for number in range(20):
            world.send(f"well-{number}")
        await world.run(2.0)
        statuses = {r.signal_id: r.status for r in world.records()}
        assert {statuses[f"well-{n}"] for n in range(20)} == {Status.FILLED}
        assert not any(statuses[f"hangs-{n}"] is Status.FILLED for n in range(50))
        assert world.publisher.statuses("well-19") == ["FILLED"]
        # And as long as it goes on.
        await world.run(60.0)
        world.send("well-later")
        await world.run(2.0)
        assert world.record("well-later").status is Status.FILLED
        assert len(world.placed()) == 21


async def test_an_idle_account_that_no_file_names_is_let_go_and_served_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, unnamed_accounts=("made-up",)) as world:
        world.send("first", account_id="made-up")
        await world.run(1.0)
        assert "made-up" in world.service.accounts.traders
        await world.run(2 * UNNAMED_ACCOUNT_IDLE_SECONDS)
        assert "made-up" not in world.service.accounts.traders
        assert ACCOUNT in world.service.accounts.traders, "a named account is listened to for ever"
        world.send("second", account_id="made-up")
        await world.run(1.0)
        assert world.record("second").status is Status.FILLED
        assert len(world.placed("made-up")) == 2


async def test_an_unnamed_account_with_an_order_at_work_keeps_its_trader(tmp_path: Path) -> None:
    hold = Fault(operation=Operation.PLACE, action=Action.HOLD, account_id="made-up")
    async with world_of(tmp_path, unnamed_accounts=("made-up",), faults=(hold,)) as world:
        world.send("rests", account_id="made-up", order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(4 * UNNAMED_ACCOUNT_IDLE_SECONDS)
        assert world.record("rests").status is Status.SUBMITTED
        assert "made-up" in world.service.accounts.traders


async def test_accounts_that_are_one_at_the_broker_hear_only_of_their_own_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = World.create_broker
    heard: set[tuple[str, str | None]] = set()
    monkeypatch.setattr(World, "create_broker", lambda world, config: made(world, {**config, "account_id": ACCOUNT}))
    async with world_of(tmp_path, accounts=(ACCOUNT, OTHER)) as world:
        world.publisher.is_away = True  # what has ended stays in hand, for both to find there
        for account_id, trader in world.service.accounts.traders.items():

            def ended(order: Order, report: Report, hearer: str = account_id) -> None:
                heard.add((hearer, order.request.account_id))

            reconciliation: Any = trader.reconciliation
            reconciliation.ended = ended
        for account_id in (ACCOUNT, OTHER):
            world.send(account_id, account_id=account_id)
        await world.run(30.0)
    assert heard == {(ACCOUNT, ACCOUNT), (OTHER, OTHER)}


@pytest.mark.parametrize("is_unique", [True, False])
async def test_the_next_order_waits_for_the_record_of_the_answer_only_where_a_repeated_id_is_taken(
    tmp_path: Path, is_unique: bool
) -> None:
    capabilities = Capabilities(refuses_repeated_client_id=is_unique, find_window_seconds=3.0, concurrent_calls=4)
    async with world_of(tmp_path, capabilities=capabilities, is_unique=is_unique) as world:
        await world.run(1.0)
        record, is_recorded = world.service.live_orders.record, asyncio.Event()

        async def record_late(live: LiveOrder, decide: Callable[[Order], Sequence[Event]]) -> Sequence[Event]:
            if live.order.status is Status.SUBMITTING:
                await is_recorded.wait()
            return await record(live, decide)

        world.service.live_orders.record = record_late  # type: ignore[method-assign]
        world.send("first")
        await world.run(1.0)
        world.send("second")
        await world.run(1.0)
        assert len(world.placed()) == (2 if is_unique else 1)
        is_recorded.set()
        await world.run(5.0)
        assert {r.status for r in world.records()} == {Status.FILLED}
        assert len(world.placed()) == 2
        audit(world)
