"""The store goes away before, between and after an order's steps: nothing is lost, and nothing is done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.errors import BrokerUnavailable
from execution_service.core.orders.status import Status
from execution_service.trading.trader import TradingRules
from tests.fakes import BY_HAND, world_of
from tests.service.audit import audit


async def test_store_gone_while_running_nothing_is_acknowledged_or_placed_and_it_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.is_away = True
        world.send()
        world.cancel(signal_id="nobody")
        world.send_raw(b"rubbish")
        await world.run(120)
        assert len(world.orders.unacknowledged) == 2
        assert len(world.commands.unacknowledged) == 1
        assert not world.calls("place_order")
        world.store_faults.is_away = False
        await world.run(30)
        assert world.record().status is Status.FILLED
        assert len(world.documents("execution_dead_letters")) == 1
        audit(world)


async def test_store_gone_between_storing_and_placing_nothing_is_placed_until_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = BrokerUnavailable("pause", known_pause=True)
        await world.run(10)
        for n in range(20):
            world.send(f"sig-{n}")
        world.exit("out", "sig-0")
        await world.run(1)
        world.store_faults.is_away = True
        world.broker_faults.unavailable = None
        await world.run(60)
        assert not world.calls("place_order")
        world.store_faults.is_away = False
        await world.run(60)
        assert {o.status for o in world.records()} == {Status.FILLED}
        audit(world)


async def test_store_gone_after_placing_what_the_broker_said_is_recorded_when_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(order_timeout_seconds=0)) as world:
        world.send()
        await world.run(1)
        world.store_faults.is_away = True
        world.fill("sig")
        await world.run(120)
        world.store_faults.is_away = False
        await world.run(30)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("sig") == ["FILLED"]
        audit(world)


@pytest.mark.parametrize(
    "call",
    [
        "execution_orders.insert_many",
        "execution_orders.update_one",
        "execution_orders.bulk_write",
        "execution_positions.insert_one",
        "execution_confirmations.insert_many",
        "positions.bulk_write",
        "signal_store.insert_many",
        "execution_ledger_lines.insert_many",
        "execution_dead_letters.insert_many",
        "execution_alerts.update_one",
        "execution_commands.insert_many",
        "execution_commands.update_one",
    ],
)
@pytest.mark.parametrize("times", [1, 3])
async def test_write_whose_answer_was_lost_is_neither_lost_nor_made_twice(
    tmp_path: Path, call: str, times: int
) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.lost_answers[call] = times
        world.send()
        world.send("other", symbol="NVDA")
        world.exit("out", "sig", price=11)
        world.send_raw(b"rubbish")
        world.cancel(signal_id="nobody")
        await world.run(60)
        assert {o.status for o in world.records()} == {Status.FILLED}
        assert not world.unsettled()
        assert len(world.notifier.titled("Dead Letter")) == 1
        audit(world)
