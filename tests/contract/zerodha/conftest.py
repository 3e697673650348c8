"""The fixtures of the tests of the Zerodha adapter, and what none of them may leave in the log of the feed's thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel, globalLogPublisher

from brokers.paper.model import Market
from brokers.zerodha.adapter import ZerodhaBroker, create
from simulators.stage_zerodha import config_for, serving_kite
from simulators.zerodha.server import SimulatedKite
from tests.contract.zerodha.stage import ACCOUNT


@pytest.fixture(autouse=True)
def no_error_in_the_reactor() -> Iterator[None]:
    """The library's feed decodes in the reactor's thread, where an error is only logged."""
    errors: list[object] = []

    def observe(event: Mapping[str, Any]) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            errors.append(event.get("log_failure") or event.get("log_format"))

    globalLogPublisher.addObserver(observe)
    yield
    globalLogPublisher.removeObserver(observe)
    assert errors == []


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SimulatedKite]:
    async with serving_kite(tmp_path, ACCOUNT, Market()) as server:
        yield server


@pytest.fixture
async def broker(server: SimulatedKite) -> AsyncIterator[ZerodhaBroker]:
    broker = create(config_for(server))
    await broker.connect()
    yield broker
    await broker.close()
