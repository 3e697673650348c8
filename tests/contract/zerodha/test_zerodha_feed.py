"""Kite's order feed: a hint and no more, begun anew when it is cut, silent or given up."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from brokers.paper.model import Market
from brokers.zerodha.adapter import ZerodhaBroker, create
from brokers.zerodha.feed import reactor
from simulators.stage_zerodha import config_for, serving_kite
from simulators.zerodha.server import SimulatedKite
from tests.contract.zerodha.stage import found, ticket
from tests.waits import PATIENCE_SECONDS, until


async def hinted(broker: ZerodhaBroker) -> asyncio.Event:
    event = asyncio.Event()
    broker.on_hint(event.set)
    return event


async def test_a_second_account_in_the_process_has_a_feed_of_its_own(server: SimulatedKite, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    async with serving_kite(folder, "CD5678", Market()) as second:
        brokers = [create(config_for(server)), create(config_for(second))]
        await asyncio.gather(*(broker.connect() for broker in brokers))
        await until(lambda: server.listeners == second.listeners == 1)
        events = [await hinted(broker) for broker in brokers]
        await asyncio.sleep(0)
        for event in events:
            event.clear()
        await brokers[1].place_order(ticket())
        await asyncio.wait_for(events[1].wait(), PATIENCE_SECONDS)
        for broker in brokers:
            await broker.close()
        await until(lambda: server.listeners == second.listeners == 0)


async def test_a_feed_that_was_cut_comes_back_and_says_so(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await until(lambda: server.listeners == 1)
    event = await hinted(broker)
    server.drop_feed()
    await until(lambda: server.listeners == 0)
    event.clear()
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)


async def test_a_feed_that_is_silent_is_connected_anew(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"feed_silence_seconds": 1.5})
    await broker.connect()
    await until(lambda: server.listeners == 1)
    event = await hinted(broker)
    server.mute_feed()
    event.clear()
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    await broker.close()


async def test_a_feed_that_the_library_has_given_up_is_begun_anew(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.zerodha.feed._AGAIN_AFTER_SECONDS", 0.05)
    await until(lambda: server.listeners == 1)
    feed = broker._feed
    assert feed is not None
    given_up = feed._ticker
    event = await hinted(broker)
    given_up.stop_retry()
    server.drop_feed()
    await until(lambda: server.listeners == 0)
    event.clear()
    reactor.callFromThread(feed._given_up, given_up)
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    assert feed._ticker is not given_up


async def test_the_feed_is_a_hint_whatever_it_says_and_survives_nonsense(
    server: SimulatedKite, broker: ZerodhaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: server.listeners == 1)
    event = await hinted(broker)
    event.clear()
    server.push("no json at all")
    server.push('{"type": "message", "data": "Maintenance at night"}')
    server.push('{"type": "order", "data": {"order_id": "somebody else", "tag": null, "status": "COMPLETE"}}')
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    assert (await broker.reports()).reports == []
    assert server.listeners == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_feed_that_cannot_be_had_hinders_nothing(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"ticker_url": "ws://127.0.0.1:9"})
    await broker.connect()
    await broker.place_order(ticket())
    await found(broker)
    await broker.close()
