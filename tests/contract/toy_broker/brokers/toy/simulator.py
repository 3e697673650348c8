"""The toy broker's other side: its book, in this process or behind a program's control side."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from brokers.toy.adapter import PIN

from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market
from simulators import control
from simulators.simulator import Place, Simulator, Stage

PIN_NAME = "DEMO_TOY_PIN"
TOY_ACCOUNT = "T1"


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    path = folder / "toy.db"
    exchange = PaperExchange(path, account_id=account, market=market)
    config = {
        "broker": "toy",
        "account_id": account,
        "toy_account": account,
        "pin": PIN,
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


class Toy:
    """What the control side is asked for. Calls come from its threads."""

    def __init__(self, book: PaperExchange) -> None:
        self._book = book

    def control(self, wish: Mapping[str, Any]) -> Mapping[str, Any]:
        control.carry_out(control.book_commands(self._book), wish)
        return self.state()

    def state(self) -> Mapping[str, Any]:
        return {"orders": len(self._book.orders())}

    def book_orders(self) -> list[dict[str, Any]]:
        return [control.order_as_json(order) for order in self._book.orders()]


def account_at(place: Place) -> Mapping[str, object]:
    return {
        "pin": {"env": PIN_NAME},
        "toy_account": TOY_ACCOUNT,
        "path": str(place.folder / "toy.db"),
        "live": False,
    }


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=("SPY", "AAPL", "MSFT"),
    program="brokers.toy.simulator",
    account=account_at,
    environment={PIN_NAME: PIN},
    demo_account_id="Toy_Demo",
    samples=("equity_simple_signal_1.json --account Toy_Demo",),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="The toy broker's book on loopback; no order leaves this machine.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--notice", type=Path)
    parser.add_argument("--fill-delay-seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    control.add_fault_plan_option(parser)
    chosen = parser.parse_args()
    book = PaperExchange(chosen.data, account_id=TOY_ACCOUNT, market=Market())
    server = control.control_server(Toy(book), chosen.port)
    stop_asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_asked.set())
    server.begin("toy")
    address = f"127.0.0.1:{server.port}"
    if chosen.notice is not None:
        control.leave_notice(chosen.notice, gateway=address, control=f"http://{address}{control.PATH}")
    stop_asked.wait()
    if chosen.notice is not None:
        control.take_back_notice(chosen.notice)
    server.end()
    book.close()


if __name__ == "__main__":
    main()
