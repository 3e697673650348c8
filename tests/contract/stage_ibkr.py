"""What the IBKR adapter is shown on: a simulated gateway on loopback, and a configuration that reaches it; no test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from brokers.paper.words import Market
from simulators.tws import TwsSimulator
from simulators.tws_book import TwsBook

SYMBOL = "SPY"
LAST_PRICE = Decimal("100.25")


def config_for(gateway: TwsSimulator) -> Mapping[str, object]:
    """What BrokerFactory needs to reach the gateway. Every report is asked of it, so that faults of its lists show at once."""
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
