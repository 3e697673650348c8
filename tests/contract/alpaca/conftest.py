"""The fixtures of the tests of the Alpaca adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers.alpaca.adapter import AlpacaBroker, create
from brokers.paper.model import Market
from simulators.alpaca.server import SimulatedAlpaca
from simulators.stage_alpaca import config_for, serving_alpaca
from tests.contract.alpaca.stage import ACCOUNT


@pytest.fixture
def market() -> Market:
    return Market(fill_delay_seconds=None)


@pytest.fixture
async def server(tmp_path: Path, market: Market) -> AsyncIterator[SimulatedAlpaca]:
    """Nothing is filled by itself."""
    async with serving_alpaca(tmp_path, ACCOUNT, market) as server:
        yield server


@pytest.fixture
async def broker(server: SimulatedAlpaca) -> AsyncIterator[AlpacaBroker]:
    broker = create(config_for(server))
    await broker.connect()
    yield broker
    await broker.close()
