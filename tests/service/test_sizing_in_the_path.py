"""Orders that name a stop in place of a quantity: sized once, as they leave, with the arithmetic in their record; or refused with the reason."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.errors import BrokerUnavailable
from execution_service.core.orders.events import NothingSent, Rejected, Sized, SubmitStarted
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import RefusedRequest
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.gate import Verdict
from execution_service.core.risk.prices import Rate
from execution_service.trading.risk_gate import RiskGate
from execution_service.trading.trader import TradingRules
from tests.builders import NOW
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, World, world_of

ONE_PER_CENT = TradingRules(risk_per_trade=Decimal("0.01"), order_timeout_seconds=0.0)
"""Of the million that the mock broker's account begins with: 10,000 may be lost."""


def send(world: World, signal_id: str = "sig", **changes: Any) -> None:
    world.send(signal_id, **{"quantity": None, "price": 50, "stop_loss": 48} | changes)


def sized(order: Order) -> list[Sized]:
    return [event for event in order.events if isinstance(event, Sized)]


async def test_it_is_sized_by_equity_and_stop_and_the_arithmetic_is_in_its_record(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT) as world:
        send(world)
        await world.run(3)
        order = world.record("sig")
        (event,) = sized(order)
        assert (order.status, order.quantity, event.quantity) == (Status.SUBMITTED, 5000, 5000)
        assert event.arithmetic == (
            "equity 1000000 x 0.01 = 10000 at risk; 2 lost by one unit from 50 to 48; 5000 units; rounded down to 5000 (lot 1)"
        )
        assert [placed.ticket.quantity for placed in world.placed()] == [5000]
        kinds = [type(event) for event in order.events]
        assert kinds.index(Sized) < kinds.index(SubmitStarted)


@pytest.mark.parametrize(
    ("limits", "quantity", "by"),
    [
        ({"max_order_quantity": 120}, 120, "max_order_quantity"),
        ({"max_order_value": 10_049}, 200, "max_order_value"),
        ({"max_position_quantity": 77}, 77, "max_position_quantity"),
        ({"max_position_value": 5_049}, 100, "max_position_value"),
    ],
)
async def test_limits_make_it_smaller_and_are_named(
    tmp_path: Path, limits: dict[str, Any], quantity: int, by: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT, limits=written(**limits)) as world:
        send(world)
        await world.run(3)
        order = world.record("sig")
        assert (order.status, order.quantity) == (Status.SUBMITTED, quantity)
        assert f"by {by}" in sized(order)[0].arithmetic


async def test_two_at_once_do_not_both_count_on_the_whole_buying_power(tmp_path: Path) -> None:
    # Each would cost 500,000 for a loss of 10,000; the account has a million, and the third finds nothing left.
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT) as world:
        for symbol in ("AAPL", "MSFT", "NVDA"):
            send(world, symbol, symbol=symbol, stop_loss=49)
        await world.run(3)
        orders = [world.record(symbol) for symbol in ("AAPL", "MSFT", "NVDA")]
        assert [order.quantity for order in orders] == [10_000, 10_000, None]
        assert orders[2].status is Status.REJECTED
        assert "capped at 0 by the buying power, less what works" in str(orders[2].reason)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stop_loss": 52}, "the stop 52 is on the wrong side of 50"),
        ({"price": None}, "no fresh price is known"),
        ({"stop_loss": "49.999999"}, ""),
    ],
)
async def test_what_cannot_be_sized_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT) as world:
        send(world, **changes)
        await world.run(3)
        order = world.record("sig")
        if not words:
            assert order.status is Status.SUBMITTED  # as much as the buying power allows
            assert order.quantity == 20_000
            return
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.RISK_LIMIT
        assert words in order.reason.message
        assert order.reason.breaches is not None
        assert [each.limit_type for each in order.reason.breaches] == ["sizing"]
        assert not world.placed()


