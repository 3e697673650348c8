"""The mock broker's own paper exchange for its tests, opened beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from brokers.paper.exchange import PaperExchange
from brokers.paper.manifest import BOOK, MANIFEST
from brokers.paper.model import Market
from simulators.simulator import Simulator, Stage


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    path = folder / BOOK
    exchange = PaperExchange(path, account_id=account, market=market)
    config = {
        "broker": MANIFEST.name,
        "account_id": account,
        "path": str(path),
        "fill_delay_seconds": market.fill_delay_seconds,
        "rejection_rate": market.rejection_rate,
        "partial_fill_rate": market.partial_fill_rate,
        "slippage_bps": str(market.slippage_bps),
        "commission_per_order": str(market.commission_per_order),
        "seed": market.seed,
        "currency": market.currency,
    }
    try:
        yield Stage(exchange=exchange, config=config)
    finally:
        exchange.close()


def open_book(data_dir: Path, account_id: str) -> PaperExchange:
    """All accounts share one."""
    return PaperExchange(data_dir / BOOK, account_id=account_id, market=Market())


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=("SPY", "AAPL", "MSFT"),
    open_book=open_book,
    samples=("equity_simple_signal_1.json",),
)
