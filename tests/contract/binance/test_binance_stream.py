"""The account's stream: hints, keys that expire, sockets that drop or fall silent. Nothing is believed because the stream says it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from brokers.base import ReportStatus
from brokers.binance import stream
from brokers.binance.adapter import BinanceBroker, create
from simulators.binance.server import BinanceFault, FaultKind, SimulatedBinance
from simulators.stage_binance import config_for
from tests.contract.binance.stage import hold, limit, reported, ticket
from tests.waits import PATIENCE_SECONDS, until


@pytest.fixture
async def hasty(server: SimulatedBinance, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BinanceBroker]:
    """An adapter that connects its stream again at once."""
    monkeypatch.setattr(stream, "_PAUSES_SECONDS", (0.01, 0.05))
    broker = create({**config_for(server), "stream_silence_seconds": 0.2})
    await broker.connect()
    await until(lambda: server.listeners == 1)
    yield broker
    await broker.close()


async def hinted(broker: BinanceBroker) -> asyncio.Event:
    event = asyncio.Event()
    broker.on_hint(event.set)
    return event


@pytest.mark.parametrize("disturb", ["drop_feed", "expire_listen_key", "mute_feed"])
async def test_the_stream_comes_back_with_a_hint(server: SimulatedBinance, hasty: BinanceBroker, disturb: str) -> None:
    event = await hinted(hasty)
    getattr(server, disturb)()
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
    await until(lambda: server.listeners >= 1)
    event.clear()
    await hasty.place_order(ticket())
    await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "said",
    ["no json", "[]", "{}", '{"e": "ORDER_TRADE_UPDATE"}', '{"e": "ORDER_TRADE_UPDATE", "o": {"i": "9", "s": 5}}'],
)
async def test_a_hostile_event_changes_nothing(server: SimulatedBinance, hasty: BinanceBroker, said: str) -> None:
    hold(server)
    await hasty.place_order(limit())
    server.push(said)
    server.push(
        json.dumps(
            {
                "e": "ORDER_TRADE_UPDATE",
                "o": {"s": "SOLUSDT", "c": "t000000000000000001", "X": "FILLED", "i": 1, "z": "10"},
            }
        )
    )
    await until(lambda: server.listeners >= 1)
    report = await reported(hasty)
    assert (report.status, report.fills) == (ReportStatus.WORKING, ())


async def test_a_key_that_binance_forgot_is_replaced_at_its_renewal(
    server: SimulatedBinance, hasty: BinanceBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_RENEW_SECONDS", 0.05)
    server.drop_feed()  # a connection with the short renewal
    await until(lambda: len(server.calls("PUT /fapi/v1/listenKey")) >= 1)
    with server._lock:
        server._listen_key = ""
    issued = len(server.calls("POST /fapi/v1/listenKey"))
    await until(lambda: len(server.calls("POST /fapi/v1/listenKey")) > issued)


async def test_the_key_of_the_stream_stands_in_no_log(
    server: SimulatedBinance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has it reads the account's events; aiohttp names the address in its errors."""
    refusing = TestServer(web.Application())
    await refusing.start_server()
    broker = create({**config_for(server), "stream_url": f"ws://{refusing.host}:{refusing.port}"})
    await broker.connect()
    await until(lambda: "stream of Binance has ended" in caplog.text)
    assert server._listen_key
    assert server._listen_key not in caplog.text
    await broker.close()
    await refusing.close()


async def test_trading_goes_on_without_a_stream(server: SimulatedBinance, hasty: BinanceBroker) -> None:
    server._listen_key = "another"
    server.drop_feed()
    await hasty.place_order(ticket())
    await reported(hasty, lambda report: report.status is ReportStatus.FILLED)


async def test_a_socket_names_its_key_and_the_events_that_it_wants(
    server: SimulatedBinance, hasty: BinanceBroker
) -> None:
    """Binance accepts every other one, and tells it nothing."""
    assert server.listeners == 1


async def test_a_renewal_that_fails_is_tried_again_long_before_the_key_expires(
    server: SimulatedBinance, hasty: BinanceBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_RENEW_SECONDS", 0.6)
    monkeypatch.setattr(stream, "_RENEW_AGAIN_SECONDS", 0.01)
    server.add_fault(BinanceFault(kind=FaultKind.ERROR, route="PUT /fapi/v1/listenKey", status=500))
    server.drop_feed()
    await until(lambda: len(server.calls("PUT /fapi/v1/listenKey")) >= 2)
    first, second = server.calls("PUT /fapi/v1/listenKey")[:2]
    assert second.at - first.at < 0.5