async def test_without_an_equity_it_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT) as world:
        world.broker_faults.errors["balances"] = [BrokerUnavailable("no answer")] * 100
        send(world)
        await world.run(10)
        order = world.record("sig")
        assert order.status is Status.REJECTED
        assert "the equity is not known" in str(order.reason)


@pytest.mark.parametrize(
    ("rules", "changes"),
    [
        (TradingRules(), {}),
        (ONE_PER_CENT, {"stop_loss": None}),
        (ONE_PER_CENT, {"signal_type": "EXIT", "side": "SELL"}),
        (ONE_PER_CENT, {"total_legs": 2, "leg_index": 0}),
        (ONE_PER_CENT, {"quantity": 0}),
    ],
    ids=["no setting", "no stop", "an exit", "a leg", "zero"],
)
async def test_else_a_message_without_a_quantity_is_refused_as_it_was(
    tmp_path: Path, rules: TradingRules, changes: dict[str, Any]
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        send(world, **changes)
        await world.run(3)
        (order,) = world.records()
        assert isinstance(order.request, RefusedRequest)
        assert order.reason is not None
        assert order.reason.code is ReasonCode.INVALID_ORDER
        assert "quantity" in order.reason.message


async def test_what_was_sized_is_not_sized_anew_after_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("not now")] * 2
        send(world)
        await world.run(0.5)
        first = world.record("sig")
        assert (len(sized(first)), first.quantity) == (1, 5000)
        assert NothingSent in map(type, first.events)
        await world.restart()
        await world.run(60)
        order = world.record("sig")
        assert (len(sized(order)), order.quantity, len(world.placed())) == (1, 5000, 1)


async def test_a_repetition_is_the_same_order_and_another_stop_is_not(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT) as world:
        send(world)
        await world.run(2)
        send(world, price=51)
        await world.run(2)
        assert not world.documents("execution_dead_letters")
        send(world, stop_loss=40)
        await world.run(2)
        assert len(world.placed()) == 1
        assert len(world.documents("execution_dead_letters")) == 1


async def test_an_order_that_is_refused_by_a_limit_has_its_size_in_its_record(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT, limits=written(max_gross_exposure=1000)) as world:
        send(world)
        await world.run(3)
        order = world.record("sig")
        assert [type(event) for event in order.events][-1] is Rejected
        assert order.quantity == 5000


async def test_the_size_is_by_the_rate_into_the_account_s_currency_and_no_other(tmp_path: Path) -> None:
    rates = (
        Rate(base="USD", quoted="EUR", rate=Decimal("0.8"), source="risk.toml", at=NOW),
        Rate(base="EUR", quoted="GBP", rate=Decimal(5), source="risk.toml", at=NOW),
    )
    limits = replace(written(max_order_quantity=100_000), rates=rates)
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT, limits=limits) as world:
        send(world, currency="EUR", symbol="SAP")
        await world.run(3)
        (event,) = sized(world.record("sig"))
        assert event.quantity == 4000, "10,000 dollars at risk, 2 euros or 2.50 dollars lost by each"


async def test_what_was_sized_and_has_not_left_yet_counts_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, may_leave = RiskGate.judge, asyncio.Event()

    async def leaves_later(self: RiskGate, order: Order) -> Verdict:
        verdict = await judge(self, order)
        if order.signal_id == "sig":
            await may_leave.wait()
        return verdict

    monkeypatch.setattr(RiskGate, "judge", leaves_later)
    limits = written(max_gross_exposure=300_000)
    async with world_of(tmp_path, market=BY_HAND, rules=ONE_PER_CENT, limits=limits) as world:
        send(world)
        await world.run(2)
        send(world, "other", symbol="MSFT")
        await world.run(2)
        may_leave.set()
        await world.run(3)
        assert world.record("sig").status is Status.SUBMITTED
        assert sum((placed.ticket.quantity for placed in world.placed()), Decimal(0)) * 50 <= 300_000
