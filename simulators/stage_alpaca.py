"""A simulated Alpaca on loopback for the adapter's tests and the demo, in this process or its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path

from brokers.paper.model import Market
from simulators.alpaca import DEFAULT_API_KEY, DEFAULT_SECRET_KEY
from simulators.alpaca.server import SimulatedAlpaca
from simulators.http_gateway import serving
from simulators.simulator import Place, Simulator, Stage

SYMBOL = "AAPL"
LAST_PRICE = Decimal("100.25")
API_KEY_NAME, SECRET_KEY_NAME = "DEMO_ALPACA_API_KEY", "DEMO_ALPACA_SECRET_KEY"
_HASTY = {
    "order_calls_per_second": 1000,
    "order_calls_per_minute": 50_000,
    "other_calls_per_second": 1000,
    "other_calls_per_minute": 50_000,
}
"""Without the patience that Alpaca's own limits ask for."""


def config_for(server: SimulatedAlpaca) -> dict[str, object]:
    """What BrokerFactory needs to reach the server."""
    return {
        "broker": "alpaca",
        "account_id": server.book.account_id,
        "api_key": server.api_key,
        "secret_key": server.secret_key,
        "base_url": server.base_url,
        **_HASTY,
    }


def serving_alpaca(folder: Path, account: str, market: Market) -> AbstractAsyncContextManager[SimulatedAlpaca]:
    return serving(
        SimulatedAlpaca(folder / "alpaca.db", account_id=account, market=market, prices={SYMBOL: LAST_PRICE})
    )


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    async with serving_alpaca(folder, account, market) as server:
        yield Stage(exchange=server.book, config=config_for(server))


def account_at(place: Place) -> Mapping[str, object]:
    return {
        "api_key": {"env": API_KEY_NAME},
        "secret_key": {"env": SECRET_KEY_NAME},
        "base_url": place.address,
        "live": False,
    }


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=(SYMBOL, "SPY", "BRK.B"),
    program="simulators.alpaca",
    has_connections=True,
    address_at="http://127.0.0.1:{}".format,
    account=account_at,
    environment={API_KEY_NAME: DEFAULT_API_KEY, SECRET_KEY_NAME: DEFAULT_SECRET_KEY},
    hasty=_HASTY,
    short_search={"find_window_seconds": 8},
    demo_account_id="Alpaca_Demo",
    samples=("equity_simple_signal_1.json --account Alpaca_Demo",),
)
