"""The fixtures of the tests of the IBKR adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from brokers.ibkr import adapter as ibkr
from brokers.ibkr import unacknowledged as ibkr_unacknowledged
from brokers.paper.model import Market
from simulators.stage_ibkr import serving_tws
from tests.contract.ibkr.stage import IbkrStage


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
async def stage(market: Market, tmp_path: Path) -> AsyncIterator[IbkrStage]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(serving_tws(tmp_path, "DU000001", market))
        yield IbkrStage(gateway, stack)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes tenths of one."""
    monkeypatch.setattr(ibkr, "_REMARK_SECONDS", 0.3)
    monkeypatch.setattr(ibkr_unacknowledged, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(ibkr_unacknowledged, "LONG_SILENCE_SECONDS", 0.8)
