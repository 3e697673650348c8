"""Zerodha's limits of calls, by the second and by the day, and what the adapter itself costs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors

from brokers.base import LimitsCalls, OrderRef
from brokers.call_kinds import CallKind
from brokers.errors import BrokerError, BrokerUnavailable, OutcomeUnknown, RateLimited
from brokers.zerodha import rows
from brokers.zerodha.adapter import ZerodhaBroker, create
from brokers.zerodha.calls import Access, KiteCalls
from simulators.stage_zerodha import config_for
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.contract.zerodha.stage import INFY, TAG, hold, last_form, limit, ticket
from tests.waits import PATIENCE_SECONDS, until


async def test_five_hundred_open_orders_cost_two_calls_a_turn(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    hold(server)
    for number in range(500):
        server.book.place(limit(client_order_id=f"t{number:018d}", instrument=replace(INFY, exchange="NSE")))
    before = len(server.calls())
    reports = (await broker.reports()).reports
    assert len(reports) == 500
    assert len(server.calls()) - before == 2


async def test_the_calls_left_are_told_by_kind_and_period(server: SimulatedKite) -> None:
    broker = create({key: value for key, value in config_for(server).items() if "calls_per" not in key})
    assert isinstance(broker, LimitsCalls)
    await broker.connect()
    before = broker.calls_left()
    day = ("orders", 86_400.0)
    assert ("orders", 1.0) in before
    await broker.place_order(ticket(client_order_id=f"t{1:018d}"))
    assert before[day] - broker.calls_left()[day] == 1


async def test_orders_leave_no_faster_than_zerodha_allows_unless_told_otherwise(server: SimulatedKite) -> None:
    broker = create({key: value for key, value in config_for(server).items() if "calls_per" not in key})
    await broker.connect()
    tickets = [ticket(client_order_id=f"t{number:018d}") for number in range(20)]
    await asyncio.gather(*(broker.place_order(each) for each in tickets))
    left = [call.at for call in server.calls("POST /orders/*")]
    assert len(left) == len(server.book.orders()) == 20
    # 8 a second, of which 2 are kept for cancels.
    assert left[-1] - left[0] >= 2.5
    await broker.close()


async def test_no_order_is_lost_or_doubled_by_answers_of_too_many_calls(tmp_path: Path) -> None:
    with SimulatedKite(tmp_path / "kite.db", order_calls_per_second=3) as server:
        broker = create(config_for(server))
        await broker.connect()

        async def place(number: int) -> None:
            while True:
                try:
                    await broker.place_order(ticket(client_order_id=f"t{number:018d}"))
                    return
                except BrokerUnavailable as exc:
                    if not exc.known_pause:
                        raise

        async with asyncio.timeout(PATIENCE_SECONDS * 2):
            await asyncio.gather(*(place(number) for number in range(9)))
        assert sorted(order.ticket.client_order_id for order in server.book.orders()) == [
            f"t{number:018d}" for number in range(9)
        ]
        assert len(server.calls("POST /orders/*")) > 9
        await broker.close()


async def test_a_cancel_does_not_wait_behind_orders(server: SimulatedKite) -> None:
    hold(server)
    broker = create(config_for(server) | {"order_calls_per_second": 4})
    await broker.connect()
    first = await broker.place_order(limit())
    waiting = [asyncio.create_task(broker.place_order(limit())) for _ in range(8)]
    await asyncio.sleep(0)
    await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=first.broker_order_id))
    assert sum(task.done() for task in waiting) < len(waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await broker.close()


async def test_a_day_without_calls_left_is_a_pause_and_no_order_is_lost(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"order_calls_per_day": 1})
    await broker.connect()
    await broker.place_order(ticket())
    with pytest.raises(BrokerUnavailable, match="rate budget") as unavailable:
        await broker.place_order(ticket())
    assert unavailable.value.known_pause
    assert len(server.book.orders()) == 1
    await broker.close()


async def test_the_days_budget_goes_on_over_a_restart_and_is_counted_once(server: SimulatedKite) -> None:
    hold(server)
    settings = config_for(server) | {"order_calls_per_day": 5, "order_reserve_percent": 0}
    before = create(settings)
    await before.connect()
    placed = [await before.place_order(limit()) for _ in range(2)]
    await before.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed[0].broker_order_id))
    await before.close()
    after = create(settings)
    for _ in range(3):
        await after.connect()
    await after.place_order(limit())
    await after.place_order(limit())
    with pytest.raises(RateLimited) as spent:
        await after.place_order(limit())
    assert 86_000 < spent.value.wait_seconds <= 86_400
    assert len(server.book.orders()) == 4
    await after.close()


async def test_orders_count_from_when_they_were_placed_and_odd_ones_from_now(server: SimulatedKite) -> None:
    hold(server)
    before = create(config_for(server))
    await before.connect()
    for tag in (TAG, "t000000000000000002", "t000000000000000003"):
        await before.place_order(limit(client_order_id=tag))
    await before.close()
    long_ago = datetime.now(rows.IST) - timedelta(hours=23)
    server.show_oddly("GET /orders", TAG, {"order_timestamp": long_ago.strftime("%Y-%m-%d %H:%M:%S")})
    server.show_oddly("GET /orders", "t000000000000000002", {"order_timestamp": None})
    server.show_oddly("GET /orders", "t000000000000000003", {"filled_quantity": None})
    after = create(
        config_for(server) | {"order_calls_per_day": 3, "order_calls_per_minute": 3, "order_reserve_percent": 0}
    )
    await after.connect()
    with pytest.raises(RateLimited) as spent:
        await after.reserve(limit())
    assert 3500 < spent.value.wait_seconds <= 3600
    await after.close()


async def test_a_hanging_placing_call_holds_up_neither_questions_nor_cancels(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    hold(server)
    placed = await broker.place_order(limit())
    server.add_fault(KiteFault(kind=FaultKind.NEVER_ANSWER, times=8))
    hanging = [asyncio.create_task(broker.place_order(ticket())) for _ in range(8)]
    await until(lambda: len(server.calls("POST /orders/*")) == 9)
    async with asyncio.timeout(3.0):
        assert len((await broker.reports()).reports) == 1
        await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    await asyncio.to_thread(server.stop)
    outcomes = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}


async def test_the_adapter_adds_little_to_what_the_simulator_takes(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    bare = KiteConnect(server.api_key, access_token=server.access_token, root=server.root_url)
    await broker.place_order(ticket())
    form = {**last_form(server), "tag": "bare"}
    alone, through = [], []
    for number in range(40):
        begun = time.perf_counter()
        await asyncio.to_thread(bare.place_order, **form)
        middle = time.perf_counter()
        await broker.place_order(ticket(client_order_id=f"t{number:018d}"))
        alone.append(middle - begun)
        through.append(time.perf_counter() - middle)
    # The fastest of each says what the work is; the others, what else the machine had to do.
    bare_seconds, added_seconds = min(alone), min(through) - min(alone)
    print(f"placing: {bare_seconds * 1000:.2f} ms by the library alone, {added_seconds * 1000:+.2f} ms by the adapter")
    assert added_seconds < 0.05


async def test_words_that_repeat_credentials_are_told_without_them() -> None:
    calls = KiteCalls(Access(api_key="the-key-1", access_token="the-token-2"))
    calls.open()

    def refuse(kite: KiteConnect) -> None:
        raise kite_errors.InputException("you sent token the-key-1:the-token-2")

    def die(kite: KiteConnect) -> None:
        raise kite_errors.TokenException("token the-key-1:the-token-2 is dead")

    try:
        for call in (refuse, die):
            with pytest.raises(BrokerError) as raised:
                await calls.ask(call, CallKind.PLACE)
            chain = f"{raised.value} {raised.value.__cause__}"
            assert "***:***" in chain
            assert "the-key" not in chain
            assert "the-token" not in chain
    finally:
        calls.close()
