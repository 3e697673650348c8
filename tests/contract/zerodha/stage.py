"""What every test of the Zerodha adapter does with a simulated Kite: tickets, waits, faults. No tests here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from brokers.base import Instrument, OrderType, Report, Side, Ticket
from brokers.paper.model import Action, Fault, Operation
from brokers.zerodha import rows
from brokers.zerodha.adapter import ZerodhaBroker
from simulators.zerodha.server import SimulatedKite
from tests.waits import PATIENCE_SECONDS

ACCOUNT = "AB1234"


INFY = Instrument(symbol="INFY")


TAG = "t000000000000000001"


def ticket(order_type: OrderType = OrderType.MARKET, **changes: Any) -> Ticket:
    plain = Ticket(
        client_order_id=TAG, instrument=INFY, side=Side.BUY, quantity=Decimal(10), order_type=order_type
    )  # fmt: skip
    return replace(plain, **changes)


def limit(price: str = "99.50", **changes: Any) -> Ticket:
    return ticket(OrderType.LIMIT, **({"limit_price": Decimal(price)} | changes))


def hold(server: SimulatedKite) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, times=None))


async def found(broker: ZerodhaBroker, holds: Callable[[Report], bool] = lambda _: True, tag: str = TAG) -> Report:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            report = await broker.find(tag)
            if report is not None and holds(report):
                return report
            await asyncio.sleep(0.005)


def last_form(server: SimulatedKite) -> Mapping[str, str]:
    return server.calls("POST /orders/*")[-1].form


def order_row(**changes: Any) -> dict[str, Any]:
    return {
        "order_id": "261121000000001",
        "status": "OPEN",
        "status_message": None,
        "status_message_raw": None,
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "filled_quantity": 0,
        "quantity": 10,
        "tag": TAG,
        "tags": [TAG],
        "meta": {},
    } | changes


def orders_of(told: list[dict[str, Any]]) -> list[rows.OrderRow]:
    read, malformed = rows.read_orders(told)
    assert malformed == []
    return read


def never(trade: rows.TradeRow) -> datetime:
    raise AssertionError(f"its time is told: {trade}")
