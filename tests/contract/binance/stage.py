"""What every test of the Binance adapter does with a simulated Binance: tickets, waits, faults. No tests here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from brokers.base import AssetClass, Broker, Instrument, OrderType, Report, Side, Ticket
from brokers.paper.model import Action, Fault, Operation
from simulators.binance.server import SimulatedBinance
from tests.waits import PATIENCE_SECONDS

ACCOUNT = "BINANCE1"
SOL = Instrument(symbol="SOLUSDT", asset_class=AssetClass.CRYPTO)
TAG = "t000000000000000001"
PRICE = Decimal("100.25")


def ticket(order_type: OrderType = OrderType.MARKET, **changes: Any) -> Ticket:
    plain = Ticket(client_order_id=TAG, instrument=SOL, side=Side.BUY, quantity=Decimal(10), order_type=order_type)
    return replace(plain, **changes)


def limit(price: str = "99.50", **changes: Any) -> Ticket:
    return ticket(OrderType.LIMIT, **({"limit_price": Decimal(price)} | changes))


def stop(price: str = "90", **changes: Any) -> Ticket:
    plain = ticket(OrderType.STOP, stop_price=Decimal(price), side=Side.SELL)
    return replace(plain, **changes)


def hold(server: SimulatedBinance) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, times=None))


async def found(broker: Broker, holds: Callable[[Report], bool] = lambda _: True, tag: str = TAG) -> Report:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            report = await broker.find(tag)
            if report is not None and holds(report):
                return report
            await asyncio.sleep(0.005)


async def reported(broker: Broker, holds: Callable[[Report], bool] = lambda _: True, tag: str = TAG) -> Report:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for report in (await broker.reports()).reports:
                if report.client_order_id == tag and holds(report):
                    return report
            await asyncio.sleep(0.005)


def last_form(server: SimulatedBinance, path: str = "/fapi/v1/order") -> Mapping[str, str]:
    return server.calls(f"POST {path}")[-1].form
