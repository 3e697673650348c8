"""Alpaca's stream of trade updates: hints only, connected again whatever ends it, and the one teller of busts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from brokers.alpaca import feed
from brokers.alpaca.adapter import AlpacaBroker, create
from brokers.base import FillsShown
from simulators.alpaca.server import SimulatedAlpaca
from simulators.stage_alpaca import config_for
from tests.contract.alpaca.stage import ref, report_of, ticket
from tests.waits import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(feed, "_LONGEST_PAUSE_SECONDS", 0.05)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def hints(server: SimulatedAlpaca, broker: AlpacaBroker) -> list[int]:
    """One for each hint; the stream is connected."""
    found: list[int] = []
    broker.on_hint(lambda: found.append(1))
    await until(lambda: server.listeners == 1)
    await until(lambda: found)
    return found


async def test_a_stream_that_was_cut_is_connected_again_and_hints(
    server: SimulatedAlpaca, broker: AlpacaBroker, hints: list[int]
) -> None:
    hints.clear()
    server.drop_feed()
    await until(lambda: hints)
    await until(lambda: server.listeners == 1)


async def test_a_restart_of_the_host_is_survived(
    server: SimulatedAlpaca, broker: AlpacaBroker, hints: list[int]
) -> None:
    hints.clear()
    await asyncio.to_thread(server.restart, 0.2)
    await until(lambda: hints)


async def test_a_half_open_stream_is_noticed(server: SimulatedAlpaca) -> None:
    broker = create({**config_for(server), "stream_silence_seconds": 0.2})
    await broker.connect()
    await until(lambda: server.listeners == 1)
    server.mute_feed()
    hints: list[int] = []
    broker.on_hint(lambda: hints.append(1))
    await until(lambda: hints)
    await broker.close()


async def test_keys_that_the_stream_does_not_take_are_tried_again_and_orders_go_on(
    server: SimulatedAlpaca, broker: AlpacaBroker, hints: list[int]
) -> None:
    server.set_keys_good(False)
    server.drop_feed()
    await until(lambda: server.listeners == 0)
    server.set_keys_good(True)
    await broker.place_order(ticket())
    await until(lambda: server.listeners == 1)


async def test_a_bust_is_said_of_the_order(server: SimulatedAlpaca, broker: AlpacaBroker, hints: list[int]) -> None:
    order = ticket()
    placed = await broker.place_order(order)
    fill = server.book.fill_order(ref(placed))
    hints.clear()
    await until(lambda: hints)
    assert "trade_bust" not in ((await report_of(broker, order)).said or "")
    hints.clear()
    server.book.bust_fill(fill.fill_id)
    await until(lambda: hints)
    report = await report_of(broker, order)
    assert "trade_bust" in (report.said or "")
    assert (report.filled_quantity, report.fills, report.fills_shown) == (0, (), FillsShown.ALL)


async def test_a_frame_without_sense_is_a_hint_all_the_same(
    server: SimulatedAlpaca, broker: AlpacaBroker, hints: list[int]
) -> None:
    for frame in (b"\xff\xfe", "[]", '{"data": 5}', "null", '{"stream":"trade_updates","data":{"event":"trade_bust"}}'):
        hints.clear()
        server.push(frame)
        await until(lambda: hints)
    assert server.listeners == 1
