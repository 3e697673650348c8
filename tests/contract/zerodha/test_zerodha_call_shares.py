"""Who may still call at Zerodha when calls are scarce, or when cancels hang: exits have the last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Instrument, OrderRef, OrderType, Side, Ticket
from brokers.errors import BrokerUnavailable, OrderRefused, OutcomeUnknown, RateLimited
from brokers.paper.model import Market
from brokers.zerodha.adapter import ZerodhaBroker, create
from simulators.stage_zerodha import config_for, serving_kite
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.waits import until


def ticket(number: int, *, is_exit: bool = False) -> Ticket:
    return Ticket(
        client_order_id=f"t{number:018d}",
        instrument=Instrument(symbol="INFY"),
        side=Side.SELL if is_exit else Side.BUY,
        quantity=Decimal(5),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(99),
        is_exit=is_exit,
    )


@asynccontextmanager
async def kite_and_broker(folder: Path, **settings: object) -> AsyncIterator[tuple[SimulatedKite, ZerodhaBroker]]:
    async with serving_kite(folder, "AB1234", Market(fill_delay_seconds=None)) as server:
        broker = create(config_for(server) | settings)
        await broker.connect()
        try:
            yield server, broker
        finally:
            await broker.close()


async def placed(broker: ZerodhaBroker, number: int, *, is_exit: bool = False) -> OrderRef:
    report = await broker.place_order(ticket(number, is_exit=is_exit))
    return OrderRef(client_order_id=report.client_order_id, broker_order_id=report.broker_order_id)


async def test_when_many_orders_time_out_at_once_first_cancels_stop_before_exits_do(tmp_path: Path) -> None:
    async with kite_and_broker(tmp_path, order_calls_per_day=20) as (server, broker):
        refs = [await placed(broker, n) for n in range(12)]
        most = 20 - 2 - 12
        for ref in refs[:most]:
            await broker.cancel_order(ref)
        with pytest.raises(RateLimited) as spent:
            await broker.cancel_order(refs[most])
        assert spent.value.wait_seconds > 80_000
        for again in (True, False):
            with pytest.raises(RateLimited):
                await broker.cancel_order(refs[-1], again=again)
        with pytest.raises(RateLimited):
            await broker.reserve(ticket(50))
        for n in (60, 61):
            await broker.reserve(ticket(n, is_exit=True))
            await placed(broker, n, is_exit=True)
        with pytest.raises(RateLimited):
            await broker.reserve(ticket(62, is_exit=True))
        assert len(server.calls("DELETE /orders/*")) == most


async def test_repeated_cancels_use_their_share_and_nothing_else(tmp_path: Path) -> None:
    async with kite_and_broker(tmp_path, order_calls_per_day=45) as (server, broker):
        server.set_line(is_down=True)
        refs = [await placed(broker, n) for n in range(5)]
        for ref in refs:
            with pytest.raises(OrderRefused, match="being processed"):
                await broker.cancel_order(ref)
        spent = refused = 0
        for _ in range(20):
            for ref in refs:
                try:
                    await broker.cancel_order(ref, again=True)
                except RateLimited:
                    spent += 1
                except OrderRefused:
                    refused += 1
        assert (refused, spent) == (9, 91)
        entries = [await placed(broker, n) for n in range(10, 10 + 36 - 19)]
        with pytest.raises(RateLimited):
            await broker.reserve(ticket(50))
        with pytest.raises(OrderRefused):
            await broker.cancel_order(entries[0])
        await placed(broker, 60, is_exit=True)


async def test_cancels_that_hang_hold_up_no_exit_and_are_known_not_to_have_left(tmp_path: Path) -> None:
    async with kite_and_broker(tmp_path, read_timeout_seconds=30, answer_timeout_seconds=6) as (server, broker):
        refs = [await placed(broker, n) for n in range(5)]
        server.add_fault(KiteFault(kind=FaultKind.NEVER_ANSWER, route="DELETE /orders/*", times=None))
        cancels = [asyncio.ensure_future(broker.cancel_order(ref)) for ref in refs]
        await until(lambda: server.calls("DELETE /orders/*"))
        await placed(broker, 60, is_exit=True)
        left = len(server.calls("DELETE /orders/*"))
        assert 0 < left <= sum(not cancel.done() for cancel in cancels), "the exit has waited for the end of one"
        outcomes = await asyncio.gather(*cancels, return_exceptions=True)
        sent = len(server.calls("DELETE /orders/*"))
        assert [type(outcome) for outcome in outcomes].count(RateLimited) == len(refs) - sent
        assert [type(outcome) for outcome in outcomes].count(OutcomeUnknown) == sent


async def test_a_cancel_that_was_not_made_says_so(tmp_path: Path) -> None:
    async with kite_and_broker(tmp_path) as (server, broker):
        ref = await placed(broker, 1)
        await asyncio.to_thread(server.stop)
        with pytest.raises(BrokerUnavailable):
            await broker.cancel_order(ref)
