"""How many calls a night costs in which nothing moves: orders held for the opening, cancels unanswered, orders in doubt; by a hand-moved clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from brokers.base import Capabilities, Report, ReportStatus
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.app import notice
from execution_service.control import commands
from execution_service.core.orders.status import Status
from tests.fakes import ACCOUNT, World, world_of

NIGHT_HOURS = 14
ORDERS = 120
"""More than the looks that all of them may cost together, so that a look for each of them is noticed."""
TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=8, poll_seconds=0.5)
IGNORED = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)


def hold_in_the_evening(world: World, signal_ids: Sequence[str]) -> None:
    """The broker says of these orders that they wait for the opening."""
    held = set(map(world.client_id, signal_ids))

    def retold(reports: Sequence[Report]) -> Sequence[Report]:
        return [
            replace(report, is_held=True, said="waits for the opening")
            if report.status is ReportStatus.WORKING and report.client_order_id in held
            else report
            for report in reports
        ]

    world.broker_faults.retold, world.broker_faults.retells_changes = retold, True


@pytest.mark.timeout(600)
async def test_a_night_costs_a_bounded_number_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "POLL_SECONDS", 600.0)  # what the store is asked is not counted here
    monkeypatch.setattr(notice, "STATES_SECONDS", 600.0)
    each = ORDERS // 3
    async with world_of(
        tmp_path, market=Market(fill_delay_seconds=None), capabilities=TAG, is_unique=False, faults=[IGNORED]
    ) as world:
        world.broker_faults.errors["place_order"] = [TimeoutError("no answer")] * each
        for n in range(each):
            world.send(f"lost-{n}", symbol=f"L{n}")
        await world.run(15)
        assert [o.status for o in world.records()] == [Status.IN_DOUBT] * each
        hold_in_the_evening(world, [f"held-{n}" for n in range(each)])
        for n in range(each):
            world.send(f"held-{n}", symbol="HELD", order_type="LIMIT", limit_price=10)
            world.send(f"late-{n}", symbol=f"C{n}", timeout_seconds=5)
        await world.run(10)
        world.broker_calls.clear()
        world.brokers[ACCOUNT].repetitions = 0
        evening = len(world.notifier.texts)
        await world.run(NIGHT_HOURS * 3600)
        calls = Counter(name for name, _ in world.broker_calls)
        print(f"{ORDERS} orders, {NIGHT_HOURS} hours: {dict(calls)}, messages {len(world.notifier.texts) - evening}")
        assert world.brokers[ACCOUNT].repetitions == calls["cancel_order"]
        assert calls["cancel_order"] <= 21 * each
        assert calls["find"] == 0
        assert calls["find_all"] <= 24, "one look for all, however many they are"
        assert calls["reports"] <= 12_600, "fifteen a minute"
        assert calls["positions"] <= NIGHT_HOURS * 60 + 10
        assert len(world.notifier.texts) - evening <= 2
        statuses = Counter(o.status for o in world.records())
        assert statuses == {Status.IN_DOUBT: each, Status.SUBMITTED: 2 * each}
