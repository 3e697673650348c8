"""How long orders may work and how old they may be, by a hand-moved clock."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.errors import BrokerUnavailable
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.trading.trader import TradingRules
from tests.fakes import BY_HAND, world_of
from tests.service.audit import audit


async def test_order_not_filled_in_time_is_cancelled_and_ends_with_that_reason(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(59.5)
        assert not world.calls("cancel_order")
        await world.run(2)
        order = world.record()
        assert order.status is Status.CANCELLED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.TIMEOUT
        assert world.publisher.of("sig")[-1]["reason"]["code"] == "TIMEOUT"
        assert world.notifier.titled("Order Timeout")


async def test_timed_out_order_keeps_the_part_that_filled(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 25)
        await world.run(61)
        assert world.publisher.statuses("sig") == ["PARTIALLY_FILLED", "CANCELLED"]
        assert world.publisher.of("sig")[-1]["filled_quantity"] == 25
        (document,) = world.documents("signal_store")
        assert document["execution_status"] == "CANCELLED"
        assert document["execution"]["status"] == "FILLED"
        assert document["execution"]["quantity_filled"] == 25
        assert document["position_status"] == "OPEN"
        audit(world)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"timeout_seconds": 5}, 5),
        ({"timeout_seconds": "2.5"}, 2.5),
        ({"timeout_seconds": 120}, 120),
        ({"tif": "DAY", "timeout_seconds": 7}, 7),
    ],
)
async def test_the_orders_own_time_out_comes_first(tmp_path: Path, fields: dict[str, Any], seconds: float) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(**fields)
        await world.run(seconds - 0.2)
        assert world.record().status is Status.SUBMITTED
        await world.run(2)
        assert world.record().status is Status.CANCELLED


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout_seconds": 0},
        {"tif": "DAY"},
        {"tif": "GTC"},
        {"order_type": "STOP", "stop_price": 12},
        {"order_type": "STOP_LIMIT", "stop_price": 12, "limit_price": 13},
    ],
)
async def test_orders_that_rest_are_not_cancelled(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(**fields)
        await world.run(600)
        assert world.record().status is Status.SUBMITTED


async def test_time_out_counts_on_over_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(40)
        await world.restart(after_seconds=15)
        await world.run(3)
        assert world.record().status is Status.SUBMITTED
        await world.run(4)
        assert world.record().status is Status.CANCELLED


async def test_late_fill_after_a_cancel_is_recorded_and_told_as_a_correction(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.CANCEL, action=Action.LATE_FILL_AFTER_CANCEL, seconds=90, quantity=Decimal(60))
    async with world_of(tmp_path, market=BY_HAND, faults=[fault]) as world:
        world.send()
        await world.run(70)
        assert world.record().status is Status.CANCELLED
        await world.run(100)
        order = world.record()
        assert (order.status, order.filled_quantity) == (Status.CANCELLED, Decimal(60))
        assert world.publisher.of("sig")[-1]["correction"] is True
        assert world.notifier.titled("Correction: Late Fill")
        assert world.documents("positions")[0]["quantity"] == 60
        audit(world)


async def test_late_fill_is_heard_of_though_the_service_was_restarted_and_has_nothing_to_do(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(70)
        await world.kill()
        world.fill("sig", 100, force=True)
        await world.start()
        await world.run(10)
        assert world.record().status is Status.FILLED
        audit(world)


# --- age ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "is_placed"), [(299, True), (301, False)])
async def test_order_published_too_long_ago_is_not_sent(tmp_path: Path, age: float, is_placed: bool) -> None:
    async with world_of(tmp_path) as world:
        world.send(age_seconds=age)
        await world.run(1)
        assert bool(world.placed()) is is_placed
        assert world.publisher.statuses("sig") == ["FILLED" if is_placed else "REJECTED"]
        if not is_placed:
            assert world.publisher.of("sig")[0]["reason"]["code"] == "STALE_ORDER"


async def test_age_limit_of_nought_turns_it_off(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(max_order_age_seconds=0)) as world:
        world.send(age_seconds=1e6)
        await world.run(1)
        assert world.record().status is Status.FILLED


async def test_order_that_becomes_too_old_while_the_broker_pauses_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = BrokerUnavailable("token to be renewed", known_pause=True)
        await world.start()
        world.send()
        await world.run(299)
        assert world.record().status is Status.PENDING
        await world.run(2)
        order = world.record()
        assert order.reason is not None
        assert order.reason.code is ReasonCode.STALE_ORDER
        world.broker_faults.unavailable = None
        await world.run(60)
        assert not world.placed()


async def test_order_left_pending_by_a_dead_service_is_not_sent_when_it_is_too_old(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = BrokerUnavailable("down", known_pause=True)
        await world.start()
        world.send()
        await world.run(10)
        await world.kill()
        world.broker_faults.unavailable = None
        world.clock.move(1000)
        await world.start()
        await world.run(1)
        assert world.record().status is Status.REJECTED
        assert not world.placed()


async def test_order_perhaps_sent_and_too_old_by_now_is_in_doubt_and_not_sent_again(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, faults=[fault]) as world:
        world.send(age_seconds=299.9)
        await world.run(5)
        assert world.record().status is Status.IN_DOUBT
        assert len(world.calls("place_order")) == 1
        assert world.notifier.titled("Order In Doubt")


@pytest.mark.parametrize(("limit_seconds", "status"), [(30.0, Status.REJECTED), (3600.0, Status.PENDING)])
async def test_the_age_limit_holds_before_the_first_connection_too(
    tmp_path: Path, limit_seconds: float, status: Status
) -> None:
    async with world_of(tmp_path, starts=False, rules=TradingRules(max_order_age_seconds=limit_seconds)) as world:
        world.broker_faults.unavailable = BrokerUnavailable("the token is to be renewed", known_pause=True)
        await world.start()
        world.send()
        await world.run(33.0 if status.is_final else 303.0)
        assert world.record().status is status
