"""The fixtures of the tests of the Binance adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers.binance.adapter import BinanceBroker, create
from brokers.paper.model import Market
from simulators.binance.server import SimulatedBinance
from simulators.stage_binance import config_for, serving_binance
from tests.contract.binance.stage import ACCOUNT


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SimulatedBinance]:
    async with serving_binance(tmp_path, ACCOUNT, Market()) as server:
        yield server


@pytest.fixture
async def broker(server: SimulatedBinance) -> AsyncIterator[BinanceBroker]:
    broker = create(config_for(server))
    await broker.connect()
    yield broker
    await broker.close()
