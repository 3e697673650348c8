"""A simulated gateway of IBKR, adapters of it, and what every test of the adapter does with them: tickets, waits, faults. No tests here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from brokers.base import AssetClass, Instrument, OrderType, Report, Side, Ticket
from brokers.errors import BrokerUnavailable
from brokers.ibkr.adapter import Configuration, IbkrBroker, create
from brokers.ibkr.library import choose
from brokers.paper.model import Action, Fault, Operation, PaperOrder
from simulators.ibkr.gateway import OrderMessage, TwsSimulator
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import LAST_PRICE, config_for
from tests.waits import PATIENCE_SECONDS

NEVER = 3600.0


class IbkrStage:
    """A gateway and adapters of it."""

    def __init__(self, gateway: TwsSimulator, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self.book = gateway.book
        self.brokers: list[IbkrBroker] = []
        self._stack = stack
        self._number = 0

    def broker(self, clock: Callable[[], datetime] | None = None, **settings: object) -> IbkrBroker:
        config = {**config_for(self.gateway), **settings}
        broker = create(config)
        if clock is not None:
            configuration = Configuration(
                account_id="acc",
                port=self.gateway.port,
                ibkr_account=self.book.account_id,
                connect_seconds=2,
                restart_from=time(23, 40),
                restart_until=time(0, 50),
            )
            broker = IbkrBroker(configuration, choose("auto"), clock=clock)
        self._stack.push_async_callback(broker.close)
        self.brokers.append(broker)
        return broker

    async def connect(self, **settings: object) -> IbkrBroker:
        broker = self.broker(**settings)
        await broker.connect()
        return broker

    def ticket(self, order_type: OrderType = OrderType.MARKET, **changes: object) -> Ticket:
        self._number += 1
        ticket = Ticket(
            client_order_id=f"i{self._number:018d}",
            instrument=Instrument(symbol="SPY"),
            side=Side.BUY,
            quantity=Decimal(10),
            order_type=order_type,
            limit_price=LAST_PRICE if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            stop_price=LAST_PRICE if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
            reference_price=LAST_PRICE,
        )
        return replace(ticket, **changes)

    def truth(self, ticket: Ticket) -> PaperOrder:
        (order,) = self.book.orders(ticket.client_order_id)
        return order

    def arm(self, operation: Operation, action: Action, **fields: object) -> None:
        self.book.add_fault(Fault(operation=operation, action=action, **fields))

    def hold(self) -> None:
        self.arm(Operation.PLACE, Action.HOLD, times=None)

    def heard(self, ask: Ask) -> list[list[str]]:
        return [fields for _, fields in self.gateway.heard if fields[0] == str(ask.value)]


async def place(broker: IbkrBroker, ticket: Ticket) -> Report:
    return await broker.place_order(await reserved(broker, ticket))


async def reserved(broker: IbkrBroker, ticket: Ticket) -> Ticket:
    return replace(ticket, reserved_order_id=await broker.reserve(ticket))


async def reported(broker: IbkrBroker, ticket: Ticket, holds: Callable[[Report], bool] = lambda report: True) -> Report:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for report in (await broker.reports()).reports:
                if report.client_order_id == ticket.client_order_id and holds(report):
                    return report
            await asyncio.sleep(0.01)


async def unavailable(broker: IbkrBroker) -> None:
    """Until the adapter knows that its session is gone."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await broker.reports()
            except BrokerUnavailable:
                return
            await asyncio.sleep(0.01)


async def connected(broker: IbkrBroker) -> None:
    """As soon as the gateway lets it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await broker.connect()
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


def filled(report: Report) -> Decimal:
    return sum((fill.quantity for fill in report.fills), Decimal(0))


def listed_ticket(stage: IbkrStage, number: int) -> Ticket:
    instrument = Instrument(symbol="SPY", asset_class=AssetClass.ETF, exchange="ARCA", currency="USD")
    return replace(stage.ticket(OrderType.LIMIT), instrument=instrument, reserved_order_id=f"9:{number + 1}")


def answer(stage: IbkrStage, code: int, text: str, **fields: Any) -> None:
    stage.gateway.answer_orders_with(OrderMessage(code=code, text=text, **fields))


async def found(broker: IbkrBroker, ticket: Ticket) -> Report:
    """What is found of it, once anything is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            report = await broker.find(ticket.client_order_id)
            if report is not None:
                return report
            await asyncio.sleep(0.05)
