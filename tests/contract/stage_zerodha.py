"""What the Zerodha adapter is shown on: a simulated Kite Connect on loopback, and a configuration that reaches it; no test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from brokers.paper.words import Market
from simulators.kite import SimulatedKite

SYMBOL = "INFY"
LAST_PRICE = Decimal("100.25")


def config_for(server: SimulatedKite) -> dict[str, object]:
    """What BrokerFactory needs to reach the server, without the patience that Zerodha's own limits ask for."""
    return {
        "broker": "zerodha",
        "account_id": server.user_id,
        "api_key": server.api_key,
        "access_token": server.access_token,
        "root_url": server.root_url,
        "order_calls_per_second": 1000,
        "order_calls_per_minute": 50_000,
        "order_calls_per_day": 500_000,
        "other_calls_per_second": 1000,
    }


@asynccontextmanager
async def serving_kite(folder: Path, account: str, market: Market) -> AsyncIterator[SimulatedKite]:
    server = SimulatedKite(folder / "kite.db", account_id=account, market=market, prices={SYMBOL: LAST_PRICE})
    server.start()
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)
