"""A simulated Kite Connect on loopback for the adapter's tests and the demo, in this process or its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from brokers.paper.model import Market
from simulators.http_gateway import serving
from simulators.simulator import Place, Simulator, Stage
from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from simulators.zerodha.server import SimulatedKite

SYMBOL = "INFY"
LAST_PRICE = Decimal("100.25")
API_KEY_NAME = "DEMO_KITE_API_KEY"
TOKEN_FILE = "access_token"


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


def serving_kite(folder: Path, account: str, market: Market) -> AbstractAsyncContextManager[SimulatedKite]:
    return serving(SimulatedKite(folder / "kite.db", account_id=account, market=market, prices={SYMBOL: LAST_PRICE}))


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    async with serving_kite(folder, account, market) as server:
        yield Stage(exchange=server.book, config=config_for(server))


def account_at(place: Place) -> Mapping[str, object]:
    """As after a login: with today's access token in a file."""
    token = DEFAULT_ACCESS_TOKEN if place.ask is None else str(place.ask(do="new_token")["access_token"])
    file = place.folder / TOKEN_FILE
    file.touch(mode=0o600)
    file.write_text(token + "\n", encoding="utf-8")
    return {
        "api_key": {"env": API_KEY_NAME},
        "access_token_file": str(file),
        "root_url": place.address,
        "ticker_url": f"ws://{urlsplit(place.address).netloc}",
        "live": False,
    }


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=(SYMBOL, "RELIANCE", "NIFTYBEES"),
    currency="INR",
    program="simulators.zerodha",
    has_connections=True,
    address_at="http://127.0.0.1:{}".format,
    account=account_at,
    apart={"symbol": "NIFTYBEES", "product": "MIS"},
    environment={API_KEY_NAME: DEFAULT_API_KEY},
    hasty={
        "order_calls_per_second": 100,
        "order_calls_per_minute": 5000,
        "order_calls_per_day": 100_000,
        "other_calls_per_second": 100,
    },
    short_search={"find_window_seconds": 8},
    demo_account_id="Zerodha_Demo",
    samples=("nse_equity_1.json", "nse_equity_limit_1.json"),
)
