"""Signals that another program hands over by a call: the one path of orders, with the status told back."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from execution_service.app.service import ExecutionService
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.execution_manager import ExecutionManager
from execution_service.trading.trader import TradingRules
from tests.fakes import BY_HAND, world_of


class Action(Enum):
    BUY = "buy"


@dataclass
class Signal:
    signal_id: str = "s-1"
    symbol: str = "AAPL"
    action: Any = Action.BUY
    source: str = "ai"
    confidence: float | None = 0.9
    target_price: float | None = 60.0
    stop_loss_price: float | None = 48.0
    metadata: dict[str, Any] = field(default_factory=dict)


async def test_a_signal_is_sized_by_its_stop_and_its_target_is_no_limit(tmp_path: Path) -> None:
    rules = TradingRules(risk_per_trade=Decimal("0.01"))
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        told = await world.service.execute_signal(Signal(metadata={"price": 50}))
        assert told is not None
        assert (told.status, told.order_id) == (Status.PENDING, world.record("s-1").order_id)
        await world.run(3)
        (placed,) = world.placed()
        assert (placed.ticket.quantity, placed.ticket.limit_price, placed.ticket.stop_price) == (5000, None, None)


async def test_the_same_signal_again_is_the_same_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        signal = {"signal_id": "s-1", "symbol": "AAPL", "action": "buy", "metadata": {"quantity": 7, "price": 10}}
        first = await world.service.process_signal(signal)
        await world.run(2)
        again = await world.service.process_signal(signal)
        await world.run(2)
        assert first is not None
        assert again is not None
        assert (again.order_id, again.status, len(world.placed())) == (first.order_id, Status.SUBMITTED, 1)


async def test_what_asks_for_nothing_and_what_cannot_be_done_are_told_apart(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        assert await world.service.execute_signal(Signal(action="hold")) is None
        closing = await world.service.execute_signal(Signal(action="close_long"))
        assert closing is not None
        assert closing.reason is not None
        assert (closing.status, closing.reason.code) == (Status.REJECTED, ReasonCode.INVALID_ORDER)
        with pytest.raises(ValueError, match="action must be"):
            await world.service.execute_signal(Signal(action="double up"))
        with pytest.raises(ValueError, match="signal_id"):
            await world.service.execute_signal({"action": "buy"})
        assert not world.placed()


def test_the_manager_is_the_service() -> None:
    assert ExecutionManager is ExecutionService
