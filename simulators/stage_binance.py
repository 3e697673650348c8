"""A simulated Binance on loopback for the adapter's tests and the demo, in this process or its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from brokers.base import AssetClass
from brokers.paper.model import Market
from simulators.binance import DEFAULT_API_KEY, DEFAULT_API_SECRET
from simulators.binance.server import SimulatedBinance
from simulators.http_gateway import serving
from simulators.simulator import Place, Simulator, Stage

API_KEY_NAME = "DEMO_BINANCE_API_KEY"
API_SECRET_NAME = "DEMO_BINANCE_API_SECRET"
HASTY: Mapping[str, object] = {
    "rate_limit_rpm": 1_000_000,
    "orders_per_10_seconds": 100_000,
    "orders_per_minute": 500_000,
}


def config_for(server: SimulatedBinance) -> dict[str, object]:
    """What BrokerFactory needs to reach the server, without the patience that Binance's own limits ask for."""
    return {
        "broker": "binance",
        "account_id": server.account_id,
        "api_key": server.api_key,
        "api_secret": server.api_secret,
        "base_url": server.base_url,
        **HASTY,
    }


def serving_binance(folder: Path, account: str, market: Market) -> AbstractAsyncContextManager[SimulatedBinance]:
    return serving(SimulatedBinance(folder / "binance.db", account_id=account, market=market))


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    async with serving_binance(folder, account, market) as server:
        yield Stage(exchange=server.book, config=config_for(server))


def account_at(place: Place) -> Mapping[str, object]:
    return {
        "api_key": {"env": API_KEY_NAME},
        "api_secret": {"env": API_SECRET_NAME},
        "base_url": place.address,
        "live": False,
    }


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=("SOLUSDT", "ETHUSDT", "ETHUSDC"),
    asset_class=AssetClass.CRYPTO,
    currency="USDT",
    order_fields={"instrument_type": "CRYPTO", "tif": "GTC"},
    program="simulators.binance",
    has_connections=True,
    address_at="http://127.0.0.1:{}".format,
    account=account_at,
    apart={"symbol": "BTCUSDT", "limit_price": "100.2"},
    environment={API_KEY_NAME: DEFAULT_API_KEY, API_SECRET_NAME: DEFAULT_API_SECRET},
    hasty={**HASTY, "find_window_seconds": 20},
    short_search={"find_window_seconds": 8},
    demo_account_id="Binance_Demo",
    samples=("crypto_perpetual_1.json --account Binance_Demo",),
)
