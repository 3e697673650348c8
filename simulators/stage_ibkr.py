"""A simulated IBKR gateway on loopback for the adapter's tests and the demo, in this process or its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from brokers.paper.model import Market
from simulators.ibkr import DEFAULT_ACCOUNT
from simulators.ibkr.book import TwsBook
from simulators.ibkr.gateway import TwsSimulator
from simulators.simulator import Place, Simulator, Stage

SYMBOL = "SPY"
LAST_PRICE = Decimal("100.25")


def config_for(gateway: TwsSimulator) -> Mapping[str, object]:
    """The configuration with which BrokerFactory reaches the gateway. Every report is queried, so that faults of its
    lists show at once."""
    return {
        "broker": "ibkr",
        "account_id": "acc_under_test",
        "ibkr_account": gateway.book.account_id,
        "host": "127.0.0.1",
        "port": gateway.port,
        "poll_seconds": 0,
        "connect_seconds": 5,
        "answer_seconds": 5,
        "query_seconds": 5,
    }


@asynccontextmanager
async def serving_tws(folder: Path, account: str, market: Market) -> AsyncIterator[TwsSimulator]:
    book = TwsBook(folder / "tws.db", account_id=account, market=market)
    gateway = TwsSimulator(book, prices={SYMBOL: LAST_PRICE})
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()
        book.close()


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    async with serving_tws(folder, account, market) as gateway:
        yield Stage(exchange=gateway.book, config=config_for(gateway))


def account_at(place: Place) -> Mapping[str, object]:
    host, _, port = place.address.rpartition(":")
    client_id = 1 if place.number == 1 else 10 * place.number
    return {"ibkr_account": DEFAULT_ACCOUNT, "host": host, "port": int(port), "client_id": client_id, "live": False}


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=(SYMBOL, "AAPL", "MSFT"),
    program="simulators.ibkr",
    has_connections=True,
    has_own_control_port=True,
    account=account_at,
    demo_account_id="IBKR_Demo",
    samples=("equity_simple_signal_1.json --account IBKR_Demo",),
)
